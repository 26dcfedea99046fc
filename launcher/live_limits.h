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

/* Whether a command that was killed while it made a cgroup has left one of which the plan does not
 * speak, with threads in it. The client is connected. */
bool live_limits_left(const struct vm_client *client);

/* Removes it, if there is one. The ledger is locked. EXIT_FAILED. */
int live_limits_remove_left(struct vm_client *client, struct error *err);

#endif
