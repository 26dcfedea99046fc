/* Limits of the control groups that a process is in, for memory and huge pages.
 *
 * Both versions: Documentation/admin-guide/cgroup-v2.rst (memory.max, hugetlb.SIZE.max and
 * .rsvd.max), Documentation/admin-guide/cgroup-v1/memory.rst and hugetlb.rst (…limit_in_bytes). A
 * limit of any ancestor counts; those above the root of a container cannot be seen. */
#ifndef ANCLA_CGROUP_LIMITS_H
#define ANCLA_CGROUP_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

struct cgroup_limit {
	char *file;     /* that holds the limit */
	uint64_t bytes; /* the limit */
	uint64_t left;  /* bytes that can still be had, counting page cache that can be dropped */
};

/* The limit that leaves this process least, for pages of that size (0: plain memory). Files are
 * looked for below `root`: "" for this machine. False: there is none. The caller frees .file. */
bool cgroup_limit_find(const char *root, uint64_t page_size, struct cgroup_limit *limit);

#endif
