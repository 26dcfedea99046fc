/* Promises of the editor of JSON text: the value is as asked for, and everything else stays as it
 * was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "spec_edit.h"
#include "util.h"

static void assert_set(const char *before, const char *pointer, const char *json, const char *after)
{
	char *text = xstrdup(before);
	cleanup_error struct error err = ERROR_INIT;

	if (spec_edit_set(&text, pointer, json, &err) < 0)
		fail_msg("%s: %s", before, err.message);
	assert_string_equal(text, after);
	free(text);
}

static void assert_removed(const char *before, const char *pointer, const char *after)
{
	char *text = xstrdup(before);
	cleanup_error struct error err = ERROR_INIT;

	if (spec_edit_remove(&text, pointer, &err) < 0)
		fail_msg("%s: %s", before, err.message);
	assert_string_equal(text, after);
	free(text);
}

static void a_value_is_replaced_where_it_stands(void **state)
{
	(void)state;
	assert_set("{ \"a\": 1 }", "/a", "2", "{ \"a\": 2 }");
	assert_set("// first\n{\"a\" : /* was 0 */ {\"b\":[ 1,\"x\" ]} } // last\n", "/a/b/1",
	           "\"longer\"",
	           "// first\n{\"a\" : /* was 0 */ {\"b\":[ 1,\"longer\" ]} } // last\n");
	/* What looks like a comment or a key in a string is none, and the other way round. */
	assert_set("{ \"u\": \"http://x/*\", /* \"a\": 0, */ \"a\": 1 }", "/a", "2",
	           "{ \"u\": \"http://x/*\", /* \"a\": 0, */ \"a\": 2 }");
	/* In an object, "-" is a key like others. */
	assert_set("{ \"s\": { \"-\": 1 } }", "/s/-", "2", "{ \"s\": { \"-\": 2 } }");
	assert_set("{ \"s\": [ { \"-\": 1 } ] }", "/s/0/-", "2", "{ \"s\": [ { \"-\": 2 } ] }");
}

static void a_member_is_added_in_the_manner_of_the_others(void **state)
{
	(void)state;
	assert_set("{ \"a\": 1 }", "/b", "2", "{ \"a\": 1, \"b\": 2 }");
	assert_set("{}", "/b", "2", "{ \"b\": 2 }");
	assert_set("{ }", "/b", "2", "{ \"b\": 2 }");
	assert_set("{\n\t\"a\": 1\n}\n", "/b", "2", "{\n\t\"a\": 1,\n\t\"b\": 2\n}\n");
	assert_set("{\n  \"a\": 1 // one\n}\n", "/b", "2",
	           "{\n  \"a\": 1, // one\n  \"b\": 2\n}\n");
	assert_set("{\n  \"a\": 1 /* one,\n  two */ // three\n}\n", "/b", "2",
	           "{\n  \"a\": 1, /* one,\n  two */ // three\n  \"b\": 2\n}\n");
	assert_set("{\n  /* one */ \"a\": 1\n}\n", "/b", "2",
	           "{\n  /* one */ \"a\": 1,\n  \"b\": 2\n}\n");
	assert_set("{ /* one\n two */ \"a\": 1\n}\n", "/b", "2",
	           "{ /* one\n two */ \"a\": 1,\n \"b\": 2\n}\n");
	assert_set("{\n  \"a\": 1 }\n", "/b", "2", "{\n  \"a\": 1,\n  \"b\": 2 }\n");
	assert_set("{ // nothing\n}", "/b", "2", "{ \"b\": 2 // nothing\n}");
}

static void what_is_missing_on_the_way_is_added(void **state)
{
	(void)state;
	assert_set("{ \"a\": 1 }", "/c/p/0", "\"1\"",
	           "{ \"a\": 1, \"c\": { \"p\": { \"0\": \"1\" } } }");
	assert_set("{ \"c\": { \"e\": 1 } }", "/c/p/0", "\"1\"",
	           "{ \"c\": { \"e\": 1, \"p\": { \"0\": \"1\" } } }");
	assert_set("{ \"c\": {} }", "/c/s/-", "{ \"x\": 1 }",
	           "{ \"c\": { \"s\": [ { \"x\": 1 } ] } }");
	assert_set("{ \"s\": [ 1 ] }", "/s/-", "2", "{ \"s\": [ 1, 2 ] }");
	assert_set("{ \"s\": [] }", "/s/-", "2", "{ \"s\": [ 2 ] }");
	assert_set("{ \"s\": [\n  1, // one\n  2 // two\n] }", "/s/-", "3",
	           "{ \"s\": [\n  1, // one\n  2, // two\n  3\n] }");
}

static void a_member_is_removed_with_its_comma(void **state)
{
	(void)state;
	assert_removed("{ \"a\": 1, \"b\": 2, \"c\": 3 }", "/b", "{ \"a\": 1, \"c\": 3 }");
	assert_removed("{ \"a\": 1, \"b\": 2 }", "/b", "{ \"a\": 1 }");
	assert_removed("{ \"a\": 1 }", "/a", "{ }");
	assert_removed("{\n  \"a\": 1, // one\n  \"b\": 2\n}", "/b", "{\n  \"a\": 1 // one\n}");
	assert_removed("{\n  \"a\": 1, // one\n  \"b\": 2 }", "/b", "{\n  \"a\": 1 // one\n }");
	assert_removed("{ \"a\": 1 /* , */ , \"b\": 2 }", "/b", "{ \"a\": 1 /* , */  }");
	assert_removed("{ \"a\": 1 }", "/b", "{ \"a\": 1 }");
	assert_removed("{ \"a\": [ 1, 2 ] }", "/a/0", "{ \"a\": [ 2 ] }");
}

static void what_is_no_place_is_refused(void **state)
{
	static const char *const texts[][2] = { { "{ \"a\": 1 }", "/a/b" },
		                                { "{ \"a\": ", "/a" },
		                                { "", "/a" } };
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		cleanup_error struct error err = ERROR_INIT;
		char *text = xstrdup(texts[i][0]);
		assert_int_equal(spec_edit_set(&text, texts[i][1], "2", &err), -1);
		assert_int_equal(err.code, EXIT_SPEC);
		assert_string_equal(text, texts[i][0]);
		free(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_value_is_replaced_where_it_stands),
		cmocka_unit_test(a_member_is_added_in_the_manner_of_the_others),
		cmocka_unit_test(what_is_missing_on_the_way_is_added),
		cmocka_unit_test(a_member_is_removed_with_its_comma),
		cmocka_unit_test(what_is_no_place_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
