/* The host as JSON. The keys are an interface: see "The command line" in the README. */
#include "cpulist.h"
#include "host.h"
#include "util.h"

static struct json_object *cpus_json(hwloc_const_bitmap_t set)
{
	cleanup_free char *list = cpulist_format(set);

	return json_object_new_string(list);
}

static struct json_object *hugepages_json(const struct host_node *node)
{
	struct json_object *json = json_object_new_object();

	for (size_t i = 0; i < node->n_pages; i++) {
		const struct host_pages *pages = &node->pages[i];
		cleanup_free char *size = xasprintf("%llu", (unsigned long long)pages->size);
		struct json_object *counts = json_object_new_object();

		json_object_object_add(counts, "total", json_object_new_uint64(pages->total));
		json_object_object_add(counts, "free", json_object_new_uint64(pages->free));
		json_object_object_add(json, size, counts);
	}
	return json;
}

static struct json_object *nodes_json(const struct host *host)
{
	struct json_object *json = json_object_new_array();

	for (size_t i = 0; i < host->n_nodes; i++) {
		const struct host_node *node = &host->nodes[i];
		struct json_object *entry = json_object_new_object();
		struct json_object *distances = json_object_new_array();

		for (size_t j = 0; j < host->n_nodes; j++)
			json_object_array_add(distances, json_object_new_int64(node->distances[j]));
		json_object_object_add(entry, "id", json_object_new_int64(node->id));
		json_object_object_add(entry, "cpus", cpus_json(node->cpus));
		json_object_object_add(entry, "memory", json_object_new_uint64(node->memory));
		json_object_object_add(entry, "free", json_object_new_uint64(node->free));
		json_object_object_add(entry, "hugepages", hugepages_json(node));
		json_object_object_add(entry, "distances", distances);
		json_object_array_add(json, entry);
	}
	return json;
}

/* Indexes and node ids that are -1 ("none") are null. */
static struct json_object *index_json(int index)
{
	return index < 0 ? NULL : json_object_new_int(index);
}

static struct json_object *cores_json(const struct host *host)
{
	struct json_object *json = json_object_new_array();

	for (size_t i = 0; i < host->n_cores; i++) {
		const struct host_core *core = &host->cores[i];
		struct json_object *entry = json_object_new_object();

		json_object_object_add(entry, "cpus", cpus_json(core->cpus));
		json_object_object_add(entry, "node", index_json(core->node));
		json_object_object_add(entry, "l3", index_json(core->l3));
		json_object_object_add(entry, "package", index_json(core->package));
		json_object_object_add(entry, "kind", index_json(core->kind));
		json_object_array_add(json, entry);
	}
	return json;
}

static struct json_object *packages_json(const struct host *host)
{
	struct json_object *json = json_object_new_array();

	for (size_t i = 0; i < host->n_packages; i++) {
		struct json_object *entry = json_object_new_object();

		json_object_object_add(entry, "id", index_json(host->packages[i].id));
		json_object_object_add(entry, "cpus", cpus_json(host->packages[i].cpus));
		json_object_array_add(json, entry);
	}
	return json;
}

static struct json_object *l3s_json(const struct host *host)
{
	struct json_object *json = json_object_new_array();

	for (size_t i = 0; i < host->n_l3s; i++) {
		struct json_object *entry = json_object_new_object();

		json_object_object_add(entry, "cpus", cpus_json(host->l3s[i].cpus));
		json_object_object_add(entry, "size", json_object_new_uint64(host->l3s[i].size));
		json_object_array_add(json, entry);
	}
	return json;
}

static struct json_object *kinds_json(const struct host *host)
{
	struct json_object *json = json_object_new_array();

	for (size_t i = 0; i < host->n_kinds; i++) {
		struct json_object *entry = json_object_new_object();

		json_object_object_add(entry, "cpus", cpus_json(host->kinds[i].cpus));
		json_object_object_add(entry, "efficiency", index_json(host->kinds[i].efficiency));
		json_object_array_add(json, entry);
	}
	return json;
}

struct json_object *host_json(const struct host *host)
{
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "live", json_object_new_boolean(host->live));
	json_object_object_add(json, "page-size", json_object_new_uint64(host->page_size));
	json_object_object_add(json, "cpus", cpus_json(host->cpus));
	json_object_object_add(json, "allowed", cpus_json(host->allowed));
	json_object_object_add(json, "isolated", cpus_json(host->isolated));
	json_object_object_add(json, "packages", packages_json(host));
	json_object_object_add(json, "nodes", nodes_json(host));
	json_object_object_add(json, "l3s", l3s_json(host));
	json_object_object_add(json, "cores", cores_json(host));
	if (host->n_kinds)
		json_object_object_add(json, "kinds", kinds_json(host));
	return json;
}
