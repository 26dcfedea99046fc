#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cgroup_limits.h"
#include "memory_parts.h"
#include "util.h"

/* A larger madvise blocks every mmap of the process for as long as it lasts. */
#define CHUNK_LEAST (UINT64_C(2) << 20)

/* Clearing pages is bound by the memory, not by the number of CPUs. */
#define WORKERS_PER_NODE 16

/* Bytes of a region of plain pages between two looks at what is left, and how many of these the
 * last one must reach: QEMU and others take some, too. */
#define LOOK_EVERY (UINT64_C(32) << 20)
#define LOOKS_AHEAD 4

struct region {
	size_t index; /* in plan->memory */
	const struct plan_memory *memory;
	char *address;
	uint64_t chunk, n_chunks;
	size_t crew;           /* the first region with the same nodes: its workers fill both */
	_Atomic uint64_t next; /* the first chunk that no worker has taken */
	_Atomic uint64_t done; /* bytes */
};

struct worker {
	struct fill *fill;
	size_t crew;
	hwloc_bitmap_t cpus;
	pthread_t thread;
	bool started; /* and not yet joined */
	pid_t tid;    /* 0 before and after it works; under the fill's lock */
};

/* The lists are complete before the first worker starts, and do not change any more: workers hold
 * pointers into them. */
struct fill {
	struct region *regions;
	size_t n_regions;
	struct worker *workers;
	size_t n_workers;
	size_t n_memory; /* of the plan */
	uint64_t total;
	int event;
	_Atomic bool stop;

	pthread_mutex_t lock; /* for all that follows, and worker.tid */
	size_t working;
	bool idle;       /* workers begin at SCHED_IDLE */
	bool hurried;    /* and from now on do not */
	int reason;      /* errno of the first failure; 0 */
	size_t failed;   /* its region */
	char *complaint; /* instead of a reason: the message */
};

static void fail(struct fill *fill, size_t region, int reason, char *complaint)
{
	pthread_mutex_lock(&fill->lock);
	if (!fill->reason && !fill->complaint) {
		fill->failed = region;
		fill->reason = reason;
		fill->complaint = take_pointer(&complaint);
	}
	pthread_mutex_unlock(&fill->lock);
	free(complaint);
	atomic_store(&fill->stop, true);
}

int memory_advise(char *address, uint64_t length, int advice)
{
	while (madvise(address, length, advice) < 0) {
		if (errno != EINTR && errno != EAGAIN)
			return errno;
	}
	return 0;
}

/* Bytes of plain pages that are still to be filled. */
static uint64_t missing_bytes(const struct fill *fill)
{
	uint64_t missing = 0;

	for (size_t i = 0; i < fill->n_regions; i++) {
		const struct region *region = &fill->regions[i];
		if (region->memory->pages != PAGES_HUGE)
			missing += region->memory->size - atomic_load(&region->done);
	}
	return missing;
}

/* A plain page that the control group may not have is no error of madvise(2): the kernel kills a
 * process of the group for it, and that may be this one (Documentation/admin-guide/cgroup-v2.rst,
 * memory.max). So what preflight() has counted is counted again while others may take it: the fill
 * fails where less is left than is missing, and it may be gone before the next looks. What is left
 * is read first, so that what is filled meanwhile is in neither; nor is what the workers have in
 * hand. */
static void look_ahead(struct fill *fill, size_t index)
{
	uint64_t in_hand = fill->n_workers * fill->regions[index].chunk;
	uint64_t soon = LOOKS_AHEAD * fill->n_regions * LOOK_EVERY + in_hand;
	struct cgroup_limit limit = { 0 };

	if (!cgroup_limit_find("", 0, &limit))
		return;
	uint64_t missing = missing_bytes(fill);
	if (limit.left < soon && limit.left + in_hand < missing)
		fail(fill, index, 0,
		     xasprintf("guest memory: %lluMiB are still to be filled, and the control "
		               "group may have %lluMiB more: %s is %lluMiB; raise that, or ask for "
		               "less",
		               (unsigned long long)(missing >> 20),
		               (unsigned long long)(limit.left >> 20), limit.file,
		               (unsigned long long)(limit.bytes >> 20)));
	free(limit.file);
}

