/* Memory that is there, or the program ends. In a file of its own, as an analyzer that saw that
 * these allocate would take what a cleanup attribute frees for lost. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"
#include "util.h"

static void *or_exit(void *pointer)
{
	static const char message[] = "ancla: out of memory\n";

	if (pointer)
		return pointer;
	if (write(STDERR_FILENO, message, sizeof(message) - 1) < 0) {
		/* Nothing left to tell it with. */
	}
	_exit(EXIT_FAILED);
}

void *xcalloc(size_t count, size_t size)
{
	return or_exit(calloc(count ? count : 1, size ? size : 1));
}

void *xreallocarray(void *pointer, size_t count, size_t size)
{
	return or_exit(reallocarray(pointer, count ? count : 1, size ? size : 1));
}

char *xstrdup(const char *text)
{
	return or_exit(strdup(text));
}

char *xvasprintf(const char *format, va_list args)
{
	char *text = NULL;

	return or_exit(vasprintf(&text, format, args) < 0 ? NULL : text);
}

char *xasprintf(const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	text = xvasprintf(format, args);
	va_end(args);
	return text;
}

FILE *xmemstream(char **text, size_t *length)
{
	return or_exit(open_memstream(text, length));
}

hwloc_bitmap_t xbitmap(void)
{
	return or_exit(hwloc_bitmap_alloc());
}

hwloc_bitmap_t xbitmap_dup(hwloc_const_bitmap_t set)
{
	return or_exit(hwloc_bitmap_dup(set));
}
