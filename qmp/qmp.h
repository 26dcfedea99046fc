/* A client for QEMU's machine protocol (QMP), on json-c.
 *
 * See docs/interop/qmp-spec in QEMU. The library knows nothing of what it is used for; it does
 * not print, does not exit, and starts no thread.
 *
 * A client goes through these states, one message at a time:
 *
 *   GREETING ── greeting read, qmp_capabilities sent ──> NEGOTIATING
 *   NEGOTIATING ── its reply read ──> READY
 *   any ── peer closed, or broke the protocol ──> CLOSED
 *
 * The greeting is not readiness: vCPU threads are only sure to exist once qmp_capabilities is
 * answered, so nothing else is written before READY. */
#ifndef QMP_H
#define QMP_H

#include <stdbool.h>
#include <stddef.h>

#include <json-c/json.h>

/* A message longer than this is a broken peer (query-qmp-schema is about 0.3 MiB). */
#define QMP_MESSAGE_MAX (16 * 1024 * 1024)

/* So is one of more values, each of which json-c makes some 150 bytes of, were it two in the
 * message; and some 800 of an object, which counts as five. (query-qmp-schema has 38,000,
 * query-cpus-fast of 4,096 vCPUs 70,000.) */
#define QMP_VALUES_MAX 250000

/* How long qmp_connect() waits for a listener whose queue is full. */
#define QMP_CONNECT_LIMIT_S 5

enum qmp_state { QMP_GREETING, QMP_NEGOTIATING, QMP_READY, QMP_CLOSED };

enum qmp_error_kind {
	QMP_ERROR_NONE,
	QMP_ERROR_TIMEOUT,  /* no answer within the limit */
	QMP_ERROR_CLOSED,   /* the peer went away */
	QMP_ERROR_PROTOCOL, /* what came is not QMP */
	QMP_ERROR_COMMAND,  /* the command was answered by an error */
	QMP_ERROR_SYSTEM,   /* a system call failed */
};

struct qmp_error {
	enum qmp_error_kind kind;
	char class[40];    /* QMP_ERROR_COMMAND: "GenericError", "CommandNotFound", … */
	char message[512]; /* for people; names the command where there is one */
};

struct qmp;

/* Called for every event, also those between a command and its reply. `data` belongs to the
 * caller of the handler; `event` ("SHUTDOWN") and `arguments` (may be NULL) are borrowed for the
 * call. A handler must not call qmp_process(), qmp_wait(), qmp_call() or qmp_free(). */
typedef void qmp_event_fn(void *data, const char *event, struct json_object *arguments);

/* Takes over a connected stream socket (made non-blocking; closed by qmp_free()). */
struct qmp *qmp_new(int fd, qmp_event_fn *on_event, void *data);
void qmp_free(struct qmp *qmp);

int qmp_fd(const struct qmp *qmp);
enum qmp_state qmp_state(const struct qmp *qmp);

/* What to poll the descriptor for: POLLIN, and POLLOUT while something is unsent. */
short qmp_poll_events(const struct qmp *qmp);

/* One step, without blocking: writes what is unsent, reads what is there, and handles every
 * complete message (the greeting, the reply to qmp_capabilities, events, replies). Returns 0, or
 * -1 with `error` filled once the state is CLOSED. Messages that came before the peer closed are
 * handled first. */
int qmp_process(struct qmp *qmp, struct qmp_error *error);

/* Polls and processes until the state is READY. `timeout_ms` < 0: no limit. */
int qmp_wait_ready(struct qmp *qmp, int timeout_ms, struct qmp_error *error);

/* Sends a command and waits for its reply; events that come meanwhile go to the handler.
 * `arguments` (may be NULL) is consumed, also on failure. On success stores the "return" value
 * (the caller puts it with json_object_put()) if `reply` is not NULL. A reply that comes after
 * its timeout is dropped when it arrives. */
int qmp_call(struct qmp *qmp, const char *command, struct json_object *arguments, int timeout_ms,
             struct json_object **reply, struct qmp_error *error);

/* For callers that must not block, and to have several commands under way: sends a command and
 * returns its id (> 0), or 0 on failure. Its reply is kept until qmp_take_reply(). */
unsigned qmp_send(struct qmp *qmp, const char *command, struct json_object *arguments,
                  struct qmp_error *error);

/* The same, with a descriptor beside it (SCM_RIGHTS), as `getfd` and `add-fd` want it. It is
 * borrowed for the call. Fails also while the socket does not take the whole command at once. */
unsigned qmp_send_fd(struct qmp *qmp, const char *command, struct json_object *arguments, int fd,
                     struct qmp_error *error);

/* The reply to a command sent with qmp_send(): 1 and `reply` when it is there, 0 when it is not
 * yet, -1 and `error` when the command failed or the client is closed. */
int qmp_take_reply(struct qmp *qmp, unsigned id, struct json_object **reply,
                   struct qmp_error *error);

/* Waits for one, polling and processing. */
int qmp_wait_reply(struct qmp *qmp, unsigned id, int timeout_ms, struct json_object **reply,
                   struct qmp_error *error);

/* Connects to a UNIX stream socket; -1 and `error` on failure. Paths longer than sun_path are
 * reached through /proc/self/fd. Close-on-exec. */
int qmp_connect(const char *path, struct qmp_error *error);

/* The same by a name in an open directory, wherever that is by now; no link is followed. Errors
 * call it `shown`. */
int qmp_connect_at(int dirfd, const char *name, const char *shown, struct qmp_error *error);

#endif
