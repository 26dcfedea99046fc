/* The half of the client that blocks. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <time.h>

#include "client.h"

static int64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* In nanoseconds; INT64_MAX: never. */
static int64_t deadline_in(int timeout_ms)
{
	return timeout_ms < 0 ? INT64_MAX : now() + timeout_ms * INT64_C(1000000);
}

/* In milliseconds, rounded up, as poll() takes them. */
static int time_left(int64_t deadline)
{
	int64_t left;

	if (deadline == INT64_MAX)
		return -1;
	left = deadline - now();
	return left <= 0 ? 0 : (int)((left + 999999) / 1000000);
}

/* Waits until there is something to do and does it; 1 when the time is up after that. What goes
 * wrong in qmp_process() is left for the caller to find. */
static int wait_step(struct qmp *qmp, int64_t deadline, struct qmp_error *error)
{
	int left = time_left(deadline);
	struct pollfd poller = { .fd = qmp_fd(qmp), .events = qmp_poll_events(qmp) };
	int ready = poll(&poller, 1, left);

	if (ready < 0 && errno != EINTR)
		return qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot wait for QEMU: %m");
	if (ready > 0)
		qmp_process(qmp, NULL);
	return left == 0;
}

static int timed_out(struct qmp_error *error, const char *what, int timeout_ms)
{
	bool whole = timeout_ms % 1000 == 0;

	return qmp_error_set(error, QMP_ERROR_TIMEOUT, "QEMU did not %s within %d %s", what,
	                     whole ? timeout_ms / 1000 : timeout_ms, whole ? "s" : "ms");
}

int qmp_wait_ready(struct qmp *qmp, int timeout_ms, struct qmp_error *error)
{
	int64_t deadline = deadline_in(timeout_ms);
	int step = 0;

	while (qmp->state != QMP_READY) {
		if (qmp->state == QMP_CLOSED)
			return qmp_process(qmp, error);
		if (step > 0)
			return timed_out(error,
			                 qmp->state == QMP_GREETING ? "send its greeting"
			                                            : "answer \"qmp_capabilities\"",
			                 timeout_ms);
		step = wait_step(qmp, deadline, error);
		if (step < 0)
			return -1;
	}
	return 0;
}

int qmp_wait_reply(struct qmp *qmp, unsigned id, int timeout_ms, struct json_object **reply,
                   struct qmp_error *error)
{
	int64_t deadline = deadline_in(timeout_ms);
	int step = 0;

	for (;;) {
		struct command *command;
		char what[128];
		int taken = qmp_take_reply(qmp, id, reply, error);

		if (taken)
			return taken < 0 ? -1 : 0;
		if (step > 0) {
			command = *qmp_find_command(qmp, id);
			snprintf(what, sizeof(what), "answer \"%.100s\"", command->name);
			return timed_out(error, what, timeout_ms);
		}
		step = wait_step(qmp, deadline, error);
		if (step < 0)
			return -1;
	}
}

int qmp_call(struct qmp *qmp, const char *command, struct json_object *arguments, int timeout_ms,
             struct json_object **reply, struct qmp_error *error)
{
	unsigned id = qmp_send(qmp, command, arguments, error);
	struct command *pending;

	if (!id)
		return -1;
	if (qmp_wait_reply(qmp, id, timeout_ms, reply, error) == 0)
		return 0;
	pending = *qmp_find_command(qmp, id);
	if (pending)
		pending->abandoned = true;
	return -1;
}
