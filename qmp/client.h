/* What a QMP client consists of; for qmp/ only. */
#ifndef QMP_CLIENT_H
#define QMP_CLIENT_H

#include <stdint.h>

#include "stream.h"

/* A command from the moment it is queued until its reply is taken, or dropped. */
struct command {
	struct command *next;
	unsigned id;
	bool abandoned;            /* nobody waits any more */
	struct json_object *reply; /* the whole message; NULL until it comes */
	char name[];
};

struct qmp {
	enum qmp_state state;
	qmp_event_fn *on_event;
	void *data;
	struct command *commands, **tail; /* oldest first */
	unsigned last_id;
	struct qmp_error fault; /* why the state is CLOSED */
	struct stream stream;
};

/* Where the list points to the command, or its end where there is none with this id. */
struct command **qmp_find_command(struct qmp *qmp, int64_t id);

#endif
