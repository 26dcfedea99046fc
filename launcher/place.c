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

/* How the pages are held: what the launcher fills, or others map, is a file; transparent huge pages
 * do not come through a memfd on stock kernels, so QEMU maps and fills those itself. */
static void choose_backing(const struct spec *spec, struct plan_memory *memory)
{
	bool shared = memory->shared;

	memory->fill = fill_for(spec);
	if (memory->pages == PAGES_THP) {
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
	memory->host_nodes = host_nodes ? xbitmap_dup(host_nodes) : NULL;
	memory->policy = policy == MEM_POLICY_UNSET && host_nodes ? MEM_POLICY_STRICT : policy;
	memory->shared = shared || has_vhost_user(p->spec);
	choose_backing(p->spec, memory);
}

static void start_plan(struct placing *p, enum accel accel)
{
	const struct spec *spec = p->spec;
	struct plan *plan = p->plan;

	plan->name = xstrdup(spec->name);
	plan->accel = accel;
	plan->cpu_policy = spec->placement.cpu_policy;
	plan->smt = spec->placement.smt == SMT_UNSET ? SMT_PREFER : spec->placement.smt;
	plan->vcpus_online = spec->vcpus;
	plan->locked = spec->backing.locked;
	plan->pages_required = spec->strictness.hugepages == STRICTNESS_REQUIRE;
	plan->kernel_threads = accel == ACCEL_KVM || has_vhost(spec);
	plan->nosharepages = spec->backing.nosharepages;
	plan->memory_path = spec->backing.path ? xstrdup(spec->backing.path) : NULL;
	plan->emulator_sched = spec->cputune.emulatorsched;
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

/* A pin of the spec: its CPUs exist, are online, and may be used. */
static int check_pin(const struct placing *p, const char *what, hwloc_const_bitmap_t cpus,
                     struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t missing = xbitmap();
	cleanup_free char *allowed = cpulist_format(p->host->allowed);
	cleanup_free char *online = cpulist_format(p->host->cpus);
	cleanup_free char *wanted = cpulist_format(cpus);

	hwloc_bitmap_andnot(missing, cpus, p->host->cpus);
	cleanup_free char *absent = cpulist_format(missing);
	if (!hwloc_bitmap_iszero(missing))
		return error_set(err, EXIT_GRANT,
		                 "%s is pinned to CPUs %s, but the host has no CPU %s online "
		                 "(online: %s); name CPUs of that list",
		                 what, wanted, absent, online);
	hwloc_bitmap_andnot(missing, cpus, p->host->allowed);
	cleanup_free char *denied = cpulist_format(missing);
	if (!hwloc_bitmap_iszero(missing))
		return error_set(err, EXIT_GRANT,
		                 "%s is pinned to CPUs %s, but CPU %s may not be used by this "
		                 "process (allowed: %s); widen its cpuset or affinity, or pin "
		                 "elsewhere",
		                 what, wanted, denied, allowed);
	if (hwloc_bitmap_weight(cpus) > 1 && hwloc_bitmap_intersects(cpus, p->host->isolated)) {
		cleanup_free char *isolated = cpulist_format(p->host->isolated);
		return error_set(err, EXIT_GRANT,
		                 "%s is pinned to CPUs %s, of which some are isolated (%s): the "
		                 "kernel does not balance there and the thread would stay on the "
		                 "first one; pin it to one CPU",
		                 what, wanted, isolated);
	}
	return 0;
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
		if (check_pin(p, what, pin, err) < 0)
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
		if (check_pin(p, what, pin, err) < 0)
			return -1;
		plan->iothreads[i].cpus = xbitmap_dup(pin);
		hwloc_bitmap_or(p->pinned, p->pinned, pin);
	}
	if (spec->cputune.emulatorpin) {
		if (check_pin(p, "the emulator", spec->cputune.emulatorpin, err) < 0)
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

/* A real-time vCPU never shares a CPU: not with another vCPU (one spins, the other never runs), not
 * with the emulator or an iothread (which it waits for). */
static int check_realtime(const struct plan *plan, struct error *err)
{
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		const struct plan_vcpu *vcpu = &plan->vcpus[i];
		const char *scheduler = scheduler_name(vcpu->sched.scheduler);
		cleanup_free char *cpus = cpulist_format(vcpu->cpus);
		if (!sched_is_realtime(vcpu->sched))
			continue;
		for (size_t j = 0; j < plan->n_vcpus; j++) {
			cleanup_free char *others = cpulist_format(plan->vcpus[j].cpus);
			if (j != i && hwloc_bitmap_intersects(vcpu->cpus, plan->vcpus[j].cpus))
				return error_set(
				    err, EXIT_GRANT,
				    "vCPU %zu runs %s on CPUs %s and would starve vCPU "
				    "%zu on %s; give each a CPU of its own",
				    i, scheduler, cpus, j, others);
		}
		if (hwloc_bitmap_intersects(vcpu->cpus, plan->emulator)) {
			cleanup_free char *emulator = cpulist_format(plan->emulator);
			return error_set(
			    err, EXIT_GRANT,
			    "vCPU %zu runs %s on CPUs %s and would starve the emulator "
			    "threads on %s, which it waits for; pin the emulator to a "
			    "CPU of its own (cputune.emulatorpin)",
			    i, scheduler, cpus, emulator);
		}
		for (size_t j = 0; j < plan->n_iothreads; j++) {
			cleanup_free char *others = cpulist_format(plan->iothreads[j].cpus);
			if (hwloc_bitmap_intersects(vcpu->cpus, plan->iothreads[j].cpus))
				return error_set(err, EXIT_GRANT,
				                 "vCPU %zu runs %s on CPUs %s and would starve "
				                 "iothread %s on %s; pin it elsewhere "
				                 "(cputune.iothreadpin)",
				                 i, scheduler, cpus, plan->iothreads[j].id, others);
		}
	}
	return 0;
}

/* An iothread that never sleeps and outranks the emulator takes QEMU's main loop with it. */
static void warn_of_iothreads(struct plan *plan)
{
	for (size_t i = 0; i < plan->n_iothreads; i++) {
		const struct plan_iothread *iothread = &plan->iothreads[i];
		if (sched_is_realtime(iothread->sched) &&
		    iothread->sched.priority > plan->emulator_sched.priority &&
		    hwloc_bitmap_intersects(iothread->cpus, plan->emulator))
			plan_warn(plan,
			          "iothread %s runs %s on a CPU of the emulator: under steady I/O "
			          "QEMU's main loop may starve; pin one of them elsewhere",
			          iothread->id, scheduler_name(iothread->sched.scheduler));
	}
}

static int check_dedicated(const struct plan *plan, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t seen = xbitmap();

	if (plan->cpu_policy != CPU_POLICY_DEDICATED)
		return 0;
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		if (hwloc_bitmap_intersects(seen, plan->vcpus[i].cpus)) {
			cleanup_free char *cpus = cpulist_format(plan->vcpus[i].cpus);
			return error_set(err, EXIT_GRANT,
			                 "placement.cpu-policy is dedicated, but vCPU %zu has CPUs "
			                 "%s, of which another vCPU of this VM has some; pin each "
			                 "vCPU to CPUs of its own, use placement.mode auto, or "
			                 "share them (cpu-policy shared)",
			                 i, cpus);
		}
		hwloc_bitmap_or(seen, seen, plan->vcpus[i].cpus);
	}
	return 0;
}

/* "isolate" leaves the siblings of every vCPU's CPUs idle. For CPUs that the spec pins they are
 * found here; the automatic ones come with them already. */
static int isolate_pins(struct placing *p, struct error *err)
{
	struct plan *plan = p->plan;
	cleanup_bitmap hwloc_bitmap_t siblings = xbitmap();
	unsigned cpu;

	if (plan->smt != SMT_ISOLATE)
		return 0;
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		if (!plan->vcpus[i].cpus)
			continue;
		hwloc_bitmap_foreach_begin(cpu, plan->vcpus[i].cpus)
		{
			const struct host_core *core = host_core_of_cpu(p->host, cpu);
			if (core)
				hwloc_bitmap_or(siblings, siblings, core->cpus);
		}
		hwloc_bitmap_foreach_end();
		hwloc_bitmap_andnot(siblings, siblings, plan->vcpus[i].cpus);
		hwloc_bitmap_or(plan->siblings, plan->siblings, siblings);
		hwloc_bitmap_zero(siblings);
	}
	if (hwloc_bitmap_isincluded(plan->siblings, p->host->allowed))
		return 0;
	hwloc_bitmap_andnot(siblings, plan->siblings, p->host->allowed);
	cleanup_free char *denied = cpulist_format(siblings);
	return error_set(err, EXIT_GRANT,
	                 "placement.smt is isolate, but CPU %s, a sibling of the vCPUs' CPUs, may "
	                 "not be used by this process: nothing keeps it idle; pin elsewhere, or "
	                 "use prefer",
	                 denied);
}

