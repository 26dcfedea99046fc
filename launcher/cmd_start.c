#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "child.h"
#include "command.h"
#include "launch.h"
#include "log.h"
#include "notify.h"
#include "spec_report.h"
#include "supervise.h"
#include "util.h"

/* What the supervisor tells the command: the exit code in one byte. Until then its standard error
 * is the command's. False if it cannot be told, and waits for it. */
static bool tell_result(int pipe, int code)
{
	char byte = (char)code;
	ssize_t put;

	do
		put = write(pipe, &byte, 1);
	while (put < 0 && errno == EINTR);
	/* If the command was killed, nobody is left to tell. */
	bool told = put == 1 || errno == EPIPE;
	close(pipe);
	return told;
}

static int not_let_go(struct error *err)
{
	return error_set(err, EXIT_FAILED, "cannot let go of the caller's descriptors: %s",
	                 strerror(errno));
}

/* In the place of the caller's. */
static int use_null(int from, int to, struct error *err)
{
	cleanup_close int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return not_let_go(err);
	for (int fd = from; fd <= to; fd++)
		while (dup2(null, fd) < 0)
			if (errno != EINTR)
				return not_let_go(err);
	return 0;
}

/* Of what is open above these, too, somebody may wait for the end. */
static int detach(int signals, int pipe, struct error *err)
{
	setsid();
	if (use_null(STDIN_FILENO, STDOUT_FILENO, err) < 0)
		return -1;
	if (child_close_others(STDERR_FILENO + 1, (int[]){ signals, pipe }, 2) < 0)
		return not_let_go(err);
	return 0;
}

/* From here on the log is the VM's, and standard error no longer the caller's. */
static int leave_caller(struct vm *vm, struct error *err)
{
	if (log_to_file(vm->dir.dirfd, VM_OWN_LOG, err) < 0) {
		log_say(LOG_WARNING, "log", "%s", err->message);
		error_clear(err);
	}
	if (use_null(STDERR_FILENO, STDERR_FILENO, err) < 0) {
		log_to_stderr();
		return -1;
	}
	if (chdir("/") < 0) {
		/* Then it stays where it is, which only keeps a mount busy. */
	}
	return 0;
}

static const char too_late[] = "as the guest began to run";

/* The supervisor: a session of its own, nothing of the caller's kept open. */
static int supervisor(const struct spec *spec, int signals, int pipe)
{
	struct launch_options options = {
		.signals = signals,
		.terminal = -1,
		.progress = progress_kind(log_is_json()),
	};
	cleanup_error struct error err = ERROR_INIT;
	struct vm vm;

	if (detach(signals, pipe, &err) < 0 || launch(spec, &options, &vm, &err) < 0) {
		tell_result(pipe, command_fail(&err));
		return EXIT_FAILED;
	}
	/* To the command this is still the start; the supervisor would only ask the guest. */
	bool runs = supervise_stopped(signals, too_late, &err) == 0;
	if (runs)
		vm_report(&vm);
	if (!runs || leave_caller(&vm, &err) < 0) {
		vm_end(&vm);
		tell_result(pipe, command_fail(&err));
		return EXIT_FAILED;
	}
	if (!tell_result(pipe, EXIT_DONE)) {
		vm_end(&vm);
		return EXIT_FAILED;
	}
	supervise(&vm, false, &err);
	/* Before the log goes with the VM's directory: whoever reads along, and the system's log,
	 * have it then. */
	int code = err.message ? command_fail(&err) : EXIT_DONE;
	vm_end(&vm);
	return code;
}

/* Passes a wish to stop on to the supervisor, which ends the launch and says so. Returns the
 * signal, or 0. */
