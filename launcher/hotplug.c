#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "cgroup.h"
#include "cpulist.h"
#include "hotplug.h"
#include "kernel.h"
#include "util.h"
#include "waits.h"

/* The guest's answers to an eject request that are no refusal (ACPI 6.5, 6.3.5, _OST): done, and
 * still at it. */
enum { OST_SUCCESS = 0, OST_EJECT_IN_PROGRESS = 0x84 };
enum { OST_SOURCE_EJECT = 3, OST_SOURCE_OSPM_EJECT = 0x103 };

static int number_of(struct json_object *json, const char *key)
{
	struct json_object *value;

	return json && json_object_object_get_ex(json, key, &value) ? json_object_get_int(value)
	                                                            : 0;
}

/* ---- the main thread's place, lent ---- */

/* How the main thread was before. */
struct lent {
	pid_t tid; /* 0: it is as it was */
	hwloc_bitmap_t cpus;
	struct sched sched;
	const struct cgroup *cgroup; /* the plan's; NULL: none */
	const char *was_in;          /* one of its directories; NULL: unknown */
};

static void give_back(struct lent *lent)
{
	/* Where it cannot be given back, the look over all threads that follows finds it. */
	if (lent->tid) {
		kernel_set_sched(lent->tid, lent->sched);
		if (lent->was_in)
			cgroup_move_thread(lent->cgroup, lent->was_in, lent->tid);
		kernel_set_affinity(lent->tid, lent->cpus);
	}
	hwloc_bitmap_free(lent->cpus);
	*lent = (struct lent){ 0 };
}

/* In the thread's place are its cgroup, its CPUs and its scheduling: in that order, as CPUs of a
 * partition are granted only in it, and real time may be refused in the cgroup of shares. */
static int lend(struct lent *lent, pid_t main, const struct plan *plan, enum thread_role role,
                int index, struct error *err)
{
	struct thread as = { .role = role, .index = index, .tid = main };
	hwloc_const_bitmap_t cpus = thread_cpus(&as, plan);
	struct sched sched = thread_sched(&as, plan);
	cleanup_free char *list = cpulist_format(cpus);

	lent->cpus = xbitmap();
	if (kernel_get_affinity(main, lent->cpus) < 0 || kernel_get_sched(main, &lent->sched) < 0)
		return error_set(err, EXIT_FAILED, "QEMU's main thread cannot be read: %s",
		                 strerror(errno));
	lent->cgroup = plan->cgroup;
	lent->was_in = plan->cgroup ? cgroup_find_thread(plan->cgroup, main, main) : NULL;
	lent->tid = main;
	if (cgroup_put_thread(plan, &as, err) < 0)
		return -1;
	if (kernel_set_affinity(main, cpus) == 0 && kernel_set_sched(main, sched) == 0)
		return 0;
	int reason = errno;
	return error_set(err, EXIT_GRANT,
	                 "the kernel refuses QEMU's main thread CPUs %s, scheduler %s, priority "
	                 "%d, which the new thread is to inherit: %s%s",
	                 list, scheduler_name(sched.scheduler), sched.priority, strerror(reason),
	                 kernel_sched_advice(reason));
}

/* Whether a command that failed may have been done all the same: QEMU did not say no. */
static bool may_be_done(const struct vm_client *client)
{
	return client->failure != QMP_ERROR_NONE && client->failure != QMP_ERROR_COMMAND;
}

/* Runs a command that makes a thread of the plan's, which is born in its place. */
static int call_lending(struct live *live, const char *command, struct json_object *arguments,
                        enum thread_role role, int index, struct error *err)
{
	__attribute__((cleanup(give_back))) struct lent lent = { 0 };

	live_defer_signals();
	if (lend(&lent, live->client.state.qemu, live->plan, role, index, err) < 0) {
		json_object_put(arguments);
		return -1;
	}
	return vm_client_call(&live->client, command, arguments, NULL, err);
}

/* ---- slots ---- */

static int compare_slots(const void *a, const void *b)
{
	static const char *const levels[] = { "socket-id", "die-id",  "cluster-id",
		                              "module-id", "core-id", "thread-id" };
	struct json_object *left, *right;

	json_object_object_get_ex(*(struct json_object *const *)a, "props", &left);
	json_object_object_get_ex(*(struct json_object *const *)b, "props", &right);
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		int x = number_of(left, levels[i]), y = number_of(right, levels[i]);
		if (x != y)
			return x < y ? -1 : 1;
	}
	return 0;
}

/* What query-hotpluggable-cpus says of vCPU `index`: QEMU numbers them by topology. The caller puts
 * it. */
