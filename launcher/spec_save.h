/* Writes what was changed of a running VM back to the file that it was started from. */
#ifndef ANCLA_SPEC_SAVE_H
#define ANCLA_SPEC_SAVE_H

#include <sys/stat.h>

#include "change.h"
#include "error.h"
#include "plan.h"
#include "spec.h"
#include "spec_fresh.h"

/* A spec under change: read, edited in memory, not written yet. */
struct spec_save {
	char *path; /* as the VM's state names it; a link is followed */
	char *text; /* edited */
	struct stat before;
	struct spec *was;
	struct spec_fresh fresh;
};

#define SPEC_SAVE_INIT                                                                             \
	{                                                                                          \
		.fresh = SPEC_FRESH_INIT                                                           \
	}

/* Reads the file. EXIT_SPEC: it is gone, no regular file, wrong, or another VM's by now. */
int spec_save_open(struct spec_save *save, const char *path, const char *vm, struct error *err);

/* Edits pins and scheduling of the threads named; or the host nodes of guest nodes (by their index
 * in the plan, which must be the spec's own nodes). */
int spec_save_threads(struct spec_save *save, const struct change *change, struct error *err);
int spec_save_memory(struct spec_save *save, const struct plan *plan, hwloc_const_bitmap_t regions,
                     struct error *err);

/* Reads the edited text again, as a launch would, and compares: `change` (may be NULL) and nothing
 * else is new in it. Writes it to a file beside the old one, of the same owner and mode. */
int spec_save_prepare(struct spec_save *save, const struct change *change, struct error *err);

/* Puts it in the old one's place, which must not have changed since it was read. */
int spec_save_commit(struct spec_save *save, struct error *err);

void spec_save_end(struct spec_save *save);
#define cleanup_spec_save __attribute__((cleanup(spec_save_end)))

#endif
