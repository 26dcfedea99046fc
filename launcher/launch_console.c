/* Where the guest's serial console is, for those who come later. */
#include <string.h>

#include "launch_parts.h"
#include "util.h"

#define PTY_PREFIX "pty:"

/* QEMU makes the terminal itself, and says which in `filename`: "pty:/dev/pts/3". */
static char *terminal_of(struct json_object *chardevs)
{
	size_t count =
	    json_object_is_type(chardevs, json_type_array) ? json_object_array_length(chardevs) : 0;

	for (size_t i = 0; i < count; i++) {
		struct json_object *item = json_object_array_get_idx(chardevs, i);
		const char *label = json_string(item, "label");
		const char *name = json_string(item, "filename");
		if (label && name && strcmp(label, "serial0") == 0 &&
		    strncmp(name, PTY_PREFIX, strlen(PTY_PREFIX)) == 0)
			return xstrdup(name + strlen(PTY_PREFIX));
	}
	return NULL;
}

static int find_terminal(struct vm *vm, struct error *err)
{
	cleanup_json struct json_object *chardevs = NULL;
	struct qmp_error qmp_error;

	if (qmp_call(vm->qmp, "query-chardev", NULL, LIMIT_REPLY_MS, &chardevs, &qmp_error) < 0)
		return vm_qmp_failed(vm, &qmp_error, "while it was asked for its terminal", err);
	vm->state.console = terminal_of(chardevs);
	if (vm->state.console)
		return 0;
	return error_set(err, EXIT_FAILED, "serial is pty, but QEMU names no terminal");
}

int launch_find_console(struct launching *l, struct error *err)
{
	struct vm *vm = l->vm;

	switch (vm->spec->serial.type) {
	case SERIAL_PTY:
		return find_terminal(vm, err);
	case SERIAL_FILE:
		vm->state.console = xstrdup(vm->spec->serial.path);
		return 0;
	case SERIAL_SOCKET:
	case SERIAL_STDIO:
		vm->state.console = xasprintf("%s/%s", vm->dir.path, VM_SERIAL);
		return 0;
	case SERIAL_NONE:
		break;
	}
	return 0;
}
