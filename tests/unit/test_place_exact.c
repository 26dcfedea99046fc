/* Automatic placement is exact: on many thousand small machines and guests made from a fixed seed,
 * its plan costs just what the best of all placements costs, where another program, which knows
 * nothing of the search, tries every one: every node for every guest node, every set of CPUs in it,
 * every CPU for the emulator. What they share is the host, the spec, the claims, and the order of
 * what is best as the README has it. */
#include "stages.h"

#include <stdio.h>

/* A sanitizer makes the search twenty times as slow; it looks for other mistakes. */
#ifdef __SANITIZE_ADDRESS__
#define HOSTS 1000
#else
#define HOSTS 10000
#endif
#define TRIES_MAX 15000 /* placements of one guest that are worth trying */

static uint64_t seed = 19470101;

static unsigned below(unsigned limit)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (unsigned)((seed * UINT64_C(2685821657736338717)) >> 33) % limit;
}

static bool one_in(unsigned chances)
{
	return below(chances) == 0;
}

/* ---- machines, guests, other VMs ---- */

static void forget_cpus(struct host *host, size_t index)
{
	struct host_node *node = &host->nodes[index];
	bool banned = one_in(2);

	for (size_t i = 0; i < host->n_cores; i++) {
		struct host_core *core = &host->cores[i];
		if (core->node != (int)node->id)
			continue;
		core->node = -1;
		host->node_by_cpu[hwloc_bitmap_first(core->cpus)] = -1;
		unsigned cpu;
		hwloc_bitmap_foreach_begin(cpu, core->cpus) host->node_by_cpu[cpu] = -1;
		hwloc_bitmap_foreach_end();
		if (banned)
			hwloc_bitmap_andnot(host->allowed, host->allowed, core->cpus);
	}
	hwloc_bitmap_zero(node->cpus);
}

static void any_distances(struct host *host)
{
	static const unsigned far[] = { 12, 16, 20, 21, 32 };

	for (size_t i = 0; i < host->n_nodes; i++)
		for (size_t j = 0; j < i; j++) {
			unsigned there = far[below(5)];
			host->nodes[i].distances[j] = there;
			host->nodes[j].distances[i] = one_in(8) ? far[below(5)] : there;
		}
}

static void any_kinds(struct host *host)
{
	for (unsigned k = 0; k < 2; k++) {
		struct host_kind *kind = array_append(&host->kinds, &host->n_kinds);
		kind->cpus = xbitmap();
		kind->efficiency = one_in(4) ? -1 : (int)k;
	}
	for (size_t i = 0; i < host->n_cores; i++) {
		unsigned k = below(5);
		if (k < 4)
			hwloc_bitmap_or(host->kinds[k % 2].cpus, host->kinds[k % 2].cpus,
			                host->cores[i].cpus);
	}
}

static void any_pages(struct host *host)
{
	for (size_t n = 0; n < host->n_nodes; n++) {
		struct host_pages *pages =
		    array_append(&host->nodes[n].pages, &host->nodes[n].n_pages);
		pages->size = 2 << 20;
		pages->total = 1000;
		pages->free = 128 * below(5);
	}
	host->live = true;
}

static struct host *any_host(void)
{
	unsigned nodes = 1 + below(6), threads = one_in(8) ? 4 : 1 + below(2);
	unsigned cores = 1 + below(nodes > 3 ? 3 : 5);

	if (nodes * (cores + 1) * threads > 40) /* CPUs are the bits of a number here */
		threads = 1;
	cleanup_free char *text =
	    xasprintf("numa:%u(memory=4294967296) l3:%u core:%u pu:%u", nodes, cores > 1 ? 2 : 1,
	              (cores + 1) / (cores > 1 ? 2 : 1), threads);
	struct host *host = host_of(text);
	unsigned cpu;

	for (size_t i = 0; i < host->n_cores; i++) {
		/* Unequal L3 groups: a core goes to its neighbour's, or to none. */
		if (i && one_in(4) && host->cores[i].node == host->cores[i - 1].node)
			host->cores[i].l3 = host->cores[i - 1].l3;
		if (one_in(16))
			host->cores[i].l3 = -1;
	}
	if (!one_in(3))
		any_distances(host);
	if (one_in(6))
		any_kinds(host);
	if (one_in(4))
		any_pages(host);
	for (unsigned i = 1; i <= 2; i++) {
		struct host_device *device = array_append(&host->devices, &host->n_devices);
		device->name = xasprintf("0000:%02u:00.0", i);
		device->node = (int)below((unsigned)host->n_nodes);
	}
	unsigned holes = one_in(3) ? 4 : 12, isolated = one_in(3) ? 3 : 30;
	hwloc_bitmap_foreach_begin(cpu, host->cpus)
	{
		if (one_in(holes))
			hwloc_bitmap_clr(host->allowed, cpu);
		if (one_in(isolated))
			hwloc_bitmap_set(host->isolated, cpu);
	}
	hwloc_bitmap_foreach_end();
	for (size_t n = 0; n < host->n_nodes; n++) {
		uint64_t memory = (uint64_t)below(9) << 28;
		if (one_in(3))
			host->nodes[n].free = memory;
		if (one_in(12))
			host->nodes[n].memory = host->nodes[n].free = 0;
		if (one_in(12))
			forget_cpus(host, n);
	}
	return host;
}

