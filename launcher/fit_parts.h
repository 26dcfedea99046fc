/* The parts of the search (fit_*.c): what a branch costs, what the rest costs at least. */
#ifndef ANCLA_FIT_PARTS_H
#define ANCLA_FIT_PARTS_H

#include "fit.h"

struct memo;    /* fit_node.c */
struct outlook; /* fit_bound.c */

enum known { UNKNOWN, FITS, DOES_NOT };

struct entry {
	struct place_cost cost;
	unsigned char known;
};

struct searching {
	const struct fit_problem *problem;
	const bool *banned;
	size_t *first;           /* by class: its lowest unit; the others have the same class */
	unsigned *counts;        /* by class */
	size_t *by_size;         /* classes, those with most vCPUs first */
	bool large_first;        /* the branch takes them in that order */
	unsigned *counts_of_one; /* by class: zeros */
	size_t *strides;         /* by class: the counts that are left, as one number */
	size_t n_states;         /* 0: too many for tables */
	struct entry *bounds;    /* n_nodes × n_states */
	struct entry *cpus[N_SPARES]; /* n_nodes × n_states: the CPU side of units on a node */
	struct entry
	    *single[N_SPARES]; /* n_nodes × n_classes: of one unit, where there is no table */
	struct memo *memo;     /* of several units, where there is no table */
	struct outlook *outlook;
	unsigned *both_ways; /* n_nodes × n_nodes: distances between nodes, there and back */
	unsigned *near;      /* n_nodes × n_nodes: distances to the nearest 1, 2, … others */

	/* The branch under way. */
	unsigned *left;     /* by class */
	unsigned *taken;    /* n_nodes × n_classes */
	unsigned *degraded; /* n_nodes × n_classes */
	uint64_t *pools;    /* what is left of problem.pools */
	unsigned *around;   /* by node: distance to and from all nodes used */
	size_t *used;       /* nodes used */
	size_t n_used;
	uint32_t apart;        /* distance between the nodes used */
	uint64_t work, effort; /* steps so far, and how many there may be */
	bool cut;              /* there would have been more */

	struct place_cost limit; /* nothing above it is wanted, */
	bool below;              /* nor it itself */
	bool found, first_is_best;
	struct place_cost best;
	unsigned *best_taken, *best_degraded;
	size_t best_emulator;
};

static inline const struct fit_unit *unit_of(const struct searching *s, size_t class)
{
	return &s->problem->units[s->first[class]];
}

/* ---- fit_node.c ---- */

/* The counts of all classes as one number, where there are tables. */
size_t fit_state_of(const struct searching *s, const unsigned *counts);

/* What the CPUs of dedicated units on the node cost, if they leave this to the emulator. False:
 * they do not fit. */
bool fit_dedicated_cost(struct searching *s, size_t node, const unsigned *counts,
                        enum fit_spare spare, struct place_cost *cost);

/* What it costs, apart from the distances to other nodes, that the node takes these units, and, by
 * class, how many of them have plain pages instead of huge ones. False: they do not fit. `pools` is
 * what is left of the memory. */
bool fit_node_cost(struct searching *s, size_t node, const unsigned *counts, const uint64_t *pools,
                   unsigned *degraded, struct place_cost *cost);

void fit_memo_free(struct memo *memo);

/* ---- fit_bound.c ---- */

/* What the bounds are made of. Needs problem, banned, first, counts and the tables. */
void fit_prepare_bounds(struct searching *s);
void fit_end_bounds(struct searching *s);

/* The cheapest way, at least, to put all that is left on the nodes from `node` on, but for the
 * distances between them and to the devices. False: there is none. */
bool fit_bound(struct searching *s, size_t node, unsigned *left, struct place_cost *cost);

/* How far from each other the nodes are at least, if so many more of those from `node` on are
 * used. */
uint32_t fit_distance_bound(const struct searching *s, size_t node, size_t more);

/* Distance to the devices if all nodes from `node` on were used, too. */
uint32_t fit_devices_bound(const struct searching *s, size_t node);

#endif
