/* A new file beside a spec, which is to take the spec's place. Until it has, a process of its own
 * watches over it: whoever made it may be killed, and it goes all the same. */
#ifndef ANCLA_SPEC_FRESH_H
#define ANCLA_SPEC_FRESH_H

#include <sys/types.h>

#include "error.h"

struct spec_fresh {
	char *path; /* NULL: there is none, or it has taken its place */
	pid_t guard;
	int pipe; /* closes with us; -1: no guard */
};

#define SPEC_FRESH_INIT                                                                            \
	{                                                                                          \
		.pipe = -1                                                                         \
	}

/* Makes it, empty, mode 0600; returns a descriptor that can be written, the caller's. */
int spec_fresh_make(struct spec_fresh *fresh, const char *beside, struct error *err);

/* Renames it over that file (rename(2)); -1 with errno. */
int spec_fresh_replace(struct spec_fresh *fresh, const char *path);

/* Removes it, unless it has taken its place. */
void spec_fresh_end(struct spec_fresh *fresh);

#endif
