#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "place_parts.h"
#include "util.h"

static enum fill_by fill_for(const struct spec *spec)
{
	switch (spec->backing.prealloc) {
	case PREALLOC_TRUE:
		return FILL_LAUNCHER;
	case PREALLOC_QEMU:
		return FILL_QEMU;
	default:
		return FILL_NONE;
	}
}

/* How the pages are held: what the launcher fills, or others map, is a file. A memfd has
 * transparent huge pages only where the kernel was told so; elsewhere QEMU maps and fills them. */
static void choose_backing(const struct placing *p, struct plan_memory *memory)
{
	const struct spec *spec = p->spec;
	bool shared = memory->shared;

	memory->fill = fill_for(spec);
	if (memory->pages == PAGES_THP && p->host->memfd_thp && memory->fill == FILL_LAUNCHER) {
		memory->backing = BACKING_MEMFD;
	} else if (memory->pages == PAGES_THP) {
		memory->backing = BACKING_ANON;
		if (memory->fill == FILL_LAUNCHER)
			memory->fill = FILL_QEMU;
	} else if (memory->pages == PAGES_HUGE && spec->backing.path) {
		memory->backing = BACKING_PATH;
	} else if (memory->pages == PAGES_HUGE || memory->fill == FILL_LAUNCHER || shared) {
		memory->backing = BACKING_MEMFD;
	} else {
		memory->backing = BACKING_ANON;
	}
	memory->shared = memory->backing != BACKING_ANON;
}

static bool has_vhost(const struct spec *spec)
{
	for (size_t i = 0; i < spec->n_nics; i++)
		if (spec->nics[i].vhost)
			return true;
	return false;
}

static bool has_vhost_user(const struct spec *spec)
{
	for (size_t i = 0; i < spec->n_nics; i++)
		if (spec->nics[i].type == NIC_VHOST_USER)
			return true;
	return false;
}

void place_add_region(struct placing *p, int guest_node, uint64_t size, struct pages pages,
                      hwloc_const_bitmap_t host_nodes, enum mem_policy policy, bool shared)
{
	struct plan_memory *memory = array_append(&p->plan->memory, &p->plan->n_memory);

	memory->guest_node = guest_node;
	memory->size = size;
	memory->pages = pages.kind;
	memory->page_size = pages.kind == PAGES_HUGE ? pages.size : p->host->page_size;
	memory->grow = pages.kind == PAGES_HUGE && pages.grow;
	memory->host_nodes = host_nodes ? xbitmap_dup(host_nodes) : NULL;
	memory->policy = policy == MEM_POLICY_UNSET && host_nodes ? MEM_POLICY_STRICT : policy;
	memory->shared = shared || has_vhost_user(p->spec);
	choose_backing(p, memory);
}

