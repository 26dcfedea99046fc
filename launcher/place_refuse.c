/* Why there is no placement: which demands cannot be had together, and the nearest thing that would
 * fit, in words. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "place_parts.h"
#include "util.h"

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

/* The most steps of vCPUs of the first unit, below what it asks for, that fit together with the
 * rest of the problem; 0: none. `where`: the node that they fit on. */
static unsigned most_vcpus(struct fit_problem *problem, unsigned *where)
{
	unsigned wanted = problem->units[0].vcpus, most = wanted / problem->step, fits = 0;

	while (fits + 1 < most) {
		struct fit_solution solution;
		unsigned next = fits + (most - fits) / 2;
		problem->units[0].vcpus = next * problem->step;
		if (!fit_search(problem, NULL, &solution)) {
			most = next;
			continue;
		}
		fits = next;
		*where = (unsigned)solution.nodes[0];
		fit_solution_free(&solution);
	}
	problem->units[0].vcpus = wanted;
	return fits * problem->step;
}

/* How many of the guest nodes, from the first on, fit together. */
static size_t most_units(struct fit_problem *problem)
{
	size_t fits = 0, most = problem->n_units;

	while (fits + 1 < most) {
		struct fit_solution solution;
		size_t next = fits + (most - fits) / 2;
		problem->n_units = next;
		problem->n_classes = 0;
		for (size_t i = 0; i < next; i++)
			if (problem->units[i].class >= problem->n_classes)
				problem->n_classes = problem->units[i].class + 1;
		if (!fit_search(problem, NULL, &solution)) {
			most = next;
			continue;
		}
		fits = next;
		fit_solution_free(&solution);
	}
	return fits;
}

static bool fits_somewhere(const struct placing *p, const struct fit_problem *problem, size_t unit)
{
	for (size_t n = 0; n < problem->n_nodes; n++) {
		cleanup_free char *reason = place_unit_reason(p, problem, unit, n);
		if (!reason)
			return true;
	}
	return false;
}

/* The first unit that fits on no node, were it alone; n_units: each fits somewhere. */
static size_t first_misfit(const struct placing *p, const struct fit_problem *problem)
{
	size_t unit = 0;

	while (unit < problem->n_units && fits_somewhere(p, problem, unit))
		unit++;
	return unit;
}

/* "6 vCPUs fit on node 1", "the first 7 guest nodes fit", or NULL: nothing like that does. */
static char *fewer(const struct placing *p)
{
	struct fit_problem problem;
	unsigned vcpus, node = 0;
	char *text = NULL;

	if (p->host->n_kinds > 1)
		return NULL;
	place_problem(p, NULL, &problem);
	size_t n_units = problem.n_units, misfit = first_misfit(p, &problem);
	struct fit_problem part = problem;
	part.any = true;
	part.effort /= 50;
	if (n_units > 1 && misfit == n_units) {
		size_t units = most_units(&part);
		if (units)
			text =
			    xasprintf("the first %zu of the %zu guest nodes fit", units, n_units);
	} else {
		struct fit_unit one = problem.units[misfit < n_units ? misfit : 0];
		one.class = 0;
		part.units = &one;
		part.n_units = part.n_classes = 1;
		vcpus = most_vcpus(&part, &node);
		cleanup_free char *whose =
		    n_units > 1 ? xasprintf("guest node %zu: ", misfit) : xstrdup("");
		if (vcpus)
			text = xasprintf("%s%u vCPU%s on node %u", whose, vcpus,
			                 vcpus > 1 ? "s fit" : " fits", p->host->nodes[node].id);
	}
	fit_problem_free(&problem);
	return text;
}

/* Bytes in pages of that size that guest nodes would have on a node where plain ones would do. */
static uint64_t huge_bytes(const struct placing *p, const struct fit_problem *problem,
                           const struct fit_solution *solution, size_t node, uint64_t page_size)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < problem->n_units; i++)
		if (solution->nodes[i] == node && p->plan->memory[i].pages == PAGES_HUGE &&
		    p->plan->memory[i].page_size == page_size)
			bytes += problem->units[i].memory;
	return bytes;
}

