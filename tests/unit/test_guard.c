/* The guard: a launcher that dies before the guest runs leaves no QEMU, one that dies later leaves
 * QEMU alone, and the terminal always comes back. */
#include "stages.h"

#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "guard.h"
#include "kernel.h"

/* Anything that takes longer than this has gone wrong. */
#define LIMIT_MS 60000

static int pidfd_of(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);

	assert_true(fd >= 0);
	return fd;
}

/* A process that stands for QEMU. */
static pid_t target(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return pid;
}

static int end(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

struct launcher {
	pid_t pid, guard;
	int pidfd; /* of the guard */
};

/* A launcher in a process of its own that starts a guard and says which; when the test has a hold
 * of that, it releases it or not, puts the terminal into raw mode, and waits for its own death. */
static void launcher_main(int words, int target_fd, int terminal, bool released)
{
	struct guard guard = GUARD_INIT;
	struct error err = ERROR_INIT;
	struct termios raw;
	char word;

	prctl(PR_SET_PDEATHSIG, SIGKILL); /* with a test that fails */
	if (guard_start(&guard, target_fd, terminal, &err) < 0 ||
	    write(words, &guard.pid, sizeof(guard.pid)) != sizeof(guard.pid) ||
	    read(words, &word, 1) != 1)
		_exit(1);
	if (released && guard_release(&guard, &err) < 0)
		_exit(1);
	if (terminal >= 0 && tcgetattr(terminal, &raw) == 0) {
		cfmakeraw(&raw);
		tcsetattr(terminal, TCSANOW, &raw);
	}
	if (write(words, "r", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

static struct launcher launch(int target_fd, int terminal, bool released)
{
	struct launcher launcher;
	int ends[2];
	char word;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	launcher.pid = fork();
	assert_true(launcher.pid >= 0);
	if (launcher.pid == 0)
		launcher_main(ends[1], target_fd, terminal, released);
	close(ends[1]);
	assert_int_equal(read(ends[0], &launcher.guard, sizeof(launcher.guard)),
	                 sizeof(launcher.guard));
	launcher.pidfd = pidfd_of(launcher.guard);
	assert_int_equal(write(ends[0], "g", 1), 1);
	assert_int_equal(read(ends[0], &word, 1), 1);
	close(ends[0]);
	return launcher;
}

/* The launcher is killed, and its guard ends by itself. */
static void kill_launcher(struct launcher *launcher)
{
	end(launcher->pid);
	assert_true(kernel_wait_gone(launcher->pidfd, LIMIT_MS));
	close(launcher->pidfd);
}

static void a_launcher_that_dies_takes_qemu_with_it(void **state)
{
	pid_t pid = target();
	cleanup_close int pidfd = pidfd_of(pid);
	struct launcher launcher = launch(pidfd, -1, false);
	int status;

	(void)state;
	assert_false(kernel_wait_gone(pidfd, 0));
	kill_launcher(&launcher);
	assert_true(kernel_wait_gone(pidfd, LIMIT_MS));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void a_guard_cannot_be_stopped_by_the_terminals_signals(void **state)
{
	pid_t pid = target();
	cleanup_close int pidfd = pidfd_of(pid);
	struct launcher launcher = launch(pidfd, -1, false);

	(void)state;
	kill(launcher.guard, SIGINT);
	kill(launcher.guard, SIGTERM);
	kill(launcher.guard, SIGHUP);
	kill_launcher(&launcher);
	assert_true(kernel_wait_gone(pidfd, LIMIT_MS));
	waitpid(pid, NULL, 0);
}

static void a_qemu_that_was_released_lives_on(void **state)
{
	pid_t pid = target();
	cleanup_close int pidfd = pidfd_of(pid);
	struct launcher launcher = launch(pidfd, -1, true);

	(void)state;
	assert_true(kernel_wait_gone(launcher.pidfd, LIMIT_MS)); /* it is not needed any more */
	kill_launcher(&launcher);
	assert_false(kernel_wait_gone(pidfd, 0));
	end(pid);
}

static bool same_modes(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_cflag == b->c_cflag &&
	       a->c_lflag == b->c_lflag && memcmp(a->c_cc, b->c_cc, sizeof(a->c_cc)) == 0;
}

static void the_terminal_comes_back_when_the_supervisor_is_killed(void **state)
{
	pid_t pid = target();
	cleanup_close int pidfd = pidfd_of(pid);
	int master, terminal;
	struct termios before, now;

	(void)state;
	assert_int_equal(openpty(&master, &terminal, NULL, NULL, NULL), 0);
	assert_int_equal(tcgetattr(terminal, &before), 0);
	struct launcher launcher = launch(pidfd, terminal, true);
	assert_int_equal(tcgetattr(terminal, &now), 0);
	assert_false(same_modes(&now, &before)); /* raw, and the guard still waits */
	assert_false(kernel_wait_gone(launcher.pidfd, 0));
	kill_launcher(&launcher);
	assert_int_equal(tcgetattr(terminal, &now), 0);
	assert_true(same_modes(&now, &before));
	assert_false(kernel_wait_gone(pidfd, 0));
	end(pid);
	close(master);
	close(terminal);
}

static void a_guard_has_nothing_to_put_back_where_there_is_no_terminal(void **state)
{
	pid_t pid = target();
	cleanup_close int pidfd = pidfd_of(pid);
	cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	struct guard guard = GUARD_INIT;
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	assert_true(null >= 0);
	assert_int_equal(guard_start(&guard, pidfd, null, &err), 0);
	assert_int_equal(guard_release(&guard, &err), 0);
	assert_int_equal(guard.pid, 0); /* it does not wait for the end of the supervisor */
	assert_false(kernel_wait_gone(pidfd, 0));
	end(pid);
}

static void a_guard_holds_nothing_of_the_launchers_open(void **state)
{
	pid_t pid = target();
	cleanup_close int pidfd = pidfd_of(pid);
	struct guard guard = GUARD_INIT;
	cleanup_error struct error err = ERROR_INIT;
	int ends[2];
	char byte;

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(guard_start(&guard, pidfd, -1, &err), 0);
	close(ends[1]);
	/* The end of the file comes as soon as the guard has closed its copy, while it lives. */
	assert_int_equal(read(ends[0], &byte, 1), 0);
	assert_int_equal(kill(guard.pid, 0), 0);
	close(ends[0]);
	assert_int_equal(guard_release(&guard, &err), 0);
	guard_end(&guard);
	end(pid);
}

static void an_end_without_release_kills_and_reaps(void **state)
{
	pid_t pid = target();
	cleanup_close int pidfd = pidfd_of(pid);
	struct guard guard = GUARD_INIT, none = GUARD_INIT;
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(guard_start(&guard, pidfd, -1, &err), 0);
	pid_t guard_pid = guard.pid;
	guard_end(&guard);
	assert_int_equal(kill(guard_pid, 0), -1);
	assert_true(kernel_wait_gone(pidfd, LIMIT_MS));
	waitpid(pid, NULL, 0);
	guard_end(&guard); /* twice does no harm */
	assert_int_equal(guard_release(&none, &err), 0);
	guard_end(&none);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_launcher_that_dies_takes_qemu_with_it),
		cmocka_unit_test(a_guard_cannot_be_stopped_by_the_terminals_signals),
		cmocka_unit_test(a_qemu_that_was_released_lives_on),
		cmocka_unit_test(the_terminal_comes_back_when_the_supervisor_is_killed),
		cmocka_unit_test(a_guard_has_nothing_to_put_back_where_there_is_no_terminal),
		cmocka_unit_test(a_guard_holds_nothing_of_the_launchers_open),
		cmocka_unit_test(an_end_without_release_kills_and_reaps),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