static struct json_object *find_slot(struct vm_client *client, int index, struct error *err)
{
	cleanup_json struct json_object *slots = NULL;

	if (vm_client_call(client, "query-hotpluggable-cpus", NULL, &slots, err) < 0)
		return NULL;
	json_object_array_sort(slots, compare_slots);
	if (index < (int)json_object_array_length(slots))
		return json_object_get(json_object_array_get_idx(slots, (size_t)index));
	error_set(err, EXIT_FAILED, "QEMU has no place for vCPU %d", index);
	return NULL;
}

/* ---- vCPUs ---- */

static bool has_thread(const struct threads *threads, enum thread_role role, int index)
{
	for (size_t i = 0; i < threads->count; i++)
		if (threads->list[i].role == role && threads->list[i].index == index)
			return true;
	return false;
}

/* Every thread is as planned, the new one among them. */
static int settle(struct live *live, enum thread_role role, int index, struct error *err)
{
	struct vm_client *client = &live->client;

	if (vm_client_query(client, err) < 0)
		return -1;
	if (!has_thread(&client->threads, role, index))
		return error_set(err, EXIT_FAILED, "QEMU names no thread for it");
	if (apply_plan(NULL, live->plan, &client->threads, &live->moves, err) < 0)
		return -1;
	return vm_write_threads(&client->dir, &client->threads, err);
}

int hotplug_add_vcpu(struct live *live, struct error *err)
{
	int index = live->plan->vcpus_online;
	cleanup_json struct json_object *slot = find_slot(&live->client, index, err);
	struct json_object *arguments = json_object_new_object(), *props;
	cleanup_free char *id = xasprintf("vcpu%d", index);

	if (!slot || !json_string(slot, "type") ||
	    !json_object_object_get_ex(slot, "props", &props) ||
	    !json_object_is_type(props, json_type_object)) {
		json_object_put(arguments);
		return slot ? error_set(err, EXIT_FAILED, "QEMU says nothing of vCPU %d", index)
		            : -1;
	}
	json_object_object_foreach(props, key, value)
	    json_object_object_add(arguments, key, json_object_get(value));
	json_add_string(arguments, "driver", json_string(slot, "type"));
	json_add_string(arguments, "id", id);
	if (call_lending(live, "device_add", arguments, THREAD_VCPU, index, err) < 0) {
		if (!may_be_done(&live->client))
			return error_prefix(err, "vCPU %d was not added: ", index);
		return error_prefix(err,
		                    "whether vCPU %d was added is not known (`ancla repin %s` "
		                    "finds out): ",
		                    index, live->plan->name);
	}
	live->plan->vcpus_online = index + 1;
	if (settle(live, THREAD_VCPU, index, err) == 0 &&
	    vm_write_plan(&live->client.dir, live->plan, err) == 0)
		return 0;
	return error_prefix(
	    err, "vCPU %d was added, but not seen to (`ancla repin %s` does that): ", index,
	    live->plan->name);
}

void hotplug_on_event(void *data, const char *event, struct json_object *arguments)
{
	struct hotplug_events *events = data;
	struct json_object *info = NULL;
	const char *path = json_string(arguments, "path"), *slot, *type;

	if (!events->path)
		return;
	if (strcmp(event, "DEVICE_DELETED") == 0 && path && strcmp(path, events->path) == 0)
		events->deleted = true;
	if (strcmp(event, "ACPI_DEVICE_OST") != 0 || !arguments ||
	    !json_object_object_get_ex(arguments, "info", &info))
		return;
	slot = json_string(info, "slot");
	type = json_string(info, "slot-type");
	int source = number_of(info, "source"), status = number_of(info, "status");
	if (!slot || atoi(slot) != events->vcpu || !type || strcmp(type, "CPU") != 0 ||
	    (source != OST_SOURCE_EJECT && source != OST_SOURCE_OSPM_EJECT))
		return;
	/* QEMU 7.2 does not tell DEVICE_DELETED of every vCPU. */
	if (status == OST_SUCCESS)
		events->deleted = true;
	else if (status != OST_EJECT_IN_PROGRESS)
		events->refused = status;
}

static int wait_for_guest(struct vm_client *client, const struct hotplug_events *events,
                          struct error *err)
{
	int64_t deadline = kernel_now_ms() + LIMIT_UNPLUG_MS;
	struct qmp_error qmp_error;

