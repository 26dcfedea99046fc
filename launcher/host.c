#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cpulist.h"
#include "host_parts.h"
#include "quote.h"
#include "util.h"

/* hwloc takes 20 ms for a file of 2,048 PUs. */
#define REHEARSAL_SECONDS 30

static struct host *host_new(void)
{
	struct host *host = xcalloc(1, sizeof(*host));

	host->cpus = xbitmap();
	host->allowed = xbitmap();
	host->isolated = xbitmap();
	return host;
}

/* What hwloc cannot know of this machine, or knows only as it was a moment ago. */
static int read_live(struct host *host, bool has_distances, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t allowed = NULL, isolated = NULL;

	if (host_allowed_cpus(&allowed, &isolated, err) < 0)
		return -1;
	host->live = true;
	hwloc_bitmap_and(host->allowed, allowed, host->cpus);
	hwloc_bitmap_and(host->isolated, isolated, host->cpus);
	if (!has_distances)
		host_live_distances(host);
	return host_live_memory(host, err);
}

/* Numbers that no Linux has would make our sets and arrays huge; the same number twice would be two
 * CPUs or nodes of one name. */
static int check_numbers(hwloc_topology_t topology, hwloc_obj_type_t type, const char *what,
                         struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t seen = xbitmap();
	hwloc_obj_t obj = NULL;

	while ((obj = hwloc_get_next_obj_by_type(topology, type, obj))) {
		if (obj->os_index > CPULIST_MAX)
			return error_set(err, EXIT_SPEC,
			                 "the host has a %s numbered %u; expected at most %d", what,
			                 obj->os_index, CPULIST_MAX);
		if (hwloc_bitmap_isset(seen, obj->os_index))
			return error_set(err, EXIT_SPEC,
			                 "the host has two %ss numbered %u; expected a number each",
			                 what, obj->os_index);
		hwloc_bitmap_set(seen, obj->os_index);
	}
	return 0;
}

/* Linux has one count for each size. */
static int check_pages(const struct host *host, struct error *err)
{
	for (size_t i = 0; i < host->n_nodes; i++) {
		const struct host_node *node = &host->nodes[i];

		for (size_t j = 1; j < node->n_pages; j++)
			if (node->pages[j - 1].size == node->pages[j].size)
				return error_set(err, EXIT_SPEC,
				                 "node %u of the host has two counts of pages of "
				                 "%llu bytes; expected one for each size",
				                 node->id, (unsigned long long)node->pages[j].size);
	}
	return 0;
}

/* A core is in one node, or in none: that is what placement builds on. */
static int check_cores(const struct host *host, struct error *err)
{
	for (size_t i = 0; i < host->n_cores; i++) {
		hwloc_const_bitmap_t cpus = host->cores[i].cpus;
		int first = host->node_by_cpu[hwloc_bitmap_first(cpus)], cpu;

		hwloc_bitmap_foreach_begin(cpu, cpus)
		{
			if (host->node_by_cpu[cpu] == first)
				continue;
			cleanup_free char *list = cpulist_format(cpus);
			return error_set(err, EXIT_SPEC,
			                 "the host has a core, CPUs %s, that is not in one node",
			                 list);
		}
		hwloc_bitmap_foreach_end();
	}
	return 0;
}

/* What hwloc accepts and no machine is. */
static int check_parts(const struct host *host, bool described, struct error *err)
{
	if (check_pages(host, err) < 0)
		return -1;
	if (hwloc_bitmap_iszero(host->cpus))
		return error_set(err, EXIT_SPEC, "the host has no CPU");
	return described ? check_cores(host, err) : 0;
}

static struct host *load(const char *description, struct error *err)
{
	hwloc_topology_t topology = host_topology_open(description, err);
	cleanup_host struct host *host = NULL;
	bool has_distances = false;
	int failed;

	if (!topology)
		return NULL;
	failed = check_numbers(topology, HWLOC_OBJ_PU, "CPU", err) < 0 ||
	         check_numbers(topology, HWLOC_OBJ_NUMANODE, "node", err) < 0;
	if (!failed) {
		host = host_new();
		has_distances = host_topology_read(host, topology);
		if (description)
			host_topology_devices(host, topology);
	}
	hwloc_topology_destroy(topology);
	if (failed || check_parts(host, description, err) < 0 ||
	    (!description && read_live(host, has_distances, err) < 0))
		return NULL;
	return take_pointer(&host);
}

