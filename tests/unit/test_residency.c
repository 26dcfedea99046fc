/* Where pages are, read back: through a mapping of our own, and from the page tables of another
 * process. */
#include "memory_host.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <numaif.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* since Linux 6.1, include/uapi/asm-generic/mman-common.h */
#endif

static void touch(char *address, uint64_t size, uint64_t step)
{
	for (uint64_t at = 0; at < size; at += step)
		*(volatile char *)(address + at) = 1;
}

static char *map(int fd, uint64_t size)
{
	char *address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_true(address != MAP_FAILED);
	return address;
}

/* Asks, and checks that asking allocated nothing. */
static int residency(int fd, uint64_t size, struct residency *result)
{
	cleanup_error struct error err = ERROR_INIT;
	uint64_t before = bytes_held(fd);
	int status = residency_of_file(fd, size, false, result, &err);

	if (status < 0)
		fail_msg("%s", err.message);
	assert_int_equal(bytes_held(fd), before);
	return status;
}

static void plain_pages_are_counted_where_there_are_some(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 64 * MIB, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	struct residency result;

	(void)state;
	assert_int_equal(residency(fd, memory.size, &result), 0);
	assert_int_equal(result.resident, 0);
	assert_int_equal(result.page_size, memory.page_size);
	free(result.pages);

	char *address = map(fd, memory.size);
	touch(address + 5 * MIB, MIB, 4 * KIB);
	touch(address + 33 * MIB, MIB, 8 * KIB);
	touch(address + memory.size - 4 * KIB, 1, 1);
	munmap(address, memory.size);
	assert_int_equal(residency(fd, memory.size, &result), 0);
	assert_int_equal(result.resident, 256 + 128 + 1);
	assert_int_equal(result.pages[0], 256 + 128 + 1);
	assert_int_equal(result.n_nodes, 1);
	free(result.pages);
}

static void a_file_larger_than_one_part_is_counted_whole(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 9 * GIB, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	struct residency result;
	char *address = map(fd, memory.size);

	(void)state;
	touch(address + 4 * GIB - 4 * KIB, 8 * KIB, 4 * KIB); /* on both sides of the seam */
	touch(address, memory.size, GIB);
	munmap(address, memory.size);
	assert_int_equal(residency(fd, memory.size, &result), 0);
	assert_int_equal(result.resident, 9 + 1);
	free(result.pages);
}

/* A plan can say any size: what is not in the file is not looked for. */
static void a_file_smaller_than_the_plan_says_is_an_error(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 2 * MIB, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	cleanup_error struct error err = ERROR_INIT;
	struct residency result;

	(void)state;
	assert_int_equal(residency_of_file(fd, UINT64_C(1) << 52, false, &result, &err), -1);
	assert_non_null(strstr(err.message, "2097152 bytes, not of 4503599627370496"));
}

