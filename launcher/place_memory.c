/* The memory side of placement: what each node can give, and what the guest sees of it. */
#include <inttypes.h>
#include <stdlib.h>

#include "cpulist.h"
#include "place_parts.h"
#include "util.h"

/* ACPI's SLIT: 10 is local, and Linux refuses a table in which another node is at 10. */
#define DISTANCE_LOCAL 10
#define DISTANCE_SAME_HOST_NODE 11
#define DISTANCE_DEFAULT 20
#define DISTANCE_MAX 254 /* 255 is "cannot be reached" */

/* Of what is free on a node (-1: anywhere), the bytes that VMs which start now will take. */
static uint64_t promised_to_others(const struct placing *p, int node, enum page_kind pages,
                                   uint64_t page_size)
{
	if (!p->claims)
		return 0;
	return claims_promised(p->claims, node, pages == PAGES_HUGE ? page_size : 0);
}

static uint64_t less(uint64_t bytes, uint64_t taken)
{
	return bytes > taken ? bytes - taken : 0;
}

/* Whether missing huge pages of this size may be reserved for the VM. */
static bool may_grow(const struct placing *p, uint64_t page_size)
{
	for (size_t i = 0; i < p->plan->n_memory; i++)
		if (p->plan->memory[i].grow && p->plan->memory[i].page_size == page_size)
			return true;
	return false;
}

uint64_t place_memory_free(const struct placing *p, const struct host_node *node,
                           enum page_kind pages, uint64_t page_size)
{
	const struct host_pages *huge = host_node_pages(node, page_size);
	uint64_t promised = promised_to_others(p, (int)node->id, pages, page_size);

	if (pages != PAGES_HUGE)
		return less(node->free, promised);
	/* A described host that reserves none: they could be reserved, up to its memory. */
	if (!p->host->live && !(huge && huge->total))
		return node->memory;
	uint64_t free = huge ? less(huge->free * page_size, promised) : 0;
	if (may_grow(p, page_size))
		free += place_memory_free(p, node, PAGES_PLAIN, 0) / page_size * page_size;
	return free;
}

static bool same_pages(const struct plan_memory *a, const struct plan_memory *b)
{
	return (a->pages == PAGES_HUGE) == (b->pages == PAGES_HUGE) &&
	       (a->pages != PAGES_HUGE || a->page_size == b->page_size);
}

/* What the regions before this one take from the node: all of it where they are bound to that node
 * alone, their share where they are spread over several. */
static uint64_t promised(const struct plan *plan, size_t before, const struct host_node *node)
{
	const struct plan_memory *region = &plan->memory[before];
	uint64_t bytes = 0;

	for (size_t i = 0; i < before; i++) {
		const struct plan_memory *other = &plan->memory[i];
		if (other->host_nodes && same_pages(region, other) &&
		    hwloc_bitmap_isset(other->host_nodes, node->id))
			bytes += other->size / (uint64_t)hwloc_bitmap_weight(other->host_nodes);
	}
	return bytes;
}

struct room {
	uint64_t free;                 /* bytes that the region's nodes have together */
	const struct host_node *worst; /* the one with least */
	uint64_t worst_free;
};

/* What is free for region `index` on its nodes, all of which exist. */
static struct room room_for(const struct placing *p, size_t index)
{
	const struct plan_memory *region = &p->plan->memory[index];
	struct room room = { .worst_free = UINT64_MAX };

	for (size_t i = 0; i < p->host->n_nodes; i++) {
		const struct host_node *node = &p->host->nodes[i];
		uint64_t free, taken;
		if (region->host_nodes && !hwloc_bitmap_isset(region->host_nodes, node->id))
			continue;
		free = place_memory_free(p, node, region->pages, region->page_size);
		taken = promised(p->plan, index, node);
		free = less(free, taken);
		room.free += free;
		if (free < room.worst_free) {
			room.worst_free = free;
			room.worst = node;
		}
	}
	return room;
}

/* Preferred memory, and memory that goes anywhere, may come from every node. */
static bool may_fall_back(const struct plan_memory *region)
{
	return !region->host_nodes || region->policy == MEM_POLICY_PREFERRED;
}

