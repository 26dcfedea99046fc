/* Making a VM's cgroups, and giving back everything that was made or changed for them. */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "cgroup_parts.h"
#include "cpulist.h"
#include "kernel.h"
#include "util.h"
#include "waits.h"

/* An attribute of the cgroup that ancla runs in: the controllers that a VM of it has turned on for
 * the cgroups below ("cpu cpuset "). The last VM turns them off again. */
#define ENABLED_ATTRIBUTE "user.ancla.enabled"

/* Every VM's directories begin so. */
#define NAME_PREFIX "ancla-"

static int make_directory(const struct cgroup *cgroup, const char *directory, struct error *err)
{
	if (mkdir(directory, 0755) < 0)
		return error_set(err, EXIT_GRANT, "cannot make the cgroup %s: %s", directory,
		                 strerror(errno));
	if (cgroup->version == 1 || cgroup_write(directory, "cgroup.type", "threaded") == 0)
		return 0;
	return error_set(
	    err, EXIT_GRANT,
	    "cannot make the cgroup %s threaded: %s; %s, in which ancla runs, must have "
	    "no other cgroups with processes below it: start ancla in a cgroup of its "
	    "own (`systemd-run --scope -p Delegate=yes ancla ...`)",
	    directory, strerror(errno), cgroup->parent);
}

static int cannot_read(const char *directory, const char *what, struct error *err)
{
	return error_set(err, EXIT_FAILED, "cannot read %s of the cgroup %s: %s", what, directory,
	                 strerror(errno));
}

/* 1, 0, or -1 if it cannot be read. */
static int is_enabled(const char *directory, const char *controller, struct error *err)
{
	cleanup_free char *text = cgroup_read(directory, "cgroup.subtree_control");
	char *rest = text, *word;

	if (!text)
		return cannot_read(directory, "cgroup.subtree_control", err);
	while ((word = strsep(&rest, " ")))
		if (strcmp(word, controller) == 0)
			return 1;
	return 0;
}

/* The controllers that a VM has turned on: 1, 0 if there are none, or -1. */
static int read_noted(const char *parent, char *noted, size_t size, struct error *err)
{
	ssize_t length = getxattr(parent, ENABLED_ATTRIBUTE, noted, size - 1);

	if (length < 0 && errno != ENODATA && errno != ENOTSUP && errno != ENOENT)
		return cannot_read(parent, "the attribute " ENABLED_ATTRIBUTE, err);
	noted[length > 0 ? length : 0] = '\0';
	return length > 0;
}

/* Turns a controller on for the cgroups below the one that ancla runs in, and notes that it did. */
static int enable(const char *parent, const char *controller, struct error *err)
{
	char noted[128];
	cleanup_free char *on = xasprintf("+%s", controller);
	int enabled = is_enabled(parent, controller, err);

	if (enabled)
		return enabled < 0 ? -1 : 0;
	if (read_noted(parent, noted, sizeof(noted), err) < 0)
		return -1;
	/* It may have been noted by one that could not turn it on. */
	cleanup_free char *word = xasprintf("%s ", controller);
	cleanup_free char *words = xasprintf("%s%s", noted, strstr(noted, word) ? "" : word);
	if (setxattr(parent, ENABLED_ATTRIBUTE, words, strlen(words), 0) == 0 &&
	    cgroup_write(parent, "cgroup.subtree_control", on) == 0)
		return 0;
	return error_set(
	    err, EXIT_GRANT, "cannot turn the controller %s on below the cgroup %s: %s%s",
	    controller, parent, strerror(errno),
	    errno == EBUSY    ? "; cgroups with processes are below it already: start "
	                        "ancla in a cgroup of its own (`systemd-run --scope -p "
	                        "Delegate=yes ancla ...`)"
	    : errno == EINVAL ? "; on a kernel with RT_GROUP_SCHED, real-time processes must be in "
	                        "the root cgroup"
	                      : "");
}

