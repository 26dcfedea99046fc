#include <stdio.h>
#include <string.h>

#include "command.h"
#include "util.h"
#include "vm_client.h"

/* What `cont` would not do, or what would not help for long. */
static int refuse(const struct vm_client *client, struct error *err)
{
	const char *name = client->dir.name, *state = client->run_state;

	if (strcmp(state, "shutdown") == 0 || strcmp(state, "guest-panicked") == 0 ||
	    strcmp(state, "internal-error") == 0)
		return error_set(err, EXIT_FAILED,
		                 "the guest of \"%s\" cannot run on: its state is \"%s\"; `ancla "
		                 "stop %s` ends it",
		                 name, state, name);
	return 0;
}

static int run(const struct invocation *call)
{
	cleanup_vm_client struct vm_client client = VM_CLIENT_INIT;
	cleanup_error struct error err = ERROR_INIT;

	if (vm_client_open(&client, call->args[0], &err) < 0 ||
	    vm_client_connect(&client, &err) < 0 || vm_client_query(&client, &err) < 0 ||
	    refuse(&client, &err) < 0 || vm_client_command(&client, "cont", &err) < 0)
		return command_fail(vm_client_blame(&client, &err));
	return EXIT_DONE;
}

static const struct command_option options[] = { { 0 } };

const struct command cmd_resume = {
	.name = "resume",
	.arguments = "NAME",
	.min_args = 1,
	.max_args = 1,
	.summary = "Let a guest run on that QEMU has stopped",
	.details =
	    "QEMU stops a guest whose disk has no room left, or when it is told to over its\n"
	    "monitor. A guest that runs is left alone.",
	.options = options,
	.run = run,
};
