#include <stdio.h>

#include "spec_report.h"

#define ERRORS_SHOWN 100

static void print_error(const char *path, const struct spec_error *error)
{
	fputs(path, stderr);
	if (error->line)
		fprintf(stderr, ":%u", error->line);
	fprintf(stderr, ": %s%s%s\n", error->pointer, *error->pointer ? ": " : "", error->message);
}

struct spec *spec_load_or_report(const char *path)
{
	struct spec_errors errors = { 0 };
	struct spec *spec = spec_load(path, &errors);

	for (size_t i = 0; i < errors.count && i < ERRORS_SHOWN; i++)
		print_error(path, &errors.list[i]);
	if (errors.count > ERRORS_SHOWN)
		fprintf(stderr, "%s: ... and %zu more\n", path, errors.count - ERRORS_SHOWN);
	spec_errors_free(&errors);
	return spec;
}
