/* A VM from spec to running: the stages in their order, and everything undone if one fails. */
#ifndef ANCLA_LAUNCH_H
#define ANCLA_LAUNCH_H

#include <stdbool.h>
#include <stdio.h>

#include "../qmp/qmp.h"
#include "argv.h"
#include "caps.h"
#include "error.h"
#include "guard.h"
#include "host.h"
#include "ledger.h"
#include "waits.h"
#include "memory.h"
#include "plan.h"
#include "progress.h"
#include "spawn.h"
#include "spec.h"
#include "threads.h"
#include "verify.h"

struct vm_event {
	char *name;
	struct json_object *data; /* may be NULL */
};

/* A VM that this process supervises. */
struct vm {
	const struct spec *spec; /* borrowed */
	struct plan *plan;
	struct command_line *line;
	struct vm_dir dir;
	struct vm_state state;
	struct qemu qemu;
	struct guard guard;
	struct qmp *qmp;
	struct threads threads;
	struct checks checks; /* what was verified before the guest ran, and just after */
	int serial;           /* connected to the guest's serial console, or -1 */
	int signals;          /* signalfd of SIGINT, SIGTERM, SIGHUP; borrowed */
	int *fds;             /* the launcher's ends of line->inherited, -1 once closed */

	/* What QEMU told and nobody has looked at yet: see life.h. */
	struct vm_event *events;
	size_t n_events;
	bool threads_changed; /* vCPUs came or went: see adopt.h */
};

struct launch_options {
	int signals;                 /* signalfd that a wish to stop arrives on */
	int terminal;                /* whose state the guard gives back, or -1 */
	bool serial;                 /* connect to the serial console before the guest runs */
	enum progress_kind progress; /* of the filling of memory, on standard error */
};

/* Starts the VM and returns once it runs and is verified. On failure nothing is left: no process,
 * file, lock, or page. The caller ends a running VM's supervision with vm_end(). */
int launch(const struct spec *spec, const struct launch_options *options, struct vm *vm,
           struct error *err);

/* Asks QEMU for the threads of its vCPUs and iothreads and finds all others: fills vm->threads. */
int vm_find_threads(struct vm *vm, struct error *err);

/* Logs that the VM runs, what was warned of, and where its console is; tells the service manager.
 */
void vm_report(const struct vm *vm);

/* The handler of QMP events: keeps those that life_process() acts upon, the last ones of a flood.
 * `data` is the struct vm. */
void vm_on_event(void *data, const char *event, struct json_object *arguments);
void vm_drop_events(struct vm *vm);

/* Kills QEMU if it still runs, removes the VM's directory, frees everything. */
void vm_end(struct vm *vm);

/* Frees everything, and leaves QEMU as it is. */
void vm_leave(struct vm *vm);

/* QEMU is gone: reaps it and fills the error with how it ended, its last words, and `doing`
 * ("while it started"). Always -1. */
int vm_died(struct vm *vm, const char *doing, struct error *err);

/* An error of the QMP client's as one of ours; if it is that QEMU closed, waits for its end and
 * reports that instead. Always -1. */
int vm_qmp_failed(struct vm *vm, const struct qmp_error *qmp_error, const char *doing,
                  struct error *err);

/* The stages that a plan needs: what `plan` does, and the beginning of `launch`. */
struct planning {
	struct host *host;
	struct caps *caps;
	enum accel accel;
	char *accel_reason; /* why not KVM, or NULL */
};

/* Host and capabilities; with `host` a described machine, with `caps_file` a QEMU that is not here.
 */
int planning_begin(struct planning *planning, const struct spec *spec, const char *host,
                   const char *caps_file, struct error *err);

/* What the plan has to warn of that placement did not know. */
void planning_warn(const struct planning *planning, const struct spec *spec,
                   const struct claims *claims, struct plan *plan);
void planning_end(struct planning *planning);
#define cleanup_planning __attribute__((cleanup(planning_end)))

#endif
