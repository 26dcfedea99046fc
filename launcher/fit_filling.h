/* The parts of what happens within one node: fit_cpus.c, fit_blocks.c, fit_touched.c. */
#ifndef ANCLA_FIT_FILLING_H
#define ANCLA_FIT_FILLING_H

#include "fit.h"

/* The terms of a node in one number, so that adding and comparing them is cheap: 24 bits each (no
 * host has more CPUs), the most important on top. */
typedef unsigned __int128 weight;

#define FIELD 24
#define NO_WEIGHT (~(weight)0 >> 1)

static inline weight fit_weigh(weight l3, weight foreign, weight cores, weight ordinary,
                               weight left)
{
	return (((l3 << FIELD | foreign) << FIELD | cores) << FIELD | ordinary) << FIELD | left;
}

/* One node under way. The core `aside` (or one CPU of it) is not for vCPUs. */
struct filling {
	const struct fit_problem *problem;
	const struct fit_node *node;
	const size_t *units;
	size_t n_units;
	size_t aside;
	bool one;
	weight *
	    *tables; /* by group: what giving 0, 1, 2, … CPUs of it costs; NO_WEIGHT: it cannot */
	uint64_t steps, steps_max; /* of fit_blocks() and fit_touched(), all together */
	uint64_t work;             /* see fit_choice */
	bool cut;
};

static inline const struct fit_group *group_of(const struct filling *f, size_t group)
{
	return &f->problem->groups[f->node->first + group];
}

/* What touching a group costs a unit. */
static inline weight fit_touch(const struct filling *f, size_t unit, size_t group)
{
	const bool *touched = f->problem->units[f->units[unit]].touched;

	return fit_weigh(touched && touched[f->node->first + group] ? 0 : 1, 0, 0, 0, 0);
}

/* Several units over the node's groups: what the best way costs, and in `amounts` (by unit and
 * group) what each group gives to each; NO_WEIGHT: they do not fit. The second one is for units of
 * which some have pinned vCPUs in the node. */
weight fit_blocks(struct filling *f, unsigned *amounts);
weight fit_touched(struct filling *f, unsigned *amounts);

/* What n CPUs of the groups from the j-th on, in this order, cost at least, whoever has them:
 * [j × (vcpus + 1) + n]. The caller frees it. */
weight *fit_least(struct filling *f, const size_t *order, unsigned vcpus);

#endif
