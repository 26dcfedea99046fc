#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dump.h"
#include "kernel.h"
#include "life.h"
#include "log.h"
#include "notify.h"
#include "quote.h"
#include "util.h"

void life_say(int level, const char *event, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	cleanup_free char *message = xvasprintf(format, args);
	va_end(args);
	/* A line of its own would be another word to the service manager, and it may quote QEMU. */
	blank_unprintable(message, strlen(message));
	log_say(level, event, "%s", message);
	notify("STATUS=%s", message);
}

/* A QEMU that is broken says anything. */
static const char *text(struct json_object *data, const char *key)
{
	const char *word = json_string(data, key);

	return word ? word : "";
}

static bool is_true(struct json_object *data, const char *key)
{
	struct json_object *value;

	return data && json_object_object_get_ex(data, key, &value) &&
	       json_object_get_boolean(value);
}

/* Sends a command that is answered later, or not at all. */
static unsigned send(struct life *life, const char *command, struct json_object *arguments)
{
	struct qmp_error ignored;

	return qmp_send(life->vm->qmp, command, arguments, &ignored);
}

static void set_action(struct life *life, const char *what, const char *action)
{
	struct json_object *arguments = json_object_new_object();

	json_add_string(arguments, what, action);
	send(life, "set-action", arguments);
}

static void quit(struct life *life)
{
	life->step = LIFE_ENDING;
	life->deadline = kernel_now_ms() + LIMIT_QUIT_MS;
	send(life, "quit", NULL);
}

static void keep(struct life *life, const char *why)
{
	const char *name = life->vm->dir.name;

	life->step = LIFE_KEPT;
	life->deadline = 0;
	life_say(LOG_NOTICE, "kept", "%s; it is kept as it is, and `ancla stop %s` ends it", why,
	         name);
}

/* A QEMU that ends at a reset would do so at this one, too. */
static void restart(struct life *life, const char *why)
{
	life->step = LIFE_RESETTING;
	life->deadline = kernel_now_ms() + LIMIT_REPLY_MS;
	life_say(LOG_NOTICE, "restart", "%s; it is started again", why);
	if (life->vm->state.actions.on_reboot != ACTION_RESTART)
		set_action(life, "reboot", "reset");
	send(life, "system_reset", NULL);
}

/* A reset is the guest's end again, if that is what the spec says. */
static void set_reboot(struct life *life)
{
	if (life->vm->state.actions.on_reboot != ACTION_RESTART)
		set_action(life, "reboot", "shutdown");
}

/* SeaBIOS finds itself in memory after a reset that it has not made, and makes one. A second
 * request of that, which reaches QEMU when the first reset has begun, is a reset of its own; the
 * SeaBIOS that it interrupts makes one more. */
static void go_on(struct life *life)
{
	send(life, "cont", NULL);
	life->step = LIFE_BOOTING;
	life->deadline = kernel_now_ms() + LIMIT_FIRMWARE_MS;
	life->panicked = life->watchdog = life->told = life->stopped = false;
}

static void booted(struct life *life)
{
	set_reboot(life);
	life->step = LIFE_RUNS;
	life->deadline = 0;
}

static uint64_t memory_of(const struct plan *plan)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < plan->n_memory; i++)
		bytes += plan->memory[i].size;
	return bytes;
}

static void give_up_dump(struct life *life, const char *why)
{
	life_say(LOG_ERR, "dump-failed", "the guest's memory could not be dumped: %s", why);
	if (life->dump)
		unlink(life->dump);
	free(life->dump);
	life->dump = NULL;
	life->failed = true;
	quit(life);
}

