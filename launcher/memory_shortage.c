/* The text of the error that matters most: who is short of which pages, and what to do. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpulist.h"
#include "memory_parts.h"
#include "util.h"

char *memory_where(const struct plan_memory *memory)
{
	cleanup_free char *guest = memory->guest_node < 0
	                               ? xstrdup("guest memory")
	                               : xasprintf("guest node %d", memory->guest_node);
	if (!memory->host_nodes || hwloc_bitmap_iszero(memory->host_nodes))
		return take_pointer(&guest);
	cleanup_free char *nodes = cpulist_format(memory->host_nodes);
	return xasprintf("%s on host node%s %s", guest,
	                 hwloc_bitmap_weight(memory->host_nodes) == 1 ? "" : "s", nodes);
}

char *memory_huge_directory(int node, uint64_t page_size)
{
	unsigned long long kib = page_size / 1024;

	if (node >= 0) {
		char *path = xasprintf("/sys/devices/system/node/node%d/hugepages/hugepages-%llukB",
		                       node, kib);
		if (access(path, F_OK) == 0)
			return path;
		free(path);
	}
	return xasprintf("/sys/kernel/mm/hugepages/hugepages-%llukB", kib);
}

/* Pages (huge) or bytes (plain) that are free on a node, of the machine with -1; -1 where the
 * kernel does not say. */
static int64_t free_on(int node, const struct plan_memory *memory)
{
	if (memory->pages == PAGES_HUGE) {
		cleanup_free char *directory = memory_huge_directory(node, memory->page_size);
		int64_t count = read_number("%s/free_hugepages", directory);
		int64_t promised = node < 0 ? read_number("%s/resv_hugepages", directory) : 0;
		if (count < 0 || promised < 0)
			return -1;
		return promised > count ? 0 : count - promised;
	}
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_free char *text = NULL;
	cleanup_free char *path = node < 0
	                              ? xstrdup("/proc/meminfo")
	                              : xasprintf("/sys/devices/system/node/node%d/meminfo", node);
	if (read_file(path, 1 << 20, &text, NULL, &ignored) < 0)
		return -1;
	const char *line = strstr(text, "MemFree:");
	return line ? strtoll(line + strlen("MemFree:"), NULL, 10) * 1024 : -1;
}

static char *amount(int64_t free_there, bool huge)
{
	if (free_there < 0)
		return xstrdup("unknown");
	return huge ? xasprintf("%lld", (long long)free_there)
	            : xasprintf("%lldMiB", (long long)(free_there >> 20));
}

/* "3 on node 0, 12 on node 1"; `sum` gets them together. */
static char *free_text(const struct plan_memory *memory, int64_t *sum)
{
	bool huge = memory->pages == PAGES_HUGE;
	char *text = NULL;
	int node;

	*sum = 0;
	if (!memory->host_nodes || hwloc_bitmap_iszero(memory->host_nodes)) {
		*sum = free_on(-1, memory);
		return amount(*sum, huge);
	}
	hwloc_bitmap_foreach_begin(node, memory->host_nodes)
	{
		cleanup_free char *before = text;
		int64_t there = free_on(node, memory);
		cleanup_free char *shown = amount(there, huge);
		text = xasprintf("%s%s%s on node %d", before ? before : "", before ? ", " : "",
		                 shown, node);
		*sum += there > 0 ? there : 0;
	}
	hwloc_bitmap_foreach_end();
	return text;
}

int64_t memory_free(const struct plan_memory *memory)
{
	int64_t sum;

	free(free_text(memory, &sum));
	return sum;
}

/* The command that reserves `missing` more pages on the (first) node. */
static char *reserve_command(const struct plan_memory *memory, uint64_t missing)
{
	int node = memory->host_nodes ? hwloc_bitmap_first(memory->host_nodes) : -1;
	cleanup_free char *directory = memory_huge_directory(node, memory->page_size);
	int64_t total = read_number("%s/nr_hugepages", directory);

	return xasprintf("echo %llu > %s/nr_hugepages",
	                 (unsigned long long)(total < 0 ? 0 : total) + missing, directory);
}

static int huge_shortage(const struct plan_memory *memory, uint64_t had, int reason,
                         struct error *err)
{
	cleanup_free char *where = memory_where(memory);
	cleanup_free char *size = format_size(memory->page_size);
	unsigned long long needed = memory->size / memory->page_size;
	int64_t sum;
	cleanup_free char *there = free_text(memory, &sum);

	/* A reservation (had is 0 then) is a promise of the machine, not of the node. */
	bool reserving = reason == ENOMEM && had == 0;
	if (reserving)
		sum = free_on(-1, memory);
	uint64_t missing = needed - had;
	if (sum >= 0 && (uint64_t)sum >= missing)
		return error_set(err, EXIT_GRANT,
		                 "%s: %llu huge page%s of %s needed, %llu had, free: %s: the pages "
		                 "are there but the kernel does not give them (%s): see the limits "
		                 "of the cgroup (hugetlb.*.max, hugetlb.*.rsvd.max)",
		                 where, needed, plural(needed), size, (unsigned long long)had,
		                 there, strerror(reason));
	missing -= sum > 0 ? (uint64_t)sum : 0;
	cleanup_free char *command = reserve_command(memory, missing);
	cleanup_free char *promise =
	    reserving && sum >= 0 ? xasprintf(", not promised to others: %lld", (long long)sum)
	                          : xstrdup("");
	return error_set(err, EXIT_GRANT,
	                 "%s: %llu huge page%s of %s needed, %llu had, free: %s%s; missing %llu, "
	                 "reserve them: %s",
	                 where, needed, plural(needed), size, (unsigned long long)had, there,
	                 promise, (unsigned long long)missing, command);
}

int memory_shortage(const struct plan_memory *memory, uint64_t had, int reason, struct error *err)
{
	cleanup_free char *where = memory_where(memory);
	cleanup_free char *size = format_size(memory->page_size);
	unsigned long long needed = memory->size / memory->page_size;
	unsigned long long filled = had / memory->page_size;

	switch (reason) {
	case EHWPOISON:
		return error_set(err, EXIT_GRANT,
		                 "%s: a page of %s is broken (memory error of the hardware, see "
		                 "dmesg) after %llu of %llu: start again, the kernel has set it "
		                 "aside",
		                 where, size, filled, needed);
	case EINVAL:
		return error_set(err, EXIT_GRANT,
		                 "%s: this kernel cannot populate memory (MADV_POPULATE_WRITE, "
		                 "Linux 5.14): upgrade it, or set \"prealloc\": \"qemu\"",
		                 where);
	case EFAULT:
	case ENOMEM:
		break;
	default:
		return error_set(err, EXIT_GRANT,
		                 "%s: populate stopped after %llu of %llu pages of "
		                 "%s: %s",
		                 where, filled, needed, size, strerror(reason));
	}
	if (memory->pages == PAGES_HUGE)
		return huge_shortage(memory, filled, reason, err);
	int64_t sum;
	cleanup_free char *there = free_text(memory, &sum);
	return error_set(err, EXIT_GRANT,
	                 "%s: %llu pages of %s needed, %llu had (%s), free: %s: stop something, "
	                 "ask for less, or raise the limit of the cgroup (memory.max)",
	                 where, needed, size, filled, strerror(reason), there);
}
