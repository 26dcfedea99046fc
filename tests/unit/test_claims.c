/* Claims: what a plan holds, alone or shared, and which of it is in the way of somebody else. */
#include "stages.h"

#include "claims.h"

static const char members[] =
    "'vcpus': 2, 'iothreads': ['io0'], 'placement': { 'smt': 'isolate', 'cpu-policy': '%s' }, "
    "'cputune': { 'vcpupin': { '0': '0', '1': '2' }, 'emulatorpin': '4-5', "
    "'iothreadpin': { 'io0': '6' } %s }";

static struct claims *claims_of(const char *policy, const char *sched)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	char text[512];

	snprintf(text, sizeof(text), members, policy, sched);
	cleanup_plan struct plan *plan = planned(text, host, NULL);
	struct claims *claims = claims_new();
	claims_add_plan(claims, plan);
	return claims;
}

static void a_plan_claims_each_thread_and_its_idle_siblings(void **state)
{
	cleanup_claims struct claims *claims = claims_of("dedicated", "");
	static const struct {
		const char *role, *cpus;
		bool dedicated;
	} expected[] = {
		{ "vcpu 0", "0", true },         { "vcpu 1", "2", true },
		{ "emulator", "4-5", false },    { "iothread io0", "6", false },
		{ "idle sibling", "1,3", true },
	};

	(void)state;
	assert_int_equal(claims->count, ARRAY_SIZE(expected));
	for (size_t i = 0; i < claims->count; i++) {
		assert_string_equal(claims->list[i].vm, "test");
		assert_string_equal(claims->list[i].role, expected[i].role);
		assert_set(claims->list[i].cpus, expected[i].cpus);
		assert_int_equal(claims->list[i].dedicated, expected[i].dedicated);
	}
	assert_set(claims->dedicated, "0-3");
	assert_set(claims->shared, "4-6");
}

static void a_realtime_vcpu_is_alone_whatever_the_policy(void **state)
{
	cleanup_claims struct claims *claims = claims_of(
	    "shared", ", 'vcpusched': [ { 'vcpus': '1', 'scheduler': 'fifo', 'priority': 1 } ]");

	(void)state;
	assert_false(claims->list[0].dedicated);
	assert_true(claims->list[1].dedicated);
}

static void a_conflict_is_the_first_claim_in_the_way(void **state)
{
	cleanup_claims struct claims *claims = claims_of("dedicated", "");
	cleanup_bitmap hwloc_bitmap_t cpus = list("2-7");

	(void)state;
	assert_string_equal(claims_conflict(claims, cpus, false)->role, "vcpu 1");
	set_list(cpus, "4-7");
	assert_string_equal(claims_conflict(claims, cpus, false)->role, "emulator");
	assert_null(claims_conflict(claims, cpus, true));
	set_list(cpus, "7");
	assert_null(claims_conflict(claims, cpus, false));
	hwloc_bitmap_zero(cpus);
	assert_null(claims_conflict(claims, cpus, false));
}

static void claims_of_several_vms_add_up(void **state)
{
	cleanup_claims struct claims *claims = claims_of("dedicated", "");
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_plan struct plan *other =
	    planned("'cputune': { 'vcpupin': { '0': '7' }, 'emulatorpin': '7' }", host, claims);

	(void)state;
	claims_add_plan(claims, other);
	assert_int_equal(claims->count, 7);
	assert_set(claims->dedicated, "0-3");
	assert_set(claims->shared, "4-7");
}

/* Each may be as large as addresses reach, and a sum that wraps would be room for everybody. */
static void promises_of_any_number_never_add_up_to_less(void **state)
{
	cleanup_claims struct claims *claims = claims_new();

	(void)state;
	for (int i = 0; i < 4097; i++) {
		struct promise *promise = array_append(&claims->promises, &claims->n_promises);
		promise->vm = xstrdup("vm");
		promise->nodes = list("0");
		promise->least = promise->most = UINT64_C(1) << 52;
		if (i == 0)
			assert_true(claims_promised(claims, 0, 0) == promise->most);
	}
	assert_true(claims_promised(claims, 0, 0) == UINT64_MAX);
	assert_int_equal(claims_promised(claims, 1, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_plan_claims_each_thread_and_its_idle_siblings),
		cmocka_unit_test(a_realtime_vcpu_is_alone_whatever_the_policy),
		cmocka_unit_test(a_conflict_is_the_first_claim_in_the_way),
		cmocka_unit_test(claims_of_several_vms_add_up),
		cmocka_unit_test(promises_of_any_number_never_add_up_to_less),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
