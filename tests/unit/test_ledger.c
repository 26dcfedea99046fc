/* The runtime directory: a VM is there exactly as long as its lock is held, by whoever inherited
 * it; what dead VMs leave is swept; what is not ours is not trusted and not removed. */
#include "stages.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "ledger.h"

#define LIMIT_MS 20000

/* A runtime directory for each test, not yet made. */
struct runtime {
	char above[64], path[80];
};

static int set_up(void **state)
{
	struct runtime *runtime = xcalloc(1, sizeof(*runtime));

	strcpy(runtime->above, "/tmp/ancla-test-ledger-XXXXXX");
	if (!mkdtemp(runtime->above))
		return -1;
	snprintf(runtime->path, sizeof(runtime->path), "%s/run", runtime->above);
	setenv("ANCLA_RUNTIME_DIR", runtime->path, 1);
	*state = runtime;
	return 0;
}

static int tear_down(void **state)
{
	struct runtime *runtime = *state;
	cleanup_free char *command = xasprintf("rm -rf '%s'", runtime->above);
	int result = system(command);

	free(runtime);
	return result;
}

static struct ledger open_ledger(void)
{
	struct ledger ledger = LEDGER_INIT;
	cleanup_error struct error err = ERROR_INIT;

	if (ledger_open(&ledger, true, &err) < 0)
		fail_msg("%s", err.message);
	return ledger;
}

static struct plan *small_plan(const char *cpu)
{
	cleanup_host struct host *host = host_of(SMT_HOST);
	cleanup_free char *members =
	    xasprintf("'placement': { 'cpu-policy': 'dedicated' }, "
	              "'cputune': { 'vcpupin': { '0': '%s' }, 'emulatorpin': '7' }",
	              cpu);

	return planned(members, host, NULL);
}

/* A VM that holds its lock, its plan written. */
static void add(struct ledger *ledger, const char *name, const char *cpu, struct vm_dir *vm)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_plan struct plan *plan = small_plan(cpu);

	free(plan->name);
	plan->name = xstrdup(name);
	if (ledger_add(ledger, name, vm, &err) < 0 || vm_write_plan(vm, plan, &err) < 0)
		fail_msg("%s", err.message);
}

/* The names that live, joined by spaces; the caller frees. */
static char *living(struct ledger *ledger)
{
	cleanup_error struct error err = ERROR_INIT;
	char **names, *text = NULL;
	size_t count, length;
	FILE *out = open_memstream(&text, &length);

	if (ledger_sweep(ledger, &names, &count, &err) < 0)
		fail_msg("%s", err.message);
	for (size_t i = 0; i < count; i++) {
		fprintf(out, "%s%s", i ? " " : "", names[i]);
		free(names[i]);
	}
	free(names);
	fclose(out);
	return text;
}

#define assert_living(ledger, expected)                                                            \
	do {                                                                                       \
		cleanup_free char *names_ = living(ledger);                                        \
		assert_string_equal(names_, expected);                                             \
	} while (0)

static bool exists(const struct runtime *runtime, const char *name)
{
	cleanup_free char *path = xasprintf("%s/%s", runtime->path, name);

	return access(path, F_OK) == 0;
}

