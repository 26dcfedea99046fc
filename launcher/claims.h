/* Who holds which CPU: what the VMs that run now were given. Plain data, made by the ledger. */
#ifndef ANCLA_CLAIMS_H
#define ANCLA_CLAIMS_H

#include <stdbool.h>
#include <stddef.h>

#include <hwloc.h>

struct plan;

struct claim {
	char *vm;
	char *role; /* "vcpu 3", "emulator", "iothread io0", "idle sibling" */
	hwloc_bitmap_t cpus;
	bool dedicated;
};

struct claims {
	struct claim *list; /* by VM, then vCPUs, emulator, iothreads, siblings */
	size_t count;
	hwloc_bitmap_t dedicated, shared; /* the union of each kind */
};

struct claims *claims_new(void);
void claims_free(struct claims *claims);

/* Adds everything that a plan holds. */
void claims_add_plan(struct claims *claims, const struct plan *plan);

/* Drops what a VM holds. Returns whether it held anything. */
bool claims_drop(struct claims *claims, const char *vm);

/* The first claim that overlaps the set: of dedicated claims, or of any. NULL: none. */
const struct claim *claims_conflict(const struct claims *claims, hwloc_const_bitmap_t cpus,
                                    bool dedicated_only);

#define cleanup_claims __attribute__((cleanup(cleanup_claims_fn)))
static inline void cleanup_claims_fn(struct claims **claims)
{
	claims_free(*claims);
}

#endif
