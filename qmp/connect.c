#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "stream.h"

/* Fills in the path, or, where it is too long, one through a descriptor that the caller closes
 * (-1 where there is none). */
static int fill_address(struct sockaddr_un *address, const char *path, int *target)
{
	address->sun_family = AF_UNIX;
	if (strlen(path) < sizeof(address->sun_path)) {
		strcpy(address->sun_path, path);
		return 0;
	}
	*target = open(path, O_PATH | O_CLOEXEC);
	if (*target < 0)
		return -1;
	snprintf(address->sun_path, sizeof(address->sun_path), "/proc/self/fd/%d", *target);
	return 0;
}

int qmp_connect(const char *path, struct qmp_error *error)
{
	struct sockaddr_un address = { 0 };
	struct timeval limit = { .tv_sec = QMP_CONNECT_LIMIT_S };
	int target = -1;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int result = -1, why;

	if (fd < 0)
		return qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot make a socket: %m");
	/* connect() blocks while the listener's queue is full. */
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (fill_address(&address, path, &target) == 0)
		do
			result = connect(fd, (struct sockaddr *)&address, sizeof(address));
		while (result < 0 && errno == EINTR);
	why = errno;
	if (target >= 0)
		close(target);
	if (result == 0)
		return fd;
	close(fd);
	return qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot connect to %.300s: %s", path,
	                     why == EAGAIN ? "other clients wait for it" : strerror(why));
}
