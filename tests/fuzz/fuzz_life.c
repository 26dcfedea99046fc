/* What a supervisor makes of what QEMU says, whatever that is: events, answers, and its silence.
 * The client that reads it is fuzz_qmp's; here it is a script.
 *
 * In the input, the first byte says what the spec wants of a guest that ends, and how the VM came
 * to this supervisor. Each line that follows is an event, an answer ("return" or "error") to what
 * is asked next, or, if it is no JSON, the end of the time that something may take. */
#include <stdarg.h>
#include <sys/mman.h>

#include "fuzz.h"

#include "dump.h"
#include "hotplug.h"
#include "kernel.h"
#include "launch_parts.h"
#include "life.h"
#include "log.h"
#include "notify.h"

enum { TAKEN_OVER = 1 << 6, WITH_TERMINAL = 1 << 7 };

static struct {
	char *rest;                 /* of the lines */
	struct json_object *answer; /* that waits for a question */
	int64_t now;
	unsigned asked;
} script;

static struct life life;

/* One line, whoever it is for. */
static void promise_line(const char *text)
{
	promise_printable(text);
	promise(!strchr(text, '\n'), "two lines: %s", text);
}

void __wrap_log_say(int level, const char *event, const char *format, ...);
void __wrap_log_say(int level, const char *event, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	cleanup_free char *message = xvasprintf(format, args);
	va_end(args);
	promise(level >= LOG_ERR && level <= LOG_INFO, "level %d", level);
	promise(*event, "no word for programs: %s", message);
	promise_line(message);
}

int __wrap_notify(const char *format, ...);
int __wrap_notify(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	cleanup_free char *message = xvasprintf(format, args);
	va_end(args);
	promise_line(message);
	return 0;
}

int64_t __wrap_kernel_now_ms(void);
int64_t __wrap_kernel_now_ms(void)
{
	return script.now;
}

int __wrap_kernel_pidfd_kill(int pidfd, int signal);
int __wrap_kernel_pidfd_kill(int pidfd, int signal)
{
	promise(life.step == LIFE_ENDING, "signal %d to %d in step %d", signal, pidfd,
	        (int)life.step);
	return 0;
}

/* What it can do is ask; a guest runs on only where that was its wish or the spec's. */
static unsigned ask(const char *command, struct json_object *arguments)
{
	static const struct {
		const char *name;
		int step;
	} commands[] = {
		{ "set-action", -1 },
		{ "query-status", -1 },
		{ "quit", LIFE_ENDING },
		{ "system_reset", LIFE_RESETTING },
		{ "getfd", -1 },
		{ "dump-guest-memory", LIFE_DUMPING },
		{ "cont", LIFE_RESETTING },
	};
	bool known = false;

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (strcmp(command, commands[i].name) == 0) {
			known = true;
			promise(commands[i].step < 0 || commands[i].step == (int)life.step ||
			            (strcmp(command, "cont") == 0 && life.vm->qemu.foreign),
			        "%s in step %d", command, (int)life.step);
		}
	promise(known, "it asks for %s", command);
	json_object_put(arguments);
	return ++script.asked;
}

unsigned __wrap_qmp_send(struct qmp *qmp, const char *command, struct json_object *arguments,
                         struct qmp_error *error);
unsigned __wrap_qmp_send(struct qmp *qmp, const char *command, struct json_object *arguments,
                         struct qmp_error *error)
{
	(void)qmp;
	(void)error;
	return ask(command, arguments);
}

unsigned __wrap_qmp_send_fd(struct qmp *qmp, const char *command, struct json_object *arguments,
                            int fd, struct qmp_error *error);
unsigned __wrap_qmp_send_fd(struct qmp *qmp, const char *command, struct json_object *arguments,
                            int fd, struct qmp_error *error)
{
	(void)qmp;
	(void)error;
	promise(fd >= 0, "no descriptor beside %s", command);
	return ask(command, arguments);
}

/* The answer that waits, if there is one. */
static int take_answer(struct json_object **reply, struct qmp_error *error)
{
	cleanup_json struct json_object *answer = take_pointer(&script.answer);
	struct json_object *value = NULL;

	if (!answer)
		return 0;
	if (json_object_object_get_ex(answer, "return", &value)) {
		if (reply)
			*reply = json_object_get(value);
		return 1;
	}
	json_object_object_get_ex(answer, "error", &value);
	memset(error, 0, sizeof(*error));
	error->kind = QMP_ERROR_COMMAND;
	snprintf(error->message, sizeof(error->message), "QEMU refused it: %s",
	         json_object_to_json_string_ext(value, JSON_C_TO_STRING_PRETTY));
	return -1;
}

int __wrap_qmp_take_reply(struct qmp *qmp, unsigned id, struct json_object **reply,
                          struct qmp_error *error);
