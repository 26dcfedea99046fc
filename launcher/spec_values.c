/* One value of the spec: from JSON into its member, by its row. */
#include <ctype.h>
#include <errno.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "quote.h"
#include "spec_parse.h"

#define PAGE_SIZE_MIN (64ULL * 1024)
#define PAGE_SIZE_MAX (16ULL * 1024 * 1024 * 1024)
#define MATRIX_MAX 128 /* QEMU's MAX_NODES */

static int fail_expected(struct parse *parse, struct place *place, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int fail_expected(struct parse *parse, struct place *place, const char *format, ...)
{
	cleanup_free char *found = spec_found(parse, place);
	va_list args;

	va_start(args, format);
	cleanup_free char *expected = xvasprintf(format, args);
	va_end(args);
	spec_fail(parse, place, "expected %s, found %s", expected, found);
	return -1;
}

/* NULL, after spec_fail(), for what is not a string. */
static const char *string_of(struct parse *parse, struct place *place, const char *expected)
{
	if (json_object_is_type(place->value, json_type_string))
		return json_object_get_string(place->value);
	fail_expected(parse, place, "%s", expected);
	return NULL;
}

static bool all_printable(const char *text)
{
	size_t length = strlen(text);
	unsigned code;

	for (size_t i = 0, bytes; i < length; i += bytes) {
		bytes = utf8_next(text + i, length - i, &code);
		if (!bytes || !is_printable(code))
			return false;
	}
	return true;
}

static bool matches(const char *pattern, const char *text)
{
	regex_t regex;

	if (!pattern)
		return true;
	if (regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB) != 0)
		return false;
	int result = regexec(&regex, text, 0, NULL, 0);
	regfree(&regex);
	return result == 0;
}

/* Checks text by the row of a string; an empty one is right only where nothing is asked of it. */
static int check_text(struct parse *parse, const struct field *field, struct place *place,
                      const char *text)
{
	bool path = field->type == FIELD_PATH || field->type == FIELD_PROGRAM;
	const char *what = field->what ? field->what : "a path";
	size_t longest = field->longest ? field->longest : FIELD_TEXT_MAX;
	cleanup_free char *quoted = quote(text);

	if (strlen(text) > longest)
		spec_fail(parse, place, "expected at most %zu bytes, found %zu: %s", longest,
		          strlen(text), quoted);
	else if (!all_printable(text))
		spec_fail(parse, place, "expected %s without control characters, found %s", what,
		          quoted);
	else if ((path && !*text) || !matches(field->pattern, text))
		spec_fail(parse, place, "expected %s, found %s", what, quoted);
	else
		return 0;
	return -1;
}

static int parse_string(struct parse *parse, const struct field *field, struct place *place,
                        const char *text, char **result)
{
	if (check_text(parse, field, place, text) < 0)
		return -1;
	*result = field->normalise ? field->normalise(text) : xstrdup(text);
	return 0;
}

/* The directory that relative paths start from. */
static const char *spec_directory(struct parse *parse)
{
	if (parse->directory)
		return parse->directory;
	const char *slash = strrchr(parse->spec->file, '/');
	cleanup_free char *directory = NULL;
	if (!slash)
		directory = xstrdup(".");
	else
		directory =
		    xasprintf("%.*s", (int)(slash - parse->spec->file + 1), parse->spec->file);
	char *absolute = realpath(directory, NULL);
	parse->directory = absolute ? absolute : take_pointer(&directory);
	return parse->directory;
}

static int parse_path(struct parse *parse, const struct field *field, struct place *place,
                      const char *text, char **result)
{
	size_t longest = field->longest ? field->longest : FIELD_TEXT_MAX;

	if (check_text(parse, field, place, text) < 0)
		return -1;
	if (*text == '/' || (field->type == FIELD_PROGRAM && !strchr(text, '/'))) {
		*result = xstrdup(text);
		return 0;
	}
	const char *directory = spec_directory(parse);
	cleanup_free char *path =
	    xasprintf("%s%s%s", directory, strcmp(directory, "/") == 0 ? "" : "/", text);
	if (strlen(path) > longest) {
		spec_fail(parse, place,
		          "expected a path of at most %zu bytes, found %zu with the directory "
		          "of the spec",
		          longest, strlen(path));
		return -1;
	}
	*result = take_pointer(&path);
	return 0;
}

/* The power of 1024 that a unit means; -1 for none. `exact` is false for what people write. */
static int unit_power(const char *unit, bool *exact)
{
	static const char letters[] = "KMGTP";
	const char *letter = strchr(letters, toupper((unsigned char)*unit));

	if (!*unit || !letter)
		return -1;
	*exact = *unit == *letter && strcmp(unit + 1, "iB") == 0 && *letter != 'P';
	if (*exact || !unit[1] || strcasecmp(unit + 1, "b") == 0 || strcasecmp(unit + 1, "ib") == 0)
		return (int)(letter - letters) + 1;
	return -1;
}

