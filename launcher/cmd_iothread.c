#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "cpulist.h"
#include "hotplug.h"
#include "place.h"
#include "spec.h"
#include "util.h"

/* What QEMU takes as an id (util/id.c): letters, digits, "-", "." and "_", a letter first; no
 * longer than in a spec. */
static bool is_id(const char *text)
{
	if (!isalpha((unsigned char)*text))
		return false;
	for (const char *p = text; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("-._", *p))
			return false;
	return strlen(text) <= NAME_LONGEST;
}

static bool has_iothread(const struct plan *plan, const char *id)
{
	for (size_t i = 0; i < plan->n_iothreads; i++)
		if (strcmp(plan->iothreads[i].id, id) == 0)
			return true;
	return false;
}

static int parse_where(const struct invocation *call, hwloc_bitmap_t *cpus, struct sched *sched,
                       struct error *err)
{
	const char *list = invocation_option(call, "cpus");
	const char *scheduler = invocation_option(call, "scheduler");

	if (list && cpulist_parse(list, cpus, err) < 0) {
		err->code = EXIT_USAGE;
		return error_prefix(err, "--cpus: ");
	}
	if (list && hwloc_bitmap_iszero(*cpus))
		return error_set(err, EXIT_USAGE, "--cpus: the list is empty");
	return scheduler ? change_parse_sched(scheduler, sched, err) : 0;
}

/* Into the plan, checked as a launch would. */
static int plan_iothread(struct live *live, const char *id, hwloc_const_bitmap_t cpus,
                         struct sched sched, struct error *err)
{
	struct plan *plan = live->plan;
	cleanup_free char *what = xasprintf("iothread %s", id);

	if (has_iothread(plan, id))
		return error_set(err, EXIT_FAILED, "VM \"%s\" has an iothread \"%s\" already",
		                 plan->name, id);
	if (cpus && place_check_pin(live->host, what, cpus, err) < 0)
		return -1;
	struct plan_iothread *iothread = array_append(&plan->iothreads, &plan->n_iothreads);
	iothread->id = xstrdup(id);
	iothread->cpus = xbitmap_dup(cpus ? cpus : plan->emulator);
	iothread->sched = sched;
	return place_check(plan, live->others, err);
}

static int report(const struct invocation *call, const struct live *live, const char *id)
{
	struct json_object *json;

	if (!invocation_option(call, "json")) {
		printf("iothread %s is %s\n", id,
		       strcmp(call->args[1], "add") == 0 ? "there, as asked for" : "gone");
		return command_flush();
	}
	json = json_object_new_object();
	struct json_object *list = json_object_new_array();
	for (size_t i = 0; i < live->plan->n_iothreads; i++) {
		const struct plan_iothread *iothread = &live->plan->iothreads[i];
		struct json_object *item = json_object_new_object();
		cleanup_free char *cpus = cpulist_format(iothread->cpus);
		json_add_string(item, "id", iothread->id);
		json_add_string(item, "cpus", cpus);
		json_add_string(item, "scheduler", scheduler_name(iothread->sched.scheduler));
		json_add_int(item, "priority", iothread->sched.priority);
		json_object_array_add(list, item);
	}
	json_add_string(json, "name", live->plan->name);
	json_object_object_add(json, "iothreads", list);
	return command_print_json(json);
}

static int run(const struct invocation *call)
{
	cleanup_live struct live live = LIVE_INIT;
	cleanup_error struct error err = ERROR_INIT;
	cleanup_bitmap hwloc_bitmap_t cpus = NULL;
	struct sched sched = { SCHED_UNSET, 0 };
	const char *id = call->args[2];
	bool add = strcmp(call->args[1], "add") == 0;

	if ((!add && strcmp(call->args[1], "remove") != 0) || !is_id(id)) {
		fprintf(stderr, "ancla iothread: NAME add ID, or NAME remove ID; an ID is letters, "
		                "digits, \"-\", \".\", \"_\", 63 bytes at most\n");
		return EXIT_USAGE;
	}
	if (add && spec_is_memory_id(id)) {
		fprintf(stderr,
		        "ancla iothread: \"%s\" is what guest memory is called in QEMU; give "
		        "the iothread another name\n",
		        id);
		return EXIT_USAGE;
	}
	if (parse_where(call, &cpus, &sched, &err) < 0 ||
	    live_begin(&live, call->args[0], &err) < 0 || live_lock(&live, &err) < 0)
		return command_fail(vm_client_blame(&live.client, &err));
	if (!add && !has_iothread(live.plan, id) && !hotplug_has_iothread(&live, id)) {
		error_set(&err, EXIT_FAILED, "VM \"%s\" has no iothread \"%s\"", live.plan->name,
		          id);
		return command_fail(vm_client_blame(&live.client, &err));
	}
	if (add ? plan_iothread(&live, id, cpus, sched, &err) < 0 ||
	              hotplug_add_iothread(&live, &err) < 0
	        : hotplug_remove_iothread(&live, id, &err) < 0)
		return command_fail(vm_client_blame(&live.client, &err));
	command_warn(live.others->left_out);
	return report(call, &live, id);
}

static const struct command_option options[] = {
	{ "cpus", "LIST", "where it may run (the emulator's CPUs)" },
	{ "scheduler", "S", "fifo:PRIORITY, rr:PRIORITY, other, batch or idle (other)" },
	OPTION_JSON,
	{ 0 },
};

static const char *const ways[] = { "add", "remove", NULL };

const struct command cmd_iothread = {
	.name = "iothread",
	.arguments = "NAME add|remove ID",
	.min_args = 3,
	.max_args = 3,
	.summary = "Add an iothread to a running VM, or take one away",
	.details =
	    "Checked as a launch is; the thread is born on its CPUs, with its scheduler, and read\n"
	    "back before anything uses it. One that serves a device stays.",
	.second = ways,
	.options = options,
	.run = run,
};
