/* JSON text with its places: what json-c parses, and on which line each value stands.
 *
 * json-c parses every byte, strictly (RFC 8259), after `//` and block comments outside of strings
 * were replaced by blanks. A scanner then walks the valid text beside json-c's objects: it finds
 * the place of each value, keys given twice, and the few things that json-c lets through. */
#ifndef ANCLA_SPEC_JSON_H
#define ANCLA_SPEC_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include <json-c/json.h>

#include "util.h"

#define SPEC_JSON_DEPTH 32
#define SPEC_JSON_SIZE (1024 * 1024)

/* A value and where it stands. A tree beside json-c's, in the order of the text. */
struct place {
	struct place *parent, *first, *last, *next;
	struct json_object *value; /* borrowed; NULL for JSON's null */
	char *key;                 /* in an object, else NULL */
	size_t index;              /* in its array or object */
	unsigned line;             /* of the key, or else of the value; 1 for the first */
	size_t offset;             /* of the same, in bytes */
	size_t start, end;         /* of the value, in bytes */
	const struct place *twin;  /* the same key, earlier in this object */
	bool superseded;           /* the same key comes again: json-c holds that one */

	/* For the validator: */
	bool bad;          /* wrong, so nothing can be said about what depends on it */
	bool bad_below;    /* something in it is bad */
	const char *meant; /* the key that an unknown key is nearest to, or NULL */
};

/* Adds a member that should be there, at the place of its object. */
struct place *place_add_missing(struct place *object, const char *key);

struct document {
	char *text; /* without comments */
	size_t length;
	struct json_object *json;
	struct place *root;
};

/* Where the text stops being JSON. */
struct json_fault {
	unsigned line;
	size_t offset;
	char *message; /* the caller frees */
};

/* Parses the text, which it copies. Returns 0, or -1 and the fault. The document is freed with
 * document_clear() in either case. */
int document_parse(struct document *document, const char *text, size_t length,
                   struct json_fault *fault);
void document_clear(struct document *document);

/* The place at a JSON pointer of which no key holds "~" or "/" (no known key does); NULL if it
 * is not there. An unknown key stands for the known key that it was probably meant to be. With
 * `nearest`, the deepest place on the way that is there. */
struct place *place_find(struct place *root, const char *pointer, bool nearest);

/* The place's JSON pointer (RFC 6901), with what cannot be printed escaped. The caller frees. */
char *place_pointer(const struct place *place);

#endif