static void start_plan(struct placing *p, enum accel accel)
{
	const struct spec *spec = p->spec;
	struct plan *plan = p->plan;

	plan->name = xstrdup(spec->name);
	plan->accel = accel;
	plan->cpu_policy = spec->placement.cpu_policy;
	plan->smt = spec->placement.smt == SMT_UNSET ? SMT_PREFER : spec->placement.smt;
	plan->emulator_policy = spec->placement.emulator;
	plan->threads = plan->smt == SMT_REQUIRE ? spec_threads(spec) : 1;
	plan->vcpus_online = spec->vcpus;
	plan->locked = spec->backing.locked;
	plan->pages_required = spec->strictness.hugepages == STRICTNESS_REQUIRE;
	plan->kernel_threads = accel == ACCEL_KVM || has_vhost(spec);
	plan->nosharepages = spec->backing.nosharepages;
	plan->memory_path = spec->backing.path ? xstrdup(spec->backing.path) : NULL;
	plan->emulator_sched = spec->cputune.emulatorsched;
	plan->shares = spec->cputune.shares == SPEC_UNSET ? 0 : spec->cputune.shares;
	plan->quota = spec->cputune.quota ? atoi(spec->cputune.quota) : 0;
	plan->partition = spec->isolation == ISOLATION_PARTITION;
	plan->n_vcpus = (size_t)spec->max_vcpus;
	plan->vcpus = xcalloc(plan->n_vcpus, sizeof(*plan->vcpus));
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		plan->vcpus[i].guest_node = -1;
		plan->vcpus[i].host_node = -1;
		plan->vcpus[i].sched = spec_vcpu_sched(spec, (int)i);
	}
	plan->n_iothreads = spec->n_iothreads;
	plan->iothreads = xcalloc(plan->n_iothreads, sizeof(*plan->iothreads));
	for (size_t i = 0; i < plan->n_iothreads; i++) {
		plan->iothreads[i].id = xstrdup(spec->iothreads[i]);
		plan->iothreads[i].sched = spec_iothread_sched(spec, spec->iothreads[i]);
	}
	for (size_t i = 0; i < spec->numa.n_nodes; i++) {
		const struct spec_node *node = &spec->numa.nodes[i];
		unsigned vcpu;
		place_add_region(p, (int)i, node->memory, node->pages, node->host_nodes,
		                 node->policy, node->shared);
		hwloc_bitmap_foreach_begin(vcpu, node->vcpus) plan->vcpus[vcpu].guest_node = (int)i;
		hwloc_bitmap_foreach_end();
	}
	if (spec->numa.n_nodes == 0)
		place_add_region(p, -1, spec->memory, spec->backing.pages, spec->backing.host_nodes,
		                 spec->backing.policy, false);
}

static int take_pins(struct placing *p, struct error *err)
{
	const struct spec *spec = p->spec;
	struct plan *plan = p->plan;

	for (size_t i = 0; i < plan->n_vcpus; i++) {
		hwloc_const_bitmap_t pin = spec_vcpupin(spec, (int)i);
		cleanup_free char *what = xasprintf("vCPU %zu", i);
		if (!pin)
			continue;
		if (place_check_pin(p->host, what, pin, err) < 0)
			return -1;
		plan->vcpus[i].cpus = xbitmap_dup(pin);
		hwloc_bitmap_or(p->pinned, p->pinned, pin);
		hwloc_bitmap_or(p->pinned_vcpus, p->pinned_vcpus, pin);
	}
	for (size_t i = 0; i < plan->n_iothreads; i++) {
		hwloc_const_bitmap_t pin = spec_iothreadpin(spec, plan->iothreads[i].id);
		cleanup_free char *what = xasprintf("iothread %s", plan->iothreads[i].id);
		if (!pin)
			continue;
		if (place_check_pin(p->host, what, pin, err) < 0)
			return -1;
		plan->iothreads[i].cpus = xbitmap_dup(pin);
		hwloc_bitmap_or(p->pinned, p->pinned, pin);
	}
	if (spec->cputune.emulatorpin) {
		if (place_check_pin(p->host, "the emulator", spec->cputune.emulatorpin, err) < 0)
			return -1;
		plan->emulator = xbitmap_dup(spec->cputune.emulatorpin);
		hwloc_bitmap_or(p->pinned, p->pinned, plan->emulator);
	}
	return 0;
}

/* CPUs for threads that float: granted, not isolated, held by nobody alone. */
static hwloc_bitmap_t floating(const struct placing *p)
{
	hwloc_bitmap_t cpus = xbitmap();

	hwloc_bitmap_andnot(cpus, p->free, p->host->isolated);
	return cpus;
}

void place_share_emulator(struct placing *p, hwloc_const_bitmap_t vcpus)
{
	hwloc_bitmap_t cpus = p->plan->emulator;

	hwloc_bitmap_andnot(cpus, vcpus, p->host->isolated);
	if (!hwloc_bitmap_iszero(cpus))
		return;
	hwloc_bitmap_only(cpus, (unsigned)hwloc_bitmap_first(vcpus));
	plan_why(p->plan, "emulator: of the vCPUs' CPUs, which are isolated, only the first (%d)",
	         hwloc_bitmap_first(vcpus));
}

