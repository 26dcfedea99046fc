/* The exact search of automatic placement, on plain numbers: which host node each guest node goes
 * to, and how many CPUs of which core it has there. A part of placement, for place*.c and fit*.c.
 *
 * A *unit* is what goes to one host node as a whole: a guest node, or a VM without guest nodes.
 * place_problem.c makes a problem of spec, host and claims; place_auto.c makes a plan of the
 * solution. Nothing here reads anything but the problem: the same problem, the same solution. */
#ifndef ANCLA_FIT_H
#define ANCLA_FIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "place_cost.h"

/* QEMU's MAX_NODES; and no Linux has so many sizes of pages. */
#define FIT_UNITS_MAX 128
#define FIT_POOLS_MAX 16

/* A core as one VM finds it. */
struct fit_core {
	unsigned core;     /* index in host.cores */
	unsigned take;     /* CPUs that vCPUs may have, a multiple of problem.step */
	unsigned odd;      /* CPUs that they could have, were they more */
	unsigned isolated; /* how many of these are isolated */
	unsigned spare;    /* CPUs that the emulator may have, as long as no vCPU has them */
	bool whole;        /* nobody else has a part of it */
	bool pinned;       /* the spec pins a vCPU of this VM to a part of it */
};

/* The cores of one node that share an L3. */
struct fit_group {
	size_t first,
	    count;         /* in problem.cores: whole ones first, then large ones, then by number */
	unsigned capacity; /* vCPUs that they can take */
	bool isolated;     /* some of the CPUs are isolated */
};

struct fit_node {
	size_t first, count; /* in problem.groups */
	unsigned capacity; /* dedicated: vCPUs that it can take; shared: CPUs, less pinned vCPUs */
	bool has_cpus;     /* shared vCPUs can run there at all */
	bool spare;        /* the emulator can have one of its CPUs if the VM has no node here */
	size_t home;       /* the node that its units' memory is on: itself, if it has memory */
	size_t same;       /* the lowest node with just such cores (itself: none below) */
	size_t twin;       /* the next lower node that is the same in every respect; itself: none */
};

struct fit_unit {
	unsigned vcpus;   /* that are not pinned */
	size_t pool;      /* kind of pages */
	uint64_t memory;  /* bytes that have no host node yet */
	bool may_degrade; /* from its pool to pool 0, plain pages */
	bool *may;        /* by node: pins and bound memory allow it */
	unsigned *far;    /* by node: distance to where its memory is */
	bool *touched;    /* by group: its pinned vCPUs are there already; NULL: nowhere */
	size_t class;     /* units of a class can be exchanged for each other */
};

struct fit_problem {
	bool dedicated, isolate; /* cpu-policy, smt */
	unsigned step;           /* vCPUs come in so many on a core (smt: require); else 1 */
	bool emulator;           /* the emulator is to have a CPU of its own */
	bool emulator_must;      /* and nothing else will do */
	bool spare_elsewhere;    /* it can have a CPU that is in no node */
	bool spare_last;         /* it can have one of those that are kept for the host */
	bool apart;              /* no two units on a node: they were made to be spread */
	uint32_t slow;           /* TERM_SLOW of every solution */
	uint64_t effort;         /* steps that a search may take; a few nanoseconds each */
	bool any;                /* the first solution will do */

	struct fit_core *cores;
	struct fit_group *groups;
	struct fit_node *nodes;
	struct fit_unit *units;
	size_t n_cores, n_groups, n_nodes, n_units, n_classes, n_pools;
	unsigned *distances; /* n_nodes × n_nodes */
	uint64_t *pools;     /* free bytes, n_nodes × n_pools */
	size_t *devices;     /* the node of each device whose node is known */
	size_t n_devices;
};

void fit_problem_free(struct fit_problem *problem);

/* What a node has to keep for the emulator. */
enum fit_spare { SPARE_NOTHING, SPARE_CORE, SPARE_CPU, N_SPARES };

/* How units share the CPUs of one node. */
struct fit_choice {
	struct place_cost cost; /* TERM_L3 to TERM_ORDINARY, and TERM_LEFT_L3 */
	unsigned *amounts;      /* CPUs, by unit and group of the node */
	size_t aside;           /* the core that is kept for the emulator; SIZE_MAX: none is */
	bool one;               /* only one CPU of it */
	uint64_t work;          /* steps that it took */
	bool cut;               /* it may not be the best: there are too many ways */
};

/* Only very many sizes of guest nodes on one host node of very many L3 groups need more steps to be
 * divided; and what each adds to fit_choice.work. */
#define FIT_STEPS_MAX 100000
#define FIT_STEPS_LEAST 500
#define FIT_STEP_WORK 64

/* The best choice for these dedicated units on the node, or, after so many steps, the best so far;
 * false: they do not fit. The caller frees choice.amounts. */
bool fit_cpus(const struct fit_problem *problem, size_t node, const size_t *units, size_t n_units,
              enum fit_spare spare, uint64_t steps, struct fit_choice *choice);

/* How many CPUs of each of the group's cores are given out when the group gives `amount`. `given`
 * has room for group.count. */
void fit_group_cores(const struct fit_problem *problem, const struct fit_group *group,
                     unsigned amount, const struct fit_choice *choice, unsigned *given);

struct fit_solution {
	struct place_cost cost;
	size_t *nodes;        /* by unit */
	bool *degraded;       /* by unit */
	size_t emulator_node; /* where it is NEAR or SIBLING; SIZE_MAX: not */
	bool cut;             /* the search was cut off: there may be a better one */
};

/* The best solution, or false: there is none, or, if it is `cut`, none was found. `banned` (by
 * node, or NULL) are not used. */
bool fit_search(const struct fit_problem *problem, const bool *banned,
                struct fit_solution *solution);
void fit_solution_free(struct fit_solution *solution);

#define cleanup_solution __attribute__((cleanup(fit_solution_free)))

#endif
