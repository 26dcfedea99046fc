/* Commands: each is one file, cmd_NAME.c, with one const struct; commands.c is their table.
 *
 * Usage lines, --help, the man page and shell completion all come from these structs. Only
 * commands print: results on standard output, everything else on standard error. */
#ifndef ANCLA_COMMAND_H
#define ANCLA_COMMAND_H

#include <json-c/json.h>

#include "error.h"

#define ANCLA_VERSION "0.1"

struct command_option {
	const char *name;  /* without the dashes; NULL ends the list */
	const char *value; /* what the value is called in the usage, NULL for a flag */
	const char *help;
};

/* One call of a command, its words checked against the command's options and argument count. */
struct invocation {
	const struct command *command;
	char **args; /* what is not an option, in order */
	int n_args;
	const char *values[16]; /* by index in command->options; NULL: not given; "" for a flag */
};

struct command {
	const char *name;
	const char *arguments; /* for the usage line: "SPEC", "NAME" or "" */
	int min_args, max_args;
	const char *summary; /* one line, no full stop */
	const char *details; /* paragraphs for --help; may be NULL */
	const char *const
	    *second; /* what the second argument may be; ends with NULL; may be NULL */
	const struct command_option *options;
	int (*run)(const struct invocation *call); /* returns an exit code */
};

/* All of them; ends with NULL. */
extern const struct command *const commands[];

/* The value of an option, "" for a flag that was given, NULL for what was not. Asking for an
 * option that the command does not have is a programming error (assertion). */
const char *invocation_option(const struct invocation *call, const char *name);

/* Finds the command, checks its words, and runs it: all of main(). */
int command_main(const struct command *const table[], int argc, char **argv);

/* Prints "ancla: MESSAGE" on standard error and returns the error's exit code. */
int command_fail(const struct error *err);

/* Prints "ancla: warning: TEXT" on standard error; NULL: nothing. */
void command_warn(const char *text);

/* Prints JSON on standard output, indented, with a newline; takes the object. Returns EXIT_DONE,
 * or EXIT_FAILED with a message if standard output cannot be written. */
int command_print_json(struct json_object *json);

/* Ends output: EXIT_DONE, or EXIT_FAILED with a message if standard output was not written. */
int command_flush(void);

/* The option of those that keep a log. */
#define OPTION_LOG_JSON                                                                            \
	{                                                                                          \
		"log-json", NULL, "log JSON, an object a line"                                     \
	}

/* The option that every command which prints has. */
#define OPTION_JSON                                                                                \
	{                                                                                          \
		"json", NULL, "print JSON with stable keys"                                        \
	}

#endif
