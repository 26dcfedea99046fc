#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include "qmp_peer.h"

#define assert_fails(call, error, expected_kind)                                                   \
	do {                                                                                       \
		assert_int_equal((call), -1);                                                      \
		assert_int_equal((error)->kind, (expected_kind));                                  \
	} while (0)

#define assert_contains(text, part)                                                                \
	do {                                                                                       \
		if (!strstr((text), (part)))                                                       \
			fail_msg("\"%s\" is not in \"%s\"", (part), (text));                       \
	} while (0)

static int64_t now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

/* `before`, then `count` times `fill`, then `after`; the caller frees. */
static char *padded(const char *before, char fill, size_t count, const char *after)
{
	size_t head = strlen(before), tail = strlen(after);
	char *text = malloc(head + count + tail + 1);

	assert_non_null(text);
	memcpy(text, before, head);
	memset(text + head, fill, count);
	memcpy(text + head + count, after, tail + 1);
	return text;
}

static struct json_object *big_arguments(void)
{
	struct json_object *arguments = json_object_new_object();
	char *text = padded("", 'x', MIB, "");

	json_object_object_add(arguments, "command-line", json_object_new_string(text));
	free(text);
	return arguments;
}

/* Answers every command with the length of its line. */
static void serve_lengths(struct peer *peer)
{
	struct json_object *command;
	char body[64];

	while ((command = hear(peer))) {
		snprintf(body, sizeof(body), "\"return\": %zu", strlen(peer->line));
		answer(peer, command, body);
	}
}

static void greet_and_hear_out(struct peer *peer)
{
	greet(peer);
	hear_out(peer);
}

/* Pieces */

static void say_byte_by_byte(struct fixture *f, const char *text)
{
	struct qmp_error error;

	for (; *text; text++) {
		say_bytes(&f->peer, text, 1);
		assert_int_equal(qmp_process(f->qmp, &error), 0);
	}
}

static void messages_may_come_byte_by_byte(void **state)
{
	struct fixture *f = *state;
	struct json_object *reply = NULL;
	struct qmp_error error;
	char *line;
	unsigned id;

	start(f, NULL);
	say_byte_by_byte(f, "\r\n" GREETING);
	assert_int_equal(qmp_state(f->qmp), QMP_NEGOTIATING);
	line = answer_to(hear(&f->peer), "\"return\": {}");
	say_byte_by_byte(f, line);
	free(line);
	assert_int_equal(qmp_state(f->qmp), QMP_READY);
	id = qmp_send(f->qmp, "query-name", NULL, &error);
	assert_true(id > 0);
	say_byte_by_byte(f, "{\"event\": \"STOP\", \"data\": {\"a b\": \"\\u00e9 \\\"}\"}}\r\n");
	assert_string_equal(f->events, "STOP { \"a b\": \"\xc3\xa9 \\\"}\" } ");
	line = answer_to(hear(&f->peer), "\"return\": [1.5, \"  \", -20]");
	say_byte_by_byte(f, line);
	free(line);
	assert_int_equal(qmp_take_reply(f->qmp, id, &reply, &error), 1);
	assert_string_equal(json_object_to_json_string(reply), "[ 1.5, \"  \", -20 ]");
	json_object_put(reply);
}

static void greeting_event_and_reply_may_come_in_one_write(void **state)
{
	struct fixture *f = *state;
	struct json_object *id;
	struct qmp_error error;
	char text[512];

	/* The id that clients give qmp_capabilities is learned from one of them. */
	start(f, NULL);
	say(&f->peer, GREETING);
	assert_int_equal(qmp_process(f->qmp, &error), 0);
	id = hear(&f->peer);
	snprintf(text, sizeof(text), "%s{\"event\": \"RESUME\"}\n{\"return\": {}, \"id\": %d}\r\n",
	         GREETING, json_object_get_int(json_object_object_get(id, "id")));
	json_object_put(id);
	hang_up(&f->peer);
	qmp_free(f->qmp);

	start(f, NULL);
	say(&f->peer, text);
	assert_int_equal(qmp_process(f->qmp, &error), 0);
	assert_int_equal(qmp_state(f->qmp), QMP_READY);
	assert_string_equal(f->events, "RESUME ");
}

static void a_reply_of_1_mib_arrives_whole(void **state)
{
	struct fixture *f = *state;
	struct json_object *reply = NULL;
	struct qmp_error error;
	char *body = padded("\"return\": \"", 'y', MIB, "\"");
	char *line;
	unsigned id;

	start_ready(f, NULL);
	id = qmp_send(f->qmp, "query-qmp-schema", NULL, &error);
	line = answer_to(hear(&f->peer), body);
	for (size_t done = 0, length = strlen(line); done < length; done += 1000) {
		say_bytes(&f->peer, line + done, length - done < 1000 ? length - done : 1000);
		assert_int_equal(qmp_process(f->qmp, &error), 0);
	}
	assert_int_equal(qmp_wait_reply(f->qmp, id, LIMIT_MS, &reply, &error), 0);
	assert_int_equal(json_object_get_string_len(reply), MIB);
	json_object_put(reply);
	free(line);
	free(body);
}

