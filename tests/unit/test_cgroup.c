/* Promises of cgroups that need none: the weight that shares mean, whose cgroup a file names, where
 * each thread of a plan belongs, what is on file is read back. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "cgroup_parts.h"
#include "util.h"

static void shares_and_weight_keep_their_ratio(void **state)
{
	(void)state;
	assert_int_equal(cgroup_weight(1024), 100);
	assert_int_equal(cgroup_weight(2048), 200);
	assert_int_equal(cgroup_weight(512), 50);
	assert_int_equal(cgroup_weight(102400), 10000);
	assert_int_equal(cgroup_weight(262144), 10000);
	assert_int_equal(cgroup_weight(2), 1);
	assert_int_equal(cgroup_weight(16), 2); /* 1.56 */
}

/* Writes the text to a file, and asks for the controller. The caller frees. */
static char *path_in(const char *text, const char *controller, int version)
{
	char file[] = "/tmp/ancla-cgroup-XXXXXX";
	cleanup_close int fd = mkstemp(file);
	char *path = NULL;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	assert_int_equal(cgroup_find_path(file, controller, &path), version);
	unlink(file);
	return path;
}

static void a_cgroup_is_found_in_any_mix_of_versions(void **state)
{
	static const struct {
		const char *text, *controller, *path;
		int version;
	} cases[] = {
		{ "0::/user.slice/x.scope\n", "cpu", "/user.slice/x.scope", 2 },
		{ "4:cpu,cpuacct:/a\n1:name=systemd:/s\n0::/u\n", "cpu", "/a", 1 },
		{ "4:cpuacct,cpu:/a\n0::/u\n", "cpu", "/a", 1 },
		{ "4:cpuacct:/a\n3:cpuset:/b\n0::/u\n", "cpu", "/u", 2 },
		{ "4:cpuacct:/a\n3:cpuset:/b\n0::/u\n", "cpuset", "/b", 1 },
		{ "0::/with:a colon\n", "cpu", "/with:a colon", 2 },
		{ "3:cpuset:/b\n", "cpu", NULL, 0 },
		{ "", "cpu", NULL, 0 },
		{ "nonsense", "cpu", NULL, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_free char *path =
		    path_in(cases[i].text, cases[i].controller, cases[i].version);
		if (cases[i].path)
			assert_string_equal(path, cases[i].path);
		else
			assert_null(path);
	}
	char *path = NULL;
	assert_int_equal(cgroup_find_path("/no/such/file", "cpu", &path), 0);
}

static struct plan *two_vcpus(struct sched sched)
{
	struct plan *plan = plan_new();

	plan->name = xstrdup("x");
	plan->n_vcpus = 2;
	plan->vcpus = xcalloc(2, sizeof(*plan->vcpus));
	for (unsigned i = 0; i < 2; i++) {
		plan->vcpus[i].cpus = xbitmap();
		hwloc_bitmap_set(plan->vcpus[i].cpus, 2 + i);
	}
	plan->vcpus[0].sched = sched;
	plan->emulator = xbitmap();
	hwloc_bitmap_set(plan->emulator, 0);
	plan->cgroup = xcalloc(1, sizeof(*plan->cgroup));
	plan->cgroup->version = 2;
	plan->cgroup->name = xstrdup("ancla-x-1");
	plan->cgroup->parent = xstrdup("/p");
	plan->cgroup->limits = xstrdup("/p/ancla-x-1");
	return plan;
}

static void threads_belong_where_shares_hold_for_them(void **state)
{
	cleanup_plan struct plan *plan = two_vcpus((struct sched){ SCHED_OF_FIFO, 1 });
	struct thread vcpu0 = { .role = THREAD_VCPU, .index = 0 };
	struct thread vcpu1 = { .role = THREAD_VCPU, .index = 1 };
	struct thread emulator = { .role = THREAD_EMULATOR, .index = -1 };
	struct thread worker = { .role = THREAD_WORKER, .index = -1 };
	struct thread vhost = { .role = THREAD_VHOST, .index = -1 };

	(void)state;
	assert_string_equal(cgroup_of_thread(plan, &vcpu0), "/p");
	assert_string_equal(cgroup_of_thread(plan, &vcpu1), "/p/ancla-x-1");
	assert_string_equal(cgroup_of_thread(plan, &emulator), "/p/ancla-x-1");
	assert_null(cgroup_of_thread(plan, &worker));
	assert_null(cgroup_of_thread(plan, &vhost));
	plan->cgroup->partition = xstrdup("/p/ancla-x-1-isolated");
	assert_string_equal(cgroup_of_thread(plan, &vcpu0), "/p/ancla-x-1-isolated");
	assert_string_equal(cgroup_of_thread(plan, &vcpu1), "/p/ancla-x-1-isolated");
	assert_string_equal(cgroup_of_thread(plan, &emulator), "/p/ancla-x-1");
	assert_false(cgroup_is_nested(plan->cgroup));
	free(plan->cgroup->limits);
	plan->cgroup->limits = NULL;
	assert_string_equal(cgroup_of_thread(plan, &emulator), "/p");
}

static void settings_are_the_versions_own(void **state)
{
	cleanup_plan struct plan *plan = two_vcpus((struct sched){ SCHED_UNSET, 0 });
	struct cgroup_setting settings[CGROUP_SETTINGS];

	(void)state;
	plan->shares = 2048;
	plan->quota = 150;
	assert_int_equal(cgroup_settings(plan, settings), 2);
	assert_string_equal(settings[0].text, "200");
	assert_string_equal(settings[1].text, "150000 100000");
	plan->quota = 0;
	cgroup_settings(plan, settings);
	assert_string_equal(settings[1].text, "max 100000");
	plan->cgroup->version = 1;
	assert_int_equal(cgroup_settings(plan, settings), 3);
	assert_string_equal(settings[0].text, "2048");
	assert_string_equal(settings[2].text, "-1");
	plan->quota = 400;
	cgroup_settings(plan, settings);
	assert_string_equal(settings[2].text, "400000");
}

static void what_is_on_file_is_read_back(void **state)
{
	cleanup_plan struct plan *plan = two_vcpus((struct sched){ SCHED_UNSET, 0 });
	cleanup_cgroup struct cgroup read = { 0 };
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	plan->cgroup->partition = xstrdup("/p/ancla-x-1/ancla-x-1-isolated");
	plan->cgroup->cpus = plan_partition_cpus(plan);
	*array_append(&plan->cgroup->exclusive, &plan->cgroup->n_exclusive) = xstrdup("/p");
	cleanup_json struct json_object *json = cgroup_to_json(plan->cgroup);
	assert_int_equal(cgroup_from_json(json, &read, &err), 0);
	assert_int_equal(read.version, 2);
	assert_string_equal(read.parent, "/p");
	assert_string_equal(read.limits, "/p/ancla-x-1");
	assert_true(cgroup_is_nested(&read));
	assert_true(hwloc_bitmap_isequal(read.cpus, plan->cgroup->cpus));
	assert_int_equal(read.n_exclusive, 1);
	assert_string_equal(read.exclusive[0], "/p");
}

static void what_is_not_whole_is_refused(void **state)
{
	static const char *const texts[] = {
		"{}",
		"[]",
		"7",
		"{\"version\":3,\"name\":\"a\",\"parent\":\"/p\"}",
		"{\"version\":2,\"name\":\"a\"}",
		"{\"version\":2,\"name\":1,\"parent\":\"/p\"}",
		"{\"version\":2,\"name\":\"a\",\"parent\":\"/p\",\"partition\":\"/p/i\"}",
		"{\"version\":2,\"name\":\"a\",\"parent\":\"/\",\"cpus\":\"x\"}",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		cleanup_json struct json_object *json = json_tokener_parse(texts[i]);
		cleanup_cgroup struct cgroup read = { 0 };
		cleanup_error struct error err = ERROR_INIT;
		assert_int_equal(cgroup_from_json(json, &read, &err), -1);
		assert_int_equal(read.version, 0);
	}
}

/* What a cgroup of v2 says of the controllers below it, as an ordinary directory has it. */
static void assert_control(const char *parent, const char *expected, ssize_t noted)
{
	cleanup_free char *control = cgroup_read(parent, "cgroup.subtree_control");
	char attribute[16];

	assert_string_equal(control, expected);
	assert_int_equal(getxattr(parent, "user.ancla.enabled", attribute, sizeof(attribute)),
	                 noted);
}

static void controllers_stay_on_for_those_who_may_need_them(void **state)
{
	char parent[] = "/var/tmp/ancla-test-cgroup-XXXXXX";
	assert_non_null(mkdtemp(parent));
	cleanup_free char *other = xasprintf("%s/ancla-other-cpu", parent);
	cleanup_free char *own = xasprintf("%s/ancla-own-cpu", parent);
	cleanup_free char *control = xasprintf("%s/cgroup.subtree_control", parent);
	cleanup_error struct error err = ERROR_INIT;
	struct cgroup cgroup = { .version = 2, .parent = parent, .limits = own };
	struct rlimit files, none = { 0 };

	(void)state;
	assert_int_equal(write_file_atomic(AT_FDCWD, control, "cpu", &err), 0);
	assert_int_equal(setxattr(parent, "user.ancla.enabled", "cpu ", 4, 0), 0);
	assert_int_equal(mkdir(other, 0700), 0);
	assert_int_equal(mkdir(own, 0700), 0);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
	none.rlim_max = files.rlim_max;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	int blind = cgroup_remove(&cgroup, &err);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
	assert_int_equal(blind, -1);
	assert_non_null(strstr(err.message, parent));
	assert_control(parent, "cpu", 4);
	assert_int_equal(cgroup_remove(&cgroup, &err), 0);
	assert_control(parent, "cpu", 4);
	assert_int_equal(rmdir(other), 0);
	assert_int_equal(cgroup_remove(&cgroup, &err), 0);
	assert_control(parent, "-cpu", -1);
	unlink(control);
	assert_int_equal(rmdir(parent), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(shares_and_weight_keep_their_ratio),
		cmocka_unit_test(a_cgroup_is_found_in_any_mix_of_versions),
		cmocka_unit_test(threads_belong_where_shares_hold_for_them),
		cmocka_unit_test(settings_are_the_versions_own),
		cmocka_unit_test(what_is_on_file_is_read_back),
		cmocka_unit_test(what_is_not_whole_is_refused),
		cmocka_unit_test(controllers_stay_on_for_those_who_may_need_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
