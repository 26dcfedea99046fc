/* The waits of a launch: one poll loop over everything that can happen meanwhile. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "kernel.h"
#include "launch_parts.h"
#include "supervise.h"
#include "util.h"

int launch_stopped(struct launching *l, const char *doing, struct error *err)
{
	return supervise_stopped(l->options->signals, doing, err);
}

/* Shows how far the fill is, if it is time; returns how long to sleep until it is again, at most
 * `limit_ms` (-1: no limit). */
static int show_progress(struct launching *l, int limit_ms)
{
	int64_t now = kernel_now_ms();
	uint64_t done, total;

	fill_progress(l->fill, &done, &total);
	if (done == total)
		return limit_ms;
	progress_show(&l->progress, done, total, now, stderr);
	int next = progress_timeout(&l->progress, now);
	return next < 0 || (limit_ms >= 0 && limit_ms < next) ? limit_ms : next;
}

/* One round of polling. 0: something may have changed; -1: an error. */
static int wait_once(struct launching *l, const char *doing, int timeout_ms, struct error *err)
{
	struct vm *vm = l->vm;
	enum { SIGNALS, QEMU, QMP, FILL, COUNT };
	struct pollfd polls[COUNT] = {
		[SIGNALS] = { l->options->signals, POLLIN, 0 },
		[QEMU] = { vm->qemu.pidfd, POLLIN, 0 },
		[QMP] = { qmp_fd(vm->qmp), qmp_poll_events(vm->qmp), 0 },
		[FILL] = { fill_fd(l->fill), POLLIN, 0 },
	};
	struct qmp_error qmp_error;

	/* A fill that has ended would wake the loop for ever. */
	if (fill_is_over(l->fill))
		polls[FILL].fd = -1;
	if (poll(polls, COUNT, timeout_ms) < 0 && errno != EINTR)
		return error_set(err, EXIT_FAILED, "cannot poll: %s", strerror(errno));
	if (polls[SIGNALS].revents && launch_stopped(l, doing, err) < 0)
		return -1;
	if (polls[FILL].revents && fill_wait(l->fill, err) < 0)
		return -1;
	if (polls[QEMU].revents)
		return vm_died(vm, doing, err);
	if (polls[QMP].revents && qmp_process(vm->qmp, &qmp_error) < 0)
		return vm_qmp_failed(vm, &qmp_error, doing, err);
	return 0;
}

/* QEMU that fills memory itself, or locks it with all of its own, greets only after that. */
static int greeting_limit(const struct plan *plan)
{
	uint64_t bytes = plan->locked ? QEMU_LOCKS : 0;

	for (size_t i = 0; i < plan->n_memory; i++)
		if (plan->memory[i].fill == FILL_QEMU || plan->locked)
			bytes += plan->memory[i].size;
	return LIMIT_GREETING_MS + (int)(bytes / SLOWEST_FILL);
}

int launch_wait_ready(struct launching *l, struct error *err)
{
	static const char doing[] = "while QEMU started";
	int limit = greeting_limit(l->vm->plan);
	int64_t deadline = kernel_now_ms() + limit;

	while (qmp_state(l->vm->qmp) != QMP_READY) {
		int64_t left = deadline - kernel_now_ms();
		if (left <= 0)
			return error_set(
			    err, EXIT_FAILED,
			    "QEMU did not greet within %d s; it was killed. Is %s a QEMU?",
			    limit / 1000, l->vm->line->argv[0]);
		if (wait_once(l, doing, show_progress(l, (int)left), err) < 0)
			return -1;
	}
	return 0;
}

int launch_wait_filled(struct launching *l, struct error *err)
{
	while (!fill_is_over(l->fill))
		if (wait_once(l, "while its memory was filled", show_progress(l, -1), err) < 0)
			return -1;
	progress_end(&l->progress, stderr);
	return fill_wait(l->fill, err);
}
