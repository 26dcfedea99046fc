/* Placement: pins, the rules for what is not pinned, what other VMs hold, and what must hold of
 * every plan, on a few hundred machines and specs made from a fixed seed. The plans of whole specs
 * are in tests/golden/. */
#include "stages.h"

#include <stdio.h>

static void explicit_pins_win(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_plan struct plan *plan = planned(
	    "'vcpus': 2, 'iothreads': ['a'], 'cputune': { 'vcpupin': { '0': '5', '1': '0-1' }, "
	    "'emulatorpin': '7', 'iothreadpin': { 'a': '2' } }",
	    host, NULL);

	(void)state;
	assert_set(plan->vcpus[0].cpus, "5");
	assert_set(plan->vcpus[1].cpus, "0-1");
	assert_set(plan->emulator, "7");
	assert_set(plan->iothreads[0].cpus, "2");
	assert_int_equal(plan->vcpus[0].host_node, 1);
	assert_int_equal(plan->vcpus[1].host_node, 0);
}

static void without_pins_static_floats_beside_the_pins(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_plan struct plan *plan =
	    planned("'vcpus': 2, 'iothreads': ['a', 'b'], 'cputune': { 'vcpupin': { '0': '3' }, "
	            "'iothreadpin': { 'a': '2' } }",
	            host, NULL);

	(void)state;
	assert_set(plan->vcpus[1].cpus, "0-1,4-7");
	assert_set(plan->emulator, "0-1"); /* of these, what is kept for the host */
	assert_set(plan->iothreads[0].cpus, "2");
	assert_set(plan->iothreads[1].cpus, "0-1");
	assert_int_equal(plan->vcpus[1].host_node, -1);
	assert_int_equal(plan->cpu_policy, CPU_POLICY_SHARED);
}

static void the_emulator_stays_off_pinned_vcpus_and_iothreads_while_it_can(void **state)
{
	cleanup_host struct host *host = host_of("numa:1 core:4 pu:1");
	static const char pins[] =
	    "'vcpus': 2, 'iothreads': ['a'], 'placement': { 'emulator': '%s' }, "
	    "'cputune': { 'vcpupin': { '0': '0', '1': '%s' }, "
	    "'iothreadpin': { 'a': '%s' } }";
	static const struct {
		const char *emulator, *vcpu, *iothread, *expected;
	} cases[] = {
		{ "isolate", "1", "2", "3" },
		{ "isolate", "1", "2-3", "2-3" },
		{ "isolate", "1-2", "3", "3" },
		{ "share", "1-2", "3", "0-2" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char members[512];
		snprintf(members, sizeof(members), pins, cases[i].emulator, cases[i].vcpu,
		         cases[i].iothread);
		cleanup_plan struct plan *plan = planned(members, host, NULL);
		assert_set(plan->emulator, cases[i].expected);
	}
	assert_not_planned("'vcpus': 1, 'placement': { 'emulator': 'isolate' }, "
	                   "'cputune': { 'vcpupin': { '0': '0-3' } }",
	                   host, NULL, "placement.emulator is isolate|0-3|share");
	assert_not_planned("'vcpus': 1, 'placement': { 'emulator': 'isolate' }, "
	                   "'cputune': { 'vcpupin': { '0': '0-1' }, 'emulatorpin': '1-2' }",
	                   host, NULL, "the emulator has CPU 1|vCPU 0");
	cleanup_plan struct plan *plan =
	    planned("'vcpus': 1, 'cputune': { 'vcpupin': { '0': '0-3' } }", host, NULL);
	assert_set(plan->emulator, "0-3");
}

static void a_pin_outside_the_host_or_its_grant_is_refused(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);

	(void)state;
	hwloc_bitmap_clr(host->allowed, 6);
	assert_not_planned("'cputune': { 'vcpupin': { '0': '5,8-9' } }", host, NULL,
	                   "vCPU 0|5,8-9|no CPU 8-9|0-7");
	assert_not_planned("'cputune': { 'vcpupin': { '0': '5-6' } }", host, NULL,
	                   "vCPU 0|5-6|CPU 6 may not|0-5,7");
	assert_not_planned("'cputune': { 'emulatorpin': '6' }", host, NULL, "the emulator|CPU 6");
	assert_not_planned("'iothreads': ['a'], 'cputune': { 'iothreadpin': { 'a': '99' } }", host,
	                   NULL, "iothread a|no CPU 99");
}

static void isolated_cpus_are_for_pins_of_one_cpu(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);

	(void)state;
	set_list(host->isolated, "4-7");
	assert_not_planned("'cputune': { 'vcpupin': { '0': '3-4' } }", host, NULL,
	                   "vCPU 0|3-4|isolated (4-7)|one CPU");
	cleanup_plan struct plan *plan =
	    planned("'vcpus': 2, 'cputune': { 'vcpupin': { '0': '4' } }", host, NULL);
	assert_set(plan->vcpus[0].cpus, "4");
	assert_set(plan->vcpus[1].cpus, "0-3");
	assert_set(plan->emulator, "0-1");
	cleanup_plan struct plan *automatic =
	    planned("'vcpus': 2, 'placement': { 'mode': 'auto' }", host, NULL);
	assert_int_equal(hwloc_bitmap_weight(automatic->vcpus[0].cpus), 1);
	assert_false(hwloc_bitmap_intersects(automatic->emulator, host->isolated));
	set_list(host->isolated, "0-7");
	cleanup_plan struct plan *shared =
	    planned("'vcpus': 2, 'placement': { 'mode': 'auto', 'emulator': 'share' }", host, NULL);
	assert_set(shared->emulator, "0");
	assert_not_planned("'placement': { 'mode': 'static' }", host, NULL, "vCPU 0|isolated");
}

