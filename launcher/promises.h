/* Memory that is promised to VMs of the ledger: what their plans hold and their nodes still show as
 * free. A VM that is filled has taken all of it, and promises nothing. */
#ifndef ANCLA_PROMISES_H
#define ANCLA_PROMISES_H

#include "claims.h"
#include "ledger.h"
#include "plan.h"

/* Adds what the VM with this plan has yet to take. `state` is NULL (or has none) when it is
 * ending; `owing`: see reserve_is_owed(). How much it has taken is asked of its files:
 * what is read of the nodes afterwards may have less of it, never more. So `most` is for a look at
 * the nodes that comes after this one, `least` for one that came before. */
void promises_add(struct claims *claims, const struct plan *plan, const struct vm_state *state,
                  bool owing);

#endif
