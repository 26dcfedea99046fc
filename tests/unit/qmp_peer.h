/* The other end of a QMP client under test: a socketpair on which a test, or a script in a
 * thread of its own, plays QEMU, badly. */
#ifndef QMP_PEER_H
#define QMP_PEER_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "qmp/qmp.h"

#define GREETING                                                                                   \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7},"          \
	" \"package\": \"\"}, \"capabilities\": [\"oob\"]}}\r\n"
#define MIB ((size_t)1024 * 1024)
#define LIMIT_MS 60000 /* for what must come */

struct peer {
	int fd;
	FILE *in; /* the same socket, read 4 KiB at a time */
	char *line;
	size_t room;
	void (*script)(struct peer *peer);
	pthread_t thread;
};

/* A client, its peer, and the events it got: "STOP RESET {"guest": true} ". */
struct fixture {
	struct qmp *qmp;
	struct peer peer;
	char events[1024];
	qmp_event_fn *on_event; /* where it is not to be recorded */
};

/* Peers go on when the client is gone: the test sees that end. */
static void say_bytes(struct peer *peer, const char *bytes, size_t length)
{
	while (length) {
		ssize_t sent = send(peer->fd, bytes, length, MSG_NOSIGNAL);

		if (sent < 0)
			return;
		bytes += sent;
		length -= (size_t)sent;
	}
}

static void say(struct peer *peer, const char *text)
{
	say_bytes(peer, text, strlen(text));
}

/* The next command, or NULL when the client is gone; the caller puts it. */
static struct json_object *hear(struct peer *peer)
{
	return getline(&peer->line, &peer->room, peer->in) < 0 ? NULL
	                                                       : json_tokener_parse(peer->line);
}

static void hear_out(struct peer *peer)
{
	while (getline(&peer->line, &peer->room, peer->in) >= 0)
		;
}

/* The line that answers a command with `"return": ...` or `"error": ...`; puts the command. The
 * caller frees. */
static char *answer_to(struct json_object *command, const char *body)
{
	struct json_object *id = NULL;
	char *line = NULL;

	json_object_object_get_ex(command, "id", &id);
	if (asprintf(&line, "{%s, \"id\": %s}\r\n", body, json_object_to_json_string(id)) < 0)
		abort();
	json_object_put(command);
	return line;
}

static void answer(struct peer *peer, struct json_object *command, const char *body)
{
	char *line = answer_to(command, body);

	say(peer, line);
	free(line);
}

/* Greets and grants qmp_capabilities. */
static void greet(struct peer *peer)
{
	say(peer, GREETING);
	answer(peer, hear(peer), "\"return\": {}");
}

static void record_event(void *data, const char *event, struct json_object *arguments)
{
	struct fixture *f = data;
	size_t length = strlen(f->events);

	snprintf(f->events + length, sizeof(f->events) - length, "%s%s%s ", event,
	         arguments ? " " : "", arguments ? json_object_to_json_string(arguments) : "");
}

static void *run_script(void *data)
{
	struct peer *peer = data;

	peer->script(peer);
	shutdown(peer->fd, SHUT_RDWR);
	return NULL;
}

static void run_in_thread(struct fixture *f, void (*script)(struct peer *peer))
{
	f->peer.script = script;
	assert_int_equal(pthread_create(&f->peer.thread, NULL, run_script, &f->peer), 0);
}

/* Makes the client. With a script, the peer runs it and then closes; without, the test is the
 * peer itself. */
static void start(struct fixture *f, void (*script)(struct peer *peer))
{
	int ends[2];
	int small = 16 * 1024;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	f->peer.fd = ends[1];
	f->peer.in = fdopen(ends[1], "r");
	assert_non_null(f->peer.in);
	f->qmp = qmp_new(ends[0], f->on_event ? f->on_event : record_event, f);
	assert_non_null(f->qmp);
	if (script)
		run_in_thread(f, script);
}

static void start_ready(struct fixture *f, void (*script)(struct peer *peer))
{
	struct qmp_error error;

	start(f, script);
	if (!script) {
		say(&f->peer, GREETING);
		assert_int_equal(qmp_process(f->qmp, &error), 0);
		answer(&f->peer, hear(&f->peer), "\"return\": {}");
	}
	if (qmp_wait_ready(f->qmp, LIMIT_MS, &error) < 0)
		fail_msg("not ready: %s", error.message);
}

/* Closes the test's own end. */
static void hang_up(struct peer *peer)
{
	fclose(peer->in);
	peer->in = NULL;
}

static int setup(void **state)
{
	alarm(300); /* nothing here may hang */
	*state = calloc(1, sizeof(struct fixture));
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	qmp_free(f->qmp);
	if (f->peer.script)
		pthread_join(f->peer.thread, NULL);
	if (f->peer.in)
		fclose(f->peer.in);
	free(f->peer.line);
	free(f);
	alarm(0);
	return 0;
}

#endif