static void write_text(const struct runtime *runtime, const char *name, const char *text)
{
	cleanup_free char *path = xasprintf("%s/%s", runtime->path, name);
	cleanup_close int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

/* A child that does nothing until it is killed, with the descriptors it inherited. */
static pid_t idle_child(void)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	return pid;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* So many more files can be opened, until this is called with LIMITLESS: a look fails at its first
 * open(2), at its second, and so on. */
enum { LIMITLESS = -1, LOOKS = 12 };
static void allow_files(int more)
{
	static rlim_t before;
	struct rlimit limit;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	if (!before)
		before = limit.rlim_cur;
	int next = more < 0 ? -1 : dup(0);
	limit.rlim_cur = more < 0 ? before : (rlim_t)(next + more);
	if (next >= 0)
		close(next);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static void without_a_directory_there_are_no_vms(void **state)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_error struct error err = ERROR_INIT;
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;

	assert_int_equal(ledger_open(&ledger, false, &err), 0);
	assert_int_equal(ledger.dirfd, -1);
	assert_false(exists(*state, ""));
	assert_living(&ledger, "");
	assert_int_equal(ledger_find(&ledger, "a", &vm, &err), -1);
	assert_refused(&err, EXIT_FAILED, "no VM \"a\"");
}

static void a_vm_is_found_while_its_lock_is_held(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT, other = VM_DIR_INIT, found = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	struct stat status;

	add(&ledger, "b", "1", &vm);
	add(&ledger, "alpha", "2", &other);
	assert_int_equal(stat(vm.path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0700);
	assert_living(&ledger, "alpha b");
	assert_int_equal(ledger_find(&ledger, "b", &found, &err), 0);
	assert_string_equal(found.name, "b");
	assert_int_equal(found.lock, -1);
	vm_dir_close(&found);
	assert_int_equal(ledger_find(&ledger, "alpah", &found, &err), -1);
	assert_refused(&err, EXIT_FAILED, "no VM \"alpah\"|did you mean \"alpha\"");
	assert_int_equal(ledger_add(&ledger, "alpha", &found, &err), -1);
	assert_refused(&err, EXIT_FAILED, "\"alpha\" is already running|ancla stop alpha");
	vm_dir_close(&other); /* it dies */
	assert_living(&ledger, "b");
	assert_false(exists(*state, "alpha"));
	assert_int_equal(ledger_add(&ledger, "alpha", &other, &err), 0);
	vm_dir_remove(&vm);
	assert_false(exists(*state, "b"));
}

static void whoever_inherits_the_lock_keeps_the_vm(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;

	add(&ledger, "a", "1", &vm);
	pid_t pid = idle_child();
	vm_dir_close(&vm); /* the launcher is gone, its child not */
	assert_living(&ledger, "a");
	end(pid);
	assert_living(&ledger, "");
	assert_false(exists(*state, "a"));
}

static void claims_are_those_of_the_living(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir a = VM_DIR_INIT, b = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	add(&ledger, "a", "1", &a);
	add(&ledger, "b", "2", &b);
	cleanup_claims struct claims *both = ledger_claims(&ledger, &err);
	assert_set(both->dedicated, "1-2");
	assert_set(both->shared, "7");
	vm_dir_close(&a);
	cleanup_claims struct claims *one = ledger_claims(&ledger, &err);
	assert_set(one->dedicated, "2");
	assert_string_equal(one->list[0].vm, "b");
}

static void a_vm_that_cannot_be_looked_at_is_not_overlooked(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	int refused = 0, seen = 0;

	(void)state;
	add(&ledger, "a", "1", &vm);
	for (int more = 0; more < LOOKS; more++) {
		cleanup_error struct error err = ERROR_INIT, not_found = ERROR_INIT;
		cleanup_vm_dir struct vm_dir found = VM_DIR_INIT;
		allow_files(more);
		cleanup_claims struct claims *claims = ledger_claims(&ledger, &err);
		int result = ledger_find(&ledger, "a", &found, &not_found);
		allow_files(LIMITLESS);
		if (claims)
			assert_set(claims->dedicated, "1");
		else
			assert_refused(&err, EXIT_FAILED, "Too many open files");
		if (result < 0)
			assert_refused(&not_found, EXIT_FAILED, "Too many open files");
		refused += !claims;
		seen += claims != NULL;
	}
	assert_true(refused > 0 && seen > 0);
}

static void a_vm_with_a_damaged_plan_stops_the_next_claim(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	static const char *const damaged[] = { "", "{", "[]", "{ \"name\": \"a\" }", "null" };
	struct vm_state written = { .state = "running", .spec = "s", .serial = "none" };

	add(&ledger, "a", "1", &vm);
	assert_int_equal(vm_write_state(&vm, &written, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(damaged); i++) {
		write_text(*state, "a/plan.json", damaged[i]);
		assert_null(ledger_claims(&ledger, &err));
		assert_refused(&err, EXIT_FAILED, "\"a\" runs|unknown|plan.json");
	}
	assert_int_equal(unlinkat(vm.dirfd, VM_PLAN, 0), 0);
	assert_null(ledger_claims(&ledger, &err));
}

static void a_vm_that_is_refused_or_ending_holds_nothing(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;

	(void)state;
	/* Its lock is held, as its launcher has not come to remove the directory. */
	assert_int_equal(ledger_add(&ledger, "a", &vm, &err), 0);
	cleanup_claims struct claims *claims = ledger_claims(&ledger, &err);
	assert_non_null(claims);
	assert_int_equal(claims->count, 0);
}

static void a_qemu_left_paused_by_a_dead_launcher_is_ended(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	pid_t launcher = idle_child();
	struct vm_state written = {
		.state = "starting",
		.spec = "s",
		.serial = "none",
		.launcher = launcher,
		.launcher_start = kernel_start_time(launcher),
	};

	add(&ledger, "a", "1", &vm);
	pid_t qemu = idle_child(); /* has the lock */
	written.qemu = qemu;
	written.qemu_start = kernel_start_time(qemu);
	assert_int_equal(vm_write_state(&vm, &written, &err), 0);
	vm_dir_close(&vm);
	assert_living(&ledger, "a"); /* it is being started */
	end(launcher);
	cleanup_close int pidfd = kernel_pidfd(qemu, written.qemu_start);
	assert_living(&ledger, "");
	assert_true(kernel_wait_gone(pidfd, 0));
	assert_false(exists(*state, "a"));
	assert_int_equal(waitpid(qemu, NULL, 0), qemu);
}

static void a_start_outlives_who_cannot_see_its_launcher(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	struct vm_state written = { .state = "starting", .spec = "s", .serial = "none" };

	(void)state;
	add(&ledger, "a", "1", &vm);
	written.launcher = idle_child();
	written.launcher_start = kernel_start_time(written.launcher);
	written.qemu = idle_child();
	written.qemu_start = kernel_start_time(written.qemu);
	assert_int_equal(vm_write_state(&vm, &written, &err), 0);
	vm_dir_close(&vm);
	for (int more = 0; more < LOOKS; more++) {
		cleanup_error struct error ignored = ERROR_INIT;
		char **names;
		size_t count;
		allow_files(more);
		ledger_sweep(&ledger, &names, &count, &ignored);
		allow_files(LIMITLESS);
		for (size_t i = 0; i < count; i++)
			free(names[i]);
		free(names);
	}
	assert_living(&ledger, "a");
	assert_int_equal(waitpid(written.qemu, NULL, WNOHANG), 0);
	end(written.launcher);
	end(written.qemu);
}

/* The cgroup is a directory as any other here. */
static void a_cgroup_is_not_forgotten_before_it_is_removed(void **state)
{
	struct runtime *runtime = *state;
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_free char *directory = xasprintf("%s/ancla-a", runtime->above);
	struct cgroup cgroup = {
		.version = 1, .name = "a", .parent = runtime->above, .limits = directory
	};
	int kept = 0, removed = 0;

	for (int more = 0; more < LOOKS; more++) {
		cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
		cleanup_error struct error err = ERROR_INIT;
		char **names;
		size_t count;
		add(&ledger, "a", "1", &vm);
		assert_int_equal(mkdir(directory, 0700), 0);
		assert_int_equal(vm_write_cgroup(&vm, &cgroup, &err), 0);
		vm_dir_close(&vm); /* it dies */
		allow_files(more);
		int result = ledger_sweep(&ledger, &names, &count, &err);
		allow_files(LIMITLESS);
		for (size_t i = 0; i < count; i++)
			free(names[i]);
		free(names);
		if (access(directory, F_OK) == 0) {
			assert_true(exists(runtime, "a/cgroup.json"));
			kept++;
		} else {
			removed += result == 0;
		}
		assert_living(&ledger, "");
		assert_int_equal(access(directory, F_OK), -1);
		assert_false(exists(runtime, "a"));
	}
	assert_true(kept > 0 && removed > 0);
}

static void a_running_qemu_outlives_its_launcher(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	struct vm_state written = { .state = "running", .spec = "s", .serial = "none" };

	(void)state;
	add(&ledger, "a", "1", &vm);
	pid_t qemu = idle_child();
	written.qemu = qemu;
	written.qemu_start = kernel_start_time(qemu);
	assert_int_equal(vm_write_state(&vm, &written, &err), 0);
	vm_dir_close(&vm);
	assert_living(&ledger, "a");
	assert_int_equal(kill(qemu, 0), 0);
	end(qemu);
}

static void the_state_is_read_back_and_distrusted(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	struct vm_state written = {
		.state = "running",
		.spec = "/a \"b\".json",
		.serial = "pty",
		.launcher = 12,
		.qemu = 34,
		.launcher_start = UINT64_C(1) << 40,
		.qemu_start = 56,
		.started = 1700000000,
	};
	cleanup_vm_state struct vm_state now = { 0 };
	static const char *const strange[] = { "{}",
		                               "{ \"state\": 5, \"qemu\": [], \"launcher\": {} }",
		                               "{ \"qemu\": 1e300, \"qemu-start\": null }" };
	static const char *const nobody[] = { "{ \"qemu\": -1, \"launcher\": -2147483648 }",
		                              "{ \"qemu\": 4294967297, \"launcher\": 1e18 }" };

	add(&ledger, "a", "1", &vm);
	assert_int_equal(vm_write_state(&vm, &written, &err), 0);
	assert_int_equal(vm_read_state(&vm, &now, &err), 0);
	assert_string_equal(now.state, "running");
	assert_string_equal(now.spec, written.spec);
	assert_string_equal(now.serial, "pty");
	assert_int_equal(now.launcher, 12);
	assert_int_equal(now.qemu, 34);
	assert_int_equal(now.launcher_start, written.launcher_start);
	assert_int_equal(now.qemu_start, 56);
	assert_int_equal(now.started, written.started);
	for (size_t i = 0; i < ARRAY_SIZE(strange); i++) {
		cleanup_vm_state struct vm_state other = { 0 };
		write_text(*state, "a/state.json", strange[i]);
		assert_int_equal(vm_read_state(&vm, &other, &err), 0);
		assert_string_equal(other.state, "");
	}
	for (size_t i = 0; i < ARRAY_SIZE(nobody); i++) {
		cleanup_vm_state struct vm_state other = { 0 };
		write_text(*state, "a/state.json", nobody[i]);
		assert_int_equal(vm_read_state(&vm, &other, &err), 0);
		assert_int_equal(other.qemu, 0);
		assert_int_equal(other.launcher, 0);
	}
	write_text(*state, "a/state.json", "[]");
	cleanup_vm_state struct vm_state none = { 0 };
	assert_int_equal(vm_read_state(&vm, &none, &err), -1);
	assert_refused(&err, EXIT_FAILED, "a/state.json");
}

static void assert_not_opened(const char *parts)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_error struct error err = ERROR_INIT;

	assert_int_equal(ledger_open(&ledger, true, &err), -1);
	assert_refused(&err, EXIT_FAILED, parts);
}

static void a_directory_that_others_could_have_made_is_refused(void **state)
{
	struct runtime *runtime = *state;
	cleanup_free char *target = xasprintf("%s/target", runtime->above);
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_error struct error err = ERROR_INIT;

	assert_int_equal(mkdir(target, 0700), 0);
	assert_int_equal(symlink(target, runtime->path), 0);
	assert_not_opened("cannot open the runtime directory");
	unlink(runtime->path);
	mkdir(runtime->path, 0700);
	chmod(runtime->path, 0777);
	assert_not_opened("can be written by others (mode 777)|chmod 700");
	chmod(runtime->path, 0720);
	assert_not_opened("can be written by others");
	chmod(runtime->path, 0700);
	if (geteuid() == 0) {
		assert_int_equal(chown(runtime->path, 12345, 0), 0);
		assert_not_opened("belongs to user 12345");
		assert_int_equal(chown(runtime->path, 0, 0), 0);
	}
	assert_int_equal(rmdir(runtime->path), 0);
	assert_int_equal(mknod(runtime->path, S_IFREG | 0600, 0), 0);
	assert_not_opened("cannot open the runtime directory");
	unlink(runtime->path);
	assert_int_equal(ledger_open(&ledger, true, &err), 0);
}

static void without_any_runtime_directory_it_says_which_to_set(void **state)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_error struct error err = ERROR_INIT;
	const char *user = getenv("XDG_RUNTIME_DIR");
	cleanup_free char *before = user ? xstrdup(user) : NULL;

	(void)state;
	if (geteuid() == 0 && seteuid(65534) < 0)
		fail();
	unsetenv("ANCLA_RUNTIME_DIR");
	unsetenv("XDG_RUNTIME_DIR");
	int result = ledger_open(&ledger, false, &err);
	if (before)
		setenv("XDG_RUNTIME_DIR", before, 1);
	if (getuid() == 0 && seteuid(0) < 0)
		fail();
	assert_int_equal(result, -1);
	assert_refused(&err, EXIT_FAILED, "XDG_RUNTIME_DIR|ANCLA_RUNTIME_DIR");
}

static void what_is_not_a_vms_is_left_alone(void **state)
{
	struct runtime *runtime = *state;
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *directory = xasprintf("%s/mine", runtime->path);
	cleanup_free char *link = xasprintf("%s/link", runtime->path);
	cleanup_free char *target = xasprintf("%s/elsewhere", runtime->above);
	cleanup_free char *kept = xasprintf("%s/lock", target);

	write_text(runtime, "note", "a file");
	mkdir(directory, 0700);
	write_text(runtime, "mine/notes.txt", "keep this");
	mkdir(target, 0700);
	assert_int_equal(symlink(target, link), 0);
	write_text(runtime, "link/lock", "not a VM's");
	assert_living(&ledger, "");
	assert_true(exists(runtime, "note"));
	assert_true(exists(runtime, "mine/notes.txt"));
	assert_int_equal(access(kept, F_OK), 0);
	for (int i = 0; i < 3; i++) {
		static const char *const names[] = { "note", "mine", "link" };
		assert_int_equal(ledger_add(&ledger, names[i], &vm, &err), -1);
		assert_refused(&err, EXIT_FAILED, "is no VM's|another name");
	}
}

static void a_lock_that_is_a_link_is_not_followed(void **state)
{
	struct runtime *runtime = *state;
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_free char *directory = xasprintf("%s/a", runtime->path);
	cleanup_free char *lock = xasprintf("%s/a/lock", runtime->path);
	cleanup_free char *target = xasprintf("%s/target", runtime->above);

	assert_int_equal(mknod(target, S_IFREG | 0600, 0), 0);
	mkdir(directory, 0700);
	assert_int_equal(symlink(target, lock), 0);
	assert_living(&ledger, "");
	assert_int_equal(access(target, F_OK), 0);
	assert_true(exists(runtime, "a")); /* no VM's: not ours to remove */
	assert_int_equal(unlink(lock), 0);
	assert_int_equal(mkfifo(lock, 0600), 0); /* opening one would wait for ever */
	assert_living(&ledger, "");
	assert_true(exists(runtime, "a"));
}

/* It removes its directory in its own time: the lock goes last, and then the empty directory. */
static void a_vm_that_is_just_ending_is_not_in_the_way(void **state)
{
	struct runtime *runtime = *state;
	struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir ending = VM_DIR_INIT, vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;

	add(&ledger, "a", "3", &ending);
	assert_int_equal(unlinkat(ending.dirfd, VM_PLAN, 0), 0);
	assert_int_equal(ledger_add(&ledger, "a", &vm, &err), -1);
	assert_refused(&err, EXIT_FAILED, "already running");
	error_clear(&err);
	assert_int_equal(unlinkat(ending.dirfd, "lock", 0), 0);
	add(&ledger, "a", "3", &vm);
	/* What it does last is nothing to the new one. */
	vm_dir_remove(&ending);
	assert_true(exists(runtime, "a/lock"));
	assert_true(exists(runtime, "a/plan.json"));
	assert_living(&ledger, "a");
	ledger_close(&ledger);
}

static void two_processes_never_claim_at_once(void **state)
{
	enum { PROCESSES = 8 };
	pid_t pids[PROCESSES];
	int winners = 0, go[2], done[2];
	char byte;

	(void)state;
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	assert_int_equal(pipe2(done, O_CLOEXEC), 0);
	for (int i = 0; i < PROCESSES; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i])
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		struct ledger ledger = LEDGER_INIT;
		struct vm_dir vm = VM_DIR_INIT;
		struct error err = ERROR_INIT;
		cleanup_bitmap hwloc_bitmap_t wanted = list("3");
		close(go[1]);
		/* All wait here for the end of the file. */
		if (read(go[0], &byte, 1) != 0 || ledger_open(&ledger, true, &err) < 0)
			_exit(2);
		struct claims *claims = ledger_claims(&ledger, &err);
		cleanup_free char *name = xasprintf("vm%d", i);
		if (!claims)
			_exit(2);
		bool won = !claims_conflict(claims, wanted, false);
		if (won)
			add(&ledger, name, "3", &vm);
		ledger_close(&ledger);
		/* The winner holds its VM until all have looked. */
		if (write(done[1], won ? "w" : "l", 1) != 1)
			_exit(2);
		for (;;)
			pause();
	}
	close(go[1]);
	close(go[0]);
	for (int i = 0; i < PROCESSES; i++) {
		assert_int_equal(read(done[0], &byte, 1), 1);
		winners += byte == 'w';
	}
	for (int i = 0; i < PROCESSES; i++)
		end(pids[i]);
	assert_int_equal(winners, 1);
	close(done[0]);
	close(done[1]);
}

