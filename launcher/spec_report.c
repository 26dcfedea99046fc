#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"
#include "spec_report.h"
#include "trust.h"
#include "util.h"

#define ERRORS_SHOWN 100

static void print_error(const char *path, const struct spec_error *error)
{
	cleanup_free char *line = error->line ? xasprintf(":%u", error->line) : xstrdup("");
	cleanup_free char *message = xasprintf("%s%s: %s%s%s", path, line, error->pointer,
	                                       *error->pointer ? ": " : "", error->message);

	log_say_as_is(LOG_ERR, "spec", message);
}

struct spec *spec_load_or_report(const char *path)
{
	struct spec_errors errors = { 0 };
	struct spec *spec = spec_load(path, &errors);

	for (size_t i = 0; i < errors.count && i < ERRORS_SHOWN; i++)
		print_error(path, &errors.list[i]);
	if (errors.count > ERRORS_SHOWN) {
		cleanup_free char *more =
		    xasprintf("%s: ... and %zu more", path, errors.count - ERRORS_SHOWN);
		log_say_as_is(LOG_ERR, "spec", more);
	}
	spec_errors_free(&errors);
	return spec;
}

/* No machine has more cores. */
#define RESERVE_MAX 65536

/* --reserve; false: it is no number of cores. */
static bool take_reserve(const struct invocation *call, struct spec *spec)
{
	const char *text = invocation_option(call, "reserve");
	char *end;
	long cores;

	if (!text)
		return true;
	errno = 0;
	cores = strtol(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || cores > RESERVE_MAX) {
		fprintf(stderr, "ancla %s: --reserve takes a number of cores, not \"%s\"\n",
		        call->command->name, text);
		return false;
	}
	spec->placement.reserve = (int)cores;
	return true;
}

/* A spec may be somebody else's. These words are no data: what they make QEMU do, it does as us. */
static bool may_have_args(const struct invocation *call, const struct spec *spec)
{
	if (!spec->qemu.n_args || invocation_option(call, "allow-args"))
		return true;
	fprintf(stderr,
	        "%s: /qemu/args: these %zu words for QEMU are honoured only with --allow-args, as "
	        "they can do all that QEMU can; read them first, or leave them out\n",
	        call->args[0], spec->qemu.n_args);
	return false;
}

/* So may a program of theirs be that is no QEMU. */
static bool may_have_binary(const struct invocation *call, const struct spec *spec)
{
	cleanup_free char *doubt = NULL;

	if (*spec->qemu.binary != '/' || invocation_option(call, "allow-args"))
		return true;
	doubt = trust_doubt(spec->qemu.binary);
	if (!doubt)
		return true;
	fprintf(
	    stderr,
	    "%s: /qemu/binary: %s, so what would be run as you may be anything; use a QEMU that "
	    "is yours or root's, or trust this spec (--allow-args)\n",
	    call->args[0], doubt);
	return false;
}

struct spec *spec_of_call(const struct invocation *call, int *code)
{
	cleanup_spec struct spec *spec = spec_load_or_report(call->args[0]);

	*code = EXIT_SPEC;
	if (!spec || !may_have_args(call, spec) || !may_have_binary(call, spec))
		return NULL;
	*code = EXIT_USAGE;
	if (!take_reserve(call, spec))
		return NULL;
	return take_pointer(&spec);
}
