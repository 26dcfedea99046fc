/* The table of commands, in the order of `ancla --help`. */
#include "command.h"

extern const struct command cmd_check, cmd_host, cmd_plan, cmd_run, cmd_start, cmd_list, cmd_status,
    cmd_verify, cmd_pin, cmd_repin, cmd_vcpus, cmd_iothread, cmd_stop, cmd_resume, cmd_schema;

const struct command *const commands[] = {
	&cmd_check,  &cmd_host,   &cmd_plan,   &cmd_run,   &cmd_start, &cmd_list,
	&cmd_status, &cmd_verify, &cmd_pin,    &cmd_repin, &cmd_vcpus, &cmd_iothread,
	&cmd_stop,   &cmd_resume, &cmd_schema, NULL,
};
