/* QEMU's process: held until it is released, then exactly what was meant: descriptors, affinity,
 * session, signals; and reported truly when it fails. A shell script stands for QEMU. */
#include "stages.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel.h"
#include "spawn.h"

#define LIMIT_MS 60000

/* A plan with only an emulator, and a line that runs a script. */
struct setting {
	struct plan *plan;
	struct command_line line;
	char *argv[4];
	hwloc_bitmap_t nodes;
	int log;
	struct inherited inherited[3];
	int fds[3];
};

static void setting_init(struct setting *s, char *script)
{
	memset(s, 0, sizeof(*s));
	s->plan = plan_new();
	s->plan->emulator = xbitmap();
	s->nodes = xbitmap();
	assert_int_equal(kernel_get_affinity(0, s->plan->emulator), 0);
	s->argv[0] = "/bin/sh";
	s->argv[1] = "-c";
	s->argv[2] = script;
	s->line = (struct command_line){ .argv = s->argv, .argc = 3, .inherited = s->inherited };
	s->log = memfd_create("log", MFD_CLOEXEC);
}

static void setting_free(struct setting *s)
{
	plan_free(s->plan);
	hwloc_bitmap_free(s->nodes);
	close(s->log);
}

static struct qemu hold(const struct setting *s)
{
	struct qemu qemu = QEMU_INIT;
	cleanup_error struct error err = ERROR_INIT;

	if (spawn_qemu(&s->line, s->plan, s->fds, s->log, s->nodes, false, &qemu, &err) < 0)
		fail_msg("%s", err.message);
	return qemu;
}

static int run(const struct setting *s)
{
	struct qemu qemu = hold(s);
	cleanup_error struct error err = ERROR_INIT;

	assert_int_equal(spawn_release(&qemu, &err), 0);
	assert_true(kernel_wait_gone(qemu.pidfd, LIMIT_MS));
	return spawn_reap(&qemu);
}

static char *log_text(const struct setting *s)
{
	char text[4096];
	ssize_t got = pread(s->log, text, sizeof(text) - 1, 0);

	assert_true(got >= 0);
	text[got] = '\0';
	return xstrdup(text);
}

static void nothing_runs_before_the_release(void **state)
{
	struct setting s;
	struct qemu qemu;

	(void)state;
	setting_init(&s, "echo ran");
	qemu = hold(&s);
	assert_false(kernel_wait_gone(qemu.pidfd, 0));
	int status = spawn_end(&qemu);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(qemu.pid, 0);
	assert_int_equal(qemu.pidfd, -1);
	cleanup_free char *text = log_text(&s);
	assert_string_equal(text, "");
	assert_int_equal(spawn_end(&qemu), 0); /* there is none any more */
	setting_free(&s);
}

/* As in a container whose seccomp filter does not know these system calls. */
static void refuse(unsigned number, unsigned other)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, other, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { ARRAY_SIZE(filter), filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		_exit(99);
}

/* The same in a child without these system calls: the status of its QEMU. */
static int run_without(const struct setting *s, unsigned number, unsigned other)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		refuse(number, other);
		_exit(WEXITSTATUS(run(s)));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void has_exactly_the_descriptors_of_the_line(int (*start)(const struct setting *s))
{
	struct setting s;
	int extra = memfd_create("extra", 0); /* not close-on-exec, and not QEMU's */

	setting_init(&s, "ls -l /proc/$$/fd; :");
	s.inherited[0] = (struct inherited){ INHERIT_MONITOR, 0, 3 };
	s.inherited[1] = (struct inherited){ INHERIT_LOCK, 0, 5 };
	s.inherited[2] = (struct inherited){ INHERIT_MEMORY, 0, 10 };
	s.line.n_inherited = 3;
	/* Descriptors that are at each other's places already. */
	s.fds[0] = fcntl(memfd_create("a", 0), F_DUPFD, 10);
	s.fds[1] = memfd_create("b", MFD_CLOEXEC);
	s.fds[2] = memfd_create("c", MFD_CLOEXEC);
	assert_int_equal(start(&s), 0);
	cleanup_free char *text = log_text(&s);
	assert_non_null(strstr(text, " 0 -> /dev/null\n"));
	assert_non_null(strstr(text, " 1 -> /memfd:log (deleted)\n"));
	assert_non_null(strstr(text, " 2 -> /memfd:log (deleted)\n"));
	assert_non_null(strstr(text, " 3 -> /memfd:a (deleted)\n"));
	assert_non_null(strstr(text, " 5 -> /memfd:b (deleted)\n"));
	assert_non_null(strstr(text, " 10 -> /memfd:c (deleted)\n"));
	assert_null(strstr(text, "extra"));
	assert_null(strstr(text, " 4 -> "));
	assert_null(strstr(text, "pipe:"));
	for (size_t i = 0; i < 3; i++)
		close(s.fds[i]);
	close(extra);
	setting_free(&s);
}

static void it_has_exactly_the_descriptors_of_the_line(void **state)
{
	(void)state;
	has_exactly_the_descriptors_of_the_line(run);
}

static int run_without_close_range(const struct setting *s)
{
	return run_without(s, SYS_close_range, SYS_close_range);
}

static void also_without_close_range(void **state)
{
	(void)state;
	has_exactly_the_descriptors_of_the_line(run_without_close_range);
}

