#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "quote.h"
#include "util.h"

/* One number at *text; moves *text behind it. */
static int parse_number(const char **text, unsigned *number)
{
	unsigned long value = 0;
	const char *p = *text;

	if (!isdigit((unsigned char)*p))
		return -1;
	for (; isdigit((unsigned char)*p); p++) {
		value = value * 10 + (unsigned long)(*p - '0');
		if (value > CPULIST_MAX)
			return -1;
	}
	*number = (unsigned)value;
	*text = p;
	return 0;
}

/* One part, "N", "N-M" or "N-M:STEP", without its "^". */
static int parse_part(const char *part, unsigned *first, unsigned *last, unsigned *step)
{
	*step = 1;
	if (parse_number(&part, first) < 0)
		return -1;
	*last = *first;
	if (*part == '-') {
		part++;
		if (parse_number(&part, last) < 0 || *last < *first)
			return -1;
		if (*part == ':') {
			part++;
			if (parse_number(&part, step) < 0 || *step == 0)
				return -1;
		}
	}
	return *part ? -1 : 0;
}

int cpulist_parse(const char *text, hwloc_bitmap_t *set, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t result = xbitmap();
	cleanup_free char *copy = xstrdup(text);
	char *rest = copy;
	char *part;

	while (*text && (part = strsep(&rest, ","))) {
		unsigned first, last, step;
		bool exclude;

		while (isspace((unsigned char)*part))
			part++;
		for (size_t n = strlen(part); n && isspace((unsigned char)part[n - 1]); n--)
			part[n - 1] = '\0';
		exclude = *part == '^';
		if (parse_part(part + exclude, &first, &last, &step) < 0) {
			cleanup_free char *shown = quote(part);
			return error_set(err, EXIT_SPEC,
			                 "%s is not part of a list: expected numbers up to %d and "
			                 "ranges, as in \"0-3,8\", \"0-31:2\" or \"0-7,^2\"",
			                 shown, CPULIST_MAX);
		}
		if (step == 1 && !exclude)
			hwloc_bitmap_set_range(result, first, (int)last);
		for (unsigned i = first; i <= last && (step > 1 || exclude); i += step) {
			if (exclude)
				hwloc_bitmap_clr(result, i);
			else
				hwloc_bitmap_set(result, i);
		}
	}
	*set = take_pointer(&result);
	return 0;
}

char *cpulist_format(hwloc_const_bitmap_t set)
{
	char *text = NULL;

	if (hwloc_bitmap_list_asprintf(&text, set) < 0)
		return xstrdup("");
	return text;
}
