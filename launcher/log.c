#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "quote.h"
#include "util.h"

static struct {
	enum { FOR_PEOPLE, FOR_JOURNAL, AS_JSON } form;
	bool quiet, raw;
	const char *vm;
	int file; /* 0: standard error */
} state;

/* JOURNAL_STREAM is "DEVICE:INODE" of the stream that the service was started with: standard error
 * may have been redirected since. */
static bool is_journal(int fd)
{
	const char *stream = getenv("JOURNAL_STREAM");
	unsigned long long device, inode;
	struct stat status;

	return stream && sscanf(stream, "%llu:%llu", &device, &inode) == 2 &&
	       fstat(fd, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

void log_begin(bool json, bool quiet)
{
	state.form = json ? AS_JSON : is_journal(STDERR_FILENO) ? FOR_JOURNAL : FOR_PEOPLE;
	state.quiet = quiet;
}

void log_vm(const char *name)
{
	state.vm = name;
}

void log_raw(bool raw)
{
	state.raw = raw;
}

bool log_is_json(void)
{
	return state.form == AS_JSON;
}

int log_to_file(int dirfd, const char *name, struct error *err)
{
	int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return error_set(err, EXIT_FAILED, "cannot open the log %s: %s", name,
		                 strerror(errno));
	state.file = fd;
	openlog("ancla", LOG_PID, LOG_DAEMON);
	return 0;
}

void log_to_stderr(void)
{
	if (state.file)
		close(state.file);
	state.file = 0;
}

static const char *level_name(int level)
{
	static const char *const names[] = { "emergency", "alert",  "critical", "error",
		                             "warning",   "notice", "info",     "debug" };

	return names[level & 7];
}

/* UTC, to the millisecond, as RFC 3339 has it. */
static char *now(void)
{
	struct timespec time;
	struct tm parts;
	char text[32];

	clock_gettime(CLOCK_REALTIME, &time);
	gmtime_r(&time.tv_sec, &parts);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
	return xasprintf("%s.%03ldZ", text, time.tv_nsec / 1000000);
}

static char *json_line(int level, const char *event, const char *message)
{
	cleanup_json struct json_object *json = json_object_new_object();
	cleanup_free char *time = now();

	json_add_string(json, "time", time);
	json_add_string(json, "level", level_name(level));
	if (state.vm)
		json_add_string(json, "vm", state.vm);
	json_add_string(json, "event", event);
	json_add_string(json, "message", message);
	return xasprintf("%s\n",
	                 json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN |
	                                                          JSON_C_TO_STRING_NOSLASHESCAPE));
}

static char *line_of(int level, const char *event, const char *prefix, const char *message)
{
	const char *warning = level == LOG_WARNING ? "warning: " : "";

	if (state.form == AS_JSON)
		return json_line(level, event, message);
	if (state.file) {
		cleanup_free char *time = now();
		return xasprintf("%s %s: %s\n", time, level_name(level), message);
	}
	if (state.form == FOR_JOURNAL)
		return xasprintf("<%d>%s\n", level, message);
	/* The guest's own output may have left the terminal's cursor anywhere. */
	return xasprintf("%s%s%s%s%s\n", state.raw ? "\r\n" : "", prefix, warning, message,
	                 state.raw ? "\r" : "");
}

static void write_line(int level, const char *event, const char *prefix, const char *message)
{
	int fd = state.file ? state.file : STDERR_FILENO;

	if (state.quiet && level > LOG_WARNING)
		return;
	cleanup_free char *line = line_of(level, event, prefix, message);
	/* One write, so that lines of several writers stay whole. */
	if (write(fd, line, strlen(line)) < 0) {
		/* Nobody is left to tell. */
	}
	if (state.file) {
		log_trim(fd);
		/* The file ends with the VM; how that came about is worth more. */
		if (level < LOG_INFO)
			syslog(LOG_DAEMON | level, "%s: %s", state.vm, message);
	}
}

void log_say(int level, const char *event, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	cleanup_free char *message = xvasprintf(format, args);
	va_end(args);
	/* It may quote what QEMU or the guest says. */
	blank_message(message);
	write_line(level, event, "ancla: ", message);
}

void log_say_as_is(int level, const char *event, const char *message)
{
	cleanup_free char *safe = xstrdup(message);

	blank_message(safe);
	write_line(level, event, "", safe);
}

void log_trim(int fd)
{
	struct stat status, now;
	ssize_t got;

	if (fstat(fd, &now) < 0 || now.st_size <= LOG_FILE_MAX)
		return;
	cleanup_free char *text = xcalloc(LOG_FILE_MAX / 2, 1);
	/* What others write between the last look and the cut is lost: where they have written
	 * since the text was read, it is read once more. Some never stop. */
	for (int tries = 0; tries < 8; tries++) {
		status = now;
		got = pread(fd, text, LOG_FILE_MAX / 2, status.st_size - LOG_FILE_MAX / 2);
		if (fstat(fd, &now) < 0 || now.st_size == status.st_size)
			break;
	}
	const char *line = got > 0 ? memchr(text, '\n', (size_t)got) : NULL;
	const char *from = line ? line + 1 : text;

	if (got <= 0 || ftruncate(fd, 0) < 0)
		return;
	if (write(fd, from, (size_t)(text + got - from)) < 0) {
		/* The file system is full: then the log begins anew. */
	}
}
