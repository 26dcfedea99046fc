#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "adopt.h"
#include "console.h"
#include "kernel.h"
#include "life.h"
#include "log.h"
#include "notify.h"
#include "supervise.h"
#include "util.h"

enum { SIGNALS, QEMU, MONITOR, QEMU_LOG, CONSOLE, N_POLLS = CONSOLE + CONSOLE_POLLS };

/* When another command is at the VM, it is looked again after this time. */
#define ADOPT_AGAIN_MS 50

struct supervision {
	struct vm *vm;
	struct life life;
	bool has_console;
	struct console console;
	int stops;         /* wishes to stop so far */
	int presses;       /* of the power button, after the first wish */
	int64_t press_at;  /* the next one; 0: none */
	int64_t adopt_at;  /* when threads are looked at again; 0: never */
	int64_t ping_at;   /* when the service manager expects a sign of life; 0: never */
	int log, log_told; /* QEMU's log, and an inotify(7) for it; -1: not watched */
};

sigset_t supervise_wishes(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	return set;
}

int supervise_signals(struct error *err)
{
	sigset_t set = supervise_wishes();
	int fd;

	signal(SIGPIPE, SIG_IGN);
	sigprocmask(SIG_BLOCK, &set, NULL);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd >= 0 ? fd
	               : error_set(err, EXIT_FAILED, "cannot make a signalfd: %s", strerror(errno));
}

