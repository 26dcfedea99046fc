/* The plan as JSON: what is written is read back the same, and what somebody else wrote is
 * distrusted: a key missing, of another type, or with an absurd value is an error, never a crash.
 */
#include "stages.h"

static const char members[] =
    "'vcpus': 3, 'max-vcpus': 4, 'iothreads': ['io0', 'io1'], "
    "'memory-backing': { 'hugepages': '2MiB', 'locked': true, 'nosharepages': true }, "
    "'numa': { 'nodes': [ { 'vcpus': '0-1', 'memory': '512MiB', 'host-nodes': '0-1', "
    "'policy': 'interleave' }, { 'vcpus': '2-3', 'memory': '512MiB' } ], 'distances': 'host' }, "
    "'placement': { 'smt': 'isolate', 'cpu-policy': 'dedicated' }, "
    "'cputune': { 'vcpupin': { '0': '0', '1': '2', '2': '4', '3': '6' }, "
    "'vcpusched': [ { 'vcpus': '1', 'scheduler': 'fifo', 'priority': 7 } ], "
    "'emulatorsched': { 'scheduler': 'batch' }, 'emulatorpin': '8-9' }";

static struct json_object *plan_json(void)
{
	cleanup_host struct host *host = host_of("numa:2(memory=8589934592) core:4 pu:2");
	cleanup_plan struct plan *plan = planned(members, host, NULL);

	return plan_to_json(plan);
}

/* Reads it; `expected` NULL: it must be read, else refused with a message. */
static void assert_reads(struct json_object *json, bool expected, const char *what)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_plan struct plan *plan = plan_from_json(json, &err);

	if (!plan && !err.message)
		fail_msg("%s: refused without a message", what);
	if (!plan == expected)
		fail_msg("%s: %s: %s", what, expected ? "refused" : "read",
		         err.message ? err.message : json_object_to_json_string(json));
}

/* What is for people is not read back. */
static bool is_for_people(const char *key)
{
	return strcmp(key, "why") == 0 || strcmp(key, "warnings") == 0;
}

static void a_plan_is_read_back_as_it_was_written(void **state)
{
	cleanup_json struct json_object *json = plan_json();
	cleanup_error struct error err = ERROR_INIT;
	cleanup_plan struct plan *plan = plan_from_json(json, &err);

	(void)state;
	assert_non_null(plan);
	assert_int_equal(plan->vcpus_online, 3);
	assert_int_equal(plan->vcpus[1].sched.priority, 7);
	assert_set(plan->siblings, "1,3,5,7");
	cleanup_json struct json_object *again = plan_to_json(plan);
	json_object_object_del(json, "why");
	json_object_object_del(again, "why");
	json_object_object_del(json, "warnings");
	json_object_object_del(again, "warnings");
	assert_string_equal(json_object_to_json_string(again), json_object_to_json_string(json));
}

/* Every value that may stand in the place of another. */
static struct json_object *strange_value(size_t i)
{
	static const char *const values[] = {
		"null",
		"true",
		"-1",
		"0",
		"1",
		"9223372036854775807",
		"18446744073709551615",
		"1e300",
		"-9223372036854775808",
		"\"\"",
		"\"0-65535\"",
		"\"0-99999999999999\"",
		"\"4294967296\"",
		"\"kvm\"",
		"[]",
		"[[]]",
		"[null]",
		"{}",
		"{ \"cpus\": \"0\" }",
	};

	return i < ARRAY_SIZE(values) ? json_tokener_parse(values[i]) : NULL;
}
#define STRANGE_VALUES 19

static bool same_type(struct json_object *a, struct json_object *b)
{
	return json_object_get_type(a) == json_object_get_type(b);
}

/* Puts strange values in the place of each member of the object, and takes each away. `root` is
 * what is read. */
