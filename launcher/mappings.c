#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "memory_parts.h"
#include "util.h"

/* What /proc/PID/maps says of a mapping. */
struct vma {
	uintptr_t start, end;
	uint64_t offset;
	bool shared;
	dev_t device;
	ino_t inode;
	bool named; /* a file, or something like [heap] */
};

/* A mapping that is looked for, and what has been read of it. */
struct found {
	struct mapping mapping;
	uint64_t offset;
	uint64_t rss; /* bytes, for kernels without NUMA */
	bool flags_read, counts_read;
};

struct search {
	const char *pid;
	int fd;
	uint64_t size;
	dev_t device; /* of fd */
	ino_t inode;
	struct found *list; /* by address */
	size_t count;
};

/* A line of maps, or the first line of a block of smaps; false for any other line. */
static bool parse_vma(const char *line, struct vma *vma)
{
	unsigned long start, end, inode;
	unsigned long long offset;
	unsigned major_number, minor_number;
	char rights[5];
	int name = 0;

	if (sscanf(line, "%lx-%lx %4s %llx %x:%x %lu %n", &start, &end, rights, &offset,
	           &major_number, &minor_number, &inode, &name) < 7)
		return false;
	*vma = (struct vma){
		.start = start,
		.end = end,
		.offset = offset,
		.shared = rights[3] == 's',
		.device = makedev(major_number, minor_number),
		.inode = inode,
		/* Anonymous memory may have got a name by PR_SET_VMA_ANON_NAME. */
		.named = name && line[name] && strncmp(line + name, "[anon", 5) != 0,
	};
	return true;
}

static bool wanted(const struct search *search, const struct vma *vma)
{
	if (search->fd >= 0)
		return vma->inode == search->inode && vma->device == search->device;
	return !vma->shared && !vma->inode && !vma->named && vma->end - vma->start == search->size;
}

/* Opens /proc/PID/NAME; a process that is not there is told apart from one that is not ours. */
static FILE *open_proc(const struct search *search, const char *name, struct error *err)
{
	cleanup_free char *path = xasprintf("/proc/%s/%s", search->pid, name);
	FILE *file = fopen(path, "re");

	if (file)
		return file;
	int reason = errno;
	cleanup_free char *process = xasprintf("/proc/%s", search->pid);
	if (access(process, F_OK) < 0)
		error_set(err, EXIT_FAILED, "process %s has ended", search->pid);
	else
		error_set(err, EXIT_FAILED, "cannot open %s: %s%s", path, strerror(reason),
		          reason == EACCES || reason == EPERM
		              ? " (only its own user, without lost privileges, and root may)"
		              : "");
	return NULL;
}

/* Finds the mappings. */
static int read_maps(struct search *search, struct error *err)
{
	cleanup_file FILE *file = open_proc(search, "maps", err);
	cleanup_free char *line = NULL;
	size_t room = 0, lines = 0;
	struct vma vma;

	if (!file)
		return -1;
	for (; getline(&line, &room, file) >= 0; lines++) {
		if (!parse_vma(line, &vma) || !wanted(search, &vma))
			continue;
		struct found *found = array_append(&search->list, &search->count);
		found->mapping.start = vma.start;
		found->mapping.size = vma.end - vma.start;
		found->mapping.in_core_dumps = true;
		found->offset = vma.offset;
	}
	if (!lines) /* nobody has waited for it yet */
		return error_set(err, EXIT_FAILED, "process %s has ended", search->pid);
	return 0;
}

static void parse_flags(char *flags, struct mapping *mapping)
{
	char *flag;

	while ((flag = strsep(&flags, " \n"))) {
		if (strcmp(flag, "lo") == 0)
			mapping->locked = true;
		else if (strcmp(flag, "mg") == 0)
			mapping->mergeable = true;
		else if (strcmp(flag, "dd") == 0)
			mapping->in_core_dumps = false;
		else if (strcmp(flag, "ht") == 0)
			mapping->hugetlb = true;
	}
}

/* A line of a block: "KernelPageSize:     2048 kB", "VmFlags: rd wr sh mr mw me ms sd". */
static void parse_field(char *line, struct found *found)
{
	struct mapping *mapping = &found->mapping;
	char *colon = strchr(line, ':');

	if (!colon)
		return;
	*colon = '\0';
	uint64_t bytes = strtoull(colon + 1, NULL, 10) * 1024;
	if (strcmp(line, "KernelPageSize") == 0)
		mapping->residency.page_size = bytes;
	else if (strcmp(line, "AnonHugePages") == 0 || strcmp(line, "ShmemPmdMapped") == 0)
		mapping->thp += bytes;
	else if (strcmp(line, "Rss") == 0 || strcmp(line, "Shared_Hugetlb") == 0 ||
	         strcmp(line, "Private_Hugetlb") == 0)
		found->rss += bytes;
	else if (strcmp(line, "VmFlags") == 0) {
		parse_flags(colon + 1, mapping);
		found->flags_read = true;
	}
}

/* Page size, huge pages and flags. The kernel walks the page tables of every mapping that it
 * shows, so the last one that is looked for ends it. */
