/* The host stage: machines described by synthetic strings, by XML written here or exported by
 * hwloc, and the machine that the test runs on. tests/cli/topologies.t has the real machines. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <hwloc.h>
#include <hwloc/cpukinds.h>
#include <hwloc/distances.h>

#include "cpulist.h"
#include "host.h"
#include "util.h"

static struct host *load(const char *description)
{
	cleanup_error struct error err = ERROR_INIT;
	struct host *host = host_load(description, &err);

	if (!host)
		fail_msg("%s: %s", description, err.message);
	return host;
}

static void assert_set(hwloc_const_bitmap_t set, const char *expected)
{
	cleanup_free char *list = cpulist_format(set);

	assert_string_equal(list, expected);
}

/* A file that is removed with the variable. */
struct file {
	char path[64];
};

static void cleanup_file_path(struct file *file)
{
	unlink(file->path);
}

#define cleanup_path __attribute__((cleanup(cleanup_file_path)))

static struct file write_text(const char *text, size_t size)
{
	struct file file = { "/tmp/ancla-test-host-XXXXXX" };
	int fd = mkstemp(file.path);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, size), size);
	close(fd);
	return file;
}

static void assert_refused(const char *description, const char *part)
{
	cleanup_error struct error err = ERROR_INIT;
	struct host *host = host_load(description, &err);

	assert_null(host);
	assert_int_equal(err.code, EXIT_SPEC);
	if (!strstr(err.message, part))
		fail_msg("\"%s\" does not say \"%s\"", err.message, part);
	assert_null(strchr(err.message, '\n'));
}

/* A topology to be changed and exported. */
static hwloc_topology_t synthetic(const char *description)
{
	hwloc_topology_t topology;

	assert_int_equal(hwloc_topology_init(&topology), 0);
	assert_int_equal(hwloc_topology_set_synthetic(topology, description), 0);
	assert_int_equal(hwloc_topology_load(topology), 0);
	return topology;
}

static char *export_text(hwloc_topology_t topology)
{
	char *buffer, *text;
	int size;

	assert_int_equal(hwloc_topology_export_xmlbuffer(topology, &buffer, &size, 0), 0);
	text = xstrdup(buffer);
	hwloc_free_xmlbuffer(topology, buffer);
	hwloc_topology_destroy(topology);
	return text;
}

static struct file export_file(hwloc_topology_t topology)
{
	cleanup_free char *text = export_text(topology);

	return write_text(text, strlen(text));
}

static void a_synthetic_host_has_its_shape(void **state)
{
	cleanup_host struct host *host = load("pack:2 numa:2 l3:2(size=1048576) core:4 pu:2");

	(void)state;
	assert_false(host->live);
	assert_int_equal(host->n_packages, 2);
	assert_int_equal(host->n_nodes, 4);
	assert_int_equal(host->n_l3s, 8);
	assert_int_equal(host->n_cores, 32);
	assert_set(host->cpus, "0-63");
	assert_set(host->allowed, "0-63");
	assert_set(host->isolated, "");
	assert_set(host->packages[1].cpus, "32-63");
	assert_set(host->nodes[3].cpus, "48-63");
	assert_set(host->l3s[7].cpus, "56-63");
	assert_int_equal(host->l3s[7].size, 1048576);
	assert_set(host->cores[31].cpus, "62-63");
	assert_int_equal(host->cores[31].node, 3);
	assert_int_equal(host->cores[31].l3, 7);
	assert_int_equal(host->cores[31].package, 1);
	assert_int_equal(host->cores[31].kind, -1);
	assert_int_equal(host->page_size, 4096);
}

static void siblings_numbered_apart_are_one_core(void **state)
{
	cleanup_host struct host *host = load("numa:2 core:8 pu:2(indexes=2*16:1*2)");

	(void)state;
	assert_set(host->cores[0].cpus, "0,16");
	assert_set(host->cores[15].cpus, "15,31");
	assert_set(host->nodes[1].cpus, "8-15,24-31");
	assert_ptr_equal(host_core_of_cpu(host, 31), &host->cores[15]);
	assert_ptr_equal(host_node_of_cpu(host, 31), &host->nodes[1]);
}