	while (!events->deleted && !events->refused) {
		struct pollfd poll_qmp = { qmp_fd(client->qmp), qmp_poll_events(client->qmp), 0 };
		int64_t left = deadline - kernel_now_ms();
		if (left <= 0)
			return error_set(err, EXIT_FAILED,
			                 "the guest did not let go of vCPU %d within %d s; does it "
			                 "run, and know how? It may still do so later",
			                 events->vcpu, LIMIT_UNPLUG_MS / 1000);
		if (poll(&poll_qmp, 1, (int)left) > 0 && qmp_process(client->qmp, &qmp_error) < 0)
			return error_set(err, EXIT_FAILED, "VM \"%s\": %s", client->dir.name,
			                 qmp_error.message);
	}
	if (events->deleted)
		return 0;
	return error_set(err, EXIT_FAILED,
	                 "the guest refuses to let go of vCPU %d (ACPI status %#x); take it "
	                 "offline there first",
	                 events->vcpu, (unsigned)events->refused);
}

/* Seen in QEMU 7.2: the guest lets go, but what TCG frees then is still in use. */
static int check_accel(const struct plan *plan, struct error *err)
{
	if (plan->accel != ACCEL_TCG)
		return 0;
	return error_set(err, EXIT_FAILED,
	                 "with TCG, QEMU does not survive it when a vCPU is taken away: its memory "
	                 "is corrupt afterwards, and it aborts at the next one that is added; take "
	                 "the vCPU offline in the guest, or use KVM");
}

int hotplug_remove_vcpu(struct live *live, struct hotplug_events *events, struct error *err)
{
	if (check_accel(live->plan, err) < 0)
		return -1;

	struct vm_client *client = &live->client;
	int index = live->plan->vcpus_online - 1;
	cleanup_json struct json_object *slot = find_slot(client, index, err);
	const char *path = slot ? json_string(slot, "qom-path") : NULL;
	struct json_object *arguments = json_object_new_object();

	if (!path) {
		json_object_put(arguments);
		return slot ? error_set(err, EXIT_FAILED, "QEMU has no vCPU %d", index) : -1;
	}
	*events = (struct hotplug_events){ .vcpu = index, .path = path };
	json_add_string(arguments, "id", path);
	int result = vm_client_call(client, "device_del", arguments, NULL, err);
	if (result == 0)
		result = wait_for_guest(client, events, err);
	events->path = NULL;
	if (result < 0)
		return -1;
	if (vm_client_query(client, err) < 0)
		return -1;
	if (has_thread(&client->threads, THREAD_VCPU, index))
		return error_set(err, EXIT_FAILED,
		                 "the guest says that it let go of vCPU %d, but QEMU has it still",
		                 index);
	live->plan->vcpus_online = index;
	if (vm_write_plan(&client->dir, live->plan, err) < 0)
		return -1;
	return vm_write_threads(&client->dir, &client->threads, err);
}

/* ---- iothreads ---- */

static int delete_object(struct vm_client *client, const char *id, struct error *err)
{
	struct json_object *arguments = json_object_new_object();

	json_add_string(arguments, "id", id);
	return vm_client_call(client, "object-del", arguments, NULL, err);
}

/* The plan that the threads are found by is the new one. */
static void use_new_plan(struct live *live)
{
	plan_free(live->client.plan);
	live->client.plan = plan_copy(live->plan);
}

/* Always -1. */
static int left_iothread(const struct live *live, const char *id, struct error *err)
{
	return error_prefix(err,
	                    "QEMU may have an iothread \"%s\" now (`ancla iothread %s remove %s` "
	                    "takes it away): ",
	                    id, live->plan->name, id);
}

int hotplug_add_iothread(struct live *live, struct error *err)
{
	int index = (int)live->plan->n_iothreads - 1;
	const struct plan_iothread *iothread = &live->plan->iothreads[index];
	cleanup_error struct error ignored = ERROR_INIT;
	struct json_object *arguments = json_object_new_object();

	json_add_string(arguments, "qom-type", "iothread");
	json_add_string(arguments, "id", iothread->id);
	if (call_lending(live, "object-add", arguments, THREAD_IOTHREAD, index, err) < 0)
		return may_be_done(&live->client) ? left_iothread(live, iothread->id, err) : -1;
	use_new_plan(live);
	if (settle(live, THREAD_IOTHREAD, index, err) == 0 &&
	    vm_write_plan(&live->client.dir, live->plan, err) == 0)
		return 0;
	if (delete_object(&live->client, iothread->id, &ignored) < 0)
		return left_iothread(live, iothread->id, err);
	return -1;
}

