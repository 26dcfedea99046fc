/* Huge pages that are reserved for a VM ("reserve": "grow") and given back when it ends.
 *
 * All changes are made under the ledger's lock, node by node, in the nodes' own nr_hugepages
 * (Documentation/admin-guide/mm/hugetlbpage.rst). What is owed to the host stands in the VM's
 * directory, in reserved.json: written before each change, with the count before it, so that
 * whoever finds a dead VM knows how far the change came; and counted by what the kernel really did.
 */
#ifndef ANCLA_RESERVE_H
#define ANCLA_RESERVE_H

#include <stdbool.h>

#include "claims.h"
#include "error.h"
#include "host.h"
#include "ledger.h"
#include "plan.h"

/* Reserves what the nodes lack for the plan's regions that may grow, beside what the claims promise
 * to others. The host's memory is as read under the ledger's lock, which the caller holds. Memory
 * is compacted once where the kernel finds too few pages together. If they cannot be had, none are
 * kept: EXIT_GRANT with node, page size, needed and had. */
int reserve_grow(const struct vm_dir *vm, const struct plan *plan, const struct host *host,
                 const struct claims *claims, struct error *err);

/* Whether reserve_grow() would be let: if nodes lack pages, and the kernel lets us add none,
 * EXIT_GRANT. */
int reserve_check(const struct plan *plan, const struct host *host, const struct claims *claims,
                  struct error *err);

/* Whether the VM owes pages to the host. */
bool reserve_is_owed(const struct vm_dir *vm);

/* Gives back what was added for the VM and not given back yet. Pages that somebody still uses go as
 * soon as he lets go of them. The caller holds the ledger's lock. -1 (EXIT_FAILED) if the kernel
 * refuses; then it is still owed. */
int reserve_give_back(const struct vm_dir *vm, struct error *err);

#endif