static void huge_pages_are_counted_when_the_file_is_full(void **state)
{
	REQUIRE_HUGE_PAGES(state);
	struct plan_memory memory = memory_of(PAGES_HUGE, 8 * HUGE_SIZE, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	struct residency result;
	char *address = map(fd, memory.size);

	touch(address, memory.size, HUGE_SIZE);
	munmap(address, memory.size);
	assert_int_equal(residency(fd, memory.size, &result), 0);
	assert_int_equal(result.page_size, HUGE_SIZE);
	assert_int_equal(result.resident, 8);
	assert_int_equal(result.pages[0], 8);
	free(result.pages);
}

/* With userfaultfd the pages that are there can be told from those that are not; with a descriptor
 * that may not write they cannot. */
static void lazy_huge_pages_are_counted_or_said_to_be_unknown(void **state)
{
	REQUIRE_HUGE_PAGES(state);
	struct plan_memory memory = memory_of(PAGES_HUGE, 8 * HUGE_SIZE, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	cleanup_free char *path = xasprintf("/proc/self/fd/%d", fd);
	struct residency result;
	char *address = map(fd, memory.size);

	assert_int_equal(residency(fd, memory.size, &result), 0);
	assert_int_equal(result.resident, 0);
	free(result.pages);
	touch(address + 3 * HUGE_SIZE, 1, 1);
	touch(address + 5 * HUGE_SIZE, 2 * HUGE_SIZE, HUGE_SIZE);
	munmap(address, memory.size);
	assert_int_equal(residency(fd, memory.size, &result), 0);
	assert_int_equal(result.resident, 3);
	assert_int_equal(result.pages[0], 3);
	assert_int_equal(result.page_size, HUGE_SIZE);
	free(result.pages);

	cleanup_close int reader = open(path, O_RDONLY | O_CLOEXEC);
	assert_int_equal(residency(reader, memory.size, &result), 1);
}

/* A process that maps as told, says so, and waits to be killed. */
struct other {
	pid_t pid;
	uintptr_t address; /* as the child reports it */
};

static struct other other_start(uintptr_t (*prepare)(int fd), int fd)
{
	struct other other = { 0 };
	int ends[2];

	assert_int_equal(pipe(ends), 0);
	other.pid = fork();
	assert_true(other.pid >= 0);
	if (other.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		uintptr_t address = prepare(fd);
		if (write(ends[1], &address, sizeof(address)) != sizeof(address))
			_exit(1);
		for (;;)
			pause();
	}
	close(ends[1]);
	assert_int_equal(read(ends[0], &other.address, sizeof(other.address)),
	                 sizeof(other.address));
	close(ends[0]);
	return other;
}

static void other_end(struct other *other)
{
	if (other->pid > 0) {
		kill(other->pid, SIGKILL);
		waitpid(other->pid, NULL, 0);
	}
	other->pid = 0;
}

#define cleanup_other __attribute__((cleanup(other_end)))

struct mappings {
	struct mapping *list;
	size_t count;
};

static struct mappings mappings_of(const struct other *other, int fd, uint64_t size)
{
	cleanup_error struct error err = ERROR_INIT;
	struct mappings result;

	if (mappings_of_process(other->pid, fd, size, &result.list, &result.count, &err) < 0)
		fail_msg("%s", err.message);
	return result;
}

/* The same where there are so many pages. Those that the kernel just moves are in no page table:
 * then it is looked again. */
static struct mappings mappings_with(const struct other *other, int fd, uint64_t size,
                                     uint64_t pages)
{
	for (int tries = 0;; tries++) {
		struct mappings result = mappings_of(other, fd, size);
		uint64_t sum = 0;
		for (size_t i = 0; i < result.count; i++)
			sum += result.list[i].residency.resident;
		if (sum == pages || tries == 100)
			return result;
		mappings_free(result.list, result.count);
		usleep(10000);
	}
}

/* The sanitizers make mlock(3) a function that does nothing. */
static int lock_pages(char *address, uint64_t size)
{
	return (int)syscall(SYS_mlock, address, size);
}

/* In the child a failure shows as an address of 0. */
static uintptr_t bind_and_touch_some(int fd)
{
	char *address = mmap(NULL, 64 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	unsigned long node0 = 1;

	if (mbind(address, 64 * MIB, MPOL_BIND, &node0, 64, 0) < 0)
		return 0;
	touch(address + MIB, MIB, 4 * KIB);
	if (madvise(address, 64 * MIB, MADV_DONTDUMP) < 0 || lock_pages(address + MIB, 4 * KIB) < 0)
		return 0;
	/* mlock() has split the mapping; now it is whole again, for a reader of policies at least.
	 */
	syscall(SYS_munlock, address + MIB, 4 * KIB);
	return (uintptr_t)address;
}

static void a_mapped_file_shows_policy_flags_and_touched_pages(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 64 * MIB, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	cleanup_other struct other other = other_start(bind_and_touch_some, fd);

	(void)state;
	struct mappings found = mappings_with(&other, fd, 0, 256);
	assert_int_equal(found.count, 1);
	assert_int_equal(found.list[0].start, other.address);
	assert_int_equal(found.list[0].size, memory.size);
	assert_string_equal(found.list[0].policy, "bind:0");
	assert_int_equal(found.list[0].residency.resident, 256);
	assert_int_equal(found.list[0].residency.pages[0], 256);
	assert_int_equal(found.list[0].residency.page_size, 4 * KIB);
	assert_false(found.list[0].in_core_dumps);
	assert_false(found.list[0].locked);
	assert_false(found.list[0].mergeable);
	assert_false(found.list[0].hugetlb);
	mappings_free(found.list, found.count);
}

static uintptr_t map_in_pieces(int fd)
{
	char *address = mmap(NULL, 8 * MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	touch(address, 8 * MIB, 4 * KIB);
	/* Three mappings for the kernel; the first two differ in nothing that is looked at. */
	if (mprotect(address, MIB, PROT_READ) < 0 || lock_pages(address + 4 * MIB, 4 * MIB) < 0)
		return 0;
	return (uintptr_t)address;
}

static void neighbours_are_one_mapping_unless_their_flags_differ(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 8 * MIB, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	cleanup_other struct other other = other_start(map_in_pieces, fd);

	(void)state;
	struct mappings found = mappings_with(&other, fd, 0, 2048);
	assert_int_equal(found.count, 2);
	assert_int_equal(found.list[0].size, 4 * MIB);
	assert_int_equal(found.list[0].residency.pages[0], 1024);
	assert_false(found.list[0].locked);
	assert_int_equal(found.list[1].start, found.list[0].start + 4 * MIB);
	assert_int_equal(found.list[1].residency.pages[0], 1024);
	assert_true(found.list[1].locked);
	assert_true(found.list[1].in_core_dumps);
	mappings_free(found.list, found.count);
}

static uintptr_t touch_three_huge_pages(int fd)
{
	char *address = mmap(NULL, 8 * HUGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	touch(address, 3 * HUGE_SIZE, HUGE_SIZE);
	return (uintptr_t)address;
}

static void huge_pages_of_another_process_are_those_it_touched(void **state)
{
	REQUIRE_HUGE_PAGES(state);
	struct plan_memory memory = memory_of(PAGES_HUGE, 8 * HUGE_SIZE, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	char *address = map(fd, memory.size);
	touch(address, memory.size, HUGE_SIZE);
	munmap(address, memory.size);
	cleanup_other struct other other = other_start(touch_three_huge_pages, fd);

	struct mappings found = mappings_of(&other, fd, 0);
	assert_int_equal(found.count, 1);
	assert_string_equal(found.list[0].policy, "default");
	assert_true(found.list[0].hugetlb);
	assert_int_equal(found.list[0].residency.resident, 3);
	assert_int_equal(found.list[0].residency.page_size, HUGE_SIZE);
	mappings_free(found.list, found.count);
}

/* A size that nothing else in the process has, within an ordinary user's RLIMIT_MEMLOCK. */
#define ANON_SIZE (6 * MIB)

static uintptr_t map_anonymous(int fd)
{
	(void)fd;
	/* Holes on both sides, so that the kernel joins it to nothing. */
	char *room = mmap(NULL, ANON_SIZE + 8 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *address = (char *)(((uintptr_t)room + 4 * MIB) & ~(uintptr_t)(2 * MIB - 1));

	if (mprotect(address, ANON_SIZE, PROT_READ | PROT_WRITE) < 0)
		return 0;
	madvise(address, ANON_SIZE, MADV_HUGEPAGE);
	touch(address, 4 * MIB, 4 * KIB);
	/* Where free memory was in pieces too small for a huge page, plain ones were taken. */
	for (int tries = 0; tries < 100 && madvise(address, 4 * MIB, MADV_COLLAPSE) < 0; tries++) {
		if (errno == EINVAL) /* before Linux 6.1 */
			break;
		usleep(10000);
	}
	if (access("/sys/kernel/mm/ksm", F_OK) == 0 &&
	    madvise(address, ANON_SIZE, MADV_MERGEABLE) < 0)
		return 0;
	if (mlock2(address, ANON_SIZE, MLOCK_ONFAULT) < 0)
		return 0;
	return (uintptr_t)address;
}

static void anonymous_memory_is_found_by_its_size(void **state)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *thp = NULL;
	cleanup_other struct other other = other_start(map_anonymous, -1);

	(void)state;
	struct mappings found = mappings_with(&other, -1, ANON_SIZE, 1024);
	assert_int_equal(found.count, 1);
	assert_int_equal(found.list[0].start, other.address);
	assert_int_equal(found.list[0].size, ANON_SIZE);
	assert_string_equal(found.list[0].policy, "default");
	assert_int_equal(found.list[0].residency.page_size, 4 * KIB);
	assert_int_equal(found.list[0].residency.pages[0], 1024);
	assert_true(found.list[0].locked);
	assert_int_equal(found.list[0].mergeable, access("/sys/kernel/mm/ksm", F_OK) == 0);
	if (read_file("/sys/kernel/mm/transparent_hugepage/enabled", 100, &thp, NULL, &err) == 0 &&
	    !strstr(thp, "[never]"))
		assert_int_equal(found.list[0].thp, 4 * MIB);
	mappings_free(found.list, found.count);
	found = mappings_of(&other, -1, ANON_SIZE + 4 * KIB);
	assert_int_equal(found.count, 0);
	mappings_free(found.list, found.count);
}

/* Has the kernel move pages, all over the machine, until it is killed. */
static uintptr_t compact(int fd)
{
	uintptr_t done = fd >= 0 && pwrite(fd, "1", 1, 0) == 1;

	if (fork() != 0)
		return done;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (done && pwrite(fd, "1", 1, 0) == 1)
		continue;
	_exit(0);
}

/* So many that some of them are found in no page table in most looks. */
#define MOVING_SIZE (64 * MIB)
#define LOOKS 50

static uintptr_t map_much_anonymous(int fd)
{
	char *address =
	    mmap(NULL, MOVING_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)fd;
	madvise(address, MOVING_SIZE, MADV_NOHUGEPAGE);
	touch(address, MOVING_SIZE, 4 * KIB);
	return (uintptr_t)address;
}

static void pages_that_the_kernel_moves_meanwhile_are_counted(void **state)
{
	cleanup_close int compaction = open("/proc/sys/vm/compact_memory", O_WRONLY | O_CLOEXEC);
	struct plan_memory memory = memory_of(PAGES_PLAIN, MOVING_SIZE, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	cleanup_other struct other other = other_start(map_much_anonymous, -1);
	char *address = map(fd, memory.size);

	(void)state;
	if (compaction < 0)
		skip(); /* root's */
	touch(address, memory.size, 4 * KIB);
	munmap(address, memory.size);
	cleanup_other struct other mover = other_start(compact, compaction);
	assert_int_equal(mover.address, 1);
	for (int i = 0; i < LOOKS; i++) {
		struct residency file;
		assert_int_equal(residency(fd, memory.size, &file), 0);
		assert_int_equal(file.resident, memory.size / (4 * KIB));
		free(file.pages);
		struct mappings all = mappings_of(&other, -1, MOVING_SIZE);
		assert_int_equal(all.count, 1);
		struct residency *anonymous = &all.list[0].residency;
		residency_find(other.pid, other.address, MOVING_SIZE, memory.size / (4 * KIB),
		               anonymous);
		assert_int_equal(anonymous->resident, memory.size / (4 * KIB));
		mappings_free(all.list, all.count);
	}
}

/* Some batches of pages, and one page behind them that is not there. */
#define FEW 1300

static uintptr_t map_few_anonymous(int fd)
{
	const uint64_t size = FEW * 4 * KIB;
	char *address =
	    mmap(NULL, size + 4 * KIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	(void)fd;
	madvise(address, size + 4 * KIB, MADV_NOHUGEPAGE);
	touch(address, size, 4 * KIB);
	return (uintptr_t)address;
}

static void pages_that_were_not_counted_are_asked_for_one_by_one(void **state)
{
	cleanup_other struct other other = other_start(map_few_anonymous, -1);
	struct residency pages = { .page_size = 4 * KIB, .resident = FEW - 100 };
	uint64_t sum = 0;
	siginfo_t ended;

	(void)state;
	residency_find(other.pid, other.address, FEW * 4 * KIB, FEW, &pages);
	assert_int_equal(pages.resident, FEW);
	for (size_t node = 0; node < pages.n_nodes; node++)
		sum += pages.pages[node];
	assert_int_equal(sum, FEW);
	/* One that never comes is not waited for without end. */
	pages.resident = FEW - 100;
	residency_find(other.pid, other.address, (FEW + 1) * 4 * KIB, FEW + 1, &pages);
	assert_int_equal(pages.resident, FEW);
	/* A process that is dead has no answer, and what was counted stays. */
	pages.resident = FEW - 100;
	kill(other.pid, SIGKILL);
	assert_int_equal(waitid(P_PID, (id_t)other.pid, &ended, WEXITED | WNOWAIT), 0);
	residency_find(other.pid, other.address, FEW * 4 * KIB, FEW, &pages);
	assert_int_equal(pages.resident, FEW - 100);
	free(pages.pages);
}

/* The mapping may be anybody's, and of any size: without a limit this would not end. */
static void what_is_not_there_at_all_is_not_looked_for(void **state)
{
	const uint64_t size = UINT64_C(1) << 45;
	char *address =
	    mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct residency pages = { .page_size = 4 * KIB, .resident = 100 };

	(void)state;
	assert_true(address != MAP_FAILED);
	residency_find(0, (uintptr_t)address, size, size / (4 * KIB), &pages);
	assert_int_equal(pages.resident, 100);
	munmap(address, size);
}

static void a_process_that_has_ended_is_an_error(void **state)
{
	cleanup_error struct error err = ERROR_INIT;
	struct mapping *list;
	size_t count;
	pid_t pid = fork();

	(void)state;
	if (pid == 0)
		_exit(0);
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(mappings_of_process(pid, -1, MIB, &list, &count, &err), -1);
	assert_non_null(strstr(err.message, "has ended"));
	waitpid(pid, NULL, 0);
	assert_int_equal(mappings_of_process(pid, -1, MIB, &list, &count, &err), -1);
	assert_non_null(strstr(err.message, "has ended"));
}

#define with_huge_pages(test)                                                                      \
	cmocka_unit_test_setup_teardown(test, borrow_huge_pages, give_huge_pages_back)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_pages_are_counted_where_there_are_some),
		cmocka_unit_test(a_file_larger_than_one_part_is_counted_whole),
		cmocka_unit_test(a_file_smaller_than_the_plan_says_is_an_error),
		with_huge_pages(huge_pages_are_counted_when_the_file_is_full),
		with_huge_pages(lazy_huge_pages_are_counted_or_said_to_be_unknown),
		cmocka_unit_test(a_mapped_file_shows_policy_flags_and_touched_pages),
		cmocka_unit_test(neighbours_are_one_mapping_unless_their_flags_differ),
		with_huge_pages(huge_pages_of_another_process_are_those_it_touched),
		cmocka_unit_test(anonymous_memory_is_found_by_its_size),
		cmocka_unit_test(pages_that_the_kernel_moves_meanwhile_are_counted),
		cmocka_unit_test(pages_that_were_not_counted_are_asked_for_one_by_one),
		cmocka_unit_test(what_is_not_there_at_all_is_not_looked_for),
		cmocka_unit_test(a_process_that_has_ended_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
