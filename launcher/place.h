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

/* The parts that a change of a running VM needs, too. */

/* A pin: its CPUs exist, are online, and may be used. `what` is "vCPU 3", "the emulator". */
int place_check_pin(const struct host *host, const char *what, hwloc_const_bitmap_t cpus,
                    struct error *err);

/* With smt "isolate", the siblings of the CPUs of every vCPU that has some are added to
 * plan->siblings, to be left idle. */
int place_isolate(struct plan *plan, const struct host *host, struct error *err);

/* With smt "require", vCPUs 0 and 1, 2 and 3, … (plan->threads at a time) each have a CPU of the
 * same core, one CPU each. */
int place_check_siblings(const struct plan *plan, const struct host *host, struct error *err);

/* Fills in the host node of each vCPU. */
void place_find_nodes(struct plan *plan, const struct host *host);

/* A whole plan: dedicated CPUs are each vCPU's own, siblings and the emulator are where the
 * policies want them, no real-time vCPU starves what it waits for, and nobody else holds the CPUs.
 * `claims` are the others', and may be NULL. */
int place_check(const struct plan *plan, const struct claims *claims, struct error *err);

/* Adds a warning for each iothread that never sleeps and outranks the emulator: it takes QEMU's
 * main loop with it. */
void place_warn(struct plan *plan);

#endif
