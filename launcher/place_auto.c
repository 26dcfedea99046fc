/* Automatic placement, plainly: everything on one node if it fits, whole cores, the emulator's CPU
 * apart. Nodes are tried in a fixed order, the fullest that still fits first. */
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "place_parts.h"
#include "util.h"

/* One thing to place as a whole: a guest node, or all of a VM without guest nodes. */
struct demand {
	int guest_node; /* -1: everything */
	size_t vcpus;   /* not pinned */
};

static bool is_dedicated(const struct placing *p)
{
	return p->plan->cpu_policy == CPU_POLICY_DEDICATED;
}

/* CPUs of a core that dedicated vCPUs may have: what is allowed of it is held by nobody and not yet
 * taken. One of its siblings with isolate, else all of them. */
static size_t core_capacity(const struct placing *p, const struct host_core *core,
                            hwloc_const_bitmap_t available)
{
	cleanup_bitmap hwloc_bitmap_t usable = xbitmap();

	hwloc_bitmap_and(usable, core->cpus, p->host->allowed);
	if (hwloc_bitmap_iszero(usable) || !hwloc_bitmap_isincluded(usable, available))
		return 0;
	/* Nothing keeps a sibling idle that is not ours to give. */
	if (p->plan->smt == SMT_ISOLATE && !hwloc_bitmap_isequal(usable, core->cpus))
		return 0;
	return p->plan->smt == SMT_ISOLATE ? 1 : (size_t)hwloc_bitmap_weight(usable);
}

/* vCPUs of this VM that run on the node already. */
static size_t vcpus_on(const struct placing *p, const struct host_node *node)
{
	size_t count = 0;

	for (size_t i = 0; i < p->plan->n_vcpus; i++)
		count += p->plan->vcpus[i].cpus &&
		         hwloc_bitmap_intersects(p->plan->vcpus[i].cpus, node->cpus);
	return count;
}

static size_t usable_cpus(const struct host_node *node, hwloc_const_bitmap_t available)
{
	cleanup_bitmap hwloc_bitmap_t usable = xbitmap();

	hwloc_bitmap_and(usable, node->cpus, available);
	return (size_t)hwloc_bitmap_weight(usable);
}

/* How many vCPUs more the node can have: a core's worth each, or a CPU each. */
static size_t node_capacity(const struct placing *p, const struct host_node *node,
                            hwloc_const_bitmap_t available)
{
	size_t capacity = 0, taken;

	if (is_dedicated(p)) {
		for (size_t i = 0; i < p->host->n_cores; i++)
			if (hwloc_bitmap_isincluded(p->host->cores[i].cpus, node->cpus))
				capacity += core_capacity(p, &p->host->cores[i], available);
		return capacity;
	}
	capacity = usable_cpus(node, available);
	taken = vcpus_on(p, node);
	return capacity > taken ? capacity - taken : 0;
}

/* Bytes of the guest node's memory, or of the whole VM's with guest_node -1, that have no host node
 * yet. */
static uint64_t memory_needed(const struct placing *p, const struct plan_memory *like,
                              int guest_node)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < p->plan->n_memory; i++) {
		const struct plan_memory *region = &p->plan->memory[i];
		if ((guest_node >= 0 && region->guest_node != guest_node) || region->host_nodes)
			continue;
		if (region->pages == like->pages && region->page_size == like->page_size)
			bytes += region->size;
	}
	return bytes;
}

static uint64_t memory_promised(const struct placing *p, const struct plan_memory *like,
                                unsigned node)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < p->plan->n_memory; i++) {
		const struct plan_memory *region = &p->plan->memory[i];
		if (region->host_nodes && hwloc_bitmap_isset(region->host_nodes, node) &&
		    region->pages == like->pages && region->page_size == like->page_size)
			bytes += region->size;
	}
	return bytes;
}

