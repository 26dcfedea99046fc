/* The rows as a JSON Schema and as a Markdown table. */
#include <stdlib.h>
#include <string.h>

#include "spec_fields.h"
#include "util.h"

#define SIZE_PATTERN "^[1-9][0-9]*(KiB|MiB|GiB|TiB)$"
#define PART_PATTERN " *\\^?[0-9]+(-[0-9]+(:[1-9][0-9]*)?)? *"
#define LIST_PATTERN PART_PATTERN "(," PART_PATTERN ")*"

static struct json_object *schema_of_table(const struct field_table *table);

static void put(struct json_object *object, const char *key, struct json_object *value)
{
	json_object_object_add(object, key, value);
}

static void put_text(struct json_object *object, const char *key, const char *text)
{
	put(object, key, json_object_new_string(text));
}

static struct json_object *typed(const char *type)
{
	struct json_object *schema = json_object_new_object();

	put_text(schema, "type", type);
	return schema;
}

static struct json_object *text_schema(const char *pattern)
{
	struct json_object *schema = typed("string");

	if (pattern)
		put_text(schema, "pattern", pattern);
	return schema;
}

static struct json_object *value_json(const struct field_value *value)
{
	if (value->literal)
		return json_object_new_boolean(strcmp(value->name, "true") == 0);
	return json_object_new_string(value->name);
}

static struct json_object *enum_schema(const struct field *field)
{
	struct json_object *schema = json_object_new_object();
	struct json_object *values = json_object_new_array();

	for (const struct field_value *value = field->values; value->name; value++)
		if (!value->instead)
			json_object_array_add(values, value_json(value));
	put(schema, "enum", values);
	return schema;
}

static struct json_object *any_of(struct json_object *a, struct json_object *b,
                                  struct json_object *c)
{
	struct json_object *schema = json_object_new_object();
	struct json_object *list = json_object_new_array();

	json_object_array_add(list, a);
	json_object_array_add(list, b);
	if (c)
		json_object_array_add(list, c);
	put(schema, "anyOf", list);
	return schema;
}

static struct json_object *string_schema(const struct field *field)
{
	struct json_object *schema = text_schema(field->pattern);
	bool path = field->type == FIELD_PATH || field->type == FIELD_PROGRAM;

	if (path)
		put(schema, "minLength", json_object_new_int(1));
	put(schema, "maxLength",
	    json_object_new_int64((int64_t)(field->longest ? field->longest : FIELD_TEXT_MAX)));
	return schema;
}

static struct json_object *integer_schema(int64_t min, int64_t max)
{
	struct json_object *schema = typed("integer");

	put(schema, "minimum", json_object_new_int64(min));
	put(schema, "maximum", json_object_new_int64(max));
	return schema;
}

static struct json_object *array_schema(const struct field *field, struct json_object *items)
{
	struct json_object *schema = typed("array");

	put(schema, "items", items);
	if (field->min)
		put(schema, "minItems", json_object_new_int64(field->min));
	put(schema, "maxItems", json_object_new_int64(field->max));
	return schema;
}

static struct json_object *matrix_schema(const struct field *field)
{
	struct json_object *row = typed("array");
	struct json_object *schema = typed("array");

	put(row, "items", integer_schema(field->min, field->max));
	put(schema, "items", row);
	return schema;
}

static struct json_object *schema_of_type(const struct field *field);

static struct json_object *map_schema(const struct field *field)
{
	const struct field *key = &field->table->rows[0];
	struct json_object *schema = typed("object");
	struct json_object *names = json_object_new_object();

	put_text(names, "pattern", key->type == FIELD_INTEGER ? "^(0|[1-9][0-9]*)$" : key->pattern);
	put(schema, "propertyNames", names);
	put(schema, "additionalProperties", schema_of_type(&field->table->rows[1]));
	put(schema, "maxProperties", json_object_new_int64(field->max));
	return schema;
}

