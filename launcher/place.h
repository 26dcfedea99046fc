/* Placement: spec, host and claims in, plan or reason out. A pure function: no clock, no file, no
 * environment; the same input gives the same plan, byte for byte.
 *
 * Every error is EXIT_GRANT and names the resource, the node, what is needed and what is free. */
#ifndef ANCLA_PLACE_H
#define ANCLA_PLACE_H

#include "claims.h"
#include "error.h"
#include "host.h"
#include "plan.h"
#include "spec.h"

/* `accel` is what the VM will run with (never ACCEL_UNSET). `claims` may be NULL: nobody holds
 * anything. The caller frees the plan with plan_free(). */
struct plan *place(const struct spec *spec, const struct host *host, const struct claims *claims,
                   enum accel accel, struct error *err);

#endif
