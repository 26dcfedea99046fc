/* Guest memory: its files, its policies, its shortages, and the threads that fill it, on the
 * kernel that runs the test. test_residency.c reads back where the pages are. */
#include "memory_host.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <time.h>

#include <numaif.h>

#include "kernel.h"
#include "memory_parts.h"

static void assert_says(const struct error *err, const char *part)
{
	if (!err->message || !strstr(err->message, part))
		fail_msg("\"%s\" does not say \"%s\"", err->message, part);
	assert_int_equal(err->code, EXIT_GRANT);
}

/* One region, and the machine with all its CPUs on node 0. */
struct setting {
	struct host_node node;
	struct host host;
	struct plan plan;
};

static void setting_init(struct setting *setting, struct plan_memory *memory, size_t count)
{

	memset(setting, 0, sizeof(*setting));
	setting->host.allowed = xbitmap();
	setting->host.isolated = xbitmap();
	hwloc_bitmap_set_range(setting->host.allowed, 0, (int)sysconf(_SC_NPROCESSORS_ONLN) - 1);
	setting->host.cpus = setting->host.allowed;
	setting->node.cpus = setting->host.allowed;
	setting->host.nodes = &setting->node;
	setting->host.n_nodes = 1;
	setting->plan.memory = memory;
	setting->plan.n_memory = count;
}

static void setting_free(struct setting *setting)
{
	hwloc_bitmap_free(setting->host.allowed);
	hwloc_bitmap_free(setting->host.isolated);
}

static struct fill *start(struct setting *setting, const int *fds)
{
	cleanup_error struct error err = ERROR_INIT;
	struct fill *fill = fill_start(&setting->plan, &setting->host, fds, -1, &err);

	if (!fill)
		fail_msg("%s", err.message);
	return fill;
}

static void wait_for_fill(struct fill *fill)
{
	struct pollfd event = { .fd = fill_fd(fill), .events = POLLIN };

	assert_int_equal(poll(&event, 1, 60000), 1);
}

/* Whether it is a child of ours that fills memory. */
static bool is_filler(const char *pid)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *path = xasprintf("/proc/%s/stat", pid);
	cleanup_free char *stat = NULL;
	cleanup_free char *parent = xasprintf(" %d ", getpid());

	if (read_file(path, 4096, &stat, NULL, &err) < 0)
		return false;
	const char *name = strstr(stat, "(ancla-filler) ");
	return name && strncmp(name + strlen("(ancla-filler) ") + 1, parent, strlen(parent)) == 0;
}

/* The process that fills memory for this one, or 0. It has its name a moment after it is forked,
 * and before it does anything else. */
static pid_t filler(void)
{
	DIR *directory = opendir("/proc");
	pid_t found = 0;

	for (struct dirent *entry; !found && (entry = readdir(directory));)
		if (is_filler(entry->d_name))
			found = atoi(entry->d_name);
	closedir(directory);
	return found;
}

static pid_t wait_for_filler(void)
{
	int64_t deadline = kernel_now_ms() + 60000;
	pid_t pid;

	while (!(pid = filler()))
		assert_true(kernel_now_ms() < deadline);
	return pid;
}

/* The same once it has come so far that the kernel would take it before any other, and that it
 * ends with its launcher: what is done to it before that is done to another process. */
static pid_t wait_for_ready_filler(void)
{
	int64_t deadline = kernel_now_ms() + 60000;
	pid_t pid = wait_for_filler();
	cleanup_free char *score = xasprintf("/proc/%d/oom_score_adj", pid);

	while (read_number("%s", score) != 1000)
		assert_true(kernel_now_ms() < deadline);
	return pid;
}

static void a_memfd_is_sized_sealed_empty_and_closes_on_exec(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 64 * MIB, NULL, MEM_POLICY_UNSET);
	cleanup_close int fd = create(&memory);
	struct stat file;

	(void)state;
	assert_int_equal(fstat(fd, &file), 0);
	assert_int_equal(file.st_size, 64 * MIB);
	assert_int_equal(file.st_blocks, 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(ftruncate(fd, MIB), -1);
}