static uint64_t free_anywhere(const struct placing *p, const struct plan_memory *region)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < p->host->n_nodes; i++)
		bytes += place_memory_free(p, &p->host->nodes[i], region->pages, region->page_size);
	return less(bytes, promised_to_others(p, -1, region->pages, region->page_size));
}

/* Lazy plain memory may be overcommitted, as everywhere on Linux, with a warning; all else must be
 * there. */
static bool must_be_there(const struct plan_memory *region)
{
	return region->pages == PAGES_HUGE || region->fill != FILL_NONE;
}

/* Too little memory for a region. */
struct shortage {
	char *message;                /* NULL: there is enough */
	const struct host_node *node; /* where more would help most */
	uint64_t needed, missing;     /* pages */
};

/* ", not counting 3 that were promised to VMs which are being started", or nothing. */
static char *promised_text(const struct placing *p, const struct plan_memory *region)
{
	uint64_t bytes = promised_to_others(p, -1, region->pages, region->page_size);

	for (size_t i = 0; i < p->host->n_nodes; i++) {
		unsigned node = p->host->nodes[i].id;
		if (may_fall_back(region) || hwloc_bitmap_isset(region->host_nodes, node))
			bytes += promised_to_others(p, (int)node, region->pages, region->page_size);
	}
	if (!bytes)
		return xstrdup("");
	cleanup_free char *amount = region->pages == PAGES_HUGE
	                                ? xasprintf("%" PRIu64, bytes / region->page_size)
	                                : format_size(bytes);
	return xasprintf(", not counting %s promised to VMs that are being started", amount);
}

/* `nodes` is "node 1, which has". */
static void describe_shortage(const struct placing *p, struct shortage *shortage,
                              const struct plan_memory *region, const char *nodes, uint64_t needed,
                              uint64_t available)
{
	cleanup_free char *what = plan_pages_name(region);
	cleanup_free char *need = format_size(needed);
	cleanup_free char *have = format_size(available);
	cleanup_free char *promised = promised_text(p, region);
	cleanup_free char *who = region->guest_node < 0
	                             ? xstrdup("the guest's memory")
	                             : xasprintf("guest node %d", region->guest_node);

	shortage->needed = (needed + region->page_size - 1) / region->page_size;
	shortage->missing = (needed - available + region->page_size - 1) / region->page_size;
	if (region->pages != PAGES_HUGE)
		shortage->message = xasprintf("%s needs %s of %s pages on host %s %s free%s", who,
		                              need, what, nodes, have, promised);
	else
		shortage->message = xasprintf(
		    "%s needs %" PRIu64 " huge page%s of %s on host %s %" PRIu64 " free%s%s", who,
		    shortage->needed, plural(shortage->needed), what, nodes,
		    available / region->page_size,
		    may_grow(p, region->page_size) ? " or could have by growing" : "", promised);
}

/* What is short for region `index`; the caller frees the message. */
static struct shortage find_shortage(const struct placing *p, size_t index)
{
	const struct plan_memory *region = &p->plan->memory[index];
	struct room room = room_for(p, index);
	struct shortage shortage = { .node = room.worst };
	uint64_t available = may_fall_back(region) ? free_anywhere(p, region) : room.free;

	if (may_fall_back(region)) {
		for (size_t i = 0; i < index; i++)
			if (same_pages(region, &p->plan->memory[i]))
				available -= available > p->plan->memory[i].size
				                 ? p->plan->memory[i].size
				                 : available;
	} else if (region->policy == MEM_POLICY_INTERLEAVE && room.worst) {
		uint64_t share = region->size / (uint64_t)hwloc_bitmap_weight(region->host_nodes);
		cleanup_free char *node = xasprintf("node %u, which has", room.worst->id);
		if (room.worst_free < share) {
			describe_shortage(p, &shortage, region, node, share, room.worst_free);
			return shortage;
		}
	}
	if (available >= region->size)
		return shortage;
	cleanup_free char *list = region->host_nodes ? cpulist_format(region->host_nodes) : NULL;
	cleanup_free char *nodes = may_fall_back(region) ? xstrdup("nodes together, which have")
	                           : hwloc_bitmap_weight(region->host_nodes) > 1
	                               ? xasprintf("nodes %s, which have", list)
	                               : xasprintf("node %s, which has", list);
	describe_shortage(p, &shortage, region, nodes, region->size, available);
	return shortage;
}

