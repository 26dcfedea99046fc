#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "kernel.h"
#include "launch.h"
#include "log.h"
#include "util.h"
#include "vm_client.h"

/* Removes the directory, if the supervisor has not done so already. `kept`: somebody has the lock.
 */
static int sweep(const struct vm_client *client, bool *kept, struct error *err)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	char **names;
	size_t count;

	*kept = false;
	if (ledger_open(&ledger, false, err) < 0 || ledger_sweep(&ledger, &names, &count, err) < 0)
		return -1;
	for (size_t i = 0; i < count; i++) {
		*kept |= strcmp(names[i], client->dir.name) == 0;
		free(names[i]);
	}
	free(names);
	/* In a directory that was removed nothing is left; the name may be another VM's by now. */
	*kept = *kept && !vm_lacks(&client->dir, "lock");
	return 0;
}

static int64_t left_until(int64_t deadline)
{
	int64_t left = deadline - kernel_now_ms();

	return left > 0 ? left : 0;
}

/* Tells QEMU something and waits for its end. True once it is gone. `answered`, if it is not NULL:
 * whether it said anything. */
static bool try(struct vm_client *client, const char *command, int timeout_ms, bool *answered)
{
	cleanup_error struct error err = ERROR_INIT;
	int64_t deadline = kernel_now_ms() + timeout_ms;

	/* The reply to `quit` may be the closing of the socket. */
	client->patience_ms = timeout_ms > 0 ? timeout_ms : 1;
	bool said =
	    vm_client_connect(client, &err) == 0 && vm_client_command(client, command, &err) == 0;
	if (answered)
		*answered = said;
	vm_client_disconnect(client);
	return kernel_wait_gone(client->pidfd, (int)left_until(deadline));
}

/* A guest that has powered off, or cannot run any more, hears no button. */
static bool is_off(struct vm_client *client, int patience_ms)
{
	static const char *const states[] = { "shutdown", "guest-panicked", "internal-error" };
	cleanup_error struct error ignored = ERROR_INIT;
	bool off = false;

	client->patience_ms = patience_ms;
	if (vm_client_connect(client, &ignored) == 0 && vm_client_query(client, &ignored) == 0)
		for (size_t i = 0; i < ARRAY_SIZE(states); i++)
			off |= strcmp(client->run_state, states[i]) == 0;
	vm_client_disconnect(client);
	return off;
}

/* A guest that is still booting does not hear the power button, so it is pressed again. One that
 * powers off may leave QEMU: where the spec wants it kept, and no supervisor is there to end it. */
static enum { GONE, OFF, DEAF } power_down(struct vm_client *client, int timeout_ms)
{
	int64_t deadline = kernel_now_ms() + timeout_ms, left;
	bool answered;

	do {
		left = deadline - kernel_now_ms();
		if (try(client, "system_powerdown",
		        left < LIMIT_PRESS_MS ? (int)left : LIMIT_PRESS_MS, &answered))
			return GONE;
		left = left_until(deadline);
		if (answered &&
		    is_off(client, left < LIMIT_LIST_MS ? LIMIT_LIST_MS / 10 : LIMIT_LIST_MS))
			return OFF;
	} while (left > 0);
	return DEAF;
}

/* Whether the process does not end. One that was stopped by a signal, and still is a while later,
 * is not waited for. */
static bool outlives(pid_t pid, int pidfd, bool *stopped)
{
	int64_t deadline = kernel_now_ms() + LIMIT_TIDY_MS;

	while (!kernel_wait_gone(pidfd, LIMIT_LIST_MS)) {
		bool again = *stopped;
		*stopped = kernel_is_stopped(pid);
		if ((*stopped && again) || kernel_now_ms() > deadline)
			return true;
	}
	return false;
}

/* The supervisor tidies up after QEMU: the VM is gone once it is. That takes a while where there is
 * much to give back, and on a busy machine. */
static int wait_for_supervisor(const struct vm_client *client, struct error *err)
{
	pid_t launcher = client->state.launcher;
	cleanup_close int pidfd = kernel_pidfd(launcher, client->state.launcher_start);
	/* Why it cannot be seen, though it may be there. */
	int unseen = pidfd < 0 && errno != ESRCH ? errno : 0;
	bool stopped = false;
	bool lives = pidfd >= 0 && outlives(launcher, pidfd, &stopped);
	bool kept;

	if (sweep(client, &kept, err) < 0)
		return -1;
	if (kept && unseen)
		return error_set(
		    err, EXIT_FAILED,
		    "QEMU of \"%s\" is gone, but whether its supervisor (%d) has tidied up "
		    "cannot be seen: %s",
		    client->dir.name, launcher, strerror(unseen));
	if (!kept || !lives)
		return 0;
	cleanup_free char *why =
	    stopped
	        ? xasprintf("is stopped by a signal: `kill -CONT %d` lets it go on", launcher)
	        : xasprintf("is not gone after %d s: see what it waits for (/proc/%d/stack), or "
	                    "`kill -KILL %d`, and the next command tidies up",
	                    LIMIT_TIDY_MS / 1000, launcher, launcher);
	return error_set(
	    err, EXIT_FAILED,
	    "QEMU of \"%s\" is gone, but its supervisor (%d), which keeps its name and "
	    "what was reserved for it, %s",
	    client->dir.name, launcher, why);
}

/* How often a start that is told to end is looked at. */
#define LOOK_AGAIN_MS 20