static void a_command_of_1_mib_is_written_in_parts_to_a_slow_reader(void **state)
{
	struct fixture *f = *state;
	struct json_object *reply = NULL;
	struct qmp_error error;
	unsigned id;

	start_ready(f, NULL);
	assert_int_equal(qmp_poll_events(f->qmp), POLLIN);
	id = qmp_send(f->qmp, "human-monitor-command", big_arguments(), &error);
	assert_true(id > 0);
	assert_int_equal(qmp_poll_events(f->qmp), POLLIN | POLLOUT);
	run_in_thread(f, serve_lengths);
	/* One more behind it stays in order. */
	assert_int_equal(qmp_call(f->qmp, "stop", NULL, LIMIT_MS, NULL, &error), 0);
	assert_int_equal(qmp_poll_events(f->qmp), POLLIN);
	assert_int_equal(qmp_take_reply(f->qmp, id, &reply, &error), 1);
	assert_true(json_object_get_int64(reply) > (int64_t)MIB);
	json_object_put(reply);
}

static void talk_over_the_client(struct peer *peer)
{
	char *event = padded("{\"event\": \"", 'Z', MIB, "\"}\n");

	greet(peer);
	say(peer, event); /* is not read before the command is written, unless both go on at once */
	free(event);
	answer(peer, hear(peer), "\"return\": {}");
	hear_out(peer);
}

static void large_messages_may_cross(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start_ready(f, talk_over_the_client);
	assert_int_equal(qmp_call(f->qmp, "x", big_arguments(), LIMIT_MS, NULL, &error), 0);
	assert_memory_equal(f->events, "ZZZZ", 4);
}

/* Events and replies */

static void chatter(struct peer *peer)
{
	struct json_object *command;

	greet(peer);
	command = hear(peer);
	say(peer, "{\"timestamp\": {\"seconds\": 1}, \"event\": \"NEVER_HEARD_OF\"}\r\n"
	          "{\"event\": \"RESET\", \"data\": {\"guest\": true}, \"new\": [null]}\r\n");
	answer(peer, command, "\"return\": {\"running\": true}");
	hear_out(peer);
}

static void unknown_events_between_call_and_reply_go_to_the_handler(void **state)
{
	struct fixture *f = *state;
	struct json_object *reply = NULL;
	struct qmp_error error;

	start_ready(f, chatter);
	assert_int_equal(qmp_call(f->qmp, "query-status", NULL, LIMIT_MS, &reply, &error), 0);
	assert_true(json_object_get_boolean(json_object_object_get(reply, "running")));
	assert_string_equal(f->events, "NEVER_HEARD_OF RESET { \"guest\": true } ");
	json_object_put(reply);
}

static void refuse_all(struct peer *peer)
{
	struct json_object *command;

	greet(peer);
	while ((command = hear(peer)))
		answer(peer, command,
		       "\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"Device 'x' not "
		       "found\"}");
}

static void an_error_reply_names_the_command_and_its_class(void **state)
{
	struct fixture *f = *state;
	struct json_object *reply = (struct json_object *)f;
	struct qmp_error error;

	start_ready(f, refuse_all);
	assert_fails(qmp_call(f->qmp, "device_add", NULL, LIMIT_MS, &reply, &error), &error,
	             QMP_ERROR_COMMAND);
	assert_string_equal(error.class, "DeviceNotFound");
	assert_string_equal(error.message, "QEMU refused \"device_add\": Device 'x' not found");
	assert_ptr_equal(reply, f); /* results are written only on success */
	assert_int_equal(qmp_state(f->qmp), QMP_READY);
	assert_int_equal(qmp_call(f->qmp, "device_add", NULL, LIMIT_MS, NULL, NULL), -1);
}

#define ERROR_WITHOUT_ID                                                                           \
	"{\"error\": {\"class\": \"GenericError\", \"desc\": \"Invalid JSON syntax\"}}\r\n"

static void an_error_without_id_belongs_to_the_only_command_under_way(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;
	unsigned first, second;

	start_ready(f, NULL);
	first = qmp_send(f->qmp, "stop", NULL, &error);
	say(&f->peer, ERROR_WITHOUT_ID);
	assert_fails(qmp_wait_reply(f->qmp, first, LIMIT_MS, NULL, &error), &error,
	             QMP_ERROR_COMMAND);
	assert_string_equal(error.message, "QEMU refused \"stop\": Invalid JSON syntax");

	first = qmp_send(f->qmp, "stop", NULL, &error);
	second = qmp_send(f->qmp, "cont", NULL, &error);
	assert_true(first && second);
	say(&f->peer, ERROR_WITHOUT_ID);
	assert_fails(qmp_wait_reply(f->qmp, first, LIMIT_MS, NULL, &error), &error,
	             QMP_ERROR_PROTOCOL);
}

