/* The QMP client, whose peer says anything. What it makes of a stream does not depend on the pieces
 * in which it comes: everything is said twice, once whole and once in small pieces, and the same
 * must be understood. Only where a stream is no JSON may the end come later, and more be heard
 * until then: json-c refuses "0-1" in one piece and not in two.
 *
 * In the input, a byte 0xff (of which there is none in UTF-8) is a moment at which the peer waits
 * until the client has read all, and may have sent a command. */
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "plan.h"
#include "qmp/qmp.h"
#include "threads.h"

#define COMMANDS_MOST 4

struct talk {
	struct qmp *qmp;
	int peer;
	unsigned ids[COMMANDS_MOST];
	size_t n_ids;
	char *heard; /* the events, in order */
	size_t length;
	FILE *out;
	bool broken; /* the peer broke the protocol */
	struct json_object *replies[COMMANDS_MOST];
	char *answers[COMMANDS_MOST]; /* these as text, or the class of an error */
};

static const char *const commands[COMMANDS_MOST] = { "query-status", "query-cpus-fast",
	                                             "query-iothreads", "quit" };

static void on_event(void *data, const char *event, struct json_object *arguments)
{
	struct talk *talk = data;

	promise(qmp_state(talk->qmp) != QMP_GREETING, "an event before the greeting");
	fprintf(talk->out, "event %s %s\n", event, json_object_to_json_string(arguments));
}

static void promise_qmp_error(const struct qmp_error *error)
{
	size_t length = strnlen(error->message, sizeof(error->message));

	promise(error->kind > QMP_ERROR_NONE && error->kind <= QMP_ERROR_SYSTEM, "kind %d",
	        (int)error->kind);
	promise(length > 0 && length < sizeof(error->message), "a message of %zu bytes", length);
	promise(memchr(error->class, 0, sizeof(error->class)), "a class without an end");
}

static void take_replies(struct talk *talk)
{
	for (size_t i = 0; i < talk->n_ids; i++) {
		struct qmp_error error = { 0 };
		int taken = talk->ids[i]
		                ? qmp_take_reply(talk->qmp, talk->ids[i], &talk->replies[i], &error)
		                : 0;
		if (!taken)
			continue;
		talk->ids[i] = 0;
		if (taken < 0)
			promise_qmp_error(&error);
		if (taken > 0)
			talk->answers[i] = xstrdup(json_object_to_json_string(talk->replies[i]));
		else if (error.kind == QMP_ERROR_COMMAND)
			talk->answers[i] = xstrdup(error.class);
	}
}

/* False when the client has closed. */
static bool step(struct talk *talk)
{
	struct qmp_error error = { 0 };
	bool open = qmp_process(talk->qmp, &error) == 0;

	promise(open == (qmp_state(talk->qmp) != QMP_CLOSED), "the state is %d",
	        (int)qmp_state(talk->qmp));
	if (!open)
		promise_qmp_error(&error);
	talk->broken |= !open && error.kind == QMP_ERROR_PROTOCOL;
	return open;
}

static bool say(struct talk *talk, const uint8_t *data, size_t size, size_t piece)
{
	bool open = true;

	for (size_t at = 0; open && at < size; at += piece) {
		size_t length = size - at < piece ? size - at : piece;

		promise(send(talk->peer, data + at, length, MSG_NOSIGNAL) == (ssize_t)length,
		        "the socket does not take %zu bytes", length);
		open = step(talk);
	}
	return open && step(talk);
}

/* Everything that the client has said is a command a line. */
static void promise_commands(struct talk *talk)
{
	char text[4096];
	ssize_t got = recv(talk->peer, text, sizeof(text) - 1, MSG_DONTWAIT);
	char *rest = text, *line;

	text[got > 0 ? got : 0] = '\0';
	while ((line = strsep(&rest, "\n")) && *line) {
		cleanup_json struct json_object *json = json_tokener_parse(line);

		promise(rest && json_object_object_get_ex(json, "execute", NULL) &&
		            json_object_object_get_ex(json, "id", NULL),
		        "said: %s", line);
	}
}