static void a_realtime_vcpu_has_its_cpu_alone(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	const char *const refused[][2] = {
		{ "'vcpupin': { '0': '1', '1': '1-2' }, 'emulatorpin': '5', "
		  "'vcpusched': [ { 'vcpus': '0', 'scheduler': 'rr', 'priority': 1 } ]",
		  "vCPU 0|rr|starve vCPU 1" },
		{ "'vcpusched': [ { 'vcpus': '0-1', 'scheduler': 'fifo', 'priority': 1 } ], "
		  "'emulatorpin': '5'",
		  "vCPU 0|fifo|starve vCPU 1" },
		{ "'vcpupin': { '0': '1', '1': '0,2-7' }, "
		  "'vcpusched': [ { 'vcpus': '1', 'scheduler': 'fifo', 'priority': 1 } ]",
		  "vCPU 1|starve the emulator|emulatorpin" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		cleanup_free char *members =
		    xasprintf("'vcpus': 2, 'placement': { 'mode': 'static' }, 'cputune': { %s }",
		              refused[i][0]);
		assert_not_planned(members, host, NULL, refused[i][1]);
	}
	cleanup_plan struct plan *plan = planned(
	    "'vcpus': 2, 'iothreads': ['a'], 'cputune': { 'vcpupin': { '0': '1', '1': '2' }, "
	    "'vcpusched': [ { 'vcpus': '0-1', 'scheduler': 'fifo', 'priority': 1 } ] }",
	    host, NULL);
	assert_set(plan->emulator, "0,3-7");
	assert_set(plan->iothreads[0].cpus, "0,3-7");
}

static void a_realtime_vcpu_does_not_starve_an_iothread(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_error struct error err = ERROR_INIT;
	cleanup_spec struct spec *spec =
	    spec_of("'vcpus': 1, 'iothreads': ['a'], 'cputune': { 'vcpupin': { '0': '1' }, "
	            "'emulatorpin': '3', 'iothreadpin': { 'a': '2' }, "
	            "'vcpusched': [ { 'vcpus': '0', 'scheduler': 'fifo', 'priority': 1 } ] }");

	(void)state;
	/* A check of the spec refuses this already; the pin counts as the kernel grants it. */
	set_list(spec->cputune.iothreadpin[0].cpus, "1-2");
	assert_null(place(spec, host, NULL, ACCEL_KVM, &err));
	assert_refused(&err, EXIT_GRANT, "vCPU 0|starve iothread a|1-2");
}

static void dedicated_cpus_are_never_shared_within_a_vm(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);

	(void)state;
	assert_not_planned("'vcpus': 2, 'placement': { 'cpu-policy': 'dedicated' }, "
	                   "'cputune': { 'vcpupin': { '0': '1', '1': '0-1' } }",
	                   host, NULL, "dedicated|vCPU 1|0-1");
	assert_not_planned(
	    "'vcpus': 2, 'placement': { 'mode': 'static', 'cpu-policy': 'dedicated' }", host, NULL,
	    "dedicated|vCPU 1");
}

static void isolate_keeps_the_siblings_of_pins_idle(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	static const char isolated[] =
	    "'vcpus': 2, 'placement': { 'smt': 'isolate' }, 'cputune': { 'vcpupin': "
	    "{ '0': '0', '1': '2' } %s }";
	char members[256];

	(void)state;
	snprintf(members, sizeof(members), isolated, "");
	cleanup_plan struct plan *plan = planned(members, host, NULL);
	assert_set(plan->siblings, "1,3");
	assert_set(plan->emulator, "4-7");
	snprintf(members, sizeof(members), isolated, ", 'emulatorpin': '3-4'");
	assert_not_planned(members, host, NULL, "isolate|the emulator has CPU 3|sibling");
	assert_not_planned("'vcpus': 2, 'placement': { 'smt': 'isolate' }, 'cputune': { 'vcpupin': "
	                   "{ '0': '0', '1': '1' } }",
	                   host, NULL, "isolate|vCPU 0 has CPU 0|sibling");
	assert_not_planned("'vcpus': 1, 'iothreads': ['a'], 'placement': { 'smt': 'isolate' }, "
	                   "'cputune': { 'vcpupin': { '0': '0' }, 'iothreadpin': { 'a': '1' } }",
	                   host, NULL, "isolate|iothread a has CPU 1|sibling");
}

static void require_takes_sibling_pairs_and_shows_them(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_plan struct plan *plan =
	    planned("'vcpus': 4, 'placement': { 'smt': 'require', 'reserve': 0 }", host, NULL);

	(void)state;
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(hwloc_bitmap_first(plan->vcpus[i].cpus), i);
	assert_int_equal(plan->cores, 2);
	assert_int_equal(plan->threads, 2);
	/* A lone sibling is for nobody but the emulator. */
	hwloc_bitmap_clr(host->allowed, 1);
	cleanup_plan struct plan *hole =
	    planned("'vcpus': 2, 'placement': { 'smt': 'require', 'reserve': 0 }", host, NULL);
	assert_set(hole->vcpus[0].cpus, "2");
	assert_set(hole->vcpus[1].cpus, "3");
	assert_set(hole->emulator, "0");
	assert_not_planned("'vcpus': 8, 'placement': { 'smt': 'require', 'reserve': 0 }", host,
	                   NULL, "8 dedicated vCPUs are more than");
	/* Two guest nodes of whole pairs; the larger one where there are two. */
	cleanup_plan struct plan *split =
	    planned("'vcpus': 6, 'placement': { 'smt': 'require', 'reserve': 0 }", host, NULL);
	assert_int_equal(split->n_memory, 2);
	for (unsigned i = 0; i < 6; i++)
		assert_int_equal(hwloc_bitmap_first(split->vcpus[i].cpus), i < 4 ? 4 + i : i - 2);
}