static void an_error_while_negotiating_is_that_of_qmp_capabilities(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start(f, NULL);
	say(&f->peer, GREETING ERROR_WITHOUT_ID);
	assert_fails(qmp_wait_ready(f->qmp, LIMIT_MS, &error), &error, QMP_ERROR_COMMAND);
	assert_string_equal(error.class, "GenericError");
	assert_string_equal(error.message,
	                    "QEMU refused \"qmp_capabilities\": Invalid JSON syntax");
	assert_int_equal(qmp_state(f->qmp), QMP_CLOSED);
	assert_int_equal(qmp_send(f->qmp, "stop", NULL, &error), 0);
	assert_int_equal(error.kind, QMP_ERROR_CLOSED);
}

static void two_commands_may_be_answered_in_either_order(void **state)
{
	struct fixture *f = *state;
	struct json_object *one, *two, *reply = NULL;
	struct qmp_error error;

	start_ready(f, NULL);
	for (int swapped = 0; swapped <= 1; swapped++) {
		unsigned first = qmp_send(f->qmp, "first", NULL, &error);
		unsigned second = qmp_send(f->qmp, "second", NULL, &error);

		one = hear(&f->peer);
		two = hear(&f->peer);
		if (!swapped)
			answer(&f->peer, one, "\"return\": 1");
		answer(&f->peer, two, "\"return\": 2");
		if (swapped) {
			assert_int_equal(qmp_wait_reply(f->qmp, second, LIMIT_MS, &reply, &error),
			                 0);
			assert_int_equal(json_object_get_int(reply), 2);
			json_object_put(reply);
			assert_int_equal(qmp_take_reply(f->qmp, first, &reply, &error), 0);
			answer(&f->peer, one, "\"return\": 1");
		}
		assert_int_equal(qmp_wait_reply(f->qmp, first, LIMIT_MS, &reply, &error), 0);
		assert_int_equal(json_object_get_int(reply), 1);
		json_object_put(reply);
		if (!swapped) {
			assert_int_equal(qmp_take_reply(f->qmp, second, &reply, &error), 1);
			assert_int_equal(json_object_get_int(reply), 2);
			json_object_put(reply);
		}
		assert_fails(qmp_take_reply(f->qmp, second, &reply, &error), &error,
		             QMP_ERROR_SYSTEM);
	}
}

/* Reads what has come with one descriptor beside it, which is returned. */
static int take_descriptor(int socket, char *text, size_t room)
{
	struct iovec part = { text, room - 1 };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} beside;
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = &beside,
		.msg_controllen = sizeof(beside),
	};
	ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT);
	int fd;

	assert_true(got > 0);
	text[got] = '\0';
	assert_non_null(CMSG_FIRSTHDR(&message));
	assert_int_equal(beside.header.cmsg_type, SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(&beside.header), sizeof(fd));
	return fd;
}

static void a_descriptor_goes_beside_its_command(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;
	struct json_object *name = json_object_new_object();
	char text[256], word[8] = "";
	int ends[2];

	start_ready(f, NULL);
	assert_int_equal(pipe(ends), 0);
	json_object_object_add(name, "fdname", json_object_new_string("dump"));
	assert_true(qmp_send_fd(f->qmp, "getfd", name, ends[1], &error) > 0);
	close(ends[1]);
	int fd = take_descriptor(f->peer.fd, text, sizeof(text));
	assert_non_null(strstr(text, "\"getfd\""));
	assert_int_equal(write(fd, "through", 7), 7);
	assert_int_equal(read(ends[0], word, 7), 7);
	assert_string_equal(word, "through");
	/* Behind what the peer has not read it would be another command's. */
	while (qmp_poll_events(f->qmp) == POLLIN)
		assert_true(qmp_send(f->qmp, "many", NULL, &error) > 0);
	assert_int_equal(qmp_send_fd(f->qmp, "getfd", NULL, fd, &error), 0);
	assert_int_equal(error.kind, QMP_ERROR_SYSTEM);
	close(fd);
	close(ends[0]);
}

static void send_in_handler(void *data, const char *event, struct json_object *arguments)
{
	struct fixture *f = data;

	(void)arguments;
	assert_true(qmp_send(f->qmp, event, NULL, NULL) > 0);
}

static void a_handler_may_send_a_command(void **state)
{
	struct fixture *f = *state;
	struct json_object *command;
	struct qmp_error error;

	f->on_event = send_in_handler;
	start_ready(f, NULL);
	say(&f->peer, "{\"event\": \"A\"}{\"event\": \"B\"}\n");
	assert_int_equal(qmp_process(f->qmp, &error), 0);
	for (const char *name = "A"; name; name = *name == 'A' ? "B" : NULL) {
		command = hear(&f->peer);
		assert_string_equal(
		    json_object_get_string(json_object_object_get(command, "execute")), name);
		json_object_put(command);
	}
}

