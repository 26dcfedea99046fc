/* Why placement chose what it chose, in words. */
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "place_parts.h"
#include "util.h"

static char *unit_name(const struct placing *p, size_t unit)
{
	if (p->plan->memory[unit].guest_node < 0)
		return xstrdup("the VM");
	return xasprintf("guest node %d", p->plan->memory[unit].guest_node);
}

/* Why the unit does not fit on the node, were it alone there; NULL: it does. */
static char *unit_reason(const struct placing *p, const struct fit_problem *problem, size_t unit,
                         size_t node)
{
	const struct fit_unit *what = &problem->units[unit];
	const struct fit_node *where = &problem->nodes[node];
	const struct plan_memory *region = &p->plan->memory[unit];
	const uint64_t *pools = problem->pools + where->home * problem->n_pools;

	if (!what->may[node])
		return xstrdup("the spec names CPUs or memory of another node");
	if (problem->dedicated ? what->vcpus > where->capacity : what->vcpus && !where->has_cpus)
		return xasprintf("%u CPUs free%s, %u needed", where->capacity,
		                 problem->isolate    ? " on cores of their own"
		                 : problem->step > 1 ? " in whole sets of siblings"
		                                     : "",
		                 what->vcpus);
	if (what->memory <= pools[what->pool] || (what->may_degrade && what->memory <= pools[0]))
		return NULL;
	cleanup_free char *pages = plan_pages_name(region);
	cleanup_free char *needed = format_size(what->memory);
	cleanup_free char *available = format_size(pools[what->pool]);
	return xasprintf("%s of %s pages free, %s needed", available, pages, needed);
}

/* ---- the choice, the runner-up, and the nodes that were rejected ---- */

static char *nodes_text(const struct placing *p, const struct fit_problem *problem,
                        const struct fit_solution *solution)
{
	cleanup_bitmap hwloc_bitmap_t nodes = xbitmap();

	for (size_t i = 0; i < problem->n_units; i++)
		hwloc_bitmap_set(nodes, p->host->nodes[solution->nodes[i]].id);
	cleanup_free char *list = cpulist_format(nodes);
	return xasprintf("host node%s %s", hwloc_bitmap_weight(nodes) > 1 ? "s" : "", list);
}

/* "CPUs left over on its nodes: 12, not 8" */
static char *lost_on(const struct fit_solution *best, const struct fit_solution *other)
{
	enum place_term term = place_cost_difference(&best->cost, &other->cost);

	if (term == N_TERMS)
		return xstrdup("nothing but its higher number");
	return xasprintf("%s: %u, not %u", place_term_name(term), other->cost.terms[term],
	                 best->cost.terms[term]);
}

static bool *used_nodes(const struct fit_problem *problem, const struct fit_solution *solution)
{
	bool *used = xcalloc(problem->n_nodes, sizeof(*used));

	for (size_t i = 0; i < problem->n_units; i++)
		used[solution->nodes[i]] = true;
	return used;
}

/* Who needs more nodes than this is told of no runner-up: it would be one of very many. */
#define RUNNER_UP_NODES 4

/* The best solution that does without one of the nodes. */
static void explain_runner_up(struct placing *p, const struct fit_problem *problem,
                              const struct fit_solution *solution, const bool *used)
{
	cleanup_free bool *banned = xcalloc(problem->n_nodes, sizeof(*banned));
	struct fit_solution best = { 0 };
	bool found = false;

	if (solution->cost.terms[TERM_NODES] > RUNNER_UP_NODES)
		return;
	for (size_t n = 0; n < problem->n_nodes; n++) {
		struct fit_solution next;
		if (!used[n])
			continue;
		banned[n] = true;
		bool possible = fit_search(problem, banned, &next);
		banned[n] = false;
		if (!possible)
			continue;
		if (found && place_cost_compare(&best.cost, &next.cost) <= 0) {
			fit_solution_free(&next);
			continue;
		}
		fit_solution_free(&best);
		best = next;
		found = true;
	}
	if (!found) {
		plan_why(p->plan, "runner-up: none");
		return;
	}
	cleanup_free char *nodes = nodes_text(p, problem, &best);
	cleanup_free char *lost = lost_on(solution, &best);
	plan_why(p->plan, "runner-up: %s; lost on %s", nodes, lost);
	fit_solution_free(&best);
}

