/* Progress: a bar that is drawn over itself and goes, a line a second in a log, nothing when it is
 * quick or quiet. The test has the clock. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "progress.h"
#include "util.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

/* What is shown of a fill of 4 GiB at 1 GiB a second, looked at every `step` ms until `end`. */
static char *shown(enum progress_kind kind, int step, int end, bool ended)
{
	struct progress progress = { .kind = kind };
	static char *text;
	static size_t size;
	FILE *out = open_memstream(&text, &size);

	for (int ms = 0; ms <= end; ms += step)
		progress_show(&progress, GIB * (uint64_t)ms / 1000, 4 * GIB, 5000 + ms, out);
	if (ended)
		progress_end(&progress, out);
	fclose(out);
	return text;
}

static size_t count(const char *text, char character)
{
	size_t n = 0;

	for (; *text; text++)
		n += *text == character;
	return n;
}

static void a_log_gets_a_line_a_second_with_rate_and_time_left(void **state)
{
	cleanup_free char *text = shown(PROGRESS_LOG, 10, 3000, true);

	(void)state;
	assert_string_equal(text, "ancla: filling memory: 1024 of 4096 MiB, 1.0 GiB/s, 3 s left\n"
	                          "ancla: filling memory: 2048 of 4096 MiB, 1.0 GiB/s, 2 s left\n"
	                          "ancla: filling memory: 3072 of 4096 MiB, 1.0 GiB/s, 1 s left\n");
}

static void a_terminal_gets_a_bar_with_rate_and_time_left(void **state)
{
	cleanup_free char *text = shown(PROGRESS_BAR, 50, 2000, false);
	const char *last = strrchr(text, '\r');

	(void)state;
	assert_int_equal(count(text, '\r'), 20); /* ten a second */
	assert_int_equal(count(text, '\n'), 0);
	assert_non_null(strstr(last, "[##########..........] 2048/4096 MiB, 1.0 GiB/s, "
	                             "2 s left"));
	assert_int_equal(strlen(last), 1 + 79); /* over whatever was there */
}

static void the_bar_goes_when_it_ends(void **state)
{
	cleanup_free char *text = shown(PROGRESS_BAR, 50, 2000, true);
	size_t length = strlen(text);

	(void)state;
	assert_int_equal(text[length - 1], '\r');
	for (size_t i = 2; i <= 80; i++)
		assert_int_equal(text[length - i], ' ');
}

static void what_is_quick_or_quiet_says_nothing(void **state)
{
	cleanup_free char *quick = shown(PROGRESS_BAR, 10, 90, true);
	cleanup_free char *quick_log = shown(PROGRESS_LOG, 10, 990, true);
	cleanup_free char *quiet = shown(PROGRESS_NONE, 10, 4000, true);

	(void)state;
	assert_string_equal(quick, "");
	assert_string_equal(quick_log, "");
	assert_string_equal(quiet, "");
}

static void it_wakes_only_to_show_something(void **state)
{
	struct progress progress = { .kind = PROGRESS_LOG };

	(void)state;
	assert_int_equal(progress_timeout(&progress, 100), 1000);
	progress_show(&progress, 0, GIB, 100, stderr);
	assert_int_equal(progress_timeout(&progress, 400), 700);
	assert_int_equal(progress_timeout(&progress, 4000), 0);
	progress.kind = PROGRESS_NONE;
	assert_int_equal(progress_timeout(&progress, 4000), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_log_gets_a_line_a_second_with_rate_and_time_left),
		cmocka_unit_test(a_terminal_gets_a_bar_with_rate_and_time_left),
		cmocka_unit_test(the_bar_goes_when_it_ends),
		cmocka_unit_test(what_is_quick_or_quiet_says_nothing),
		cmocka_unit_test(it_wakes_only_to_show_something),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