static void arguments_are_consumed_also_on_failure(void **state)
{
	struct fixture *f = *state;
	struct json_object *arguments = json_object_new_object();
	struct qmp_error error;

	start(f, NULL);
	/* Before READY nothing is written but qmp_capabilities. */
	assert_int_equal(qmp_send(f->qmp, "cont", json_object_get(arguments), &error), 0);
	assert_string_equal(error.message, "cannot send \"cont\": QEMU has not answered "
	                                   "\"qmp_capabilities\" yet");
	assert_int_equal(recv(f->peer.fd, &(char){ 0 }, 1, MSG_DONTWAIT), -1);
	hang_up(&f->peer);
	assert_fails(qmp_wait_ready(f->qmp, LIMIT_MS, &error), &error, QMP_ERROR_CLOSED);
	assert_fails(qmp_call(f->qmp, "cont", json_object_get(arguments), LIMIT_MS, NULL, &error),
	             &error, QMP_ERROR_CLOSED);
	assert_string_equal(error.message,
	                    "cannot send \"cont\": QEMU closed the connection before its greeting");
	assert_int_equal(json_object_put(arguments), 1); /* ours was the last reference */
}

/* The peer goes away */

static void closing_before_the_greeting_is_told(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start(f, NULL);
	hang_up(&f->peer);
	assert_fails(qmp_wait_ready(f->qmp, LIMIT_MS, &error), &error, QMP_ERROR_CLOSED);
	assert_string_equal(error.message, "QEMU closed the connection before its greeting");
	assert_int_equal(qmp_state(f->qmp), QMP_CLOSED);
	assert_int_equal(qmp_poll_events(f->qmp), 0);
	memset(&error, 0, sizeof(error));
	assert_fails(qmp_process(f->qmp, &error), &error, QMP_ERROR_CLOSED);
}

static void closing_while_negotiating_is_told(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start(f, NULL);
	say(&f->peer, GREETING);
	hang_up(&f->peer);
	assert_fails(qmp_wait_ready(f->qmp, LIMIT_MS, &error), &error, QMP_ERROR_CLOSED);
	assert_string_equal(error.message,
	                    "QEMU closed the connection before it answered \"qmp_capabilities\"");
}

static void closing_in_the_middle_of_a_message_shows_its_beginning(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;
	unsigned id;

	start_ready(f, NULL);
	id = qmp_send(f->qmp, "query-status", NULL, &error);
	say(&f->peer, "{\"return\": {\"runn");
	hang_up(&f->peer);
	assert_fails(qmp_wait_reply(f->qmp, id, LIMIT_MS, NULL, &error), &error, QMP_ERROR_CLOSED);
	assert_string_equal(error.message,
	                    "no answer to \"query-status\": QEMU closed the connection in the "
	                    "middle of a message: {\"return\": {\"runn");
}

static void reply_and_close(struct peer *peer)
{
	greet(peer);
	answer(peer, hear(peer), "\"return\": {}");
	say(peer, "{\"event\": \"SHUTDOWN\"}\r\n");
}

static void a_reply_right_before_the_close_is_delivered(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start_ready(f, reply_and_close);
	assert_int_equal(qmp_call(f->qmp, "quit", NULL, LIMIT_MS, NULL, &error), 0);
	assert_fails(qmp_call(f->qmp, "stop", NULL, LIMIT_MS, NULL, &error), &error,
	             QMP_ERROR_CLOSED);
	assert_string_equal(f->events, "SHUTDOWN ");
}

static void what_came_before_the_close_is_handled_when_writing_fails(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;
	unsigned first, second;

	start_ready(f, NULL);
	first = qmp_send(f->qmp, "unread", NULL, &error); /* so the close is a reset */
	say(&f->peer, "{\"event\": \"SHUTDOWN\"}\r\n");
	hang_up(&f->peer);
	second = qmp_send(f->qmp, "stop", NULL, &error); /* no SIGPIPE either */
	assert_true(second > 0);
	assert_fails(qmp_wait_reply(f->qmp, second, LIMIT_MS, NULL, &error), &error,
	             QMP_ERROR_CLOSED);
	assert_string_equal(error.message, "no answer to \"stop\": QEMU closed the connection");
	assert_string_equal(f->events, "SHUTDOWN ");
	assert_fails(qmp_take_reply(f->qmp, first, NULL, &error), &error, QMP_ERROR_CLOSED);
}

static void a_peer_that_reads_no_more_counts_as_closed(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start_ready(f, NULL);
	shutdown(f->peer.fd, SHUT_RD);
	say(&f->peer, "{\"event\": \"STOP\"}\r\n");
	assert_fails(qmp_call(f->qmp, "stop", NULL, -1, NULL, &error), &error, QMP_ERROR_CLOSED);
	assert_string_equal(f->events, "STOP ");
}

