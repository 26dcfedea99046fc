#include "command.h"
#include "spec_report.h"
#include "util.h"

static const struct command_option options[] = { OPTION_JSON, { NULL, NULL, NULL } };

static struct json_object *error_json(const char *path, const struct spec_error *error)
{
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "file", json_object_new_string(path));
	json_object_object_add(json, "line", json_object_new_int64(error->line));
	json_object_object_add(json, "pointer", json_object_new_string(error->pointer));
	json_object_object_add(json, "message", json_object_new_string(error->message));
	return json;
}

static int check_json(const char *path)
{
	struct spec_errors errors = { 0 };
	cleanup_spec struct spec *spec = spec_load(path, &errors);
	struct json_object *json = json_object_new_object();
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < errors.count; i++)
		json_object_array_add(list, error_json(path, &errors.list[i]));
	json_object_object_add(json, "ok", json_object_new_boolean(spec != NULL));
	json_object_object_add(json, "errors", list);
	spec_errors_free(&errors);
	int code = command_print_json(json);
	return code == EXIT_DONE && !spec ? EXIT_SPEC : code;
}

static int run(const struct invocation *call)
{
	if (invocation_option(call, "json"))
		return check_json(call->args[0]);
	cleanup_spec struct spec *spec = spec_load_or_report(call->args[0]);
	return spec ? EXIT_DONE : EXIT_SPEC;
}

extern const struct command cmd_check;
const struct command cmd_check = {
	.name = "check",
	.arguments = "SPEC",
	.min_args = 1,
	.max_args = 1,
	.summary = "Validate a spec: say nothing, or every error with its place",
	.details =
	    "Errors go to standard error as FILE:LINE: POINTER: MESSAGE, where POINTER is a\n"
	    "JSON pointer to the value; the exit code is then 3. Nothing is asked of the\n"
	    "host: `ancla plan` tells whether it can grant what the spec asks for.",
	.options = options,
	.run = run,
};