/* NULL when the memory fits, else a sentence on what is short; the caller frees. */
static char *memory_short(const struct placing *p, const struct host_node *node, int guest_node)
{
	for (size_t i = 0; i < p->plan->n_memory; i++) {
		const struct plan_memory *region = &p->plan->memory[i];
		if ((guest_node >= 0 && region->guest_node != guest_node) || region->host_nodes)
			continue;
		uint64_t free = place_memory_free(p, node, region->pages, region->page_size);
		uint64_t taken = memory_promised(p, region, node->id);
		uint64_t need = memory_needed(p, region, guest_node);
		free = free > taken ? free - taken : 0;
		if (need <= free)
			continue;
		if (region->pages == PAGES_HUGE &&
		    p->spec->strictness.hugepages == STRICTNESS_PREFER && need <= node->free)
			continue;
		cleanup_free char *pages = plan_pages_name(region);
		cleanup_free char *needed = format_size(need);
		cleanup_free char *available = format_size(free);
		return xasprintf("%s of %s pages free, %s needed", available, pages, needed);
	}
	return NULL;
}

/* Where the spec binds a guest node's memory, or pins a vCPU of it, the rest goes, too. */
static bool node_is_excluded(const struct placing *p, const struct host_node *node, int guest_node)
{
	for (size_t i = 0; i < p->plan->n_vcpus; i++) {
		const struct plan_vcpu *vcpu = &p->plan->vcpus[i];
		if (vcpu->cpus && (guest_node < 0 || vcpu->guest_node == guest_node) &&
		    !hwloc_bitmap_intersects(vcpu->cpus, node->cpus))
			return true;
	}
	for (size_t i = 0; i < p->plan->n_memory; i++) {
		const struct plan_memory *region = &p->plan->memory[i];
		hwloc_const_bitmap_t wanted =
		    region->guest_node < 0 ? p->spec->backing.host_nodes
		                           : p->spec->numa.nodes[region->guest_node].host_nodes;
		if ((guest_node < 0 || region->guest_node == guest_node) && wanted &&
		    !hwloc_bitmap_isset(wanted, node->id))
			return true;
	}
	return false;
}

/* The node that fits and has least left over; the lowest among equals. `why` collects one sentence
 * for each node that does not fit. */
static const struct host_node *choose_node(const struct placing *p, const struct demand *demand,
                                           hwloc_const_bitmap_t available, char **why)
{
	const struct host_node *best = NULL;
	size_t best_capacity = 0;

	for (size_t i = 0; i < p->host->n_nodes; i++) {
		const struct host_node *node = &p->host->nodes[i];
		size_t capacity = node_capacity(p, node, available);
		char *reason = NULL;
		if (node_is_excluded(p, node, demand->guest_node))
			reason = xstrdup("the spec names CPUs or memory of another node");
		else if (capacity < demand->vcpus || (demand->vcpus && !capacity))
			reason =
			    xasprintf("%zu CPUs %s, %zu needed", capacity,
			              is_dedicated(p) ? "on free cores" : "usable", demand->vcpus);
		else
			reason = memory_short(p, node, demand->guest_node);
		if (reason) {
			char *longer = xasprintf("%s%snode %u: %s", *why ? *why : "",
			                         *why ? "; " : "", node->id, reason);
			free(reason);
			free(*why);
			*why = longer;
			continue;
		}
		if (!best || capacity < best_capacity) {
			best = node;
			best_capacity = capacity;
		}
	}
	return best;
}

/* Cores in the order they are given out: isolated ones first (they are there for this), then by
 * number. Returns the next core with room, or NULL. */
static const struct host_core *next_core(const struct placing *p, const struct host_node *node,
                                         hwloc_const_bitmap_t available)
{
	for (int isolated = 1; isolated >= 0; isolated--)
		for (size_t i = 0; i < p->host->n_cores; i++) {
			const struct host_core *core = &p->host->cores[i];
			if (hwloc_bitmap_isincluded(core->cpus, node->cpus) &&
			    hwloc_bitmap_intersects(core->cpus, p->host->isolated) ==
			        (isolated == 1) &&
			    core_capacity(p, core, available))
				return core;
		}
	return NULL;
}

