/* The parts of cgroups, for cgroup*.c only. */
#ifndef ANCLA_CGROUP_PARTS_H
#define ANCLA_CGROUP_PARTS_H

#include "cgroup.h"

/* Files of a cgroup. Reading gives the text without its last newline, NULL where there is none; the
 * caller frees. Writing returns 0 or -1 with errno. */
char *cgroup_read(const char *directory, const char *file);
int cgroup_write(const char *directory, const char *file, const char *text);

/* Whether a list that is separated by commas has the word. */
bool cgroup_list_has(const char *list, const char *word);

/* The path of a cgroup in a file such as /proc/PID/cgroup (cgroups(7)): in the hierarchy of cgroup
 * v1 that has the controller, else in that of v2. Returns its version; 0, and no path, if there is
 * none, or the file is gone. The caller frees the path. */
int cgroup_find_path(const char *file, const char *controller, char **path);

/* Whether the partition is below the cgroup of shares and quota. */
bool cgroup_is_nested(const struct cgroup *cgroup);

/* The settings that the plan's shares and quota are: file and text, at most this many. */
#define CGROUP_SETTINGS 3
struct cgroup_setting {
	const char *file;
	char text[32];
};
size_t cgroup_settings(const struct plan *plan, struct cgroup_setting settings[CGROUP_SETTINGS]);

/* The directory in which the thread of a plan with cgroups belongs: borrowed. NULL: where it is. */
const char *cgroup_of_thread(const struct plan *plan, const struct thread *thread);

#endif
