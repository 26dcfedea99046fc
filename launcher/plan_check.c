/* What holds of every plan, whoever wrote it. */
#include <stdlib.h>
#include <string.h>

#include "plan.h"
#include "quote.h"
#include "util.h"

/* It is printed, and a terminal must not act on it. */
static int check_name(const char *what, const char *name, struct error *err)
{
	size_t length = strlen(name), i = 0, bytes = 1;
	unsigned code = 0;

	for (; i < length && bytes && (i == 0 || is_printable(code)); i += bytes)
		bytes = utf8_next(name + i, length - i, &code);
	if (length && length <= NAME_LONGEST && bytes && is_printable(code))
		return 0;
	cleanup_free char *shown = quote(name);
	return error_set(err, EXIT_FAILED, "the plan's %s is no name: %s", what, shown);
}

static int check_vcpus(const struct plan *plan, struct error *err)
{
	uint64_t product = (uint64_t)plan->sockets * (uint64_t)plan->dies * (uint64_t)plan->cores *
	                   (uint64_t)plan->threads;
	bool has_nodes = plan->memory[0].guest_node >= 0;

	if (product != plan->n_vcpus)
		return error_set(err, EXIT_FAILED,
		                 "the plan has a topology of %llu vCPUs, and %zu vCPUs",
		                 (unsigned long long)product, plan->n_vcpus);
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		int node = plan->vcpus[i].guest_node;

		if (has_nodes ? node < 0 || (size_t)node >= plan->n_memory : node != -1)
			return error_set(
			    err, EXIT_FAILED,
			    "vCPU %zu of the plan is in guest node %d, which is not there", i,
			    node);
	}
	return 0;
}

static int compare_ids(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_iothreads(const struct plan *plan, struct error *err)
{
	cleanup_free const char **ids = xcalloc(plan->n_iothreads, sizeof(*ids));

	for (size_t i = 0; i < plan->n_iothreads; i++) {
		ids[i] = plan->iothreads[i].id;
		if (check_name("iothread", ids[i], err) < 0)
			return -1;
	}
	qsort(ids, plan->n_iothreads, sizeof(*ids), compare_ids);
	for (size_t i = 1; i < plan->n_iothreads; i++)
		if (strcmp(ids[i - 1], ids[i]) == 0)
			return error_set(err, EXIT_FAILED, "the plan has two iothreads %s", ids[i]);
	return 0;
}

/* Several regions are guest nodes, in order; a single one may be the memory of a guest without. */
static bool is_in_order(const struct plan *plan, size_t i)
{
	int node = plan->memory[i].guest_node;

	return node == (int)i || (node == -1 && plan->n_memory == 1);
}

static int check_memory(const struct plan *plan, struct error *err)
{
	uint64_t total = 0;

	for (size_t i = 0; i < plan->n_memory; i++) {
		const struct plan_memory *memory = &plan->memory[i];
		struct plan_memory policy = plan_memory_of_policy(memory);
		const char *wrong =
		    !is_in_order(plan, i)                  ? "is not of its guest node"
		    : memory->pages == PAGES_UNSET         ? "is of no kind of pages"
		    : memory->size % memory->page_size     ? "is not whole pages"
		    : !policy.host_nodes != !policy.policy ? "has only one of nodes and policy"
		    : memory->host_nodes && hwloc_bitmap_iszero(memory->host_nodes)
		        ? "is on no host node"
		    : memory->policy_nodes && !memory->host_nodes ? "was moved to no host node"
		    : memory->backing != BACKING_ANON && !memory->shared
		        ? "is in a file and not shared"
		    : total > PLAN_MEMORY_MAX - memory->size ? "is more than addresses reach"
		                                             : NULL;

		if (wrong)
			return error_set(err, EXIT_FAILED, "region %zu of the plan's memory %s", i,
			                 wrong);
		total += memory->size;
	}
	return 0;
}

int plan_check(const struct plan *plan, struct error *err)
{
	if (plan->accel == ACCEL_UNSET || plan->cpu_policy == CPU_POLICY_UNSET)
		return error_set(err, EXIT_FAILED, "the plan has no %s",
		                 plan->accel == ACCEL_UNSET ? "accelerator" : "CPU policy");
	if (check_name("name", plan->name, err) < 0 || check_memory(plan, err) < 0 ||
	    check_vcpus(plan, err) < 0)
		return -1;
	return check_iothreads(plan, err);
}
