/* A change that somebody asks for of a running VM's threads: read from words, put into its plan. */
#ifndef ANCLA_CHANGE_H
#define ANCLA_CHANGE_H

#include <hwloc.h>

#include "claims.h"
#include "error.h"
#include "host.h"
#include "plan.h"
#include "threads.h"

/* One thread; of the emulator, all that are its. */
struct change_target {
	enum thread_role role; /* THREAD_VCPU, THREAD_IOTHREAD or THREAD_EMULATOR */
	int vcpu;
	char *iothread;
	hwloc_bitmap_t cpus; /* NULL: as they are */
	struct sched sched;  /* SCHED_UNSET: as it is */
};

struct change {
	struct change_target *list;
	size_t count;
	int shares, quota; /* of the whole VM, as in the plan; 0: as they are */
};

/* "vcpu", "emulator", ...: what a target begins with; ends with NULL. */
extern const char *const change_kinds[];

void change_free(struct change *change);
#define cleanup_change __attribute__((cleanup(change_free)))

/* Reads targets: "vcpu LIST [CPUS]", "vcpu LIST=CPUS" (one to one, in the order in which they are
 * written), "emulator [CPUS]", "iothread ID [CPUS]", "shares N", "quota N%", any number of them.
 * `scheduler` ("fifo:1", "other") is for all of them, or NULL; without it each needs CPUs. Errors
 * are EXIT_USAGE. */
int change_parse(struct change *change, char *const *words, int count, const char *scheduler,
                 struct error *err);

/* "fifo:1", "rr:99", "other", "batch", "idle". Errors are EXIT_USAGE. */
int change_parse_sched(const char *text, struct sched *sched, struct error *err);

/* Puts the change into the plan and checks the whole as a launch would: see place_check(). `others`
 * are the claims of the other VMs. EXIT_FAILED: the VM has no such thread; EXIT_GRANT: the host
 * cannot grant it. After an error the plan is of no use. */
int change_plan(const struct change *change, struct plan *plan, const struct host *host,
                const struct claims *others, struct error *err);

#endif