static int check_apart(const char *rule, const char *who, hwloc_const_bitmap_t cpus,
                       const char *whose, hwloc_const_bitmap_t others, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t both = xbitmap();

	hwloc_bitmap_and(both, cpus, others);
	if (hwloc_bitmap_iszero(both))
		return 0;
	cleanup_free char *list = cpulist_format(both);
	return error_set(err, EXIT_GRANT, "%s, but %s has CPU %s, %s; pin it elsewhere", rule, who,
	                 list, whose);
}

/* The spec's own pins against what it asks of placement. */
static int check_policies(const struct placing *p, struct error *err)
{
	static const char isolated[] = "placement.smt is isolate";
	static const char sibling[] = "a sibling of a vCPU's CPU";
	const struct plan *plan = p->plan;

	for (size_t i = 0; i < plan->n_vcpus; i++) {
		cleanup_free char *who = xasprintf("vCPU %zu", i);
		cleanup_free char *whose = xasprintf("which %s has, too", who);
		if (check_apart(isolated, who, plan->vcpus[i].cpus, sibling, plan->siblings, err) <
		    0)
			return -1;
		if (p->spec->placement.emulator == EMULATOR_ISOLATE &&
		    check_apart("placement.emulator is isolate", "the emulator", plan->emulator,
		                whose, plan->vcpus[i].cpus, err) < 0)
			return -1;
	}
	for (size_t i = 0; i < plan->n_iothreads; i++) {
		cleanup_free char *who = xasprintf("iothread %s", plan->iothreads[i].id);
		if (check_apart(isolated, who, plan->iothreads[i].cpus, sibling, plan->siblings,
		                err) < 0)
			return -1;
	}
	return check_apart(isolated, "the emulator", plan->emulator, sibling, plan->siblings, err);
}

