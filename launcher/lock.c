#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "kernel.h"
#include "lock.h"

/* With hundreds that wait, trying every millisecond would leave the holder no CPU to end on. */
#define RETRY_LEAST_MS 1
#define RETRY_MOST_MS 16

/* "PID TIME\n", of one length always: two times that a process takes the lock are two holders. */
#define HOLDER_FORMAT "%10d %20" PRId64 "\n"
#define HOLDER_LENGTH 32

static void read_holder(int fd, char holder[HOLDER_LENGTH + 1])
{
	ssize_t length = pread(fd, holder, HOLDER_LENGTH, 0);

	holder[length > 0 ? length : 0] = '\0';
}

/* The lock is held whether it can be written or not (a full disk): then nobody knows by whom. */
static void write_holder(int fd)
{
	char holder[HOLDER_LENGTH + 1];
	int length = snprintf(holder, sizeof(holder), HOLDER_FORMAT, getpid(), kernel_now_ms());

	if (pwrite(fd, holder, (size_t)length, 0) < 0)
		return;
}

int lock_take(int fd, int limit_ms, pid_t *holder)
{
	char before[HOLDER_LENGTH + 1] = "", now[HOLDER_LENGTH + 1];
	int64_t deadline = kernel_now_ms() + limit_ms;
	int retry = RETRY_LEAST_MS;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return -1;
		/* The clock first: who got no CPU for long still sees another holder. */
		bool late = kernel_now_ms() > deadline;
		read_holder(fd, now);
		if (strcmp(now, before) != 0) {
			strcpy(before, now);
			deadline = kernel_now_ms() + limit_ms;
		} else if (late) {
			*holder = 0;
			sscanf(now, "%d", holder);
			errno = ETIMEDOUT;
			return -1;
		}
		poll(NULL, 0, retry);
		if (retry < RETRY_MOST_MS)
			retry *= 2;
	}
	write_holder(fd);
	return 0;
}
