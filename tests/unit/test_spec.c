/* Promises of the spec: values, defaults, all errors in one pass with their places. */
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cpulist.h"
#include "spec.h"
#include "util.h"

#define GIB (1ULL << 30)
#define MIB (1ULL << 20)

/* A spec with a name, memory, and `body` behind them. */
static char *with_head(const char *body)
{
	return xasprintf("{ \"name\": \"vm\", \"memory\": \"4GiB\"%s%s }", *body ? ", " : "", body);
}

static struct spec *parse_whole(const char *text)
{
	struct spec_errors errors = { 0 };
	struct spec *spec = spec_parse("/specs/vm.json", text, strlen(text), &errors);

	if (!spec)
		fail_msg("%s: %s", errors.list[0].pointer, errors.list[0].message);
	return spec;
}

static struct spec *parse(const char *body)
{
	cleanup_free char *text = with_head(body);

	return parse_whole(text);
}

/* The errors of a text as "LINE POINTER\n" each; what they say is tested by tests/cli/check.t. */
static char *places(const char *text)
{
	struct spec_errors errors = { 0 };
	struct spec *spec = spec_parse("/specs/vm.json", text, strlen(text), &errors);
	char *list = xstrdup("");

	assert_true((spec == NULL) == (errors.count > 0));
	for (size_t i = 0; i < errors.count; i++) {
		char *longer =
		    xasprintf("%s%u %s\n", list, errors.list[i].line, errors.list[i].pointer);
		free(list);
		list = longer;
		assert_true(strlen(errors.list[i].message) > 0);
	}
	spec_free(spec);
	spec_errors_free(&errors);
	return list;
}

static void assert_places(const char *body, const char *expected)
{
	cleanup_free char *text = with_head(body);
	cleanup_free char *list = places(text);

	assert_string_equal(list, expected);
}

static void assert_set(hwloc_const_bitmap_t set, const char *expected)
{
	assert_non_null(set);
	cleanup_free char *list = cpulist_format(set);
	assert_string_equal(list, expected);
}

static void the_least_spec_has_the_defaults_of_the_design(void **state)
{
	cleanup_spec struct spec *spec = parse("");

	(void)state;
	assert_string_equal(spec->name, "vm");
	assert_int_equal(spec->memory, 4 * GIB);
	assert_int_equal(spec->vcpus, 1);
	assert_int_equal(spec->max_vcpus, 1);
	assert_int_equal(spec->backing.pages.kind, PAGES_PLAIN);
	assert_false(spec->backing.locked);
	assert_int_equal(spec->backing.prealloc, PREALLOC_FALSE);
	assert_null(spec->backing.host_nodes);
	assert_int_equal(spec->backing.policy, MEM_POLICY_UNSET);
	assert_int_equal(spec->cpu.mode, CPU_MODE_UNSET);
	assert_int_equal(spec->cpu.cache, CPU_CACHE_UNSET);
	assert_false(spec->cpu.topology_given);
	assert_int_equal(spec->cpu.sockets, 0);
	assert_int_equal(spec->numa.n_nodes, 0);
	assert_int_equal(spec->numa.distances, DISTANCES_UNSET);
	assert_int_equal(spec->placement.mode, PLACEMENT_AUTO);
	assert_int_equal(spec->placement.cpu_policy, CPU_POLICY_DEDICATED);
	assert_int_equal(spec->placement.smt, SMT_UNSET);
	assert_null(spec->cputune.emulatorpin);
	assert_int_equal(spec->cputune.emulatorsched.scheduler, SCHED_UNSET);
	assert_int_equal(spec->cputune.shares, SPEC_UNSET);
	assert_int_equal(spec->isolation, ISOLATION_NONE);
	assert_int_equal(spec->serial.type, SERIAL_NONE);
	assert_null(spec->boot.kernel);
	assert_int_equal(spec->actions.on_poweroff, ACTION_DESTROY);
	assert_int_equal(spec->actions.on_reboot, ACTION_RESTART);
	assert_int_equal(spec->actions.on_crash, ACTION_DESTROY);
	assert_int_equal(spec->strictness.hugepages, STRICTNESS_REQUIRE);
	assert_string_equal(spec->qemu.binary, "qemu-system-x86_64");
	assert_int_equal(spec->qemu.machine, MACHINE_Q35);
	assert_int_equal(spec->qemu.accel, ACCEL_UNSET);
}

