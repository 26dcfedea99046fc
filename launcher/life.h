/* A guest's life once it runs: what QEMU tells of it, and what the spec wants done then.
 *
 * QEMU does by itself what it can (argv.c, -action): end where the action is destroy, reset where
 * it is restart. For all else it stops the guest, and here follows the rest: the reset, the dump,
 * the end. A guest that the host asked to power down ends, whatever the spec says of one that
 * powers off by itself.
 *
 * The guest runs on for a moment after SHUTDOWN or GUEST_PANICKED; STOP says that it does not.
 *
 * From RUNS, by SHUTDOWN or GUEST_PANICKED:
 *
 *   restart   RESETTING ── RESET, cont ──> BOOTING ── the firmware's resets are over ──> RUNS
 *   preserve  KEPT ── RESUME ──> RUNS
 *   dump      DUMPING ── DUMP_COMPLETED, quit ──> ENDING
 *   destroy   quit ──> ENDING
 */
#ifndef ANCLA_LIFE_H
#define ANCLA_LIFE_H

#include <stdbool.h>
#include <stdint.h>

#include "launch.h"

struct life {
	struct vm *vm;
	enum { LIFE_RUNS, LIFE_RESETTING, LIFE_BOOTING, LIFE_DUMPING, LIFE_KEPT, LIFE_ENDING } step;
	bool asked;      /* the host asked the guest to power down */
	bool panicked;   /* the guest did, and was not started again since */
	bool watchdog;   /* its watchdog fired, likewise */
	bool failed;     /* what the spec wants could not be done */
	bool told;       /* QEMU said that it ends */
	bool stopped;    /* the guest is, and nothing is done about it */
	const char *due; /* why something is to be done once the guest is stopped; NULL: nothing */
	enum life_action due_action;
	int64_t deadline; /* for the reset, the dump, or QEMU's end; 0: none */
	unsigned question,
	    request;        /* QMP commands under way: query-status, and the step's; 0: none */
	char *dump;         /* being written */
	int64_t told_reset; /* when one of the guest was told last; 0: never */
	int64_t told_io;    /* likewise an I/O error */
	unsigned untold_io; /* since then */
};

void life_begin(struct life *life, struct vm *vm);
void life_end(struct life *life);

/* Whether life_process() acts upon this event. */
bool life_knows(const char *event);

/* Acts on the events and replies that QEMU's monitor has brought. */
void life_process(struct life *life);

/* The deadline is over: gives up what was waited for. */
void life_timeout(struct life *life);

/* QEMU was there before this supervisor: finds out what has happened meanwhile. */
void life_take_over(struct life *life);

/* Logs, and tells the service manager. */
void life_say(int level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
