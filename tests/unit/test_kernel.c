/* Threads and processes as the kernel has them: what is set is read back, and a process is only
 * itself with its start time. */
#include "stages.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"

/* A child that does nothing until it is killed, or ends at once with its status. */
static pid_t child(int status)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (status < 0)
			pause();
		_exit(status);
	}
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void affinity_is_read_back_as_it_was_set(void **state)
{
	cleanup_bitmap hwloc_bitmap_t all = xbitmap(), one = xbitmap(), now = xbitmap();
	pid_t pid = child(-1);
	unsigned cpu;

	(void)state;
	assert_int_equal(kernel_get_affinity(pid, all), 0);
	assert_false(hwloc_bitmap_iszero(all));
	hwloc_bitmap_foreach_begin(cpu, all)
	{
		hwloc_bitmap_only(one, cpu);
		assert_int_equal(kernel_set_affinity(pid, one), 0);
		hwloc_bitmap_fill(now);
		assert_int_equal(kernel_get_affinity(pid, now), 0);
		assert_true(hwloc_bitmap_isequal(now, one));
	}
	hwloc_bitmap_foreach_end();
	assert_int_equal(kernel_set_affinity(pid, all), 0);
	assert_int_equal(kernel_get_affinity(pid, now), 0);
	assert_true(hwloc_bitmap_isequal(now, all));
	end(pid);
}

static void a_mask_that_the_kernel_narrows_shows_when_read_back(void **state)
{
	cleanup_bitmap hwloc_bitmap_t all = xbitmap(), wide = xbitmap(), now = xbitmap();
	pid_t pid = child(-1);

	(void)state;
	assert_int_equal(kernel_get_affinity(pid, all), 0);
	hwloc_bitmap_copy(wide, all);
	hwloc_bitmap_set(wide, CPULIST_MAX);
	assert_int_equal(kernel_set_affinity(pid, wide), 0);
	assert_int_equal(kernel_get_affinity(pid, now), 0);
	assert_true(hwloc_bitmap_isequal(now, all));
	hwloc_bitmap_only(wide, CPULIST_MAX);
	assert_int_equal(kernel_set_affinity(pid, wide), -1);
	assert_int_equal(errno, EINVAL);
	hwloc_bitmap_zero(wide);
	assert_int_equal(kernel_set_affinity(pid, wide), -1);
	end(pid);
	assert_int_equal(kernel_set_affinity(pid, all), -1);
	assert_int_equal(errno, ESRCH);
	assert_int_equal(kernel_get_affinity(pid, now), -1);
}

static void every_scheduler_is_read_back_as_it_was_set(void **state)
{
	static const struct sched scheds[] = {
		{ SCHED_OF_BATCH, 0 }, { SCHED_OF_IDLE, 0 }, { SCHED_OF_OTHER, 0 },
		{ SCHED_OF_FIFO, 1 },  { SCHED_OF_RR, 99 },  { SCHED_OF_OTHER, 0 },
	};
	pid_t pid = child(-1);
	struct sched now;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(scheds); i++) {
		if (kernel_set_sched(pid, scheds[i]) < 0) {
			/* Without the grant, and then with advice on how to get it. */
			assert_int_equal(errno, EPERM);
			assert_true(sched_is_realtime(scheds[i]));
			assert_non_null(strstr(kernel_sched_advice(EPERM), "CAP_SYS_NICE"));
			continue;
		}
		assert_int_equal(kernel_get_sched(pid, &now), 0);
		assert_int_equal(now.scheduler, scheds[i].scheduler);
		assert_int_equal(now.priority, scheds[i].priority);
	}
	assert_string_equal(kernel_sched_advice(ESRCH), "");
	assert_int_equal(kernel_set_sched(pid, (struct sched){ SCHED_OF_FIFO, 0 }), -1);
	assert_int_equal(kernel_set_sched(pid, (struct sched){ SCHED_OF_OTHER, 5 }), -1);
	end(pid);
	assert_int_equal(kernel_get_sched(pid, &now), -1);
}

static void *wait_for_end(void *data)
{
	pthread_setname_np(pthread_self(), "an odd) name");
	pthread_barrier_wait(data);
	pthread_barrier_wait(data);
	return NULL;
}

static void threads_are_listed_in_order_with_their_names(void **state)
{
	cleanup_free pid_t *before = NULL, *tids = NULL;
	size_t count_before, count;
	pthread_barrier_t barrier;
	pthread_t thread;
	bool found = false;

	(void)state;
	assert_int_equal(kernel_tasks(getpid(), &before, &count_before), 0);
	pthread_barrier_init(&barrier, NULL, 2);
	assert_int_equal(pthread_create(&thread, NULL, wait_for_end, &barrier), 0);
	pthread_barrier_wait(&barrier);
	assert_int_equal(kernel_tasks(getpid(), &tids, &count), 0);
	assert_int_equal(count, count_before + 1);
	for (size_t i = 0; i < count; i++) {
		char comm[64];
		kernel_comm(getpid(), tids[i], comm);
		found |= strcmp(comm, "an odd) name") == 0;
		if (i)
			assert_true(tids[i - 1] < tids[i]);
	}
	assert_true(found);
	pthread_barrier_wait(&barrier);
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&barrier);
}

