/* Within one node: which L3 groups and cores dedicated units get. */
#include <stdlib.h>
#include <string.h>

#include "fit_filling.h"
#include "util.h"

static const enum place_term weighed[] = { TERM_LEFT_L3, TERM_ORDINARY, TERM_CORES, TERM_FOREIGN,
	                                   TERM_L3 };

static struct place_cost cost_of(weight sum)
{
	struct place_cost cost = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(weighed); i++)
		cost.terms[weighed[i]] = (uint32_t)(sum >> (i * FIELD)) & ((1U << FIELD) - 1);
	return cost;
}

static unsigned taken_of(const struct fit_problem *problem, size_t core, size_t aside, bool one)
{
	unsigned take = problem->cores[core].take;

	if (core != aside)
		return take;
	if (!one)
		return 0;
	return (take + problem->cores[core].odd - 1) / problem->step * problem->step;
}

static weight core_weight(const struct fit_core *core, unsigned amount)
{
	if (!amount)
		return 0;
	return fit_weigh(0, core->whole ? 0 : amount, 1,
	                 amount > core->isolated ? amount - core->isolated : 0, 0);
}

/* Giving CPUs of a group without isolated ones: whole cores first, large ones first. */
static void fill_table_simply(const struct fit_problem *problem, const struct fit_group *group,
                              size_t aside, weight *table)
{
	weight sum = 0;
	unsigned amount = 0;

	for (size_t i = group->first; i < group->first + group->count; i++) {
		unsigned take = taken_of(problem, i, aside, false);
		for (unsigned n = problem->step; n <= take; n += problem->step)
			table[amount + n] = sum + core_weight(&problem->cores[i], n);
		sum += core_weight(&problem->cores[i], take);
		amount += take;
	}
}

/* best[i][n]: the least that n CPUs of the cores from the i-th on can cost. */
static weight *best_of_cores(const struct fit_problem *problem, const struct fit_group *group,
                             size_t aside, bool one)
{
	size_t width = group->capacity + 1;
	weight *best = xcalloc((group->count + 1) * width, sizeof(*best));

	for (size_t n = 1; n < width; n++)
		best[group->count * width + n] = NO_WEIGHT;
	for (size_t i = group->count; i-- > 0;) {
		const struct fit_core *core = &problem->cores[group->first + i];
		unsigned take = taken_of(problem, group->first + i, aside, one);
		for (unsigned n = 0; n < width; n++) {
			weight least = NO_WEIGHT;
			for (unsigned here = 0; here <= take && here <= n; here += problem->step) {
				weight rest = best[(i + 1) * width + n - here];
				if (rest != NO_WEIGHT && rest + core_weight(core, here) < least)
					least = rest + core_weight(core, here);
			}
			best[i * width + n] = least;
		}
	}
	return best;
}

static bool is_simple(const struct fit_group *group, size_t aside, bool one)
{
	return !group->isolated &&
	       !(one && aside >= group->first && aside < group->first + group->count);
}

static weight *make_table(const struct filling *f, const struct fit_group *group)
{
	size_t width = group->capacity + 1;
	weight *table = xcalloc(width, sizeof(*table));

	for (size_t n = 1; n < width; n++)
		table[n] = NO_WEIGHT;
	if (is_simple(group, f->aside, f->one)) {
		fill_table_simply(f->problem, group, f->aside, table);
	} else {
		cleanup_free weight *best = best_of_cores(f->problem, group, f->aside, f->one);
		memcpy(table, best, width * sizeof(*table));
	}
	for (unsigned n = 1; n < width; n++)
		if (table[n] != NO_WEIGHT)
			table[n] += fit_weigh(0, 0, 0, 0, group->capacity - n);
	return table;
}

void fit_group_cores(const struct fit_problem *problem, const struct fit_group *group,
                     unsigned amount, const struct fit_choice *choice, unsigned *given)
{
	size_t width = group->capacity + 1;
	bool simple = is_simple(group, choice->aside, choice->one);
	cleanup_free weight *best =
	    simple ? NULL : best_of_cores(problem, group, choice->aside, choice->one);

	for (size_t i = 0; i < group->count; i++) {
		const struct fit_core *core = &problem->cores[group->first + i];
		unsigned here = taken_of(problem, group->first + i, choice->aside, choice->one);
		here = here < amount ? here : amount;
		for (; !simple && here; here--) {
			weight rest = best[(i + 1) * width + amount - here];
			if (rest != NO_WEIGHT &&
			    rest + core_weight(core, here) == best[i * width + amount])
				break;
		}
		given[i] = here;
		amount -= here;
	}
}

/* best[j][n]: the least that n CPUs of the groups from the j-th on can cost; for this unit, or,
 * with SIZE_MAX, whoever has them. With an `order`, the groups are taken in that. */