static void hear_a_little_and_close(struct peer *peer)
{
	greet(peer);
	getc(peer->in);
}

static void closing_in_the_middle_of_a_command_is_told(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start_ready(f, hear_a_little_and_close);
	assert_fails(qmp_call(f->qmp, "x", big_arguments(), LIMIT_MS, NULL, &error), &error,
	             QMP_ERROR_CLOSED);
}

/* The peer breaks the protocol */

static void assert_broken(struct fixture *f, const char *part)
{
	struct qmp_error error;

	assert_fails(qmp_process(f->qmp, &error), &error, QMP_ERROR_PROTOCOL);
	assert_int_equal(qmp_state(f->qmp), QMP_CLOSED);
	assert_contains(error.message, "QEMU broke the protocol: expected ");
	assert_contains(error.message, part);
	for (const char *c = error.message; *c; c++)
		assert_in_range(*c, ' ', '~');
}

/* So that the next one can start. */
static void end_talk(struct fixture *f)
{
	hang_up(&f->peer);
	qmp_free(f->qmp);
	f->qmp = NULL;
}

static void garbage_is_a_protocol_error_that_shows_it(void **state)
{
	static const struct {
		const char *text, *part;
	} cases[] = {
		{ "SSH-2.0-OpenSSH_9.2\r\n", "a JSON object, got: SSH-2.0-OpenSSH_9.2" },
		{ "[1]\n", "a JSON object, got: [1]" },
		{ "17\n", "a JSON object, got: 17" },
		{ "null\n", "a JSON object, got: null" },
		{ "\r\n\x01\x02\xff\n", "got: blanks or unprintable bytes" },
		{ "{\"event\" 1}\n", "got: {\"event\" 1}" },
		{ "{\"event\": tru3}", "JSON (boolean expected), got: {\"event\": tru3}" },
		{ "{\"\xc3\xa9\t\": }", "got: {\"   \": }" },
		{ "{\"event\": /* none */ \"STOP\"}\n", "got: {\"event\": /* none */" },
		{ "{'event': 'STOP'}\n", "got: {'event': 'STOP'}" },
		{ "{'\"': [ {}, {} ]}\n", "expected JSON, got: {'\"': [ {}, {} ]}" },
		{ "{\"a\": 0, \"0123456789012345678901234567890123456789012345678\": 0}\n",
		  "got: {\"a\": 0, \"0123456789012345678901234567890123456789012345678\"..." },
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		start_ready(f, NULL);
		say(&f->peer, cases[i].text);
		assert_broken(f, cases[i].part);
		end_talk(f);
	}
	start_ready(f, NULL);
	say_bytes(&f->peer, "\0\0", 2);
	assert_broken(f, "a JSON object");
}

static void nesting_without_end_is_a_protocol_error(void **state)
{
	struct fixture *f = *state;
	char *text = padded("{\"return\": ", '[', 5000, "");

	start_ready(f, NULL);
	say(&f->peer, text);
	free(text);
	assert_broken(f, "got: {\"return\": [[[[");
}

static void a_wrong_greeting_is_a_protocol_error(void **state)
{
	static const char *const greetings[] = { "{\"qmp\": {}}\r\n", "{\"QMP\": 1}\r\n",
		                                 "{\"event\": \"STOP\"}\r\n", ERROR_WITHOUT_ID };
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(greetings) / sizeof(*greetings); i++) {
		start(f, NULL);
		say(&f->peer, greetings[i]);
		assert_broken(f, "its greeting, got: {");
		end_talk(f);
	}
	assert_string_equal(f->events, "");
}

static void what_is_neither_event_nor_awaited_reply_is_a_protocol_error(void **state)
{
	static const char *const messages[] = {
		GREETING,
		ERROR_WITHOUT_ID,
		"{}",
		"{\"event\": 1}",
		"{\"return\": {}}",
		"{\"return\": {}, \"id\": 4711}",
		"{\"return\": {}, \"id\": \"1\"}",
		"{\"return\": {}, \"id\": -1}",
		"{\"error\": {}, \"id\": 4711}",
		"{\"error\": {\"class\": \"GenericError\"}}",
	};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(messages) / sizeof(*messages); i++) {
		start_ready(f, NULL);
		say(&f->peer, messages[i]);
		assert_broken(f, "an event or a reply to a command under way, got: {");
		end_talk(f);
	}
}

static void a_second_reply_to_a_command_is_a_protocol_error(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;
	unsigned id;
	char *line;

	start_ready(f, NULL);
	id = qmp_send(f->qmp, "stop", NULL, &error);
	line = answer_to(hear(&f->peer), "\"return\": {}");
	say(&f->peer, line);
	say(&f->peer, line);
	free(line);
	assert_broken(f, "got: {\"return\": {}, \"id\"");
	assert_int_equal(qmp_take_reply(f->qmp, id, NULL, &error), 1); /* the first one stands */
}