static void huge_pages_are_reserved_at_once_and_given_back_with_the_file(void **state)
{
	REQUIRE_HUGE_PAGES(state);
	const char *path = "/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages";
	struct plan_memory memory = memory_of(PAGES_HUGE, 8 * HUGE_SIZE, NULL, MEM_POLICY_UNSET);
	int64_t taken = 0, returned = 0;

	/* Somebody else on this machine may reserve or return pages in between: then once more. */
	for (int attempt = 0; attempt < 100 && (taken != 8 || returned != 8); attempt++) {
		int64_t before = read_number("%s", path);
		int fd = create(&memory);
		taken = read_number("%s", path) - before;
		assert_int_equal(bytes_held(fd), 0);
		close(fd);
		returned = before + taken - read_number("%s", path);
	}
	assert_int_equal(taken, 8);
	assert_int_equal(returned, 8);
}

static void short_huge_pages_are_told_with_node_size_needed_free_and_the_remedy(void **state)
{
	REQUIRE_HUGE_PAGES(state);
	cleanup_error struct error err = ERROR_INIT;
	uint64_t total = (uint64_t)read_number(HUGE_PAGES);
	struct plan_memory memory =
	    memory_of(PAGES_HUGE, (total + 100) * HUGE_SIZE, "0", MEM_POLICY_STRICT);
	cleanup_free char *needed =
	    xasprintf("%llu huge pages of 2MiB needed, 0 had", (unsigned long long)total + 100);

	assert_int_equal(memory_create(&memory, NULL, "ancla-test", &err), -1);
	assert_says(&err, "guest node 0 on host node 0: ");
	assert_says(&err, needed);
	assert_says(&err, "free: ");
	assert_says(&err, " on node 0, not promised to others: ");
	assert_says(&err, "reserve them: echo ");
	assert_says(&err, "hugepages/hugepages-2048kB/nr_hugepages");
	hwloc_bitmap_free(memory.host_nodes);
}

static void a_page_size_that_the_kernel_lacks_is_named(void **state)
{
	cleanup_error struct error err = ERROR_INIT;
	struct plan_memory memory = memory_of(PAGES_HUGE, 8 * MIB, NULL, MEM_POLICY_UNSET);

	(void)state;
	memory.page_size = 4 * MIB;
	memory.guest_node = -1;
	assert_int_equal(memory_create(&memory, NULL, "ancla-test", &err), -1);
	assert_says(&err, "guest memory: this kernel has no huge pages of 4MiB (it has: ");
	assert_says(&err, "2MiB");
}

/* How often each failure of populate happens on a healthy machine: never. So the text alone. */
static void every_failure_of_populate_says_what_was_had_and_what_to_do(void **state)
{
	cleanup_error struct error err = ERROR_INIT;
	struct plan_memory huge = memory_of(PAGES_HUGE, 2048 * GIB, "0", MEM_POLICY_STRICT);
	struct plan_memory plain = memory_of(PAGES_PLAIN, 64 * MIB, "0", MEM_POLICY_STRICT);

	(void)state;
	assert_int_equal(memory_shortage(&huge, 5 * HUGE_SIZE, EFAULT, &err), -1);
	assert_says(&err, "1048576 huge pages of 2MiB needed, 5 had, free: ");
	assert_says(&err, "; missing 10");
	memory_shortage(&plain, 32 * MIB, ENOMEM, &err);
	assert_says(&err, "16384 pages of 4KiB needed, 8192 had (Cannot allocate memory), free: ");
	memory_shortage(&plain, 32 * MIB, EHWPOISON, &err);
	assert_says(&err, "broken");
	memory_shortage(&plain, 0, EINVAL, &err);
	assert_says(&err, "Linux 5.14");
	hwloc_bitmap_free(huge.host_nodes);
	hwloc_bitmap_free(plain.host_nodes);
}

