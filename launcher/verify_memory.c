/* The memory side of verification. Where pages are is read through a mapping of our own of the same
 * file: QEMU's numa_maps shows a shared page only once QEMU has touched it. Anonymous memory is
 * QEMU's alone, and there its numa_maps is the truth. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "argv.h"
#include "cpulist.h"
#include "util.h"
#include "verify.h"
#include "verify_parts.h"

/* One region under verification. */
struct region {
	const struct plan *plan;
	const struct plan_memory *memory;
	size_t index;
	char *name;
	struct checks *checks;
};

static bool promises_something(const struct plan *plan, const struct plan_memory *memory)
{
	return memory->host_nodes || memory->fill != FILL_NONE || memory->pages != PAGES_PLAIN ||
	       plan->locked || plan->nosharepages;
}

/* "256 pages of 2MiB, node 0: 256"; for people and for comparing. */
static char *residency_text(const struct residency *pages)
{
	cleanup_free char *size = format_size(pages->page_size);
	char *text = xasprintf("%" PRIu64 " pages of %s", pages->resident, size);

	for (size_t node = 0; node < pages->n_nodes; node++) {
		if (!pages->pages[node])
			continue;
		char *longer = xasprintf("%s, node %zu: %" PRIu64, text, node, pages->pages[node]);
		free(text);
		text = longer;
	}
	if (!pages->broken)
		return text;
	cleanup_free char *rest = text;
	return xasprintf("%s; %" PRIu64 " broken (memory error of the hardware, see dmesg)", rest,
	                 pages->broken);
}

static char *expected_text(const struct region *r)
{
	const struct plan_memory *memory = r->memory;
	cleanup_free char *size = format_size(memory->page_size);
	cleanup_free char *nodes =
	    memory->host_nodes ? cpulist_format(memory->host_nodes) : xstrdup("any");

	return xasprintf(
	    "%s%" PRIu64 " pages of %s, node%s %s%s", memory->fill == FILL_NONE ? "up to " : "",
	    memory->size / memory->page_size, size,
	    memory->host_nodes && hwloc_bitmap_weight(memory->host_nodes) > 1 ? "s" : "", nodes,
	    memory->policy == MEM_POLICY_PREFERRED ? " preferred" : "");
}

/* What interleaving goes by, in the pages that are counted: a transparent huge page goes to one
 * node as a whole. */
static uint64_t interleaved_at_once(const struct plan_memory *memory)
{
	return memory->pages == PAGES_THP ? THP_SIZE / memory->page_size : 1;
}

/* Where pages may be. Those that come only as the guest uses them come where QEMU's policy says,
 * even after the others were moved. */
static bool may_hold(const struct plan_memory *memory, unsigned node)
{
	hwloc_const_bitmap_t late = memory->fill == FILL_NONE ? memory->policy_nodes : NULL;

	return hwloc_bitmap_isset(memory->host_nodes, node) ||
	       (late && (hwloc_bitmap_iszero(late) || hwloc_bitmap_isset(late, node)));
}

/* Every page on a node of the plan; interleaved ones evenly, to one, once all are there. */
static bool pages_are_placed(const struct plan_memory *memory, const struct residency *pages)
{
	uint64_t least = UINT64_MAX, most = 0;

	if (!memory->host_nodes || memory->policy == MEM_POLICY_PREFERRED)
		return true;
	for (size_t node = 0; node < pages->n_nodes; node++)
		if (pages->pages[node] && !may_hold(memory, (unsigned)node))
			return false;
	if (memory->policy != MEM_POLICY_INTERLEAVE || memory->fill == FILL_NONE)
		return true;
	unsigned node;
	hwloc_bitmap_foreach_begin(node, memory->host_nodes)
	{
		uint64_t count = node < pages->n_nodes ? pages->pages[node] : 0;
		least = count < least ? count : least;
		most = count > most ? count : most;
	}
	hwloc_bitmap_foreach_end();
	return most - least <= interleaved_at_once(memory);
}