static int check_region(struct placing *p, size_t index, struct error *err)
{
	const struct plan_memory *region = &p->plan->memory[index];
	struct shortage shortage = find_shortage(p, index);
	cleanup_free char *message = shortage.message;

	if (!message)
		return 0;
	if (!must_be_there(region)) {
		plan_warn(p->plan, "%s; it is filled as the guest uses it, which may end in a kill",
		          message);
		return 0;
	}
	if (region->pages != PAGES_HUGE || may_grow(p, region->page_size))
		return error_set(err, EXIT_GRANT,
		                 "%s; free memory there, ask for less, or use another node",
		                 message);
	const struct host_pages *pages = host_node_pages(shortage.node, region->page_size);
	return error_set(err, EXIT_GRANT,
	                 "%s; reserve them (echo %" PRIu64 " > /sys/devices/system/node/node%u/"
	                 "hugepages/hugepages-%" PRIu64 "kB/nr_hugepages), let them be reserved at "
	                 "start (\"reserve\": \"grow\" in memory-backing.hugepages), use another "
	                 "node, or set strictness.hugepages to prefer",
	                 message,
	                 pages && pages->total ? pages->total + shortage.missing : shortage.needed,
	                 shortage.node->id, region->page_size / 1024);
}

/* A size of huge pages that this machine does not have cannot be reserved either. */
static int check_page_size(const struct placing *p, const struct plan_memory *region,
                           struct error *err)
{
	const struct host_node *first = &p->host->nodes[0];
	cleanup_free char *sizes = NULL;
	size_t length;

	if (region->pages != PAGES_HUGE || !p->host->live)
		return 0;
	for (size_t i = 0; i < p->host->n_nodes; i++)
		if (host_node_pages(&p->host->nodes[i], region->page_size))
			return 0;
	FILE *out = xmemstream(&sizes, &length);
	for (size_t i = 0; i < first->n_pages; i++) {
		cleanup_free char *size = format_size(first->pages[i].size);
		fprintf(out, "%s%s", i ? ", " : "", size);
	}
	fclose(out);
	cleanup_free char *wanted = format_size(region->page_size);
	return error_set(
	    err, EXIT_GRANT,
	    "memory-backing.hugepages: this machine has no huge pages of %s; it has %s", wanted,
	    length ? sizes : "none");
}

/* Lazy memory may be more than is free, but not more than there is. */
static int check_total(const struct placing *p, struct error *err)
{
	uint64_t needed = 0, there = 0;

	for (size_t i = 0; i < p->plan->n_memory; i++)
		if (p->plan->memory[i].pages != PAGES_HUGE)
			needed += p->plan->memory[i].size;
	for (size_t i = 0; i < p->host->n_nodes; i++)
		there += p->host->nodes[i].memory;
	if (needed <= there)
		return 0;
	cleanup_free char *need = format_size(needed);
	cleanup_free char *have = format_size(there >> 20 << 20);
	return error_set(err, EXIT_GRANT,
	                 "the guest's memory is %s, and the host has %s in all; ask for less", need,
	                 have);
}

static int check_nodes_exist(const struct placing *p, const struct plan_memory *region,
                             struct error *err)
{
	unsigned id;

	if (!region->host_nodes)
		return 0;
	hwloc_bitmap_foreach_begin(id, region->host_nodes)
	{
		const struct host_node *node = host_node(p->host, id);
		if (!node || node->memory == 0) {
			cleanup_bitmap hwloc_bitmap_t all = xbitmap();
			for (size_t i = 0; i < p->host->n_nodes; i++)
				if (p->host->nodes[i].memory)
					hwloc_bitmap_set(all, p->host->nodes[i].id);
			cleanup_free char *have = cpulist_format(all);
			return error_set(err, EXIT_GRANT,
			                 "memory is bound to host node %u, which %s (nodes with "
			                 "memory: %s)",
			                 id, node ? "has no memory" : "does not exist", have);
		}
	}
	hwloc_bitmap_foreach_end();
	return 0;
}