/* The commands that reserve what pages the nodes lack on which all the rest fits; NULL: none. */
static char *reserve_commands(const struct placing *p)
{
	struct placing other = *p;
	struct fit_problem problem;
	struct fit_solution solution;
	char *text = NULL;

	other.waived = 1U << DEMAND_PAGES;
	place_problem(&other, NULL, &problem);
	bool fits = fit_search(&problem, NULL, &solution);
	for (size_t n = 0; fits && n < problem.n_nodes; n++) {
		const struct host_node *node = &p->host->nodes[n];
		for (size_t i = 0; i < node->n_pages; i++) {
			const struct host_pages *pages = &node->pages[i];
			uint64_t needed = huge_bytes(p, &problem, &solution, n, pages->size);
			uint64_t free = place_memory_free(p, node, PAGES_HUGE, pages->size);
			if (needed <= free)
				continue;
			cleanup_free char *before = text;
			text = xasprintf("%s%secho %" PRIu64
			                 " > /sys/devices/system/node/node%u/hugepages/"
			                 "hugepages-%" PRIu64 "kB/nr_hugepages",
			                 before ? before : "", before ? "; " : "",
			                 pages->total + (needed - free) / pages->size, node->id,
			                 pages->size / 1024);
		}
	}
	if (fits)
		fit_solution_free(&solution);
	fit_problem_free(&problem);
	return text;
}

/* What would do: fewer vCPUs, or one demand less; only one of the conflict can be enough. */
static char *nearest(const struct placing *p, unsigned conflict)
{
	cleanup_free char *less = fewer(p);
	unsigned enough = 0;

	for (enum demand demand = 0; demand < N_DEMANDS; demand++)
		if ((conflict & 1U << demand) && possible_without(p, 1U << demand))
			enough |= 1U << demand;
	cleanup_free char *plain = enough ? list_demands(p, enough, "", " or ", true) : NULL;
	cleanup_free char *commands = enough & 1U << DEMAND_PAGES ? reserve_commands(p) : NULL;
	cleanup_free char *without =
	    !commands ? take_pointer(&plain)
	              : xasprintf("%s, or huge pages reserved for it (%s; or "
	                          "\"reserve\": \"grow\" in memory-backing.hugepages)",
	                          plain, commands);
	if (less && without && p->plan->n_memory == 1)
		return xasprintf("%s; %zu need %s", less, p->plan->n_vcpus, without);
	if (less && without)
		return xasprintf("%s; all of it does with %s", less, without);
	if (without)
		return xasprintf("it fits with %s", without);
	return less ? take_pointer(&less) : xstrdup("ask for less");
}

/* What is free on a node for guest nodes that each fit somewhere. */
static char *what_is_free(const struct fit_problem *problem, size_t node)
{
	const uint64_t *pools = problem->pools + problem->nodes[node].home * problem->n_pools;
	cleanup_free char *memory = format_size(pools[problem->units[0].pool]);

	unsigned capacity = problem->nodes[node].capacity;

	return xasprintf("%u CPU%s and %s free", capacity, plural(capacity), memory);
}

/* Each node, and why it does not do: for the first unit that fits nowhere; if each fits somewhere,
 * what is free. */
static char *all_reasons(const struct placing *p, const struct fit_problem *problem)
{
	cleanup_free char **reasons = xcalloc(problem->n_nodes, sizeof(*reasons));
	size_t unit = first_misfit(p, problem), length;
	bool alone = unit < problem->n_units;
	cleanup_free char *who = place_unit_name(p, alone ? unit : 0);
	const char *separator = ":";
	unsigned vcpus = 0;
	char *text = NULL;
	FILE *out = xmemstream(&text, &length);

	for (size_t i = 0; i < problem->n_units; i++)
		vcpus += problem->units[i].vcpus;
	if (alone)
		fprintf(out, "no host node has room for %s", who);
	else if (problem->n_units > 1)
		fprintf(out, "no host nodes have room for all %zu guest nodes (%u vCPU%s)",
		        problem->n_units, vcpus, plural(vcpus));
	else
		fprintf(out, "no host node will do for %s (%u vCPU%s)", who, vcpus, plural(vcpus));
	for (size_t n = 0; n < problem->n_nodes; n++)
		reasons[n] =
		    alone ? place_unit_reason(p, problem, unit, n) : what_is_free(problem, n);
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
		if (!reason)
			continue;
		fprintf(out, "%s node%s %s: %s", separator,
		        hwloc_bitmap_weight(same) > 1 ? "s" : "", list, reason);
		separator = ";";
	}
	fclose(out);
	return text;
}

int place_refuse(struct placing *p, const struct fit_problem *problem, struct error *err)
{
	unsigned made = made_demands(p), conflict = smallest_conflict(p, made);
	cleanup_free char *reasons = all_reasons(p, problem);
	cleanup_free char *first =
	    xasprintf("%zu %svCPU%s", p->plan->n_vcpus, problem->dedicated ? "dedicated " : "",
	              plural(p->plan->n_vcpus));
	cleanup_free char *what = list_demands(p, conflict, first, " and ", false);
	cleanup_free char *instead = nearest(p, conflict);

	return error_set(err, EXIT_GRANT, "%s; %s %s; %s", reasons, what,
	                 conflict                ? "cannot be had together"
	                 : p->plan->n_vcpus == 1 ? "is more than this host can give"
	                                         : "are more than this host can give",
	                 instead);
}
