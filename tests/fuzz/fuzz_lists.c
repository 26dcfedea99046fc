/* Lists of CPUs and nodes: any text. */
#include <ctype.h>

#include "fuzz.h"

static hwloc_bitmap_t parsed(const char *text)
{
	cleanup_error struct error err = ERROR_INIT;
	hwloc_bitmap_t set = NULL;

	if (cpulist_parse(text, &set, &err) == 0) {
		promise(set && !err.message, "a set and an error");
		return set;
	}
	promise(!set, "an error, and a set");
	promise_error(&err);
	promise_printable(err.message);
	promise(err.code == EXIT_SPEC, "exit code %d", (int)err.code);
	return NULL;
}

/* Printed and parsed again it is the same set, and prints the same. */
static void promise_round_trip(hwloc_const_bitmap_t set)
{
	cleanup_free char *text = cpulist_format(set);
	cleanup_bitmap hwloc_bitmap_t again = parsed(text);

	promise(strspn(text, "0123456789,-") == strlen(text), "printed as: %s", text);
	promise(again, "refused what it printed: %s", text);
	promise(hwloc_bitmap_isequal(set, again), "%s is another set", text);
	cleanup_free char *same = cpulist_format(again);
	promise(strcmp(text, same) == 0, "%s prints as %s", text, same);
}

/* The whole is what its parts make of it, one by one; and one wrong part makes it wrong. */
static void promise_parts(const char *text, hwloc_const_bitmap_t whole)
{
	cleanup_free char *copy = xstrdup(text);
	cleanup_bitmap hwloc_bitmap_t sum = xbitmap();
	char *rest = copy, *part;
	bool wrong = false;

	while (*text && (part = strsep(&rest, ","))) {
		while (isspace((unsigned char)*part))
			part++;
		bool exclude = *part == '^';
		cleanup_bitmap hwloc_bitmap_t set = part[exclude] == '^' ? NULL
		                                    : part[exclude]      ? parsed(part + exclude)
		                                                         : NULL;
		wrong |= !set || isspace((unsigned char)part[exclude]);
		if (!set)
			continue;
		if (exclude)
			hwloc_bitmap_andnot(sum, sum, set);
		else
			hwloc_bitmap_or(sum, sum, set);
	}
	promise(wrong == !whole, "%s: %s, but its parts are %s", text, whole ? "right" : "wrong",
	        wrong ? "wrong" : "right");
	promise(wrong || hwloc_bitmap_isequal(sum, whole), "%s is not its parts", text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_free char *text = text_of_bytes(data, size);
	cleanup_bitmap hwloc_bitmap_t set = parsed(text);

	promise_parts(text, set);
	if (!set)
		return 0;
	promise_within(set, text);
	promise_round_trip(set);
	return 0;
}
