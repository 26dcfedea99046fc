/* Memory for transparent huge pages is mapped so that there can be some, and they are counted. */
#include "memory_host.h"

#include <errno.h>
#include <sys/mman.h>

#include "memory_parts.h"

static void it_is_mapped_where_a_huge_page_can_be(void **state)
{
	struct plan_memory memory = memory_of(PAGES_THP, 6 * MIB, NULL, MEM_POLICY_UNSET);
	cleanup_error struct error err = ERROR_INIT;
	cleanup_close int fd = create(&memory);

	(void)state;
	/* The first may be aligned by chance, not those beside it. */
	for (int i = 0; i < 3; i++) {
		void *beside = mmap(NULL, 4 * KIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		char *address = memory_map(fd, &memory, &err);
		assert_non_null(address);
		assert_int_equal((uintptr_t)address % THP_SIZE, 0);
		address[0] = address[memory.size - 1] = 1;
		munmap(address, memory.size);
		munmap(beside, 4 * KIB);
	}
}

static void what_cannot_be_mapped_says_why(void **state)
{
	(void)state;
	errno = 0;
	assert_ptr_equal(memory_mmap(-1, 0, 4 * MIB, PROT_READ, 0, true), MAP_FAILED);
	assert_int_equal(errno, EBADF);
}

static void all_pages_are_counted_and_the_huge_ones_of_them(void **state)
{
	struct plan_memory memory = memory_of(PAGES_THP, 8 * MIB, NULL, MEM_POLICY_UNSET);
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *enabled = NULL;
	cleanup_close int fd = create(&memory);
	struct residency result;
	char *address = memory_map(fd, &memory, &err);

	(void)state;
	assert_non_null(address);
	memset(address, 1, memory.size);
	munmap(address, memory.size);
	if (residency_of_file(fd, memory.size, true, &result, &err) != 0)
		fail_msg("%s", err.message);
	assert_int_equal(result.resident, 8 * MIB / memory.page_size);
	assert_int_equal(result.thp % THP_SIZE, 0);
	assert_in_range(result.thp, 0, memory.size);
	/* A kernel that gives files none, as most, has none to count. */
	if (read_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", 100, &enabled, NULL,
	              &err) < 0 ||
	    strstr(enabled, "[never]"))
		assert_int_equal(result.thp, 0);
	free(result.pages);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_is_mapped_where_a_huge_page_can_be),
		cmocka_unit_test(what_cannot_be_mapped_says_why),
		cmocka_unit_test(all_pages_are_counted_and_the_huge_ones_of_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
