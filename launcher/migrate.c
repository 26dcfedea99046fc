#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/mempolicy.h>

#include "argv.h"
#include "cpulist.h"
#include "kernel.h"
#include "memory_parts.h"
#include "migrate.h"
#include "util.h"
#include "verify_parts.h"
#include "waits.h"

/* So many pages are looked at, and moved, at a time. */
#define PAGES_AT_ONCE 8192

/* A part of the region: pages `first` to `first + count`, at `address` in process `pid` (0: us). */
struct part {
	uint64_t first;
	size_t count;
	size_t expected; /* pages that there are; 0 where that cannot be known */
	char *address;
	pid_t pid;
	int64_t patience; /* ms left to wait for pages that are on their way; of all parts */
	void *pages[PAGES_AT_ONCE];
	int nodes[PAGES_AT_ONCE], status[PAGES_AT_ONCE];
};

/* Maps the pages that a file of shmem holds, and none that it does not; counts them. */
static int map_data(const struct migration *m, struct part *part, off_t offset, size_t length)
{
	off_t end = offset + (off_t)length, data = offset, hole;

	part->expected = 0;
	while ((data = lseek(m->fd, data, SEEK_DATA)) >= 0 && data < end) {
		hole = lseek(m->fd, data, SEEK_HOLE);
		if (hole < 0)
			return errno;
		if (hole > end)
			hole = end;
		int reason = memory_advise(part->address + (data - offset), (uint64_t)(hole - data),
		                           MADV_POPULATE_READ);
		if (reason)
			return reason;
		part->expected += (uint64_t)(hole - data) / m->memory->page_size;
		data = hole;
	}
	return data < 0 && errno != ENXIO ? errno : 0;
}

/* Maps all pages that the part has: a page that the kernel just moves is waited for. Of a file that
 * is full there is nothing to look for, and such a page would look like a hole. */
static int map_pages(const struct migration *m, struct part *part, struct error *err)
{
	uint64_t offset = part->first * m->memory->page_size;
	size_t length = part->count * m->memory->page_size;
	int reason;

	part->expected = m->full ? part->count : 0;
	if (m->fd < 0)
		return 0;
	reason = m->full ? memory_advise(part->address, length, MADV_POPULATE_READ)
	                 : map_data(m, part, (off_t)offset, length);
	return reason ? error_set(err, EXIT_FAILED, "cannot map the pages of guest memory: %s",
	                          strerror(reason))
	              : 0;
}

static int open_part(const struct migration *m, struct part *part, struct error *err)
{
	uint64_t size = m->memory->page_size, offset = part->first * size;
	size_t length = part->count * size;

	if (m->fd < 0) {
		part->pid = m->pid;
		part->address = (char *)m->start + offset; /* an address of QEMU's */
		return map_pages(m, part, err);
	}
	part->address =
	    mmap(NULL, length, PROT_READ, MAP_SHARED | MAP_NORESERVE, m->fd, (off_t)offset);
	if (part->address == MAP_FAILED)
		return error_set(err, EXIT_FAILED, "cannot map guest memory: %s", strerror(errno));
	if (map_pages(m, part, err) == 0)
		return 0;
	munmap(part->address, length);
	return -1;
}

static void close_part(const struct migration *m, struct part *part)
{
	if (m->fd >= 0)
		munmap(part->address, part->count * m->memory->page_size);
}

/* Fills part->status, `again` only where it has no node yet: the node of each page, or an errno
 * below zero. Says how many have one. */
static int ask(const struct migration *m, struct part *part, bool again, size_t *seen,
               struct error *err)
{
	size_t count = 0, next = 0;

