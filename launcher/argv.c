#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "argv.h"
#include "argv_parts.h"
#include "util.h"

static void add_word(struct building *b, char *word)
{
	struct command_line *line = b->line;

	line->argv = xreallocarray(line->argv, line->argc + 2, sizeof(*line->argv));
	line->argv[line->argc++] = word;
	line->argv[line->argc] = NULL;
}

void argv_option(struct building *b, const char *option, const char *format, ...)
{
	va_list args;

	add_word(b, xstrdup(option));
	va_start(args, format);
	add_word(b, xvasprintf(format, args));
	va_end(args);
}

void argv_json(struct building *b, const char *option, struct json_object *json)
{
	add_word(b, xstrdup(option));
	add_word(b, xstrdup(json_object_to_json_string_ext(
	                json, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)));
	json_object_put(json);
}

int argv_inherit(struct building *b, enum inherited_kind kind, size_t index, int fd)
{
	struct inherited *inherited = array_append(&b->line->inherited, &b->line->n_inherited);

	inherited->kind = kind;
	inherited->index = index;
	inherited->fd = fd;
	return fd;
}

char *argv_escape(const char *text)
{
	char *escaped = xcalloc(strlen(text) * 2 + 1, 1);
	char *to = escaped;

	for (; *text; text++) {
		*to++ = *text;
		if (*text == ',')
			*to++ = ',';
	}
	return escaped;
}

const char *machine_name(enum machine machine)
{
	static const char *const names[] = { "q35", "pc", "microvm" };

	return names[machine];
}

/* Parts of the machine that are there unless switched off, each where this QEMU has the switch. */
static void add_machine(struct building *b)
{
	static const char *const off[] = { "usb",  "sata",     "smbus",          "vmport",
		                           "hpet", "graphics", "dump-guest-core" };
	const char *machine = machine_name(b->spec->qemu.machine);
	cleanup_free char *text = NULL;
	size_t length;
	FILE *out = xmemstream(&text, &length);

	fputs(machine, out);
	for (size_t i = 0; i < ARRAY_SIZE(off); i++) {
		cleanup_free char *question = xasprintf("machine:%s:%s", machine, off[i]);
		if (caps_has(b->caps, question))
			fprintf(out, ",%s=off", off[i]);
	}
	if (b->plan->nosharepages)
		fputs(",mem-merge=off", out);
	if (b->plan->memory[0].guest_node < 0)
		fputs(",memory-backend=ram0", out);
	fclose(out);
	argv_option(b, "-machine", "%s", text);
}

static int bits_for(int count)
{
	int bits = 0;

	while (1 << bits < count)
		bits++;
	return bits;
}

/* The highest APIC id: each level of the topology has whole bits. From 255 on, the guest needs
 * x2APIC, and an IOMMU that interrupts such CPUs. */
static bool has_wide_apic_ids(const struct plan *plan)
{
	int64_t id = plan->sockets - 1;

	id = id << bits_for(plan->dies) | (plan->dies - 1);
	id = id << bits_for(plan->cores) | (plan->cores - 1);
	id = id << bits_for(plan->threads) | (plan->threads - 1);
	return id >= 255;
}

static void add_accel(struct building *b)
{
	if (b->plan->accel == ACCEL_KVM)
		argv_option(b, "-accel", "kvm%s",
		            has_wide_apic_ids(b->plan) ? ",kernel-irqchip=split" : "");
	else
		/* mlockall would lock the whole translation cache, 1 GiB unless bounded. */
		argv_option(b, "-accel", "tcg,thread=multi%s",
		            b->plan->locked ? ",tb-size=64" : "");
}

/* Guests learn of threads and dies from an Intel CPU, or from an AMD CPU with topoext; else they
 * take each for a core or a socket. TCG's own CPU is an AMD one without it. */
static const char *topology_shown(const struct building *b, const char *cpu)
{
	const struct plan *plan = b->plan;
	size_t length = strcspn(cpu, ",");

	if (plan->threads == 1 && plan->dies == 1)
		return "";
	if (plan->accel == ACCEL_TCG && strncmp(cpu, "max", length) == 0)
		return ",vendor=GenuineIntel";
	if (strncmp(cpu, "host", length) == 0 && caps_gives_feature(b->caps, "topoext") &&
	    !strstr(cpu, ",topoext="))
		return ",topoext=on";
	return "";
}

