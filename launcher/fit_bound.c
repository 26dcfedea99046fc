/* What the units that are left cost at least on the nodes that are left.
 *
 * Where the counts of what is left are few enough for a table, the bound is exact but for what
 * couples nodes: dynamic programming over the nodes. Where they are not (many sizes of guest
 * nodes), it is a sum of what can be said apart: the nodes as in bin packing (Martello and Toth's
 * bound L2), the L3 groups of each unit by itself, the cores by the number of vCPUs alone. A sum of
 * such parts is a bound, as the order of costs is that of words: it is kept by addition. */
#include <stdlib.h>
#include <string.h>

#include "fit_parts.h"
#include "util.h"

/* Entries of the table, and steps to fill it, beyond which it is larger than it is worth. */
#define TABLE_MAX (1 << 17)
#define FILL_MAX (1 << 19)

/* What one unit costs at least by itself. */
struct alone {
	uint32_t far, l3;
	bool possible;
};

/* The nodes from one on. */
struct suffix {
	unsigned *capacities; /* n_nodes + 1: of the largest 0, 1, 2, … */
	unsigned *whole;      /* widest + 1: whole cores, by the CPUs that they give */
	unsigned *isolated;   /* one number: isolated CPUs */
	struct alone *alone;  /* by class */
	size_t n_nodes;
	unsigned largest;
};

struct outlook {
	struct suffix *suffixes; /* n_nodes + 1 */
	unsigned *parts;         /* widest + 1: cores that others have a part of; of all nodes */
	unsigned widest;         /* CPUs of the largest core */
};

/* ---- the table ---- */

/* Tries all counts of the classes from `class` on for the node, and the best for the rest. */
static void bound_counts(struct searching *s, size_t node, size_t class, uint64_t vcpus,
                         unsigned *left, unsigned *counts, struct entry *entry)
{
	const struct fit_problem *problem = s->problem;
	struct place_cost here, rest;
	unsigned degraded[FIT_UNITS_MAX];

	if (class == problem->n_classes) {
		s->work += problem->n_classes;
		if (!fit_bound(s, node + 1, left, &rest) ||
		    !fit_node_cost(s, node, counts, problem->pools, degraded, &here))
			return;
		place_cost_add(&rest, &here);
		if (entry->known != FITS || place_cost_compare(&rest, &entry->cost) < 0)
			entry->cost = rest;
		entry->known = FITS;
		return;
	}
	unsigned all = left[class];
	const struct fit_unit *unit = unit_of(s, class);
	for (unsigned n = 0; n <= all; n++) {
		uint64_t sum = vcpus + (uint64_t)n * unit->vcpus;
		if (n && (!unit->may[node] || (problem->apart && n > 1) ||
		          (problem->dedicated && sum > problem->nodes[node].capacity)))
			break;
		counts[class] = n;
		left[class] = all - n;
		bound_counts(s, node, class + 1, sum, left, counts, entry);
	}
	counts[class] = 0;
	left[class] = all;
}

static bool table_bound(struct searching *s, size_t node, unsigned *left, struct place_cost *cost)
{
	struct entry *entry = &s->bounds[node * s->n_states + fit_state_of(s, left)];

	if (!entry->known) {
		unsigned counts[FIT_UNITS_MAX] = { 0 };
		bound_counts(s, node, 0, 0, left, counts, entry);
		entry->known = entry->known == FITS ? FITS : DOES_NOT;
	}
	*cost = entry->cost;
	return entry->known == FITS;
}

/* ---- the sum ---- */

/* How many bins of this size the dedicated vCPUs need at least, if units up to `small` may be cut
 * into pieces and smaller ones do not count. Larger than half a bin each has its own; those that
 * leave less than `small` leave nothing. */
static uint64_t bins(const struct searching *s, const unsigned *left, unsigned size, unsigned small)
{
	uint64_t full = 0, half = 0, half_sum = 0, rest = 0;

	for (size_t i = 0; i < s->problem->n_classes; i++) {
		size_t class = s->by_size[i];
		uint64_t vcpus = unit_of(s, class)->vcpus, count = left[class];
		if (vcpus < small)
			break;
		if (vcpus > size - small) {
			full += count;
		} else if (2 * vcpus > size) {
			half += count;
			half_sum += count * vcpus;
		} else {
			rest += count * vcpus;
		}
	}
	uint64_t room = half * size - half_sum;
	return full + half + (rest > room ? (rest - room + size - 1) / size : 0);
}

