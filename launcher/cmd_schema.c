#include <stdio.h>

#include "command.h"
#include "spec.h"
#include "util.h"

static const struct command_option options[] = {
	{ "fields", NULL, "print the table of fields in Markdown instead" },
	{ NULL, NULL, NULL },
};

static int run(const struct invocation *call)
{
	cleanup_free char *text =
	    invocation_option(call, "fields") ? spec_field_table() : spec_schema();

	fputs(text, stdout);
	return command_flush();
}

extern const struct command cmd_schema;
const struct command cmd_schema = {
	.name = "schema",
	.arguments = "",
	.min_args = 0,
	.max_args = 0,
	.summary = "print the JSON schema of specs",
	.details =
	    "Editors that know JSON Schema (draft 2020-12) complete and check specs with it.\n"
	    "It cannot say what depends on several fields: `ancla check` does.",
	.options = options,
	.run = run,
};
