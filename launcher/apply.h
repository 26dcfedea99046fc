/* The threads of a running VM, put where a plan says: all of them, or none. */
#ifndef ANCLA_APPLY_H
#define ANCLA_APPLY_H

#include <stddef.h>
#include <sys/types.h>

#include <hwloc.h>

#include "cgroup.h"
#include "error.h"
#include "plan.h"
#include "threads.h"

/* A thread that was put elsewhere, and how it was before. */
struct move {
	pid_t tid;
	char *name; /* "vCPU 0", as thread_name() */
	hwloc_bitmap_t was_cpus, cpus;
	struct sched was_sched, sched;
	const struct cgroup *cgroup; /* the plan's, borrowed; NULL: the VM has none */
	const char *was_in;          /* one of its directories */
};

struct moves {
	struct move *list;
	size_t count;
};

void moves_free(struct moves *moves);
#define cleanup_moves __attribute__((cleanup(moves_free)))

/* Pins and schedules the threads of the list that the plan wants elsewhere than `was` did, reads
 * each back, and looks for threads that were born meanwhile. With `was` NULL: all threads that are
 * not as planned. Those that do not run in real time go first, so that none lands where another
 * would starve it. On success `moves` has what was changed; on failure (as pin_thread(), or
 * EXIT_VERIFY if the kernel granted less) everything is as it was. */
int apply_plan(const struct plan *was, const struct plan *plan, struct threads *threads,
               struct moves *moves, struct error *err);

/* Takes it back, while that plan is still there; the moves are empty then. -1 (EXIT_FAILED) names
 * what could not be. */
int apply_undo(struct moves *moves, struct error *err);

#endif
