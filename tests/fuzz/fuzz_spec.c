/* A spec, from its text to QEMU's command line, on hosts of several shapes and for several QEMUs:
 * refused in words, or whole, the same each time, and with nothing of the spec in an option's
 * syntax. */
#include "argv.h"
#include "fuzz.h"
#include "host.h"
#include "place.h"

#define SPEC "/specs/fuzz.json"

/* More guest nodes, each of another size, and the search takes all the steps that it may: on three
 * hosts, twice, and with sanitizers that is half a minute, which libFuzzer would count as a
 * finding. The bench has such guests. */
#define NODES_MOST 8

static const char *const hosts[] = {
	"numa:2(memory=8589934592) core:2 pu:2",
	"numa:1(memory=34359738368) l3:2 core:4 pu:1",
	"pack:2 numa:2(memory=68719476736) l3:2 core:3 pu:2(indexes=2*12:1*2)",
};

static const char *const qemus[] = {
	"tests/qmp/qemu-10.0-tcg.caps.json",
	"tests/golden/made-up-xeon-qemu-7.2-kvm.caps.json",
	"tests/golden/made-up-xeon-qemu-10.0-kvm.caps.json",
};

/* Options, and whether their value is taken as it is; what stands for a value of more than one
 * part has only the keys below. */
static const struct {
	const char *name;
	enum { WITHOUT, VERBATIM, PARTS, JSON } value;
} options[] = {
	{ "-S", WITHOUT },
	{ "-no-user-config", WITHOUT },
	{ "-nodefaults", WITHOUT },
	{ "-bios", VERBATIM },
	{ "-kernel", VERBATIM },
	{ "-initrd", VERBATIM },
	{ "-append", VERBATIM },
	{ "-display", VERBATIM },
	{ "-serial", VERBATIM },
	{ "-name", PARTS },
	{ "-machine", PARTS },
	{ "-accel", PARTS },
	{ "-cpu", PARTS },
	{ "-smp", PARTS },
	{ "-m", PARTS },
	{ "-numa", PARTS },
	{ "-overcommit", PARTS },
	{ "-sandbox", PARTS },
	{ "-chardev", PARTS },
	{ "-mon", PARTS },
	{ "-boot", PARTS },
	{ "-action", PARTS },
	{ "-device", PARTS },
	{ "-blockdev", JSON },
	{ "-netdev", JSON },
	{ "-object", JSON },
};

static const char *const keys[] = {
	"guest",
	"debug-threads",
	"chardev",
	"mode",
	"id",
	"fd",
	"server",
	"wait",
	"path",
	"append",
	"size",
	"node",
	"nodeid",
	"cpus",
	"memdev",
	"dist",
	"src",
	"dst",
	"val",
	"maxcpus",
	"sockets",
	"dies",
	"cores",
	"threads",
	"thread",
	"tb-size",
	"mem-lock",
	"strict",
	"obsolete",
	"spawn",
	"elevateprivileges",
	"resourcecontrol",
	"shutdown",
	"reboot",
	"panic",
	"intremap",
	"eim",
	"pflash0",
	"pflash1",
	"mem-merge",
	"usb",
	"sata",
	"smbus",
	"vmport",
	"hpet",
	"graphics",
	"dump-guest-core",
	"memory-backend",
	"kernel-irqchip",
	"on",
};

static struct host *host_number(size_t i)
{
	static struct host *loaded[ARRAY_SIZE(hosts)];
	struct error err = ERROR_INIT;

	if (!loaded[i])
		loaded[i] = host_load(hosts[i], &err);
	promise(loaded[i], "%s: %s", hosts[i], err.message);
	return loaded[i];
}

static struct caps *qemu_number(size_t i)
{
	static struct caps *read[ARRAY_SIZE(qemus)];
	struct error err = ERROR_INIT;

	if (!read[i])
		read[i] = caps_read(qemus[i], &err);
	promise(read[i], "%s: %s", qemus[i], err.message);
	return read[i];
}

/* QEMU reads "a=b,c": a comma that is part of a value is doubled. */
static void promise_parts(const char *option, const char *value)
{
	bool cpu = strcmp(option, "-cpu") == 0;

	for (size_t part = 0; *value; part++) {
		size_t end = 0;

		while (value[end] && (value[end] != ',' || value[end + 1] == ','))
			end += value[end] == ',' ? 2 : 1;
		size_t key = strcspn(value, "=,");
		bool known = part == 0 && (key >= end || cpu);
		for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
			known |= key == strlen(keys[i]) && strncmp(value, keys[i], key) == 0;
		/* Features of the CPU: only names, switched on or off. */
		if (cpu && part)
			known = key < end && strspn(value, "abcdefghijklmnopqrstuvwxyz0123456789"
			                                   "ABCDEFGHIJKLMNOPQRSTUVWXYZ.-_") >= key;
		promise(known, "%s has a part \"%.*s\"", option, (int)end, value);
		value += end + (value[end] == ',');
	}
}

static void promise_json(const char *value)
{
	enum json_tokener_error reason;
	cleanup_json struct json_object *json = json_tokener_parse_verbose(value, &reason);

	promise(json && json_object_is_type(json, json_type_object), "no JSON object: %s", value);
	promise(strcmp(value, json_object_to_json_string_ext(
	                          json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)) ==
	            0,
	        "more than JSON: %s", value);
}

/* What the spec has for QEMU stands behind all else, as it is: the user allowed that. */
static size_t words_before_args(const struct command_line *line, const struct spec *spec)
{
	size_t before = line->argc - spec->qemu.n_args;

	promise(line->argc > spec->qemu.n_args, "only words of the spec");
	for (size_t i = 0; i < spec->qemu.n_args; i++)
		promise(strcmp(line->argv[before + i], spec->qemu.args[i]) == 0, "argument %zu", i);
	return before;
}