static void dump(struct life *life, const char *why)
{
	cleanup_error struct error err = ERROR_INIT;
	uint64_t bytes = memory_of(life->vm->plan);
	cleanup_close int fd = dump_create(life->vm->dir.name, bytes, &life->dump, &err);
	struct json_object *name = json_object_new_object();
	struct json_object *arguments = json_object_new_object();
	struct qmp_error qmp_error;

	life_say(LOG_NOTICE, "dump", "%s; its memory is dumped%s%s", why, life->dump ? " to " : "",
	         life->dump ? life->dump : "");
	json_add_string(name, "fdname", "dump");
	json_add_bool(arguments, "paging", false);
	json_add_bool(arguments, "detach", true);
	json_add_string(arguments, "protocol", "fd:dump");
	/* By its descriptor: QEMU may run as somebody who cannot open the file. */
	if (fd < 0 || !qmp_send_fd(life->vm->qmp, "getfd", name, fd, &qmp_error)) {
		if (fd < 0)
			json_object_put(name);
		json_object_put(arguments);
		give_up_dump(life, fd < 0 ? err.message : qmp_error.message);
		return;
	}
	life->step = LIFE_DUMPING;
	life->deadline = kernel_now_ms() + LIMIT_DUMP_MS + (int64_t)(bytes / SLOWEST_DUMP);
	life->request = send(life, "dump-guest-memory", arguments);
}

static void act_now(struct life *life, enum life_action action, const char *why)
{
	life->due = NULL;
	switch (action) {
	case ACTION_DESTROY:
		life_say(life->panicked ? LOG_ERR : LOG_NOTICE, "ends", "%s", why);
		if (life->panicked || actions_pause(&life->vm->state.actions))
			quit(life);
		else { /* QEMU ends by itself, in its own time */
			life->step = LIFE_ENDING;
			life->deadline = 0;
		}
		break;
	case ACTION_RESTART:
		restart(life, why);
		break;
	case ACTION_PRESERVE:
		keep(life, why);
		break;
	case ACTION_DUMP:
		dump(life, why);
		break;
	}
}

/* Once: a QEMU that tells of a second end would have the first dump, or its own end, forgotten. */
static void act(struct life *life, enum life_action action, const char *why)
{
	if (life->step == LIFE_DUMPING || life->step == LIFE_ENDING)
		return;
	if (life->stopped || action == ACTION_DESTROY) {
		act_now(life, action, why);
		return;
	}
	life->due = why;
	life->due_action = action;
}

/* ---- events ---- */

static void on_shutdown(struct life *life, struct json_object *data)
{
	const struct life_actions *actions = &life->vm->state.actions;
	const char *reason = text(data, "reason");

	life->told = true;
	/* A guest that panicked may end, too, before it is stopped, or just when it is. */
	if (life->due || (life->step == LIFE_RESETTING && strncmp(reason, "guest-", 6) == 0))
		return;
	if (strcmp(reason, "guest-shutdown") == 0)
		act(life, life->asked ? ACTION_DESTROY : actions->on_poweroff,
		    "the guest powered off");
	else if (strcmp(reason, "guest-reset") == 0)
		act(life,
		    actions->on_reboot == ACTION_RESTART ? ACTION_DESTROY : actions->on_reboot,
		    life->watchdog ? "the guest's watchdog reset it" : "the guest rebooted");
	else if (!life->panicked)
		life_say(LOG_INFO, "ends", "QEMU ends: %s", reason);
	else
		life->step = LIFE_ENDING;
}

/* QEMU that ends by itself says "poweroff", and SHUTDOWN follows. */
static void on_panic(struct life *life, struct json_object *data)
{
	life->panicked = true;
	if (strcmp(text(data, "action"), "pause") == 0)
		act(life, life->vm->state.actions.on_crash, "the guest panicked");
	else
		life_say(LOG_ERR, "panicked", "the guest panicked");
}

static void on_crash_loaded(struct life *life, struct json_object *data)
{
	(void)life;
	(void)data;
	life_say(LOG_ERR, "crashed", "the guest has crashed, and takes care of it itself");
}

static void on_watchdog(struct life *life, struct json_object *data)
{
	life->watchdog = true;
	life_say(LOG_WARNING, "watchdog", "the guest's watchdog fired (%s)", text(data, "action"));
}

