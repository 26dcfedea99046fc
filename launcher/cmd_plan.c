#include <stdio.h>
#include <stdlib.h>

#include "command.h"
#include "cpulist.h"
#include "launch.h"
#include "place.h"
#include "spec_report.h"
#include "util.h"

static void print_lines(const char *title, char *const *lines, size_t count)
{
	if (count)
		printf("\n%s\n", title);
	for (size_t i = 0; i < count; i++)
		printf("  %s\n", lines[i]);
}

static void print_thread(const char *name, hwloc_const_bitmap_t cpus, struct sched sched,
                         const char *more)
{
	cleanup_free char *list = cpulist_format(cpus);
	cleanup_free char *scheduler = sched_format(sched);

	printf("  %-14s CPUs %-16s %-8s%s\n", name, list, scheduler, more);
}

static void print_threads(const struct plan *plan)
{
	printf("threads\n");
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		const struct plan_vcpu *vcpu = &plan->vcpus[i];
		cleanup_free char *name = xasprintf("vcpu %zu", i);
		cleanup_free char *host = vcpu->host_node >= 0
		                              ? xasprintf("  host node %d", vcpu->host_node)
		                              : xstrdup("");
		cleanup_free char *guest = vcpu->guest_node >= 0
		                               ? xasprintf(", guest node %d", vcpu->guest_node)
		                               : xstrdup("");
		cleanup_free char *more = xasprintf("%s%s%s", host, guest,
		                                    (int)i < plan->vcpus_online ? "" : ", offline");
		print_thread(name, vcpu->cpus, vcpu->sched, more);
	}
	print_thread("emulator", plan->emulator, plan->emulator_sched, "");
	for (size_t i = 0; i < plan->n_iothreads; i++) {
		cleanup_free char *name = xasprintf("iothread %s", plan->iothreads[i].id);
		print_thread(name, plan->iothreads[i].cpus, plan->iothreads[i].sched, "");
	}
}

static void print_memory(const struct plan *plan)
{
	printf("\nmemory\n");
	for (size_t i = 0; i < plan->n_memory; i++) {
		const struct plan_memory *memory = &plan->memory[i];
		cleanup_free char *text = plan_memory_format(memory);
		cleanup_free char *name = memory->guest_node < 0
		                              ? xstrdup("all")
		                              : xasprintf("guest node %d", memory->guest_node);
		printf("  %-14s %s%s%s\n", name, text,
		       memory->pages != PAGES_THP         ? ""
		       : memory->backing == BACKING_MEMFD ? ", in a memfd (shmem_enabled)"
		                                          : ", anonymous",
		       memory->fill == FILL_NONE       ? ", filled as it is used"
		       : memory->fill == FILL_LAUNCHER ? ", filled while QEMU starts"
		                                       : ", filled by QEMU");
	}
	for (size_t i = 0; plan->distances && i < plan->n_memory; i++) {
		printf("  %-14s", i ? "" : "distances");
		for (size_t j = 0; j < plan->n_memory; j++)
			printf(" %3u", plan->distances[i * plan->n_memory + j]);
		printf("\n");
	}
}

static int print_plan(const struct plan *plan, const struct command_line *line)
{
	cleanup_free char *argv = command_line_format(line);
	cleanup_free char *cpu_time = plan_limits_format(plan);

	printf("%s: %d vCPU%s (%d socket%s, %d die%s, %d core%s, %d thread%s), %s\n\n", plan->name,
	       plan->vcpus_online, plural(plan->vcpus_online), plan->sockets, plural(plan->sockets),
	       plan->dies, plural(plan->dies), plan->cores, plural(plan->cores), plan->threads,
	       plural(plan->threads), accel_name(plan->accel));
	print_threads(plan);
	if (*cpu_time)
		printf("\nCPU time\n  %s\n", cpu_time);
	print_memory(plan);
	print_lines("why", plan->why, plan->n_why);
	print_lines("warnings", plan->warnings, plan->n_warnings);
	printf("\nQEMU\n%s", argv);
	return command_flush();
}

static int print_json(const struct plan *plan, const struct command_line *line)
{
	struct json_object *json = plan_to_json(plan);
	struct json_object *argv = json_object_new_array();

	for (size_t i = 0; i < line->argc; i++)
		json_object_array_add(argv, json_object_new_string(line->argv[i]));
	json_object_object_add(json, "argv", argv);
	return command_print_json(json);
}

static int run(const struct invocation *call)
{
	int code;
	cleanup_spec struct spec *spec = spec_of_call(call, &code);
	cleanup_planning struct planning planning = { 0 };
	cleanup_claims struct claims *claims = NULL;
	cleanup_plan struct plan *plan = NULL;
	cleanup_command_line struct command_line *line = NULL;
	cleanup_error struct error err = ERROR_INIT;
	const char *host = invocation_option(call, "host");
	bool runs;

	if (!spec)
		return code;
	if (planning_begin(&planning, spec, host, invocation_option(call, "qemu-caps"), &err) < 0 ||
	    ledger_read_claims(host == NULL, &claims, &err) < 0)
		return command_fail(&err);
	runs = claims_drop(claims, spec->name);
	plan = place(spec, planning.host, claims, planning.accel, &err);
	line = plan ? command_line(spec, plan, planning.caps, &err) : NULL;
	if (!line)
		return command_fail(&err);
	if (runs)
		plan_why(plan, "a VM \"%s\" runs now: what it holds counts as free", spec->name);
	planning_warn(&planning, spec, claims, plan);
	return invocation_option(call, "json") ? print_json(plan, line) : print_plan(plan, line);
}

static const struct command_option options[] = {
	OPTION_JSON,
	{ "host", "H", "plan for this host: an hwloc XML file or a synthetic description" },
	OPTION_RESERVE,
	OPTION_ALLOW_ARGS,
	{ "qemu-caps", "FILE", "plan for a QEMU that is not here, by its recorded capabilities" },
	{ 0 },
};

const struct command cmd_plan = {
	.name = "plan",
	.arguments = "SPEC",
	.min_args = 1,
	.max_args = 1,
	.summary = "Show the whole placement, why, and QEMU's command line; change nothing",
	.options = options,
	.run = run,
};
