#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "cmd_pin_memory.h"
#include "cpulist.h"
#include "live.h"
#include "migrate.h"
#include "util.h"

/* Regions that are moved, by index in the plan. */
struct relocation {
	struct live live;
	struct migration *list; /* one a region; those not named stay as MIGRATION_INIT */
	size_t count;
	hwloc_bitmap_t regions, nodes;
};

static void relocation_end(struct relocation *r)
{
	for (size_t i = 0; i < r->count; i++)
		migration_end(&r->list[i]);
	free(r->list);
	hwloc_bitmap_free(r->regions);
	hwloc_bitmap_free(r->nodes);
	live_end(&r->live);
}

static int parse(const struct invocation *call, struct relocation *r, struct error *err)
{
	const char *nodes = invocation_option(call, "node");

	if (!nodes || call->n_args > 3 || invocation_option(call, "scheduler"))
		return error_set(err, EXIT_USAGE,
		                 "memory is moved alone, and needs --node: ancla pin %s memory 0 "
		                 "--node 1",
		                 call->args[0]);
	if ((call->n_args > 2 && cpulist_parse(call->args[2], &r->regions, err) < 0) ||
	    cpulist_parse(nodes, &r->nodes, err) < 0) {
		err->code = EXIT_USAGE;
		return -1;
	}
	if (hwloc_bitmap_iszero(r->nodes) || (r->regions && hwloc_bitmap_iszero(r->regions)))
		return error_set(err, EXIT_USAGE, "the list of nodes is empty");
	return 0;
}

/* The guest nodes that are named are there. Without guest nodes there is one region, node 0. */
static int find_regions(struct relocation *r, struct error *err)
{
	size_t count = r->live.plan->n_memory;
	int last = r->regions ? hwloc_bitmap_last(r->regions) : 0;

	if (last >= (int)count)
		return error_set(err, EXIT_FAILED,
		                 "VM \"%s\" has no guest node %d; it has 0 to %zu",
		                 r->live.plan->name, last, count - 1);
	if (!r->regions) {
		r->regions = xbitmap();
		hwloc_bitmap_set_range(r->regions, 0, (int)count - 1);
	}
	r->list = xcalloc(count, sizeof(*r->list));
	for (; r->count < count; r->count++)
		r->list[r->count] = (struct migration)MIGRATION_INIT;
	return 0;
}

static int look(struct relocation *r, struct error *err)
{
	const struct vm_client *client = &r->live.client;
	unsigned i;

	hwloc_bitmap_foreach_begin(i, r->regions)
	{
		if (migration_look(&r->list[i], client->plan, i, client->state.qemu, err) < 0 ||
		    migration_check(&r->list[i], r->live.host, r->nodes, err) < 0)
			return -1;
		plan_memory_move(&r->live.plan->memory[i], r->nodes);
	}
	hwloc_bitmap_foreach_end();
	return 0;
}

/* Always -1. */
static int move_back(struct relocation *r, struct error *err)
{
	for (size_t i = r->count; i-- > 0;) {
		cleanup_error struct error undo = ERROR_INIT;
		if (r->list[i].moved && migration_undo(&r->list[i], &undo) < 0)
			error_prefix(err, "%s; before that: ", undo.message);
	}
	return -1;
}

/* Moves what is to be moved, then writes the plan: that takes the ledger's lock, which nobody holds
 * while gigabytes move. */
static int move(struct relocation *r, struct spec_save *save, struct error *err)
{
	unsigned i;

	live_defer_signals();
	hwloc_bitmap_foreach_begin(i, r->regions) if (migration_move(&r->list[i], err) < 0)
	{
		r->list[i].moved = 0; /* it is back already */
		return move_back(r, err);
	}
	hwloc_bitmap_foreach_end();
	if (live_lock(&r->live, err) < 0 || live_write(&r->live, save, err) < 0)
		return move_back(r, err);
	return 0;
}

static struct json_object *set_json(hwloc_const_bitmap_t set)
{
	cleanup_free char *text = set ? cpulist_format(set) : NULL;

