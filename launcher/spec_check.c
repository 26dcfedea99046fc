/* Consistency between fields, as far as it can be seen without the host: what follows from other
 * fields, CPUs, pins and scheduling, devices. Each check says nothing where what it depends on is
 * known to be wrong. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "quote.h"
#include "spec_parse.h"

static bool anything_pinned(const struct spec *spec)
{
	if (spec->cputune.n_vcpupin || spec->cputune.emulatorpin || spec->cputune.n_iothreadpin ||
	    spec->backing.host_nodes)
		return true;
	for (size_t i = 0; i < spec->numa.n_nodes; i++)
		if (spec->numa.nodes[i].host_nodes)
			return true;
	return false;
}

static bool any_huge(const struct spec *spec)
{
	bool huge = false;

	for (size_t i = 0; i < spec->numa.n_nodes; i++)
		huge = huge || spec->numa.nodes[i].pages.kind != PAGES_PLAIN;
	return spec->numa.n_nodes ? huge : spec->backing.pages.kind != PAGES_PLAIN;
}

/* vCPUs that no guest node names go to guest node 0, as in libvirt. */
static void assign_left_over(struct spec *spec)
{
	cleanup_bitmap hwloc_bitmap_t rest = xbitmap();

	hwloc_bitmap_set_range(rest, 0, spec->max_vcpus - 1);
	for (size_t i = 0; i < spec->numa.n_nodes; i++)
		hwloc_bitmap_andnot(rest, rest, spec->numa.nodes[i].vcpus);
	hwloc_bitmap_or(spec->numa.nodes[0].vcpus, spec->numa.nodes[0].vcpus, rest);
}

static int by_vcpu(const void *a, const void *b)
{
	return ((const struct spec_vcpupin *)a)->vcpu - ((const struct spec_vcpupin *)b)->vcpu;
}

void spec_resolve(struct parse *parse)
{
	struct spec *spec = parse->spec;

	if (!spec->max_vcpus)
		spec->max_vcpus = spec->vcpus;
	for (size_t i = 0; i < spec->numa.n_nodes; i++)
		if (spec->numa.nodes[i].pages.kind == PAGES_UNSET)
			spec->numa.nodes[i].pages = spec->backing.pages;
	if (spec->numa.n_nodes && spec_good(parse, "/numa/nodes") &&
	    spec_good(parse, "/max-vcpus") && spec_good(parse, "/vcpus"))
		assign_left_over(spec);
	for (size_t i = 0; i < spec->numa.n_nodes && !spec_says(parse, "/memory"); i++)
		spec->memory += spec->numa.nodes[i].memory;
	if (spec->placement.mode == PLACEMENT_UNSET)
		spec->placement.mode = anything_pinned(spec) ? PLACEMENT_STATIC : PLACEMENT_AUTO;
	if (spec->placement.cpu_policy == CPU_POLICY_UNSET)
		spec->placement.cpu_policy =
		    spec->placement.mode == PLACEMENT_AUTO || spec->isolation == ISOLATION_PARTITION
		        ? CPU_POLICY_DEDICATED
		        : CPU_POLICY_SHARED;
	if (spec->backing.prealloc == PREALLOC_UNSET)
		spec->backing.prealloc =
		    any_huge(spec) || spec->backing.locked ? PREALLOC_TRUE : PREALLOC_FALSE;
	if (spec->cputune.n_vcpupin)
		qsort(spec->cputune.vcpupin, spec->cputune.n_vcpupin,
		      sizeof(*spec->cputune.vcpupin), by_vcpu);
}

static bool vcpus_good(struct parse *parse)
{
	return spec_good(parse, "/vcpus") && spec_good(parse, "/max-vcpus");
}

static void check_vcpus(struct parse *parse)
{
	struct spec *spec = parse->spec;

	if (vcpus_good(parse) && spec->max_vcpus < spec->vcpus)
		spec_fail_at(parse, "/max-vcpus", "expected at least vcpus, %d, found %d",
		             spec->vcpus, spec->max_vcpus);
}

