#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cgroup_limits.h"
#include "child.h"
#include "fill_parts.h"
#include "spawn.h"
#include "util.h"
#include "waits.h"

/* A larger madvise blocks the start of threads, and tells of no progress, for as long as it lasts.
 */
#define CHUNK_LEAST (UINT64_C(2) << 20)

/* Clearing pages is bound by the memory, not by the number of CPUs. */
#define WORKERS_PER_NODE 16

static uint64_t chunk_of(const struct plan_memory *memory)
{
	return memory->page_size > CHUNK_LEAST ? memory->page_size : CHUNK_LEAST;
}

uint64_t fill_in_flight(const struct plan_memory *memory)
{
	if (!memory->host_nodes)
		return memory->size;
	return WORKERS_PER_NODE * (uint64_t)hwloc_bitmap_weight(memory->host_nodes) *
	       chunk_of(memory);
}

static bool same_crew(const struct plan_memory *a, const struct plan_memory *b)
{
	bool restrictive = a->policy == MEM_POLICY_RESTRICTIVE;

	if (restrictive != (b->policy == MEM_POLICY_RESTRICTIVE))
		return false;
	if (!a->host_nodes || !b->host_nodes)
		return a->host_nodes == b->host_nodes;
	return hwloc_bitmap_isequal(a->host_nodes, b->host_nodes);
}

static int add_region(struct fill *fill, const struct plan *plan, size_t index, int fd,
                      struct error *err)
{
	const struct plan_memory *memory = &plan->memory[index];
	char *address = memory_map(fd, memory, err);

	if (!address)
		return -1;
	struct region *region = array_append(&fill->regions, &fill->n_regions);
	region->index = index;
	region->memory = memory;
	region->address = address;
	region->chunk = chunk_of(memory);
	region->n_chunks = (memory->size + region->chunk - 1) / region->chunk;
	while (!same_crew(fill->regions[region->crew].memory, memory))
		region->crew++;
	fill->total += memory->size;
	/* Guest memory is no part of a core dump. */
	madvise(address, memory->size, MADV_DONTDUMP);
	if (memory->pages == PAGES_THP)
		madvise(address, memory->size, MADV_HUGEPAGE);
	return memory_bind(address, memory, err);
}

/* CPUs near the nodes (NULL: any), on two lists. The scheduler moves threads about on `wide`; on
 * isolated CPUs it does not, so that `single` takes one thread each. An isolated CPU is used only
 * if it is a vCPU's of this plan: on another there may be a FIFO thread, behind which a worker and
 * its chunk would wait for ever. */
static void choose_cpus(const struct plan *plan, const struct host *host,
                        hwloc_const_bitmap_t nodes, hwloc_bitmap_t wide, hwloc_bitmap_t single)
{
	for (size_t i = 0; i < host->n_nodes; i++) {
		if (!nodes || hwloc_bitmap_isset(nodes, host->nodes[i].id))
			hwloc_bitmap_or(wide, wide, host->nodes[i].cpus);
	}
	for (size_t i = 0; i < plan->n_vcpus; i++)
		hwloc_bitmap_or(single, single, plan->vcpus[i].cpus);
	hwloc_bitmap_and(wide, wide, host->allowed);
	hwloc_bitmap_and(single, single, wide);
	hwloc_bitmap_and(single, single, host->isolated);
	hwloc_bitmap_andnot(wide, wide, host->isolated);
	if (!hwloc_bitmap_iszero(wide) || !hwloc_bitmap_iszero(single))
		return;
	hwloc_bitmap_andnot(wide, host->allowed, host->isolated);
	if (hwloc_bitmap_iszero(wide))
		hwloc_bitmap_copy(wide, host->allowed);
}

/* One worker of a crew that has one for every CPU of its nodes, the last, waits until QEMU, if it
 * may start on these, has started: it has a CPU to itself then. More idle threads than that cost it
 * a fifth of its start, by what they take of the caches and of the memory's speed. */
static void leave_one_cpu(struct worker *crew, size_t count, hwloc_const_bitmap_t emulator)
{
	for (size_t i = count; i-- > 0 && count > 1;) {
		hwloc_bitmap_t cpus = crew[i].cpus;
		if (emulator && !hwloc_bitmap_intersects(cpus, emulator))
			continue;
		crew[i].cpus = crew[count - 1].cpus;
		crew[count - 1].cpus = cpus;
		crew[count - 1].late = true;
		return;
	}
}