static void require_is_refused_where_there_are_no_pairs(void **state)
{
	cleanup_host struct host *plain = host_of(PLAIN_HOST);
	cleanup_host struct host *host = host_of("numa:1(memory=8589934592) core:4 pu:2");

	(void)state;
	assert_not_planned("'vcpus': 2, 'placement': { 'smt': 'require' }", plain, NULL,
	                   "nodes 0-1: 0 CPUs free in whole sets of siblings, 2 needed|"
	                   "2 dedicated vCPUs and smt: require cannot be had together|"
	                   "it fits with `smt: prefer`");
	hwloc_bitmap_clr(host->allowed, 3);
	assert_not_planned("'vcpus': 8, 'placement': { 'smt': 'require', 'reserve': 0 }", host,
	                   NULL,
	                   "6 CPUs free in whole sets of siblings, 8 needed|6 vCPUs fit on node 0");
}

static void require_puts_siblings_beside_pins(void **state)
{
	cleanup_host struct host *host = host_of("numa:1(memory=8589934592) core:4 pu:2");
	static const char pinned[] =
	    "'vcpus': 4, 'placement': { 'mode': 'auto', 'smt': 'require' }, "
	    "'cputune': { 'vcpupin': { '%d': '%d'%s } }";
	char members[256];

	(void)state;
	snprintf(members, sizeof(members), pinned, 3, 4, "");
	cleanup_plan struct plan *plan = planned(members, host, NULL);
	assert_set(plan->vcpus[2].cpus, "5");
	assert_set(plan->vcpus[0].cpus, "2");
	assert_set(plan->vcpus[1].cpus, "3");
	assert_int_equal(plan->threads, 2);
	snprintf(members, sizeof(members), pinned, 3, 4, ", '0': '5'");
	assert_not_planned(members, host, NULL, "smt is require|vCPU 1|4-5");
	snprintf(members, sizeof(members), pinned, 3, 4, ", '2': '6'");
	assert_not_planned(members, host, NULL, "smt is require|threads of one core|6-7");
	assert_not_planned("'vcpus': 2, 'placement': { 'mode': 'static', 'smt': 'require', "
	                   "'cpu-policy': 'dedicated' }, 'cputune': { 'vcpupin': { '0': '2', "
	                   "'1': '4' } }",
	                   host, NULL, "threads of one core");
}

static void wide_cores_are_shown_as_they_are(void **state)
{
	cleanup_host struct host *host = host_of("numa:1(memory=8589934592) core:4 pu:4");

	(void)state;
	cleanup_plan struct plan *four = planned("'vcpus': 8", host, NULL);
	assert_int_equal(four->threads, 4);
	cleanup_plan struct plan *told =
	    planned("'vcpus': 8, 'placement': { 'smt': 'require' }, 'cpu': { 'topology': { "
	            "'sockets': 1, 'dies': 1, 'cores': 4, 'threads': 2 } }",
	            host, NULL);
	assert_int_equal(told->threads, 2);
	assert_set(told->vcpus[7].cpus, "11");
}

static void isolate_needs_siblings_that_are_ours(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);

	(void)state;
	set_list(host->allowed, "0-2,4,6");
	assert_not_planned(
	    "'placement': { 'smt': 'isolate' }, 'cputune': { 'vcpupin': { '0': '4' } }", host, NULL,
	    "isolate|CPU 5|sibling");
	cleanup_plan struct plan *plan =
	    planned("'vcpus': 1, 'placement': { 'mode': 'auto', 'smt': 'isolate', 'reserve': 0 }",
	            host, NULL);
	assert_set(plan->vcpus[0].cpus, "0");
	assert_not_planned(
	    "'vcpus': 2, 'placement': { 'mode': 'auto', 'smt': 'isolate', 'reserve': 0 }", host,
	    NULL, "node 0: 1 CPU free|node 1: 0 CPUs free");
}

/* The claims of a VM that another plan gives. */
static struct claims *held_by(const char *members, const struct host *host)
{
	struct claims *claims = claims_new();
	cleanup_plan struct plan *plan = planned(members, host, NULL);

	claims_add_plan(claims, plan);
	return claims;
}

static void what_others_hold_alone_is_given_to_nobody(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_claims struct claims *claims =
	    held_by("'vcpus': 2, 'placement': { 'cpu-policy': 'dedicated' }, "
	            "'cputune': { 'vcpupin': { '0': '0', '1': '1' }, 'emulatorpin': '3' }",
	            host);

	(void)state;
	assert_not_planned("'cputune': { 'vcpupin': { '0': '1-2' }, 'emulatorpin': '4' }", host,
	                   claims, "vcpu 0|1-2|\"test\" holds 1 alone|vcpu 1");
	assert_not_planned("'cputune': { 'vcpupin': { '0': '4' }, 'emulatorpin': '0' }", host,
	                   claims, "emulator needs CPUs 0|holds 0 alone");
	cleanup_plan struct plan *floating =
	    planned("'placement': { 'mode': 'static' }", host, claims);
	assert_set(floating->vcpus[0].cpus, "2-7");
	assert_set(floating->emulator, "2-7");
	cleanup_plan struct plan *automatic =
	    planned("'vcpus': 2, 'placement': { 'mode': 'auto' }", host, claims);
	assert_set(automatic->vcpus[0].cpus, "4");
	assert_set(automatic->vcpus[1].cpus, "5");
	assert_false(hwloc_bitmap_intersects(automatic->emulator, claims->dedicated));
}

