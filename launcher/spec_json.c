#include <stdlib.h>
#include <string.h>

#include "quote.h"
#include "spec_json.h"

#define BLANKS " \t\r\n"

static int fault_set(struct json_fault *fault, const struct document *document, size_t offset,
                     const char *format, ...) __attribute__((format(printf, 4, 5)));
static int fault_set(struct json_fault *fault, const struct document *document, size_t offset,
                     const char *format, ...)
{
	va_list args;

	fault->line = 1;
	fault->offset = offset;
	for (size_t i = 0; i < offset && i < document->length; i++)
		fault->line += document->text[i] == '\n';
	va_start(args, format);
	fault->message = xvasprintf(format, args);
	va_end(args);
	return -1;
}

static size_t column(const struct document *document, size_t offset)
{
	size_t start = offset;

	while (start && document->text[start - 1] != '\n')
		start--;
	return offset - start + 1;
}

/* The offset behind the string that starts at `i`, or behind the text. */
static size_t skip_string(const char *text, size_t length, size_t i)
{
	for (i++; i < length && text[i] != '"'; i++)
		if (text[i] == '\\')
			i++;
	return i < length ? i + 1 : length;
}

/* Replaces comments by blanks, so that every other character keeps its place. */
static int blank_comments(struct document *document, struct json_fault *fault)
{
	char *text = document->text;
	size_t length = document->length;

	for (size_t i = 0; i < length;) {
		size_t start = i;
		bool block = text[i] == '/' && text[i + 1] == '*';

		if (text[i] == '"') {
			i = skip_string(text, length, i);
			continue;
		}
		if (!block && !(text[i] == '/' && text[i + 1] == '/')) {
			i++;
			continue;
		}
		const char *end = block ? strstr(text + i + 2, "*/") : strchr(text + i, '\n');
		if (!end && block)
			return fault_set(fault, document, start, "comment without its end \"*/\"");
		i = end ? (size_t)(end - text) + (block ? 2 : 0) : length;
		for (size_t j = start; j < i; j++)
			if (text[j] != '\n')
				text[j] = ' ';
	}
	return 0;
}

/* What no JSON text holds, said better than a parser would. */
static int check_bytes(struct document *document, struct json_fault *fault)
{
	const char *zero = memchr(document->text, '\0', document->length);

	if (zero)
		return fault_set(fault, document, (size_t)(zero - document->text),
		                 "not text: a zero byte at offset %zu; expected JSON in UTF-8",
		                 (size_t)(zero - document->text));
	if (strncmp(document->text, "\xef\xbb\xbf", 3) == 0)
		return fault_set(fault, document, 0,
		                 "starts with a byte order mark; expected plain UTF-8 without one");
	return 0;
}

/* A name for the character at an offset. */
static char *describe_character(const struct document *document, size_t offset)
{
	unsigned code;
	size_t rest = offset < document->length ? document->length - offset : 0;
	size_t bytes = utf8_next(document->text + offset, rest, &code);

	if (!rest)
		return xstrdup("the end of the file");
	if (!bytes)
		return xasprintf("byte 0x%02x", (unsigned char)document->text[offset]);
	if (code == '\'')
		return xstrdup("\"'\"");
	if (code == '"' || code == '\\')
		return xasprintf("'%c'", (int)code);
	cleanup_free char *text = escape(document->text + offset, bytes, bytes);
	return xasprintf("'%s'", text);
}

static int syntax_fault(struct json_fault *fault, const struct document *document, size_t offset,
                        const char *reason)
{
	cleanup_free char *found = describe_character(document, offset);

	return fault_set(fault, document, offset, "not JSON: %s at column %zu, found %s", reason,
	                 column(document, offset), found);
}

/* The innermost bracket that is still open before `end`; `end` if there is none. */
static size_t open_bracket(const struct document *document, size_t end)
{
	size_t open[SPEC_JSON_DEPTH + 1] = { 0 };
	size_t depth = 0;

	for (size_t i = 0; i < end; i++) {
		switch (document->text[i]) {
		case '"':
			i = skip_string(document->text, end, i) - 1;
			break;
		case '{':
		case '[':
			if (depth < ARRAY_SIZE(open))
				open[depth] = i;
			depth++;
			break;
		case '}':
		case ']':
			depth -= depth > 0;
			break;
		}
	}
	return depth && depth <= ARRAY_SIZE(open) ? open[depth - 1] : end;
}

static int truncated_fault(struct json_fault *fault, const struct document *document)
{
	size_t open = open_bracket(document, document->length);
	size_t end = document->length;

	while (end > 1 && strchr(BLANKS, document->text[end - 1]))
		end--;
	fault_set(fault, document, open, "%s", "");
	unsigned line = fault->line;
	free(fault->message);
	return fault_set(fault, document, end - 1,
	                 "not JSON: the file ends too early, with '%c' of line %u still open",
	                 document->text[open], line);
}