static void mistreat_object(struct json_object *root, struct json_object *object)
{
	cleanup_free char **keys =
	    xcalloc((size_t)json_object_object_length(object), sizeof(*keys));
	size_t count = 0;

	json_object_object_foreach(object, each, unused)
	{
		(void)unused;
		keys[count++] = xstrdup(each);
	}
	for (size_t i = 0; i < count; i++) {
		cleanup_free char *key = keys[i];
		struct json_object *old = json_object_get(json_object_object_get(object, key));
		bool optional = is_for_people(key);

		json_object_object_del(object, key);
		assert_reads(root, optional, key);
		for (size_t j = 0; j < STRANGE_VALUES; j++) {
			struct json_object *value = strange_value(j);
			bool other = !same_type(value, old);
			/* Memory may be bound to nodes (a string) or not (null). */
			bool anywhere = strcmp(key, "host-nodes") == 0 &&
			                (!value || json_object_is_type(value, json_type_string));
			json_object_object_add(object, key, value);
			if (other && !optional && !anywhere) {
				assert_reads(root, false, key);
			} else { /* perhaps a plan, perhaps not: no crash */
				cleanup_error struct error err = ERROR_INIT;
				cleanup_plan struct plan *plan = plan_from_json(root, &err);
				assert_true(plan || err.message);
			}
		}
		json_object_object_add(object, key, old);
	}
}

static void mistreat(struct json_object *root, struct json_object *json)
{
	if (json_object_is_type(json, json_type_object)) {
		mistreat_object(root, json);
		json_object_object_foreach(json, key, value)
		{
			(void)key;
			mistreat(root, value);
		}
	}
	for (size_t i = 0;
	     json_object_is_type(json, json_type_array) && i < json_object_array_length(json);
	     i++) {
		struct json_object *old = json_object_get(json_object_array_get_idx(json, i));
		for (size_t j = 0; j < STRANGE_VALUES; j++) {
			cleanup_error struct error err = ERROR_INIT;
			json_object_array_put_idx(json, i, strange_value(j));
			cleanup_plan struct plan *plan = plan_from_json(root, &err);
			assert_true(plan || err.message);
		}
		json_object_array_put_idx(json, i, old);
		mistreat(root, old);
	}
}

static void whatever_is_wrong_in_it_is_an_error_and_no_crash(void **state)
{
	cleanup_json struct json_object *json = plan_json();

	(void)state;
	mistreat(json, json);
	assert_reads(json, true, "the plan, restored");
	for (size_t i = 0; i < STRANGE_VALUES; i++) {
		cleanup_json struct json_object *value = strange_value(i);
		assert_reads(value, false, "a strange value for all of it");
	}
}

/* A copy of the plan in which the value at the JSON pointer is another. */
static void assert_refuses(const char *pointer, const char *value, const char *parts)
{
	cleanup_json struct json_object *json = plan_json();
	cleanup_error struct error err = ERROR_INIT;

	assert_int_equal(json_pointer_set(&json, pointer, json_tokener_parse(value)), 0);
	cleanup_plan struct plan *plan = plan_from_json(json, &err);
	if (plan)
		fail_msg("%s = %s was read", pointer, value);
	assert_refused(&err, EXIT_FAILED, parts);
}

/* Of 62 bytes; a name has 63 at most. */
#define LONG_NAME "a-name-of-many-letters-which-is-longer-than-those-that-qemu-ge"