static void what_others_share_is_not_given_out_alone(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_claims struct claims *claims = held_by(
	    "'vcpus': 1, 'cputune': { 'vcpupin': { '0': '4-5' }, 'emulatorpin': '7' }", host);

	(void)state;
	cleanup_plan struct plan *shared =
	    planned("'cputune': { 'vcpupin': { '0': '4' }, 'emulatorpin': '7' }", host, claims);
	assert_set(shared->vcpus[0].cpus, "4");
	assert_not_planned("'placement': { 'cpu-policy': 'dedicated' }, "
	                   "'cputune': { 'vcpupin': { '0': '4' }, 'emulatorpin': '7' }",
	                   host, claims, "vcpu 0 needs CPUs 4 alone|holds 4-5");
	assert_not_planned("'cputune': { 'vcpupin': { '0': '5' }, 'emulatorpin': '0', 'vcpusched': "
	                   "[ { 'vcpus': '0', 'scheduler': 'fifo', 'priority': 1 } ] }",
	                   host, claims, "vcpu 0 needs CPUs 5 alone");
	assert_not_planned("'placement': { 'smt': 'isolate' }, "
	                   "'cputune': { 'vcpupin': { '0': '6' }, 'emulatorpin': '0' }",
	                   host, claims, "idle sibling needs CPUs 7 alone|emulator");
	cleanup_plan struct plan *automatic =
	    planned("'vcpus': 2, 'placement': { 'mode': 'auto', 'reserve': 0 }", host, claims);
	assert_set(automatic->vcpus[0].cpus, "0");
	assert_set(automatic->vcpus[1].cpus, "1");
	/* CPU 6 is free, its sibling is not: it is taken only when nothing else is left. */
	cleanup_plan struct plan *all = planned(
	    "'vcpus': 5, 'placement': { 'mode': 'auto', 'reserve': 0 }, 'numa': { 'nodes': "
	    "[ { 'vcpus': '0-3', 'memory': '512MiB' }, { 'vcpus': '4', 'memory': '512MiB' } "
	    "] }",
	    host, claims);
	assert_set(all->vcpus[4].cpus, "6");
	assert_not_planned("'vcpus': 6, 'placement': { 'mode': 'auto', 'reserve': 0 }", host,
	                   claims, "node 0: 4 CPUs free|node 1: 1 CPU free");
}

static void a_floating_emulator_is_on_what_is_kept_for_the_host(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_claims struct claims *claims =
	    held_by("'vcpus': 1, 'cputune': { 'vcpupin': { '0': '4' } }", host);
	cleanup_claims struct claims *beside =
	    held_by("'vcpus': 1, 'cputune': { 'vcpupin': { '0': '1' } }", host);

	(void)state;
	assert_set(claims->shared, "0-1,4");
	/* Not beside a pinned vCPU. */
	assert_set(beside->shared, "0-7");
	cleanup_plan struct plan *plan = planned(
	    "'vcpus': 2, 'placement': { 'cpu-policy': 'dedicated' }, 'cputune': { 'vcpupin': "
	    "{ '0': '2', '1': '6' } }",
	    host, claims);
	assert_set(plan->emulator, "0-1");
	/* Automatic vCPUs stay off it, and pins may name it. */
	cleanup_plan struct plan *pinned = planned(
	    "'vcpus': 2, 'placement': { 'mode': 'auto' }, 'cputune': { 'vcpupin': { '0': '0' } }",
	    host, NULL);
	assert_set(pinned->vcpus[0].cpus, "0");
	assert_set(pinned->vcpus[1].cpus, "2");
}

static void a_vm_is_near_its_devices(void **state)
{
	cleanup_host struct host *host = host_of("numa:4(memory=8589934592) core:4 pu:1");
	struct host_device *device = array_append(&host->devices, &host->n_devices);

	(void)state;
	*device = (struct host_device){ xstrdup("0000:3b:00.0"), 2 };
	cleanup_plan struct plan *plan =
	    planned("'vcpus': 2, 'hostdevs': [ { 'pci': '3b:00.0' } ]", host, NULL);
	assert_int_equal(plan->vcpus[0].host_node, 2);
	cleanup_plan struct plan *unknown =
	    planned("'vcpus': 2, 'hostdevs': [ { 'pci': '3c:00.0' } ]", host, NULL);
	assert_int_equal(unknown->vcpus[0].host_node, 0);
}

static void kinds_of_cores_are_not_mixed(void **state)
{
	cleanup_host struct host *host = host_of("numa:1(memory=8589934592) core:8 pu:1");

	(void)state;
	for (int k = 0; k < 2; k++) {
		struct host_kind *kind = array_append(&host->kinds, &host->n_kinds);
		*kind = (struct host_kind){ list(k ? "0-3" : "4-7"), k };
	}
	cleanup_plan struct plan *fast = planned("'vcpus': 3", host, NULL);
	assert_set(fast->vcpus[0].cpus, "1");
	cleanup_plan struct plan *slow = planned("'vcpus': 4", host, NULL);
	assert_set(slow->vcpus[0].cpus, "4");
	assert_not_planned("'vcpus': 5", host, NULL, "cores of one kind");
	cleanup_plan struct plan *told = planned(
	    "'vcpus': 6, 'placement': { 'mode': 'auto' }, 'cputune': { 'vcpupin': { '0': '1', "
	    "'1': '7' } }",
	    host, NULL);
	assert_int_equal(hwloc_bitmap_weight(told->vcpus[5].cpus), 1);
}

