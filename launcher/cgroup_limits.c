#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cgroup_limits.h"
#include "util.h"

/* v1 writes no limit as the largest multiple of the page size. */
#define NO_LIMIT (INT64_MAX / 2)

/* The files of a limit, relative to a group's directory: v2's and v1's. */
struct files {
	const char *limit, *used;
};

/* Where a controller of this process is: the directory on which it is mounted, and below it the
 * group. */
struct place {
	char *mount, *group;
};

static char *read_below(const char *root, const char *path)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_free char *full = xasprintf("%s%s", root, path);
	char *text = NULL;

	return read_file(full, 1 << 20, &text, NULL, &ignored) < 0 ? NULL : text;
}

static bool has_word(const char *list, const char *word)
{
	size_t length = strlen(word);

	for (const char *p = list; (p = strstr(p, word)); p += length)
		if ((p == list || p[-1] == ',') &&
		    (!p[length] || p[length] == ',' || p[length] == '\n'))
			return true;
	return false;
}

/* The group by /proc/self/cgroup: "4:memory:/a/b", and of v2 "0::/a/b". The caller frees. */
static char *find_group(const char *root, const char *controller)
{
	cleanup_free char *text = read_below(root, "/proc/self/cgroup");
	char *rest = text, *line;

	while (rest && (line = strsep(&rest, "\n"))) {
		char *controllers = strchr(line, ':');
		char *path = controllers ? strchr(controllers + 1, ':') : NULL;
		if (!path)
			continue;
		*path++ = '\0';
		if (controller ? has_word(controllers + 1, controller) : !controllers[1])
			return xstrdup(path);
	}
	return NULL;
}

/* "36 25 0:32 /root /mount rw shared:1 - cgroup cgroup rw,memory" (proc(5), mountinfo). A group
 * below the root of the mount is shown there without that root. */
static bool find_mount(const char *root, const char *controller, struct place *place)
{
	cleanup_free char *text = read_below(root, "/proc/self/mountinfo");
	char *rest = text, *line;

	while (rest && (line = strsep(&rest, "\n"))) {
		char above[4096], mount[4096], type[32], options[1024];
		char *second = strstr(line, " - ");
		if (!second || sscanf(line, "%*s %*s %*s %4095s %4095s", above, mount) != 2 ||
		    sscanf(second, " - %31s %*s %1023s", type, options) != 2 ||
		    strcmp(type, controller ? "cgroup" : "cgroup2") != 0 ||
		    (controller && !has_word(options, controller)))
			continue;
		size_t length = strcmp(above, "/") == 0 ? 0 : strlen(above);
		bool inside = strncmp(place->group, above, length) == 0;
		char *group = xstrdup(inside ? place->group + length : "/");
		free(place->group);
		place->group = group;
		place->mount = xasprintf("%s%s", root, mount);
		return true;
	}
	return false;
}

/* Bytes of page cache in the group, which are dropped when memory is short: of memory.stat. */
static uint64_t cache_of(const char *group)
{
	cleanup_free char *path = xasprintf("%s/memory.stat", group);
	cleanup_free char *text = read_below("", path);
	char *rest = text, *line;
	uint64_t bytes = 0, total = 0;
	unsigned long long number;

	/* v1 counts groups below in lines of their own. */
	while (rest && (line = strsep(&rest, "\n"))) {
		if (sscanf(line, "inactive_file %llu", &number) == 1 ||
		    sscanf(line, "active_file %llu", &number) == 1)
			bytes += number;
		if (sscanf(line, "total_inactive_file %llu", &number) == 1 ||
		    sscanf(line, "total_active_file %llu", &number) == 1)
			total += number;
	}
	return total ? total : bytes;
}

/* One group's limit, if it leaves less than what was found before. */
static void look(const char *group, const struct files *files, bool plain,
                 struct cgroup_limit *least)
{
	int64_t limit = read_number("%s/%s", group, files->limit);
	int64_t used = read_number("%s/%s", group, files->used);

	if (limit < 0 || used < 0 || limit > NO_LIMIT)
		return;
	uint64_t cache = plain ? cache_of(group) : 0;
	uint64_t busy = (uint64_t)used > cache ? (uint64_t)used - cache : 0;
	uint64_t left = (uint64_t)limit > busy ? (uint64_t)limit - busy : 0;
	if (least->file && left >= least->left)
		return;
	free(least->file);
	least->file = xasprintf("%s/%s", group, files->limit);
	least->bytes = (uint64_t)limit;
	least->left = left;
}

/* The group and all above it; `controller` NULL: of v2. */
static void look_up(const char *root, const char *controller, const struct files *files, bool plain,
                    struct cgroup_limit *least)
{
	struct place place = { .group = find_group(root, controller) };

	if (place.group && find_mount(root, controller, &place)) {
		for (;;) {
			cleanup_free char *group = xasprintf("%s%s", place.mount, place.group);
			look(group, files, plain, least);
			char *slash = strrchr(place.group, '/');
			if (!slash)
				break;
			*slash = '\0';
		}
	}
	free(place.group);
	free(place.mount);
}

/* As the kernel names sizes in these files: "2MB", "1GB", "64KB". The caller frees. */
static char *size_name(uint64_t bytes)
{
	if (bytes >= UINT64_C(1) << 30)
		return xasprintf("%lluGB", (unsigned long long)(bytes >> 30));
	if (bytes >= UINT64_C(1) << 20)
		return xasprintf("%lluMB", (unsigned long long)(bytes >> 20));
	return xasprintf("%lluKB", (unsigned long long)(bytes >> 10));
}

static void look_for_huge(const char *root, uint64_t page_size, const char *reserved,
                          struct cgroup_limit *least)
{
	cleanup_free char *size = size_name(page_size);
	cleanup_free char *max = xasprintf("hugetlb.%s%s.max", size, reserved);
	cleanup_free char *current = xasprintf("hugetlb.%s%s.current", size, reserved);
	cleanup_free char *limit = xasprintf("hugetlb.%s%s.limit_in_bytes", size, reserved);
	cleanup_free char *usage = xasprintf("hugetlb.%s%s.usage_in_bytes", size, reserved);

	look_up(root, NULL, &(struct files){ max, current }, false, least);
	look_up(root, "hugetlb", &(struct files){ limit, usage }, false, least);
}

bool cgroup_limit_find(const char *root, uint64_t page_size, struct cgroup_limit *limit)
{
	static const struct files v2 = { "memory.max", "memory.current" };
	static const struct files v1 = { "memory.limit_in_bytes", "memory.usage_in_bytes" };
	struct cgroup_limit least = { 0 };

	if (page_size) {
		look_for_huge(root, page_size, "", &least);
		look_for_huge(root, page_size, ".rsvd", &least);
	} else {
		look_up(root, NULL, &v2, true, &least);
		look_up(root, "memory", &v1, true, &least);
	}
	if (!least.file)
		return false;
	*limit = least;
	return true;
}