static void a_hugetlbfs_path_is_used_checked_and_left_empty(void **state)
{
	REQUIRE_HUGE_PAGES(state);
	cleanup_error struct error err = ERROR_INIT;
	char path[] = "/tmp/ancla-test-hugetlbfs-XXXXXX";
	struct plan_memory memory = memory_of(PAGES_HUGE, 2 * HUGE_SIZE, NULL, MEM_POLICY_UNSET);
	memory.backing = BACKING_PATH;

	assert_int_equal(memory_create(&memory, "/tmp", "", &err), -1);
	assert_says(&err, "/tmp is not on a hugetlbfs");
	assert_int_equal(memory_create(&memory, "/nowhere", "", &err), -1);
	assert_says(&err, "/nowhere: No such file or directory");

	/* The mount goes with the process. */
	assert_int_equal(unshare(CLONE_NEWNS), 0);
	assert_int_equal(mount("none", "/", "none", MS_REC | MS_PRIVATE, NULL), 0);
	assert_non_null(mkdtemp(path));
	assert_int_equal(mount("none", path, "hugetlbfs", 0, "pagesize=2M"), 0);
	int fd = memory_create(&memory, path, "", &err);
	assert_true(fd >= 0);
	assert_int_equal(rmdir(path), -1); /* a mount point */
	struct stat file;
	assert_int_equal(fstat(fd, &file), 0);
	assert_int_equal(file.st_nlink, 0);
	assert_int_equal(file.st_size, memory.size);
	close(fd);
	memory.page_size = 1 * GIB;
	memory.size = 1 * GIB;
	assert_int_equal(memory_create(&memory, path, "", &err), -1);
	assert_says(&err, "has pages of 2MiB, needed are pages of 1GiB");
	assert_int_equal(umount(path), 0);
	assert_int_equal(rmdir(path), 0);
}

static void policies_are_shown_as_numa_maps_shows_them(void **state)
{
	static const struct {
		const char *nodes;
		enum mem_policy policy;
		const char *shown;
	} cases[] = {
		{ NULL, MEM_POLICY_UNSET, "default" },
		{ "0", MEM_POLICY_STRICT, "bind:0" },
		{ "64-65,100", MEM_POLICY_STRICT, "bind:64-65,100" },
		{ "0", MEM_POLICY_PREFERRED, "prefer:0" },
		{ "0-1", MEM_POLICY_INTERLEAVE, "interleave:0-1" },
		{ "0-1", MEM_POLICY_RESTRICTIVE, "default" },
		{ "0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,38,40", MEM_POLICY_STRICT,
		  "bind:0,2,4,6,8,10,12,14,16,18,20,22,24,26,28,30,32,34,36,38,40" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct plan_memory memory =
		    memory_of(PAGES_PLAIN, MIB, cases[i].nodes, cases[i].policy);
		cleanup_free char *shown = memory_policy_shown(&memory);
		assert_string_equal(shown, cases[i].shown);
		assert_true(memory_policy_matches(&memory, shown));
		assert_false(memory_policy_matches(&memory, "bind:7"));
		hwloc_bitmap_free(memory.host_nodes);
	}
	struct plan_memory many = memory_of(PAGES_PLAIN, MIB, "0-1", MEM_POLICY_PREFERRED);
	assert_true(memory_policy_matches(&many, "prefer (many):0-1"));
	assert_true(memory_policy_matches(&many, "prefer:0"));
	assert_false(memory_policy_matches(&many, "prefer:1"));
	assert_false(memory_policy_matches(&many, "prefer (many):0"));
	hwloc_bitmap_free(many.host_nodes);
}

static void the_policy_of_a_thread_is_set_and_taken_back(void **state)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_bitmap hwloc_bitmap_t nodes = set_of("0");
	int mode = -1;

	(void)state;
	assert_int_equal(memory_policy_of_thread(MEM_POLICY_RESTRICTIVE, nodes, &err), 0);
	assert_int_equal(get_mempolicy(&mode, NULL, 0, NULL, 0), 0);
	assert_int_equal(mode, MPOL_BIND);
	assert_int_equal(memory_policy_of_thread(MEM_POLICY_STRICT, nodes, &err), 0);
	assert_int_equal(get_mempolicy(&mode, NULL, 0, NULL, 0), 0);
	assert_int_equal(mode, MPOL_PREFERRED);
	assert_int_equal(memory_policy_of_thread(MEM_POLICY_STRICT, NULL, &err), 0);
	assert_int_equal(get_mempolicy(&mode, NULL, 0, NULL, 0), 0);
	assert_int_equal(mode, MPOL_DEFAULT);
}