static int add_cpu(struct building *b, struct error *err)
{
	const struct plan *plan = b->plan;
	cleanup_free char *cpu = guest_cpu(b->spec, b->caps, err);

	if (!cpu)
		return -1;
	argv_option(b, "-cpu", "%s%s", cpu, topology_shown(b, cpu));
	argv_option(b, "-smp", "cpus=%d,maxcpus=%zu,sockets=%d,dies=%d,cores=%d,threads=%d",
	            plan->vcpus_online, plan->n_vcpus, plan->sockets, plan->dies, plan->cores,
	            plan->threads);
	return 0;
}

static const char *qemu_policy(enum mem_policy policy)
{
	switch (policy) {
	case MEM_POLICY_STRICT:
		return "bind";
	case MEM_POLICY_PREFERRED:
		return "preferred";
	case MEM_POLICY_INTERLEAVE:
		return "interleave";
	default:
		return NULL; /* restrictive: the process is confined instead */
	}
}

static struct json_object *node_list(hwloc_const_bitmap_t nodes)
{
	struct json_object *list = json_object_new_array();
	unsigned node;

	hwloc_bitmap_foreach_begin(node, nodes)
	    json_object_array_add(list, json_object_new_int((int)node));
	hwloc_bitmap_foreach_end();
	return list;
}

/* QEMU fills from threads bound to the nodes, where it knows how; it gives up on a node without
 * CPUs. */
static void add_prealloc(struct building *b, struct json_object *json, size_t index)
{
	const struct plan_memory *memory = &b->plan->memory[index];
	cleanup_free char *id = xasprintf("fill%zu", index);
	const char *type =
	    memory->backing == BACKING_ANON ? "memory-backend-ram" : "memory-backend-file";
	cleanup_free char *question = xasprintf("property:%s:prealloc-context", type);

	json_add_bool(json, "prealloc", true);
	if (!memory->has_cpus || !caps_has(b->caps, question) ||
	    !caps_has(b->caps, "type:thread-context"))
		return;
	struct json_object *context = json_object_new_object();
	json_add_string(context, "qom-type", "thread-context");
	json_add_string(context, "id", id);
	json_object_object_add(context, "node-affinity", node_list(memory->host_nodes));
	argv_json(b, "-object", context);
	json_add_string(json, "prealloc-context", id);
}

static void add_backend(struct building *b, size_t index)
{
	const struct plan_memory *memory = &b->plan->memory[index];
	struct json_object *json = json_object_new_object();
	cleanup_free char *id = xasprintf("ram%zu", index);
	const char *policy = qemu_policy(memory->policy);
	bool file = memory->backing != BACKING_ANON;

	json_add_string(json, "qom-type", file ? "memory-backend-file" : "memory-backend-ram");
	json_add_string(json, "id", id);
	json_add_int(json, "size", (int64_t)memory->size);
	if (file) {
		int fd = argv_inherit(b, INHERIT_MEMORY, index, FD_MEMORY + (int)index);
		cleanup_free char *path = xasprintf("/proc/self/fd/%d", fd);
		json_add_string(json, "mem-path", path);
		json_add_bool(json, "share", true);
	}
	if (policy && memory->host_nodes) {
		json_object_object_add(json, "host-nodes", node_list(memory->host_nodes));
		json_add_string(json, "policy", policy);
	}
	if (memory->fill == FILL_QEMU)
		add_prealloc(b, json, index);
	argv_json(b, "-object", json);
}

/* The guest node's vCPUs as -numa takes them: one cpus= for each run. */
static void add_guest_node(struct building *b, size_t node)
{
	const struct plan *plan = b->plan;
	cleanup_free char *cpus = NULL;
	size_t length;
	FILE *out = xmemstream(&cpus, &length);

	for (size_t i = 0; i < plan->n_vcpus; i++) {
		size_t last = i;
		if (plan->vcpus[i].guest_node != (int)node)
			continue;
		while (last + 1 < plan->n_vcpus && plan->vcpus[last + 1].guest_node == (int)node)
			last++;
		fprintf(out, last > i ? ",cpus=%zu-%zu" : ",cpus=%zu", i, last);
		i = last;
	}
	fclose(out);
	argv_option(b, "-numa", "node,nodeid=%zu%s,memdev=ram%zu", node, cpus, node);
}

