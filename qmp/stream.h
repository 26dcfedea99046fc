/* JSON messages over a non-blocking stream socket: the lower half of the QMP client.
 *
 * Written bytes wait here until the socket takes them; read bytes go into the JSON parser as
 * they come, so that a message may arrive in any number of pieces. */
#ifndef QMP_STREAM_H
#define QMP_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#include "qmp.h"

#define STREAM_READ_SIZE (64 * 1024)
#define STREAM_EXCERPT 60 /* how much of a message an error shows */

struct stream {
	int fd;

	struct json_tokener *tokener;
	size_t start, end;         /* what of `buffer` is not parsed yet */
	size_t size;               /* of the message under way, with the blanks before it */
	size_t values;             /* in it so far, about */
	bool quoted, escaped;      /* it is in a string; behind a backslash there */
	bool odd;                  /* it has what json-c takes for JSON, and we could not count */
	bool complete;             /* that message was handed out */
	char head[STREAM_EXCERPT]; /* its first bytes */
	size_t head_length;

	char *unsent;
	size_t sent, unsent_length, unsent_room; /* the first `sent` of the length are written */

	char buffer[STREAM_READ_SIZE];
};

/* Returns -1 and sets errno on failure; then the descriptor stays the caller's. */
int stream_init(struct stream *stream, int fd);
void stream_release(struct stream *stream);

/* Adds a line to what is unsent. -1 (out of memory): nothing was added. */
int stream_queue(struct stream *stream, const char *line, size_t length);
bool stream_has_unsent(const struct stream *stream);

/* Writes all that is unsent at once, with a descriptor beside it; -1 if the socket does not take
 * it: then nothing is unsent any more. */
int stream_flush_with(struct stream *stream, int fd, struct qmp_error *error);

/* Writes as much as the socket takes; -1 when it will take no more ever. The rest stays unsent,
 * also then. */
int stream_flush(struct stream *stream, struct qmp_error *error);

/* Reads once: the number of bytes, 0 when there is nothing yet, -1 when the peer closed or the
 * read failed. To be called when stream_next() has returned 0. */
int stream_fill(struct stream *stream, struct qmp_error *error);

/* The next message, which the caller puts: 1 when there is one, 0 when it is not complete yet,
 * -1 when what came is not a JSON object or too large. */
int stream_next(struct stream *stream, struct json_object **message, struct qmp_error *error);

/* Whether a message has begun and not ended. */
bool stream_in_message(const struct stream *stream);

/* QMP_ERROR_PROTOCOL: says what was expected and how the last message began. Returns -1. */
int stream_unexpected(const struct stream *stream, struct qmp_error *error, const char *expected);

/* Fills `error`, if it is not NULL, and returns -1. */
int qmp_error_set(struct qmp_error *error, enum qmp_error_kind kind, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