/* A property, as text; NULL if it cannot be had. The caller frees. */
static char *object_property(struct vm_client *client, const char *path, const char *property)
{
	cleanup_error struct error ignored = ERROR_INIT;
	struct json_object *arguments = json_object_new_object(), *reply = NULL;

	json_add_string(arguments, "path", path);
	json_add_string(arguments, "property", property);
	if (vm_client_call(client, "qom-get", arguments, &reply, &ignored) < 0)
		return NULL;
	char *text = json_object_is_type(reply, json_type_string)
	                 ? xstrdup(json_object_get_string(reply))
	                 : NULL;
	json_object_put(reply);
	return text;
}

/* The device of this container that the iothread serves, NULL if there is none. The caller frees.
 */
static char *served_in(struct vm_client *client, const char *container, const char *id)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_free char *wanted = xasprintf("/objects/%s", id);
	struct json_object *arguments = json_object_new_object(), *devices = NULL;
	char *served = NULL;

	json_add_string(arguments, "path", container);
	if (vm_client_call(client, "qom-list", arguments, &devices, &ignored) < 0)
		return NULL; /* QEMU makes it with the first device */
	if (json_object_is_type(devices, json_type_array))
		for (size_t i = 0; i < json_object_array_length(devices) && !served; i++) {
			struct json_object *device = json_object_array_get_idx(devices, i);
			const char *name = json_string(device, "name"),
			           *type = json_string(device, "type");
			if (!name || !type || strncmp(type, "child<", 6) != 0)
				continue;
			cleanup_free char *path = xasprintf("%s/%s", container, name);
			cleanup_free char *iothread = object_property(client, path, "iothread");
			if (iothread && strcmp(iothread, wanted) == 0)
				served = xstrdup(name);
		}
	json_object_put(devices);
	return served;
}

/* Of an iothread that serves a device QEMU would take the name away, and keep the thread. */
static int check_serves_nothing(struct vm_client *client, const char *id, struct error *err)
{
	cleanup_free char *named = served_in(client, "/machine/peripheral", id);
	cleanup_free char *other = named ? NULL : served_in(client, "/machine/peripheral-anon", id);

	if (!named && !other)
		return 0;
	return error_set(err, EXIT_FAILED,
	                 "iothread \"%s\" serves the device %s, and is there as long as that is; "
	                 "only one that serves nothing can be taken away",
	                 id, named ? named : other);
}

bool hotplug_has_iothread(struct live *live, const char *id)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_json struct json_object *list = NULL;

	if (vm_client_call(&live->client, "query-iothreads", NULL, &list, &ignored) < 0 ||
	    !json_object_is_type(list, json_type_array))
		return false;
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		const char *other = json_string(json_object_array_get_idx(list, i), "id");
		if (other && strcmp(other, id) == 0)
			return true;
	}
	return false;
}

/* Out of the plan, and out of the threads, whose indices are the plan's. */
static void drop_iothread(struct plan *plan, struct threads *threads, size_t index)
{
	size_t kept = 0;

	for (size_t i = 0; i < threads->count; i++) {
		struct thread thread = threads->list[i];
		if (thread.role == THREAD_IOTHREAD && thread.index == (int)index)
			continue;
		thread.index -= thread.role == THREAD_IOTHREAD && thread.index > (int)index;
		threads->list[kept++] = thread;
	}
	threads->count = kept;
	hwloc_bitmap_free(plan->iothreads[index].cpus);
	free(plan->iothreads[index].id);
	plan->n_iothreads--;
	memmove(&plan->iothreads[index], &plan->iothreads[index + 1],
	        (plan->n_iothreads - index) * sizeof(*plan->iothreads));
}

/* Files first: a plan that names fewer than there are can be verified, and a command that was
 * killed in the middle can be given again. */
int hotplug_remove_iothread(struct live *live, const char *id, struct error *err)
{
	struct vm_client *client = &live->client;
	struct plan *plan = live->plan;
	cleanup_error struct error undo = ERROR_INIT;

	if (check_serves_nothing(client, id, err) < 0)
		return -1;
	for (size_t i = 0; i < plan->n_iothreads; i++)
		if (strcmp(plan->iothreads[i].id, id) == 0)
			drop_iothread(plan, &client->threads, i--);
	if (vm_write_plan(&client->dir, plan, err) < 0)
		return -1;
	if (vm_write_threads(&client->dir, &client->threads, err) == 0) {
		if (delete_object(client, id, err) == 0)
			return 0;
		if (may_be_done(client))
			return left_iothread(live, id, err);
	}
	if (vm_write_plan(&client->dir, client->plan, &undo) < 0 ||
	    vm_client_query(client, &undo) < 0 ||
	    vm_write_threads(&client->dir, &client->threads, &undo) < 0)
		error_prefix(err, "%s; before that: ", undo.message);
	return -1;
}
