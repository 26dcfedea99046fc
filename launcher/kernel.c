#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kernel.h"
#include "quote.h"
#include "util.h"

/* Bytes of a CPU mask that any kernel takes: room for CPULIST_MAX + 1 CPUs. */
#define MASK_WORDS (65536 / 64)

int kernel_set_affinity(pid_t tid, hwloc_const_bitmap_t cpus)
{
	uint64_t mask[MASK_WORDS] = { 0 };
	int last = hwloc_bitmap_last(cpus);
	unsigned cpu;

	hwloc_bitmap_foreach_begin(cpu, cpus) if (cpu / 64 < MASK_WORDS) mask[cpu / 64] |=
	    1ull << (cpu % 64);
	hwloc_bitmap_foreach_end();
	return sched_setaffinity(tid, (size_t)(last / 64 + 1) * 8, (cpu_set_t *)mask);
}

int kernel_get_affinity(pid_t tid, hwloc_bitmap_t cpus)
{
	uint64_t mask[MASK_WORDS] = { 0 };
	long bytes = syscall(SYS_sched_getaffinity, tid, sizeof(mask), mask);

	if (bytes < 0)
		return -1;
	hwloc_bitmap_zero(cpus);
	for (unsigned i = 0; i < (size_t)bytes / 8; i++)
		hwloc_bitmap_set_ith_ulong(cpus, i, mask[i]);
	return 0;
}

static const int linux_policies[] = {
	[SCHED_UNSET] = SCHED_OTHER,    [SCHED_OF_OTHER] = SCHED_OTHER,
	[SCHED_OF_BATCH] = SCHED_BATCH, [SCHED_OF_IDLE] = SCHED_IDLE,
	[SCHED_OF_FIFO] = SCHED_FIFO,   [SCHED_OF_RR] = SCHED_RR,
};

int kernel_set_sched(pid_t tid, struct sched sched)
{
	struct sched_param param = { .sched_priority = sched.priority };

	return sched_setscheduler(tid, linux_policies[sched.scheduler], &param);
}

int kernel_get_sched(pid_t tid, struct sched *sched)
{
	int policy = sched_getscheduler(tid);
	struct sched_param param;

	if (policy < 0 || sched_getparam(tid, &param) < 0)
		return -1;
	policy &= ~SCHED_RESET_ON_FORK;
	for (size_t i = SCHED_OF_OTHER; i < ARRAY_SIZE(linux_policies); i++)
		if (linux_policies[i] == policy) {
			sched->scheduler = (enum scheduler)i;
			sched->priority = param.sched_priority;
			return 0;
		}
	errno = EINVAL;
	return -1;
}

const char *kernel_sched_advice(int error)
{
	if (error != EPERM)
		return "";
	if (access("/sys/fs/cgroup/cpu/cpu.rt_runtime_us", F_OK) == 0)
		return "; it needs CAP_SYS_NICE or RLIMIT_RTPRIO, and a cpu cgroup with real-time "
		       "budget (cpu.rt_runtime_us)";
	return "; it needs CAP_SYS_NICE, or RLIMIT_RTPRIO of at least that priority (ulimit -r)";
}

static int compare_pids(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return (x > y) - (x < y);
}

int kernel_tasks(pid_t pid, pid_t **tids, size_t *count)
{
	cleanup_free char *path = xasprintf("/proc/%d/task", pid);
	DIR *dir = opendir(path);
	struct dirent *entry;

	*tids = NULL;
	*count = 0;
	if (!dir)
		return -1;
	while ((errno = 0, entry = readdir(dir)))
		if (isdigit((unsigned char)entry->d_name[0]))
			*array_append(tids, count) = atoi(entry->d_name);
	int error = errno;
	closedir(dir);
	if (error) {
		free(*tids);
		*tids = NULL;
		*count = 0;
		errno = error;
		return -1;
	}
	if (*count)
		qsort(*tids, *count, sizeof(**tids), compare_pids);
	return 0;
}

int kernel_comm(pid_t pid, pid_t tid, char comm[64])
{
	cleanup_free char *path = xasprintf("/proc/%d/task/%d/comm", pid, tid);
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, comm, 63);

	if (got < 0 && errno == ENOENT)
		errno = ESRCH;
	comm[got > 0 ? got : 0] = '\0';
	comm[strcspn(comm, "\n")] = '\0';
	/* A thread names itself, and it is printed. */
	blank_unprintable(comm, strlen(comm));
	return got < 0 ? -1 : 0;
}

