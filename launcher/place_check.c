/* What must hold of every plan, whether it was just made or a running VM's is changed. */
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "place.h"
#include "util.h"

int place_check_pin(const struct host *host, const char *what, hwloc_const_bitmap_t cpus,
                    struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t missing = xbitmap();
	cleanup_free char *allowed = cpulist_format(host->allowed);
	cleanup_free char *online = cpulist_format(host->cpus);
	cleanup_free char *wanted = cpulist_format(cpus);

	hwloc_bitmap_andnot(missing, cpus, host->cpus);
	cleanup_free char *absent = cpulist_format(missing);
	if (!hwloc_bitmap_iszero(missing))
		return error_set(err, EXIT_GRANT,
		                 "%s is pinned to CPUs %s, but the host has no CPU %s online "
		                 "(online: %s); name CPUs of that list",
		                 what, wanted, absent, online);
	hwloc_bitmap_andnot(missing, cpus, host->allowed);
	cleanup_free char *denied = cpulist_format(missing);
	if (!hwloc_bitmap_iszero(missing))
		return error_set(err, EXIT_GRANT,
		                 "%s is pinned to CPUs %s, but CPU %s may not be used by this "
		                 "process (allowed: %s); widen its cpuset or affinity, or pin "
		                 "elsewhere",
		                 what, wanted, denied, allowed);
	if (hwloc_bitmap_weight(cpus) > 1 && hwloc_bitmap_intersects(cpus, host->isolated)) {
		cleanup_free char *isolated = cpulist_format(host->isolated);
		return error_set(err, EXIT_GRANT,
		                 "%s is pinned to CPUs %s, of which some are isolated (%s): the "
		                 "kernel does not balance there and the thread would stay on the "
		                 "first one; pin it to one CPU",
		                 what, wanted, isolated);
	}
	return 0;
}

int place_isolate(struct plan *plan, const struct host *host, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t siblings = xbitmap();
	unsigned cpu;

	if (plan->smt != SMT_ISOLATE)
		return 0;
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		if (!plan->vcpus[i].cpus)
			continue;
		hwloc_bitmap_foreach_begin(cpu, plan->vcpus[i].cpus)
		{
			const struct host_core *core = host_core_of_cpu(host, cpu);
			if (core)
				hwloc_bitmap_or(siblings, siblings, core->cpus);
		}
		hwloc_bitmap_foreach_end();
		hwloc_bitmap_andnot(siblings, siblings, plan->vcpus[i].cpus);
		hwloc_bitmap_or(plan->siblings, plan->siblings, siblings);
		hwloc_bitmap_zero(siblings);
	}
	if (hwloc_bitmap_isincluded(plan->siblings, host->allowed))
		return 0;
	hwloc_bitmap_andnot(siblings, plan->siblings, host->allowed);
	cleanup_free char *denied = cpulist_format(siblings);
	return error_set(err, EXIT_GRANT,
	                 "placement.smt is isolate, but CPU %s, a sibling of the vCPUs' CPUs, may "
	                 "not be used by this process: nothing keeps it idle; pin elsewhere, or "
	                 "use prefer",
	                 denied);
}

