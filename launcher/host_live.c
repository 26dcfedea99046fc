/* What is read from /proc and /sys of this machine: memory, huge pages, distances. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpulist.h"
#include "host_parts.h"
#include "util.h"

#define SYS_NODES "/sys/devices/system/node"

/* Files of /proc and /sys that we read are pages at most, or a line per node. */
#define SYS_LIMIT (1u << 20)

static char *read_sys(const char *path)
{
	cleanup_error struct error err = ERROR_INIT;
	char *text = NULL;

	return read_file(path, SYS_LIMIT, &text, NULL, &err) < 0 ? NULL : text;
}

/* The bytes of a line "Key:  123 kB", "Node 0 Key:  123 kB"; 0 where there is none. */
static uint64_t meminfo_value(const char *text, const char *key)
{
	size_t length = strlen(key);

	for (const char *p = text; (p = strstr(p, key)); p += length)
		if ((p == text || p[-1] == ' ' || p[-1] == '\n') && p[length] == ':')
			return strtoull(p + length + 1, NULL, 10) * 1024;
	return 0;
}

/* What a new allocation can have at once: see struct host_node. Documentation: "meminfo" in
 * Documentation/filesystems/proc.rst; file pages do not count tmpfs, which is on the anon list. */
static void read_meminfo(struct host_node *node, const char *text)
{
	uint64_t cache =
	    meminfo_value(text, "Active(file)") + meminfo_value(text, "Inactive(file)");
	uint64_t busy = meminfo_value(text, "Mapped") + meminfo_value(text, "Dirty") +
	                meminfo_value(text, "Writeback");

	node->memory = meminfo_value(text, "MemTotal");
	node->free = meminfo_value(text, "MemFree") + (cache > busy ? cache - busy : 0);
}

static int compare_pages(const void *a, const void *b)
{
	uint64_t left = ((const struct host_pages *)a)->size;
	uint64_t right = ((const struct host_pages *)b)->size;

	return left < right ? -1 : left > right;
}

static int read_pool(struct host_node *node, const char *path, const char *name, struct error *err)
{
	unsigned long long kib;

	if (sscanf(name, "hugepages-%llukB", &kib) != 1)
		return 0;
	int64_t total = read_number("%s/%s/nr_hugepages", path, name);
	int64_t unused = read_number("%s/%s/free_hugepages", path, name);
	if (total < 0 || unused < 0)
		return error_set(err, EXIT_FAILED,
		                 "cannot read nr_hugepages and free_hugepages of %s/%s", path,
		                 name);
	struct host_pages *pages = array_append(&node->pages, &node->n_pages);
	pages->size = kib * 1024;
	pages->total = (uint64_t)total;
	pages->free = (uint64_t)unused;
	return 0;
}

/* The huge pages of a directory with hugepages-*kB/ (Documentation/admin-guide/mm/hugetlbpage.rst,
 * the same names for a node and for the whole machine). */
static int read_hugepages(struct host_node *node, const char *path, struct error *err)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	int result = 0;

	free(node->pages);
	node->pages = NULL;
	node->n_pages = 0;
	if (!dir && errno == ENOENT) /* a kernel without */
		return 0;
	while (dir && result == 0 && (errno = 0, entry = readdir(dir)))
		result = read_pool(node, path, entry->d_name, err);
	if (result == 0 && errno)
		result = error_set(err, EXIT_FAILED, "cannot read %s: %s", path, strerror(errno));
	if (dir)
		closedir(dir);
	if (node->pages)
		qsort(node->pages, node->n_pages, sizeof(*node->pages), compare_pages);
	return result;
}

/* Whether a memfd that asks for them (MADV_HUGEPAGE) gets transparent huge pages: "shmem_enabled"
 * rules over it alone, not the one of each size, which is for shared anonymous memory
 * (Documentation/admin-guide/mm/transhuge.rst). "always within_size [advise] never deny force". */
static bool read_memfd_thp(void)
{
	cleanup_free char *text = read_sys("/sys/kernel/mm/transparent_hugepage/shmem_enabled");

	return text && strchr(text, '[') && !strstr(text, "[never]") && !strstr(text, "[deny]");
}

/* A kernel without NUMA has no node directories: then the machine is the node. So it is with one
 * node, whose own meminfo leaves out what a kernel that accepts memory lazily has yet to accept. */
int host_live_memory(struct host *host, struct error *err)
{
	bool numa = access(SYS_NODES, F_OK) == 0;

	host->page_size = (uint64_t)sysconf(_SC_PAGESIZE);
	host->memfd_thp = read_memfd_thp();
	for (size_t i = 0; i < host->n_nodes; i++) {
		struct host_node *node = &host->nodes[i];
		cleanup_free char *base = xasprintf(SYS_NODES "/node%u", node->id);
		cleanup_free char *meminfo = numa && host->n_nodes > 1
		                                 ? xasprintf("%s/meminfo", base)
		                                 : xstrdup("/proc/meminfo");
		cleanup_free char *hugepages =
		    numa ? xasprintf("%s/hugepages", base) : xstrdup("/sys/kernel/mm/hugepages");
		cleanup_free char *text = NULL;

		if (read_file(meminfo, SYS_LIMIT, &text, NULL, err) < 0)
			return -1;
		read_meminfo(node, text);
		if (read_hugepages(node, hugepages, err) < 0)
			return -1;
	}
	return 0;
}

/* One row: the distances to the online nodes, in their order. */
static void read_row(struct host *host, struct host_node *node, hwloc_const_bitmap_t online)
{
	cleanup_free char *path = xasprintf(SYS_NODES "/node%u/distance", node->id);
	cleanup_free char *text = read_sys(path);
	char *p = text;

	for (int id = hwloc_bitmap_first(online); text && id >= 0;
	     id = hwloc_bitmap_next(online, id)) {
		char *end;
		unsigned long distance = strtoul(p, &end, 10);
		const struct host_node *other = host_node(host, (unsigned)id);

		if (end == p)
			return;
		if (other)
			node->distances[other - host->nodes] = (unsigned)distance;
		p = end;
	}
}

void host_live_distances(struct host *host)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_bitmap hwloc_bitmap_t online = NULL;
	cleanup_free char *list = read_sys(SYS_NODES "/online");

	if (!list || cpulist_parse(list, &online, &err) < 0)
		return;
	for (size_t i = 0; i < host->n_nodes; i++)
		read_row(host, &host->nodes[i], online);
}
