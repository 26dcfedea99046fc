#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "notify.h"
#include "util.h"
#include "waits.h"

static struct {
	struct sockaddr_un address;
	socklen_t length; /* 0: there is nobody */
	int watchdog_ms;
} manager = { .watchdog_ms = -1 };

/* The interval is for the process that WATCHDOG_PID names, if it names one. */
static int read_watchdog(void)
{
	const char *interval = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	unsigned long long usec = interval ? strtoull(interval, NULL, 10) : 0;

	if (!usec || (pid && strtol(pid, NULL, 10) != getpid()))
		return -1;
	return usec < 4000 ? 1 : (int)((usec > 3600000000 ? 3600000000 : usec) / 2000);
}

void notify_begin(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t length = path ? strlen(path) : 0;

	manager.length = 0;
	manager.watchdog_ms = read_watchdog();
	if (length > 1 && length < sizeof(manager.address.sun_path) &&
	    (*path == '/' || *path == '@')) {
		manager.address.sun_family = AF_UNIX;
		memcpy(manager.address.sun_path, path, length);
		if (*path == '@')
			manager.address.sun_path[0] = '\0';
		/* An abstract name has no zero at its end; a path may do without. */
		manager.length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
	}
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

int notify(const char *format, ...)
{
	va_list args;

	if (!manager.length)
		return 0;
	va_start(args, format);
	cleanup_free char *message = xvasprintf(format, args);
	va_end(args);
	/* Of signs of life the next one does as well; all else is said once. */
	bool again = strncmp(message, "WATCHDOG=", strlen("WATCHDOG=")) == 0;
	struct timeval limit = { LIMIT_NOTIFY_MS / 1000, LIMIT_NOTIFY_MS % 1000 * 1000 };
	cleanup_close int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit)) < 0)
		return -1;
	ssize_t sent =
	    sendto(fd, message, strlen(message), MSG_NOSIGNAL | (again ? MSG_DONTWAIT : 0),
	           (struct sockaddr *)&manager.address, manager.length);
	return sent < 0 ? -1 : 0;
}

int notify_watchdog_ms(void)
{
	return manager.length ? manager.watchdog_ms : -1;
}
