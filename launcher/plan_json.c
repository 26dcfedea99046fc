/* The plan as JSON, and back. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cgroup.h"
#include "cpulist.h"
#include "names.h"
#include "plan.h"
#include "quote.h"
#include "util.h"

/* No plan has more vCPUs, iothreads, or guest nodes than this. */
#define ELEMENTS_MAX 4096

/* Nor larger pages than any kernel has. */
#define PAGE_MAX ((int64_t)1 << 40)

static struct json_object *set_json(hwloc_const_bitmap_t set)
{
	cleanup_free char *text = cpulist_format(set);

	return json_object_new_string(text);
}

static void add_sched(struct json_object *json, struct sched sched)
{
	json_object_object_add(json, "scheduler",
	                       json_object_new_string(scheduler_name(sched.scheduler)));
	json_object_object_add(json, "priority", json_object_new_int(sched.priority));
}

static struct json_object *vcpus_json(const struct plan *plan)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < plan->n_vcpus; i++) {
		const struct plan_vcpu *vcpu = &plan->vcpus[i];
		struct json_object *json = json_object_new_object();
		json_add_int(json, "id", (int64_t)i);
		json_object_object_add(json, "cpus", set_json(vcpu->cpus));
		json_add_int(json, "host-node", vcpu->host_node);
		json_add_int(json, "guest-node", vcpu->guest_node);
		add_sched(json, vcpu->sched);
		json_add_bool(json, "online", (int)i < plan->vcpus_online);
		json_object_array_add(list, json);
	}
	return list;
}

static struct json_object *iothreads_json(const struct plan *plan)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < plan->n_iothreads; i++) {
		struct json_object *json = json_object_new_object();
		json_add_string(json, "id", plan->iothreads[i].id);
		json_object_object_add(json, "cpus", set_json(plan->iothreads[i].cpus));
		add_sched(json, plan->iothreads[i].sched);
		json_object_array_add(list, json);
	}
	return list;
}

static struct json_object *memory_json(const struct plan *plan)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < plan->n_memory; i++) {
		const struct plan_memory *memory = &plan->memory[i];
		struct json_object *json = json_object_new_object();
		json_add_int(json, "guest-node", memory->guest_node);
		json_object_object_add(json, "host-nodes",
		                       memory->host_nodes ? set_json(memory->host_nodes) : NULL);
		if (memory->policy_nodes)
			json_object_object_add(json, "policy-nodes",
			                       set_json(memory->policy_nodes));
		json_add_string(json, "policy", mem_policy_name(memory->policy));
		json_add_int(json, "size", (int64_t)memory->size);
		json_add_int(json, "page-size", (int64_t)memory->page_size);
		json_add_string(json, "pages", name_of(&names_page_kind, memory->pages));
		json_add_string(json, "backing", name_of(&names_backing, memory->backing));
		json_add_string(json, "fill", name_of(&names_fill, memory->fill));
		json_add_bool(json, "shared", memory->shared);
		json_object_array_add(list, json);
	}
	return list;
}

static struct json_object *lines_json(char *const *lines, size_t count)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < count; i++)
		json_object_array_add(list, json_object_new_string(lines[i]));
	return list;
}

static struct json_object *distances_json(const struct plan *plan)
{
	struct json_object *rows = json_object_new_array();

	for (size_t i = 0; plan->distances && i < plan->n_memory; i++) {
		struct json_object *row = json_object_new_array();
		for (size_t j = 0; j < plan->n_memory; j++)
			json_object_array_add(
			    row, json_object_new_int((int)plan->distances[i * plan->n_memory + j]));
		json_object_array_add(rows, row);
	}
	return rows;
}

struct json_object *plan_to_json(const struct plan *plan)
{
	struct json_object *json = json_object_new_object();
	struct json_object *emulator = json_object_new_object();
	struct json_object *topology = json_object_new_object();