static void promise_line(const struct command_line *line, const struct spec *spec)
{
	size_t words = words_before_args(line, spec);
	bool paused = false;

	promise(line->argc > 0 && line->argv[0][0] == '/', "no absolute path");
	promise(!line->argv[line->argc], "words without an end");
	for (size_t i = 1; i < words; i++) {
		const char *word = line->argv[i];
		size_t known = 0;

		while (known < ARRAY_SIZE(options) && strcmp(options[known].name, word) != 0)
			known++;
		promise(known < ARRAY_SIZE(options), "not an option: %s", word);
		paused |= strcmp(word, "-S") == 0;
		if (options[known].value == WITHOUT)
			continue;
		promise(++i < words, "%s without a value", word);
		bool json = options[known].value == JSON || line->argv[i][0] == '{';
		if (json && options[known].value != VERBATIM)
			promise_json(line->argv[i]);
		else if (options[known].value == PARTS)
			promise_parts(word, line->argv[i]);
	}
	promise(paused, "the guest would run at once");
	for (size_t i = 1; i < line->n_inherited; i++)
		promise(line->inherited[i - 1].fd < line->inherited[i].fd,
		        "descriptor %d comes "
		        "twice, or too late",
		        line->inherited[i].fd);
	cleanup_free char *shown = command_line_format(line);
	promise(*shown, "nothing to show");
}

static void promise_plan(const struct plan *plan, const struct host *host)
{
	cleanup_bitmap hwloc_bitmap_t taken = xbitmap();

	promise(plan->sockets * plan->dies * plan->cores * plan->threads == (int)plan->n_vcpus,
	        "the topology does not give its vCPUs");
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		const struct plan_vcpu *vcpu = &plan->vcpus[i];

		promise(!hwloc_bitmap_iszero(vcpu->cpus), "vCPU %zu has no CPU", i);
		promise(hwloc_bitmap_isincluded(vcpu->cpus, host->allowed), "vCPU %zu", i);
		if (plan->cpu_policy != CPU_POLICY_DEDICATED)
			continue;
		promise(!hwloc_bitmap_intersects(taken, vcpu->cpus), "vCPU %zu is not alone", i);
		hwloc_bitmap_or(taken, taken, vcpu->cpus);
	}
	promise(!hwloc_bitmap_intersects(taken, plan->siblings), "a sibling is not idle");
	promise(!hwloc_bitmap_iszero(plan->emulator) &&
	            hwloc_bitmap_isincluded(plan->emulator, host->allowed),
	        "the emulator's CPUs");
	for (size_t i = 0; i < plan->n_memory; i++) {
		const struct plan_memory *memory = &plan->memory[i];

		promise(memory->size && memory->size % memory->page_size == 0, "memory %zu", i);
		promise(memory->shared || memory->backing == BACKING_ANON, "memory %zu", i);
	}
}

/* The JSON of a plan, less what is for people. The caller puts it. */
static struct json_object *core_of(const struct plan *plan)
{
	struct json_object *json = plan_to_json(plan);

	json_object_object_del(json, "why");
	json_object_object_del(json, "warnings");
	return json;
}

static void promise_read_back(const struct plan *plan)
{
	cleanup_plan struct plan *copy = plan_copy(plan);
	cleanup_json struct json_object *json = core_of(plan), *again = core_of(copy);

	promise_same_json(json, again);
}

static void launch_on(const struct spec *spec, const struct host *host, const struct caps *caps)
{
	cleanup_error struct error err = ERROR_INIT, again = ERROR_INIT;
	cleanup_plan struct plan *plan = place(spec, host, NULL, caps->accel, &err);
	cleanup_plan struct plan *same = place(spec, host, NULL, caps->accel, &again);
	cleanup_command_line struct command_line *line = NULL;

	promise(!plan == !same && (plan || strcmp(err.message, again.message) == 0),
	        "another answer the second time");
	if (plan) {
		cleanup_json struct json_object *a = plan_to_json(plan), *b = plan_to_json(same);
		promise_same_json(a, b);
		promise_plan(plan, host);
		promise_read_back(plan);
		line = command_line(spec, plan, caps, &err);
	}
	if (line) {
		promise_line(line, spec);
		return;
	}
	promise_error(&err);
	promise_printable(err.message);
	promise(err.code == EXIT_GRANT, "refused as %d: %s", (int)err.code, err.message);
}

static void promise_errors(const struct spec_errors *errors)
{
	promise(errors->count > 0, "refused without an error");
	for (size_t i = 0; i < errors->count; i++) {
		const struct spec_error *error = &errors->list[i];

		promise(error->message && *error->message && error->pointer, "error %zu", i);
		promise(error->line >= 1, "error %zu is on line %u", i, error->line);
		promise(i == 0 || errors->list[i - 1].line <= error->line, "not in order");
		promise_printable(error->message);
		promise_printable(error->pointer);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct spec_errors errors = { 0 };
	cleanup_free char *text = text_of_bytes(data, size);
	cleanup_spec struct spec *spec = spec_parse(SPEC, text, size, &errors);

	if (!spec) {
		promise_errors(&errors);
		spec_errors_free(&errors);
		return 0;
	}
	promise(errors.count == 0, "a spec and errors");
	promise(spec->vcpus >= 1 && spec->vcpus <= spec->max_vcpus, "%d vCPUs of %d", spec->vcpus,
	        spec->max_vcpus);
	for (size_t i = 0; i < ARRAY_SIZE(hosts) && spec->numa.n_nodes <= NODES_MOST; i++)
		launch_on(spec, host_number(i), qemu_number(i));
	return 0;
}
