#include <linux/capability.h>
#include <stdlib.h>

#include "plan.h"
#include "util.h"

/* NGROUPS_MAX of the kernel. */
#define GROUPS_MAX 65536

/* The largest set of capabilities that a kernel could have. */
#define CAPABILITIES_MAX (((int64_t)1 << (CAP_LAST_CAP + 1)) - 1)

void plan_process_free(struct plan_process *process)
{
	free(process->groups);
	*process = (struct plan_process){ 0 };
}

struct json_object *plan_process_to_json(const struct plan_process *process)
{
	struct json_object *json = json_object_new_object();
	struct json_object *groups = json_object_new_array();

	for (size_t i = 0; i < process->n_groups; i++)
		json_object_array_add(groups, json_object_new_int64(process->groups[i]));
	json_add_int(json, "user", process->uid);
	json_add_int(json, "group", process->gid);
	json_object_object_add(json, "groups", groups);
	json_add_int(json, "capabilities", (int64_t)process->capabilities);
	json_add_bool(json, "sandbox", process->sandbox);
	return json;
}

static int read_number_of(struct json_object *json, int64_t most, int64_t *number,
                          struct error *err)
{
	if (json_object_is_type(json, json_type_int)) {
		*number = json_object_get_int64(json);
		if (*number >= 0 && *number <= most)
			return 0;
	}
	return error_set(err, EXIT_FAILED,
	                 "the plan's \"process\" has no user, group, groups and capabilities in "
	                 "numbers");
}

int plan_process_from_json(struct json_object *json, struct plan_process *process,
                           struct error *err)
{
	static const char *const keys[] = { "user", "group", "capabilities" };
	static const int64_t most[] = { UINT32_MAX, UINT32_MAX, CAPABILITIES_MAX };
	int64_t numbers[ARRAY_SIZE(keys)], group = 0;
	struct json_object *value = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		value = NULL;
		if (json_object_is_type(json, json_type_object))
			json_object_object_get_ex(json, keys[i], &value);
		if (read_number_of(value, most[i], &numbers[i], err) < 0)
			return -1;
	}
	if (!json_object_object_get_ex(json, "groups", &value) ||
	    !json_object_is_type(value, json_type_array) ||
	    json_object_array_length(value) > GROUPS_MAX)
		return error_set(err, EXIT_FAILED, "the plan's \"process\" has no list of groups");
	for (size_t i = 0; i < json_object_array_length(value); i++) {
		if (read_number_of(json_object_array_get_idx(value, i), UINT32_MAX, &group, err) <
		    0)
			return -1;
		*array_append(&process->groups, &process->n_groups) = (gid_t)group;
	}
	process->uid = (uid_t)numbers[0];
	process->gid = (gid_t)numbers[1];
	process->capabilities = (uint64_t)numbers[2];
	process->sandbox =
	    json_object_object_get_ex(json, "sandbox", &value) && json_object_get_boolean(value);
	process->known = true;
	return 0;
}