static struct claims *any_claims(const struct host *host)
{
	struct claims *claims = claims_new();
	cleanup_plan struct plan *other = plan_new();
	unsigned cpu, often = one_in(2) ? 6 : 40;

	other->name = xstrdup("other");
	other->emulator = xbitmap();
	other->cpu_policy = CPU_POLICY_DEDICATED;
	hwloc_bitmap_foreach_begin(cpu, host->cpus)
	{
		unsigned draw = below(often);
		if (draw == 0) {
			struct plan_vcpu *vcpu = array_append(&other->vcpus, &other->n_vcpus);
			vcpu->cpus = xbitmap();
			hwloc_bitmap_set(vcpu->cpus, cpu);
		} else if (draw == 1) {
			hwloc_bitmap_set(other->emulator, cpu);
		}
	}
	hwloc_bitmap_foreach_end();
	claims_add_plan(claims, other);
	return claims;
}

static const char *one_of(const char *a, const char *b, const char *c)
{
	const char *const words[] = { a, b, c };

	return words[below(3)];
}

/* Guest nodes of 64 MiB; the last one has the rest. */
static void any_guest_nodes(FILE *out, unsigned vcpus, unsigned step, const struct host *host)
{
	unsigned parts = vcpus / step, nodes = 1 + below(parts < 3 ? parts : 3), next = 0;
	unsigned without = one_in(8);

	fprintf(out, ", 'numa': { 'nodes': [");
	for (unsigned i = 0; i < nodes; i++) {
		bool end = i + 1 == nodes;
		unsigned rest = parts - next / step - (nodes - 1 - i);
		unsigned last = end ? vcpus - 1 : next + (1 + below(rest)) * step - 1;
		fprintf(out, "%s { 'vcpus': '%u-%u', 'memory': '%uMiB'", i ? "," : "", next, last,
		        end ? 1024 - 64 * (nodes - 1 + without) : 64);
		if (one_in(12))
			fprintf(out, ", 'host-nodes': '%u'", below((unsigned)host->n_nodes));
		fprintf(out, " }");
		next = last + 1;
	}
	fprintf(out, "%s ] }", without ? ", { 'memory': '64MiB' }" : "");
}

static void any_memory(struct spec *spec)
{
	if (spec->numa.n_nodes)
		spec->memory = 0;
	else
		spec->memory = (uint64_t)(1 + below(40)) << 27;
	for (size_t i = 0; i < spec->numa.n_nodes; i++) {
		spec->numa.nodes[i].memory = UINT64_C(256) << (20 + below(4));
		spec->memory += spec->numa.nodes[i].memory;
	}
}

static struct spec *any_spec(const struct host *host)
{
	const char *smt = one_in(4) ? "require" : one_of("prefer", "prefer", "isolate");
	unsigned step = strcmp(smt, "require") == 0 ? 2 : 1;
	unsigned vcpus = step * (1 + below((one_in(4) ? 8 : 5) / step));
	cleanup_free char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);
	struct spec *spec;

	fprintf(out, "'vcpus': %u, 'placement': { 'mode': 'auto', 'cpu-policy': '%s'", vcpus,
	        step > 1 ? "dedicated" : one_of("dedicated", "dedicated", "shared"));
	fprintf(out, ", 'smt': '%s'%s", smt,
	        one_of("", ", 'emulator': 'isolate'", ", 'emulator': 'share'"));
	if (!one_in(3))
		fprintf(out, ", 'reserve': %u", below(3));
	fprintf(out, " }");
	if (one_in(4))
		fprintf(out,
		        ", 'memory-backing': { 'hugepages': '2MiB' }, 'strictness': { "
		        "'hugepages': '%s' }",
		        one_in(2) ? "prefer" : "require");
	if (one_in(5))
		fprintf(out, ", 'cputune': { 'vcpupin': { '%u': '%u' } }", below(vcpus),
		        below((unsigned)hwloc_bitmap_weight(host->cpus)));
	if (one_in(3))
		fprintf(out, ", 'hostdevs': [ { 'pci': '01:00.0' }, { 'pci': '02:00.0' } ]");
	if (!one_in(3))
		any_guest_nodes(out, vcpus, step, host);
	fclose(out);
	spec = spec_of(text);
	any_memory(spec);
	return spec;
}

/* ---- the rules, once more and plainly ---- */

enum {
	NODES_MAX = 6,
	UNITS_MAX = 8,
	TERMS = 14,
	KINDS_MAX = 3,
};

typedef uint64_t cpus;

