/* What fill.c, the launcher's side of a fill, and fill_work.c, the filler's, share; nobody else
 * includes it. */
#ifndef ANCLA_FILL_PARTS_H
#define ANCLA_FILL_PARTS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "memory_parts.h"

struct region {
	size_t index; /* in plan->memory */
	const struct plan_memory *memory;
	char *address; /* in the filler */
	uint64_t chunk, n_chunks;
	size_t crew;           /* the first region with the same nodes: its workers fill both */
	_Atomic uint64_t next; /* the first chunk that no worker has taken */
};

struct worker {
	struct fill *fill;
	size_t crew;
	hwloc_bitmap_t cpus;
	bool late; /* begins when the fill is hurried: until then a CPU is QEMU's */

	/* The filler's. */
	unsigned long *mask; /* the CPUs */
	size_t mask_size;    /* in bytes */
	pid_t tid;           /* 0 before and after it works; under the fill's lock */
};

/* What the filler says: in memory that both share. */
struct fill_report {
	int reason;              /* errno of the first failure; 0 */
	char complaint[512];     /* instead of a reason: the message */
	int code;                /* and its exit code */
	size_t failed;           /* its region */
	_Atomic uint64_t done[]; /* bytes of each region */
};

/* The lists are complete before the filler starts, and do not change any more: workers hold
 * pointers into them. */
struct fill {
	struct region *regions;
	size_t n_regions;
	struct worker *workers;
	size_t n_workers;
	size_t n_memory; /* of the plan */
	uint64_t total;
	struct fill_report *report;
	int socket; /* to the other side */

	/* The launcher's. */
	pid_t pid;         /* of the filler; 0 where there is none */
	bool ended, died;  /* it has told; or it has not */
	int64_t oom_kills; /* of the machine, before it began */

	/* The filler's. */
	bool first; /* of all to be killed; `score` is what oom_score_adj was */
	int64_t score;
	_Atomic bool stop;
	pthread_mutex_t lock; /* for all that follows, worker.tid and the report: in the filler */
	pthread_cond_t hurry; /* `hurried` has become true */
	size_t working;
	bool idle; /* workers begin at SCHED_IDLE */

	/* Each one's own. */
	bool hurried; /* the launcher has said, the filler has heard it */
};

#define FILL_HURRY 'h' /* the launcher's word */
#define FILL_END 'e'   /* the filler's: the report is complete */

/* Whether a region is of pages that the kernel kills for where there are none. */
bool fill_has_plain(const struct fill *fill);

/* The filler, until its launcher ends it or has ended. */
void fill_work(struct fill *fill, pid_t launcher) __attribute__((noreturn));

#endif