static uint64_t bins_needed(struct searching *s, const struct suffix *suffix, const unsigned *left,
                            uint64_t vcpus)
{
	uint64_t needed = 0;
	size_t n_classes = s->problem->n_classes;

	while (needed < suffix->n_nodes && suffix->capacities[needed] < vcpus)
		needed++;
	if (!s->problem->dedicated)
		return needed;
	for (size_t i = 0; i < n_classes; i++) {
		size_t class = s->by_size[i];
		unsigned small = unit_of(s, class)->vcpus;
		if (!left[class] || !small || 2 * small > suffix->largest)
			continue;
		uint64_t more = bins(s, left, suffix->largest, small);
		needed = more > needed ? more : needed;
		s->work += n_classes;
	}
	uint64_t more = bins(s, left, suffix->largest, 1);
	return more > needed ? more : needed;
}

/* The cores that so many vCPUs need at least, with as few as can be on those that others use. */
static void add_cores(const struct searching *s, const struct suffix *suffix, uint64_t vcpus,
                      struct place_cost *cost)
{
	const struct outlook *outlook = s->outlook;
	const unsigned *kinds[] = { suffix->whole, outlook->parts };
	uint64_t cores = 0, left = vcpus;

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		if (k == 1)
			cost->terms[TERM_FOREIGN] = (uint32_t)left;
		for (unsigned size = outlook->widest; left && size > 0; size--) {
			uint64_t wanted = (left + size - 1) / size, count = kinds[k][size];
			count = wanted < count ? wanted : count;
			cores += count;
			left -= count * size < left ? count * size : left;
		}
	}
	cost->terms[TERM_CORES] = (uint32_t)cores;
	if (vcpus > *suffix->isolated)
		cost->terms[TERM_ORDINARY] = (uint32_t)(vcpus - *suffix->isolated);
}

/* What the units cost each by itself; false: one of them fits nowhere. */
static bool add_units(const struct searching *s, const struct suffix *suffix, const unsigned *left,
                      struct place_cost *cost)
{
	for (size_t c = 0; c < s->problem->n_classes; c++) {
		const struct alone *alone = &suffix->alone[c];
		if (left[c] && !alone->possible)
			return false;
		cost->terms[TERM_DISTANCE] += left[c] * alone->far;
		cost->terms[TERM_L3] += left[c] * alone->l3;
	}
	return true;
}

static bool sum_bound(struct searching *s, size_t node, const unsigned *left,
                      struct place_cost *cost)
{
	const struct fit_problem *problem = s->problem;
	const struct suffix *suffix = &s->outlook->suffixes[node];
	uint64_t vcpus = 0, units = 0, room = suffix->capacities[suffix->n_nodes];

	s->work += 2 * problem->n_classes;
	for (size_t c = 0; c < problem->n_classes; c++) {
		vcpus += (uint64_t)left[c] * unit_of(s, c)->vcpus;
		units += left[c];
	}
	if (!add_units(s, suffix, left, cost) || (problem->dedicated && vcpus > room))
		return false;
	uint64_t nodes = bins_needed(s, suffix, left, vcpus < room ? vcpus : room);
	if (problem->apart)
		nodes = units;
	nodes = nodes ? nodes : 1;
	if (nodes > suffix->n_nodes)
		return false;
	uint64_t least = room - suffix->capacities[suffix->n_nodes - nodes];
	cost->terms[TERM_OVERCOMMIT] = vcpus > room ? (uint32_t)(vcpus - room) : 0;
	cost->terms[TERM_NODES] = (uint32_t)nodes;
	cost->terms[TERM_LEFT] = least > vcpus ? (uint32_t)(least - vcpus) : 0;
	if (problem->dedicated)
		add_cores(s, suffix, vcpus, cost);
	return true;
}

bool fit_bound(struct searching *s, size_t node, unsigned *left, struct place_cost *cost)
{
	bool nothing = true;

	memset(cost, 0, sizeof(*cost));
	for (size_t c = 0; c < s->problem->n_classes; c++)
		nothing &= left[c] == 0;
	if (nothing || node == s->problem->n_nodes)
		return nothing;
	return s->n_states ? table_bound(s, node, left, cost) : sum_bound(s, node, left, cost);
}

/* ---- what the sum is made of ---- */

static int compare_down(const void *a, const void *b)
{
	unsigned left = *(const unsigned *)a, right = *(const unsigned *)b;

	return left < right ? 1 : left > right ? -1 : 0;
}

static int compare_sizes(const void *a, const void *b, void *of)
{
	const struct searching *s = of;
	size_t x = *(const size_t *)a, y = *(const size_t *)b;
	unsigned left = unit_of(s, x)->vcpus, right = unit_of(s, y)->vcpus;

	if (left != right)
		return left > right ? -1 : 1;
	return x < y ? -1 : x > y;
}