struct rules {
	const struct host *host;
	bool dedicated, isolate, emulator, emulator_must, apart;
	unsigned step;    /* 2: siblings only, in pairs */
	cpus available;   /* to vCPUs, of any kind */
	cpus spare, last; /* for the emulator */
	cpus isolated, allowed, unheld, pinned;
	unsigned n_nodes, n_units;
	struct {
		unsigned vcpus, pool;
		uint64_t memory;
		bool may[NODES_MAX], degrades;
		unsigned far[NODES_MAX];
		cpus pins;
		int region_node; /* memory is bound by the spec: nothing to choose */
	} units[UNITS_MAX];
	uint64_t pools[NODES_MAX][2];
	unsigned home[NODES_MAX];
	unsigned slow;
	int devices[4]; /* the node of each */
	size_t n_devices;
};

struct cost {
	unsigned terms[TERMS];
};

struct placed {
	unsigned node[UNITS_MAX];
	bool plain[UNITS_MAX];
	cpus cpus[UNITS_MAX];
};

static int compare(const struct cost *a, const struct cost *b)
{
	for (unsigned t = 0; t < TERMS; t++)
		if (a->terms[t] != b->terms[t])
			return a->terms[t] < b->terms[t] ? -1 : 1;
	return 0;
}

static cpus mask(hwloc_const_bitmap_t set)
{
	return set ? hwloc_bitmap_to_ulong(set) : 0;
}

static unsigned count(cpus set)
{
	return (unsigned)__builtin_popcountll(set);
}

static cpus node_cpus(const struct rules *r, unsigned node)
{
	return mask(r->host->nodes[node].cpus);
}

static cpus capacity_of(const struct rules *r, cpus available, unsigned node)
{
	cpus result = 0;

	for (size_t i = 0; r->step > 1 && i < r->host->n_cores; i++) {
		cpus core = mask(r->host->cores[i].cpus) & available & node_cpus(r, node);
		result |= count(core) % 2 ? core & (core - 1) : core;
	}
	if (r->step > 1)
		return result;
	if (!r->dedicated || !r->isolate)
		return available & node_cpus(r, node);
	for (size_t i = 0; i < r->host->n_cores; i++) {
		cpus core = mask(r->host->cores[i].cpus);
		if ((core & node_cpus(r, node)) == core && (core & available) == core)
			result |= core & -core;
	}
	return result;
}

/* The L3 groups of a node, and the CPUs of no L3 as one more. */
static unsigned l3_groups(const struct rules *r, unsigned node, cpus *groups)
{
	unsigned n = 0;

	for (int l3 = -1; l3 < (int)r->host->n_l3s; l3++) {
		cpus set = 0;
		for (size_t i = 0; i < r->host->n_cores; i++)
			if (r->host->cores[i].l3 == l3)
				set |= mask(r->host->cores[i].cpus) & node_cpus(r, node);
		if (set)
			groups[n++] = set;
	}
	return n;
}

/* The terms of the CPUs of one node: all units that are there. */
static void cost_node(const struct rules *r, const struct placed *at, cpus available, unsigned node,
                      struct cost *cost)
{
	cpus all = 0, groups[64], room = capacity_of(r, available, node);
	unsigned vcpus = 0, n_groups = l3_groups(r, node, groups), there = 0;

	for (unsigned u = 0; u < r->n_units; u++)
		if (at->node[u] == node) {
			there++;
			vcpus += r->units[u].vcpus;
			all |= at->cpus[u];
			cost->terms[5] += r->units[u].far[node];
			cost->terms[1] += at->plain[u];
		}
	if (!there)
		return;
	cost->terms[4]++;
	if (vcpus > count(room))
		cost->terms[0] += vcpus - count(room);
	else
		cost->terms[12] += count(room) - vcpus;
	if (!r->dedicated)
		return;
	for (unsigned g = 0; g < n_groups; g++) {
		for (unsigned u = 0; u < r->n_units; u++)
			if (at->node[u] == node && (at->cpus[u] & groups[g]) &&
			    !(r->units[u].pins & groups[g]))
				cost->terms[7]++;
		if (all & groups[g])
			cost->terms[13] += count(room & groups[g]) - count(all & groups[g]);
	}
	for (size_t i = 0; i < r->host->n_cores; i++) {
		cpus core = mask(r->host->cores[i].cpus);
		if (!(core & all))
			continue;
		cost->terms[9]++;
		if (core & r->allowed & ~available)
			cost->terms[8] += count(core & all);
	}
	cost->terms[10] += count(all & ~r->isolated);
}

static void cost_emulator(const struct rules *r, const struct placed *at, cpus available,
                          struct cost *cost)
{
	cpus all = r->pinned, idle = 0, mine = 0, cores = 0;
	unsigned best = 4;

