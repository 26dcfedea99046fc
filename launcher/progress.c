#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "progress.h"

#define BAR_WIDTH 20
#define LINE_WIDTH 79

enum progress_kind progress_kind(bool quiet)
{
	if (quiet)
		return PROGRESS_NONE;
	return isatty(STDERR_FILENO) ? PROGRESS_BAR : PROGRESS_LOG;
}

static int interval(const struct progress *progress)
{
	return progress->kind == PROGRESS_BAR ? 100 : 1000;
}

int progress_timeout(const struct progress *progress, int64_t now)
{
	if (progress->kind == PROGRESS_NONE)
		return -1;
	int64_t left =
	    progress->started ? progress->shown + interval(progress) - now : interval(progress);
	return left > 0 ? (int)left : 0;
}

/* ", 2.1 GiB/s, 12 s left"; nothing while nothing is known. */
static void rate_text(uint64_t done, uint64_t total, int64_t ms, char *text, size_t size)
{
	double rate = ms > 0 ? (double)done / (double)ms * 1000 : 0; /* bytes a second */

	*text = '\0';
	if (rate >= 1)
		snprintf(text, size, ", %.1f GiB/s, %.0f s left", rate / (1 << 30),
		         (double)(total - done) / rate);
}

void progress_show(struct progress *progress, uint64_t done, uint64_t total, int64_t now, FILE *out)
{
	char bar[BAR_WIDTH + 1] = "", rate[64];

	if (progress->kind == PROGRESS_NONE || total == 0)
		return;
	if (!progress->started)
		progress->started = progress->shown = now;
	if (now - progress->shown < interval(progress))
		return;
	progress->shown = now;
	rate_text(done, total, now - progress->started, rate, sizeof(rate));
	if (progress->kind == PROGRESS_LOG) {
		fprintf(out, "ancla: filling memory: %" PRIu64 " of %" PRIu64 " MiB%s\n",
		        done >> 20, total >> 20, rate);
		return;
	}
	memset(bar, '.', BAR_WIDTH);
	memset(bar, '#', (size_t)((double)done / (double)total * BAR_WIDTH));
	int width = fprintf(out, "\rfilling memory [%s] %" PRIu64 "/%" PRIu64 " MiB%s", bar,
	                    done >> 20, total >> 20, rate);
	fprintf(out, "%*s", width - 1 < LINE_WIDTH ? LINE_WIDTH - (width - 1) : 0, "");
	progress->drawn = true;
}

void progress_end(struct progress *progress, FILE *out)
{
	if (progress->drawn)
		fprintf(out, "\r%*s\r", LINE_WIDTH, "");
	progress->drawn = false;
}
