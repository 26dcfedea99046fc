/* The guard: a process that kills QEMU if the launcher dies before the guest runs.
 *
 * It holds QEMU's pidfd and one end of a pipe. If the pipe closes without a word, the launcher is
 * dead and QEMU is killed; told that `cont` is acknowledged, it ends. While the console is on a
 * terminal it stays instead, asleep, and gives the terminal its old state back if the supervisor
 * dies without doing so. Where QEMU is to die with its supervisor, the guard is never released. */
#ifndef ANCLA_GUARD_H
#define ANCLA_GUARD_H

#include <stdbool.h>
#include <sys/types.h>

#include "error.h"

struct guard {
	pid_t pid;
	int pipe;   /* -1: there is none */
	bool stays; /* until the supervisor ends, for the terminal's sake */
};

#define GUARD_INIT                                                                                 \
	{                                                                                          \
		0, -1, false                                                                       \
	}

/* Starts it for the process behind the pidfd (borrowed; -1: for the terminal only). `terminal` is a
 * descriptor whose state is given back, or -1. Call it while the process has one thread. */
int guard_start(struct guard *guard, int pidfd, int terminal, struct error *err);

/* The guest runs: QEMU may outlive the launcher from now on. A guard that has nothing else to do is
 * reaped. EXIT_FAILED: it cannot be told, and would kill QEMU. */
int guard_release(struct guard *guard, struct error *err);

/* Ends the guard, released or not, and reaps it. A QEMU not released is killed. */
void guard_end(struct guard *guard);

#endif