/* 1, 0, or -1 if it cannot be read. */
static int has_vms(const char *parent, struct error *err)
{
	DIR *dir = opendir(parent);
	struct dirent *entry;
	bool found = false;

	if (!dir)
		return errno == ENOENT ? 0 : cannot_read(parent, "what is below", err);
	while (!found && (errno = 0, entry = readdir(dir)))
		found = entry->d_type == DT_DIR &&
		        strncmp(entry->d_name, NAME_PREFIX, strlen(NAME_PREFIX)) == 0;
	int result = found ? 1 : errno ? cannot_read(parent, "what is below", err) : 0;
	closedir(dir);
	return result;
}

/* Unless other VMs need them, or may. */
static int disable_all(const char *parent, struct error *err)
{
	char noted[128], *rest = noted, *word;
	int found = has_vms(parent, err);

	if (found)
		return found < 0 ? -1 : 0;
	if (read_noted(parent, noted, sizeof(noted), err) < 0)
		return -1;
	while ((word = strsep(&rest, " ")) && *word) {
		cleanup_free char *off = xasprintf("-%s", word);
		cgroup_write(parent, "cgroup.subtree_control", off);
	}
	if (*noted)
		removexattr(parent, ENABLED_ATTRIBUTE);
	return 0;
}

static int make_limits(const struct plan *plan, struct error *err)
{
	const struct cgroup *cgroup = plan->cgroup;

	if (make_directory(cgroup, cgroup->limits, err) < 0)
		return -1;
	if (cgroup->version == 2 && enable(cgroup->parent, "cpu", err) < 0)
		return -1;
	return cgroup_set_limits(plan, err);
}

/* Adds the partition's CPUs to a cgroup's exclusive ones, or takes them away. */
static int change_exclusive(const struct cgroup *cgroup, const char *directory, bool add)
{
	static const char file[] = "cpuset.cpus.exclusive";
	cleanup_bitmap hwloc_bitmap_t set = NULL;
	cleanup_free char *list = cgroup_read(directory, file);
	cleanup_error struct error ignored = ERROR_INIT;

	if (!list || cpulist_parse(list, &set, &ignored) < 0)
		return -1;
	if (add)
		hwloc_bitmap_or(set, set, cgroup->cpus);
	else
		hwloc_bitmap_andnot(set, set, cgroup->cpus);
	cleanup_free char *text = cpulist_format(set);
	cleanup_free char *line = xasprintf("%s\n", text);
	return cgroup_write(directory, file, line);
}

static int add_exclusive(const struct cgroup *cgroup, const char *directory, const char *cpus,
                         struct error *err)
{
	if (change_exclusive(cgroup, directory, true) == 0)
		return 0;
	return error_set(
	    err, EXIT_GRANT,
	    "isolation: CPUs %s cannot be made exclusive (%s/cpuset.cpus.exclusive: %s); "
	    "another cgroup may have some of them",
	    cpus, directory, strerror(errno));
}

/* What the kernel says of the partition now, in force or not. */
static int read_back(const struct cgroup *cgroup, const char *cpus, struct error *err)
{
	cleanup_free char *state = cgroup_read(cgroup->partition, "cpuset.cpus.partition");
	cleanup_free char *now = cgroup_read(cgroup->partition, "cpuset.cpus.effective");

	if (!state || strcmp(state, "isolated") != 0)
		return error_set(err, EXIT_GRANT,
		                 "isolation: the kernel grants no isolated partition of CPUs %s: "
		                 "%s/cpuset.cpus.partition is \"%s\"; leave CPUs to the host, use "
		                 "CPUs that no other cpuset has as its own, and start ancla with "
		                 "CAP_SYS_ADMIN",
		                 cpus, cgroup->partition, state ? state : "unreadable");
	if (now && strcmp(now, cpus) == 0)
		return 0;
	return error_set(err, EXIT_GRANT,
	                 "isolation: of the CPUs %s the kernel grants the partition %s only %s",
	                 cpus, cgroup->partition, now && *now ? now : "none");
}