	json_add_string(json, "name", plan->name);
	json_add_string(json, "accel", accel_name(plan->accel));
	json_add_string(json, "cpu-policy", name_of(&names_cpu_policy, plan->cpu_policy));
	json_add_string(json, "smt", name_of(&names_smt, plan->smt));
	json_object_object_add(json, "vcpus", vcpus_json(plan));
	json_object_object_add(emulator, "cpus", set_json(plan->emulator));
	add_sched(emulator, plan->emulator_sched);
	if (plan->emulator_policy != EMULATOR_UNSET)
		json_add_string(emulator, "policy",
		                name_of(&names_emulator, plan->emulator_policy));
	json_object_object_add(json, "emulator", emulator);
	json_object_object_add(json, "iothreads", iothreads_json(plan));
	json_object_object_add(json, "memory", memory_json(plan));
	json_object_object_add(json, "distances", distances_json(plan));
	json_add_int(topology, "sockets", plan->sockets);
	json_add_int(topology, "dies", plan->dies);
	json_add_int(topology, "cores", plan->cores);
	json_add_int(topology, "threads", plan->threads);
	json_object_object_add(json, "topology", topology);
	json_add_bool(json, "locked", plan->locked);
	json_add_bool(json, "nosharepages", plan->nosharepages);
	json_add_bool(json, "pages-required", plan->pages_required);
	json_add_bool(json, "kernel-threads", plan->kernel_threads);
	json_object_object_add(json, "idle-siblings", set_json(plan->siblings));
	if (plan->process.known)
		json_object_object_add(json, "process", plan_process_to_json(&plan->process));
	plan_add_limits(json, plan);
	json_object_object_add(json, "why", lines_json(plan->why, plan->n_why));
	json_object_object_add(json, "warnings", lines_json(plan->warnings, plan->n_warnings));
	return json;
}

void plan_add_limits(struct json_object *json, const struct plan *plan)
{
	cleanup_free char *quota = xasprintf("%d%%", plan->quota);

	if (plan->shares)
		json_add_int(json, "shares", plan->shares);
	if (plan->quota)
		json_add_string(json, "quota", quota);
	if (plan->partition)
		json_add_string(json, "isolation", "partition");
}

/* Reading back. Each getter fails on a key that is missing or of the wrong type. */

static int get(struct json_object *json, const char *key, enum json_type type,
               struct json_object **value, struct error *err)
{
	if (json_object_is_type(json, json_type_object) &&
	    json_object_object_get_ex(json, key, value) && json_object_is_type(*value, type))
		return 0;
	return error_set(err, EXIT_FAILED, "the plan has no \"%s\" of type %s", key,
	                 json_type_to_name(type));
}

static int get_int(struct json_object *json, const char *key, int64_t least, int64_t most,
                   int64_t *value, struct error *err)
{
	struct json_object *number;

	if (get(json, key, json_type_int, &number, err) < 0)
		return -1;
	*value = json_object_get_int64(number);
	if (*value >= least && *value <= most)
		return 0;
	return error_set(err, EXIT_FAILED, "the plan's \"%s\" is %lld, outside %lld to %lld", key,
	                 (long long)*value, (long long)least, (long long)most);
}

static int get_bool(struct json_object *json, const char *key, bool *value, struct error *err)
{
	struct json_object *boolean;

	if (get(json, key, json_type_boolean, &boolean, err) < 0)
		return -1;
	*value = json_object_get_boolean(boolean);
	return 0;
}

static int get_set(struct json_object *json, const char *key, hwloc_bitmap_t *set,
                   struct error *err)
{
	struct json_object *text;

	if (get(json, key, json_type_string, &text, err) < 0)
		return -1;
	/* As cpulist_format() writes it: steps and exclusions could make a short list long work. */
	const char *list = json_object_get_string(text);
	if (list[strspn(list, "0123456789,-")] == '\0' && cpulist_parse(list, set, err) == 0)
		return 0;
	cleanup_free char *shown = quote(list);
	return error_set(err, EXIT_FAILED, "the plan's \"%s\" is no list of numbers and ranges: %s",
	                 key, shown);
}

static int get_cpus(struct json_object *json, hwloc_bitmap_t *cpus, struct error *err)
{
	if (get_set(json, "cpus", cpus, err) < 0)
		return -1;
	if (!hwloc_bitmap_iszero(*cpus))
		return 0;
	return error_set(err, EXIT_FAILED, "the plan's \"cpus\" are none");
}

static int get_name(struct json_object *json, const char *key, const struct name_table *table,
                    int *value, struct error *err)
{
	struct json_object *text;

	if (get(json, key, json_type_string, &text, err) < 0)
		return -1;
	*value = value_of(table, json_object_get_string(text));
	if (*value >= 0)
		return 0;
	return error_set(err, EXIT_FAILED, "the plan's \"%s\" has an unknown value", key);
}

