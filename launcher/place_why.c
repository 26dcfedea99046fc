/* Why placement chose what it chose, in words. */
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "place_parts.h"
#include "util.h"

char *place_unit_name(const struct placing *p, size_t unit)
{
	if (p->plan->memory[unit].guest_node < 0)
		return xstrdup("the VM");
	return xasprintf("guest node %d", p->plan->memory[unit].guest_node);
}

/* "2MiB, 1GiB": the huge pages that a node knows; "" if it knows none. */
static char *page_sizes(const struct host_node *node)
{
	char *text = xstrdup("");

	for (size_t i = 0; i < node->n_pages; i++) {
		cleanup_free char *size = format_size(node->pages[i].size);
		char *longer = xasprintf("%s%s%s", text, *text ? ", " : "", size);
		free(text);
		text = longer;
	}
	return text;
}

/* Why the pages of a unit are not to be had on its node. */
static char *lacking_pages(const struct plan_memory *region, const struct host_node *node,
                           uint64_t needed_bytes, uint64_t free_bytes)
{
	cleanup_free char *pages = plan_pages_name(region);
	cleanup_free char *needed = format_size(needed_bytes);
	cleanup_free char *available = format_size(free_bytes);

	if (region->pages != PAGES_HUGE || host_node_pages(node, region->page_size))
		return xasprintf("%s of %s pages free, %s needed", available, pages, needed);
	cleanup_free char *known = page_sizes(node);
	return xasprintf("no huge pages of %s%s%s", pages, *known ? ", only of " : "", known);
}

char *place_unit_reason(const struct placing *p, const struct fit_problem *problem, size_t unit,
                        size_t node)
{
	const struct fit_unit *what = &problem->units[unit];
	const struct fit_node *where = &problem->nodes[node];
	const struct plan_memory *region = &p->plan->memory[unit];
	const uint64_t *pools = problem->pools + where->home * problem->n_pools;

	if (!what->may[node])
		return xstrdup("the spec names CPUs or memory of another node");
	if (problem->dedicated ? what->vcpus > where->capacity : what->vcpus && !where->has_cpus)
		return xasprintf("%u CPU%s free%s, %u needed", where->capacity,
		                 plural(where->capacity),
		                 problem->isolate    ? " on cores of their own"
		                 : problem->step > 1 ? " in whole sets of siblings"
		                                     : "",
		                 what->vcpus);
	if (what->memory <= pools[what->pool] || (what->may_degrade && what->memory <= pools[0]))
		return NULL;
	return lacking_pages(region, &p->host->nodes[where->home], what->memory, pools[what->pool]);
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

/* Of more nodes than this only the last is done without: the runner-up is one of very many. */
#define RUNNER_UP_NODES 4

/* The best solution without one of the nodes, of equal ones the one on the lowest. `problem` may
 * take little effort. */
static bool find_runner_up(const struct fit_problem *problem, const bool *used, size_t n_used,
                           struct fit_solution *best)
{
	cleanup_free bool *banned = xcalloc(problem->n_nodes, sizeof(*banned));
	bool found = false;

	for (size_t n = problem->n_nodes; n-- > 0;) {
		struct fit_solution next;
		if (!used[n])
			continue;
		banned[n] = true;
		bool possible = fit_search(problem, banned, &next);
		banned[n] = false;
		if (possible && found && place_cost_compare(&best->cost, &next.cost) <= 0) {
			fit_solution_free(&next);
		} else if (possible) {
			if (found)
				fit_solution_free(best);
			*best = next;
			found = true;
		}
		if (n_used > RUNNER_UP_NODES)
			break;
	}
	return found;
}

static void explain_runner_up(struct placing *p, const struct fit_problem *problem,
                              const struct fit_solution *solution, const bool *used)
{
	size_t n_used = solution->cost.terms[TERM_NODES];
	struct fit_problem little = *problem;
	struct fit_solution best;

	little.effort /= n_used > RUNNER_UP_NODES ? 200 : 20;
	if (!find_runner_up(&little, used, n_used, &best)) {
		plan_why(p->plan, "runner-up: none%s",
		         n_used > RUNNER_UP_NODES ? " was found without the last of these nodes"
		                                  : "");
		return;
	}
	cleanup_free char *nodes = nodes_text(p, problem, &best);
	cleanup_free char *lost = lost_on(solution, &best);
	plan_why(p->plan, "runner-up: %s; lost on %s", nodes, lost);
	fit_solution_free(&best);
}

/* What is free on a node that was not needed. */
static char *room_text(const struct placing *p, const struct fit_problem *problem, size_t node)
{
	const uint64_t *pools = problem->pools + problem->nodes[node].home * problem->n_pools;
	unsigned capacity = problem->nodes[node].capacity;
	size_t unit = 0;

	while (unit + 1 < problem->n_units) {
		cleanup_free char *reason = place_unit_reason(p, problem, unit, node);
		if (!reason)
			break;
		unit++;
	}
	cleanup_free char *who = place_unit_name(p, unit);
	cleanup_free char *memory = format_size(pools[problem->units[unit].pool]);
	unsigned vcpus = problem->units[unit].vcpus;
	return xasprintf(
	    "%u CPU%s and %s free, room for %s (%u vCPU%s); others together are better", capacity,
	    plural(capacity), memory, who, vcpus, plural(vcpus));
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
		char *next = place_unit_reason(p, problem, i, node);
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
		return room_text(p, problem, node);
	banned = xcalloc(problem->n_nodes, sizeof(*banned));
	for (size_t n = 0; n < problem->n_nodes; n++)
		banned[n] = n != node;
	if (!fit_search(problem, banned, &alone))
		return xasprintf("has %u CPU%s free, but not room for all",
		                 problem->nodes[node].capacity,
		                 plural(problem->nodes[node].capacity));
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
		cleanup_free char *who = place_unit_name(p, i);
		const struct fit_node *node = &problem->nodes[solution->nodes[i]];
		unsigned vcpus = problem->units[i].vcpus;
		plan_why(p->plan, "%s: host node %u, with %u CPU%s free for %u vCPU%s", who,
		         p->host->nodes[solution->nodes[i]].id, node->capacity,
		         plural(node->capacity), vcpus, plural(vcpus));
	}
	if (p->made_nodes)
		plan_why(p->plan, "the guest has %zu nodes, as it fits on no single host node",
		         problem->n_units);
	if (p->host->n_nodes < 2)
		return;
	explain_runner_up(p, problem, solution, used);
	explain_rejected(p, problem, solution, used);
}
