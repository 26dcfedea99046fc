#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/mempolicy.h>

#include "cpulist.h"
#include "memory_parts.h"
#include "util.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U /* Linux 6.3 */
#endif

#define PREFERRED_MANY 5 /* MPOL_PREFERRED_MANY, Linux 5.15; headers may be older */

/* Node masks of the system calls: no Linux has more nodes (NODES_SHIFT is at most 10). They take
 * the number of bits plus one. */
#define NODES_MAX 1024
#define NODES_BITS (NODES_MAX + 1)
#define BITS_PER_LONG (8 * sizeof(unsigned long))

struct node_mask {
	unsigned long bits[NODES_MAX / BITS_PER_LONG];
};

/* Without libnuma: loading it costs every start a walk through /sys that hwloc does better. */
static int bind_range(char *address, uint64_t length, int mode, const struct node_mask *mask)
{
	return (int)syscall(SYS_mbind, address, length, mode, mask->bits, NODES_BITS, 0);
}

/* NULL: no nodes. */
static int bind_thread(int mode, const struct node_mask *mask)
{
	return (int)syscall(SYS_set_mempolicy, mode, mask ? mask->bits : NULL,
	                    mask ? NODES_BITS : 0);
}

static bool has_nodes(hwloc_const_bitmap_t nodes)
{
	return nodes && !hwloc_bitmap_iszero(nodes);
}

/* False for a node that no Linux has. */
static bool node_mask(hwloc_const_bitmap_t nodes, struct node_mask *mask)
{
	memset(mask, 0, sizeof(*mask));
	int last = hwloc_bitmap_last(nodes);
	if (last < 0 || last >= NODES_MAX)
		return false;
	return hwloc_bitmap_to_ulongs(nodes, ARRAY_SIZE(mask->bits), mask->bits) == 0;
}

/* An empty range is never bound, but the mode is looked at first: EINVAL before Linux 5.15. */
static bool kernel_has_preferred_many(void)
{
	struct node_mask mask = { { 1 } };

	return bind_range(NULL, 0, PREFERRED_MANY, &mask) == 0;
}

/* A kernel without NUMA has no policies and needs none: all memory is on node 0. */
static bool policy_not_needed(int reason, hwloc_const_bitmap_t nodes)
{
	return reason == ENOSYS && hwloc_bitmap_first(nodes) == 0 && hwloc_bitmap_last(nodes) == 0;
}

/* The mode for set_mempolicy and mbind, and its nodes: MPOL_PREFERRED takes the first one only. */
static int policy_mode(enum mem_policy policy, hwloc_const_bitmap_t nodes)
{
	switch (policy) {
	case MEM_POLICY_STRICT:
	case MEM_POLICY_RESTRICTIVE:
		return MPOL_BIND;
	case MEM_POLICY_INTERLEAVE:
		return MPOL_INTERLEAVE;
	case MEM_POLICY_PREFERRED:
	case MEM_POLICY_UNSET:
		break;
	}
	return hwloc_bitmap_weight(nodes) > 1 && kernel_has_preferred_many() ? PREFERRED_MANY
	                                                                     : MPOL_PREFERRED;
}

static int policy_error(const char *what, hwloc_const_bitmap_t nodes, int reason, struct error *err)
{
	cleanup_free char *list = cpulist_format(nodes);

	switch (reason) {
	case ENOSYS:
		return error_set(err, EXIT_GRANT,
		                 "%s: no memory policy for host nodes %s: this kernel is without "
		                 "NUMA (CONFIG_NUMA), all its memory is node 0",
		                 what, list);
	case EPERM:
		return error_set(
		    err, EXIT_GRANT,
		    "%s: setting the memory policy for host nodes %s is not permitted: "
		    "a container's seccomp profile, most likely; it must allow mbind "
		    "and set_mempolicy",
		    what, list);
	case EINVAL:
		return error_set(
		    err, EXIT_GRANT,
		    "%s: the kernel refuses host nodes %s: there is no such node, it has "
		    "no memory, or the cpuset leaves it out (Mems_allowed_list in "
		    "/proc/self/status)",
		    what, list);
	default:
		return error_set(err, EXIT_GRANT,
		                 "%s: cannot set the memory policy for host nodes %s: %s", what,
		                 list, strerror(reason));
	}
}

int memory_policy_of_thread(enum mem_policy policy, hwloc_const_bitmap_t nodes, struct error *err)
{
	struct node_mask mask;
	int mode;

	if (!has_nodes(nodes)) {
		if (bind_thread(MPOL_DEFAULT, NULL) < 0 && errno != ENOSYS)
			return error_set(err, EXIT_GRANT, "cannot reset the memory policy: %s",
			                 strerror(errno));
		return 0;
	}
	if (!node_mask(nodes, &mask))
		return policy_error("thread", nodes, EINVAL, err);
	if (policy != MEM_POLICY_RESTRICTIVE)
		policy = MEM_POLICY_PREFERRED;
	mode = policy_mode(policy, nodes);
	if (bind_thread(mode, &mask) == 0 || policy_not_needed(errno, nodes))
		return 0;
	return policy_error("thread", nodes, errno, err);
}

