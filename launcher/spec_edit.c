#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "spec_edit.h"
#include "spec_json.h"

static void document_end(struct document *document)
{
	document_clear(document);
}
#define cleanup_document __attribute__((cleanup(document_end)))

static int parse(const char *text, struct document *document, struct error *err)
{
	struct json_fault fault = { 0 };

	if (document_parse(document, text, strlen(text), &fault) == 0)
		return 0;
	cleanup_free char *message = fault.message;
	return error_set(err, EXIT_SPEC, "line %u: %s", fault.line, message);
}

/* Puts `with` in the place of a part of the text. */
static void splice(char **text, size_t start, size_t end, const char *with)
{
	char *edited = xasprintf("%.*s%s%s", (int)start, *text, with, *text + end);

	free(*text);
	*text = edited;
}

static char bracket_of(const struct document *document, const struct place *place)
{
	return document->text[place->start];
}

/* ---- adding ---- */

/* Where the line ends on which `at` stands, if nothing but blanks and comments follows; else `at`.
 */
static size_t end_of_line(const char *text, size_t at)
{
	for (size_t i = at;;) {
		if (text[i] == ' ' || text[i] == '\t' || text[i] == '\r') {
			i++;
		} else if (text[i] == '\n' || strncmp(text + i, "//", 2) == 0) {
			return i + strcspn(text + i, "\n");
		} else if (strncmp(text + i, "/*", 2) == 0) {
			const char *end = strstr(text + i + 2, "*/");
			i = end ? (size_t)(end - text) + 2 : i + strlen(text + i);
		} else {
			return at;
		}
	}
}

/* The blanks at the begin of the line on which a value or key is the first but for comments; NULL
 * if something else is. The caller frees. */
static char *indent_of(const char *text, const struct document *document, size_t offset)
{
	size_t start = offset, blanks;

	while (start && strchr(" \t", document->text[start - 1]))
		start--;
	if (start && document->text[start - 1] != '\n')
		return NULL;
	blanks = strspn(text + start, " \t");
	if (blanks > offset - start)
		blanks = offset - start;
	return xasprintf("%.*s", (int)blanks, text + start);
}

/* Behind the last of several. Where each has a line of its own, the new one gets one, too, below
 * the comment that may follow the last. */
static void add_behind(char **text, const struct document *document, const struct place *last,
                       const char *what)
{
	cleanup_free char *indent = indent_of(*text, document, last->offset);
	size_t line_end = end_of_line(*text, last->end);

	if (!indent || line_end == last->end) {
		cleanup_free char *inline_text =
		    indent ? xasprintf(",\n%s%s", indent, what) : xasprintf(", %s", what);
		splice(text, last->end, last->end, inline_text);
		return;
	}
	cleanup_free char *line = xasprintf("\n%s%s", indent, what);
	splice(text, line_end, line_end, line);
	splice(text, last->end, last->end, ",");
}

static void add_first(char **text, const struct document *document, const struct place *parent,
                      const char *what)
{
	size_t inside = parent->start + 1;
	bool closed = strchr("]}", document->text[inside]) != NULL;
	cleanup_free char *padded = xasprintf(" %s%s", what, closed ? " " : "");

	splice(text, inside, inside, padded);
}

/* What is to stand at `pointer` ("/a/b" or "/-") below a value that is not there yet. */
static char *nest(const char *pointer, const char *json)
{
	if (!*pointer)
		return xstrdup(json);
	size_t length = strcspn(pointer + 1, "/");
	cleanup_free char *below = nest(pointer + 1 + length, json);
	if (strcmp(pointer, "/-") == 0)
		return xasprintf("[ %s ]", below);
	return xasprintf("{ \"%.*s\": %s }", (int)length, pointer + 1, below);
}

static int add(char **text, const struct document *document, const struct place *parent,
               const char *rest, const char *json, struct error *err)
{
	size_t length = strcspn(rest + 1, "/");
	cleanup_free char *value = nest(rest + 1 + length, json);
	cleanup_free char *what = NULL;

	switch (bracket_of(document, parent)) {
	case '{':
		what = xasprintf("\"%.*s\": %s", (int)length, rest + 1, value);
		break;
	case '[':
		what = xstrdup(value);
		break;
	default: {
		cleanup_free char *where = place_pointer(parent);
		return error_set(err, EXIT_SPEC, "line %u: %s is neither object nor list",
		                 parent->line, where);
	}
	}
	if (parent->last)
		add_behind(text, document, parent->last, what);
	else
		add_first(text, document, parent, what);
	return 0;
}

static bool is_new_element(const char *pointer)
{
	size_t length = strlen(pointer);

	return length >= 2 && strcmp(pointer + length - 2, "/-") == 0;
}

/* The deepest place on the way that is there; `rest` is what is not. The "-" of a list never is,
 * that of an object is a key like others (RFC 6901). */
static struct place *find_deepest(struct document *document, const char *pointer, const char **rest)
{
	cleanup_free char *way = xstrdup(pointer);
	struct place *place;

	for (;;) {
		place = place_find(document->root, way, false);
		if (place && (place->key || !is_new_element(way)))
			break;
		*strrchr(way, '/') = '\0';
	}
	*rest = pointer + strlen(way);
	return place;
}

int spec_edit_set(char **text, const char *pointer, const char *json, struct error *err)
{
	cleanup_document struct document document = { 0 };
	const char *rest;

	if (parse(*text, &document, err) < 0)
		return -1;
	struct place *place = find_deepest(&document, pointer, &rest);
	assert(place); /* the whole document at least */
	if (*rest)
		return add(text, &document, place, rest, json, err);
	splice(text, place->start, place->end, json);
	return 0;
}

/* ---- removing ---- */

int spec_edit_remove(char **text, const char *pointer, struct error *err)
{
	cleanup_document struct document document = { 0 };
	struct place *before = NULL;

	if (parse(*text, &document, err) < 0)
		return -1;
	struct place *place = place_find(document.root, pointer, false);
	if (!place || !place->parent)
		return 0;
	for (struct place *p = place->parent->first; p != place; p = p->next)
		before = p;
	size_t start = place->offset, end = place->end;
	if (place->next) {
		/* With its comma, and the blanks behind it on the line. */
		end += strcspn(document.text + end, ",") + 1;
		end += strspn(*text + end, " \t");
	} else {
		while (start && strchr(" \t", (*text)[start - 1]))
			start--;
		/* The line goes, too, if nothing else is on it. */
		start -= start && (*text)[start - 1] == '\n' && (*text)[end] == '\n';
	}
	/* A last one of several: its comment, if any, stays. */
	bool last_of_several = !place->next && before;
	size_t comma = before ? before->end + strcspn(document.text + before->end, ",") : 0;
	splice(text, start, end, "");
	if (last_of_several)
		splice(text, comma, comma + 1, "");
	return 0;
}
