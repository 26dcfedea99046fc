#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "memory_parts.h"
#include "reserve.h"
#include "util.h"

/* The most that Linux can have. */
#define NODES 1024

/* Pages of one size on one node. While a change is under way, `from` and `change` say what it is.
 */
struct reserved {
	int node;
	uint64_t page_size;
	int64_t owed;   /* pages added and not given back */
	int64_t from;   /* the node's pages before the change */
	int64_t change; /* pages that are being added, or taken away (below 0); 0: none */
};

struct journal {
	struct reserved *list;
	size_t count;
};

static void journal_free(struct journal *journal)
{
	free(journal->list);
}
#define cleanup_journal __attribute__((cleanup(journal_free)))

/* ---- the journal's file ---- */

static int journal_write(const struct vm_dir *vm, const struct journal *journal, struct error *err)
{
	cleanup_json struct json_object *json = json_object_new_array();

	for (size_t i = 0; i < journal->count; i++) {
		const struct reserved *reserved = &journal->list[i];
		struct json_object *item = json_object_new_object();
		json_add_int(item, "node", reserved->node);
		json_add_int(item, "page-size", (int64_t)reserved->page_size);
		json_add_int(item, "owed", reserved->owed);
		json_add_int(item, "from", reserved->from);
		json_add_int(item, "change", reserved->change);
		json_object_array_add(json, item);
	}
	return vm_write_json(vm, VM_RESERVED, json, err);
}

static int64_t number_of(struct json_object *item, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(item, key, &value) ? json_object_get_int64(value) : 0;
}

static int journal_read(const struct vm_dir *vm, struct journal *journal, struct error *err)
{
	cleanup_json struct json_object *json = vm_read_json(vm, VM_RESERVED, err);

	if (!json)
		return -1;
	if (!json_object_is_type(json, json_type_array))
		return error_set(err, EXIT_FAILED, "%s/%s is not a list", vm->path, VM_RESERVED);
	for (size_t i = 0; i < json_object_array_length(json); i++) {
		struct json_object *item = json_object_array_get_idx(json, i);
		struct reserved *reserved = array_append(&journal->list, &journal->count);
		reserved->node = (int)number_of(item, "node");
		reserved->page_size = (uint64_t)number_of(item, "page-size");
		reserved->owed = number_of(item, "owed");
		reserved->from = number_of(item, "from");
		reserved->change = number_of(item, "change");
	}
	return 0;
}

bool reserve_is_owed(const struct vm_dir *vm)
{
	return !vm_lacks(vm, VM_RESERVED);
}

/* ---- the kernel's counts ---- */

struct counts {
	int64_t persistent; /* there to stay */
	int64_t surplus;    /* these go when they are no longer used */
};

static int read_counts(const char *directory, struct counts *counts, struct error *err)
{
	int64_t all = read_number("%s/nr_hugepages", directory);
	int64_t surplus = read_number("%s/surplus_hugepages", directory);

	if (all < 0 || surplus < 0)
		return error_set(err, EXIT_GRANT, "cannot read the counts of huge pages in %s",
		                 directory);
	*counts = (struct counts){ all - surplus, surplus };
	return 0;
}

static int cannot_change(const char *path, struct error *err)
{
	return error_set(err, EXIT_GRANT,
	                 "cannot change %s: %s; only root may reserve huge pages: reserve them "
	                 "beforehand, and leave \"reserve\" out",
	                 path, strerror(errno));
}

static int write_number(const char *path, int64_t number, struct error *err)
{
	cleanup_free char *text = xasprintf("%" PRId64, number);
	cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text))
		return 0;
	return cannot_change(path, err);
}

/* What has happened of the change that was under way. Where that cannot be seen, it stays under
 * way.
 */
static int settle(struct reserved *reserved, const char *directory, struct error *err)
{
	int64_t least = reserved->change < 0 ? reserved->change : 0;
	int64_t most = reserved->change > 0 ? reserved->change : 0;
	struct counts now;

	if (read_counts(directory, &now, err) < 0)
		return -1;
	int64_t moved = now.persistent - reserved->from;
	reserved->owed += moved < least ? least : moved > most ? most : moved;
	reserved->change = 0;
	return 0;
}

/* Writes how many pages all nodes shall have, of which the kernel adds or takes on this one: the
 * policy of the thread says so (hugetlbpage.rst, nr_hugepages_mempolicy). */
static int write_by_policy(int node, const char *all, int64_t wanted, struct error *err)
{
	cleanup_free char *path = xasprintf("%s/nr_hugepages_mempolicy", all);
	cleanup_bitmap hwloc_bitmap_t nodes = xbitmap();
	unsigned long before[NODES / 64] = { 0 };
	int mode;

	hwloc_bitmap_set(nodes, (unsigned)node);
	if (syscall(SYS_get_mempolicy, &mode, before, NODES, NULL, 0) < 0)
		return error_set(err, EXIT_GRANT, "cannot read the memory policy: %s",
		                 strerror(errno));
	if (memory_policy_of_thread(MEM_POLICY_RESTRICTIVE, nodes, err) < 0)
		return -1;
	int result = write_number(path, wanted, err);
	/* It takes the number of bits plus one. */
	syscall(SYS_set_mempolicy, mode, before, NODES + 1);
	return result;
}