	if (!r->emulator)
		return;
	for (unsigned u = 0; u < r->n_units; u++) {
		all |= at->cpus[u];
		mine |= node_cpus(r, at->node[u]);
		if (!r->dedicated && r->units[u].vcpus)
			all |= available & node_cpus(r, at->node[u]);
	}
	for (size_t i = 0; i < r->host->n_cores; i++) {
		cpus core = mask(r->host->cores[i].cpus);
		if (core & all)
			cores |= core;
	}
	for (unsigned u = 0; r->isolate && u < r->n_units; u++)
		for (size_t i = 0; i < r->host->n_cores; i++)
			if (mask(r->host->cores[i].cpus) & at->cpus[u])
				idle |= mask(r->host->cores[i].cpus);
	for (unsigned cpu = 0; cpu < 64; cpu++) {
		cpus bit = (cpus)1 << cpu;
		if ((all | idle) & bit)
			continue;
		unsigned rank = r->last & bit       ? 3
		                : !(r->spare & bit) ? 4
		                : !(mine & bit)     ? 1
		                : cores & bit       ? 2
		                                    : 0;
		best = rank < best ? rank : best;
	}
	if (best < 4)
		cost->terms[11] = best;
	else
		cost->terms[2] = 1;
}

static bool used(const struct rules *r, const struct placed *at, unsigned node)
{
	for (unsigned u = 0; u < r->n_units; u++)
		if (at->node[u] == node)
			return true;
	return false;
}

static struct cost cost_of(const struct rules *r, const struct placed *at, cpus available)
{
	struct cost cost = { { 0 } };

	cost.terms[3] = r->slow;
	for (unsigned n = 0; n < r->n_nodes; n++) {
		cost_node(r, at, available, n, &cost);
		for (unsigned m = 0; m < r->n_nodes; m++)
			if (n != m && used(r, at, n) && used(r, at, m))
				cost.terms[5] += r->host->nodes[n].distances[m];
	}
	for (size_t d = 0; d < r->n_devices; d++) {
		unsigned least = UINT32_MAX;
		for (unsigned m = 0; m < r->n_nodes; m++)
			for (unsigned n = 0; n < r->n_nodes; n++)
				if ((int)r->host->nodes[n].id == r->devices[d] && used(r, at, m) &&
				    r->host->nodes[n].distances[m] < least)
					least = r->host->nodes[n].distances[m];
		cost.terms[6] += least == UINT32_MAX ? 0 : least;
	}
	cost_emulator(r, at, available, &cost);
	return cost;
}

/* ---- every placement ---- */

struct best {
	bool found;
	struct cost cost;
};

static void try_unit(const struct rules *r, unsigned unit, struct placed *at, cpus available,
                     cpus left, struct best *best);

static void try_cpus(const struct rules *r, unsigned unit, struct placed *at, cpus available,
                     cpus left, cpus from, unsigned wanted, struct best *best)
{
	for (size_t i = 0; wanted == 0 && r->step > 1 && i < r->host->n_cores; i++)
		if (count(mask(r->host->cores[i].cpus) & at->cpus[unit]) % 2)
			return;
	if (wanted == 0) {
		try_unit(r, unit + 1, at, available, left, best);
		return;
	}
	for (cpus rest = from; rest; rest &= rest - 1) {
		cpus bit = rest & -rest, core = bit;
		for (size_t i = 0; r->isolate && i < r->host->n_cores; i++)
			if (mask(r->host->cores[i].cpus) & bit)
				core = mask(r->host->cores[i].cpus);
		at->cpus[unit] |= bit;
		try_cpus(r, unit, at, available, left & ~core, (rest & (rest - 1)) & ~core,
		         wanted - 1, best);
		at->cpus[unit] &= ~bit;
	}
}

/* CPUs that the unit may have on the node: with isolate, of cores that are ours as a whole. */
static cpus usable(const struct rules *r, cpus available, cpus left, unsigned node)
{
	cpus result = 0;

	if (!r->isolate)
		return left & node_cpus(r, node);
	for (size_t i = 0; i < r->host->n_cores; i++) {
		cpus core = mask(r->host->cores[i].cpus);
		if ((core & available) == core)
			result |= core & left & node_cpus(r, node);
	}
	return result;
}

static bool memory_fits(const struct rules *r, const struct placed *at)
{
	uint64_t needed[NODES_MAX][2] = { { 0 } };

	for (unsigned u = 0; u < r->n_units; u++)
		needed[r->home[at->node[u]]][at->plain[u] ? 0 : r->units[u].pool] +=
		    r->units[u].memory;
	for (unsigned n = 0; n < r->n_nodes; n++)
		if (needed[n][0] > r->pools[n][0] || needed[n][1] > r->pools[n][1])
			return false;
	return true;
}

static void try_unit(const struct rules *r, unsigned unit, struct placed *at, cpus available,
                     cpus left, struct best *best)
{
	if (unit == r->n_units) {
		if (!memory_fits(r, at))
			return;
		struct cost cost = cost_of(r, at, available);
		if ((r->emulator_must && cost.terms[2]) ||
		    (best->found && compare(&cost, &best->cost) >= 0))
			return;
		best->found = true;
		best->cost = cost;
		return;
	}
	for (unsigned n = 0; n < r->n_nodes; n++) {
		bool taken = false;
		for (unsigned u = 0; r->apart && u < unit; u++)
			taken |= at->node[u] == n;
		if (!r->units[unit].may[n] || taken)
			continue;
		at->node[unit] = n;
		for (int plain = 0; plain <= r->units[unit].degrades; plain++) {
			at->plain[unit] = plain;
			if (r->dedicated)
				try_cpus(r, unit, at, available, left,
				         usable(r, available, left, n), r->units[unit].vcpus, best);
			else if (!r->units[unit].vcpus || (available & node_cpus(r, n)))
				try_unit(r, unit + 1, at, available, left, best);
		}
	}
	at->plain[unit] = false;
}