static void add_memory(struct building *b)
{
	const struct plan *plan = b->plan;
	uint64_t bytes = 0;

	for (size_t i = 0; i < plan->n_memory; i++)
		bytes += plan->memory[i].size;
	argv_option(b, "-m", "size=%" PRIu64 "k", bytes / 1024);
	for (size_t i = 0; i < plan->n_memory; i++)
		add_backend(b, i);
	for (size_t i = 0; plan->memory[0].guest_node >= 0 && i < plan->n_memory; i++)
		add_guest_node(b, i);
	for (size_t i = 0; plan->distances && i < plan->n_memory; i++)
		for (size_t j = 0; j < plan->n_memory; j++)
			argv_option(b, "-numa", "dist,src=%zu,dst=%zu,val=%u", i, j,
			            plan->distances[i * plan->n_memory + j]);
	if (plan->locked)
		argv_option(b, "-overcommit", "mem-lock=on");
}

static void add_process(struct building *b)
{
	argv_option(b, "-name", "guest=%s,debug-threads=on", b->spec->name);
	add_word(b, xstrdup("-S"));
	add_word(b, xstrdup("-no-user-config"));
	add_word(b, xstrdup("-nodefaults"));
	if (caps_has(b->caps, "option:sandbox"))
		argv_option(b, "-sandbox",
		            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,"
		            "resourcecontrol=deny");
	argv_option(b, "-display", "none");
	argv_option(b, "-chardev", "socket,id=monitor,fd=%d,server=on,wait=off",
	            argv_inherit(b, INHERIT_MONITOR, 0, FD_MONITOR));
	argv_option(b, "-mon", "chardev=monitor,mode=control");
	argv_option(b, "-chardev", "socket,id=commands,fd=%d,server=on,wait=off",
	            argv_inherit(b, INHERIT_COMMANDS, 0, FD_COMMANDS));
	argv_option(b, "-mon", "chardev=commands,mode=control");
	argv_inherit(b, INHERIT_LOCK, 0, FD_LOCK);
}

static void add_serial(struct building *b)
{
	cleanup_free char *path = NULL;

	switch (b->spec->serial.type) {
	case SERIAL_NONE:
		return;
	case SERIAL_STDIO:
	case SERIAL_SOCKET:
		argv_option(b, "-chardev", "socket,id=serial0,fd=%d,server=on,wait=off",
		            argv_inherit(b, INHERIT_SERIAL, 0, FD_SERIAL));
		break;
	case SERIAL_PTY:
		argv_option(b, "-chardev", "pty,id=serial0");
		break;
	case SERIAL_FILE:
		path = argv_escape(b->spec->serial.path);
		argv_option(b, "-chardev", "file,id=serial0,path=%s,append=on", path);
		break;
	}
	argv_option(b, "-serial", "chardev:serial0");
}

static void add_boot(struct building *b)
{
	const struct spec *spec = b->spec;

	if (spec->boot.firmware && spec->boot.nvram) {
		argv_flash(b, 0, spec->boot.firmware, true);
		argv_flash(b, 1, spec->boot.nvram, false);
	} else if (spec->boot.firmware) {
		argv_option(b, "-bios", "%s", spec->boot.firmware);
	}
	if (spec->boot.kernel)
		argv_option(b, "-kernel", "%s", spec->boot.kernel);
	if (spec->boot.initrd)
		argv_option(b, "-initrd", "%s", spec->boot.initrd);
	if (spec->boot.cmdline)
		argv_option(b, "-append", "%s", spec->boot.cmdline);
	if (spec->qemu.machine != MACHINE_MICROVM)
		argv_option(b, "-boot", "strict=on");
}

/* A guest tells of its panic through a device that Linux finds by ACPI: not on microvm. */
static bool tells_of_panic(const struct building *b)
{
	return b->spec->qemu.machine != MACHINE_MICROVM && caps_has(b->caps, "type:pvpanic");
}

/* What QEMU does when the guest powers off, resets, or panics; its own defaults are not said. What
 * it cannot do, the supervisor does to a guest that is stopped (life.h). */
static void add_actions(struct building *b)
{
	if (tells_of_panic(b))
		argv_option(b, "-device", "pvpanic");
	if (actions_pause(&b->spec->actions))
		argv_option(b, "-action", "shutdown=pause");
	if (b->spec->actions.on_reboot != ACTION_RESTART)
		argv_option(b, "-action", "reboot=shutdown");
	if (b->spec->actions.on_crash != ACTION_DESTROY)
		argv_option(b, "-action", "panic=pause");
}

