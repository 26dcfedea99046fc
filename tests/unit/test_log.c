/* Logs: files that stay short, and lines in the form that their reader wants. */
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "log.h"
#include "util.h"

/* A file that others append to; it has no name. */
static int open_log(void)
{
	char path[] = "/tmp/ancla-log.XXXXXX";
	int fd = mkostemp(path, O_APPEND | O_CLOEXEC);

	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

static off_t size_of(int fd)
{
	struct stat status;

	assert_int_equal(fstat(fd, &status), 0);
	return status.st_size;
}

/* Lines of 100 bytes, numbered from 0. */
static void append_lines(int fd, int from, int to)
{
	for (int i = from; i < to; i++)
		dprintf(fd, "%099d\n", i);
}

static void a_file_that_is_short_is_left_alone(void **state)
{
	int fd = open_log();

	(void)state;
	append_lines(fd, 0, LOG_FILE_MAX / 100);
	log_trim(fd);
	assert_int_equal(size_of(fd), LOG_FILE_MAX / 100 * 100);
	close(fd);
}

static void of_a_long_one_the_last_lines_stay_whole(void **state)
{
	const int lines = LOG_FILE_MAX / 100 + 1;
	char line[101] = "";
	int fd = open_log();

	(void)state;
	append_lines(fd, 0, lines);
	log_trim(fd);
	assert_in_range(size_of(fd), LOG_FILE_MAX / 2 - 100, LOG_FILE_MAX / 2);
	assert_int_equal(size_of(fd) % 100, 0);
	assert_int_equal(pread(fd, line, 100, 0), 100);
	assert_int_equal(atoi(line), lines - (int)size_of(fd) / 100);
	/* Whoever has it open goes on at its new end. */
	append_lines(fd, lines, lines + 1);
	assert_int_equal(pread(fd, line, 100, size_of(fd) - 100), 100);
	assert_int_equal(atoi(line), lines);
	close(fd);
}

static void a_line_without_end_does_not_fill_the_file(void **state)
{
	cleanup_free char *much = xcalloc(LOG_FILE_MAX + 1, 1);
	int fd = open_log();

	(void)state;
	memset(much, 'x', LOG_FILE_MAX + 1);
	assert_int_equal(write(fd, much, LOG_FILE_MAX + 1), LOG_FILE_MAX + 1);
	log_trim(fd);
	assert_int_equal(size_of(fd), LOG_FILE_MAX / 2);
	close(fd);
}

/* What one line on standard error is, in the form that was begun. The caller frees. */
static char *said(int level, const char *message)
{
	int before = dup(STDERR_FILENO), fd = open_log();
	char *text = xcalloc(1024, 1);

	dup2(fd, STDERR_FILENO);
	log_say(level, "word", "%s", message);
	dup2(before, STDERR_FILENO);
	assert_true(pread(fd, text, 1023, 0) >= 0);
	close(before);
	close(fd);
	return text;
}

static void lines_are_for_people_by_default(void **state)
{
	(void)state;
	log_begin(false, false);
	cleanup_free char *error = said(LOG_ERR, "it broke");
	cleanup_free char *warning = said(LOG_WARNING, "it may break");
	assert_string_equal(error, "ancla: it broke\n");
	assert_string_equal(warning, "ancla: warning: it may break\n");
}

static void quiet_leaves_what_is_wrong(void **state)
{
	(void)state;
	log_begin(false, true);
	cleanup_free char *notice = said(LOG_NOTICE, "it runs");
	cleanup_free char *warning = said(LOG_WARNING, "it may break");
	assert_string_equal(notice, "");
	assert_string_equal(warning, "ancla: warning: it may break\n");
}

static void any_message_is_one_json_object(void **state)
{
	static const char message[] = "\"quoted\",\n  and a line end";

	(void)state;
	log_begin(true, false);
	log_vm("name");
	cleanup_free char *text = said(LOG_ERR, message);
	cleanup_json struct json_object *line = json_tokener_parse(text);
	assert_non_null(line);
	assert_ptr_equal(strchr(text, '\n'), text + strlen(text) - 1);
	assert_string_equal(json_object_get_string(json_object_object_get(line, "message")),
	                    message);
	assert_string_equal(json_object_get_string(json_object_object_get(line, "level")), "error");
	assert_string_equal(json_object_get_string(json_object_object_get(line, "vm")), "name");
	assert_string_equal(json_object_get_string(json_object_object_get(line, "event")), "word");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_file_that_is_short_is_left_alone),
		cmocka_unit_test(of_a_long_one_the_last_lines_stay_whole),
		cmocka_unit_test(a_line_without_end_does_not_fill_the_file),
		cmocka_unit_test(lines_are_for_people_by_default),
		cmocka_unit_test(quiet_leaves_what_is_wrong),
		cmocka_unit_test(any_message_is_one_json_object),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
