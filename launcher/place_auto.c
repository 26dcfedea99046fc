/* Automatic placement: asks the search, and makes its answer a plan. */
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "place_parts.h"
#include "util.h"

/* ---- vCPUs ---- */

/* The CPUs of a core that are given to vCPUs: isolated ones first, then by number. */
static void take_cpus(struct placing *p, const struct fit_core *core, unsigned amount,
                      hwloc_const_bitmap_t available, unsigned *cpus, size_t *count)
{
	const struct host_core *host_core = &p->host->cores[core->core];
	unsigned cpu;

	for (int isolated = 1; isolated >= 0; isolated--)
		hwloc_bitmap_foreach_begin(cpu, host_core->cpus)
		{
			if (!amount || !hwloc_bitmap_isset(available, cpu) ||
			    hwloc_bitmap_isset(p->host->isolated, cpu) != isolated)
				continue;
			cpus[(*count)++] = cpu;
			amount--;
			if (p->plan->smt != SMT_ISOLATE)
				continue;
			hwloc_bitmap_or(p->plan->siblings, p->plan->siblings, host_core->cpus);
			hwloc_bitmap_clr(p->plan->siblings, cpu);
		}
	hwloc_bitmap_foreach_end();
}

static bool is_of_unit(const struct placing *p, const struct plan_vcpu *vcpu, size_t unit)
{
	int guest_node = p->plan->memory[unit].guest_node;

	return guest_node < 0 || vcpu->guest_node == guest_node;
}

/* The unit's next vCPUs that have no CPU get these, one each. */
static void give_cpus(struct placing *p, size_t unit, const unsigned *cpus, size_t count)
{
	for (size_t i = 0; count && i < p->plan->n_vcpus; i++) {
		struct plan_vcpu *vcpu = &p->plan->vcpus[i];
		if (vcpu->cpus || !is_of_unit(p, vcpu, unit))
			continue;
		vcpu->cpus = xbitmap();
		hwloc_bitmap_only(vcpu->cpus, *cpus++);
		count--;
	}
}

static int compare_by_number(const void *a, const void *b, void *given)
{
	const struct fit_core *cores = given;
	unsigned left = cores[*(const size_t *)a].core, right = cores[*(const size_t *)b].core;

	return left < right ? -1 : left > right;
}

/* One L3 group: its cores in the order of their numbers, to the units in theirs. */
static void give_group(struct placing *p, const struct fit_problem *problem,
                       const struct fit_group *group, const struct fit_choice *choice,
                       size_t column, const size_t *units, size_t n_units, size_t width,
                       hwloc_const_bitmap_t available)
{
	cleanup_free unsigned *given = xcalloc(group->count + 1, sizeof(*given));
	cleanup_free unsigned *cpus = xcalloc(group->capacity + 1, sizeof(*cpus));
	cleanup_free size_t *order = xcalloc(group->count + 1, sizeof(*order));
	size_t count = 0, next = 0;
	unsigned amount = 0;

	for (size_t i = 0; i < n_units; i++)
		amount += choice->amounts[i * width + column];
	fit_group_cores(problem, group, amount, choice, given);
	for (size_t i = 0; i < group->count; i++)
		order[i] = group->first + i;
	qsort_r(order, group->count, sizeof(*order), compare_by_number, problem->cores);
	for (size_t i = 0; i < group->count; i++)
		take_cpus(p, &problem->cores[order[i]], given[order[i] - group->first], available,
		          cpus, &count);
	for (size_t i = 0; i < n_units; i++) {
		unsigned share = choice->amounts[i * width + column];
		give_cpus(p, units[i], cpus + next, share);
		next += share;
	}
}

static enum fit_spare spare_on(const struct fit_solution *solution, size_t node)
{
	if (solution->emulator_node != node)
		return SPARE_NOTHING;
	return solution->cost.terms[TERM_EMULATOR] == EMULATOR_NEAR ? SPARE_CORE : SPARE_CPU;
}

