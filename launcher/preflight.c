#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cgroup_limits.h"
#include "dump.h"
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

/* The size of the region's huge pages; 0 for plain ones. */
static uint64_t huge_size(const struct plan_memory *memory)
{
	return memory->pages == PAGES_HUGE ? memory->page_size : 0;
}

/* What the plan takes of one kind of pages. Plain memory that is filled as the guest goes may be
 * more than there is, as everywhere on Linux. */
static uint64_t bytes_of(const struct plan *plan, uint64_t page_size)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < plan->n_memory; i++)
		if (huge_size(&plan->memory[i]) == page_size &&
		    (page_size || plan->memory[i].fill != FILL_NONE))
			bytes += plan->memory[i].size;
	return bytes;
}

/* The launcher fills memory, and its control groups are charged for it. */
static int check_cgroups(const struct plan *plan, struct error *err)
{
	for (size_t i = 0; i < plan->n_memory; i++) {
		uint64_t needed = bytes_of(plan, huge_size(&plan->memory[i]));
		struct cgroup_limit limit = { 0 };
		if (!cgroup_limit_find("", huge_size(&plan->memory[i]), &limit))
			continue;
		cleanup_free char *file = limit.file;
		if (needed <= limit.left)
			continue;
		cleanup_free char *pages = plan_pages_name(&plan->memory[i]);
		cleanup_free char *need = format_size(needed);
		cleanup_free char *left = format_size(limit.left >> 20 << 20);
		cleanup_free char *most = format_size(limit.bytes >> 20 << 20);
		return error_set(err, EXIT_GRANT,
		                 "the guest needs %s of %s pages, and its control group may have "
		                 "%s more: %s is %s; raise that (echo %llu > %s), or ask for less",
		                 need, pages, left, file, most,
		                 (unsigned long long)(limit.bytes + needed - limit.left), file);
	}
	return 0;
}

static int check_dumps(const struct life_actions *actions, struct error *err)
{
	if (actions->on_poweroff != ACTION_DUMP && actions->on_reboot != ACTION_DUMP &&
	    actions->on_crash != ACTION_DUMP)
		return 0;
	cleanup_free char *directory = dump_directory(err);
	return directory ? 0 : -1;
}

int preflight(const struct spec *spec, const struct plan *plan, struct error *err)
{
	if (check_scheds(plan, err) < 0 || check_lock(plan, err) < 0 ||
	    check_cgroups(plan, err) < 0)
		return -1;
	return check_dumps(&spec->actions, err);
}
