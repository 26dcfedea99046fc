#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "stream.h"

static int fail(struct qmp_error *error, const char *shown, int why)
{
	return qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot connect to %.300s: %s", shown,
	                     why == EAGAIN ? "other clients wait for it" : strerror(why));
}

static int connect_to(const struct sockaddr_un *address, const char *shown, struct qmp_error *error)
{
	struct timeval limit = { .tv_sec = QMP_CONNECT_LIMIT_S };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int result, why;

	if (fd < 0)
		return qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot make a socket: %m");
	/* connect() blocks while the listener's queue is full. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	do
		result = connect(fd, (const struct sockaddr *)address, sizeof(*address));
	while (result < 0 && errno == EINTR);
	if (result == 0)
		return fd;
	why = errno;
	close(fd);
	return fail(error, shown, why);
}

/* By a descriptor of the socket itself: its path may be longer than sun_path, or lead elsewhere by
 * now. */
static int connect_opened(int dirfd, const char *path, int flags, const char *shown,
                          struct qmp_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int target = openat(dirfd, path, O_PATH | O_CLOEXEC | flags);
	int fd;

	if (target < 0)
		return fail(error, shown, errno);
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d", target);
	fd = connect_to(&address, shown, error);
	close(target);
	return fd;
}

int qmp_connect_at(int dirfd, const char *name, const char *shown, struct qmp_error *error)
{
	return connect_opened(dirfd, name, O_NOFOLLOW, shown, error);
}

int qmp_connect(const char *path, struct qmp_error *error)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(address.sun_path))
		return connect_opened(AT_FDCWD, path, 0, path, error);
	strcpy(address.sun_path, path);
	return connect_to(&address, path, error);
}
