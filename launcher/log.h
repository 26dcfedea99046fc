/* What a supervisor tells, line by line: on standard error for people, for the journal, or as JSON;
 * or in a file, once it keeps nobody's standard error.
 *
 * The levels are those of syslog(3). For people a line is "ancla: MESSAGE". Where standard error is
 * the journal's (systemd.exec(5), JOURNAL_STREAM) it begins with "<LEVEL>" instead, as sd-daemon(3)
 * says. As JSON it is {"time", "level", "vm", "event", "message"}. One process has one log. */
#ifndef ANCLA_LOG_H
#define ANCLA_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <syslog.h>

#include "error.h"

/* Chooses the form of standard error. Without it lines are for people. `quiet`: only what is
 * LOG_WARNING or worse. */
void log_begin(bool json, bool quiet);

/* The VM that lines are about, in JSON; borrowed. */
void log_vm(const char *name);

/* While standard error is a terminal in raw mode, lines end with a carriage return, too. */
void log_raw(bool raw);

/* From here on lines go to this file of the directory, with the time, and to syslog(3) from
 * LOG_NOTICE on, but no longer to standard error. The file is kept below LOG_FILE_MAX bytes: its
 * first half goes when it is full. */
int log_to_file(int dirfd, const char *name, struct error *err);

/* As before that. */
void log_to_stderr(void);

/* `event` is a word for programs: "guest-reset". The message is one line for people, without a full
 * stop; further ones are indented by two blanks. */
void log_say(int level, const char *event, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a message that says itself whose it is ("spec.json:3: ..."). */
void log_say_as_is(int level, const char *event, const char *message);

/* Whether lines are JSON: then nothing else may be on standard error. */
bool log_is_json(void);

/* Files that others append to, opened for reading and appending: when one is longer than
 * LOG_FILE_MAX, only about its last half stays. What is appended just then may be lost. */
enum { LOG_FILE_MAX = 1 << 20 };
void log_trim(int fd);

#endif