static void memory_and_its_pages(void **state)
{
	cleanup_spec struct spec *spec =
	    parse("\"memory-backing\": { \"hugepages\": {\"size\": \"2MiB\"}, \"locked\": true,"
	          "\"nosharepages\": true, \"path\": \"/dev/hugepages\", \"host-nodes\": \"0-1\","
	          "\"policy\": \"interleave\", \"prealloc\": \"qemu\" }");

	(void)state;
	assert_int_equal(spec->backing.pages.kind, PAGES_HUGE);
	assert_int_equal(spec->backing.pages.size, 2 * MIB);
	assert_false(spec->backing.pages.grow);
	assert_true(spec->backing.locked);
	assert_true(spec->backing.nosharepages);
	assert_int_equal(spec->backing.prealloc, PREALLOC_QEMU);
	assert_string_equal(spec->backing.path, "/dev/hugepages");
	assert_set(spec->backing.host_nodes, "0-1");
	assert_int_equal(spec->backing.policy, MEM_POLICY_INTERLEAVE);
	assert_int_equal(spec->placement.mode, PLACEMENT_STATIC);
	assert_int_equal(spec->placement.cpu_policy, CPU_POLICY_SHARED);
}

static void prealloc_follows_pages_and_locked(void **state)
{
	static const struct {
		const char *body;
		enum prealloc prealloc;
	} cases[] = {
		{ "\"memory-backing\": {}", PREALLOC_FALSE },
		{ "\"memory-backing\": { \"hugepages\": \"1GiB\" }", PREALLOC_TRUE },
		{ "\"memory-backing\": { \"hugepages\": \"thp\" }", PREALLOC_TRUE },
		{ "\"memory-backing\": { \"locked\": true }", PREALLOC_TRUE },
		{ "\"memory-backing\": { \"hugepages\": \"1GiB\", \"prealloc\": false }",
		  PREALLOC_FALSE },
		{ "\"memory-backing\": { \"hugepages\": \"none\", \"prealloc\": true }",
		  PREALLOC_TRUE },
		{ "\"numa\": { \"nodes\": [{ \"memory\": \"4GiB\", \"hugepages\": \"2MiB\" }] }",
		  PREALLOC_TRUE },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_spec struct spec *spec = parse(cases[i].body);
		assert_int_equal(spec->backing.prealloc, cases[i].prealloc);
	}
}

static void guest_nodes_cover_every_vcpu(void **state)
{
	cleanup_spec struct spec *spec = parse_whole(
	    "{ \"name\": \"vm\", \"vcpus\": 4, \"max-vcpus\": 8, \"memory-backing\": "
	    "{ \"hugepages\": \"1GiB\" }, \"numa\": { \"nodes\": ["
	    "{ \"vcpus\": \"0\", \"memory\": \"1GiB\" },"
	    "{ \"vcpus\": \"1-3,6\", \"memory\": \"512MiB\", \"hugepages\": \"2MiB\","
	    "  \"host-nodes\": \"1\", \"policy\": \"strict\", \"shared\": true },"
	    "{ \"memory\": \"2GiB\" } ], \"distances\": [[10,20,40],[21,10,40],[40,40,10]] } }");

	(void)state;
	assert_int_equal(spec->numa.n_nodes, 3);
	assert_set(spec->numa.nodes[0].vcpus, "0,4-5,7"); /* with what is left over */
	assert_set(spec->numa.nodes[1].vcpus, "1-3,6");
	assert_set(spec->numa.nodes[2].vcpus, "");
	assert_int_equal(spec->numa.nodes[0].pages.size, GIB); /* memory-backing's */
	assert_int_equal(spec->numa.nodes[1].pages.size, 2 * MIB);
	assert_int_equal(spec->memory, 3 * GIB + 512 * MIB); /* the sum */
	assert_true(spec->numa.nodes[1].shared);
	assert_int_equal(spec->numa.distances, DISTANCES_MATRIX);
	assert_int_equal(spec->numa.matrix[3 * 1 + 0], 21);
	assert_int_equal(spec->placement.mode, PLACEMENT_STATIC); /* by host-nodes */
}

