/* One spec on its way from JSON to a struct spec; shared by the parser and the checks. */
#ifndef ANCLA_SPEC_PARSE_H
#define ANCLA_SPEC_PARSE_H

#include "spec.h"
#include "spec_fields.h"
#include "spec_json.h"

struct parse {
	struct spec *spec;
	struct document document;
	char *directory; /* of the spec, absolute; NULL until asked for */
	struct finding {
		struct spec_error error;
		size_t offset, number; /* errors are told in the order of the file */
	} * findings;
	size_t n_findings;
};

/* Says what is wrong with a value. Nothing is said any more about what depends on it. */
void spec_fail(struct parse *parse, struct place *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a value that may be absent, by its JSON pointer. */
void spec_fail_at(struct parse *parse, const char *pointer, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Refuses a value that is known, and right, but does nothing yet. */
void spec_not_yet(struct parse *parse, struct place *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* True if neither the value, nor what it is in, nor anything in it is known to be wrong; also
 * true for what is absent. The pointer is a format. */
bool spec_good(struct parse *parse, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* True if the spec says it. */
bool spec_says(struct parse *parse, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The value as the spec has it, for "found ...": "a list", 17, "\"fif\"". The caller frees. */
char *spec_found(struct parse *parse, const struct place *place);

/* One value by its row (spec_values.c). Returns -1 after spec_fail(). */
int spec_parse_value(struct parse *parse, const struct field *field, struct place *place,
                     void *base);

/* The key of a member of a map by its row. */
int spec_parse_key(struct parse *parse, const struct field *field, struct place *place, void *base);

/* The rows of an object; with `place` NULL the defaults alone. */
void spec_parse_object(struct parse *parse, const struct field_table *table, struct place *place,
                       void *base);

/* What follows from other fields: max-vcpus, modes, prealloc, left-over vCPUs (spec_check.c). */
void spec_resolve(struct parse *parse);

/* Consistency between fields: all of it, and its parts (spec_check_memory.c, ...devices.c). */
void spec_check(struct parse *parse);
void spec_check_memory(struct parse *parse);
void spec_check_devices(struct parse *parse);
void spec_check_args(struct parse *parse);

#endif
