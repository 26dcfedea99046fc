#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <linux/magic.h>
#include <linux/userfaultfd.h>

#include "memory_parts.h"
#include "util.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1 /* Linux 5.11 */
#endif

/* So many pages are mapped at a time, to bound our page tables to 8 MiB. */
#define PAGES_AT_ONCE (UINT64_C(1) << 20)

/* No Linux has nodes above this; what says otherwise is not from the kernel. */
#define NODE_MOST 1023

void residency_add(struct residency *residency, size_t node, uint64_t pages)
{
	if (node > NODE_MOST)
		return;
	while (residency->n_nodes <= node)
		*array_append(&residency->pages, &residency->n_nodes) = 0;
	residency->pages[node] += pages;
	residency->resident += pages;
}

FILE *numa_maps_open(const char *pid)
{
	cleanup_free char *path = xasprintf("/proc/%s/numa_maps", pid);

	return fopen(path, "re");
}

/* "7f5c00000000 bind:0 file=/memfd:x\040(deleted) huge dirty=8 N0=8 kernelpagesize_kB=2048". The
 * only space within a word is that of "prefer (many):0-1"; names of files are escaped. */
static void parse_numa_line(char *text, struct numa_line *line)
{
	char *word, *end, *rest;

	line->start = strtoul(text, &end, 16);
	if (*end == ' ')
		end++;
	size_t length = strcspn(end, " \n");
	if (strncmp(end + length, " (", 2) == 0)
		length += 1 + strcspn(end + length + 1, " \n");
	snprintf(line->policy, sizeof(line->policy), "%.*s", (int)length, end);
	rest = end + length;
	while ((word = strsep(&rest, " \n"))) {
		unsigned long node;
		unsigned long long number;
		if (sscanf(word, "N%lu=%llu", &node, &number) == 2)
			residency_add(&line->residency, node, number);
		else if (sscanf(word, "kernelpagesize_kB=%llu", &number) == 1)
			line->residency.page_size = number * 1024;
	}
}

bool numa_maps_next(FILE *file, struct numa_line *line)
{
	cleanup_free char *text = NULL;
	size_t room = 0;

	memset(line, 0, sizeof(*line));
	if (getline(&text, &room, file) < 0)
		return false;
	parse_numa_line(text, line);
	return true;
}

/* Takes over what the line counted. */
static void take_counts(struct residency *residency, struct numa_line *line)
{
	for (size_t node = 0; node < line->residency.n_nodes; node++)
		residency_add(residency, node, line->residency.pages[node]);
	if (line->residency.page_size)
		residency->page_size = line->residency.page_size;
}

static void find_missing(pid_t pid, const struct counted *counted, struct residency *residency)
{
	if (!residency->page_size)
		residency->page_size = counted->residency->page_size;
	residency_find(pid, (uintptr_t)counted->address, counted->length, counted->mapped,
	               residency);
}

static int count_thp(const char *pid, struct counted *list, size_t count, struct error *err)
{
	for (size_t i = 0; i < count; i++) {
		uint64_t bytes = 0;
		if (list[i].thp &&
		    mapping_thp(pid, list[i].address, list[i].length, &bytes, err) < 0)
			return -1;
		list[i].residency->thp += bytes;
	}
	return 0;
}

int residency_count(pid_t pid, struct counted *list, size_t count, struct error *err)
{
	cleanup_free char *process = pid ? xasprintf("%d", pid) : xstrdup("self");
	cleanup_file FILE *file = numa_maps_open(process);
	struct numa_line line;
	size_t found = 0;

	if (!file && errno == ENOENT) {
		/* A kernel without NUMA: there is one node. */
		for (size_t i = 0; i < count; i++)
			residency_add(list[i].residency, 0, list[i].mapped);
		return count_thp(process, list, count, err);
	}
	if (!file)
		return error_set(err, EXIT_FAILED, "cannot open /proc/%s/numa_maps: %s", process,
		                 strerror(errno));
	while (found < count && numa_maps_next(file, &line)) {
		for (size_t i = 0; i < count; i++) {
			if ((uintptr_t)list[i].address == line.start) {
				find_missing(pid, &list[i], &line.residency);
				take_counts(list[i].residency, &line);
				found++;
			}
		}
		free(line.residency.pages);
	}
	if (found < count)
		return error_set(err, EXIT_FAILED,
		                 "/proc/%s/numa_maps does not show %zu of %zu mappings of guest "
		                 "memory",
		                 process, count - found, count);
	return count_thp(process, list, count, err);
}

/* A file whose pages are read, and the part of it that is mapped now. */
struct view {
	int fd;
	bool hugetlb, full, thp;
	uint64_t page_size;
	uint64_t offset, length;
	char *address;
	uint64_t mapped; /* pages that the file holds there */
	uint64_t broken; /* pages that it holds, and nobody can read: so far */
	int holes;       /* userfaultfd, -1 where it is not needed */
};

