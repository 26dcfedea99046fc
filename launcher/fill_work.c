/* The filler: a process whose threads fill guest memory, and nothing else.
 *
 * Where a plain page cannot be had, madvise(2) does not say so: the kernel kills a process for it
 * (Documentation/admin-guide/mm/concepts.rst, "OOM killer"). It takes this one first, by its
 * oom_score_adj (proc(5)), where that can be set, and with it the want of more; its launcher lives
 * on and tells. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fill_parts.h"
#include "util.h"

#define SCORE "/proc/self/oom_score_adj"
#define SCORE_MOST 1000

/* Bytes that the filler's end gives back, for a launcher in the same control group: it needs a few
 * pages to tell. */
#define SLACK (4 << 20)

/* The first failure is told: an errno of the region's, or else a message and its exit code. */
static void fail(struct fill *fill, size_t region, int reason, const char *complaint, int code)
{
	struct fill_report *report = fill->report;

	pthread_mutex_lock(&fill->lock);
	if (!report->reason && !*report->complaint) {
		report->failed = region;
		report->reason = reason;
		report->code = code;
		snprintf(report->complaint, sizeof(report->complaint), "%s", complaint);
	}
	pthread_mutex_unlock(&fill->lock);
	atomic_store(&fill->stop, true);
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
			fail(fill, index, reason, "", 0);
			return;
		}
		atomic_fetch_add(&fill->report->done[index], length);
	}
}

/* The worker's CPUs as the kernel takes them. Made before it begins: a thread's first piece of the
 * heap maps memory, for which those at work would wait. */
static void make_mask(struct worker *worker)
{
	int last = hwloc_bitmap_last(worker->cpus);
	unsigned count = (unsigned)(last < 0 ? 0 : last) / (8 * sizeof(*worker->mask)) + 1;

	worker->mask = xcalloc(count, sizeof(*worker->mask));
	worker->mask_size = count * sizeof(*worker->mask);
	hwloc_bitmap_to_ulongs(worker->cpus, count, worker->mask);
}

static void begin_work(struct worker *worker)
{
	struct fill *fill = worker->fill;
	const struct plan_memory *memory = fill->regions[worker->crew].memory;
	cleanup_error struct error err = ERROR_INIT;

	/* Where it is not granted the fill is slower and no page goes elsewhere: the policy binds
	 * them. */
	sched_setaffinity(0, worker->mask_size, (const cpu_set_t *)worker->mask);
	pthread_mutex_lock(&fill->lock);
	worker->tid = gettid();
	if (fill->idle && !fill->hurried)
		sched_setscheduler(0, SCHED_IDLE, &(struct sched_param){ 0 });
	pthread_mutex_unlock(&fill->lock);
	/* Restrictive regions have no policy of their own, the others do not heed this one. */
	if (memory->policy == MEM_POLICY_RESTRICTIVE &&
	    memory_policy_of_thread(MEM_POLICY_RESTRICTIVE, memory->host_nodes, &err) < 0)
		fail(fill, worker->crew, 0, err.message, (int)err.code);
	prctl(PR_SET_NAME, "ancla-fill"); /* who sees it under this name sees it complete */
}

static bool set_score(int64_t score)
{
	cleanup_close int fd = open(SCORE, O_WRONLY | O_CLOEXEC);

	return fd >= 0 && dprintf(fd, "%lld", (long long)score) > 0;
}

/* Before any other process, as long as it wants plain pages. */
static void be_killed_first(struct fill *fill)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_free char *text = NULL;

	if (read_file(SCORE, 100, &text, NULL, &ignored) < 0)
		return;
	fill->score = strtoll(text, NULL, 10);
	fill->first = set_score(SCORE_MOST);
}

/* The last one tells the launcher. */
static void leave(struct fill *fill, struct worker *worker)
{
	static const char word = FILL_END;
	bool last;

	pthread_mutex_lock(&fill->lock);
	if (worker)
		worker->tid = 0;
	last = --fill->working == 0;
	pthread_mutex_unlock(&fill->lock);
	if (!last)
		return;
	if (fill->first)
		set_score(fill->score);
	if (write(fill->socket, &word, 1) != 1)
		_exit(EXIT_FAILED);
}

