#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel.h"
#include "launch_parts.h"
#include "net.h"
#include "pin.h"
#include "preflight.h"
#include "privileges.h"
#include "supervise.h"
#include "util.h"

static int write_running(struct vm *vm, struct error *err)
{
	free(vm->state.state);
	vm->state.state = xstrdup("running");
	return vm_write_state(&vm->dir, &vm->state, err);
}

static int write_qemu(struct vm *vm, struct error *err)
{
	vm->state.qemu = vm->qemu.pid;
	vm->state.qemu_start = kernel_start_time(vm->qemu.pid);
	/* Without it, no later command would believe that it is the VM's. */
	if (!vm->state.qemu_start)
		return error_set(err, EXIT_FAILED,
		                 "cannot read when QEMU was started (/proc/%d/stat)", vm->qemu.pid);
	return vm_write_state(&vm->dir, &vm->state, err);
}

/* The nodes of the emulator's CPUs: where QEMU's own heap belongs. The caller frees. */
static hwloc_bitmap_t heap_nodes(const struct launching *l)
{
	hwloc_bitmap_t nodes = xbitmap();
	unsigned cpu;

	hwloc_bitmap_foreach_begin(cpu, l->vm->plan->emulator)
	{
		const struct host_node *node = host_node_of_cpu(l->planning.host, cpu);
		if (node && node->memory)
			hwloc_bitmap_set(nodes, node->id);
	}
	hwloc_bitmap_foreach_end();
	return nodes;
}

static bool all_bound(const struct plan *plan)
{
	for (size_t i = 0; i < plan->n_memory; i++)
		if (!plan->memory[i].host_nodes)
			return false;
	return true;
}