static void fill_region(struct fill *fill, size_t index)
{
	struct region *region = &fill->regions[index];

	while (!atomic_load(&fill->stop)) {
		uint64_t chunk = atomic_fetch_add(&region->next, 1);
		if (chunk >= region->n_chunks)
			return;
		uint64_t offset = chunk * region->chunk;
		uint64_t length = region->memory->size - offset;
		if (length > region->chunk)
			length = region->chunk;
		int reason = memory_advise(region->address + offset, length, MADV_POPULATE_WRITE);
		if (reason) {
			fail(fill, index, reason, NULL);
			return;
		}
		uint64_t done = atomic_fetch_add(&region->done, length);
		if (region->memory->pages != PAGES_HUGE &&
		    done / LOOK_EVERY != (done + length) / LOOK_EVERY)
			look_ahead(fill, index);
	}
}

static void set_affinity(hwloc_const_bitmap_t cpus)
{
	int last = hwloc_bitmap_last(cpus);
	unsigned count = (unsigned)(last < 0 ? 0 : last) / (8 * sizeof(unsigned long)) + 1;
	cleanup_free unsigned long *mask = xcalloc(count, sizeof(*mask));

	/* Where it is not granted the fill is slower and no page goes elsewhere: the policy binds
	 * them. */
	hwloc_bitmap_to_ulongs(cpus, count, mask);
	sched_setaffinity(0, count * sizeof(*mask), (const cpu_set_t *)mask);
}

static void begin_work(struct worker *worker)
{
	struct fill *fill = worker->fill;
	const struct plan_memory *memory = fill->regions[worker->crew].memory;
	cleanup_error struct error err = ERROR_INIT;

	set_affinity(worker->cpus);
	pthread_mutex_lock(&fill->lock);
	worker->tid = gettid();
	if (fill->idle && !fill->hurried)
		sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 });
	pthread_mutex_unlock(&fill->lock);
	/* Restrictive regions have no policy of their own, the others do not heed this one. */
	if (memory->policy == MEM_POLICY_RESTRICTIVE &&
	    memory_policy_of_thread(MEM_POLICY_RESTRICTIVE, memory->host_nodes, &err) < 0)
		fail(fill, worker->crew, 0, take_pointer(&err.message));
	prctl(PR_SET_NAME, "ancla-fill"); /* who sees it under this name sees it complete */
}

static void *work(void *data)
{
	struct worker *worker = data;
	struct fill *fill = worker->fill;
	bool last;

	begin_work(worker);
	for (size_t i = worker->crew; i < fill->n_regions; i++) {
		if (fill->regions[i].crew == worker->crew)
			fill_region(fill, i);
	}
	pthread_mutex_lock(&fill->lock);
	worker->tid = 0;
	last = --fill->working == 0;
	pthread_mutex_unlock(&fill->lock);
	if (last)
		eventfd_write(fill->event, 1);
	return NULL;
}

static uint64_t chunk_of(const struct plan_memory *memory)
{
	return memory->page_size > CHUNK_LEAST ? memory->page_size : CHUNK_LEAST;
}

uint64_t fill_in_flight(const struct plan_memory *memory)
{
	if (!memory->host_nodes)
		return memory->size;
	return WORKERS_PER_NODE * (uint64_t)hwloc_bitmap_weight(memory->host_nodes) *
	       chunk_of(memory);
}

static bool same_crew(const struct plan_memory *a, const struct plan_memory *b)
{
	bool restrictive = a->policy == MEM_POLICY_RESTRICTIVE;

	if (restrictive != (b->policy == MEM_POLICY_RESTRICTIVE))
		return false;
	if (!a->host_nodes || !b->host_nodes)
		return a->host_nodes == b->host_nodes;
	return hwloc_bitmap_isequal(a->host_nodes, b->host_nodes);
}

/* The workers see the region only when it is mapped, bound and complete. */
static int add_region(struct fill *fill, const struct plan *plan, size_t index, int fd,
                      struct error *err)
{
	const struct plan_memory *memory = &plan->memory[index];
	char *address = memory_map(fd, memory, err);

	if (!address)
		return -1;
	struct region *region = array_append(&fill->regions, &fill->n_regions);
	region->index = index;
	region->memory = memory;
	region->address = address;
	region->chunk = chunk_of(memory);
	region->n_chunks = (memory->size + region->chunk - 1) / region->chunk;
	while (!same_crew(fill->regions[region->crew].memory, memory))
		region->crew++;
	fill->total += memory->size;
	/* Guest memory is no part of a core dump of the launcher, nor of the processes it forks. */
	madvise(address, memory->size, MADV_DONTDUMP);
	madvise(address, memory->size, MADV_DONTFORK);
	if (memory->pages == PAGES_THP)
		madvise(address, memory->size, MADV_HUGEPAGE);
	return memory_bind(address, memory, err);
}

