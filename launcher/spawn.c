#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "child.h"
#include "kernel.h"
#include "memory.h"
#include "privileges.h"
#include "spawn.h"
#include "util.h"

/* Exit status of a child that could not become QEMU. */
#define EXIT_NOT_EXECUTED 127

/* Says why on the log, which the launcher reads, and ends the child. */
static void child_fail(const char *what) __attribute__((noreturn));
static void child_fail(const char *what)
{
	dprintf(STDERR_FILENO, "%s: %s\n", what, strerror(errno));
	_exit(EXIT_NOT_EXECUTED);
}

/* Moves the inherited descriptors to their numbers, and closes all others. Both ranges may overlap,
 * so all go above the target range first. */
static void child_descriptors(const struct command_line *line, const int *fds, int *high)
{
	int top = FD_MEMORY + (int)line->n_inherited * 2 + 64;

	for (size_t i = 0; i < line->n_inherited; i++) {
		high[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, top);
		if (high[i] < 0)
			child_fail("cannot pass a descriptor to QEMU");
	}
	for (size_t i = 0; i < line->n_inherited; i++) {
		if (dup2(high[i], line->inherited[i].fd) < 0)
			child_fail("cannot pass a descriptor to QEMU");
		high[i] = line->inherited[i].fd;
	}
	if (child_close_others(STDERR_FILENO + 1, high, line->n_inherited) < 0)
		child_fail("cannot close what is not QEMU's");
}

/* By system call: glibc's signal() does not touch the two that it keeps for itself, which whoever
 * started us may have left ignored. */
static void child_signals(void)
{
	static const struct {
		void (*handler)(int);
		unsigned long flags;
		void (*restorer)(void);
		uint64_t mask;
	} by_default = { .handler = SIG_DFL };
	sigset_t none;

	for (int i = 1; i < _NSIG; i++)
		syscall(SYS_rt_sigaction, i, &by_default, NULL, sizeof(by_default.mask));
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The policy of QEMU's own heap: near its threads; or, with restrictive, the only nodes it has. */
static void child_memory_policy(const struct plan *plan, hwloc_const_bitmap_t heap_nodes)
{
	cleanup_bitmap hwloc_bitmap_t confined = xbitmap();
	struct error err = ERROR_INIT;
	int result;

	for (size_t i = 0; i < plan->n_memory; i++)
		if (plan->memory[i].policy == MEM_POLICY_RESTRICTIVE && plan->memory[i].host_nodes)
			hwloc_bitmap_or(confined, confined, plan->memory[i].host_nodes);
	if (!hwloc_bitmap_iszero(confined))
		result = memory_policy_of_thread(MEM_POLICY_RESTRICTIVE, confined, &err);
	else
		result = memory_policy_of_thread(MEM_POLICY_PREFERRED, heap_nodes, &err);
	if (result < 0) {
		dprintf(STDERR_FILENO, "%s\n", err.message);
		_exit(EXIT_NOT_EXECUTED);
	}
}

static void child_limits(const struct plan *plan)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY }, most;

	/* Without the privilege mlockall() may still work (CAP_IPC_LOCK, a high limit): QEMU tells.
	 */
	if (!plan->locked && !plan->process.locks)
		return;
	if (setrlimit(RLIMIT_MEMLOCK, &unlimited) < 0 && getrlimit(RLIMIT_MEMLOCK, &most) == 0) {
		most.rlim_cur = most.rlim_max;
		setrlimit(RLIMIT_MEMLOCK, &most);
	}
}

static void child_main(const struct command_line *line, const struct plan *plan, const int *fds,
                       int log, int go, hwloc_const_bitmap_t heap_nodes, bool dies)
    __attribute__((noreturn));
