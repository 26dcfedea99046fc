/* How fast the launcher is, and how little it costs. usage: speed ANCLA [QEMU] [RUNS]
 *
 * a. From exec of `ancla run` until `cont` is acknowledged, against the same QEMU command line
 *    started by a minimal client: listening sockets inherited in the same way, the same affinity,
 *    then the greeting, query-cpus-fast and cont. Interleaved, medians.
 * b. The launcher's own CPU time until then.
 * c. Its resident memory while the guest runs.
 * d. How often it wakes while nothing happens.
 *
 * Nothing in ancla knows of being measured. That `cont` is acknowledged is seen from outside:
 * ancla writes "running" into state.json next, so each of its times holds that write as well. Exits
 * with 1 if a requirement is missed. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <json-c/json.h>

#include "../../qmp/qmp.h"
#include "argv.h"
#include "bench.h"
#include "cpulist.h"
#include "kernel.h"
#include "util.h"

#define NAME "bench"
#define LIMIT_MS 20000
#define IDLE_SECONDS 10

static const int vcpu_counts[] = { 1, 2, 4, 8, 16 };
static const double most_ratio = 1.10, most_extra_ms = 6, most_cpu_ms = 5, most_rss_mib = 6;

static const char *ancla, *qemu = "qemu-system-x86_64";
static int runs = 21;
/* Spec, ANCLA_RUNTIME_DIR, sockets: on a tmpfs, as /run is one. */
static char directory[] = "/dev/shm/ancla-bench-XXXXXX";
static char *spec;
static double *exec_time;    /* shared with the child, which writes it just before exec */
static volatile pid_t child; /* a bare QEMU, or ancla */

/* Returns once nobody else wants a CPU, or after a second: "0.20 0.18 0.12 1/80 11206" (proc(5),
 * loadavg) counts us alone. */
static void wait_quiet(void)
{
	for (int i = 0; i < 500; i++) {
		cleanup_file FILE *file = fopen("/proc/loadavg", "re");
		int runnable = 0;

		if (!file || fscanf(file, "%*s %*s %*s %d", &runnable) != 1 || runnable <= 1)
			return;
		poll(NULL, 0, 2);
	}
}

static void write_spec(int vcpus)
{
	FILE *out = fopen(spec, "we");

	if (!out)
		die("cannot write %s: %s", spec, strerror(errno));
	fprintf(out,
	        "{ \"name\": \"" NAME "\", \"vcpus\": %d, \"memory\": \"256MiB\",\n"
	        "  \"placement\": { \"mode\": \"static\" },\n"
	        "  \"qemu\": { \"binary\": \"%s\", \"accel\": \"tcg\" } }\n",
	        vcpus, qemu);
	fclose(out);
}

/* In the child: nothing on the terminal, the time, exec. */
static void exec_now(char *const argv[]) __attribute__((noreturn));
static void exec_now(char *const argv[])
{
	cleanup_free char *log = xasprintf("%s/log", directory);
	int in = open("/dev/null", O_RDONLY), out = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	close_range(out, out, 0);
	*exec_time = now_ms(CLOCK_MONOTONIC);
	execv(argv[0], argv);
	_exit(127);
}

/* ---- the same QEMU, bare ---- */

/* What `ancla plan --json` says. */
struct bare {
	struct json_object *plan;
	char **argv;
	hwloc_bitmap_t cpus; /* of the emulator */
};

