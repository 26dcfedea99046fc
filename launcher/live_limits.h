/* Shares and quota of a running VM. */
#ifndef ANCLA_LIVE_LIMITS_H
#define ANCLA_LIVE_LIMITS_H

#include "live.h"

/* Gives the VM the shares and the quota of live.plan, if they differ from what is in force: in the
 * cgroup that it has, or in one that is made for it. The ledger is locked. EXIT_GRANT, and then
 * everything is as it was. */
int live_limits_apply(struct live *live, struct error *err);

/* Takes that back. -1 (EXIT_FAILED) if something is left. */
int live_limits_undo(struct live *live, struct error *err);

#endif
