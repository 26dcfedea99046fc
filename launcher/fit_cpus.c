/* Within one node: which L3 groups and cores dedicated units get. */
#include <stdlib.h>
#include <string.h>

#include "fit.h"
#include "util.h"

/* The terms of a node in one number, so that adding and comparing them is cheap: 24 bits each (no
 * host has more CPUs), the most important on top. */
typedef unsigned __int128 weight;

#define FIELD 24
#define NO_WEIGHT (~(weight)0 >> 1)

static weight weigh(weight l3, weight foreign, weight cores, weight ordinary, weight left)
{
	return (((l3 << FIELD | foreign) << FIELD | cores) << FIELD | ordinary) << FIELD | left;
}

static const enum place_term weighed[] = { TERM_LEFT_L3, TERM_ORDINARY, TERM_CORES, TERM_FOREIGN,
	                                   TERM_L3 };

static struct place_cost cost_of(weight sum)
{
	struct place_cost cost = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(weighed); i++)
		cost.terms[weighed[i]] = (uint32_t)(sum >> (i * FIELD)) & ((1U << FIELD) - 1);
	return cost;
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
	    *tables; /* by group: what giving 0, 1, 2, … CPUs of it costs; NO_WEIGHT: too many */
};

static const struct fit_group *group_of(const struct filling *f, size_t group)
{
	return &f->problem->groups[f->node->first + group];
}

static unsigned taken_of(const struct fit_problem *problem, size_t core, size_t aside, bool one)
{
	unsigned take = problem->cores[core].take;

	if (core != aside)
		return take;
	return one ? take - 1 : 0;
}

