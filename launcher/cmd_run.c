#include <stdio.h>
#include <unistd.h>

#include "command.h"
#include "console.h"
#include "launch.h"
#include "spec_report.h"
#include "supervise.h"
#include "util.h"

static void report(const struct vm *vm, bool quiet)
{
	for (size_t i = 0; i < vm->plan->n_warnings; i++)
		fprintf(stderr, "ancla: warning: %s\n", vm->plan->warnings[i]);
	if (quiet)
		return;
	fprintf(stderr, "ancla: %s runs (QEMU %d): %zu threads, %zu checks, all as planned\n",
	        vm->plan->name, vm->qemu.pid, vm->threads.count, vm->checks.count);
	if (vm->serial < 0)
		vm_print_console(stderr, vm);
	else if (console_terminal() >= 0)
		fprintf(stderr,
		        "ancla: console: Ctrl-C asks the guest to power down, Ctrl-] sends the "
		        "next key as it is\n");
}

static int run(const struct invocation *call)
{
	int code;
	cleanup_spec struct spec *spec = spec_of_call(call, &code);
	cleanup_error struct error err = ERROR_INIT;
	struct launch_options options = { .terminal = -1 };
	struct vm vm;

	if (!spec)
		return code;
	options.signals = supervise_signals(&err);
	if (options.signals < 0)
		return command_fail(&err);
	options.serial = spec->serial.type == SERIAL_STDIO;
	options.terminal = options.serial ? console_terminal() : -1;
	options.progress = progress_kind(invocation_option(call, "quiet") != NULL);
	if (launch(spec, &options, &vm, &err) < 0)
		return command_fail(&err);
	report(&vm, invocation_option(call, "quiet") != NULL);
	supervise(&vm, options.serial, &err);
	vm_end(&vm);
	return err.message ? command_fail(&err) : EXIT_DONE;
}

static const struct command_option options[] = {
	OPTION_RESERVE,
	OPTION_ALLOW_ARGS,
	{ "quiet", NULL, "say nothing but warnings and errors" },
	{ 0 },
};

const struct command cmd_run = {
	.name = "run",
	.arguments = "SPEC",
	.min_args = 1,
	.max_args = 1,
	.summary = "Launch a VM in the foreground, with its console on the terminal",
	.details =
	    "Exits with 0 once the guest has powered down. SIGINT and SIGTERM ask the guest to\n"
	    "power down, a second one forces it off. On a terminal Ctrl-C does the same, and\n"
	    "Ctrl-] sends the next key to the guest as it is.",
	.options = options,
	.run = run,
};
