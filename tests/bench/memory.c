/* How fast guest memory is filled. usage: memory ANCLA [QEMU] [RUNS]
 *
 * a. The fill of huge pages, against a bare loop over the same kind of file: as many threads, the
 *    same chunks, nothing else.
 * b. QEMU's monitor: from exec to the reply to qmp_capabilities while the fill of its memory is
 *    under way, against the same QEMU with the same file that nobody fills.
 * c. The whole start by `ancla start`: memory filled by the launcher, against filled by QEMU
 *    ("prealloc": "qemu"), and against a bare QEMU with prealloc=on, without and with as many
 *    prealloc-threads as there are CPUs, until its monitor has replied.
 * d. On a host of several nodes: the fill of two at once, against the slower of them alone. It says
 *    something where each node has processors of its own. Emulated CPUs share those there are: on a
 *    host of the rig give each node as many as there are for it, `taskset -c 0,8` with two.
 *
 * All interleaved; ratios of medians. Huge pages of 2 MiB are reserved for it and given back; sizes
 * for which the machine has no memory are said to be left out. Exits with 1 if a requirement is
 * missed. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../../qmp/qmp.h"
#include "bench.h"
#include "host.h"
#include "memory.h"
#include "util.h"

#define MIB (UINT64_C(1) << 20)
#define CHUNK (2 * MIB)
#define LIMIT_MS 60000
#define HUGE_PAGES "/sys/kernel/mm/hugepages/hugepages-2048kB"

static const double least_fill = 0.95, most_ready = 1.2, most_both = 1.1;

static const char *ancla, *qemu = "qemu-system-x86_64";
static int runs = 7;
static struct host *host;
static int64_t pages_before = -1;

static void set_pages(int64_t count)
{
	FILE *file = fopen(HUGE_PAGES "/nr_hugepages", "we");

	if (file)
		fprintf(file, "%lld", (long long)count);
	if (file)
		fclose(file);
}

/* Whether so many bytes of huge pages are free now, or could be made so. */
static bool have_pages(uint64_t bytes)
{
	int64_t needed = (int64_t)(bytes / CHUNK);
	int64_t free = read_number(HUGE_PAGES "/free_hugepages");
	int64_t before = read_number(HUGE_PAGES "/nr_hugepages");

	if (free < needed)
		set_pages(before + needed - free);
	if (read_number(HUGE_PAGES "/free_hugepages") >= needed)
		return true;
	set_pages(before);
	return false;
}

static void give_back(void)
{
	if (pages_before >= 0)
		set_pages(pages_before);
}

/* Interrupted: the pages go back as at any other end. */
static void interrupted(int number)
{
	(void)number;
	give_back();
	_exit(1);
}

/* ---- the fill ---- */

static struct plan_memory memory_of(uint64_t size)
{
	return (struct plan_memory){
		.guest_node = -1,
		.size = size,
		.pages = PAGES_HUGE,
		.page_size = CHUNK,
		.backing = BACKING_MEMFD,
		.fill = FILL_LAUNCHER,
		.shared = true,
	};
}

static int create(const struct plan_memory *memory)
{
	cleanup_error struct error err = ERROR_INIT;
	int fd = memory_create(memory, NULL, "ancla-bench", &err);

	if (fd < 0)
		die("%s", err.message);
	return fd;
}

static struct fill *start_fill(struct plan *plan, const int *fds)
{
	cleanup_error struct error err = ERROR_INIT;
	struct fill *fill = fill_start(plan, host, fds, -1, &err);

	if (!fill)
		die("%s", err.message);
	return fill;
}

/* One region, or two. */
static double time_fill(struct plan_memory *memory, size_t count)
{
	struct plan plan = { .name = "bench", .memory = memory, .n_memory = count };
	cleanup_error struct error err = ERROR_INIT;
	int fds[2];

	for (size_t i = 0; i < count; i++)
		fds[i] = create(&memory[i]);
	double start = now_ms(CLOCK_MONOTONIC);
	struct fill *fill = start_fill(&plan, fds);
	fill_hurry(fill);
	if (fill_wait(fill, &err) < 0)
		die("%s", err.message);
	double time = now_ms(CLOCK_MONOTONIC) - start;
	fill_cancel(fill);
	for (size_t i = 0; i < count; i++)
		close(fds[i]);
	return time;
}