static void read_plan(struct bare *bare)
{
	cleanup_free char *command = xasprintf("'%s' plan --json '%s'", ancla, spec);
	cleanup_free char *text = NULL;
	struct json_object *argv, *emulator, *cpus;
	struct error err = ERROR_INIT;
	size_t room = 0;
	FILE *pipe = popen(command, "re");

	if (!pipe || getdelim(&text, &room, '\0', pipe) < 0 || pclose(pipe) != 0)
		die("%s failed", command);
	bare->plan = json_tokener_parse(text);
	if (!json_object_object_get_ex(bare->plan, "argv", &argv) ||
	    !json_object_object_get_ex(bare->plan, "emulator", &emulator) ||
	    !json_object_object_get_ex(emulator, "cpus", &cpus) ||
	    cpulist_parse(json_object_get_string(cpus), &bare->cpus, &err) < 0)
		die("%s says something else than expected", command);
	size_t argc = json_object_array_length(argv);
	bare->argv = xcalloc(argc + 1, sizeof(*bare->argv));
	for (size_t i = 0; i < argc; i++) {
		const char *word = json_object_get_string(json_object_array_get_idx(argv, i));
		bare->argv[i] = (char *)word;
		if (strstr(word, "/proc/self/fd/"))
			die("QEMU wants a memory file, which this program does not make");
	}
}

static void free_bare(struct bare *bare)
{
	hwloc_bitmap_free(bare->cpus);
	free(bare->argv);
	json_object_put(bare->plan);
}

static int listen_at(const char *name)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/%s", directory, name);
	unlink(address.sun_path);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(fd, 4) < 0)
		die("cannot listen on %s: %s", address.sun_path, strerror(errno));
	return fd;
}

static pid_t fork_bare(const struct bare *bare, int monitor, int commands)
{
	pid_t pid = fork();

	if (pid < 0)
		die("cannot fork: %s", strerror(errno));
	if (pid > 0)
		return child = pid;
	int high[2] = { fcntl(monitor, F_DUPFD, 100), fcntl(commands, F_DUPFD, 100) };
	dup2(high[0], FD_MONITOR);
	dup2(high[1], FD_COMMANDS);
	close_range(FD_COMMANDS + 1, ~0u, 0);
	setsid();
	kernel_set_affinity(0, bare->cpus);
	exec_now(bare->argv);
}

static void ask(struct qmp *qmp, const char *command)
{
	struct qmp_error error;

	if (qmp_call(qmp, command, NULL, LIMIT_MS, NULL, &error) < 0)
		die("bare QEMU: %s", error.message);
}

static double run_bare(const struct bare *bare)
{
	int monitor = listen_at("monitor"), commands = listen_at("commands");
	cleanup_free char *path = xasprintf("%s/monitor", directory);
	struct qmp_error error;
	pid_t pid = fork_bare(bare, monitor, commands);
	int fd = qmp_connect(path, &error);

	if (fd < 0)
		die("bare QEMU: %s", error.message);
	close(monitor);
	close(commands);
	struct qmp *qmp = qmp_new(fd, NULL, NULL);
	if (qmp_wait_ready(qmp, LIMIT_MS, &error) < 0)
		die("bare QEMU: %s", error.message);
	ask(qmp, "query-cpus-fast");
	ask(qmp, "cont");
	double time = now_ms(CLOCK_MONOTONIC) - *exec_time;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	child = 0;
	qmp_free(qmp);
	return time;
}

/* ---- ancla ---- */

struct launched {
	pid_t pid, qemu;
	double time, cpu; /* ms until the guest ran */
};

/* The pid of QEMU once state.json says that the guest runs, else 0. */
static pid_t read_state(void)
{
	cleanup_free char *path = xasprintf("%s/run/" NAME "/state.json", directory);
	cleanup_json struct json_object *json = json_object_from_file(path);
	struct json_object *state, *pid;

	if (!json || !json_object_object_get_ex(json, "state", &state) ||
	    strcmp(json_object_get_string(state), "running") != 0 ||
	    !json_object_object_get_ex(json, "qemu", &pid))
		return 0;
	return (pid_t)json_object_get_int64(pid);
}

/* Waits until the guest runs; returns when that was seen. First the VM's directory appears, then
 * state.json is renamed into it, once with "starting", once with "running". */
