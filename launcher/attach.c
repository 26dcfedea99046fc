#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attach.h"
#include "kernel.h"
#include "util.h"

static int refuse(const struct vm_state *state, const char *name, struct error *err)
{
	enum kernel_life supervisor = kernel_lives(state->launcher, state->launcher_start);

	if (supervisor == KERNEL_UNKNOWN)
		return error_set(
		    err, EXIT_FAILED,
		    "cannot see whether the supervisor of VM \"%s\" (process %d) lives: "
		    "%s",
		    name, state->launcher, strerror(errno));
	if (supervisor == KERNEL_LIVES)
		return error_set(
		    err, EXIT_FAILED,
		    "VM \"%s\" has a supervisor that lives (process %d); `ancla status "
		    "%s` and `ancla stop %s` need no other",
		    name, state->launcher, name, name);
	if (strcmp(state->state, "running") != 0)
		return error_set(err, EXIT_FAILED, "VM \"%s\" never ran: its start was killed",
		                 name);
	return 0;
}

static int is_gone(const struct vm *vm, const char *name, struct error *err)
{
	return error_set(err, EXIT_FAILED, "VM \"%s\" is ending: its QEMU (%d) is gone", name,
	                 vm->state.qemu);
}

/* Looks and takes in one lock of the ledger: of two that try, one succeeds. */
static int take(const char *name, struct vm *vm, struct error *err)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;

	if (ledger_open(&ledger, false, err) < 0 || ledger_find(&ledger, name, &vm->dir, err) < 0)
		return -1;
	vm->plan = vm_read_plan(&vm->dir, err);
	if (!vm->plan || vm_read_state(&vm->dir, &vm->state, err) < 0)
		return error_prefix(err, "VM \"%s\" is being started or is ending: ", name);
	if (refuse(&vm->state, name, err) < 0)
		return -1;
	vm->qemu.pid = vm->state.qemu;
	vm->qemu.pidfd = kernel_pidfd(vm->state.qemu, vm->state.qemu_start);
	if (vm->qemu.pidfd < 0 && errno == ESRCH)
		return is_gone(vm, name, err);
	if (vm->qemu.pidfd < 0)
		return error_set(err, EXIT_FAILED, "cannot reach QEMU of \"%s\" (%d): %s", name,
		                 vm->state.qemu, strerror(errno));
	vm->state.launcher = getpid();
	vm->state.launcher_start = kernel_start_time(getpid());
	if (!vm->state.launcher_start)
		return error_set(err, EXIT_FAILED,
		                 "cannot read when this process was started (/proc/%d/stat)",
		                 getpid());
	return vm_write_state(&vm->dir, &vm->state, err);
}

static int connect_to(struct vm *vm, bool serial, struct error *err)
{
	struct qmp_error qmp_error;
	int fd = vm_connect(&vm->dir, VM_MONITOR, err);

	if (fd < 0)
		return -1;
	vm->qmp = qmp_new(fd, vm_on_event, vm);
	if (qmp_wait_ready(vm->qmp, LIMIT_REPLY_MS, &qmp_error) < 0)
		return error_set(err, EXIT_FAILED, "%s", qmp_error.message);
	if (serial && strcmp(vm->state.serial, "socket") == 0 &&
	    (vm->serial = vm_connect(&vm->dir, VM_SERIAL, err)) < 0)
		return -1;
	return vm_find_threads(vm, err);
}

int attach(const char *name, const struct launch_options *options, struct vm *vm, struct error *err)
{
	*vm = (struct vm){
		.dir = VM_DIR_INIT,
		.qemu = { .pidfd = -1, .go = -1, .foreign = true },
		.guard = GUARD_INIT,
		.serial = -1,
		.signals = options->signals,
	};
	if (take(name, vm, err) < 0 || connect_to(vm, options->serial, err) < 0 ||
	    /* Only for the terminal's sake: QEMU is not to die with us. */
	    (options->terminal >= 0 && vm->serial >= 0 &&
	     guard_start(&vm->guard, -1, options->terminal, err) < 0)) {
		/* What failed may have failed for that. */
		if (vm->qemu.pid > 0 && kernel_is_dying(vm->qemu.pid))
			is_gone(vm, name, err);
		vm_leave(vm);
		return -1;
	}
	/* The same open file, so the same flock(2), from QEMU, where ptrace(2) would be allowed.
	 * Without it the next command removes the VM's directory. */
	vm->dir.lock = (int)syscall(SYS_pidfd_getfd, vm->qemu.pidfd, FD_LOCK, 0);
	return 0;
}