static void memory_goes_where_there_is_some(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);

	(void)state;
	host->nodes[1].memory = host->nodes[1].free = 0;
	assert_not_planned("'memory-backing': { 'host-nodes': '1' }", host, NULL,
	                   "node 1|has no memory|0");
	assert_not_planned("'memory-backing': { 'host-nodes': '0,7' }", host, NULL,
	                   "node 7|does not exist|0");
	/* Nodes without memory use that of the nearest that has some. */
	cleanup_plan struct plan *plan =
	    planned("'vcpus': 5, 'placement': { 'mode': 'auto', 'reserve': 0 }", host, NULL);
	assert_set(plan->memory[0].host_nodes, "0");
	assert_set(plan->memory[1].host_nodes, "0");
	assert_not_planned("'vcpus': 9, 'placement': { 'mode': 'auto', 'reserve': 0 }", host, NULL,
	                   "nodes 0-1: 4 CPUs");
	host->nodes[0].memory = host->nodes[0].free = 0;
	assert_not_planned("'placement': { 'mode': 'auto' }", host, NULL,
	                   "0B of plain pages free, 1GiB needed");
}

static void what_was_chosen_and_what_was_not_is_explained(void **state)
{
	cleanup_host struct host *host = host_of("numa:4(memory=8589934592) core:4 pu:2");
	static const char *const lines[] = {
		"the VM: host node 0, with 6 CPUs free for 4 vCPUs",
		"runner-up: host node 1; lost on CPUs left over on its nodes: 4, not 2",
		"rejected: host nodes 1-2: fits; lost on CPUs left over on its nodes: 4, not 2",
		"rejected: host node 3: 2GiB of plain pages free, 4GiB needed",
		"emulator: CPU 6, off the vCPUs' cores",
	};
	cleanup_spec struct spec *spec = spec_of("'vcpus': 4");
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	spec->memory = UINT64_C(4) << 30;
	host->nodes[3].free = UINT64_C(2) << 30;
	cleanup_plan struct plan *plan = place(spec, host, NULL, ACCEL_KVM, &err);
	assert_non_null(plan);
	assert_int_equal(plan->n_why, ARRAY_SIZE(lines));
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		assert_string_equal(plan->why[i], lines[i]);
}

/* The second is passed over only as long as the first is there. */
static void nodes_that_are_the_same_are_runners_up(void **state)
{
	cleanup_host struct host *host = host_of("numa:3(memory=8589934592) core:4 pu:1");
	cleanup_plan struct plan *plan = planned(
	    "'placement': { 'mode': 'auto', 'cpu-policy': 'shared', 'reserve': 0 }", host, NULL);
	static const char *const lines[] = {
		"runner-up: host node 1; lost on nothing but its higher number",
		"rejected: host nodes 1-2: fits; lost on nothing but its higher number",
	};

	(void)state;
	assert_int_equal(plan->n_why, 1 + ARRAY_SIZE(lines));
	for (size_t i = 0; i < ARRAY_SIZE(lines); i++)
		assert_string_equal(plan->why[1 + i], lines[i]);
}

static void a_refusal_names_what_conflicts_and_what_would_fit(void **state)
{
	cleanup_host struct host *host = host_of("numa:1(memory=8589934592) core:7 pu:2");
	cleanup_host struct host *small = host_of("numa:1(memory=8589934592) core:2 pu:1");

	(void)state;
	assert_not_planned("'vcpus': 8, 'placement': { 'smt': 'isolate' }", host, NULL,
	                   "node 0: 6 CPUs free on cores of their own, 8 needed|"
	                   "8 dedicated vCPUs and smt: isolate cannot be had together|"
	                   "6 vCPUs fit on node 0; 8 need `smt: prefer`");
	assert_not_planned("'vcpus': 13", host, NULL,
	                   "13 dedicated vCPUs and the CPUs kept for the host cannot|"
	                   "12 vCPUs fit on node 0; 13 need `--reserve 0`");
	assert_not_planned("'vcpus': 2, 'placement': { 'mode': 'auto', 'emulator': 'isolate' }",
	                   small, NULL,
	                   "emulator: isolate cannot be had together|1 vCPU fits on node 0");
	assert_not_planned("'vcpus': 15", host, NULL, "15 dedicated vCPUs are more than");
	/* Guest nodes: one that fits nowhere; all that fit, but not together. */
	cleanup_host struct host *two = host_of("numa:2(memory=8589934592) core:4 pu:1");
	assert_not_planned("'vcpus': 7, 'numa': { 'nodes': [ { 'vcpus': '0-1', 'memory': '512MiB' "
	                   "}, { 'vcpus': '2-6', 'memory': '512MiB' } ] }",
	                   two, NULL,
	                   "no host node has room for guest node 1: node 0: 3 CPUs free, 5 needed; "
	                   "node 1: 4 CPUs free|guest node 1: 4 vCPUs fit on node 1");
	assert_not_planned(
	    "'vcpus': 9, 'numa': { 'nodes': [ { 'vcpus': '0-2', 'memory': '256MiB' "
	    "}, { 'vcpus': '3-5', 'memory': '256MiB' }, { 'vcpus': '6-8', 'memory': "
	    "'512MiB' } ] }",
	    two, NULL,
	    "no host nodes have room for all 3 guest nodes (9 vCPUs): node 0: 3 CPUs "
	    "and 8GiB free; node 1: 4 CPUs and 8GiB free|"
	    "the first 2 of the 3 guest nodes fit");
}

