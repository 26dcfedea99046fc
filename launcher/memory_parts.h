/* What memory.c, fill.c, fill_work.c, residency.c and mappings.c share; nobody else includes it. */
#ifndef ANCLA_MEMORY_PARTS_H
#define ANCLA_MEMORY_PARTS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "memory.h"

/* mmap(2) of a file, shared; with `thp` at an address where each transparent huge page that the
 * file has can be mapped as one. `offset` is a multiple of their size then. */
void *memory_mmap(int fd, uint64_t offset, uint64_t length, int protection, int flags, bool thp);

/* Maps the whole region, shared and writable; for huge pages this reserves them. NULL and an error
 * (EXIT_GRANT) otherwise. */
char *memory_map(int fd, const struct plan_memory *memory, struct error *err);

/* mbind(2) of the region's policy on a mapping of it that nobody has touched. */
int memory_bind(char *address, const struct plan_memory *memory, struct error *err);

/* "guest node 0 on host node 1", for messages. The caller frees. */
char *memory_where(const struct plan_memory *memory);

/* The error of a region that got only `had` bytes: who is short of what, and what to do. `reason`
 * is the errno that told. Returns -1. */
int memory_shortage(const struct plan_memory *memory, uint64_t had, int reason, struct error *err);

/* Pages (huge) or bytes (plain) that are free on the region's nodes now; -1 where the kernel does
 * not say. */
int64_t memory_free(const struct plan_memory *memory);

/* The directory that counts the huge pages of a node; of the machine with -1 and where the kernel
 * is without NUMA. The caller frees. */
char *memory_huge_directory(int node, uint64_t page_size);

/* madvise(2), again while it says EINTR or EAGAIN; 0 or the errno. */
int memory_advise(char *address, uint64_t length, int advice);

/* A mapping, of our own or of the filler, whose pages are all mapped. */
struct counted {
	char *address;
	uint64_t length;             /* bytes */
	uint64_t mapped;             /* pages; what to believe on a kernel without NUMA */
	bool thp;                    /* those in transparent huge pages are counted, too */
	struct residency *residency; /* added to */
};

/* Counts the pages of the process's mappings (`pid` 0: of our own) by node, in one pass over its
 * numa_maps. */
int residency_count(pid_t pid, struct counted *list, size_t count, struct error *err);

/* One line of numa_maps (Documentation/filesystems/proc.rst; numa(7)). */
struct numa_line {
	uintptr_t start;
	char policy[64];
	struct residency residency; /* .page_size is 0 where the kernel does not say */
};

/* Opens numa_maps of a process ("self", "123"). NULL where it cannot be: errno ENOENT where the
 * kernel is without NUMA or the process has ended. */
FILE *numa_maps_open(const char *pid);

/* The next line; false at the end. The caller frees .residency.pages. */
bool numa_maps_next(FILE *file, struct numa_line *line);

/* Bytes of a mapping of the process (as numa_maps_open() has it) that are in transparent huge pages
 * of its file, by the page tables. */
int mapping_thp(const char *pid, const char *address, uint64_t length, uint64_t *bytes,
                struct error *err);

void residency_add(struct residency *residency, size_t node, uint64_t pages);

#endif