void place_degrade(struct placing *p, size_t index, const char *message)
{
	struct plan_memory *region = &p->plan->memory[index];

	plan_warn(p->plan, "%s; plain pages are used instead (strictness.hugepages is prefer)",
	          message);
	region->pages = PAGES_PLAIN;
	region->page_size = p->host->page_size;
	if (region->backing == BACKING_PATH)
		region->backing = BACKING_MEMFD;
}

/* Huge pages that may be plain ones: the spec prefers them and there are too few. */
static void degrade(struct placing *p, size_t index)
{
	struct shortage shortage = find_shortage(p, index);
	cleanup_free char *message = shortage.message;

	if (p->plan->memory[index].pages == PAGES_HUGE && message)
		place_degrade(p, index, message);
}

static bool has_cpus(const struct placing *p, const struct plan_memory *region)
{
	for (size_t i = 0; region->host_nodes && i < p->host->n_nodes; i++)
		if (hwloc_bitmap_isset(region->host_nodes, p->host->nodes[i].id) &&
		    !hwloc_bitmap_iszero(p->host->nodes[i].cpus))
			return true;
	return false;
}

/* Nothing but the node of the thread that touches a page says which of the process's nodes it comes
 * from, and QEMU fills little memory, or that of a guest of one vCPU, from its main thread. */
static int check_restrictive(const struct plan *plan, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t confined = xbitmap();

	for (size_t i = 0; i < plan->n_memory; i++)
		if (plan->memory[i].policy == MEM_POLICY_RESTRICTIVE && plan->memory[i].host_nodes)
			hwloc_bitmap_or(confined, confined, plan->memory[i].host_nodes);
	for (size_t i = 0; i < plan->n_memory; i++) {
		const struct plan_memory *memory = &plan->memory[i];
		if (memory->policy != MEM_POLICY_RESTRICTIVE || !memory->host_nodes ||
		    memory->fill != FILL_QEMU || hwloc_bitmap_isequal(memory->host_nodes, confined))
			continue;
		cleanup_free char *own = cpulist_format(memory->host_nodes);
		cleanup_free char *all = cpulist_format(confined);
		return error_set(err, EXIT_GRANT,
		                 "guest node %d is restricted to host node %s, but QEMU fills it "
		                 "(%s), and with its other guest nodes may take pages of host "
		                 "nodes %s; use policy strict, or pages that ancla fills "
		                 "(hugepages 2MiB, 1GiB or none, prealloc true)",
		                 memory->guest_node, own,
		                 memory->pages == PAGES_THP ? "transparent huge pages"
		                                            : "prealloc is qemu",
		                 all);
	}
	return 0;
}

int place_memory(struct placing *p, struct error *err)
{
	for (size_t i = 0; i < p->plan->n_memory; i++) {
		if (check_nodes_exist(p, &p->plan->memory[i], err) < 0)
			return -1;
		if (p->spec->strictness.hugepages != STRICTNESS_PREFER &&
		    check_page_size(p, &p->plan->memory[i], err) < 0)
			return -1;
		if (p->spec->strictness.hugepages == STRICTNESS_PREFER)
			degrade(p, i);
		if (check_region(p, i, err) < 0)
			return -1;
		p->plan->memory[i].has_cpus = has_cpus(p, &p->plan->memory[i]);
	}
	if (check_restrictive(p->plan, err) < 0)
		return -1;
	return check_total(p, err);
}

static unsigned host_distance(const struct host *host, unsigned from, unsigned to)
{
	for (size_t i = 0; i < host->n_nodes; i++)
		for (size_t j = 0; j < host->n_nodes; j++)
			if (host->nodes[i].id == from && host->nodes[j].id == to)
				return host->nodes[i].distances[j];
	return DISTANCE_DEFAULT;
}

/* Between two guest nodes: that of the first host nodes that hold them. */
static unsigned guest_distance(const struct placing *p, size_t from, size_t to)
{
	const struct plan_memory *a = &p->plan->memory[from], *b = &p->plan->memory[to];
	unsigned distance = DISTANCE_DEFAULT;

	if (from == to)
		return DISTANCE_LOCAL;
	if (a->host_nodes && b->host_nodes)
		distance = host_distance(p->host, (unsigned)hwloc_bitmap_first(a->host_nodes),
		                         (unsigned)hwloc_bitmap_first(b->host_nodes));
	if (distance <= DISTANCE_LOCAL)
		return DISTANCE_SAME_HOST_NODE;
	return distance < DISTANCE_MAX ? distance : DISTANCE_MAX;
}

