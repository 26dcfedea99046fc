#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "change.h"
#include "cmd_pin_memory.h"
#include "command.h"
#include "cpulist.h"
#include "live.h"
#include "place.h"
#include "util.h"

/* What changes for one vCPU, the emulator or one iothread. */
struct row {
	enum thread_role role;
	int index;      /* of the vCPU */
	const char *id; /* of the iothread */
	hwloc_const_bitmap_t was_cpus, cpus;
	struct sched was_sched, sched;
};

typedef void row_fn(const struct row *row, void *data);

static void visit(const struct row *row, row_fn *fn, void *data)
{
	if (!hwloc_bitmap_isequal(row->was_cpus, row->cpus) ||
	    row->was_sched.scheduler != row->sched.scheduler ||
	    row->was_sched.priority != row->sched.priority)
		fn(row, data);
}

/* Calls for all that differs between two plans of one VM. */
static void each_change(const struct plan *was, const struct plan *plan, row_fn *fn, void *data)
{
	for (size_t i = 0; i < plan->n_vcpus; i++)
		visit(&(struct row){ THREAD_VCPU, (int)i, NULL, was->vcpus[i].cpus,
		                     plan->vcpus[i].cpus, was->vcpus[i].sched,
		                     plan->vcpus[i].sched },
		      fn, data);
	visit(&(struct row){ THREAD_EMULATOR, -1, NULL, was->emulator, plan->emulator,
	                     was->emulator_sched, plan->emulator_sched },
	      fn, data);
	for (size_t i = 0; i < plan->n_iothreads; i++)
		visit(&(struct row){ THREAD_IOTHREAD, -1, plan->iothreads[i].id,
		                     was->iothreads[i].cpus, plan->iothreads[i].cpus,
		                     was->iothreads[i].sched, plan->iothreads[i].sched },
		      fn, data);
}

static void add_json(const struct row *row, void *data)
{
	struct json_object *json = json_object_new_object(), *was = json_object_new_object();
	cleanup_free char *was_cpus = cpulist_format(row->was_cpus);
	cleanup_free char *cpus = cpulist_format(row->cpus);

	json_add_string(json, "role", thread_role_name(row->role));
	if (row->role == THREAD_VCPU)
		json_add_int(json, "index", row->index);
	if (row->id)
		json_add_string(json, "id", row->id);
	json_add_string(json, "cpus", cpus);
	json_add_string(json, "scheduler", scheduler_name(row->sched.scheduler));
	json_add_int(json, "priority", row->sched.priority);
	json_add_string(was, "cpus", was_cpus);
	json_add_string(was, "scheduler", scheduler_name(row->was_sched.scheduler));
	json_add_int(was, "priority", row->was_sched.priority);
	json_object_object_add(json, "was", was);
	json_object_array_add(data, json);
}

static void print_row(const struct row *row, void *data)
{
	cleanup_free char *name = row->role == THREAD_VCPU ? xasprintf("vcpu %d", row->index)
	                          : row->id                ? xasprintf("iothread %s", row->id)
	                                                   : xstrdup("emulator");
	cleanup_free char *was_cpus = cpulist_format(row->was_cpus);
	cleanup_free char *cpus = cpulist_format(row->cpus);
	cleanup_free char *was_sched = sched_format(row->was_sched);
	cleanup_free char *sched = sched_format(row->sched);

	if ((*(size_t *)data)++ == 0)
		printf("%-14s %-16s %-10s %-16s %s\n", "THREAD", "WAS", "", "IS", "");
	printf("%-14s %-16s %-10s %-16s %s\n", name, was_cpus, was_sched, cpus, sched);
}

static struct json_object *change_json(const struct live *live, bool dry)
{
	struct json_object *json = json_object_new_object(), *list = json_object_new_array();

	each_change(live->client.plan, live->plan, add_json, list);
	plan_add_limits(json, live->plan);
	json_add_string(json, "name", live->plan->name);
	json_add_bool(json, "dry-run", dry);
	json_object_object_add(json, "changes", list);
	json_add_int(json, "threads", (int64_t)live->moves.count);
	return json;
}

/* False if they are the same. */
static bool print_limits(const struct plan *was, const struct plan *plan)
{
	cleanup_free char *before = plan_limits_format(was);
	cleanup_free char *now = plan_limits_format(plan);

	if (was->shares == plan->shares && was->quota == plan->quota)
		return false;
	printf("CPU time: was %s, is %s\n", *before ? before : "as the host's", now);
	return true;
}

