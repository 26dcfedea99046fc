/* The end of a VM that this process supervises. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "image_user.h"
#include "kernel.h"
#include "launch.h"
#include "life.h"
#include "log.h"
#include "notify.h"
#include "reserve.h"
#include "util.h"

int vm_died(struct vm *vm, const char *doing, struct error *err)
{
	int status = spawn_reap(&vm->qemu);
	cleanup_free char *how = spawn_describe(status);
	cleanup_free char *words = vm_last_words(&vm->dir);
	cleanup_free char *advice = image_user_advice(words);

	/* What KVM refuses in spite of its promises, nested KVM above all, QEMU answers so. */
	bool refused = vm->plan && vm->plan->accel == ACCEL_KVM && WIFSIGNALED(status) &&
	               WTERMSIG(status) == SIGABRT;
	return error_set(err, EXIT_FAILED, "QEMU %s %s%s%s%s%s", how, doing,
	                 *words ? "; its last words: " : ", without a word", words, advice,
	                 refused ? "; if KVM cannot give this CPU here, try another cpu.mode or "
	                           "cpu.features, or \"qemu\": {\"accel\": \"tcg\"}"
	                         : "");
}

int vm_qmp_failed(struct vm *vm, const struct qmp_error *qmp_error, const char *doing,
                  struct error *err)
{
	if (qmp_error->kind == QMP_ERROR_CLOSED && vm->qemu.pidfd >= 0 &&
	    kernel_wait_gone(vm->qemu.pidfd, LIMIT_QUIT_MS))
		return vm_died(vm, doing, err);
	return error_set(err, EXIT_FAILED, "%s (%s)", qmp_error->message, doing);
}

/* A QEMU that is broken may send events without end while it is waited for: so many are kept, each
 * with at most so many bytes of data, which may be some 300 times as many in memory. */
enum { EVENTS_MAX = 128, EVENT_DATA_MAX = 2048 };

static void free_events(struct vm_event *events, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(events[i].name);
		json_object_put(events[i].data);
	}
}

void vm_on_event(void *data, const char *event, struct json_object *arguments)
{
	struct vm *vm = data;
	size_t length = 0;

	if (!life_knows(event))
		return;
	/* What came last counts. */
	if (vm->n_events == EVENTS_MAX) {
		vm->n_events /= 2;
		free_events(vm->events, vm->n_events);
		memcpy(vm->events, vm->events + vm->n_events, vm->n_events * sizeof(*vm->events));
	}
	struct vm_event *kept = array_append(&vm->events, &vm->n_events);
	kept->name = xstrdup(event);
	if (arguments)
		json_object_to_json_string_length(arguments, JSON_C_TO_STRING_PLAIN, &length);
	kept->data = length <= EVENT_DATA_MAX ? json_object_get(arguments) : NULL;
}

void vm_drop_events(struct vm *vm)
{
	free_events(vm->events, vm->n_events);
	free(vm->events);
	vm->events = NULL;
	vm->n_events = 0;
}

int vm_find_threads(struct vm *vm, struct error *err)
{
	cleanup_json struct json_object *cpus = NULL, *iothreads = NULL;
	struct qmp_error qmp_error;
	bool ask_iothreads = vm->plan->n_iothreads > 0;
	unsigned first = qmp_send(vm->qmp, "query-cpus-fast", NULL, &qmp_error);
	unsigned second =
	    first && ask_iothreads ? qmp_send(vm->qmp, "query-iothreads", NULL, &qmp_error) : 0;

	if (!first || (ask_iothreads && !second) ||
	    qmp_wait_reply(vm->qmp, first, LIMIT_REPLY_MS, &cpus, &qmp_error) < 0 ||
	    (ask_iothreads &&
	     qmp_wait_reply(vm->qmp, second, LIMIT_REPLY_MS, &iothreads, &qmp_error) < 0))
		return vm_qmp_failed(vm, &qmp_error, "while it was asked for its threads", err);
	return threads_read(&vm->threads, vm->qemu.pid, vm->plan, cpus, iothreads, err);
}

void vm_report(const struct vm *vm)
{
	const char *serial = vm->state.serial;

	for (size_t i = 0; i < vm->plan->n_warnings; i++)
		log_say(LOG_WARNING, "plan", "%s", vm->plan->warnings[i]);
	cleanup_free char *text =
	    vm->qemu.foreign
	        ? xasprintf("%s is taken over (QEMU %d)", vm->plan->name, vm->qemu.pid)
	        : xasprintf("%s runs (QEMU %d): %zu threads, %zu checks, all as planned",
	                    vm->plan->name, vm->qemu.pid, vm->threads.count, vm->checks.count);
	log_say(LOG_NOTICE, "runs", "%s", text);
	if (vm->state.console && vm->serial < 0)
		log_say(LOG_NOTICE, "console", "its console is the %s %s",
		        strcmp(serial, "pty") == 0 ? "terminal" : serial, vm->state.console);
	notify("MAINPID=%d\nREADY=1\nSTATUS=%s", getpid(), text);
}

/* Pages that were reserved for the VM, and its cgroups, are given back under the ledger's lock; who
 * cannot have it leaves them, and the directory that tells of them, to the next command. */
static void remove_directory(struct vm *vm)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_error struct error ignored = ERROR_INIT;

	if (vm->dir.dirfd >= 0 && (reserve_is_owed(&vm->dir) || vm_has_cgroup(&vm->dir)) &&
	    (ledger_open(&ledger, false, &ignored) < 0 ||
	     reserve_give_back(&vm->dir, &ignored) < 0))
		return;
	vm_dir_remove(&vm->dir);
}

static void close_inherited(struct vm *vm)
{
	for (size_t i = 0; vm->fds && i < vm->line->n_inherited; i++)
		if (vm->fds[i] >= 0)
			close(vm->fds[i]);
	free(vm->fds);
	vm->fds = NULL;
}

void vm_end(struct vm *vm)
{
	spawn_end(&vm->qemu);
	/* Its memory goes before its claim: who finds no VM is to find the pages. */
	close_inherited(vm);
	/* Without its lock it may be another's by now. */
	if (vm->dir.lock >= 0)
		remove_directory(vm);
	vm_leave(vm);
}

void vm_leave(struct vm *vm)
{
	if (vm->qemu.pidfd >= 0)
		close(vm->qemu.pidfd);
	guard_end(&vm->guard);
	qmp_free(vm->qmp);
	if (vm->serial >= 0)
		close(vm->serial);
	close_inherited(vm);
	vm_drop_events(vm);
	vm_dir_close(&vm->dir);
	vm_state_free(&vm->state);
	threads_free(&vm->threads);
	checks_free(&vm->checks);
	command_line_free(vm->line);
	plan_free(vm->plan);
	*vm =
	    (struct vm){ .dir = VM_DIR_INIT, .qemu = QEMU_INIT, .guard = GUARD_INIT, .serial = -1 };
}
