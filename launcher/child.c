#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"

/* The lowest of `keep` from that descriptor on, or -1. */
static int next_kept(unsigned from, const int *keep, size_t n_keep)
{
	int next = -1;

	for (size_t i = 0; i < n_keep; i++)
		if (keep[i] >= 0 && (unsigned)keep[i] >= from && (next < 0 || keep[i] < next))
			next = keep[i];
	return next;
}

/* All at once; one by one where a container's seccomp profile does not know close_range(2). */
static int close_span(unsigned from, unsigned to)
{
	if (close_range(from, to, 0) == 0)
		return 0;
	DIR *directory = opendir("/proc/self/fd");
	if (!directory)
		return -1;
	for (struct dirent *entry; (errno = 0, entry = readdir(directory));) {
		unsigned fd = (unsigned)atoi(entry->d_name);
		if (*entry->d_name != '.' && fd >= from && fd <= to && (int)fd != dirfd(directory))
			close((int)fd);
	}
	int reason = errno;
	closedir(directory);
	errno = reason;
	return reason ? -1 : 0;
}

int child_close_others(unsigned from, const int *keep, size_t n_keep)
{
	int next;

	while ((next = next_kept(from, keep, n_keep)) >= 0) {
		if ((unsigned)next > from && close_span(from, (unsigned)next - 1) < 0)
			return -1;
		from = (unsigned)next + 1;
	}
	return close_span(from, ~0u);
}

pid_t child_fork(const char *name, const int *keep, size_t n_keep)
{
	sigset_t all, before;

	/* From its first moment on. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_NAME, name);
		/* What it would hold on to, somebody may wait for in vain; but without it nobody
		 * guards. */
		child_close_others(0, keep, n_keep);
		return 0;
	}
	int reason = errno;
	sigprocmask(SIG_SETMASK, &before, NULL);
	errno = reason;
	return pid;
}

int child_wait(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return status;
}
