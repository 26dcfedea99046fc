/* What can be known to fail before QEMU exists: files, devices, grants. */
#ifndef ANCLA_PREFLIGHT_H
#define ANCLA_PREFLIGHT_H

#include "error.h"
#include "plan.h"
#include "spec.h"

/* EXIT_GRANT for a grant or device that is missing, EXIT_SPEC for a file that is not there. */
int preflight(const struct spec *spec, const struct plan *plan, struct error *err);

#endif
