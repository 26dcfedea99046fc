/* Hosts that somebody describes: a file that should be XML of hwloc, or a synthetic description.
 * What loads is what host.h says, whole, and a VM can be placed on it or is refused. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fuzz.h"
#include "host.h"
#include "place.h"

static void promise_node(const struct host *host, size_t i)
{
	const struct host_node *node = &host->nodes[i];

	promise(node->id <= CPULIST_MAX, "node %u", node->id);
	promise(i == 0 || host->nodes[i - 1].id < node->id, "node %u comes twice or too late",
	        node->id);
	promise(host_node(host, node->id) == node, "node %u is not found", node->id);
	promise(hwloc_bitmap_isincluded(node->cpus, host->cpus), "node %u has foreign CPUs",
	        node->id);
	promise(node->free <= node->memory, "node %u has more free than it has", node->id);
	for (size_t j = 0; j < i; j++)
		promise(!hwloc_bitmap_intersects(node->cpus, host->nodes[j].cpus),
		        "a CPU is in nodes %u and %u", host->nodes[j].id, node->id);
	for (size_t j = 0; j < node->n_pages; j++) {
		const struct host_pages *pages = &node->pages[j];

		promise(pages->size > host->page_size, "a huge page is not huge");
		promise(j == 0 || pages[-1].size < pages->size, "page sizes of node %u", node->id);
		promise(pages->free <= pages->total, "free pages of node %u", node->id);
	}
}

static void promise_core(const struct host *host, size_t i)
{
	const struct host_core *core = &host->cores[i];
	unsigned cpu;

	promise(hwloc_bitmap_weight(core->cpus) > 0, "a core without a CPU");
	promise(core->node < 0 || host_node(host, (unsigned)core->node), "the node of core %zu", i);
	promise(core->l3 < (int)host->n_l3s && core->package < (int)host->n_packages &&
	            core->kind < (int)host->n_kinds,
	        "core %zu is in something that is not there", i);
	hwloc_bitmap_foreach_begin(cpu, core->cpus)
	{
		promise(host_core_of_cpu(host, cpu) == core, "CPU %u is in two cores", cpu);
	}
	hwloc_bitmap_foreach_end();
}

static void promise_host(const struct host *host)
{
	cleanup_bitmap hwloc_bitmap_t cores = xbitmap();

	promise_within(host->cpus, "the host");
	promise(hwloc_bitmap_weight(host->cpus) > 0, "a host without CPUs");
	promise(hwloc_bitmap_isincluded(host->allowed, host->cpus), "allowed, and not there");
	promise(hwloc_bitmap_isincluded(host->isolated, host->cpus), "isolated, and not there");
	promise(host->n_nodes > 0, "a host without nodes");
	promise(host->page_size > 0, "a page of 0 bytes");
	for (size_t i = 0; i < host->n_nodes; i++)
		promise_node(host, i);
	for (size_t i = 0; i < host->n_cores; i++) {
		promise_core(host, i);
		hwloc_bitmap_or(cores, cores, host->cores[i].cpus);
	}
	promise(hwloc_bitmap_isequal(cores, host->cpus), "a CPU without a core");
	for (size_t i = 0; i < host->n_devices; i++)
		promise(host_node(host, (unsigned)host->devices[i].node), "the node of %s",
		        host->devices[i].name);
}

/* A VM, where it fits, is on CPUs that the host has and allows. */
static void place_on(const struct host *host, const struct spec *spec)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_plan struct plan *plan = place(spec, host, NULL, ACCEL_KVM, &err);

	if (!plan) {
		promise_error(&err);
		promise(err.code == EXIT_GRANT, "refused as %d: %s", (int)err.code, err.message);
		return;
	}
	for (size_t i = 0; i < plan->n_vcpus; i++)
		promise(hwloc_bitmap_isincluded(plan->vcpus[i].cpus, host->allowed) &&
		            !hwloc_bitmap_iszero(plan->vcpus[i].cpus),
		        "vCPU %zu is on a CPU that is not allowed", i);
	promise(hwloc_bitmap_isincluded(plan->emulator, host->allowed), "the emulator is not");
	for (size_t i = 0; i < plan->n_memory; i++)
		for (int node = plan->memory[i].host_nodes
		                    ? hwloc_bitmap_first(plan->memory[i].host_nodes)
		                    : -1;
		     node >= 0; node = hwloc_bitmap_next(plan->memory[i].host_nodes, node))
			promise(host_node(host, (unsigned)node), "memory on node %d", node);
}

static const struct spec *spec_for_all(void)
{
	static const char text[] = "{ \"name\": \"fuzz\", \"vcpus\": 2, \"memory\": \"64MiB\" }";
	static struct spec *spec;
	struct spec_errors errors = { 0 };

	if (!spec)
		spec = spec_parse("/fuzz.json", text, sizeof(text) - 1, &errors);
	return spec;
}

static void load(const char *description)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_host struct host *host = host_load(description, &err);

	if (!host) {
		promise_error(&err);
		promise_printable(err.message);
		promise(err.code == EXIT_SPEC, "exit code %d: %s", (int)err.code, err.message);
		return;
	}
	promise_host(host);
	cleanup_json struct json_object *json = host_json(host);
	promise(json, "no JSON");
	place_on(host, spec_for_all());
}

/* hwloc takes half a minute for the CPUs of the largest machine that a line can describe, and
 * libFuzzer would count that as a finding: whether the numbers outside of parentheses give many. */
static bool is_large(const char *text)
{
	uint64_t size = 1;
	int depth = 0;

	while (*text && size <= 256) {
		char *end = NULL;
		uint64_t number = depth <= 0 ? strtoul(text, &end, 0) : 0;

		depth += (*text == '(' && strchr(text, ')')) - (*text == ')');
		size *= number > 256 ? 257 : number > 1 ? number : 1;
		text = end && end > text ? end : text + 1;
	}
	return size > 256;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int file = -1;
	cleanup_free char *text = text_of_bytes(data, size);

	if (strchr(text, ':') && !strpbrk(text, "/<") && strlen(text) == size) {
		if (!is_large(text))
			load(text);
		return 0;
	}
	if (file < 0)
		file = memfd_create("host.xml", MFD_CLOEXEC);
	cleanup_free char *path = xasprintf("/proc/self/fd/%d", file);
	promise(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size,
	        "no file for %zu bytes", size);
	load(path);
	return 0;
}
