#include <stdio.h>
#include <stdlib.h>

#include "command.h"
#include "cpulist.h"
#include "hotplug.h"
#include "util.h"

static int parse_count(const char *text, long *count)
{
	char *end;

	*count = strtol(text, &end, 10);
	if (*text >= '0' && *text <= '9' && !*end && *count >= 1 && *count <= 1 << 16)
		return 0;
	fprintf(stderr,
	        "ancla vcpus: the number of vCPUs is from 1 to the VM's max-vcpus, not \"%s\"\n",
	        text);
	return -1;
}

static struct json_object *vcpu_json(const struct live *live, int index)
{
	const struct plan_vcpu *vcpu = &live->plan->vcpus[index];
	const struct threads *threads = &live->client.threads;
	struct json_object *json = json_object_new_object();
	cleanup_free char *cpus = cpulist_format(vcpu->cpus);

	json_add_int(json, "index", index);
	for (size_t i = 0; i < threads->count; i++)
		if (threads->list[i].role == THREAD_VCPU && threads->list[i].index == index)
			json_add_int(json, "tid", threads->list[i].tid);
	json_add_string(json, "cpus", cpus);
	json_add_string(json, "scheduler", scheduler_name(vcpu->sched.scheduler));
	json_add_int(json, "priority", vcpu->sched.priority);
	return json;
}

static int print_json(const struct live *live, int before)
{
	struct json_object *json = json_object_new_object(), *added = json_object_new_array(),
	                   *removed = json_object_new_array();
	int now = live->plan->vcpus_online;

	for (int i = before; i < now; i++)
		json_object_array_add(added, vcpu_json(live, i));
	for (int i = now; i < before; i++)
		json_object_array_add(removed, json_object_new_int(i));
	json_add_string(json, "name", live->plan->name);
	json_add_int(json, "vcpus", now);
	json_add_int(json, "max-vcpus", (int64_t)live->plan->n_vcpus);
	json_object_object_add(json, "added", added);
	json_object_object_add(json, "removed", removed);
	return command_print_json(json);
}

static int print_text(const struct live *live, int before)
{
	int now = live->plan->vcpus_online;

	for (int i = before; i < now; i++) {
		cleanup_free char *cpus = cpulist_format(live->plan->vcpus[i].cpus);
		cleanup_free char *sched = sched_format(live->plan->vcpus[i].sched);
		printf("vCPU %d is there, on %s, %s: the guest may bring it online\n", i, cpus,
		       sched);
	}
	for (int i = before; i-- > now;)
		printf("vCPU %d is gone\n", i);
	if (now == before)
		printf("%s has %d vCPU%s\n", live->plan->name, now, plural(now));
	return command_flush();
}

static int change(struct live *live, struct hotplug_events *events, int count, struct error *err)
{
	if (count > (int)live->plan->n_vcpus)
		return error_set(err, EXIT_FAILED,
		                 "VM \"%s\" can have at most %zu vCPU%s (max-vcpus of its spec), "
		                 "not %d",
		                 live->plan->name, live->plan->n_vcpus, plural(live->plan->n_vcpus),
		                 count);
	while (live->plan->vcpus_online < count)
		if (hotplug_add_vcpu(live, err) < 0)
			return -1;
	while (live->plan->vcpus_online > count)
		if (hotplug_remove_vcpu(live, events, err) < 0)
			return -1;
	return 0;
}

static int run(const struct invocation *call)
{
	cleanup_live struct live live = LIVE_INIT;
	cleanup_error struct error err = ERROR_INIT;
	struct hotplug_events events = { 0 };
	long count;

	if (parse_count(call->args[1], &count) < 0)
		return EXIT_USAGE;
	live.client.on_event = hotplug_on_event;
	live.client.event_data = &events;
	if (live_begin(&live, call->args[0], &err) < 0)
		return command_fail(vm_client_blame(&live.client, &err));
	int before = live.plan->vcpus_online;
	if (change(&live, &events, (int)count, &err) < 0)
		return command_fail(vm_client_blame(&live.client, &err));
	return invocation_option(call, "json") ? print_json(&live, before)
	                                       : print_text(&live, before);
}

static const struct command_option options[] = { OPTION_JSON, { 0 } };

const struct command cmd_vcpus = {
	.name = "vcpus",
	.arguments = "NAME COUNT",
	.min_args = 2,
	.max_args = 2,
	.summary = "Add vCPUs to a running VM, or take some away",
	.details =
	    "Up to max-vcpus of its spec, whose CPUs the VM holds from its start. A new vCPU's\n"
	    "thread is born on its CPUs, with its scheduler, and read back; then the guest may\n"
	    "bring it online. To take one away the guest is asked, and has 20 s to let go; with "
	    "TCG\n"
	    "that is refused, as QEMU does not survive it.",
	.options = options,
	.run = run,
};
