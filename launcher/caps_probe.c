/* The QEMU that is asked: started paused and without a guest, and gone when the answers are in.
 *
 * Whatever the binary turns out to be, it ends: it dies with the launcher (PR_SET_PDEATHSIG), and
 * at the latest after the time limit its whole process group is killed. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "caps_parts.h"
#include "child.h"
#include "waits.h"
#include "util.h"

/* The descriptor on which the child finds its monitor socket. */
#define MONITOR_FD 3

/* What is quoted of its last words at most, and how much of its output is looked at. */
#define QUOTE_MAX 300
#define OUTPUT_MAX (64 * 1024)

struct child {
	pid_t pid;
	int pidfd;
	int output; /* the reading end of its stderr */
	int monitor;
	int status; /* as waitpid() has it, once it has ended */
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- in the child ---- */

static void reset_signals(void)
{
	sigset_t none;

	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* Gives the child its three standard descriptors and the monitor, and nothing else. The copies
 * above 9 make it work where the launcher itself was started with stdin or stderr closed. */
static bool arrange_descriptors(int monitor, int output)
{
	int null = fcntl(open("/dev/null", O_RDWR), F_DUPFD_CLOEXEC, 10);

	monitor = fcntl(monitor, F_DUPFD_CLOEXEC, 10);
	output = fcntl(output, F_DUPFD_CLOEXEC, 10);
	return dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0 &&
	       dup2(output, STDERR_FILENO) >= 0 && dup2(monitor, MONITOR_FD) >= 0 &&
	       child_close_others(MONITOR_FD + 1, NULL, 0) == 0;
}

#define FAILED "cannot arrange its descriptors: %s\n"

static _Noreturn void run_child(char *const argv[], pid_t parent, int monitor, int output)
{
	const struct rlimit no_core = { 0, 0 };

	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	reset_signals();
	setrlimit(RLIMIT_CORE, &no_core);
	/* The launcher may have died before the prctl. */
	if (getppid() != parent)
		_exit(127);
	if (!arrange_descriptors(monitor, output)) {
		const char *why = strerror(errno);
		if (dprintf(output, FAILED, why) < 0) /* it is in its place already */
			dprintf(STDERR_FILENO, FAILED, why);
		_exit(127);
	}
	execv(argv[0], argv);
	dprintf(STDERR_FILENO, "%s\n", strerror(errno));
	_exit(127);
}

/* ---- starting and ending it ---- */

static int fail_to_start(struct error *err, const char *binary)
{
	return error_set(err, EXIT_FAILED, "cannot start %s: %s", binary, strerror(errno));
}

static int start(struct child *child, const char *binary, const char *machine, struct error *err)
{
	char *argv[] = {
		(char *)binary,
		"-S",
		"-no-user-config",
		"-nodefaults",
		"-display",
		"none",
		"-m",
		"16",
		"-machine",
		(char *)machine,
		"-chardev",
		"socket,id=m,fd=3",
		"-mon",
		"chardev=m,mode=control",
		NULL,
	};
	cleanup_close int monitor = -1, theirs = -1, output = -1, written = -1;
	int pair[2];
	pid_t parent = getpid();

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return fail_to_start(err, binary);
	monitor = pair[0];
	theirs = pair[1];
	if (pipe2(pair, O_CLOEXEC) < 0)
		return fail_to_start(err, binary);
	output = pair[0];
	written = pair[1];
	/* Whoever still holds the other end must not keep us waiting for its end. */
	fcntl(output, F_SETFL, O_NONBLOCK);
	child->pid = fork();
	if (child->pid < 0)
		return fail_to_start(err, binary);
	if (child->pid == 0)
		run_child(argv, parent, theirs, written);
	setpgid(child->pid, child->pid);
	child->pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
	child->output = take_fd(&output);
	child->monitor = take_fd(&monitor);
	return 0;
}

/* Waits until it has exited, at most `limit_ms`; then kills its process group, which sweeps away
 * whatever a script left running, too. Afterwards the child is reaped. */
static bool end(struct child *child, int limit_ms)
{
	struct pollfd exited = { .fd = child->pidfd, .events = POLLIN };
	int64_t deadline = now_ms() + limit_ms;
	int ready, left = limit_ms;

	do {
		ready = child->pidfd < 0 ? 0 : poll(&exited, 1, left);
		left = deadline > now_ms() ? (int)(deadline - now_ms()) : 0;
	} while (ready < 0 && errno == EINTR);
	kill(-child->pid, SIGKILL);
	kill(child->pid, SIGKILL);
	while (waitpid(child->pid, &child->status, 0) < 0 && errno == EINTR)
		;
	if (child->pidfd >= 0)
		close(child->pidfd);
	return ready > 0;
}

/* ---- its last words ---- */

/* Reads what it wrote to stderr; the caller frees. */
static char *read_output(int fd)
{
	char *text = xcalloc(OUTPUT_MAX + 1, 1);
	size_t size = 0;
	ssize_t got;

	do {
		got = read(fd, text + size, OUTPUT_MAX - size);
		size += got > 0 ? (size_t)got : 0;
	} while (size < OUTPUT_MAX && (got > 0 || (got < 0 && errno == EINTR)));
	for (size_t i = 0; i < size; i++)
		if ((unsigned char)text[i] < ' ' && text[i] != '\n')
			text[i] = ' ';
	return text;
}

/* `: "its last line"`, or "" where it wrote nothing; the caller frees. */
static char *last_words(const struct child *child)
{
	cleanup_free char *text = read_output(child->output);
	size_t end_of_line = strlen(text);

	while (end_of_line && strchr(" \n", text[end_of_line - 1]))
		end_of_line--;
	text[end_of_line] = '\0';
	const char *newline = strrchr(text, '\n');
	const char *line = newline ? newline + 1 : text;
	return *line ? xasprintf(": \"%.*s\"", QUOTE_MAX, line) : xstrdup("");
}

/* "exit status 1", "killed by signal 6 (Aborted)"; the caller frees. */
static char *status_text(int status)
{
	if (WIFSIGNALED(status))
		return xasprintf("killed by signal %d, %s", WTERMSIG(status),
		                 strsignal(WTERMSIG(status)));
	return xasprintf("exit status %d", WEXITSTATUS(status));
}

/* Why KVM cannot work at all, as "; reason", where that is what failed. */
static char *kvm_hint(enum accel accel)
{
	cleanup_free char *reason = NULL;

	if (accel != ACCEL_KVM || kvm_works(&reason))
		return xstrdup("");
	return xasprintf("; KVM does not work here: %s, or set qemu.accel to \"tcg\"", reason);
}

/* The conversation failed: ends the child and says why. */
static int explain(struct child *child, const char *binary, enum accel accel, int timeout_ms,
                   const struct qmp_error *error, struct error *err)
{
	bool closed = error->kind == QMP_ERROR_CLOSED || error->kind == QMP_ERROR_SYSTEM;
	bool exited = end(child, closed ? LIMIT_PROBE_EXIT_MS : 0);
	cleanup_free char *words = last_words(child);

	if (exited) {
		cleanup_free char *status = status_text(child->status);
		cleanup_free char *hint = kvm_hint(accel);

		return error_set(err, EXIT_GRANT,
		                 "qemu.binary: %s cannot be asked what it can do with accel %s: "
		                 "it ended (%s) before it had answered%s%s%s",
		                 binary, accel_name(accel), status, words, hint,
		                 *words || *hint ? "" : ": is it QEMU?");
	}
	if (error->kind == QMP_ERROR_TIMEOUT)
		return error_set(err, EXIT_GRANT,
		                 "qemu.binary: %s did not answer within %g s%s: it hangs, or is "
		                 "not QEMU",
		                 binary, timeout_ms / 1000.0, words);
	return error_set(err, EXIT_GRANT, "qemu.binary: %s does not speak QMP (%s)%s: is it QEMU?",
	                 binary, error->message, words);
}

/* ---- the probe ---- */

/* Asks one QEMU about one machine. */
static int converse(struct qmp *qmp, const char *machine, int64_t deadline,
                    struct caps_answers *answers, struct qmp_error *error)
{
	int64_t left = deadline - now_ms();
	bool none = strcmp(machine, "none") == 0;

	if (qmp_wait_ready(qmp, left > 0 ? (int)left : 0, error) < 0)
		return -1;
	left = deadline - now_ms();
	if (none)
		return caps_ask(qmp, left > 0 ? (int)left : 0, answers, error);
	return caps_ask_machine(qmp, machine, left > 0 ? (int)left : 0, answers, error);
}

static int probe_machine(const char *binary, enum accel accel, const char *machine, int timeout_ms,
                         struct caps_answers *answers, struct error *err)
{
	cleanup_free char *option = xasprintf("%s,accel=%s", machine, accel_name(accel));
	struct child child = { .pid = -1 };
	struct qmp_error error = { 0 };
	int64_t deadline = now_ms() + timeout_ms;

	if (start(&child, binary, option, err) < 0)
		return -1;
	struct qmp *qmp = qmp_new(child.monitor, NULL, NULL);
	int result = converse(qmp, machine, deadline, answers, &error);
	if (result < 0) {
		result = explain(&child, binary, accel, timeout_ms, &error, err);
	} else {
		qmp_send(qmp, "quit", NULL, &error);
		end(&child, LIMIT_PROBE_EXIT_MS);
	}
	qmp_free(qmp);
	close(child.output);
	return result;
}

int caps_probe(const char *binary, enum accel accel, int timeout_ms, struct caps_answers *answers,
               struct error *err)
{
	cleanup_error struct error ignored = ERROR_INIT;
	int64_t deadline = now_ms() + timeout_ms;

	if (probe_machine(binary, accel, "none", timeout_ms, answers, err) < 0)
		return -1;
	/* A microvm that does not start here has no properties that could be set. */
	int64_t left = deadline - now_ms();
	if (left > 0 && caps_answers_machine(answers, "microvm"))
		probe_machine(binary, accel, "microvm", (int)left, answers, &ignored);
	return 0;
}
