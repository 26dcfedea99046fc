/* What the memory tests share: guest memory as a plan describes it, on the machine that the test
 * runs on, and huge pages borrowed from it. */
#ifndef ANCLA_TEST_MEMORY_HOST_H
#define ANCLA_TEST_MEMORY_HOST_H

#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cpulist.h"
#include "memory.h"
#include "util.h"

#define KIB (UINT64_C(1) << 10)
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define HUGE_SIZE (2 * MIB)
#define HUGE_POOL "/sys/kernel/mm/hugepages/hugepages-2048kB"
#define HUGE_PAGES HUGE_POOL "/nr_hugepages"

static inline hwloc_bitmap_t set_of(const char *list)
{
	cleanup_error struct error err = ERROR_INIT;
	hwloc_bitmap_t set = NULL;

	assert_int_equal(cpulist_parse(list, &set, &err), 0);
	return set;
}

/* Guest node 0 in a memfd, filled by the launcher; `nodes` NULL: anywhere. */
static inline struct plan_memory memory_of(enum page_kind pages, uint64_t size, const char *nodes,
                                           enum mem_policy policy)
{
	return (struct plan_memory){
		.host_nodes = nodes ? set_of(nodes) : NULL,
		.policy = policy,
		.size = size,
		.pages = pages,
		.page_size = pages == PAGES_HUGE ? HUGE_SIZE : (uint64_t)sysconf(_SC_PAGESIZE),
		.backing = BACKING_MEMFD,
		.fill = FILL_LAUNCHER,
		.shared = true,
	};
}

static inline int create(const struct plan_memory *memory)
{
	cleanup_error struct error err = ERROR_INIT;
	int fd = memory_create(memory, NULL, "ancla-test-node0", &err);

	if (fd < 0)
		fail_msg("%s", err.message);
	return fd;
}

static inline uint64_t bytes_held(int fd)
{
	struct stat file;

	assert_int_equal(fstat(fd, &file), 0);
	return (uint64_t)file.st_blocks * 512;
}

/* Huge pages added to the machine's for one test; the lock keeps other tests from counting them. */
struct borrowed {
	int lock;
	int64_t pages;
};

static inline void write_number(const char *path, int64_t number)
{
	cleanup_free char *text = xasprintf("%lld", (long long)number);
	cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, text, strlen(text)) < 0)
		print_message("# cannot write %s\n", path);
}

static inline void write_huge_pages(int64_t count)
{
	write_number(HUGE_PAGES, count);
}

/* Those that can be written there: surplus ones, which it counts, too, go with their user. */
static inline int64_t lasting_huge_pages(void)
{
	return read_number(HUGE_PAGES) - read_number(HUGE_POOL "/surplus_hugepages");
}

static inline int give_huge_pages_back(void **state)
{
	struct borrowed *borrowed = *state;

	if (!borrowed)
		return 0;
	if (borrowed->pages)
		write_huge_pages(lasting_huge_pages() - borrowed->pages);
	close(borrowed->lock);
	free(borrowed);
	*state = NULL;
	return 0;
}

/* A setup: 8 huge pages of 2 MiB that nobody uses. */
static inline int borrow_huge_pages(void **state)
{
	struct borrowed *borrowed = xcalloc(1, sizeof(*borrowed));
	int64_t before;

	*state = borrowed;
	borrowed->lock = open("/tmp/ancla-hugepages.lock", O_RDWR | O_CREAT | O_CLOEXEC, 0666);
	if (borrowed->lock < 0 || flock(borrowed->lock, LOCK_EX) < 0) {
		print_message("# cannot lock /tmp/ancla-hugepages.lock\n");
		return -1;
	}
	before = lasting_huge_pages();
	write_huge_pages(before + 8);
	borrowed->pages = lasting_huge_pages() - before;
	return 0;
}

static inline bool have_huge_pages(void **state)
{
	const struct borrowed *borrowed = *state;

	if (borrowed->pages >= 8)
		return true;
	print_message("# SKIP: 8 huge pages of 2 MiB cannot be reserved here\n");
	return false;
}

#define REQUIRE_HUGE_PAGES(state)                                                                  \
	do {                                                                                       \
		if (!have_huge_pages(state))                                                       \
			skip();                                                                    \
	} while (0)

#endif