int place_check_siblings(const struct plan *plan, const struct host *host, struct error *err)
{
	size_t threads = plan->smt == SMT_REQUIRE ? (size_t)plan->threads : 1;

	for (size_t i = 0; threads > 1 && i < plan->n_vcpus; i++) {
		size_t first = i / threads * threads;
		hwloc_const_bitmap_t cpus = plan->vcpus[i].cpus, others = plan->vcpus[first].cpus;
		const struct host_core *core =
		    host_core_of_cpu(host, (unsigned)hwloc_bitmap_first(others));
		cleanup_free char *list = cpulist_format(cpus);
		cleanup_free char *other = cpulist_format(others);
		if (hwloc_bitmap_weight(cpus) == 1 && core &&
		    hwloc_bitmap_isincluded(cpus, core->cpus))
			continue;
		cleanup_free char *siblings = core ? cpulist_format(core->cpus) : xstrdup("none");
		return error_set(err, EXIT_GRANT,
		                 "placement.smt is require, so vCPUs %zu-%zu are threads of one "
		                 "core, but vCPU %zu has CPUs %s and vCPU %zu has %s (siblings: "
		                 "%s); pin each to one of a core's siblings, or use prefer",
		                 first, first + threads - 1, first, other, i, list, siblings);
	}
	return 0;
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

/* Pins against what the spec asks of placement. */
static int check_policies(const struct plan *plan, struct error *err)
{
	static const char isolated[] = "placement.smt is isolate";
	static const char sibling[] = "a sibling of a vCPU's CPU";

	for (size_t i = 0; i < plan->n_vcpus; i++) {
		cleanup_free char *who = xasprintf("vCPU %zu", i);
		cleanup_free char *whose = xasprintf("which %s has, too", who);
		if (check_apart(isolated, who, plan->vcpus[i].cpus, sibling, plan->siblings, err) <
		    0)
			return -1;
		if (plan->emulator_policy == EMULATOR_ISOLATE &&
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

static int partition_of_many(size_t vcpu, const char *cpus, struct error *err)
{
	return error_set(err, EXIT_GRANT,
	                 "isolation is partition, but vCPU %zu may run on CPUs %s: the kernel does "
	                 "not balance in a partition and the thread would stay on the first one; "
	                 "pin it to one CPU (cputune.vcpupin), or use placement.mode auto",
	                 vcpu, cpus);
}

/* In an isolated partition are the vCPUs, a CPU for each, and nobody else. */
static int check_partition(const struct plan *plan, struct error *err)
{
	static const char rule[] = "isolation is partition";
	cleanup_bitmap hwloc_bitmap_t partition = plan_partition_cpus(plan);
	size_t realtime = 0;

	if (!plan->partition)
		return 0;
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		cleanup_free char *cpus = cpulist_format(plan->vcpus[i].cpus);
		if (hwloc_bitmap_weight(plan->vcpus[i].cpus) != 1)
			return partition_of_many(i, cpus, err);
		realtime += sched_is_realtime(plan->vcpus[i].sched);
	}
	for (size_t i = 0; i < plan->n_iothreads; i++) {
		cleanup_free char *who = xasprintf("iothread %s", plan->iothreads[i].id);
		if (check_apart(rule, who, plan->iothreads[i].cpus, "which is in it", partition,
		                err) < 0)
			return -1;
	}
	if ((plan->shares || plan->quota) && realtime && realtime < plan->n_vcpus)
		return error_set(err, EXIT_GRANT,
		                 "isolation is partition, with shares or quota: then the vCPUs "
		                 "must all run in real time, or none, as all are in one cgroup");
	return check_apart(rule, "the emulator", plan->emulator, "which is in it", partition, err);
}

void place_warn(struct plan *plan)
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

/* Nothing that another VM holds alone, and nothing held alone that another VM has. */
static int check_claims(const struct plan *plan, const struct claims *claims, struct error *err)
{
	cleanup_claims struct claims *mine = claims_new();

	claims_add_plan(mine, plan);
	for (size_t i = 0; claims && i < mine->count; i++) {
		const struct claim *want = &mine->list[i];
		const struct claim *held = claims_conflict(claims, want->cpus, !want->dedicated);
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

void place_find_nodes(struct plan *plan, const struct host *host)
{
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		struct plan_vcpu *vcpu = &plan->vcpus[i];
		const struct host_node *node =
		    host_node_of_cpu(host, (unsigned)hwloc_bitmap_first(vcpu->cpus));
		bool on_one = node && hwloc_bitmap_isincluded(vcpu->cpus, node->cpus);
		vcpu->host_node = on_one ? (int)node->id : -1;
	}
}

int place_check(const struct plan *plan, const struct claims *claims, struct error *err)
{
	if (check_dedicated(plan, err) < 0 || check_policies(plan, err) < 0 ||
	    check_realtime(plan, err) < 0 || check_partition(plan, err) < 0)
		return -1;
	return check_claims(plan, claims, err);
}