static struct json_object *schema_of_type(const struct field *field)
{
	switch (field->type) {
	case FIELD_STRING:
	case FIELD_PATH:
	case FIELD_PROGRAM:
		return string_schema(field);
	case FIELD_SIZE:
	case FIELD_PAGE_SIZE:
		return text_schema(SIZE_PATTERN);
	case FIELD_INTEGER:
		return integer_schema(field->min, field->max);
	case FIELD_BOOL:
		return typed("boolean");
	case FIELD_ENUM:
		return field->table
		           ? any_of(enum_schema(field), schema_of_table(field->table), NULL)
		           : enum_schema(field);
	case FIELD_CPUS:
		return text_schema(field->fallback ? "^(" LIST_PATTERN ")?$"
		                                   : "^" LIST_PATTERN "$");
	case FIELD_PAGES:
		return any_of(enum_schema(field), text_schema(SIZE_PATTERN),
		              schema_of_table(&pages_table));
	case FIELD_DISTANCES:
		return any_of(enum_schema(field), matrix_schema(field), NULL);
	case FIELD_NAMES:
		return array_schema(field, string_schema(field));
	case FIELD_OBJECT:
		return schema_of_table(field->table);
	case FIELD_LIST:
		return array_schema(field, schema_of_table(field->table));
	case FIELD_MAP:
		return map_schema(field);
	}
	return NULL;
}

static struct json_object *fallback_json(const struct field *field)
{
	if (field->type == FIELD_INTEGER)
		return json_object_new_int(atoi(field->fallback));
	if (field->type == FIELD_BOOL)
		return json_object_new_boolean(strcmp(field->fallback, "true") == 0);
	return json_object_new_string(field->fallback);
}

static bool any_not_yet(const struct field *field)
{
	for (const struct field_value *v = field->values; v && v->name; v++)
		if (v->not_yet)
			return true;
	return false;
}

/* The meaning with what does not work yet. The caller frees. */
static char *describe(const struct field *field, const char *mark)
{
	char *text = xstrdup(field->help);
	const char *before = " (not yet: ";

	for (const struct field_value *v = field->values; v && v->name; v++) {
		if (!v->not_yet)
			continue;
		char *longer = xasprintf("%s%s%s%s%s", text, before, mark, v->name, mark);
		free(text);
		text = longer;
		before = ", ";
	}
	char *whole = xasprintf("%s%s%s", text, any_not_yet(field) ? ")" : "",
	                        field->not_yet ? " (not yet)" : "");
	free(text);
	return whole;
}

static struct json_object *schema_of_row(const struct field *field)
{
	struct json_object *schema = schema_of_type(field);
	cleanup_free char *help = describe(field, "");
	cleanup_free char *whole = xasprintf("%s%s%s", help, field->absent ? "; default: " : "",
	                                     field->absent ? field->absent : "");

	put_text(schema, "description", whole);
	if (field->fallback)
		put(schema, "default", fallback_json(field));
	return schema;
}

static struct json_object *schema_of_table(const struct field_table *table)
{
	struct json_object *schema = typed("object");
	struct json_object *properties = json_object_new_object();
	struct json_object *required = json_object_new_array();

	for (size_t i = 0; i < table->n_rows; i++) {
		const struct field *row = &table->rows[i];
		put(properties, row->name, schema_of_row(row));
		if (row->required)
			json_object_array_add(required, json_object_new_string(row->name));
	}
	put(schema, "properties", properties);
	if (json_object_array_length(required))
		put(schema, "required", required);
	else
		json_object_put(required);
	put(schema, "additionalProperties", json_object_new_boolean(false));
	return schema;
}

/* An object that has the key. */
static struct json_object *has_key(const char *key)
{
	struct json_object *schema = json_object_new_object();
	struct json_object *list = json_object_new_array();

	json_object_array_add(list, json_object_new_string(key));
	put(schema, "required", list);
	return schema;
}

