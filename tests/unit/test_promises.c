/* Memory that starting VMs were promised: all of it before QEMU exists, what is left while it is
 * filled, nothing once it is there. This process plays QEMU: its files have QEMU's numbers. */
#include "memory_host.h"

#include <sys/mman.h>

#include "argv.h"
#include "kernel.h"
#include "promises.h"
#include "reserve.h"

struct setting {
	struct vm_dir vm;
	struct plan plan;
	struct plan_memory memory[2];
	char path[64];
};

static void begin(struct setting *setting)
{
	memset(setting, 0, sizeof(*setting));
	strcpy(setting->path, "/tmp/ancla-test-promises-XXXXXX");
	assert_non_null(mkdtemp(setting->path));
	setting->vm = (struct vm_dir)VM_DIR_INIT;
	setting->vm.path = xstrdup(setting->path);
	setting->vm.name = xstrdup(strrchr(setting->path, '/') + 1);
	setting->vm.dirfd = open(setting->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	setting->memory[0] = memory_of(PAGES_PLAIN, 256 * MIB, "0-1", MEM_POLICY_INTERLEAVE);
	setting->memory[1] = memory_of(PAGES_HUGE, 64 * MIB, "1", MEM_POLICY_STRICT);
	setting->plan.name = "starts";
	setting->plan.memory = setting->memory;
	setting->plan.n_memory = 2;
}

static void finish(struct setting *setting)
{
	for (size_t i = 0; i < 2; i++)
		hwloc_bitmap_free(setting->memory[i].host_nodes);
	vm_dir_remove(&setting->vm);
	assert_int_equal(access(setting->path, F_OK), -1);
	vm_dir_close(&setting->vm);
}

static void write_state_of(struct setting *setting, const char *state, pid_t qemu)
{
	cleanup_error struct error err = ERROR_INIT;
	struct vm_state written = { .state = (char *)state,
		                    .spec = "s",
		                    .serial = "none",
		                    .qemu = qemu,
		                    .qemu_start = qemu ? kernel_start_time(qemu) : 0 };

	assert_int_equal(vm_write_state(&setting->vm, &written, &err), 0);
}

static void write_state(struct setting *setting, const char *state)
{
	write_state_of(setting, state, getpid());
}

static struct claims *look(struct setting *setting)
{
	struct claims *claims = claims_new();

	cleanup_vm_state struct vm_state state = { 0 };
	cleanup_error struct error err = ERROR_INIT;
	vm_read_state(&setting->vm, &state, &err);
	promises_add(claims, &setting->plan, &state, reserve_is_owed(&setting->vm));
	return claims;
}

static void all_is_promised_before_qemu_exists(void **state)
{
	struct setting setting;

	(void)state;
	begin(&setting);
	write_state_of(&setting, "starting", 0);
	cleanup_claims struct claims *claims = look(&setting);
	assert_int_equal(claims_promised(claims, 0, 0), 128 * MIB);
	assert_int_equal(claims_promised(claims, 1, 0), 128 * MIB);
	assert_int_equal(claims_promised(claims, 0, HUGE_SIZE), 0);
	assert_int_equal(claims_promised(claims, 1, HUGE_SIZE), 64 * MIB);
	assert_int_equal(claims_promised(claims, 1, GIB), 0);
	assert_int_equal(claims_promised(claims, -1, HUGE_SIZE), 0);
	claims_hope(claims);
	assert_int_equal(claims_promised(claims, 1, HUGE_SIZE), 64 * MIB);
	claims_drop(claims, "starts");
	assert_int_equal(claims_promised(claims, 1, HUGE_SIZE), 0);
	finish(&setting);
}

static void lazy_plain_memory_is_no_promise_and_lazy_huge_pages_are(void **state)
{
	struct setting setting;

	(void)state;
	begin(&setting);
	setting.memory[0].fill = setting.memory[1].fill = FILL_NONE;
	cleanup_claims struct claims *claims = look(&setting);
	assert_int_equal(claims_promised(claims, 0, 0), 0);
	assert_int_equal(claims_promised(claims, 1, HUGE_SIZE), 64 * MIB);
	finish(&setting);
}

static void memory_anywhere_is_promised_of_no_node(void **state)
{
	struct setting setting;

	(void)state;
	begin(&setting);
	hwloc_bitmap_free(setting.memory[0].host_nodes);
	setting.memory[0].host_nodes = NULL;
	cleanup_claims struct claims *claims = look(&setting);
	assert_int_equal(claims_promised(claims, 0, 0), 0);
	assert_int_equal(claims_promised(claims, -1, 0), 256 * MIB);
	finish(&setting);
}

static void what_is_filled_is_promised_no_more(void **state)
{
	struct setting setting;

	(void)state;
	begin(&setting);
	setting.plan.n_memory = 1;
	int fd = create(&setting.memory[0]);
	assert_int_equal(dup2(fd, FD_MEMORY), FD_MEMORY);
	write_state(&setting, "starting");
	assert_int_equal(fallocate(fd, 0, 0, 192 * MIB), 0);
	cleanup_claims struct claims *some = look(&setting);
	/* 64 MiB are left, of which the threads may be clearing some. */
	assert_int_equal(some->promises[0].most, 64 * MIB);
	uint64_t in_flight = fill_in_flight(&setting.memory[0]);
	assert_in_range(in_flight, 2 * MIB, 64 * MIB);
	assert_int_equal(some->promises[0].least, 64 * MIB - in_flight);
	assert_int_equal(claims_promised(some, 0, 0), 32 * MIB);
	claims_hope(some);
	assert_int_equal(claims_promised(some, 0, 0), (64 * MIB - in_flight) / 2);
	assert_int_equal(fallocate(fd, 0, 0, (off_t)setting.memory[0].size), 0);
	cleanup_claims struct claims *all = look(&setting);
	assert_int_equal(all->n_promises, 0);
	close(FD_MEMORY);
	close(fd);
	finish(&setting);
}

static void what_cannot_be_seen_is_between_nothing_and_all(void **state)
{
	struct setting setting;
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	begin(&setting);
	setting.plan.n_memory = 1;
	cleanup_claims struct claims *ending = look(&setting);
	assert_int_equal(ending->promises[0].most, 256 * MIB);
	assert_int_equal(ending->promises[0].least, 0);
	write_state(&setting, "starting"); /* but this QEMU has no such file yet */
	cleanup_claims struct claims *starting = look(&setting);
	assert_int_equal(starting->promises[0].most, 256 * MIB);
	assert_int_equal(starting->promises[0].least, 0);
	write_state(&setting, "running"); /* and is dying */
	cleanup_claims struct claims *running = look(&setting);
	assert_int_equal(running->n_promises, 0);
	/* Then its pages are free again: but those that were reserved for it are on their way out.
	 */
	assert_int_equal(write_file_atomic(setting.vm.dirfd, VM_RESERVED, "[]", &err), 0);
	cleanup_claims struct claims *owing = look(&setting);
	assert_int_equal(owing->promises[0].most, 256 * MIB);
	assert_int_equal(owing->promises[0].least, 0);
	finish(&setting);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_is_promised_before_qemu_exists),
		cmocka_unit_test(lazy_plain_memory_is_no_promise_and_lazy_huge_pages_are),
		cmocka_unit_test(memory_anywhere_is_promised_of_no_node),
		cmocka_unit_test(what_is_filled_is_promised_no_more),
		cmocka_unit_test(what_cannot_be_seen_is_between_nothing_and_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
