#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"

struct qmp *qmp_new(int fd, qmp_event_fn *on_event, void *data)
{
	struct qmp *qmp = calloc(1, sizeof(*qmp));

	if (!qmp)
		return NULL;
	if (stream_init(&qmp->stream, fd) < 0) {
		free(qmp);
		return NULL;
	}
	qmp->on_event = on_event;
	qmp->data = data;
	qmp->tail = &qmp->commands;
	return qmp;
}

struct command **qmp_find_command(struct qmp *qmp, int64_t id)
{
	struct command **place = &qmp->commands;

	while (*place && (*place)->id != id)
		place = &(*place)->next;
	return place;
}

static void remove_command(struct qmp *qmp, struct command **place)
{
	struct command *command = *place;

	*place = command->next;
	if (!*place)
		qmp->tail = place;
	json_object_put(command->reply);
	free(command);
}

void qmp_free(struct qmp *qmp)
{
	if (!qmp)
		return;
	while (qmp->commands)
		remove_command(qmp, &qmp->commands);
	stream_release(&qmp->stream);
	free(qmp);
}

int qmp_fd(const struct qmp *qmp)
{
	return qmp->stream.fd;
}

enum qmp_state qmp_state(const struct qmp *qmp)
{
	return qmp->state;
}

short qmp_poll_events(const struct qmp *qmp)
{
	if (qmp->state == QMP_CLOSED)
		return 0;
	return stream_has_unsent(&qmp->stream) ? POLLIN | POLLOUT : POLLIN;
}

static int add(struct json_object *object, const char *key, struct json_object *value)
{
	if (value && json_object_object_add(object, key, value) == 0)
		return 0;
	json_object_put(value);
	return -1;
}

/* What to send; consumes `arguments`. NULL when out of memory. */
static struct json_object *request_new(const char *name, struct json_object *arguments, unsigned id)
{
	struct json_object *request = json_object_new_object();
	bool whole = request && add(request, "execute", json_object_new_string(name)) == 0;

	if (!whole)
		json_object_put(arguments);
	else if (arguments)
		whole = add(request, "arguments", arguments) == 0;
	if (whole && add(request, "id", json_object_new_int64(id)) == 0)
		return request;
	json_object_put(request);
	return NULL;
}

/* Queues a command in any state, with a descriptor beside it unless that is -1; returns its id or
 * 0. Consumes `arguments`. */
static unsigned queue_command(struct qmp *qmp, const char *name, struct json_object *arguments,
                              int fd, struct qmp_error *error)
{
	unsigned id = qmp->last_id + 1 ? qmp->last_id + 1 : 1;
	struct json_object *request = request_new(name, arguments, id);
	struct command *command = calloc(1, sizeof(*command) + strlen(name) + 1);
	const char *line = NULL;
	size_t length;

	if (request && command)
		line = json_object_to_json_string_length(
		    request, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &length);
	if (!line || stream_queue(&qmp->stream, line, length) < 0) {
		json_object_put(request);
		free(command);
		qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot send \"%s\": %s", name,
		              strerror(ENOMEM));
		return 0;
	}
	json_object_put(request);
	if (fd >= 0 && stream_flush_with(&qmp->stream, fd, error) < 0) {
		free(command);
		return 0;
	}
	strcpy(command->name, name);
	command->id = qmp->last_id = id;
	*qmp->tail = command;
	qmp->tail = &command->next;
	/* That the peer is gone is found by qmp_process(), after what it still had to say. */
	stream_flush(&qmp->stream, NULL);
	return id;
}

/* The error of a reply that holds one. */
static int refused(const struct command *command, struct qmp_error *error)
{
	struct json_object *body, *class, *text;

	json_object_object_get_ex(command->reply, "error", &body);
	json_object_object_get_ex(body, "class", &class);
	json_object_object_get_ex(body, "desc", &text);
	qmp_error_set(error, QMP_ERROR_COMMAND, "QEMU refused \"%s\": %s", command->name,
	              json_object_get_string(text));
	if (error)
		snprintf(error->class, sizeof(error->class), "%s", json_object_get_string(class));
	return -1;
}

static int handle_greeting(struct qmp *qmp, struct json_object *message)
{
	struct json_object *greeting;

	if (!json_object_object_get_ex(message, "QMP", &greeting) ||
	    !json_object_is_type(greeting, json_type_object))
		return stream_unexpected(&qmp->stream, &qmp->fault, "its greeting");
	if (!queue_command(qmp, "qmp_capabilities", NULL, -1, &qmp->fault))
		return -1;
	qmp->state = QMP_NEGOTIATING;
	return 0;
}

/* The command that an error without an id is about: the only one without a reply. */
static struct command **find_unanswered(struct qmp *qmp)
{
	struct command **found = NULL;

	for (struct command **place = &qmp->commands; *place; place = &(*place)->next) {
		if ((*place)->reply)
			continue;
		if (found)
			return NULL;
		found = place;
	}
	return found;
}

/* The command that a message answers; NULL where it is no well-formed reply to one under way. */
static struct command **find_answered(struct qmp *qmp, struct json_object *message)
{
	struct json_object *id, *body, *class, *text;
	bool success = json_object_object_get_ex(message, "return", &body);
	struct command **place;

	if (!success && (!json_object_object_get_ex(message, "error", &body) ||
	                 !json_object_object_get_ex(body, "class", &class) ||
	                 !json_object_is_type(class, json_type_string) ||
	                 !json_object_object_get_ex(body, "desc", &text) ||
	                 !json_object_is_type(text, json_type_string)))
		return NULL;
	if (!json_object_object_get_ex(message, "id", &id))
		return success ? NULL : find_unanswered(qmp);
	if (!json_object_is_type(id, json_type_int))
		return NULL;
	place = qmp_find_command(qmp, json_object_get_int64(id));
	return *place && !(*place)->reply ? place : NULL;
}