static void on_reset(struct life *life, struct json_object *data)
{
	if (life->step == LIFE_BOOTING) {
		int64_t soon = kernel_now_ms() + LIMIT_FIRMWARE_AGAIN_MS;
		if (soon < life->deadline) /* that of the first stays */
			life->deadline = soon;
	} else if (is_true(data, "guest")) {
		/* The firmware may make one or two more of it, as after a restart. */
		int64_t now = kernel_now_ms();
		if (!life->told_reset || now - life->told_reset > LIMIT_FIRMWARE_AGAIN_MS) {
			life->told_reset = now;
			life_say(LOG_NOTICE, "reset", "the guest reset");
		}
		life->asked = life->watchdog = false;
	} else if (life->step == LIFE_RESETTING) {
		go_on(life);
	} else {
		life_say(LOG_NOTICE, "reset", "the guest was reset over its monitor");
	}
}

static void on_powerdown(struct life *life, struct json_object *data)
{
	(void)data;
	life->asked = true;
}

/* Told at most once a second: a broken disk may fail thousands of times in one. */
static void on_io_error(struct life *life, struct json_object *data)
{
	bool stops = strcmp(text(data, "action"), "stop") == 0;
	int64_t now = kernel_now_ms();
	const char *node = text(data, "node-name");

	if (!stops && now - life->told_io < 1000) {
		life->untold_io++;
		return;
	}
	cleanup_free char *untold =
	    life->untold_io ? xasprintf(" (and %u more)", life->untold_io) : xstrdup("");
	life->told_io = now;
	life->untold_io = 0;
	if (stops)
		life_say(LOG_ERR, "io-error",
		         "the guest is stopped, as a %s of %s failed: %s; when that is mended, "
		         "`ancla resume %s` lets it run on",
		         text(data, "operation"), node, text(data, "reason"), life->vm->dir.name);
	else
		life_say(LOG_WARNING, "io-error",
		         "a %s of %s failed: %s%s, which the guest is told",
		         text(data, "operation"), node, text(data, "reason"), untold);
}

/* Why is not in the event. */
static void on_stop(struct life *life, struct json_object *data)
{
	(void)data;
	life->stopped = true;
	if (life->due)
		act_now(life, life->due_action, life->due);
	else if (!life->question && (life->step == LIFE_RUNS || life->step == LIFE_BOOTING))
		life->question = send(life, "query-status", NULL);
}

static void on_resume(struct life *life, struct json_object *data)
{
	(void)data;
	if (life->step == LIFE_KEPT)
		life->step = LIFE_RUNS;
	if (life->stopped)
		life_say(LOG_NOTICE, "runs", "the guest runs on");
	life->stopped = false;
}

static void on_dump_completed(struct life *life, struct json_object *data)
{
	struct json_object *result = NULL;

	if (life->step != LIFE_DUMPING)
		return;
	if (data)
		json_object_object_get_ex(data, "result", &result);
	if (strcmp(text(result, "status"), "completed") != 0) {
		const char *why = text(data, "error");
		give_up_dump(life, *why ? why : "QEMU does not say why");
		return;
	}
	life_say(LOG_NOTICE, "dumped", "the guest's memory is in %s", life->dump);
	free(life->dump);
	life->dump = NULL;
	quit(life);
}

static void on_threads(struct life *life, struct json_object *data)
{
	(void)data;
	life->vm->threads_changed = true;
}

static const struct {
	const char *event;
	void (*act)(struct life *life, struct json_object *data);
} handlers[] = {
	{ "SHUTDOWN", on_shutdown },
	{ "GUEST_PANICKED", on_panic },
	{ "GUEST_CRASHLOADED", on_crash_loaded },
	{ "WATCHDOG", on_watchdog },
	{ "RESET", on_reset },
	{ "POWERDOWN", on_powerdown },
	{ "BLOCK_IO_ERROR", on_io_error },
	{ "STOP", on_stop },
	{ "RESUME", on_resume },
	{ "DUMP_COMPLETED", on_dump_completed },
	{ "ACPI_DEVICE_OST", on_threads },
	{ "DEVICE_DELETED", on_threads },
};

/* ---- replies ---- */