static double tries(const struct rules *r, cpus available)
{
	double product = 1;

	for (unsigned u = 0; u < r->n_units; u++) {
		double sum = 0;
		for (unsigned n = 0; n < r->n_nodes; n++) {
			double ways = r->units[u].may[n];
			unsigned room = count(available & node_cpus(r, n));
			for (unsigned i = 0; r->dedicated && i < r->units[u].vcpus; i++)
				ways *= i < room ? (double)(room - i) / (i + 1) : 0;
			sum += ways;
		}
		product *= sum * (1 + r->units[u].degrades);
	}
	return product;
}

/* ---- the rules of one guest ---- */

static cpus reserved(const struct host *host, int wanted)
{
	cpus result = 0, allowed = mask(host->allowed), isolated = mask(host->isolated);
	int usable_cores = 0;

	for (size_t i = 0; i < host->n_cores; i++)
		usable_cores += (mask(host->cores[i].cpus) & allowed) &&
		                !(mask(host->cores[i].cpus) & isolated);
	if (wanted < 0)
		wanted = usable_cores > 1;
	for (size_t i = 0; i < host->n_cores && wanted; i++) {
		cpus core = mask(host->cores[i].cpus);
		if (!(core & allowed) || (core & isolated))
			continue;
		result |= core;
		wanted--;
	}
	return result & allowed;
}

static void unit_nodes(struct rules *r, unsigned u, hwloc_const_bitmap_t bound)
{
	const struct host *host = r->host;
	bool with_cpus = false;

	for (unsigned n = 0; bound && n < r->n_nodes; n++)
		with_cpus |= hwloc_bitmap_isset(bound, host->nodes[n].id) && node_cpus(r, n);
	for (unsigned n = 0; n < r->n_nodes; n++) {
		unsigned far = UINT32_MAX;
		r->units[u].may[n] = r->units[u].pins ? (r->units[u].pins & node_cpus(r, n)) != 0
		                     : with_cpus      ? hwloc_bitmap_isset(bound, host->nodes[n].id)
		                                      : true;
		for (unsigned m = 0; m < r->n_nodes; m++) {
			unsigned here = m == n ? 0 : host->nodes[n].distances[m];
			if ((bound ? hwloc_bitmap_isset(bound, host->nodes[m].id)
			           : m == r->home[n]) &&
			    here < far)
				far = here;
		}
		r->units[u].far[n] = far == UINT32_MAX ? 0 : far;
	}
}

/* What the spec pins the vCPU to; with require, the sibling of another's pin. */
static cpus pin_of(const struct rules *r, const struct spec *spec, unsigned vcpu)
{
	hwloc_const_bitmap_t pin = spec_vcpupin(spec, (int)vcpu);
	hwloc_const_bitmap_t other = spec_vcpupin(spec, (int)(vcpu ^ 1));
	cpus rest = 0;

	if (pin || r->step < 2 || !other)
		return mask(pin);
	for (size_t i = 0; i < r->host->n_cores; i++)
		if (mask(r->host->cores[i].cpus) & mask(other))
			rest = mask(r->host->cores[i].cpus) & r->unheld & ~mask(other);
	return rest & -rest;
}

static void add_unit(struct rules *r, const struct spec *spec, unsigned first, unsigned n_vcpus,
                     hwloc_const_bitmap_t vcpus, uint64_t memory, struct pages pages,
                     hwloc_const_bitmap_t bound)
{
	unsigned u = r->n_units++;

	memset(&r->units[u], 0, sizeof(r->units[u]));
	for (unsigned v = 0; v < (unsigned)spec->max_vcpus; v++) {
		if (vcpus ? !hwloc_bitmap_isset(vcpus, v) : v < first || v >= first + n_vcpus)
			continue;
		if (pin_of(r, spec, v))
			r->units[u].pins |= pin_of(r, spec, v);
		else
			r->units[u].vcpus++;
	}
	r->units[u].memory = bound ? 0 : memory;
	r->units[u].pool = !bound && pages.kind == PAGES_HUGE;
	r->units[u].degrades = r->units[u].pool && spec->strictness.hugepages == STRICTNESS_PREFER;
	unit_nodes(r, u, bound);
}

