/* The parts of verification, for verify*.c only. */
#ifndef ANCLA_VERIFY_PARTS_H
#define ANCLA_VERIFY_PARTS_H

#include "verify.h"

/* Adds a check; takes the three strings. */
void checks_add(struct checks *checks, char *what, char *expected, char *actual, bool ok);

#endif
