/* Limits of control groups, in trees of files such as kernels make them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cgroup_limits.h"
#include "util.h"

#define MIB (UINT64_C(1) << 20)

/* An empty tree. */
static int set_up(void **state)
{
	char *root = xstrdup("/tmp/ancla-test-cgroup-XXXXXX");

	*state = root;
	return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
	cleanup_free char *root = *state;
	cleanup_free char *command = xasprintf("rm -rf '%s'", root);

	return system(command);
}

static void write_at(const char *root, const char *path, const char *text)
{
	cleanup_free char *file = xasprintf("%s%s", root, path);
	cleanup_free char *command = xasprintf("mkdir -p \"$(dirname '%s')\"", file);

	assert_int_equal(system(command), 0);
	FILE *out = fopen(file, "we");
	assert_non_null(out);
	fputs(text, out);
	fclose(out);
}

static void assert_limit(const char *root, uint64_t page_size, const char *file, uint64_t bytes,
                         uint64_t left)
{
	struct cgroup_limit limit = { 0 };
	cleanup_free char *expected = xasprintf("%s%s", root, file);

	assert_true(cgroup_limit_find(root, page_size, &limit));
	cleanup_free char *found = limit.file;
	assert_string_equal(found, expected);
	assert_int_equal(limit.bytes, bytes);
	assert_int_equal(limit.left, left);
}

static void a_limit_of_any_ancestor_counts_in_v2(void **state)
{
	const char *root = *state;

	write_at(root, "/proc/self/cgroup", "0::/a/b\n");
	write_at(root, "/proc/self/mountinfo",
	         "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
	write_at(root, "/sys/fs/cgroup/a/b/memory.max", "max\n");
	write_at(root, "/sys/fs/cgroup/a/b/memory.current", "1048576\n");
	write_at(root, "/sys/fs/cgroup/a/memory.max", "104857600\n");
	write_at(root, "/sys/fs/cgroup/a/memory.current", "62914560\n");
	assert_limit(root, 0, "/sys/fs/cgroup/a/memory.max", 100 * MIB, 40 * MIB);
	/* Page cache goes when memory is short. */
	write_at(root, "/sys/fs/cgroup/a/memory.stat",
	         "anon 5\ninactive_file 10485760\nactive_file 5242880\n");
	assert_limit(root, 0, "/sys/fs/cgroup/a/memory.max", 100 * MIB, 55 * MIB);
	/* The group's own may be tighter. */
	write_at(root, "/sys/fs/cgroup/a/b/memory.max", "2097152\n");
	assert_limit(root, 0, "/sys/fs/cgroup/a/b/memory.max", 2 * MIB, 1 * MIB);
}

static void huge_pages_have_limits_of_their_own_and_of_reservations(void **state)
{
	const char *root = *state;
	struct cgroup_limit none;

	write_at(root, "/proc/self/cgroup", "0::/vm\n");
	write_at(root, "/proc/self/mountinfo",
	         "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
	write_at(root, "/sys/fs/cgroup/vm/memory.max", "4096\n");
	write_at(root, "/sys/fs/cgroup/vm/memory.current", "0\n");
	assert_false(cgroup_limit_find(root, 2 * MIB, &none));
	write_at(root, "/sys/fs/cgroup/vm/hugetlb.2MB.max", "67108864\n");
	write_at(root, "/sys/fs/cgroup/vm/hugetlb.2MB.current", "33554432\n");
	assert_limit(root, 2 * MIB, "/sys/fs/cgroup/vm/hugetlb.2MB.max", 64 * MIB, 32 * MIB);
	write_at(root, "/sys/fs/cgroup/vm/hugetlb.2MB.rsvd.max", "67108864\n");
	write_at(root, "/sys/fs/cgroup/vm/hugetlb.2MB.rsvd.current", "67108864\n");
	assert_limit(root, 2 * MIB, "/sys/fs/cgroup/vm/hugetlb.2MB.rsvd.max", 64 * MIB, 0);
	assert_false(cgroup_limit_find(root, 1024 * MIB, &none));
	write_at(root, "/sys/fs/cgroup/vm/hugetlb.1GB.max", "0\n");
	write_at(root, "/sys/fs/cgroup/vm/hugetlb.1GB.current", "0\n");
	assert_limit(root, 1024 * MIB, "/sys/fs/cgroup/vm/hugetlb.1GB.max", 0, 0);
}

static void v1_has_a_tree_for_each_controller(void **state)
{
	const char *root = *state;
	struct cgroup_limit none;

	write_at(root, "/proc/self/cgroup",
	         "9:name=systemd:/\n4:memory:/jobs/7\n3:hugetlb,x:/h\n0::/\n");
	write_at(root, "/proc/self/mountinfo",
	         "31 25 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory\n"
	         "32 25 0:28 / /sys/fs/cgroup/huge rw - cgroup cgroup rw,hugetlb,x\n");
	write_at(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	write_at(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "5\n");
	assert_false(cgroup_limit_find(root, 0, &none));
	write_at(root, "/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", "10485760\n");
	write_at(root, "/sys/fs/cgroup/memory/jobs/7/memory.usage_in_bytes", "4194304\n");
	write_at(root, "/sys/fs/cgroup/memory/jobs/7/memory.stat",
	         "inactive_file 1\ntotal_inactive_file 1048576\ntotal_active_file 1048576\n");
	assert_limit(root, 0, "/sys/fs/cgroup/memory/jobs/7/memory.limit_in_bytes", 10 * MIB,
	             8 * MIB);
	write_at(root, "/sys/fs/cgroup/huge/h/hugetlb.2MB.limit_in_bytes", "4194304\n");
	write_at(root, "/sys/fs/cgroup/huge/h/hugetlb.2MB.usage_in_bytes", "0\n");
	assert_limit(root, 2 * MIB, "/sys/fs/cgroup/huge/h/hugetlb.2MB.limit_in_bytes", 4 * MIB,
	             4 * MIB);
}

static void a_container_sees_its_own_part_of_the_tree(void **state)
{
	const char *root = *state;

	write_at(root, "/proc/self/cgroup", "4:memory:/docker/abc/in\n");
	write_at(root, "/proc/self/mountinfo",
	         "31 25 0:27 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n");
	write_at(root, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "1048576\n");
	write_at(root, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n");
	assert_limit(root, 0, "/sys/fs/cgroup/memory/memory.limit_in_bytes", 1 * MIB, 1 * MIB);
}

static void without_groups_there_is_no_limit(void **state)
{
	struct cgroup_limit none;

	assert_false(cgroup_limit_find(*state, 0, &none));
	assert_false(cgroup_limit_find(*state, 2 * MIB, &none));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_limit_of_any_ancestor_counts_in_v2, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(
		    huge_pages_have_limits_of_their_own_and_of_reservations, set_up, tear_down),
		cmocka_unit_test_setup_teardown(v1_has_a_tree_for_each_controller, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(a_container_sees_its_own_part_of_the_tree, set_up,
		                                tear_down),
		cmocka_unit_test_setup_teardown(without_groups_there_is_no_limit, set_up,
		                                tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
