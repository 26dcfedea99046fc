/* The parts of the command line, for argv*.c only. */
#ifndef ANCLA_ARGV_PARTS_H
#define ANCLA_ARGV_PARTS_H

#include <stdbool.h>

#include <json-c/json.h>

#include "argv.h"

struct building {
	const struct spec *spec;
	const struct plan *plan;
	const struct caps *caps;
	struct command_line *line;
};

/* "-OPTION VALUE". */
void argv_option(struct building *b, const char *option, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* "-OPTION JSON"; takes the object. */
void argv_json(struct building *b, const char *option, struct json_object *json);

/* Notes a descriptor that QEMU inherits under this number, and returns the number. */
int argv_inherit(struct building *b, enum inherited_kind kind, size_t index, int fd);

/* For values in QEMU's comma-separated options: commas doubled. The caller frees. */
char *argv_escape(const char *text);

/* A flash device with the image: 0 is the firmware, 1 its variables. */
void argv_flash(struct building *b, int unit, const char *path, bool readonly);

/* iothreads, disks, NICs, host devices. */
int argv_devices(struct building *b, struct error *err);

const char *machine_name(enum machine machine);

#endif
