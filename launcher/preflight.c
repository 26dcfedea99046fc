#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "kernel.h"
#include "preflight.h"
#include "privileges.h"
#include "util.h"

struct trial {
	struct sched sched;
	int error;
};

static void *try_sched(void *data)
{
	struct trial *trial = data;

	trial->error = kernel_set_sched(0, trial->sched) < 0 ? errno : 0;
	return NULL;
}

/* Whether the kernel grants the scheduler: asked by a throwaway thread. */
static int check_sched(const char *who, struct sched sched, struct error *err)
{
	struct trial trial = { .sched = sched };
	pthread_t thread;

	if (!sched_is_realtime(sched) || pthread_create(&thread, NULL, try_sched, &trial) != 0)
		return 0;
	pthread_join(thread, NULL);
	if (trial.error == 0)
		return 0;
	return error_set(err, EXIT_GRANT,
	                 "%s: the kernel refuses the scheduler %s with priority %d: "
	                 "%s%s",
	                 who, scheduler_name(sched.scheduler), sched.priority,
	                 strerror(trial.error), kernel_sched_advice(trial.error));
}

/* The highest priority of each kind of thread stands for all of that kind. */
static int check_scheds(const struct plan *plan, struct error *err)
{
	struct sched vcpus = { SCHED_UNSET, 0 }, iothreads = { SCHED_UNSET, 0 };

	for (size_t i = 0; i < plan->n_vcpus; i++)
		if (sched_is_realtime(plan->vcpus[i].sched) &&
		    plan->vcpus[i].sched.priority > vcpus.priority)
			vcpus = plan->vcpus[i].sched;
	for (size_t i = 0; i < plan->n_iothreads; i++)
		if (sched_is_realtime(plan->iothreads[i].sched) &&
		    plan->iothreads[i].sched.priority > iothreads.priority)
			iothreads = plan->iothreads[i].sched;
	if (check_sched("cputune.vcpusched", vcpus, err) < 0 ||
	    check_sched("cputune.iothreadsched", iothreads, err) < 0)
		return -1;
	return check_sched("cputune.emulatorsched", plan->emulator_sched, err);
}

static int check_lock(const struct plan *plan, struct error *err)
{
	struct rlimit limit;
	uint64_t bytes = 0;

	for (size_t i = 0; i < plan->n_memory; i++)
		bytes += plan->memory[i].size;
	if (!plan->process.locks || has_capability(CAP_IPC_LOCK) ||
	    getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_max > bytes)
		return 0;
	cleanup_free char *have = format_size(limit.rlim_max);
	cleanup_free char *need = format_size(bytes);
	return error_set(err, EXIT_GRANT,
	                 "%s more than %s of locked memory, and this process may lock %s; grant "
	                 "CAP_IPC_LOCK, or raise the limit (ulimit -Hl)",
	                 plan->locked ? "memory-backing.locked needs" : "hostdevs need", need,
	                 have);
}

int preflight(const struct plan *plan, struct error *err)
{
	return check_scheds(plan, err) < 0 || check_lock(plan, err) < 0 ? -1 : 0;
}
