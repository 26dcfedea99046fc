/* A VM's cgroups against its plan, as the kernel has them. */
#include <stdlib.h>
#include <string.h>

#include "cgroup_parts.h"
#include "cpulist.h"
#include "util.h"
#include "verify_parts.h"

static void check_file(const char *directory, const char *file, const char *expected,
                       struct checks *checks)
{
	char *now = cgroup_read(directory, file);

	checks_add(checks, xasprintf("cgroup: %s", file), xstrdup(expected),
	           now ? now : xstrdup("unreadable"), now && strcmp(now, expected) == 0);
}

static void check_partition(const struct plan *plan, struct checks *checks)
{
	cleanup_bitmap hwloc_bitmap_t set = plan_partition_cpus(plan);
	cleanup_free char *cpus = cpulist_format(set);

	check_file(plan->cgroup->partition, "cpuset.cpus.partition", "isolated", checks);
	check_file(plan->cgroup->partition, "cpuset.cpus.effective", cpus, checks);
}

/* The part of a directory or path that is the VM's own making; "outside" if there is none. */
static const char *own_part(const struct cgroup *cgroup, const char *path)
{
	const char *own = strstr(path, cgroup->name);

	return own ? own : "outside";
}

static void check_thread(const struct plan *plan, pid_t pid, const struct thread *thread,
                         struct checks *checks)
{
	const struct cgroup *cgroup = plan->cgroup;
	const char *directory = cgroup_of_thread(plan, thread);
	cleanup_free char *file = xasprintf("/proc/%d/task/%d/cgroup", pid, thread->tid);
	cleanup_free char *name = thread_name(thread, plan);
	cleanup_free char *path = NULL;

	if (directory)
		cgroup_find_path(file, cgroup->limits ? "cpu" : "cpuset", &path);
	if (!directory || (!path && thread->role == THREAD_EMULATOR))
		return;
	const char *expected = own_part(cgroup, directory);
	const char *actual = path ? own_part(cgroup, path) : "unreadable";
	checks_add(checks, xasprintf("%s: cgroup", name), xstrdup(expected), xstrdup(actual),
	           strcmp(expected, actual) == 0);
}

void verify_cgroup(const struct plan *plan, const struct threads *threads, struct checks *checks)
{
	struct cgroup_setting settings[CGROUP_SETTINGS];
	const struct cgroup *cgroup = plan->cgroup;

	if (!cgroup)
		return;
	for (size_t i = 0; cgroup->limits && i < cgroup_settings(plan, settings); i++)
		check_file(cgroup->limits, settings[i].file, settings[i].text, checks);
	if (cgroup->partition)
		check_partition(plan, checks);
	for (size_t i = 0; i < threads->count; i++)
		check_thread(plan, threads->pid, &threads->list[i], checks);
}
