#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "console.h"
#include "kernel.h"
#include "supervise.h"
#include "util.h"

struct supervision {
	struct vm *vm;
	bool has_console;
	struct console console;
	int stops;   /* wishes to stop so far */
	int presses; /* of the power button, after the first wish */
	int64_t
	    deadline; /* for QEMU's end after it was told to quit, or for the next press; 0: none */
};

int supervise_signals(struct error *err)
{
	sigset_t set;
	int fd;

	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd >= 0 ? fd
	               : error_set(err, EXIT_FAILED, "cannot make a signalfd: %s", strerror(errno));
}

static void tell(const struct supervision *s, const char *text)
{
	const char *newline = s->console.raw ? "\r\n" : "";

	fprintf(stderr, "%sancla: %s%s\n", newline, text, s->console.raw ? "\r" : "");
}

/* The reply does not matter: either QEMU ends, or the next wish is stronger. */
static void command(struct supervision *s, const char *name)
{
	struct qmp_error ignored;

	if (qmp_state(s->vm->qmp) == QMP_READY)
		qmp_send(s->vm->qmp, name, NULL, &ignored);
}

/* A guest that is still booting does not hear the power button, so it is pressed again. */
static void press_power_button(struct supervision *s)
{
	command(s, "system_powerdown");
	s->deadline = ++s->presses < LIMIT_PRESSES ? kernel_now_ms() + LIMIT_PRESS_MS : 0;
}

static void wish_to_stop(struct supervision *s)
{
	bool off = *s->vm->shutdown_reason || s->vm->panicked;

	if (s->stops++ == 0 && off) {
		/* It is kept (on-poweroff, on-crash), and hears no button. */
		command(s, "quit");
		tell(s, "the guest is off; QEMU quits");
		s->deadline = kernel_now_ms() + LIMIT_QUIT_MS;
	} else if (s->stops == 1) {
		press_power_button(s);
		tell(s, "asked the guest to power down; once more forces it off");
	} else if (s->stops == 2) {
		command(s, "quit");
		tell(s, "forcing QEMU to quit");
		s->deadline = kernel_now_ms() + LIMIT_QUIT_MS;
	} else {
		kernel_pidfd_kill(s->vm->qemu.pidfd, SIGKILL);
	}
}

static void take_signal(struct supervision *s)
{
	struct signalfd_siginfo info;

	while (read(s->vm->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
		wish_to_stop(s);
}

static int timeout(const struct supervision *s)
{
	int64_t left = s->deadline - kernel_now_ms();

	if (!s->deadline)
		return -1;
	return left > 0 ? (int)left : 0;
}

static void process(struct supervision *s, const struct pollfd polls[3 + CONSOLE_POLLS])
{
	struct qmp_error qmp_error;
	cleanup_error struct error err = ERROR_INIT;
	unsigned interrupts = 0;

	if (polls[0].revents)
		take_signal(s);
	/* A broken monitor does not end the VM: the pidfd tells when it does. */
	if (polls[2].revents)
		qmp_process(s->vm->qmp, &qmp_error);
	if (s->has_console && console_process(&s->console, polls + 3, &interrupts, &err) < 0)
		tell(s, err.message);
	while (interrupts-- > 0)
		wish_to_stop(s);
	if (s->deadline && timeout(s) == 0 && s->presses && s->stops == 1) {
		press_power_button(s);
	} else if (s->deadline && timeout(s) == 0) {
		tell(s, "QEMU did not quit; killing it");
		kernel_pidfd_kill(s->vm->qemu.pidfd, SIGKILL);
		s->deadline = 0;
	}
}

static void sleep_until_it_ends(struct supervision *s)
{
	for (;;) {
		bool monitor = qmp_state(s->vm->qmp) == QMP_READY;
		struct pollfd polls[3 + CONSOLE_POLLS] = {
			{ s->vm->signals, POLLIN, 0 },
			{ s->vm->qemu.pidfd, POLLIN, 0 },
			{ monitor ? qmp_fd(s->vm->qmp) : -1, qmp_poll_events(s->vm->qmp), 0 },
			{ -1, 0, 0 },
			{ -1, 0, 0 },
			{ -1, 0, 0 },
		};
		if (s->has_console)
			console_polls(&s->console, polls + 3);
		if (poll(polls, ARRAY_SIZE(polls), timeout(s)) < 0 && errno != EINTR)
			return;
		process(s, polls);
		if (polls[1].revents)
			return;
	}
}

/* How it ended, from what QEMU said and how its process ended. */
static int verdict(struct supervision *s, struct error *err)
{
	struct vm *vm = s->vm;
	const char *reason = vm->shutdown_reason;
	struct qmp_error ignored;

	/* What QEMU said last may still be unread. */
	if (qmp_state(vm->qmp) == QMP_READY)
		while (qmp_process(vm->qmp, &ignored) == 0 && qmp_state(vm->qmp) == QMP_READY)
			continue;
	cleanup_free char *words = vm_last_words(&vm->dir);
	int status = spawn_reap(&vm->qemu);
	if (s->stops >= 2)
		return error_set(err, EXIT_FAILED, "the guest was forced off");
	if (vm->panicked || strcmp(reason, "guest-panic") == 0)
		return error_set(err, EXIT_FAILED, "the guest panicked");
	if (status == 0)
		return 0;
	cleanup_free char *how = spawn_describe(status);
	return error_set(err, EXIT_FAILED, "QEMU %s while the guest ran%s%s", how,
	                 *words ? "; its last words: " : ", without a word", words);
}

int supervise(struct vm *vm, bool console, struct error *err)
{
	struct supervision s = { .vm = vm, .has_console = console };

	if (console)
		console_open(&s.console, vm->serial);
	sleep_until_it_ends(&s);
	if (console) {
		console_drain(&s.console);
		console_close(&s.console);
	}
	return verdict(&s, err);
}
