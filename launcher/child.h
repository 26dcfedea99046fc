/* Children that are the program itself: a guard, a filler of memory. */
#ifndef ANCLA_CHILD_H
#define ANCLA_CHILD_H

#include <stddef.h>
#include <sys/types.h>

/* Forks a child of that name, which no signal ends but SIGKILL, and which holds no descriptor but
 * those of `keep` (a negative one is none), no other lock and no socket above all. Returns 0 in the
 * child, which ends by _exit(); elsewhere its id, or -1 and errno. */
pid_t child_fork(const char *name, const int *keep, size_t n_keep);

/* Closes all descriptors from `from` on but those of `keep` (a negative one is none). -1 and errno
 * where that is not sure: the kernel refuses close_range(2), and /proc/self/fd cannot be read. */
int child_close_others(unsigned from, const int *keep, size_t n_keep);

/* Waits for the end of a child and returns its status, as waitpid(2) has it; -1 if somebody else
 * has waited for it. */
int child_wait(pid_t pid);

#endif