/* Reserves huge pages on a node of the host. */
static void reserve(struct host *host, unsigned node, uint64_t size, uint64_t total, uint64_t left)
{
	struct host_pages *pages =
	    array_append(&host->nodes[node].pages, &host->nodes[node].n_pages);

	*pages = (struct host_pages){ .size = size, .total = total, .free = left };
}

static void huge_pages_are_counted_by_node_and_size(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	static const char two[] =
	    "'memory-backing': { 'hugepages': '2MiB' }, 'numa': { 'nodes': [ { 'vcpus': '0', "
	    "'memory': '512MiB', 'host-nodes': '%s' }, { 'memory': '512MiB', 'host-nodes': '%s' } "
	    "] } %s";
	char members[512];

	(void)state;
	host->live = true;
	reserve(host, 0, 2 << 20, 1000, 300);
	reserve(host, 1, 2 << 20, 600, 600);
	snprintf(members, sizeof(members), two, "0", "1", "");
	cleanup_plan struct plan *plan = planned(members, host, NULL);
	assert_int_equal(plan->memory[1].page_size, 2 << 20);
	snprintf(members, sizeof(members), two, "0", "0", "");
	assert_not_planned(members, host, NULL,
	                   "guest node 1 needs 256 huge pages of 2MiB|node 0|44 free|"
	                   "echo 1212 > /sys/devices/system/node/node0/hugepages/hugepages-2048kB");
	snprintf(members, sizeof(members), two, "0", "0",
	         ", 'strictness': { 'hugepages': 'prefer' }");
	cleanup_plan struct plan *degraded = planned(members, host, NULL);
	assert_int_equal(degraded->memory[0].pages, PAGES_HUGE);
	assert_int_equal(degraded->memory[1].pages, PAGES_PLAIN);
	assert_int_equal(degraded->memory[1].page_size, host->page_size);
	assert_int_equal(degraded->n_warnings, 1);
	assert_false(degraded->pages_required);
	assert_not_planned("'memory-backing': { 'hugepages': '1GiB', 'host-nodes': '1' }", host,
	                   NULL, "no huge pages of 1GiB|it has 2MiB");
	reserve(host, 1, 1 << 30, 0, 0);
	assert_not_planned("'memory-backing': { 'hugepages': '1GiB', 'host-nodes': '1' }", host,
	                   NULL, "1 huge page of 1GiB|node 1|0 free|echo 1 >");
	host->nodes[1].pages[0].free = 200;
	assert_not_planned(
	    "'memory-backing': { 'hugepages': '1GiB' }, 'placement': { 'mode': 'auto' "
	    "}",
	    host, NULL, "node 0: no huge pages of 1GiB, only of 2MiB; node 1: 0B of 1GiB");
	assert_not_planned("'memory-backing': { 'hugepages': '2MiB', 'host-nodes': '0-1', "
	                   "'policy': 'interleave' }",
	                   host, NULL, "needs 256 huge pages|node 1|200 free|node1/hugepages");
}

static void memory_that_is_not_filled_may_be_short(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_spec struct spec *spec = spec_of("'memory-backing': { 'host-nodes': '0' }");
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	spec->memory = UINT64_C(16) << 30;
	cleanup_plan struct plan *plan = place(spec, host, NULL, ACCEL_KVM, &err);
	assert_non_null(plan);
	assert_int_equal(plan->n_warnings, 1);
	assert_non_null(strstr(plan->warnings[0], "16GiB"));
	spec->backing.prealloc = PREALLOC_TRUE;
	assert_null(place(spec, host, NULL, ACCEL_KVM, &err));
	assert_refused(&err, EXIT_GRANT, "16GiB|node 0|8GiB free");
}

static void shared_guest_nodes_spread_over_host_nodes(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_plan struct plan *plan =
	    planned("'vcpus': 6, 'placement': { 'mode': 'auto', 'cpu-policy': 'shared', "
	            "'reserve': 0 }, "
	            "'numa': { 'nodes': [ { 'vcpus': '0-2', 'memory': '512MiB' }, "
	            "{ 'vcpus': '3-5', 'memory': '512MiB' } ] }",
	            host, NULL);

	(void)state;
	assert_set(plan->vcpus[0].cpus, "0-3");
	assert_set(plan->vcpus[5].cpus, "4-7");
	assert_set(plan->memory[1].host_nodes, "1");
}

static void threads_are_shown_to_the_guest_only_where_they_are(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_spec struct spec *spec = spec_of("'vcpus': 2, 'placement': { 'mode': 'auto' }");
	cleanup_error struct error err = ERROR_INIT;
	cleanup_plan struct plan *pair = place(spec, host, NULL, ACCEL_KVM, &err);
	cleanup_plan struct plan *emulated = place(spec, host, NULL, ACCEL_TCG, &err);
	cleanup_plan struct plan *apart =
	    planned("'vcpus': 2, 'placement': { 'cpu-policy': 'dedicated' }, "
	            "'cputune': { 'vcpupin': { '0': '0', '1': '2' } }",
	            host, NULL);

	(void)state;
	assert_int_equal(pair->threads, 2);
	assert_int_equal(emulated->threads, 1);
	assert_int_equal(apart->threads, 1);
}

