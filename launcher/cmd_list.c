#include <stdio.h>
#include <stdlib.h>

#include "command.h"
#include "cpulist.h"
#include "kernel.h"
#include "ledger_users.h"
#include "util.h"
#include "vm_client.h"
#include "waits.h"

struct listed {
	char *name;
	char *state;
	pid_t pid;
	size_t vcpus;
	char *cpus; /* of all vCPUs */
	uint64_t memory;
};

static void describe_plan(const struct plan *plan, struct listed *vm)
{
	cleanup_bitmap hwloc_bitmap_t cpus = xbitmap();

	for (size_t i = 0; plan && i < plan->n_vcpus; i++)
		hwloc_bitmap_or(cpus, cpus, plan->vcpus[i].cpus);
	vm->vcpus = plan ? (size_t)plan->vcpus_online : 0;
	for (size_t i = 0; plan && i < plan->n_memory; i++)
		vm->memory += plan->memory[i].size;
	vm->cpus = cpulist_format(cpus);
}

static bool is_ending(const struct vm_client *client)
{
	return client->pidfd < 0 && !(vm_client_is_starting(client) && !client->state.qemu) &&
	       kernel_lives(client->state.qemu, client->state.qemu_start) == KERNEL_GONE;
}

/* What the VM says of itself; a VM that cannot be asked is still listed. */
static void describe(const char *name, struct listed *vm)
{
	cleanup_vm_client struct vm_client client = VM_CLIENT_INIT;
	cleanup_error struct error err = ERROR_INIT;

	*vm = (struct listed){ .name = xstrdup(name) };
	/* A VM that does not answer must not keep the others waiting. */
	client.patience_ms = LIMIT_LIST_MS;
	if (vm_client_open(&client, name, &err) == 0 && vm_client_connect(&client, &err) == 0 &&
	    vm_client_query(&client, &err) == 0)
		vm->state = xstrdup(client.run_state);
	else
		vm->state = xstrdup(is_ending(&client)               ? "ending"
		                    : vm_client_is_starting(&client) ? "starting"
		                                                     : "silent");
	vm->pid = client.state.qemu;
	describe_plan(client.plan, vm);
}

/* Of a user's VM only its files are looked at. */
static void describe_user(const struct user_vm *user, struct listed *vm)
{
	const char *state = user->state.state ? user->state.state : "starting";

	*vm = (struct listed){ .name = xstrdup(user->name),
		               .state = xstrdup(state),
		               .pid = user->state.qemu };
	describe_plan(user->plan, vm);
}

static struct json_object *listed_json(const struct listed *vm)
{
	struct json_object *json = json_object_new_object();

	json_add_string(json, "name", vm->name);
	json_add_string(json, "state", vm->state);
	json_add_int(json, "pid", vm->pid);
	json_add_int(json, "vcpus", (int64_t)vm->vcpus);
	json_add_string(json, "cpus", vm->cpus);
	json_add_int(json, "memory", (int64_t)vm->memory);
	return json;
}

static void print_listed(const struct listed *vm)
{
	cleanup_free char *memory = format_size(vm->memory);

	printf("%-24s %-10s %8d %6zu  %-16s %s\n", vm->name, vm->state, vm->pid, vm->vcpus,
	       vm->cpus, memory);
}

/* Prints it, or adds it to the list, and frees it. */
static void show(struct listed *vm, struct json_object *list, bool json)
{
	if (json)
		json_object_array_add(list, listed_json(vm));
	else
		print_listed(vm);
	free(vm->name);
	free(vm->state);
	free(vm->cpus);
}

/* Takes the names. */
static int print_names(char **names, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		puts(names[i]);
		free(names[i]);
	}
	free(names);
	return command_flush();
}

static int run(const struct invocation *call)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_error struct error err = ERROR_INIT;
	cleanup_json struct json_object *list = json_object_new_array();
	bool json = invocation_option(call, "json") != NULL;
	bool names_only = invocation_option(call, "names") != NULL;
	cleanup_user_vms struct user_vms users = { 0 };
	char **names;
	size_t count;
	struct listed vm;

	if ((!names_only && user_vms_read(&users, &err) < 0) ||
	    ledger_open(&ledger, false, &err) < 0 ||
	    ledger_sweep(&ledger, &names, &count, &err) < 0)
		return command_fail(&err);
	ledger_close(&ledger);
	if (names_only)
		return print_names(names, count);
	command_warn(users.left_out);
	if (!json && count + users.count)
		printf("%-24s %-10s %8s %6s  %-16s %s\n", "NAME", "STATE", "QEMU", "VCPUS", "CPUS",
		       "MEMORY");
	for (size_t i = 0; i < count; i++) {
		describe(names[i], &vm);
		show(&vm, list, json);
		free(names[i]);
	}
	for (size_t i = 0; i < users.count; i++) {
		describe_user(&users.list[i], &vm);
		show(&vm, list, json);
	}
	free(names);
	return json ? command_print_json(take_pointer(&list)) : command_flush();
}

static const struct command_option options[] = {
	OPTION_JSON,
	{ "names", NULL, "print the names only, without asking the VMs" },
	{ 0 },
};

const struct command cmd_list = {
	.name = "list",
	.arguments = "",
	.summary = "Show the VMs that run",
	.details = "Root sees those of users, too, as USER/NAME; they are the user's to stop.",
	.options = options,
	.run = run,
};