	for (size_t i = 0; i < part->count; i++)
		if (!again || part->status[i] < 0)
			part->pages[count++] = part->address + i * m->memory->page_size;
	if (syscall(SYS_move_pages, part->pid, count, part->pages, NULL, part->nodes, 0) < 0)
		return error_set(err, EXIT_FAILED,
		                 "cannot read where the pages of guest memory are: %s",
		                 strerror(errno));
	*seen = 0;
	for (size_t i = 0; i < part->count; i++) {
		if (!again || part->status[i] < 0)
			part->status[i] = part->nodes[next++];
		*seen += part->status[i] >= 0;
	}
	return 0;
}

/* The same, until all that are there have a node: a page that the kernel just moves, as when it
 * compacts memory, has none. */
static int look(const struct migration *m, struct part *part, struct error *err)
{
	size_t seen;

	if (ask(m, part, false, &seen, err) < 0)
		return -1;
	while (seen < part->expected && part->patience > 0) {
		int64_t start = kernel_now_ms();
		poll(NULL, 0, 1);
		if (map_pages(m, part, err) < 0 || ask(m, part, true, &seen, err) < 0)
			return -1;
		part->patience -= kernel_now_ms() - start;
	}
	return 0;
}

typedef int part_fn(struct migration *m, struct part *part, struct error *err);

static int visit_part(struct migration *m, struct part *part, uint64_t first, part_fn *fn,
                      struct error *err)
{
	uint64_t left = m->n_pages - first;

	part->first = first;
	part->count = left < PAGES_AT_ONCE ? left : PAGES_AT_ONCE;
	part->pid = 0;
	if (open_part(m, part, err) < 0)
		return -1;
	int result = fn(m, part, err);
	close_part(m, part);
	return result;
}

static int each_part(struct migration *m, part_fn *fn, struct error *err)
{
	cleanup_free struct part *part = xcalloc(1, sizeof(*part));
	int result = 0;

	part->patience = LIMIT_MOVING_MS;
	for (uint64_t first = 0; first < m->n_pages && result == 0; first += PAGES_AT_ONCE)
		result = visit_part(m, part, first, fn, err);
	return result;
}

static int look_at_part(struct migration *m, struct part *part, struct error *err)
{
	if (look(m, part, err) < 0)
		return -1;
	for (size_t i = 0; i < part->count; i++) {
		int node = part->status[i];
		m->was[part->first + i] = (int16_t)(node >= 0 ? node : -1);
		m->present += node >= 0;
	}
	return 0;
}

static int open_file(struct migration *m, size_t region, const char *where, struct error *err)
{
	cleanup_free char *path = xasprintf("/proc/%d/fd/%d", m->pid, FD_MEMORY + (int)region);
	struct stat file;

	m->fd = open(path, O_RDONLY | O_CLOEXEC);
	if (m->fd < 0 || fstat(m->fd, &file) < 0)
		return error_set(err, EXIT_FAILED, "cannot open the memory of %s (%s): %s", where,
		                 path, strerror(errno));
	m->full = file.st_blocks * 512 >= file.st_size && (uint64_t)file.st_size >= m->memory->size;
	/* A file of hugetlbfs cannot be asked which pages it has: to look would make them. */
	if (m->memory->pages == PAGES_HUGE && !m->full)
		return error_set(err, EXIT_FAILED,
		                 "%s has huge pages that the guest has not used yet: which they "
		                 "are cannot be known without making them; use prealloc",
		                 where);
	return 0;
}

static int find_anonymous(struct migration *m, const struct plan *plan, size_t region,
                          const char *where, struct error *err)
{
	struct mapping *list = NULL;
	size_t count = 0;

	if (mappings_of_process(m->pid, -1, m->memory->size, &list, &count, err) < 0)
		return -1;
	const struct mapping *mine = verify_pick(plan, region, list, count);
	m->start = mine ? mine->start : 0;
	m->full = m->memory->fill != FILL_NONE;
	mappings_free(list, count);
	return mine ? 0
	            : error_set(err, EXIT_FAILED, "QEMU (%d) has no mapping that is %s", m->pid,
	                        where);
}

