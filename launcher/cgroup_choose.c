/* Where a VM's cgroups can be, and whether they can. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "cgroup_parts.h"
#include "cpulist.h"
#include "util.h"

#define TEXT_LIMIT (1 << 20)

/* What to do where ancla may make no cgroups, or not with these controllers. */
#define DELEGATE                                                                                   \
	"start ancla as root, or in a cgroup of its own with that controller (`systemd-run "       \
	"--scope "                                                                                 \
	"-p Delegate=yes ancla ...`, --user for a user)"

/* One hierarchy, as this process sees it. */
struct hierarchy {
	int version;
	char *mount; /* where it is mounted */
	char *path;  /* of the process's cgroup, below the mount */
};

static void end_hierarchy(struct hierarchy *hierarchy)
{
	free(hierarchy->mount);
	free(hierarchy->path);
}

bool cgroup_list_has(const char *list, const char *word)
{
	size_t length = strlen(word);

	for (const char *at = list; at; at = strchr(at, ','), at = at ? at + 1 : NULL)
		if (strncmp(at, word, length) == 0 && (at[length] == ',' || at[length] == '\0'))
			return true;
	return false;
}

int cgroup_find_path(const char *file, const char *controller, char **path)
{
	cleanup_free char *text = NULL, *unified = NULL;
	cleanup_error struct error ignored = ERROR_INIT;
	char *rest, *line;

	if (read_file(file, TEXT_LIMIT, &text, NULL, &ignored) < 0)
		return 0;
	rest = text;
	while ((line = strsep(&rest, "\n"))) {
		char *list = strchr(line, ':');
		char *end = list ? strchr(++list, ':') : NULL;
		if (!end)
			continue;
		*end++ = '\0';
		if (*list && cgroup_list_has(list, controller)) {
			*path = xstrdup(end);
			return 1;
		}
		if (!*list && !unified)
			unified = xstrdup(end);
	}
	*path = take_pointer(&unified);
	return *path ? 2 : 0;
}

/* Undoes the escapes of /proc/PID/mountinfo: "\040". */
static void unescape(char *text)
{
	char *to = text;

	for (; *text; text++)
		if (text[0] == '\\' && text[1] && text[2] && text[3]) {
			*to++ = (char)((text[1] & 7) << 6 | (text[2] & 7) << 3 | (text[3] & 7));
			text += 3;
		} else {
			*to++ = *text;
		}
	*to = '\0';
}

/* One line of /proc/self/mountinfo (proc(5)), if it is a mount of the hierarchy that the path is
 * in: then fills in the mount and cuts the mount's root off the path. */
static bool take_mount(char *line, const char *controller, struct hierarchy *found)
{
	char *fields[6] = { NULL }, *more = strstr(line, " - ");
	char type[16] = "", options[512] = "";

	if (!more || sscanf(more, " - %15s %*s %511s", type, options) != 2)
		return false;
	*more = '\0';
	for (size_t i = 0; i < ARRAY_SIZE(fields) && line; i++)
		fields[i] = strsep(&line, " ");
	if (strcmp(type, found->version == 2 ? "cgroup2" : "cgroup") != 0 || !fields[5] ||
	    (found->version == 1 && !cgroup_list_has(options, controller)))
		return false;
	unescape(fields[3]);
	unescape(fields[4]);
	size_t root = strcmp(fields[3], "/") == 0 ? 0 : strlen(fields[3]);
	if (strncmp(found->path, fields[3], root) != 0 ||
	    (found->path[root] != '/' && found->path[root] != '\0') ||
	    strncmp(found->path, "/..", 3) == 0)
		return false;
	found->mount = xstrdup(fields[4]);
	memmove(found->path, found->path + root, strlen(found->path + root) + 1);
	if (strcmp(found->path, "/") == 0)
		*found->path = '\0';
	return true;
}

static int find_hierarchy(pid_t pid, const char *controller, struct hierarchy *found,
                          struct error *err)
{
	cleanup_free char *file = xasprintf("/proc/%d/cgroup", pid);
	cleanup_free char *text = NULL;
	char *rest, *line;

	found->version = cgroup_find_path(file, controller, &found->path);
	if (!found->version)
		return error_set(
		    err, EXIT_GRANT,
		    "%s names no cgroup for the controller %s: this kernel has none, or "
		    "it is not mounted",
		    file, controller);
	if (read_file("/proc/self/mountinfo", TEXT_LIMIT, &text, NULL, err) < 0)
		return -1;
	rest = text;
	while (!found->mount && (line = strsep(&rest, "\n")))
		take_mount(line, controller, found);
	if (found->mount)
		return 0;
	return error_set(
	    err, EXIT_GRANT,
	    "the cgroup v%d hierarchy with the controller %s is not mounted where this "
	    "process can see its own cgroup, %s; mount it",
	    found->version, controller, found->path);
}

