/* Text from outside, made safe to print: a spec, a log or a guest may hold anything. */
#ifndef ANCLA_QUOTE_H
#define ANCLA_QUOTE_H

#include <stdbool.h>
#include <stddef.h>

/* One UTF-8 character at text[0..length): stores its code point and returns its length in bytes,
 * or 0 where there is no valid one (RFC 3629: no surrogates, no overlong forms). */
size_t utf8_next(const char *text, size_t length, unsigned *code);

/* False for what a terminal would act on rather than show: control characters, line and
 * paragraph separators, bidirectional overrides; and for U+FFFD, the mark of lost text. */
bool is_printable(unsigned code);

/* Puts blanks in the place of what is not printable or no UTF-8, ends of lines among it. */
void blank_unprintable(char *text, size_t length);

/* The same for a message: its own further lines are indented, and stay. Whatever it quotes cannot
 * begin a line that would be taken for another message, or for its level. */
void blank_message(char *message);

/* The text without quotation marks, with what is not printable, `"` and `\` escaped as in JSON,
 * and cut after `limit` bytes or so with "...". The caller frees. */
char *escape(const char *text, size_t length, size_t limit);

/* The same in quotation marks, cut after 60 bytes. The caller frees. */
char *quote(const char *text);

#endif
