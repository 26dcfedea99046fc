#include <stdlib.h>
#include <unistd.h>

#include "cgroup.h"
#include "live_limits.h"

static bool is_changed(const struct live *live)
{
	const struct plan *was = live->client.plan;

	return live->plan->shares != was->shares || live->plan->quota != was->quota;
}

/* Threads may be born meanwhile, of one that is not in it yet: hence twice. */
static int put_threads(struct live *live, struct error *err)
{
	struct threads *threads = &live->client.threads;

	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < threads->count; i++)
			if (cgroup_put_thread(live->plan, &threads->list[i], err) < 0)
				return -1;
		if (threads_refresh(threads, err) < 0)
			return -1;
	}
	return 0;
}

bool live_limits_left(const struct vm_client *client)
{
	return !cgroup_is_needed(client->plan) && vm_has_cgroup(&client->dir);
}

int live_limits_remove_left(struct vm_client *client, struct error *err)
{
	struct cgroup *left = NULL;
	int result;

	if (!live_limits_left(client))
		return 0;
	if (vm_read_cgroup(&client->dir, &left, err) < 0)
		return -1;
	if (!left)
		return 0;
	result = cgroup_leave(left, &client->threads, err);
	if (result == 0)
		result = cgroup_remove(left, err);
	if (result == 0)
		unlinkat(client->dir.dirfd, VM_CGROUP, 0);
	cgroup_free(left);
	free(left);
	return result;
}

static int make(struct live *live, struct error *err)
{
	struct vm_client *client = &live->client;

	if (live_limits_remove_left(client, err) < 0)
		return -1;
	live->plan->cgroup = cgroup_choose(live->plan, client->state.qemu, err);
	if (!live->plan->cgroup || vm_write_cgroup(&client->dir, live->plan->cgroup, err) < 0 ||
	    cgroup_make(live->plan, err) < 0)
		return -1;
	return put_threads(live, err);
}

static int apply(struct live *live, struct error *err)
{
	cleanup_checks struct checks checks = { 0 };

	if (!live->plan->cgroup) {
		if (make(live, err) < 0)
			return -1;
	} else if (!live->plan->cgroup->limits) {
		return error_set(err, EXIT_GRANT,
		                 "VM \"%s\" has a partition, but no cgroup of shares and quota: "
		                 "with a partition, they are to be in the spec when it starts",
		                 live->plan->name);
	} else if (cgroup_set_limits(live->plan, err) < 0) {
		return -1;
	}
	verify_cgroup(live->plan, &live->client.threads, &checks);
	return verify_verdict(&checks, err);
}

int live_limits_apply(struct live *live, struct error *err)
{
	cleanup_error struct error undo = ERROR_INIT;

	if (!is_changed(live) || apply(live, err) == 0)
		return 0;
	if (live_limits_undo(live, &undo) < 0)
		error_prefix(err, "%s; before that: ", undo.message);
	return -1;
}

int live_limits_undo(struct live *live, struct error *err)
{
	const struct cgroup *made = live->plan->cgroup;

	if (!is_changed(live) || !made)
		return 0;
	if (live->client.plan->cgroup)
		return made->limits ? cgroup_set_limits(live->client.plan, err) : 0;
	if (cgroup_leave(made, &live->client.threads, err) < 0 || cgroup_remove(made, err) < 0)
		return -1;
	unlinkat(live->client.dir.dirfd, VM_CGROUP, 0);
	return 0;
}