static void check_topology(struct parse *parse)
{
	struct spec *spec = parse->spec;
	long long product =
	    (long long)spec->cpu.sockets * spec->cpu.dies * spec->cpu.cores * spec->cpu.threads;

	if (!spec->cpu.topology_given || !vcpus_good(parse) || !spec_good(parse, "/cpu/topology") ||
	    product == spec->max_vcpus)
		return;
	spec_fail_at(parse, "/cpu/topology",
	             "sockets %d * dies %d * cores %d * threads %d = %lld vCPUs, but max-vcpus is "
	             "%d: make them equal",
	             spec->cpu.sockets, spec->cpu.dies, spec->cpu.cores, spec->cpu.threads, product,
	             spec->max_vcpus);
}

static void check_cpu(struct parse *parse)
{
	struct spec *spec = parse->spec;
	bool custom = spec->cpu.mode == CPU_MODE_CUSTOM;

	if (!spec_good(parse, "/cpu/mode"))
		return;
	if (custom && !spec->cpu.model && spec_good(parse, "/cpu/model"))
		spec_fail_at(parse, "/cpu/model",
		             "required with mode \"custom\": a CPU model, as "
		             "\"Broadwell\" or \"EPYC-v4\"");
	if (!custom && spec->cpu.model)
		spec_fail_at(parse, "/cpu/model",
		             "only with mode \"custom\": set that mode or leave the model out");
	if (spec->cpu.cache == CPU_CACHE_PASSTHROUGH && spec->cpu.mode != CPU_MODE_UNSET &&
	    spec->cpu.mode != CPU_MODE_HOST_PASSTHROUGH)
		spec_fail_at(parse, "/cpu/cache",
		             "\"passthrough\" only with mode \"host-passthrough\": use \"emulate\" "
		             "or \"disable\"");
	if (spec->cpu.mode == CPU_MODE_HOST_PASSTHROUGH && spec->qemu.accel == ACCEL_TCG)
		spec_fail_at(parse, "/cpu/mode",
		             "\"host-passthrough\" needs accel \"kvm\", found \"tcg\": use "
		             "\"maximum\", \"host-model\" or \"custom\"");
}

/* Every vCPU of the set is below max-vcpus. Returns false after saying so. */
static bool check_vcpus_exist(struct parse *parse, const char *pointer, hwloc_const_bitmap_t vcpus)
{
	int last = hwloc_bitmap_last(vcpus);

	if (last < parse->spec->max_vcpus || !vcpus_good(parse))
		return true;
	spec_fail_at(parse, pointer, "vCPU %d does not exist: max-vcpus is %d", last,
	             parse->spec->max_vcpus);
	return false;
}

static void check_guest_nodes(struct parse *parse)
{
	struct spec *spec = parse->spec;
	cleanup_bitmap hwloc_bitmap_t taken = xbitmap();
	cleanup_bitmap hwloc_bitmap_t twice = xbitmap();

	for (size_t i = 0; i < spec->numa.n_nodes && spec_good(parse, "/numa/nodes"); i++) {
		cleanup_free char *pointer = xasprintf("/numa/nodes/%zu/vcpus", i);
		hwloc_bitmap_t vcpus = spec->numa.nodes[i].vcpus;

		hwloc_bitmap_and(twice, taken, vcpus);
		hwloc_bitmap_or(taken, taken, vcpus);
		cleanup_free char *list = cpulist_format(twice);
		if (*list)
			spec_fail_at(parse, pointer, "already in another guest node: vCPU %s",
			             list);
		else
			check_vcpus_exist(parse, pointer, vcpus);
	}
}

/* A matrix has a row for each guest node; that it is square is known. */
static void check_distances(struct parse *parse)
{
	struct spec *spec = parse->spec;
	struct place *place = place_find(parse->document.root, "/numa/distances", false);

	if (spec->numa.distances != DISTANCES_MATRIX || !spec_good(parse, "/numa/distances") ||
	    !spec_good(parse, "/numa/nodes") || !place->last ||
	    place->last->index + 1 == spec->numa.n_nodes)
		return;
	spec_fail(parse, place, "expected %zu rows, one for each guest node, found %zu",
	          spec->numa.n_nodes, place->last->index + 1);
}

static void check_vcpupin(struct parse *parse)
{
	struct spec *spec = parse->spec;

	for (size_t i = 0; i < spec->cputune.n_vcpupin && vcpus_good(parse); i++) {
		int vcpu = spec->cputune.vcpupin[i].vcpu;
		cleanup_free char *pointer = xasprintf("/cputune/vcpupin/%d", vcpu);
		if (vcpu >= spec->max_vcpus && spec_good(parse, "%s", pointer))
			spec_fail_at(parse, pointer,
			             "vCPU %d does not exist: max-vcpus is %d, so the last is %d",
			             vcpu, spec->max_vcpus, spec->max_vcpus - 1);
	}
}

