#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "child.h"
#include "spec_fresh.h"
#include "util.h"

/* Until the other end of the pipe closes; it holds nothing else, no lock above all. */
static void guard(const char *path, int pipe) __attribute__((noreturn));
static void guard(const char *path, int pipe)
{
	ssize_t got;
	char word;

	setsid();
	do
		got = read(pipe, &word, 1);
	while (got < 0 && errno == EINTR);
	/* One that has taken its place is not there under this name. */
	if (got == 0)
		unlink(path);
	_exit(0);
}

static int start_guard(struct spec_fresh *fresh, struct error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_set(err, EXIT_FAILED, "cannot make a pipe to guard %s: %s",
		                 fresh->path, strerror(errno));
	fresh->guard = child_fork("ancla-guard", &ends[0], 1);
	if (fresh->guard == 0)
		guard(fresh->path, ends[0]);
	int reason = errno;
	close(ends[0]);
	fresh->pipe = ends[1];
	if (fresh->guard > 0)
		return 0;
	fresh->guard = 0;
	return error_set(err, EXIT_FAILED, "cannot fork to guard %s: %s", fresh->path,
	                 strerror(reason));
}

/* Its name is known before it is there, as its guard is there first. */
int spec_fresh_make(struct spec_fresh *fresh, const char *beside, struct error *err)
{
	uint64_t number;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return error_set(err, EXIT_FAILED, "cannot have a random number: %s",
		                 strerror(errno));
	fresh->path = xasprintf("%s.%016" PRIx64, beside, number);
	if (start_guard(fresh, err) < 0)
		return -1;
	int fd = open(fresh->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return fd >= 0 ? fd
	               : error_set(err, EXIT_FAILED, "cannot make a file beside %s: %s", beside,
	                           strerror(errno));
}

int spec_fresh_replace(struct spec_fresh *fresh, const char *path)
{
	if (rename(fresh->path, path) < 0)
		return -1;
	free(take_pointer(&fresh->path));
	return 0;
}

void spec_fresh_end(struct spec_fresh *fresh)
{
	if (fresh->path)
		unlink(fresh->path);
	if (fresh->pipe >= 0)
		close(fresh->pipe);
	if (fresh->guard > 0)
		child_wait(fresh->guard);
	free(fresh->path);
	*fresh = (struct spec_fresh)SPEC_FRESH_INIT;
}
