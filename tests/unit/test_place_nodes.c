/* Automatic placement of what has several parts: guest nodes are made where the VM fits on no host
 * node, as unequal as the host has it; they touch as few L3 as can be; of many sizes they still
 * fill host nodes to the last CPU. */
#include "stages.h"

#define GIB (UINT64_C(1) << 30)

/* A plan for so much memory; NULL: refused. */
static struct plan *plan_of(const char *members, uint64_t memory, const struct host *host,
                            struct error *err)
{
	cleanup_spec struct spec *spec = spec_of(members);

	spec->memory = memory;
	return place(spec, host, NULL, ACCEL_KVM, err);
}

static void forbid(struct host *host, const char *cpus)
{
	cleanup_bitmap hwloc_bitmap_t set = list(cpus);

	hwloc_bitmap_andnot(host->allowed, host->allowed, set);
}

/* Each vCPU has a CPU of its own, on the host node where its guest node's memory is, and no host
 * node promises more than it has. */
static void assert_together(const struct plan *plan, const struct host *host)
{
	cleanup_bitmap hwloc_bitmap_t given = xbitmap();
	cleanup_free uint64_t *promised = xcalloc(host->n_nodes, sizeof(*promised));

	for (size_t i = 0; i < plan->n_vcpus; i++) {
		const struct plan_vcpu *vcpu = &plan->vcpus[i];
		assert_int_equal(hwloc_bitmap_weight(vcpu->cpus), 1);
		assert_false(hwloc_bitmap_intersects(given, vcpu->cpus));
		hwloc_bitmap_or(given, given, vcpu->cpus);
		assert_in_range(vcpu->guest_node, 0, plan->n_memory - 1);
		assert_true(hwloc_bitmap_isset(plan->memory[vcpu->guest_node].host_nodes,
		                               (unsigned)vcpu->host_node));
	}
	assert_true(hwloc_bitmap_isincluded(given, host->allowed));
	for (size_t i = 0; i < plan->n_memory; i++) {
		assert_int_equal(hwloc_bitmap_weight(plan->memory[i].host_nodes), 1);
		promised[hwloc_bitmap_first(plan->memory[i].host_nodes)] += plan->memory[i].size;
	}
	for (size_t n = 0; n < host->n_nodes; n++)
		assert_true(promised[n] <= host->nodes[n].free);
}

static unsigned vcpus_of(const struct plan *plan, int guest_node)
{
	unsigned count = 0;

	for (size_t i = 0; i < plan->n_vcpus; i++)
		count += plan->vcpus[i].guest_node == guest_node;
	return count;
}

static void guest_nodes_are_as_unequal_as_the_host(void **state)
{
	cleanup_host struct host *host = host_of("numa:3(memory=8589934592) core:8 pu:1");
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	/* Eight CPUs, six and two: fourteen are not two times seven, nor fifteen three times five.
	 */
	forbid(host, "14-15,18-23");
	static const char many[] =
	    "'vcpus': %d, 'placement': { 'mode': 'auto', 'emulator': 'share', 'reserve': 0 }";
	cleanup_free char *fourteen = xasprintf(many, 14), *fifteen = xasprintf(many, 15);
	cleanup_plan struct plan *two = plan_of(fourteen, 12 * GIB, host, &err);
	assert_non_null(two);
	assert_together(two, host);
	assert_int_equal(two->n_memory, 2);
	assert_int_equal(vcpus_of(two, 0), 8);
	assert_int_equal(vcpus_of(two, 1), 6);
	assert_int_equal(two->memory[0].size, 6 * GIB);
	assert_int_equal(two->memory[1].size, 6 * GIB);

	cleanup_plan struct plan *three = plan_of(fifteen, 12 * GIB, host, &err);
	assert_non_null(three);
	assert_together(three, host);
	assert_int_equal(three->n_memory, 3);
	assert_int_equal(vcpus_of(three, 2), 2);
	assert_int_equal(vcpus_of(three, 0) + vcpus_of(three, 1), 13);
}

static void memory_that_one_node_lacks_is_on_another(void **state)
{
	cleanup_host struct host *host = host_of("numa:2(memory=8589934592) core:4 pu:1");
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	host->nodes[1].free = 2 * GIB;
	cleanup_plan struct plan *plan =
	    plan_of("'vcpus': 6, 'placement': { 'mode': 'auto', 'emulator': 'share', 'reserve': "
	            "0 }, 'memory-backing': { 'prealloc': true }",
	            9 * GIB, host, &err);
	assert_non_null(plan);
	assert_together(plan, host);
	assert_int_equal(plan->n_memory, 2);
	assert_int_equal(plan->memory[0].size, 7 * GIB);
	assert_int_equal(plan->memory[1].size, 2 * GIB);
	assert_int_equal(vcpus_of(plan, 0), 3);
	assert_int_equal(vcpus_of(plan, 1), 3);
}

