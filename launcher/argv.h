/* QEMU's command line: a pure function of spec, plan and capabilities.
 *
 * Options that take JSON are given JSON; everywhere else commas are doubled, and strings from the
 * spec stand only where they cannot be taken for another option. What is not asked for is not
 * there. Descriptors that QEMU inherits have fixed numbers, so that the line is the same each
 * time. */
#ifndef ANCLA_ARGV_H
#define ANCLA_ARGV_H

#include <stddef.h>

#include "caps.h"
#include "error.h"
#include "plan.h"
#include "spec.h"

/* What QEMU inherits, and under which number. */
enum inherited_kind {
	INHERIT_MONITOR,  /* listening socket: the supervisor's monitor */
	INHERIT_COMMANDS, /* listening socket: the monitor of later commands */
	INHERIT_LOCK,     /* the VM's lock, held as long as QEMU lives */
	INHERIT_SERIAL,   /* listening socket of the serial console */
	INHERIT_MEMORY,   /* the file behind plan->memory[index] */
	INHERIT_TAP,      /* the tap of spec->nics[index] */
	INHERIT_VHOST,    /* /dev/vhost-net for spec->nics[index] */
};

/* The numbers below FD_MEMORY are always taken; memory follows by region, then taps. */
enum { FD_MONITOR = 3, FD_COMMANDS = 4, FD_LOCK = 5, FD_SERIAL = 6, FD_MEMORY = 10 };

struct inherited {
	enum inherited_kind kind;
	size_t index;
	int fd; /* its number in QEMU */
};

struct command_line {
	char **argv; /* NULL-terminated; argv[0] is the binary's absolute path */
	size_t argc;
	struct inherited *inherited; /* ascending by fd */
	size_t n_inherited;
};

/* Errors (EXIT_GRANT): what this QEMU or this accelerator cannot do, named as in the spec. */
struct command_line *command_line(const struct spec *spec, const struct plan *plan,
                                  const struct caps *caps, struct error *err);
void command_line_free(struct command_line *line);

/* For people: one option a line, quoted for a shell. The caller frees. */
char *command_line_format(const struct command_line *line);

/* The CPU of the guest as -cpu takes it: model, features, cache. For argv and `plan`. The caller
 * frees. Errors as above, naming the features that are missing. */
char *guest_cpu(const struct spec *spec, const struct caps *caps, struct error *err);

/* Whether the spec chooses a model or features, which takes what `caps` knows of CPUs. */
bool guest_cpu_is_chosen(const struct spec *spec);

#define cleanup_command_line __attribute__((cleanup(cleanup_command_line_fn)))
static inline void cleanup_command_line_fn(struct command_line **line)
{
	command_line_free(*line);
}

#endif
