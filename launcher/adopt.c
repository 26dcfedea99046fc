#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adopt.h"
#include "apply.h"
#include "cpulist.h"
#include "lock.h"
#include "util.h"

/* The lock that every command holds while it is at the VM's second monitor. */
static int try_lock(const struct vm_dir *dir)
{
	cleanup_close int lock = vm_open_monitor_lock(dir);
	pid_t holder;

	return lock >= 0 && lock_take(lock, 0, &holder) == 0 ? take_fd(&lock) : -1;
}

static int ask(struct vm *vm, const char *question, struct json_object **reply, struct error *err)
{
	struct qmp_error qmp_error;

	if (qmp_call(vm->qmp, question, NULL, LIMIT_REPLY_MS, reply, &qmp_error) == 0)
		return 0;
	return error_set(err, EXIT_FAILED, "%s", qmp_error.message);
}

static char *describe(const struct moves *moves)
{
	char *text = NULL;

	for (size_t i = 0; i < moves->count; i++) {
		const struct move *move = &moves->list[i];
		cleanup_free char *before = text;
		cleanup_free char *was = cpulist_format(move->was_cpus);
		cleanup_free char *cpus = cpulist_format(move->cpus);
		cleanup_free char *sched = sched_format(move->sched);
		text = xasprintf("%s%s%s was on CPUs %s, is on %s, %s now", before ? before : "",
		                 before ? "; " : "", move->name, was, cpus, sched);
	}
	return text;
}

static int adopt(struct vm *vm, struct plan *plan, struct moves *moves, struct error *err)
{
	cleanup_json struct json_object *cpus = NULL, *iothreads = NULL;
	int before = plan->vcpus_online;

	if (ask(vm, "query-cpus-fast", &cpus, err) < 0 ||
	    ask(vm, "query-iothreads", &iothreads, err) < 0)
		return -1;
	plan->vcpus_online = threads_count_vcpus(plan, cpus);
	if (threads_read(&vm->threads, vm->qemu.pid, plan, cpus, iothreads, err) < 0 ||
	    apply_plan(NULL, plan, &vm->threads, moves, err) < 0 ||
	    vm_write_threads(&vm->dir, &vm->threads, err) < 0)
		return -1;
	return plan->vcpus_online == before ? 0 : vm_write_plan(&vm->dir, plan, err);
}

int adopt_threads(struct vm *vm, char **said, struct error *err)
{
	cleanup_close int lock = try_lock(&vm->dir);
	cleanup_moves struct moves moves = { 0 };
	cleanup_plan struct plan *plan = NULL;

	*said = NULL;
	if (lock < 0)
		return 1;
	plan = vm_read_plan(&vm->dir, err);
	if (!plan || (cgroup_is_needed(plan) && vm_read_cgroup(&vm->dir, &plan->cgroup, err) < 0) ||
	    adopt(vm, plan, &moves, err) < 0)
		return -1;
	*said = describe(&moves);
	return 0;
}