int memory_policy_of_range(char *address, uint64_t length, enum mem_policy policy,
                           hwloc_const_bitmap_t nodes)
{
	struct node_mask mask;

	if (!node_mask(nodes, &mask))
		return EINVAL;
	if (bind_range(address, length, policy_mode(policy, nodes), &mask) == 0)
		return 0;
	return policy_not_needed(errno, nodes) ? 0 : errno;
}

int memory_bind(char *address, const struct plan_memory *memory, struct error *err)
{
	hwloc_const_bitmap_t nodes = memory->host_nodes;

	if (!has_nodes(nodes) || memory->policy == MEM_POLICY_RESTRICTIVE)
		return 0;
	int reason = memory_policy_of_range(address, memory->size, memory->policy, nodes);
	if (!reason)
		return 0;
	cleanup_free char *where = memory_where(memory);
	return policy_error(where, nodes, reason, err);
}

char *memory_policy_shown(const struct plan_memory *memory)
{
	const char *name = "bind";

	if (!has_nodes(memory->host_nodes) || memory->policy == MEM_POLICY_RESTRICTIVE)
		return xstrdup("default");
	switch (policy_mode(memory->policy, memory->host_nodes)) {
	case MPOL_PREFERRED:
		return xasprintf("prefer:%d", hwloc_bitmap_first(memory->host_nodes));
	case PREFERRED_MANY:
		name = "prefer (many)";
		break;
	case MPOL_INTERLEAVE:
		name = "interleave";
		break;
	}
	cleanup_free char *nodes = cpulist_format(memory->host_nodes);
	/* The kernel has 64 bytes for it, and cuts the list of nodes there (show_numa_map()). */
	char *shown = xasprintf("%s:%s", name, nodes);
	if (strlen(shown) > 63)
		shown[63] = '\0';
	return shown;
}

bool memory_policy_matches(const struct plan_memory *memory, const char *shown)
{
	cleanup_free char *expected = memory_policy_shown(memory);

	if (strcmp(expected, shown) == 0)
		return true;
	if (memory->policy != MEM_POLICY_PREFERRED || !has_nodes(memory->host_nodes))
		return false;
	cleanup_free char *nodes = cpulist_format(memory->host_nodes);
	cleanup_free char *many = xasprintf("prefer (many):%s", nodes);
	cleanup_free char *one = xasprintf("prefer:%d", hwloc_bitmap_first(memory->host_nodes));
	return strcmp(one, shown) == 0 || strncmp(many, shown, 63) == 0;
}

/* Names the page sizes that this kernel has: "2MiB, 1GiB". */
static char *huge_page_sizes(void)
{
	DIR *directory = opendir("/sys/kernel/mm/hugepages");
	char *list = xstrdup("");
	struct dirent *entry;

	while (directory && (entry = readdir(directory))) {
		unsigned long long kib;
		if (sscanf(entry->d_name, "hugepages-%llukB", &kib) != 1)
			continue;
		cleanup_free char *before = list;
		cleanup_free char *size = format_size(kib * 1024);
		list = xasprintf("%s%s%s", before, *before ? ", " : "", size);
	}
	if (directory)
		closedir(directory);
	return list;
}

static int no_such_pages(const struct plan_memory *memory, struct error *err)
{
	cleanup_free char *where = memory_where(memory);
	cleanup_free char *size = format_size(memory->page_size);
	cleanup_free char *sizes = huge_page_sizes();

	return error_set(err, EXIT_GRANT, "%s: this kernel has no huge pages of %s (it has: %s)",
	                 where, size, *sizes ? sizes : "none");
}

static int open_memfd(const struct plan_memory *memory, const char *label, struct error *err)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;

	if (memory->pages == PAGES_HUGE)
		flags |= MFD_HUGETLB | (unsigned)__builtin_ctzll(memory->page_size)
		                           << MFD_HUGE_SHIFT;
	/* Where vm.memfd_noexec is 2 a memfd must say that it is not for executing; kernels
	 * before 6.3 do not know the flag. */
	cleanup_close int fd = memfd_create(label, flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(label, flags);
	if (fd >= 0)
		return take_fd(&fd);
	if (memory->pages == PAGES_HUGE &&
	    (errno == ENODEV || errno == EINVAL || errno == ENOSYS || errno == ENOENT))
		return no_such_pages(memory, err);
	int reason = errno;
	cleanup_free char *where = memory_where(memory);
	return error_set(err, EXIT_GRANT, "%s: memfd_create: %s", where, strerror(reason));
}

