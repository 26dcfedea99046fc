/* `ancla pin NAME memory`, a part of cmd_pin.c. */
#ifndef ANCLA_CMD_PIN_MEMORY_H
#define ANCLA_CMD_PIN_MEMORY_H

#include "command.h"

/* Runs it; returns the exit code. */
int pin_memory(const struct invocation *call);

#endif