/* Adds the workers that fill the crew's regions, if it is one. */
static void add_crew(struct fill *fill, const struct plan *plan, const struct host *host,
                     size_t crew)
{
	hwloc_const_bitmap_t nodes = fill->regions[crew].memory->host_nodes;
	cleanup_bitmap hwloc_bitmap_t wide = xbitmap();
	cleanup_bitmap hwloc_bitmap_t single = xbitmap();
	size_t before = fill->n_workers;
	uint64_t chunks = 0;

	for (size_t i = crew; i < fill->n_regions; i++) {
		if (fill->regions[i].crew == crew)
			chunks += fill->regions[i].n_chunks;
	}
	if (nodes && hwloc_bitmap_iszero(nodes))
		nodes = NULL;
	choose_cpus(plan, host, nodes, wide, single);
	uint64_t cpus = (uint64_t)(hwloc_bitmap_weight(wide) + hwloc_bitmap_weight(single));
	uint64_t count = cpus;
	uint64_t most =
	    WORKERS_PER_NODE * (nodes ? (uint64_t)hwloc_bitmap_weight(nodes) : host->n_nodes);
	if (count > most)
		count = most;
	if (count > chunks)
		count = chunks;
	for (int cpu = -1; fill->n_workers < before + count;) {
		struct worker *worker = array_append(&fill->workers, &fill->n_workers);
		worker->fill = fill;
		worker->crew = crew;
		cpu = hwloc_bitmap_next(single, cpu);
		if (cpu < 0) {
			/* Out of single ones: next() has begun again, so none are left. */
			worker->cpus = xbitmap_dup(wide);
			hwloc_bitmap_zero(single);
			continue;
		}
		worker->cpus = xbitmap();
		hwloc_bitmap_set(worker->cpus, (unsigned)cpu);
	}
	if (count == cpus)
		leave_one_cpu(&fill->workers[before], count, plan->emulator);
}

bool fill_has_plain(const struct fill *fill)
{
	for (size_t i = 0; i < fill->n_regions; i++)
		if (fill->regions[i].memory->pages != PAGES_HUGE)
			return true;
	return false;
}

static size_t report_size(const struct fill *fill)
{
	return sizeof(*fill->report) + fill->n_regions * sizeof(fill->report->done[0]);
}

/* How many processes the kernel has killed for want of memory; -1 where it does not say. */
static int64_t count_oom_kills(void)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_free char *text = NULL;

	if (read_file("/proc/vmstat", 1 << 20, &text, NULL, &ignored) < 0)
		return -1;
	const char *line = strstr(text, "\noom_kill ");
	return line ? strtoll(line + strlen("\noom_kill "), NULL, 10) : -1;
}