static weight *best_of_groups(struct filling *f, const size_t *order, size_t unit, unsigned vcpus)
{
	size_t width = vcpus + 1, groups = f->node->count;
	weight *best = xcalloc((groups + 1) * width, sizeof(*best));

	for (size_t n = 1; n < width; n++)
		best[groups * width + n] = NO_WEIGHT;
	for (size_t j = groups; j-- > 0;) {
		size_t number = order ? order[j] : j;
		const struct fit_group *group = group_of(f, number);
		const weight *table = f->tables[number];
		weight once = unit == SIZE_MAX ? 0 : fit_touch(f, unit, number);
		/* Of the first group only the whole amount is asked for. */
		for (unsigned n = j ? 0 : vcpus; n < width; n++) {
			weight least = best[(j + 1) * width + n];
			/* The last group has to give all of it. */
			unsigned here = j + 1 == groups && n ? n : 1;
			for (; here <= n && here <= group->capacity; here++) {
				weight rest = best[(j + 1) * width + n - here];
				if (rest == NO_WEIGHT || table[here] == NO_WEIGHT)
					continue;
				if (rest + table[here] + once < least)
					least = rest + table[here] + once;
			}
			best[j * width + n] = least;
		}
		f->work += j + 1 == groups || !j ? width : width * (group->capacity + 1) * 2;
	}
	return best;
}

weight *fit_least(struct filling *f, const size_t *order, unsigned vcpus)
{
	return best_of_groups(f, order, SIZE_MAX, vcpus);
}

/* One unit over all groups; `amounts` takes what each group gives. */
static weight spread(struct filling *f, size_t unit, unsigned vcpus, unsigned *amounts)
{
	size_t width = vcpus + 1, groups = f->node->count;
	cleanup_free weight *best = best_of_groups(f, NULL, unit, vcpus);
	weight result = best[vcpus];
	for (size_t j = 0; result != NO_WEIGHT && j < groups; j++) {
		const struct fit_group *group = group_of(f, j);
		unsigned here = vcpus < group->capacity ? vcpus : group->capacity;
		for (; here; here--) {
			weight rest = best[(j + 1) * width + vcpus - here];
			if (rest != NO_WEIGHT && f->tables[j][here] != NO_WEIGHT &&
			    rest + f->tables[j][here] + fit_touch(f, unit, j) ==
			        best[j * width + vcpus])
				break;
		}
		amounts[j] = here;
		vcpus -= here;
	}
	return result;
}

static bool is_touched(const struct filling *f)
{
	for (size_t i = 0; i < f->n_units; i++)
		for (size_t j = 0; f->problem->units[f->units[i]].touched && j < f->node->count;
		     j++)
			if (f->problem->units[f->units[i]].touched[f->node->first + j])
				return true;
	return false;
}

static bool solve(struct filling *f, struct fit_choice *choice)
{
	unsigned vcpus = 0;
	weight result;

	for (size_t i = 0; i < f->n_units; i++)
		vcpus += f->problem->units[f->units[i]].vcpus;
	choice->amounts = xcalloc(f->n_units * f->node->count + 1, sizeof(*choice->amounts));
	choice->aside = f->aside;
	choice->one = f->one;
	if (vcpus > f->node->capacity)
		result = NO_WEIGHT;
	else if (f->n_units == 1)
		result = spread(f, 0, vcpus, choice->amounts);
	else
		result = (is_touched(f) ? fit_touched : fit_blocks)(f, choice->amounts);
	choice->cost = cost_of(result);
	if (result != NO_WEIGHT)
		return true;
	free(choice->amounts);
	choice->amounts = NULL;
	return false;
}

static void make_tables(struct filling *f)
{
	f->tables = xcalloc(f->node->count + 1, sizeof(*f->tables));
	for (size_t j = 0; j < f->node->count; j++)
		f->tables[j] = make_table(f, group_of(f, j));
}

static void free_tables(struct filling *f)
{
	for (size_t j = 0; f->tables && j < f->node->count; j++)
		free(f->tables[j]);
	free(f->tables);
	f->tables = NULL;
}

/* CPUs of the core that the emulator can still have when `given` are given to vCPUs: those are
 * isolated ones first. */
static unsigned spare_left(const struct fit_problem *problem, const struct fit_core *core,
                           unsigned given)
{
	unsigned ordinary = given > core->isolated ? given - core->isolated : 0;

	if (problem->isolate && given)
		return 0;
	return core->spare > ordinary ? core->spare - ordinary : 0;
}