static void check_residency(const struct region *r, const struct residency *pages)
{
	const struct plan_memory *memory = r->memory;
	bool complete = memory->fill == FILL_NONE
	                    ? pages->broken == 0
	                    : pages->resident * pages->page_size == memory->size;
	/* Of an empty mapping the kernel does not say the page size. */
	bool size = pages->resident == 0 || pages->page_size == memory->page_size;

	checks_add(r->checks, xasprintf("%s: pages", r->name), expected_text(r),
	           residency_text(pages), complete && size && pages_are_placed(memory, pages));
}

static void check_flag(const struct region *r, const char *what, bool expected, bool actual)
{
	checks_add(r->checks, xasprintf("%s: %s", r->name, what), xstrdup(expected ? "yes" : "no"),
	           xstrdup(actual ? "yes" : "no"), expected == actual);
}

/* `bytes` are in transparent huge pages. */
static void check_thp(const struct region *r, uint64_t bytes)
{
	bool whole = bytes >= r->memory->size;

	if (r->memory->pages != PAGES_THP || r->memory->fill == FILL_NONE)
		return;
	checks_add(r->checks, xasprintf("%s: transparent huge pages", r->name),
	           xasprintf("%" PRIu64 " MiB%s", r->memory->size >> 20,
	                     r->plan->pages_required ? "" : " preferred"),
	           xasprintf("%" PRIu64 " MiB", bytes >> 20), whole || !r->plan->pages_required);
}

/* With restrictive, the region has no policy, and numa_maps shows that of the process instead: it
 * is confined to the nodes of all such regions. */
static void check_policy(const struct region *r, const struct mapping *mapping)
{
	cleanup_bitmap hwloc_bitmap_t confined = xbitmap();
	const struct plan_memory process = { .policy = MEM_POLICY_STRICT, .host_nodes = confined };
	const struct plan_memory own = plan_memory_of_policy(r->memory), *shown = &own;

	if (!shown->host_nodes)
		return;
	if (shown->policy == MEM_POLICY_RESTRICTIVE) {
		for (size_t i = 0; i < r->plan->n_memory; i++) {
			struct plan_memory other = plan_memory_of_policy(&r->plan->memory[i]);
			if (other.policy == MEM_POLICY_RESTRICTIVE && other.host_nodes)
				hwloc_bitmap_or(confined, confined, other.host_nodes);
		}
		shown = &process;
	}
	checks_add(r->checks, xasprintf("%s: policy", r->name), memory_policy_shown(shown),
	           xstrdup(mapping->policy), memory_policy_matches(shown, mapping->policy));
}

static void check_mapping(const struct region *r, const struct mapping *mapping)
{
	check_policy(r, mapping);
	/* Huge pages of hugetlb are locked by nature and never carry the flag. */
	if (r->plan->locked && !mapping->hugetlb)
		check_flag(r, "locked", true, mapping->locked);
	if (r->plan->nosharepages)
		check_flag(r, "mergeable", false, mapping->mergeable);
	check_flag(r, "in core dumps", false, mapping->in_core_dumps);
}

/* The mapping among those of the right size that is this region's: one not yet taken, by a region
 * before it, with the right policy if there is one. Anonymous memory has no name. */
static const struct mapping *pick(const struct plan_memory *memory, const struct mapping *list,
                                  size_t count, hwloc_bitmap_t taken)
{
	struct plan_memory region = plan_memory_of_policy(memory);
	const struct mapping *best = NULL;

	for (size_t i = 0; i < count; i++) {
		if (hwloc_bitmap_isset(taken, (unsigned)i))
			continue;
		if (!best || (!memory_policy_matches(&region, best->policy) &&
		              memory_policy_matches(&region, list[i].policy)))
			best = &list[i];
	}
	if (best)
		hwloc_bitmap_set(taken, (unsigned)(best - list));
	return best;
}

static void check_missing(const struct region *r)
{
	checks_add(r->checks, xasprintf("%s: mapping", r->name),
	           xasprintf("%" PRIu64 " MiB mapped by QEMU", r->memory->size >> 20),
	           xstrdup("none"), false);
}

/* A file's pages: where they are, and in what. */
static void check_file(const struct region *r, const struct residency *pages)
{
	check_residency(r, pages);
	check_thp(r, pages->thp);
}

