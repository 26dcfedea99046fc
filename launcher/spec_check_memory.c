/* Consistency of memory: sizes, pages, policies, and who may map it. */
#include <stdlib.h>

#include "spec_parse.h"

#define BASE_PAGE 4096

static void check_multiple(struct parse *parse, const char *pointer, uint64_t memory,
                           const struct pages *pages)
{
	uint64_t page = pages->kind == PAGES_HUGE ? pages->size : BASE_PAGE;

	if (memory % page == 0)
		return;
	cleanup_free char *size = format_size(memory);
	cleanup_free char *page_size = format_size(page);
	cleanup_free char *next = format_size((memory / page + 1) * page);
	spec_fail_at(parse, pointer,
	             "expected a multiple of the page size %s, found %s; the next is %s", page_size,
	             size, next);
}

/* Memory is a multiple of the size of its pages; in a guest node, of that node's. */
static void check_multiples(struct parse *parse)
{
	struct spec *spec = parse->spec;
	bool backing_good = spec_good(parse, "/memory-backing/hugepages");

	if (!spec_says(parse, "/numa")) {
		if (backing_good && spec_good(parse, "/memory"))
			check_multiple(parse, "/memory", spec->memory, &spec->backing.pages);
		return;
	}
	for (size_t i = 0; i < spec->numa.n_nodes; i++) {
		cleanup_free char *node = xasprintf("/numa/nodes/%zu", i);
		cleanup_free char *memory = xasprintf("%s/memory", node);
		cleanup_free char *pages = xasprintf("%s/hugepages", node);
		if (spec_good(parse, "%s", memory) && spec_good(parse, "%s", pages) &&
		    (backing_good || spec_says(parse, "%s", pages)))
			check_multiple(parse, memory, spec->numa.nodes[i].memory,
			               &spec->numa.nodes[i].pages);
	}
}

/* The guest nodes add up to the memory. */
static void check_sum(struct parse *parse)
{
	struct spec *spec = parse->spec;
	uint64_t sum = 0;

	if (!spec_good(parse, "/memory") || !spec_good(parse, "/numa"))
		return;
	for (size_t i = 0; i < spec->numa.n_nodes; i++)
		sum += spec->numa.nodes[i].memory;
	if (!spec_says(parse, "/memory") && !spec->numa.n_nodes) {
		spec_fail_at(parse, "/memory",
		             "required but missing: a size as \"16GiB\" or \"512MiB\"");
	} else if (spec->numa.n_nodes && sum != spec->memory) {
		cleanup_free char *memory = format_size(spec->memory);
		cleanup_free char *nodes = format_size(sum);
		spec_fail_at(parse, "/memory",
		             "the guest nodes add up to %s, but memory is %s: make them equal",
		             nodes, memory);
	}
}

/* With static placement a policy is about nodes that the spec names. */
static void check_policy(struct parse *parse, const char *where, enum mem_policy policy,
                         hwloc_const_bitmap_t host_nodes)
{
	cleanup_free char *pointer = xasprintf("%s/policy", where);

	if (policy == MEM_POLICY_UNSET || host_nodes || !spec_good(parse, "%s", where) ||
	    !spec_good(parse, "/placement") || parse->spec->placement.mode != PLACEMENT_STATIC)
		return;
	spec_fail_at(parse, pointer,
	             "\"%s\" needs \"host-nodes\" beside it: with placement \"static\" nobody else "
	             "chooses the nodes",
	             mem_policy_name(policy));
}

static void check_policies(struct parse *parse)
{
	struct spec *spec = parse->spec;

	check_policy(parse, "/memory-backing", spec->backing.policy, spec->backing.host_nodes);
	for (size_t i = 0; i < spec->numa.n_nodes; i++) {
		struct spec_node *node = &spec->numa.nodes[i];
		cleanup_free char *where = xasprintf("/numa/nodes/%zu", i);

		check_policy(parse, where, node->policy, node->host_nodes);
	}
}

/* The process is confined to a node while that node's pages are filled, which is before QEMU
 * can touch them: later, nothing would say which page goes where. */
static void check_restrictive(struct parse *parse)
{
	struct spec *spec = parse->spec;

	if (spec->numa.n_nodes < 2 || spec->backing.prealloc != PREALLOC_FALSE ||
	    !spec_good(parse, "/memory-backing") || !spec_good(parse, "/numa"))
		return;
	for (size_t i = 0; i < spec->numa.n_nodes; i++) {
		cleanup_free char *pointer = xasprintf("/numa/nodes/%zu/policy", i);
		if (spec->numa.nodes[i].policy == MEM_POLICY_RESTRICTIVE)
			spec_fail_at(parse, pointer,
			             "\"restrictive\" over several guest nodes needs prealloc: set "
			             "\"prealloc\": true in memory-backing");
	}
}

/* Placement of all memory is for a guest without nodes. */
static void check_backing_nodes(struct parse *parse)
{
	struct spec *spec = parse->spec;
	static const char message[] =
	    "only when there are no guest nodes: say it in each of /numa/nodes";

	if (!spec->numa.n_nodes)
		return;
	if (spec->backing.host_nodes)
		spec_fail_at(parse, "/memory-backing/host-nodes", message);
	if (spec->backing.policy != MEM_POLICY_UNSET)
		spec_fail_at(parse, "/memory-backing/policy", message);
}

static void check_locked(struct parse *parse)
{
	struct spec *spec = parse->spec;

	if (spec->backing.locked && spec->backing.prealloc == PREALLOC_FALSE &&
	    spec_good(parse, "/memory-backing/prealloc"))
		spec_fail_at(parse, "/memory-backing/prealloc",
		             "false contradicts \"locked\": locking fills every page; leave one of "
		             "them out");
}

static bool all_pages_are(const struct spec *spec, enum page_kind kind)
{
	for (size_t i = 0; i < spec->numa.n_nodes; i++)
		if (spec->numa.nodes[i].pages.kind != kind)
			return false;
	return spec->numa.n_nodes || spec->backing.pages.kind == kind;
}

static void check_path(struct parse *parse)
{
	struct spec *spec = parse->spec;

	if (spec->backing.path && !all_pages_are(spec, PAGES_HUGE) &&
	    spec_good(parse, "/memory-backing") && spec_good(parse, "/numa"))
		spec_fail_at(parse, "/memory-backing/path",
		             "a hugetlbfs holds huge pages only: set \"hugepages\" to a size, as "
		             "\"2MiB\", for all memory, or leave the path out");
}

/* What others map is a file, and stock kernels give files no transparent huge pages. */
static void check_shared(struct parse *parse)
{
	struct spec *spec = parse->spec;

	for (size_t i = 0; i < spec->numa.n_nodes; i++) {
		cleanup_free char *pointer = xasprintf("/numa/nodes/%zu/shared", i);
		if (spec->numa.nodes[i].shared && spec->numa.nodes[i].pages.kind == PAGES_THP &&
		    spec_good(parse, "%s", pointer))
			spec_fail_at(
			    parse, pointer,
			    "shared memory has no transparent huge pages: use \"none\", or "
			    "huge pages of a size");
	}
}

void spec_check_memory(struct parse *parse)
{
	static void (*const checks[])(struct parse *) = {
		check_multiples,     check_sum,    check_policies, check_restrictive,
		check_backing_nodes, check_locked, check_path,     check_shared,
	};

	for (size_t i = 0; i < ARRAY_SIZE(checks); i++)
		checks[i](parse);
}