static void pins_and_schedulers(void **state)
{
	cleanup_spec struct spec *spec = parse(
	    "\"vcpus\": 4, \"iothreads\": [\"io0\", \"io1\"], \"cputune\": {"
	    "\"vcpupin\": { \"2\": \"4-5\", \"0\": \"0\" }, \"emulatorpin\": \"8,9\","
	    "\"iothreadpin\": { \"io1\": \"6-7,^6\" },"
	    "\"vcpusched\": [{ \"vcpus\": \"0,2\", \"scheduler\": \"fifo\", \"priority\": 9 }],"
	    "\"iothreadsched\": [{ \"iothreads\": \"io0, io1\", \"scheduler\": \"idle\" }],"
	    "\"emulatorsched\": { \"scheduler\": \"rr\", \"priority\": 99 } }");

	(void)state;
	assert_int_equal(spec->cputune.n_vcpupin, 2);
	assert_int_equal(spec->cputune.vcpupin[0].vcpu, 0); /* ascending */
	assert_set(spec_vcpupin(spec, 2), "4-5");
	assert_null(spec_vcpupin(spec, 1));
	assert_set(spec->cputune.emulatorpin, "8-9");
	assert_set(spec_iothreadpin(spec, "io1"), "7");
	assert_null(spec_iothreadpin(spec, "io0"));
	assert_int_equal(spec_vcpu_sched(spec, 2).scheduler, SCHED_OF_FIFO);
	assert_int_equal(spec_vcpu_sched(spec, 2).priority, 9);
	assert_int_equal(spec_vcpu_sched(spec, 1).scheduler, SCHED_UNSET);
	assert_int_equal(spec_iothread_sched(spec, "io1").scheduler, SCHED_OF_IDLE);
	assert_int_equal(spec_iothread_sched(spec, "io").scheduler, SCHED_UNSET);
	assert_int_equal(spec->cputune.emulatorsched.priority, 99);
	assert_string_equal(scheduler_name(SCHED_UNSET), "other");
	assert_string_equal(mem_policy_name(MEM_POLICY_UNSET), "default");
	assert_string_equal(mem_policy_name(MEM_POLICY_RESTRICTIVE), "restrictive");
}

static void devices_and_boot(void **state)
{
	cleanup_spec struct spec *spec =
	    parse("\"disks\": [{ \"file\": \"/a, b.img\" }, { \"file\": \"/dev/vg/x\", \"type\":"
	          "\"block\", \"format\": \"qcow2\", \"readonly\": true }],"
	          "\"nics\": [{ \"type\": \"bridge\", \"bridge\": \"br0\", \"vhost\": true,"
	          "\"mac\": \"52:54:00:AB:CD:EF\" }], \"hostdevs\": [{ \"pci\": \"3B:00.1\" }],"
	          "\"serial\": { \"file\": \"/log\" }, \"boot\": { \"kernel\": \"/k\", \"cmdline\":"
	          "\"\" }, \"cpu\": { \"features\": { \"avx\": \"disable\" }, \"topology\": {} }");

	(void)state;
	assert_string_equal(spec->disks[0].file, "/a, b.img");
	assert_int_equal(spec->disks[0].format, DISK_FORMAT_RAW);
	assert_int_equal(spec->disks[1].type, DISK_TYPE_BLOCK);
	assert_true(spec->disks[1].readonly);
	assert_string_equal(spec->nics[0].mac, "52:54:00:ab:cd:ef");
	assert_string_equal(spec->hostdevs[0].pci, "0000:3b:00.1");
	assert_int_equal(spec->serial.type, SERIAL_FILE);
	assert_string_equal(spec->serial.path, "/log");
	assert_string_equal(spec->boot.cmdline, "");
	assert_string_equal(spec->cpu.features[0].name, "avx");
	assert_int_equal(spec->cpu.features[0].policy, FEATURE_DISABLE);
	assert_true(spec->cpu.topology_given);
	assert_int_equal(spec->cpu.dies, 1);
}

