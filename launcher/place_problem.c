/* Spec, host and claims as the numbers that the search works on. */
#include <stdlib.h>
#include <string.h>

#include "place_parts.h"
#include "util.h"

/* Steps of a search: more than any VM of a few sizes of guest nodes needs. */
#define EFFORT UINT64_C(90000000)
#define EFFORT_ANY UINT64_C(2000000) /* where there are many questions */

static bool counts(const struct placing *p, enum demand demand)
{
	return !(p->waived & 1U << demand);
}

static bool is_dedicated(const struct placing *p)
{
	return p->plan->cpu_policy == CPU_POLICY_DEDICATED;
}

/* CPUs that automatic vCPUs may have: not kept, held, pinned, or, for threads that float,
 * isolated. */
void place_available(const struct placing *p, hwloc_const_bitmap_t kind, hwloc_bitmap_t cpus)
{
	hwloc_bitmap_andnot(cpus, is_dedicated(p) ? p->unheld : p->free, p->pinned);
	hwloc_bitmap_andnot(cpus, cpus, p->plan->siblings);
	hwloc_bitmap_andnot(cpus, cpus, p->reserve);
	if (!is_dedicated(p))
		hwloc_bitmap_andnot(cpus, cpus, p->host->isolated);
	if (kind)
		hwloc_bitmap_and(cpus, cpus, kind);
}

void place_spare(const struct placing *p, bool last, hwloc_bitmap_t cpus)
{
	hwloc_bitmap_andnot(cpus, p->free, p->host->isolated);
	hwloc_bitmap_andnot(cpus, cpus, p->plan->siblings);
	if (last) {
		cleanup_bitmap hwloc_bitmap_t kept = xbitmap();
		hwloc_bitmap_andnot(kept, p->pinned, p->pinned_vcpus);
		hwloc_bitmap_or(kept, kept, p->reserve);
		hwloc_bitmap_and(cpus, cpus, kept);
		hwloc_bitmap_andnot(cpus, cpus, p->pinned_vcpus);
		return;
	}
	hwloc_bitmap_andnot(cpus, cpus, p->pinned);
	hwloc_bitmap_andnot(cpus, cpus, p->reserve);
}

/* ---- cores ---- */

unsigned place_step(const struct placing *p)
{
	bool pairs = p->plan->smt == SMT_REQUIRE && is_dedicated(p) && counts(p, DEMAND_SMT);

	return pairs ? (unsigned)p->plan->threads : 1;
}

struct sets {
	hwloc_bitmap_t available, spare;
};

static struct fit_core describe_core(const struct placing *p, const struct sets *sets, size_t index)
{
	const struct host_core *core = &p->host->cores[index];
	struct fit_core result = { .core = (unsigned)index, .whole = true };
	unsigned size = 0, cpu;

	hwloc_bitmap_foreach_begin(cpu, core->cpus)
	{
		bool available = hwloc_bitmap_isset(sets->available, cpu);
		size++;
		result.take += available;
		result.isolated += available && hwloc_bitmap_isset(p->host->isolated, cpu);
		result.spare += hwloc_bitmap_isset(sets->spare, cpu);
		result.pinned |= hwloc_bitmap_isset(p->pinned_vcpus, cpu);
		/* What nobody may use here, nobody holds. */
		if (!available && hwloc_bitmap_isset(p->host->allowed, cpu))
			result.whole = false;
	}
	hwloc_bitmap_foreach_end();
	if (is_dedicated(p) && p->plan->smt == SMT_ISOLATE && counts(p, DEMAND_SMT)) {
		/* Nothing keeps a sibling idle that is not ours to give. */
		result.take = result.take == size;
		result.isolated = result.isolated && result.take;
	}
	result.odd = result.take % place_step(p);
	result.take -= result.odd;
	return result;
}