/* A thread is counted on each CPU that it may use, and there nobody can be alone. So the emulator
 * does not float over all that is left, but over what of it is kept for the host; unless a pinned
 * vCPU is on a core of that. */
static void float_on_reserve(const struct placing *p, hwloc_bitmap_t emulator,
                             hwloc_const_bitmap_t pinned_vcpus)
{
	if (!hwloc_bitmap_intersects(emulator, p->reserve))
		return;
	for (size_t i = 0; i < p->host->n_cores; i++) {
		hwloc_const_bitmap_t core = p->host->cores[i].cpus;
		if (hwloc_bitmap_intersects(core, p->reserve) &&
		    hwloc_bitmap_intersects(core, pinned_vcpus))
			return;
	}
	hwloc_bitmap_and(emulator, emulator, p->reserve);
}

/* The emulator's CPUs where the spec names none: apart from every pin and vCPU if there are such
 * CPUs; else, shared, with the vCPUs that float, too, or with iothreads. Empty: there are none. */
static void float_emulator(struct placing *p, hwloc_const_bitmap_t vcpus,
                           hwloc_const_bitmap_t pinned_vcpus)
{
	hwloc_const_bitmap_t none = p->plan->siblings; /* avoided in any case */
	hwloc_const_bitmap_t avoid[][2] = {
		{ vcpus, p->pinned },
		{ pinned_vcpus, p->pinned },
		{ vcpus, none },
		{ pinned_vcpus, none },
	};
	bool isolate = p->spec->placement.emulator == EMULATOR_ISOLATE;
	cleanup_bitmap hwloc_bitmap_t cpus = floating(p);
	hwloc_bitmap_t emulator = p->plan->emulator;

	hwloc_bitmap_andnot(cpus, cpus, p->plan->siblings);
	for (size_t i = 0; i < ARRAY_SIZE(avoid) && hwloc_bitmap_iszero(p->plan->emulator); i++) {
		if (avoid[i][0] != vcpus && isolate)
			continue;
		hwloc_bitmap_andnot(emulator, cpus, avoid[i][0]);
		hwloc_bitmap_andnot(emulator, emulator, avoid[i][1]);
	}
	float_on_reserve(p, emulator, pinned_vcpus);
}

static int place_static_emulator(struct placing *p, hwloc_const_bitmap_t pinned_vcpus,
                                 struct error *err)
{
	struct plan *plan = p->plan;
	cleanup_bitmap hwloc_bitmap_t vcpus = xbitmap();

	if (plan->emulator)
		return 0;
	for (size_t i = 0; i < plan->n_vcpus; i++)
		hwloc_bitmap_or(vcpus, vcpus, plan->vcpus[i].cpus);
	plan->emulator = xbitmap();
	if (p->spec->placement.emulator == EMULATOR_SHARE) {
		place_share_emulator(p, vcpus);
		return 0;
	}
	float_emulator(p, vcpus, pinned_vcpus);
	cleanup_free char *held = cpulist_format(vcpus);
	cleanup_free char *allowed = cpulist_format(p->host->allowed);
	if (hwloc_bitmap_iszero(plan->emulator) && p->spec->placement.emulator == EMULATOR_ISOLATE)
		return error_set(err, EXIT_GRANT,
		                 "placement.emulator is isolate, but the vCPUs have CPUs %s and "
		                 "no other CPU is free (allowed: %s); leave a CPU to the emulator, "
		                 "or set it to share",
		                 held, allowed);
	if (hwloc_bitmap_iszero(plan->emulator))
		place_share_emulator(p, vcpus);
	if (hwloc_bitmap_intersects(plan->emulator, vcpus))
		plan_why(plan,
		         "emulator: no CPU is left beside the vCPUs (%s), so it shares theirs",
		         held);
	return 0;
}

