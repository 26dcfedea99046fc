/* Where a limit of the process is reached, a stage says what it could not do and why, and goes on
 * as soon as there is room. The limits are the kernel's own, setrlimit(2). */
#include "stages.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guard.h"
#include "memory.h"
#include "preflight.h"
#include "spawn.h"

#define GIB (UINT64_C(1) << 30)

/* Sets the soft limit; returns what it was. */
static struct rlimit limit_to(int what, rlim_t most)
{
	struct rlimit before, now;

	assert_int_equal(getrlimit(what, &before), 0);
	now = before;
	now.rlim_cur = most;
	assert_int_equal(setrlimit(what, &now), 0);
	return before;
}

/* The lowest number that a new descriptor would get. */
static rlim_t next_descriptor(void)
{
	int fd = dup(STDERR_FILENO);

	assert_true(fd >= 0);
	close(fd);
	return (rlim_t)fd;
}

static struct plan_memory plain(uint64_t size)
{
	return (struct plan_memory){
		.guest_node = 3, .backing = BACKING_MEMFD, .size = size, .page_size = 4096
	};
}

/* memory_create() under a limit: refused with these words. */
static void assert_no_memory(int what, rlim_t most, const char *parts)
{
	struct plan_memory memory = plain(64 << 20);
	cleanup_error struct error err = ERROR_INIT, none = ERROR_INIT;
	struct rlimit before = limit_to(what, most);
	int fd = memory_create(&memory, NULL, "test", &err);

	setrlimit(what, &before);
	assert_int_equal(fd, -1);
	assert_refused(&err, EXIT_GRANT, parts);
	fd = memory_create(&memory, NULL, "test", &none);
	assert_true(fd >= 0);
	close(fd);
}

static void memory_without_a_descriptor_or_of_too_large_a_file_is_refused(void **state)
{
	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	assert_no_memory(RLIMIT_NOFILE, next_descriptor(),
	                 "guest node 3|memfd_create|Too many open files");
	assert_no_memory(RLIMIT_FSIZE, 16 << 20,
	                 "guest node 3|cannot make a file of 64MiB|File too large");
	signal(SIGXFSZ, SIG_DFL);
}

/* Bytes of address space that this process has. */
static rlim_t address_space(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	unsigned long pages = 0;

	assert_non_null(file);
	assert_int_equal(fscanf(file, "%lu", &pages), 1);
	fclose(file);
	return pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static void memory_that_has_no_address_is_not_filled(void **state)
{
	struct plan_memory memory = plain(64 * GIB);
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_plan struct plan *plan = plan_new();
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	memory.fill = FILL_LAUNCHER;
	plan->memory = xcalloc(1, sizeof(*plan->memory));
	plan->memory[0] = memory;
	plan->n_memory = 1;
	int fd = memory_create(&memory, NULL, "test", &err);
	assert_true(fd >= 0);
	struct rlimit before = limit_to(RLIMIT_AS, address_space() + GIB);
	struct fill *fill = fill_start(plan, host, &fd, -1, &err);
	setrlimit(RLIMIT_AS, &before);
	assert_null(fill);
	assert_refused(&err, EXIT_GRANT, "guest node 3|cannot map 64GiB|Cannot allocate memory");
	close(fd);
}

static void nobody_is_started_without_a_descriptor(void **state)
{
	struct guard guard = GUARD_INIT;
	struct qemu qemu = QEMU_INIT;
	struct command_line line = { 0 };
	cleanup_plan struct plan *plan = plan_new();
	cleanup_error struct error first = ERROR_INIT, second = ERROR_INIT;

	(void)state;
	struct rlimit before = limit_to(RLIMIT_NOFILE, next_descriptor());
	int guarded = guard_start(&guard, -1, -1, &first);
	int spawned = spawn_qemu(&line, plan, NULL, -1, NULL, false, &qemu, &second);
	setrlimit(RLIMIT_NOFILE, &before);
	assert_int_equal(guarded, -1);
	assert_int_equal(spawned, -1);
	assert_refused(&first, EXIT_FAILED, "cannot make a pipe for the guard|Too many open files");
	assert_refused(&second, EXIT_FAILED, "cannot make a pipe|Too many open files");
	guard_end(&guard);
	assert_int_equal(spawn_end(&qemu), 0);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* there is no child */
}

/* False if it cannot be done. */
static bool drop_lock_capability(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) < 0)
		return false;
	data[0].effective &= ~(1U << CAP_IPC_LOCK);
	return syscall(SYS_capset, &header, data) == 0;
}

/* The preflight of a guest of so many bytes, all locked, where so many may be. Not in this process:
 * a hard limit does not come back. */
static int preflight_with_locks(uint64_t bytes, rlim_t most, struct error *err)
{
	cleanup_plan struct plan *plan = plan_new();
	cleanup_spec struct spec *spec = spec_of("");
	struct rlimit limit = { most, most };

	plan->memory = xcalloc(1, sizeof(*plan->memory));
	plan->memory[0] = plain(bytes);
	plan->n_memory = 1;
	plan->locked = plan->process.locks = true;
	if (!drop_lock_capability() || setrlimit(RLIMIT_MEMLOCK, &limit) < 0)
		return error_set(err, EXIT_FAILED, "%s", strerror(errno));
	return preflight(spec, plan, err);
}

/* Passes on what the preflight says. */
static void preflight_child(uint64_t bytes, rlim_t most, int to)
{
	cleanup_error struct error err = ERROR_INIT;

	if (preflight_with_locks(bytes, most, &err) < 0)
		dprintf(to, "%s", err.message);
	_exit(err.code);
}

static void assert_locks(uint64_t bytes, rlim_t most, int code, const char *parts)
{
	struct error err = { .code = code };
	char said[1024];
	int ends[2], status;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	pid_t child = fork();
	if (child == 0)
		preflight_child(bytes, most, ends[1]);
	close(ends[1]);
	ssize_t got = read(ends[0], said, sizeof(said) - 1);
	close(ends[0]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(got >= 0 && WIFEXITED(status));
	said[got] = '\0';
	err.message = said;
	assert_int_equal(WEXITSTATUS(status), code);
	assert_refused(&err, code, parts);
}

static void memory_that_may_not_be_locked_is_refused(void **state)
{
	(void)state;
	assert_locks(32 << 10, 40 << 10, EXIT_DONE, "");
	assert_locks(32 << 10, 24 << 10, EXIT_GRANT,
	             "memory-backing.locked|more than 32KiB|may lock 24KiB|CAP_IPC_LOCK");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_without_a_descriptor_or_of_too_large_a_file_is_refused),
		cmocka_unit_test(memory_that_has_no_address_is_not_filled),
		cmocka_unit_test(nobody_is_started_without_a_descriptor),
		cmocka_unit_test(memory_that_may_not_be_locked_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