static int check_apic_ids(const struct building *b, struct error *err)
{
	size_t n = b->plan->n_vcpus;

	if (!has_wide_apic_ids(b->plan))
		return 0;
	if (b->spec->qemu.machine != MACHINE_Q35)
		return error_set(err, EXIT_GRANT,
		                 "max-vcpus: %zu vCPUs in this topology need APIC ids from 255 on, "
		                 "which machine %s has not; use q35, or fewer vCPUs",
		                 n, machine_name(b->spec->qemu.machine));
	if (b->plan->accel == ACCEL_TCG && !caps_gives_feature(b->caps, "x2apic"))
		return error_set(err, EXIT_GRANT,
		                 "max-vcpus: %zu vCPUs in this topology need APIC ids from 255 on, "
		                 "and so x2APIC, which tcg of %s has not; use kvm, or fewer vCPUs",
		                 n, b->caps->binary);
	if (!caps_has(b->caps, "property:intel-iommu:eim"))
		return error_set(err, EXIT_GRANT,
		                 "max-vcpus: %zu vCPUs in this topology need APIC ids from 255 on, "
		                 "and so an IOMMU with eim, which %s has not; use fewer vCPUs",
		                 n, b->caps->binary);
	return 0;
}

static int check_can(const struct building *b, struct error *err)
{
	cleanup_free char *machine = xasprintf("machine:%s", machine_name(b->spec->qemu.machine));

	if (!caps_has(b->caps, machine))
		return error_set(err, EXIT_GRANT, "qemu.machine: %s has no machine \"%s\"",
		                 b->caps->binary, machine_name(b->spec->qemu.machine));
	if (b->plan->n_iothreads && !caps_has(b->caps, "type:iothread"))
		return error_set(err, EXIT_GRANT, "iothreads: %s has none", b->caps->binary);
	if (b->spec->actions.on_crash != ACTION_DESTROY && !tells_of_panic(b))
		return error_set(err, EXIT_GRANT,
		                 "on-crash: a guest on machine %s of %s cannot tell that it "
		                 "panicked; use destroy or q35",
		                 machine_name(b->spec->qemu.machine), b->caps->binary);
	return check_apic_ids(b, err);
}

static int compare_inherited(const void *a, const void *b)
{
	return ((const struct inherited *)a)->fd - ((const struct inherited *)b)->fd;
}

struct command_line *command_line(const struct spec *spec, const struct plan *plan,
                                  const struct caps *caps, struct error *err)
{
	cleanup_command_line struct command_line *line = xcalloc(1, sizeof(*line));
	struct building b = { .spec = spec, .plan = plan, .caps = caps, .line = line };

	if (check_can(&b, err) < 0)
		return NULL;
	add_word(&b, xstrdup(caps->binary));
	add_process(&b);
	add_machine(&b);
	add_accel(&b);
	if (add_cpu(&b, err) < 0)
		return NULL;
	add_memory(&b);
	add_serial(&b);
	add_boot(&b);
	add_actions(&b);
	if (has_wide_apic_ids(plan))
		argv_option(&b, "-device", "intel-iommu,intremap=on,eim=on");
	if (argv_devices(&b, err) < 0)
		return NULL;
	for (size_t i = 0; i < spec->qemu.n_args; i++)
		add_word(&b, xstrdup(spec->qemu.args[i]));
	qsort(line->inherited, line->n_inherited, sizeof(*line->inherited), compare_inherited);
	return take_pointer(&line);
}

void command_line_free(struct command_line *line)
{
	if (!line)
		return;
	for (size_t i = 0; i < line->argc; i++)
		free(line->argv[i]);
	free(line->argv);
	free(line->inherited);
	free(line);
}

static void print_quoted(FILE *out, const char *word)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	                            "-_=+:,./%@";

	if (*word && word[strspn(word, plain)] == '\0') {
		fputs(word, out);
		return;
	}
	fputc('\'', out);
	for (; *word; word++)
		if (*word == '\'')
			fputs("'\\''", out);
		else
			fputc(*word, out);
	fputc('\'', out);
}

char *command_line_format(const struct command_line *line)
{
	char *text = NULL;
	size_t length;
	FILE *out = xmemstream(&text, &length);

	for (size_t i = 0; i < line->argc; i++) {
		if (i)
			fputs(line->argv[i][0] == '-' ? " \\\n  " : " ", out);
		print_quoted(out, line->argv[i]);
	}
	fputc('\n', out);
	fclose(out);
	return text;
}