static int verify_file(const struct region *r, pid_t pid, const struct residency *known,
                       struct error *err)
{
	cleanup_free char *path = xasprintf("/proc/%d/fd/%d", pid, FD_MEMORY + (int)r->index);
	cleanup_close int fd = open(path, O_RDWR | O_CLOEXEC);
	struct mapping *list = NULL;
	struct residency pages = { 0 };
	size_t count = 0;
	int unknown = 0;

	if (fd < 0)
		return error_set(err, EXIT_FAILED, "cannot open the memory of %s (%s): %s", r->name,
		                 path, strerror(errno));
	if (known && known->page_size)
		check_file(r, known);
	else if ((unknown = residency_of_file(fd, r->memory->size, r->memory->pages == PAGES_THP,
	                                      &pages, err)) < 0)
		return -1;
	else if (unknown == 0)
		check_file(r, &pages);
	free(pages.pages);
	if (mappings_of_process(pid, fd, r->memory->size, &list, &count, err) < 0)
		return -1;
	if (count == 0)
		check_missing(r);
	for (size_t i = 0; i < count; i++) {
		if (unknown && i == 0)
			check_residency(r, &list[i].residency);
		check_mapping(r, &list[i]);
	}
	mappings_free(list, count);
	return 0;
}

const struct mapping *verify_pick(const struct plan *plan, size_t region,
                                  const struct mapping *list, size_t count)
{
	cleanup_bitmap hwloc_bitmap_t taken = xbitmap();
	const struct mapping *mine = NULL;

	for (size_t i = 0; i <= region; i++) {
		const struct plan_memory *memory = &plan->memory[i];
		if (memory->backing == BACKING_ANON && memory->size == plan->memory[region].size)
			mine = pick(memory, list, count, taken);
	}
	return mine;
}

static void find_missing(const struct region *r, pid_t pid, struct mapping *mine)
{
	uint64_t expected = r->memory->size / r->memory->page_size;

	if (r->memory->fill != FILL_NONE)
		residency_find(pid, mine->start, mine->size, expected, &mine->residency);
}

static int verify_anonymous(const struct region *r, pid_t pid, struct error *err)
{
	struct mapping *list = NULL;
	size_t count = 0;

	if (mappings_of_process(pid, -1, r->memory->size, &list, &count, err) < 0)
		return -1;
	const struct mapping *mine = verify_pick(r->plan, r->index, list, count);
	if (mine) {
		find_missing(r, pid, &list[mine - list]);
		check_residency(r, &mine->residency);
		check_mapping(r, mine);
		check_thp(r, mine->thp);
	} else {
		check_missing(r);
	}
	mappings_free(list, count);
	return 0;
}

static int verify_lock(const struct plan *plan, pid_t pid, struct checks *checks, struct error *err)
{
	cleanup_free char *path = xasprintf("/proc/%d/status", pid);
	cleanup_free char *text = NULL;
	char *line;
	long locked = 0;

	if (!plan->locked)
		return 0;
	if (read_file(path, 1 << 16, &text, NULL, err) < 0)
		return -1;
	line = strstr(text, "\nVmLck:");
	if (line)
		locked = atol(line + strlen("\nVmLck:"));
	checks_add(checks, xstrdup("memory of the process: locked"), xstrdup("yes"),
	           xasprintf("%s (%ld kB)", locked > 0 ? "yes" : "no", locked), locked > 0);
	return 0;
}

int verify_memory(const struct plan *plan, pid_t pid, const struct residency *known, bool all,
                  struct checks *checks, struct error *err)
{
	for (size_t i = 0; i < plan->n_memory; i++) {
		const struct plan_memory *memory = &plan->memory[i];
		cleanup_free char *name = memory->guest_node < 0
		                              ? xstrdup("memory")
		                              : xasprintf("guest node %d", memory->guest_node);
		struct region r = { plan, memory, i, name, checks };
		if (!all && !promises_something(plan, memory))
			continue;
		if ((memory->backing == BACKING_ANON
		         ? verify_anonymous(&r, pid, err)
		         : verify_file(&r, pid, known ? &known[i] : NULL, err)) < 0)
			return -1;
	}
	return verify_lock(plan, pid, checks, err);
}
