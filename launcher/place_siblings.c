/* Siblings of vCPUs that the spec pins, with smt "require". */
#include "cpulist.h"
#include "place_parts.h"
#include "util.h"

/* The lowest CPU beside these that a vCPU of this VM could have alone; -1: none. */
static int free_sibling(const struct placing *p, const struct host_core *core)
{
	unsigned cpu;

	hwloc_bitmap_foreach_begin(cpu, core->cpus)
	{
		if (hwloc_bitmap_isset(p->unheld, cpu) && !hwloc_bitmap_isset(p->pinned, cpu))
			return (int)cpu;
	}
	hwloc_bitmap_foreach_end();
	return -1;
}

/* The vCPUs from `first` on are threads of one core; one of them is pinned. */
static int complete(struct placing *p, size_t first, size_t threads, struct error *err)
{
	struct plan_vcpu *vcpus = p->plan->vcpus + first;
	const struct host_core *core = NULL;

	for (size_t i = 0; i < threads && !core; i++)
		if (vcpus[i].cpus)
			core =
			    host_core_of_cpu(p->host, (unsigned)hwloc_bitmap_first(vcpus[i].cpus));
	for (size_t i = 0; i < threads; i++) {
		if (vcpus[i].cpus)
			continue;
		int cpu = core ? free_sibling(p, core) : -1;
		cleanup_free char *siblings = core ? cpulist_format(core->cpus) : xstrdup("none");
		if (cpu < 0)
			return error_set(
			    err, EXIT_GRANT,
			    "placement.smt is require, so vCPU %zu has to be on the core of "
			    "vCPUs %zu-%zu that are pinned, but none of its siblings (%s) "
			    "is free; pin them elsewhere, or use prefer",
			    first + i, first, first + threads - 1, siblings);
		vcpus[i].cpus = xbitmap();
		hwloc_bitmap_only(vcpus[i].cpus, (unsigned)cpu);
		hwloc_bitmap_set(p->pinned, (unsigned)cpu);
		hwloc_bitmap_set(p->pinned_vcpus, (unsigned)cpu);
		plan_why(p->plan, "vCPU %zu: CPU %d, the sibling of a pinned one", first + i, cpu);
	}
	return 0;
}

int place_siblings(struct placing *p, struct error *err)
{
	size_t threads = place_step(p);

	for (size_t first = 0; threads > 1 && first < p->plan->n_vcpus; first += threads) {
		bool pinned = false;
		for (size_t i = 0; i < threads; i++)
			pinned |= p->plan->vcpus[first + i].cpus != NULL;
		if (pinned && complete(p, first, threads, err) < 0)
			return -1;
	}
	return 0;
}