static void what_makes_no_sense_is_refused(void **state)
{
	(void)state;
	assert_refuses("/vcpus", "[]", "no vCPU");
	assert_refuses("/memory", "[]", "no memory");
	assert_refuses("/vcpus/1/id", "2", "id");
	assert_refuses("/vcpus/1/cpus", "\"\"", "cpus");
	assert_refuses("/vcpus/1/online", "false", "online");
	assert_refuses("/emulator/cpus", "\"\"", "cpus");
	assert_refuses("/iothreads/0/cpus", "\"\"", "cpus");
	assert_refuses("/vcpus/1/priority", "100", "priority|100|0 to 99");
	assert_refuses("/vcpus/1/scheduler", "\"deadline\"", "scheduler");
	assert_refuses("/memory/0/size", "0", "size");
	assert_refuses("/memory/0/size", "4611686018427387904", "size");
	assert_refuses("/memory/0/page-size", "0", "page-size");
	assert_refuses("/memory/0/page-size", "3000", "3000");
	assert_refuses("/memory/0/page-size", "1099511627776", "not of pages");
	assert_refuses("/memory/0/page-size", "9223372036854775807", "page-size");
	assert_refuses("/memory/0/policy", "\"bind\"", "policy");
	assert_refuses("/distances/0/0", "9", "distances");
	assert_refuses("/distances/1", "[10]", "distances");
	assert_refuses("/distances", "[[10]]", "distances");
	assert_refuses("/topology/cores", "4097", "cores");
	assert_refuses("/topology/cores", "17", "topology|4 vCPUs");
	assert_refuses("/name", "\"\"", "name");
	assert_refuses("/name", "\"a\\u001b[2J\"", "name|\\u001b");
	assert_refuses("/accel", "\"unset\"", "accelerator");
	assert_refuses("/cpu-policy", "\"unset\"", "CPU policy");
	assert_refuses("/vcpus/1/guest-node", "2", "vCPU 1|guest node 2");
	assert_refuses("/vcpus/1/guest-node", "-1", "vCPU 1|guest node -1");
	assert_refuses("/vcpus/0/priority", "1", "priority");
	assert_refuses("/vcpus/1/priority", "0", "priority|fifo");
	assert_refuses("/iothreads/1/id", "\"io0\"", "io0");
	assert_refuses("/iothreads/1/id", "\"\\u202e\"", "iothread");
	assert_refuses("/iothreads/1/id", "\"" LONG_NAME "64\"", "iothread|no name");
	assert_refuses("/name", "\"" LONG_NAME "64\"", "name is no name");
	assert_refuses("/memory/1/size", "4503599627370496", "region 1|more than addresses reach");
	assert_refuses("/memory/1/guest-node", "0", "region 1|guest node");
	assert_refuses("/memory/0/guest-node", "-1", "region 0|guest node");
	assert_refuses("/memory/0/host-nodes", "\"\"", "region 0|no host node");
	assert_refuses("/memory/0/host-nodes", "null", "region 0|policy");
	assert_refuses("/memory/0/policy", "\"default\"", "region 0|policy");
	assert_refuses("/memory/1/policy-nodes", "\"\"", "region 1|moved");
	assert_refuses("/memory/0/pages", "\"unset\"", "region 0|pages");
	assert_refuses("/memory/0/shared", "false", "region 0|shared");
}

/* Short lists that take long to read: a user may write them, and root reads them. */
static void lists_are_read_as_they_are_written(void **state)
{
	(void)state;
	assert_refuses("/vcpus/1/cpus", "\"0-7:2\"", "cpus|0-7:2");
	assert_refuses("/vcpus/1/cpus", "\"0-7,^2\"", "cpus");
	assert_refuses("/vcpus/1/cpus", "\"0, 1\"", "cpus");
	assert_refuses("/emulator/cpus", "\"\\u001b\"", "cpus|\\u001b");
}

static void longer_lists_than_any_vm_has_are_refused(void **state)
{
	static const char *const keys[] = { "vcpus", "iothreads", "memory" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		cleanup_json struct json_object *json = plan_json();
		struct json_object *items = json_object_object_get(json, keys[i]);
		struct json_object *first = json_object_array_get_idx(items, 0);
		while (json_object_array_length(items) < 5000)
			json_object_array_add(items, json_object_get(first));
		assert_reads(json, false, keys[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plan_is_read_back_as_it_was_written),
		cmocka_unit_test(whatever_is_wrong_in_it_is_an_error_and_no_crash),
		cmocka_unit_test(what_makes_no_sense_is_refused),
		cmocka_unit_test(lists_are_read_as_they_are_written),
		cmocka_unit_test(longer_lists_than_any_vm_has_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