static void relative_paths_start_from_the_directory_of_the_spec(void **state)
{
	static const char text[] =
	    "{ \"name\": \"vm\", \"memory\": \"1GiB\", \"disks\": [{ \"file\": \"../d.img\" }],"
	    "\"qemu\": { \"binary\": \"bin/qemu\" } }";
	struct spec_errors errors;
	char here[PATH_MAX];

	(void)state;
	assert_non_null(getcwd(here, sizeof(here)));
	cleanup_spec struct spec *spec = spec_parse("vm.json", text, strlen(text), &errors);
	cleanup_free char *disk = xasprintf("%s/../d.img", here);
	cleanup_free char *binary = xasprintf("%s/bin/qemu", here);
	assert_string_equal(spec->disks[0].file, disk);
	assert_string_equal(spec->qemu.binary, binary);
	cleanup_spec struct spec *root = spec_parse("/vm.json", text, strlen(text), &errors);
	assert_string_equal(root->disks[0].file, "/../d.img");
}

static void comments_count_as_blanks(void **state)
{
	cleanup_spec struct spec *spec = parse_whole("// one\n{ /* two\n */ \"name\": \"vm\""
	                                             "\n, \"memory\": \"1GiB\" } // end");

	(void)state;
	(void)spec;
}

static void comments_in_strings_are_text(void **state)
{
	cleanup_spec struct spec *spec =
	    parse("\"disks\": [{ \"file\": \"//a/*b*/\" }, { \"file\": \"/\\\"//c\" }]");

	(void)state;
	assert_string_equal(spec->disks[0].file, "//a/*b*/");
	assert_string_equal(spec->disks[1].file, "/\"//c");
}

static void all_errors_come_in_one_pass_in_the_order_of_the_file(void **state)
{
	cleanup_free char *list = places("{ \"name\": \"a b\",\n"
	                                 "  \"vcpus\": 0,\n"
	                                 "  /* a comment\n"
	                                 "     of two lines */\n"
	                                 "  \"cpu\": {\n"
	                                 "    \"mode\": 3, \"modle\": \"x\",\n"
	                                 "    \"features\": {\n"
	                                 "      \"avx\": \"yes\" } },\n"
	                                 "  \"disks\": [ {}, {\n"
	                                 "      \"file\":\n"
	                                 "        7 } ],\n"
	                                 "  \"memory\": \"1GB\" }\n");

	(void)state;
	assert_string_equal(list, "1 /name\n2 /vcpus\n6 /cpu/mode\n6 /cpu/modle\n"
	                          "8 /cpu/features/avx\n9 /disks/0/file\n10 /disks/1/file\n"
	                          "12 /memory\n");
}

static void a_wrong_value_has_no_follow_up_errors(void **state)
{
	(void)state;
	/* max-vcpus unknown: nothing on topology, guest nodes, pins */
	assert_places("\"max-vcpus\": \"x\", \"cpu\": { \"topology\": { \"cores\": 3 } },"
	              "\"numa\": { \"nodes\": [{ \"vcpus\": \"5\", \"memory\": \"4GiB\" }] },"
	              "\"cputune\": { \"vcpupin\": { \"7\": \"0\" } }",
	              "1 /max-vcpus\n");
	assert_places("\"max-vcpu\": 8, \"cpu\": { \"topology\": { \"cores\": 8 } }",
	              "1 /max-vcpu\n");
	assert_places("\"vcpus\": 2, \"vcpus\": 4, \"cpu\": { \"topology\": { \"cores\": 2 } }",
	              "1 /vcpus\n");
	assert_places("\"cpu\": { \"topology\": { \"cores\": 0 } }", "1 /cpu/topology/cores\n");
	assert_places("\"numa\": { \"nodes\": [{ \"memory\": \"x\" }] }",
	              "1 /numa/nodes/0/memory\n");
	assert_places("\"memory-backing\": { \"hugepages\": { \"reserve\": \"existing\" } }",
	              "1 /memory-backing/hugepages/size\n");
	assert_places(
	    "\"iothreads\": [\"1\"], \"disks\": [{ \"file\": \"a\", \"iothread\": \"b\" }]",
	    "1 /iothreads/0\n");
	assert_places("\"cpu\": { \"mode\": \"custm\" }", "1 /cpu/mode\n");
	assert_places("\"nics\": [{ \"type\": \"tub\", \"ifname\": \"x\" }]", "1 /nics/0/type\n");
	assert_places("\"cputune\": { \"emulatorsched\": { \"scheduler\": \"fivo\" } }",
	              "1 /cputune/emulatorsched/scheduler\n");
}