static void reply_too_much(struct peer *peer)
{
	char *body = padded("\"return\": \"", 'y', QMP_MESSAGE_MAX, "\"");

	greet(peer);
	answer(peer, hear(peer), body);
	free(body);
}

static void a_reply_that_is_too_large_is_a_protocol_error(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start_ready(f, reply_too_much);
	assert_fails(qmp_call(f->qmp, "query-all", NULL, LIMIT_MS, NULL, &error), &error,
	             QMP_ERROR_PROTOCOL);
	assert_contains(error.message, "no answer to \"query-all\": QEMU broke the protocol: "
	                               "expected a message of at most 16 MiB, got: {\"return\": "
	                               "\"yyyy");
}

/* A reply that returns an array of `first` and so many times `more`. */
static void reply_many(struct peer *peer, const char *first, const char *more, size_t count)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	fprintf(out, "\"return\": [%s", first);
	while (count--)
		fputs(more, out);
	fputc(']', out);
	fclose(out);
	answer(peer, hear(peer), text);
	free(text);
}

static void reply_too_many(struct peer *peer)
{
	greet(peer);
	reply_many(peer, "{}", ",{}", QMP_VALUES_MAX / 5);
	hear_out(peer);
}

static void a_reply_of_too_many_values_is_a_protocol_error(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start_ready(f, reply_too_many);
	assert_fails(qmp_call(f->qmp, "query-all", NULL, LIMIT_MS, NULL, &error), &error,
	             QMP_ERROR_PROTOCOL);
	assert_contains(error.message, "expected a message of at most 250000 values, got: "
	                               "{\"return\": [{},{},");
}

/* Also where a word looks like them, and messages that have many each. */
static void reply_many_values(struct peer *peer)
{
	greet(peer);
	for (int i = 0; i < 3; i++)
		reply_many(peer, "0", ",1", QMP_VALUES_MAX - 100);
	reply_many(peer, "[\"\\\\\\\"\", \"\"]", ",\",[{\\\"\"", QMP_VALUES_MAX / 2);
}

static void a_reply_of_many_values_is_none(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start_ready(f, reply_many_values);
	for (int i = 0; i < 4; i++)
		assert_int_equal(qmp_call(f->qmp, "query-all", NULL, LIMIT_MS, NULL, &error), 0);
}

static void flood_blanks(struct peer *peer)
{
	char *blanks = padded("", ' ', QMP_MESSAGE_MAX + MIB, "\n");

	greet(peer);
	say(peer, blanks);
	free(blanks);
	hear_out(peer);
}

static void a_flood_of_blanks_is_a_protocol_error(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	start_ready(f, flood_blanks);
	assert_fails(qmp_call(f->qmp, "stop", NULL, LIMIT_MS, NULL, &error), &error,
	             QMP_ERROR_PROTOCOL);
	assert_contains(error.message, "at most 16 MiB, got: blanks");
}

static void what_follows_a_reply_does_not_hold_it_back(void **state)
{
	static const char *const after[] = { "/", "/* a comment", "]", "x" };
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(after) / sizeof(*after); i++) {
		struct qmp_error error;
		unsigned id;
		char *line;

		start_ready(f, NULL);
		id = qmp_send(f->qmp, "stop", NULL, &error);
		line = answer_to(hear(&f->peer), "\"return\": {}");
		line[strcspn(line, "\r\n")] = '\0';
		say_bytes(&f->peer, line, strlen(line));
		say(&f->peer, after[i]);
		free(line);
		assert_broken(f, "a JSON object, got: ");
		assert_int_equal(qmp_take_reply(f->qmp, id, NULL, &error), 1);
		end_talk(f);
	}
}

/* Time */

static void a_peer_that_never_greets_is_given_up(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;
	int64_t before = now_ms();

	start(f, NULL);
	assert_fails(qmp_wait_ready(f->qmp, 20, &error), &error, QMP_ERROR_TIMEOUT);
	assert_true(now_ms() - before >= 20);
	assert_string_equal(error.message, "QEMU did not send its greeting within 20 ms");
	say(&f->peer, GREETING);
	assert_fails(qmp_wait_ready(f->qmp, 20, &error), &error, QMP_ERROR_TIMEOUT);
	assert_string_equal(error.message, "QEMU did not answer \"qmp_capabilities\" within 20 ms");
	/* Not too late. */
	answer(&f->peer, hear(&f->peer), "\"return\": {}");
	assert_int_equal(qmp_wait_ready(f->qmp, 0, &error), 0);
}

static void a_peer_that_never_answers_is_given_up(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;
	int64_t before = now_ms();

	start_ready(f, greet_and_hear_out);
	assert_fails(qmp_call(f->qmp, "stop", NULL, 1000, NULL, &error), &error, QMP_ERROR_TIMEOUT);
	assert_true(now_ms() - before >= 1000);
	assert_string_equal(error.message, "QEMU did not answer \"stop\" within 1 s");
	assert_fails(qmp_call(f->qmp, "x", big_arguments(), 1, NULL, &error), &error,
	             QMP_ERROR_TIMEOUT);
	assert_int_equal(qmp_state(f->qmp), QMP_READY);
}

