/* Guest memory of a running VM, moved to other host nodes: move_pages(2) with MPOL_MF_MOVE_ALL, on
 * a mapping of our own of the same file, or on QEMU's own where the memory is anonymous. Pages move
 * while the guest runs.
 *
 * Only pages move. A policy belongs to QEMU's mapping and cannot be changed from outside: so where
 * pages are, and where new ones come from, are two things afterwards. */
#ifndef ANCLA_MIGRATE_H
#define ANCLA_MIGRATE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <hwloc.h>

#include "error.h"
#include "host.h"
#include "plan.h"

/* One region under way. */
struct migration {
	const struct plan_memory *memory; /* borrowed: size, page size, policy */
	pid_t pid;                        /* of QEMU */
	int fd;                           /* of the region's file; -1 with anonymous memory */
	uintptr_t start;                  /* of anonymous memory in QEMU */
	bool full;                        /* every page is there, as far as is known */
	int16_t *was;                     /* node of each page before; -1: no page */
	uint64_t n_pages;                 /* of memory->page_size bytes */
	uint64_t present, moved;          /* pages that there are; that are elsewhere now */
	uint64_t stuck;                   /* pages that an undo could not move back */
	unsigned *targets;                /* nodes, ascending */
	size_t n_targets;
};

#define MIGRATION_INIT                                                                             \
	{                                                                                          \
		.fd = -1                                                                           \
	}

/* Looks where every page of a region is. EXIT_FAILED if that cannot be known. The plan must outlive
 * the migration. */
int migration_look(struct migration *migration, const struct plan *plan, size_t region, pid_t pid,
                   struct error *err);

/* Whether the nodes exist and have room for what is not there yet: EXIT_GRANT with guest node, host
 * nodes, pages needed and free. Remembers them as the targets. */
int migration_check(struct migration *migration, const struct host *host,
                    hwloc_const_bitmap_t nodes, struct error *err);

/* Moves the pages, in turns over the targets with policy interleave, else those that are on none of
 * them, and reads each page back. If one is not where it should be, all are moved back, and the
 * error says why (EXIT_GRANT). */
int migration_move(struct migration *migration, struct error *err);

/* Moves them back. -1 (EXIT_FAILED) if some could not be. */
int migration_undo(struct migration *migration, struct error *err);

/* How many of the pages were on this node before. */
uint64_t migration_count(const struct migration *migration, unsigned node);

/* Pages that would have to move to be on the targets. */
uint64_t migration_needed(const struct migration *migration);

void migration_end(struct migration *migration);

#endif
