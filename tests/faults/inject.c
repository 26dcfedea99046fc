/* Runs a program and makes one of its system calls fail, or kills it there.
 *
 *     inject --list COMMAND...                        every call that it makes, to descriptor 9
 *     inject --fail ROLE CALL NTH ERRNO COMMAND...    that call is not made, and returns -ERRNO
 *     inject --kill ROLE CALL NTH COMMAND...          SIGKILL to who makes that call, before it
 *     inject --kill-after ROLE CALL NTH COMMAND...    the same, after it was made
 *     inject --kill-qemu ROLE CALL NTH PID COMMAND... SIGKILL to that process before the call; with
 *                                                     0 to the QEMU that the command has started
 *     inject --signal ROLE CALL NTH SIGNAL COMMAND... that signal to who makes that call, before it
 *
 * A role is a process or thread by the order of birth: 0 the program, 1 its first child. Those that
 * start another program are left alone from then on. CALL is a number; NTH counts from 1, within
 * the role. The list has a line for each call: ROLE, CALL, its second argument, and the QEMU that
 * was started (0: none yet). Exits as the program does (128 + signal if one ended it); with 99 if
 * the call never came. Whatever the program started goes on after its end. */
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define NEVER_CAME 99
#define TRACED_MAX 256
#define CALLS_MAX 512

enum what { LIST, FAIL, KILL, KILL_AFTER, KILL_QEMU, SIGNAL };

struct traced {
	pid_t pid; /* 0: free */
	int role;
	bool inside; /* between a call's beginning and its end */
	bool chosen; /* and it is the one */
	int counts[CALLS_MAX];
};

static struct traced list[TRACED_MAX];
static int next_role;
static enum what what;
static int wanted_role, wanted_call, wanted_nth;
static int wanted; /* the error, the process, or the signal */
static pid_t qemu; /* that the program has started; 0: none */
static bool came;

static void die(const char *text)
{
	fprintf(stderr, "inject: %s: %s\n", text, strerror(errno));
	exit(98);
}

/* A child's first stop may be seen before its parent tells of it. */
static struct traced *find(pid_t pid)
{
	struct traced *free_one = NULL;

	for (int i = 0; i < TRACED_MAX; i++) {
		if (list[i].pid == pid)
			return &list[i];
		if (!list[i].pid && !free_one)
			free_one = &list[i];
	}
	if (!free_one)
		die("too many threads");
	memset(free_one, 0, sizeof(*free_one));
	free_one->pid = pid;
	free_one->role = -1;
	return free_one;
}

static void set_register(pid_t pid, size_t offset, long value)
{
	/* Killed meanwhile: then its end is seen next. */
	if (ptrace(PTRACE_POKEUSER, pid, offset, value) < 0 && errno != ESRCH)
		die("PTRACE_POKEUSER");
}

static void begin_call(struct traced *t)
{
	struct user_regs_struct regs;

	if (ptrace(PTRACE_GETREGS, t->pid, 0, &regs) < 0)
		return;
	int call = (int)regs.orig_rax;
	if (call < 0 || call >= CALLS_MAX)
		return;
	if (what == LIST)
		dprintf(9, "%d %d %llu %d\n", t->role, call, regs.rsi, qemu);
	t->chosen = what != LIST && t->role == wanted_role && call == wanted_call &&
	            ++t->counts[call] == wanted_nth;
	came |= t->chosen;
	if (t->chosen && what == FAIL)
		set_register(t->pid, offsetof(struct user_regs_struct, orig_rax), -1);
	if (t->chosen && (what == KILL || what == SIGNAL))
		kill(t->pid, what == KILL ? SIGKILL : wanted);
	if (t->chosen && what == KILL_QEMU && (wanted || qemu))
		kill(wanted ? wanted : qemu, SIGKILL);
}

static void end_call(struct traced *t)
{
	if (t->chosen && what == FAIL)
		set_register(t->pid, offsetof(struct user_regs_struct, rax), -wanted);
	if (t->chosen && what == KILL_AFTER)
		kill(t->pid, SIGKILL);
	t->chosen = false;
}