/* Why nothing is on this node: the reason why the easiest unit does not fit there, or, where one
 * does, why it is elsewhere. */
static char *rejection(const struct placing *p, const struct fit_problem *problem,
                       const struct fit_solution *solution, size_t node)
{
	cleanup_free bool *banned = NULL;
	struct fit_solution alone;
	char *reason = NULL;

	for (size_t i = 0; i < problem->n_units; i++) {
		char *next = unit_reason(p, problem, i, node);
		bool fits = !next;
		if (fits || (reason && problem->units[i].vcpus >= problem->units[0].vcpus))
			free(next);
		else
			free(reason), reason = next;
		if (!fits)
			continue;
		free(reason);
		reason = NULL;
		break;
	}
	if (reason)
		return reason;
	if (solution->cost.terms[TERM_NODES] > 1)
		return xstrdup("has room, but is not among the best");
	banned = xcalloc(problem->n_nodes, sizeof(*banned));
	for (size_t n = 0; n < problem->n_nodes; n++)
		banned[n] = n != node;
	if (!fit_search(problem, banned, &alone))
		return xasprintf("has %u CPUs free, but not room for all",
		                 problem->nodes[node].capacity);
	cleanup_free char *lost = lost_on(solution, &alone);
	fit_solution_free(&alone);
	return xasprintf("fits; lost on %s", lost);
}

/* Nodes that are rejected for the same reason are told of together. */
static void explain_rejected(struct placing *p, const struct fit_problem *problem,
                             const struct fit_solution *solution, const bool *used)
{
	size_t n_nodes = problem->n_nodes;
	cleanup_free char **reasons = xcalloc(n_nodes, sizeof(*reasons));

	for (size_t n = 0; n < n_nodes; n++) {
		size_t twin = problem->nodes[n].twin;
		if (!used[n])
			reasons[n] = twin != n && reasons[twin]
			                 ? xstrdup(reasons[twin])
			                 : rejection(p, problem, solution, n);
	}
	for (size_t n = 0; n < n_nodes; n++) {
		cleanup_bitmap hwloc_bitmap_t same = xbitmap();
		cleanup_free char *reason = take_pointer(&reasons[n]);
		if (!reason)
			continue;
		hwloc_bitmap_set(same, p->host->nodes[n].id);
		for (size_t m = n + 1; m < n_nodes; m++) {
			if (!reasons[m] || strcmp(reasons[m], reason) != 0)
				continue;
			hwloc_bitmap_set(same, p->host->nodes[m].id);
			free(take_pointer(&reasons[m]));
		}
		cleanup_free char *list = cpulist_format(same);
		plan_why(p->plan, "rejected: host node%s %s: %s",
		         hwloc_bitmap_weight(same) > 1 ? "s" : "", list, reason);
	}
}

void place_explain(struct placing *p, const struct fit_problem *problem,
                   const struct fit_solution *solution)
{
	cleanup_free bool *used = used_nodes(problem, solution);

	for (size_t i = 0; i < problem->n_units; i++) {
		cleanup_free char *who = unit_name(p, i);
		const struct fit_node *node = &problem->nodes[solution->nodes[i]];
		plan_why(p->plan, "%s: host node %u, with %u CPUs free for %u vCPUs", who,
		         p->host->nodes[solution->nodes[i]].id, node->capacity,
		         problem->units[i].vcpus);
	}
	if (p->made_nodes)
		plan_why(p->plan, "the guest has %zu nodes, as it fits on no single host node",
		         problem->n_units);
	if (p->host->n_nodes < 2)
		return;
	explain_runner_up(p, problem, solution, used);
	explain_rejected(p, problem, solution, used);
}

/* ---- no answer ---- */