static int write_change(int node, const char *directory, const struct counts *own, int64_t change,
                        const char *all, struct error *err)
{
	cleanup_free char *path = xasprintf("%s/nr_hugepages", directory);
	int64_t wanted = own->persistent + change;
	struct counts whole;

	if (read_counts(all, &whole, err) < 0)
		return -1;
	/* Kernels before 6.7 add the surplus of other nodes to what is written here. */
	if (whole.surplus > own->surplus)
		return write_by_policy(node, all, whole.persistent + change, err);
	return write_number(path, wanted > 0 ? wanted : 0, err);
}

/* Changes the node's pages by `change`, as far as the kernel goes; `owed` says how far. */
static int change_pages(const struct vm_dir *vm, struct journal *journal, struct reserved *reserved,
                        int64_t change, struct error *err)
{
	cleanup_free char *directory = memory_huge_directory(reserved->node, reserved->page_size);
	cleanup_free char *all = memory_huge_directory(-1, reserved->page_size);

	struct counts before;

	if (read_counts(directory, &before, err) < 0)
		return -1;
	reserved->from = before.persistent;
	reserved->change = change;
	if (journal_write(vm, journal, err) < 0 ||
	    write_change(reserved->node, directory, &before, change, all, err) < 0 ||
	    settle(reserved, directory, err) < 0)
		return -1;
	return journal_write(vm, journal, err);
}

/* Moves what is in use together, so that whole huge pages become free
 * (Documentation/admin-guide/sysctl/vm.rst, compact_memory). */
static void compact(int node)
{
	cleanup_free char *own = xasprintf("/sys/devices/system/node/node%d/compact", node);
	cleanup_error struct error ignored = ERROR_INIT;

	if (node < 0 || access(own, W_OK) < 0)
		write_number("/proc/sys/vm/compact_memory", 1, &ignored);
	else
		write_number(own, 1, &ignored);
}

/* ---- what is missing ---- */

/* The need of one page size on one node. */
struct need {
	const struct host_node *node;
	uint64_t free;   /* pages that nobody was promised */
	uint64_t room;   /* pages that its plain memory would make */
	uint64_t wanted; /* pages */
};

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static struct need *list_needs(const struct host *host, const struct claims *claims,
                               uint64_t page_size)
{
	struct need *needs = xcalloc(host->n_nodes, sizeof(*needs));

	for (size_t i = 0; i < host->n_nodes; i++) {
		const struct host_node *node = &host->nodes[i];
		const struct host_pages *pages = host_node_pages(node, page_size);
		uint64_t huge = claims_promised(claims, (int)node->id, page_size);
		uint64_t plain = claims_promised(claims, (int)node->id, 0);
		needs[i].node = node;
		needs[i].free = less(pages ? pages->free : 0, huge / page_size);
		needs[i].room = less(node->free, plain) / page_size;
	}
	return needs;
}

/* Takes up to `pages` of the nodes' pages (NULL: of any node), from each node `each` at most: of
 * those that are free, or (with `grow`) that could be. Returns how many were not to be had. */
static uint64_t take(struct need *needs, size_t count, hwloc_const_bitmap_t nodes, uint64_t pages,
                     uint64_t each, bool grow)
{
	for (size_t i = 0; i < count && pages; i++) {
		struct need *need = &needs[i];
		uint64_t taken = less(need->free + (grow ? need->room : 0), need->wanted);
		if (nodes && !hwloc_bitmap_isset(nodes, need->node->id))
			continue;
		taken = taken < each ? taken : each;
		taken = taken < pages ? taken : pages;
		need->wanted += taken;
		pages -= taken;
	}
	return pages;
}

/* The region's pages: evenly with interleave, else as the nodes have them, reserved ones first. */
static void add_region(struct need *needs, size_t count, const struct plan_memory *memory)
{
	hwloc_const_bitmap_t nodes = memory->host_nodes;
	uint64_t pages = memory->size / memory->page_size;

	if (memory->policy == MEM_POLICY_INTERLEAVE && nodes) {
		uint64_t n = (uint64_t)hwloc_bitmap_weight(nodes);
		take(needs, count, nodes, pages, (pages + n - 1) / n, true);
		return;
	}
	pages = take(needs, count, nodes, pages, pages, false);
	pages = take(needs, count, nodes, pages, pages, true);
	if (memory->policy == MEM_POLICY_PREFERRED)
		take(needs, count, NULL, pages, pages, true);
}

