/* Guest memory: made, filled on the right nodes before QEMU touches it, and read back.
 *
 * One memfd per guest node (or an unlinked file of hugetlbfs) with the page size asked for, its
 * policy set by mbind(2) on the launcher's own mapping, its pages populated by threads bound to
 * the host nodes, all nodes at once, while QEMU starts. See memfd_create(2), mbind(2),
 * madvise(2) (MADV_POPULATE_WRITE, Linux 5.14),
 * Documentation/admin-guide/mm/numa_memory_policy.rst. */
#ifndef ANCLA_MEMORY_H
#define ANCLA_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <hwloc.h>

#include "error.h"
#include "host.h"
#include "plan.h"

/* Makes the file that backs one guest node (BACKING_MEMFD or BACKING_PATH): sized, empty,
 * close-on-exec, gone when its last descriptor is closed. Returns the descriptor, owned by the
 * caller, or -1 (EXIT_GRANT). `label` names it in /proc ("ancla-NAME-node0"). */
int memory_create(const struct plan_memory *memory, const char *path, const char *label,
                  struct error *err);

/* A fill under way. */
struct fill;

/* Starts filling every region whose fill is FILL_LAUNCHER; fds[i] belongs to plan->memory[i] (-1
 * where there is none) and stays the caller's. The threads run at SCHED_IDLE, out of the way of
 * QEMU's start, if they may leave it again. NULL and an error if it cannot be started; also NULL,
 * without an error, never: a plan with nothing to fill gives a fill that is done. */
struct fill *fill_start(const struct plan *plan, const struct host *host, const int *fds,
                        struct error *err);

/* Readable (poll) once the fill has ended, well or badly. */
int fill_fd(const struct fill *fill);

/* Bytes filled so far, and in all. */
void fill_progress(const struct fill *fill, uint64_t *done, uint64_t *total);

/* From now on at normal priority: QEMU has greeted. */
void fill_hurry(struct fill *fill);

/* Waits for the threads, frees the fill and unmaps; 0, or -1 and the first error: EXIT_GRANT with
 * guest node, host nodes, page size, pages had and needed. */
int fill_finish(struct fill *fill, struct error *err);

/* Stops as soon as each thread ends its chunk, frees everything. NULL is allowed. */
void fill_cancel(struct fill *fill);

/* Where the pages of one region really are. */
struct residency {
	uint64_t *pages; /* by OS index of the node, n_nodes of them */
	size_t n_nodes;
	uint64_t resident;  /* pages in all, of page_size bytes */
	uint64_t page_size; /* bytes, as the kernel reports it for the mapping */
};

/* Reads it through a mapping of our own of the same file: every page that the file holds is mapped
 * (MADV_POPULATE_READ, data extents only, so that nothing is allocated), then counted by node from
 * our own numa_maps. A file of hugetlbfs that is not full (it has no extents to ask for) is
 * refused with errno ENODATA in `*reason` semantics of residency_of_process() instead: see there.
 * `fd` may be a descriptor of our own or opened from /proc/PID/fd/N. The caller frees .pages. */
int residency_of_file(int fd, uint64_t size, struct residency *result, struct error *err);

/* What a process's page tables say of one of its mappings: the truth for anonymous memory, and
 * for lazily filled files (whose pages exist only if that process touched them). */
struct mapping {
	uintptr_t start;
	uint64_t size;
	struct residency residency;
	char policy[64]; /* as numa_maps shows it: "bind:0", "prefer:1", "interleave:0-1", "default"
	                  */
	bool locked;     /* VmFlags "lo" */
	bool mergeable;  /* VmFlags "mg" */
	bool in_core_dumps; /* no VmFlags "dd" */
	bool hugetlb;       /* VmFlags "ht" */
	uint64_t
	    thp; /* bytes in anonymous or shmem huge pages (smaps AnonHugePages + ShmemPmdMapped) */
};

/* All mappings of the process that map the given file (device and inode), or, with `fd` -1, all its
 * private anonymous mappings of exactly `size` bytes. `list` is the caller's: mappings_free(). */
int mappings_of_process(pid_t pid, int fd, uint64_t size, struct mapping **list, size_t *count,
                        struct error *err);
void mappings_free(struct mapping *list, size_t count);

/* The policy as numa_maps would show it for this region: "bind:0", or "default" without nodes and
 * with restrictive. The caller frees. */
char *memory_policy_shown(const struct plan_memory *memory);

/* set_mempolicy(2) for the calling thread, inherited over exec: MPOL_BIND for restrictive,
 * MPOL_PREFERRED otherwise. An empty or NULL set: the default policy. */
int memory_policy_of_thread(enum mem_policy policy, hwloc_const_bitmap_t nodes, struct error *err);

#endif