/* CPUs near the nodes (NULL: any), on two lists. The scheduler moves threads about on `wide`; on
 * isolated CPUs it does not, so that `single` takes one thread each. An isolated CPU is used only
 * if it is a vCPU's of this plan: on another there may be a FIFO thread, behind which a worker and
 * its chunk would wait for ever. */
static void choose_cpus(const struct plan *plan, const struct host *host,
                        hwloc_const_bitmap_t nodes, hwloc_bitmap_t wide, hwloc_bitmap_t single)
{
	for (size_t i = 0; i < host->n_nodes; i++) {
		if (!nodes || hwloc_bitmap_isset(nodes, host->nodes[i].id))
			hwloc_bitmap_or(wide, wide, host->nodes[i].cpus);
	}
	for (size_t i = 0; i < plan->n_vcpus; i++)
		hwloc_bitmap_or(single, single, plan->vcpus[i].cpus);
	hwloc_bitmap_and(wide, wide, host->allowed);
	hwloc_bitmap_and(single, single, wide);
	hwloc_bitmap_and(single, single, host->isolated);
	hwloc_bitmap_andnot(wide, wide, host->isolated);
	if (!hwloc_bitmap_iszero(wide) || !hwloc_bitmap_iszero(single))
		return;
	hwloc_bitmap_andnot(wide, host->allowed, host->isolated);
	if (hwloc_bitmap_iszero(wide))
		hwloc_bitmap_copy(wide, host->allowed);
}

/* Adds the workers that fill the crew's regions, if it is one. */
static void add_crew(struct fill *fill, const struct plan *plan, const struct host *host,
                     size_t crew)
{
	hwloc_const_bitmap_t nodes = fill->regions[crew].memory->host_nodes;
	cleanup_bitmap hwloc_bitmap_t wide = xbitmap();
	cleanup_bitmap hwloc_bitmap_t single = xbitmap();
	uint64_t chunks = 0;

	for (size_t i = crew; i < fill->n_regions; i++) {
		if (fill->regions[i].crew == crew)
			chunks += fill->regions[i].n_chunks;
	}
	if (nodes && hwloc_bitmap_iszero(nodes))
		nodes = NULL;
	choose_cpus(plan, host, nodes, wide, single);
	uint64_t count = (uint64_t)(hwloc_bitmap_weight(wide) + hwloc_bitmap_weight(single));
	uint64_t most =
	    WORKERS_PER_NODE * (nodes ? (uint64_t)hwloc_bitmap_weight(nodes) : host->n_nodes);
	if (count > most)
		count = most;
	if (count > chunks)
		count = chunks;
	for (int cpu = -1; count; count--) {
		struct worker *worker = array_append(&fill->workers, &fill->n_workers);
		worker->fill = fill;
		worker->crew = crew;
		cpu = hwloc_bitmap_next(single, cpu);
		if (cpu < 0) {
			/* Out of single ones: next() has begun again, so none are left. */
			worker->cpus = xbitmap_dup(wide);
			hwloc_bitmap_zero(single);
			continue;
		}
		worker->cpus = xbitmap();
		hwloc_bitmap_set(worker->cpus, (unsigned)cpu);
	}
}

/* Whether a thread may leave SCHED_IDLE again: sched(7) asks for RLIMIT_NICE or CAP_SYS_NICE. The
 * capability counts only in the first user namespace; that is not written anywhere, so raise our
 * own nice value by one, which asks for the same, and take it back. */
static bool may_leave_idle(void)
{
	struct rlimit limit;

	errno = 0;
	int nice_value = getpriority(PRIO_PROCESS, 0);
	if (errno || nice_value <= -20)
		return false;
	if (getrlimit(RLIMIT_NICE, &limit) == 0 && limit.rlim_cur >= (rlim_t)(20 - nice_value))
		return true;
	if (setpriority(PRIO_PROCESS, 0, nice_value - 1) < 0)
		return false;
	return setpriority(PRIO_PROCESS, 0, nice_value) == 0;
}

/* Starts the workers, with all signals blocked. Threads that cannot be had (pids.max) are done
 * without, unless a crew would be left without any. 0 or an errno. */
static int start_workers(struct fill *fill)
{
	sigset_t all, before;
	int failed = 0;

	fill->idle = may_leave_idle();
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_mutex_lock(&fill->lock); /* nobody is the last before all are started */
	for (size_t i = 0; i < fill->n_workers && !failed; i++) {
		struct worker *worker = &fill->workers[i];
		bool first = i == 0 || fill->workers[i - 1].crew != worker->crew;
		int reason = pthread_create(&worker->thread, NULL, work, worker);
		worker->started = reason == 0;
		fill->working += worker->started;
		failed = first ? reason : 0;
	}
	pthread_mutex_unlock(&fill->lock);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed;
}

