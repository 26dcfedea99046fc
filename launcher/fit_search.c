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

#include "fit_parts.h"
#include "util.h"

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
static bool keeping_cost(struct searching *s, size_t node, enum fit_spare spare,
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
	if (!fit_dedicated_cost(s, node, counts, SPARE_NOTHING, &plain) ||
	    !fit_dedicated_cost(s, node, counts, spare, &keeping))
		return false;
	*more = minus(keeping, &plain);
	return true;
}

/* Where the emulator is best when the units are where they are: adds what that costs. False: it
 * must be somewhere and cannot. `where` is its node, or SIZE_MAX. */
static bool add_emulator(struct searching *s, struct place_cost *cost, size_t *where)
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
	cost.terms[TERM_DEVICES] = fit_devices_bound(s, problem->n_nodes);
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
	size_t n_nodes = s->problem->n_nodes;
	const unsigned *row = s->both_ways + node * n_nodes;

	s->apart += s->around[node];
	s->used[s->n_used++] = node;
	for (size_t n = 0; n < n_nodes; n++)
		s->around[n] += row[n];
}

static void leave_node(struct searching *s, size_t node)
{
	size_t n_nodes = s->problem->n_nodes;
	const unsigned *row = s->both_ways + node * n_nodes;

	for (size_t n = 0; n < n_nodes; n++)
		s->around[n] -= row[n];
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

	s->work += problem->n_classes + problem->n_nodes;
	if (!fit_node_cost(s, node, counts, s->pools, s->degraded + node * problem->n_classes,
	                   &here) ||
	    !fit_bound(s, node + 1, s->left, &rest))
		return;
	used = here.terms[TERM_NODES] > 0;
	place_cost_add(&here, sum);
	place_cost_add(&rest, &here);
	if (too_dear(s, &rest))
		return;
	if (used)
		use_node(s, node);
	size_t more = rest.terms[TERM_NODES] - here.terms[TERM_NODES];
	rest.terms[TERM_DISTANCE] += fit_distance_bound(s, node + 1, more);
	rest.terms[TERM_DEVICES] = fit_devices_bound(s, node + 1);
	if (!too_dear(s, &rest)) {
		move_memory(s, node, true);
		search_node(s, node + 1, &here);
		move_memory(s, node, false);
	}
	if (used)
		leave_node(s, node);
}

/* The steps that there may be are done. */
static bool is_over(struct searching *s)
{
	s->work++;
	s->cut |= s->work > s->effort;
	return s->work > s->effort;
}

/* The next lower node that is the same in every respect and may be used; itself: none. */
static size_t twin_of(const struct searching *s, size_t node)
{
	const struct fit_node *nodes = s->problem->nodes;
	size_t twin = nodes[node].twin;

	if (!s->banned)
		return twin;
	while (s->banned[twin] && nodes[twin].twin != twin)
		twin = nodes[twin].twin;
	return s->banned[twin] ? node : twin;
}

/* Counts of the classes from the `nth` on for the node, the largest first. With `tied` they are so
 * far just those of its twin, which must not have less. */
static void search_counts(struct searching *s, size_t node, size_t nth, bool tied, uint64_t vcpus,
                          const struct place_cost *sum)
{
	const struct fit_problem *problem = s->problem;
	const struct fit_node *host = &problem->nodes[node];
	unsigned *counts = s->taken + node * problem->n_classes;

	if ((s->found && s->first_is_best) || is_over(s))
		return;
	if (nth == problem->n_classes) {
		go_on(s, node, sum);
		return;
	}
	size_t class = s->large_first ? s->by_size[nth] : nth;
	const struct fit_unit *unit = unit_of(s, class);
	unsigned all = s->left[class], most = unit->may[node] ? all : 0;
	unsigned twin = s->taken[twin_of(s, node) * problem->n_classes + class];
	if (problem->dedicated && unit->vcpus) {
		uint64_t room = (host->capacity - vcpus) / unit->vcpus;
		most = room < most ? (unsigned)room : most;
	}
	if (tied && twin < most)
		most = twin;
	for (unsigned n = most;; n--) {
		counts[class] = n;
		s->left[class] = all - n;
		search_counts(s, node, nth + 1, tied && n == twin,
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
	search_counts(s, node, 0, twin_of(s, node) != node, 0, sum);
}

/* Looks for the best solution of at most `limit` (`below`: less). With `first` the first one will
 * do. */
static bool run(struct searching *s, const struct place_cost *limit, bool first)
{
	struct place_cost sum = { 0 };

	s->limit = *limit;
	s->below = s->found = false;
	s->first_is_best = first;
	s->large_first = !first;
	sum.terms[TERM_SLOW] = s->problem->slow;
	search_node(s, 0, &sum);
	return s->found;
}

static void prepare(struct searching *s)
{
	const struct fit_problem *problem = s->problem;
	size_t n_nodes = problem->n_nodes, n_classes = problem->n_classes;

	s->first = xcalloc(n_classes, sizeof(*s->first));
	s->counts = xcalloc(n_classes, sizeof(*s->counts));
	for (size_t i = problem->n_units; i-- > 0;) {
		s->first[problem->units[i].class] = i;
		s->counts[problem->units[i].class]++;
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
	fit_prepare_bounds(s);
}

static void end(struct searching *s)
{
	fit_end_bounds(s);
	fit_memo_free(s->memo);
	for (enum fit_spare spare = 0; spare < N_SPARES; spare++)
		free(s->single[spare]);
	free(s->first);
	free(s->counts);
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
static bool each_fits(struct searching *s)
{
	const struct fit_problem *problem = s->problem;
	cleanup_free unsigned *one = xcalloc(problem->n_classes, sizeof(*one));
	unsigned degraded[FIT_UNITS_MAX];

	for (size_t c = 0; c < problem->n_classes; c++) {
		struct place_cost cost;
		bool fits = false;
		one[c] = 1;
		for (size_t n = 0; n < problem->n_nodes && !fits; n++)
			fits = fit_node_cost(s, n, one, problem->pools, degraded, &cost);
		one[c] = 0;
		if (!fits)
			return false;
	}
	return true;
}

/* Looks for a solution as cheap as the bound; if there is none for the cheapest; and for the first
 * one of that cost. Each may take a part of the effort. */
static bool search(struct searching *s, struct place_cost *least)
{
	uint64_t part = s->problem->effort / 4;
	struct place_cost most;
	bool found;

	memset(&most, 0xff, sizeof(most));
	s->effort = s->work + part;
	if (s->problem->any)
		return run(s, &most, true);
	if (run(s, least, true))
		return true;
	s->cut = false;
	s->effort = s->work + part;
	found = run(s, &most, false);
	if (!found)
		return false;
	most = s->best;
	s->effort = s->work + part;
	run(s, &most, true); /* what was found is kept, if this one is cut */
	return true;
}

bool fit_search(const struct fit_problem *problem, const bool *banned,
                struct fit_solution *solution)
{
	__attribute__((cleanup(end))) struct searching s = { .problem = problem, .banned = banned };
	struct place_cost least;

	*solution = (struct fit_solution){ 0 };
	s.effort = problem->effort / 4;
	prepare(&s);
	if (!each_fits(&s) || !fit_bound(&s, 0, s.left, &least))
		return false;
	least.terms[TERM_SLOW] = problem->slow;
	least.terms[TERM_DISTANCE] += fit_distance_bound(&s, 0, least.terms[TERM_NODES]);
	least.terms[TERM_DEVICES] = fit_devices_bound(&s, 0);
	bool found = search(&s, &least);
	solution->cut = s.cut;
	if (found)
		tell(&s, solution);
	return found;
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
