/* The kernel's state against the plan, thread by thread and node by node. */
#ifndef ANCLA_VERIFY_H
#define ANCLA_VERIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "error.h"
#include "memory.h"
#include "plan.h"
#include "threads.h"

struct check {
	char *what;     /* "vCPU 0: CPUs" */
	char *expected; /* from the plan */
	char *actual;   /* as read back */
	bool ok;
};

struct checks {
	struct check *list;
	size_t count;
	size_t failed;
};

void checks_free(struct checks *checks);
#define cleanup_checks __attribute__((cleanup(checks_free)))

/* Adds a check that failed. The strings are copied. */
void verify_add(struct checks *checks, const char *what, const char *expected, const char *actual);

/* Adds what is in the other list, and empties that. */
void checks_move(struct checks *checks, struct checks *from);

/* Adds a failed check for each vCPU and iothread of the plan that has no thread in the list. */
void verify_presence(const struct plan *plan, const struct threads *threads, struct checks *checks);

/* Affinity, scheduler and priority of every thread of the list. */
void verify_threads(const struct plan *plan, const struct threads *threads, struct checks *checks);

/* Pages, policy, lock and flags of every region, and the process's memory lock. `known` is what the
 * fill said of each region (see fill_residency()), or NULL: then it is read through QEMU's own
 * descriptors in /proc/PID/fd. Regions of which the plan promises nothing are passed over unless
 * `all` is set. -1 (EXIT_FAILED) if the process cannot be read. */
int verify_memory(const struct plan *plan, pid_t pid, const struct residency *known, bool all,
                  struct checks *checks, struct error *err);

/* Who QEMU is to the kernel, and what it may do: user, groups, capabilities, no_new_privs, seccomp,
 * of its main thread, from which all others have them. -1 (EXIT_FAILED) if the process cannot be
 * read. */
int verify_process(const struct plan *plan, pid_t pid, struct checks *checks, struct error *err);

/* Everything that failed, one line each; EXIT_VERIFY. 0 if nothing did. */
int verify_verdict(const struct checks *checks, struct error *err);

#endif
