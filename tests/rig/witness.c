/* A witness for the rig's tests: says where the threads and pages of a process are, and what is in
 * a guest's memory, by the kernel's own interfaces and none of ancla's code.
 *
 * Guest memory is read through a mapping of our own of the same file, opened by
 * /proc/PID/map_files; anonymous memory through move_pages(2) on the process. See move_pages(2),
 * proc(5). Everything is printed a line each, for programs. */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NODES = 64, MOVE_ALL = 1 << 2, BATCH = 4096, TAIL = 1 << 20, PEEK = 64, PATIENCE = 1000 };

/* What is waited for is looked at ten times a second, for so many seconds, while the process lives:
 * here, and not by starting this program again and again. */
struct wait {
	time_t until;
	pid_t pid;
};

static struct wait wait_for(pid_t pid, long seconds)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (struct wait){ now.tv_sec + seconds, pid };
}

static bool wait_more(const struct wait *wait)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec >= wait->until || kill(wait->pid, 0) < 0)
		return false;
	usleep(100000);
	return true;
}

struct vma {
	uintptr_t start, end;
	uint64_t offset;
	bool shared, readable;
	char name[256];
};

/* The next line of /proc/PID/maps. */
static bool next_vma(FILE *maps, struct vma *vma)
{
	char *line = NULL, perms[8];
	size_t size = 0;
	int named = 0;

	if (getline(&line, &size, maps) < 0) {
		free(line);
		return false;
	}
	line[strcspn(line, "\n")] = '\0';
	if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %7s %" SCNx64 " %*s %*s %n", &vma->start,
	           &vma->end, perms, &vma->offset, &named) < 4)
		errx(1, "maps: %s", line);
	vma->shared = perms[3] == 's';
	vma->readable = perms[0] == 'r';
	snprintf(vma->name, sizeof(vma->name), "%s", named ? line + named : "");
	free(line);
	return true;
}

static FILE *open_maps(pid_t pid)
{
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	file = fopen(path, "re");
	if (!file)
		err(1, "%s", path);
	return file;
}

/* A file that a process maps, mapped here as well. */
struct file {
	int fd;
	char *at;
	uint64_t size, page_size, present; /* bytes */
};