struct loop {
	char *address;
	uint64_t chunks;
	_Atomic uint64_t next;
};

static void *loop_over(void *data)
{
	struct loop *loop = data;
	uint64_t chunk;

	while ((chunk = atomic_fetch_add(&loop->next, 1)) < loop->chunks)
		if (madvise(loop->address + chunk * CHUNK, CHUNK, MADV_POPULATE_WRITE) < 0)
			die("madvise: %s", strerror(errno));
	return NULL;
}

static double time_loop(uint64_t size, int threads)
{
	struct plan_memory memory = memory_of(size);
	int fd = create(&memory);
	cleanup_free pthread_t *list = xcalloc((size_t)threads, sizeof(*list));
	double start = now_ms(CLOCK_MONOTONIC);
	struct loop loop = { .chunks = size / CHUNK };

	loop.address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (loop.address == MAP_FAILED)
		die("mmap: %s", strerror(errno));
	for (int i = 0; i < threads; i++)
		if (pthread_create(&list[i], NULL, loop_over, &loop) != 0)
			die("no thread");
	for (int i = 0; i < threads; i++)
		pthread_join(list[i], NULL);
	double time = now_ms(CLOCK_MONOTONIC) - start;
	munmap(loop.address, size);
	close(fd);
	return time;
}

static void measure_fill(uint64_t size)
{
	cleanup_free double *fills = xcalloc((size_t)runs, sizeof(double));
	cleanup_free double *loops = xcalloc((size_t)runs, sizeof(double));
	struct plan_memory memory = memory_of(size);
	int threads = hwloc_bitmap_weight(host->allowed);

	if (threads > 16 * (int)host->n_nodes) /* as the fill has for a node */
		threads = 16 * (int)host->n_nodes;
	for (int i = -1; i < runs; i++) {
		int at = i < 0 ? 0 : i;
		fills[at] = time_fill(&memory, 1);
		loops[at] = time_loop(size, threads);
	}
	double fill = median(fills, runs), loop = median(loops, runs);
	printf("fill of %4llu MiB      %8.1f ms, a bare loop %8.1f ms: %.2f of its speed (limit "
	       "%.2f)  "
	       "%s\n",
	       (unsigned long long)(size / MIB), fill, loop, loop / fill, least_fill,
	       judge(loop / fill >= least_fill));
	fflush(stdout);
}

/* ---- QEMU's monitor ---- */

static pid_t start_qemu(int monitor, int memory, uint64_t size, const char *prealloc)
{
	cleanup_free char *object =
	    xasprintf("memory-backend-file,id=m,size=%lluM,mem-path=/proc/self/fd/%d,share=on%s",
	              (unsigned long long)(size / MIB), memory, prealloc);
	cleanup_free char *bytes = xasprintf("%lluM", (unsigned long long)(size / MIB));
	cleanup_free char *add = xasprintf("socket,id=q,fd=%d", monitor);
	const char *argv[] = { qemu,       "-S",   "-nodefaults", "-no-user-config",
		               "-display", "none", "-machine",    "q35,accel=tcg,memory-backend=m",
		               "-m",       bytes,  "-object",     object,
		               "-chardev", add,    "-mon",        "chardev=q,mode=control",
		               NULL };
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fcntl(monitor, F_SETFD, 0);
	fcntl(memory, F_SETFD, 0);
	execvp(argv[0], (char *const *)argv);
	_exit(127);
}