static int read_smaps(struct search *search, struct error *err)
{
	cleanup_file FILE *file = open_proc(search, "smaps", err);
	cleanup_free char *line = NULL;
	size_t room = 0, next = 0;
	struct found *found = NULL;
	struct vma vma;

	if (!file)
		return -1;
	while (getline(&line, &room, file) >= 0) {
		if (!parse_vma(line, &vma)) {
			if (found)
				parse_field(line, found);
			continue;
		}
		while (next < search->count && search->list[next].mapping.start < vma.start)
			next++;
		if (next == search->count)
			return 0;
		found = &search->list[next];
		if (found->mapping.start != vma.start || found->mapping.size != vma.end - vma.start)
			found = NULL;
	}
	return 0;
}

/* Policy and pages by node. */
static int read_numa_maps(struct search *search, struct error *err)
{
	cleanup_file FILE *file = numa_maps_open(search->pid);
	struct numa_line line;
	size_t next = 0;

	if (!file && errno == ENOENT) {
		cleanup_file FILE *maps = open_proc(search, "maps", err);
		for (size_t i = 0; maps && i < search->count; i++) {
			struct found *found = &search->list[i];
			uint64_t page_size = found->mapping.residency.page_size;
			strcpy(found->mapping.policy, "default");
			residency_add(&found->mapping.residency, 0,
			              page_size ? found->rss / page_size : 0);
			found->counts_read = true;
		}
		return maps ? 0 : -1;
	}
	if (!file)
		return error_set(err, EXIT_FAILED, "cannot open /proc/%s/numa_maps: %s",
		                 search->pid, strerror(errno));
	while (next < search->count && numa_maps_next(file, &line)) {
		while (next < search->count && search->list[next].mapping.start < line.start)
			next++;
		if (next < search->count && search->list[next].mapping.start == line.start) {
			struct mapping *mapping = &search->list[next].mapping;
			uint64_t page_size = mapping->residency.page_size;
			memcpy(mapping->policy, line.policy, sizeof(mapping->policy));
			mapping->residency = line.residency;
			if (!mapping->residency.page_size)
				mapping->residency.page_size = page_size;
			search->list[next].counts_read = true;
			next++;
			continue;
		}
		free(line.residency.pages);
	}
	return 0;
}

int mapping_thp(const char *pid, const char *address, uint64_t length, uint64_t *bytes,
                struct error *err)
{
	struct found found = { .mapping = { .start = (uintptr_t)address, .size = length } };
	struct search one = { .pid = pid, .list = &found, .count = 1 };

	if (read_smaps(&one, err) < 0)
		return -1;
	*bytes = found.mapping.thp;
	return 0;
}

static void forget(struct search *search)
{
	for (size_t i = 0; i < search->count; i++)
		free(search->list[i].mapping.residency.pages);
	free(search->list);
	search->list = NULL;
	search->count = 0;
}

/* Neighbours in memory and in the file, of the same policy and flags. */
static bool continues(const struct found *a, const struct found *b)
{
	const struct mapping *left = &a->mapping, *right = &b->mapping;

	return left->start + left->size == right->start && a->offset + left->size == b->offset &&
	       strcmp(left->policy, right->policy) == 0 && left->locked == right->locked &&
	       left->mergeable == right->mergeable && left->in_core_dumps == right->in_core_dumps &&
	       left->hugetlb == right->hugetlb &&
	       left->residency.page_size == right->residency.page_size;
}

/* Moves what was found into the caller's list. */
static void deliver(struct search *search, struct mapping **list, size_t *count)
{
	*list = NULL;
	*count = 0;
	for (size_t i = 0; i < search->count; i++) {
		struct mapping *from = &search->list[i].mapping;
		if (i == 0 || search->fd < 0 ||
		    !continues(&search->list[i - 1], &search->list[i])) {
			*array_append(list, count) = *from;
			continue;
		}
		struct mapping *to = &(*list)[*count - 1];
		to->size += from->size;
		to->thp += from->thp;
		for (size_t node = 0; node < from->residency.n_nodes; node++)
			residency_add(&to->residency, node, from->residency.pages[node]);
		free(from->residency.pages);
	}
	free(search->list);
}

/* Reads the three files of /proc; 1 when they did not agree: the process was mapping meanwhile. */
static int read_once(struct search *search, struct error *err)
{
	if (read_maps(search, err) < 0)
		return -1;
	if (!search->count)
		return 0;
	if (read_smaps(search, err) < 0 || read_numa_maps(search, err) < 0)
		return -1;
	for (size_t i = 0; i < search->count; i++) {
		if (!search->list[i].flags_read || !search->list[i].counts_read)
			return 1;
	}
	return 0;
}

int mappings_of_process(pid_t pid, int fd, uint64_t size, struct mapping **list, size_t *count,
                        struct error *err)
{
	cleanup_free char *id = xasprintf("%d", (int)pid);
	struct search search = { .pid = id, .fd = fd, .size = size };
	struct stat file;

	if (fd >= 0) {
		if (fstat(fd, &file) < 0)
			return error_set(err, EXIT_FAILED,
			                 "cannot read the state of guest memory: %s",
			                 strerror(errno));
		search.device = file.st_dev;
		search.inode = file.st_ino;
	}
	for (int attempt = 0; attempt < 5; attempt++) {
		int status = read_once(&search, err);
		if (status == 0) {
			deliver(&search, list, count);
			return 0;
		}
		forget(&search);
		if (status < 0)
			return -1;
	}
	return error_set(err, EXIT_FAILED, "the memory of process %s changes while it is read", id);
}

void mappings_free(struct mapping *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(list[i].residency.pages);
	free(list);
}