/* What the VM's files say by now: its QEMU, and whether it runs. */
static void look_again(struct vm_client *client)
{
	cleanup_error struct error ended = ERROR_INIT;
	cleanup_vm_state struct vm_state now = { 0 };

	if (vm_read_state(&client->dir, &now, &ended) < 0)
		return;
	vm_state_free(&client->state);
	client->state = now;
	now = (struct vm_state){ 0 };
	if (client->pidfd < 0)
		client->pidfd = kernel_pidfd(client->state.qemu, client->state.qemu_start);
}

/* A start undoes itself when its launcher is told to. One that does not is killed, and then the
 * guard ends QEMU. 1: it was too late for that, and the VM runs. */
static int end_start(struct vm_client *client, struct error *err)
{
	cleanup_close int launcher =
	    kernel_pidfd(client->state.launcher, client->state.launcher_start);
	int64_t deadline = kernel_now_ms() + LIMIT_QUIT_MS;

	if (launcher < 0 && errno != ESRCH)
		return error_set(err, EXIT_FAILED,
		                 "cannot reach process %d, which starts \"%s\": %s",
		                 client->state.launcher, client->dir.name, strerror(errno));
	if (launcher >= 0)
		kernel_pidfd_kill(launcher, SIGTERM);
	while (launcher >= 0 && !kernel_wait_gone(launcher, LOOK_AGAIN_MS)) {
		look_again(client);
		if (!vm_client_is_starting(client))
			return client->pidfd >= 0;
		if (kernel_now_ms() > deadline) {
			kernel_pidfd_kill(launcher, SIGKILL);
			break;
		}
	}
	look_again(client);
	enum kernel_life qemu = KERNEL_GONE;
	if (client->pidfd < 0)
		qemu = kernel_lives(client->state.qemu, client->state.qemu_start);
	else if (!kernel_wait_gone(client->pidfd, LIMIT_QUIT_MS))
		qemu = KERNEL_LIVES;
	if (qemu == KERNEL_GONE)
		return 0;
	if (qemu == KERNEL_UNKNOWN)
		return error_set(err, EXIT_FAILED,
		                 "the start of \"%s\" was ended, but whether its QEMU (%d) is gone "
		                 "cannot be seen: %s",
		                 client->dir.name, client->state.qemu, strerror(errno));
	return error_set(err, EXIT_FAILED,
	                 "the start of \"%s\" was ended, but its QEMU (%d) is not gone after %d s",
	                 client->dir.name, client->state.qemu, LIMIT_QUIT_MS / 1000);
}

static int stop(struct vm_client *client, bool force, int seconds, struct error *err)
{
	const char *name = client->dir.name;

	int ended = vm_client_is_starting(client) ? end_start(client, err) : 1;
	if (ended <= 0)
		return ended;
	if (!force && !is_off(client, LIMIT_PRESS_MS)) {
		switch (power_down(client, seconds * 1000)) {
		case GONE:
			return 0;
		case OFF:
			break;
		case DEAF:
			log_say(LOG_NOTICE, "stopping",
			        "the guest of \"%s\" did not power down within %d s", name,
			        seconds);
		}
	}
	if (try(client, "quit", LIMIT_QUIT_MS, NULL))
		return 0;
	log_say(LOG_NOTICE, "stopping", "QEMU of \"%s\" did not quit within %d s; killing it", name,
	        LIMIT_QUIT_MS / 1000);
	kernel_pidfd_kill(client->pidfd, SIGKILL);
	if (kernel_wait_gone(client->pidfd, LIMIT_KILL_MS))
		return 0;
	return error_set(err, EXIT_FAILED,
	                 "QEMU of \"%s\" (%d) is killed but not gone after %d s: it waits for the "
	                 "kernel (see /proc/%d/stack)",
	                 name, client->state.qemu, LIMIT_KILL_MS / 1000, client->state.qemu);
}

static int run(const struct invocation *call)
{
	cleanup_vm_client struct vm_client client = VM_CLIENT_INIT;
	cleanup_error struct error err = ERROR_INIT;
	const char *timeout = invocation_option(call, "timeout");
	char *end = NULL;
	long seconds = timeout ? strtol(timeout, &end, 10) : LIMIT_POWERDOWN_MS / 1000;

	if (timeout && (!*timeout || *end || seconds < 0 || seconds > 86400)) {
		fprintf(stderr, "ancla stop: --timeout takes seconds from 0 to 86400, not \"%s\"\n",
		        timeout);
		return EXIT_USAGE;
	}
	if (vm_client_open(&client, call->args[0], &err) < 0 ||
	    stop(&client, invocation_option(call, "force") != NULL, (int)seconds, &err) < 0)
		return command_fail(vm_client_blame(&client, &err));
	return wait_for_supervisor(&client, &err) < 0 ? command_fail(&err) : EXIT_DONE;
}

static const struct command_option options[] = {
	{ "force", NULL, "do not ask the guest; QEMU quits at once" },
	{ "timeout", "SECONDS", "how long the guest has to power down (30)" },
	{ 0 },
};

const struct command cmd_stop = {
	.name = "stop",
	.arguments = "NAME",
	.min_args = 1,
	.max_args = 1,
	.summary = "Stop a VM: ask the guest, then QEMU, then the kernel",
	.details =
	    "Each step has its time limit, and the next follows when it is over. Returns once\n"
	    "QEMU is gone, and its supervisor, which tidies up after it.",
	.options = options,
	.run = run,
};