static void child_main(const struct command_line *line, const struct plan *plan, const int *fds,
                       int log, int go, hwloc_const_bitmap_t heap_nodes, bool dies)
{
	cleanup_free int *high = xcalloc(line->n_inherited, sizeof(*high));
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	pid_t parent = getppid();
	const char *what = NULL;
	char word;

	if (dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 ||
	    dup2(log, STDERR_FILENO) < 0)
		child_fail("cannot redirect QEMU's output");
	setsid();
	/* Its paths are absolute, and whatever is mounted here shall not stay busy. */
	if (chdir("/") < 0)
		child_fail("/");
	child_signals();
	if (kernel_set_affinity(0, plan->emulator) < 0)
		child_fail("cannot set the emulator's affinity");
	child_memory_policy(plan, heap_nodes);
	child_limits(plan);
	ssize_t got;
	do
		got = read(go, &word, 1);
	while (got < 0 && errno == EINTR);
	if (got != 1)
		_exit(EXIT_NOT_EXECUTED);
	child_descriptors(line, fds, high);
	if (privileges_take(&plan->process, &what) < 0)
		child_fail(what);
	/* Last, as another user id undoes it; and the parent may have died just before. */
	if (dies && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		child_fail("cannot tie QEMU to its supervisor");
	if (dies && getppid() != parent)
		_exit(EXIT_NOT_EXECUTED);
	execv(line->argv[0], line->argv);
	child_fail(line->argv[0]);
}

int spawn_qemu(const struct command_line *line, const struct plan *plan, const int *fds, int log,
               hwloc_const_bitmap_t heap_nodes, bool dies, struct qemu *qemu, struct error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_set(err, EXIT_FAILED, "cannot make a pipe: %s", strerror(errno));
	qemu->pid = fork();
	if (qemu->pid == 0) {
		close(ends[1]);
		child_main(line, plan, fds, log, ends[0], heap_nodes, dies);
	}
	close(ends[0]);
	qemu->go = ends[1];
	if (qemu->pid < 0) {
		qemu->pid = 0;
		return error_set(err, EXIT_FAILED, "cannot fork for QEMU: %s", strerror(errno));
	}
	qemu->pidfd = (int)syscall(SYS_pidfd_open, qemu->pid, 0);
	if (qemu->pidfd < 0)
		return error_set(err, EXIT_FAILED, "cannot open a pidfd (Linux 5.3): %s",
		                 strerror(errno));
	return 0;
}

int spawn_release(struct qemu *qemu, struct error *err)
{
	ssize_t put = write(qemu->go, "g", 1);

	close(qemu->go);
	qemu->go = -1;
	if (put == 1)
		return 0;
	return error_set(err, EXIT_FAILED, "cannot release QEMU: %s", strerror(errno));
}

int spawn_reap(struct qemu *qemu)
{
	int status = 0;

	while (qemu->pid > 0 && !qemu->foreign && waitpid(qemu->pid, &status, 0) < 0)
		if (errno != EINTR) {
			/* Somebody else reaped it: how it ended is lost, and not success. */
			status = W_EXITCODE(255, 0);
			break;
		}
	qemu->pid = 0;
	if (qemu->pidfd >= 0)
		close(qemu->pidfd);
	if (qemu->go >= 0)
		close(qemu->go);
	qemu->pidfd = qemu->go = -1;
	return status;
}

int spawn_end(struct qemu *qemu)
{
	if (qemu->foreign)
		kernel_pidfd_kill(qemu->pidfd, SIGKILL);
	else if (qemu->pid > 0)
		kill(qemu->pid, SIGKILL);
	return spawn_reap(qemu);
}

char *spawn_describe(int wait_status)
{
	const char *signal = WIFSIGNALED(wait_status) ? sigabbrev_np(WTERMSIG(wait_status)) : NULL;

	if (signal)
		return xasprintf("was killed by SIG%s (%s)", signal,
		                 strsignal(WTERMSIG(wait_status)));
	if (WIFSIGNALED(wait_status)) /* a real-time signal has no name */
		return xasprintf("was killed by signal %d", WTERMSIG(wait_status));
	return xasprintf("exited with status %d", WEXITSTATUS(wait_status));
}
