/* What is best: the order in which placements are compared.
 *
 * A placement's cost is a list of numbers, the most important first; the lower one at the first
 * difference wins. README.md ("What is best") has the same list for users. Of equal costs the
 * lowest host nodes win, then the lowest CPU numbers, in the order of the guest's nodes. */
#ifndef ANCLA_PLACE_COST_H
#define ANCLA_PLACE_COST_H

#include <stdint.h>

enum place_term {
	/* Everything granted that was asked: */
	TERM_OVERCOMMIT, /* shared vCPUs more than their node has CPUs for */
	TERM_DEGRADED,   /* guest nodes on plain pages instead of huge ones */
	TERM_CROWDED,    /* 1: the emulator has no CPU but the vCPUs' */
	TERM_SLOW,       /* how many kinds of cores are faster than the one that is used */
	/* Few host nodes, near to each other and to the devices: */
	TERM_NODES,    /* host nodes of guest nodes */
	TERM_DISTANCE, /* between any two of them, both ways; and from CPUs to memory elsewhere */
	TERM_DEVICES,  /* from each device of the VM to the nearest of them */
	/* Caches and cores: */
	TERM_L3,       /* L3 groups, summed over guest nodes */
	TERM_FOREIGN,  /* vCPUs on a core of which others hold a part */
	TERM_CORES,    /* cores with vCPUs: siblings are used together */
	TERM_ORDINARY, /* dedicated vCPUs on CPUs that are not isolated */
	TERM_EMULATOR, /* where the emulator is: enum emulator_rank */
	/* Tightest fit, so that the largest free block stays whole: */
	TERM_LEFT,    /* CPUs that stay free on the nodes used */
	TERM_LEFT_L3, /* and in the L3 groups used */
	N_TERMS
};

/* Where the emulator threads of dedicated vCPUs can be, best first. */
enum emulator_rank {
	EMULATOR_NEAR,    /* a node of the VM, a core without vCPUs */
	EMULATOR_FAR,     /* another node */
	EMULATOR_SIBLING, /* a node of the VM, beside a vCPU on its core */
	EMULATOR_LAST,    /* CPUs kept for the host, or pinned iothreads' */
};

struct place_cost {
	uint32_t terms[N_TERMS];
};

/* Below 0: the left one is better; 0: equal. */
int place_cost_compare(const struct place_cost *left, const struct place_cost *right);

/* The first term in which they differ; N_TERMS: none. */
enum place_term place_cost_difference(const struct place_cost *left,
                                      const struct place_cost *right);

void place_cost_add(struct place_cost *sum, const struct place_cost *more);

/* For people: "host nodes", "L3 groups". */
const char *place_term_name(enum place_term term);

#endif
