/* How far the filling of memory is: a bar on a terminal, a line a second in a log. */
#ifndef ANCLA_PROGRESS_H
#define ANCLA_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum progress_kind {
	PROGRESS_NONE,
	PROGRESS_BAR, /* drawn over itself, and gone when it ends */
	PROGRESS_LOG,
};

/* Times are kernel_now_ms(). */
struct progress {
	enum progress_kind kind;
	int64_t started; /* 0: not yet */
	int64_t shown;   /* when last, or `started` */
	bool drawn;      /* there is a bar that has to go */
};

/* How it is shown on standard error. */
enum progress_kind progress_kind(bool quiet);

/* Milliseconds until something is to be shown; -1: nothing ever. */
int progress_timeout(const struct progress *progress, int64_t now);

/* Shows bytes done of all, if it is time: a start that takes a tenth of a second (in a log, a
 * second) says nothing. The rate is that of the whole time, as is the time left. */
void progress_show(struct progress *progress, uint64_t done, uint64_t total, int64_t now,
                   FILE *out);

/* Removes the bar. */
void progress_end(struct progress *progress, FILE *out);

#endif
