/* What the fuzzers share. Each is a file fuzz_NAME.c: one function that libFuzzer calls with any
 * bytes. It asserts what the program promises, not only that it does not crash; `make fuzz` runs
 * each from the seeds that make-seeds writes. */
#ifndef ANCLA_FUZZ_H
#define ANCLA_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <hwloc.h>
#include <json-c/json.h>

#include "cpulist.h"
#include "error.h"
#include "quote.h"
#include "util.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Hashes of keys that are the same in each run, so that one with a FUZZ_SEED can be had again. */
__attribute__((constructor)) static inline void hash_alike(void)
{
	json_global_set_string_hash(JSON_C_STR_HASH_PERLLIKE);
}

/* A promise: what is printed is `...`, a format that says what is so instead. */
#define promise(condition, ...)                                                                    \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: broken: %s: ", __FILE__, __LINE__, #condition);    \
			fprintf(stderr, __VA_ARGS__);                                              \
			fputc('\n', stderr);                                                       \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* The bytes as a string; what follows a zero is not seen. The caller frees. */
static inline char *text_of_bytes(const uint8_t *data, size_t size)
{
	char *text = xcalloc(size + 1, 1);

	memcpy(text, data, size);
	return text;
}

/* What goes to a terminal does not act on it, and no line begins that could be another message: no
 * control character, but the end of a line before one that is indented. */
static inline void promise_printable(const char *text)
{
	size_t length = strlen(text);

	for (size_t i = 0, bytes; i < length; i += bytes) {
		unsigned code = 0;

		bytes = utf8_next(text + i, length - i, &code);
		promise(bytes, "no UTF-8 at %zu in: %s", i, text);
		promise(is_printable(code) || strncmp(text + i, "\n  ", 3) == 0,
		        "U+%04X at %zu in: %s", code, i, text);
	}
}

/* An error says something, once it is there. */
static inline void promise_error(const struct error *err)
{
	promise(err->message && *err->message, "an error without a message");
	promise(err->code != EXIT_DONE, "an error with the exit code 0: %s", err->message);
}

/* The same JSON but for members that are not compared. */
static inline void promise_same_json(struct json_object *a, struct json_object *b)
{
	promise(json_object_equal(a, b), "%s\nis not\n%s", json_object_to_json_string(a),
	        json_object_to_json_string(b));
}

static inline void promise_within(hwloc_const_bitmap_t set, const char *what)
{
	promise(hwloc_bitmap_last(set) <= CPULIST_MAX && hwloc_bitmap_weight(set) >= 0,
	        "%s has a number above %d", what, CPULIST_MAX);
}

#endif
