/* What comes to a running VM by other means than ancla's: the supervisor pins it. */
#ifndef ANCLA_ADOPT_H
#define ANCLA_ADOPT_H

#include "launch.h"

/* Looks at all threads of the VM, by the plan on file, and puts right what is not as planned: a
 * vCPU that somebody else added runs on the emulator's CPUs until then. Says in the plan how many
 * vCPUs there are now. Returns 0 and a text for people, NULL if nothing was changed (the caller
 * frees); 1 if another command is at the VM right now, which does it, or will be done in a moment:
 * then it is tried again; -1 and an error. */
int adopt_threads(struct vm *vm, char **said, struct error *err);

#endif