/* Maps pages that the file holds; those that are broken are found by halves. 0 or an errno. */
static int map_pages(struct view *view, char *address, uint64_t length)
{
	int reason = memory_advise(address, length, MADV_POPULATE_READ);
	uint64_t pages = length / view->page_size, half = pages / 2 * view->page_size;

	if (reason == EHWPOISON && pages > 1) {
		reason = map_pages(view, address, half);
		return reason ? reason : map_pages(view, address + half, length - half);
	}
	if (reason == EHWPOISON)
		view->broken += pages;
	else if (!reason)
		view->mapped += pages;
	return reason == EHWPOISON ? 0 : reason;
}

/* Maps the data extents of a shmem file; 0 or an errno. */
static int map_extents(struct view *view)
{
	uint64_t end = view->offset + view->length;
	off_t data = (off_t)view->offset;

	for (;;) {
		data = lseek(view->fd, data, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? 0 : errno; /* ENXIO: no more data */
		if ((uint64_t)data >= end)
			return 0;
		off_t hole = lseek(view->fd, data, SEEK_HOLE);
		if (hole < 0)
			return errno;
		uint64_t length = ((uint64_t)hole < end ? (uint64_t)hole : end) - (uint64_t)data;
		int reason =
		    map_pages(view, view->address + ((uint64_t)data - view->offset), length);
		if (reason)
			return reason;
		data += (off_t)length;
	}
}

/* hugetlbfs has no extents to ask for. But with userfaultfd(2) on the mapping a page that is not
 * there is not allocated: madvise says EFAULT, as a fault within the kernel is nothing that
 * UFFD_USER_MODE_ONLY would report to a handler (that mode needs no privilege, either). */
static int map_present(struct view *view)
{
	struct uffdio_register range = {
		.range = { .start = (uintptr_t)view->address, .len = view->length },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};

	if (ioctl(view->holes, UFFDIO_REGISTER, &range) < 0)
		return errno;
	for (uint64_t at = 0; at < view->length; at += view->page_size) {
		int reason = map_pages(view, view->address + at, view->page_size);
		if (reason && reason != EFAULT)
			return reason;
	}
	return 0;
}

/* One part of the file: mapped, counted, unmapped. */
static int read_part(struct view *view, struct residency *result, struct error *err)
{
	view->mapped = 0;
	view->address =
	    memory_mmap(view->fd, view->offset, view->length, PROT_READ, MAP_NORESERVE, view->thp);
	if (view->address == MAP_FAILED)
		return error_set(err, EXIT_FAILED,
		                 "cannot map guest memory to read where it is: %s",
		                 strerror(errno));
	/* One that the kernel just moves would look like a hole of the file. */
	int reason = view->full      ? map_pages(view, view->address, view->length)
	             : view->hugetlb ? map_present(view)
	                             : map_extents(view);
	int status = 0;
	if (reason)
		status =
		    error_set(err, EXIT_FAILED,
		              "cannot read where the pages of guest memory are, at %llu MiB: "
		              "%s%s",
		              (unsigned long long)(view->offset >> 20), strerror(reason),
		              reason == EINVAL ? " (MADV_POPULATE_READ is of Linux 5.14)" : "");
	else
		status = residency_count(0,
		                         &(struct counted){ view->address, view->length,
		                                            view->mapped, view->thp, result },
		                         1, err);
	munmap(view->address, view->length);
	return status;
}

static int open_userfaultfd(void)
{
	struct uffdio_api api = { .api = UFFD_API };
	cleanup_close int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

	if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
		return -1;
	return take_fd(&fd);
}

int residency_of_file(int fd, uint64_t size, bool thp, struct residency *result, struct error *err)
{
	cleanup_close int holes = -1;
	struct statfs fs;
	struct stat file;

	if (fstatfs(fd, &fs) < 0 || fstat(fd, &file) < 0)
		return error_set(err, EXIT_FAILED, "cannot read the state of guest memory: %s",
		                 strerror(errno));
	if (file.st_size < 0 || (uint64_t)file.st_size < size)
		return error_set(err, EXIT_FAILED,
		                 "guest memory is a file of %lld bytes, not of %llu",
		                 (long long)file.st_size, (unsigned long long)size);
	struct view view = { .fd = fd, .hugetlb = fs.f_type == HUGETLBFS_MAGIC, .thp = thp };
	view.page_size = (uint64_t)(view.hugetlb ? fs.f_bsize : sysconf(_SC_PAGESIZE));
	view.full = file.st_blocks * 512 >= file.st_size;
	if (view.hugetlb && !view.full) {
		/* Registering a range asks for the right to write the file. */
		bool writable = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR;
		holes = writable ? open_userfaultfd() : -1;
		if (holes < 0)
			return 1;
	}
	view.holes = holes;
	struct residency read = { .page_size = view.page_size };
	uint64_t step = PAGES_AT_ONCE * view.page_size;
	for (; view.offset < size; view.offset += step) {
		view.length = size - view.offset < step ? size - view.offset : step;
		if (read_part(&view, &read, err) < 0) {
			free(read.pages);
			return -1;
		}
	}
	read.broken = view.broken;
	*result = read;
	return 0;
}
