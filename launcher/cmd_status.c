#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "command.h"
#include "cpulist.h"
#include "kernel.h"
#include "util.h"
#include "vm_client.h"

/* One thread as the kernel has it now. */
struct row {
	const struct thread *thread;
	char *cpus;
	struct sched sched;
	int last_cpu;    /* that it ran on; -1: unknown */
	uint64_t run_ms; /* CPU time */
};

/* Fields of /proc/PID/task/TID/stat (proc(5)): 14 and 15 are CPU time, 39 the processor. */
static void read_stat(pid_t pid, struct row *row)
{
	cleanup_free char *path = xasprintf("/proc/%d/task/%d/stat", pid, row->thread->tid);
	cleanup_free char *text = NULL;
	cleanup_error struct error ignored = ERROR_INIT;
	uint64_t user = 0, kernel = 0;
	const char *p;

	row->last_cpu = -1;
	if (read_file(path, 4096, &text, NULL, &ignored) < 0 || !(p = strrchr(text, ')')))
		return;
	for (int field = 2; p && field <= 39; field++) {
		if (field == 14)
			user = strtoull(p + 1, NULL, 10);
		else if (field == 15)
			kernel = strtoull(p + 1, NULL, 10);
		else if (field == 39)
			row->last_cpu = atoi(p + 1);
		p = strchr(p + 1, ' ');
	}
	row->run_ms = (user + kernel) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

/* False if the thread is gone. */
static bool read_row(pid_t pid, const struct thread *thread, struct row *row)
{
	cleanup_bitmap hwloc_bitmap_t cpus = xbitmap();

	*row = (struct row){ .thread = thread };
	/* Kernel threads that work for the VM are processes of their own. */
	if (thread->role == THREAD_VHOST || thread->role == THREAD_KVM_PIT)
		pid = thread->tid;
	if (kernel_get_affinity(thread->tid, cpus) < 0 ||
	    kernel_get_sched(thread->tid, &row->sched) < 0)
		return false;
	row->cpus = cpulist_format(cpus);
	read_stat(pid, row);
	return true;
}

static struct json_object *row_json(const struct row *row, const struct plan *plan)
{
	struct json_object *json = json_object_new_object();

	json_add_string(json, "role", thread_role_name(row->thread->role));
	if (row->thread->role == THREAD_VCPU)
		json_add_int(json, "index", row->thread->index);
	if (row->thread->role == THREAD_IOTHREAD)
		json_add_string(json, "id", plan->iothreads[row->thread->index].id);
	json_add_int(json, "tid", row->thread->tid);
	json_add_string(json, "name", row->thread->comm);
	json_add_string(json, "cpus", row->cpus);
	json_add_int(json, "last-cpu", row->last_cpu);
	json_add_string(json, "scheduler", scheduler_name(row->sched.scheduler));
	json_add_int(json, "priority", row->sched.priority);
	json_add_int(json, "run-ms", (int64_t)row->run_ms);
	return json;
}

/* What was asked for, and what the kernel has. */
static void add_limits(const struct vm_client *client, struct json_object *json)
{
	struct json_object *cgroup;

	if (!client->plan->cgroup)
		return;
	cgroup = json_object_new_object();
	plan_add_limits(json, client->plan);
	cgroup_add_status(client->plan->cgroup, cgroup);
	json_object_object_add(json, "cgroup", cgroup);
}

static bool is_supervised(const struct vm_client *client)
{
	/* Who cannot be seen is not missed. */
	return kernel_lives(client->state.launcher, client->state.launcher_start) != KERNEL_GONE;
}

static struct json_object *status_json(const struct vm_client *client)
{
	struct json_object *json = json_object_new_object();
	struct json_object *list = json_object_new_array();

	json_add_string(json, "name", client->dir.name);
	json_add_string(json, "state", client->run_state);
	json_add_int(json, "pid", client->state.qemu);
	json_add_int(json, "supervisor", client->state.launcher);
	json_add_bool(json, "supervised", is_supervised(client));
	json_add_string(json, "accel", accel_name(client->plan->accel));
	json_add_string(json, "spec", client->state.spec);
	json_add_string(json, "directory", client->dir.path);
	json_add_string(json, "serial", client->state.serial);
	if (client->state.console)
		json_add_string(json, "console", client->state.console);
	json_add_int(json, "started", client->state.started);
	add_limits(client, json);
	for (size_t i = 0; i < client->threads.count; i++) {
		struct row row;
		if (!read_row(client->state.qemu, &client->threads.list[i], &row))
			continue;
		json_object_array_add(list, row_json(&row, client->plan));
		free(row.cpus);
	}
	json_object_object_add(json, "threads", list);
	return json;
}

static void print_memory(const struct plan *plan)
{
	for (size_t i = 0; i < plan->n_memory; i++) {
		const struct plan_memory *memory = &plan->memory[i];
		cleanup_free char *text = plan_memory_format(memory);
		if (memory->guest_node < 0)
			printf("memory        %s\n", text);
		else
			printf("guest node %-3d%s\n", memory->guest_node, text);
	}
}

static void print_limits(const struct vm_client *client)
{
	cleanup_free char *cpu_time = plan_limits_format(client->plan);
	cleanup_json struct json_object *cgroup = json_object_new_object();
	const char *separator = " (";

	printf("CPU time      %s", cpu_time);
	cgroup_add_status(client->plan->cgroup, cgroup);
	json_object_object_foreach(cgroup, key, value)
	{
		if (strcmp(key, "directory") == 0)
			continue;
		printf("%s%s %s", separator, key, json_object_get_string(value));
		separator = ", ";
	}
	printf(")\n");
}

/* What can be done about a VM that does not just run. */
static void print_advice(const struct vm_client *client)
{
	const char *name = client->dir.name, *state = client->run_state;

	if (strcmp(state, "internal-error") == 0)
		printf("  the accelerator gave up; QEMU's log, %s/%s, may tell why%s\n",
		       client->dir.path, VM_LOG,
		       client->plan->accel == ACCEL_KVM ? "; \"accel\": \"tcg\" runs anywhere"
		                                        : "");
	else if (strcmp(state, "io-error") == 0 || strcmp(state, "paused") == 0)
		printf("  the guest is stopped; `ancla resume %s` lets it run on\n", name);
	else if (strcmp(state, "shutdown") == 0 || strcmp(state, "guest-panicked") == 0)
		printf("  the guest is off, and kept; `ancla stop %s` ends it\n", name);
	if (!is_supervised(client))
		printf("  its supervisor is gone; `ancla run --attach %s` is another\n", name);
}

static void print_status(const struct vm_client *client)
{
	printf("%s: %s, QEMU %d (%s)\n", client->dir.name, client->run_state, client->state.qemu,
	       accel_name(client->plan->accel));
	print_advice(client);
	print_memory(client->plan);
	if (client->plan->cgroup)
		print_limits(client);
	printf("%-14s %8s  %-16s %4s  %-9s %10s  %s\n", "THREAD", "TID", "CPUS", "ON", "SCHEDULER",
	       "RUN", "NAME");
	for (size_t i = 0; i < client->threads.count; i++) {
		const struct thread *thread = &client->threads.list[i];
		struct row row;
		if (!read_row(client->state.qemu, thread, &row))
			continue;
		cleanup_free char *role =
		    thread->role == THREAD_VCPU ? xasprintf("vcpu %d", thread->index)
		    : thread->role == THREAD_IOTHREAD
		        ? xasprintf("iothread %s", client->plan->iothreads[thread->index].id)
		        : xstrdup(thread_role_name(thread->role));
		cleanup_free char *sched = sched_format(row.sched);
		printf("%-14s %8d  %-16s %4d  %-9s %7llu ms  %s\n", role, thread->tid, row.cpus,
		       row.last_cpu, sched, (unsigned long long)row.run_ms, thread->comm);
		free(row.cpus);
	}
}

static int run(const struct invocation *call)
{
	cleanup_vm_client struct vm_client client = VM_CLIENT_INIT;
	cleanup_error struct error err = ERROR_INIT;

	if (vm_client_open(&client, call->args[0], &err) < 0 ||
	    vm_client_connect(&client, &err) < 0 || vm_client_query(&client, &err) < 0)
		return command_fail(vm_client_blame(&client, &err));
	vm_client_disconnect(&client);
	cleanup_free char *unknown = threads_unknown(&client.threads);
	command_warn(unknown);
	if (invocation_option(call, "json"))
		return command_print_json(status_json(&client));
	print_status(&client);
	return command_flush();
}

static const struct command_option options[] = { OPTION_JSON, { 0 } };

const struct command cmd_status = {
	.name = "status",
	.arguments = "NAME",
	.min_args = 1,
	.max_args = 1,
	.summary = "Show a running VM, thread by thread, as the kernel has it",
	.options = options,
	.run = run,
};