static void say_it_again(void *data, const char *event, struct json_object *arguments)
{
	struct fixture *f = data;

	(void)event;
	(void)arguments;
	say(&f->peer, "{\"event\": \"E\"}\n");
}

static void a_flood_of_events_does_not_extend_the_time_limit(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;

	f->on_event = say_it_again;
	start_ready(f, NULL);
	say_it_again(f, NULL, NULL);
	assert_fails(qmp_call(f->qmp, "stop", NULL, 50, NULL, &error), &error, QMP_ERROR_TIMEOUT);
}

static void answer_late(struct peer *peer)
{
	struct json_object *late;

	greet(peer);
	late = hear(peer);
	for (struct json_object *command; (command = hear(peer)); late = NULL) {
		if (late)
			answer(peer, late, "\"return\": \"late\"");
		answer(peer, command, "\"return\": \"in time\"");
	}
	json_object_put(late);
}

static void a_reply_after_its_timeout_is_dropped(void **state)
{
	struct fixture *f = *state;
	struct json_object *reply = NULL;
	struct qmp_error error;

	start_ready(f, answer_late);
	assert_fails(qmp_call(f->qmp, "stop", NULL, 10, &reply, &error), &error, QMP_ERROR_TIMEOUT);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(qmp_call(f->qmp, "cont", NULL, LIMIT_MS, &reply, &error), 0);
		assert_string_equal(json_object_get_string(reply), "in time");
		json_object_put(reply);
	}
}

static void a_sent_command_can_be_waited_for_again_after_a_timeout(void **state)
{
	struct fixture *f = *state;
	struct qmp_error error;
	unsigned id;

	start_ready(f, NULL);
	id = qmp_send(f->qmp, "stop", NULL, &error);
	assert_fails(qmp_wait_reply(f->qmp, id, 0, NULL, &error), &error, QMP_ERROR_TIMEOUT);
	answer(&f->peer, hear(&f->peer), "\"return\": {}");
	assert_int_equal(qmp_wait_reply(f->qmp, id, 0, NULL, &error), 0);
}

static pthread_t client_thread;

static void on_signal(int signal)
{
	(void)signal;
}

static void signal_while_hearing(struct peer *peer)
{
	int c;

	greet(peer);
	for (size_t heard = 0; (c = getc(peer->in)) != '\n' && c != EOF; heard++)
		if (heard % 1024 == 0)
			pthread_kill(client_thread, SIGUSR1);
	for (int i = 0; i < 100; i++)
		pthread_kill(client_thread, SIGUSR1);
	answer(peer, hear(peer), "\"return\": {}");
	hear_out(peer);
}

static void signals_do_not_disturb_a_call(void **state)
{
	struct fixture *f = *state;
	struct sigaction action = { .sa_handler = on_signal }, before;
	struct qmp_error error;

	client_thread = pthread_self();
	sigaction(SIGUSR1, &action, &before); /* no SA_RESTART */
	start_ready(f, signal_while_hearing);
	assert_true(qmp_send(f->qmp, "unanswered", big_arguments(), &error) > 0);
	assert_int_equal(qmp_call(f->qmp, "stop", NULL, LIMIT_MS, NULL, &error), 0);
	sigaction(SIGUSR1, &before, NULL);
}

/* Connecting */

static int listen_at(const char *directory, const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int at = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);

	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", at, name);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(fd, 1), 0);
	close(at);
	return fd;
}

static void sockets_are_reached_by_short_and_long_paths(void **state)
{
	char top[] = "/tmp/test_qmp.XXXXXX";
	char deep[160];
	struct qmp_error error;

	(void)state;
	assert_non_null(mkdtemp(top));
	snprintf(deep, sizeof(deep), "%s/%0120d", top, 0); /* sun_path has 108 bytes */
	assert_int_equal(mkdir(deep, 0700), 0);
	for (const char *directory = top; directory; directory = directory == top ? deep : NULL) {
		int listener = listen_at(directory, "s");
		char path[170];
		int fd;

		snprintf(path, sizeof(path), "%s/s", directory);
		fd = qmp_connect(path, &error);
		assert_true(fd >= 0);
		assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
		close(fd);
		close(listener);
		assert_fails(qmp_connect(path, &error), &error, QMP_ERROR_SYSTEM);
		assert_contains(error.message, path);
		assert_contains(error.message, "Connection refused");
		assert_int_equal(unlink(path), 0);
		assert_fails(qmp_connect(path, &error), &error, QMP_ERROR_SYSTEM);
		assert_contains(error.message, path);
		assert_contains(error.message, "No such file or directory");
	}
	rmdir(deep);
	rmdir(top);
}

