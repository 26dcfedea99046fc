/* Which host node each unit goes to: branch and bound over the host nodes in order, each of which
 * takes so many units of each class.
 *
 * The bound is exact but for what couples nodes (distances, devices, the emulator's place, a pool
 * of memory that several nodes draw on): the best way to put what is left on the nodes that are
 * left, by dynamic programming over the counts of what is left. So a search that cannot succeed
 * ends at once, and one without such coupling walks straight to its goal. The search first asks
 * for a solution as cheap as the bound; if there is none it finds the cheapest cost; and of all
 * solutions of that cost it returns the first, in the order of nodes and units. */
#include <stdlib.h>
#include <string.h>

#include "fit.h"
#include "util.h"

/* Beyond this many entries the table of bounds would be larger than it is worth, and bounds are
 * simple sums. */
#define TABLE_MAX (1 << 17)

enum known { UNKNOWN, FITS, DOES_NOT };

struct entry {
	struct place_cost cost;
	unsigned char known;
};

struct searching {
	const struct fit_problem *problem;
	const bool *banned;
	size_t *first;        /* by class: its lowest unit; the others have the same class */
	unsigned *counts;     /* by class */
	size_t *strides;      /* by class: the counts that are left, as one number */
	size_t n_states;      /* 0: too many for tables */
	struct entry *bounds; /* n_nodes × n_states */
	struct entry *cpus[N_SPARES]; /* n_nodes × n_states: the CPU side of units on a node */
	struct entry
	    *single[N_SPARES]; /* n_nodes × n_classes: of one unit, where there is no table */
	unsigned *near;        /* n_nodes × n_nodes: distances to the nearest 1, 2, … others */
	unsigned *scratch;     /* n_nodes */

	/* The branch under way. */
	unsigned *left;     /* by class */
	unsigned *taken;    /* n_nodes × n_classes */
	unsigned *degraded; /* n_nodes × n_classes */
	uint64_t *pools;    /* what is left of problem.pools */
	unsigned *around;   /* by node: distance to and from all nodes used */
	size_t *used;       /* nodes used */
	size_t n_used;
	uint32_t apart; /* distance between the nodes used */

	struct place_cost limit; /* nothing above it is wanted, */
	bool below;              /* nor it itself */
	bool found, first_is_best;
	struct place_cost best;
	unsigned *best_taken, *best_degraded;
	size_t best_emulator;
};

static const struct fit_unit *unit_of(const struct searching *s, size_t class)
{
	return &s->problem->units[s->first[class]];
}

static size_t state_of(const struct searching *s, const unsigned *counts)
{
	size_t state = 0;

	for (size_t c = 0; c < s->problem->n_classes; c++)
		state += counts[c] * s->strides[c];
	return state;
}

/* ---- one node ---- */

/* The lowest units of each class, so many of it; returns how many. */
static size_t list_units(const struct searching *s, const unsigned *counts, size_t *units)
{
	size_t n = 0;

	for (size_t i = 0; i < s->problem->n_units; i++) {
		size_t class = s->problem->units[i].class, before = 0;
		for (size_t j = 0; j < n; j++)
			before += s->problem->units[units[j]].class == class;
		if (before < counts[class])
			units[n++] = i;
	}
	return n;
}

static bool ask_cpus(const struct searching *s, size_t node, const unsigned *counts,
                     enum fit_spare spare, struct place_cost *cost)
{
	cleanup_free size_t *units = xcalloc(s->problem->n_units, sizeof(*units));
	size_t n = list_units(s, counts, units);
	struct fit_choice choice = { 0 };

	if (!fit_cpus(s->problem, node, units, n, spare, &choice))
		return false;
	*cost = choice.cost;
	free(choice.amounts);
	return true;
}

/* Where the answer to that question is kept: NULL, nowhere. */
static struct entry *cpus_entry(const struct searching *s, size_t node, const unsigned *counts,
                                enum fit_spare spare)
{
	size_t same = s->problem->nodes[node].same, class = 0, n = 0;

	if (s->n_states)
		return &s->cpus[spare][same * s->n_states + state_of(s, counts)];
	for (size_t c = 0; c < s->problem->n_classes; c++) {
		n += counts[c];
		class = counts[c] ? c : class;
	}
	return n == 1 ? &s->single[spare][same * s->problem->n_classes + class] : NULL;
}

