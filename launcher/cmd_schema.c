#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "spec.h"
#include "util.h"

static const struct command_option options[] = {
	{ "fields", NULL, "print the table of fields in Markdown instead" },
	{ 0 },
};

/* The fields that were asked for. */
struct asked {
	const char *name;
	size_t n_paths, found;
	char **kept; /* all there are */
};

/* "disks" and "disks[]" are the same, and so is all below. */
static bool is_asked(const char *name, const char *path)
{
	for (; *name; name++, path++) {
		if (*path == '[' && *name == '.')
			path += 2;
		if (*name != *path)
			return false;
	}
	return !*path || *path == '.' || *path == '[';
}

static void print_field(const struct field_text *field, void *data)
{
	struct asked *asked = data;

	*array_append(&asked->kept, &asked->n_paths) = xstrdup(field->path);
	if (!is_asked(asked->name, field->path))
		return;
	printf("%s%s: %s\n", asked->found++ ? "\n" : "", field->path, field->help);
	printf("  takes    %s\n", field->type);
	if (*field->fallback)
		printf("  default  %s\n", field->fallback);
}

static int describe(const char *name)
{
	struct asked asked = { .name = name };

	spec_each_field(print_field, &asked);
	const char *near = nearest_word(name, (const char *const *)asked.kept, asked.n_paths);
	if (!asked.found)
		fprintf(stderr,
		        "ancla: the spec has no field \"%s\"%s%s%s `ancla schema --fields` lists "
		        "them\n",
		        name, near ? "; did you mean \"" : "", near ? near : "",
		        near ? "\"?" : ";");
	for (size_t i = 0; i < asked.n_paths; i++)
		free(asked.kept[i]);
	free(asked.kept);
	return asked.found ? command_flush() : EXIT_USAGE;
}

static int run(const struct invocation *call)
{
	if (call->n_args)
		return describe(call->args[0]);
	cleanup_free char *text =
	    invocation_option(call, "fields") ? spec_field_table() : spec_schema();

	fputs(text, stdout);
	return command_flush();
}

extern const struct command cmd_schema;
const struct command cmd_schema = {
	.name = "schema",
	.arguments = "[FIELD]",
	.min_args = 0,
	.max_args = 1,
	.summary = "Print the JSON schema of specs, or what one field is",
	.details =
	    "Editors that know JSON Schema (draft 2020-12) complete and check specs with it.\n"
	    "It cannot say what depends on several fields: `ancla check` does. With a field, as\n"
	    "`cputune.vcpupin`, tells what that and all below it take.",
	.options = options,
	.run = run,
};
