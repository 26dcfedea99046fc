/* Promises of the list syntax for CPUs and nodes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "cpulist.h"
#include "util.h"

static void assert_list(const char *text, const char *expected)
{
	cleanup_bitmap hwloc_bitmap_t set = NULL;
	cleanup_error struct error err = ERROR_INIT;

	if (cpulist_parse(text, &set, &err) < 0)
		fail_msg("\"%s\": %s", text, err.message);
	cleanup_free char *list = cpulist_format(set);
	assert_string_equal(list, expected);
}

static void assert_refused(const char *text)
{
	hwloc_bitmap_t set = NULL;
	cleanup_error struct error err = ERROR_INIT;

	if (cpulist_parse(text, &set, &err) == 0)
		fail_msg("\"%s\" was accepted", text);
	assert_int_equal(err.code, EXIT_SPEC);
	assert_non_null(strstr(err.message, "expected"));
	assert_null(set);
}

static void lists_and_ranges_are_sets(void **state)
{
	(void)state;
	assert_list("0", "0");
	assert_list("0-3,8", "0-3,8");
	assert_list("8,0-3", "0-3,8");
	assert_list("1,2,3", "1-3");
	assert_list("5-5", "5");
	assert_list("0-3,2-5", "0-5");
	assert_list(" 0-1 , 4 ", "0-1,4");
	assert_list("65535", "65535");
}

static void a_step_takes_every_nth(void **state)
{
	(void)state;
	assert_list("0-31:2", "0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30");
	assert_list("0-10:5,1", "0-1,5,10");
	assert_list("0-3:1", "0-3");
	assert_list("3-5:9", "3");
}

static void a_caret_excludes_what_stands_before(void **state)
{
	(void)state;
	assert_list("0-7,^2", "0-1,3-7");
	assert_list("0-7,^2-5", "0-1,6-7");
	assert_list("0-7,^0-7:2", "1,3,5,7");
	assert_list("^2,0-3", "0-3");
	assert_list("0,^0", "");
}

static void an_empty_list_is_an_empty_set(void **state)
{
	(void)state;
	assert_list("", "");
}

static void what_is_not_a_list_is_refused(void **state)
{
	static const char *const texts[] = {
		"x",          "0-",      "-1",    "3-0", "0,,1",
		",",          "0,",      "0-3:",  "0:2", "0--3",
		"0-3-5",      "0-3:0",   "1.5",   "0x3", "^",
		"^^1",        "0 1",     "65536", "+1",  "0-3:x",
		"4294967296", "0-65536", "0;1",   " ",   "99999999999999999999",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
		assert_refused(texts[i]);
}

/* What is refused is shown, but a terminal shall not act on it. */
static void what_is_refused_is_shown_escaped(void **state)
{
	hwloc_bitmap_t set = NULL;
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(cpulist_parse("0,\033[2J\xff", &set, &err), -1);
	assert_non_null(strstr(err.message, "\"\\u001b[2J\\ufffd\""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lists_and_ranges_are_sets),
		cmocka_unit_test(a_step_takes_every_nth),
		cmocka_unit_test(a_caret_excludes_what_stands_before),
		cmocka_unit_test(an_empty_list_is_an_empty_set),
		cmocka_unit_test(what_is_not_a_list_is_refused),
		cmocka_unit_test(what_is_refused_is_shown_escaped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
