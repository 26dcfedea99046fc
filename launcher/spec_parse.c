/* Rows and JSON become a struct spec; all errors of the file in one pass. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "quote.h"
#include "spec_parse.h"

static void add_finding(struct parse *parse, const struct place *place, char *pointer,
                        const char *format, va_list args)
{
	struct finding *finding = array_append(&parse->findings, &parse->n_findings);

	finding->offset = place->offset;
	finding->number = parse->n_findings;
	finding->error.line = place->line;
	finding->error.pointer = pointer;
	finding->error.message = xvasprintf(format, args);
}

static void mark_bad(struct place *place)
{
	place->bad = true;
	for (struct place *p = place->parent; p; p = p->parent)
		p->bad_below = true;
}

void spec_fail(struct parse *parse, struct place *place, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	add_finding(parse, place, place_pointer(place), format, args);
	va_end(args);
	mark_bad(place);
}

void spec_fail_at(struct parse *parse, const char *pointer, const char *format, ...)
{
	struct place *place = place_find(parse->document.root, pointer, true);
	va_list args;

	va_start(args, format);
	add_finding(parse, place, xstrdup(pointer), format, args);
	va_end(args);
	if (place_find(parse->document.root, pointer, false))
		mark_bad(place);
}

void spec_not_yet(struct parse *parse, struct place *place, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	add_finding(parse, place, place_pointer(place), format, args);
	va_end(args);
}

bool spec_good(struct parse *parse, const char *format, ...)
{
	va_list args;

	if (!parse->n_findings)
		return true;
	va_start(args, format);
	cleanup_free char *pointer = xvasprintf(format, args);
	va_end(args);
	struct place *place = place_find(parse->document.root, pointer, true);
	if (place == place_find(parse->document.root, pointer, false) && place->bad_below)
		return false;
	for (; place; place = place->parent)
		if (place->bad)
			return false;
	return true;
}

bool spec_says(struct parse *parse, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	cleanup_free char *pointer = xvasprintf(format, args);
	va_end(args);
	return place_find(parse->document.root, pointer, false) != NULL;
}

char *spec_found(struct parse *parse, const struct place *place)
{
	switch (json_object_get_type(place->value)) {
	case json_type_string:
		return quote(json_object_get_string(place->value));
	case json_type_object:
		return xstrdup("an object");
	case json_type_array:
		return xstrdup("a list");
	default:
		return escape(parse->document.text + place->start, place->end - place->start, 40);
	}
}

static const struct field *find_row(const struct field_table *table, const char *name)
{
	for (size_t i = 0; i < table->n_rows; i++)
		if (strcmp(table->rows[i].name, name) == 0)
			return &table->rows[i];
	return NULL;
}

/* The dotted path of a key that belongs further down; NULL if it does not. */
static char *find_elsewhere(const struct field_table *table, const char *name)
{
	for (size_t i = 0; i < table->n_rows; i++) {
		const struct field *row = &table->rows[i];
		if (row->type != FIELD_OBJECT)
			continue;
		cleanup_free char *below = find_elsewhere(row->table, name);
		if (find_row(row->table, name))
			return xasprintf("%s.%s", row->name, name);
		if (below)
			return xasprintf("%s.%s", row->name, below);
	}
	return NULL;
}

static char *list_rows(const struct field_table *table)
{
	char *list = xstrdup("");

	for (size_t i = 0; i < table->n_rows; i++) {
		char *longer = xasprintf("%s%s\"%s\"", list, i ? ", " : "", table->rows[i].name);
		free(list);
		list = longer;
	}
	return list;
}