int __wrap_qmp_take_reply(struct qmp *qmp, unsigned id, struct json_object **reply,
                          struct qmp_error *error)
{
	(void)qmp;
	promise(id && id <= script.asked, "nothing was asked as %u", id);
	return take_answer(reply, error);
}

/* The next line, as JSON if it is such. False at the end. */
static bool next_line(struct json_object **json)
{
	char *line = script.rest ? strsep(&script.rest, "\n") : NULL;

	*json = line ? json_tokener_parse(line) : NULL;
	return line != NULL;
}

int __wrap_qmp_call(struct qmp *qmp, const char *command, struct json_object *arguments,
                    int timeout_ms, struct json_object **reply, struct qmp_error *error);
int __wrap_qmp_call(struct qmp *qmp, const char *command, struct json_object *arguments,
                    int timeout_ms, struct json_object **reply, struct qmp_error *error)
{
	struct json_object *json;

	(void)qmp;
	promise(!arguments && timeout_ms > 0, "%s", command);
	next_line(&json);
	if (json_object_object_get_ex(json, "return", NULL) ||
	    json_object_object_get_ex(json, "error", NULL)) {
		script.answer = json;
		return take_answer(reply, error) < 0 ? -1 : 0;
	}
	json_object_put(json);
	memset(error, 0, sizeof(*error));
	error->kind = QMP_ERROR_TIMEOUT;
	snprintf(error->message, sizeof(error->message), "QEMU did not answer");
	return -1;
}

int __wrap_dump_create(const char *vm, uint64_t bytes, char **path, struct error *err);
int __wrap_dump_create(const char *vm, uint64_t bytes, char **path, struct error *err)
{
	int fd = memfd_create("dump", MFD_CLOEXEC);

	(void)bytes;
	promise(fd >= 0 && !err->message, "no dump");
	promise(!life.dump, "a dump is forgotten: %s", life.dump);
	*path = xasprintf("/nonexistent/%s.elf", vm);
	return fd;
}

static void hear(struct vm *vm, struct json_object *json)
{
	struct json_object *event, *data = NULL;
	struct hotplug_events hotplug = { .vcpu = 1, .path = "vcpu1" };

	if (json_object_object_get_ex(json, "event", &event) &&
	    json_object_is_type(event, json_type_string)) {
		json_object_object_get_ex(json, "data", &data);
		vm_on_event(vm, json_object_get_string(event), data);
		hotplug_on_event(&hotplug, json_object_get_string(event), data);
	} else if (json_object_object_get_ex(json, "return", NULL) ||
	           json_object_object_get_ex(json, "error", NULL)) {
		json_object_put(script.answer);
		script.answer = json_object_get(json);
	} else if (life.deadline) {
		script.now = life.deadline > script.now ? life.deadline : script.now;
		life_timeout(&life);
	}
}

static void find_terminal(struct vm *vm)
{
	struct spec spec = { .serial.type = SERIAL_PTY };
	cleanup_error struct error err = ERROR_INIT;
	struct launching launching = { .vm = vm };

	vm->spec = &spec;
	if (launch_find_console(&launching, &err) < 0) {
		promise_error(&err);
		promise_printable(err.message);
	} else {
		promise(vm->state.console, "a terminal without a name");
	}
	vm->spec = NULL;
}

static void supervise_it(struct vm *vm)
{
	struct json_object *json;

	life_begin(&life, vm);
	if (vm->qemu.foreign)
		life_take_over(&life);
	while (next_line(&json)) {
		bool ends = life.step == LIFE_ENDING;
		hear(vm, json);
		json_object_put(json);
		life_process(&life);
		promise(!ends || life.step == LIFE_ENDING, "step %d after its end", (int)life.step);
		promise(vm->n_events == 0, "%zu events are left", vm->n_events);
		promise(life.step != LIFE_DUMPING || life.dump, "it dumps to nothing");
		promise(!life.deadline || (life.step != LIFE_RUNS && life.step != LIFE_KEPT),
		        "step %d has a limit", (int)life.step);
		script.now += 400;
	}
	life_end(&life);
	promise(!life.dump, "a dump is left");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1 || size > 16 * 1024)
		return -1;
	cleanup_free char *text = text_of_bytes(data + 1, size - 1);
	cleanup_plan struct plan *plan = plan_new();
	struct vm vm = {
		.plan = plan,
		.dir = { .name = "vm", .path = "/run/ancla/vm", .dirfd = -1, .lock = -1 },
		.state.actions = { data[0] & 3, data[0] >> 2 & 3, data[0] >> 4 & 3 },
		.qemu = QEMU_INIT,
	};

	vm.qemu.foreign = data[0] & TAKEN_OVER;
	script.rest = text;
	script.now = 1000;
	script.asked = 0;
	if (data[0] & WITH_TERMINAL)
		find_terminal(&vm);
	supervise_it(&vm);
	vm_drop_events(&vm);
	json_object_put(script.answer);
	script.answer = NULL;
	free(vm.state.console);
	return 0;
}