/* By node and L3, in each the whole ones first, then the large ones. */
static int compare_cores(const void *a, const void *b, void *of)
{
	const struct fit_core *left = a, *right = b;
	const struct host *host = of;
	const struct host_core *x = &host->cores[left->core];
	const struct host_core *y = &host->cores[right->core];

	if (x->node != y->node)
		return x->node < y->node ? -1 : 1;
	if (x->l3 != y->l3)
		return x->l3 < y->l3 ? -1 : 1;
	if (left->whole != right->whole)
		return left->whole ? -1 : 1;
	if (left->take != right->take)
		return left->take > right->take ? -1 : 1;
	return left->core < right->core ? -1 : 1;
}

static void add_core(const struct placing *p, struct fit_problem *problem, struct fit_node *node,
                     size_t index)
{
	const struct fit_core *core = &problem->cores[index];
	size_t last = problem->n_groups - 1; /* of the node, if it has one yet */

	if (!node->count || p->host->cores[problem->cores[problem->groups[last].first].core].l3 !=
	                        p->host->cores[core->core].l3) {
		last = problem->n_groups++;
		problem->groups[last].first = index;
		node->count++;
	}
	problem->groups[last].count++;
	problem->groups[last].capacity += core->take;
	problem->groups[last].isolated |= core->isolated > 0;
	node->capacity += core->take;
	node->has_cpus |= core->take > 0;
	node->spare |= core->spare > 0;
}

static void add_cores(const struct placing *p, const struct sets *sets, struct fit_problem *problem)
{
	const struct host *host = p->host;
	size_t next = 0;

	problem->n_cores = host->n_cores;
	problem->cores = xcalloc(host->n_cores, sizeof(*problem->cores));
	problem->groups = xcalloc(host->n_cores, sizeof(*problem->groups));
	for (size_t i = 0; i < host->n_cores; i++)
		problem->cores[i] = describe_core(p, sets, i);
	qsort_r(problem->cores, host->n_cores, sizeof(*problem->cores), compare_cores,
	        (void *)(uintptr_t)host);
	while (next < host->n_cores && host->cores[problem->cores[next].core].node < 0)
		problem->spare_elsewhere |= problem->cores[next++].spare > 0;
	for (size_t n = 0; n < host->n_nodes; n++) {
		struct fit_node *node = &problem->nodes[n];
		node->first = problem->n_groups;
		while (next < host->n_cores &&
		       host->cores[problem->cores[next].core].node == (int)host->nodes[n].id)
			add_core(p, problem, node, next++);
	}
}

/* ---- nodes ---- */

static void add_distances(const struct placing *p, struct fit_problem *problem)
{
	size_t n = problem->n_nodes;

	problem->distances = xcalloc(n * n, sizeof(*problem->distances));
	for (size_t i = 0; i < n; i++)
		for (size_t j = 0; j < n; j++)
			problem->distances[i * n + j] = p->host->nodes[i].distances[j];
}

/* A node without memory has that of the nearest node with some. */
static size_t find_home(const struct placing *p, size_t node)
{
	const struct host_node *nodes = p->host->nodes;
	size_t best = node;

	for (size_t n = 0; nodes[node].memory == 0 && n < p->host->n_nodes; n++)
		if (nodes[n].memory &&
		    (best == node || nodes[node].distances[n] < nodes[node].distances[best]))
			best = n;
	return best;
}

/* ---- units ---- */

/* The size of the region's huge pages, 0 of plain ones: each is a pool. */
static uint64_t pool_size(const struct plan_memory *region)
{
	return region->pages == PAGES_HUGE ? region->page_size : 0;
}

/* The pools are plain pages, and each size of huge pages that a region asks for. */
static size_t find_pool(struct fit_problem *problem, uint64_t *sizes,
                        const struct plan_memory *region)
{
	size_t pool = 0;

	while (pool < problem->n_pools && sizes[pool] != pool_size(region))
		pool++;
	if (pool == FIT_POOLS_MAX)
		return pool - 1; /* no Linux has so many sizes */
	if (pool == problem->n_pools)
		sizes[problem->n_pools++] = pool_size(region);
	return pool;
}

