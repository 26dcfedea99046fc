/* Guest memory: made, filled on the right nodes before QEMU touches it, and read back.
 *
 * One memfd per guest node (or an unlinked file of hugetlbfs) with the page size asked for, its
 * policy set by mbind(2) on a mapping of the launcher's own, its pages populated by threads bound
 * to the host nodes, all nodes at once, while QEMU starts. See memfd_create(2), mbind(2),
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

#define THP_SIZE (UINT64_C(2) << 20) /* bytes of a transparent huge page: x86-64 */

/* Makes the file that backs one guest node (BACKING_MEMFD or BACKING_PATH): sized, empty, its
 * huge pages reserved (a reservation is of the file, not of a node), close-on-exec, gone when its
 * last descriptor is closed. `path` is the directory of BACKING_PATH; `label` names a memfd in
 * /proc ("ancla-NAME-node0"). Returns the descriptor, owned by the caller, or -1 (EXIT_GRANT). */
int memory_create(const struct plan_memory *memory, const char *path, const char *label,
                  struct error *err);

/* A fill under way. */
struct fill;

/* Starts filling every region whose fill is FILL_LAUNCHER; fds[i] belongs to plan->memory[i] (-1
 * where there is none) and stays the caller's; the plan must outlive the fill, the host need not.
 * A process of its own fills, the filler, which the kernel takes before any other where plain pages
 * run out. Its threads run on CPUs of the host nodes: never on an isolated CPU, where somebody's
 * real-time thread may be, unless it is a vCPU's of this plan; at SCHED_IDLE, out of the way of
 * QEMU's start, if they may leave it again, and not on all the CPUs that it may start on. It holds
 * `lock` (a descriptor, or -1) as long as it lives: the memory goes before the claim on it. NULL
 * and an error if it cannot be started; never NULL without an error: a plan with nothing to fill
 * gives a fill that is over, without a process. */
struct fill *fill_start(const struct plan *plan, const struct host *host, const int *fds, int lock,
                        struct error *err);

/* Bytes of one region that its threads can have taken from a node while the file does not hold them
 * yet: a chunk each. */
uint64_t fill_in_flight(const struct plan_memory *memory);

/* Readable (poll) once the fill has ended, well or badly: then fill_wait() does not wait. -1 where
 * there is nothing to fill. */
int fill_fd(const struct fill *fill);

/* Whether fill_wait() has heard the end, or there was nothing to fill. */
bool fill_is_over(const struct fill *fill);

/* Bytes filled so far, and in all. */
void fill_progress(const struct fill *fill, uint64_t *done, uint64_t *total);

/* From now on at normal priority, on all CPUs: QEMU has greeted. */
void fill_hurry(struct fill *fill);

/* Waits for the end; 0, or -1 and the first error: EXIT_GRANT with guest node, host nodes, page
 * size, pages had and needed, also where the kernel has killed the filler for want of memory. The
 * filler stays, with its mappings, for fill_residency(). */
int fill_wait(struct fill *fill, struct error *err);

/* Ends the filler at once, done or not, waits until it has unmapped (10 to 50 ms a GiB of plain
 * pages: better after `cont`), frees everything. NULL is allowed. */
void fill_cancel(struct fill *fill);

/* Where the pages of one region really are. */
struct residency {
	uint64_t *pages; /* by OS index of the node, n_nodes of them; NULL with n_nodes 0 */
	size_t n_nodes;
	uint64_t resident;  /* pages in all, of page_size bytes */
	uint64_t page_size; /* bytes, as the kernel reports it for the mapping */
	uint64_t thp;    /* bytes of them in transparent huge pages, where these were asked for */
	uint64_t broken; /* pages that the file holds besides, lost to a memory error */
};

/* What residency_of_file() would say of every region that the fill has filled, but without mapping
 * the pages once more, as the filler has them: a tenth of the time with plain pages. After
 * fill_wait(). list[i] belongs to plan->memory[i], page_size is 0 where the launcher filled
 * nothing. The caller frees every list[i].pages. */