static void a_node_that_does_not_exist_is_refused(void **state)
{
	static const char *const lists[] = { "900", "0,60000" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		cleanup_error struct error err = ERROR_INIT;
		struct plan_memory memory =
		    memory_of(PAGES_PLAIN, 4 * MIB, lists[i], MEM_POLICY_STRICT);
		cleanup_close int fd = create(&memory);
		struct setting setting;
		setting_init(&setting, &memory, 1);
		assert_null(fill_start(&setting.plan, &setting.host, &fd, -1, &err));
		assert_says(&err, "the kernel refuses host nodes ");
		assert_says(&err, lists[i]);
		assert_int_equal(
		    memory_policy_of_thread(MEM_POLICY_RESTRICTIVE, memory.host_nodes, &err), -1);
		setting_free(&setting);
		hwloc_bitmap_free(memory.host_nodes);
	}
}

static void every_region_is_filled_and_its_policy_set_before(void **state)
{
	REQUIRE_HUGE_PAGES(state);
	struct plan_memory memory[] = {
		memory_of(PAGES_PLAIN, 33 * MIB + 4 * KIB, "0", MEM_POLICY_STRICT),
		memory_of(PAGES_HUGE, 8 * HUGE_SIZE, "0", MEM_POLICY_INTERLEAVE),
		memory_of(PAGES_PLAIN, 5 * MIB, "0", MEM_POLICY_PREFERRED),
		memory_of(PAGES_PLAIN, 3 * MIB, "0", MEM_POLICY_RESTRICTIVE),
		memory_of(PAGES_PLAIN, 4 * KIB, NULL, MEM_POLICY_UNSET),
		memory_of(PAGES_PLAIN, 7 * MIB, NULL, MEM_POLICY_UNSET),
	};
	cleanup_error struct error err = ERROR_INIT;
	int fds[ARRAY_SIZE(memory)];
	uint64_t done, total, sum = 0;
	struct setting setting;

	memory[5].fill = FILL_NONE;
	for (size_t i = 0; i < ARRAY_SIZE(memory); i++)
		fds[i] = create(&memory[i]);
	setting_init(&setting, memory, ARRAY_SIZE(memory));
	struct fill *fill = start(&setting, fds);
	wait_for_fill(fill);
	fill_progress(fill, &done, &total);
	assert_int_equal(fill_wait(fill, &err), 0);
	struct residency found[ARRAY_SIZE(memory)];
	assert_int_equal(fill_residency(fill, found, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(memory) - 1; i++) {
		struct mapping *list;
		size_t count;
		sum += memory[i].size;
		assert_int_equal(bytes_held(fds[i]), memory[i].size);
		assert_int_equal(found[i].page_size, memory[i].page_size);
		assert_int_equal(found[i].resident, memory[i].size / memory[i].page_size);
		assert_int_equal(mappings_of_process(filler(), fds[i], 0, &list, &count, &err), 0);
		assert_int_equal(count, 1);
		assert_true(memory_policy_matches(&memory[i], list[0].policy));
		assert_false(list[0].in_core_dumps);
		mappings_free(list, count);
		free(found[i].pages);
	}
	assert_int_equal(done, sum);
	assert_int_equal(total, sum);
	assert_int_equal(found[5].page_size, 0);
	assert_null(found[5].pages);
	assert_int_equal(bytes_held(fds[5]), 0);
	fill_cancel(fill);
	for (size_t i = 0; i < ARRAY_SIZE(memory); i++) {
		hwloc_bitmap_free(memory[i].host_nodes);
		close(fds[i]);
	}
	setting_free(&setting);
}

static void nothing_to_fill_is_done_at_once_without_a_process(void **state)
{
	cleanup_error struct error err = ERROR_INIT;
	struct plan_memory memory = memory_of(PAGES_PLAIN, 4 * MIB, NULL, MEM_POLICY_UNSET);
	struct setting setting;
	uint64_t done, total;

	(void)state;
	memory.backing = BACKING_ANON;
	memory.fill = FILL_QEMU;
	setting_init(&setting, &memory, 1);
	struct fill *fill = start(&setting, &(int){ -1 });
	assert_int_equal(filler(), 0);
	assert_true(fill_is_over(fill));
	assert_int_equal(fill_fd(fill), -1);
	fill_progress(fill, &done, &total);
	assert_int_equal(total, 0);
	assert_int_equal(fill_wait(fill, &err), 0);
	fill_cancel(fill);
	fill_cancel(NULL);
	setting_free(&setting);
}

/* The file is shorter than the plan says: from its end on populate fails like on a short node. */
static void a_failure_on_the_way_is_an_error_not_a_signal(void **state)
{
	cleanup_error struct error err = ERROR_INIT;
	struct plan_memory memory = memory_of(PAGES_PLAIN, 32 * MIB, "0", MEM_POLICY_STRICT);
	cleanup_close int fd = memfd_create("short", MFD_CLOEXEC);
	struct setting setting;

	(void)state;
	assert_int_equal(ftruncate(fd, 16 * MIB), 0);
	setting_init(&setting, &memory, 1);
	struct fill *fill = start(&setting, &fd);
	wait_for_fill(fill);
	assert_int_equal(fill_wait(fill, &err), -1);
	fill_cancel(fill);
	assert_says(&err, "guest node 0 on host node 0: 8192 pages of 4KiB needed, 4096 had");
	hwloc_bitmap_free(memory.host_nodes);
	setting_free(&setting);
}

static void a_cancelled_fill_stops_early_and_gives_all_back(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 8 * GIB, "0", MEM_POLICY_STRICT);
	cleanup_close int fd = create(&memory);
	struct setting setting;

	(void)state;
	setting_init(&setting, &memory, 1);
	fill_cancel(start(&setting, &fd));
	assert_true(bytes_held(fd) < memory.size);
	assert_int_equal(filler(), 0);
	hwloc_bitmap_free(memory.host_nodes);
	setting_free(&setting);
}

