/* Who else could change a file before we use it. */
#ifndef ANCLA_TRUST_H
#define ANCLA_TRUST_H

/* Why the program at an absolute path is not ours alone to trust: it, a directory on the way or a
 * link belongs to somebody else than root, us, or the user that sudo was called by, or can be
 * written by all. NULL if it is, or is not there. The caller frees. */
char *trust_doubt(const char *path);

#endif
