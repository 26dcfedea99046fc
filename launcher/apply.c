#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "apply.h"
#include "cgroup.h"
#include "cpulist.h"
#include "kernel.h"
#include "pin.h"
#include "util.h"
#include "verify.h"

/* Threads are born while others are moved, with the CPUs of their parents: so many times at most.
 */
#define ROUNDS_MAX 10

void moves_free(struct moves *moves)
{
	for (size_t i = 0; i < moves->count; i++) {
		free(moves->list[i].name);
		hwloc_bitmap_free(moves->list[i].was_cpus);
		hwloc_bitmap_free(moves->list[i].cpus);
	}
	free(moves->list);
	*moves = (struct moves){ 0 };
}

static bool same_wish(const struct thread *thread, const struct plan *was, const struct plan *plan)
{
	struct sched a = thread_sched(thread, was), b = thread_sched(thread, plan);

	return thread->role != THREAD_WORKER && a.scheduler == b.scheduler &&
	       a.priority == b.priority &&
	       hwloc_bitmap_isequal(thread_cpus(thread, was), thread_cpus(thread, plan));
}

static int read_thread(pid_t tid, hwloc_bitmap_t cpus, struct sched *sched)
{
	return kernel_get_affinity(tid, cpus) < 0 || kernel_get_sched(tid, sched) < 0 ? -1 : 0;
}

static bool is_as_planned(const struct plan *plan, const struct thread *thread,
                          hwloc_const_bitmap_t cpus, struct sched sched)
{
	return thread_may_be_on(thread, plan, cpus) && thread_may_run_as(thread, plan, sched);
}

static int move_thread(const struct plan *plan, pid_t pid, const struct thread *thread,
                       struct moves *moves, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t now = xbitmap();
	struct threads one = { .list = (struct thread *)(uintptr_t)thread, .count = 1 };
	cleanup_checks struct checks checks = { 0 };
	const char *was_in =
	    plan->cgroup ? cgroup_find_thread(plan->cgroup, pid, thread->tid) : NULL;
	struct sched sched = { 0 };

	/* Of one that cannot be read, pin_thread() knows whether it may be gone. */
	if (read_thread(thread->tid, now, &sched) < 0)
		return pin_thread(plan, thread, err);
	if (is_as_planned(plan, thread, now, sched)) {
		if (cgroup_put_thread(plan, thread, err) < 0)
			return -1;
		/* By that the kernel may have forgotten its affinity. */
		if (read_thread(thread->tid, now, &sched) < 0 ||
		    is_as_planned(plan, thread, now, sched))
			return 0;
	}
	struct move *move = array_append(&moves->list, &moves->count);
	*move = (struct move){
		.tid = thread->tid,
		.name = thread_name(thread, plan),
		.was_cpus = xbitmap_dup(now),
		.cpus = xbitmap_dup(thread_cpus(thread, plan)),
		.was_sched = sched,
		.sched = thread_sched(thread, plan),
		.cgroup = plan->cgroup,
		.was_in = was_in,
	};
	if (pin_thread(plan, thread, err) < 0)
		return -1;
	verify_threads(plan, &one, &checks);
	return verify_verdict(&checks, err);
}

/* One look over all threads. */
static int move_all(const struct plan *was, const struct plan *plan, const struct threads *threads,
                    bool realtime, struct moves *moves, struct error *err)
{
	for (size_t i = 0; i < threads->count; i++) {
		const struct thread *thread = &threads->list[i];
		if (sched_is_realtime(thread_sched(thread, plan)) != realtime ||
		    (was && same_wish(thread, was, plan)))
			continue;
		if (move_thread(plan, threads->pid, thread, moves, err) < 0)
			return -1;
	}
	return 0;
}

static int move_until_done(const struct plan *was, const struct plan *plan, struct threads *threads,
                           struct moves *moves, struct error *err)
{
	for (int round = 0; round < ROUNDS_MAX; round++) {
		size_t before = moves->count;
		if (move_all(was, plan, threads, false, moves, err) < 0 ||
		    move_all(was, plan, threads, true, moves, err) < 0 ||
		    threads_refresh(threads, err) < 0)
			return -1;
		if (moves->count == before)
			return 0;
	}
	return error_set(err, EXIT_FAILED,
	                 "QEMU makes new threads faster than they can be pinned; try again");
}

static int set_sched(pid_t tid, struct sched sched)
{
	struct sched now;

	if (kernel_get_sched(tid, &now) < 0)
		return -1;
	return now.scheduler == sched.scheduler && now.priority == sched.priority
	           ? 0
	           : kernel_set_sched(tid, sched);
}

/* In a cgroup without a real-time budget a thread can be only while it does not run in real time;
 * and a change of cgroups may change its affinity. */
static int put_back(const struct move *move)
{
	bool realtime = sched_is_realtime(move->was_sched);

	if (!realtime && set_sched(move->tid, move->was_sched) < 0)
		return -1;
	if (move->was_in && cgroup_move_thread(move->cgroup, move->was_in, move->tid) < 0)
		return -1;
	if (kernel_set_affinity(move->tid, move->was_cpus) < 0)
		return -1;
	return realtime ? set_sched(move->tid, move->was_sched) : 0;
}

int apply_undo(struct moves *moves, struct error *err)
{
	int result = 0;

	while (moves->count) {
		struct move *move = &moves->list[--moves->count];
		if (put_back(move) < 0 && errno != ESRCH)
			result = error_set(err, EXIT_FAILED, "%s could not be put back: %s",
			                   move->name, strerror(errno));
		free(move->name);
		hwloc_bitmap_free(move->was_cpus);
		hwloc_bitmap_free(move->cpus);
	}
	moves_free(moves);
	return result;
}

int apply_plan(const struct plan *was, const struct plan *plan, struct threads *threads,
               struct moves *moves, struct error *err)
{
	cleanup_error struct error undo = ERROR_INIT;

	if (move_until_done(was, plan, threads, moves, err) == 0)
		return 0;
	if (apply_undo(moves, &undo) < 0)
		error_prefix(err, "%s; before that: ", undo.message);
	return -1;
}
