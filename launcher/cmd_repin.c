#include <stdio.h>

#include "apply.h"
#include "command.h"
#include "cpulist.h"
#include "live_limits.h"
#include "util.h"
#include "vm_client.h"

static struct json_object *place_json(hwloc_const_bitmap_t cpus, struct sched sched)
{
	struct json_object *json = json_object_new_object();
	cleanup_free char *list = cpulist_format(cpus);

	json_add_string(json, "cpus", list);
	json_add_string(json, "scheduler", scheduler_name(sched.scheduler));
	json_add_int(json, "priority", sched.priority);
	return json;
}

static struct json_object *moves_json(const struct plan *plan, const struct moves *moves)
{
	struct json_object *json = json_object_new_object(), *list = json_object_new_array();

	for (size_t i = 0; i < moves->count; i++) {
		const struct move *move = &moves->list[i];
		struct json_object *item = place_json(move->cpus, move->sched);
		json_add_string(item, "thread", move->name);
		json_add_int(item, "tid", move->tid);
		json_object_object_add(item, "was", place_json(move->was_cpus, move->was_sched));
		json_object_array_add(list, item);
	}
	json_add_string(json, "name", plan->name);
	json_object_object_add(json, "changes", list);
	return json;
}

static void print_moves(const struct plan *plan, const struct moves *moves)
{
	for (size_t i = 0; i < moves->count; i++) {
		const struct move *move = &moves->list[i];
		cleanup_free char *was_cpus = cpulist_format(move->was_cpus);
		cleanup_free char *cpus = cpulist_format(move->cpus);
		cleanup_free char *was_sched = sched_format(move->was_sched);
		cleanup_free char *sched = sched_format(move->sched);
		printf("%s: was on %s, %s; is on %s, %s\n", move->name, was_cpus, was_sched, cpus,
		       sched);
	}
	if (moves->count == 0)
		printf("every thread of %s is as planned\n", plan->name);
}

static int remove_left(struct vm_client *client, struct error *err)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;

	if (!live_limits_left(client))
		return 0;
	return ledger_open(&ledger, false, err) < 0 ? -1 : live_limits_remove_left(client, err);
}

/* vCPUs that a killed command added are the VM's. */
static int write_vcpus(const struct vm_client *client, int known, struct error *err)
{
	if (client->plan->vcpus_online == known)
		return 0;
	return vm_write_threads(&client->dir, &client->threads, err) < 0
	           ? -1
	           : vm_write_plan(&client->dir, client->plan, err);
}

static int run(const struct invocation *call)
{
	cleanup_vm_client struct vm_client client = VM_CLIENT_INIT;
	cleanup_moves struct moves moves = { 0 };
	cleanup_error struct error err = ERROR_INIT;

	if (vm_client_open(&client, call->args[0], &err) < 0 ||
	    vm_client_connect(&client, &err) < 0)
		return command_fail(vm_client_blame(&client, &err));
	int known = client.plan->vcpus_online;
	if (vm_client_query(&client, &err) < 0 || remove_left(&client, &err) < 0 ||
	    apply_plan(NULL, client.plan, &client.threads, &moves, &err) < 0 ||
	    write_vcpus(&client, known, &err) < 0)
		return command_fail(vm_client_blame(&client, &err));
	vm_client_disconnect(&client);
	cleanup_free char *unknown = threads_unknown(&client.threads);
	command_warn(unknown);
	if (invocation_option(call, "json"))
		return command_print_json(moves_json(client.plan, &moves));
	print_moves(client.plan, &moves);
	return command_flush();
}

static const struct command_option options[] = { OPTION_JSON, { 0 } };

const struct command cmd_repin = {
	.name = "repin",
	.arguments = "NAME",
	.min_args = 1,
	.max_args = 1,
	.summary = "Put every thread of a running VM as planned again",
	.details =
	    "Prints what it changed, and reads it back. Where all is as planned, nothing is\n"
	    "touched. If a thread cannot be put right, the others are as they were.",
	.options = options,
	.run = run,
};
