/* A change of a running VM under way: its monitor held, then the ledger locked, a new plan checked,
 * applied, and written. Two changes of one VM come one after the other, as each holds the monitor
 * from its first look to its end; the order is always monitor, then ledger. */
#ifndef ANCLA_LIVE_H
#define ANCLA_LIVE_H

#include "apply.h"
#include "claims.h"
#include "host.h"
#include "spec_save.h"
#include "vm_client.h"

struct live {
	struct vm_client client; /* .plan: what is in force, and on file */
	struct host *host;
	struct ledger ledger;
	struct claims *others; /* of the other VMs */
	struct plan *plan;     /* what is to be */
	struct moves moves;
};

#define LIVE_INIT                                                                                  \
	{                                                                                          \
		.client = VM_CLIENT_INIT, .ledger = LEDGER_INIT                                    \
	}

/* Connects, asks for the threads, and reads the host. live.plan is a copy of the plan to be
 * changed. */
int live_begin(struct live *live, const char *name, struct error *err);

/* Locks the ledger, and fills in what others hold. */
int live_lock(struct live *live, struct error *err);

/* The ledger being locked: applies live.plan to the threads, reads them back, and writes it: the
 * claim is changed with it. With `save`, which is prepared, the spec's file changes, too. If a step
 * fails, threads, plan and spec are as before. */
int live_commit(struct live *live, struct spec_save *save, struct error *err);

/* The last step alone: writes live.plan, and the spec. If it fails, both are as before. */
int live_write(struct live *live, struct spec_save *save, struct error *err);

/* Whoever is asked to end does so after the change, not in the middle of it. */
void live_defer_signals(void);

void live_end(struct live *live);
#define cleanup_live __attribute__((cleanup(live_end)))

#endif
