/* From hwloc's objects to the plain data of struct host. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <hwloc/cpukinds.h>
#include <hwloc/distances.h>

#include "cpulist.h"
#include "host_parts.h"
#include "util.h"

/* The CPUs of an object that are in `set`, NULL if there are none: a cgroup can leave packages and
 * caches without any, and a damaged file can claim more than there are. */
static hwloc_bitmap_t cpus_within(hwloc_const_bitmap_t set, hwloc_obj_t obj)
{
	cleanup_bitmap hwloc_bitmap_t cpus = xbitmap_dup(set);

	hwloc_bitmap_and(cpus, cpus, obj->cpuset);
	return hwloc_bitmap_iszero(cpus) ? NULL : take_pointer(&cpus);
}

static hwloc_bitmap_t single_cpu(unsigned cpu)
{
	hwloc_bitmap_t set = xbitmap();

	hwloc_bitmap_set(set, cpu);
	return set;
}

/* qsort() must not see NULL, not even with no elements. */
static void sort(void *array, size_t count, size_t size, int (*compare)(const void *, const void *))
{
	if (count)
		qsort(array, count, size, compare);
}

static int compare_first(hwloc_const_bitmap_t a, hwloc_const_bitmap_t b)
{
	return hwloc_bitmap_first(a) - hwloc_bitmap_first(b);
}

static int compare_packages(const void *a, const void *b)
{
	return compare_first(((const struct host_package *)a)->cpus,
	                     ((const struct host_package *)b)->cpus);
}

static int compare_cores(const void *a, const void *b)
{
	return compare_first(((const struct host_core *)a)->cpus,
	                     ((const struct host_core *)b)->cpus);
}

static int compare_l3s(const void *a, const void *b)
{
	return compare_first(((const struct host_l3 *)a)->cpus, ((const struct host_l3 *)b)->cpus);
}

static int compare_nodes(const void *a, const void *b)
{
	unsigned left = ((const struct host_node *)a)->id;
	unsigned right = ((const struct host_node *)b)->id;

	return left < right ? -1 : left > right;
}

static int compare_pages(const void *a, const void *b)
{
	uint64_t left = ((const struct host_pages *)a)->size;
	uint64_t right = ((const struct host_pages *)b)->size;

	return left < right ? -1 : left > right;
}

static void read_cpus(struct host *host, hwloc_topology_t topology)
{
	hwloc_obj_t pu = NULL;

	while ((pu = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PU, pu)))
		hwloc_bitmap_set(host->cpus, pu->os_index);
	hwloc_bitmap_and(host->allowed, host->cpus, hwloc_topology_get_allowed_cpuset(topology));
}

static void read_packages(struct host *host, hwloc_topology_t topology)
{
	hwloc_obj_t obj = NULL;

	while ((obj = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PACKAGE, obj))) {
		hwloc_bitmap_t cpus = cpus_within(host->cpus, obj);

		if (!cpus)
			continue;
		struct host_package *package = array_append(&host->packages, &host->n_packages);

		package->id = obj->os_index <= INT_MAX ? (int)obj->os_index : -1;
		package->cpus = cpus;
	}
	sort(host->packages, host->n_packages, sizeof(*host->packages), compare_packages);
}

static void read_l3s(struct host *host, hwloc_topology_t topology)
{
	hwloc_obj_t obj = NULL;

	while ((obj = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_L3CACHE, obj))) {
		hwloc_bitmap_t cpus = cpus_within(host->cpus, obj);

		if (!cpus)
			continue;
		struct host_l3 *l3 = array_append(&host->l3s, &host->n_l3s);

		l3->cpus = cpus;
		l3->size = obj->attr->cache.size;
	}
	sort(host->l3s, host->n_l3s, sizeof(*host->l3s), compare_l3s);
}

/* hwloc's cores; and every PU that is in none is a core of its own. No PU is in two. */
static void read_cores(struct host *host, hwloc_topology_t topology)
{
	cleanup_bitmap hwloc_bitmap_t rest = xbitmap_dup(host->cpus);
	hwloc_obj_t obj = NULL;
	unsigned cpu;

	while ((obj = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_CORE, obj))) {
		hwloc_bitmap_t cpus = cpus_within(rest, obj);

		if (!cpus)
			continue;
		struct host_core *core = array_append(&host->cores, &host->n_cores);

		core->cpus = cpus;
		hwloc_bitmap_andnot(rest, rest, cpus);
	}
	hwloc_bitmap_foreach_begin(cpu, rest)
	{
		array_append(&host->cores, &host->n_cores)->cpus = single_cpu(cpu);
	}
	hwloc_bitmap_foreach_end();
	sort(host->cores, host->n_cores, sizeof(*host->cores), compare_cores);
}

