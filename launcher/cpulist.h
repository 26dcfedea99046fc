/* Linux list syntax for CPUs and NUMA nodes: "0-3,8", "0-31:2" (every second one), and "^2" to
 * exclude. The kernel's own lists (Documentation/admin-guide/cputopology.rst, cpuset(7)) have no
 * "^"; libvirt's and numactl's do. Sets are hwloc bitmaps of OS indexes. */
#ifndef ANCLA_CPULIST_H
#define ANCLA_CPULIST_H

#include <hwloc.h>

#include "error.h"

/* No Linux has CPUs or nodes numbered above this. */
#define CPULIST_MAX 65535

/* Parses a list into a new set. An empty list is an empty set. "^" excludes from what stands
 * before it. Errors: EXIT_SPEC, with the part of the list that is wrong and what is expected.
 * The caller frees the set with hwloc_bitmap_free(). */
int cpulist_parse(const char *text, hwloc_bitmap_t *set, struct error *err);

/* The set as a list, ascending, ranges joined: "0-3,8"; "" for the empty set. The caller frees. */
char *cpulist_format(hwloc_const_bitmap_t set);

#endif