static void a_socket_listens_however_long_the_path(void **state)
{
	struct runtime *runtime = *state;
	cleanup_free char *deep =
	    xasprintf("%s/%0100d", runtime->above, 0); /* more than sun_path has */
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	struct stat status;

	setenv("ANCLA_RUNTIME_DIR", deep, 1);
	cleanup_ledger struct ledger ledger = open_ledger();
	assert_int_equal(ledger_add(&ledger, "a", &vm, &err), 0);
	cleanup_close int listening = vm_listen(&vm, VM_MONITOR, &err);
	assert_true(listening >= 0);
	assert_int_equal(fstatat(vm.dirfd, VM_MONITOR, &status, 0), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
	assert_true(fcntl(listening, F_GETFD) & FD_CLOEXEC);
	cleanup_close int client = vm_connect(&vm, VM_MONITOR, &err);
	assert_true(client >= 0);
	assert_true(fcntl(client, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(vm_listen(&vm, VM_MONITOR, &err), -1);
	assert_refused(&err, EXIT_FAILED, VM_MONITOR);
	vm_dir_remove(&vm);
	assert_int_equal(access(vm.path, F_OK), -1);
}

/* Somebody else's socket at the path, or behind a link, would hear what is meant for QEMU. */
static void a_connection_is_to_the_directory_that_is_open(void **state)
{
	struct runtime *runtime = *state;
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT, other = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT, refused = ERROR_INIT;
	cleanup_free char *elsewhere = xasprintf("%s/elsewhere", runtime->above);
	cleanup_free char *theirs = xasprintf("%s/b/%s", runtime->path, VM_MONITOR);

	add(&ledger, "a", "1", &vm);
	add(&ledger, "b", "2", &other);
	cleanup_close int ours = vm_listen(&vm, VM_MONITOR, &err);
	cleanup_close int others = vm_listen(&other, VM_MONITOR, &err);
	assert_true(ours >= 0 && others >= 0);
	assert_int_equal(symlinkat(theirs, vm.dirfd, VM_COMMANDS), 0);
	assert_int_equal(vm_connect(&vm, VM_COMMANDS, &refused), -1);
	assert_refused(&refused, EXIT_FAILED, "a/" VM_COMMANDS "|Connection refused");
	assert_int_equal(rename(vm.path, elsewhere), 0);
	assert_int_equal(rename(other.path, vm.path), 0);
	cleanup_close int client = vm_connect(&vm, VM_MONITOR, &err);
	assert_true(client >= 0);
	struct pollfd heard[] = { { ours, POLLIN, 0 }, { others, POLLIN, 0 } };
	assert_int_equal(poll(heard, 2, LIMIT_MS), 1);
	assert_true(heard[0].revents & POLLIN);
	assert_int_equal(rename(vm.path, other.path), 0);
	assert_int_equal(rename(elsewhere, vm.path), 0);
}

/* Where a file cannot be removed, the lock stays: by it the next command knows what it may remove.
 */
static void what_cannot_be_removed_now_is_removed_next_time(void **state)
{
	struct runtime *runtime = *state;
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_free char *log = xasprintf("%s/a/qemu.log", runtime->path);

	add(&ledger, "a", "1", &vm);
	assert_int_equal(mkdir(log, 0700), 0); /* which unlink(2) does not remove */
	vm_dir_remove(&vm);
	vm_dir_close(&vm);
	assert_true(exists(runtime, "a/lock"));
	assert_int_equal(rmdir(log), 0);
	assert_living(&ledger, "");
	assert_false(exists(runtime, "a"));
}

/* A thousand vCPUs that may run on every second CPU of four thousand. */
static void the_plan_of_a_huge_vm_is_read_back(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	cleanup_plan struct plan *plan = small_plan("1");

	(void)state;
	plan->vcpus = xreallocarray(plan->vcpus, 1000, sizeof(*plan->vcpus));
	for (size_t i = 0; i < 1000; i++) {
		if (i >= plan->n_vcpus)
			plan->vcpus[i] = (struct plan_vcpu){ .cpus = xbitmap(), .guest_node = -1 };
		for (unsigned cpu = 0; cpu < 4096; cpu += 2)
			hwloc_bitmap_set(plan->vcpus[i].cpus, cpu);
	}
	plan->n_vcpus = 1000;
	plan->cores = 1000;
	assert_int_equal(ledger_add(&ledger, "huge", &vm, &err), 0);
	assert_int_equal(vm_write_plan(&vm, plan, &err), 0);
	cleanup_plan struct plan *back = vm_read_plan(&vm, &err);
	if (!back)
		fail_msg("%s", err.message);
	assert_int_equal(back->n_vcpus, 1000);
	assert_true(hwloc_bitmap_isequal(back->vcpus[999].cpus, plan->vcpus[999].cpus));
}

/* Three bytes a value in the file are some 150 in memory. */
static void a_file_of_more_values_than_any_plan_is_not_parsed(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT;
	static char text[3 * 300000 + 1];

	for (size_t i = 0; i + 1 < sizeof(text); i++)
		text[i] = "[],"[i % 3];
	add(&ledger, "a", "1", &vm);
	write_text(*state, "a/plan.json", text);
	assert_null(vm_read_plan(&vm, &err));
	assert_refused(&err, EXIT_FAILED, "a/plan.json|more than 250000 values");
}

/* What json-c would take besides JSON is none of ours, and would hide values from whoever counts
 * them. */
static void a_file_that_is_more_than_json_is_not_parsed(void **state)
{
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	static const char *const texts[] = {
		"{ 'state': \"running\" }",           "{ \"state\": \"running\" /* \" */ }",
		"{ \"state\": \"running\" // \"\n }", "{ state: \"running\" }",
		"{ \"state\": \"running\", }",        "{ \"state\": \"running\" } {}",
		"{ \"state\": \"running\"",
	};
	size_t length = 0;
	cleanup_free char *hidden = xcalloc(3 * 300000 + 64, 1);

	add(&ledger, "a", "1", &vm);
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		cleanup_vm_state struct vm_state read = { 0 };
		cleanup_error struct error err = ERROR_INIT;
		write_text(*state, "a/state.json", texts[i]);
		assert_int_equal(vm_read_state(&vm, &read, &err), -1);
		assert_refused(&err, EXIT_FAILED, "a/state.json is not JSON");
	}
	length += (size_t)sprintf(hidden, "{'\"':[[]");
	for (size_t i = 0; i < 300000; i++)
		length += (size_t)sprintf(hidden + length, ",[]");
	strcpy(hidden + length, "]}");
	cleanup_error struct error err = ERROR_INIT;
	write_text(*state, "a/plan.json", hidden);
	assert_null(vm_read_plan(&vm, &err));
	assert_refused(&err, EXIT_FAILED, "a/plan.json is not JSON");
}

/* What a user may have written. */
static void of_somebody_elses_files_so_much_is_read(void **state)
{
	struct runtime *runtime = *state;
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	cleanup_error struct error err = ERROR_INIT, linked = ERROR_INIT, large = ERROR_INIT;
	cleanup_free char *path = xasprintf("%s/a/plan.json", runtime->path);
	cleanup_free char *other = xasprintf("%s/a/other", runtime->path);
	struct stat status;

	add(&ledger, "a", "1", &vm);
	assert_int_equal(stat(path, &status), 0);
	struct vm_budget budget = { .bytes = 2 * (size_t)status.st_size - 1 };
	vm.budget = &budget;
	assert_int_equal(link(path, other), 0);
	assert_null(vm_read_plan(&vm, &linked));
	assert_refused(&linked, EXIT_FAILED, "a/plan.json|Too many links");
	assert_int_equal(unlink(other), 0);
	assert_false(budget.exceeded);
	cleanup_plan struct plan *plan = vm_read_plan(&vm, &err);
	assert_non_null(plan);
	assert_int_equal(budget.bytes, status.st_size - 1);
	assert_false(budget.exceeded);
	assert_null(vm_read_plan(&vm, &large));
	assert_refused(&large, EXIT_FAILED, "a/plan.json is larger than");
	assert_true(budget.exceeded);
	assert_int_equal(budget.bytes, 0);
}

static void last_words_are_few_and_whole(void **state)
{
	struct runtime *runtime = *state;
	cleanup_ledger struct ledger ledger = open_ledger();
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
	char many[5000] = "";
	static const struct {
		const char *log, *words;
	} cases[] = {
		{ "", "" },
		{ "one", "one" },
		{ "one\n", "one" },
		{ "one\n\ntwo\n\n", "one; two" },
		{ "1\n2\n3\n4\n5\n6\n", "2; 3; 4; 5; 6" },
		{ "\033[2Ja\xc2\x9b\xe2\x80\xae\n\xff\xc3\xbc", " [2Ja     ;  \xc3\xbc" },
	};

	add(&ledger, "a", "1", &vm);
	cleanup_free char *none = vm_last_words(&vm);
	assert_string_equal(none, "");
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		write_text(runtime, "a/qemu.log", cases[i].log);
		cleanup_free char *words = vm_last_words(&vm);
		assert_string_equal(words, cases[i].words);
	}
	memset(many, 'x', sizeof(many) - 1);
	write_text(runtime, "a/qemu.log", many);
	cleanup_free char *cut = vm_last_words(&vm);
	assert_int_equal(strlen(cut), 1024);
}

#define test(function) cmocka_unit_test_setup_teardown(function, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		test(without_a_directory_there_are_no_vms),
		test(a_vm_is_found_while_its_lock_is_held),
		test(whoever_inherits_the_lock_keeps_the_vm),
		test(claims_are_those_of_the_living),
		test(a_vm_that_cannot_be_looked_at_is_not_overlooked),
		test(a_vm_with_a_damaged_plan_stops_the_next_claim),
		test(a_vm_that_is_refused_or_ending_holds_nothing),
		test(a_qemu_left_paused_by_a_dead_launcher_is_ended),
		test(a_start_outlives_who_cannot_see_its_launcher),
		test(a_cgroup_is_not_forgotten_before_it_is_removed),
		test(a_running_qemu_outlives_its_launcher),
		test(the_state_is_read_back_and_distrusted),
		test(a_directory_that_others_could_have_made_is_refused),
		test(without_any_runtime_directory_it_says_which_to_set),
		test(what_is_not_a_vms_is_left_alone),
		test(a_lock_that_is_a_link_is_not_followed),
		test(a_vm_that_is_just_ending_is_not_in_the_way),
		test(two_processes_never_claim_at_once),
		test(a_socket_listens_however_long_the_path),
		test(a_connection_is_to_the_directory_that_is_open),
		test(what_cannot_be_removed_now_is_removed_next_time),
		test(the_plan_of_a_huge_vm_is_read_back),
		test(a_file_of_more_values_than_any_plan_is_not_parsed),
		test(a_file_that_is_more_than_json_is_not_parsed),
		test(of_somebody_elses_files_so_much_is_read),
		test(last_words_are_few_and_whole),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