/* json-c's reasons, said better where its own say little. */
static int refused_fault(struct json_fault *fault, const struct document *document, size_t offset,
                         const char *reason)
{
	size_t before = offset;

	while (before && strchr(BLANKS, document->text[before - 1]))
		before--;
	if (open_bracket(document, offset) == offset)
		reason = "text after the end of the object";
	else if (strchr("]}", document->text[offset]) && before &&
	         document->text[before - 1] == ',')
		reason = "comma before the end of an object or list";
	return syntax_fault(fault, document, offset, reason);
}

static int not_an_object(struct json_fault *fault, const struct document *document, size_t offset)
{
	cleanup_free char *found = describe_character(document, offset);

	return fault_set(fault, document, offset, "expected an object, { ... }, found %s", found);
}

static int parse_text(struct document *document, struct json_fault *fault)
{
	size_t start = strspn(document->text, BLANKS);

	if (start == document->length)
		return fault_set(fault, document, 0, "empty: expected an object, { ... }");
	if (document->text[start] != '{')
		return not_an_object(fault, document, start);

	struct json_tokener *tokener = json_tokener_new_ex(SPEC_JSON_DEPTH);

	if (!tokener)
		return fault_set(fault, document, 0, "out of memory");
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
	document->json = json_tokener_parse_ex(tokener, document->text, (int)document->length + 1);
	enum json_tokener_error reason = json_tokener_get_error(tokener);
	size_t end = json_tokener_get_parse_end(tokener);
	json_tokener_free(tokener);
	switch (reason) {
	case json_tokener_success:
		return 0;
	case json_tokener_continue:
	case json_tokener_error_parse_eof:
		return truncated_fault(fault, document);
	case json_tokener_error_depth:
		return fault_set(fault, document, end,
		                 "nested too deeply at column %zu: at most %d levels",
		                 column(document, end), SPEC_JSON_DEPTH);
	default:
		if (end >= document->length)
			return truncated_fault(fault, document);
		return refused_fault(fault, document, end, json_tokener_error_desc(reason));
	}
}

struct scanner {
	struct document *document;
	struct json_fault *fault;
	const char *text; /* ends with a zero byte */
	size_t at;
	unsigned line;
};

static char scan_blanks(struct scanner *s)
{
	while (s->text[s->at] && strchr(BLANKS, s->text[s->at])) {
		s->line += s->text[s->at] == '\n';
		s->at++;
	}
	return s->text[s->at];
}

/* json-c lets quotation marks of the other kind, control characters and overlong UTF-8 pass. */
static int scan_string(struct scanner *s)
{
	size_t end = skip_string(s->text, s->document->length, s->at);

	if (s->text[s->at] != '"')
		return syntax_fault(s->fault, s->document, s->at, "'\"' expected");
	for (size_t i = s->at, bytes; i < end; i += bytes) {
		unsigned code;

		bytes = utf8_next(s->text + i, end - i, &code);
		if (!bytes)
			return syntax_fault(s->fault, s->document, i, "invalid UTF-8");
		if (code < 0x20)
			return syntax_fault(s->fault, s->document, i,
			                    "control character in a string must be escaped");
		if (code == '\\' && strncmp(s->text + i, "\\u0000", 6) == 0)
			return syntax_fault(s->fault, s->document, i, "zero character in a string");
		if (code == '\\')
			bytes++;
	}
	s->at = end;
	return 0;
}

static int scan_scalar(struct scanner *s)
{
	size_t start = s->at;
	const char *token = s->text + start;

	if (*token == '"')
		return scan_string(s);
	if (!strchr("-0123456789tfn", *token) || strncmp(token, "-I", 2) == 0 ||
	    (strncmp(token, "-0", 2) == 0 && strchr("0123456789", token[2]) && token[2]))
		return syntax_fault(s->fault, s->document, start, "value expected");
	s->at += strcspn(token, ",]} \t\r\n");
	return 0;
}

static char *decode_key(const char *raw, size_t length)
{
	char *key;

	if (!memchr(raw, '\\', length)) {
		key = xcalloc(length - 1, 1);
		memcpy(key, raw + 1, length - 2);
		return key;
	}
	key = xcalloc(length + 1, 1);
	memcpy(key, raw, length);
	cleanup_json struct json_object *json = json_tokener_parse(key);
	free(key);
	return xstrdup(json ? json_object_get_string(json) : "");
}

/* Members of one object: json-c keeps the last value of a key. */
static void find_twins(struct place *object)
{
	struct lh_table *seen = lh_kchar_table_new(64, NULL);

	for (struct place *p = object->first; seen && p; p = p->next) {
		struct lh_entry *entry = lh_table_lookup_entry(seen, p->key);
		if (entry) {
			struct place *earlier = (struct place *)lh_entry_v(entry);
			p->twin = earlier->twin ? earlier->twin : earlier;
			earlier->superseded = true;
			lh_table_delete_entry(seen, entry);
		}
		lh_table_insert(seen, p->key, p);
	}
	lh_table_free(seen);
}

