#include "command.h"

extern const struct command cmd_check, cmd_host, cmd_plan, cmd_run, cmd_start, cmd_list, cmd_status,
    cmd_verify, cmd_pin, cmd_repin, cmd_stop, cmd_schema;

static const struct command *const commands[] = {
	&cmd_check,  &cmd_host, &cmd_plan,  &cmd_run,  &cmd_start,  &cmd_list, &cmd_status,
	&cmd_verify, &cmd_pin,  &cmd_repin, &cmd_stop, &cmd_schema, NULL,
};

int main(int argc, char **argv)
{
	return command_main(commands, argc, argv);
}
