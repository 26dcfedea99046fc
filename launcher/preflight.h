/* What can be known to fail before QEMU exists: grants (files and devices: see privileges.h). */
#ifndef ANCLA_PREFLIGHT_H
#define ANCLA_PREFLIGHT_H

#include "error.h"
#include "plan.h"

/* EXIT_GRANT for a scheduler or an amount of locked memory that the kernel refuses. */
int preflight(const struct plan *plan, struct error *err);

#endif
