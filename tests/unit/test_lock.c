/* Locks with a limit: a queue that moves is waited for, a holder that is stuck is named. */
#include "stages.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "lock.h"

/* The limit that is waited for, and one that is not reached. */
#define SHORT_MS 1000
#define LONG_MS 60000

/* Two descriptors of one file, as two processes would have opened it. */
static void open_twice(int fds[2])
{
	char path[64];

	fds[0] = memfd_create("lock", MFD_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fds[0]);
	fds[1] = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fds[0] >= 0 && fds[1] >= 0);
}

/* A process that takes the lock of `fd`, says so, and runs `then`. */
static pid_t holder_of(int fd, void (*then)(int fd))
{
	int ends[2];
	pid_t pid, ignored;
	char word;

	assert_int_equal(pipe(ends), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (lock_take(fd, LONG_MS, &ignored) < 0 || write(ends[1], "", 1) != 1)
			_exit(1);
		then(fd);
		_exit(0);
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &word, 1), 1);
	close(ends[0]);
	return pid;
}

static void end(pid_t pid, int signal)
{
	kill(pid, signal);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void keep(int fd)
{
	(void)fd;
	for (;;)
		pause();
}

/* The longest time that one holder had the lock, in milliseconds; of two processes. */
static int64_t *longest;

/* The lock changes hands without ever being free, for longer than the limit. */
static void pass_on(int fd)
{
	int64_t begin = kernel_now_ms(), last = begin, now = begin;
	pid_t ignored;

	while (now < begin + 3 * SHORT_MS) {
		lock_take(fd, LONG_MS, &ignored); /* it is ours already: a new holder's words */
		now = kernel_now_ms();
		if (now - last > *longest)
			*longest = now - last;
		last = now;
		poll(NULL, 0, 20);
	}
}

static void a_holder_that_is_stuck_is_named(void **state)
{
	int fds[2];
	pid_t holder = 0;

	(void)state;
	open_twice(fds);
	pid_t stuck = holder_of(fds[0], keep);
	close(fds[0]);
	int64_t before = kernel_now_ms();
	assert_int_equal(lock_take(fds[1], SHORT_MS, &holder), -1);
	assert_int_equal(errno, ETIMEDOUT);
	assert_true(kernel_now_ms() - before >= SHORT_MS);
	assert_int_equal(holder, stuck);
	end(stuck, SIGKILL);
	close(fds[1]);
}

static void a_queue_that_moves_is_waited_for(void **state)
{
	int taken = -1;

	(void)state;
	longest =
	    mmap(NULL, sizeof(*longest), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(longest, MAP_FAILED);
	/* On a busy machine a holder may get no CPU for so long that it is one that is stuck: then
	 * once more. */
	for (int tries = 0; taken < 0 && tries < 20; tries++) {
		int fds[2];
		pid_t holder = 0;
		*longest = 0;
		open_twice(fds);
		int64_t before = kernel_now_ms();
		pid_t other = holder_of(fds[0], pass_on);
		close(fds[0]);
		taken = lock_take(fds[1], SHORT_MS, &holder);
		assert_true(kernel_now_ms() - before > SHORT_MS);
		assert_int_equal(waitpid(other, NULL, 0), other);
		if (taken < 0)
			assert_true(*longest > SHORT_MS - 50);
		close(fds[1]);
	}
	assert_int_equal(taken, 0);
	munmap(longest, sizeof(*longest));
}

static void a_dead_holder_is_not_waited_for(void **state)
{
	int fds[2];
	pid_t holder = 0;

	(void)state;
	open_twice(fds);
	pid_t dead = holder_of(fds[0], keep);
	close(fds[0]);
	end(dead, SIGKILL);
	int64_t before = kernel_now_ms();
	assert_int_equal(lock_take(fds[1], LONG_MS, &holder), 0);
	assert_true(kernel_now_ms() - before < LONG_MS);
	close(fds[1]);
}

static void what_is_no_lock_is_an_error(void **state)
{
	pid_t holder = 0;

	(void)state;
	assert_int_equal(lock_take(-1, LONG_MS, &holder), -1);
	assert_int_equal(errno, EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_holder_that_is_stuck_is_named),
		cmocka_unit_test(a_queue_that_moves_is_waited_for),
		cmocka_unit_test(a_dead_holder_is_not_waited_for),
		cmocka_unit_test(what_is_no_lock_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
