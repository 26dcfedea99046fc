/* QEMU's command line: what is asked for and nothing else, nothing of the spec in an option's
 * syntax, and only what this QEMU has. Whole lines are in tests/golden/. */
#include "stages.h"

#include <stdio.h>

#include "argv.h"
#include "argv_parts.h"

#define TCG_72 "tests/qmp/qemu-7.2-tcg.caps.json"
#define TCG_100 "tests/qmp/qemu-10.0-tcg.caps.json"
#define XEON "tests/golden/made-up-xeon-qemu-7.2-kvm.caps.json"

/* The line for these members on this host; NULL and an error if it is refused. */
static struct command_line *line_of(const char *members, const char *description,
                                    const struct caps *caps, struct error *err)
{
	cleanup_host struct host *host = host_of(description);
	cleanup_spec struct spec *spec = spec_of(members);
	cleanup_plan struct plan *plan = place(spec, host, NULL, caps->accel, err);

	return plan ? command_line(spec, plan, caps, err) : NULL;
}

static struct command_line *good_line(const char *members, const struct caps *caps)
{
	cleanup_error struct error err = ERROR_INIT;
	struct command_line *line = line_of(members, PLAIN_HOST, caps, &err);

	if (!line)
		fail_msg("%s: %s", members, err.message);
	return line;
}

#define assert_no_line(members, host, caps, parts)                                                 \
	do {                                                                                       \
		cleanup_error struct error err_ = ERROR_INIT;                                      \
		cleanup_command_line struct command_line *line_ =                                  \
		    line_of(members, host, caps, &err_);                                           \
		assert_null(line_);                                                                \
		assert_refused(&err_, EXIT_GRANT, parts);                                          \
	} while (0)

/* The first value of the option that contains the part, or NULL. */
static const char *value_of_option(const struct command_line *line, const char *option,
                                   const char *part)
{
	for (size_t i = 0; i + 1 < line->argc; i++)
		if (strcmp(line->argv[i], option) == 0 && strstr(line->argv[i + 1], part))
			return line->argv[i + 1];
	return NULL;
}

/* Makes the QEMU one that lacks this. */
static void forget(struct caps *caps, const char *what)
{
	size_t kept = 0;

	for (size_t i = 0; i < caps->n_has; i++)
		if (strcmp(caps->has[i], what) != 0)
			caps->has[kept++] = caps->has[i];
	assert_int_equal(kept + 1, caps->n_has);
	caps->n_has = kept;
}

static void what_is_not_asked_for_is_not_there(void **state)
{
	cleanup_caps struct caps *caps = caps_of(XEON);
	cleanup_command_line struct command_line *line = good_line("", caps);
	static const char *const absent[] = { "-serial", "-netdev",    "-drive", "-blockdev",
		                              "-kernel", "-append",    "-bios",  "-action",
		                              "-numa",   "-overcommit" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(absent); i++)
		assert_null(value_of_option(line, absent[i], ""));
	assert_string_equal(value_of_option(line, "-cpu", ""), "host");
	assert_string_equal(value_of_option(line, "-accel", ""), "kvm");
	assert_string_equal(line->argv[0], caps->binary);
	assert_null(line->argv[line->argc]);
}