static weight core_weight(const struct fit_core *core, unsigned amount)
{
	if (!amount)
		return 0;
	return weigh(0, core->whole ? 0 : amount, 1,
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
		for (unsigned n = 1; n <= take; n++)
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
			for (unsigned here = 0; here <= take && here <= n; here++) {
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
			table[n] += weigh(0, 0, 0, 0, group->capacity - n);
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

/* What touching a group costs a unit. */
static weight touch(const struct filling *f, size_t unit, size_t group)
{
	const bool *touched = f->problem->units[f->units[unit]].touched;

	return weigh(touched && touched[f->node->first + group] ? 0 : 1, 0, 0, 0, 0);
}

/* One unit over all groups: best[j][n] is the least that n CPUs of the groups from the j-th on can
 * cost; `amounts`, if there, takes what each group gives. With `count_l3` false, what n CPUs cost
 * at least, whoever has them. */
static weight spread(const struct filling *f, size_t unit, unsigned vcpus, bool count_l3,
                     unsigned *amounts)
{
	size_t width = vcpus + 1, groups = f->node->count;
	cleanup_free weight *best = xcalloc((groups + 1) * width, sizeof(*best));

	for (size_t n = 1; n < width; n++)
		best[groups * width + n] = NO_WEIGHT;
	for (size_t j = groups; j-- > 0;) {
		const struct fit_group *group = group_of(f, j);
		const weight *table = f->tables[j];
		weight once = count_l3 ? touch(f, unit, j) : 0;
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
	}
	weight result = best[vcpus];
	for (size_t j = 0; amounts && result != NO_WEIGHT && j < groups; j++) {
		const struct fit_group *group = group_of(f, j);
		unsigned here = vcpus < group->capacity ? vcpus : group->capacity;
		for (; here; here--) {
			weight rest = best[(j + 1) * width + vcpus - here];
			if (rest != NO_WEIGHT && f->tables[j][here] != NO_WEIGHT &&
			    rest + f->tables[j][here] + touch(f, unit, j) ==
			        best[j * width + vcpus])
				break;
		}
		amounts[j] = here;
		vcpus -= here;
	}
	return result;
}

/* Several units in one node: each is put into one group, then two, three, … */
struct sharing {
	const struct filling *f;
	unsigned *total;    /* by group, of all units */
	unsigned *amounts;  /* by unit and group */
	unsigned *least_l3; /* by unit: groups that it and those after it need at least */
	weight rest;        /* what all the rest costs at least */
	weight best;        /* of the best choice so far */
	unsigned *best_amounts;
	bool *apart; /* by unit: it, or one after it, tells groups apart */
	unsigned long steps;
};

/* Ways to share a node's groups among its guest nodes that are looked at, once there is one.
 * Beyond, the best so far is taken: only many guest nodes on one host node with many groups come
 * here, whose nodes are still the best; the L3 groups may not be. */
#define STEPS_MAX 2000

static weight sharing_rest(const struct sharing *s)
{
	weight sum = 0;

	for (size_t j = 0; j < s->f->node->count; j++) {
		weight here = s->f->tables[j][s->total[j]];
		if (here == NO_WEIGHT)
			return NO_WEIGHT;
		sum += here;
	}
	return sum;
}

/* Until this unit both groups were filled alike; units that still come do not tell them apart. */
static bool groups_look_alike(const struct sharing *s, size_t unit, size_t a, size_t b)
{
	const struct fit_group *left = group_of(s->f, a), *right = group_of(s->f, b);
	size_t groups = s->f->node->count;

	return left->capacity == right->capacity &&
	       s->total[a] - s->amounts[unit * groups + a] ==
	           s->total[b] - s->amounts[unit * groups + b] &&
	       memcmp(s->f->tables[a], s->f->tables[b], (left->capacity + 1) * sizeof(weight)) == 0;
}

/* The most that the unit may have of the group: of groups that look alike, the lower ones give no
 * less, as the other way round is the same. */
static unsigned most_of(const struct sharing *s, size_t unit, size_t group)
{
	size_t groups = s->f->node->count;
	unsigned most = group_of(s->f, group)->capacity - s->total[group];

	if (s->apart[unit])
		return most;
	for (size_t j = group; j-- > 0;)
		if (groups_look_alike(s, unit, j, group))
			return s->amounts[unit * groups + j] < most ? s->amounts[unit * groups + j]
			                                            : most;
	return most;
}

static void share_unit(struct sharing *s, size_t unit, weight l3);

/* The unit's next `parts` groups, from `from` on, give `vcpus`. */
static void share_parts(struct sharing *s, size_t unit, weight l3, unsigned vcpus, size_t from,
                        unsigned parts)
{
	size_t groups = s->f->node->count;

	if (parts == 0) {
		share_unit(s, unit + 1, l3);
		return;
	}
	for (size_t j = from; j < groups; j++) {
		unsigned room = most_of(s, unit, j);
		unsigned most = vcpus - (parts - 1) < room ? vcpus - (parts - 1) : room;
		unsigned least = parts == 1 ? vcpus : 1;
		for (unsigned here = most; here && here >= least; here--) {
			s->total[j] += here;
			s->amounts[unit * groups + j] = here;
			share_parts(s, unit, l3 + touch(s->f, unit, j), vcpus - here, j + 1,
			            parts - 1);
			s->total[j] -= here;
			s->amounts[unit * groups + j] = 0;
		}
	}
}

static void share_unit(struct sharing *s, size_t unit, weight l3)
{
	const struct filling *f = s->f;
	unsigned vcpus = unit < f->n_units ? f->problem->units[f->units[unit]].vcpus : 0;

	if (l3 + weigh(s->least_l3[unit], 0, 0, 0, 0) + s->rest >= s->best)
		return;
	/* With an answer at hand, the ledger is not kept from others for ever. */
	if (++s->steps > STEPS_MAX && s->best != NO_WEIGHT)
		return;
	if (unit == f->n_units) {
		weight rest = sharing_rest(s);
		if (rest == NO_WEIGHT || l3 + rest >= s->best)
			return;
		s->best = l3 + rest;
		memcpy(s->best_amounts, s->amounts,
		       f->n_units * f->node->count * sizeof(*s->amounts));
		return;
	}
	if (vcpus == 0)
		share_unit(s, unit + 1, l3);
	for (unsigned parts = 1; parts <= vcpus && parts <= f->node->count; parts++)
		share_parts(s, unit, l3, vcpus, 0, parts);
}

static int compare_down(const void *a, const void *b)
{
	unsigned left = *(const unsigned *)a, right = *(const unsigned *)b;

	return left < right ? 1 : left > right ? -1 : 0;
}

/* The groups that these vCPUs need at least, of groups with `rooms`, the largest first. */
static unsigned groups_needed(const unsigned *rooms, size_t count, unsigned vcpus)
{
	unsigned needed = 0;

	for (size_t j = 0; vcpus && j < count; j++, needed++)
		vcpus -= vcpus < rooms[j] ? vcpus : rooms[j];
	return needed;
}

static weight share(const struct filling *f, unsigned *amounts)
{
	size_t groups = f->node->count;
	cleanup_free unsigned *total = xcalloc(groups, sizeof(*total));
	cleanup_free unsigned *now = xcalloc(f->n_units * groups, sizeof(*now));
	cleanup_free unsigned *least = xcalloc(f->n_units + 1, sizeof(*least));
	cleanup_free unsigned *rooms = xcalloc(groups, sizeof(*rooms));
	cleanup_free bool *apart = xcalloc(f->n_units + 1, sizeof(*apart));
	struct sharing s = { f, total, now, least, 0, NO_WEIGHT, amounts, apart, 0 };
	unsigned vcpus = 0;

	for (size_t j = 0; j < groups; j++)
		rooms[j] = group_of(f, j)->capacity;
	qsort(rooms, groups, sizeof(*rooms), compare_down);
	for (size_t i = f->n_units; i-- > 0;) {
		const struct fit_unit *unit = &f->problem->units[f->units[i]];
		unsigned needed = groups_needed(rooms, groups, unit->vcpus);
		for (size_t j = 0; unit->touched && needed && j < groups; j++)
			needed -= needed && unit->touched[f->node->first + j];
		least[i] = least[i + 1] + needed;
		apart[i] = apart[i + 1] || unit->touched;
		vcpus += unit->vcpus;
	}
	s.rest = spread(f, 0, vcpus, false, NULL);
	if (s.rest != NO_WEIGHT)
		share_unit(&s, 0, 0);
	return s.best;
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
		result = spread(f, 0, vcpus, true, choice->amounts);
	else
		result = share(f, choice->amounts);
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
	return core->take > core->isolated;
}

/* A core of the same kind in the group was kept before. */
static bool kept_before(const struct fit_problem *problem, const struct fit_group *group,
                        size_t index, enum fit_spare spare)
{
	const struct fit_core *core = &problem->cores[index];

	for (size_t i = group->first; i < index; i++) {
		const struct fit_core *other = &problem->cores[i];
		if (can_keep(other, spare) && other->take == core->take &&
		    other->isolated == core->isolated && other->whole == core->whole)
			return true;
	}
	return false;
}

/* Keeps each kind of core (or CPU) for the emulator in turn. */
static bool solve_keeping(struct filling *f, enum fit_spare spare, struct fit_choice *best)
{
	unsigned vcpus = 0;
	bool found = false;

	for (size_t i = 0; i < f->n_units; i++)
		vcpus += f->problem->units[f->units[i]].vcpus;
	for (size_t j = 0; j < f->node->count; j++) {
		const struct fit_group *group = group_of(f, j);
		for (size_t i = group->first; i < group->first + group->count; i++) {
			struct fit_choice choice;
			unsigned kept = spare == SPARE_CPU ? 1 : f->problem->cores[i].take;
			if (!can_keep(&f->problem->cores[i], spare) ||
			    vcpus + kept > f->node->capacity ||
			    kept_before(f->problem, group, i, spare))
				continue;
			f->aside = i;
			f->one = spare == SPARE_CPU;
			free(f->tables[j]);
			f->tables[j] = make_table(f, group);
			if (!solve(f, &choice))
				continue;
			if (found && place_cost_compare(&choice.cost, &best->cost) >= 0) {
				free(choice.amounts);
				continue;
			}
			if (found)
				free(best->amounts);
			*best = choice;
			found = true;
		}
		f->aside = SIZE_MAX;
		f->one = false;
		free(f->tables[j]);
		f->tables[j] = make_table(f, group);
	}
	return found;
}

bool fit_cpus(const struct fit_problem *problem, size_t node, const size_t *units, size_t n_units,
              enum fit_spare spare, struct fit_choice *choice)
{
	struct filling f = {
		problem, &problem->nodes[node], units, n_units, SIZE_MAX, false, NULL
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
	return found;
}
