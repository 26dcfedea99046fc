/* Where the VM goes: placed and claimed in one look at the ledger and the nodes. */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "kernel.h"
#include "launch_parts.h"
#include "place.h"
#include "reserve.h"
#include "util.h"
#include "waits.h"

#define LOOK_AGAIN_MS 20

/* Whether the VM would have room if others had already taken all that they may have. */
static bool may_fit_later(struct launching *l, struct ledger *ledger)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_claims struct claims *claims = ledger_claims(ledger, &ignored);
	cleanup_plan struct plan *plan = NULL;

	if (!claims)
		return false;
	claims_hope(claims);
	plan = place(l->vm->spec, l->planning.host, claims, l->planning.accel, &ignored);
	return plan != NULL;
}

static const char *serial_name(enum serial_type type)
{
	static const char *const names[] = { "none", "socket", "file", "pty", "socket" };

	return names[type];
}

/* From the first moment on that others see the VM, they know whom to tell that it is to end. */
static int write_launcher(struct vm *vm, struct error *err)
{
	/* Later commands run elsewhere. */
	char *spec = realpath(vm->spec->file, NULL);

	vm->state = (struct vm_state){
		.state = xstrdup("starting"),
		.spec = spec ? spec : xstrdup(vm->spec->file),
		.serial = xstrdup(serial_name(vm->spec->serial.type)),
		.launcher = getpid(),
		.launcher_start = kernel_start_time(getpid()),
		.started = (int64_t)time(NULL),
		.actions = vm->spec->actions,
	};
	if (!vm->state.launcher_start)
		return error_set(err, EXIT_FAILED,
		                 "cannot read when this process was started (/proc/%d/stat)",
		                 getpid());
	return vm_write_state(&vm->dir, &vm->state, err);
}

/* Ledger, place, claim, in one lock: two launches never see the same CPU or page free. 1 and an
 * error if that can only be told once VMs that are being filled have more of their pages. */
static int try_claim(struct launching *l, struct error *err)
{
	struct vm *vm = l->vm;
	struct host *host = l->planning.host;
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_claims struct claims *claims = NULL;

	if (ledger_open(&ledger, true, err) < 0)
		return -1;
	claims = ledger_claims(&ledger, err);
	if (!claims ||
	    (vm->dir.dirfd < 0 && (ledger_add(&ledger, vm->spec->name, &vm->dir, err) < 0 ||
	                           write_launcher(vm, err) < 0)))
		return -1;
	if (host_live_memory(host, err) < 0)
		return -1;
	vm->plan = place(vm->spec, host, claims, l->planning.accel, err);
	if (!vm->plan)
		return claims->n_promises && may_fit_later(l, &ledger) ? 1 : -1;
	vm->plan->process = l->process;
	l->process = (struct plan_process){ 0 };
	if (reserve_grow(&vm->dir, vm->plan, host, claims, err) < 0)
		return -1;
	/* The fill's threads have no business where another VM is alone. */
	hwloc_bitmap_andnot(host->allowed, host->allowed, claims->dedicated);
	planning_warn(&l->planning, vm->spec, claims, vm->plan);
	return vm_write_plan(&vm->dir, vm->plan, err);
}

int launch_claim(struct launching *l, struct error *err)
{
	int64_t deadline = kernel_now_ms() + LIMIT_ROOM_MS;
	struct pollfd signals = { l->options->signals, POLLIN, 0 };
	int result;

	while ((result = try_claim(l, err)) > 0) {
		if (kernel_now_ms() > deadline)
			return -1;
		error_clear(err);
		if (poll(&signals, 1, LOOK_AGAIN_MS) > 0 &&
		    launch_stopped(l, "while it waited for others to take their memory", err) < 0)
			return -1;
	}
	return result;
}
