/* What can be known to fail before QEMU exists: grants (files and devices: see privileges.h). */
#ifndef ANCLA_PREFLIGHT_H
#define ANCLA_PREFLIGHT_H

#include "error.h"
#include "plan.h"
#include "spec.h"

/* EXIT_GRANT for a scheduler or an amount of locked memory that the kernel refuses, and for dumps
 * that could not be written. */
int preflight(const struct spec *spec, const struct plan *plan, struct error *err);

#endif