/* `prealloc`: more of the backend's options, each with a comma before it. */
static double time_ready(uint64_t size, bool filled, const char *prealloc)
{
	struct plan_memory memory = memory_of(size);
	struct plan plan = { .name = "bench", .memory = &memory, .n_memory = 1 };
	struct qmp_error error;
	int fd = create(&memory), ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		die("socketpair: %s", strerror(errno));
	double start = now_ms(CLOCK_MONOTONIC);
	pid_t pid = start_qemu(ends[1], fd, size, prealloc);
	struct fill *fill = filled ? start_fill(&plan, &fd) : NULL;
	close(ends[1]);
	struct qmp *qmp = qmp_new(ends[0], NULL, NULL);
	if (qmp_wait_ready(qmp, LIMIT_MS, &error) < 0)
		die("QEMU: %s", error.message);
	double time = now_ms(CLOCK_MONOTONIC) - start;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	qmp_free(qmp);
	fill_cancel(fill);
	close(fd);
	return time;
}

static void measure_ready(uint64_t size)
{
	cleanup_free double *with = xcalloc((size_t)runs, sizeof(double));
	cleanup_free double *without = xcalloc((size_t)runs, sizeof(double));

	for (int i = -1; i < runs; i++) {
		int at = i < 0 ? 0 : i;
		with[at] = time_ready(size, true, "");
		without[at] = time_ready(size, false, "");
	}
	double a = median(with, runs), b = median(without, runs);
	printf(
	    "monitor of %4llu MiB   %8.1f ms, without fill %7.1f ms: %.2f times (limit %.2f)  %s\n",
	    (unsigned long long)(size / MIB), a, b, a / b, most_ready, judge(a / b <= most_ready));
	fflush(stdout);
}

/* ---- the whole start ---- */

static double time_start(const char *directory, uint64_t size, const char *prealloc)
{
	cleanup_free char *spec = xasprintf("%s/spec.json", directory);
	cleanup_free char *start = xasprintf("'%s' start '%s' 2>'%s/log'", ancla, spec, directory);
	cleanup_free char *stop = xasprintf("'%s' stop --force bench 2>/dev/null", ancla);
	FILE *out = fopen(spec, "we");

	if (!out)
		die("%s: %s", spec, strerror(errno));
	fprintf(out,
	        "{ \"name\": \"bench\", \"memory\": \"%lluMiB\",\n"
	        "  \"memory-backing\": { \"hugepages\": \"2MiB\", \"prealloc\": %s },\n"
	        "  \"placement\": { \"mode\": \"static\" },\n"
	        "  \"qemu\": { \"binary\": \"%s\", \"accel\": \"tcg\" } }\n",
	        (unsigned long long)(size / MIB), prealloc, qemu);
	fclose(out);
	double begin = now_ms(CLOCK_MONOTONIC);
	if (system(start) != 0)
		die("%s failed: see it in a terminal", start);
	double time = now_ms(CLOCK_MONOTONIC) - begin;
	if (system(stop) != 0)
		die("%s failed", stop);
	return time;
}

static void measure_whole(const char *directory, uint64_t size)
{
	cleanup_free double *ours = xcalloc((size_t)runs, sizeof(double));
	cleanup_free double *qemus = xcalloc((size_t)runs, sizeof(double));
	cleanup_free double *bare = xcalloc((size_t)runs, sizeof(double));
	cleanup_free double *threaded = xcalloc((size_t)runs, sizeof(double));
	cleanup_free char *threads =
	    xasprintf(",prealloc=on,prealloc-threads=%d", hwloc_bitmap_weight(host->allowed));

	for (int i = -1; i < runs; i++) {
		int at = i < 0 ? 0 : i;
		ours[at] = time_start(directory, size, "true");
		qemus[at] = time_start(directory, size, "\"qemu\"");
		bare[at] = time_ready(size, false, ",prealloc=on");
		threaded[at] = time_ready(size, false, threads);
	}
	double us = median(ours, runs), qemu_fills = median(qemus, runs), one = median(bare, runs),
	       many = median(threaded, runs);
	printf("start with %4llu MiB   %8.1f ms, QEMU's prealloc %5.1f ms: %.2f times; bare QEMU, "
	       "prealloc=on %5.1f ms: %.2f, with threads %5.1f ms: %.2f\n",
	       (unsigned long long)(size / MIB), us, qemu_fills, us / qemu_fills, one, us / one,
	       many, us / many);
	fflush(stdout);
}