/* What the user calls a demand, and how to do without it. */
static const struct {
	const char *name, *instead;
} demands[N_DEMANDS] = {
	[DEMAND_MEMORY] = { "its memory", "less memory" },
	[DEMAND_PAGES] = { "its huge pages", "plain pages" },
	[DEMAND_BOUND] = { "its pins and host-nodes", "other pins and host-nodes" },
	[DEMAND_SMT] = { "its smt policy", "`smt: prefer`" },
	[DEMAND_EMULATOR] = { "emulator: isolate", "`emulator: share`" },
	[DEMAND_KIND] = { "cores of one kind", "pins to several kinds of cores" },
	[DEMAND_RESERVE] = { "the CPUs kept for the host", "`--reserve 0`" },
	[DEMAND_CLAIMS] = { "what other VMs hold", "other VMs stopped (`ancla host`)" },
};

/* The demands that this VM makes at all. */
static unsigned made_demands(const struct placing *p)
{
	unsigned made = 1U << DEMAND_MEMORY;
	const struct spec *spec = p->spec;

	for (size_t i = 0; i < p->plan->n_memory; i++) {
		made |= (p->plan->memory[i].pages == PAGES_HUGE) << DEMAND_PAGES;
		made |= (p->plan->memory[i].host_nodes != NULL) << DEMAND_BOUND;
	}
	made |= !hwloc_bitmap_iszero(p->pinned_vcpus) << DEMAND_BOUND;
	made |= (p->plan->smt == SMT_ISOLATE || p->plan->smt == SMT_REQUIRE) << DEMAND_SMT;
	made |= (spec->placement.emulator == EMULATOR_ISOLATE) << DEMAND_EMULATOR;
	made |= (p->host->n_kinds > 1) << DEMAND_KIND;
	made |= !hwloc_bitmap_iszero(p->reserve) << DEMAND_RESERVE;
	made |= (p->claims && p->claims->count) << DEMAND_CLAIMS;
	return made;
}

/* Whether the VM can be placed if these demands do not count. */
static bool possible_without(const struct placing *p, unsigned waived)
{
	struct placing other = *p;
	cleanup_bitmap hwloc_bitmap_t none = xbitmap();

	other.waived = waived;
	other.any = true;
	if (waived & 1U << DEMAND_RESERVE)
		other.reserve = none;
	if (waived & 1U << DEMAND_CLAIMS)
		other.free = other.unheld = p->host->allowed;
	return place_possible(&other);
}

/* The smallest set of demands that cannot be had together; of equal ones the first. */
static unsigned smallest_conflict(const struct placing *p, unsigned made)
{
	for (int size = 0; size < N_DEMANDS; size++)
		for (unsigned kept = 0; kept < 1U << N_DEMANDS; kept++)
			if ((kept & ~made) == 0 && __builtin_popcount(kept) == size &&
			    !possible_without(p, made & ~kept))
				return kept;
	return made;
}

static const char *demand_name(const struct placing *p, enum demand demand)
{
	if (demand != DEMAND_SMT)
		return demands[demand].name;
	return p->plan->smt == SMT_REQUIRE ? "smt: require" : "smt: isolate";
}

/* The words of a set of demands, "a, b and c". */
static char *list_demands(const struct placing *p, unsigned set, const char *first,
                          const char *last, bool instead)
{
	char *text = xstrdup(first);

	for (enum demand demand = 0; demand < N_DEMANDS; demand++) {
		if (!(set & 1U << demand))
			continue;
		bool end = (set >> demand) == 1;
		char *longer =
		    xasprintf("%s%s%s", text,
		              !*text ? ""
		              : end  ? last
		                     : ", ",
		              instead ? demands[demand].instead : demand_name(p, demand));
		free(text);
		text = longer;
	}
	return text;
}

