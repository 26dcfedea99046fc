/* Huge pages that are reserved for a VM: as many as are missing, where they are missing; given back
 * to the page, wherever the launcher died on the way. On the kernel that runs the test. */
#include "memory_host.h"

#include <sys/mman.h>

#include "reserve.h"

#define NODE_PAGES "/sys/devices/system/node/node0/hugepages/hugepages-2048kB"
#define OVERCOMMIT HUGE_POOL "/nr_overcommit_hugepages"

/* A VM's directory, and node 0 as the kernel has it. */
struct setting {
	struct vm_dir vm;
	struct host *host;
	struct claims *claims;
	struct plan_memory memory;
	struct plan plan;
	char path[64];
	int64_t before;
	int fd; /* of the guest's memory, while it is used */
	char *address;
};

/* What a test that fails leaves to its teardown: VMs that may owe pages, by the last one, and
 * nr_overcommit_hugepages as it was (-1: not changed). */
static struct setting *begun[2];
static size_t n_begun;
static int64_t overcommit_before = -1;

static int64_t reserved_pages(void)
{
	return read_number(NODE_PAGES "/nr_hugepages") -
	       read_number(NODE_PAGES "/surplus_hugepages");
}

/* A guest of so many pages more than are free. */
static void begin(struct setting *setting, uint64_t missing)
{
	cleanup_error struct error err = ERROR_INIT;

	memset(setting, 0, sizeof(*setting));
	assert_in_range(n_begun, 0, ARRAY_SIZE(begun) - 1);
	setting->vm = (struct vm_dir)VM_DIR_INIT;
	strcpy(setting->path, "/tmp/ancla-test-reserve-XXXXXX");
	assert_non_null(mkdtemp(setting->path));
	begun[n_begun++] = setting;
	setting->vm.path = xstrdup(setting->path);
	setting->vm.name = xstrdup(strrchr(setting->path, '/') + 1);
	setting->vm.dirfd = open(setting->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	setting->host = host_load(NULL, &err);
	if (!setting->host)
		fail_msg("%s", err.message);
	setting->claims = claims_new();
	setting->before = reserved_pages();
	uint64_t free = host_node_pages(&setting->host->nodes[0], HUGE_SIZE)->free;
	setting->memory =
	    memory_of(PAGES_HUGE, (free + missing) * HUGE_SIZE, "0", MEM_POLICY_STRICT);
	setting->memory.grow = true;
	setting->plan.name = "grows";
	setting->plan.memory = &setting->memory;
	setting->plan.n_memory = 1;
}

static void finish(struct setting *setting)
{
	assert_false(reserve_is_owed(&setting->vm));
	assert_int_equal(reserved_pages(), setting->before);
	assert_ptr_equal(begun[--n_begun], setting);
	hwloc_bitmap_free(setting->memory.host_nodes);
	claims_free(setting->claims);
	host_free(setting->host);
	vm_dir_remove(&setting->vm);
	assert_int_equal(access(setting->path, F_OK), -1);
	vm_dir_close(&setting->vm);
}

static void use_memory(struct setting *setting)
{
	uint64_t size = setting->memory.size;

	setting->fd = create(&setting->memory);
	setting->address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, setting->fd, 0);
	assert_ptr_not_equal(setting->address, MAP_FAILED);
	assert_int_equal(madvise(setting->address, size, MADV_POPULATE_WRITE), 0);
}

static void let_go(struct setting *setting)
{
	if (!setting->address)
		return;
	munmap(setting->address, setting->memory.size);
	close(setting->fd);
	setting->address = NULL;
}

static void allow_surplus(int64_t pages)
{
	overcommit_before = read_number(OVERCOMMIT);
	write_number(OVERCOMMIT, pages);
}

static void forbid_surplus(void)
{
	if (overcommit_before >= 0)
		write_number(OVERCOMMIT, overcommit_before);
	overcommit_before = -1;
}

/* All as it was, whatever came of the test. */
static int undo(void **state)
{
	cleanup_error struct error ignored = ERROR_INIT;

	while (n_begun) {
		struct setting *setting = begun[--n_begun];
		let_go(setting);
		reserve_give_back(&setting->vm, &ignored);
		vm_dir_remove(&setting->vm);
		vm_dir_close(&setting->vm);
	}
	forbid_surplus();
	return give_huge_pages_back(state);
}

static void grow(struct setting *setting)
{
	cleanup_error struct error err = ERROR_INIT;

	if (reserve_grow(&setting->vm, &setting->plan, setting->host, setting->claims, &err) < 0)
		fail_msg("%s", err.message);
}

static void give_back(struct setting *setting)
{
	cleanup_error struct error err = ERROR_INIT;

	if (reserve_give_back(&setting->vm, &err) < 0)
		fail_msg("%s", err.message);
}