/* Pairs of a guest node and an L3 in which it has a CPU. */
static size_t count_pairs(const struct plan *plan, const struct host *host)
{
	size_t pairs = 0;

	for (size_t node = 0; node < plan->n_memory; node++)
		for (int l3 = 0; l3 < (int)host->n_l3s; l3++) {
			bool has = false;
			for (size_t i = 0; i < plan->n_vcpus; i++) {
				int cpu = hwloc_bitmap_first(plan->vcpus[i].cpus);
				for (size_t c = 0; c < host->n_cores; c++)
					has |=
					    plan->vcpus[i].guest_node == (int)node &&
					    host->cores[c].l3 == l3 &&
					    hwloc_bitmap_isset(host->cores[c].cpus, (unsigned)cpu);
			}
			pairs += has;
		}
	return pairs;
}

/* Members of a spec whose guest nodes have so many vCPUs each, and 1 GiB in all. */
static char *guest_nodes(const unsigned *sizes, size_t count)
{
	cleanup_free char *nodes = xstrdup("");
	unsigned next = 0;

	for (size_t i = 0; i < count; i++) {
		char *more =
		    xasprintf("%s%s{ 'vcpus': '%u-%u', 'memory': '%zuMiB' }", nodes, i ? ", " : "",
		              next, next + sizes[i] - 1, i ? 64 : 1024 - 64 * (count - 1));
		free(nodes);
		nodes = more;
		next += sizes[i];
	}
	return xasprintf("'vcpus': %u, 'placement': { 'mode': 'auto', 'emulator': 'share', "
	                 "'reserve': 0 }, 'numa': { 'nodes': [ %s ] }",
	                 next, nodes);
}

static void guest_nodes_touch_as_few_l3_as_can_be(void **state)
{
	/* On L3 of four CPUs each, none of which stays idle. */
	static const struct {
		unsigned sizes[8];
		size_t count, l3s, pairs;
	} cases[] = {
		{ { 3, 2, 2, 1 }, 4, 2, 4 },    /* 3 and 1 fill one, 2 and 2 the other */
		{ { 3, 6, 1, 2, 4 }, 5, 4, 6 }, /* 6 and 2 fill two, 3 and 1 one, 4 one */
		{ { 5, 6, 2, 3 }, 4, 4, 6 },    /* 5 and 3 fill two, as do 6 and 2 */
		{ { 5, 7, 4 }, 3, 4, 5 },       /* 5 and 7 fill three, and no two */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_free char *machine =
		    xasprintf("numa:1(memory=8589934592) l3:%zu core:4 pu:1", cases[i].l3s);
		cleanup_host struct host *host = host_of(machine);
		cleanup_free char *members = guest_nodes(cases[i].sizes, cases[i].count);
		cleanup_error struct error err = ERROR_INIT;
		cleanup_spec struct spec *spec = spec_of(members);
		cleanup_plan struct plan *plan = place(spec, host, NULL, ACCEL_KVM, &err);
		assert_non_null(plan);
		assert_together(plan, host);
		assert_int_equal(count_pairs(plan, host), cases[i].pairs);
	}
}

static void many_sizes_fill_host_nodes_to_the_last_cpu(void **state)
{
	cleanup_host struct host *host = host_of("numa:6(memory=8589934592) core:34 pu:1");
	cleanup_bitmap hwloc_bitmap_t used = xbitmap();
	cleanup_error struct error err = ERROR_INIT;
	unsigned sizes[16];

	(void)state;
	for (unsigned i = 0; i < 16; i++)
		sizes[i] = i + 1;
	cleanup_free char *members = guest_nodes(sizes, 16); /* 136 vCPUs, four times 34 */
	cleanup_spec struct spec *spec = spec_of(members);
	cleanup_plan struct plan *plan = place(spec, host, NULL, ACCEL_KVM, &err);
	assert_non_null(plan);
	assert_together(plan, host);
	for (size_t i = 0; i < plan->n_memory; i++)
		hwloc_bitmap_or(used, used, plan->memory[i].host_nodes);
	assert_int_equal(hwloc_bitmap_weight(used), 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(guest_nodes_are_as_unequal_as_the_host),
		cmocka_unit_test(memory_that_one_node_lacks_is_on_another),
		cmocka_unit_test(guest_nodes_touch_as_few_l3_as_can_be),
		cmocka_unit_test(many_sizes_fill_host_nodes_to_the_last_cpu),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