/* The text of a process's stat file behind its name, from the state (field 3) on. NULL and ESRCH if
 * it is gone, another errno if that cannot be told. The name, in parentheses, may hold anything. */
static const char *read_stat(pid_t pid, char *text, size_t size)
{
	cleanup_free char *path = xasprintf("/proc/%d/stat", pid);
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);

	if (got == 0 || (got < 0 && errno == ENOENT))
		errno = ESRCH;
	if (got <= 0)
		return NULL;
	text[got] = '\0';
	const char *end = strrchr(text, ')');
	if (end && end[1] == ' ')
		return end + 2;
	errno = EIO;
	return NULL;
}

/* The field with this number (proc(5)), given the third. */
static const char *stat_field(const char *p, int number)
{
	for (int field = 3; p && field < number; field++) {
		p = strchr(p, ' ');
		p += p != NULL;
	}
	return p;
}

uint64_t kernel_start_time(pid_t pid)
{
	char text[1024];
	const char *field = stat_field(read_stat(pid, text, sizeof(text)), 22);

	return field ? strtoull(field, NULL, 10) : 0;
}

bool kernel_is_dying(pid_t pid)
{
	const unsigned long exiting = 0x4; /* PF_EXITING, include/linux/sched.h */
	char text[1024];
	const char *state = read_stat(pid, text, sizeof(text));
	const char *flags = stat_field(state, 9);

	if (!state)
		return errno == ESRCH;
	return *state == 'Z' || *state == 'X' || (flags && strtoul(flags, NULL, 10) & exiting);
}

int kernel_is_its_own(pid_t pid)
{
	const unsigned long kthread = 0x200000; /* PF_KTHREAD, include/linux/sched.h */
	char text[1024];
	const char *flags = stat_field(read_stat(pid, text, sizeof(text)), 9);

	if (!flags)
		return errno == ESRCH ? 0 : -1;
	return (strtoul(flags, NULL, 10) & kthread) != 0;
}

bool kernel_is_stopped(pid_t pid)
{
	char text[1024];
	const char *state = read_stat(pid, text, sizeof(text));

	return state && *state == 'T';
}

int kernel_pidfd(pid_t pid, uint64_t start_time)
{
	cleanup_close int fd = -1;
	uint64_t now = 0;

	errno = ESRCH;
	/* 0 is what kernel_start_time() says of a process that is gone. */
	if (pid > 0 && start_time)
		fd = (int)syscall(SYS_pidfd_open, pid, 0);
	/* The number is that of another's thread now. */
	if (fd < 0 && (errno == EINVAL || errno == ENOENT))
		errno = ESRCH;
	if (fd >= 0)
		now = kernel_start_time(pid);
	if (now == start_time && fd >= 0)
		return take_fd(&fd);
	int error = now ? ESRCH : errno;
	/* Where stat is not to be seen, the process may still be there. */
	if (fd >= 0 && !now && error == ESRCH && !kernel_wait_gone(fd, 0))
		error = EACCES;
	errno = error;
	return -1;
}

int kernel_pidfd_kill(int pidfd, int signal)
{
	return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

bool kernel_wait_gone(int pidfd, int timeout_ms)
{
	int64_t deadline = kernel_now_ms() + timeout_ms;

	for (;;) {
		struct pollfd poll_pidfd = { .fd = pidfd, .events = POLLIN };
		int64_t left = timeout_ms < 0 ? -1 : deadline - kernel_now_ms();
		int ready = poll(&poll_pidfd, 1, timeout_ms < 0 ? -1 : left > 0 ? (int)left : 0);
		if (ready > 0)
			return true;
		if (ready == 0 || errno != EINTR)
			return false;
	}
}

char *kernel_boot_id(void)
{
	cleanup_error struct error ignored = ERROR_INIT;
	char *text = NULL;

	if (read_file("/proc/sys/kernel/random/boot_id", 100, &text, NULL, &ignored) < 0)
		return NULL;
	text[strcspn(text, "\n")] = '\0';
	return text;
}

int64_t kernel_now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

enum kernel_life kernel_lives(pid_t pid, uint64_t start_time)
{
	cleanup_close int pidfd = kernel_pidfd(pid, start_time);

	if (pidfd < 0)
		return errno == ESRCH ? KERNEL_GONE : KERNEL_UNKNOWN;
	return kernel_wait_gone(pidfd, 0) ? KERNEL_GONE : KERNEL_LIVES;
}