static int shortage(const struct plan *plan, const struct need *need, uint64_t page_size,
                    uint64_t had, struct error *err)
{
	cleanup_free char *size = format_size(page_size);

	return error_set(err, EXIT_GRANT,
	                 "%s needs %" PRIu64
	                 " huge page%s of %s on host node %u, which had %" PRIu64
	                 " free; the kernel could reserve %" PRIu64 " of the %" PRIu64
	                 " that are missing, and memory has been compacted for them: free memory "
	                 "there, reserve them at boot (hugepages=), or use another node",
	                 plan->name, need->wanted, plural(need->wanted), size, need->node->id,
	                 need->free, had, need->wanted - need->free);
}

static int grow_node(const struct vm_dir *vm, const struct plan *plan, struct journal *journal,
                     const struct need *need, uint64_t page_size, struct error *err)
{
	cleanup_free char *directory = memory_huge_directory((int)need->node->id, page_size);
	/* The kernel begins with the surplus pages, which are in use: it lets them stay. */
	int64_t used, missing;
	struct counts before;

	if (read_counts(directory, &before, err) < 0)
		return -1;
	used = before.surplus;
	missing = used + (int64_t)(need->wanted - need->free);
	struct reserved *reserved = array_append(&journal->list, &journal->count);
	reserved->node = (int)need->node->id;
	reserved->page_size = page_size;
	if (change_pages(vm, journal, reserved, missing, err) < 0)
		return -1;
	if (reserved->owed < missing) {
		compact(reserved->node);
		if (change_pages(vm, journal, reserved, missing - reserved->owed, err) < 0)
			return -1;
	}
	if (reserved->owed < missing)
		return shortage(plan, need, page_size,
		                less((uint64_t)reserved->owed, (uint64_t)used), err);
	return 0;
}

/* Whether we may have more pages there. */
static int may_grow(const struct need *need, uint64_t page_size, struct error *err)
{
	cleanup_free char *directory = memory_huge_directory((int)need->node->id, page_size);
	cleanup_free char *path = xasprintf("%s/nr_hugepages", directory);

	return faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0 ? 0 : cannot_change(path, err);
}

/* Without a journal nothing is changed. */
static int grow_size(const struct vm_dir *vm, const struct plan *plan, const struct host *host,
                     const struct claims *claims, uint64_t page_size, struct journal *journal,
                     struct error *err)
{
	cleanup_free struct need *needs = list_needs(host, claims, page_size);

	for (size_t i = 0; i < plan->n_memory; i++)
		if (plan->memory[i].pages == PAGES_HUGE && plan->memory[i].page_size == page_size)
			add_region(needs, host->n_nodes, &plan->memory[i]);
	for (size_t i = 0; i < host->n_nodes; i++)
		if (needs[i].wanted > needs[i].free &&
		    (journal ? grow_node(vm, plan, journal, &needs[i], page_size, err)
		             : may_grow(&needs[i], page_size, err)) < 0)
			return -1;
	return 0;
}

static int grow_all(const struct vm_dir *vm, const struct plan *plan, const struct host *host,
                    const struct claims *claims, struct journal *journal, struct error *err)
{
	int result = 0;

	for (size_t i = 0; i < plan->n_memory && result == 0; i++) {
		const struct plan_memory *memory = &plan->memory[i];
		bool again = false;
		for (size_t j = 0; j < i; j++)
			again |=
			    plan->memory[j].grow && plan->memory[j].page_size == memory->page_size;
		if (memory->grow && memory->pages == PAGES_HUGE && !again)
			result = grow_size(vm, plan, host, claims, memory->page_size, journal, err);
	}
	return result;
}

int reserve_grow(const struct vm_dir *vm, const struct plan *plan, const struct host *host,
                 const struct claims *claims, struct error *err)
{
	cleanup_journal struct journal journal = { 0 };
	cleanup_error struct error ignored = ERROR_INIT;
	int result = grow_all(vm, plan, host, claims, &journal, err);

	if (result < 0)
		reserve_give_back(vm, &ignored);
	return result;
}

int reserve_check(const struct plan *plan, const struct host *host, const struct claims *claims,
                  struct error *err)
{
	return grow_all(NULL, plan, host, claims, NULL, err);
}

int reserve_give_back(const struct vm_dir *vm, struct error *err)
{
	cleanup_journal struct journal journal = { 0 };

	if (!reserve_is_owed(vm))
		return 0;
	if (journal_read(vm, &journal, err) < 0)
		return -1;
	for (size_t i = 0; i < journal.count; i++) {
		struct reserved *reserved = &journal.list[i];
		cleanup_free char *directory =
		    memory_huge_directory(reserved->node, reserved->page_size);
		if (reserved->change && settle(reserved, directory, err) < 0)
			return -1;
		if (reserved->owed > 0 &&
		    change_pages(vm, &journal, reserved, -reserved->owed, err) < 0)
			return -1;
	}
	unlinkat(vm->dirfd, VM_RESERVED, 0);
	return 0;
}