#define SIZE_EXPECTED "a size as \"16GiB\" or \"512MiB\" (a whole number and KiB, MiB, GiB or TiB)"

/* Errors are told in full, with the size that was probably meant. */
static int parse_size(struct parse *parse, const char *expected, struct place *place,
                      const char *text, uint64_t *result)
{
	size_t digits = strspn(text, "0123456789");
	const char *unit = text + digits + strspn(text + digits, " ");
	bool exact = false;
	int power = unit_power(unit, &exact);
	cleanup_free char *found = quote(text);

	if (digits && digits <= 15 && power > 0 && exact && unit == text + digits && *text != '0') {
		uint64_t number = strtoull(text, NULL, 10);
		*result = number << (10 * power);
		if (*result >> (10 * power) == number)
			return 0;
	}
	if (digits && digits <= 15 && power > 0 && power < 5 && *text != '0' &&
	    !(exact && unit == text + digits))
		spec_fail(parse, place, "expected %s, found %s; did you mean \"%.*s%ciB\"?",
		          expected, found, (int)digits, text, toupper((unsigned char)*unit));
	else
		spec_fail(parse, place, "expected %s, found %s", expected, found);
	return -1;
}

static int parse_memory(struct parse *parse, const struct field *field, struct place *place,
                        uint64_t *result)
{
	const char *text = string_of(parse, place, SIZE_EXPECTED);
	uint64_t size;

	if (!text || parse_size(parse, SIZE_EXPECTED, place, text, &size) < 0)
		return -1;
	if (size < (uint64_t)field->min || size > (uint64_t)field->max) {
		cleanup_free char *least = format_size((uint64_t)field->min);
		cleanup_free char *most = format_size((uint64_t)field->max);
		return fail_expected(parse, place, "a size from %s to %s", least, most);
	}
	*result = size;
	return 0;
}

static int parse_page_size(struct parse *parse, const char *expected, struct place *place,
                           uint64_t *result)
{
	const char *text = string_of(parse, place, expected);
	uint64_t size;

	if (!text || parse_size(parse, expected, place, text, &size) < 0)
		return -1;
	if (size & (size - 1) || size < PAGE_SIZE_MIN || size > PAGE_SIZE_MAX)
		return fail_expected(parse, place,
		                     "the size of a huge page (a power of two from 64KiB to 16GiB, "
		                     "on x86-64 \"2MiB\" or \"1GiB\")");
	*result = size;
	return 0;
}

static int parse_integer(struct parse *parse, int64_t min, int64_t max, struct place *place,
                         int64_t *result)
{
	int64_t value = json_object_get_int64(place->value);

	if (json_object_is_type(place->value, json_type_int) && value >= min && value <= max) {
		*result = value;
		return 0;
	}
	if (min == max)
		fail_expected(parse, place, "%lld", (long long)min);
	else
		fail_expected(parse, place, "a whole number from %lld to %lld", (long long)min,
		              (long long)max);
	return -1;
}

/* `"a", "b" or "c"` */
static char *list_values(const struct field *field)
{
	const struct field_value *value = field->values;
	char *list = xstrdup("");

	for (; value->name; value++) {
		const struct field_value *next = value + 1;
		const char *mark = value->literal ? "" : "\"";
		bool last = !next->name || next->instead;

		if (value->instead)
			continue;
		const char *joint = !*list ? "" : last && !field->table ? " or " : ", ";
		char *longer = xasprintf("%s%s%s%s%s", list, joint, mark, value->name, mark);
		free(list);
		list = longer;
	}
	if (field->table) {
		char *longer = xasprintf("%s or {\"%s\": ...}", list, field->table->rows[0].name);
		free(list);
		list = longer;
	}
	return list;
}

static const struct field_value *find_value(const struct field *field, struct json_object *json)
{
	const char *text = json_object_get_string(json);
	bool literal = json_object_is_type(json, json_type_boolean);

	if (!literal && !json_object_is_type(json, json_type_string))
		return NULL;
	for (const struct field_value *value = field->values; value->name; value++)
		if (value->literal == literal && strcmp(value->name, text) == 0)
			return value;
	return NULL;
}