static void read_kinds(struct host *host, hwloc_topology_t topology)
{
	int count = hwloc_cpukinds_get_nr(topology, 0);

	for (int i = 0; i < count; i++) {
		cleanup_bitmap hwloc_bitmap_t cpus = xbitmap();
		int efficiency = -1;
		struct host_kind *kind;

		if (hwloc_cpukinds_get_info(topology, (unsigned)i, cpus, &efficiency, NULL, NULL,
		                            0) < 0)
			continue;
		/* A damaged file may count CPUs without end. Those that a cpuset keeps from us
		 * are of a kind, too. */
		if (hwloc_bitmap_weight(cpus) < 0)
			hwloc_bitmap_and(cpus, cpus, host->cpus);
		kind = array_append(&host->kinds, &host->n_kinds);
		kind->cpus = take_pointer(&cpus);
		kind->efficiency = efficiency;
	}
}

/* By CPU number, in which element of the array it is: element i has its set of CPUs `offset` bytes
 * into `size` bytes. -1: in none. */
#define INDEX_BY_CPU(host, array, count)                                                           \
	index_by_cpu(host, array, count, sizeof(*(array)), offsetof(__typeof__(*(array)), cpus))

static int *index_by_cpu(const struct host *host, const void *array, size_t count, size_t size,
                         size_t offset)
{
	int *index = xcalloc(host->n_by_cpu, sizeof(*index));
	unsigned cpu;

	for (size_t i = 0; i < host->n_by_cpu; i++)
		index[i] = -1;
	for (size_t i = 0; i < count; i++) {
		const void *element = (const char *)array + i * size + offset;
		hwloc_const_bitmap_t cpus = *(const hwloc_bitmap_t *)element;

		hwloc_bitmap_foreach_begin(cpu, cpus)
		{
			if (cpu < host->n_by_cpu)
				index[cpu] = (int)i;
		}
		hwloc_bitmap_foreach_end();
	}
	return index;
}

/* Joins cores to their node, L3, package and kind, by their lowest PU. */
static void join_cores(struct host *host)
{
	host->n_by_cpu = (size_t)(hwloc_bitmap_last(host->cpus) + 1);
	host->core_by_cpu = INDEX_BY_CPU(host, host->cores, host->n_cores);
	host->node_by_cpu = INDEX_BY_CPU(host, host->nodes, host->n_nodes);
	cleanup_free int *l3 = INDEX_BY_CPU(host, host->l3s, host->n_l3s);
	cleanup_free int *package = INDEX_BY_CPU(host, host->packages, host->n_packages);
	cleanup_free int *kind = INDEX_BY_CPU(host, host->kinds, host->n_kinds);

	for (size_t i = 0; i < host->n_cores; i++) {
		struct host_core *core = &host->cores[i];
		int cpu = hwloc_bitmap_first(core->cpus);
		int node = host->node_by_cpu[cpu];

		core->node = node < 0 ? -1 : (int)host->nodes[node].id;
		core->l3 = l3[cpu];
		core->package = package[cpu];
		core->kind = host->n_kinds > 1 ? kind[cpu] : -1;
	}
}

static void read_pages(struct host_node *node, const struct hwloc_numanode_attr_s *memory,
                       uint64_t page_size)
{
	for (unsigned i = 0; i < memory->page_types_len; i++) {
		if (memory->page_types[i].size <= page_size)
			continue;
		struct host_pages *pages = array_append(&node->pages, &node->n_pages);

		pages->size = memory->page_types[i].size;
		pages->total = pages->free = memory->page_types[i].count;
	}
	sort(node->pages, node->n_pages, sizeof(*node->pages), compare_pages);
}

static uint64_t memory_less_pages(const struct host_node *node)
{
	uint64_t rest = node->memory;

	for (size_t i = 0; i < node->n_pages; i++) {
		const struct host_pages *pages = &node->pages[i];

		if (pages->total > rest / pages->size)
			return 0;
		rest -= pages->total * pages->size;
	}
	return rest;
}

/* Orders nodes by who has the first say on a CPU: DRAM, then the more local one, then the order
 * of hwloc, which puts the memory that Linux numbers first in front. */
static int compare_claims(const void *a, const void *b)
{
	hwloc_obj_t left = *(const hwloc_obj_t *)a, right = *(const hwloc_obj_t *)b;
	bool left_dram = !left->subtype || strcmp(left->subtype, "DRAM") == 0;
	bool right_dram = !right->subtype || strcmp(right->subtype, "DRAM") == 0;
	int left_weight = hwloc_bitmap_weight(left->cpuset);
	int right_weight = hwloc_bitmap_weight(right->cpuset);

	if (left_dram != right_dram)
		return right_dram - left_dram;
	if (left_weight != right_weight)
		return left_weight - right_weight;
	return (int)left->logical_index - (int)right->logical_index;
}