/* Gives the node's CPUs to the demand's vCPUs and takes them out of `available`. */
static void assign_vcpus(struct placing *p, const struct demand *demand,
                         const struct host_node *node, hwloc_bitmap_t available)
{
	cleanup_bitmap hwloc_bitmap_t core_left = xbitmap();

	for (size_t i = 0; i < p->plan->n_vcpus; i++) {
		struct plan_vcpu *vcpu = &p->plan->vcpus[i];
		if (vcpu->cpus ||
		    (demand->guest_node >= 0 && vcpu->guest_node != demand->guest_node))
			continue;
		vcpu->cpus = xbitmap();
		if (!is_dedicated(p)) {
			hwloc_bitmap_and(vcpu->cpus, node->cpus, available);
			continue;
		}
		if (hwloc_bitmap_iszero(core_left)) {
			const struct host_core *core = next_core(p, node, available);
			hwloc_bitmap_and(core_left, core->cpus, p->host->allowed);
			hwloc_bitmap_andnot(available, available, core_left);
		}
		int cpu = hwloc_bitmap_first(core_left);
		hwloc_bitmap_only(vcpu->cpus, (unsigned)cpu);
		hwloc_bitmap_clr(core_left, (unsigned)cpu);
		if (p->plan->smt == SMT_ISOLATE) {
			hwloc_bitmap_or(p->plan->siblings, p->plan->siblings, core_left);
			hwloc_bitmap_zero(core_left);
		}
	}
}

static void assign_memory(struct placing *p, const struct demand *demand,
                          const struct host_node *node)
{
	for (size_t i = 0; i < p->plan->n_memory; i++) {
		struct plan_memory *region = &p->plan->memory[i];
		if (region->host_nodes ||
		    (demand->guest_node >= 0 && region->guest_node != demand->guest_node))
			continue;
		region->host_nodes = xbitmap();
		hwloc_bitmap_only(region->host_nodes, node->id);
		if (region->policy == MEM_POLICY_UNSET)
			region->policy = MEM_POLICY_STRICT;
	}
}

static size_t unpinned(const struct placing *p, int guest_node)
{
	size_t count = 0;

	for (size_t i = 0; i < p->plan->n_vcpus; i++)
		count += !p->plan->vcpus[i].cpus &&
		         (guest_node < 0 || p->plan->vcpus[i].guest_node == guest_node);
	return count;
}

static int place_demand(struct placing *p, const struct demand *demand, hwloc_bitmap_t available,
                        struct error *err)
{
	cleanup_free char *why = NULL;
	const struct host_node *node = choose_node(p, demand, available, &why);
	cleanup_free char *who = demand->guest_node < 0
	                             ? xstrdup("the VM")
	                             : xasprintf("guest node %d", demand->guest_node);

	if (!node)
		return error_set(err, EXIT_GRANT,
		                 "no host node has room for %s (%zu vCPUs%s): %s; free CPUs or "
		                 "memory, ask for less, or pin by hand",
		                 who, demand->vcpus, is_dedicated(p) ? ", dedicated" : "", why);
	cleanup_free char *available_text =
	    xasprintf("%zu CPUs %s", node_capacity(p, node, available),
	              is_dedicated(p) ? "on free cores" : "usable");
	plan_why(p->plan, "%s: host node %u, with %s for %zu vCPUs%s%s", who, node->id,
	         available_text, demand->vcpus, why ? "; rejected: " : "", why ? why : "");
	assign_vcpus(p, demand, node, available);
	assign_memory(p, demand, node);
	return 0;
}

/* The node is less crowded than the other, with so many vCPUs more. */
static bool less_crowded(const struct placing *p, const struct host_node *node,
                         const struct host_node *other, size_t vcpus,
                         hwloc_const_bitmap_t available)
{
	return (vcpus_on(p, node) + vcpus) * usable_cpus(other, available) <
	       (vcpus_on(p, other) + vcpus) * usable_cpus(node, available);
}

/* Shared vCPUs that are more than any node has CPUs still run: on the least crowded node. Returns
 * false if there is none at all. */
static bool place_overcommitted(struct placing *p, const struct demand *demand,
                                hwloc_bitmap_t available)
{
	const struct host_node *best = NULL;

	for (size_t i = 0; i < p->host->n_nodes; i++) {
		const struct host_node *node = &p->host->nodes[i];
		cleanup_free char *reason = memory_short(p, node, demand->guest_node);
		if (reason || node_is_excluded(p, node, demand->guest_node) ||
		    !usable_cpus(node, available))
			continue;
		if (!best || less_crowded(p, node, best, demand->vcpus, available))
			best = node;
	}
	if (!best)
		return false;
	plan_warn(p->plan, "%zu vCPUs share the %zu CPUs of host node %u",
	          vcpus_on(p, best) + demand->vcpus, usable_cpus(best, available), best->id);
	assign_vcpus(p, demand, best, available);
	assign_memory(p, demand, best);
	return true;
}