/* With `made` guest nodes that the spec leaves to placement; 0: those of the spec. */
static void make_rules(struct rules *r, const struct spec *spec, const struct host *host,
                       const struct claims *claims, unsigned made, const struct plan *sizes)
{
	cpus reserve = reserved(host, spec->placement.reserve), siblings = 0;
	cpus free = mask(host->allowed) & ~mask(claims->dedicated);
	cpus unheld = free & ~mask(claims->shared);

	memset(r, 0, sizeof(*r));
	r->host = host;
	r->n_nodes = (unsigned)host->n_nodes;
	r->dedicated = spec->placement.cpu_policy == CPU_POLICY_DEDICATED;
	r->isolate = r->dedicated && spec->placement.smt == SMT_ISOLATE;
	r->isolated = mask(host->isolated);
	r->allowed = mask(host->allowed);
	r->emulator = spec->placement.emulator == EMULATOR_ISOLATE ||
	              (r->dedicated && spec->placement.emulator != EMULATOR_SHARE);
	r->emulator_must = r->emulator && spec->placement.emulator == EMULATOR_ISOLATE;
	r->apart = made > 0;
	r->step = r->dedicated && spec->placement.smt == SMT_REQUIRE ? 2 : 1;
	r->unheld = unheld;
	for (unsigned v = 0; v < (unsigned)spec->max_vcpus; v++)
		r->pinned |= pin_of(r, spec, v);
	for (size_t i = 0; spec->placement.smt == SMT_ISOLATE && i < host->n_cores; i++)
		if (mask(host->cores[i].cpus) & r->pinned)
			siblings |= mask(host->cores[i].cpus) & ~r->pinned;
	r->available =
	    (r->dedicated ? unheld : free & ~r->isolated) & ~r->pinned & ~siblings & ~reserve;
	r->spare = free & ~r->isolated & ~r->pinned & ~siblings & ~reserve;
	r->last = free & ~r->isolated & ~siblings & reserve & ~r->pinned;
	for (unsigned n = 0; n < r->n_nodes; n++) {
		r->home[n] = n;
		for (unsigned m = 0; !host->nodes[n].memory && m < r->n_nodes; m++)
			if (host->nodes[m].memory &&
			    (r->home[n] == n ||
			     host->nodes[n].distances[m] < host->nodes[n].distances[r->home[n]]))
				r->home[n] = m;
		r->pools[n][0] = host->nodes[n].free;
		for (size_t i = 0; i < host->nodes[n].n_pages; i++)
			r->pools[n][1] =
			    host->nodes[n].pages[i].free * host->nodes[n].pages[i].size;
		if (!host->nodes[n].n_pages && !host->live)
			r->pools[n][1] = host->nodes[n].memory;
	}
	for (size_t i = 0; i < spec->numa.n_nodes; i++) {
		const struct spec_node *node = &spec->numa.nodes[i];
		add_unit(r, spec, 0, 0, node->vcpus, node->memory, node->pages, node->host_nodes);
		for (unsigned n = 0; node->host_nodes && n < r->n_nodes; n++)
			if (hwloc_bitmap_isset(node->host_nodes, host->nodes[n].id)) {
				uint64_t *pool = &r->pools[n][node->pages.kind == PAGES_HUGE];
				*pool -= *pool < node->memory ? *pool : node->memory;
			}
	}
	for (size_t i = 0; i < spec->n_hostdevs; i++)
		for (size_t d = 0; d < host->n_devices; d++)
			if (strcmp(spec->hostdevs[i].pci, host->devices[d].name) == 0)
				r->devices[r->n_devices++] = host->devices[d].node;
	uint64_t pages = spec->memory >> 21;
	for (unsigned i = 0, next = 0; !spec->numa.n_nodes && i < (made ? made : 1); i++) {
		unsigned parts = made ? made : 1, all = (unsigned)spec->max_vcpus;
		unsigned pairs = all / r->step;
		unsigned mine = (pairs / parts + (i < pairs % parts)) * r->step;
		uint64_t memory = (pages / parts + (i < pages % parts)) << 21;
		if (sizes) {
			memory = sizes->memory[i].size;
			mine = 0;
			for (unsigned v = 0; v < all; v++)
				mine += sizes->vcpus[v].guest_node == (int)i;
		}
		add_unit(r, spec, next, mine, NULL, memory, spec->backing.pages, NULL);
		next += mine;
	}
}

/* The kinds of cores that the guest may be on as a whole. */
static unsigned list_kinds(const struct rules *r, cpus *kinds, unsigned *slow)
{
	const struct host *host = r->host;
	cpus rest = mask(host->cpus);
	unsigned n = 0, pinned = 0;

	for (size_t k = 0; k < host->n_kinds; k++)
		pinned += (r->pinned & mask(host->kinds[k].cpus)) != 0;
	if (host->n_kinds < 2 || pinned > 1) {
		kinds[0] = ~(cpus)0;
		slow[0] = 0;
		return 1;
	}
	for (size_t k = 0; k < host->n_kinds; k++) {
		rest &= ~mask(host->kinds[k].cpus);
		if (r->pinned && !(r->pinned & mask(host->kinds[k].cpus)))
			continue;
		slow[n] = host->kinds[k].efficiency < 0 ? 0 : (unsigned)(host->n_kinds - 1 - k);
		kinds[n++] = mask(host->kinds[k].cpus);
	}
	if (!r->pinned || (rest & r->pinned)) {
		slow[n] = (unsigned)host->n_kinds;
		kinds[n++] = rest;
	}
	return n;
}