static char *nearest_value(const struct field *field, struct json_object *json)
{
	const char *names[16];
	size_t count = 0;

	if (!json_object_is_type(json, json_type_string))
		return xstrdup("");
	for (const struct field_value *value = field->values; value->name; value++)
		if (!value->instead && count < ARRAY_SIZE(names))
			names[count++] = value->name;
	const char *near = nearest_word(json_object_get_string(json), names, count);
	for (const struct field_value *value = field->values; near && value->name; value++)
		if (value->literal && strcmp(value->name, near) == 0)
			return xasprintf("; did you mean %s without quotation marks?", near);
	return near ? xasprintf("; did you mean \"%s\"?", near) : xstrdup("");
}

static void store_enum(const struct field *field, void *member, int value)
{
	if (field->size == sizeof(bool))
		*(bool *)member = value;
	else
		*(int *)member = value;
}

static int parse_enum(struct parse *parse, const struct field *field, struct place *place,
                      void *base, void *member)
{
	const struct field_value *value = find_value(field, place->value);

	if (field->table && json_object_is_type(place->value, json_type_object)) {
		spec_parse_object(parse, field->table, place, base);
		store_enum(field, member, field->table_value);
		return 0;
	}
	if (!value) {
		cleanup_free char *expected = list_values(field);
		cleanup_free char *found = spec_found(parse, place);
		cleanup_free char *near = nearest_value(field, place->value);
		spec_fail(parse, place, "expected %s, found %s%s", expected, found, near);
		return -1;
	}
	if (value->instead)
		return fail_expected(parse, place, "%s", value->instead);
	if (value->not_yet)
		spec_not_yet(parse, place, "\"%s\" is not yet supported: %s", value->name,
		             value->not_yet);
	store_enum(field, member, value->value);
	return 0;
}

static int parse_cpus(struct parse *parse, const struct field *field, struct place *place,
                      hwloc_bitmap_t *result)
{
	static const char expected[] = "a list of numbers as \"0-3,8\", \"0-31:2\" or \"0-7,^2\"";
	const char *text = string_of(parse, place, expected);
	cleanup_bitmap hwloc_bitmap_t set = NULL;
	cleanup_error struct error err = ERROR_INIT;

	if (!text)
		return -1;
	if (strlen(text) > FIELD_TEXT_MAX || text[strspn(text, "0123456789-,:^ ")])
		return fail_expected(parse, place, "%s", expected);
	if (cpulist_parse(text, &set, &err) < 0) {
		spec_fail(parse, place, "%s", err.message);
		return -1;
	}
	if (hwloc_bitmap_iszero(set) && !field->fallback)
		return fail_expected(parse, place, "%s with at least one number", expected);
	*result = take_pointer(&set);
	return 0;
}

static int parse_pages(struct parse *parse, const struct field *field, struct place *place,
                       struct pages *pages)
{
	static const char expected[] =
	    "\"none\", \"thp\", a page size as \"2MiB\", or {\"size\": ..., \"reserve\": ...}";
	const struct field_value *value = find_value(field, place->value);

	if (value) {
		pages->kind = (enum page_kind)value->value;
		return 0;
	}
	pages->kind = PAGES_HUGE;
	if (!json_object_is_type(place->value, json_type_object))
		return parse_page_size(parse, expected, place, &pages->size);
	spec_parse_object(parse, &pages_table, place, pages);
	return 0;
}

static size_t count_children(const struct place *place)
{
	return place->last ? place->last->index + 1 : 0;
}

/* The distances of one node to `n` nodes, itself among them. */
static int parse_distance_row(struct parse *parse, const struct field *field, struct place *row,
                              size_t n, unsigned *distances)
{
	int status = 0;

	if (!json_object_is_type(row->value, json_type_array))
		return fail_expected(parse, row, "a list of %zu distances", n);
	if (count_children(row) != n) {
		spec_fail(parse, row, "expected %zu distances, as many as rows, found %zu", n,
		          count_children(row));
		return -1;
	}
	for (struct place *cell = row->first; cell; cell = cell->next) {
		bool local = cell->index == row->index;
		int64_t distance;

		if (parse_integer(parse, field->min + !local, local ? field->min : field->max, cell,
		                  &distance) < 0)
			status = -1;
		else
			distances[cell->index] = (unsigned)distance;
	}
	return status;
}

/* "host", or one row of distances for each guest node. */
static int parse_distances(struct parse *parse, const struct field *field, struct place *place,
                           enum distances *result)
{
	const struct field_value *value = find_value(field, place->value);
	size_t n = count_children(place);
	int status = 0;

	if (value) {
		*result = (enum distances)value->value;
		return 0;
	}
	if (!json_object_is_type(place->value, json_type_array) || !n || n > MATRIX_MAX)
		return fail_expected(parse, place,
		                     "\"host\" or a matrix with a row of distances per guest node");
	*result = DISTANCES_MATRIX;
	parse->spec->numa.matrix = xcalloc(n * n, sizeof(unsigned));
	for (struct place *row = place->first; row; row = row->next)
		if (parse_distance_row(parse, field, row, n,
		                       &parse->spec->numa.matrix[row->index * n]) < 0)
			status = -1;
	return status;
}