/* A late worker waits for the word to hurry, and joins in if there is something to do still. It is
 * there from the beginning, as to make a thread maps memory, too. */
static bool join_in(struct fill *fill)
{
	pthread_mutex_lock(&fill->lock);
	while (!fill->hurried)
		pthread_cond_wait(&fill->hurry, &fill->lock);
	bool needed = fill->working > 0;
	if (needed)
		fill->working++;
	pthread_mutex_unlock(&fill->lock);
	return needed;
}

static void *work(void *data)
{
	struct worker *worker = data;
	struct fill *fill = worker->fill;

	if (worker->late && !join_in(fill))
		return NULL;
	begin_work(worker);
	for (size_t i = worker->crew; i < fill->n_regions; i++) {
		if (fill->regions[i].crew == worker->crew)
			fill_region(fill, i);
	}
	leave(fill, worker);
	return NULL;
}

/* 0 or an errno. Under the lock. */
static int start_worker(struct worker *worker)
{
	pthread_t thread;
	int reason = pthread_create(&thread, NULL, work, worker);

	if (!reason && !worker->late)
		worker->fill->working++;
	return reason;
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

/* Threads that cannot be had (pids.max) are done without, unless a crew would be left without any.
 */
static void start_workers(struct fill *fill)
{
	int reason = 0;

	fill->idle = may_leave_idle();
	pthread_mutex_lock(&fill->lock);
	fill->working = 1; /* this thread: nobody is the last before all are started */
	size_t failed = 0;
	for (size_t i = 0; i < fill->n_workers && !reason; i++) {
		struct worker *worker = &fill->workers[i];
		make_mask(worker);
		bool first = i == 0 || fill->workers[i - 1].crew != worker->crew;
		int result = start_worker(worker);
		reason = first ? result : 0;
		failed = worker->crew;
	}
	pthread_mutex_unlock(&fill->lock);
	if (reason) {
		cleanup_free char *complaint =
		    xasprintf("cannot start a thread to fill memory: %s", strerror(reason));
		fail(fill, failed, 0, complaint, EXIT_FAILED);
	}
	leave(fill, NULL);
}

static void hurry(struct fill *fill)
{
	pthread_mutex_lock(&fill->lock);
	fill->hurried = true;
	for (size_t i = 0; i < fill->n_workers && fill->idle; i++)
		if (fill->workers[i].tid)
			sched_setscheduler(fill->workers[i].tid, SCHED_OTHER,
			                   &(struct sched_param){ 0 });
	pthread_cond_broadcast(&fill->hurry);
	pthread_mutex_unlock(&fill->lock);
}

/* What the launcher says; -1 when it has ended, or with MSG_DONTWAIT when it has said nothing. */
static int hear(const struct fill *fill, int flags)
{
	ssize_t got;
	char word;

	do
		got = recv(fill->socket, &word, 1, flags);
	while (got < 0 && errno == EINTR);
	return got > 0 ? word : -1;
}

void fill_work(struct fill *fill, pid_t launcher)
{
	int word;

	/* Also when somebody has stopped it; and the launcher may have ended just before. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != launcher)
		_exit(EXIT_FAILED);
	/* Else its launcher, if it has capabilities of its file, could not read where the pages are
	 * (proc(5), PR_SET_DUMPABLE). Nobody with fewer may trace it. */
	prctl(PR_SET_DUMPABLE, 1);
	pthread_mutex_init(&fill->lock, NULL);
	pthread_cond_init(&fill->hurry, NULL);
	if (fill_has_plain(fill)) {
		be_killed_first(fill);
		mmap(NULL, SLACK, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	}
	fill->hurried = hear(fill, MSG_DONTWAIT) == FILL_HURRY; /* from the beginning */
	start_workers(fill);
	while ((word = hear(fill, 0)) >= 0) {
		if (word == FILL_HURRY)
			hurry(fill);
	}
	/* The launcher has ended. */
	_exit(EXIT_FAILED);
}