static int pass_signal(int signals, pid_t child)
{
	struct signalfd_siginfo info;
	int passed = 0;

	while (read(signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		passed = (int)info.ssi_signo;
		kill(child, passed);
	}
	return passed;
}

/* The supervisor got the wish when the launch was done, and has asked the guest to power down. A
 * second wish, by another signal as the first may be pending, makes QEMU quit. */
static int end_supervisor(pid_t child, int passed, struct error *err)
{
	kill(child, passed == SIGTERM ? SIGINT : SIGTERM);
	child_wait(child);
	return error_set(err, EXIT_FAILED, "stopped by SIG%s %s", sigabbrev_np(passed), too_late);
}

/* The supervisor died. A wish to stop ends it only as long as it plans. */
static int no_result(pid_t child, struct error *err)
{
	sigset_t wishes = supervise_wishes();
	int status = 0;

	waitpid(child, &status, 0);
	if (WIFSIGNALED(status) && sigismember(&wishes, WTERMSIG(status)))
		return error_set(err, EXIT_FAILED, "stopped by SIG%s while the VM was planned",
		                 sigabbrev_np(WTERMSIG(status)));
	cleanup_free char *how = spawn_describe(status);
	return error_set(err, EXIT_FAILED,
	                 "the supervisor %s before it said that the VM runs; "
	                 "`ancla list` shows whether it does",
	                 how);
}

/* Reads the supervisor's result; its death without one is an error, too. */
static int wait_for_result(pid_t child, int pipe, int signals, struct error *err)
{
	char code;
	ssize_t got;
	int passed = 0;

	for (;;) {
		struct pollfd polls[2] = { { pipe, POLLIN, 0 }, { signals, POLLIN, 0 } };
		/* The kernel is short of memory: that is no reason to leave the VM alone. */
		if (poll(polls, 2, -1) < 0 && errno != EINTR)
			nanosleep(&(struct timespec){ .tv_nsec = 10 * 1000 * 1000 }, NULL);
		if (polls[1].revents)
			passed = pass_signal(signals, child);
		if (!polls[0].revents)
			continue;
		got = read(pipe, &code, 1);
		if (got >= 0 || errno != EINTR)
			break;
	}
	if (got == 1 && code == EXIT_DONE && passed)
		return end_supervisor(child, passed, err);
	if (got == 1)
		return code;
	if (got < 0) /* it may live: nobody waits for its end */
		return error_set(err, EXIT_FAILED,
		                 "cannot read what the supervisor says: %s; `ancla list` shows "
		                 "whether the VM runs",
		                 strerror(errno));
	return no_result(child, err);
}

static int run(const struct invocation *call)
{
	int code;
	cleanup_error struct error err = ERROR_INIT;
	int ends[2], signals, result;

	log_begin(invocation_option(call, "log-json"), false);
	notify_begin();
	cleanup_spec struct spec *spec = spec_of_call(call, &code);
	if (!spec)
		return code;
	log_vm(spec->name);
	signals = supervise_signals(&err);
	if (signals < 0)
		return command_fail(&err);
	if (pipe2(ends, O_CLOEXEC) < 0) {
		error_set(&err, EXIT_FAILED, "cannot make a pipe: %s", strerror(errno));
		return command_fail(&err);
	}
	pid_t child = fork();
	if (child == 0) {
		close(ends[0]);
		_exit(supervisor(spec, signals, ends[1]));
	}
	close(ends[1]);
	if (child < 0) {
		error_set(&err, EXIT_FAILED, "cannot fork the supervisor: %s", strerror(errno));
		return command_fail(&err);
	}
	result = wait_for_result(child, ends[0], signals, &err);
	return result < 0 ? command_fail(&err) : result;
}

static const struct command_option options[] = {
	OPTION_RESERVE,
	OPTION_ALLOW_ARGS,
	OPTION_LOG_JSON,
	{ 0 },
};

const struct command cmd_start = {
	.name = "start",
	.arguments = "SPEC",
	.min_args = 1,
	.max_args = 1,
	.summary = "Launch a VM and return once it runs and is verified",
	.details =
	    "Leaves a supervisor that holds nothing of the caller's: `ancla status`, `verify` "
	    "and\n`stop` speak to the VM from then on. \"serial\": \"stdio\" becomes a socket.",
	.options = options,
	.run = run,
};