static void distances_stay_what_acpi_can_say(void **state)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	static const char nodes[] =
	    "'vcpus': 2, 'numa': { 'nodes': [ { 'vcpus': '0', 'memory': '512MiB', 'host-nodes': "
	    "'0' }, "
	    "{ 'vcpus': '1', 'memory': '512MiB', 'host-nodes': '1' } ], 'distances': 'host' }";

	(void)state;
	host->nodes[0].distances[1] = 4000;
	host->nodes[1].distances[0] = 10;
	cleanup_plan struct plan *plan = planned(nodes, host, NULL);
	assert_int_equal(plan->distances[0], 10);
	assert_int_equal(plan->distances[1], 254);
	assert_int_equal(plan->distances[2], 11);
}

/* ---- properties ---- */

static uint64_t seed = 20240229;

/* xorshift64*: the same numbers on every machine. */
static unsigned below(unsigned limit)
{
	seed ^= seed >> 12;
	seed ^= seed << 25;
	seed ^= seed >> 27;
	return (unsigned)((seed * UINT64_C(2685821657736338717)) >> 33) % limit;
}

static struct host *any_host(void)
{
	unsigned nodes = 1 + below(4), cores = 1 + below(5), threads = 1U << below(3);
	cleanup_free char *interleaved =
	    xasprintf("(indexes=%u*%u:1*%u)", threads, nodes * cores, threads);
	cleanup_free char *description =
	    xasprintf("numa:%u(memory=%u) core:%u pu:%u%s", nodes, 1U << (28 + below(4)), cores,
	              threads, below(2) ? interleaved : "");
	struct host *host = host_of(description);

	for (unsigned cpu = 0; cpu < nodes * cores * threads; cpu++) {
		if (below(10) == 0 && hwloc_bitmap_weight(host->allowed) > 1)
			hwloc_bitmap_clr(host->allowed, cpu);
		if (below(8) == 0)
			hwloc_bitmap_set(host->isolated, cpu);
	}
	return host;
}

static const char *one_of(const char *const *words, unsigned count)
{
	return words[below(count)];
}

static char *any_spec(const struct host *host)
{
	static const char *const modes[] = { "static", "auto" };
	static const char *const policies[] = { "shared", "dedicated" };
	static const char *const smt[] = { "prefer", "isolate" };
	static const char *const emulator[] = { "share", "isolate" };
	unsigned cpus = (unsigned)hwloc_bitmap_weight(host->cpus), vcpus = 1 + below(6);
	char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);
	const char *comma = "";

	fprintf(out, "'vcpus': %u, 'iothreads': ['a', 'b'], 'placement': { 'mode': '%s'", vcpus,
	        one_of(modes, 2));
	if (below(2))
		fprintf(out, ", 'cpu-policy': '%s'", one_of(policies, 2));
	if (below(2))
		fprintf(out, ", 'smt': '%s'", one_of(smt, 2));
	if (below(2))
		fprintf(out, ", 'emulator': '%s'", one_of(emulator, 2));
	fprintf(out, " }, 'cputune': { 'vcpupin': {");
	for (unsigned i = 0; i < vcpus; i++)
		if (below(3) == 0) {
			fprintf(out, "%s '%u': '%u'", comma, i, below(cpus));
			comma = ",";
		}
	fprintf(out, " }");
	if (below(3) == 0)
		fprintf(out, ", 'emulatorpin': '%u'", below(cpus));
	if (below(3) == 0)
		fprintf(out, ", 'iothreadpin': { 'b': '%u' }", below(cpus));
	fprintf(out, " }");
	if (vcpus > 1 && below(2))
		fprintf(out,
		        ", 'numa': { 'nodes': [ { 'vcpus': '0', 'memory': '512MiB' }, "
		        "{ 'vcpus': '1-%u', 'memory': '512MiB' } ] }",
		        vcpus - 1);
	fclose(out);
	return text;
}

/* A scheduler is put in afterwards: the spec's own check would refuse some before placement. */
static void any_sched(struct spec *spec)
{
	struct spec_vcpusched *entry;

	if (below(4))
		return;
	entry = array_append(&spec->cputune.vcpusched, &spec->cputune.n_vcpusched);
	entry->vcpus = xbitmap();
	hwloc_bitmap_set(entry->vcpus, below((unsigned)spec->vcpus));
	entry->sched = (struct sched){ SCHED_OF_FIFO, 1 };
}

/* CPUs that some other VM holds, each alone or shared. */
static struct claims *any_claims(const struct host *host)
{
	struct claims *claims = claims_new();
	cleanup_plan struct plan *other = plan_new();
	unsigned cpu;

	other->name = xstrdup("other");
	other->emulator = xbitmap();
	other->cpu_policy = CPU_POLICY_DEDICATED;
	hwloc_bitmap_foreach_begin(cpu, host->cpus)
	{
		unsigned draw = below(12);
		if (draw == 0) {
			struct plan_vcpu *vcpu = array_append(&other->vcpus, &other->n_vcpus);
			vcpu->cpus = xbitmap();
			hwloc_bitmap_set(vcpu->cpus, cpu);
		} else if (draw == 1) {
			hwloc_bitmap_set(other->emulator, cpu);
		}
	}
	hwloc_bitmap_foreach_end();
	claims_add_plan(claims, other);
	return claims;
}

static void check_set(const struct host *host, const struct claims *claims,
                      hwloc_const_bitmap_t cpus, bool alone)
{
	assert_false(hwloc_bitmap_iszero(cpus));
	assert_true(hwloc_bitmap_isincluded(cpus, host->allowed));
	assert_false(hwloc_bitmap_intersects(cpus, claims->dedicated));
	if (alone)
		assert_false(hwloc_bitmap_intersects(cpus, claims->shared));
	if (hwloc_bitmap_intersects(cpus, host->isolated))
		assert_int_equal(hwloc_bitmap_weight(cpus), 1);
}

