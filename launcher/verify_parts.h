/* The parts of verification, for verify*.c only. */
#ifndef ANCLA_VERIFY_PARTS_H
#define ANCLA_VERIFY_PARTS_H

#include "verify.h"

/* Adds a check; takes the three strings. */
void checks_add(struct checks *checks, char *what, char *expected, char *actual, bool ok);

/* The mapping of a region of anonymous memory among QEMU's mappings of that size: it has no name.
 * Regions of one size share the list; the earlier ones take theirs first. NULL: there is none. */
const struct mapping *verify_pick(const struct plan *plan, size_t region,
                                  const struct mapping *list, size_t count);

#endif