static int get_list(struct json_object *json, const char *key, struct json_object **list,
                    size_t *count, struct error *err)
{
	if (get(json, key, json_type_array, list, err) < 0)
		return -1;
	*count = json_object_array_length(*list);
	if (*count <= ELEMENTS_MAX)
		return 0;
	return error_set(err, EXIT_FAILED, "the plan's \"%s\" has more than %d elements", key,
	                 ELEMENTS_MAX);
}

static int get_sched(struct json_object *json, struct sched *sched, struct error *err)
{
	int64_t priority;
	int scheduler;

	if (get_name(json, "scheduler", &names_scheduler, &scheduler, err) < 0 ||
	    get_int(json, "priority", 0, 99, &priority, err) < 0)
		return -1;
	sched->scheduler = (enum scheduler)scheduler;
	sched->priority = (int)priority;
	if (sched_is_realtime(*sched) == (priority > 0))
		return 0;
	return error_set(err, EXIT_FAILED, "the plan's \"priority\" is %d with scheduler %s",
	                 sched->priority, scheduler_name(sched->scheduler));
}

static int read_vcpus(struct plan *plan, struct json_object *json, struct error *err)
{
	struct json_object *list;
	size_t count;

	if (get_list(json, "vcpus", &list, &count, err) < 0)
		return -1;
	if (count == 0)
		return error_set(err, EXIT_FAILED, "the plan has no vCPU");
	plan->vcpus = xcalloc(count, sizeof(*plan->vcpus));
	for (; plan->n_vcpus < count; plan->n_vcpus++) {
		struct json_object *item = json_object_array_get_idx(list, plan->n_vcpus);
		struct plan_vcpu *vcpu = &plan->vcpus[plan->n_vcpus];
		int64_t host_node, guest_node, id;
		bool online;
		if (get_int(item, "host-node", -1, CPULIST_MAX, &host_node, err) < 0 ||
		    get_int(item, "guest-node", -1, CPULIST_MAX, &guest_node, err) < 0 ||
		    get_sched(item, &vcpu->sched, err) < 0 ||
		    get_bool(item, "online", &online, err) < 0 ||
		    get_int(item, "id", (int64_t)plan->n_vcpus, (int64_t)plan->n_vcpus, &id, err) <
		        0)
			return -1;
		if (get_cpus(item, &vcpu->cpus, err) < 0) {
			plan->n_vcpus++;
			return -1;
		}
		if (online && plan->vcpus_online < (int)plan->n_vcpus) {
			plan->n_vcpus++;
			return error_set(err, EXIT_FAILED,
			                 "the plan's \"vcpus\" are online after one that is not");
		}
		vcpu->host_node = (int)host_node;
		vcpu->guest_node = (int)guest_node;
		plan->vcpus_online += online;
	}
	return 0;
}

static int read_iothreads(struct plan *plan, struct json_object *json, struct error *err)
{
	struct json_object *list, *id;
	size_t count;

	if (get_list(json, "iothreads", &list, &count, err) < 0)
		return -1;
	plan->iothreads = xcalloc(count, sizeof(*plan->iothreads));
	for (; plan->n_iothreads < count; plan->n_iothreads++) {
		struct json_object *item = json_object_array_get_idx(list, plan->n_iothreads);
		struct plan_iothread *iothread = &plan->iothreads[plan->n_iothreads];
		if (get(item, "id", json_type_string, &id, err) < 0 ||
		    get_sched(item, &iothread->sched, err) < 0)
			return -1;
		iothread->id = xstrdup(json_object_get_string(id));
		if (get_cpus(item, &iothread->cpus, err) < 0) {
			plan->n_iothreads++;
			return -1;
		}
	}
	return 0;
}