static bool has_bound(const struct plan_memory *region, const struct host_node *node)
{
	return region->host_nodes && hwloc_bitmap_isset(region->host_nodes, node->id);
}

static bool bound_has_cpus(const struct placing *p, const struct plan_memory *region)
{
	for (size_t n = 0; n < p->host->n_nodes; n++)
		if (has_bound(region, &p->host->nodes[n]) &&
		    !hwloc_bitmap_iszero(p->host->nodes[n].cpus))
			return true;
	return false;
}

/* Pins say where a unit is; else its bound memory does, if there are CPUs with it. */
static void find_nodes(const struct placing *p, struct fit_problem *problem, struct fit_unit *unit,
                       const struct plan_memory *region, hwloc_const_bitmap_t pins)
{
	size_t n_nodes = problem->n_nodes;
	bool by_memory = bound_has_cpus(p, region);

	unit->may = xcalloc(n_nodes, sizeof(*unit->may));
	unit->far = xcalloc(n_nodes, sizeof(*unit->far));
	for (size_t n = 0; n < n_nodes; n++) {
		const struct host_node *node = &p->host->nodes[n];
		const unsigned *row = problem->distances + n * n_nodes;
		unsigned far = UINT32_MAX;
		if (!counts(p, DEMAND_BOUND))
			unit->may[n] = true;
		else if (!hwloc_bitmap_iszero(pins))
			unit->may[n] = hwloc_bitmap_intersects(pins, node->cpus);
		else
			unit->may[n] = !by_memory || has_bound(region, node);
		for (size_t m = 0; m < n_nodes; m++)
			if (region->host_nodes ? has_bound(region, &p->host->nodes[m])
			                       : problem->nodes[n].home == m)
				far = m == n ? 0 : row[m] < far ? row[m] : far;
		unit->far[n] = far == UINT32_MAX ? 0 : far;
	}
}

static void find_touched(const struct placing *p, struct fit_problem *problem,
                         struct fit_unit *unit, hwloc_const_bitmap_t pins)
{
	if (hwloc_bitmap_iszero(pins))
		return;
	unit->touched = xcalloc(problem->n_groups, sizeof(*unit->touched));
	for (size_t g = 0; g < problem->n_groups; g++)
		for (size_t i = 0; i < problem->groups[g].count; i++) {
			size_t core = problem->cores[problem->groups[g].first + i].core;
			if (hwloc_bitmap_intersects(p->host->cores[core].cpus, pins))
				unit->touched[g] = true;
		}
}

static void add_unit(const struct placing *p, struct fit_problem *problem, size_t index,
                     uint64_t *sizes)
{
	const struct plan_memory *region = &p->plan->memory[index];
	struct fit_unit *unit = &problem->units[index];
	cleanup_bitmap hwloc_bitmap_t pins = xbitmap();

	for (size_t i = 0; i < p->plan->n_vcpus; i++) {
		const struct plan_vcpu *vcpu = &p->plan->vcpus[i];
		if (region->guest_node >= 0 && vcpu->guest_node != region->guest_node)
			continue;
		if (vcpu->cpus)
			hwloc_bitmap_or(pins, pins, vcpu->cpus);
		else
			unit->vcpus++;
	}
	if (!region->host_nodes && counts(p, DEMAND_MEMORY)) {
		unit->pool = find_pool(problem, sizes, region);
		unit->memory = region->size;
		unit->may_degrade =
		    unit->pool && (p->spec->strictness.hugepages == STRICTNESS_PREFER ||
		                   !counts(p, DEMAND_PAGES));
	}
	find_nodes(p, problem, unit, region, pins);
	find_touched(p, problem, unit, pins);
}

