/* Who else could change a file before we use it. */
#ifndef ANCLA_TRUST_H
#define ANCLA_TRUST_H

#include <stdbool.h>
#include <sys/stat.h>

/* Why the program at an absolute path is not ours alone to trust: it, a directory on the way or a
 * link belongs to somebody else than root, us, or the user that sudo was called by, or can be
 * written by others than those. NULL if it is, or is not there. The caller frees. */
char *trust_doubt(const char *path);

/* Whether others than root and us can write to the file or directory at the path, of that status:
 * by its mode, as members of its group, or by an access control list. A directory that is sticky
 * counts as one that they cannot write: they cannot change what is not theirs there. */
bool trust_others_write(const char *path, const struct stat *status);

#endif