static int read_region(struct plan_memory *memory, struct json_object *item, struct error *err)
{
	struct json_object *nodes;
	int64_t guest_node, size, page_size;
	int policy, pages, backing, fill;

	if (get_int(item, "guest-node", -1, CPULIST_MAX, &guest_node, err) < 0 ||
	    get_name(item, "policy", &names_mem_policy, &policy, err) < 0 ||
	    get_int(item, "size", 1, (int64_t)PLAN_MEMORY_MAX, &size, err) < 0 ||
	    get_int(item, "page-size", 1024, PAGE_MAX, &page_size, err) < 0 ||
	    get_name(item, "pages", &names_page_kind, &pages, err) < 0 ||
	    get_name(item, "backing", &names_backing, &backing, err) < 0 ||
	    get_name(item, "fill", &names_fill, &fill, err) < 0 ||
	    get_bool(item, "shared", &memory->shared, err) < 0)
		return -1;
	if (page_size & (page_size - 1) || size % page_size)
		return error_set(err, EXIT_FAILED,
		                 "the plan's \"size\" %lld is not of pages of %lld bytes",
		                 (long long)size, (long long)page_size);
	memory->guest_node = (int)guest_node;
	memory->policy = (enum mem_policy)policy;
	memory->size = (uint64_t)size;
	memory->page_size = (uint64_t)page_size;
	memory->pages = (enum page_kind)pages;
	memory->backing = (enum backing)backing;
	memory->fill = (enum fill_by)fill;
	if (json_object_object_get_ex(item, "policy-nodes", NULL) &&
	    get_set(item, "policy-nodes", &memory->policy_nodes, err) < 0)
		return -1;
	if (json_object_object_get_ex(item, "host-nodes", &nodes) && !nodes)
		return 0;
	return get_set(item, "host-nodes", &memory->host_nodes, err);
}

static int read_memory(struct plan *plan, struct json_object *json, struct error *err)
{
	struct json_object *list;
	size_t count;

	if (get_list(json, "memory", &list, &count, err) < 0)
		return -1;
	if (count == 0)
		return error_set(err, EXIT_FAILED, "the plan has no memory");
	plan->memory = xcalloc(count, sizeof(*plan->memory));
	for (; plan->n_memory < count; plan->n_memory++)
		if (read_region(&plan->memory[plan->n_memory],
		                json_object_array_get_idx(list, plan->n_memory), err) < 0) {
			plan->n_memory++;
			return -1;
		}
	return 0;
}

static int read_distances(struct plan *plan, struct json_object *json, struct error *err)
{
	struct json_object *rows;
	size_t count, n = plan->n_memory;

	if (get_list(json, "distances", &rows, &count, err) < 0)
		return -1;
	if (count == 0)
		return 0;
	if (count != n)
		return error_set(err, EXIT_FAILED,
		                 "the plan has %zu rows of distances for %zu nodes", count, n);
	plan->distances = xcalloc(n * n, sizeof(*plan->distances));
	for (size_t i = 0; i < n; i++) {
		struct json_object *row = json_object_array_get_idx(rows, i);
		if (!json_object_is_type(row, json_type_array) ||
		    json_object_array_length(row) != n)
			return error_set(err, EXIT_FAILED,
			                 "row %zu of the plan's distances is not %zu numbers", i,
			                 n);
		for (size_t j = 0; j < n; j++) {
			struct json_object *distance = json_object_array_get_idx(row, j);
			int64_t value = json_object_is_type(distance, json_type_int)
			                    ? json_object_get_int64(distance)
			                    : 0;
			if (value < 10 || value > 255)
				return error_set(
				    err, EXIT_FAILED,
				    "row %zu of the plan's distances is not of 10 to 255", i);
			plan->distances[i * n + j] = (unsigned)value;
		}
	}
	return 0;
}

static int read_header(struct plan *plan, struct json_object *json, struct error *err)
{
	struct json_object *name, *topology, *emulator;
	int accel, cpu_policy, smt, emulator_policy = EMULATOR_UNSET;
	int64_t counts[4];
	static const char *const keys[] = { "sockets", "dies", "cores", "threads" };

	if (get(json, "name", json_type_string, &name, err) < 0 ||
	    get_name(json, "accel", &names_accel, &accel, err) < 0 ||
	    get_name(json, "cpu-policy", &names_cpu_policy, &cpu_policy, err) < 0 ||
	    get_name(json, "smt", &names_smt, &smt, err) < 0 ||
	    get_bool(json, "locked", &plan->locked, err) < 0 ||
	    get_bool(json, "nosharepages", &plan->nosharepages, err) < 0 ||
	    get_bool(json, "pages-required", &plan->pages_required, err) < 0 ||
	    get_bool(json, "kernel-threads", &plan->kernel_threads, err) < 0 ||
	    get(json, "emulator", json_type_object, &emulator, err) < 0 ||
	    get_cpus(emulator, &plan->emulator, err) < 0 ||
	    get_sched(emulator, &plan->emulator_sched, err) < 0 ||
	    (json_object_object_get_ex(emulator, "policy", NULL) &&
	     get_name(emulator, "policy", &names_emulator, &emulator_policy, err) < 0) ||
	    get(json, "topology", json_type_object, &topology, err) < 0)
		return -1;
	for (size_t i = 0; i < ARRAY_SIZE(keys); i++)
		if (get_int(topology, keys[i], 1, ELEMENTS_MAX, &counts[i], err) < 0)
			return -1;
	plan->name = xstrdup(json_object_get_string(name));
	plan->accel = (enum accel)accel;
	plan->cpu_policy = (enum cpu_policy)cpu_policy;
	plan->smt = (enum smt_policy)smt;
	plan->emulator_policy = (enum emulator_policy)emulator_policy;
	plan->sockets = (int)counts[0];
	plan->dies = (int)counts[1];
	plan->cores = (int)counts[2];
	plan->threads = (int)counts[3];
	return 0;
}