static int report(const struct live *live, bool dry, bool as_json)
{
	size_t count = 0;

	if (as_json)
		return command_print_json(change_json(live, dry));
	each_change(live->client.plan, live->plan, print_row, &count);
	bool limits = print_limits(live->client.plan, live->plan);
	if (count == 0 && !limits)
		printf("nothing to change\n");
	else if (dry)
		printf("nothing was changed (--dry-run)\n");
	else if (count == 0)
		printf("shares and quota set, and read back\n");
	else
		printf("%zu thread%s moved, and read back\n", live->moves.count,
		       plural(live->moves.count));
	return command_flush();
}

/* What is allowed but not wise. */
static void warn(struct plan *plan)
{
	size_t before = plan->n_warnings;

	place_warn(plan);
	while (plan->n_warnings > before) {
		char *warning = plan->warnings[--plan->n_warnings];
		command_warn(warning);
		free(warning);
	}
}

static int prepare(struct spec_save *save, const struct live *live, const struct change *change,
                   struct error *err)
{
	if (spec_save_open(save, live->client.state.spec, live->plan->name, err) < 0 ||
	    spec_save_threads(save, change, err) < 0)
		return -1;
	return spec_save_prepare(save, change, err);
}

static int run(const struct invocation *call)
{
	if (strcmp(call->args[1], "memory") == 0)
		return pin_memory(call);

	cleanup_change struct change change = { 0 };
	cleanup_live struct live live = LIVE_INIT;
	cleanup_spec_save struct spec_save save = SPEC_SAVE_INIT;
	cleanup_error struct error err = ERROR_INIT;
	bool keep = invocation_option(call, "save") != NULL;
	bool dry = invocation_option(call, "dry-run") != NULL;

	if (invocation_option(call, "node")) {
		error_set(&err, EXIT_USAGE, "--node is for memory: ancla pin %s memory 0 --node 1",
		          call->args[0]);
		return command_fail(&err);
	}
	if (change_parse(&change, call->args + 1, call->n_args - 1,
	                 invocation_option(call, "scheduler"), &err) < 0 ||
	    live_begin(&live, call->args[0], &err) < 0 || live_lock(&live, &err) < 0 ||
	    change_plan(&change, live.plan, live.host, live.others, &err) < 0 ||
	    (keep && prepare(&save, &live, &change, &err) < 0) ||
	    (!dry && live_commit(&live, keep ? &save : NULL, &err) < 0))
		return command_fail(vm_client_blame(&live.client, &err));
	command_warn(live.others->left_out);
	warn(live.plan);
	return report(&live, dry, invocation_option(call, "json") != NULL);
}

static const struct command_option options[] = {
	{ "scheduler", "S", "fifo:PRIORITY, rr:PRIORITY, other, batch or idle, for all targets" },
	{ "node", "NODES", "with memory: the host nodes that it is moved to" },
	{ "save", NULL, "write it to the spec that the VM was started from, too" },
	{ "dry-run", NULL, "show what would change, and change nothing" },
	OPTION_JSON,
	{ 0 },
};

const struct command cmd_pin = {
	.name = "pin",
	.arguments = "NAME TARGET...",
	.min_args = 2,
	.max_args = 256,
	.summary = "Change where the threads of a running VM may run, and how they are scheduled",
	.details =
	    "Targets, one or more in a call:\n"
	    "  vcpu 0-3 8-11        each of these vCPUs gets the whole set of CPUs\n"
	    "  vcpu 0-3=8-11        one to one, in the order in which they are written\n"
	    "  emulator 4-5         QEMU's main loop and its helpers\n"
	    "  iothread io0 6       one iothread\n"
	    "  shares 2048          CPU shares of the VM, against its neighbours'\n"
	    "  quota 200%           CPU time of the VM, in percent of one CPU\n"
	    "  memory 0-1 --node 2  pages of guest nodes (without a list: all); alone in a call\n"
	    "With --scheduler the CPUs may be left out. The change is checked as a launch is,\n"
	    "applied, read back from the kernel, and recorded as what the VM holds. If a step\n"
	    "fails, everything is as it was. Of memory only pages move: QEMU's policy cannot be\n"
	    "changed from outside, and the plan remembers both.",
	.second = change_kinds,
	.options = options,
	.run = run,
};