static void add_pools(const struct placing *p, struct fit_problem *problem, const uint64_t *sizes)
{
	problem->pools = xcalloc(problem->n_nodes * problem->n_pools, sizeof(*problem->pools));
	for (size_t n = 0; n < problem->n_nodes; n++)
		for (size_t pool = 0; pool < problem->n_pools; pool++) {
			const struct host_node *node = &p->host->nodes[n];
			uint64_t free = place_memory_free(
			    p, node, sizes[pool] ? PAGES_HUGE : PAGES_PLAIN, sizes[pool]);
			uint64_t taken = 0;
			for (size_t i = 0; i < p->plan->n_memory; i++) {
				const struct plan_memory *region = &p->plan->memory[i];
				if (has_bound(region, node) && pool_size(region) == sizes[pool])
					taken += region->size /
					         (uint64_t)hwloc_bitmap_weight(region->host_nodes);
			}
			problem->pools[n * problem->n_pools + pool] =
			    free > taken ? free - taken : 0;
		}
}

static void add_device(const struct placing *p, struct fit_problem *problem, const char *name)
{
	int id = host_device_node(p->host, name);

	for (size_t n = 0; n < problem->n_nodes; n++)
		if ((int)p->host->nodes[n].id == id)
			*array_append(&problem->devices, &problem->n_devices) = n;
}

/* Those whose node is known. */
static void add_devices(const struct placing *p, struct fit_problem *problem)
{
	for (size_t i = 0; i < p->spec->n_hostdevs; i++)
		add_device(p, problem, p->spec->hostdevs[i].pci);
	for (size_t i = 0; i < p->spec->n_disks; i++)
		add_device(p, problem, p->spec->disks[i].file);
}

/* ---- what is the same ---- */

static bool same_units(const struct fit_problem *problem, const struct fit_unit *a,
                       const struct fit_unit *b)
{
	return a->vcpus == b->vcpus && a->pool == b->pool && a->memory == b->memory &&
	       a->may_degrade == b->may_degrade && !a->touched && !b->touched &&
	       memcmp(a->may, b->may, problem->n_nodes * sizeof(*a->may)) == 0 &&
	       memcmp(a->far, b->far, problem->n_nodes * sizeof(*a->far)) == 0;
}

static void find_classes(struct fit_problem *problem)
{
	for (size_t i = 0; i < problem->n_units; i++) {
		size_t other = 0;
		while (other < i &&
		       !same_units(problem, &problem->units[other], &problem->units[i]))
			other++;
		problem->units[i].class =
		    other < i ? problem->units[other].class : problem->n_classes++;
	}
}

static bool is_touched(const struct fit_problem *problem, const struct fit_node *node)
{
	for (size_t i = 0; i < problem->n_units; i++)
		for (size_t g = 0; problem->units[i].touched && g < node->count; g++)
			if (problem->units[i].touched[node->first + g])
				return true;
	return false;
}

static bool same_groups(const struct fit_problem *problem, const struct fit_group *a,
                        const struct fit_group *b)
{
	if (a->count != b->count || a->capacity != b->capacity)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		const struct fit_core *x = &problem->cores[a->first + i];
		const struct fit_core *y = &problem->cores[b->first + i];
		if (x->take != y->take || x->odd != y->odd || x->isolated != y->isolated ||
		    x->spare != y->spare || x->whole != y->whole || x->pinned != y->pinned)
			return false;
	}
	return true;
}

static bool same_cores(const struct fit_problem *problem, const struct fit_node *a,
                       const struct fit_node *b)
{
	if (a->count != b->count || a->capacity != b->capacity || is_touched(problem, a) ||
	    is_touched(problem, b))
		return false;
	for (size_t g = 0; g < a->count; g++)
		if (!same_groups(problem, &problem->groups[a->first + g],
		                 &problem->groups[b->first + g]))
			return false;
	return true;
}

static bool is_home_of_others(const struct fit_problem *problem, size_t node)
{
	for (size_t n = 0; n < problem->n_nodes; n++)
		if (n != node && problem->nodes[n].home == node)
			return true;
	return false;
}

