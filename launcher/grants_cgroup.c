/* cgroups, as cgroups(7) and Documentation/admin-guide/cgroup-v2.rst have them. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <linux/magic.h>

#include "grants.h"
#include "util.h"

#define MOUNT "/sys/fs/cgroup"

/* The path after `start` ("0::", "cpu:") in /proc/self/cgroup; NULL if there is none. The caller
 * frees. */
static char *own_path(const char *start)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_free char *text = NULL;

	if (read_file("/proc/self/cgroup", 1 << 20, &text, NULL, &ignored) < 0)
		return NULL;
	char *at = strstr(text, start);
	if (!at)
		return NULL;
	at += strlen(start);
	return xasprintf("%.*s", (int)strcspn(at, "\n"), at);
}

static char *first_line(const char *directory, const char *file)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_free char *path = xasprintf("%s/%s", directory, file);
	char *text = NULL;

	if (read_file(path, 1 << 16, &text, NULL, &ignored) < 0)
		return xstrdup("");
	text[strcspn(text, "\n")] = '\0';
	return text;
}

/* Makes a cgroup and removes it. errno; 0: it could be made. */
static int try_child(const char *directory)
{
	cleanup_free char *child = xasprintf("%s/ancla-grant-%d", directory, getpid());

	if (mkdir(child, 0755) < 0)
		return errno;
	rmdir(child);
	return 0;
}

void grants_add_cgroups(struct grants *grants)
{
	struct statfs status;
	bool unified =
	    statfs(MOUNT, &status) == 0 && (unsigned long)status.f_type == CGROUP2_SUPER_MAGIC;
	/* Where v1 has cpu and cpuacct together, /cpu is a link to them. */
	cleanup_free char *path = own_path(unified ? "0::" : ":cpu:");
	if (!path && !unified)
		path = own_path(":cpu,cpuacct:");
	cleanup_free char *directory =
	    path ? xasprintf(MOUNT "%s%s", unified ? "" : "/cpu", path) : NULL;
	int error = directory ? try_child(directory) : ENOENT;

	if (!directory) {
		grants_add(grants, false, xstrdup(GRANT_CGROUPS), xstrdup("none mounted"),
		           xstrdup("mount -t cgroup2 none " MOUNT));
		return;
	}
	cleanup_free char *controllers = first_line(directory, "cgroup.controllers");
	grants_add(
	    grants, !error, xstrdup(GRANT_CGROUPS),
	    error ? xasprintf("v%d: no cgroup can be made in %s: %s", unified ? 2 : 1, directory,
	                      strerror(error))
	          : xasprintf("v%d: %s is ours to divide%s%s", unified ? 2 : 1, directory,
	                      unified ? ", controllers: " : "", unified ? controllers : ""),
	    xstrdup(
	        "a delegated cgroup: systemd-run --user --scope -p Delegate=yes, or Delegate=yes "
	        "in a unit"));
}
