/* The parts of a launch, for launch*.c only. */
#ifndef ANCLA_LAUNCH_PARTS_H
#define ANCLA_LAUNCH_PARTS_H

#include "launch.h"
#include "progress.h"

/* What a launch holds only until the guest runs. */
struct launching {
	const struct launch_options *options;
	struct vm *vm;
	struct planning planning;
	struct plan_process process; /* until the plan has it */
	int *memory_fds;             /* by region; -1 where there is none, borrowed from vm->fds */
	struct fill *fill;
	struct progress progress; /* of the fill */
};

/* Places the VM and claims what it gets. */
int launch_claim(struct launching *l, struct error *err);

/* -1 and an error if a signal has come that ends the launch. */
int launch_stopped(struct launching *l, const char *doing, struct error *err);

/* Makes everything that QEMU inherits: sockets, memory, taps. */
int launch_make_inherited(struct launching *l, struct error *err);

/* Makes the VM's cgroups, if the plan needs some. */
int launch_make_cgroups(struct launching *l, struct error *err);

/* Fills vm->state.console, once the monitor is ready. */
int launch_find_console(struct launching *l, struct error *err);

/* Polls until QEMU's monitor is ready, or the memory is filled: whatever the step waits for. QEMU's
 * death, a signal, a failed fill and the limit end it with an error. */
int launch_wait_ready(struct launching *l, struct error *err);
int launch_wait_filled(struct launching *l, struct error *err);

#endif