/* The choice leaves the emulator such a core, or CPU, by itself. */
static bool leaves(const struct filling *f, const struct fit_choice *choice, enum fit_spare spare)
{
	for (size_t j = 0; j < f->node->count; j++) {
		const struct fit_group *group = group_of(f, j);
		cleanup_free unsigned *given = xcalloc(group->count + 1, sizeof(*given));
		unsigned amount = 0;
		for (size_t i = 0; i < f->n_units; i++)
			amount += choice->amounts[i * f->node->count + j];
		fit_group_cores(f->problem, group, amount, choice, given);
		for (size_t i = 0; i < group->count; i++) {
			const struct fit_core *core = &f->problem->cores[group->first + i];
			if (!spare_left(f->problem, core, given[i]))
				continue;
			if (spare == SPARE_CPU || (given[i] == 0 && !core->pinned))
				return true;
		}
	}
	return false;
}

static bool can_keep(const struct fit_core *core, enum fit_spare spare)
{
	if (spare == SPARE_CORE)
		return core->spare && !core->pinned;
	return core->take + core->odd > core->isolated;
}

/* A core of the same kind in the group was kept before. */
static bool kept_before(const struct fit_problem *problem, const struct fit_group *group,
                        size_t index, enum fit_spare spare)
{
	const struct fit_core *core = &problem->cores[index];

	for (size_t i = group->first; i < index; i++) {
		const struct fit_core *other = &problem->cores[i];
		if (can_keep(other, spare) && other->take == core->take &&
		    other->odd == core->odd && other->isolated == core->isolated &&
		    other->whole == core->whole)
			return true;
	}
	return false;
}

static bool same_core(const struct fit_core *a, const struct fit_core *b)
{
	return a->take == b->take && a->odd == b->odd && a->isolated == b->isolated &&
	       a->spare == b->spare && a->whole == b->whole && a->pinned == b->pinned;
}

/* An earlier group has just such cores, so that keeping one of them was tried before. */
static bool is_repeated(const struct filling *f, size_t group)
{
	const struct fit_group *mine = group_of(f, group);

	for (size_t j = 0; j < group; j++) {
		const struct fit_group *other = group_of(f, j);
		size_t i = 0;
		while (other->count == mine->count && i < mine->count &&
		       same_core(&f->problem->cores[other->first + i],
		                 &f->problem->cores[mine->first + i]))
			i++;
		if (i == mine->count && other->count == mine->count)
			return true;
	}
	return false;
}

/* Of two, the first if they cost the same. `best` without amounts is none yet. */
static void keep_better(struct fit_choice *best, const struct fit_choice *other)
{
	struct fit_choice worse = *other;

	if (!best->amounts || place_cost_compare(&other->cost, &best->cost) < 0) {
		worse = *best;
		*best = *other;
	}
	free(worse.amounts);
}

/* Keeps each kind of core (or CPU) for the emulator in turn. */
static bool solve_keeping(struct filling *f, enum fit_spare spare, struct fit_choice *best)
{
	bool found = false, touched = is_touched(f);
	unsigned vcpus = 0;

	for (size_t i = 0; i < f->n_units; i++)
		vcpus += f->problem->units[f->units[i]].vcpus;
	for (size_t j = 0; j < f->node->count; j++) {
		const struct fit_group *group = group_of(f, j);
		if (!touched && is_repeated(f, j))
			continue;
		for (size_t i = group->first; i < group->first + group->count; i++) {
			struct fit_choice choice;
			unsigned take = f->problem->cores[i].take;
			unsigned kept = take - taken_of(f->problem, i, i, spare == SPARE_CPU);
			if (!can_keep(&f->problem->cores[i], spare) ||
			    vcpus + kept > f->node->capacity ||
			    kept_before(f->problem, group, i, spare))
				continue;
			f->aside = i;
			f->one = spare == SPARE_CPU;
			free(f->tables[j]);
			f->tables[j] = make_table(f, group);
			if (solve(f, &choice)) {
				keep_better(best, &choice);
				found = true;
			}
		}
		f->aside = SIZE_MAX;
		f->one = false;
		free(f->tables[j]);
		f->tables[j] = make_table(f, group);
	}
	return found;
}

bool fit_cpus(const struct fit_problem *problem, size_t node, const size_t *units, size_t n_units,
              enum fit_spare spare, uint64_t steps, struct fit_choice *choice)
{
	struct filling f = {
		.problem = problem,
		.node = &problem->nodes[node],
		.units = units,
		.n_units = n_units,
		.aside = SIZE_MAX,
		.steps_max = steps,
	};
	bool found;

	if (spare == SPARE_CPU && problem->isolate)
		return false;
	make_tables(&f);
	found = solve(&f, choice);
	if (found && spare != SPARE_NOTHING && !leaves(&f, choice, spare)) {
		free(choice->amounts);
		choice->amounts = NULL;
		found = solve_keeping(&f, spare, choice);
	}
	free_tables(&f);
	choice->work = f.work;
	choice->cut = f.cut;
	return found;
}