static int make_partition(const struct cgroup *cgroup, struct error *err)
{
	const char *directory = cgroup->partition;
	cleanup_free char *cpus = cpulist_format(cgroup->cpus);
	bool nested = cgroup_is_nested(cgroup);

	if (enable(cgroup->parent, "cpuset", err) < 0)
		return -1;
	if (nested && cgroup_write(cgroup->limits, "cgroup.subtree_control", "+cpuset") < 0)
		return error_set(err, EXIT_GRANT, "cannot turn cpuset on below the cgroup %s: %s",
		                 cgroup->limits, strerror(errno));
	if (make_directory(cgroup, directory, err) < 0)
		return -1;
	cleanup_free char *exclusive = cgroup_read(directory, "cpuset.cpus.exclusive");
	if (!exclusive)
		return error_set(
		    err, EXIT_GRANT,
		    "isolation: this kernel has no cpuset.cpus.exclusive, by which a VM's "
		    "CPUs become a partition; that needs Linux 6.7, or isolcpus= on the "
		    "kernel's command line instead");
	for (size_t i = 0; i < cgroup->n_exclusive; i++)
		if (add_exclusive(cgroup, cgroup->exclusive[i], cpus, err) < 0)
			return -1;
	if (nested && add_exclusive(cgroup, cgroup->limits, cpus, err) < 0)
		return -1;
	if (add_exclusive(cgroup, directory, cpus, err) < 0)
		return -1;
	if (cgroup_write(directory, "cpuset.cpus", cpus) < 0 ||
	    cgroup_write(directory, "cpuset.cpus.partition", "isolated") < 0)
		return error_set(err, EXIT_GRANT,
		                 "isolation: the kernel refuses a partition of CPUs %s in %s: %s",
		                 cpus, directory, strerror(errno));
	return read_back(cgroup, cpus, err);
}

int cgroup_make(const struct plan *plan, struct error *err)
{
	if (plan->cgroup->limits && make_limits(plan, err) < 0)
		return -1;
	return plan->cgroup->partition ? make_partition(plan->cgroup, err) : 0;
}

/* The last thread of a QEMU that has just died leaves its cgroup after it lets go of its lock. */
static int remove_directory(const char *directory, struct error *err)
{
	int64_t deadline = kernel_now_ms() + LIMIT_UNLOCK_MS;

	while (rmdir(directory) < 0 && errno != ENOENT) {
		if (errno != EBUSY || kernel_now_ms() > deadline)
			return error_set(err, EXIT_FAILED, "cannot remove the cgroup %s: %s",
			                 directory, strerror(errno));
		poll(NULL, 0, 1);
	}
	return 0;
}

/* What the kernel refuses is left; what cannot be read is for the next time. */
static int give_back_exclusive(const struct cgroup *cgroup, const char *directory,
                               struct error *err)
{
	cleanup_free char *list = cgroup_read(directory, "cpuset.cpus.exclusive");

	if (!list && errno != ENOENT)
		return cannot_read(directory, "cpuset.cpus.exclusive", err);
	if (list)
		change_exclusive(cgroup, directory, false);
	return 0;
}

int cgroup_remove(const struct cgroup *cgroup, struct error *err)
{
	if (cgroup->partition) {
		/* By this the CPUs are back at once; by removing it, some time later. */
		cgroup_write(cgroup->partition, "cpuset.cpus.partition", "member");
		if (remove_directory(cgroup->partition, err) < 0)
			return -1;
	}
	if (cgroup->limits && remove_directory(cgroup->limits, err) < 0)
		return -1;
	for (size_t i = cgroup->n_exclusive; i-- > 0;)
		if (give_back_exclusive(cgroup, cgroup->exclusive[i], err) < 0)
			return -1;
	return cgroup->version == 2 ? disable_all(cgroup->parent, err) : 0;
}