static void independent_errors_are_told_beside_a_wrong_value(void **state)
{
	(void)state;
	assert_places("\"vcpus\": 4, \"cpu\": { \"mode\": 1, \"topology\": { \"cores\": 3 } },"
	              "\"on-crash\": \"dmp\", \"cputune\": { \"quota\": \"x\" }",
	              "1 /cpu/mode\n1 /cpu/topology\n1 /on-crash\n1 /cputune/quota\n");
}

static void what_is_not_yet_there_may_say_its_default(void **state)
{
	cleanup_spec struct spec *spec = parse(
	    "\"isolation\": \"none\", \"die-with-supervisor\": false, \"qemu\": { \"args\": [] },"
	    "\"memory-backing\": { \"hugepages\": { \"size\": \"2MiB\", \"reserve\":"
	    "\"existing\" } }, \"placement\": { \"smt\": \"isolate\" }");

	(void)state;
	assert_int_equal(spec->placement.smt, SMT_ISOLATE);
}

static void real_time_vcpus_with_cpus_of_their_own_pass(void **state)
{
	cleanup_spec struct spec *spec =
	    parse("\"vcpus\": 3, \"cputune\": { \"vcpupin\": { \"0\": \"0\", \"1\": \"1\", \"2\": "
	          "\"2\" },"
	          "\"emulatorpin\": \"2-3\", \"vcpusched\": [{ \"vcpus\": \"0-1\", \"scheduler\":"
	          "\"fifo\", \"priority\": 1 }] }"); /* vCPU 2 is none of them */

	(void)state;
	assert_set(spec->cputune.emulatorpin, "2-3");
}

static void vhost_user_needs_memory_that_others_can_map(void **state)
{
	static const char nic[] = "\"nics\": [{ \"type\": \"vhost-user\", \"socket\": \"/s\" }]";
	static const struct {
		const char *memory;
		bool good;
	} cases[] = {
		{ "\"memory-backing\": {}", false },
		{ "\"memory-backing\": { \"hugepages\": \"2MiB\" }", true },
		{ "\"memory-backing\": { \"hugepages\": \"thp\" }", false },
		{ "\"memory-backing\": { \"prealloc\": true }", true },
		{ "\"numa\": { \"nodes\": [{ \"memory\": \"4GiB\", \"shared\": true }] }", true },
		{ "\"numa\": { \"nodes\": [{ \"memory\": \"4GiB\" }] }", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_free char *body = xasprintf("%s, %s", nic, cases[i].memory);
		assert_places(body, cases[i].good ? "" : "1 /nics/0\n");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_least_spec_has_the_defaults_of_the_design),
		cmocka_unit_test(memory_and_its_pages),
		cmocka_unit_test(prealloc_follows_pages_and_locked),
		cmocka_unit_test(guest_nodes_cover_every_vcpu),
		cmocka_unit_test(pins_and_schedulers),
		cmocka_unit_test(devices_and_boot),
		cmocka_unit_test(relative_paths_start_from_the_directory_of_the_spec),
		cmocka_unit_test(comments_count_as_blanks),
		cmocka_unit_test(comments_in_strings_are_text),
		cmocka_unit_test(all_errors_come_in_one_pass_in_the_order_of_the_file),
		cmocka_unit_test(a_wrong_value_has_no_follow_up_errors),
		cmocka_unit_test(independent_errors_are_told_beside_a_wrong_value),
		cmocka_unit_test(what_is_not_yet_there_may_say_its_default),
		cmocka_unit_test(real_time_vcpus_with_cpus_of_their_own_pass),
		cmocka_unit_test(vhost_user_needs_memory_that_others_can_map),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