static struct place *add_place(struct place *parent)
{
	struct place *place = xcalloc(1, sizeof(*place));

	place->parent = parent;
	if (!parent)
		return place;
	place->index = parent->last ? parent->last->index + 1 : 0;
	if (parent->last)
		parent->last->next = place;
	else
		parent->first = place;
	parent->last = place;
	return place;
}

struct place *place_add_missing(struct place *object, const char *key)
{
	struct place *place = add_place(object);

	place->key = xstrdup(key);
	place->line = object->line;
	place->offset = object->offset;
	return place;
}

static int scan_key(struct scanner *s, struct place *member, struct json_object *object)
{
	size_t start = s->at;

	if (scan_string(s) < 0)
		return -1;
	member->key = decode_key(s->text + start, s->at - start);
	if (json_object_is_type(object, json_type_object))
		json_object_object_get_ex(object, member->key, &member->value);
	if (scan_blanks(s) != ':')
		return syntax_fault(s->fault, s->document, s->at, "':' expected");
	s->at++;
	return 0;
}

/* Depth is bounded: json-c has refused deeper text. */
static int scan_value(struct scanner *s, struct place *place)
{
	char bracket = scan_blanks(s);
	char close = bracket == '{' ? '}' : ']';

	place->start = s->at;
	if (bracket != '{' && bracket != '[') {
		int result = scan_scalar(s);
		place->end = s->at;
		return result;
	}
	s->at++;
	for (char next = scan_blanks(s); next != close; next = scan_blanks(s)) {
		if (place->first && next != ',')
			return syntax_fault(s->fault, s->document, s->at, "',' expected");
		s->at += place->first != NULL;
		scan_blanks(s);
		struct place *child = add_place(place);
		child->line = s->line;
		child->offset = s->at;
		if (bracket == '{' && scan_key(s, child, place->value) < 0)
			return -1;
		if (bracket == '[' && json_object_is_type(place->value, json_type_array))
			child->value = json_object_array_get_idx(place->value, child->index);
		if (scan_value(s, child) < 0)
			return -1;
	}
	s->at++;
	place->end = s->at;
	if (bracket == '{' && place->last && json_object_is_type(place->value, json_type_object) &&
	    place->last->index + 1 != (size_t)json_object_object_length(place->value))
		find_twins(place);
	return 0;
}

int document_parse(struct document *document, const char *text, size_t length,
                   struct json_fault *fault)
{
	*document = (struct document){ .text = xcalloc(length + 2, 1), .length = length };
	memcpy(document->text, text, length);
	if (check_bytes(document, fault) < 0 || blank_comments(document, fault) < 0 ||
	    parse_text(document, fault) < 0)
		return -1;
	struct scanner scanner = {
		.document = document, .fault = fault, .text = document->text, .line = 1
	};
	document->root = add_place(NULL);
	document->root->value = document->json;
	scan_blanks(&scanner);
	document->root->line = scanner.line;
	document->root->offset = scanner.at;
	return scan_value(&scanner, document->root);
}

static void place_free(struct place *place)
{
	while (place) {
		struct place *next = place->next;
		place_free(place->first);
		free(place->key);
		free(place);
		place = next;
	}
}

void document_clear(struct document *document)
{
	place_free(document->root);
	json_object_put(document->json);
	free(document->text);
	*document = (struct document){ 0 };
}

static struct place *find_child(struct place *parent, const char *name, size_t length)
{
	struct place *found = NULL;

	for (struct place *p = parent->first; p; p = p->next) {
		const char *key = p->meant ? p->meant : p->key;
		if (p->key ? strlen(key) == length && strncmp(key, name, length) == 0
		           : p->index == strtoul(name, NULL, 10))
			found = p; /* the last of twins */
	}
	return found;
}

struct place *place_find(struct place *root, const char *pointer, bool nearest)
{
	while (root && *pointer) {
		size_t length = strcspn(pointer + 1, "/");
		struct place *child = find_child(root, pointer + 1, length);
		if (!child)
			return nearest ? root : NULL;
		root = child;
		pointer += 1 + length;
	}
	return root;
}

/* "~" and "/" are escaped as RFC 6901 says. */
static char *pointer_token(const char *key)
{
	cleanup_free char *safe = escape(key, strlen(key), 60);
	char *token = xcalloc(strlen(safe) * 2 + 1, 1);
	size_t n = 0;

	for (const char *p = safe; *p; p++) {
		if (*p == '~' || *p == '/') {
			token[n++] = '~';
			token[n++] = *p == '~' ? '0' : '1';
		} else {
			token[n++] = *p;
		}
	}
	return token;
}

char *place_pointer(const struct place *place)
{
	if (!place->parent)
		return xstrdup("");
	cleanup_free char *above = place_pointer(place->parent);
	if (!place->key)
		return xasprintf("%s/%zu", above, place->index);
	cleanup_free char *token = pointer_token(place->key);
	return xasprintf("%s/%s", above, token);
}