/* False: too many placements to try. */
static bool try_all(struct rules *r, struct best *best)
{
	cpus kinds[KINDS_MAX];
	unsigned slow[KINDS_MAX], n = list_kinds(r, kinds, slow);

	for (unsigned k = 0; k < n; k++) {
		struct placed at = { { 0 }, { 0 }, { 0 } };
		cpus available = r->available & kinds[k];
		if (tries(r, available) > TRIES_MAX)
			return false;
		r->slow = slow[k];
		try_unit(r, 0, &at, available, available, best);
	}
	return true;
}

static bool granted(const struct best *best)
{
	return best->found && !best->cost.terms[0] && !best->cost.terms[1];
}

/* The best of all; the number of guest nodes that it makes of a VM without. */
static bool find_best(const struct spec *spec, const struct host *host, const struct claims *claims,
                      struct best *best, unsigned *made)
{
	struct rules r;

	*made = 0;
	make_rules(&r, spec, host, claims, 0, NULL);
	if (!try_all(&r, best))
		return false;
	if (granted(best) || spec->numa.n_nodes || r.pinned)
		return true;
	for (unsigned k = 2; k <= host->n_nodes && k <= (unsigned)spec->max_vcpus / r.step; k++) {
		struct best split = { false, { { 0 } } };
		make_rules(&r, spec, host, claims, k, NULL);
		if (!try_all(&r, &split))
			return false;
		bool more = split.found && best->found &&
		            memcmp(split.cost.terms, best->cost.terms, 2 * sizeof(unsigned)) != 0 &&
		            compare(&split.cost, &best->cost) < 0;
		if (more || (split.found && !best->found)) {
			*best = split;
			*made = k;
		}
		if (granted(best))
			break;
	}
	return true;
}

/* ---- what the plan costs, by the same rules ---- */

static void consider(const struct rules *r, const struct plan *plan, unsigned unit,
                     struct placed *at, cpus available, struct best *best)
{
	if (unit == r->n_units) {
		struct cost cost = cost_of(r, at, available);
		if (!best->found || compare(&cost, &best->cost) < 0)
			*best = (struct best){ true, cost };
		return;
	}
	for (unsigned n = 0; n < r->n_nodes; n++) {
		int memory = hwloc_bitmap_first(plan->memory[unit].host_nodes);
		if (!r->units[unit].may[n] || (at->cpus[unit] & ~node_cpus(r, n)) ||
		    (r->units[unit].memory && (int)r->host->nodes[r->home[n]].id != memory))
			continue;
		at->node[unit] = n;
		consider(r, plan, unit + 1, at, available, best);
	}
}

/* Of all ways to read the plan the cheapest: which node a unit without CPUs counts for is not
 * said. */
static struct best cost_of_plan(const struct spec *spec, struct rules *r, const struct plan *plan)
{
	struct best best = { false, { { 0 } } };
	struct placed at = { { 0 }, { 0 }, { 0 } };
	cpus kinds[KINDS_MAX], all = 0;
	unsigned slow[KINDS_MAX], n = list_kinds(r, kinds, slow);

	for (unsigned u = 0; u < r->n_units; u++) {
		at.plain[u] = r->units[u].pool && plan->memory[u].pages == PAGES_PLAIN;
		for (size_t v = 0; v < plan->n_vcpus; v++)
			if (!pin_of(r, spec, (unsigned)v) &&
			    (plan->vcpus[v].guest_node < 0 || plan->vcpus[v].guest_node == (int)u))
				at.cpus[u] |= mask(plan->vcpus[v].cpus);
		all |= at.cpus[u];
	}
	for (unsigned k = 0; k < n; k++) {
		if (all & ~kinds[k])
			continue;
		r->slow = slow[k];
		if (!r->dedicated && all != (all & r->available & kinds[k]))
			continue;
		consider(r, plan, 0, &at, r->available & kinds[k], &best);
	}
	return best;
}

static void print_terms(const char *what, const struct best *best)
{
	fprintf(stderr, "%s:", what);
	for (unsigned t = 0; best->found && t < TERMS; t++)
		fprintf(stderr, " %u", best->cost.terms[t]);
	fprintf(stderr, "%s\n", best->found ? "" : " none");
}

/* The emulator is really where the plan's cost says that it can be. */
static void check_emulator(const struct rules *r, const struct plan *plan, const struct cost *cost)
{
	cpus all = r->pinned, emulator = mask(plan->emulator);

	for (size_t v = 0; v < plan->n_vcpus; v++)
		all |= mask(plan->vcpus[v].cpus);
	if (!r->emulator || cost->terms[2])
		return;
	assert_int_equal(emulator & (all | mask(plan->siblings)), 0);
	assert_int_equal(emulator & ~(cost->terms[11] == 3 ? r->last : r->spare), 0);
	for (size_t i = 0; cost->terms[11] == 0 && i < r->host->n_cores; i++)
		if (mask(r->host->cores[i].cpus) & emulator)
			assert_int_equal(mask(r->host->cores[i].cpus) & all, 0);
}

