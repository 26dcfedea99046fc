#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "stream.h"

#define MAX_DEPTH 1024
#define VALUES_OF_OBJECT 5

int qmp_error_set(struct qmp_error *error, enum qmp_error_kind kind, const char *format, ...)
{
	va_list args;

	if (!error)
		return -1;
	error->kind = kind;
	error->class[0] = '\0';
	va_start(args, format);
	vsnprintf(error->message, sizeof(error->message), format, args);
	va_end(args);
	return -1;
}

int stream_init(struct stream *stream, int fd)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -1;
	stream->tokener = json_tokener_new_ex(MAX_DEPTH);
	if (!stream->tokener) {
		errno = ENOMEM;
		return -1;
	}
	/* Strict as QEMU writes: by default json-c takes comments, too, and one that begins right
	 * after a message would hold the message back. */
	json_tokener_set_flags(stream->tokener,
	                       JSON_TOKENER_STRICT | JSON_TOKENER_ALLOW_TRAILING_CHARS);
	stream->fd = fd;
	return 0;
}

void stream_release(struct stream *stream)
{
	json_tokener_free(stream->tokener);
	free(stream->unsent);
	close(stream->fd);
}

int stream_queue(struct stream *stream, const char *line, size_t length)
{
	size_t waiting = stream->unsent_length - stream->sent;
	size_t need = waiting + length + 1;

	if (stream->sent) {
		memmove(stream->unsent, stream->unsent + stream->sent, waiting);
		stream->unsent_length = waiting;
		stream->sent = 0;
	}
	if (need > stream->unsent_room) {
		size_t room = need > 2 * stream->unsent_room ? need : 2 * stream->unsent_room;
		char *grown = realloc(stream->unsent, room);

		if (!grown)
			return -1;
		stream->unsent = grown;
		stream->unsent_room = room;
	}
	memcpy(stream->unsent + waiting, line, length);
	stream->unsent[waiting + length] = '\n';
	stream->unsent_length = need;
	return 0;
}

bool stream_has_unsent(const struct stream *stream)
{
	return stream->sent < stream->unsent_length;
}

int stream_flush(struct stream *stream, struct qmp_error *error)
{
	while (stream_has_unsent(stream)) {
		ssize_t sent = send(stream->fd, stream->unsent + stream->sent,
		                    stream->unsent_length - stream->sent, MSG_NOSIGNAL);

		if (sent >= 0)
			stream->sent += (size_t)sent;
		else if (errno == EAGAIN)
			return 0;
		else if (errno == EPIPE || errno == ECONNRESET)
			return qmp_error_set(error, QMP_ERROR_CLOSED, "QEMU closed the connection");
		else if (errno != EINTR)
			return qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot write to QEMU: %m");
	}
	return 0;
}

int stream_flush_with(struct stream *stream, int fd, struct qmp_error *error)
{
	struct iovec text = { stream->unsent + stream->sent, stream->unsent_length - stream->sent };
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} beside = { 0 };
	struct msghdr message = {
		.msg_iov = &text,
		.msg_iovlen = 1,
		.msg_control = &beside,
		.msg_controllen = sizeof(beside),
	};
	ssize_t sent;

	beside.header.cmsg_level = SOL_SOCKET;
	beside.header.cmsg_type = SCM_RIGHTS;
	beside.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&beside.header), &fd, sizeof(fd));
	do
		sent = sendmsg(stream->fd, &message, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	stream->sent = stream->unsent_length = 0;
	if (sent == (ssize_t)text.iov_len)
		return 0;
	return qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot pass a descriptor to QEMU: %s",
	                     sent < 0 ? strerror(errno) : "its monitor is busy");
}

/* One line: other bytes than printable ASCII, line ends too, become blanks. */
static const char *excerpt(const struct stream *stream, char text[STREAM_EXCERPT + 4])
{
	size_t length = stream->head_length;

	for (size_t i = 0; i < length; i++)
		text[i] = stream->head[i] > ' ' && stream->head[i] < 0x7f ? stream->head[i] : ' ';
	while (length && text[length - 1] == ' ')
		length--;
	strcpy(text + length,
	       stream->head_length == STREAM_EXCERPT && stream->size > STREAM_EXCERPT ? "..." : "");
	return *text ? text : "blanks or unprintable bytes";
}

int stream_unexpected(const struct stream *stream, struct qmp_error *error, const char *expected)
{
	char text[STREAM_EXCERPT + 4];

	return qmp_error_set(error, QMP_ERROR_PROTOCOL,
	                     "QEMU broke the protocol: expected %s, got: %s", expected,
	                     excerpt(stream, text));
}

bool stream_in_message(const struct stream *stream)
{
	return stream->head_length && !stream->complete;
}