/* For people only, so it need not be there. */
static int read_lines(struct json_object *json, const char *key, char ***lines, size_t *count,
                      struct error *err)
{
	struct json_object *list;
	size_t length;

	if (!json_object_object_get_ex(json, key, NULL))
		return 0;
	if (get_list(json, key, &list, &length, err) < 0)
		return -1;
	for (size_t i = 0; i < length; i++) {
		const char *line = json_object_get_string(json_object_array_get_idx(list, i));
		*array_append(lines, count) = xstrdup(line ? line : "");
	}
	return 0;
}

/* What a VM need not have. */
static int read_limits(struct plan *plan, struct json_object *json, struct error *err)
{
	struct json_object *quota, *isolation;
	int64_t shares = 0;
	char end[2] = "";

	if (json_object_object_get_ex(json, "shares", NULL) &&
	    get_int(json, "shares", 2, 262144, &shares, err) < 0)
		return -1;
	plan->shares = (int)shares;
	if (json_object_object_get_ex(json, "quota", NULL) &&
	    (get(json, "quota", json_type_string, &quota, err) < 0 ||
	     sscanf(json_object_get_string(quota), "%6d%1s", &plan->quota, end) != 2 ||
	     *end != '%' || plan->quota < 1))
		return error_set(err, EXIT_FAILED, "the plan's \"quota\" is not as \"400%%\"");
	if (json_object_object_get_ex(json, "isolation", NULL) &&
	    (get(json, "isolation", json_type_string, &isolation, err) < 0 ||
	     strcmp(json_object_get_string(isolation), "partition") != 0))
		return error_set(err, EXIT_FAILED, "the plan's \"isolation\" is not \"partition\"");
	plan->partition = json_object_object_get_ex(json, "isolation", NULL);
	return 0;
}

struct plan *plan_from_json(struct json_object *json, struct error *err)
{
	cleanup_plan struct plan *plan = plan_new();
	cleanup_bitmap hwloc_bitmap_t siblings = NULL;
	struct json_object *process;

	if (read_header(plan, json, err) < 0 || read_vcpus(plan, json, err) < 0 ||
	    read_iothreads(plan, json, err) < 0 || read_memory(plan, json, err) < 0 ||
	    read_distances(plan, json, err) < 0 || read_limits(plan, json, err) < 0 ||
	    get_set(json, "idle-siblings", &siblings, err) < 0 ||
	    read_lines(json, "why", &plan->why, &plan->n_why, err) < 0 ||
	    read_lines(json, "warnings", &plan->warnings, &plan->n_warnings, err) < 0)
		return NULL;
	if (json_object_object_get_ex(json, "process", &process) &&
	    plan_process_from_json(process, &plan->process, err) < 0)
		return NULL;
	hwloc_bitmap_copy(plan->siblings, siblings);
	return plan_check(plan, err) == 0 ? take_pointer(&plan) : NULL;
}

struct plan *plan_copy(const struct plan *plan)
{
	cleanup_json struct json_object *json = plan_to_json(plan);
	cleanup_error struct error err = ERROR_INIT;
	struct plan *copy = plan_from_json(json, &err);

	/* What was written a line above is read back, or this program is wrong. */
	assert(copy);
	if (plan->cgroup) {
		cleanup_json struct json_object *cgroup = cgroup_to_json(plan->cgroup);
		copy->cgroup = xcalloc(1, sizeof(*copy->cgroup));
		int read = cgroup_from_json(cgroup, copy->cgroup, &err);
		assert(read == 0);
	}
	return copy;
}