static void a_name_cannot_act_on_a_terminal(void **state)
{
	char comm[64], before[16];

	(void)state;
	assert_int_equal(prctl(PR_GET_NAME, before), 0);
	assert_int_equal(prctl(PR_SET_NAME, "a\033[2J\xc2\x9b"), 0);
	kernel_comm(getpid(), getpid(), comm);
	prctl(PR_SET_NAME, before);
	assert_string_equal(comm, "a [2J  ");
}

static void a_process_that_is_gone_has_no_threads_name_or_start(void **state)
{
	pid_t pid = child(0), *tids;
	size_t count;
	char comm[64] = "old";

	(void)state;
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(kernel_tasks(pid, &tids, &count), -1);
	assert_int_equal(count, 0);
	kernel_comm(pid, pid, comm);
	assert_string_equal(comm, "");
	assert_int_equal(kernel_start_time(pid), 0);
	assert_int_equal(kernel_pidfd(pid, 0), -1);
}

static void start_time_survives_any_name(void **state)
{
	uint64_t start = kernel_start_time(getpid());

	(void)state;
	assert_true(start > 0);
	prctl(PR_SET_NAME, "a) S 1 (b c) ");
	assert_int_equal(kernel_start_time(getpid()), start);
	prctl(PR_SET_NAME, "test_kernel");
}

static void a_pidfd_is_only_of_the_process_with_that_start(void **state)
{
	pid_t pid = child(-1);
	uint64_t start = kernel_start_time(pid);
	cleanup_close int pidfd = kernel_pidfd(pid, start);

	(void)state;
	assert_true(pidfd >= 0);
	assert_int_equal(kernel_pidfd(pid, start + 1), -1);
	assert_int_equal(kernel_pidfd(pid, 0), -1);
	assert_int_equal(kernel_pidfd(0, start), -1);
	assert_int_equal(kernel_pidfd(-1, start), -1);
	end(pid);
	assert_int_equal(kernel_pidfd(pid, start), -1);
}

static pthread_barrier_t met;

static void *wait_twice(void *tid)
{
	*(pid_t *)tid = (pid_t)syscall(SYS_gettid);
	pthread_barrier_wait(&met);
	pthread_barrier_wait(&met);
	return NULL;
}

static void whose_number_a_thread_has_is_gone(void **state)
{
	pthread_t thread;
	pid_t tid;

	(void)state;
	pthread_barrier_init(&met, NULL, 2);
	assert_int_equal(pthread_create(&thread, NULL, wait_twice, &tid), 0);
	pthread_barrier_wait(&met);
	assert_int_equal(kernel_lives(tid, 12345), KERNEL_GONE);
	pthread_barrier_wait(&met);
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&met);
}

static void who_cannot_be_seen_is_not_gone(void **state)
{
	pid_t pid = child(-1);
	uint64_t start = kernel_start_time(pid);
	struct rlimit before, none;

	(void)state;
	assert_int_equal(kernel_lives(pid, start), KERNEL_LIVES);
	assert_int_equal(kernel_lives(pid, start + 1), KERNEL_GONE);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	none.rlim_cur = 0;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	enum kernel_life life = kernel_lives(pid, start);
	int error = errno, pidfd = kernel_pidfd(pid, start), why = errno;
	bool dying = kernel_is_dying(pid);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(life, KERNEL_UNKNOWN);
	assert_int_equal(error, EMFILE);
	assert_int_equal(pidfd, -1);
	assert_int_equal(why, EMFILE);
	assert_false(dying);
	end(pid);
	assert_int_equal(kernel_lives(pid, start), KERNEL_GONE);
	assert_int_equal(kernel_pidfd(pid, start), -1);
	assert_int_equal(errno, ESRCH);
	assert_true(kernel_is_dying(pid));
}

static void a_wait_ends_with_the_process_or_its_limit(void **state)
{
	pid_t pid = child(-1);
	cleanup_close int pidfd = kernel_pidfd(pid, kernel_start_time(pid));
	int64_t begin = kernel_now_ms();

	(void)state;
	assert_false(kernel_wait_gone(pidfd, 0));
	assert_false(kernel_wait_gone(pidfd, 30));
	assert_in_range(kernel_now_ms() - begin, 30, 10000);
	assert_int_equal(kernel_pidfd_kill(pidfd, SIGKILL), 0);
	assert_true(kernel_wait_gone(pidfd, -1));
	assert_true(kernel_wait_gone(pidfd, 0));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(kernel_pidfd_kill(pidfd, SIGKILL), -1);
	assert_int_equal(errno, ESRCH);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(affinity_is_read_back_as_it_was_set),
		cmocka_unit_test(a_mask_that_the_kernel_narrows_shows_when_read_back),
		cmocka_unit_test(every_scheduler_is_read_back_as_it_was_set),
		cmocka_unit_test(threads_are_listed_in_order_with_their_names),
		cmocka_unit_test(a_name_cannot_act_on_a_terminal),
		cmocka_unit_test(a_process_that_is_gone_has_no_threads_name_or_start),
		cmocka_unit_test(start_time_survives_any_name),
		cmocka_unit_test(a_pidfd_is_only_of_the_process_with_that_start),
		cmocka_unit_test(whose_number_a_thread_has_is_gone),
		cmocka_unit_test(who_cannot_be_seen_is_not_gone),
		cmocka_unit_test(a_wait_ends_with_the_process_or_its_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
