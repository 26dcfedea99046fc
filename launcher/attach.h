/* Taking over a VM whose supervisor was killed. */
#ifndef ANCLA_ATTACH_H
#define ANCLA_ATTACH_H

#include "launch.h"

/* Makes this process the supervisor of the VM of that name: its monitor, its serial console if
 * `options->serial` and it has one that is free, its lock, its state file. As after launch(), the
 * caller supervises it and ends with vm_end(); but how QEMU ends cannot be known, as it is not a
 * child of this process. Errors (EXIT_FAILED): no such VM, or it has a living supervisor, which is
 * named. On failure the VM runs on as it did. */
int attach(const char *name, const struct launch_options *options, struct vm *vm,
           struct error *err);

#endif