/* "6 vCPUs fit on node 1", or NULL: not even one does. */
static char *fewer_vcpus(const struct placing *p)
{
	struct fit_problem problem;
	struct fit_solution solution;
	char *text = NULL;
	unsigned fits = 0, most;

	if (p->plan->n_memory != 1 || p->host->n_kinds > 1)
		return NULL;
	place_problem(p, NULL, &problem);
	problem.any = true;
	most = problem.units[0].vcpus / problem.step;
	/* fits: the most that are known to, in steps; most: the least that are known not to. */
	while (fits + 1 < most) {
		unsigned next = fits + (most - fits) / 2;
		problem.units[0].vcpus = next * problem.step;
		if (!fit_search(&problem, NULL, &solution)) {
			most = next;
			continue;
		}
		fits = next;
		free(text);
		text = xasprintf("%u vCPU%s on node %u", fits * problem.step,
		                 fits * problem.step > 1 ? "s fit" : " fits",
		                 p->host->nodes[solution.nodes[0]].id);
		fit_solution_free(&solution);
	}
	fit_problem_free(&problem);
	return text;
}

/* What would do: fewer vCPUs, or one demand less; only one of the conflict can be enough. */
static char *nearest(const struct placing *p, unsigned conflict)
{
	cleanup_free char *fewer = fewer_vcpus(p);
	unsigned enough = 0;

	for (enum demand demand = 0; demand < N_DEMANDS; demand++)
		if ((conflict & 1U << demand) && possible_without(p, 1U << demand))
			enough |= 1U << demand;
	cleanup_free char *without = enough ? list_demands(p, enough, "", " or ", true) : NULL;
	if (fewer && without)
		return xasprintf("%s; %zu need %s", fewer, p->plan->n_vcpus, without);
	if (without)
		return xasprintf("it fits with %s", without);
	return fewer ? take_pointer(&fewer) : xstrdup("ask for less");
}

/* Each node, and why it does not do: for the first unit that fits nowhere, or for the first. */
static char *all_reasons(const struct placing *p, const struct fit_problem *problem)
{
	cleanup_free char **reasons = xcalloc(problem->n_nodes, sizeof(*reasons));
	char *text = NULL;
	size_t unit = 0, length;

	for (size_t i = problem->n_units; i-- > 0;) {
		bool somewhere = false;
		for (size_t n = 0; n < problem->n_nodes && !somewhere; n++) {
			cleanup_free char *reason = unit_reason(p, problem, i, n);
			somewhere = !reason;
		}
		unit = somewhere ? unit : i;
	}
	cleanup_free char *who = unit_name(p, unit);
	FILE *out = open_memstream(&text, &length);
	fprintf(out, "no host node has room for %s", who);
	for (size_t n = 0; n < problem->n_nodes; n++)
		reasons[n] = unit_reason(p, problem, unit, n);
	for (size_t n = 0; n < problem->n_nodes; n++) {
		cleanup_bitmap hwloc_bitmap_t same = xbitmap();
		cleanup_free char *reason = take_pointer(&reasons[n]);
		hwloc_bitmap_set(same, p->host->nodes[n].id);
		for (size_t m = n + 1; reason && m < problem->n_nodes; m++)
			if (reasons[m] && strcmp(reasons[m], reason) == 0) {
				hwloc_bitmap_set(same, p->host->nodes[m].id);
				free(take_pointer(&reasons[m]));
			}
		cleanup_free char *list = cpulist_format(same);
		if (reason)
			fprintf(out, "%s node%s %s: %s", n ? ";" : ":",
			        hwloc_bitmap_weight(same) > 1 ? "s" : "", list, reason);
	}
	fclose(out);
	return text;
}

int place_refuse(struct placing *p, const struct fit_problem *problem, struct error *err)
{
	unsigned made = made_demands(p), conflict = smallest_conflict(p, made);
	cleanup_free char *reasons = all_reasons(p, problem);
	cleanup_free char *first =
	    xasprintf("%zu %svCPUs", p->plan->n_vcpus, problem->dedicated ? "dedicated " : "");
	cleanup_free char *what = list_demands(p, conflict, first, " and ", false);
	cleanup_free char *instead = nearest(p, conflict);

	return error_set(err, EXIT_GRANT, "%s; %s %s; %s", reasons, what,
	                 conflict ? "cannot be had together" : "are more than this host can give",
	                 instead);
}
