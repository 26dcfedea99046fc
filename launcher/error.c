#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "error.h"
#include "quote.h"
#include "util.h"

int(error_set)(struct error *err, enum exit_code code, const char *format, ...)
{
	va_list args;
	char *message = NULL;

	va_start(args, format);
	message = xvasprintf(format, args);
	va_end(args);
	free(err->message);
	err->message = message;
	err->code = code;
	blank_message(message);
	return -1;
}

int(error_prefix)(struct error *err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	cleanup_free char *prefix = xvasprintf(format, args);
	va_end(args);
	char *message = xasprintf("%s%s", prefix, err->message ? err->message : "");
	free(err->message);
	err->message = message;
	blank_message(message);
	return -1;
}

void error_clear(struct error *err)
{
	free(err->message);
	err->message = NULL;
	err->code = EXIT_DONE;
}
