/* Names of enum values that are written and read back: one table for both ways. */
#ifndef ANCLA_NAMES_H
#define ANCLA_NAMES_H

#include <stddef.h>

struct name_table {
	const char *const *names; /* by value */
	size_t count;
};

extern const struct name_table names_accel, names_cpu_policy, names_smt, names_emulator,
    names_scheduler, names_mem_policy, names_page_kind, names_backing, names_fill, names_action;

/* "?" for a value outside the table. */
const char *name_of(const struct name_table *table, unsigned value);

/* The value, or -1 for a name that is not in the table. */
int value_of(const struct name_table *table, const char *name);

#endif