int supervise_stopped(int signals, const char *doing, struct error *err)
{
	struct signalfd_siginfo info;

	if (read(signals, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return 0;
	return error_set(err, EXIT_FAILED, "stopped by SIG%s %s", sigabbrev_np((int)info.ssi_signo),
	                 doing);
}

/* The reply does not matter: either QEMU ends, or the next wish is stronger. */
static void command(struct supervision *s, const char *name)
{
	struct qmp_error ignored;

	if (qmp_state(s->vm->qmp) == QMP_READY)
		qmp_send(s->vm->qmp, name, NULL, &ignored);
}

static void quit(struct supervision *s)
{
	command(s, "quit");
	s->press_at = 0;
	s->life.step = LIFE_ENDING;
	s->life.deadline = kernel_now_ms() + LIMIT_QUIT_MS;
}

/* A guest that is still booting does not hear the power button, so it is pressed again. To force it
 * off is for whoever wants it to stop. */
static void press_power_button(struct supervision *s)
{
	if (s->presses++ < LIMIT_PRESSES) {
		command(s, "system_powerdown");
		s->press_at = kernel_now_ms() + LIMIT_PRESS_MS;
		return;
	}
	s->press_at = 0;
	life_say(LOG_WARNING, "stopping",
	         "the guest did not power down within %d s; once more forces it off",
	         LIMIT_POWERDOWN_MS / 1000);
}

static void wish_to_stop(struct supervision *s)
{
	notify("STOPPING=1");
	s->life.asked = true;
	if (s->stops++ == 0 && s->life.step == LIFE_KEPT) {
		/* It hears no button. */
		life_say(LOG_NOTICE, "stopping", "the guest is off; QEMU quits");
		quit(s);
	} else if (s->stops == 1 && s->life.step == LIFE_DUMPING) {
		life_say(LOG_NOTICE, "stopping",
		         "QEMU quits after the dump; once more forces it to quit now");
	} else if (s->stops == 1) {
		press_power_button(s);
		life_say(LOG_NOTICE, "stopping",
		         "asked the guest to power down; once more forces it off");
	} else if (s->stops == 2) {
		life_say(LOG_NOTICE, "stopping", "forcing QEMU to quit");
		quit(s);
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

/* QEMU's log: whoever writes it is not us, so we are told when it grows. */

static void watch_log(struct supervision *s)
{
	cleanup_free char *path = xasprintf("/proc/self/fd/%d/%s", s->vm->dir.dirfd, VM_LOG);

	s->log = openat(s->vm->dir.dirfd, VM_LOG, O_RDWR | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
	s->log_told = s->log < 0 ? -1 : inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (s->log_told >= 0 && inotify_add_watch(s->log_told, path, IN_MODIFY) < 0) {
		close(s->log_told);
		s->log_told = -1;
	}
}

static void unwatch_log(struct supervision *s)
{
	if (s->log >= 0)
		close(s->log);
	if (s->log_told >= 0)
		close(s->log_told);
}

static void trim_log(struct supervision *s)
{
	char told[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

	while (read(s->log_told, told, sizeof(told)) > 0)
		continue;
	log_trim(s->log);
}

/* QEMU tells that the guest took a vCPU in, or let go of one; who asked for it, it does not tell.
 */
static void adopt(struct supervision *s)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *said = NULL;
	int result;

	s->vm->threads_changed = false;
	s->adopt_at = 0;
	if (qmp_state(s->vm->qmp) != QMP_READY)
		return;
	result = adopt_threads(s->vm, &said, &err);
	if (result > 0)
		s->adopt_at = kernel_now_ms() + ADOPT_AGAIN_MS;
	else if (result < 0)
		life_say(LOG_WARNING, "threads", "%s", err.message);
	else if (said)
		life_say(LOG_NOTICE, "threads", "%s", said);
}

/* Milliseconds to the earliest of what is to be done at its time; -1: there is nothing. */
static int timeout(const struct supervision *s)
{
	const int64_t times[] = { s->life.deadline, s->press_at, s->ping_at, s->adopt_at };
	int64_t first = 0;

	for (size_t i = 0; i < ARRAY_SIZE(times); i++)
		if (times[i] && (!first || times[i] < first))
			first = times[i];
	if (!first)
		return -1;
	int64_t left = first - kernel_now_ms();
	return left > 0 ? (int)left : 0;
}

static void ping(struct supervision *s)
{
	int interval = notify_watchdog_ms();

	if (interval > 0)
		notify("WATCHDOG=1");
	s->ping_at = interval > 0 ? kernel_now_ms() + interval : 0;
}

static void look_at_the_time(struct supervision *s)
{
	int64_t now = kernel_now_ms();

	if (s->ping_at && now >= s->ping_at)
		ping(s);
	if (s->life.deadline && now >= s->life.deadline)
		life_timeout(&s->life);
	if (s->adopt_at && now >= s->adopt_at)
		adopt(s);
	if (s->press_at && now >= s->press_at)
		press_power_button(s);
}

static void process(struct supervision *s, const struct pollfd polls[N_POLLS])
{
	struct qmp_error qmp_error;
	cleanup_error struct error err = ERROR_INIT;
	unsigned interrupts = 0;

	if (polls[SIGNALS].revents)
		take_signal(s);
	/* A broken monitor does not end the VM: the pidfd tells when it does. */
	if (polls[MONITOR].revents)
		qmp_process(s->vm->qmp, &qmp_error);
	life_process(&s->life);
	if (s->vm->threads_changed)
		adopt(s);
	if (polls[QEMU_LOG].revents)
		trim_log(s);
	if (s->has_console && console_process(&s->console, polls + CONSOLE, &interrupts, &err) < 0)
		log_say(LOG_ERR, "console", "%s", err.message);
	while (interrupts-- > 0)
		wish_to_stop(s);
	look_at_the_time(s);
	/* Whoever waited for an answer of QEMU may have read events, too, of which poll() knows
	 * nothing any more. */
	life_process(&s->life);
	if (s->vm->threads_changed && !s->adopt_at)
		s->adopt_at = kernel_now_ms();
}

static void sleep_until_it_ends(struct supervision *s)
{
	for (;;) {
		bool monitor = qmp_state(s->vm->qmp) == QMP_READY;
		struct pollfd polls[N_POLLS] = {
			[SIGNALS] = { s->vm->signals, POLLIN, 0 },
			[QEMU] = { s->vm->qemu.pidfd, POLLIN, 0 },
			[MONITOR] = { monitor ? qmp_fd(s->vm->qmp) : -1,
			              qmp_poll_events(s->vm->qmp), 0 },
			[QEMU_LOG] = { s->log_told, POLLIN, 0 },
			[CONSOLE] = { -1, 0, 0 },
			{ -1, 0, 0 },
			{ -1, 0, 0 },
		};
		if (s->has_console)
			console_polls(&s->console, polls + CONSOLE);
		/* The kernel is short of memory: the VM is not to end for that. */
		if (poll(polls, ARRAY_SIZE(polls), timeout(s)) < 0 && errno != EINTR)
			nanosleep(&(struct timespec){ .tv_nsec = 10 * 1000 * 1000 }, NULL);
		process(s, polls);
		if (polls[QEMU].revents)
			return;
	}
}

/* What QEMU said last may still be unread: not more than fits into a socket, which is far below
 * what a step reads. A process that it left behind may have the connection, and say anything. */
static void read_last_words(struct vm *vm)
{
	struct qmp_error ignored;

	for (int steps = 0; steps < 3 && qmp_state(vm->qmp) == QMP_READY; steps++)
		qmp_process(vm->qmp, &ignored);
}

/* How it ended, from what QEMU said and how its process ended. */
static int verdict(struct supervision *s, struct error *err)
{
	struct vm *vm = s->vm;

	read_last_words(vm);
	life_process(&s->life);
	life_end(&s->life);
	cleanup_free char *words = vm_last_words(&vm->dir);
	int status = spawn_reap(&vm->qemu);
	if (s->stops >= 2)
		return error_set(err, EXIT_FAILED, "the guest was forced off");
	if (s->life.panicked)
		return error_set(err, EXIT_FAILED, "the guest panicked");
	if (s->life.watchdog)
		return error_set(err, EXIT_FAILED, "the guest's watchdog fired");
	if (s->life.failed)
		return error_set(err, EXIT_FAILED,
		                 "what the spec wants of a guest that ends could not be done");
	if (vm->qemu.foreign && !s->life.told)
		return error_set(err, EXIT_FAILED,
		                 "QEMU ended while the guest ran, and how is not known, as another "
		                 "supervisor had started it%s%s",
		                 *words ? "; its last words: " : "", words);
	if (status == 0)
		return 0;
	cleanup_free char *how = spawn_describe(status);
	return error_set(err, EXIT_FAILED, "QEMU %s while the guest ran%s%s", how,
	                 *words ? "; its last words: " : ", without a word", words);
}

int supervise(struct vm *vm, bool console, struct error *err)
{
	struct supervision s = { .vm = vm, .has_console = console };

	life_begin(&s.life, vm);
	watch_log(&s);
	ping(&s);
	if (console)
		console_open(&s.console, vm->serial);
	log_raw(console && s.console.raw);
	if (vm->qemu.foreign)
		life_take_over(&s.life);
	/* A guest that is quick may have been heard of already. */
	life_process(&s.life);
	sleep_until_it_ends(&s);
	if (console) {
		console_drain(&s.console);
		console_close(&s.console);
	}
	log_raw(false);
	unwatch_log(&s);
	return verdict(&s, err);
}
