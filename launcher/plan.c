#include <stdlib.h>
#include <string.h>

#include "cgroup.h"
#include "cpulist.h"
#include "plan.h"
#include "util.h"

struct plan *plan_new(void)
{
	struct plan *plan = xcalloc(1, sizeof(*plan));

	plan->siblings = xbitmap();
	return plan;
}

static void free_lines(char **lines, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(lines[i]);
	free(lines);
}

void plan_free(struct plan *plan)
{
	if (!plan)
		return;
	for (size_t i = 0; i < plan->n_vcpus; i++)
		hwloc_bitmap_free(plan->vcpus[i].cpus);
	for (size_t i = 0; i < plan->n_iothreads; i++) {
		free(plan->iothreads[i].id);
		hwloc_bitmap_free(plan->iothreads[i].cpus);
	}
	for (size_t i = 0; i < plan->n_memory; i++) {
		hwloc_bitmap_free(plan->memory[i].host_nodes);
		hwloc_bitmap_free(plan->memory[i].policy_nodes);
	}
	hwloc_bitmap_free(plan->emulator);
	hwloc_bitmap_free(plan->siblings);
	if (plan->cgroup)
		cgroup_free(plan->cgroup);
	free(plan->cgroup);
	free_lines(plan->why, plan->n_why);
	free_lines(plan->warnings, plan->n_warnings);
	free(plan->name);
	free(plan->vcpus);
	free(plan->iothreads);
	free(plan->memory);
	free(plan->distances);
	free(plan->memory_path);
	plan_process_free(&plan->process);
	free(plan);
}

void plan_why(struct plan *plan, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	*array_append(&plan->why, &plan->n_why) = xvasprintf(format, args);
	va_end(args);
}

void plan_warn(struct plan *plan, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	*array_append(&plan->warnings, &plan->n_warnings) = xvasprintf(format, args);
	va_end(args);
}

bool sched_is_realtime(struct sched sched)
{
	return sched.scheduler == SCHED_OF_FIFO || sched.scheduler == SCHED_OF_RR;
}

bool plan_vcpu_is_dedicated(const struct plan *plan, size_t vcpu)
{
	return plan->cpu_policy == CPU_POLICY_DEDICATED ||
	       sched_is_realtime(plan->vcpus[vcpu].sched);
}

hwloc_bitmap_t plan_partition_cpus(const struct plan *plan)
{
	hwloc_bitmap_t cpus = xbitmap_dup(plan->siblings);

	for (size_t i = 0; i < plan->n_vcpus; i++)
		hwloc_bitmap_or(cpus, cpus, plan->vcpus[i].cpus);
	return cpus;
}

char *plan_limits_format(const struct plan *plan)
{
	cleanup_bitmap hwloc_bitmap_t set = plan_partition_cpus(plan);
	cleanup_free char *cpus = cpulist_format(set);
	cleanup_free char *shares =
	    plan->shares ? xasprintf(", shares %d", plan->shares) : xstrdup("");
	cleanup_free char *quota =
	    plan->quota ? xasprintf(", quota %d%%", plan->quota) : xstrdup("");
	cleanup_free char *partition =
	    plan->partition ? xasprintf(", isolated partition of CPUs %s", cpus) : xstrdup("");
	cleanup_free char *all = xasprintf("%s%s%s", shares, quota, partition);

	return xstrdup(*all ? all + strlen(", ") : "");
}

char *plan_pages_name(const struct plan_memory *memory)
{
	if (memory->pages == PAGES_THP)
		return xstrdup("transparent huge");
	if (memory->pages == PAGES_PLAIN)
		return xstrdup("plain");
	return format_size(memory->page_size);
}

char *plan_memory_format(const struct plan_memory *memory)
{
	cleanup_free char *size = format_size(memory->size);
	cleanup_free char *pages = plan_pages_name(memory);
	cleanup_free char *nodes =
	    memory->host_nodes ? cpulist_format(memory->host_nodes) : xstrdup("any");

	cleanup_free char *policy =
	    memory->policy_nodes ? cpulist_format(memory->policy_nodes) : xstrdup("");
	return xasprintf(
	    "%s of %s pages, host node%s %s, policy %s%s%s", size, pages,
	    memory->host_nodes && hwloc_bitmap_weight(memory->host_nodes) > 1 ? "s" : "", nodes,
	    mem_policy_name(memory->policy), memory->policy_nodes ? ", in QEMU still for " : "",
	    !memory->policy_nodes ? ""
	    : *policy             ? policy
	                          : "any");
}

struct plan_memory plan_memory_of_policy(const struct plan_memory *memory)
{
	struct plan_memory region = *memory;

	if (memory->policy_nodes)
		region.host_nodes =
		    hwloc_bitmap_iszero(memory->policy_nodes) ? NULL : memory->policy_nodes;
	return region;
}

void plan_memory_move(struct plan_memory *memory, hwloc_const_bitmap_t nodes)
{
	if (!memory->policy_nodes)
		memory->policy_nodes =
		    memory->host_nodes ? xbitmap_dup(memory->host_nodes) : xbitmap();
	hwloc_bitmap_free(memory->host_nodes);
	memory->host_nodes = xbitmap_dup(nodes);
	if (!hwloc_bitmap_isequal(memory->policy_nodes, nodes))
		return;
	hwloc_bitmap_free(memory->policy_nodes);
	memory->policy_nodes = NULL;
}

char *sched_format(struct sched sched)
{
	const char *name = scheduler_name(sched.scheduler);

	return sched.priority ? xasprintf("%s:%d", name, sched.priority) : xstrdup(name);
}