/* Priorities belong to the real-time policies, and these need one. */
static void check_priority(struct parse *parse, const char *pointer, const struct sched *sched)
{
	bool real_time = sched->scheduler == SCHED_OF_FIFO || sched->scheduler == SCHED_OF_RR;
	cleanup_free char *priority = xasprintf("%s/priority", pointer);
	const char *name = scheduler_name(sched->scheduler);

	if (!spec_good(parse, "%s", pointer))
		return;
	if (real_time && !sched->priority)
		spec_fail_at(parse, priority, "required with scheduler \"%s\": 1 to 99", name);
	if (!real_time && sched->priority)
		spec_fail_at(parse, priority,
		             "only with scheduler \"fifo\" or \"rr\", found \"%s\": leave it out",
		             name);
}

static void check_emulatorsched(struct parse *parse)
{
	check_priority(parse, "/cputune/emulatorsched", &parse->spec->cputune.emulatorsched);
}

static void check_vcpusched(struct parse *parse)
{
	struct spec *spec = parse->spec;
	cleanup_bitmap hwloc_bitmap_t taken = xbitmap();
	cleanup_bitmap hwloc_bitmap_t twice = xbitmap();

	for (size_t i = 0; i < spec->cputune.n_vcpusched; i++) {
		struct spec_vcpusched *entry = &spec->cputune.vcpusched[i];
		cleanup_free char *pointer = xasprintf("/cputune/vcpusched/%zu", i);
		cleanup_free char *vcpus = xasprintf("%s/vcpus", pointer);

		check_priority(parse, pointer, &entry->sched);
		if (!entry->vcpus || !spec_good(parse, "%s", vcpus))
			continue;
		hwloc_bitmap_and(twice, taken, entry->vcpus);
		hwloc_bitmap_or(taken, taken, entry->vcpus);
		cleanup_free char *list = cpulist_format(twice);
		if (*list)
			spec_fail_at(parse, vcpus, "already with a scheduler: vCPU %s", list);
		else
			check_vcpus_exist(parse, vcpus, entry->vcpus);
	}
}

/* The iothread is one of the spec's. */
static void check_iothread(struct parse *parse, const char *pointer, const char *name)
{
	struct spec *spec = parse->spec;

	if (!name || !spec_good(parse, "%s", pointer) || !spec_good(parse, "/iothreads"))
		return;
	for (size_t i = 0; i < spec->n_iothreads; i++)
		if (strcmp(spec->iothreads[i], name) == 0)
			return;
	const char *near = nearest_word(name, (const char *const *)spec->iothreads,
	                                spec->n_iothreads < 64 ? spec->n_iothreads : 64);
	cleanup_free char *quoted = quote(name);
	if (near)
		spec_fail_at(parse, pointer, "no iothread %s in /iothreads; did you mean \"%s\"?",
		             quoted, near);
	else
		spec_fail_at(parse, pointer, "no iothread %s in /iothreads: add it there", quoted);
}

bool spec_is_memory_id(const char *id)
{
	static const char *const kinds[] = { "ram", "fill" };

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t length = strlen(kinds[i]);
		if (strncmp(id, kinds[i], length) == 0 && id[length] &&
		    strspn(id + length, "0123456789") == strlen(id + length))
			return true;
	}
	return false;
}

static void check_iothreads(struct parse *parse)
{
	struct spec *spec = parse->spec;

	for (size_t i = 0; i < spec->n_iothreads; i++) {
		cleanup_free char *pointer = xasprintf("/iothreads/%zu", i);
		if (spec_good(parse, "%s", pointer) && spec_is_memory_id(spec->iothreads[i]))
			spec_fail_at(parse, pointer,
			             "\"%s\" is what guest memory is called in QEMU; give the "
			             "iothread another name, as \"io%zu\"",
			             spec->iothreads[i], i);
		for (size_t j = 0; j < i && spec_good(parse, "%s", pointer); j++)
			if (strcmp(spec->iothreads[i], spec->iothreads[j]) == 0)
				spec_fail_at(parse, pointer, "iothread \"%s\" is already entry %zu",
				             spec->iothreads[i], j);
	}
	for (size_t i = 0; i < spec->cputune.n_iothreadpin; i++) {
		char *name = spec->cputune.iothreadpin[i].iothread;
		cleanup_free char *pointer = xasprintf("/cputune/iothreadpin/%s", name ? name : "");
		check_iothread(parse, pointer, name);
	}
	for (size_t i = 0; i < spec->n_disks; i++) {
		cleanup_free char *pointer = xasprintf("/disks/%zu/iothread", i);
		check_iothread(parse, pointer, spec->disks[i].iothread);
	}
}