/* Loads the host in a child, which writes what is wrong to `out`. */
static _Noreturn void rehearse_child(const char *description, int out)
{
	static const int deadly[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM };
	struct error err = ERROR_INIT;
	int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

	for (size_t i = 0; i < ARRAY_SIZE(deadly); i++)
		signal(deadly[i], SIG_DFL);
	setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
	dup2(null, STDERR_FILENO);
	alarm(REHEARSAL_SECONDS);
	if (load(description, &err))
		_exit(EXIT_DONE);
	if (write(out, err.message, strlen(err.message)) < 0)
		_exit(EXIT_FAILED);
	_exit((int)err.code);
}

/* Waits for the child and returns its verdict. */
static int rehearse_end(pid_t child, int in, const char *description, struct error *err)
{
	char message[2048] = "";
	size_t size = 0;
	ssize_t got;
	int status = 0;

	while ((got = read(in, message + size, sizeof(message) - 1 - size)) > 0 ||
	       (got < 0 && errno == EINTR))
		size += got > 0 ? (size_t)got : 0;
	while (waitpid(child, &status, 0) < 0)
		if (errno != EINTR) /* SIGCHLD is ignored: no status, but what was written */
			break;
	if (size)
		return error_set(err, WIFEXITED(status) && status ? WEXITSTATUS(status) : EXIT_SPEC,
		                 "%s", message);
	if (!status)
		return 0;
	cleanup_free char *shown = escape(description, strlen(description), 200);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		return error_set(err, EXIT_SPEC,
		                 "cannot read the host from \"%s\": it takes hwloc more than %d s",
		                 shown, REHEARSAL_SECONDS);
	return error_set(err, EXIT_SPEC,
	                 "cannot read the host from \"%s\": it is damaged, hwloc fails on it (%s)",
	                 shown, WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "it exits");
}

/* hwloc trusts a description: a file with an object too few makes it crash, and where it notices
 * it leaks. So a child loads it first, without a word, and only what loads there is loaded here. */
static int rehearse(const char *description, struct error *err)
{
	cleanup_close int in = -1, out = -1;
	int ends[2];
	pid_t child;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return error_set(err, EXIT_FAILED, "cannot make a pipe: %s", strerror(errno));
	in = ends[0];
	out = ends[1];
	child = fork();
	if (child < 0)
		return error_set(err, EXIT_FAILED, "cannot fork: %s", strerror(errno));
	if (child == 0)
		rehearse_child(description, out);
	close(take_fd(&out));
	return rehearse_end(child, in, description, err);
}

struct host *host_load(const char *description, struct error *err)
{
	if (description && rehearse(description, err) < 0)
		return NULL;
	return load(description, err);
}

void host_free(struct host *host)
{
	if (!host)
		return;
	for (size_t i = 0; i < host->n_packages; i++)
		hwloc_bitmap_free(host->packages[i].cpus);
	for (size_t i = 0; i < host->n_nodes; i++) {
		hwloc_bitmap_free(host->nodes[i].cpus);
		free(host->nodes[i].pages);
		free(host->nodes[i].distances);
	}
	for (size_t i = 0; i < host->n_cores; i++)
		hwloc_bitmap_free(host->cores[i].cpus);
	for (size_t i = 0; i < host->n_l3s; i++)
		hwloc_bitmap_free(host->l3s[i].cpus);
	for (size_t i = 0; i < host->n_kinds; i++)
		hwloc_bitmap_free(host->kinds[i].cpus);
	for (size_t i = 0; i < host->n_devices; i++)
		free(host->devices[i].name);
	free(host->devices);
	free(host->packages);
	free(host->nodes);
	free(host->cores);
	free(host->l3s);
	free(host->kinds);
	free(host->core_by_cpu);
	free(host->node_by_cpu);
	hwloc_bitmap_free(host->cpus);
	hwloc_bitmap_free(host->allowed);
	hwloc_bitmap_free(host->isolated);
	free(host);
}

const struct host_node *host_node(const struct host *host, unsigned id)
{
	size_t low = 0, high = host->n_nodes;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (host->nodes[middle].id < id)
			low = middle + 1;
		else
			high = middle;
	}
	return low < host->n_nodes && host->nodes[low].id == id ? &host->nodes[low] : NULL;
}

const struct host_node *host_node_of_cpu(const struct host *host, unsigned cpu)
{
	if (cpu >= host->n_by_cpu || host->node_by_cpu[cpu] < 0)
		return NULL;
	return &host->nodes[host->node_by_cpu[cpu]];
}

const struct host_core *host_core_of_cpu(const struct host *host, unsigned cpu)
{
	if (cpu >= host->n_by_cpu || host->core_by_cpu[cpu] < 0)
		return NULL;
	return &host->cores[host->core_by_cpu[cpu]];
}

const struct host_pages *host_node_pages(const struct host_node *node, uint64_t size)
{
	for (size_t i = 0; i < node->n_pages; i++)
		if (node->pages[i].size == size)
			return &node->pages[i];
	return NULL;
}