static void what_a_host_lacks_is_absent(void **state)
{
	cleanup_host struct host *host = load("numa:1 pu:3");

	(void)state;
	assert_int_equal(host->n_packages, 0);
	assert_int_equal(host->n_l3s, 0);
	assert_int_equal(host->n_cores, 3);
	assert_set(host->cores[2].cpus, "2");
	assert_int_equal(host->cores[2].l3, -1);
	assert_int_equal(host->cores[2].package, -1);
	assert_int_equal(host->cores[2].node, 0);
}

static void accessors_say_null_for_what_is_not_there(void **state)
{
	cleanup_host struct host *host = load("numa:2 core:2 pu:1");

	(void)state;
	assert_null(host_node(host, 2));
	assert_null(host_node(host, UINT32_MAX));
	assert_null(host_node_of_cpu(host, 4));
	assert_null(host_core_of_cpu(host, 4));
	assert_null(host_core_of_cpu(host, UINT32_MAX));
	assert_null(host_node_pages(&host->nodes[0], 2 << 20));
	assert_int_equal(host_node(host, 1)->id, 1);
}

static void a_node_that_repeats_cpus_is_memory_only(void **state)
{
	cleanup_host struct host *host =
	    load("pack:2 [numa(memory=8589934592)] [numa(memory=1073741824)] core:4 pu:1");

	(void)state;
	assert_int_equal(host->n_nodes, 4);
	assert_set(host->nodes[0].cpus, "0-3");
	assert_set(host->nodes[1].cpus, "");
	assert_int_equal(host->nodes[1].memory, 1073741824);
	assert_set(host->nodes[2].cpus, "4-7");
	assert_set(host->nodes[3].cpus, "");
	assert_int_equal(host_node_of_cpu(host, 5)->id, 2);
}

static void memory_of_a_whole_machine_takes_no_cpus_from_its_nodes(void **state)
{
	cleanup_host struct host *host = load("[numa] pack:2 [numa] core:2 pu:1");
	size_t with_cpus = 0;

	(void)state;
	assert_int_equal(host->n_nodes, 3);
	for (size_t i = 0; i < host->n_nodes; i++)
		with_cpus += !hwloc_bitmap_iszero(host->nodes[i].cpus);
	assert_int_equal(with_cpus, 2);
	assert_int_equal(hwloc_bitmap_weight(host_node_of_cpu(host, 3)->cpus), 2);
}

static void high_bandwidth_memory_takes_no_cpus_even_if_it_comes_first(void **state)
{
	hwloc_topology_t topology = synthetic("[numa] [numa] core:4 pu:1");
	hwloc_obj_t first = hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, 0);

	(void)state;
	free(first->subtype);
	first->subtype = xstrdup("HBM");
	cleanup_path struct file file = export_file(topology);
	cleanup_host struct host *host = load(file.path);

	assert_set(host->nodes[0].cpus, "");
	assert_set(host->nodes[1].cpus, "0-3");
	assert_int_equal(host->cores[0].node, 1);
}

static void distances_default_to_10_and_20(void **state)
{
	cleanup_host struct host *host = load("numa:3 pu:1");

	(void)state;
	for (size_t i = 0; i < 3; i++)
		for (size_t j = 0; j < 3; j++)
			assert_int_equal(host->nodes[i].distances[j], i == j ? 10 : 20);
}

static void a_matrix_may_cover_only_some_nodes(void **state)
{
	hwloc_topology_t topology = synthetic("numa:3 pu:1");
	hwloc_obj_t objs[2] = { hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, 0),
		                hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, 2) };
	hwloc_uint64_t values[4] = { 10, 31, (UINT64_C(1) << 32) + 10, 11 };
	hwloc_distances_add_handle_t handle = hwloc_distances_add_create(
	    topology, "NUMALatency",
	    HWLOC_DISTANCES_KIND_FROM_USER | HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0);

	(void)state;
	assert_non_null(handle);
	assert_int_equal(hwloc_distances_add_values(topology, handle, 2, objs, values, 0), 0);
	assert_int_equal(hwloc_distances_add_commit(topology, handle, 0), 0);
	cleanup_path struct file file = export_file(topology);
	cleanup_host struct host *host = load(file.path);

	assert_int_equal(host->nodes[0].distances[2], 31);
	assert_int_equal(host->nodes[2].distances[0], 65535);
	assert_int_equal(host->nodes[2].distances[2], 11);
	assert_int_equal(host->nodes[0].distances[1], 20);
	assert_int_equal(host->nodes[1].distances[1], 10);
}