static void give_dedicated(struct placing *p, const struct fit_problem *problem,
                           const struct fit_solution *solution, hwloc_const_bitmap_t available)
{
	cleanup_free size_t *units = xcalloc(problem->n_units, sizeof(*units));

	for (size_t n = 0; n < problem->n_nodes; n++) {
		const struct fit_node *node = &problem->nodes[n];
		struct fit_choice choice = { 0 };
		size_t count = 0;
		for (size_t i = 0; i < problem->n_units; i++)
			if (solution->nodes[i] == n)
				units[count++] = i;
		if (count == 0 || !fit_cpus(problem, n, units, count, spare_on(solution, n),
		                            FIT_STEPS_MAX, &choice))
			continue;
		for (size_t g = 0; g < node->count; g++)
			give_group(p, problem, &problem->groups[node->first + g], &choice, g, units,
			           count, node->count, available);
		free(choice.amounts);
	}
}

static void give_shared(struct placing *p, const struct fit_problem *problem,
                        const struct fit_solution *solution, hwloc_const_bitmap_t available)
{
	for (size_t unit = 0; unit < problem->n_units; unit++)
		for (size_t i = 0; i < p->plan->n_vcpus; i++) {
			struct plan_vcpu *vcpu = &p->plan->vcpus[i];
			if (vcpu->cpus || !is_of_unit(p, vcpu, unit))
				continue;
			vcpu->cpus = xbitmap();
			hwloc_bitmap_and(vcpu->cpus, p->host->nodes[solution->nodes[unit]].cpus,
			                 available);
		}
}

static void warn_of_overcommit(struct placing *p, const struct fit_problem *problem,
                               const struct fit_solution *solution)
{
	for (size_t n = 0; n < problem->n_nodes; n++) {
		unsigned vcpus = 0;
		for (size_t i = 0; i < problem->n_units; i++)
			vcpus += solution->nodes[i] == n ? problem->units[i].vcpus : 0;
		if (vcpus > problem->nodes[n].capacity)
			plan_warn(p->plan, "%u vCPU%s share the %u CPU%s of host node %u", vcpus,
			          plural(vcpus), problem->nodes[n].capacity,
			          plural(problem->nodes[n].capacity), p->host->nodes[n].id);
	}
}

/* ---- memory ---- */

static void degrade_unit(struct placing *p, const struct fit_problem *problem, size_t unit,
                         const struct host_node *node)
{
	const struct plan_memory *region = &p->plan->memory[unit];
	size_t index = (size_t)(node - p->host->nodes);
	uint64_t have = problem->pools[index * problem->n_pools + problem->units[unit].pool];
	cleanup_free char *size = format_size(region->page_size);
	cleanup_free char *who = region->guest_node < 0
	                             ? xstrdup("the guest's memory")
	                             : xasprintf("guest node %d", region->guest_node);
	unsigned long long needed = region->size / region->page_size;
	cleanup_free char *message = xasprintf(
	    "%s needs %llu huge page%s of %s on host node %u, which has %llu free", who, needed,
	    plural(needed), size, node->id, (unsigned long long)(have / region->page_size));

	place_degrade(p, unit, message);
}

static void give_memory(struct placing *p, const struct fit_problem *problem,
                        const struct fit_solution *solution)
{
	for (size_t i = 0; i < problem->n_units; i++) {
		struct plan_memory *region = &p->plan->memory[i];
		size_t home = problem->nodes[solution->nodes[i]].home;
		if (region->host_nodes)
			continue;
		if (solution->degraded[i])
			degrade_unit(p, problem, i, &p->host->nodes[home]);
		region->host_nodes = xbitmap();
		hwloc_bitmap_only(region->host_nodes, p->host->nodes[home].id);
		if (region->policy == MEM_POLICY_UNSET)
			region->policy = MEM_POLICY_STRICT;
	}
}

/* ---- the emulator ---- */

/* How many claims of other VMs are on the CPU. */
static unsigned sharers(const struct placing *p, unsigned cpu)
{
	unsigned count = 0;

	for (size_t i = 0; p->claims && i < p->claims->count; i++)
		count += hwloc_bitmap_isset(p->claims->list[i].cpus, cpu);
	return count;
}

/* How far the CPU is from the VM's nodes. */
static unsigned far_from(const struct placing *p, const struct fit_problem *problem,
                         const struct fit_solution *solution, unsigned cpu)
{
	const struct host_node *node = host_node_of_cpu(p->host, cpu);
	unsigned far = UINT32_MAX;

	for (size_t i = 0; node && i < problem->n_units; i++) {
		size_t other = solution->nodes[i];
		unsigned here = node == &p->host->nodes[other] ? 0 : node->distances[other];
		far = here < far ? here : far;
	}
	return far;
}

/* Near; where other VMs' emulators are already, so that fewer CPUs are lost to those who want them
 * alone; beside others rather than on a core that is whole. */