static void add_alone(struct searching *s, size_t node, size_t class, struct alone *alone)
{
	unsigned degraded[FIT_UNITS_MAX];
	struct place_cost cost;

	s->counts_of_one[class] = 1;
	bool fits = fit_node_cost(s, node, s->counts_of_one, s->problem->pools, degraded, &cost);
	s->counts_of_one[class] = 0;
	if (!fits)
		return;
	uint32_t far = cost.terms[TERM_DISTANCE], l3 = cost.terms[TERM_L3];
	if (alone->possible && (alone->far < far || (alone->far == far && alone->l3 <= l3)))
		return;
	*alone = (struct alone){ far, l3, true };
}

static void add_core_counts(const struct searching *s, size_t node, struct suffix *suffix)
{
	const struct fit_problem *problem = s->problem;
	const struct fit_node *host = &problem->nodes[node];

	for (size_t g = host->first; g < host->first + host->count; g++)
		for (size_t i = 0; i < problem->groups[g].count; i++) {
			const struct fit_core *core = &problem->cores[problem->groups[g].first + i];
			unsigned *counts = core->whole ? suffix->whole : s->outlook->parts;
			counts[core->take]++;
			*suffix->isolated += core->isolated;
		}
}

/* The suffix of this node from that of the next. */
static void make_suffix(struct searching *s, size_t node)
{
	const struct fit_problem *problem = s->problem;
	struct outlook *outlook = s->outlook;
	struct suffix *suffix = &outlook->suffixes[node], *next = suffix + 1;
	bool usable = !s->banned || !s->banned[node];
	size_t n = problem->n_nodes, n_classes = problem->n_classes, count = 0;

	suffix->capacities = xcalloc(n + 1, sizeof(*suffix->capacities));
	suffix->whole = xcalloc(outlook->widest + 2, sizeof(*suffix->whole));
	suffix->isolated = suffix->whole + outlook->widest + 1;
	suffix->alone = xcalloc(n_classes, sizeof(*suffix->alone));
	memcpy(suffix->whole, next->whole, (outlook->widest + 2) * sizeof(*suffix->whole));
	memcpy(suffix->alone, next->alone, n_classes * sizeof(*suffix->alone));
	for (size_t c = 0; usable && c < n_classes; c++)
		add_alone(s, node, c, &suffix->alone[c]);
	if (usable)
		add_core_counts(s, node, suffix);
	for (size_t m = node; m < n; m++)
		if (!s->banned || !s->banned[m])
			suffix->capacities[1 + count++] = problem->nodes[m].capacity;
	qsort(suffix->capacities + 1, count, sizeof(*suffix->capacities), compare_down);
	suffix->n_nodes = count;
	suffix->largest = suffix->capacities[count ? 1 : 0];
	for (size_t k = 1; k <= count; k++)
		suffix->capacities[k] += suffix->capacities[k - 1];
}

static void make_outlook(struct searching *s)
{
	const struct fit_problem *problem = s->problem;
	struct outlook *outlook = s->outlook = xcalloc(1, sizeof(*outlook));
	size_t n = problem->n_nodes;

	for (size_t i = 0; i < problem->n_cores; i++)
		if (problem->cores[i].take > outlook->widest)
			outlook->widest = problem->cores[i].take;
	outlook->parts = xcalloc(outlook->widest + 1, sizeof(*outlook->parts));
	outlook->suffixes = xcalloc(n + 1, sizeof(*outlook->suffixes));
	outlook->suffixes[n].whole = xcalloc(outlook->widest + 2, sizeof(unsigned));
	outlook->suffixes[n].isolated = outlook->suffixes[n].whole + outlook->widest + 1;
	outlook->suffixes[n].capacities = xcalloc(1, sizeof(unsigned));
	outlook->suffixes[n].alone = xcalloc(problem->n_classes, sizeof(struct alone));
	for (size_t node = n; node-- > 0;)
		make_suffix(s, node);
}

static void make_tables(struct searching *s, size_t states)
{
	size_t n_nodes = s->problem->n_nodes;

	s->n_states = states;
	s->bounds = xcalloc(n_nodes * states, sizeof(*s->bounds));
	for (enum fit_spare spare = 0; spare < N_SPARES; spare++)
		s->cpus[spare] = xcalloc(n_nodes * states, sizeof(*s->cpus[spare]));
}

static int compare_up(const void *a, const void *b)
{
	return compare_down(b, a);
}

/* near[n][k]: the sum of the distances, both ways, to the k nearest other nodes. */
static void find_near(struct searching *s)
{
	size_t n_nodes = s->problem->n_nodes;

	s->near = xcalloc(n_nodes * n_nodes, sizeof(*s->near));
	s->both_ways = xcalloc(n_nodes * n_nodes, sizeof(*s->both_ways));
	for (size_t n = 0; n < n_nodes; n++)
		for (size_t other = 0; other < n_nodes; other++)
			if (other != n)
				s->both_ways[n * n_nodes + other] =
				    s->problem->distances[n * n_nodes + other] +
				    s->problem->distances[other * n_nodes + n];
	for (size_t n = 0; n < n_nodes; n++) {
		unsigned *row = s->near + n * n_nodes;
		size_t k = 1;
		for (size_t other = 0; other < n_nodes; other++)
			if (other != n)
				row[k++] = s->both_ways[n * n_nodes + other];
		qsort(row + 1, n_nodes - 1, sizeof(*row), compare_up);
		for (k = 1; k < n_nodes; k++)
			row[k] += row[k - 1];
	}
}