/* ---- two nodes at once ---- */

/* Bytes of huge pages free on the node now. */
static uint64_t free_on(const struct host_node *node)
{
	int64_t pages = read_number(
	    "/sys/devices/system/node/node%u/hugepages/hugepages-2048kB/free_hugepages", node->id);

	return pages > 0 ? (uint64_t)pages * CHUNK : 0;
}

static void measure_nodes(uint64_t size)
{
	struct plan_memory memory[2];
	size_t count = 0;

	for (size_t i = 0; i < host->n_nodes && count < 2; i++) {
		const struct host_node *node = &host->nodes[i];
		if (free_on(node) < size || !hwloc_bitmap_intersects(node->cpus, host->allowed))
			continue;
		memory[count] = memory_of(size);
		memory[count].guest_node = (int)count;
		memory[count].policy = MEM_POLICY_STRICT;
		memory[count].has_cpus = true;
		memory[count].host_nodes = hwloc_bitmap_alloc();
		hwloc_bitmap_only(memory[count++].host_nodes, node->id);
	}
	if (count < 2) {
		printf("two nodes at once: left out, no two have CPUs and %llu MiB of huge pages\n",
		       (unsigned long long)(size / MIB));
	} else {
		cleanup_free double *first = xcalloc((size_t)runs, sizeof(double));
		cleanup_free double *second = xcalloc((size_t)runs, sizeof(double));
		cleanup_free double *both = xcalloc((size_t)runs, sizeof(double));
		for (int i = -1; i < runs; i++) {
			int at = i < 0 ? 0 : i;
			first[at] = time_fill(&memory[0], 1);
			second[at] = time_fill(&memory[1], 1);
			both[at] = time_fill(memory, 2);
		}
		double a = median(first, runs), b = median(second, runs), two = median(both, runs);
		double ratio = two / (a > b ? a : b);
		printf("two nodes, %4llu MiB each %5.1f ms, alone %5.1f and %5.1f ms: %.2f times "
		       "the slower (limit %.2f)  %s\n",
		       (unsigned long long)(size / MIB), two, a, b, ratio, most_both,
		       judge(ratio <= most_both));
	}
	for (size_t i = 0; i < count; i++)
		hwloc_bitmap_free(memory[i].host_nodes);
}

int main(int argc, char **argv)
{
	static const uint64_t sizes[] = { 256, 1024, 8192 };
	char directory[] = "/dev/shm/ancla-bench-XXXXXX";
	cleanup_error struct error err = ERROR_INIT;

	if (argc < 2 || argc > 4)
		die("usage: memory ANCLA [QEMU] [RUNS]");
	ancla = argv[1];
	qemu = argc > 2 && *argv[2] ? argv[2] : qemu;
	runs = argc > 3 ? atoi(argv[3]) : runs;
	host = host_load(NULL, &err);
	if (!host || runs < 1 || !mkdtemp(directory))
		die("cannot begin%s%s", err.message ? ": " : "", err.message ? err.message : "");
	setenv("ANCLA_RUNTIME_DIR", directory, 1);
	pages_before = read_number(HUGE_PAGES "/nr_hugepages");
	atexit(give_back);
	signal(SIGINT, interrupted);
	signal(SIGTERM, interrupted);
	printf("guest memory of 2 MiB pages, %d interleaved runs each, medians\n\n", runs);
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		if (!have_pages(sizes[i] * MIB)) {
			printf("%llu MiB: left out, there is not so much memory\n",
			       (unsigned long long)sizes[i]);
			continue;
		}
		measure_fill(sizes[i] * MIB);
		measure_ready(sizes[i] * MIB);
		measure_whole(directory, sizes[i] * MIB);
	}
	measure_nodes(256 * MIB);
	cleanup_free char *remove = xasprintf("rm -rf '%s'", directory);
	if (system(remove) != 0)
		fprintf(stderr, "bench: cannot remove %s\n", directory);
	host_free(host);
	return missed;
}
