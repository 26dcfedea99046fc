#include <errno.h>
#include <string.h>

#include "cgroup.h"
#include "cpulist.h"
#include "kernel.h"
#include "pin.h"
#include "util.h"

/* A thread that is not the plan's own may end at any time. */
static bool has_ended(const struct thread *thread, int error)
{
	return error == ESRCH && thread->role != THREAD_VCPU && thread->role != THREAD_IOTHREAD;
}

static bool is_right(const struct plan *plan, const struct thread *thread)
{
	cleanup_bitmap hwloc_bitmap_t cpus = xbitmap();

	return kernel_get_affinity(thread->tid, cpus) == 0 && thread_may_be_on(thread, plan, cpus);
}

int pin_thread(const struct plan *plan, const struct thread *thread, struct error *err)
{
	hwloc_const_bitmap_t cpus = thread_cpus(thread, plan);
	struct sched sched = thread_sched(thread, plan), now;

	if (thread->role == THREAD_WORKER && is_right(plan, thread))
		return 0;
	if (cgroup_put_thread(plan, thread, err) < 0)
		return -1;
	if (kernel_set_affinity(thread->tid, cpus) < 0) {
		int error = errno;
		cleanup_free char *name = thread_name(thread, plan);
		cleanup_free char *list = cpulist_format(cpus);
		if (has_ended(thread, error))
			return 0;
		return error_set(err, EXIT_GRANT, "the kernel refuses to put %s on CPUs %s: %s",
		                 name, list, strerror(error));
	}
	/* What a thread inherits is right already in most starts. */
	if (kernel_get_sched(thread->tid, &now) == 0 && thread_may_run_as(thread, plan, now))
		return 0;
	if (kernel_set_sched(thread->tid, sched) < 0) {
		int error = errno;
		cleanup_free char *name = thread_name(thread, plan);
		if (has_ended(thread, error))
			return 0;
		return error_set(err, EXIT_GRANT,
		                 "the kernel refuses %s the scheduler %s with priority %d: %s%s",
		                 name, scheduler_name(sched.scheduler), sched.priority,
		                 strerror(error), kernel_sched_advice(error));
	}
	return 0;
}

int pin_threads(const struct plan *plan, const struct threads *threads, struct error *err)
{
	for (size_t i = 0; i < threads->count; i++)
		if (pin_thread(plan, &threads->list[i], err) < 0)
			return -1;
	return 0;
}
