#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/memfd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "caps.h"
#include "cpulist.h"
#include "grants.h"
#include "kernel.h"
#include "ledger.h"
#include "memory.h"
#include "privileges.h"
#include "util.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

struct grant *grants_add(struct grants *grants, bool granted, char *name, char *detail, char *how)
{
	struct grant *grant = array_append(&grants->list, &grants->count);

	if (granted) {
		free(how);
		how = NULL;
	}
	*grant = (struct grant){ name, detail, how, granted, false };
	return grant;
}

void grants_free(struct grants *grants)
{
	for (size_t i = 0; i < grants->count; i++) {
		free(grants->list[i].name);
		free(grants->list[i].detail);
		free(grants->list[i].how);
	}
	free(grants->list);
	*grants = (struct grants){ 0 };
}

bool grants_lack(const struct grants *grants)
{
	for (size_t i = 0; i < grants->count; i++)
		if (grants->list[i].needed && !grants->list[i].granted)
			return true;
	return false;
}

static void add_runtime(struct grants *grants)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_error struct error err = ERROR_INIT;
	bool good = ledger_open(&ledger, false, &err) == 0;
	const char *fix = "set ANCLA_RUNTIME_DIR to a directory of your own";

	if (good && ledger.dirfd < 0) {
		/* Not there yet: it will be made. */
		cleanup_free char *above = xstrdup(ledger.path);
		*strrchr(above, '/') = '\0';
		good = access(*above ? above : "/", W_OK | X_OK) == 0;
		if (!good)
			error_set(&err, EXIT_FAILED, "%s cannot be made: %s", ledger.path,
			          strerror(errno));
	}
	grants_add(grants, good, xstrdup(GRANT_RUNTIME), xstrdup(good ? ledger.path : err.message),
	           xstrdup(fix));
}

static void add_kvm(struct grants *grants)
{
	char *reason = NULL;
	bool works = kvm_works(&reason);

	grants_add(grants, works, xstrdup(GRANT_KVM),
	           works ? xstrdup("creates a VM") : take_pointer(&reason),
	           xstrdup("load the module, become a member of the group of /dev/kvm (usermod -aG "
	                   "kvm USER); without it TCG emulates"));
	free(reason);
}

static void add_vfio(struct grants *grants)
{
	cleanup_close int fd = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);

	grants_add(grants, fd >= 0, xstrdup(GRANT_VFIO),
	           fd >= 0 ? xstrdup("/dev/vfio/vfio opens")
	                   : xasprintf("/dev/vfio/vfio: %s", strerror(errno)),
	           xstrdup("an IOMMU (intel_iommu=on), the module vfio-pci, and access to "
	                   "/dev/vfio/GROUP (a udev rule)"));
}

struct try_sched {
	struct sched sched;
	int error;
};

static void *sched_thread(void *data)
{
	struct try_sched *try = data;

	try->error = kernel_set_sched(0, try->sched) < 0 ? errno : 0;
	return NULL;
}

/* errno of a thread that asks for FIFO at that priority; 0: granted. */
static int try_fifo(int priority)
{
	struct try_sched try = { .sched = { SCHED_OF_FIFO, priority } };
	pthread_t thread;

	if (pthread_create(&thread, NULL, sched_thread, &try) != 0)
		return EAGAIN;
	pthread_join(thread, NULL);
	return try.error;
}

static void add_fifo(struct grants *grants)
{
	int most = 99, error = try_fifo(most);
	struct rlimit limit;

	if (error && getrlimit(RLIMIT_RTPRIO, &limit) == 0 && limit.rlim_cur > 0 &&
	    limit.rlim_cur < 99) {
		most = (int)limit.rlim_cur;
		error = try_fifo(most);
	}
	grants_add(grants, !error, xstrdup(GRANT_FIFO),
	           error ? xasprintf("fifo:1 is refused: %s", strerror(error))
	                 : xasprintf("fifo and rr, priorities 1 to %d", most),
	           xstrdup("CAP_SYS_NICE, or RLIMIT_RTPRIO (rtprio in limits.conf, LimitRTPRIO= of "
	                   "a unit)"));
}

/* Locks addresses, not pages (mlock2(2), MLOCK_ONFAULT): the kernel counts them all the same. */
static int try_lock(size_t bytes)
{
	void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
	                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int error = 0;

	if (map == MAP_FAILED)
		return errno;
	if (mlock2(map, bytes, MLOCK_ONFAULT) < 0)
		error = errno;
	munmap(map, bytes);
	return error;
}

#define LOCK_TRIED ((size_t)1 << 40)

static void add_lock(struct grants *grants)
{
	struct rlimit before = { 0, 0 }, most;
	bool any;

	getrlimit(RLIMIT_MEMLOCK, &before);
	/* What QEMU gets: as much as may be had. */
	most = (struct rlimit){ RLIM_INFINITY, RLIM_INFINITY };
	if (setrlimit(RLIMIT_MEMLOCK, &most) < 0) {
		most = (struct rlimit){ before.rlim_max, before.rlim_max };
		setrlimit(RLIMIT_MEMLOCK, &most);
	}
	any = try_lock(LOCK_TRIED) == 0;
	setrlimit(RLIMIT_MEMLOCK, &before);
	cleanup_free char *limit = format_size(before.rlim_max);
	grants_add(grants, any, xstrdup(GRANT_LOCK),
	           any ? xstrdup("any amount") : xasprintf("up to %s", limit),
	           xstrdup("CAP_IPC_LOCK, or RLIMIT_MEMLOCK (memlock in limits.conf, LimitMEMLOCK= "
	                   "of a unit)"));
}