char *spec_schema(void)
{
	cleanup_json struct json_object *schema = json_object_new_object();
	struct json_object *rows = schema_of_table(&spec_table);

	put_text(schema, "$schema", "https://json-schema.org/draft/2020-12/schema");
	put_text(schema, "title", "The spec of a virtual machine for ancla");
	json_object_object_foreach(rows, key, value) put(schema, key, json_object_get(value));
	json_object_put(rows);
	struct json_object *either = any_of(has_key("memory"), has_key("numa"), NULL);
	put(schema, "anyOf", json_object_get(json_object_object_get(either, "anyOf")));
	json_object_put(either);
	const char *text = json_object_to_json_string_ext(
	    schema,
	    JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE);
	return xasprintf("%s\n", text);
}

/* "`a`, `b` or `c`": what a field takes, for people. */
static void print_type(FILE *out, const struct field *field)
{
	static const char *const names[] = {
		[FIELD_STRING] = "string",
		[FIELD_PATH] = "path",
		[FIELD_PROGRAM] = "name or path",
		[FIELD_SIZE] = "size",
		[FIELD_PAGE_SIZE] = "size",
		[FIELD_BOOL] = "`true`, `false`",
		[FIELD_CPUS] = "list",
		[FIELD_PAGES] = ", size, object",
		[FIELD_DISTANCES] = ", matrix",
		[FIELD_NAMES] = "strings",
		[FIELD_OBJECT] = "object",
		[FIELD_LIST] = "objects",
		[FIELD_MAP] = "object: ",
		[FIELD_ENUM] = "",
		[FIELD_INTEGER] = "",
	};
	const char *joint = "";

	for (const struct field_value *v = field->values; v && v->name; v++) {
		if (!v->instead)
			fprintf(out, "%s`%s`", joint, v->name);
		joint = ", ";
	}
	fputs(names[field->type], out);
	if (field->type == FIELD_INTEGER)
		fprintf(out, "%lld to %lld", (long long)field->min, (long long)field->max);
	if (field->type == FIELD_ENUM && field->table)
		fputs(" or object", out);
	if (field->type == FIELD_MAP) {
		fprintf(out, "%s to ", field->table->rows[0].help);
		print_type(out, &field->table->rows[1]);
	}
}

static void print_default(FILE *out, const struct field *field)
{
	if (field->required)
		fputs("required", out);
	else if (field->absent)
		fputs(field->absent, out);
	else if (field->fallback)
		fprintf(out, *field->fallback ? "`%s`" : "none", field->fallback);
}

static char *text_of(void (*print)(FILE *out, const struct field *field), const struct field *field)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = xmemstream(&text, &size);

	if (!out)
		return xstrdup("");
	print(out, field);
	fclose(out);
	return text;
}

static void each_row(const struct field_table *table, const char *prefix, field_text_fn *fn,
                     void *data)
{
	for (size_t i = 0; i < table->n_rows; i++) {
		const struct field *row = &table->rows[i];
		const struct field_table *below = row->type == FIELD_PAGES ? &pages_table
		                                  : row->type == FIELD_MAP ? NULL
		                                                           : row->table;
		cleanup_free char *path =
		    xasprintf("%s%s%s", prefix, row->name, row->type == FIELD_LIST ? "[]" : "");
		cleanup_free char *deeper = xasprintf("%s.", path);
		cleanup_free char *type = text_of(print_type, row);
		cleanup_free char *fallback = text_of(print_default, row);
		cleanup_free char *help = describe(row, "`");

		fn(&(struct field_text){ path, type, fallback, help }, data);
		if (below)
			each_row(below, deeper, fn, data);
	}
}

void spec_each_field(field_text_fn *fn, void *data)
{
	each_row(&spec_table, "", fn, data);
}

static void print_markdown(const struct field_text *field, void *data)
{
	fprintf(data, "| `%s` | %s | %s | %s |\n", field->path, field->type, field->fallback,
	        field->help);
}

char *spec_field_table(void)
{
	char *text = NULL;
	size_t size = 0;
	FILE *out = xmemstream(&text, &size);

	if (!out)
		return xstrdup("");
	fputs("| field | type | default | meaning |\n|---|---|---|---|\n", out);
	spec_each_field(print_markdown, out);
	fclose(out);
	return text;
}