/* What the CPUs of dedicated units on the node cost, if they leave this to the emulator. */
static bool dedicated_cost(const struct searching *s, size_t node, const unsigned *counts,
                           enum fit_spare spare, struct place_cost *cost)
{
	struct entry *entry = cpus_entry(s, node, counts, spare);

	if (!entry)
		return ask_cpus(s, node, counts, spare, cost);
	if (!entry->known)
		entry->known = ask_cpus(s, node, counts, spare, &entry->cost) ? FITS : DOES_NOT;
	if (entry->known == FITS)
		*cost = entry->cost;
	return entry->known == FITS;
}

/* The fewest units that have to go without their huge pages so that the node's memory is enough:
 * classes from `class` on still choose. */
static void degrade(const struct searching *s, const unsigned *counts, size_t class,
                    uint64_t *needed, const uint64_t *free, unsigned *now, unsigned sum,
                    unsigned *best, unsigned *best_sum)
{
	size_t n_pools = s->problem->n_pools;

	if (sum >= *best_sum)
		return;
	if (class == s->problem->n_classes) {
		for (size_t p = 0; p < n_pools; p++)
			if (needed[p] > free[p])
				return;
		memcpy(best, now, s->problem->n_classes * sizeof(*best));
		*best_sum = sum;
		return;
	}
	const struct fit_unit *unit = unit_of(s, class);
	for (unsigned n = 0; n <= counts[class]; n++) {
		now[class] = n;
		degrade(s, counts, class + 1, needed, free, now, sum + n, best, best_sum);
		if (!unit->may_degrade)
			break;
		needed[unit->pool] -= unit->memory;
		needed[0] += unit->memory;
	}
	if (unit->may_degrade) {
		needed[unit->pool] += unit->memory * (counts[class] + 1);
		needed[0] -= unit->memory * (counts[class] + 1);
	}
	now[class] = 0;
}

/* Whether the memory is enough, and, by class, how many units have plain pages instead of huge
 * ones. */
static bool memory_fits(const struct searching *s, const unsigned *counts, const uint64_t *free,
                        unsigned *degraded, uint32_t *sum)
{
	const struct fit_problem *problem = s->problem;
	uint64_t needed[FIT_POOLS_MAX];
	bool enough = true;

	memset(needed, 0, sizeof(needed));
	memset(degraded, 0, problem->n_classes * sizeof(*degraded));
	*sum = 0;
	for (size_t c = 0; c < problem->n_classes; c++)
		needed[unit_of(s, c)->pool] += unit_of(s, c)->memory * counts[c];
	for (size_t p = 0; p < problem->n_pools; p++)
		enough &= needed[p] <= free[p];
	if (enough)
		return true;
	cleanup_free unsigned *now = xcalloc(problem->n_classes, sizeof(*now));
	unsigned best = UINT32_MAX;
	degrade(s, counts, 0, needed, free, now, 0, degraded, &best);
	*sum = best;
	return best != UINT32_MAX;
}

/* What it costs, apart from the distances to other nodes, that the node takes these units. False:
 * they do not fit. `pools` is what is left of the memory. */
static bool node_cost(const struct searching *s, size_t node, const unsigned *counts,
                      const uint64_t *pools, unsigned *degraded, struct place_cost *cost)
{
	const struct fit_problem *problem = s->problem;
	const struct fit_node *host = &problem->nodes[node];
	uint64_t vcpus = 0;
	unsigned units = 0;
	uint32_t without = 0;

	memset(cost, 0, sizeof(*cost));
	memset(degraded, 0, problem->n_classes * sizeof(*degraded));
	for (size_t c = 0; c < problem->n_classes; c++) {
		units += counts[c];
		vcpus += (uint64_t)counts[c] * unit_of(s, c)->vcpus;
		if (counts[c] && !unit_of(s, c)->may[node])
			return false;
		cost->terms[TERM_DISTANCE] += counts[c] * unit_of(s, c)->far[node];
	}
	if (units == 0)
		return true;
	if ((s->banned && s->banned[node]) || (problem->apart && units > 1))
		return false;
	if (problem->dedicated ? vcpus > host->capacity : vcpus && !host->has_cpus)
		return false;
	if (!memory_fits(s, counts, pools + host->home * problem->n_pools, degraded, &without))
		return false;
	if (problem->dedicated) {
		struct place_cost cpus;
		if (!dedicated_cost(s, node, counts, SPARE_NOTHING, &cpus))
			return false;
		place_cost_add(cost, &cpus);
	}
	if (vcpus > host->capacity)
		cost->terms[TERM_OVERCOMMIT] = (uint32_t)(vcpus - host->capacity);
	else
		cost->terms[TERM_LEFT] = (uint32_t)(host->capacity - vcpus);
	cost->terms[TERM_DEGRADED] = without;
	cost->terms[TERM_NODES] = 1;
	return true;
}