void fit_prepare_bounds(struct searching *s)
{
	const struct fit_problem *problem = s->problem;
	size_t n_nodes = problem->n_nodes, states = 1, steps = 1;

	s->strides = xcalloc(problem->n_classes, sizeof(*s->strides));
	s->counts_of_one = xcalloc(problem->n_classes, sizeof(*s->counts_of_one));
	for (size_t c = 0; c < problem->n_classes; c++) {
		size_t n = s->counts[c] + 1;
		s->strides[c] = states;
		states = states <= TABLE_MAX ? states * n : states;
		steps = steps <= FILL_MAX ? steps * n * (n + 1) / 2 : steps;
	}
	s->by_size = xcalloc(problem->n_classes, sizeof(*s->by_size));
	for (size_t c = 0; c < problem->n_classes; c++)
		s->by_size[c] = c;
	qsort_r(s->by_size, problem->n_classes, sizeof(*s->by_size), compare_sizes, s);
	find_near(s);
	if (states * n_nodes <= TABLE_MAX && steps * n_nodes <= FILL_MAX)
		make_tables(s, states);
	else
		make_outlook(s);
}

void fit_end_bounds(struct searching *s)
{
	struct outlook *outlook = s->outlook;

	for (size_t n = 0; outlook && n <= s->problem->n_nodes; n++) {
		free(outlook->suffixes[n].capacities);
		free(outlook->suffixes[n].whole);
		free(outlook->suffixes[n].alone);
	}
	if (outlook) {
		free(outlook->suffixes);
		free(outlook->parts);
		free(outlook);
	}
	for (enum fit_spare spare = 0; spare < N_SPARES; spare++)
		free(s->cpus[spare]);
	free(s->bounds);
	free(s->near);
	free(s->both_ways);
	free(s->by_size);
	free(s->strides);
	free(s->counts_of_one);
}

/* ---- distances ---- */

/* Few different numbers, ascending, and how many there are of each. */
#define TALLY_MAX 32

struct tally {
	unsigned values[TALLY_MAX], times[TALLY_MAX];
	size_t count;
};

/* Where there is no place for one more number, the next lower one counts: sums are bounds still. */
static void tally_add(struct tally *tally, unsigned value)
{
	size_t i = 0;

	while (i < tally->count && tally->values[i] < value)
		i++;
	if (i < tally->count && tally->values[i] == value) {
		tally->times[i]++;
		return;
	}
	if (tally->count == TALLY_MAX) {
		if (i == 0)
			tally->values[0] = value;
		tally->times[i ? i - 1 : 0]++;
		return;
	}
	for (size_t j = tally->count++; j > i; j--) {
		tally->values[j] = tally->values[j - 1];
		tally->times[j] = tally->times[j - 1];
	}
	tally->values[i] = value;
	tally->times[i] = 1;
}

/* Each of the nodes is so far from those used, and from its nearest ones: the sum of the lowest. */
uint32_t fit_distance_bound(const struct searching *s, size_t node, size_t more)
{
	size_t n_nodes = s->problem->n_nodes;
	struct tally tally = { .count = 0 };
	uint64_t twice = 0;

	if (more == 0 || more > n_nodes)
		return s->apart;
	for (; node < n_nodes; node++)
		if (!s->banned || !s->banned[node])
			tally_add(&tally, 2 * s->around[node] + s->near[node * n_nodes + more - 1]);
	for (size_t i = 0; i < tally.count && more; i++) {
		size_t times = tally.times[i] < more ? tally.times[i] : more;
		twice += (uint64_t)times * tally.values[i];
		more -= times;
	}
	return s->apart + (uint32_t)((twice + 1) / 2);
}

uint32_t fit_devices_bound(const struct searching *s, size_t node)
{
	const struct fit_problem *problem = s->problem;
	uint32_t sum = 0;

	for (size_t d = 0; d < problem->n_devices; d++) {
		const unsigned *row = problem->distances + problem->devices[d] * problem->n_nodes;
		unsigned least = UINT32_MAX;
		for (size_t i = 0; i < s->n_used; i++)
			least = row[s->used[i]] < least ? row[s->used[i]] : least;
		for (size_t n = node; n < problem->n_nodes; n++)
			least = row[n] < least ? row[n] : least;
		sum += least;
	}
	return sum;
}