/* Nothing that another VM holds alone, and nothing held alone that another VM has. */
static int check_claims(const struct placing *p, struct error *err)
{
	cleanup_claims struct claims *mine = claims_new();

	claims_add_plan(mine, p->plan);
	for (size_t i = 0; p->claims && i < mine->count; i++) {
		const struct claim *want = &mine->list[i];
		const struct claim *held = claims_conflict(p->claims, want->cpus, !want->dedicated);
		if (!held)
			continue;
		cleanup_free char *wanted = cpulist_format(want->cpus);
		cleanup_free char *theirs = cpulist_format(held->cpus);
		return error_set(
		    err, EXIT_GRANT,
		    "%s needs CPUs %s%s, but VM \"%s\" holds %s%s (%s); pin elsewhere, "
		    "or stop that VM (`ancla host` shows who holds what)",
		    want->role, wanted, want->dedicated ? " alone" : "", held->vm, theirs,
		    held->dedicated ? " alone" : "", held->role);
	}
	return 0;
}

static void finish_vcpus(struct placing *p)
{
	for (size_t i = 0; i < p->plan->n_vcpus; i++) {
		struct plan_vcpu *vcpu = &p->plan->vcpus[i];
		const struct host_node *node =
		    host_node_of_cpu(p->host, (unsigned)hwloc_bitmap_first(vcpu->cpus));
		if (node && hwloc_bitmap_isincluded(vcpu->cpus, node->cpus))
			vcpu->host_node = (int)node->id;
	}
	for (size_t i = 0; i < p->plan->n_iothreads; i++)
		if (!p->plan->iothreads[i].cpus)
			p->plan->iothreads[i].cpus = xbitmap_dup(p->plan->emulator);
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
	if (take_pins(&p, err) < 0 || isolate_pins(&p, err) < 0)
		return NULL;
	if ((spec->placement.mode == PLACEMENT_AUTO ? place_auto : place_static)(&p, err) < 0)
		return NULL;
	finish_vcpus(&p);
	if (check_dedicated(p.plan, err) < 0 || check_policies(&p, err) < 0 ||
	    check_realtime(p.plan, err) < 0 || check_claims(&p, err) < 0 ||
	    place_memory(&p, err) < 0)
		return NULL;
	warn_of_iothreads(p.plan);
	place_guest_view(&p);
	return take_pointer(&p.plan);
}