/* What the filling threads are, summed up: how many of each scheduler, on which CPUs. They have
 * their name when all else is set. */
struct crew_seen {
	size_t idle, other;
	hwloc_bitmap_t cpus;
	bool signals_blocked;
};

static void look_at_thread(pid_t pid, const char *tid, struct crew_seen *seen)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *name = NULL;
	cleanup_free char *status = NULL;
	cleanup_free char *path = xasprintf("/proc/%d/task/%s/comm", pid, tid);
	cleanup_free char *status_path = xasprintf("/proc/%d/task/%s/status", pid, tid);
	cpu_set_t cpus;

	if (read_file(path, 100, &name, NULL, &err) < 0 || strcmp(name, "ancla-fill\n") != 0 ||
	    read_file(status_path, 100000, &status, NULL, &err) < 0 ||
	    sched_getaffinity(atoi(tid), sizeof(cpus), &cpus) < 0)
		return;
	int policy = sched_getscheduler(atoi(tid));
	seen->idle += policy == SCHED_IDLE;
	seen->other += policy == SCHED_OTHER;
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &cpus))
			hwloc_bitmap_set(seen->cpus, cpu);
	}
	seen->signals_blocked = strstr(status, "SigBlk:\tfffffff") != NULL;
}

static struct crew_seen look_at_threads(hwloc_bitmap_t cpus)
{
	struct crew_seen seen = { .cpus = cpus };
	pid_t pid = wait_for_filler();
	cleanup_free char *path = xasprintf("/proc/%d/task", pid);
	DIR *directory = opendir(path);

