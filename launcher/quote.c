#include <stdio.h>
#include <string.h>

#include "quote.h"
#include "util.h"

#define QUOTE_MAX 60

/* How a further line of a message begins. */
#define INDENTED "\n  "

size_t utf8_next(const char *text, size_t length, unsigned *code)
{
	static const unsigned least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	const unsigned char *p = (const unsigned char *)text;
	size_t bytes;
	unsigned value;

	if (!length)
		return 0;
	if (p[0] < 0x80) {
		*code = p[0];
		return 1;
	}
	bytes = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
	if (p[0] < 0xc0 || p[0] > 0xf7 || bytes > length)
		return 0;
	value = p[0] & (0x7fU >> bytes);
	for (size_t i = 1; i < bytes; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		value = value << 6 | (p[i] & 0x3f);
	}
	if (value < least[bytes] || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
		return 0;
	*code = value;
	return bytes;
}

bool is_printable(unsigned code)
{
	static const unsigned hidden[][2] = {
		{ 0, 0x1f },        { 0x7f, 0x9f },     { 0x200b, 0x200f }, { 0x2028, 0x202e },
		{ 0x2060, 0x2069 }, { 0xfeff, 0xfeff }, { 0xfff9, 0xfffd },
	};

	for (size_t i = 0; i < ARRAY_SIZE(hidden); i++)
		if (code >= hidden[i][0] && code <= hidden[i][1])
			return false;
	return true;
}

static void blank(char *text, size_t length, bool indented_lines)
{
	for (size_t i = 0, bytes; i < length; i += bytes) {
		unsigned code = 0;

		bytes = utf8_next(text + i, length - i, &code);
		if (bytes && is_printable(code))
			continue;
		if (indented_lines && strncmp(text + i, INDENTED, strlen(INDENTED)) == 0)
			continue;
		bytes += bytes == 0;
		memset(text + i, ' ', bytes);
	}
}

void blank_unprintable(char *text, size_t length)
{
	blank(text, length, false);
}

void blank_message(char *message)
{
	blank(message, strlen(message), true);
}

static void put_escaped(FILE *out, const char *text, size_t bytes, unsigned code)
{
	if (code == '"' || code == '\\')
		fprintf(out, "\\%c", (int)code);
	else if (code == '\n')
		fputs("\\n", out);
	else if (code == '\t')
		fputs("\\t", out);
	else if (is_printable(code))
		fwrite(text, 1, bytes, out);
	else
		fprintf(out, "\\u%04x", code);
}

char *escape(const char *text, size_t length, size_t limit)
{
	char *result = NULL;
	size_t size = 0;
	FILE *out = xmemstream(&result, &size);

	if (!out)
		return xstrdup("");
	for (size_t i = 0; i < length;) {
		unsigned code = 0xfffd;
		size_t bytes = utf8_next(text + i, length - i, &code);

		if (i >= limit) {
			fputs("...", out);
			break;
		}
		put_escaped(out, text + i, bytes, code);
		i += bytes ? bytes : 1;
	}
	fclose(out);
	return result;
}

char *quote(const char *text)
{
	cleanup_free char *inner = escape(text, strlen(text), QUOTE_MAX);

	return xasprintf("\"%s\"", inner);
}