/* ---- bounds ---- */

static bool bound(struct searching *s, size_t node, unsigned *left, struct place_cost *cost);

/* Tries all counts of the classes from `class` on for the node, and the best for the rest. */
static void bound_counts(struct searching *s, size_t node, size_t class, uint64_t vcpus,
                         unsigned *left, unsigned *counts, struct entry *entry)
{
	const struct fit_problem *problem = s->problem;
	struct place_cost here, rest;
	unsigned degraded[FIT_UNITS_MAX];

	if (class == problem->n_classes) {
		if (!node_cost(s, node, counts, problem->pools, degraded, &here) ||
		    !bound(s, node + 1, left, &rest))
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

/* The units that are left can be on no fewer nodes than this, of those from `node` on; false: there
 * is no room for them. */
static bool simple_bound(const struct searching *s, size_t node, const unsigned *left,
                         struct place_cost *cost)
{
	const struct fit_problem *problem = s->problem;
	uint64_t vcpus = 0, room = 0, memory = 0, pages = 0;
	uint32_t largest = 1;

	for (size_t c = 0; c < problem->n_classes; c++) {
		vcpus += (uint64_t)left[c] * unit_of(s, c)->vcpus;
		memory += left[c] * unit_of(s, c)->memory;
	}
	for (size_t n = node; n < problem->n_nodes; n++) {
		if (s->banned && s->banned[n])
			continue;
		room += problem->nodes[n].capacity;
		largest =
		    largest > problem->nodes[n].capacity ? largest : problem->nodes[n].capacity;
		for (size_t p = 0; p < problem->n_pools; p++)
			pages += problem->nodes[n].home == n
			             ? problem->pools[n * problem->n_pools + p]
			             : 0;
	}
	if (problem->dedicated && vcpus > room)
		return false;
	if (node == 0 && memory > pages)
		return false;
	cost->terms[TERM_OVERCOMMIT] = vcpus > room ? (uint32_t)(vcpus - room) : 0;
	if (problem->dedicated)
		cost->terms[TERM_NODES] = (uint32_t)((vcpus + largest - 1) / largest);
	return true;
}

/* The cheapest way, at least, to put all that is left on the nodes from `node` on. */
static bool bound(struct searching *s, size_t node, unsigned *left, struct place_cost *cost)
{
	const struct fit_problem *problem = s->problem;
	bool nothing = true;

	memset(cost, 0, sizeof(*cost));
	for (size_t c = 0; c < problem->n_classes; c++)
		nothing &= left[c] == 0;
	if (nothing || node == problem->n_nodes)
		return nothing;
	if (!s->n_states)
		return simple_bound(s, node, left, cost);
	struct entry *entry = &s->bounds[node * s->n_states + state_of(s, left)];
	if (!entry->known) {
		unsigned counts[FIT_UNITS_MAX] = { 0 };
		bound_counts(s, node, 0, 0, left, counts, entry);
		entry->known = entry->known == FITS ? FITS : DOES_NOT;
	}
	*cost = entry->cost;
	return entry->known == FITS;
}

static int compare_up(const void *a, const void *b)
{
	unsigned left = *(const unsigned *)a, right = *(const unsigned *)b;

	return left < right ? -1 : left > right;
}

static unsigned both_ways(const struct fit_problem *problem, size_t a, size_t b)
{
	return problem->distances[a * problem->n_nodes + b] +
	       problem->distances[b * problem->n_nodes + a];
}

/* near[n][k]: the sum of the distances, both ways, to the k nearest other nodes. */
static void find_near(struct searching *s)
{
	size_t n_nodes = s->problem->n_nodes;

	s->near = xcalloc(n_nodes * n_nodes, sizeof(*s->near));
	for (size_t n = 0; n < n_nodes; n++) {
		unsigned *row = s->near + n * n_nodes;
		size_t k = 1;
		for (size_t other = 0; other < n_nodes; other++)
			if (other != n)
				row[k++] = both_ways(s->problem, n, other);
		qsort(row + 1, n_nodes - 1, sizeof(*row), compare_up);
		for (k = 1; k < n_nodes; k++)
			row[k] += row[k - 1];
	}
}

/* How far from each other the nodes are at least, if so many more of those from `node` on are used:
 * each of them from those used, and from its nearest ones. */
static uint32_t distance_bound(const struct searching *s, size_t node, size_t more)
{
	size_t n_nodes = s->problem->n_nodes, n = 0;
	unsigned *far = s->scratch, last = 0;
	uint64_t twice = 0;

	if (more == 0 || more > n_nodes)
		return s->apart;
	for (; node < n_nodes; node++)
		if (!s->banned || !s->banned[node])
			far[n++] = 2 * s->around[node] + s->near[node * n_nodes + more - 1] + 1;
	/* The sum of the lowest ones: few different numbers, so one after the other. */
	while (more) {
		unsigned least = UINT32_MAX;
		size_t times = 0;
		for (size_t i = 0; i < n; i++) {
			if (far[i] > last && far[i] < least) {
				least = far[i];
				times = 0;
			}
			times += far[i] == least;
		}
		if (!times)
			break;
		times = times < more ? times : more;
		twice += times * (least - 1);
		more -= times;
		last = least;
	}
	return s->apart + (uint32_t)((twice + 1) / 2);
}

/* Distance to the devices if all nodes from `node` on were used, too. */
static uint32_t devices_bound(const struct searching *s, size_t node)
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

/* Not worth going on, with this cost at least. */
static bool too_dear(const struct searching *s, const struct place_cost *cost)
{
	int order = place_cost_compare(cost, &s->limit);

	return order > 0 || (order == 0 && s->below);
}

/* ---- the emulator's place ---- */

static struct place_cost minus(struct place_cost a, const struct place_cost *b)
{
	for (enum place_term term = 0; term < N_TERMS; term++)
		a.terms[term] -= b->terms[term];
	return a;
}

/* Shared vCPUs, if there are some, have all CPUs of the node that they may have; is another left?
 */
static bool is_beside(const struct fit_problem *problem, const struct fit_node *node, bool vcpus,
                      enum fit_spare spare)
{
	for (size_t g = node->first; g < node->first + node->count; g++)
		for (size_t i = 0; i < problem->groups[g].count; i++) {
			const struct fit_core *core = &problem->cores[problem->groups[g].first + i];
			if (core->spare > (vcpus ? core->take : 0) &&
			    (spare == SPARE_CPU || !core->pinned))
				return true;
		}
	return false;
}

/* What a node's units cost more if they leave the emulator its place. */
static bool keeping_cost(const struct searching *s, size_t node, enum fit_spare spare,
                         struct place_cost *more)
{
	const struct fit_problem *problem = s->problem;
	const unsigned *counts = s->taken + node * problem->n_classes;
	struct place_cost plain, keeping;
	bool vcpus = false;

	memset(more, 0, sizeof(*more));
	for (size_t c = 0; c < problem->n_classes; c++)
		vcpus |= counts[c] && unit_of(s, c)->vcpus;
	if (!problem->dedicated)
		return is_beside(problem, &problem->nodes[node], vcpus, spare);
	if (!dedicated_cost(s, node, counts, SPARE_NOTHING, &plain) ||
	    !dedicated_cost(s, node, counts, spare, &keeping))
		return false;
	*more = minus(keeping, &plain);
	return true;
}

/* Where the emulator is best when the units are where they are: adds what that costs. False: it
 * must be somewhere and cannot. `where` is its node, or SIZE_MAX. */
static bool add_emulator(const struct searching *s, struct place_cost *cost, size_t *where)
{
	const struct fit_problem *problem = s->problem;
	struct place_cost plain = *cost;
	bool far = problem->spare_elsewhere;

	*where = SIZE_MAX;
	if (!problem->emulator)
		return true;
	for (size_t n = 0; n < problem->n_nodes; n++) {
		bool used = false;
		for (size_t i = 0; i < s->n_used; i++)
			used |= s->used[i] == n;
		far |= !used && problem->nodes[n].spare;
	}
	bool possible = far || problem->spare_last || !problem->emulator_must;
	if (far)
		cost->terms[TERM_EMULATOR] = EMULATOR_FAR;
	else if (problem->spare_last)
		cost->terms[TERM_EMULATOR] = EMULATOR_LAST;
	else
		cost->terms[TERM_CROWDED] = 1;
	for (size_t i = 0; i < s->n_used; i++)
		for (enum fit_spare spare = SPARE_CORE; spare <= SPARE_CPU; spare++) {
			struct place_cost here = plain, more;
			here.terms[TERM_EMULATOR] =
			    spare == SPARE_CORE ? EMULATOR_NEAR : EMULATOR_SIBLING;
			if (possible && place_cost_compare(&here, cost) >= 0)
				continue;
			if (!keeping_cost(s, s->used[i], spare, &more))
				continue;
			place_cost_add(&here, &more);
			if (possible && place_cost_compare(&here, cost) >= 0)
				continue;
			*cost = here;
			*where = s->used[i];
			possible = true;
		}
	return possible;
}

/* ---- the search ---- */

static void leaf(struct searching *s, const struct place_cost *sum)
{
	const struct fit_problem *problem = s->problem;
	struct place_cost cost = *sum;
	size_t emulator, cells = problem->n_nodes * problem->n_classes;

	cost.terms[TERM_DISTANCE] += s->apart;
	cost.terms[TERM_DEVICES] = devices_bound(s, problem->n_nodes);
	if (!add_emulator(s, &cost, &emulator) || too_dear(s, &cost))
		return;
	s->found = true;
	s->best = s->limit = cost;
	s->below = true;
	s->best_emulator = emulator;
	memcpy(s->best_taken, s->taken, cells * sizeof(*s->taken));
	memcpy(s->best_degraded, s->degraded, cells * sizeof(*s->degraded));
}

static void use_node(struct searching *s, size_t node)
{
	s->apart += s->around[node];
	s->used[s->n_used++] = node;
	for (size_t n = 0; n < s->problem->n_nodes; n++)
		s->around[n] += n == node ? 0 : both_ways(s->problem, n, node);
}

static void leave_node(struct searching *s, size_t node)
{
	for (size_t n = 0; n < s->problem->n_nodes; n++)
		s->around[n] -= n == node ? 0 : both_ways(s->problem, n, node);
	s->n_used--;
	s->apart -= s->around[node];
}

/* Takes the units' memory from the node's pools, or gives it back. */
static void move_memory(struct searching *s, size_t node, bool take)
{
	const struct fit_problem *problem = s->problem;
	uint64_t *pools = s->pools + problem->nodes[node].home * problem->n_pools;

	for (size_t c = 0; c < problem->n_classes; c++) {
		unsigned plain = s->degraded[node * problem->n_classes + c];
		unsigned rest = s->taken[node * problem->n_classes + c] - plain;
		uint64_t bytes = unit_of(s, c)->memory;
		pools[0] += take ? -(plain * bytes) : plain * bytes;
		pools[unit_of(s, c)->pool] += take ? -(rest * bytes) : rest * bytes;
	}
}

static void search_node(struct searching *s, size_t node, const struct place_cost *sum);

/* The node has its counts: on with the next, if that can still be good enough. */
static void go_on(struct searching *s, size_t node, const struct place_cost *sum)
{
	const struct fit_problem *problem = s->problem;
	unsigned *counts = s->taken + node * problem->n_classes;
	struct place_cost here, rest;
	bool used;

	if (!node_cost(s, node, counts, s->pools, s->degraded + node * problem->n_classes, &here) ||
	    !bound(s, node + 1, s->left, &rest))
		return;
	used = here.terms[TERM_NODES] > 0;
	place_cost_add(&here, sum);
	place_cost_add(&rest, &here);
	if (too_dear(s, &rest))
		return;
	if (used)
		use_node(s, node);
	size_t more = rest.terms[TERM_NODES] - here.terms[TERM_NODES];
	rest.terms[TERM_DISTANCE] += distance_bound(s, node + 1, more);
	rest.terms[TERM_DEVICES] = devices_bound(s, node + 1);
	if (!too_dear(s, &rest)) {
		move_memory(s, node, true);
		search_node(s, node + 1, &here);
		move_memory(s, node, false);
	}
	if (used)
		leave_node(s, node);
}

/* Counts of the classes from `class` on for the node, the largest first. With `tied` they are so
 * far just those of its twin, which must not have less. */
static void search_counts(struct searching *s, size_t node, size_t class, bool tied, uint64_t vcpus,
                          const struct place_cost *sum)
{
	const struct fit_problem *problem = s->problem;
	const struct fit_node *host = &problem->nodes[node];
	unsigned *counts = s->taken + node * problem->n_classes;

	if (s->found && s->first_is_best)
		return;
	if (class == problem->n_classes) {
		go_on(s, node, sum);
		return;
	}
	const struct fit_unit *unit = unit_of(s, class);
	unsigned all = s->left[class], most = unit->may[node] ? all : 0;
	unsigned twin = s->taken[host->twin * problem->n_classes + class];
	if (problem->dedicated && unit->vcpus) {
		uint64_t room = (host->capacity - vcpus) / unit->vcpus;
		most = room < most ? (unsigned)room : most;
	}
	if (tied && twin < most)
		most = twin;
	for (unsigned n = most;; n--) {
		counts[class] = n;
		s->left[class] = all - n;
		search_counts(s, node, class + 1, tied && n == twin,
		              vcpus + (uint64_t)n * unit->vcpus, sum);
		if (n == 0)
			break;
	}
	s->left[class] = all;
	counts[class] = 0;
}

static void search_node(struct searching *s, size_t node, const struct place_cost *sum)
{
	if (node == s->problem->n_nodes) {
		for (size_t c = 0; c < s->problem->n_classes; c++)
			if (s->left[c])
				return;
		leaf(s, sum);
		return;
	}
	search_counts(s, node, 0, s->problem->nodes[node].twin != node, 0, sum);
}

/* Looks for the best solution of at most `limit` (`below`: less). With `first` the first one will
 * do. */
static bool run(struct searching *s, const struct place_cost *limit, bool first)
{
	struct place_cost sum = { 0 };

	s->limit = *limit;
	s->below = s->found = false;
	s->first_is_best = first;
	sum.terms[TERM_SLOW] = s->problem->slow;
	search_node(s, 0, &sum);
	return s->found;
}

static void prepare(struct searching *s)
{
	const struct fit_problem *problem = s->problem;
	size_t n_nodes = problem->n_nodes, n_classes = problem->n_classes, states = 1;

	s->first = xcalloc(n_classes, sizeof(*s->first));
	s->counts = xcalloc(n_classes, sizeof(*s->counts));
	s->strides = xcalloc(n_classes, sizeof(*s->strides));
	for (size_t i = problem->n_units; i-- > 0;) {
		s->first[problem->units[i].class] = i;
		s->counts[problem->units[i].class]++;
	}
	for (size_t c = 0; c < n_classes; c++) {
		s->strides[c] = states;
		if (states <= TABLE_MAX)
			states *= s->counts[c] + 1;
	}
	if (states * n_nodes <= TABLE_MAX) {
		s->n_states = states;
		s->bounds = xcalloc(n_nodes * states, sizeof(*s->bounds));
		for (enum fit_spare spare = 0; spare < N_SPARES; spare++)
			s->cpus[spare] = xcalloc(n_nodes * states, sizeof(**s->cpus));
	}
	for (enum fit_spare spare = 0; spare < N_SPARES; spare++)
		s->single[spare] = xcalloc(n_nodes * n_classes, sizeof(**s->single));
	s->left = xcalloc(n_classes, sizeof(*s->left));
	memcpy(s->left, s->counts, n_classes * sizeof(*s->left));
	s->taken = xcalloc(n_nodes * n_classes, sizeof(*s->taken));
	s->degraded = xcalloc(n_nodes * n_classes, sizeof(*s->degraded));
	s->best_taken = xcalloc(n_nodes * n_classes, sizeof(*s->taken));
	s->best_degraded = xcalloc(n_nodes * n_classes, sizeof(*s->taken));
	s->pools = xcalloc(n_nodes * problem->n_pools, sizeof(*s->pools));
	memcpy(s->pools, problem->pools, n_nodes * problem->n_pools * sizeof(*s->pools));
	s->around = xcalloc(n_nodes, sizeof(*s->around));
	s->used = xcalloc(n_nodes, sizeof(*s->used));
	s->scratch = xcalloc(n_nodes, sizeof(*s->scratch));
	find_near(s);
}

static void end(struct searching *s)
{
	free(s->first);
	free(s->counts);
	free(s->strides);
	free(s->bounds);
	for (enum fit_spare spare = 0; spare < N_SPARES; spare++) {
		free(s->cpus[spare]);
		free(s->single[spare]);
	}
	free(s->near);
	free(s->scratch);
	free(s->left);
	free(s->taken);
	free(s->degraded);
	free(s->pools);
	free(s->around);
	free(s->used);
	free(s->best_taken);
	free(s->best_degraded);
}

/* The counts of the best branch as units: of each class the lowest units go to the lowest nodes,
 * and on a node its last units are the degraded ones. */
static void tell(const struct searching *s, struct fit_solution *solution)
{
	const struct fit_problem *problem = s->problem;
	size_t n_classes = problem->n_classes;

	solution->cost = s->best;
	solution->emulator_node = s->best_emulator;
	solution->nodes = xcalloc(problem->n_units, sizeof(*solution->nodes));
	solution->degraded = xcalloc(problem->n_units, sizeof(*solution->degraded));
	for (size_t i = 0; i < problem->n_units; i++) {
		size_t class = problem->units[i].class, node = 0;
		while (!s->best_taken[node * n_classes + class])
			node++;
		size_t cell = node * n_classes + class;
		solution->nodes[i] = node;
		solution->degraded[i] = s->best_taken[cell] <= s->best_degraded[cell];
		s->best_taken[cell]--;
	}
}

/* Each unit fits somewhere, were it alone; most of what cannot be placed ends here. */
static bool each_fits(const struct searching *s)
{
	const struct fit_problem *problem = s->problem;
	cleanup_free unsigned *one = xcalloc(problem->n_classes, sizeof(*one));
	unsigned degraded[FIT_UNITS_MAX];

	for (size_t c = 0; c < problem->n_classes; c++) {
		struct place_cost cost;
		bool fits = false;
		one[c] = 1;
		for (size_t n = 0; n < problem->n_nodes && !fits; n++)
			fits = node_cost(s, n, one, problem->pools, degraded, &cost);
		one[c] = 0;
		if (!fits)
			return false;
	}
	return true;
}

bool fit_search(const struct fit_problem *problem, const bool *banned,
                struct fit_solution *solution)
{
	__attribute__((cleanup(end))) struct searching s = { .problem = problem, .banned = banned };
	struct place_cost least, most;

	prepare(&s);
	memset(&most, 0xff, sizeof(most));
	if (!each_fits(&s) || !bound(&s, 0, s.left, &least))
		return false;
	least.terms[TERM_SLOW] = problem->slow;
	least.terms[TERM_DISTANCE] += distance_bound(&s, 0, least.terms[TERM_NODES]);
	least.terms[TERM_DEVICES] = devices_bound(&s, 0);
	if (!run(&s, &least, true)) {
		if (!run(&s, &most, false))
			return false;
		most = s.best;
		run(&s, &most, true);
	}
	tell(&s, solution);
	return true;
}

void fit_solution_free(struct fit_solution *solution)
{
	free(solution->nodes);
	free(solution->degraded);
}

void fit_problem_free(struct fit_problem *problem)
{
	for (size_t i = 0; i < problem->n_units; i++) {
		free(problem->units[i].may);
		free(problem->units[i].far);
		free(problem->units[i].touched);
	}
	free(problem->cores);
	free(problem->groups);
	free(problem->nodes);
	free(problem->units);
	free(problem->distances);
	free(problem->pools);
	free(problem->devices);
}