static void wait_running(struct launched *vm)
{
	cleanup_free char *runtime = xasprintf("%s/run", directory);
	cleanup_free char *home = xasprintf("%s/" NAME, runtime);
	cleanup_close int watch = inotify_init1(IN_CLOEXEC);
	struct pollfd poller = { watch, POLLIN, 0 };
	char events[4096];
	clockid_t clock;

	if (inotify_add_watch(watch, runtime, IN_CREATE | IN_ONLYDIR) < 0)
		die("cannot watch %s: %s", runtime, strerror(errno));
	char *const argv[] = { (char *)ancla, "run", "--quiet", spec, NULL };
	child = vm->pid = fork();
	if (vm->pid == 0) {
		close_range(STDERR_FILENO + 1, ~0u, CLOSE_RANGE_CLOEXEC);
		exec_now(argv);
	}
	if (clock_getcpuclockid(vm->pid, &clock) != 0)
		die("no CPU clock of a process");
	while (!(vm->qemu = read_state())) {
		if (poll(&poller, 1, LIMIT_MS) <= 0 || read(watch, events, sizeof(events)) < 0)
			die("ancla did not start the VM; see %s/log", directory);
		vm->time = now_ms(CLOCK_MONOTONIC) - *exec_time;
		vm->cpu = now_ms(clock);
		inotify_add_watch(watch, home, IN_MOVED_TO);
	}
}

static void end_launched(struct launched *vm)
{
	kill(vm->qemu, SIGKILL);
	waitpid(vm->pid, NULL, 0);
	child = 0;
}

/* ---- the measurements ---- */

static void measure_start(int vcpus)
{
	cleanup_free double *bare_times = xcalloc((size_t)runs, sizeof(double));
	cleanup_free double *times = xcalloc((size_t)runs, sizeof(double));
	cleanup_free double *cpu_times = xcalloc((size_t)runs, sizeof(double));
	struct bare bare;

	write_spec(vcpus);
	read_plan(&bare);
	/* The first round warms up. */
	for (int i = -1; i < runs; i++) {
		struct launched vm;
		int at = i < 0 ? 0 : i;
		wait_quiet();
		if (i % 2) {
			bare_times[at] = run_bare(&bare);
			wait_quiet();
		}
		wait_running(&vm);
		end_launched(&vm);
		times[at] = vm.time;
		cpu_times[at] = vm.cpu;
		wait_quiet();
		if (i % 2 == 0)
			bare_times[at] = run_bare(&bare);
	}
	double before = median(bare_times, runs), after = median(times, runs);
	double cpu = median(cpu_times, runs);
	bool good = vcpus == 1 ? after <= before + most_extra_ms : after <= before * most_ratio;
	printf("%5d %9.1f %9.1f %9.2f %+9.1f  %-6s %12.1f  %s\n", vcpus, before, after,
	       after / before, after - before, judge(good), cpu, judge(cpu < most_cpu_ms));
	fflush(stdout);
	free_bare(&bare);
}

static double resident_mib(pid_t pid)
{
	cleanup_free char *path = xasprintf("/proc/%d/status", pid);
	cleanup_free char *text = NULL;
	cleanup_error struct error err = ERROR_INIT;
	const char *line;

	if (read_file(path, 1 << 16, &text, NULL, &err) < 0 || !(line = strstr(text, "\nVmRSS:")))
		die("cannot read the memory of ancla");
	return atof(line + strlen("\nVmRSS:")) / 1024;
}

/* System calls of the process that return within the time: what strace shows with a result. */
static int wake_ups(pid_t pid)
{
	cleanup_free char *path = xasprintf("%s/strace", directory);
	cleanup_free char *command =
	    xasprintf("timeout -s INT %d strace -f -q -o '%s' -p %d 2>&1", IDLE_SECONDS, path, pid);
	cleanup_free char *line = NULL;
	size_t room = 0;
	int lines = 0, returned = 0;
	FILE *pipe = popen(command, "re");

	while (pipe && getline(&line, &room, pipe) >= 0)
		fputs(line, stderr);
	if (pipe)
		pclose(pipe);
	FILE *trace = fopen(path, "re");
	while (trace && getline(&line, &room, trace) >= 0) {
		lines++;
		returned += strstr(line, ") = ") || strstr(line, ">) = ");
	}
	if (trace)
		fclose(trace);
	if (!lines)
		die("strace shows nothing: is it installed, and allowed?");
	return returned;
}