/* A QEMU that is asked what it can do is nobody's VM. */
static void see_program(pid_t pid)
{
	char path[32], words[4096];
	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	FILE *file = fopen(path, "r");
	size_t length = file ? fread(words, 1, sizeof(words), file) : 0;

	if (memmem(words, length, "guest=", strlen("guest=")))
		qemu = pid;
	if (file)
		fclose(file);
}

/* Goes on after a stop; false if the process is not ours any more. */
static bool handle_stop(struct traced *t, int status)
{
	int signal = WSTOPSIG(status), event = status >> 16;
	unsigned long born = 0;

	if (signal == (SIGTRAP | 0x80)) {
		t->inside = !t->inside;
		if (t->inside)
			begin_call(t);
		else
			end_call(t);
		signal = 0;
	} else if (event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK ||
	           event == PTRACE_EVENT_CLONE) {
		if (ptrace(PTRACE_GETEVENTMSG, t->pid, 0, &born) == 0)
			find((pid_t)born)->role = next_role++;
		signal = 0;
	} else if (event == PTRACE_EVENT_EXEC && t->role != 0) {
		see_program(t->pid);
		ptrace(PTRACE_DETACH, t->pid, 0, 0);
		t->pid = 0;
		return false;
	} else if (event == PTRACE_EVENT_STOP) {
		/* A new one, or a group that was stopped by a signal. */
		if (signal != SIGTRAP) {
			ptrace(PTRACE_LISTEN, t->pid, 0, 0);
			return true;
		}
		signal = 0;
	} else if (event) {
		signal = 0;
	}
	/* Who is not known yet waits until its parent has told of it. */
	if (t->role < 0)
		return true;
	ptrace(PTRACE_SYSCALL, t->pid, 0, signal);
	if (born)
		ptrace(PTRACE_SYSCALL, (pid_t)born, 0, 0);
	return true;
}

/* Until the program ends: what else there is runs on when its tracer is gone. */
static int trace(pid_t program)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
		if (pid <= 0)
			continue;
		struct traced *t = find(pid);
		if (WIFSTOPPED(status)) {
			handle_stop(t, status);
			continue;
		}
		t->pid = 0;
		if (pid == program)
			return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	}
	die("the program was lost");
	return 98;
}

static char **parse(char **argv)
{
	static const char *const names[] = { "--list",       "--fail",      "--kill",
		                             "--kill-after", "--kill-qemu", "--signal" };
	int *const numbers[] = { &wanted_role, &wanted_call, &wanted_nth, &wanted };
	int count;

	for (what = LIST; what <= SIGNAL; what++)
		if (argv[1] && strcmp(argv[1], names[what]) == 0)
			break;
	count = what == LIST ? 0 : what == KILL || what == KILL_AFTER ? 3 : 4;
	for (int i = 0; i < count && argv[2 + i]; i++)
		*numbers[i] = atoi(argv[2 + i]);
	return argv + 2 + count;
}

int main(int argc, char **argv)
{
	char **command = argc > 2 ? parse(argv) : NULL;

	if (!command || what > SIGNAL || !*command) {
		fprintf(stderr,
		        "usage: inject --list|--fail|--kill|--kill-after|--kill-qemu|--signal ... "
		        "COMMAND...\n");
		return 98;
	}
	pid_t pid = fork();
	if (pid == 0) {
		raise(SIGSTOP);
		close(9);
		execvp(command[0], command);
		_exit(127);
	}
	waitpid(pid, NULL, WUNTRACED);
	find(pid)->role = next_role++;
	if (ptrace(PTRACE_SEIZE, pid, 0,
	           PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |
	               PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC) < 0)
		die("PTRACE_SEIZE");
	kill(pid, SIGCONT);
	int result = trace(pid);
	return what != LIST && !came ? NEVER_CAME : result;
}