static void on_status(struct life *life, const char *status)
{
	if (strcmp(status, "internal-error") == 0)
		life_say(LOG_ERR, "internal-error",
		         "the guest is stopped, as the accelerator gave up; %s/%s may tell why%s",
		         life->vm->dir.path, VM_LOG,
		         life->vm->plan->accel == ACCEL_KVM ? "; \"accel\": \"tcg\" runs anywhere"
		                                            : "");
	else if (strcmp(status, "paused") == 0)
		life_say(LOG_NOTICE, "paused",
		         "the guest was stopped over its monitor; `ancla resume %s` lets it run on",
		         life->vm->dir.name);
}

static void take_replies(struct life *life)
{
	struct json_object *reply = NULL;
	struct qmp_error qmp_error;
	int got;

	if (life->question &&
	    (got = qmp_take_reply(life->vm->qmp, life->question, &reply, &qmp_error)) != 0) {
		life->question = 0;
		if (got > 0 && (life->step == LIFE_RUNS || life->step == LIFE_BOOTING))
			on_status(life, text(reply, "status"));
		json_object_put(reply);
	}
	if (life->request &&
	    (got = qmp_take_reply(life->vm->qmp, life->request, NULL, &qmp_error)) != 0) {
		life->request = 0;
		if (got < 0 && life->step == LIFE_DUMPING)
			give_up_dump(life, qmp_error.message);
	}
}

/* ---- from outside ---- */

void life_begin(struct life *life, struct vm *vm)
{
	*life = (struct life){ .vm = vm };
}

void life_end(struct life *life)
{
	/* QEMU is gone: what it had not written will never be. */
	if (life->dump)
		unlink(life->dump);
	free(life->dump);
	life->dump = NULL;
}

bool life_knows(const char *event)
{
	for (size_t i = 0; i < ARRAY_SIZE(handlers); i++)
		if (strcmp(event, handlers[i].event) == 0)
			return true;
	return false;
}

void life_process(struct life *life)
{
	struct vm *vm = life->vm;

	for (size_t i = 0; i < vm->n_events; i++)
		for (size_t j = 0; j < ARRAY_SIZE(handlers); j++)
			if (strcmp(vm->events[i].name, handlers[j].event) == 0)
				handlers[j].act(life, vm->events[i].data);
	vm_drop_events(vm);
	take_replies(life);
}

/* An answer that does not come is told by what is done next. */
void life_take_over(struct life *life)
{
	cleanup_json struct json_object *reply = NULL;
	const struct life_actions *actions = &life->vm->state.actions;
	struct qmp_error ignored;

	if (qmp_call(life->vm->qmp, "query-status", NULL, LIMIT_REPLY_MS, &reply, &ignored) < 0)
		return;
	const char *status = text(reply, "status");
	life->stopped = strcmp(status, "running") != 0;
	life->panicked = strcmp(status, "guest-panicked") == 0;
	if (life->panicked)
		act(life, actions->on_crash, "the guest had panicked");
	else if (strcmp(status, "shutdown") == 0)
		act(life, actions->on_poweroff, "the guest had powered off");
	else if (strcmp(status, "prelaunch") == 0) /* reset, and not let run yet */
		go_on(life);
	else
		on_status(life, status);
	if (life->step == LIFE_RUNS)
		set_reboot(life);
}

void life_timeout(struct life *life)
{
	life->deadline = 0;
	if (life->step == LIFE_BOOTING) {
		booted(life);
	} else if (life->step == LIFE_DUMPING) {
		give_up_dump(life, "QEMU did not write it in time");
	} else if (life->step == LIFE_RESETTING) {
		life_say(LOG_ERR, "restart", "QEMU did not reset the guest within %d s",
		         LIMIT_REPLY_MS / 1000);
		life->failed = true;
		quit(life);
	} else {
		life_say(LOG_WARNING, "ends", "QEMU did not quit within %d s; killing it",
		         LIMIT_QUIT_MS / 1000);
		kernel_pidfd_kill(life->vm->qemu.pidfd, SIGKILL);
	}
}