int place_static(struct placing *p, struct error *err)
{
	struct plan *plan = p->plan;
	cleanup_bitmap hwloc_bitmap_t rest = floating(p);
	cleanup_bitmap hwloc_bitmap_t pinned_vcpus = xbitmap();

	for (size_t i = 0; i < plan->n_vcpus; i++)
		if (plan->vcpus[i].cpus)
			hwloc_bitmap_or(pinned_vcpus, pinned_vcpus, plan->vcpus[i].cpus);
	hwloc_bitmap_andnot(rest, rest, p->pinned);
	hwloc_bitmap_andnot(rest, rest, plan->siblings);
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		if (plan->vcpus[i].cpus)
			continue;
		if (hwloc_bitmap_iszero(rest)) {
			cleanup_free char *allowed = cpulist_format(p->host->allowed);
			cleanup_free char *pinned = cpulist_format(p->pinned);
			return error_set(err, EXIT_GRANT,
			                 "vCPU %zu is not pinned and no CPU is left for it: of the "
			                 "CPUs allowed (%s), the pins take %s and the rest is "
			                 "isolated or held by other VMs; pin it",
			                 i, allowed, pinned);
		}
		plan->vcpus[i].cpus = xbitmap_dup(rest);
	}
	return place_static_emulator(p, pinned_vcpus, err);
}

static void end_placing(struct placing *p)
{
	plan_free(p->plan);
	hwloc_bitmap_free(p->free);
	hwloc_bitmap_free(p->unheld);
	hwloc_bitmap_free(p->reserve);
	hwloc_bitmap_free(p->pinned);
	hwloc_bitmap_free(p->pinned_vcpus);
}

static bool is_ordinary(const struct host *host, const struct host_core *core)
{
	return hwloc_bitmap_intersects(core->cpus, host->allowed) &&
	       !hwloc_bitmap_intersects(core->cpus, host->isolated);
}

/* The CPUs kept for the host: its lowest cores that may be used and are not isolated. Not said, it
 * is one core, where there is another. The same for every VM, whoever holds what. */
static void find_reserve(struct placing *p)
{
	const struct host *host = p->host;
	int wanted = p->spec->placement.reserve;
	size_t usable = 0;

	for (size_t i = 0; i < host->n_cores; i++)
		usable += is_ordinary(host, &host->cores[i]);
	if (wanted == SPEC_UNSET)
		wanted = usable > 1;
	for (size_t i = 0; wanted > 0 && i < host->n_cores; i++)
		if (is_ordinary(host, &host->cores[i])) {
			hwloc_bitmap_or(p->reserve, p->reserve, host->cores[i].cpus);
			wanted--;
		}
	hwloc_bitmap_and(p->reserve, p->reserve, host->allowed);
}

struct plan *place(const struct spec *spec, const struct host *host, const struct claims *claims,
                   enum accel accel, struct error *err)
{
	__attribute__((cleanup(end_placing))) struct placing p = {
		.spec = spec,
		.host = host,
		.claims = claims,
		.plan = plan_new(),
		.free = xbitmap_dup(host->allowed),
		.unheld = xbitmap_dup(host->allowed),
		.reserve = xbitmap(),
		.pinned = xbitmap(),
		.pinned_vcpus = xbitmap(),
	};

	if (claims) {
		hwloc_bitmap_andnot(p.free, p.free, claims->dedicated);
		hwloc_bitmap_andnot(p.unheld, p.free, claims->shared);
	}
	find_reserve(&p);
	start_plan(&p, accel);
	if (take_pins(&p, err) < 0 || place_isolate(p.plan, host, err) < 0 ||
	    place_siblings(&p, err) < 0)
		return NULL;
	if ((spec->placement.mode == PLACEMENT_AUTO ? place_auto : place_static)(&p, err) < 0)
		return NULL;
	for (size_t i = 0; i < p.plan->n_iothreads; i++)
		if (!p.plan->iothreads[i].cpus)
			p.plan->iothreads[i].cpus = xbitmap_dup(p.plan->emulator);
	place_find_nodes(p.plan, host);
	if (place_check_siblings(p.plan, host, err) < 0 || place_check(p.plan, claims, err) < 0 ||
	    place_memory(&p, err) < 0)
		return NULL;
	place_warn(p.plan);
	place_guest_view(&p);
	return take_pointer(&p.plan);
}