	assert_non_null(directory);
	hwloc_bitmap_zero(cpus);
	for (struct dirent *entry; (entry = readdir(directory));)
		look_at_thread(pid, entry->d_name, &seen);
	closedir(directory);
	return seen;
}

/* Looks until there are so many threads, of which so many are at normal priority. */
static struct crew_seen wait_for_threads(size_t count, size_t other, hwloc_bitmap_t cpus)
{
	int64_t deadline = kernel_now_ms() + 60000;
	struct crew_seen seen;

	do {
		seen = look_at_threads(cpus);
		if (kernel_now_ms() > deadline)
			fail_msg("%zu idle threads, %zu others", seen.idle, seen.other);
	} while (seen.idle + seen.other != count || seen.other != other);
	return seen;
}

/* A file so large that the threads are still there when they are looked at; `emulator` as in the
 * plan. */
static void assert_threads(hwloc_bitmap_t emulator, size_t late)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 16 * GIB, "0", MEM_POLICY_STRICT);
	cleanup_bitmap hwloc_bitmap_t cpus = xbitmap();
	cleanup_close int fd = create(&memory);
	struct setting setting;

	setting_init(&setting, &memory, 1);
	setting.plan.emulator = emulator;
	size_t workers = (size_t)hwloc_bitmap_weight(setting.host.allowed);
	if (workers == 1 || workers > 16) /* one CPU for all, or more than there are threads */
		late = 0;
	if (workers > 16)
		workers = 16;
	struct fill *fill = start(&setting, &fd);
	size_t first = workers - late;
	struct crew_seen seen = wait_for_threads(first, geteuid() == 0 ? 0 : first, cpus);
	assert_true(seen.signals_blocked);
	assert_true(hwloc_bitmap_isequal(cpus, setting.host.allowed));
	fill_hurry(fill);
	wait_for_threads(workers, workers, cpus);
	fill_cancel(fill);
	hwloc_bitmap_free(memory.host_nodes);
	setting_free(&setting);
}

static void threads_are_idle_until_hurried_and_deaf_to_signals(void **state)
{
	cleanup_bitmap hwloc_bitmap_t elsewhere = set_of("5000");

	(void)state;
	assert_threads(elsewhere, 0);
}

static void a_cpu_is_left_to_qemu_until_they_are_hurried(void **state)
{
	cleanup_bitmap hwloc_bitmap_t first = set_of("0");

	(void)state;
	assert_threads(NULL, 1);
	assert_threads(first, 1);
}

/* CPU 0 only, then, as the vCPU's, CPU 1 also: which is isolated. */
static void isolated_cpus_are_left_alone_except_the_plans_own(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 16 * GIB, "0", MEM_POLICY_STRICT);
	cleanup_bitmap hwloc_bitmap_t cpus = xbitmap();
	cleanup_close int fd = create(&memory);
	struct plan_vcpu vcpu = { .cpus = set_of("1") };
	struct setting setting;

	(void)state;
	if (sysconf(_SC_NPROCESSORS_ONLN) < 2) {
		print_message("# SKIP: one CPU only\n");
		skip();
	}
	setting_init(&setting, &memory, 1);
	hwloc_bitmap_set_range(setting.host.isolated, 1, -1);
	for (size_t vcpus = 0; vcpus < 2; vcpus++) {
		setting.plan.vcpus = &vcpu;
		setting.plan.n_vcpus = vcpus;
		struct fill *fill = start(&setting, &fd);
		fill_hurry(fill);
		wait_for_threads(vcpus + 1, vcpus + 1, cpus);
		assert_int_equal(hwloc_bitmap_last(cpus), vcpus ? 1 : 0);
		fill_cancel(fill);
		assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		                           (off_t)memory.size),
		                 0);
	}
	hwloc_bitmap_free(vcpu.cpus);
	hwloc_bitmap_free(memory.host_nodes);
	setting_free(&setting);
}