static int handle_reply(struct qmp *qmp, struct json_object *message)
{
	struct command **place = find_answered(qmp, message);

	if (!place)
		return stream_unexpected(&qmp->stream, &qmp->fault,
		                         "an event or a reply to a command under way");
	if ((*place)->abandoned) {
		remove_command(qmp, place);
		return 0;
	}
	(*place)->reply = json_object_get(message);
	if (qmp->state != QMP_NEGOTIATING)
		return 0;
	if (!json_object_object_get_ex(message, "return", NULL))
		return refused(*place, &qmp->fault);
	remove_command(qmp, place);
	qmp->state = QMP_READY;
	return 0;
}

static int handle_message(struct qmp *qmp, struct json_object *message)
{
	struct json_object *event, *arguments = NULL;

	if (qmp->state == QMP_GREETING)
		return handle_greeting(qmp, message);
	if (!json_object_object_get_ex(message, "event", &event) ||
	    !json_object_is_type(event, json_type_string))
		return handle_reply(qmp, message);
	json_object_object_get_ex(message, "data", &arguments);
	if (qmp->on_event)
		qmp->on_event(qmp->data, json_object_get_string(event), arguments);
	return 0;
}

/* Reads and handles what is there: -1 with the fault filled, 0 when nothing is left, 1 when
 * there may be more. A short read saves the next one. A peer that never stops sending gets the
 * largest message's worth a step. */
static int receive(struct qmp *qmp)
{
	size_t total = 0;
	int got, found;

	do {
		struct json_object *message;

		got = stream_fill(&qmp->stream, &qmp->fault);
		if (got < 0)
			return -1;
		while ((found = stream_next(&qmp->stream, &message, &qmp->fault)) > 0) {
			int handled = handle_message(qmp, message);

			json_object_put(message);
			if (handled < 0)
				return -1;
		}
		if (found < 0)
			return -1;
		total += (size_t)got;
	} while (got == STREAM_READ_SIZE && total < QMP_MESSAGE_MAX);
	return got > 0;
}

static void close_down(struct qmp *qmp)
{
	struct qmp_error *fault = &qmp->fault;
	size_t length = strlen(fault->message);
	const char *wanted = "";

	if (qmp->state == QMP_GREETING)
		wanted = " before its greeting";
	else if (qmp->state == QMP_NEGOTIATING)
		wanted = " before it answered \"qmp_capabilities\"";
	if (fault->kind == QMP_ERROR_CLOSED && !stream_in_message(&qmp->stream))
		snprintf(fault->message + length, sizeof(fault->message) - length, "%s", wanted);
	qmp->state = QMP_CLOSED;
}

int qmp_process(struct qmp *qmp, struct qmp_error *error)
{
	if (qmp->state != QMP_CLOSED) {
		struct qmp_error unwritable;
		bool writable = stream_flush(&qmp->stream, &unwritable) == 0;
		int received = receive(qmp);

		if (received == 0 && !writable)
			qmp->fault = unwritable;
		if (received < 0 || (received == 0 && !writable))
			close_down(qmp);
	}
	if (qmp->state != QMP_CLOSED)
		return 0;
	if (error)
		*error = qmp->fault;
	return -1;
}

unsigned qmp_send(struct qmp *qmp, const char *command, struct json_object *arguments,
                  struct qmp_error *error)
{
	return qmp_send_fd(qmp, command, arguments, -1, error);
}

unsigned qmp_send_fd(struct qmp *qmp, const char *command, struct json_object *arguments, int fd,
                     struct qmp_error *error)
{
	enum qmp_error_kind kind = qmp->fault.kind;

	if (qmp->state == QMP_READY) {
		if (fd < 0 || !stream_has_unsent(&qmp->stream))
			return queue_command(qmp, command, arguments, fd, error);
		json_object_put(arguments);
		qmp_error_set(error, QMP_ERROR_SYSTEM,
		              "cannot pass a descriptor to QEMU: its monitor is busy");
		return 0;
	}
	json_object_put(arguments);
	if (qmp->state != QMP_CLOSED)
		qmp_error_set(error, QMP_ERROR_SYSTEM,
		              "cannot send \"%s\": QEMU has not answered \"qmp_capabilities\" yet",
		              command);
	else /* that qmp_capabilities was refused is not an answer to this command */
		qmp_error_set(error, kind == QMP_ERROR_COMMAND ? QMP_ERROR_CLOSED : kind,
		              "cannot send \"%s\": %.400s", command, qmp->fault.message);
	return 0;
}

int qmp_take_reply(struct qmp *qmp, unsigned id, struct json_object **reply,
                   struct qmp_error *error)
{
	struct command **place = qmp_find_command(qmp, id);
	struct command *command = *place;
	struct json_object *value;
	int result = 1;

	if (!command)
		return qmp_error_set(error, QMP_ERROR_SYSTEM,
		                     "no command with the id %u is under way", id);
	if (!command->reply && qmp->state != QMP_CLOSED)
		return 0;
	if (!command->reply)
		return qmp_error_set(error, qmp->fault.kind, "no answer to \"%s\": %.400s",
		                     command->name, qmp->fault.message);
	if (!json_object_object_get_ex(command->reply, "return", &value))
		result = refused(command, error);
	else if (reply)
		*reply = json_object_get(value);
	remove_command(qmp, place);
	return result;
}