static void descriptors_that_cannot_be_closed_end_it(void **state)
{
	struct setting s;

	(void)state;
	setting_init(&s, "echo ran");
	assert_int_equal(run_without(&s, SYS_close_range, SYS_getdents64), 127);
	cleanup_free char *text = log_text(&s);
	assert_string_equal(text, "cannot close what is not QEMU's: Operation not permitted\n");
	setting_free(&s);
}

/* As a parent that is no glibc program may leave it. */
static void ignore(int number)
{
	static const struct {
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(void);
		uint64_t mask;
	} ignored = { .handler = SIG_IGN };

	assert_int_equal(syscall(SYS_rt_sigaction, number, &ignored, NULL, sizeof(ignored.mask)),
	                 0);
}

static void it_starts_on_the_emulators_cpus_in_a_session_of_its_own(void **state)
{
	struct setting s;
	sigset_t blocked, before;
	cleanup_bitmap hwloc_bitmap_t all = xbitmap();

	(void)state;
	setting_init(&s, "grep -E 'Cpus_allowed_list|SigBlk|SigIgn' /proc/self/status; "
	                 "set -- $(cat /proc/$$/stat); echo session $(($6 == $$))");
	hwloc_bitmap_copy(all, s.plan->emulator);
	hwloc_bitmap_only(s.plan->emulator, (unsigned)hwloc_bitmap_last(all));
	/* What the launcher blocks and ignores is not QEMU's. */
	sigfillset(&blocked);
	sigprocmask(SIG_BLOCK, &blocked, &before);
	signal(SIGPIPE, SIG_IGN);
	ignore(33); /* glibc's own */
	assert_int_equal(run(&s), 0);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	cleanup_free char *text = log_text(&s);
	cleanup_free char *cpus = xasprintf("Cpus_allowed_list:\t%d\n", hwloc_bitmap_last(all));
	assert_non_null(strstr(text, cpus));
	assert_non_null(strstr(text, "SigBlk:\t0000000000000000\n"));
	assert_non_null(strstr(text, "SigIgn:\t0000000000000000\n"));
	assert_non_null(strstr(text, "session 1\n"));
	setting_free(&s);
}

static void a_binary_that_is_not_there_says_so_with_status_127(void **state)
{
	struct setting s;

	(void)state;
	setting_init(&s, "");
	s.argv[0] = "/no/such/qemu";
	int status = run(&s);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 127);
	cleanup_free char *text = log_text(&s);
	assert_string_equal(text, "/no/such/qemu: No such file or directory\n");
	setting_free(&s);
}

static void cpus_that_the_kernel_refuses_end_it_with_the_reason(void **state)
{
	struct setting s;

	(void)state;
	setting_init(&s, "echo ran");
	hwloc_bitmap_only(s.plan->emulator, 65000);
	struct qemu qemu = hold(&s);
	assert_true(kernel_wait_gone(qemu.pidfd, LIMIT_MS));
	cleanup_free char *told = spawn_describe(spawn_reap(&qemu));
	assert_string_equal(told, "exited with status 127");
	cleanup_free char *text = log_text(&s);
	assert_non_null(strstr(text, "emulator's affinity: Invalid argument"));
	setting_free(&s);
}

static void a_launcher_that_dies_before_the_release_leaves_nothing(void **state)
{
	struct setting s;
	pid_t pid, launcher;
	int ends[2];

	(void)state;
	setting_init(&s, "echo ran");
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	launcher = fork();
	assert_true(launcher >= 0);
	if (launcher == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* with a test that fails */
		struct qemu qemu = hold(&s);
		if (write(ends[1], &qemu.pid, sizeof(qemu.pid)) < 0)
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(ends[0], &pid, sizeof(pid)), sizeof(pid));
	cleanup_close int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	assert_true(pidfd >= 0);
	kill(launcher, SIGKILL);
	assert_int_equal(waitpid(launcher, NULL, 0), launcher);
	assert_true(kernel_wait_gone(pidfd, LIMIT_MS));
	cleanup_free char *text = log_text(&s);
	assert_string_equal(text, "");
	close(ends[0]);
	close(ends[1]);
	setting_free(&s);
}

static void its_end_is_told_as_it_was(void **state)
{
	struct setting s;
	char script[32];
	static const struct {
		const char *script, *told;
	} cases[] = {
		{ "exit 3", "exited with status 3" },
		{ "kill -SEGV $$", "was killed by SIGSEGV (Segmentation fault)" },
		{ "kill -40 $$", "was killed by signal 40" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		snprintf(script, sizeof(script), "%s", cases[i].script);
		setting_init(&s, script);
		cleanup_free char *told = spawn_describe(run(&s));
		assert_string_equal(told, cases[i].told);
		setting_free(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_runs_before_the_release),
		cmocka_unit_test(it_has_exactly_the_descriptors_of_the_line),
		cmocka_unit_test(also_without_close_range),
		cmocka_unit_test(descriptors_that_cannot_be_closed_end_it),
		cmocka_unit_test(it_starts_on_the_emulators_cpus_in_a_session_of_its_own),
		cmocka_unit_test(a_binary_that_is_not_there_says_so_with_status_127),
		cmocka_unit_test(cpus_that_the_kernel_refuses_end_it_with_the_reason),
		cmocka_unit_test(a_launcher_that_dies_before_the_release_leaves_nothing),
		cmocka_unit_test(its_end_is_told_as_it_was),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