int fill_residency(const struct fill *fill, struct residency *list, struct error *err);

/* Reads it through a mapping of our own of the same file: maps every page that the file holds
 * (MADV_POPULATE_READ) and none that it does not, so that nothing is allocated, then counts them
 * by node in our own numa_maps. `fd` may be a descriptor of our own or opened from
 * /proc/PID/fd/N, for reading and writing. With `thp` it counts what of it is in transparent huge
 * pages, too.
 *
 * Returns 0, -1 with an error, or 1, without one, when it cannot be known without allocating pages:
 * a file of hugetlbfs that is not full cannot be asked which pages it holds, except where
 * userfaultfd(2) is granted. Then only the processes that touched the pages know: see
 * mappings_of_process(). After 0 the caller frees .pages. */
int residency_of_file(int fd, uint64_t size, bool thp, struct residency *result, struct error *err);

/* Counts the pages of a mapping of `size` bytes anew, one by one, where fewer than the `expected`
 * pages have been counted: one that the kernel is moving (compaction, NUMA balancing;
 * migrate_pages() in Documentation/mm/page_migration.rst) is in no page table, nor in any of
 * /proc's counts, and is asked for until it has arrived, for LIMIT_MOVING_MS. `pid` is 0 for our
 * own mappings. Sets `residency`, whose .page_size is known; leaves it where the kernel does not
 * answer, and where so much is missing that it cannot be on its way. */
void residency_find(pid_t pid, uintptr_t start, uint64_t size, uint64_t expected,
                    struct residency *residency);

/* What a process's page tables say of one of its mappings: the truth for anonymous memory; of a
 * file, the pages that this process has touched. */
struct mapping {
	uintptr_t start;
	uint64_t size;
	struct residency residency;
	char policy[64];    /* as numa_maps shows it: see memory_policy_matches() */
	bool locked;        /* VmFlags "lo" */
	bool mergeable;     /* VmFlags "mg" */
	bool in_core_dumps; /* no VmFlags "dd" */
	bool hugetlb;       /* VmFlags "ht" */
	uint64_t thp;       /* bytes in huge pages: smaps AnonHugePages and ShmemPmdMapped */
};

/* All mappings of the process that map the given file (device and inode; neighbours of the same
 * policy and flags are one), or, with `fd` -1, all its private anonymous mappings of exactly
 * `size` bytes. In order of address; none is no error. The caller frees the list with
 * mappings_free(). */
int mappings_of_process(pid_t pid, int fd, uint64_t size, struct mapping **list, size_t *count,
                        struct error *err);
void mappings_free(struct mapping *list, size_t count);

/* The policy as numa_maps would show it for this region on this kernel: "bind:0",
 * "interleave:0-1", "prefer:1", "prefer (many):0-1", or "default" without nodes and with
 * restrictive. The caller frees. */
char *memory_policy_shown(const struct plan_memory *memory);

/* Whether what numa_maps shows is the region's policy. With preferred there are two ways to say it
 * (MPOL_PREFERRED, which knows one node, and MPOL_PREFERRED_MANY since Linux 5.15) and it depends
 * on QEMU and its libnuma which one is taken. */
bool memory_policy_matches(const struct plan_memory *memory, const char *shown);

/* set_mempolicy(2) for the calling thread, inherited over exec: MPOL_BIND for restrictive,
 * preferred otherwise. An empty or NULL set: the default policy. Allocates nothing unless it fails,
 * so that it can be called between fork and exec. */
int memory_policy_of_thread(enum mem_policy policy, hwloc_const_bitmap_t nodes, struct error *err);

/* mbind(2) on a mapping of our own that nobody has touched; the nodes are not empty. 0 or the
 * errno.
 */
int memory_policy_of_range(char *address, uint64_t length, enum mem_policy policy,
                           hwloc_const_bitmap_t nodes);

#endif