/* The real thing */

static pid_t start_qemu(int fd)
{
	char chardev[64];
	pid_t pid;

	snprintf(chardev, sizeof(chardev), "socket,id=m,fd=%d", fd);
	pid = fork();
	assert_true(pid >= 0);
	if (pid)
		return pid;
	fcntl(fd, F_SETFD, 0);
	execlp("qemu-system-x86_64", "qemu-system-x86_64", "-machine", "none", "-nodefaults",
	       "-display", "none", "-chardev", chardev, "-mon", "chardev=m,mode=control",
	       (char *)NULL);
	_exit(127);
}

static void qemu_tells_its_version_and_quits(void **state)
{
	struct fixture *f = *state;
	struct json_object *reply = NULL, *version = NULL;
	struct qmp_error error;
	struct pollfd poller;
	int ends[2], status;
	pid_t pid;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	pid = start_qemu(ends[1]);
	close(ends[1]);
	f->qmp = qmp_new(ends[0], record_event, f);
	if (qmp_wait_ready(f->qmp, LIMIT_MS, &error) < 0) {
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
			fail_msg("this test needs qemu-system-x86_64 in PATH: there is none");
		fail_msg("QEMU is not ready: %s", error.message);
	}
	assert_int_equal(qmp_call(f->qmp, "query-version", NULL, LIMIT_MS, &reply, &error), 0);
	assert_true(json_object_object_get_ex(reply, "qemu", &version));
	assert_true(json_object_get_int(json_object_object_get(version, "major")) >= 5);
	json_object_put(reply);
	assert_fails(qmp_call(f->qmp, "no-such", NULL, LIMIT_MS, NULL, &error), &error,
	             QMP_ERROR_COMMAND);
	assert_string_equal(error.class, "CommandNotFound");
	assert_contains(error.message, "QEMU refused \"no-such\": ");
	assert_int_equal(qmp_call(f->qmp, "quit", NULL, LIMIT_MS, NULL, &error), 0);
	poller = (struct pollfd){ .fd = qmp_fd(f->qmp), .events = POLLIN };
	while (qmp_process(f->qmp, &error) == 0)
		assert_int_equal(poll(&poller, 1, LIMIT_MS), 1);
	assert_int_equal(error.kind, QMP_ERROR_CLOSED);
	assert_contains(f->events, "SHUTDOWN ");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(messages_may_come_byte_by_byte),
		TEST(greeting_event_and_reply_may_come_in_one_write),
		TEST(a_reply_of_1_mib_arrives_whole),
		TEST(a_command_of_1_mib_is_written_in_parts_to_a_slow_reader),
		TEST(large_messages_may_cross),
		TEST(unknown_events_between_call_and_reply_go_to_the_handler),
		TEST(an_error_reply_names_the_command_and_its_class),
		TEST(an_error_without_id_belongs_to_the_only_command_under_way),
		TEST(an_error_while_negotiating_is_that_of_qmp_capabilities),
		TEST(two_commands_may_be_answered_in_either_order),
		TEST(a_descriptor_goes_beside_its_command),
		TEST(a_handler_may_send_a_command),
		TEST(arguments_are_consumed_also_on_failure),
		TEST(closing_before_the_greeting_is_told),
		TEST(closing_while_negotiating_is_told),
		TEST(closing_in_the_middle_of_a_message_shows_its_beginning),
		TEST(a_reply_right_before_the_close_is_delivered),
		TEST(what_came_before_the_close_is_handled_when_writing_fails),
		TEST(a_peer_that_reads_no_more_counts_as_closed),
		TEST(closing_in_the_middle_of_a_command_is_told),
		TEST(garbage_is_a_protocol_error_that_shows_it),
		TEST(nesting_without_end_is_a_protocol_error),
		TEST(a_wrong_greeting_is_a_protocol_error),
		TEST(what_is_neither_event_nor_awaited_reply_is_a_protocol_error),
		TEST(a_second_reply_to_a_command_is_a_protocol_error),
		TEST(a_reply_that_is_too_large_is_a_protocol_error),
		TEST(a_reply_of_too_many_values_is_a_protocol_error),
		TEST(a_reply_of_many_values_is_none),
		TEST(a_flood_of_blanks_is_a_protocol_error),
		TEST(what_follows_a_reply_does_not_hold_it_back),
		TEST(a_peer_that_never_greets_is_given_up),
		TEST(a_peer_that_never_answers_is_given_up),
		TEST(a_flood_of_events_does_not_extend_the_time_limit),
		TEST(a_reply_after_its_timeout_is_dropped),
		TEST(a_sent_command_can_be_waited_for_again_after_a_timeout),
		TEST(signals_do_not_disturb_a_call),
		TEST(sockets_are_reached_by_short_and_long_paths),
		TEST(qemu_tells_its_version_and_quits),
	};

	return cmocka_run_group_tests_name("qmp", tests, NULL, NULL);
}