static void unknown_key(struct parse *parse, const struct field_table *table, struct place *place)
{
	const char *names[64];
	size_t count = 0;
	cleanup_free char *key = quote(place->key);
	cleanup_free char *lower = xstrdup(place->key);

	for (char *p = lower; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	for (; count < table->n_rows && count < ARRAY_SIZE(names); count++)
		names[count] = table->rows[count].name;
	place->meant = nearest_word(lower, names, count);
	cleanup_free char *elsewhere = find_elsewhere(table, lower);
	cleanup_free char *known = list_rows(table);
	if (place->meant)
		spec_fail(parse, place, "unknown key %s; did you mean \"%s\"?", key, place->meant);
	else if (elsewhere)
		spec_fail(parse, place, "unknown key %s here; did you mean %s?", key, elsewhere);
	else
		spec_fail(parse, place, "unknown key %s; expected %s", key, known);
}

/* A row's default, which the table has right. */
static void set_fallback(const struct field *field, void *base)
{
	void *member = field_member(field, base);
	int value = 0;

	for (const struct field_value *v = field->values; v && v->name; v++)
		if (field->fallback && strcmp(v->name, field->fallback) == 0)
			value = v->value;
	switch (field->type) {
	case FIELD_STRING:
	case FIELD_PATH:
	case FIELD_PROGRAM:
		if (field->fallback)
			*(char **)member = xstrdup(field->fallback);
		break;
	case FIELD_INTEGER:
		*(int *)member = field->fallback ? atoi(field->fallback) : field->unset;
		break;
	case FIELD_BOOL:
		*(bool *)member = field->fallback && strcmp(field->fallback, "true") == 0;
		break;
	case FIELD_ENUM:
		if (field->size == sizeof(bool))
			*(bool *)member = value;
		else
			*(int *)member = value;
		break;
	case FIELD_PAGES:
		((struct pages *)member)->kind = (enum page_kind)value;
		break;
	case FIELD_CPUS:
		if (field->fallback)
			*(hwloc_bitmap_t *)member = xbitmap();
		break;
	case FIELD_OBJECT:
	case FIELD_SIZE:
	case FIELD_PAGE_SIZE:
	case FIELD_DISTANCES:
	case FIELD_NAMES:
	case FIELD_LIST:
	case FIELD_MAP:
		break;
	}
}

/* What says nothing but the default may be said already. */
static void check_not_yet(struct parse *parse, const struct field *field, struct place *place,
                          void *base)
{
	if (field->type == FIELD_BOOL && !*(bool *)field_member(field, base))
		return;
	if (field->type == FIELD_NAMES && !*field_count(field, base))
		return;
	spec_not_yet(parse, place, "not yet supported: %s", field->not_yet);
}

static void parse_member(struct parse *parse, const struct field *field, struct place *place,
                         void *base)
{
	if (field->given)
		*(bool *)(void *)((char *)base + field->given) = true;
	if (spec_parse_value(parse, field, place, base) < 0)
		set_fallback(field, base);
	else if (field->not_yet)
		check_not_yet(parse, field, place, base);
}

static void parse_absent(struct parse *parse, const struct field *field, struct place *object,
                         void *base)
{
	set_fallback(field, base);
	if (field->type == FIELD_OBJECT && !field->given)
		spec_parse_object(parse, field->table, NULL, base);
	if (!field->required || !object)
		return;
	for (struct place *p = object->first; p; p = p->next)
		if (p->meant && strcmp(p->meant, field->name) == 0)
			return;
	spec_fail(parse, place_add_missing(object, field->name), "required but missing: %s",
	          field->help);
}

void spec_parse_object(struct parse *parse, const struct field_table *table, struct place *place,
                       void *base)
{
	uint64_t seen = 0;

	if (place && !json_object_is_type(place->value, json_type_object)) {
		cleanup_free char *found = spec_found(parse, place);
		spec_fail(parse, place, "expected an object, found %s", found);
		place = NULL;
	}
	for (struct place *p = place ? place->first : NULL; p; p = p->next) {
		const struct field *row = find_row(table, p->key);
		if (p->twin)
			spec_fail(parse, p, "key given twice, first on line %u", p->twin->line);
		if (p->superseded)
			continue;
		if (!row) {
			unknown_key(parse, table, p);
			continue;
		}
		seen |= 1ULL << (row - table->rows);
		parse_member(parse, row, p, base);
	}
	for (size_t i = 0; i < table->n_rows; i++)
		if (!(seen & 1ULL << i))
			parse_absent(parse, &table->rows[i], place, base);
}

static int by_offset(const void *a, const void *b)
{
	const struct finding *one = a, *other = b;

	if (one->offset != other->offset)
		return one->offset < other->offset ? -1 : 1;
	return one->number < other->number ? -1 : 1;
}

/* Moves the errors out, in the order of the file. */
static void take_errors(struct parse *parse, struct spec_errors *errors)
{
	qsort(parse->findings, parse->n_findings, sizeof(*parse->findings), by_offset);
	errors->list = xcalloc(parse->n_findings, sizeof(*errors->list));
	errors->count = parse->n_findings;
	for (size_t i = 0; i < parse->n_findings; i++)
		errors->list[i] = parse->findings[i].error;
	free(parse->findings);
}

static void add_error(struct spec_errors *errors, unsigned line, char *message)
{
	struct spec_error *error = array_append(&errors->list, &errors->count);

	error->line = line;
	error->pointer = xstrdup("");
	error->message = message;
}

struct spec *spec_parse(const char *path, const char *text, size_t length,
                        struct spec_errors *errors)
{
	struct parse parse = { .spec = xcalloc(1, sizeof(*parse.spec)) };
	struct json_fault fault = { 0 };
	struct spec *spec = parse.spec;

	*errors = (struct spec_errors){ 0 };
	spec->file = xstrdup(path);
	if (length > SPEC_JSON_SIZE) {
		add_error(errors, 0, xstrdup("larger than 1MiB: not a spec"));
	} else if (document_parse(&parse.document, text, length, &fault) < 0) {
		add_error(errors, fault.line, fault.message);
	} else {
		spec_parse_object(&parse, &spec_table, parse.document.root, spec);
		spec_resolve(&parse);
		spec_check(&parse);
		if (parse.n_findings)
			take_errors(&parse, errors);
	}
	document_clear(&parse.document);
	free(parse.directory);
	if (!errors->count)
		return spec;
	spec_free(spec);
	return NULL;
}

/* Reads a regular file of at most `limit` bytes and one more; never waits for a FIFO. Returns
 * NULL and why. */
static char *read_spec(const char *path, size_t *length, char **reason)
{
	size_t limit = SPEC_JSON_SIZE + 1;
	cleanup_close int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0) {
		*reason = xasprintf("cannot open: %s", strerror(errno));
		return NULL;
	}
	if (!S_ISREG(status.st_mode)) {
		*reason = xasprintf("is %s; expected a regular file",
		                    S_ISDIR(status.st_mode)    ? "a directory"
		                    : S_ISFIFO(status.st_mode) ? "a pipe"
		                                               : "a device or socket");
		return NULL;
	}
	cleanup_free char *text = xreallocarray(NULL, limit, 1);
	for (*length = 0; *length < limit;) {
		ssize_t got = read(fd, text + *length, limit - *length);
		if (got == 0)
			break;
		if (got < 0 && errno != EINTR) {
			*reason = xasprintf("cannot read: %s", strerror(errno));
			return NULL;
		}
		*length += got > 0 ? (size_t)got : 0;
	}
	return take_pointer(&text);
}

struct spec *spec_load(const char *path, struct spec_errors *errors)
{
	size_t length;
	char *reason = NULL;
	cleanup_free char *text = read_spec(path, &length, &reason);

	*errors = (struct spec_errors){ 0 };
	if (text)
		return spec_parse(path, text, length, errors);
	add_error(errors, 0, reason);
	return NULL;
}