static void kinds_are_ranked(void **state)
{
	hwloc_topology_t topology = synthetic("numa:1 core:4 pu:1");
	cleanup_bitmap hwloc_bitmap_t fast = xbitmap(), slow = xbitmap();

	(void)state;
	hwloc_bitmap_set_range(fast, 0, 1);
	hwloc_bitmap_set_range(slow, 2, 3);
	assert_int_equal(hwloc_cpukinds_register(topology, fast, 9, 0, NULL, 0), 0);
	assert_int_equal(hwloc_cpukinds_register(topology, slow, 3, 0, NULL, 0), 0);
	cleanup_path struct file file = export_file(topology);
	cleanup_host struct host *host = load(file.path);

	assert_int_equal(host->n_kinds, 2);
	assert_set(host->kinds[0].cpus, "2-3");
	assert_set(host->kinds[1].cpus, "0-1");
	assert_int_equal(host->cores[0].kind, 1);
	assert_int_equal(host->cores[3].kind, 0);
}

static void numbers_may_have_holes(void **state)
{
	hwloc_topology_t topology = synthetic("numa:4 core:2 pu:1(indexes=9,3,200,201,70,71,1,0)");
	cleanup_bitmap hwloc_bitmap_t keep = xbitmap();

	(void)state;
	hwloc_bitmap_set(keep, 0);
	hwloc_bitmap_set(keep, 9);
	hwloc_bitmap_set(keep, 201);
	assert_int_equal(
	    hwloc_topology_restrict(topology, keep, HWLOC_RESTRICT_FLAG_REMOVE_CPULESS), 0);
	cleanup_path struct file file = export_file(topology);
	cleanup_host struct host *host = load(file.path);

	assert_set(host->cpus, "0,9,201");
	assert_int_equal(host->n_nodes, 3);
	assert_int_equal(host->nodes[2].id, 3);
	assert_set(host->nodes[2].cpus, "0");
	assert_set(host->cores[0].cpus, "0");
	assert_int_equal(host->cores[0].node, 3);
	assert_null(host_node(host, 2));
	assert_null(host_core_of_cpu(host, 8));
	assert_int_equal(host_node_of_cpu(host, 201)->id, 1);
}