static struct file map_file(pid_t pid, const struct vma *vma, int protection)
{
	struct file file = { .size = vma->end - vma->start };
	struct stat st;
	char path[128];

	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIxPTR "-%" PRIxPTR, pid, vma->start,
	         vma->end);
	file.fd = open(path, (protection & PROT_WRITE ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (file.fd < 0 || fstat(file.fd, &st) < 0)
		err(1, "%s", path);
	file.page_size = (uint64_t)st.st_blksize;
	file.present = (uint64_t)st.st_blocks * 512;
	file.at = mmap(NULL, file.size, protection, MAP_SHARED, file.fd, (off_t)vma->offset);
	if (file.at == MAP_FAILED)
		err(1, "mmap of %s", path);
	return file;
}

static void unmap_file(struct file *file)
{
	munmap(file->at, file->size);
	close(file->fd);
}

/* The next stretch of the file that has pages, from *start on. Reading elsewhere would make some.
 * hugetlbfs cannot say; it is taken for full, if it has as many pages as fit. */
static bool next_data(const struct file *file, uint64_t *start, uint64_t *end)
{
	off_t data, hole;

	if (*start >= file->size)
		return false;
	if (file->present >= file->size || file->page_size > 65536) {
		if (file->present < file->size)
			return false;
		*end = file->size;
		return true;
	}
	data = lseek(file->fd, (off_t)*start, SEEK_DATA);
	if (data < 0 || (uint64_t)data >= file->size)
		return false;
	hole = lseek(file->fd, data, SEEK_HOLE);
	*start = (uint64_t)data;
	*end = hole < 0 || (uint64_t)hole > file->size ? file->size : (uint64_t)hole;
	return true;
}

static void touch(const struct file *file)
{
	for (uint64_t start = 0, end; next_data(file, &start, &end); start = end)
		for (uint64_t at = start; at < end; at += file->page_size)
			(void)*(volatile char *)(file->at + at);
}

/* Counts by node, and those that are not there. */
struct count {
	uint64_t nodes[NODES], absent;
};

/* Whether there is an entry for a page that is nowhere: then the kernel just moves it (or it is in
 * swap, which these hosts do not have). See Documentation/admin-guide/mm/pagemap.rst. */
static bool is_moving(int pagemap, const void *page)
{
	uint64_t entry = 0;
	ssize_t got =
	    pread(pagemap, &entry, sizeof(entry), (off_t)((uintptr_t)page / 4096 * sizeof(entry)));

	return got == sizeof(entry) && entry >> 62;
}

static int open_pagemap(pid_t pid)
{
	char path[64] = "/proc/self/pagemap";
	int fd;

	if (pid)
		snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

/* The node of a page, or an errno below zero. One that the kernel just moves is nowhere, and so is
 * the piece of page table that it is alone in, a transparent huge one (EFAULT). */
static int node_of(pid_t pid, int pagemap, void *page)
{
	int status;

	for (int tries = 0; tries < PATIENCE; tries++) {
		if (syscall(SYS_move_pages, pid, 1UL, &page, NULL, &status, 0) < 0)
			err(1, "move_pages");
		if ((status != -ENOENT && status != -EFAULT) || !is_moving(pagemap, page))
			break;
		usleep(10000);
	}
	return status;
}

static void count_pages(pid_t pid, char *at, uint64_t size, uint64_t page_size, struct count *count)
{
	static void *pages[BATCH];
	static int status[BATCH];
	int pagemap = open_pagemap(pid);

	memset(count, 0, sizeof(*count));
	for (uint64_t done = 0; done < size;) {
		unsigned long n = 0;
		for (; n < BATCH && done < size; done += page_size)
			pages[n++] = at + done;
		if (syscall(SYS_move_pages, pid, n, pages, NULL, status, 0) < 0)
			err(1, "move_pages");
		for (unsigned long i = 0; i < n; i++) {
			if (status[i] < 0)
				status[i] = node_of(pid, pagemap, pages[i]);
			if (status[i] >= 0 && status[i] < NODES)
				count->nodes[status[i]]++;
			else
				count->absent++;
		}
	}
	close(pagemap);
}

static void print_count(const char *name, uint64_t size, uint64_t page_size,
                        const struct count *count)
{
	printf("%s size=%" PRIu64 " page=%" PRIu64 " absent=%" PRIu64, name, size, page_size,
	       count->absent);
	for (int i = 0; i < NODES; i++)
		if (count->nodes[i])
			printf(" N%d=%" PRIu64, i, count->nodes[i]);
	putchar('\n');
}

/* What ancla's or a test's name for the memory is within the mapping's: "/memfd:NAME (deleted)". */
static bool is_guest_memory(const struct vma *vma)
{
	return vma->shared && (strstr(vma->name, "memfd:ancla-") || strstr(vma->name, "/ancla-") ||
	                       strncmp(vma->name, "/dev/hugepages/", 15) == 0);
}

static void memory(pid_t pid)
{
	FILE *maps = open_maps(pid);
	struct count count;
	struct vma vma;

	while (next_vma(maps, &vma)) {
		if (!is_guest_memory(&vma))
			continue;
		struct file file = map_file(pid, &vma, PROT_READ);
		touch(&file);
		count_pages(0, file.at, file.size, file.page_size, &count);
		vma.name[strcspn(vma.name, " ")] = '\0';
		print_count(vma.name, file.size, file.page_size, &count);
		unmap_file(&file);
	}
	fclose(maps);
}

/* The process's private anonymous mappings of that many bytes. */
static void anonymous(pid_t pid, uint64_t size)
{
	FILE *maps = open_maps(pid);
	struct count count;
	struct vma vma;

	while (next_vma(maps, &vma)) {
		if (vma.shared || !vma.readable || vma.name[0] || vma.end - vma.start != size)
			continue;
		count_pages(pid, (char *)vma.start, size, 4096, &count);
		print_count("anonymous", size, 4096, &count);
	}
	fclose(maps);
}

/* The mapping whose name has `name` in it. */
static struct file find_file(pid_t pid, const char *name, int protection)
{
	FILE *maps = open_maps(pid);
	struct vma vma;

	while (next_vma(maps, &vma))
		if (vma.shared && strstr(vma.name, name)) {
			fclose(maps);
			return map_file(pid, &vma, protection);
		}
	errx(1, "%d maps no %s", pid, name);
}

static int move(pid_t pid, const char *name, unsigned long count, int node)
{
	struct file file = find_file(pid, name, PROT_READ | PROT_WRITE);
	unsigned long moved = 0;

	touch(&file);
	for (unsigned long i = 0; i < count; i++) {
		void *page = file.at + i * file.page_size;
		int status = -EBUSY;
		/* A page that is in use right now, by the guest or the kernel, is busy: again. */
		for (int tries = 0; status != node && tries < PATIENCE; tries++) {
			if (tries)
				usleep(10000);
			if (syscall(SYS_move_pages, 0, 1UL, &page, &node, &status, MOVE_ALL) < 0)
				err(1, "move_pages");
		}
		moved += status == node;
	}
	printf("moved %lu\n", moved);
	unmap_file(&file);
	return moved == count ? 0 : 1;
}

/* Where private memory is, "anonymous:BYTES" of it, and the file to read it by, as a debugger
 * would. */
static int find_anonymous(pid_t pid, uint64_t size, uint64_t *start)
{
	FILE *maps = open_maps(pid);
	struct vma vma;
	char path[64];

	while (next_vma(maps, &vma))
		if (!vma.shared && vma.readable && !vma.name[0] && vma.end - vma.start == size) {
			fclose(maps);
			*start = vma.start;
			snprintf(path, sizeof(path), "/proc/%d/mem", pid);
			return open(path, O_RDONLY | O_CLOEXEC);
		}
	errx(1, "%d has no mapping of %" PRIu64 " bytes", pid, size);
}

/* Words of guest memory; with a value, once the first one is that. */
static void peek(pid_t pid, const char *name, uint64_t offset, size_t count, const char *value,
                 long seconds)
{
	const bool private = strncmp(name, "anonymous:", 10) == 0;
	const struct wait wait = wait_for(pid, seconds);
	uint32_t words[PEEK] = { 0 };
	struct file file = { .fd = -1 };
	uint64_t start = 0;

	if (count > PEEK)
		errx(2, "%zu words, %d are the most", count, PEEK);
	if (private)
		file.fd = find_anonymous(pid, strtoull(name + 10, NULL, 0), &start);
	else
		file = find_file(pid, name, PROT_READ);
	do {
		if (!private)
			memcpy(words, file.at + offset, count * sizeof(*words));
		else if (pread(file.fd, words, count * sizeof(*words), (off_t)(start + offset)) < 0)
			err(1, "the memory of %d", pid);
	} while (value && words[0] != strtoul(value, NULL, 0) && wait_more(&wait));
	for (size_t i = 0; i < count; i++)
		printf("%" PRIu32 "\n", words[i]);
}

/* An ACPI table in hex, by its signature, its length and its checksum. Where nobody has made that
 * up (bios.S) it is 0, and QEMU's name tells the table. */
static bool print_table(const char *at, const char *stop, const char *signature, bool print)
{
	for (; (at = memmem(at, (size_t)(stop - at), signature, 4)); at++) {
		uint32_t length;
		uint8_t sum = 0;
		if (stop - at < 36)
			return false;
		memcpy(&length, at + 4, sizeof(length));
		if (length < 36 || length > 65536 || length > stop - at)
			continue;
		for (uint32_t i = 0; i < length; i++)
			sum = (uint8_t)(sum + (uint8_t)at[i]);
		if (sum && (at[9] || memcmp(at + 10, "BOCHS ", 6) != 0))
			continue;
		for (uint32_t i = 0; print && i < length; i++)
			printf("%02x", (uint8_t)at[i]);
		if (print)
			putchar('\n');
		return true;
	}
	return false;
}

/* The firmware puts the tables at the end of the memory below 4 GiB: in the last MiB of one of the
 * files, if the guest has no more than that. */
static bool find_table(pid_t pid, const char *signature, bool print)
{
	FILE *maps = open_maps(pid);
	bool found = false;
	struct vma vma;

	while (!found && next_vma(maps, &vma)) {
		if (!is_guest_memory(&vma))
			continue;
		struct file file = map_file(pid, &vma, PROT_READ);
		uint64_t tail = file.size < TAIL ? 0 : file.size - TAIL;
		for (uint64_t start = 0, end; !found && next_data(&file, &start, &end); start = end)
			if (end > tail)
				found = print_table(file.at + (start > tail ? start : tail),
				                    file.at + end, signature, print);
		unmap_file(&file);
	}
	fclose(maps);
	return found;
}

/* When the firmware has written all of them: the root that has their addresses is the last. */
static int table(pid_t pid, const char *signature, long seconds)
{
	const struct wait wait = wait_for(pid, seconds);

	while (!find_table(pid, "RSDT", false) && wait_more(&wait))
		;
	return find_table(pid, signature, true) ? 0 : 1;
}

static void print_cpus(const cpu_set_t *cpus)
{
	const char *separator = "";

	for (int i = 0; i < CPU_SETSIZE; i++) {
		int first = i;
		if (!CPU_ISSET(i, cpus))
			continue;
		while (i + 1 < CPU_SETSIZE && CPU_ISSET(i + 1, cpus))
			i++;
		printf(first == i ? "%s%d" : "%s%d-%d", separator, first, i);
		separator = ",";
	}
}

static void thread(pid_t pid, pid_t tid)
{
	static const char *const policies[] = { "other", "fifo", "rr", "batch", "iso", "idle" };
	struct sched_param param;
	char path[64], name[64] = "";
	cpu_set_t cpus;
	int policy;
	FILE *file;

	policy = sched_getscheduler(tid);
	if (policy < 0 || sched_getparam(tid, &param) ||
	    sched_getaffinity(tid, sizeof(cpus), &cpus))
		return; /* it has ended */
	snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", pid, tid);
	file = fopen(path, "re");
	if (!file || !fgets(name, sizeof(name), file))
		return;
	fclose(file);
	name[strcspn(name, "\n")] = '\0';
	printf("%d ", tid);
	print_cpus(&cpus);
	printf(" %s:%d %s\n", policies[policy & 7], param.sched_priority, name);
}

static void tasks(pid_t pid)
{
	char path[64];
	struct dirent *entry;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		err(1, "%s", path);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			thread(pid, atoi(entry->d_name));
	closedir(dir);
}

/* Whether a process is one of the kernel's own threads that work for this one: vhost-PID,
 * kvm-pit/PID. */
static bool works_for(const char *process, pid_t pid)
{
	char path[300], name[64] = "";
	const char *number;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%s/comm", process);
	file = fopen(path, "re");
	if (!file)
		return false;
	if (!fgets(name, sizeof(name), file))
		name[0] = '\0';
	fclose(file);
	number = strncmp(name, "vhost-", 6) == 0     ? name + 6
	         : strncmp(name, "kvm-pit/", 8) == 0 ? name + 8
	                                             : "";
	return atoi(number) == pid;
}

static void threads(pid_t pid)
{
	struct dirent *entry;
	DIR *dir = opendir("/proc");

	if (!dir)
		err(1, "/proc");
	tasks(pid);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' &&
		    works_for(entry->d_name, pid))
			tasks(atoi(entry->d_name));
	closedir(dir);
}

/* The clock and the TSC at one moment: of many readings, that during which least time went by. */
struct moment {
	uint64_t ns, ticks;
};

static uint64_t clock_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static struct moment look(void)
{
	struct moment best = { 0 };
	uint64_t least = UINT64_MAX;

	for (int i = 0; i < 100; i++) {
		uint64_t before = clock_ns();
		uint64_t ticks = __builtin_ia32_rdtsc();
		uint64_t took = clock_ns() - before;
		if (took < least) {
			least = took;
			best = (struct moment){ before + took / 2, ticks };
		}
	}
	return best;
}

static void tsc(void)
{
	struct moment first = look();
	nanosleep(&(struct timespec){ .tv_nsec = 100000000 }, NULL);
	struct moment last = look();

	printf("%.0f\n", (double)(last.ticks - first.ticks) * 1e6 / (double)(last.ns - first.ns));
}

int main(int argc, char **argv)
{
	const char *what = argc > 2 ? argv[1] : "";
	pid_t pid = argc > 2 ? atoi(argv[2]) : 0;

	if (argc == 2 && strcmp(argv[1], "tsc") == 0) {
		tsc();
	} else if (strcmp(what, "threads") == 0) {
		threads(pid);
	} else if (strcmp(what, "memory") == 0) {
		memory(pid);
	} else if (strcmp(what, "anonymous") == 0 && argc == 4) {
		anonymous(pid, strtoull(argv[3], NULL, 0));
	} else if (strcmp(what, "move") == 0 && argc == 6) {
		return move(pid, argv[3], strtoul(argv[4], NULL, 0), atoi(argv[5]));
	} else if (strcmp(what, "peek") == 0 && (argc == 6 || argc == 8)) {
		peek(pid, argv[3], strtoull(argv[4], NULL, 0), strtoul(argv[5], NULL, 0), argv[6],
		     argc == 8 ? atol(argv[7]) : 0);
	} else if (strcmp(what, "table") == 0 && (argc == 4 || argc == 5) && strlen(argv[3]) == 4) {
		return table(pid, argv[3], argc == 5 ? atol(argv[4]) : 0);
	} else {
		fputs(
		    "usage: witness threads PID          TID CPUS POLICY:PRIORITY NAME; the\n"
		    "                                    kernel's own for it, too\n"
		    "       witness memory PID           guest memory: pages by node\n"
		    "       witness anonymous PID BYTES  the same of private mappings of that "
		    "size\n"
		    "       witness move PID NAME N NODE the first N pages of a file to a node\n"
		    "       witness peek PID NAME AT N   N words of 32 bits\n"
		    "          [VALUE SECONDS]           when the first is VALUE, after SECONDS at "
		    "most\n"
		    "       witness table PID SIGNATURE  an ACPI table, in hex\n"
		    "          [SECONDS]                 when all are there, after SECONDS at "
		    "most\n"
		    "       witness tsc                  its frequency, in kHz\n",
		    stderr);
		return 2;
	}
	return 0;
}