static uint64_t emulator_key(const struct placing *p, const struct fit_problem *problem,
                             const struct fit_solution *solution, unsigned cpu)
{
	const struct host_core *core = host_core_of_cpu(p->host, cpu);
	uint64_t others = sharers(p, cpu);
	bool whole = core && hwloc_bitmap_isincluded(core->cpus, p->unheld);

	return (uint64_t)far_from(p, problem, solution, cpu) << 32 | (uint64_t)(others == 0) << 31 |
	       (uint64_t)whole << 30 | others;
}

static bool has_rank(const struct placing *p, const struct fit_solution *solution, unsigned cpu,
                     hwloc_const_bitmap_t vcpus)
{
	const struct host_core *core = host_core_of_cpu(p->host, cpu);
	bool off = !core || !hwloc_bitmap_intersects(core->cpus, vcpus);

	if (hwloc_bitmap_isset(vcpus, cpu) || hwloc_bitmap_isset(p->plan->siblings, cpu))
		return false;
	/* On another node, a vCPU's sibling is none: that was ranked behind. */
	if (solution->emulator_node == SIZE_MAX)
		return solution->cost.terms[TERM_EMULATOR] != EMULATOR_FAR || off;
	if (!hwloc_bitmap_isset(p->host->nodes[solution->emulator_node].cpus, cpu))
		return false;
	return off || solution->cost.terms[TERM_EMULATOR] == EMULATOR_SIBLING;
}

static void give_emulator(struct placing *p, const struct fit_problem *problem,
                          const struct fit_solution *solution, hwloc_const_bitmap_t vcpus)
{
	static const char *const where[] = {
		[EMULATOR_NEAR] = "off the vCPUs' cores",
		[EMULATOR_FAR] = "on another node, as the VM's has none left",
		[EMULATOR_SIBLING] = "beside a vCPU on its core, as no other core is left",
		[EMULATOR_LAST] = "kept for the host, as no other is left",
	};
	enum emulator_rank rank = solution->cost.terms[TERM_EMULATOR];
	cleanup_bitmap hwloc_bitmap_t spare = xbitmap();
	uint64_t best_key = 0;
	int best = -1;
	unsigned cpu;

	place_spare(p, rank == EMULATOR_LAST, spare);
	hwloc_bitmap_foreach_begin(cpu, spare)
	{
		uint64_t key = emulator_key(p, problem, solution, cpu);
		if (!has_rank(p, solution, cpu, vcpus) || (best >= 0 && key >= best_key))
			continue;
		best = (int)cpu;
		best_key = key;
	}
	hwloc_bitmap_foreach_end();
	hwloc_bitmap_only(p->plan->emulator, (unsigned)best);
	plan_why(p->plan, "emulator: CPU %d, %s", best, where[rank]);
}

static void place_emulator(struct placing *p, const struct fit_problem *problem,
                           const struct fit_solution *solution)
{
	cleanup_bitmap hwloc_bitmap_t vcpus = xbitmap();

	if (p->plan->emulator)
		return;
	for (size_t i = 0; i < p->plan->n_vcpus; i++)
		hwloc_bitmap_or(vcpus, vcpus, p->plan->vcpus[i].cpus);
	p->plan->emulator = xbitmap();
	if (problem->emulator && !solution->cost.terms[TERM_CROWDED]) {
		give_emulator(p, problem, solution, vcpus);
		return;
	}
	cleanup_free char *held = cpulist_format(vcpus);
	if (problem->emulator)
		plan_why(p->plan,
		         "emulator: no CPU is free beside the vCPUs (%s), so it shares theirs",
		         held);
	place_share_emulator(p, vcpus);
}

/* ---- kinds of cores, and guest nodes of our own making ---- */

/* The best solution so far, and its problem. */
struct answer {
	bool found, cut;     /* cut: there may be a better one, or one at all */
	hwloc_bitmap_t kind; /* NULL: all CPUs */
	struct fit_problem problem;
	struct fit_solution solution;
};

static void answer_free(struct answer *answer)
{
	if (answer->found)
		fit_solution_free(&answer->solution);
	fit_problem_free(&answer->problem);
	hwloc_bitmap_free(answer->kind);
	*answer = (struct answer){ 0 };
}

/* Solves the problem for these CPUs, and keeps the solution if it is the best so far. An unsolved
 * problem is kept, too, for the message, while there is no solution. */