int stream_fill(struct stream *stream, struct qmp_error *error)
{
	char text[STREAM_EXCERPT + 4];
	ssize_t got;

	do
		got = recv(stream->fd, stream->buffer, sizeof(stream->buffer), 0);
	while (got < 0 && errno == EINTR);
	stream->start = 0;
	stream->end = got > 0 ? (size_t)got : 0;
	if (got > 0)
		return (int)got;
	if (got < 0 && errno == EAGAIN)
		return 0;
	if (got < 0 && errno != ECONNRESET)
		return qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot read from QEMU: %m");
	if (stream_in_message(stream))
		return qmp_error_set(error, QMP_ERROR_CLOSED,
		                     "QEMU closed the connection in the middle of a message: %s",
		                     excerpt(stream, text));
	return qmp_error_set(error, QMP_ERROR_CLOSED, "QEMU closed the connection");
}

/* A broken peer's, whose message is not read to its end. */
static int check_size(const struct stream *stream, struct qmp_error *error)
{
	char expected[80];

	if (stream->size > QMP_MESSAGE_MAX)
		snprintf(expected, sizeof(expected), "a message of at most %d MiB",
		         QMP_MESSAGE_MAX / (1024 * 1024));
	else if (stream->values > QMP_VALUES_MAX)
		snprintf(expected, sizeof(expected), "a message of at most %d values",
		         QMP_VALUES_MAX);
	else if (stream->odd)
		return stream_unexpected(stream, error, "JSON");
	else
		return 0;
	return stream_unexpected(stream, error, expected);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void skip_blanks(struct stream *stream)
{
	while (stream->start < stream->end && is_blank(stream->buffer[stream->start])) {
		stream->start++;
		stream->size++;
	}
}

/* Each but the first of an array or object follows a comma. */
static void count_values(struct stream *stream, const char *text, size_t length)
{
	for (size_t i = 0; i < length; i++) {
		if (stream->escaped)
			stream->escaped = false;
		else if (text[i] == '"')
			stream->quoted = !stream->quoted;
		else if (stream->quoted)
			stream->escaped = text[i] == '\\';
		else if (text[i] == '\'') /* a string to json-c up to 0.16 */
			stream->odd = true;
		else if (text[i] == ',' || text[i] == '[')
			stream->values++;
		else if (text[i] == '{')
			stream->values += VALUES_OF_OBJECT;
	}
}

/* Counts bytes and values as read, and keeps the first ones of a message for errors. */
static void consume(struct stream *stream, size_t length)
{
	size_t kept = STREAM_EXCERPT - stream->head_length;

	if (kept > length)
		kept = length;
	memcpy(stream->head + stream->head_length, stream->buffer + stream->start, kept);
	stream->head_length += kept;
	count_values(stream, stream->buffer + stream->start, length);
	stream->start += length;
	stream->size += length;
}

/* Feeds the parser with what is in the buffer. */
static int parse(struct stream *stream, struct json_object **message, struct qmp_error *error)
{
	size_t length = stream->end - stream->start;
	enum json_tokener_error outcome;
	char expected[80];

	errno = 0;
	*message =
	    json_tokener_parse_ex(stream->tokener, stream->buffer + stream->start, (int)length);
	outcome = json_tokener_get_error(stream->tokener);
	if (*message)
		length = json_tokener_get_parse_end(stream->tokener);
	/* Out of memory, json-c up to 0.16 says success and returns NULL, or a part. */
	if (errno == ENOMEM || (!*message && outcome == json_tokener_success)) {
		json_object_put(*message);
		return qmp_error_set(error, QMP_ERROR_SYSTEM, "cannot read from QEMU: %s",
		                     strerror(ENOMEM));
	}
	consume(stream, length);
	if (*message || outcome == json_tokener_continue)
		return 0;
	snprintf(expected, sizeof(expected), "JSON (%s)", json_tokener_error_desc(outcome));
	return stream_unexpected(stream, error, expected);
}

int stream_next(struct stream *stream, struct json_object **message, struct qmp_error *error)
{
	struct json_object *parsed = NULL;

	if (stream->complete) {
		stream->complete = false;
		stream->size = stream->values = 0;
		stream->quoted = stream->escaped = stream->odd = false;
		stream->head_length = 0;
	}
	if (!stream->head_length)
		skip_blanks(stream);
	if (stream->start < stream->end) {
		if (!stream->head_length && stream->buffer[stream->start] != '{') {
			consume(stream, stream->end - stream->start);
			return stream_unexpected(stream, error, "a JSON object");
		}
		if (parse(stream, &parsed, error) < 0)
			return -1;
	}
	if (check_size(stream, error) < 0) {
		json_object_put(parsed);
		return -1;
	}
	if (!parsed)
		return 0;
	stream->complete = true;
	*message = parsed;
	return 1;
}