	return text ? json_object_new_string(text) : NULL;
}

static struct json_object *region_json(const struct relocation *r, unsigned i)
{
	const struct plan_memory *is = &r->live.plan->memory[i];
	struct plan_memory policy = plan_memory_of_policy(is);
	struct json_object *json = json_object_new_object(), *was = json_object_new_object();

	json_add_string(json, "role", "memory");
	json_add_int(json, "guest-node", is->guest_node);
	json_object_object_add(json, "host-nodes", set_json(is->host_nodes));
	json_object_object_add(json, "policy-nodes", set_json(policy.host_nodes));
	json_add_string(json, "policy", mem_policy_name(is->policy));
	json_add_int(json, "page-size", (int64_t)is->page_size);
	json_add_int(json, "pages", (int64_t)r->list[i].present);
	json_add_int(json, "to-move", (int64_t)migration_needed(&r->list[i]));
	json_add_int(json, "moved", (int64_t)r->list[i].moved);
	json_object_object_add(was, "host-nodes",
	                       set_json(r->live.client.plan->memory[i].host_nodes));
	json_object_object_add(json, "was", was);
	return json;
}

static struct json_object *relocation_json(const struct relocation *r, bool dry)
{
	struct json_object *json = json_object_new_object(), *list = json_object_new_array();
	unsigned i;

	json_add_string(json, "name", r->live.plan->name);
	json_add_bool(json, "dry-run", dry);
	hwloc_bitmap_foreach_begin(i, r->regions) json_object_array_add(list, region_json(r, i));
	hwloc_bitmap_foreach_end();
	json_object_object_add(json, "changes", list);
	return json;
}

static void print_region(const struct relocation *r, unsigned i, bool dry)
{
	const struct migration *m = &r->list[i];
	cleanup_free char *nodes = cpulist_format(r->nodes);
	cleanup_free char *size = format_size(m->memory->page_size);
	cleanup_free char *text = plan_memory_format(&r->live.plan->memory[i]);

	printf(
	    "guest node %u: %" PRIu64 " of %" PRIu64 " pages of %s %s to host node%s %s%s\n  %s\n",
	    i, dry ? migration_needed(m) : m->moved, m->present, size, dry ? "would move" : "moved",
	    m->n_targets > 1 ? "s" : "", nodes, dry ? "" : ", all read back", text);
}

static int report(const struct relocation *r, bool dry, bool as_json)
{
	unsigned i;

	if (as_json)
		return command_print_json(relocation_json(r, dry));
	hwloc_bitmap_foreach_begin(i, r->regions) print_region(r, i, dry);
	hwloc_bitmap_foreach_end();
	if (dry)
		printf("nothing was changed (--dry-run)\n");
	return command_flush();
}

static int prepare(struct spec_save *save, const struct relocation *r, struct error *err)
{
	const struct plan *plan = r->live.plan;

	if (spec_save_open(save, r->live.client.state.spec, plan->name, err) < 0 ||
	    spec_save_memory(save, plan, r->regions, err) < 0)
		return -1;
	return spec_save_prepare(save, NULL, err);
}

int pin_memory(const struct invocation *call)
{
	__attribute__((cleanup(relocation_end))) struct relocation r = { .live = LIVE_INIT };
	cleanup_error struct error err = ERROR_INIT;
	cleanup_spec_save struct spec_save save = SPEC_SAVE_INIT;
	bool dry = invocation_option(call, "dry-run") != NULL;
	bool keep = invocation_option(call, "save") != NULL;

	if (parse(call, &r, &err) < 0 || live_begin(&r.live, call->args[0], &err) < 0 ||
	    find_regions(&r, &err) < 0 || look(&r, &err) < 0 ||
	    (keep && prepare(&save, &r, &err) < 0) ||
	    (!dry && move(&r, keep ? &save : NULL, &err) < 0))
		return command_fail(vm_client_blame(&r.live.client, &err));
	return report(&r, dry, invocation_option(call, "json") != NULL);
}
