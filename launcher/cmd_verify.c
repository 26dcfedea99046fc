#include <stdio.h>
#include <string.h>

#include "command.h"
#include "live_limits.h"
#include "util.h"
#include "verify.h"
#include "vm_client.h"

static struct json_object *checks_json(const struct checks *checks)
{
	struct json_object *json = json_object_new_object();
	struct json_object *list = json_object_new_array();

	json_add_bool(json, "ok", checks->failed == 0);
	for (size_t i = 0; i < checks->count; i++) {
		const struct check *check = &checks->list[i];
		struct json_object *item = json_object_new_object();
		json_add_string(item, "what", check->what);
		json_add_string(item, "expected", check->expected);
		json_add_string(item, "actual", check->actual);
		json_add_bool(item, "ok", check->ok);
		json_object_array_add(list, item);
	}
	json_object_object_add(json, "checks", list);
	return json;
}

static void print_checks(const struct checks *checks)
{
	for (size_t i = 0; i < checks->count; i++) {
		const struct check *check = &checks->list[i];
		if (check->ok)
			printf("ok      %s: %s\n", check->what, check->actual);
		else
			printf("DIFFERS %s: expected %s, %s %s\n", check->what, check->expected,
			       strcmp(check->what, "monitor") == 0 ? "got" : "the kernel has",
			       check->actual);
	}
}

/* The threads, as QEMU names them. If it does not answer, that is a failed check, and they are
 * those that were known last: what the kernel says of them needs no monitor. Its lock is kept: a
 * change under way is seen before it or after it, not half done. */
static int find_threads(struct vm_client *client, struct checks *checks, struct error *err)
{
	cleanup_error struct error silent = ERROR_INIT;

	if (vm_client_is_starting(client))
		return vm_client_connect(client, err);
	if (vm_client_connect(client, &silent) == 0 && vm_client_query(client, &silent) == 0) {
		if (live_limits_left(client))
			verify_add(checks, "cgroup", "none",
			           "one that a killed command left; `ancla repin` removes it");
		return 0;
	}
	if (vm_client_has_ended(client))
		return error_set(err, silent.code, "%s", silent.message);
	verify_add(checks, "monitor", "an answer", silent.message);
	threads_free(&client->threads);
	client->threads.pid = client->state.qemu;
	return vm_read_threads(&client->dir, client->plan, &client->threads, err);
}

/* Many pages take seconds, for which nobody is kept from the monitor. What differs may be a move
 * under way: then they are read again with nobody at the VM. */
static int check_memory(struct vm_client *client, struct checks *checks, struct error *err)
{
	cleanup_error struct error busy = ERROR_INIT;
	cleanup_checks struct checks again = { 0 };
	pid_t qemu = client->state.qemu;

	vm_client_disconnect(client);
	if (verify_memory(client->plan, qemu, NULL, true, &again, err) < 0)
		return -1;
	if (again.failed && vm_client_lock(client, &busy) == 0) {
		checks_free(&again);
		if (verify_memory(client->plan, qemu, NULL, true, &again, err) < 0)
			return -1;
	}
	checks_move(checks, &again);
	return 0;
}

static int run(const struct invocation *call)
{
	cleanup_vm_client struct vm_client client = VM_CLIENT_INIT;
	cleanup_checks struct checks checks = { 0 };
	cleanup_error struct error err = ERROR_INIT;
	int written;

	if (vm_client_open(&client, call->args[0], &err) < 0 ||
	    find_threads(&client, &checks, &err) < 0)
		return command_fail(vm_client_blame(&client, &err));
	cleanup_free char *unknown = threads_unknown(&client.threads);
	command_warn(unknown);
	verify_presence(client.plan, &client.threads, &checks);
	verify_threads(client.plan, &client.threads, &checks);
	verify_cgroup(client.plan, &client.threads, &checks);
	if (check_memory(&client, &checks, &err) < 0 ||
	    verify_process(client.plan, client.state.qemu, &checks, &err) < 0)
		return command_fail(vm_client_blame(&client, &err));
	if (checks.failed && vm_client_has_ended(&client)) {
		error_set(&err, EXIT_FAILED, "there is nothing to verify");
		return command_fail(vm_client_blame(&client, &err));
	}
	if (invocation_option(call, "json")) {
		written = command_print_json(checks_json(&checks));
	} else {
		print_checks(&checks);
		written = command_flush();
	}
	if (checks.failed == 0)
		return written;
	fprintf(stderr, "ancla: %zu of %zu checks of \"%s\" failed\n", checks.failed, checks.count,
	        call->args[0]);
	return EXIT_VERIFY;
}

static const struct command_option options[] = { OPTION_JSON, { 0 } };

const struct command cmd_verify = {
	.name = "verify",
	.arguments = "NAME",
	.min_args = 1,
	.max_args = 1,
	.summary = "Read the kernel back against the plan of a running VM",
	.details =
	    "Checks the CPUs, scheduler and priority of every thread, and of every guest node\n"
	    "the pages (number, size, host nodes), the memory policy, the memory lock and the\n"
	    "flags; of QEMU's process the user, groups, capabilities, no_new_privs and seccomp.\n"
	    "Shares, quota and an isolated partition, where there are such. Exits with 5 if\n"
	    "anything differs. A QEMU that does not answer is one thing that differs; the\n"
	    "threads are then those that were known last.",
	.options = options,
	.run = run,
};