static void set_distances(struct placing *p)
{
	struct plan *plan = p->plan;
	size_t n = plan->n_memory;
	enum distances from = p->spec->numa.distances;

	if (plan->memory[0].guest_node < 0)
		return;
	if (from == DISTANCES_UNSET && p->spec->placement.mode == PLACEMENT_AUTO)
		from = DISTANCES_HOST;
	if (from == DISTANCES_UNSET)
		return;
	plan->distances = xcalloc(n * n, sizeof(*plan->distances));
	for (size_t i = 0; i < n * n; i++)
		plan->distances[i] = from == DISTANCES_MATRIX ? p->spec->numa.matrix[i]
		                                              : guest_distance(p, i / n, i % n);
}

/* Each so many vCPUs, in order, have CPUs of one host core, one each. */
static bool on_siblings(const struct placing *p, size_t threads)
{
	const struct plan *plan = p->plan;

	if (plan->cpu_policy != CPU_POLICY_DEDICATED || plan->n_vcpus % threads)
		return false;
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		const struct plan_vcpu *vcpu = &plan->vcpus[i];
		const struct plan_vcpu *first = &plan->vcpus[i / threads * threads];
		const struct host_core *core =
		    host_core_of_cpu(p->host, (unsigned)hwloc_bitmap_first(first->cpus));
		if (hwloc_bitmap_weight(vcpu->cpus) != 1 || !core ||
		    !hwloc_bitmap_isincluded(vcpu->cpus, core->cpus) ||
		    vcpu->guest_node != first->guest_node)
			return false;
	}
	return true;
}

/* Threads of a core of the guest: as many siblings of host cores as its vCPUs have side by side. */
static int count_threads(const struct placing *p, int cores)
{
	size_t widest = 1;

	for (size_t i = 0; i < p->host->n_cores; i++) {
		size_t width = (size_t)hwloc_bitmap_weight(p->host->cores[i].cpus);
		widest = width > widest ? width : widest;
	}
	for (size_t threads = widest; threads > 1; threads--)
		if (cores % (int)threads == 0 && on_siblings(p, threads))
			return (int)threads;
	return 1;
}

/* Guest nodes of equal size, their vCPUs in order: each can be a socket of its own. */
static bool nodes_are_sockets(const struct plan *plan)
{
	size_t each = plan->n_vcpus / plan->n_memory;

	if (plan->memory[0].guest_node < 0 || each * plan->n_memory != plan->n_vcpus)
		return false;
	for (size_t i = 0; i < plan->n_vcpus; i++)
		if (plan->vcpus[i].guest_node != (int)(i / each))
			return false;
	return true;
}

void place_guest_view(struct placing *p)
{
	const struct spec *spec = p->spec;
	struct plan *plan = p->plan;

	set_distances(p);
	if (plan->memory[0].guest_node >= 0 && spec->qemu.machine == MACHINE_MICROVM)
		plan_warn(
		    plan,
		    "machine microvm has no ACPI table for NUMA: the guest's memory is placed "
		    "by its nodes, but it does not see them");
	if (spec->cpu.topology_given) {
		plan->sockets = spec->cpu.sockets;
		plan->dies = spec->cpu.dies;
		plan->cores = spec->cpu.cores;
		plan->threads = spec->cpu.threads;
		return;
	}
	plan->dies = 1;
	plan->sockets = nodes_are_sockets(plan) ? (int)plan->n_memory : 1;
	plan->cores = (int)plan->n_vcpus / plan->sockets;
	/* TCG's own CPU is of a family that has no threads. */
	if (plan->accel != ACCEL_KVM && plan->smt == SMT_REQUIRE)
		plan_warn(plan, "the guest does not see its vCPUs as threads: TCG's CPU has none");
	plan->threads = plan->accel == ACCEL_KVM ? count_threads(p, plan->cores) : 1;
	plan->cores /= plan->threads;
}
