#include <stdio.h>

#include "command.h"
#include "grants.h"
#include "host.h"
#include "spec_report.h"
#include "util.h"

static const struct command_option options[] = {
	OPTION_JSON,
	{ "host-access", NULL, "show what this host grants you, and how to get what it does not" },
	{ NULL, NULL, NULL },
};

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

static struct json_object *grants_json(const struct grants *grants)
{
	struct json_object *json = json_object_new_object();
	struct json_object *list = json_object_new_array();

	json_add_bool(json, "ok", !grants_lack(grants));
	for (size_t i = 0; i < grants->count; i++) {
		const struct grant *grant = &grants->list[i];
		struct json_object *item = json_object_new_object();
		json_add_string(item, "name", grant->name);
		json_add_bool(item, "granted", grant->granted);
		json_add_bool(item, "needed", grant->needed);
		json_add_string(item, "detail", grant->detail);
		if (grant->how)
			json_add_string(item, "how", grant->how);
		json_object_array_add(list, item);
	}
	json_object_object_add(json, "grants", list);
	return json;
}

static void print_grants(const struct grants *grants)
{
	for (size_t i = 0; i < grants->count; i++) {
		const struct grant *grant = &grants->list[i];
		printf("%-8s%-34s%s\n",
		       grant->granted  ? "ok"
		       : grant->needed ? "MISSING"
		                       : "no",
		       grant->name, grant->detail);
		if (grant->how)
			printf("%42sto get it: %s\n", "", grant->how);
	}
}

/* What the host grants; with a spec, whether that is enough. */
static int check_access(const struct invocation *call)
{
	cleanup_grants struct grants grants = { 0 };
	cleanup_error struct error err = ERROR_INIT;
	cleanup_spec struct spec *spec = NULL;
	cleanup_host struct host *host = NULL;
	int written;

	if (call->n_args && !(spec = spec_load_or_report(call->args[0])))
		return EXIT_SPEC;
	host = host_load(NULL, &err);
	if (!host)
		return command_fail(&err);
	grants_of_host(host, &grants);
	if (spec && grants_of_spec(spec, &grants, &err) < 0)
		return command_fail(&err);
	if (invocation_option(call, "json")) {
		written = command_print_json(grants_json(&grants));
	} else {
		print_grants(&grants);
		written = command_flush();
	}
	return written == EXIT_DONE && grants_lack(&grants) ? EXIT_GRANT : written;
}

static int run(const struct invocation *call)
{
	if (invocation_option(call, "host-access"))
		return check_access(call);
	if (!call->n_args) {
		fprintf(stderr, "ancla check: needs SPEC, or --host-access\n");
		return EXIT_USAGE;
	}
	if (invocation_option(call, "json"))
		return check_json(call->args[0]);
	cleanup_spec struct spec *spec = spec_load_or_report(call->args[0]);
	return spec ? EXIT_DONE : EXIT_SPEC;
}

extern const struct command cmd_check;
const struct command cmd_check = {
	.name = "check",
	.arguments = "[SPEC]",
	.min_args = 0,
	.max_args = 1,
	.summary = "Validate a spec: say nothing, or every error with its place",
	.details =
	    "Errors go to standard error as FILE:LINE: POINTER: MESSAGE, where POINTER is a\n"
	    "JSON pointer to the value; the exit code is then 3. Nothing is asked of the\n"
	    "host: `ancla plan` tells whether it can grant what the spec asks for.\n"
	    "\n"
	    "With --host-access, prints what this host grants you, found by trying it, and how\n"
	    "to get what it does not; with a SPEC, exits with 4 if that lacks what the spec needs.",
	.options = options,
	.run = run,
};