static void every_inherited_descriptor_is_used_once(void **state)
{
	cleanup_caps struct caps *caps = caps_of(XEON);
	cleanup_command_line struct command_line *line = good_line(
	    "'vcpus': 2, 'memory-backing': { 'hugepages': '2MiB' }, 'numa': { 'nodes': [ "
	    "{ 'vcpus': '0', 'memory': '512MiB' }, { 'vcpus': '1', 'memory': '512MiB' } ] }, "
	    "'serial': 'socket', 'nics': [ { 'type': 'tap', 'ifname': 'a', 'vhost': true }, "
	    "{ 'type': 'user' }, { 'type': 'bridge', 'bridge': 'b' } ]",
	    caps);
	static const struct inherited expected[] = {
		{ INHERIT_MONITOR, 0, FD_MONITOR },
		{ INHERIT_COMMANDS, 0, FD_COMMANDS },
		{ INHERIT_LOCK, 0, FD_LOCK },
		{ INHERIT_SERIAL, 0, FD_SERIAL },
		{ INHERIT_MEMORY, 0, 10 },
		{ INHERIT_MEMORY, 1, 11 },
		{ INHERIT_TAP, 0, 12 },
		{ INHERIT_VHOST, 0, 13 },
		{ INHERIT_TAP, 2, 14 },
	};

	(void)state;
	assert_int_equal(line->n_inherited, ARRAY_SIZE(expected));
	for (size_t i = 0; i < line->n_inherited; i++) {
		assert_int_equal(line->inherited[i].kind, expected[i].kind);
		assert_int_equal(line->inherited[i].index, expected[i].index);
		assert_int_equal(line->inherited[i].fd, expected[i].fd);
	}
	assert_non_null(value_of_option(line, "-object", "/proc/self/fd/11\""));
	assert_non_null(value_of_option(line, "-netdev", "\"fd\":\"14\""));
}

static void text_of_the_spec_stays_text(void **state)
{
	cleanup_caps struct caps *caps = caps_of(XEON);
	cleanup_command_line struct command_line *line =
	    good_line("'disks': [ { 'file': '/a,b=c.raw' } ], 'serial': { 'file': '/x,mux=on' }, "
	              "'boot': { 'kernel': '/k,x', 'cmdline': '-S -daemonize' }",
	              caps);

	(void)state;
	assert_non_null(value_of_option(line, "-blockdev", "\"filename\":\"/a,b=c.raw\""));
	assert_non_null(value_of_option(line, "-chardev", "path=/x,,mux=on,append"));
	assert_string_equal(value_of_option(line, "-kernel", ""), "/k,x");
	assert_string_equal(value_of_option(line, "-append", ""), "-S -daemonize");
	for (size_t i = 0; i < line->argc; i++)
		assert_string_not_equal(line->argv[i], "-daemonize");
	cleanup_free char *escaped = argv_escape(",a,,b,");
	assert_string_equal(escaped, ",,a,,,,b,,");
}

static void what_this_qemu_lacks_is_refused_or_left_out(void **state)
{
	cleanup_caps struct caps *caps = caps_of(TCG_72);
	static const char filled[] =
	    "'memory-backing': { 'hugepages': 'thp', 'prealloc': 'qemu', 'host-nodes': '0' }";

	(void)state;
	cleanup_command_line struct command_line *line = good_line(filled, caps);
	assert_non_null(value_of_option(line, "-object", "thread-context"));
	assert_non_null(value_of_option(line, "-object", "\"prealloc-context\":\"fill0\""));

	/* Node 2 has memory only: QEMU cannot bind a thread to it, and would not start. */
	cleanup_error struct error err = ERROR_INIT;
	cleanup_command_line struct command_line *far = line_of(
	    "'memory-backing': { 'hugepages': 'thp', 'prealloc': 'qemu', 'host-nodes': '2' }",
	    "[numa(memory=8GB)] package:2 [numa(memory=8GB)] core:4 pu:1", caps, &err);
	assert_null(value_of_option(far, "-object", "thread-context"));
	assert_null(value_of_option(far, "-object", "prealloc-context"));
	assert_non_null(value_of_option(far, "-object", "\"prealloc\":true"));

	forget(caps, "type:thread-context");
	cleanup_command_line struct command_line *older = good_line(filled, caps);
	assert_null(value_of_option(older, "-object", "thread-context"));
	assert_null(value_of_option(older, "-object", "prealloc-context"));
	assert_non_null(value_of_option(older, "-object", "\"prealloc\":true"));

	assert_non_null(value_of_option(older, "-machine", ",hpet=off"));
	assert_non_null(value_of_option(older, "-sandbox", "spawn=deny"));
	forget(caps, "machine:q35:hpet");
	forget(caps, "option:sandbox");
	cleanup_command_line struct command_line *oldest = good_line("", caps);
	assert_null(value_of_option(oldest, "-machine", "hpet"));
	assert_null(value_of_option(oldest, "-sandbox", ""));

	forget(caps, "type:vfio-pci");
	assert_no_line("'hostdevs': [ { 'pci': '0000:00:01.0' } ]", PLAIN_HOST, caps,
	               "hostdevs|vfio-pci");
	forget(caps, "type:iothread");
	assert_no_line("'iothreads': ['a']", PLAIN_HOST, caps, "iothreads|has none");
	forget(caps, "type:pvpanic");
	assert_no_line("'on-crash': 'preserve'", PLAIN_HOST, caps, "on-crash|panic");
	forget(caps, "machine:q35");
	assert_no_line("", PLAIN_HOST, caps, "no machine \"q35\"");
}

