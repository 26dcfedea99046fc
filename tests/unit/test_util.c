/* Promises of the helpers: sizes, nearest words, files, quoting, arrays. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "quote.h"
#include "util.h"

static void assert_size(uint64_t bytes, const char *expected)
{
	cleanup_free char *text = format_size(bytes);

	assert_string_equal(text, expected);
}

static void sizes_are_told_in_the_largest_unit(void **state)
{
	(void)state;
	assert_size(0, "0B");
	assert_size(1, "1B");
	assert_size(1023, "1023B");
	assert_size(4096, "4KiB");
	assert_size(2 << 20, "2MiB");
	assert_size((3 << 20) / 2, "1536KiB");
	assert_size(16ULL << 30, "16GiB");
	assert_size(1ULL << 40, "1TiB");
	assert_size(UINT64_MAX, "18446744073709551615B");
}

static void the_nearest_word_is_near(void **state)
{
	static const char *const words[] = { "fifo", "rr", "other", "batch", "idle" };
	size_t n = ARRAY_SIZE(words);
	char endless[200];

	(void)state;
	assert_string_equal(nearest_word("fif", words, n), "fifo");
	assert_string_equal(nearest_word("fiffo", words, n), "fifo");
	assert_string_equal(nearest_word("bacth", words, n), "batch");
	assert_string_equal(nearest_word("rr", words, n), "rr");
	assert_null(nearest_word("deadline", words, n));
	assert_null(nearest_word("xx", words, n));
	assert_null(nearest_word("", words, n));
	assert_null(nearest_word("fifo", words, 0));
	memset(endless, 'f', sizeof(endless) - 1);
	endless[sizeof(endless) - 1] = '\0';
	assert_null(nearest_word(endless, words, n));
}

static void assert_quoted(const char *text, const char *expected)
{
	cleanup_free char *quoted = quote(text);

	assert_string_equal(quoted, expected);
}

static void quoted_text_cannot_act_on_a_terminal(void **state)
{
	(void)state;
	assert_quoted("plain, with blanks", "\"plain, with blanks\"");
	assert_quoted("a\"b\\c", "\"a\\\"b\\\\c\"");
	assert_quoted("a\nb\tc", "\"a\\nb\\tc\"");
	assert_quoted("\x1b[31m", "\"\\u001b[31m\"");
	assert_quoted("\x7f", "\"\\u007f\"");
	assert_quoted("\xc2\x9b", "\"\\u009b\"");                          /* C1: CSI */
	assert_quoted("\xe2\x80\xae", "\"\\u202e\"");                      /* right to left */
	assert_quoted("\xc3\xa9\xe4\xb8\xad", "\"\xc3\xa9\xe4\xb8\xad\""); /* letters stay */
	assert_quoted("\xff", "\"\\ufffd\"");
	assert_quoted("\xc0\xaf", "\"\\ufffd\\ufffd\""); /* overlong */
}

static void an_error_cannot_act_on_a_terminal(void **state)
{
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	error_set(&err, EXIT_FAILED, "no %s",
	          "\033[2J\xc2\x9b\xe2\x80\xae \xff\xc3\xbc\t\nx\xe2\x80");
	assert_string_equal(err.message, "no  [2J       \xc3\xbc  x  ");
	error_prefix(&err, "\r%s", "a");
	assert_string_equal(err.message, " ano  [2J       \xc3\xbc  x  ");
}

/* Only a line that is indented cannot be taken for another message. */
static void an_error_has_no_lines_but_its_own(void **state)
{
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	error_set(&err, EXIT_FAILED, "2 checks failed:\n  one\n  two\nancla: all is well\n x\n");
	assert_string_equal(err.message, "2 checks failed:\n  one\n  two ancla: all is well  x ");
}

static void quoted_text_is_cut(void **state)
{
	char endless[10001];

	(void)state;
	memset(endless, 'a', sizeof(endless) - 1);
	endless[sizeof(endless) - 1] = '\0';
	cleanup_free char *quoted = quote(endless);
	assert_int_equal(strlen(quoted), 65);
	assert_string_equal(quoted + 61, "...\"");
}

static void files_are_replaced_as_a_whole(void **state)
{
	char directory[] = "/tmp/ancla-test-XXXXXX";
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *text = NULL;
	size_t length;

	(void)state;
	assert_non_null(mkdtemp(directory));
	cleanup_close int fd = open(directory, O_RDONLY | O_DIRECTORY);
	cleanup_free char *path = xasprintf("%s/file", directory);
	assert_int_equal(write_file_atomic(fd, "file", "one\n", &err), 0);
	assert_int_equal(write_file_atomic(fd, "file", "two", &err), 0);
	assert_int_equal(read_file(path, 3, &text, &length, &err), 0);
	assert_string_equal(text, "two");
	assert_int_equal(length, 3);
	free(take_pointer(&text));
	assert_int_equal(read_file(path, 2, &text, NULL, &err), -1);
	assert_non_null(strstr(err.message, "larger than 2B"));
	assert_int_equal(unlinkat(fd, "file", 0), 0);
	assert_int_equal(read_file(path, 2, &text, NULL, &err), -1);
	assert_non_null(strstr(err.message, "No such file"));
	assert_int_equal(rmdir(directory), 0); /* nothing else was left */
}

static void arrays_grow_by_zeroed_elements(void **state)
{
	int *numbers = NULL;
	size_t count = 0;

	(void)state;
	for (int i = 0; i < 100; i++) {
		int *number = array_append(&numbers, &count);
		assert_int_equal(*number, 0);
		*number = i;
	}
	assert_int_equal(count, 100);
	assert_int_equal(numbers[42], 42);
	free(numbers);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_told_in_the_largest_unit),
		cmocka_unit_test(the_nearest_word_is_near),
		cmocka_unit_test(quoted_text_cannot_act_on_a_terminal),
		cmocka_unit_test(an_error_cannot_act_on_a_terminal),
		cmocka_unit_test(an_error_has_no_lines_but_its_own),
		cmocka_unit_test(quoted_text_is_cut),
		cmocka_unit_test(files_are_replaced_as_a_whole),
		cmocka_unit_test(arrays_grow_by_zeroed_elements),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
