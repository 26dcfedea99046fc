/* Promises of the list of threads, on threads of this very process with names as QEMU gives them.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "threads.h"
#include "util.h"

struct helper {
	const char *name;
	enum thread_role role;
	bool unknown;
	pid_t tid;
	pthread_t thread;
};

static pthread_barrier_t named, done;

static void *run_helper(void *data)
{
	struct helper *helper = data;

	helper->tid = (pid_t)syscall(SYS_gettid);
	pthread_setname_np(pthread_self(), helper->name);
	pthread_barrier_wait(&named);
	pthread_barrier_wait(&done);
	return NULL;
}

static const struct thread *find(const struct threads *threads, pid_t tid)
{
	for (size_t i = 0; i < threads->count; i++)
		if (threads->list[i].tid == tid)
			return &threads->list[i];
	return NULL;
}

static void threads_are_known_by_their_names(void **state)
{
	struct helper helpers[] = {
		{ .name = "worker", .role = THREAD_WORKER },
		{ .name = "iou-wrk-123", .role = THREAD_WORKER },
		{ .name = "vhost-123", .role = THREAD_VHOST },
		{ .name = "vnc_worker", .role = THREAD_EMULATOR },
		{ .name = "IO mon_iothread", .role = THREAD_EMULATOR },
		{ .name = "kvm-nx-lpage-re", .role = THREAD_EMULATOR },
		{ .name = "of no kind", .role = THREAD_EMULATOR, .unknown = true },
	};
	cleanup_threads struct threads threads = { .pid = getpid() };
	cleanup_error struct error err = ERROR_INIT;
	const struct plan plan = { .n_vcpus = 0 };

	(void)state;
	pthread_barrier_init(&named, NULL, ARRAY_SIZE(helpers) + 1);
	pthread_barrier_init(&done, NULL, ARRAY_SIZE(helpers) + 1);
	for (size_t i = 0; i < ARRAY_SIZE(helpers); i++)
		assert_int_equal(pthread_create(&helpers[i].thread, NULL, run_helper, &helpers[i]),
		                 0);
	pthread_barrier_wait(&named);
	int result = threads_complete(&threads, &plan, &err);
	cleanup_free char *unknown = threads_unknown(&threads);
	pthread_barrier_wait(&done);
	for (size_t i = 0; i < ARRAY_SIZE(helpers); i++)
		pthread_join(helpers[i].thread, NULL);

	assert_int_equal(result, 0);
	for (size_t i = 0; i < ARRAY_SIZE(helpers); i++) {
		const struct thread *thread = find(&threads, helpers[i].tid);
		assert_non_null(thread);
		assert_int_equal(thread->role, helpers[i].role);
		assert_int_equal(thread->unknown, helpers[i].unknown);
	}
	assert_non_null(unknown);
	assert_non_null(strstr(unknown, "(of no kind)"));
	assert_null(strstr(unknown, "), "));
}

/* Whoever is given a vCPU's scheduling runs in real time: a name alone is no proof. */
static void a_process_that_is_named_as_a_kernel_thread_is_none(void **state)
{
	cleanup_threads struct threads threads = { .pid = getpid() };
	cleanup_error struct error err = ERROR_INIT;
	const struct plan plan = { .kernel_threads = true };
	int named_pipe[2], done_pipe[2];
	char byte;

	(void)state;
	assert_int_equal(pipe(named_pipe), 0);
	assert_int_equal(pipe(done_pipe), 0);
	pid_t pid = fork();
	if (pid == 0) {
		cleanup_free char *name = xasprintf("kvm-pit/%d", getppid());
		close(done_pipe[1]);
		_exit(prctl(PR_SET_NAME, name) < 0 || write(named_pipe[1], "n", 1) != 1 ||
		      read(done_pipe[0], &byte, 1) != 0);
	}
	assert_true(pid > 0);
	assert_int_equal(read(named_pipe[0], &byte, 1), 1);
	assert_int_equal(threads_complete(&threads, &plan, &err), 0);
	const struct thread *found = find(&threads, pid);
	int status;
	close(done_pipe[0]);
	close(done_pipe[1]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(named_pipe[0]);
	close(named_pipe[1]);
	assert_int_equal(status, 0);
	assert_null(found);
}

static void vcpus_are_counted_up_to_the_first_gap(void **state)
{
	static const struct {
		const char *reply;
		int count;
	} cases[] = {
		{ "[{\"cpu-index\":0,\"thread-id\":10}]", 1 },
		{ "[{\"cpu-index\":1,\"thread-id\":11},{\"cpu-index\":0,\"thread-id\":10}]", 2 },
		{ "[{\"cpu-index\":0,\"thread-id\":10},{\"cpu-index\":2,\"thread-id\":12}]", 1 },
		{ "{}", 1 },
		/* A QEMU that has more than it was told to may be broken: they have no place. */
		{ "[{\"cpu-index\":1,\"thread-id\":11},{\"cpu-index\":2,\"thread-id\":12},"
		  "{\"cpu-index\":3,\"thread-id\":13}]",
		  3 },
	};
	const struct plan plan = { .n_vcpus = 3 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_json struct json_object *json = json_tokener_parse(cases[i].reply);
		assert_int_equal(threads_count_vcpus(&plan, json), cases[i].count);
	}
}

/* Of two descriptors that it takes one is there: for a list, not for what is in it. */
static void a_kernel_thread_is_not_overlooked(void **state)
{
	cleanup_threads struct threads threads = { .pid = getpid() };
	cleanup_error struct error err = ERROR_INIT;
	const struct plan plan = { .kernel_threads = true };
	int next = dup(0);
	struct rlimit before, few;

	(void)state;
	close(next);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	few = before;
	few.rlim_cur = (rlim_t)next + 1;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
	int result = threads_complete(&threads, &plan, &err);
	setrlimit(RLIMIT_NOFILE, &before);
	assert_int_equal(result, -1);
	assert_string_equal(
	    err.message,
	    "the kernel's threads of the VM cannot be looked for in /proc: Too many open files");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(threads_are_known_by_their_names),
		cmocka_unit_test(a_process_that_is_named_as_a_kernel_thread_is_none),
		cmocka_unit_test(a_kernel_thread_is_not_overlooked),
		cmocka_unit_test(vcpus_are_counted_up_to_the_first_gap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
