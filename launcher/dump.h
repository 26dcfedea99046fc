/* Where the memory of a guest is written that is to be looked at after its end.
 *
 * A dump is an ELF core (QEMU's dump-guest-memory), which gdb, crash and drgn read, in
 * /var/lib/ancla/dump/, for a user in $XDG_STATE_HOME/ancla/dump/ (~/.local/state/ancla/dump/), or
 * anywhere that $ANCLA_DUMP_DIR says: NAME-TIME.elf, mode 0600. It is never removed. */
#ifndef ANCLA_DUMP_H
#define ANCLA_DUMP_H

#include <stdint.h>

#include "error.h"

/* The directory, made if it is missing. NULL and an error (EXIT_GRANT) if it cannot be made or
 * written. The caller frees. */
char *dump_directory(struct error *err);

/* Makes an empty file for the dump of so many bytes of the VM's memory. Returns a descriptor and
 * stores its path, which the caller frees. -1 and an error: also if that much is not free there. */
int dump_create(const char *vm, uint64_t bytes, char **path, struct error *err);

#endif