static void try_kind(struct placing *p, hwloc_const_bitmap_t kind, unsigned slow,
                     struct answer *answer)
{
	struct answer next = { 0 };

	next.kind = kind ? xbitmap_dup(kind) : NULL;
	place_problem(p, kind, &next.problem);
	next.problem.slow = slow;
	next.found = fit_search(&next.problem, NULL, &next.solution);
	answer->cut = next.cut = answer->cut || next.solution.cut;
	if (answer->problem.nodes &&
	    (!next.found || (answer->found && place_cost_compare(&answer->solution.cost,
	                                                         &next.solution.cost) <= 0))) {
		answer_free(&next);
		return;
	}
	answer_free(answer);
	*answer = next;
}

/* vCPUs that are pinned to several kinds of cores are told to be: the rest may be, too. */
static bool may_mix(const struct placing *p)
{
	size_t kinds = 0;

	for (size_t k = 0; k < p->host->n_kinds; k++)
		kinds += hwloc_bitmap_intersects(p->pinned_vcpus, p->host->kinds[k].cpus);
	return p->host->n_kinds < 2 || kinds > 1 || (p->waived & 1U << DEMAND_KIND);
}

/* One kind of cores after the other, the fastest first; those that hwloc knows no kind of last. */
static void try_kinds(struct placing *p, struct answer *answer)
{
	const struct host *host = p->host;
	cleanup_bitmap hwloc_bitmap_t rest = xbitmap_dup(host->cpus);
	bool pinned = !hwloc_bitmap_iszero(p->pinned_vcpus);

	if (may_mix(p)) {
		try_kind(p, NULL, 0, answer);
		return;
	}
	for (size_t k = host->n_kinds; k-- > 0;) {
		const struct host_kind *kind = &host->kinds[k];
		unsigned slow = kind->efficiency < 0 ? 0 : (unsigned)(host->n_kinds - 1 - k);
		hwloc_bitmap_andnot(rest, rest, kind->cpus);
		if (!pinned || hwloc_bitmap_intersects(p->pinned_vcpus, kind->cpus))
			try_kind(p, kind->cpus, slow, answer);
	}
	if (!hwloc_bitmap_iszero(rest) &&
	    (!pinned || hwloc_bitmap_intersects(p->pinned_vcpus, rest) || !answer->problem.nodes))
		try_kind(p, rest, (unsigned)host->n_kinds, answer);
}

/* Everything that was asked is granted. */
static bool is_granted(const struct answer *answer)
{
	return answer->found && !answer->solution.cost.terms[TERM_OVERCOMMIT] &&
	       !answer->solution.cost.terms[TERM_DEGRADED];
}

/* The spec leaves it to us how many nodes the guest sees. */
static bool may_split(const struct placing *p)
{
	return p->spec->numa.n_nodes == 0 && !p->spec->backing.host_nodes &&
	       p->spec->backing.policy == MEM_POLICY_UNSET && hwloc_bitmap_iszero(p->pinned_vcpus);
}

/* Share number `index` of `count` that are as equal as can be, the first ones larger. */
static uint64_t share_of(uint64_t total, size_t index, size_t count)
{
	return total / count + (index < total % count);
}

/* What guest memory is divided into. */
static uint64_t grain(const struct placing *p)
{
	const struct spec *spec = p->spec;
	uint64_t page =
	    spec->backing.pages.kind == PAGES_HUGE ? spec->backing.pages.size : UINT64_C(2) << 20;

	return spec->memory % page ? p->host->page_size : page;
}

/* Sizes of guest nodes, in vCPUs and in grains. */
struct split {
	size_t count;
	uint64_t vcpus[FIT_UNITS_MAX], pages[FIT_UNITS_MAX];
};

static void split_evenly(const struct placing *p, size_t count, struct split *split)
{
	size_t step = place_step(p);

	*split = (struct split){ .count = count };
	for (size_t i = 0; i < count; i++) {
		split->vcpus[i] = share_of(p->plan->n_vcpus / step, i, count) * step;
		split->pages[i] = share_of(p->spec->memory / grain(p), i, count);
	}
}