static hwloc_obj_t *nodes_by_claim(hwloc_topology_t topology, size_t *count)
{
	hwloc_obj_t *objs = NULL, obj = NULL;

	*count = 0;
	while ((obj = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, obj)))
		*array_append(&objs, count) = obj;
	sort(objs, *count, sizeof(hwloc_obj_t), compare_claims);
	return objs;
}

static uint64_t read_page_size(const hwloc_obj_t *objs, size_t count)
{
	uint64_t size = 0;

	for (size_t i = 0; i < count; i++) {
		const struct hwloc_numanode_attr_s *memory = &objs[i]->attr->numanode;

		for (unsigned j = 0; j < memory->page_types_len; j++)
			if (memory->page_types[j].size &&
			    (!size || memory->page_types[j].size < size))
				size = memory->page_types[j].size;
	}
	return size ? size : (uint64_t)sysconf(_SC_PAGESIZE);
}

static void read_nodes(struct host *host, hwloc_topology_t topology)
{
	size_t count;
	cleanup_free hwloc_obj_t *objs = nodes_by_claim(topology, &count);
	cleanup_bitmap hwloc_bitmap_t rest = xbitmap_dup(host->cpus);

	host->page_size = read_page_size(objs, count);
	for (size_t i = 0; i < count; i++) {
		struct host_node *node = array_append(&host->nodes, &host->n_nodes);

		node->id = objs[i]->os_index;
		node->cpus = xbitmap();
		hwloc_bitmap_and(node->cpus, objs[i]->cpuset, rest);
		hwloc_bitmap_andnot(rest, rest, node->cpus);
		node->memory = objs[i]->attr->numanode.local_memory;
		read_pages(node, &objs[i]->attr->numanode, host->page_size);
		node->free = memory_less_pages(node);
	}
	sort(host->nodes, host->n_nodes, sizeof(*host->nodes), compare_nodes);
}

static void default_distances(struct host *host)
{
	for (size_t i = 0; i < host->n_nodes; i++) {
		struct host_node *node = &host->nodes[i];

		node->distances = xcalloc(host->n_nodes, sizeof(*node->distances));
		for (size_t j = 0; j < host->n_nodes; j++)
			node->distances[j] = i == j ? DISTANCE_LOCAL : DISTANCE_REMOTE;
	}
}

/* The matrix of latencies that the firmware gave; files of hwloc 1 have it without a name. */
static struct hwloc_distances_s *latencies(hwloc_topology_t topology)
{
	struct hwloc_distances_s *matrix = NULL;
	unsigned count = 1;

	if (hwloc_distances_get_by_name(topology, "NUMALatency", &count, &matrix, 0) == 0 && count)
		return matrix;
	count = 1;
	if (hwloc_distances_get_by_type(topology, HWLOC_OBJ_NUMANODE, &count, &matrix,
	                                HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) == 0 &&
	    count)
		return matrix;
	return NULL;
}

/* No firmware gives more than 255; nobody's sums of these overflow. */
static unsigned as_distance(hwloc_uint64_t value)
{
	return value < UINT16_MAX ? (unsigned)value : UINT16_MAX;
}

/* The matrix may cover only some nodes, and objects that are no nodes. */
static bool read_distances(struct host *host, hwloc_topology_t topology)
{
	struct hwloc_distances_s *matrix = latencies(topology);

	if (!matrix)
		return false;
	cleanup_free const struct host_node **nodes = xcalloc(matrix->nbobjs, sizeof(*nodes));
	for (unsigned i = 0; i < matrix->nbobjs; i++)
		if (matrix->objs[i] && matrix->objs[i]->type == HWLOC_OBJ_NUMANODE)
			nodes[i] = host_node(host, matrix->objs[i]->os_index);
	for (unsigned i = 0; i < matrix->nbobjs; i++)
		for (unsigned j = 0; nodes[i] && j < matrix->nbobjs; j++)
			if (nodes[j])
				nodes[i]->distances[nodes[j] - host->nodes] =
				    as_distance(matrix->values[i * matrix->nbobjs + j]);
	hwloc_distances_release(topology, matrix);
	return true;
}

bool host_topology_read(struct host *host, hwloc_topology_t topology)
{
	read_cpus(host, topology);
	read_packages(host, topology);
	read_l3s(host, topology);
	read_cores(host, topology);
	read_kinds(host, topology);
	read_nodes(host, topology);
	join_cores(host);
	default_distances(host);
	return read_distances(host, topology);
}
