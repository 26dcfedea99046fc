#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "child.h"
#include "guard.h"
#include "kernel.h"
#include "util.h"

static ssize_t read_word(int fd, char *word)
{
	ssize_t got;

	do
		got = read(fd, word, 1);
	while (got < 0 && errno == EINTR);
	return got;
}

static void guard_main(int words, int pidfd, int terminal, const struct termios *before)
    __attribute__((noreturn));
static void guard_main(int words, int pidfd, int terminal, const struct termios *before)
{
	char word;

	setsid();
	if (read_word(words, &word) != 1)
		kernel_pidfd_kill(pidfd, SIGKILL);
	else if (terminal >= 0)
		/* Until the supervisor ends: then its end of the pipe closes. */
		read_word(words, &word);
	/* The supervisor has put the terminal back already, unless it was killed. */
	if (terminal >= 0)
		tcsetattr(terminal, TCSANOW, before);
	_exit(0);
}

int guard_start(struct guard *guard, int pidfd, int terminal, struct error *err)
{
	struct termios before;
	int ends[2];

	/* Here, not in the guard: the caller may change the terminal as soon as this returns. */
	if (terminal >= 0 && tcgetattr(terminal, &before) < 0)
		terminal = -1;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_set(err, EXIT_FAILED, "cannot make a pipe for the guard: %s",
		                 strerror(errno));
	guard->pid = child_fork("ancla-guard", (int[]){ ends[0], pidfd, terminal }, 3);
	if (guard->pid == 0)
		guard_main(ends[0], pidfd, terminal, &before);
	int reason = errno;
	close(ends[0]);
	guard->pipe = ends[1];
	guard->stays = terminal >= 0;
	if (guard->pid > 0)
		return 0;
	guard->pid = 0;
	close(ends[1]);
	guard->pipe = -1;
	return error_set(err, EXIT_FAILED, "cannot start the guard: %s", strerror(reason));
}

int guard_release(struct guard *guard, struct error *err)
{
	ssize_t put;

	do
		put = guard->pipe < 0 ? 1 : write(guard->pipe, "r", 1);
	while (put < 0 && errno == EINTR);
	/* If the guard is gone, nothing kills QEMU, which is what release means. */
	if (put < 0 && errno != EPIPE)
		return error_set(err, EXIT_FAILED, "cannot release the guard of QEMU: %s",
		                 strerror(errno));
	if (!guard->stays)
		guard_end(guard);
	return 0;
}

void guard_end(struct guard *guard)
{
	if (guard->pipe >= 0)
		close(guard->pipe);
	guard->pipe = -1;
	if (guard->pid > 0)
		child_wait(guard->pid);
	guard->pid = 0;
}