static void measure_rest(void)
{
	struct launched vm;

	write_spec(1);
	wait_running(&vm);
	/* The firmware finds nothing to boot and halts. */
	sleep(2);
	double rss = resident_mib(vm.pid);
	printf("resident memory of the supervisor   %4.1f MiB  (limit %.0f)  %s\n", rss,
	       most_rss_mib, judge(rss < most_rss_mib));
	fflush(stdout);
	int count = wake_ups(vm.pid);
	printf("its wake-ups in %d s of idleness    %4d      (limit 0)  %s\n", IDLE_SECONDS, count,
	       judge(count == 0));
	end_launched(&vm);
}

static void print_heading(void)
{
	cleanup_free char *command = xasprintf("'%s' --version", qemu);
	cleanup_free char *line = NULL;
	size_t room = 0;
	FILE *pipe = popen(command, "re");

	if (!pipe || getline(&line, &room, pipe) < 0 || pclose(pipe) != 0)
		die("%s does not run", qemu);
	printf("%s%d interleaved runs each, TCG, firmware only, 256 MiB; medians in ms\n\n", line,
	       runs);
	printf("      exec to cont                                   launcher's\n"
	       "vCPUs      bare     ancla     ratio difference           CPU time\n");
}

/* Interrupted: whatever runs is ended (for ancla the second wish to stop is the strong one), and
 * nothing is left behind. */
static void interrupted(int signal)
{
	(void)signal;
	if (child > 0) {
		kill(child, SIGINT);
		kill(child, SIGTERM);
		kill(child, SIGHUP);
		waitpid(child, NULL, 0);
	}
	execl("/bin/sh", "sh", "-c", "rm -rf \"$0\"; exit 1", directory, NULL);
	_exit(1);
}

static void clean_up(void)
{
	cleanup_free char *command = xasprintf("rm -rf '%s'", directory);

	if (*directory && system(command) != 0)
		fprintf(stderr, "bench: cannot remove %s\n", directory);
}

int main(int argc, char **argv)
{
	if (argc < 2 || argc > 4)
		die("usage: speed ANCLA [QEMU] [RUNS]");
	ancla = argv[1];
	qemu = argc > 2 && *argv[2] ? argv[2] : qemu;
	runs = argc > 3 ? atoi(argv[3]) : runs;
	signal(SIGPIPE, SIG_IGN);
	signal(SIGINT, interrupted);
	signal(SIGTERM, interrupted);
	exec_time = mmap(NULL, sizeof(*exec_time), PROT_READ | PROT_WRITE,
	                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (runs < 1 || exec_time == MAP_FAILED || !mkdtemp(directory))
		die("cannot begin");
	atexit(clean_up);
	spec = xasprintf("%s/spec.json", directory);
	cleanup_free char *runtime = xasprintf("%s/run", directory);
	if (mkdir(runtime, 0700) < 0)
		die("cannot make %s: %s", runtime, strerror(errno));
	setenv("ANCLA_RUNTIME_DIR", runtime, 1);
	print_heading();
	for (size_t i = 0; i < ARRAY_SIZE(vcpu_counts); i++)
		measure_start(vcpu_counts[i]);
	printf("\nallowed: 1 vCPU bare + %.0f ms, else %.2f times; CPU time below %.0f ms\n",
	       most_extra_ms, most_ratio, most_cpu_ms);
	measure_rest();
	free(spec);
	return missed;
}