/* Makes these guest nodes of the VM; of count 0: back to none. */
static void make_nodes(struct placing *p, const struct split *split)
{
	const struct spec *spec = p->spec;
	struct plan *plan = p->plan;
	size_t next = 0;

	for (size_t i = 0; i < plan->n_memory; i++)
		hwloc_bitmap_free(plan->memory[i].host_nodes);
	free(plan->memory);
	plan->memory = NULL;
	plan->n_memory = 0;
	p->made_nodes = split->count > 0;
	for (size_t i = 0; i < plan->n_vcpus; i++)
		plan->vcpus[i].guest_node = -1;
	if (split->count == 0)
		place_add_region(p, -1, spec->memory, spec->backing.pages, NULL, MEM_POLICY_UNSET,
		                 false);
	for (size_t i = 0; i < split->count; i++) {
		place_add_region(p, (int)i, split->pages[i] * grain(p), spec->backing.pages, NULL,
		                 MEM_POLICY_UNSET, false);
		for (uint64_t n = split->vcpus[i]; n > 0; n--)
			plan->vcpus[next++].guest_node = (int)i;
	}
}

/* Tries these guest nodes; true if they are the best so far: those that grant more than what was
 * before. */
static bool try_split(struct placing *p, const struct split *split, struct answer *answer)
{
	struct answer next = { 0 };

	make_nodes(p, split);
	try_kinds(p, &next);
	answer->cut |= next.cut;
	if (!next.found ||
	    (answer->found &&
	     (place_cost_difference(&next.solution.cost, &answer->solution.cost) > TERM_DEGRADED ||
	      place_cost_compare(&next.solution.cost, &answer->solution.cost) >= 0))) {
		answer_free(&next);
		return false;
	}
	next.cut = answer->cut;
	answer_free(answer);
	*answer = next;
	return true;
}

/* As few guest nodes as it takes to grant everything, of equal size if those fit; if nothing grants
 * all, what grants most. */
static void try_splits(struct placing *p, struct answer *answer)
{
	size_t parts = p->plan->n_vcpus / place_step(p);
	size_t most = p->host->n_nodes < parts ? p->host->n_nodes : parts;
	uint64_t grains = p->spec->memory / grain(p);
	struct split split, best = { 0 };
	struct fit_problem whole;

	most = grains < most ? grains : most; /* none without memory */
	place_problem(p, NULL, &whole);
	for (size_t count = 2; count <= most && count <= FIT_UNITS_MAX && !is_granted(answer);
	     count++) {
		split_evenly(p, count, &split);
		if (try_split(p, &split, answer)) {
			best = split;
			continue;
		}
		if (answer->found)
			continue;
		split = (struct split){ .count = count };
		if (place_uneven(&whole, count, grain(p), grains, split.vcpus, split.pages) &&
		    try_split(p, &split, answer))
			best = split;
	}
	fit_problem_free(&whole);
	make_nodes(p, &best);
}

bool place_possible(struct placing *p)
{
	__attribute__((cleanup(answer_free))) struct answer answer = { 0 };
	bool possible;

	try_kinds(p, &answer);
	if (!answer.found && may_split(p))
		try_splits(p, &answer);
	possible = answer.found;
	if (p->made_nodes)
		make_nodes(p, &(struct split){ 0 });
	return possible;
}

int place_auto(struct placing *p, struct error *err)
{
	__attribute__((cleanup(answer_free))) struct answer answer = { 0 };
	cleanup_bitmap hwloc_bitmap_t available = xbitmap();

	try_kinds(p, &answer);
	if (!is_granted(&answer) && may_split(p))
		try_splits(p, &answer);
	if (!answer.found && answer.cut)
		return error_set(
		    err, EXIT_GRANT,
		    "no placement of the %zu guest nodes was found, but not every way was "
		    "tried: there are too many with so many sizes; give the guest nodes "
		    "fewer sizes, or pin some",
		    p->plan->n_memory);
	if (!answer.found)
		return place_refuse(p, &answer.problem, err);
	place_available(p, answer.kind, available);
	if (answer.cut)
		plan_why(p->plan, "the search was cut off: there are too many ways to place guest "
		                  "nodes of so many sizes; this is the best that was found");
	place_explain(p, &answer.problem, &answer.solution);
	if (answer.problem.dedicated)
		give_dedicated(p, &answer.problem, &answer.solution, available);
	else
		give_shared(p, &answer.problem, &answer.solution, available);
	warn_of_overcommit(p, &answer.problem, &answer.solution);
	give_memory(p, &answer.problem, &answer.solution);
	place_emulator(p, &answer.problem, &answer.solution);
	return 0;
}