/* A file without a name in the directory. */
static int open_unlinked(const char *directory)
{
	cleanup_close int fd =
	    open(directory, O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != EINVAL))
		return take_fd(&fd);
	/* hugetlbfs knows O_TMPFILE since Linux 5.1. */
	cleanup_free char *path = xasprintf("%s/ancla-XXXXXX", directory);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd >= 0)
		unlink(path);
	return take_fd(&fd);
}

static int open_path(const struct plan_memory *memory, const char *path, struct error *err)
{
	cleanup_free char *where = memory_where(memory);
	struct statfs fs;

	if (statfs(path, &fs) < 0)
		return error_set(err, EXIT_GRANT, "%s: %s: %s", where, path, strerror(errno));
	if (fs.f_type != HUGETLBFS_MAGIC)
		return error_set(err, EXIT_GRANT,
		                 "%s: %s is not on a hugetlbfs (mount -t hugetlbfs none DIRECTORY, "
		                 "or no path: then no mount is needed)",
		                 where, path);
	if ((uint64_t)fs.f_bsize != memory->page_size) {
		cleanup_free char *has = format_size((uint64_t)fs.f_bsize);
		cleanup_free char *needs = format_size(memory->page_size);
		return error_set(err, EXIT_GRANT,
		                 "%s: the hugetlbfs at %s has pages of %s, needed are pages of %s "
		                 "(mount another one with -o pagesize=%llu, or no path: then no "
		                 "mount is needed)",
		                 where, path, has, needs, (unsigned long long)memory->page_size);
	}
	int fd = open_unlinked(path);
	if (fd < 0)
		return error_set(err, EXIT_GRANT, "%s: cannot make a file in %s: %s", where, path,
		                 strerror(errno));
	return fd;
}

void *memory_mmap(int fd, uint64_t offset, uint64_t length, int protection, int flags, bool thp)
{
	if (!thp)
		return mmap(NULL, length, protection, MAP_SHARED | flags, fd, (off_t)offset);
	/* So much room that an aligned address is in it; what is beside the mapping goes. */
	uint64_t room = length + THP_SIZE;
	char *start =
	    mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		return MAP_FAILED;
	uint64_t before = -(uintptr_t)start % THP_SIZE;
	void *address = mmap(start + before, length, protection, MAP_SHARED | MAP_FIXED | flags, fd,
	                     (off_t)offset);
	int reason = errno;
	if (address == MAP_FAILED) {
		munmap(start, room);
		errno = reason;
		return MAP_FAILED;
	}
	if (before)
		munmap(start, before);
	munmap(start + before + length, room - before - length);
	return address;
}

int memory_advise(char *address, uint64_t length, int advice)
{
	while (madvise(address, length, advice) < 0) {
		if (errno != EINTR && errno != EAGAIN)
			return errno;
	}
	return 0;
}

char *memory_map(int fd, const struct plan_memory *memory, struct error *err)
{
	void *address =
	    memory_mmap(fd, 0, memory->size, PROT_READ | PROT_WRITE, 0, memory->pages == PAGES_THP);

	if (address != MAP_FAILED)
		return address;
	int reason = errno;
	if (reason == ENOMEM && memory->pages == PAGES_HUGE) {
		memory_shortage(memory, 0, ENOMEM, err);
		return NULL;
	}
	cleanup_free char *where = memory_where(memory);
	cleanup_free char *size = format_size(memory->size);
	error_set(err, EXIT_GRANT, "%s: cannot map %s: %s", where, size, strerror(reason));
	return NULL;
}

int memory_create(const struct plan_memory *memory, const char *path, const char *label,
                  struct error *err)
{
	assert(memory->backing != BACKING_ANON);
	cleanup_close int fd = memory->backing == BACKING_PATH ? open_path(memory, path, err)
	                                                       : open_memfd(memory, label, err);
	if (fd < 0)
		return -1;
	/* Sealed like QEMU's own memfds: nobody who gets the descriptor (vhost-user) can pull the
	 * pages from under the others. Files with a path have no seals. */
	if (ftruncate(fd, (off_t)memory->size) < 0 ||
	    (memory->backing == BACKING_MEMFD &&
	     fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)) {
		int reason = errno;
		cleanup_free char *where = memory_where(memory);
		cleanup_free char *size = format_size(memory->size);
		return error_set(err, EXIT_GRANT, "%s: cannot make a file of %s: %s", where, size,
		                 strerror(reason));
	}
	if (memory->pages == PAGES_HUGE) {
		/* The reservation stays with the file when the mapping goes. */
		char *address = memory_map(fd, memory, err);
		if (!address)
			return -1;
		munmap(address, memory->size);
	}
	return take_fd(&fd);
}
