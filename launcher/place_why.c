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
		                 problem->isolate ? " on cores of their own" : "", what->vcpus);
	if (what->memory <= pools[what->pool] || (what->may_degrade && what->memory <= pools[0]))
		return NULL;
	cleanup_free char *pages = plan_pages_name(region);
	cleanup_free char *needed = format_size(what->memory);
	cleanup_free char *available = format_size(pools[what->pool]);
	return xasprintf("%s of %s pages free, %s needed", available, pages, needed);
}

void place_explain(struct placing *p, const struct fit_problem *problem,
                   const struct fit_solution *solution)
{
	for (size_t i = 0; i < problem->n_units; i++) {
		cleanup_free char *who = unit_name(p, i);
		plan_why(p->plan, "%s: host node %u, with %u CPUs free for %u vCPUs", who,
		         p->host->nodes[solution->nodes[i]].id,
		         problem->nodes[solution->nodes[i]].capacity, problem->units[i].vcpus);
	}
}

int place_refuse(const struct placing *p, const struct fit_problem *problem, struct error *err)
{
	cleanup_free char *reasons = xstrdup("");

	for (size_t n = 0; n < problem->n_nodes; n++) {
		cleanup_free char *reason = unit_reason(p, problem, 0, n);
		char *longer =
		    xasprintf("%s%snode %u: %s", reasons, *reasons ? "; " : "",
		              p->host->nodes[n].id, reason ? reason : "has room for it alone");
		free(reasons);
		reasons = longer;
	}
	return error_set(err, EXIT_GRANT, "no host node has room for the VM: %s", reasons);
}
