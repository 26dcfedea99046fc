/* Who holds which CPU, and which memory is promised: what the VMs that run now were given. Plain
 * data, made by the ledger. */
#ifndef ANCLA_CLAIMS_H
#define ANCLA_CLAIMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <hwloc.h>

struct plan;

struct claim {
	char *vm;
	char *role; /* "vcpu 3", "emulator", "iothread io0", "idle sibling" */
	hwloc_bitmap_t cpus;
	bool dedicated;
};

/* Guest memory that a VM was given and has not taken yet, so that its nodes still show it as free.
 * While it is being filled it can only be said how much that is at least and at most. */
struct promise {
	char *vm;
	hwloc_bitmap_t nodes; /* NULL: anywhere */
	uint64_t page_size;   /* bytes of a huge page; 0: plain pages */
	uint64_t least, most; /* bytes */
};

struct claims {
	struct claim *list; /* by VM, then vCPUs, emulator, iothreads, siblings */
	size_t count;
	hwloc_bitmap_t dedicated, shared; /* the union of each kind */
	struct promise *promises;         /* see promises.h */
	size_t n_promises;
	char *left_out; /* a warning: what others hold that is not here; NULL: nothing */
};

struct claims *claims_new(void);
void claims_free(struct claims *claims);

/* Adds everything that a plan holds. */
void claims_add_plan(struct claims *claims, const struct plan *plan);

/* Drops what a VM holds. Returns whether it held anything. */
bool claims_drop(struct claims *claims, const char *vm);

/* Bytes that are promised of the node at most, a region over several nodes counting for each with
 * its share; with -1 those that may come from anywhere. `page_size` as in struct promise. */
uint64_t claims_promised(const struct claims *claims, int node, uint64_t page_size);

/* From now on only what is promised at least counts. */
void claims_hope(struct claims *claims);

/* The first claim that overlaps the set: of dedicated claims, or of any. NULL: none. */
const struct claim *claims_conflict(const struct claims *claims, hwloc_const_bitmap_t cpus,
                                    bool dedicated_only);

#define cleanup_claims __attribute__((cleanup(cleanup_claims_fn)))
static inline void cleanup_claims_fn(struct claims **claims)
{
	claims_free(*claims);
}

#endif
