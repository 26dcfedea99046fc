/* QEMU's process: forked, held before exec, then released. */
#ifndef ANCLA_SPAWN_H
#define ANCLA_SPAWN_H

#include <sys/types.h>

#include "argv.h"
#include "error.h"
#include "plan.h"

struct qemu {
	pid_t pid; /* 0: there is none */
	int pidfd;
	int go;       /* written to by spawn_release() */
	bool foreign; /* another process's child: how it ends is not known */
};

#define QEMU_INIT                                                                                  \
	{                                                                                          \
		0, -1, -1, false                                                                   \
	}

/* Forks a child that waits. When released it is QEMU in a session of its own, its affinity that of
 * the emulator (so every thread it creates is born in the right place), its memory policy on the
 * emulator's node (or confined, with restrictive), its memory lock unlimited if the plan locks, its
 * user and capabilities as in plan->process, its
 * output in `log`, and exactly the descriptors of the command line open. If the launcher dies
 * before that, the child ends; with `dies`, at any time (prctl(2), PR_SET_PDEATHSIG: with the
 * thread that called this). `fds[i]` is the launcher's descriptor for line->inherited[i]; all are
 * borrowed. Call it while the process has one thread. */
int spawn_qemu(const struct command_line *line, const struct plan *plan, const int *fds, int log,
               hwloc_const_bitmap_t heap_nodes, bool dies, struct qemu *qemu, struct error *err);

int spawn_release(struct qemu *qemu, struct error *err);

/* Kills the process if it still lives, reaps it, and closes the descriptors. Returns its wait
 * status, 0 if there was none or it is not known. */
int spawn_end(struct qemu *qemu);

/* Reaps a QEMU that has ended by itself: its wait status. */
int spawn_reap(struct qemu *qemu);

/* "exited with status 1", "was killed by SIGKILL (Killed)". The caller frees. */
char *spawn_describe(int wait_status);

#endif
