/* The editor of JSON text: any text, with any comments. After an edit it is JSON of which one value
 * is another, and all else, comments too, is as it was. Beside it: what json-c makes of the same.
 */
#include "fuzz.h"
#include "spec_edit.h"
#include "spec_json.h"

static const char *const pointers[] = {
	"/cputune/vcpupin/0",
	"/cputune/emulatorpin",
	"/cputune/vcpusched/-",
	"/cputune/vcpusched",
	"/numa/nodes/0/host-nodes",
	"/numa/nodes/1",
	"/name",
	"/a",
	"/a/b",
};

static const char *const values[] = { "\"0-3\"", "1", "{ \"x\": [ 1, 2 ] }", "[]" };

/* A key twice means one or the other: such a spec is refused before it is edited. */
static bool has_twins(const struct place *place)
{
	if (place->twin)
		return true;
	for (const struct place *p = place->first; p; p = p->next)
		if (has_twins(p))
			return true;
	return false;
}

/* The text's JSON, and its comments with what is between them left out; NULL: it is not JSON. The
 * caller puts and frees. */
static struct json_object *read_text(const char *text, char **comments)
{
	struct document document = { 0 };
	struct json_fault fault = { 0 };
	struct json_object *json = NULL;
	size_t length = strlen(text), kept = 0;

	*comments = NULL;
	if (document_parse(&document, text, length, &fault) == 0 && !has_twins(document.root)) {
		json = json_object_get(document.json);
		*comments = xcalloc(length + 1, 1);
		for (size_t i = 0; i < length; i++)
			if (text[i] != document.text[i])
				(*comments)[kept++] = text[i];
	}
	free(fault.message);
	document_clear(&document);
	return json;
}

/* No line is indented by more. */
static size_t longest_blanks(const char *text)
{
	size_t longest = 0;

	for (; *text; text++) {
		size_t blanks = strspn(text, " \t");

		longest = blanks > longest ? blanks : longest;
		text += blanks ? blanks - 1 : 0;
	}
	return longest;
}

/* What is to stand where nothing is yet. */
static struct json_object *nested(const char *pointer, const char *value)
{
	struct json_object *json;

	if (!*pointer)
		return json_tokener_parse(value);
	size_t length = strcspn(pointer + 1, "/");
	cleanup_free char *key = strndup(pointer + 1, length);
	bool array = strcmp(key, "-") == 0;
	json = array ? json_object_new_array() : json_object_new_object();
	if (array)
		json_object_array_add(json, nested(pointer + 1 + length, value));
	else
		json_object_object_add(json, key, nested(pointer + 1 + length, value));
	return json;
}

/* Sets it in json-c's objects; -1: something on the way is neither object nor array. */
static int set(struct json_object *json, const char *pointer, const char *value)
{
	size_t length = strcspn(pointer + 1, "/");
	cleanup_free char *key = strndup(pointer + 1, length);
	const char *rest = pointer + 1 + length;
	struct json_object *child = NULL;

	if (json_object_is_type(json, json_type_array)) {
		size_t index = strcmp(key, "-") == 0 ? SIZE_MAX : strtoul(key, NULL, 10);
		/* A name is no index; place_find() takes it for 0. */
		if (index >= json_object_array_length(json))
			return json_object_array_add(json, nested(rest, value));
		if (!*rest)
			return json_object_array_put_idx(json, index, json_tokener_parse(value));
		return set(json_object_array_get_idx(json, index), rest, value);
	}
	if (!json_object_is_type(json, json_type_object))
		return -1;
	if (*rest && json_object_object_get_ex(json, key, &child))
		return set(child, rest, value);
	return json_object_object_add(json, key, nested(rest, value));
}

static void promise_set(const char *before, struct json_object *json, const char *pointer,
                        const char *value)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_json struct json_object *expected = NULL;
	char *text = xstrdup(before);
	cleanup_free char *left = NULL;

	json_object_deep_copy(json, &expected, NULL);
	int possible = set(expected, pointer, value);
	int done = spec_edit_set(&text, pointer, value, &err);
	promise(possible == done, "%s = %s in:\n%s\ngives %d: %s", pointer, value, before, done,
	        err.message ? err.message : text);
	if (done == 0) {
		cleanup_json struct json_object *after = read_text(text, &left);
		promise(after, "%s = %s in:\n%s\nis no JSON:\n%s", pointer, value, before, text);
		promise_same_json(after, expected);
		promise(strlen(text) <= strlen(before) + longest_blanks(before) + strlen(pointer) +
		                            strlen(value) + 64,
		        "much was added: %s", text);
	} else {
		promise_error(&err);
		promise_printable(err.message);
		promise(strcmp(text, before) == 0, "changed in spite of an error: %s", text);
	}
	free(text);
}

/* What is added and removed again was never there. */
static void promise_undone(const char *before, struct json_object *json, const char *comments,
                           const char *member)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *pointer = xasprintf("/%s", member), *left = NULL;
	char *text = xstrdup(before);

	if (json_object_is_type(json, json_type_object) &&
	    !json_object_object_get_ex(json, member, NULL)) {
		promise(spec_edit_set(&text, pointer, "1", &err) == 0, "%s: %s", text, err.message);
		promise(spec_edit_remove(&text, pointer, &err) == 0, "%s: %s", text, err.message);
		cleanup_json struct json_object *after = read_text(text, &left);
		promise(after, "no JSON any more:\n%s\nfrom\n%s", text, before);
		promise_same_json(after, json);
		promise(strcmp(left, comments) == 0, "other comments:\n%s\nfrom\n%s", text, before);
	}
	free(text);
}

static void promise_removed(const char *before, struct json_object *json, const char *member)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *pointer = xasprintf("/%s", member), *left = NULL;
	cleanup_json struct json_object *expected = NULL;
	char *text = xstrdup(before);

	json_object_deep_copy(json, &expected, NULL);
	json_object_object_del(expected, member);
	promise(spec_edit_remove(&text, pointer, &err) == 0, "%s: %s", text, err.message);
	cleanup_json struct json_object *after = read_text(text, &left);
	promise(after, "no JSON any more:\n%s\nfrom\n%s", text, before);
	promise_same_json(after, expected);
	free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_free char *text = text_of_bytes(data, size);
	cleanup_free char *comments = NULL;
	cleanup_json struct json_object *json = read_text(text, &comments);

	if (!json)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(pointers); i++)
		promise_set(text, json, pointers[i], values[i % ARRAY_SIZE(values)]);
	if (!json_object_is_type(json, json_type_object))
		return 0;
	promise_undone(text, json, comments, "new");
	json_object_object_foreach(json, key, value)
	{
		(void)value;
		if (*key && !strpbrk(key, "~/"))
			promise_removed(text, json, key);
	}
	return 0;
}