static void apic_ids_from_255_on_come_with_an_iommu(void **state)
{
	cleanup_caps struct caps *kvm = caps_of(XEON);
	cleanup_caps struct caps *tcg_72 = caps_of(TCG_72), *tcg_100 = caps_of(TCG_100);
	static const char vcpus[] =
	    "'vcpus': 1, 'max-vcpus': %d, 'placement': { 'mode': 'static' } %s";
	char members[200];

	(void)state;
	snprintf(members, sizeof(members), vcpus, 255, "");
	cleanup_command_line struct command_line *few = good_line(members, kvm);
	assert_null(value_of_option(few, "-device", "intel-iommu"));
	snprintf(members, sizeof(members), vcpus, 256, "");
	cleanup_command_line struct command_line *many = good_line(members, kvm);
	assert_non_null(value_of_option(many, "-device", "intel-iommu,intremap=on,eim=on"));
	assert_string_equal(value_of_option(many, "-accel", ""), "kvm,kernel-irqchip=split");
	cleanup_command_line struct command_line *emulated = good_line(members, tcg_100);
	assert_non_null(value_of_option(emulated, "-device", "intel-iommu"));
	assert_no_line(members, PLAIN_HOST, tcg_72, "max-vcpus: 256|x2APIC");
	/* 3 threads take two bits, 3 cores two: 30 sockets reach 29 << 4. */
	snprintf(members, sizeof(members), vcpus, 270,
	         ", 'cpu': { 'topology': { 'sockets': 30, 'cores': 3, 'threads': 3 } }, "
	         "'qemu': { 'machine': 'pc' }");
	assert_no_line(members, PLAIN_HOST, kvm, "max-vcpus: 270|machine pc|q35");
}

static void more_devices_than_places_are_refused(void **state)
{
	cleanup_caps struct caps *caps = caps_of(XEON);
	char members[2000], *end = members;

	(void)state;
	end += sprintf(end, "'nics': [");
	for (int i = 0; i < 30; i++)
		end += sprintf(end, "%s { 'type': 'user' }", i ? "," : "");
	strcpy(end, " ]");
	cleanup_command_line struct command_line *line = good_line(members, caps);
	assert_non_null(value_of_option(line, "-netdev", "net29"));
	strcpy(end, ", { 'type': 'user' } ]");
	assert_no_line(members, PLAIN_HOST, caps, "31 devices|q35|30");
	strcpy(end, " ], 'qemu': { 'machine': 'microvm' }");
	assert_no_line(members, PLAIN_HOST, caps, "30 devices|microvm|24");
}

