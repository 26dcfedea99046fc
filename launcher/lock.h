/* Locks that many processes wait for, a short while each: flock(2) with a limit.
 *
 * Who holds one says so in the file, so that who waits can name it, and can tell a queue that moves
 * from a holder that is stuck. The lock ends with its holder, whatever the file says. */
#ifndef ANCLA_LOCK_H
#define ANCLA_LOCK_H

#include <sys/types.h>

/* Takes the lock of `fd`, open for reading and writing. The limit, in milliseconds, is for one
 * holder: it starts again whenever the lock changes hands. Returns 0, or -1 with errno, ETIMEDOUT
 * with the holder's process id in *holder (0: unknown). */
int lock_take(int fd, int limit_ms, pid_t *holder);

#endif
