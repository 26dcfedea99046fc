/* What a running VM's supervisor does: it sleeps in poll until something happens. */
#ifndef ANCLA_SUPERVISE_H
#define ANCLA_SUPERVISE_H

#include <signal.h>
#include <stdbool.h>

#include "error.h"
#include "launch.h"

/* Returns 0 once the VM has ended as it should: the guest powered down, or was asked to. -1 and an
 * error if it ended otherwise. The first SIGINT, SIGTERM or SIGHUP asks the guest to power down,
 * the second forces QEMU to quit, and kills it if it does not. `console`: the serial console is on
 * standard input and output. */
int supervise(struct vm *vm, bool console, struct error *err);

/* SIGINT, SIGTERM and SIGHUP: somebody wishes that it stops. */
sigset_t supervise_wishes(void);

/* Blocks these and returns a signalfd for them; ignores SIGPIPE. -1 and an
 * error. */
int supervise_signals(struct error *err);

/* -1 and an error ("stopped by SIGTERM while …") if one of them has come. */
int supervise_stopped(int signals, const char *doing, struct error *err);

#endif