static void check_iothreadsched(struct parse *parse)
{
	struct spec *spec = parse->spec;
	cleanup_free char *taken = xstrdup(",");

	for (size_t i = 0; i < spec->cputune.n_iothreadsched; i++) {
		struct spec_iothreadsched *entry = &spec->cputune.iothreadsched[i];
		cleanup_free char *pointer = xasprintf("/cputune/iothreadsched/%zu", i);
		cleanup_free char *list = xasprintf("%s/iothreads", pointer);
		cleanup_free char *names = xstrdup(entry->iothreads ? entry->iothreads : "");
		char *rest = names, *name;

		check_priority(parse, pointer, &entry->sched);
		while ((name = strsep(&rest, ",")) && *name) {
			cleanup_free char *one = xasprintf(",%s,", name);
			check_iothread(parse, list, name);
			if (strstr(taken, one) && spec_good(parse, "%s", list))
				spec_fail_at(parse, list, "iothread \"%s\" already has a scheduler",
				             name);
			char *longer = xasprintf("%s%s,", taken, name);
			free(taken);
			taken = longer;
		}
	}
}

static bool is_real_time(struct sched sched)
{
	return sched.scheduler == SCHED_OF_FIFO || sched.scheduler == SCHED_OF_RR;
}

/* Says that a real-time vCPU shares CPUs with somebody, if it does. */
static bool check_apart(struct parse *parse, const struct spec_vcpupin *pin,
                        hwloc_const_bitmap_t others, const char *whose)
{
	cleanup_bitmap hwloc_bitmap_t both = xbitmap();
	cleanup_free char *pointer = xasprintf("/cputune/vcpupin/%d", pin->vcpu);
	const char *scheduler = scheduler_name(spec_vcpu_sched(parse->spec, pin->vcpu).scheduler);

	if (!others || !pin->cpus)
		return true;
	hwloc_bitmap_and(both, pin->cpus, others);
	cleanup_free char *list = cpulist_format(both);
	if (!*list)
		return true;
	spec_fail_at(parse, pointer,
	             "vCPU %d runs as %s and shares CPU %s with %s: one could wait for the other "
	             "for ever; give the vCPU a CPU of its own",
	             pin->vcpu, scheduler, list, whose);
	return false;
}

/* A real-time vCPU spins for threads that never run on its CPU: with each other, the emulator or
 * an iothread on it, the guest hangs. */
static void check_real_time(struct parse *parse)
{
	struct spec *spec = parse->spec;
	cleanup_bitmap hwloc_bitmap_t taken = xbitmap();

	if (!spec_good(parse, "/cputune"))
		return;
	for (size_t i = 0; i < spec->cputune.n_vcpupin; i++) {
		struct spec_vcpupin *pin = &spec->cputune.vcpupin[i];
		bool apart;

		if (!is_real_time(spec_vcpu_sched(spec, pin->vcpu)))
			continue;
		apart = check_apart(parse, pin, taken, "another real-time vCPU");
		apart = apart &&
		        check_apart(parse, pin, spec->cputune.emulatorpin, "the emulator threads");
		for (size_t j = 0; j < spec->cputune.n_iothreadpin && apart; j++) {
			cleanup_free char *whose =
			    xasprintf("iothread \"%s\"", spec->cputune.iothreadpin[j].iothread);
			apart = check_apart(parse, pin, spec->cputune.iothreadpin[j].cpus, whose);
		}
		hwloc_bitmap_or(taken, taken, pin->cpus);
	}
}

/* Siblings only: vCPUs 0 and 1, 2 and 3, … are the threads of a core, in the guest as on the host.
 */