struct fill *fill_start(const struct plan *plan, const struct host *host, const int *fds,
                        struct error *err)
{
	struct fill *fill = xcalloc(1, sizeof(*fill));

	pthread_mutex_init(&fill->lock, NULL);
	fill->n_memory = plan->n_memory;
	fill->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fill->event < 0) {
		error_set(err, EXIT_FAILED, "eventfd: %s", strerror(errno));
		fill_cancel(fill);
		return NULL;
	}
	for (size_t i = 0; i < plan->n_memory; i++) {
		if (plan->memory[i].fill == FILL_LAUNCHER && fds[i] >= 0 && plan->memory[i].size &&
		    add_region(fill, plan, i, fds[i], err) < 0) {
			fill_cancel(fill);
			return NULL;
		}
	}
	if (!fill->n_regions) {
		eventfd_write(fill->event, 1);
		return fill;
	}
	for (size_t i = 0; i < fill->n_regions; i++) {
		if (fill->regions[i].crew == i)
			add_crew(fill, plan, host, i);
	}
	int reason = start_workers(fill);
	if (reason) {
		error_set(err, EXIT_FAILED, "cannot start a thread to fill memory: %s",
		          strerror(reason));
		fill_cancel(fill);
		return NULL;
	}
	return fill;
}

int fill_fd(const struct fill *fill)
{
	return fill->event;
}

void fill_progress(const struct fill *fill, uint64_t *done, uint64_t *total)
{
	*done = 0;
	*total = fill->total;
	for (size_t i = 0; i < fill->n_regions; i++)
		*done += atomic_load(&fill->regions[i].done);
}

void fill_hurry(struct fill *fill)
{
	pthread_mutex_lock(&fill->lock);
	for (size_t i = 0; i < fill->n_workers && fill->idle && !fill->hurried; i++) {
		if (fill->workers[i].tid)
			sched_setscheduler(fill->workers[i].tid, SCHED_OTHER,
			                   &(struct sched_param){ 0 });
	}
	fill->hurried = true;
	pthread_mutex_unlock(&fill->lock);
}

static void join_workers(struct fill *fill)
{
	fill_hurry(fill);
	for (size_t i = 0; i < fill->n_workers; i++) {
		if (fill->workers[i].started)
			pthread_join(fill->workers[i].thread, NULL);
		fill->workers[i].started = false;
	}
}

int fill_wait(struct fill *fill, struct error *err)
{
	join_workers(fill);
	if (!fill->reason && !fill->complaint)
		return 0;
	const struct region *region = &fill->regions[fill->failed];
	if (fill->complaint)
		return error_set(err, EXIT_GRANT, "%s", fill->complaint);
	return memory_shortage(region->memory, atomic_load(&region->done), fill->reason, err);
}

int fill_residency(const struct fill *fill, struct residency *list, struct error *err)
{
	cleanup_free struct counted *counted = xcalloc(fill->n_regions, sizeof(*counted));

	memset(list, 0, fill->n_memory * sizeof(*list));
	for (size_t i = 0; i < fill->n_regions; i++) {
		const struct region *region = &fill->regions[i];
		uint64_t page_size = region->memory->page_size;
		counted[i].address = region->address;
		counted[i].length = region->memory->size;
		counted[i].residency = &list[region->index];
		counted[i].thp = region->memory->pages == PAGES_THP;
		counted[i].residency->page_size = page_size;
		counted[i].mapped = atomic_load(&region->done) / page_size;
	}
	return residency_count(counted, fill->n_regions, err);
}

static void fill_free(struct fill *fill)
{
	for (size_t i = 0; i < fill->n_regions; i++)
		munmap(fill->regions[i].address, fill->regions[i].memory->size);
	for (size_t i = 0; i < fill->n_workers; i++)
		hwloc_bitmap_free(fill->workers[i].cpus);
	if (fill->event >= 0)
		close(fill->event);
	pthread_mutex_destroy(&fill->lock);
	free(fill->complaint);
	free(fill->regions);
	free(fill->workers);
	free(fill);
}

int fill_finish(struct fill *fill, struct error *err)
{
	int result = fill_wait(fill, err);

	fill_free(fill);
	return result;
}

void fill_cancel(struct fill *fill)
{
	if (!fill)
		return;
	atomic_store(&fill->stop, true);
	join_workers(fill);
	fill_free(fill);
}
