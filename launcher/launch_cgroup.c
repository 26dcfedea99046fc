/* The cgroups of a VM that is being started. */
#include <unistd.h>

#include "launch_parts.h"
#include "util.h"

/* What the weight of cgroup v2 cannot say. */
static void warn_of_weight(struct plan *plan)
{
	long long weight = (plan->shares * 100LL + 512) / 1024;

	if (plan->cgroup->version == 2 && plan->shares && cgroup_weight(plan->shares) != weight)
		plan_warn(plan,
		          "cputune.shares %d is a cpu.weight of %.2f on cgroup v2, which has 1 to "
		          "10000: it is %u",
		          plan->shares, plan->shares * 100.0 / 1024, cgroup_weight(plan->shares));
}

int launch_make_cgroups(struct launching *l, struct error *err)
{
	struct plan *plan = l->vm->plan;
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_bitmap hwloc_bitmap_t cpus = NULL;

	if (!cgroup_is_needed(plan))
		return 0;
	if (ledger_open(&ledger, true, err) < 0)
		return -1;
	plan->cgroup = cgroup_choose(plan, getpid(), err);
	if (!plan->cgroup)
		return -1;
	warn_of_weight(plan);
	if (vm_write_cgroup(&l->vm->dir, plan->cgroup, err) < 0 || cgroup_make(plan, err) < 0)
		return -1;
	if (!plan->partition)
		return 0;
	/* The fill's threads are not in the partition. */
	cpus = plan_partition_cpus(plan);
	hwloc_bitmap_andnot(l->planning.host->allowed, l->planning.host->allowed, cpus);
	return 0;
}