/* Whether so many nodes have the room for a VM that is split in unequal parts. */
static bool is_room(const struct spec *spec, const struct host *host, const struct claims *claims,
                    unsigned nodes)
{
	struct rules r;

	make_rules(&r, spec, host, claims, 0, NULL);
	for (unsigned set = 0; set < 1U << r.n_nodes; set++) {
		uint64_t vcpus = 0, pages = 0;
		bool all = (unsigned)__builtin_popcount(set) == nodes;
		for (unsigned n = 0; n < r.n_nodes; n++) {
			if (!(set & 1U << n))
				continue;
			unsigned cpus_there = count(capacity_of(&r, r.available, n));
			if (!r.dedicated && cpus_there)
				cpus_there = r.units[0].vcpus;
			all &= r.home[n] == n && cpus_there && r.pools[n][r.units[0].pool] >> 21;
			vcpus += cpus_there;
			pages += r.pools[n][r.units[0].pool] >> 21;
		}
		if (all && vcpus >= r.units[0].vcpus && pages >= spec->memory >> 21 &&
		    r.units[0].vcpus / r.step >= nodes)
			return true;
	}
	return false;
}

/* The emulator, or kinds of cores, may need more than room. */
static bool is_only_room(const struct spec *spec, const struct host *host)
{
	return spec->numa.n_nodes == 0 && spec->cputune.n_vcpupin == 0 && host->n_kinds < 2 &&
	       spec->placement.emulator != EMULATOR_ISOLATE;
}

/* No plan: nor are there nodes among which the VM could be split. */
static void check_refusal(const struct spec *spec, const struct host *host,
                          const struct claims *claims)
{
	for (unsigned k = 2; is_only_room(spec, host) && k <= host->n_nodes; k++)
		assert_false(is_room(spec, host, claims, k));
}

/* A VM split in unequal parts: so few would not do otherwise, and they are placed best. Returns
 * false where there is too much to try. */
static bool check_uneven(const struct spec *spec, const struct host *host,
                         const struct claims *claims, const struct plan *plan, unsigned even)
{
	struct best best = { false, { { 0 } } }, mine;
	unsigned nodes = (unsigned)plan->n_memory;
	struct rules r;

	assert_true(!even || nodes < even);
	for (unsigned k = 2; is_only_room(spec, host) && k <= nodes; k++)
		assert_int_equal(is_room(spec, host, claims, k), k == nodes);
	make_rules(&r, spec, host, claims, nodes, plan);
	if (!try_all(&r, &best))
		return false;
	mine = cost_of_plan(spec, &r, plan);
	assert_true(best.found && mine.found);
	assert_int_equal(compare(&best.cost, &mine.cost), 0);
	return true;
}

static unsigned uneven; /* how many there were */

/* Whether there was something to compare. */
static bool check_round(unsigned round, unsigned *placed)
{
	cleanup_host struct host *host = any_host();
	cleanup_claims struct claims *claims = any_claims(host);
	cleanup_spec struct spec *spec = any_spec(host);
	cleanup_error struct error err = ERROR_INIT;
	struct best best = { false, { { 0 } } }, mine = best;
	struct rules r;
	unsigned made;

	if (!find_best(spec, host, claims, &best, &made))
		return false;
	cleanup_plan struct plan *plan = place(spec, host, claims, ACCEL_KVM, &err);
	if (plan && plan->n_memory > 1 && !spec->numa.n_nodes &&
	    (!best.found || made != plan->n_memory)) {
		uneven++;
		return check_uneven(spec, host, claims, plan, best.found ? made : 0);
	}
	if (plan) {
		make_rules(&r, spec, host, claims,
		           plan->n_memory > 1 ? (unsigned)plan->n_memory : 0, NULL);
		mine = cost_of_plan(spec, &r, plan);
		assert_true(mine.found);
		if (!spec->numa.n_nodes)
			assert_int_equal(made, plan->n_memory > 1 ? plan->n_memory : 0);
		check_emulator(&r, plan, &mine.cost);
		(*placed)++;
	} else if (!strstr(err.message, "no host node") &&
	           !strstr(err.message, "placement.emulator")) {
		return false; /* a pin that may not be, or memory that is not there */
	}
	if (!plan)
		check_refusal(spec, host, claims);
	if (best.found != !!plan || (plan && compare(&best.cost, &mine.cost) != 0)) {
		print_terms("best", &best);
		print_terms("plan", &mine);
		if (plan) {
			cleanup_json struct json_object *json = plan_to_json(plan);
			fprintf(stderr, "%s\n", json_object_to_json_string(json));
		}
		cleanup_json struct json_object *json = host_json(host);
		fprintf(stderr, "%s\n", json_object_to_json_string(json));
		fail_msg("round %u: the plan is not the best: %s", round,
		         plan ? plan->why[0] : err.message);
	}
	return true;
}

static void no_placement_is_better(void **state)
{
	unsigned checked = 0, placed = 0;

	(void)state;
	for (unsigned round = 0; checked < HOSTS; round++)
		checked += check_round(round, &placed);
	assert_in_range(placed, HOSTS / 2, HOSTS);
	assert_in_range(uneven, HOSTS / 500, HOSTS);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(no_placement_is_better) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