static void features_are_enforced_by_whichever_name(void **state)
{
	cleanup_caps struct caps *caps = caps_of(TCG_72);
	static const char broadwell[] =
	    "'cpu': { 'mode': 'custom', 'model': 'Broadwell-v1', 'features': { 'pcid': 'disable', "
	    "'invpcid': 'disable', 'hle': 'disable', 'rtm': 'disable', '%s': 'disable', "
	    "'x2apic': 'disable', '3dnowprefetch': 'disable', 'rdseed': 'disable' } }";
	char members[512];

	(void)state;
	snprintf(members, sizeof(members), broadwell, "tsc-deadline");
	cleanup_command_line struct command_line *dashes = good_line(members, caps);
	assert_non_null(value_of_option(dashes, "-cpu", "tsc-deadline=off"));
	snprintf(members, sizeof(members), broadwell, "tsc_deadline");
	cleanup_command_line struct command_line *underscores = good_line(members, caps);
	assert_non_null(value_of_option(underscores, "-cpu", ",enforce=on"));
	snprintf(members, sizeof(members), broadwell, "aes");
	assert_no_line(members, PLAIN_HOST, caps, "Broadwell-v1|features: tsc-deadline;");
	assert_no_line("'cpu': { 'features': { 'rdseed': 'require' } }", PLAIN_HOST, caps,
	               "rdseed|tcg");
	assert_no_line("'cpu': { 'features': { 'aess': 'disable' } }", PLAIN_HOST, caps,
	               "no CPU feature \"aess\"|\"aes\"");
}

static void addresses_of_cards_differ_and_stay(void **state)
{
	cleanup_caps struct caps *caps = caps_of(XEON);
	static const char two[] = "'nics': [ { 'type': 'user' }, { 'type': 'user' } ]";
	cleanup_command_line struct command_line *line = good_line(two, caps);
	cleanup_command_line struct command_line *again = good_line(two, caps);
	const char *first = value_of_option(line, "-device", "\"netdev\":\"net0\"");
	const char *second = value_of_option(line, "-device", "\"netdev\":\"net1\"");

	(void)state;
	first = strstr(first, "52:54:00:");
	second = strstr(second, "52:54:00:");
	assert_non_null(first);
	assert_non_null(second);
	assert_memory_not_equal(first, second, 17);
	assert_int_equal(line->argc, again->argc);
	for (size_t i = 0; i < line->argc; i++)
		assert_string_equal(line->argv[i], again->argv[i]);
}

static void a_shell_reads_the_line_as_it_is(void **state)
{
	cleanup_caps struct caps *caps = caps_of(XEON);
	cleanup_command_line struct command_line *line =
	    good_line("'boot': { 'kernel': '/k', 'cmdline': '$HOME `id` * ~ !! #; & | \\\\' }, "
	              "'disks': [ { 'file': '/it\\u0027s \\\"a\\\".raw' } ]",
	              caps);
	cleanup_free char *text = command_line_format(line);
	char path[] = "/tmp/ancla-test-argv-XXXXXX";
	cleanup_close int fd = mkstemp(path);
	cleanup_free char *command = xasprintf("sh %s", path);
	char *word = NULL;
	size_t size = 0;

	(void)state;
	assert_true(fd >= 0);
	dprintf(fd, "printf '%%s\\0' %s", text);
	FILE *in = popen(command, "r");
	for (size_t i = 0; i < line->argc; i++) {
		assert_true(getdelim(&word, &size, '\0', in) > 0);
		assert_string_equal(word, line->argv[i]);
	}
	assert_int_equal(getdelim(&word, &size, '\0', in), -1);
	pclose(in);
	free(word);
	remove(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_not_asked_for_is_not_there),
		cmocka_unit_test(every_inherited_descriptor_is_used_once),
		cmocka_unit_test(text_of_the_spec_stays_text),
		cmocka_unit_test(what_this_qemu_lacks_is_refused_or_left_out),
		cmocka_unit_test(apic_ids_from_255_on_come_with_an_iommu),
		cmocka_unit_test(more_devices_than_places_are_refused),
		cmocka_unit_test(features_are_enforced_by_whichever_name),
		cmocka_unit_test(addresses_of_cards_differ_and_stay),
		cmocka_unit_test(a_shell_reads_the_line_as_it_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
