/* Puts every thread where the plan says: affinity, then scheduling. */
#ifndef ANCLA_PIN_H
#define ANCLA_PIN_H

#include "error.h"
#include "plan.h"
#include "threads.h"

/* Pins all threads of the list. Threads of the emulator that end meanwhile are passed over. Errors
 * (EXIT_GRANT) name the thread, what was asked for, and the missing grant. Reading back is verify's
 * part. */
int pin_threads(const struct plan *plan, const struct threads *threads, struct error *err);

/* One thread. */
int pin_thread(const struct plan *plan, const struct thread *thread, struct error *err);

#endif