static int start_qemu(struct launching *l, struct error *err)
{
	struct vm *vm = l->vm;
	cleanup_bitmap hwloc_bitmap_t nodes = heap_nodes(l);
	cleanup_close int log = openat(
	    vm->dir.dirfd, VM_LOG, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (log < 0)
		return error_set(err, EXIT_FAILED, "cannot make %s/%s: %s", vm->dir.path, VM_LOG,
		                 strerror(errno));
	/* A single node needs no policy: all there is is there. Memory without host nodes would be
	 * allocated by the process's policy, and not where its vCPUs run. */
	if (l->planning.host->n_nodes == 1 || !all_bound(vm->plan))
		hwloc_bitmap_zero(nodes);
	if (spawn_qemu(vm->line, vm->plan, vm->fds, log, nodes, vm->spec->die_with_supervisor,
	               &vm->qemu, err) < 0)
		return -1;
	if (write_qemu(vm, err) < 0 || cgroup_add_process(vm->plan, vm->qemu.pid, err) < 0 ||
	    guard_start(&vm->guard, vm->qemu.pidfd, l->options->terminal, err) < 0 ||
	    spawn_release(&vm->qemu, err) < 0)
		return -1;
	/* QEMU has its own now; ours would keep its sockets open after its death. */
	for (size_t i = 0; i < vm->line->n_inherited; i++)
		if (vm->line->inherited[i].kind != INHERIT_LOCK &&
		    vm->line->inherited[i].kind != INHERIT_MEMORY) {
			close(vm->fds[i]);
			vm->fds[i] = -1;
		}
	return 0;
}

static int connect_qemu(struct launching *l, struct error *err)
{
	struct vm *vm = l->vm;
	int fd = vm_connect(&vm->dir, VM_MONITOR, err);

	if (fd < 0)
		return -1;
	vm->qmp = qmp_new(fd, vm_on_event, vm);
	if (l->options->serial && (vm->serial = vm_connect(&vm->dir, VM_SERIAL, err)) < 0)
		return -1;
	return 0;
}

static void free_residency(struct residency *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(list[i].pages);
	free(list);
}

static int verify(struct launching *l, struct error *err)
{
	struct vm *vm = l->vm;
	struct residency *known = xcalloc(vm->plan->n_memory, sizeof(*known));
	int result = fill_residency(l->fill, known, err);

	verify_threads(vm->plan, &vm->threads, &vm->checks);
	verify_cgroup(vm->plan, &vm->threads, &vm->checks);
	if (result == 0)
		result = verify_memory(vm->plan, vm->qemu.pid, known, false, &vm->checks, err);
	if (result == 0)
		result = verify_process(vm->plan, vm->qemu.pid, &vm->checks, err);
	free_residency(known, vm->plan->n_memory);
	return result < 0 ? -1 : verify_verdict(&vm->checks, err);
}

static int run_guest(struct vm *vm, struct error *err)
{
	struct qmp_error qmp_error;

	if (qmp_call(vm->qmp, "cont", NULL, LIMIT_REPLY_MS, NULL, &qmp_error) < 0)
		return vm_qmp_failed(vm, &qmp_error, "when the guest was let run", err);
	return 0;
}

/* True once a vCPU has come back from the guest. */
static bool has_run(struct json_object *stats)
{
	struct json_object *list, *value;

	for (size_t i = 0; i < json_object_array_length(stats); i++) {
		if (!json_object_object_get_ex(json_object_array_get_idx(stats, i), "stats",
		                               &list) ||
		    !json_object_is_type(list, json_type_array))
			continue;
		for (size_t j = 0; j < json_object_array_length(list); j++)
			if (json_object_object_get_ex(json_object_array_get_idx(list, j), "value",
			                              &value) &&
			    json_object_get_int64(value) > 0)
				return true;
	}
	return false;
}

/* KVM makes a thread of its own (kvm-nx-lpage-recovery) when a vCPU first runs: in QEMU on recent
 * kernels, with the CPUs and the priority of that vCPU. Waits until one has, so that it is found.
 */
static void wait_for_first_exit(struct vm *vm)
{
	int64_t deadline = kernel_now_ms() + LIMIT_FIRST_EXIT_MS;
	bool done = vm->plan->accel != ACCEL_KVM;

	while (!done && kernel_now_ms() < deadline) {
		cleanup_json struct json_object *stats = NULL;
		struct json_object *question =
		    json_tokener_parse("{\"target\":\"vcpu\",\"providers\":[{\"provider\":\"kvm\","
		                       "\"names\":[\"exits\"]}]}");
		/* A QEMU that cannot tell is not asked again. */
		done =
		    qmp_call(vm->qmp, "query-stats", question, LIMIT_REPLY_MS, &stats, NULL) < 0 ||
		    !json_object_is_type(stats, json_type_array) || has_run(stats);
	}
}

/* Threads that were born since the list was made, a vCPU thread's children among them. */
static int verify_late(struct vm *vm, struct error *err)
{
	cleanup_checks struct checks late = { 0 };

	wait_for_first_exit(vm);
	if (threads_refresh(&vm->threads, err) < 0)
		return -1;
	if (pin_threads(vm->plan, &vm->threads, err) < 0)
		return -1;
	cleanup_free char *unknown = threads_unknown(&vm->threads);
	if (unknown)
		plan_warn(vm->plan, "%s", unknown);
	verify_threads(vm->plan, &vm->threads, &late);
	verify_cgroup(vm->plan, &vm->threads, &late);
	return verify_verdict(&late, err);
}

/* Its threads go a moment before the process does. */
static bool has_ended(const struct vm *vm)
{
	return vm->qemu.pid > 0 &&
	       (kernel_is_dying(vm->qemu.pid) || threads_are_dying(&vm->threads)) &&
	       kernel_wait_gone(vm->qemu.pidfd, LIMIT_DYING_MS);
}

/* A thread that cannot be pinned or read back may be one of a QEMU that has just died: then that is
 * the error. Always -1. */
static int blame_death(struct vm *vm, const char *doing, struct error *err)
{
	if (has_ended(vm))
		return vm_died(vm, doing, err);
	return -1;
}

/* Nothing is there yet that would have to be undone, and a QEMU that is asked what it can do may
 * hang: until the claim, a signal ends the program as it ends any other. */
static int plan(struct launching *l, struct error *err)
{
	sigset_t before, wishes = supervise_wishes();
	int result;

	sigprocmask(SIG_UNBLOCK, &wishes, &before);
	result = planning_begin(&l->planning, l->vm->spec, NULL, NULL, err);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return result;
}

static int run_stages(struct launching *l, struct error *err)
{
	struct vm *vm = l->vm;

	if (plan(l, err) < 0 ||
	    privileges_decide(vm->spec, l->planning.caps, l->planning.accel, &l->process, err) <
	        0 ||
	    launch_claim(l, err) < 0)
		return -1;
	vm->line = command_line(vm->spec, vm->plan, l->planning.caps, err);
	if (!vm->line || preflight(vm->spec, vm->plan, err) < 0 ||
	    launch_make_cgroups(l, err) < 0 || launch_make_inherited(l, err) < 0 ||
	    start_qemu(l, err) < 0)
		return -1;
	l->fill = fill_start(vm->plan, l->planning.host, l->memory_fds, vm->dir.lock, err);
	if (!l->fill)
		return -1;
	/* Nobody listens any more where QEMU has died already. */
	if (connect_qemu(l, err) < 0)
		return blame_death(vm, "while QEMU started", err);
	if (launch_wait_ready(l, err) < 0)
		return -1;
	fill_hurry(l->fill);
	if (launch_find_console(l, err) < 0)
		return -1;
	if (vm_find_threads(vm, err) < 0 || pin_threads(vm->plan, &vm->threads, err) < 0)
		return blame_death(vm, "while its threads were pinned", err);
	if (launch_wait_filled(l, err) < 0)
		return -1;
	/* Filling may take minutes: what was born meanwhile is pinned before the guest runs, too.
	 */
	if (threads_refresh(&vm->threads, err) < 0 ||
	    pin_threads(vm->plan, &vm->threads, err) < 0 || verify(l, err) < 0)
		return blame_death(vm, "while it was verified", err);
	if (launch_stopped(l, "before the guest ran", err) < 0 || run_guest(vm, err) < 0)
		return -1;
	if (verify_late(vm, err) < 0) {
		/* The VM may have ended by itself already: a guest can be that quick. */
		if (!has_ended(vm))
			return -1;
		error_clear(err);
	}
	/* From here on QEMU may outlive us. */
	if (vm_write_threads(&vm->dir, &vm->threads, err) < 0 || write_running(vm, err) < 0)
		return -1;
	return vm->spec->die_with_supervisor ? 0 : guard_release(&vm->guard, err);
}

static void end_launching(struct launching *l)
{
	progress_end(&l->progress, stderr);
	fill_cancel(l->fill);
	free(l->memory_fds);
	plan_process_free(&l->process);
	planning_end(&l->planning);
}

int launch(const struct spec *spec, const struct launch_options *options, struct vm *vm,
           struct error *err)
{
	__attribute__((cleanup(end_launching))) struct launching l = {
		.options = options, .vm = vm, .progress.kind = options->progress
	};

	*vm = (struct vm){
		.spec = spec,
		.dir = VM_DIR_INIT,
		.qemu = QEMU_INIT,
		.guard = GUARD_INIT,
		.serial = -1,
		.signals = options->signals,
	};
	if (run_stages(&l, err) == 0) {
		/* Memory and lock are QEMU's; what is left of ours would only cost. */
		for (size_t i = 0; i < vm->line->n_inherited; i++)
			if (vm->line->inherited[i].kind == INHERIT_MEMORY) {
				close(vm->fds[i]);
				vm->fds[i] = -1;
			}
		return 0;
	}
	/* It ends before the memory that it fills. */
	fill_cancel(l.fill);
	l.fill = NULL;
	vm_end(vm);
	return -1;
}