/* Takes one page on the node and gives it back. errno; 0: had. */
static int try_page(uint64_t size, unsigned node)
{
	int shift = __builtin_ctzll(size), error;
	cleanup_bitmap hwloc_bitmap_t nodes = xbitmap();
	cleanup_close int fd =
	    (int)syscall(SYS_memfd_create, "ancla-grant",
	                 MFD_CLOEXEC | MFD_HUGETLB | (unsigned)shift << MFD_HUGE_SHIFT);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		return errno;
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return errno;
	hwloc_bitmap_set(nodes, node);
	error = memory_policy_of_range(map, size, MEM_POLICY_STRICT, nodes);
	if (!error && madvise(map, size, MADV_POPULATE_WRITE) < 0)
		error = errno;
	munmap(map, size);
	return error;
}

static void add_pages(struct grants *grants, const struct host_node *node,
                      const struct host_pages *pages)
{
	cleanup_free char *size = format_size(pages->size);
	int error = pages->free ? try_page(pages->size, node->id) : ENOMEM;
	char *detail = xasprintf("%llu of %llu free", (unsigned long long)pages->free,
	                         (unsigned long long)pages->total);

	if (error && pages->free) {
		char *more = xasprintf("%s, but one cannot be had: %s", detail, strerror(error));
		free(detail);
		detail = more;
	}
	grants_add(grants, !error, xasprintf("huge pages of %s on node %u", size, node->id), detail,
	           error && pages->free
	               ? xstrdup("the hugetlb limit of the cgroup, or its cpuset.mems")
	               : xasprintf("as root: echo N > /sys/devices/system/node/node%u/hugepages/"
	                           "hugepages-%llukB/nr_hugepages",
	                           node->id, (unsigned long long)pages->size / 1024));
}

static void add_affinity(struct grants *grants, const struct host *host)
{
	cleanup_free char *allowed = cpulist_format(host->allowed);
	cleanup_free char *isolated = cpulist_format(host->isolated);
	cleanup_bitmap hwloc_bitmap_t denied = xbitmap();

	hwloc_bitmap_andnot(denied, host->cpus, host->allowed);
	cleanup_free char *not = cpulist_format(denied);
	grants_add(grants, hwloc_bitmap_iszero(denied), xstrdup("all CPUs"),
	           xasprintf("CPUs %s allowed, %s isolated%s%s", allowed,
	                     *isolated ? isolated : "none", *not ? ", not " : "", not ),
	           xstrdup("the mask that this process inherited (taskset), or cpuset.cpus of its "
	                   "cgroup (AllowedCPUs= of a unit)"));
}

struct try_policy {
	const struct host *host;
	int error;
};

static void *policy_thread(void *data)
{
	struct try_policy *try = data;
	cleanup_bitmap hwloc_bitmap_t node = xbitmap();
	cleanup_error struct error ignored = ERROR_INIT;
	size_t first = 0, page = (size_t)sysconf(_SC_PAGESIZE);

	while (first + 1 < try->host->n_nodes && !try->host->nodes[first].memory)
		first++;
	hwloc_bitmap_set(node, try->host->nodes[first].id);
	errno = 0;
	if (memory_policy_of_thread(MEM_POLICY_PREFERRED, node, &ignored) < 0) {
		try->error = errno ? errno : EPERM;
		return NULL;
	}
	void *map = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (map == MAP_FAILED) {
		try->error = errno;
		return NULL;
	}
	try->error = memory_policy_of_range(map, page, MEM_POLICY_STRICT, node);
	munmap(map, page);
	return NULL;
}

static void add_policy(struct grants *grants, const struct host *host)
{
	struct try_policy try = { .host = host };
	pthread_t thread;

	if (pthread_create(&thread, NULL, policy_thread, &try) != 0)
		try.error = EAGAIN;
	else
		pthread_join(thread, NULL);
	grants_add(grants, !try.error, xstrdup(GRANT_POLICY),
	           try.error ? xasprintf("set_mempolicy or mbind: %s", strerror(try.error))
	                     : xstrdup("set_mempolicy and mbind work"),
	           xstrdup("a container's seccomp profile that allows them (CAP_SYS_NICE in "
	                   "Docker's), a kernel with CONFIG_NUMA"));
}

static void add_user(struct grants *grants)
{
	bool root = geteuid() == 0 && has_capability(CAP_SETUID) && has_capability(CAP_SETGID) &&
	            has_capability(CAP_KILL) && has_capability(CAP_SYS_PTRACE) &&
	            has_capability(CAP_SYS_NICE);

	grants_add(grants, root, xstrdup(GRANT_USER),
	           root ? xstrdup("qemu.user may be anyone")
	                : xasprintf("qemu.user may be user %u only", geteuid()),
	           xstrdup("root, with CAP_SETUID, CAP_SETGID, CAP_KILL, CAP_SYS_PTRACE and "
	                   "CAP_SYS_NICE"));
}

void grants_of_host(const struct host *host, struct grants *grants)
{
	add_runtime(grants);
	add_kvm(grants);
	add_fifo(grants);
	add_lock(grants);
	add_affinity(grants, host);
	add_policy(grants, host);
	for (size_t i = 0; i < host->n_nodes; i++)
		for (size_t j = 0; j < host->nodes[i].n_pages; j++)
			add_pages(grants, &host->nodes[i], &host->nodes[i].pages[j]);
	grants_add_cgroups(grants);
	add_vfio(grants);
	add_user(grants);
}