static int start_filler(struct fill *fill, int lock, struct error *err)
{
	cleanup_close int theirs = -1;
	int ends[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return error_set(err, EXIT_FAILED, "cannot make a socket for the filler: %s",
		                 strerror(errno));
	fill->socket = ends[0];
	theirs = ends[1];
	fill->report = mmap(NULL, report_size(fill), PROT_READ | PROT_WRITE,
	                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (fill->report == MAP_FAILED) {
		fill->report = NULL;
		return error_set(err, EXIT_FAILED, "cannot share memory with the filler: %s",
		                 strerror(errno));
	}
	if (fill_has_plain(fill))
		fill->oom_kills = count_oom_kills();
	pid_t launcher = getpid();
	fill->pid = child_fork("ancla-filler", (int[]){ theirs, lock }, 2);
	if (fill->pid == 0) {
		fill->socket = theirs;
		fill_work(fill, launcher);
	}
	if (fill->pid > 0)
		return 0;
	fill->pid = 0;
	return error_set(err, EXIT_FAILED, "cannot start the process that fills memory: %s",
	                 strerror(errno));
}

static int start(struct fill *fill, const struct plan *plan, const struct host *host,
                 const int *fds, int lock, struct error *err)
{
	for (size_t i = 0; i < plan->n_memory; i++) {
		if (plan->memory[i].fill == FILL_LAUNCHER && fds[i] >= 0 && plan->memory[i].size &&
		    add_region(fill, plan, i, fds[i], err) < 0)
			return -1;
	}
	for (size_t i = 0; i < fill->n_regions; i++) {
		if (fill->regions[i].crew == i)
			add_crew(fill, plan, host, i);
	}
	return fill->n_regions ? start_filler(fill, lock, err) : 0;
}

struct fill *fill_start(const struct plan *plan, const struct host *host, const int *fds, int lock,
                        struct error *err)
{
	struct fill *fill = xcalloc(1, sizeof(*fill));

	fill->n_memory = plan->n_memory;
	fill->socket = -1;
	int result = start(fill, plan, host, fds, lock, err);
	/* They are the filler's now. */
	for (size_t i = 0; i < fill->n_regions; i++)
		munmap(fill->regions[i].address, fill->regions[i].memory->size);
	if (result == 0)
		return fill;
	fill_cancel(fill);
	return NULL;
}

int fill_fd(const struct fill *fill)
{
	return fill->socket;
}

bool fill_is_over(const struct fill *fill)
{
	return fill->ended || !fill->n_regions;
}

void fill_progress(const struct fill *fill, uint64_t *done, uint64_t *total)
{
	*done = 0;
	*total = fill->total;
	for (size_t i = 0; i < fill->n_regions; i++)
		*done += atomic_load(&fill->report->done[i]);
}

void fill_hurry(struct fill *fill)
{
	static const char word = FILL_HURRY;

	/* One that has died is found by its end of the socket. */
	if (fill->pid && !fill->hurried)
		send(fill->socket, &word, 1, MSG_NOSIGNAL);
	fill->hurried = true;
}

static void wait_for_end(struct fill *fill)
{
	ssize_t got;
	char word;

	if (fill_is_over(fill))
		return;
	fill_hurry(fill);
	do
		got = read(fill->socket, &word, 1);
	while (got < 0 && errno == EINTR);
	fill->died = got != 1 || word != FILL_END;
	fill->ended = true;
}

/* Of plain pages: bytes that are still to be filled, and in *region the one that lacks some and
 * whose nodes have least. */
static uint64_t missing_bytes(const struct fill *fill, size_t *region)
{
	uint64_t missing = 0;
	int64_t least = INT64_MAX;

	for (size_t i = 0; i < fill->n_regions; i++) {
		const struct plan_memory *memory = fill->regions[i].memory;
		uint64_t rest = memory->size - atomic_load(&fill->report->done[i]);
		if (memory->pages == PAGES_HUGE || !rest)
			continue;
		missing += rest;
		int64_t there = memory_free(memory);
		if (there < least) {
			least = there;
			*region = i;
		}
	}
	return missing;
}

/* The filler was killed: by the kernel for want of memory, of the control group or of the nodes; or
 * by somebody. */
static int explain_death(struct fill *fill, struct error *err)
{
	struct cgroup_limit limit = { 0 };
	size_t region = 0;
	uint64_t missing = missing_bytes(fill, &region);
	int64_t kills = missing ? count_oom_kills() : -1;
	int status = child_wait(fill->pid);

	fill->pid = 0;
	if (kills < 0 || kills == fill->oom_kills || !WIFSIGNALED(status) ||
	    WTERMSIG(status) != SIGKILL) {
		cleanup_free char *how = spawn_describe(status);
		return error_set(err, EXIT_FAILED, "guest memory: the process that fills it %s",
		                 how);
	}
	bool limited = cgroup_limit_find("", 0, &limit) && limit.left < missing;
	if (limited)
		error_set(err, EXIT_GRANT,
		          "guest memory: %lluMiB are still to be filled, and the control group may "
		          "have %lluMiB more: %s is %lluMiB; raise that, or ask for less",
		          (unsigned long long)(missing >> 20),
		          (unsigned long long)(limit.left >> 20), limit.file,
		          (unsigned long long)(limit.bytes >> 20));
	else
		memory_shortage(fill->regions[region].memory,
		                atomic_load(&fill->report->done[region]), ENOMEM, err);
	free(limit.file);
	return -1;
}

int fill_wait(struct fill *fill, struct error *err)
{
	const struct fill_report *report = fill->report;

	wait_for_end(fill);
	if (fill->died)
		return explain_death(fill, err);
	if (!report || (!report->reason && !*report->complaint))
		return 0;
	if (*report->complaint)
		return error_set(err, (enum exit_code)report->code, "%s", report->complaint);
	return memory_shortage(fill->regions[report->failed].memory,
	                       atomic_load(&report->done[report->failed]), report->reason, err);
}

int fill_residency(const struct fill *fill, struct residency *list, struct error *err)
{
	cleanup_free struct counted *counted = xcalloc(fill->n_regions, sizeof(*counted));

	memset(list, 0, fill->n_memory * sizeof(*list));
	for (size_t i = 0; i < fill->n_regions; i++) {
		const struct region *region = &fill->regions[i];
		uint64_t page_size = region->memory->page_size;
		counted[i].address = region->address;
		counted[i].length = region->memory->size;
		counted[i].residency = &list[region->index];
		counted[i].thp = region->memory->pages == PAGES_THP;
		counted[i].residency->page_size = page_size;
		counted[i].mapped = atomic_load(&fill->report->done[i]) / page_size;
	}
	return residency_count(fill->pid, counted, fill->n_regions, err);
}

void fill_cancel(struct fill *fill)
{
	if (!fill)
		return;
	/* One that is done ends by itself when it hears that nobody is there any more. */
	if (fill->ended && shutdown(fill->socket, SHUT_WR) == 0)
		poll(&(struct pollfd){ fill->socket, POLLIN, 0 }, 1, LIMIT_FILLER_MS);
	if (fill->pid) {
		kill(fill->pid, SIGKILL);
		child_wait(fill->pid);
	}
	if (fill->socket >= 0)
		close(fill->socket);
	for (size_t i = 0; i < fill->n_workers; i++)
		hwloc_bitmap_free(fill->workers[i].cpus);
	if (fill->report)
		munmap(fill->report, report_size(fill));
	free(fill->regions);
	free(fill->workers);
	free(fill);
}