static struct talk hold_talk(const uint8_t *data, size_t size, size_t piece)
{
	struct talk talk = { 0 };
	const uint8_t *end = data + size;
	bool open = true;
	int ends[2];

	promise(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "no sockets");
	talk.out = open_memstream(&talk.heard, &talk.length);
	talk.peer = ends[1];
	talk.qmp = qmp_new(ends[0], on_event, &talk);
	promise(talk.out && talk.qmp, "no client");
	while (open && data < end) {
		const uint8_t *cut = memchr(data, 0xff, (size_t)(end - data));
		const uint8_t *to = cut ? cut : end;

		open = say(&talk, data, (size_t)(to - data), piece);
		take_replies(&talk);
		if (open && qmp_state(talk.qmp) == QMP_READY && talk.n_ids < COMMANDS_MOST) {
			talk.ids[talk.n_ids] = qmp_send(talk.qmp, commands[talk.n_ids], NULL, NULL);
			promise(talk.ids[talk.n_ids++], "a ready client sends nothing");
		}
		data = to + 1;
	}
	promise_commands(&talk);
	/* At once: somebody who looks through /proc may hold it for a moment. */
	shutdown(talk.peer, SHUT_RDWR);
	close(talk.peer);
	for (int i = 0; i < 2 && step(&talk); i++)
		;
	promise(qmp_state(talk.qmp) == QMP_CLOSED, "the peer is gone, and it does not see it");
	take_replies(&talk);
	for (size_t i = 0; i < talk.n_ids; i++)
		promise(!talk.ids[i], "no end for command %zu", i);
	qmp_free(talk.qmp);
	fclose(talk.out);
	return talk;
}

static void talk_free(struct talk *talk)
{
	for (size_t i = 0; i < COMMANDS_MOST; i++) {
		json_object_put(talk->replies[i]);
		free(talk->answers[i]);
	}
	free(talk->heard);
}

static void promise_same(const struct talk *whole, const struct talk *pieces)
{
	promise(whole->broken ? strncmp(whole->heard, pieces->heard, whole->length) == 0
	                      : strcmp(whole->heard, pieces->heard) == 0 && !pieces->broken,
	        "whole:\n%s\nin pieces:\n%s", whole->heard, pieces->heard);
	for (size_t i = 0; i < COMMANDS_MOST; i++) {
		const char *answer = whole->answers[i], *other = pieces->answers[i];

		promise(answer ? other && strcmp(answer, other) == 0 : whole->broken || !other,
		        "command %zu, whole:\n%s\nin pieces:\n%s", i, answer ? answer : "",
		        other ? other : "");
	}
}

/* Which threads QEMU has, by what it said. No thread but its own is ever among them. */
static void find_threads(struct json_object *cpus, struct json_object *iothreads)
{
	cleanup_error struct error err = ERROR_INIT;
	struct plan_vcpu vcpus[2] = { 0 };
	struct plan_iothread iothread = { .id = "io0" };
	const struct plan plan = { .vcpus = vcpus,
		                   .n_vcpus = 2,
		                   .vcpus_online = 1,
		                   .iothreads = &iothread,
		                   .n_iothreads = 1 };
	struct threads threads = { 0 };

	promise(threads_count_vcpus(&plan, cpus) <= 2, "more vCPUs than there are");
	if (threads_read(&threads, getpid(), &plan, cpus, iothreads, &err) < 0)
		promise_error(&err);
	for (size_t i = 0; !err.message && i < threads.count; i++) {
		cleanup_free char *path = xasprintf("/proc/self/task/%d", threads.list[i].tid);
		promise(access(path, F_OK) == 0, "thread %d is not its own", threads.list[i].tid);
		promise(threads.list[i].index < 2, "index %d", threads.list[i].index);
	}
	threads_free(&threads);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct talk whole, pieces;

	if (size > 64 * 1024)
		return -1;
	whole = hold_talk(data, size, 1 << 20);
	pieces = hold_talk(data, size, 1 + size % 7);
	promise_same(&whole, &pieces);
	if (whole.replies[1])
		find_threads(whole.replies[1], whole.replies[2]);
	talk_free(&whole);
	talk_free(&pieces);
	return 0;
}