/* On v2 a cgroup has the controllers that those above it pass on. */
static int check_controller(const char *parent, const char *controller, struct error *err)
{
	cleanup_free char *have = cgroup_read(parent, "cgroup.controllers");

	for (char *at = have; at && *at; at++)
		if (*at == ' ')
			*at = ',';
	if (have && cgroup_list_has(have, controller))
		return 0;
	return error_set(
	    err, EXIT_GRANT,
	    "the cgroup %s, in which ancla runs, has no controller %s (it has: %s); " DELEGATE,
	    parent, controller, have && *have ? have : "none");
}

static int check_writable(const char *parent, struct error *err)
{
	if (access(parent, W_OK) == 0)
		return 0;
	return error_set(
	    err, EXIT_GRANT,
	    "shares, quota and partitions need a cgroup below %s, in which ancla runs: "
	    "%s; " DELEGATE,
	    parent, strerror(errno));
}

/* The cgroups from the top down to `parent` that do not have the CPUs as exclusive ones yet. The
 * root cgroup has no such file: all CPUs are its. */
static int choose_exclusive(struct cgroup *cgroup, const struct hierarchy *at, struct error *err)
{
	cleanup_free char *directory = xasprintf("%s%s", at->mount, at->path);
	size_t end = strlen(at->mount);

	while (end <= strlen(directory)) {
		char next = directory[end];
		cleanup_bitmap hwloc_bitmap_t set = NULL;
		directory[end] = '\0';
		cleanup_free char *list = cgroup_read(directory, "cpuset.cpus.exclusive");
		if (list && cpulist_parse(list, &set, err) < 0)
			return error_prefix(err, "%s/cpuset.cpus.exclusive: ", directory);
		if (list && !hwloc_bitmap_isincluded(cgroup->cpus, set))
			*array_append(&cgroup->exclusive, &cgroup->n_exclusive) =
			    xstrdup(directory);
		directory[end] = next;
		do
			end++;
		while (end < strlen(directory) && directory[end] != '/');
	}
	return 0;
}

static int choose_partition(const struct plan *plan, pid_t pid, struct cgroup *cgroup,
                            struct error *err)
{
	__attribute__((cleanup(end_hierarchy))) struct hierarchy at = { 0 };
	bool realtime = sched_is_realtime(plan->vcpus[0].sched);

	if (find_hierarchy(pid, "cpuset", &at, err) < 0)
		return error_prefix(err, "isolation: ");
	if (at.version != 2)
		return error_set(
		    err, EXIT_GRANT,
		    "isolation: partitions are of cgroup v2, but here cpuset is a "
		    "controller of v1 (%s); boot with cgroup_no_v1=all or "
		    "systemd.unified_cgroup_hierarchy=1, or isolate the CPUs by isolcpus=",
		    at.mount);
	if (cgroup->version == 1)
		return error_set(
		    err, EXIT_GRANT,
		    "isolation: with shares or quota, partitions need the controllers cpu "
		    "and cpuset both on cgroup v2, but cpu is on v1; boot with "
		    "cgroup_no_v1=all");
	cgroup->version = 2;
	free(cgroup->parent);
	cgroup->parent = xasprintf("%s%s", at.mount, at.path);
	cgroup->partition =
	    xasprintf("%s/%s-isolated",
	              cgroup->limits && !realtime ? cgroup->limits : cgroup->parent, cgroup->name);
	cgroup->cpus = plan_partition_cpus(plan);
	if (check_controller(cgroup->parent, "cpuset", err) < 0)
		return error_prefix(err, "isolation: ");
	return choose_exclusive(cgroup, &at, err);
}

static int choose_limits(pid_t pid, struct cgroup *cgroup, struct error *err)
{
	__attribute__((cleanup(end_hierarchy))) struct hierarchy at = { 0 };

	if (find_hierarchy(pid, "cpu", &at, err) < 0)
		return -1;
	cgroup->version = at.version;
	cgroup->parent = xasprintf("%s%s", at.mount, at.path);
	cgroup->limits = xasprintf("%s/%s", cgroup->parent, cgroup->name);
	return at.version == 2 ? check_controller(cgroup->parent, "cpu", err) : 0;
}

bool cgroup_is_needed(const struct plan *plan)
{
	return plan->shares || plan->quota || plan->partition;
}

struct cgroup *cgroup_choose(const struct plan *plan, pid_t pid, struct error *err)
{
	cleanup_cgroup struct cgroup chosen = { 0 };
	struct cgroup *result;
	uint64_t id = 0;

	if (getrandom(&id, sizeof(id), 0) != sizeof(id)) {
		error_set(err, EXIT_FAILED, "getrandom: %s", strerror(errno));
		return NULL;
	}
	chosen.name = xasprintf("ancla-%s-%016llx", plan->name, (unsigned long long)id);
	if ((plan->shares || plan->quota) && choose_limits(pid, &chosen, err) < 0) {
		error_prefix(err, "cputune.%s: ", plan->shares ? "shares" : "quota");
		return NULL;
	}
	if ((plan->partition && choose_partition(plan, pid, &chosen, err) < 0) ||
	    (chosen.parent && check_writable(chosen.parent, err) < 0))
		return NULL;
	result = xcalloc(1, sizeof(*result));
	*result = chosen;
	chosen = (struct cgroup){ 0 };
	return result;
}