static int place_demands(struct placing *p, hwloc_bitmap_t available, struct error *err)
{
	struct demand all = { -1, unpinned(p, -1) };
	cleanup_error struct error whole = ERROR_INIT;

	if (place_demand(p, &all, available, &whole) == 0)
		return 0;
	if (p->plan->memory[0].guest_node >= 0) {
		plan_why(p->plan, "not on one host node: %s", whole.message);
		for (size_t i = 0; i < p->plan->n_memory; i++) {
			struct demand one = { (int)i, unpinned(p, (int)i) };
			if (place_demand(p, &one, available, err) < 0 &&
			    (is_dedicated(p) || !place_overcommitted(p, &one, available)))
				return -1;
		}
		return 0;
	}
	if (!is_dedicated(p) && place_overcommitted(p, &all, available))
		return 0;
	return error_set(err, whole.code, "%s", whole.message);
}

/* One CPU for the emulator threads, as near to the vCPUs and as far off their cores as can be:
 * 0 best, -1 not at all. */
static int emulator_rank(const struct placing *p, unsigned cpu, hwloc_const_bitmap_t vcpus)
{
	const struct host_core *core = host_core_of_cpu(p->host, cpu);
	const struct host_node *near =
	    host_node_of_cpu(p->host, (unsigned)hwloc_bitmap_first(vcpus));
	int rank = 0;

	if (hwloc_bitmap_isset(vcpus, cpu) || hwloc_bitmap_isset(p->plan->siblings, cpu))
		return -1;
	if (hwloc_bitmap_isset(p->host->isolated, cpu))
		rank += 16;
	if (hwloc_bitmap_isset(p->pinned, cpu)) /* an iothread's */
		rank += 8;
	if (core && hwloc_bitmap_intersects(core->cpus, vcpus))
		rank += 4;
	if (!near || !hwloc_bitmap_isset(near->cpus, cpu))
		rank += 2;
	if (!hwloc_bitmap_isset(p->unheld, cpu))
		rank += 1;
	return rank;
}

static int place_emulator(struct placing *p, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t vcpus = xbitmap();
	unsigned cpu;
	int best = -1, best_rank = 0;

	if (p->plan->emulator)
		return 0;
	for (size_t i = 0; i < p->plan->n_vcpus; i++)
		hwloc_bitmap_or(vcpus, vcpus, p->plan->vcpus[i].cpus);
	p->plan->emulator = xbitmap();
	if (!is_dedicated(p) || p->spec->placement.emulator == EMULATOR_SHARE) {
		place_share_emulator(p, vcpus);
		return 0;
	}
	hwloc_bitmap_foreach_begin(cpu, p->free)
	{
		int rank = emulator_rank(p, cpu, vcpus);
		if (rank >= 0 && (best < 0 || rank < best_rank)) {
			best = (int)cpu;
			best_rank = rank;
		}
	}
	hwloc_bitmap_foreach_end();
	if (best >= 0) {
		hwloc_bitmap_only(p->plan->emulator, (unsigned)best);
		plan_why(p->plan, "emulator: CPU %d, off the vCPUs' CPUs", best);
		return 0;
	}
	cleanup_free char *held = cpulist_format(vcpus);
	cleanup_free char *allowed = cpulist_format(p->host->allowed);
	if (p->spec->placement.emulator == EMULATOR_ISOLATE)
		return error_set(err, EXIT_GRANT,
		                 "placement.emulator is isolate, but the vCPUs take CPUs %s and no "
		                 "other is free (allowed: %s); ask for fewer vCPUs, or set it to "
		                 "share",
		                 held, allowed);
	plan_why(p->plan, "emulator: no CPU is free beside the vCPUs (%s), so it shares theirs",
	         held);
	place_share_emulator(p, vcpus);
	return 0;
}

int place_auto(struct placing *p, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t available =
	    xbitmap_dup(is_dedicated(p) ? p->unheld : p->free);

	hwloc_bitmap_andnot(available, available, p->pinned);
	hwloc_bitmap_andnot(available, available, p->plan->siblings);
	if (!is_dedicated(p))
		hwloc_bitmap_andnot(available, available, p->host->isolated);
	if (place_demands(p, available, err) < 0)
		return -1;
	return place_emulator(p, err);
}