/* Killed by somebody, and not by the kernel for want of memory. */
static void a_filler_that_is_killed_is_an_error(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 16 * GIB, "0", MEM_POLICY_STRICT);
	cleanup_error struct error err = ERROR_INIT;
	cleanup_close int fd = create(&memory);
	struct setting setting;

	(void)state;
	setting_init(&setting, &memory, 1);
	struct fill *fill = start(&setting, &fd);
	pid_t pid = wait_for_ready_filler();
	assert_int_equal(kill(pid, SIGKILL), 0);
	wait_for_fill(fill);
	assert_int_equal(fill_wait(fill, &err), -1);
	assert_int_equal(err.code, EXIT_FAILED);
	assert_string_equal(err.message, "guest memory: the process that fills it was killed by "
	                                 "SIGKILL (Killed)");
	fill_cancel(fill);
	hwloc_bitmap_free(memory.host_nodes);
	setting_free(&setting);
}

/* A launcher that begins to fill, says who does, and is killed. */
static void fill_for_ever(struct setting *setting, const int *fd, int out)
{
	start(setting, fd);
	pid_t pid = wait_for_ready_filler();
	if (write(out, &pid, sizeof(pid)) == sizeof(pid))
		pause();
	_exit(1);
}

static void a_filler_that_is_stopped_ends_with_its_launcher(void **state)
{
	struct plan_memory memory = memory_of(PAGES_PLAIN, 16 * GIB, "0", MEM_POLICY_STRICT);
	cleanup_close int fd = create(&memory);
	struct setting setting;
	pid_t filler;
	int ends[2];

	(void)state;
	setting_init(&setting, &memory, 1);
	assert_int_equal(pipe(ends), 0);
	pid_t launcher = fork();
	if (launcher == 0)
		fill_for_ever(&setting, &fd, ends[1]);
	assert_int_equal(read(ends[0], &filler, sizeof(filler)), sizeof(filler));
	cleanup_close int pidfd = pidfd_open(filler, 0);
	assert_true(pidfd >= 0);
	assert_int_equal(kill(filler, SIGSTOP), 0);
	assert_int_equal(kill(launcher, SIGKILL), 0);
	assert_int_equal(waitpid(launcher, NULL, 0), launcher);
	assert_int_equal(poll(&(struct pollfd){ pidfd, POLLIN, 0 }, 1, 60000), 1);
	close(ends[0]);
	close(ends[1]);
	hwloc_bitmap_free(memory.host_nodes);
	setting_free(&setting);
}

#define with_huge_pages(test)                                                                      \
	cmocka_unit_test_setup_teardown(test, borrow_huge_pages, give_huge_pages_back)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_memfd_is_sized_sealed_empty_and_closes_on_exec),
		with_huge_pages(huge_pages_are_reserved_at_once_and_given_back_with_the_file),
		with_huge_pages(
		    short_huge_pages_are_told_with_node_size_needed_free_and_the_remedy),
		cmocka_unit_test(a_page_size_that_the_kernel_lacks_is_named),
		cmocka_unit_test(every_failure_of_populate_says_what_was_had_and_what_to_do),
		with_huge_pages(a_hugetlbfs_path_is_used_checked_and_left_empty),
		cmocka_unit_test(policies_are_shown_as_numa_maps_shows_them),
		cmocka_unit_test(the_policy_of_a_thread_is_set_and_taken_back),
		cmocka_unit_test(a_node_that_does_not_exist_is_refused),
		with_huge_pages(every_region_is_filled_and_its_policy_set_before),
		cmocka_unit_test(nothing_to_fill_is_done_at_once_without_a_process),
		cmocka_unit_test(a_failure_on_the_way_is_an_error_not_a_signal),
		cmocka_unit_test(a_cancelled_fill_stops_early_and_gives_all_back),
		cmocka_unit_test(threads_are_idle_until_hurried_and_deaf_to_signals),
		cmocka_unit_test(a_cpu_is_left_to_qemu_until_they_are_hurried),
		cmocka_unit_test(isolated_cpus_are_left_alone_except_the_plans_own),
		cmocka_unit_test(a_filler_that_is_killed_is_an_error),
		cmocka_unit_test(a_filler_that_is_stopped_ends_with_its_launcher),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
