/* The rows from which the parser, the defaults, `ancla schema`, the README's field table and
 * did-you-mean are made. A field of the spec is declared here once and nowhere else. */
#ifndef ANCLA_SPEC_FIELDS_H
#define ANCLA_SPEC_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "spec.h"

enum field_type {
	FIELD_STRING,    /* char *; longest, pattern, normalise */
	FIELD_PATH,      /* char *; made absolute from the spec's directory */
	FIELD_PROGRAM,   /* char *; the same if it holds a "/", else a name for PATH */
	FIELD_SIZE,      /* uint64_t bytes; min and max in bytes */
	FIELD_PAGE_SIZE, /* uint64_t bytes; a power of two */
	FIELD_INTEGER,   /* int; min, max; as the key of a map: decimal digits */
	FIELD_BOOL,      /* bool */
	FIELD_ENUM,      /* an enum or a bool, by `size`; values; or an object: table */
	FIELD_CPUS,      /* hwloc_bitmap_t; Linux list; NULL if absent */
	FIELD_PAGES,     /* struct pages: a value, a page size, or an object */
	FIELD_DISTANCES, /* enum distances, and the matrix beside it */
	FIELD_NAMES,     /* char **, size_t: list of strings */
	FIELD_OBJECT,    /* the rows of `table`, in the same struct */
	FIELD_LIST,      /* array of the table's struct, size_t: list of objects */
	FIELD_MAP,       /* the same; table row 0 is the key, row 1 the value */
};

struct field_value {
	const char *name;
	int value;
	bool literal;        /* JSON's true or false, not a string */
	const char *not_yet; /* known but refused: what to do instead */
	const char *instead; /* not a value, but what people write: what to write */
};

struct field {
	const char *name;
	const char *help;     /* one line, no full stop */
	const char *fallback; /* the default, as the spec would write it without quotes */
	const char *absent;   /* in words, where the default is not a fixed value */
	enum field_type type;
	bool required;
	const char *not_yet; /* refused unless it says what the default is: what to do instead */

	size_t offset, size; /* of the member */
	size_t count;        /* offset of the number of elements */
	size_t given;        /* offset of a bool set when the field is there; 0: none */

	int unset;           /* FIELD_INTEGER without fallback: what stands for absent */
	int64_t min, max;    /* numbers, sizes; number of elements */
	size_t longest;      /* strings: bytes; 0: FIELD_TEXT_MAX */
	const char *pattern; /* strings: POSIX ERE, valid as ECMAScript, too */
	const char *what;    /* strings: what the pattern means, for "expected ..." */
	char *(*normalise)(const char *text); /* strings that match; the caller frees */
	const struct field_value *values;     /* ends with a NULL name */
	const struct field_table *table;
	int table_value; /* FIELD_ENUM as an object: the value that this means */
};

struct field_table {
	const struct field *rows;
	size_t n_rows;
	size_t size; /* of the struct that the offsets are in */
};

extern const struct field_table spec_table;

/* The object form of FIELD_PAGES, in a struct pages. */
extern const struct field_table pages_table;

/* Names that other stages print. */
extern const struct field_value scheduler_values[], mem_policy_values[], accel_values[];

/* Longest string of a FIELD_STRING without `longest`, and of every path: PATH_MAX less its zero. */
#define FIELD_TEXT_MAX 4095

static inline void *field_member(const struct field *field, void *base)
{
	return (char *)base + field->offset;
}

static inline size_t *field_count(const struct field *field, void *base)
{
	return (size_t *)(void *)((char *)base + field->count);
}

#endif