static bool same_memory(const struct fit_problem *problem, size_t a, size_t b)
{
	const struct fit_node *left = &problem->nodes[a], *right = &problem->nodes[b];

	if (is_home_of_others(problem, a) || is_home_of_others(problem, b))
		return false;
	if (left->home != a || right->home != b)
		return left->home == right->home;
	return memcmp(problem->pools + a * problem->n_pools, problem->pools + b * problem->n_pools,
	              problem->n_pools * sizeof(*problem->pools)) == 0;
}

static bool same_distances(const struct fit_problem *problem, size_t a, size_t b)
{
	const unsigned *distances = problem->distances;
	size_t n_nodes = problem->n_nodes;

	for (size_t n = 0; n < n_nodes; n++)
		if (n != a && n != b &&
		    (distances[a * n_nodes + n] != distances[b * n_nodes + n] ||
		     distances[n * n_nodes + a] != distances[n * n_nodes + b]))
			return false;
	for (size_t d = 0; d < problem->n_devices; d++)
		if (problem->devices[d] == a || problem->devices[d] == b)
			return false;
	for (size_t i = 0; i < problem->n_units; i++)
		if (problem->units[i].may[a] != problem->units[i].may[b] ||
		    problem->units[i].far[a] != problem->units[i].far[b])
			return false;
	return true;
}

static void find_twins(struct fit_problem *problem)
{
	for (size_t n = 0; n < problem->n_nodes; n++) {
		struct fit_node *node = &problem->nodes[n];
		node->same = node->twin = n;
		for (size_t other = n; other-- > 0;)
			if (same_cores(problem, &problem->nodes[other], node)) {
				node->same = problem->nodes[other].same;
				break;
			}
		for (size_t other = n; other-- > 0 && node->twin == n;)
			if (problem->nodes[other].same == node->same &&
			    same_memory(problem, other, n) && same_distances(problem, other, n))
				node->twin = other;
	}
}

void place_problem(const struct placing *p, hwloc_const_bitmap_t kind, struct fit_problem *problem)
{
	uint64_t sizes[FIT_POOLS_MAX] = { 0 };
	cleanup_bitmap hwloc_bitmap_t available = xbitmap(), spare = xbitmap(), last = xbitmap();
	struct sets sets = { available, spare };

	*problem = (struct fit_problem){
		.dedicated = is_dedicated(p),
		.isolate = p->plan->smt == SMT_ISOLATE && counts(p, DEMAND_SMT),
		.step = place_step(p),
		.emulator = !p->plan->emulator && p->spec->placement.emulator != EMULATOR_SHARE &&
		            (is_dedicated(p) || p->spec->placement.emulator == EMULATOR_ISOLATE),
		.emulator_must =
		    p->spec->placement.emulator == EMULATOR_ISOLATE && counts(p, DEMAND_EMULATOR),
		.apart = p->made_nodes,
		.effort = p->any ? EFFORT_ANY : EFFORT,
		.any = p->any,
		.n_nodes = p->host->n_nodes,
		.n_units = p->plan->n_memory,
		.n_pools = 1,
	};
	place_available(p, kind, available);
	place_spare(p, false, spare);
	place_spare(p, true, last);
	problem->spare_last = !hwloc_bitmap_iszero(last);
	problem->nodes = xcalloc(problem->n_nodes, sizeof(*problem->nodes));
	add_cores(p, &sets, problem);
	add_distances(p, problem);
	for (size_t n = 0; n < problem->n_nodes; n++)
		problem->nodes[n].home = find_home(p, n);
	problem->units = xcalloc(problem->n_units, sizeof(*problem->units));
	for (size_t i = 0; i < problem->n_units; i++)
		add_unit(p, problem, i, sizes);
	add_pools(p, problem, sizes);
	add_devices(p, problem);
	find_classes(problem);
	find_twins(problem);
}