static void check_siblings(struct parse *parse)
{
	static const char pointer[] = "/placement/smt";
	struct spec *spec = parse->spec;
	int threads = spec_threads(spec);

	if (spec->placement.smt != SMT_REQUIRE || !spec_good(parse, "/placement") ||
	    !spec_good(parse, "/cpu/topology") || !spec_good(parse, "/max-vcpus") ||
	    !spec_good(parse, "/vcpus") || !spec_good(parse, "/numa"))
		return;
	if (spec->placement.cpu_policy == CPU_POLICY_SHARED) {
		spec_fail_at(parse, pointer,
		             "\"require\" only with dedicated CPUs: set cpu-policy to "
		             "\"dedicated\"");
		return;
	}
	if (threads < 2) {
		spec_fail_at(parse, pointer,
		             "\"require\" shows siblings to the guest as threads, but "
		             "/cpu/topology has 1 thread in a core: make it 2, or leave it out");
		return;
	}
	if (spec->max_vcpus % threads) {
		spec_fail_at(parse, pointer,
		             "\"require\" gives each core %d vCPUs, and max-vcpus is %d: make it "
		             "a multiple of %d",
		             threads, spec->max_vcpus, threads);
		return;
	}
	for (size_t i = 0; i < spec->numa.n_nodes; i++)
		for (int vcpu = 0; vcpu < spec->max_vcpus; vcpu++) {
			hwloc_const_bitmap_t vcpus = spec->numa.nodes[i].vcpus;
			int first = vcpu / threads * threads;
			if (hwloc_bitmap_isset(vcpus, (unsigned)vcpu) ==
			    hwloc_bitmap_isset(vcpus, (unsigned)first))
				continue;
			spec_fail_at(parse, pointer,
			             "\"require\" makes vCPUs %d-%d threads of one core, but they "
			             "are in different guest nodes: put them into one",
			             first, first + threads - 1);
			return;
		}
}

/* An isolated partition is nobody else's, and the kernel balances no thread in it. */
static void check_isolation(struct parse *parse)
{
	struct spec *spec = parse->spec;
	int realtime = 0;

	if (spec->isolation != ISOLATION_PARTITION || !spec_good(parse, "/isolation"))
		return;
	if (spec->placement.cpu_policy == CPU_POLICY_SHARED &&
	    spec_good(parse, "/placement/cpu-policy"))
		spec_fail_at(parse, "/placement/cpu-policy",
		             "\"shared\", but the CPUs of an isolated partition (isolation) are "
		             "nobody else's: use \"dedicated\"");
	for (size_t i = 0; spec_good(parse, "/cputune") && i < spec->cputune.n_vcpupin; i++) {
		const struct spec_vcpupin *pin = &spec->cputune.vcpupin[i];
		cleanup_free char *pointer = xasprintf("/cputune/vcpupin/%d", pin->vcpu);
		if (pin->cpus && hwloc_bitmap_weight(pin->cpus) > 1)
			spec_fail_at(parse, pointer,
			             "vCPU %d is pinned to %d CPUs of an isolated partition "
			             "(isolation): the kernel does not balance there and the "
			             "thread would stay on the first one; pin it to one CPU",
			             pin->vcpu, hwloc_bitmap_weight(pin->cpus));
	}
	if (!spec_good(parse, "/cputune") || !vcpus_good(parse) ||
	    (spec->cputune.shares == SPEC_UNSET && !spec->cputune.quota))
		return;
	for (int vcpu = 0; vcpu < spec->max_vcpus; vcpu++)
		realtime += is_real_time(spec_vcpu_sched(spec, vcpu));
	if (realtime && realtime < spec->max_vcpus)
		spec_fail_at(parse, "/isolation",
		             "with cputune.shares or quota, the vCPUs of a partition must all run "
		             "in real time, or none: shares and quota do not hold for those that "
		             "do, and all are in one cgroup");
}

void spec_check(struct parse *parse)
{
	static void (*const checks[])(struct parse *) = {
		check_vcpus,        check_topology,      check_cpu,       check_guest_nodes,
		check_distances,    check_vcpupin,       check_vcpusched, check_emulatorsched,
		check_iothreads,    check_iothreadsched, check_real_time, spec_check_memory,
		spec_check_devices, spec_check_args,     check_siblings,  check_isolation,
	};

	for (size_t i = 0; i < ARRAY_SIZE(checks); i++)
		checks[i](parse);
}