int migration_look(struct migration *m, const struct plan *plan, size_t region, pid_t pid,
                   struct error *err)
{
	cleanup_free char *where = memory_where(&plan->memory[region]);

	m->memory = &plan->memory[region];
	m->pid = pid;
	m->n_pages = m->memory->size / m->memory->page_size;
	m->was = xcalloc(m->n_pages, sizeof(*m->was));
	if ((m->memory->backing == BACKING_ANON ? find_anonymous(m, plan, region, where, err)
	                                        : open_file(m, region, where, err)) < 0)
		return -1;
	return each_part(m, look_at_part, err);
}

uint64_t migration_count(const struct migration *m, unsigned node)
{
	uint64_t count = 0;

	for (uint64_t i = 0; i < m->n_pages; i++)
		count += m->was[i] == (int)node;
	return count;
}

static bool is_target(const struct migration *m, int node)
{
	for (size_t i = 0; i < m->n_targets; i++)
		if ((int)m->targets[i] == node)
			return true;
	return false;
}

/* Where a page belongs; its own node if it may stay. */
static int wanted(const struct migration *m, uint64_t page, int node)
{
	int turn = (int)m->targets[page % m->n_targets];

	if (m->memory->policy == MEM_POLICY_INTERLEAVE)
		return turn;
	return is_target(m, node) ? node : turn;
}

uint64_t migration_needed(const struct migration *m)
{
	uint64_t needed = 0;

	for (uint64_t i = 0; i < m->n_pages; i++)
		needed += m->was[i] >= 0 && wanted(m, i, m->was[i]) != m->was[i];
	return needed;
}

/* Bytes that a node needs more and has free. */
static bool has_room(const struct migration *m, const struct host_node *node)
{
	const struct host_pages *huge = host_node_pages(node, m->memory->page_size);
	uint64_t coming = 0, going = 0;
	int id = (int)node->id;

	for (uint64_t i = 0; i < m->n_pages; i++) {
		int now = m->was[i], then = now < 0 ? -1 : wanted(m, i, now);
		coming += then == id && now != id;
		going += now == id && then != id;
	}
	coming = coming > going ? coming - going : 0;
	if (m->memory->pages == PAGES_HUGE)
		return coming <= (huge ? huge->free : 0);
	return coming * m->memory->page_size <= node->free;
}

int migration_check(struct migration *m, const struct host *host, hwloc_const_bitmap_t nodes,
                    struct error *err)
{
	struct plan_memory there = *m->memory;
	int reason = there.pages == PAGES_HUGE ? EFAULT : ENOMEM;
	unsigned id;

	hwloc_bitmap_foreach_begin(id, nodes)
	{
		const struct host_node *node = host_node(host, id);
		if (!node || node->memory == 0)
			return error_set(err, EXIT_GRANT,
			                 "the host has no node %u with memory; `ancla host` shows "
			                 "its nodes",
			                 id);
		*array_append(&m->targets, &m->n_targets) = id;
	}
	hwloc_bitmap_foreach_end();
	there.host_nodes = (hwloc_bitmap_t)(uintptr_t)nodes;
	for (size_t i = 0; i < m->n_targets; i++)
		if (!has_room(m, host_node(host, m->targets[i]))) {
			uint64_t had = m->present - migration_needed(m);
			there.size = m->present * m->memory->page_size;
			return memory_shortage(&there, had * m->memory->page_size, reason, err);
		}
	return 0;
}

/* ---- moving ---- */

/* Asks the kernel to put the pages there where they are to be; how many are not, then, in `left`. A
 * page that somebody just uses cannot be moved at that moment: they are tried again as long as any
 * moves, and for a while after that. */
static int push_part(struct migration *m, struct part *part, const int *goal, size_t *left,
                     struct error *err)
{
	int64_t deadline = 0;

