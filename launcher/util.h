/* What C lacks: cleanup attributes, allocation that cannot fail, whole-file reads. */
#ifndef ANCLA_UTIL_H
#define ANCLA_UTIL_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <hwloc.h>
#include <json-c/json.h>

#include "error.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

/* Cleanup attributes: the variable must be initialised (NULL, or -1 for descriptors). */
void cleanup_free_fn(void *pointer);
void cleanup_close_fn(int *fd);
void cleanup_file_fn(FILE **file);
void cleanup_bitmap_fn(hwloc_bitmap_t *set);
void cleanup_json_fn(struct json_object **json);

#define cleanup_free __attribute__((cleanup(cleanup_free_fn)))
#define cleanup_close __attribute__((cleanup(cleanup_close_fn)))
#define cleanup_file __attribute__((cleanup(cleanup_file_fn)))
#define cleanup_bitmap __attribute__((cleanup(cleanup_bitmap_fn)))
#define cleanup_json __attribute__((cleanup(cleanup_json_fn)))

/* Takes the value out of a cleanup variable: `return take_fd(&fd);`. */
int take_fd(int *fd);
#define take_pointer(p)                                                                            \
	({                                                                                         \
		__typeof__(*(p)) taken_ = *(p);                                                    \
		*(p) = NULL;                                                                       \
		taken_;                                                                            \
	})

/* Allocation: memory is zeroed; when there is none the program says so and exits with code 1
 * (whatever it had started ends with it: see guard.h). The caller frees with free(). */
#define never_null __attribute__((returns_nonnull))
never_null void *xcalloc(size_t count, size_t size);
never_null void *xreallocarray(void *pointer, size_t count, size_t size); /* not zeroed */
never_null char *xstrdup(const char *text);
never_null char *xasprintf(const char *format, ...) __attribute__((format(printf, 1, 2)));
never_null char *xvasprintf(const char *format, va_list args) __attribute__((format(printf, 1, 0)));
never_null FILE *xmemstream(char **text, size_t *length); /* open_memstream(3) */
never_null hwloc_bitmap_t xbitmap(void);                  /* empty */
never_null hwloc_bitmap_t xbitmap_dup(hwloc_const_bitmap_t set);

/* Grows an array by one zeroed element and returns that element.
 * `array` is a pointer to the pointer, `count` a pointer to the number of elements. */
#define array_append(array, count)                                                                 \
	((__typeof__(**(array)) *)array_append_((void **)(array), (count), sizeof(**(array))))
void *array_append_(void **array, size_t *count, size_t size);

/* Reads a whole file of at most `limit` bytes. On success stores a NUL-terminated buffer that
 * the caller frees, and its length if `length` is not NULL. Errors: EXIT_FAILED, with the path
 * and the reason. */
int read_file(const char *path, size_t limit, char **text, size_t *length, struct error *err);

/* The same of what is open; the path is for errors. */
int read_fd(int fd, const char *path, size_t limit, char **text, size_t *length, struct error *err);

/* Reads one non-negative number from a file of /proc or /sys; returns -1 where the file is
 * missing or holds something else. */
int64_t read_number(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Writes the text to a new file beside `path` (relative to the directory `dirfd`) and renames it
 * over `path`, mode 0600. */
int write_file_atomic(int dirfd, const char *path, const char *text, struct error *err);

/* Makes a directory, mode 0700, and those above it that are missing. That it could not be made
 * shows when it is used. */
void make_directories(const char *path);

/* Parses what ancla has written: JSON, and nothing else that json-c takes by itself (comments,
 * other quotes, more after it). NULL if it is not. */
struct json_object *json_parse(const char *text);

/* Adds a member to a JSON object; strings are copied. */
void json_add_string(struct json_object *json, const char *key, const char *value);
void json_add_int(struct json_object *json, const char *key, int64_t value);
void json_add_bool(struct json_object *json, const char *key, bool value);

/* The string behind a key; NULL where there is none, or something else, and where the JSON is no
 * object. */
const char *json_string(struct json_object *json, const char *key);

/* A size in the largest unit that divides it: "2MiB", "16GiB", "4096B". The caller frees. */
char *format_size(uint64_t bytes);

/* What a word takes after a count: "1 page", "2 pages". */
#define plural(count) ((count) == 1 ? "" : "s")

/* The candidate nearest to `word` by edit distance, or NULL where none is near (more than a
 * third of the word's length, at least 2, away). */
const char *nearest_word(const char *word, const char *const *candidates, size_t count);

#endif