static void check_plan(const struct spec *spec, const struct host *host,
                       const struct claims *claims, const struct plan *plan)
{
	cleanup_bitmap hwloc_bitmap_t taken = xbitmap();

	for (size_t i = 0; i < plan->n_vcpus; i++) {
		hwloc_const_bitmap_t cpus = plan->vcpus[i].cpus, pin = spec_vcpupin(spec, (int)i);
		bool alone = plan_vcpu_is_dedicated(plan, i);

		check_set(host, claims, cpus, alone);
		if (pin)
			assert_true(hwloc_bitmap_isequal(cpus, pin));
		if (alone)
			assert_false(hwloc_bitmap_intersects(cpus, taken));
		assert_false(hwloc_bitmap_intersects(cpus, plan->siblings));
		hwloc_bitmap_or(taken, taken, cpus);
		if (!sched_is_realtime(plan->vcpus[i].sched))
			continue;
		assert_false(hwloc_bitmap_intersects(cpus, plan->emulator));
		for (size_t j = 0; j < plan->n_iothreads; j++)
			assert_false(hwloc_bitmap_intersects(cpus, plan->iothreads[j].cpus));
	}
	check_set(host, claims, plan->emulator, false);
	if (spec->placement.emulator == EMULATOR_ISOLATE)
		assert_false(hwloc_bitmap_intersects(plan->emulator, taken));
	for (size_t i = 0; i < plan->n_iothreads; i++)
		check_set(host, claims, plan->iothreads[i].cpus, false);
	assert_false(hwloc_bitmap_intersects(plan->siblings, claims->shared));
	assert_false(hwloc_bitmap_intersects(plan->siblings, claims->dedicated));
	assert_int_equal(plan->sockets * plan->dies * plan->cores * plan->threads, plan->n_vcpus);
	for (size_t i = 0; i < plan->n_memory; i++)
		if (spec->placement.mode == PLACEMENT_AUTO)
			assert_non_null(plan->memory[i].host_nodes);
}

static void every_plan_keeps_its_promises(void **state)
{
	unsigned granted = 0, refused = 0;

	(void)state;
	for (unsigned round = 0; round < 600; round++) {
		cleanup_host struct host *host = any_host();
		cleanup_free char *members = any_spec(host);
		cleanup_claims struct claims *claims = any_claims(host);
		cleanup_spec struct spec *spec = spec_of(members);
		cleanup_error struct error err = ERROR_INIT, again_err = ERROR_INIT;
		any_sched(spec);
		cleanup_plan struct plan *plan = place(spec, host, claims, ACCEL_KVM, &err);
		cleanup_plan struct plan *again = place(spec, host, claims, ACCEL_KVM, &again_err);

		assert_true(!plan == !again);
		if (!plan) {
			assert_int_equal(err.code, EXIT_GRANT);
			assert_string_equal(err.message, again_err.message);
			refused++;
			continue;
		}
		cleanup_json struct json_object *json = plan_to_json(plan);
		cleanup_json struct json_object *again_json = plan_to_json(again);
		assert_string_equal(json_object_to_json_string(json),
		                    json_object_to_json_string(again_json));
		check_plan(spec, host, claims, plan);
		granted++;
	}
	assert_in_range(granted, 100, 500);
	assert_in_range(refused, 100, 500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(explicit_pins_win),
		cmocka_unit_test(without_pins_static_floats_beside_the_pins),
		cmocka_unit_test(the_emulator_stays_off_pinned_vcpus_and_iothreads_while_it_can),
		cmocka_unit_test(a_pin_outside_the_host_or_its_grant_is_refused),
		cmocka_unit_test(isolated_cpus_are_for_pins_of_one_cpu),
		cmocka_unit_test(a_realtime_vcpu_has_its_cpu_alone),
		cmocka_unit_test(a_realtime_vcpu_does_not_starve_an_iothread),
		cmocka_unit_test(dedicated_cpus_are_never_shared_within_a_vm),
		cmocka_unit_test(isolate_keeps_the_siblings_of_pins_idle),
		cmocka_unit_test(require_takes_sibling_pairs_and_shows_them),
		cmocka_unit_test(require_is_refused_where_there_are_no_pairs),
		cmocka_unit_test(require_puts_siblings_beside_pins),
		cmocka_unit_test(wide_cores_are_shown_as_they_are),
		cmocka_unit_test(isolate_needs_siblings_that_are_ours),
		cmocka_unit_test(what_others_hold_alone_is_given_to_nobody),
		cmocka_unit_test(what_others_share_is_not_given_out_alone),
		cmocka_unit_test(a_floating_emulator_is_on_what_is_kept_for_the_host),
		cmocka_unit_test(a_vm_is_near_its_devices),
		cmocka_unit_test(kinds_of_cores_are_not_mixed),
		cmocka_unit_test(memory_goes_where_there_is_some),
		cmocka_unit_test(what_was_chosen_and_what_was_not_is_explained),
		cmocka_unit_test(nodes_that_are_the_same_are_runners_up),
		cmocka_unit_test(a_refusal_names_what_conflicts_and_what_would_fit),
		cmocka_unit_test(huge_pages_are_counted_by_node_and_size),
		cmocka_unit_test(memory_that_is_not_filled_may_be_short),
		cmocka_unit_test(shared_guest_nodes_spread_over_host_nodes),
		cmocka_unit_test(threads_are_shown_to_the_guest_only_where_they_are),
		cmocka_unit_test(distances_stay_what_acpi_can_say),
		cmocka_unit_test(every_plan_keeps_its_promises),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
