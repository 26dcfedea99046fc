/* qemu.args: the options that ancla gives by itself, or that would undo what it promises, are
 * refused. This guards against mistakes. It is no fence: whoever allows the words trusts them. */
#include <string.h>

#include "spec_parse.h"

#define OWN "ancla gives it by itself"

/* Options of QEMU, and what to do instead. */
static const struct owned {
	const char *option, *instead;
} owned_options[] = {
	{ "name", OWN },
	{ "S", OWN },
	{ "sandbox", OWN },
	{ "add-fd", "ancla gives QEMU its descriptors" },
	{ "set", "it can change what ancla gives" },
	{ "readconfig", "it can change what ancla gives: write its options here" },
	{ "preconfig", "the guest would never run" },
	{ "incoming", "the guest would never run" },
	{ "daemonize", "use `ancla start`" },
	{ "runas", "use qemu.user" },
	{ "chroot", "use qemu.user" },
	{ "run-with", "use qemu.user" },
	{ "qmp", "use -chardev and -mon with ids of your own" },
	{ "qmp-pretty", "use -chardev and -mon with ids of your own" },
	{ "smp", "use vcpus, max-vcpus and cpu.topology" },
	{ "cpu", "use cpu" },
	{ "accel", "use qemu.accel" },
	{ "enable-kvm", "use qemu.accel" },
	{ "icount", "vCPUs would have no threads of their own" },
	{ "m", "use memory" },
	{ "mem-path", "use memory-backing.path" },
	{ "mem-prealloc", "use memory-backing.prealloc" },
	{ "overcommit", "use memory-backing.locked" },
	{ "numa", "use numa" },
	{ "kernel", "use boot.kernel" },
	{ "initrd", "use boot.initrd" },
	{ "append", "use boot.cmdline" },
	{ "bios", "use boot.firmware" },
	{ "action", "use on-poweroff, on-reboot and on-crash" },
	{ "no-reboot", "use on-reboot" },
	{ "no-shutdown", "use on-poweroff" },
	{ "watchdog-action", "use on-crash" },
};

/* Options that may be given, but not with such a value. */
static const struct owned_value {
	const char *option, *value, *instead;
} owned_values[] = {
	{ "object", "memory-backend", "use memory and numa: placement has to know of all memory" },
	{ "object", "iothread", "use iothreads: placement has to know of all threads" },
	{ "object", "thread-context", "placement has to know of all threads" },
	{ "machine", "memory-backend", "use memory" },
	{ "machine", "type=", "use qemu.machine" },
	{ "machine", "accel=", "use qemu.accel" },
	{ "M", "memory-backend", "use memory" },
	{ "M", "type=", "use qemu.machine" },
	{ "M", "accel=", "use qemu.accel" },
	{ "chardev", "id=monitor", "that id is ancla's" },
	{ "chardev", "id=commands", "that id is ancla's" },
	{ "chardev", "id=serial0", "that id is ancla's" },
	{ "mon", "chardev=monitor", "that monitor is ancla's" },
	{ "mon", "chardev=commands", "that monitor is ancla's" },
};

/* QEMU takes one dash or two. NULL: no option. */
static const char *option_name(const char *word)
{
	if (word[0] != '-' || !word[1])
		return NULL;
	return word + (word[1] == '-' ? 2 : 1);
}

/* JSON without its escapes; what is none as it is. The caller frees. */
static char *plain_value(const char *value)
{
	cleanup_json struct json_object *json = *value == '{' ? json_tokener_parse(value) : NULL;

	return xstrdup(json ? json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN) : value);
}

/* "id=monitor" is not in "id=monitor2"; "type=" and "memory-backend" begin what they mean. */
static bool has_value(const char *value, const char *wanted)
{
	const char *equals = strchr(wanted, '=');
	bool whole = equals && equals[1];

	for (const char *at = strstr(value, wanted); at; at = strstr(at + 1, wanted)) {
		char next = at[strlen(wanted)];
		if (!whole || next == '\0' || next == ',')
			return true;
	}
	return false;
}

static void check_value(struct parse *parse, size_t index, const char *option)
{
	cleanup_free char *value = plain_value(parse->spec->qemu.args[index + 1]);
	cleanup_free char *pointer = xasprintf("/qemu/args/%zu", index + 1);

	for (size_t i = 0; i < ARRAY_SIZE(owned_values); i++)
		if (strcmp(option, owned_values[i].option) == 0 &&
		    has_value(value, owned_values[i].value)) {
			spec_fail_at(parse, pointer, "-%s with \"%s\" cannot be given here: %s",
			             option, owned_values[i].value, owned_values[i].instead);
			return;
		}
	/* The first word of a machine is its type. */
	if ((strcmp(option, "machine") == 0 || strcmp(option, "M") == 0) &&
	    memchr(value, '=', strcspn(value, ",")) == NULL)
		spec_fail_at(parse, pointer,
		             "-%s with a machine cannot be given here: use qemu.machine", option);
}

void spec_check_args(struct parse *parse)
{
	const struct spec *spec = parse->spec;

	if (!spec_good(parse, "/qemu/args"))
		return;
	for (size_t i = 0; i < spec->qemu.n_args; i++) {
		const char *option = option_name(spec->qemu.args[i]);
		cleanup_free char *pointer = xasprintf("/qemu/args/%zu", i);

		for (size_t j = 0; option && j < ARRAY_SIZE(owned_options); j++)
			if (strcmp(option, owned_options[j].option) == 0)
				spec_fail_at(parse, pointer, "-%s cannot be given here: %s", option,
				             owned_options[j].instead);
		if (option && i + 1 < spec->qemu.n_args)
			check_value(parse, i, option);
	}
}
