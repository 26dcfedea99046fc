/* A VM's cgroups as they are on file. */
#include <stdlib.h>
#include <string.h>

#include "cgroup.h"
#include "cpulist.h"
#include "util.h"

struct json_object *cgroup_to_json(const struct cgroup *cgroup)
{
	struct json_object *json = json_object_new_object(), *list = json_object_new_array();

	json_add_int(json, "version", cgroup->version);
	json_add_string(json, "name", cgroup->name);
	json_add_string(json, "parent", cgroup->parent);
	if (cgroup->limits)
		json_add_string(json, "limits", cgroup->limits);
	if (cgroup->partition) {
		cleanup_free char *cpus = cpulist_format(cgroup->cpus);
		json_add_string(json, "partition", cgroup->partition);
		json_add_string(json, "cpus", cpus);
	}
	for (size_t i = 0; i < cgroup->n_exclusive; i++)
		json_object_array_add(list, json_object_new_string(cgroup->exclusive[i]));
	json_object_object_add(json, "exclusive", list);
	return json;
}

/* The text behind a key, a copy; NULL where there is none. */
static char *text_of(struct json_object *json, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(json, key, &value) &&
	               json_object_is_type(value, json_type_string)
	           ? xstrdup(json_object_get_string(value))
	           : NULL;
}

int cgroup_from_json(struct json_object *json, struct cgroup *cgroup, struct error *err)
{
	cleanup_cgroup struct cgroup read = { 0 };
	cleanup_free char *cpus = text_of(json, "cpus");
	struct json_object *value;

	if (json_object_object_get_ex(json, "version", &value))
		read.version = json_object_get_int(value);
	read.name = text_of(json, "name");
	read.parent = text_of(json, "parent");
	read.limits = text_of(json, "limits");
	read.partition = text_of(json, "partition");
	if ((read.version != 1 && read.version != 2) || !read.name || !read.parent ||
	    (read.partition && !cpus) || (cpus && cpulist_parse(cpus, &read.cpus, err) < 0))
		return error_set(err, EXIT_FAILED,
		                 "what is on file of the VM's cgroups is not whole");
	for (size_t i = 0;
	     json_object_object_get_ex(json, "exclusive", &value) &&
	     json_object_is_type(value, json_type_array) && i < json_object_array_length(value);
	     i++) {
		struct json_object *item = json_object_array_get_idx(value, i);
		if (json_object_is_type(item, json_type_string))
			*array_append(&read.exclusive, &read.n_exclusive) =
			    xstrdup(json_object_get_string(item));
	}
	*cgroup = read;
	memset(&read, 0, sizeof(read)); /* it is the caller's now */
	return 0;
}