/* The text with the first `from` replaced. */
static char *replace(const char *text, const char *from, const char *to)
{
	const char *at = strstr(text, from);

	assert_non_null(at);
	return xasprintf("%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
}

/* A synthetic host, exported, of which one thing is written otherwise. */
static void assert_refused_with(const char *from, const char *to, const char *part)
{
	cleanup_free char *text = export_text(synthetic("numa:2(memory=4294967296) core:2 pu:1"));
	cleanup_free char *changed = replace(text, from, to);
	cleanup_path struct file file = write_text(changed, strlen(changed));

	assert_refused(file.path, part);
}

static void a_kind_has_only_cpus_of_the_host(void **state)
{
	cleanup_free char *text = export_text(synthetic("numa:1 core:4 pu:1"));
	cleanup_free char *endless = replace(text, " cpuset=\"0x0000000f\"", " cpuset=\"0xf...f\"");
	cleanup_free char *kinds =
	    replace(endless, "</topology>",
	            "<cpukind cpuset=\"0xf...f\" forced_efficiency=\"1\"/></topology>");
	cleanup_path struct file file = write_text(kinds, strlen(kinds));
	cleanup_host struct host *host = load(file.path);

	(void)state;
	assert_int_equal(host->n_kinds, 1);
	assert_set(host->kinds[0].cpus, "0-3");
}

/* hwloc's words for a PCI device. */
#define PCI(number, address)                                                                       \
	"<object type=\"PCIDev\" gp_index=\"" number "\" pci_busid=\"" address                     \
	"\" pci_type=\"0200 [8086:1528] [0000:0000] 01\" pci_link_speed=\"0\"/>"
#define NODE_1 "<object type=\"NUMANode\" os_index=\"1\""
#define PACKAGE "<object type=\"Package\""

static void a_described_pci_device_is_on_the_node_that_it_hangs_on(void **state)
{
	cleanup_free char *text = export_text(synthetic("pack:2 numa:1 core:2 pu:1"));
	cleanup_free char *one = replace(text, NODE_1, PCI("900", "0000:3b:00.1") NODE_1);
	cleanup_free char *two = replace(one, PACKAGE, PCI("901", "0000:00:1f.2") PACKAGE);
	cleanup_path struct file file = write_text(two, strlen(two));
	cleanup_host struct host *host = load(file.path);

	(void)state;
	assert_int_equal(host_device_node(host, "0000:3b:00.1"), 1);
	assert_int_equal(host_device_node(host, "0000:00:1f.2"), -1); /* near both is near none */
	assert_int_equal(host_device_node(host, "0000:3b:00.0"), -1);
	/* Nothing of the machine that the test runs on is taken for the described one's. */
	host_find_pci(host, "0000:3b:00.0");
	host_find_disk(host, "/");
	assert_int_equal(host->n_devices, 1);
}

static void huge_pages_come_from_the_page_types(void **state)
{
	cleanup_free char *text = export_text(synthetic("numa:1(memory=4294967296) pu:1"));
	cleanup_free char *more = replace(text, "<page_type size=\"4096\"",
	                                  "<page_type size=\"1073741824\" count=\"1\"/>\n"
	                                  "<page_type size=\"2097152\" count=\"512\"/>\n"
	                                  "<page_type size=\"4096\"");
	cleanup_path struct file file = write_text(more, strlen(more));
	cleanup_host struct host *host = load(file.path);
	const struct host_node *node = &host->nodes[0];

	(void)state;
	assert_int_equal(host->page_size, 4096);
	assert_int_equal(node->n_pages, 2);
	assert_int_equal(node->pages[0].size, 2 << 20);
	assert_int_equal(node->pages[0].total, 512);
	assert_int_equal(node->pages[0].free, 512);
	assert_int_equal(host_node_pages(node, 1 << 30)->free, 1);
	assert_int_equal(node->memory, 4294967296);
	assert_int_equal(node->free, 2147483648);
}

static void a_page_size_that_comes_twice_is_refused(void **state)
{
	(void)state;
	assert_refused_with("<page_type size=\"4096\"",
	                    "<page_type size=\"2097152\" count=\"1\"/>\n"
	                    "<page_type size=\"2097152\" count=\"512\"/>\n"
	                    "<page_type size=\"4096\"",
	                    "node 0 of the host has two counts of pages of 2097152 bytes");
}

static void two_thousand_cpus_are_indexed(void **state)
{
	cleanup_host struct host *host =
	    load("group:32 pack:4 [numa] l3:1 core:8 pu:2(indexes=2*1024:1*2)");

	(void)state;
	assert_int_equal(host->n_nodes, 128);
	assert_int_equal(host->n_cores, 1024);
	for (unsigned cpu = 0; cpu < 2048; cpu++) {
		const struct host_core *core = host_core_of_cpu(host, cpu);

		assert_true(hwloc_bitmap_isset(core->cpus, cpu));
		assert_true(hwloc_bitmap_isset(host_node_of_cpu(host, cpu)->cpus, cpu));
		assert_int_equal(core->node, host_node_of_cpu(host, cpu)->id);
		assert_true(hwloc_bitmap_isset(host->l3s[core->l3].cpus, cpu));
		assert_true(hwloc_bitmap_isset(host->packages[core->package].cpus, cpu));
	}
}

static void a_wrong_description_is_refused(void **state)
{
	(void)state;
	assert_refused("", "expected an XML file of hwloc or a synthetic description");
	assert_refused("no-such-file.xml", "No such file");
	assert_refused("/no/such:file", "No such file");
	assert_refused("numa:2 horse:3", "expected levels from the outside in");
	assert_refused("core:2 pu:", "expected levels from the outside in");
	assert_refused("numa:9999 core:9999 pu:2", "more than 65535 CPUs");
	assert_refused("pu:4294967296", "more than 65535 CPUs");
	assert_refused("pu:0xffffffff", "more than 65535 CPUs");
	assert_refused("core:2\tpu:+65535", "more than 65535 CPUs");
	assert_refused("core:1 pu:2(indexes=0,4294967295)", "above 65535 in its indexes");
	assert_refused("core:2 numa:2 pu:2", "a core, CPUs 0-3, that is not in one node");
	assert_refused("/tmp", "directory");
	assert_refused("/dev/null", "is empty");
	assert_refused("/proc/self/exe", "not XML of hwloc");
}

/* hwloc takes it. */
static const char machine_without_cpus[] =
    "<topology version=\"2.0\"><object type=\"Machine\" os_index=\"0\" cpuset=\"0x1\" "
    "complete_cpuset=\"0x1\" allowed_cpuset=\"0x1\" nodeset=\"0x1\" complete_nodeset=\"0x1\" "
    "allowed_nodeset=\"0x1\" gp_index=\"1\"><object type=\"NUMANode\" os_index=\"0\" "
    "cpuset=\"0x1\" "
    "complete_cpuset=\"0x1\" nodeset=\"0x1\" complete_nodeset=\"0x1\" gp_index=\"2\" "
    "local_memory=\"2147483648\"/></object></topology>";

static void a_damaged_file_is_refused(void **state)
{
	cleanup_free char *text = export_text(synthetic("numa:2 core:2 pu:1"));
	cleanup_path struct file cut = write_text(text, strlen(text) / 2);
	cleanup_path struct file nul = write_text(text, strlen(text) + 1);
	cleanup_path struct file empty =
	    write_text(machine_without_cpus, strlen(machine_without_cpus));

	(void)state;
	assert_refused(empty.path, "no CPU");
	assert_refused(cut.path, "cut short");
	assert_refused(nul.path, "not XML of hwloc");
	assert_refused_with("<topology version=\"2", "<topology version=\"9", "newer hwloc");
	assert_refused_with("type=\"NUMANode\"", "type=\"Horse\"", "hwloc finds a mistake in it");
	assert_refused_with("type=\"PU\" os_index=\"3\"", "type=\"PU\" os_index=\"2\"",
	                    "two CPUs numbered 2");
	assert_refused_with("type=\"NUMANode\" os_index=\"1\"", "type=\"NUMANode\" os_index=\"0\"",
	                    "two nodes numbered 0");
}

/* However it is written: hwloc would take 512 MiB for each. */
static void a_number_that_no_linux_has_is_refused_before_hwloc_sees_it(void **state)
{
	static const char *const ways[][2] = {
		{ "type=\"PU\" os_index=\"3\"", "type=\"PU\" os_index=\"70000\"" },
		{ "type=\"PU\" os_index=\"3\"", "type=\"PU\"\tos_index=\"4294967290\"" },
		{ "type=\"PU\" os_index=\"3\"", "type=\"PU\" os_index=\"&#10;4294967290\"" },
		{ "type=\"PU\" os_index=\"3\"", "type=\"pu\"\n os_index=\"-1\"" },
		{ "type=\"PU\" os_index=\"3\"", "type=\"PU\" os_index=\"3\" os_index=\"70000\"" },
		{ "type=\"PU\" os_index=\"3\"", "type=\"PU\" name=\" os_index=\"3\"" },
		{ "type=\"PU\" os_index=\"3\"", "type=\"PU\"" },
		{ "type=\"NUMANode\" os_index=\"1\"", "type=\"Node\" os_index=\"70000\"" },
		{ "type=\"NUMANode\" os_index=\"1\"", "type=\"NUMANode\"" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ways); i++)
		assert_refused_with(ways[i][0], ways[i][1],
		                    "a number above that of any Linux, or without one");
}

/* hwloc 2.9 dereferences NULL on this one. */
static void a_file_that_crashes_hwloc_is_refused(void **state)
{
	cleanup_free char *text = export_text(synthetic("numa:2 core:2 pu:1"));
	cleanup_free char *broken = replace(
	    text, "type=\"PU\" os_index=\"1\" cpuset=", "type=\"PU\" os_index=\"1\" cpuzet=");
	cleanup_path struct file file = write_text(broken, strlen(broken));

	(void)state;
	assert_refused(file.path, file.path);
}

static void the_environment_changes_nothing(void **state)
{
	(void)state;
	setenv("HWLOC_SYNTHETIC", "numa:7 pu:7", 1);
	setenv("HWLOC_XML_VERBOSE", "1", 1);
	cleanup_host struct host *host = load(NULL);

	assert_true(host->live);
	assert_int_equal(hwloc_bitmap_weight(host->cpus), sysconf(_SC_NPROCESSORS_ONLN));
	assert_null(getenv("HWLOC_SYNTHETIC"));
}

static void this_machine_has_what_the_kernel_says(void **state)
{
	cleanup_host struct host *host = load(NULL);
	uint64_t memory = 0;

	(void)state;
	assert_true(host->live);
	assert_int_equal(hwloc_bitmap_weight(host->cpus), sysconf(_SC_NPROCESSORS_ONLN));
	assert_int_equal(host->page_size, sysconf(_SC_PAGESIZE));
	assert_false(hwloc_bitmap_iszero(host->allowed));
	assert_true(hwloc_bitmap_isincluded(host->allowed, host->cpus));
	assert_true(hwloc_bitmap_isincluded(host->isolated, host->cpus));
	for (size_t i = 0; i < host->n_nodes; i++) {
		const struct host_node *node = &host->nodes[i];

		memory += node->memory;
		assert_true(node->free <= node->memory);
		for (size_t j = 0; j < node->n_pages; j++)
			assert_true(node->pages[j].free <= node->pages[j].total);
	}
	assert_true(memory > 0);
}

/* A mask that somebody set is kept, and is not widened by our asking. */
static void an_inherited_mask_is_honoured(void **state)
{
	cleanup_bitmap hwloc_bitmap_t granted = NULL, isolated = NULL, narrow = NULL, same = NULL;
	cleanup_bitmap hwloc_bitmap_t ordinary = xbitmap();
	cleanup_error struct error err = ERROR_INIT;
	cpu_set_t before, one, after;

	(void)state;
	assert_int_equal(host_allowed_cpus(&granted, &isolated, &err), 0);
	assert_int_equal(sched_getaffinity(0, sizeof(before), &before), 0);
	hwloc_bitmap_andnot(ordinary, granted, isolated);
	assert_false(hwloc_bitmap_iszero(ordinary));
	CPU_ZERO(&one);
	CPU_SET(hwloc_bitmap_last(ordinary), &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(host_allowed_cpus(&narrow, &same, &err), 0);
	assert_int_equal(sched_getaffinity(0, sizeof(after), &after), 0);
	sched_setaffinity(0, sizeof(before), &before);
	assert_int_equal(hwloc_bitmap_weight(narrow), 1);
	assert_int_equal(hwloc_bitmap_first(narrow), hwloc_bitmap_last(ordinary));
	assert_true(CPU_EQUAL(&one, &after));
	assert_true(hwloc_bitmap_isequal(isolated, same));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_synthetic_host_has_its_shape),
		cmocka_unit_test(siblings_numbered_apart_are_one_core),
		cmocka_unit_test(what_a_host_lacks_is_absent),
		cmocka_unit_test(accessors_say_null_for_what_is_not_there),
		cmocka_unit_test(a_node_that_repeats_cpus_is_memory_only),
		cmocka_unit_test(memory_of_a_whole_machine_takes_no_cpus_from_its_nodes),
		cmocka_unit_test(high_bandwidth_memory_takes_no_cpus_even_if_it_comes_first),
		cmocka_unit_test(distances_default_to_10_and_20),
		cmocka_unit_test(a_matrix_may_cover_only_some_nodes),
		cmocka_unit_test(kinds_are_ranked),
		cmocka_unit_test(a_kind_has_only_cpus_of_the_host),
		cmocka_unit_test(numbers_may_have_holes),
		cmocka_unit_test(a_described_pci_device_is_on_the_node_that_it_hangs_on),
		cmocka_unit_test(huge_pages_come_from_the_page_types),
		cmocka_unit_test(a_page_size_that_comes_twice_is_refused),
		cmocka_unit_test(two_thousand_cpus_are_indexed),
		cmocka_unit_test(a_wrong_description_is_refused),
		cmocka_unit_test(a_damaged_file_is_refused),
		cmocka_unit_test(a_number_that_no_linux_has_is_refused_before_hwloc_sees_it),
		cmocka_unit_test(a_file_that_crashes_hwloc_is_refused),
		cmocka_unit_test(the_environment_changes_nothing),
		cmocka_unit_test(this_machine_has_what_the_kernel_says),
		cmocka_unit_test(an_inherited_mask_is_honoured),
	};

	return cmocka_run_group_tests_name("host", tests, NULL, NULL);
}
