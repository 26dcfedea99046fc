/* Edits JSON text where it stands: comments, order and layout stay as they are. json-c would write
 * it all anew, without comments. Positions come from document_parse(), in which comments are blanks
 * and every other character keeps its place. */
#ifndef ANCLA_SPEC_EDIT_H
#define ANCLA_SPEC_EDIT_H

#include "error.h"

/* Sets the value at a JSON pointer (of which no key holds "~" or "/") to this JSON text. What is
 * missing on the way is added: members of objects behind the last one, in its manner; an element of
 * an array by the index behind its last one, or "-". `text` is freed and replaced. EXIT_SPEC: it is
 * not JSON, or something on the way is neither object nor array. */
int spec_edit_set(char **text, const char *pointer, const char *json, struct error *err);

/* Removes the member or element, with its comma; what is not there is no error. */
int spec_edit_remove(char **text, const char *pointer, struct error *err);

#endif