static void journal(struct setting *setting, int owed, int64_t from, int change)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *text =
	    xasprintf("[{\"node\":0,\"page-size\":%llu,\"owed\":%d,\"from\":%lld,\"change\":%d}]",
	              (unsigned long long)HUGE_SIZE, owed, (long long)from, change);

	assert_int_equal(write_file_atomic(setting->vm.dirfd, VM_RESERVED, text, &err), 0);
}

static void what_is_missing_is_added_and_given_back(void **state)
{
	static struct setting setting;

	REQUIRE_HUGE_PAGES(state);
	begin(&setting, 5);
	grow(&setting);
	assert_int_equal(reserved_pages(), setting.before + 5);
	assert_true(reserve_is_owed(&setting.vm));
	/* What an administrator adds meanwhile stays. */
	write_huge_pages(read_number(HUGE_PAGES) + 3);
	give_back(&setting);
	assert_int_equal(reserved_pages(), setting.before + 3);
	write_huge_pages(read_number(HUGE_PAGES) - 3);
	give_back(&setting); /* once is enough */
	finish(&setting);
}

static void what_is_there_is_enough_and_what_others_were_promised_is_not(void **state)
{
	static struct setting setting;

	REQUIRE_HUGE_PAGES(state);
	begin(&setting, 0);
	grow(&setting);
	assert_false(reserve_is_owed(&setting.vm));
	struct promise *promise =
	    array_append(&setting.claims->promises, &setting.claims->n_promises);
	*promise = (struct promise){ .vm = xstrdup("other"),
		                     .nodes = set_of("0"),
		                     .page_size = HUGE_SIZE,
		                     .least = 2 * HUGE_SIZE,
		                     .most = 2 * HUGE_SIZE };
	grow(&setting);
	assert_int_equal(reserved_pages(), setting.before + 2);
	give_back(&setting);
	finish(&setting);
}

static void pages_in_use_go_when_they_are_let_go(void **state)
{
	static struct setting setting;

	REQUIRE_HUGE_PAGES(state);
	begin(&setting, 2);
	grow(&setting);
	use_memory(&setting);
	give_back(&setting);
	assert_int_equal(reserved_pages(), setting.before);
	assert_int_equal(read_number(NODE_PAGES "/nr_hugepages"), setting.before + 2);
	let_go(&setting);
	assert_int_equal(read_number(NODE_PAGES "/nr_hugepages"), setting.before);
	finish(&setting);
}

/* Surplus pages are in use, and would go with their user: they are no gain. */
static void surplus_pages_are_not_taken_for_free_ones(void **state)
{
	static struct setting setting, other;

	REQUIRE_HUGE_PAGES(state);
	int64_t used = read_number(NODE_PAGES "/surplus_hugepages");
	allow_surplus(used + 3);
	begin(&setting, 3);
	use_memory(&setting);
	assert_int_equal(read_number(NODE_PAGES "/surplus_hugepages"), used + 3);
	assert_int_equal(read_number(NODE_PAGES "/free_hugepages"), 0);

	begin(&other, 2);
	grow(&other);
	assert_int_equal(read_number(NODE_PAGES "/free_hugepages"), 2);
	give_back(&other);
	assert_int_equal(read_number(NODE_PAGES "/surplus_hugepages"), used + 3);
	finish(&other);
	let_go(&setting);
	forbid_surplus();
	finish(&setting);
}

/* Every state that the journal can be found in. */
static void a_crash_on_the_way_costs_no_page(void **state)
{
	static struct setting setting;

	REQUIRE_HUGE_PAGES(state);
	begin(&setting, 0);
	journal(&setting, 0, setting.before, 4); /* before anything was added */
	give_back(&setting);
	assert_int_equal(reserved_pages(), setting.before);

	write_huge_pages(read_number(HUGE_PAGES) + 4);
	journal(&setting, 0, setting.before, 4); /* after that */
	give_back(&setting);
	assert_int_equal(reserved_pages(), setting.before);

	write_huge_pages(read_number(HUGE_PAGES) + 1);
	journal(&setting, 0, setting.before, 4); /* after the kernel gave some of them */
	give_back(&setting);
	assert_int_equal(reserved_pages(), setting.before);

	write_huge_pages(read_number(HUGE_PAGES) + 4);
	journal(&setting, 4, setting.before + 4, -4); /* before they were given back */
	give_back(&setting);
	assert_int_equal(reserved_pages(), setting.before);

	journal(&setting, 4, setting.before + 4, -4); /* after that */
	give_back(&setting);
	finish(&setting);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_missing_is_added_and_given_back,
		                                borrow_huge_pages, undo),
		cmocka_unit_test_setup_teardown(
		    what_is_there_is_enough_and_what_others_were_promised_is_not, borrow_huge_pages,
		    undo),
		cmocka_unit_test_setup_teardown(pages_in_use_go_when_they_are_let_go,
		                                borrow_huge_pages, undo),
		cmocka_unit_test_setup_teardown(surplus_pages_are_not_taken_for_free_ones,
		                                borrow_huge_pages, undo),
		cmocka_unit_test_setup_teardown(a_crash_on_the_way_costs_no_page, borrow_huge_pages,
		                                undo),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
