/* What is read back against the plan: a thread that is elsewhere or gone, one that is missing,
 * memory that nobody maps. This process and a child of it stand for QEMU. */
#include "stages.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "argv.h"
#include "kernel.h"
#include "verify.h"

#define NOBODY INT32_MAX /* above every pid_max: no thread has this id */
#define SIZE (UINT64_C(77) << 20)

static struct plan *plan_of(int vcpus)
{
	struct plan *plan = plan_new();

	plan->name = xstrdup("x");
	plan->n_vcpus = (size_t)vcpus;
	plan->vcpus_online = vcpus;
	plan->vcpus = xcalloc((size_t)vcpus, sizeof(*plan->vcpus));
	plan->emulator = xbitmap();
	hwloc_bitmap_set(plan->emulator, 0);
	for (int i = 0; i < vcpus; i++) {
		plan->vcpus[i].cpus = xbitmap();
		assert_int_equal(kernel_get_affinity(0, plan->vcpus[i].cpus), 0);
	}
	return plan;
}

static const struct check *find(const struct checks *checks, const char *what)
{
	for (size_t i = 0; i < checks->count; i++)
		if (strcmp(checks->list[i].what, what) == 0)
			return &checks->list[i];
	fail_msg("nothing was checked of \"%s\"", what);
	return NULL;
}

static void a_thread_that_is_elsewhere_is_told_with_where_it_is(void **state)
{
	cleanup_plan struct plan *plan = plan_of(1);
	cleanup_checks struct checks good = { 0 }, bad = { 0 };
	cleanup_error struct error none = ERROR_INIT, err = ERROR_INIT;
	pid_t child = fork();

	(void)state;
	if (child == 0)
		for (;;)
			pause();
	cleanup_threads struct threads threads = { .pid = child };
	threads_add(&threads, THREAD_VCPU, 0, child);
	cleanup_free char *is_on = cpulist_format(plan->vcpus[0].cpus);
	verify_threads(plan, &threads, &good);
	/* A CPU more than it has. */
	hwloc_bitmap_set(plan->vcpus[0].cpus, (unsigned)hwloc_bitmap_last(plan->vcpus[0].cpus) + 1);
	cleanup_free char *planned = cpulist_format(plan->vcpus[0].cpus);
	plan->vcpus[0].sched = (struct sched){ SCHED_OF_FIFO, 7 };
	verify_threads(plan, &threads, &bad);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);

	assert_int_equal(good.count, 2);
	assert_int_equal(good.failed, 0);
	assert_int_equal(verify_verdict(&good, &none), 0);
	assert_int_equal(bad.failed, 2);
	const struct check *cpus = find(&bad, "vCPU 0: CPUs");
	assert_string_equal(cpus->expected, planned);
	assert_string_equal(cpus->actual, is_on);
	assert_string_equal(find(&bad, "vCPU 0: scheduler")->expected, "fifo:7");
	assert_int_equal(verify_verdict(&bad, &err), -1);
	assert_refused(&err, EXIT_VERIFY, "2 of 2 checks failed|vCPU 0: CPUs: expected|fifo:7");
}

static void a_vcpu_must_be_there_and_an_emulator_thread_may_have_ended(void **state)
{
	cleanup_plan struct plan *plan = plan_of(1);
	cleanup_threads struct threads threads = { .pid = getpid() };
	cleanup_checks struct checks checks = { 0 };

	(void)state;
	threads_add(&threads, THREAD_VCPU, 0, NOBODY);
	threads_add(&threads, THREAD_EMULATOR, -1, NOBODY);
	verify_threads(plan, &threads, &checks);
	assert_int_equal(checks.count, 1);
	assert_int_equal(checks.failed, 1);
	assert_non_null(strstr(find(&checks, "vCPU 0: CPUs")->actual, "No such process"));
}

static void what_the_plan_has_and_qemu_has_not_is_told(void **state)
{
	cleanup_plan struct plan *plan = plan_of(2);
	cleanup_threads struct threads threads = { .pid = getpid() };
	cleanup_checks struct checks checks = { 0 };

	(void)state;
	plan->iothreads = xcalloc(2, sizeof(*plan->iothreads));
	plan->n_iothreads = 2;
	plan->iothreads[0].id = xstrdup("io0");
	plan->iothreads[1].id = xstrdup("io1");
	threads_add(&threads, THREAD_VCPU, 0, getpid());
	threads_add(&threads, THREAD_IOTHREAD, 1, getpid());
	verify_presence(plan, &threads, &checks);
	assert_int_equal(checks.count, 2);
	assert_int_equal(checks.failed, 2);
	find(&checks, "vCPU 1: thread");
	find(&checks, "iothread io0: thread");
}

static void verify_all(const struct plan *plan, struct checks *checks)
{
	cleanup_error struct error err = ERROR_INIT;

	if (verify_memory(plan, getpid(), NULL, true, checks, &err) < 0)
		fail_msg("%s", err.message);
}

static void memory_that_is_not_mapped_is_told(void **state)
{
	static const enum backing backings[] = { BACKING_ANON, BACKING_MEMFD };
	cleanup_plan struct plan *plan = plan_of(1);

	(void)state;
	plan->memory = xcalloc(1, sizeof(*plan->memory));
	plan->n_memory = 1;
	for (size_t i = 0; i < ARRAY_SIZE(backings); i++) {
		cleanup_checks struct checks without = { 0 }, with = { 0 };
		int fd = memfd_create("memory", MFD_CLOEXEC);
		plan->memory[0] = (struct plan_memory){
			.guest_node = -1, .backing = backings[i], .size = SIZE, .page_size = 4096
		};
		assert_int_equal(ftruncate(fd, SIZE), 0);
		assert_int_equal(dup2(fd, FD_MEMORY), FD_MEMORY);
		close(fd);
		verify_all(plan, &without);
		assert_true(without.failed > 0);
		const struct check *mapping = find(&without, "memory: mapping");
		assert_string_equal(mapping->expected, "77 MiB mapped by QEMU");
		assert_string_equal(mapping->actual, "none");

		int flags = backings[i] == BACKING_ANON ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
		char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE,
		                    flags & MAP_SHARED ? FD_MEMORY : -1, 0);
		assert_ptr_not_equal(memory, MAP_FAILED);
		verify_all(plan, &with);
		for (size_t c = 0; c < with.count; c++)
			assert_string_not_equal(with.list[c].what, "memory: mapping");
		munmap(memory, SIZE);
		close(FD_MEMORY);
	}
	cleanup_error struct error err = ERROR_INIT;
	cleanup_checks struct checks checks = { 0 };
	assert_int_equal(verify_memory(plan, getpid(), NULL, true, &checks, &err), -1);
	assert_refused(&err, EXIT_FAILED, "cannot open the memory of memory|No such file");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_thread_that_is_elsewhere_is_told_with_where_it_is),
		cmocka_unit_test(a_vcpu_must_be_there_and_an_emulator_thread_may_have_ended),
		cmocka_unit_test(what_the_plan_has_and_qemu_has_not_is_told),
		cmocka_unit_test(memory_that_is_not_mapped_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
