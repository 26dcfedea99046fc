#include <stdio.h>
#include <unistd.h>

#include "attach.h"
#include "command.h"
#include "console.h"
#include "launch.h"
#include "log.h"
#include "notify.h"
#include "spec_report.h"
#include "supervise.h"
#include "util.h"

static void report(const struct vm *vm)
{
	vm_report(vm);
	if (vm->serial >= 0 && console_terminal() >= 0)
		log_say(
		    LOG_NOTICE, "console",
		    "console: Ctrl-C asks the guest to power down, Ctrl-] sends the next key as "
		    "it is");
}

/* Supervises the VM to its end. */
static int see_to(struct vm *vm, struct error *err)
{
	supervise(vm, vm->serial >= 0, err);
	vm_end(vm);
	return err->message ? command_fail(err) : EXIT_DONE;
}

static int take_over(const char *name, int signals)
{
	cleanup_error struct error err = ERROR_INIT;
	struct launch_options options = {
		.signals = signals,
		.terminal = console_terminal(),
		.serial = true,
	};
	struct vm vm;

	log_vm(name);
	if (attach(name, &options, &vm, &err) < 0)
		return command_fail(&err);
	report(&vm);
	return see_to(&vm, &err);
}

static int run(const struct invocation *call)
{
	const char *attached = invocation_option(call, "attach");
	int code;
	cleanup_error struct error err = ERROR_INIT;
	struct launch_options options = { .terminal = -1 };
	struct vm vm;

	log_begin(invocation_option(call, "log-json"), invocation_option(call, "quiet"));
	notify_begin();
	if ((call->n_args == 1) == (attached != NULL)) {
		log_say(LOG_ERR, "usage",
		        "run needs SPEC, or --attach NAME; see `ancla run --help`");
		return EXIT_USAGE;
	}
	cleanup_spec struct spec *spec = attached ? NULL : spec_of_call(call, &code);
	if (!attached && !spec)
		return code;
	options.signals = supervise_signals(&err);
	if (options.signals < 0)
		return command_fail(&err);
	if (attached)
		return take_over(attached, options.signals);
	log_vm(spec->name);
	options.serial = spec->serial.type == SERIAL_STDIO;
	options.terminal = options.serial ? console_terminal() : -1;
	options.progress = progress_kind(invocation_option(call, "quiet") || log_is_json());
	if (launch(spec, &options, &vm, &err) < 0)
		return command_fail(&err);
	report(&vm);
	return see_to(&vm, &err);
}

static const struct command_option options[] = {
	OPTION_RESERVE,
	OPTION_ALLOW_ARGS,
	{ "attach", "NAME", "take over a VM that runs and whose supervisor was killed" },
	OPTION_LOG_JSON,
	{ "quiet", NULL, "say nothing but warnings and errors" },
	{ 0 },
};

const struct command cmd_run = {
	.name = "run",
	.arguments = "SPEC",
	.min_args = 0,
	.max_args = 1,
	.summary = "Launch a VM in the foreground, with its console on the terminal",
	.details =
	    "Exits with 0 once the guest has powered down. SIGINT and SIGTERM ask the guest to\n"
	    "power down, a second one forces it off. On a terminal Ctrl-C does the same, and\n"
	    "Ctrl-] sends the next key to the guest as it is.",
	.options = options,
	.run = run,
};