	for (*left = part->count + 1;;) {
		size_t count = 0;
		if (look(m, part, err) < 0)
			return -1;
		for (size_t i = 0; i < part->count; i++) {
			if (part->status[i] < 0 || goal[i] < 0 || part->status[i] == goal[i])
				continue;
			part->pages[count] = part->address + i * m->memory->page_size;
			part->nodes[count++] = goal[i];
		}
		if (count < *left)
			deadline = 0;
		else if (!deadline)
			deadline = kernel_now_ms() + LIMIT_BUSY_MS;
		*left = count;
		if (count == 0 || (deadline && kernel_now_ms() > deadline))
			return 0;
		if (deadline)
			poll(NULL, 0, 1);
		if (syscall(SYS_move_pages, part->pid, count, part->pages, part->nodes,
		            part->status, MPOL_MF_MOVE_ALL) < 0)
			return error_set(
			    err, EXIT_GRANT, "the kernel refuses to move guest memory: %s%s",
			    strerror(errno), errno == EPERM ? "; it needs CAP_SYS_NICE" : "");
	}
}

static int move_part(struct migration *m, struct part *part, struct error *err)
{
	cleanup_free int *goal = xcalloc(part->count, sizeof(*goal));
	size_t left;

	if (look(m, part, err) < 0)
		return -1;
	/* Some pages may have come since the first look. */
	cleanup_free int *from = xcalloc(part->count, sizeof(*from));
	memcpy(from, part->status, part->count * sizeof(*from));
	for (size_t i = 0; i < part->count; i++)
		goal[i] = from[i] < 0 ? -1 : wanted(m, part->first + i, from[i]);
	if (push_part(m, part, goal, &left, err) < 0)
		return -1;
	for (size_t i = 0; i < part->count; i++)
		m->moved += from[i] >= 0 && part->status[i] >= 0 && part->status[i] != from[i];
	if (!left)
		return 0;
	cleanup_free char *where = memory_where(m->memory);
	return error_set(err, EXIT_GRANT,
	                 "%s: %zu of %zu pages, from %" PRIu64
	                 " MiB on, cannot be moved: the target has no room left, or a device "
	                 "(VFIO) holds them",
	                 where, left, part->count, (part->first * m->memory->page_size) >> 20);
}

static int return_part(struct migration *m, struct part *part, struct error *err)
{
	cleanup_free int *goal = xcalloc(part->count, sizeof(*goal));
	size_t left = 0;

	for (size_t i = 0; i < part->count; i++)
		goal[i] = m->was[part->first + i];
	int result = push_part(m, part, goal, &left, err);
	m->stuck += left;
	return result;
}

/* Where one part does not go back, the others do. */
int migration_undo(struct migration *m, struct error *err)
{
	cleanup_free struct part *part = xcalloc(1, sizeof(*part));
	int result = 0;

	m->stuck = 0;
	part->patience = LIMIT_MOVING_MS;
	for (uint64_t first = 0; first < m->n_pages; first += PAGES_AT_ONCE) {
		cleanup_error struct error later = ERROR_INIT;
		if (visit_part(m, part, first, return_part, result ? &later : err) < 0)
			result = -1;
	}
	if (result < 0 || !m->stuck)
		return result;
	cleanup_free char *where = memory_where(m->memory);
	return error_set(err, EXIT_FAILED, "%s: %" PRIu64 " page%s could not be moved back", where,
	                 m->stuck, plural(m->stuck));
}

int migration_move(struct migration *m, struct error *err)
{
	cleanup_error struct error undo = ERROR_INIT;

	m->moved = 0;
	if (each_part(m, move_part, err) == 0)
		return 0;
	if (migration_undo(m, &undo) < 0)
		error_prefix(err, "%s; before that: ", undo.message);
	return -1;
}

void migration_end(struct migration *m)
{
	if (m->fd >= 0)
		close(m->fd);
	free(m->was);
	free(m->targets);
	*m = (struct migration)MIGRATION_INIT;
}