/* Wrong sizes of lists end the parsing of the list. */
static int check_count(struct parse *parse, const struct field *field, struct place *place)
{
	size_t n = count_children(place);
	bool map = field->type == FIELD_MAP;

	if (!json_object_is_type(place->value, map ? json_type_object : json_type_array))
		return fail_expected(parse, place, "%s", map ? "an object" : "a list");
	if (n < (size_t)field->min || n > (size_t)field->max) {
		spec_fail(parse, place, "expected %lld to %lld entries, found %zu",
		          (long long)field->min, (long long)field->max, n);
		return -1;
	}
	return 0;
}

static int parse_names(struct parse *parse, const struct field *field, struct place *place,
                       void *base, char ***names)
{
	size_t *count = field_count(field, base);

	if (check_count(parse, field, place) < 0)
		return -1;
	for (struct place *p = place->first; p; p = p->next) {
		char **name = array_append(names, count);
		const char *text = string_of(parse, p, field->what);
		if (!text || parse_string(parse, field, p, text, name) < 0)
			*name = xstrdup("");
	}
	return 0;
}

static int parse_list(struct parse *parse, const struct field *field, struct place *place,
                      void *base, void **array)
{
	if (check_count(parse, field, place) < 0)
		return -1;
	for (struct place *p = place->first; p; p = p->next)
		spec_parse_object(
		    parse, field->table, p,
		    array_append_(array, field_count(field, base), field->table->size));
	return 0;
}

static int parse_map(struct parse *parse, const struct field *field, struct place *place,
                     void *base, void **array)
{
	if (check_count(parse, field, place) < 0)
		return -1;
	for (struct place *p = place->first; p; p = p->next) {
		if (p->twin)
			spec_fail(parse, p, "key given twice, first on line %u", p->twin->line);
		if (p->superseded)
			continue;
		void *element = array_append_(array, field_count(field, base), field->table->size);
		spec_parse_key(parse, &field->table->rows[0], p, element);
		spec_parse_value(parse, &field->table->rows[1], p, element);
	}
	return 0;
}

int spec_parse_key(struct parse *parse, const struct field *field, struct place *place, void *base)
{
	const char *key = place->key;
	void *member = field_member(field, base);

	if (field->type == FIELD_STRING)
		return parse_string(parse, field, place, key, member);
	size_t digits = strspn(key, "0123456789");
	if (!digits || key[digits] || (digits > 1 && *key == '0') || digits > 9 ||
	    atoi(key) > field->max) {
		cleanup_free char *quoted = quote(key);
		spec_fail(parse, place, "expected the %s, %lld to %lld, as the key, found %s",
		          field->help, (long long)field->min, (long long)field->max, quoted);
		return -1;
	}
	*(int *)member = atoi(key);
	return 0;
}

int spec_parse_value(struct parse *parse, const struct field *field, struct place *place,
                     void *base)
{
	void *member = field_member(field, base);
	const char *text;
	int64_t number;

	switch (field->type) {
	case FIELD_STRING:
		text = string_of(parse, place, field->what);
		return text ? parse_string(parse, field, place, text, member) : -1;
	case FIELD_PATH:
	case FIELD_PROGRAM:
		text = string_of(parse, place, "a path");
		return text ? parse_path(parse, field, place, text, member) : -1;
	case FIELD_SIZE:
		return parse_memory(parse, field, place, member);
	case FIELD_PAGE_SIZE:
		return parse_page_size(parse, "a page size as \"2MiB\"", place, member);
	case FIELD_INTEGER:
		if (parse_integer(parse, field->min, field->max, place, &number) < 0)
			return -1;
		*(int *)member = (int)number;
		return 0;
	case FIELD_BOOL:
		if (!json_object_is_type(place->value, json_type_boolean))
			return fail_expected(parse, place, "true or false");
		*(bool *)member = json_object_get_boolean(place->value);
		return 0;
	case FIELD_ENUM:
		return parse_enum(parse, field, place, base, member);
	case FIELD_CPUS:
		return parse_cpus(parse, field, place, member);
	case FIELD_PAGES:
		return parse_pages(parse, field, place, member);
	case FIELD_DISTANCES:
		return parse_distances(parse, field, place, member);
	case FIELD_NAMES:
		return parse_names(parse, field, place, base, member);
	case FIELD_OBJECT:
		spec_parse_object(parse, field->table, place, base);
		return 0;
	case FIELD_LIST:
		return parse_list(parse, field, place, base, member);
	case FIELD_MAP:
		return parse_map(parse, field, place, base, member);
	}
	return -1;
}
