#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "claims.h"
#include "command.h"
#include "cpulist.h"
#include "host.h"
#include "ledger.h"
#include "quote.h"
#include "util.h"

static struct json_object *claims_json(const struct claims *claims)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < claims->count; i++) {
		const struct claim *claim = &claims->list[i];
		cleanup_free char *cpus = cpulist_format(claim->cpus);
		struct json_object *json = json_object_new_object();
		json_add_string(json, "vm", claim->vm);
		json_add_string(json, "role", claim->role);
		json_add_string(json, "cpus", cpus);
		json_add_bool(json, "dedicated", claim->dedicated);
		json_object_array_add(list, json);
	}
	return list;
}

#define WIDTH 100

/* A labelled paragraph that wraps between words, and aligns what follows under its first word. */
struct paragraph {
	size_t indent, column;
};

static struct paragraph paragraph_begin(const char *label)
{
	int length = printf("  %-14s", label);
	size_t column = length > 0 ? (size_t)length : 0;

	return (struct paragraph){ 16, column };
}

static void paragraph_word(struct paragraph *out, const char *word)
{
	size_t length = strlen(word);

	if (out->column > out->indent && out->column + 1 + length > WIDTH) {
		printf("\n%*s", (int)out->indent, "");
		out->column = out->indent;
	}
	printf(" %s", word);
	out->column += 1 + length;
}

static void paragraph_text(struct paragraph *out, const char *text)
{
	cleanup_free char *copy = xstrdup(text);
	char *rest = copy;

	for (char *word; (word = strsep(&rest, " "));)
		if (*word)
			paragraph_word(out, word);
}

static void paragraph_end(void)
{
	putchar('\n');
}

static void __attribute__((format(printf, 2, 3)))
print_paragraph(const char *label, const char *format, ...)
{
	struct paragraph out = paragraph_begin(label);
	va_list args;

	va_start(args, format);
	cleanup_free char *text = xvasprintf(format, args);
	va_end(args);
	paragraph_text(&out, text);
	paragraph_end();
}

/* A size for people, with one decimal: "3.9GiB". */
static char *round_size(uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	double value = (double)bytes;
	size_t unit = 0;

	for (; value >= 1024 && unit + 1 < ARRAY_SIZE(units); unit++)
		value /= 1024;
	if (value == (double)(uint64_t)value)
		return xasprintf("%.0f%s", value, units[unit]);
	return xasprintf("%.1f%s", value, units[unit]);
}

/* The CPUs of a set, or what stands for none. A list that is too long for a line gets spaces
 * at which it can be broken. */
static char *list_or(hwloc_const_bitmap_t set, const char *none)
{
	cleanup_free char *list = cpulist_format(set);
	size_t length = strlen(list), size = 0;
	char *text;

	if (length == 0)
		return xstrdup(none);
	if (length <= WIDTH / 2)
		return take_pointer(&list);
	text = xcalloc(2 * length + 1, 1);
	for (const char *p = list; *p; p++) {
		text[size++] = *p;
		if (*p == ',')
			text[size++] = ' ';
	}
	return text;
}

/* "0+16", with the marks of print_legend(). */
static char *core_text(const struct host *host, const struct host_core *core)
{
	char *text = xstrdup("");
	unsigned cpu;

	hwloc_bitmap_foreach_begin(cpu, core->cpus)
	{
		bool allowed = hwloc_bitmap_isset(host->allowed, cpu);
		bool isolated = hwloc_bitmap_isset(host->isolated, cpu);
		char *longer = xasprintf("%s%s%s%u%s%s", text, *text ? "+" : "", allowed ? "" : "(",
		                         cpu, isolated ? "*" : "", allowed ? "" : ")");
		free(text);
		text = longer;
	}
	hwloc_bitmap_foreach_end();
	return text;
}

static bool same_group(const struct host_core *a, const struct host_core *b)
{
	return a->node == b->node && a->l3 == b->l3 && a->kind == b->kind;
}

/* Who holds the CPU, and as what: "db: vcpu 0, alone; web: emulator". NULL: nobody. */
static char *holders(const struct claims *claims, unsigned cpu)
{
	char *text = NULL;

	for (size_t i = 0; i < claims->count; i++) {
		const struct claim *claim = &claims->list[i];
		if (!hwloc_bitmap_isset(claim->cpus, cpu))
			continue;
		char *longer = xasprintf("%s%s%s: %s%s", text ? text : "", text ? "; " : "",
		                         claim->vm, claim->role, claim->dedicated ? ", alone" : "");
		free(text);
		text = longer;
	}
	return text;
}

/* Who holds the CPUs of these cores; CPUs that are held alike share a line. */
static void print_holders(const struct claims *claims, const struct host_core **cores, size_t count)
{
	cleanup_bitmap hwloc_bitmap_t left = xbitmap();
	int cpu;

	for (size_t i = 0; i < count; i++)
		hwloc_bitmap_or(left, left, cores[i]->cpus);
	while ((cpu = hwloc_bitmap_first(left)) >= 0) {
		cleanup_free char *text = holders(claims, (unsigned)cpu);
		cleanup_bitmap hwloc_bitmap_t alike = xbitmap();
		for (int other = cpu; other >= 0; other = hwloc_bitmap_next(left, other)) {
			cleanup_free char *theirs = holders(claims, (unsigned)other);
			if (text ? theirs && strcmp(text, theirs) == 0 : !theirs)
				hwloc_bitmap_set(alike, (unsigned)other);
		}
		hwloc_bitmap_andnot(left, left, alike);
		if (!text)
			continue;
		cleanup_free char *list = list_or(alike, "");
		print_paragraph("  held", "%s: %s", list, text);
	}
}

/* One line of the map: the cores of one node, L3 and kind; and who holds what of them. */
static void print_group(const struct host *host, const struct claims *claims,
                        const struct host_core **cores, size_t count)
{
	const struct host_core *first = cores[0];
	cleanup_free char *size = first->l3 < 0 ? NULL : round_size(host->l3s[first->l3].size);
	cleanup_free char *l3 = size ? xasprintf("L3 %d %s", first->l3, size) : xstrdup("no L3");
	struct paragraph out = paragraph_begin(l3);

	if (first->kind >= 0) {
		cleanup_free char *kind = xasprintf("kind %d:", first->kind);
		paragraph_text(&out, kind);
	}
	for (size_t i = 0; i < count; i++) {
		cleanup_free char *text = core_text(host, cores[i]);
		paragraph_word(&out, text);
	}
	paragraph_end();
	if (claims->count)
		print_holders(claims, cores, count);
}

static int compare_groups(const void *a, const void *b)
{
	const struct host_core *left = *(const struct host_core *const *)a;
	const struct host_core *right = *(const struct host_core *const *)b;

	if (left->node != right->node)
		return left->node < right->node ? -1 : 1;
	if (left->l3 != right->l3)
		return left->l3 < right->l3 ? -1 : 1;
	if (left->kind != right->kind)
		return left->kind < right->kind ? -1 : 1;
	return left < right ? -1 : left > right;
}

/* The cores of the host, ordered by node, L3 and kind. */
static const struct host_core **ordered_cores(const struct host *host)
{
	const struct host_core **cores = xcalloc(host->n_cores, sizeof(*cores));

	for (size_t i = 0; i < host->n_cores; i++)
		cores[i] = &host->cores[i];
	qsort(cores, host->n_cores, sizeof(*cores), compare_groups);
	return cores;
}

/* Prints the groups of one node (-1: CPUs without node) from cores[start]; returns the next. */
static size_t print_cores(const struct host *host, const struct claims *claims,
                          const struct host_core **cores, size_t start, int node)
{
	size_t end;

	for (; start < host->n_cores && cores[start]->node == node; start = end) {
		for (end = start + 1; end < host->n_cores; end++)
			if (!same_group(cores[start], cores[end]))
				break;
		print_group(host, claims, cores + start, end - start);
	}
	return start;
}

/* "10 to 0, 21 to 1-3": the nodes at each distance, near ones first. */
static void print_distances(const struct host *host, const struct host_node *node)
{
	cleanup_bitmap hwloc_bitmap_t done = xbitmap();
	struct paragraph out = paragraph_begin("distance");

	for (size_t shown = 0; shown < host->n_nodes;) {
		cleanup_bitmap hwloc_bitmap_t at = xbitmap();
		size_t near = host->n_nodes;

		for (size_t i = 0; i < host->n_nodes; i++)
			if (!hwloc_bitmap_isset(done, (unsigned)i) &&
			    (near == host->n_nodes || node->distances[i] < node->distances[near]))
				near = i;
		for (size_t i = 0; i < host->n_nodes; i++)
			if (node->distances[i] == node->distances[near]) {
				hwloc_bitmap_set(done, (unsigned)i);
				hwloc_bitmap_set(at, host->nodes[i].id);
				shown++;
			}
		cleanup_free char *list = list_or(at, "");
		cleanup_free char *text = xasprintf("%u to %s%s", node->distances[near], list,
		                                    shown < host->n_nodes ? "," : "");
		paragraph_text(&out, text);
	}
	paragraph_end();
}

static void print_hugepages(const struct host_node *node)
{
	struct paragraph out = paragraph_begin("huge pages");

	for (size_t i = 0; i < node->n_pages; i++) {
		const struct host_pages *pages = &node->pages[i];
		cleanup_free char *size = format_size(pages->size);
		cleanup_free char *text =
		    xasprintf("%s: %llu of %llu free%s", size, (unsigned long long)pages->free,
		              (unsigned long long)pages->total, i + 1 < node->n_pages ? ";" : "");
		paragraph_text(&out, text);
	}
	paragraph_end();
}

static void print_node(const struct host *host, const struct host_node *node)
{
	cleanup_free char *memory = round_size(node->memory);
	cleanup_free char *unused = round_size(node->free);
	cleanup_free char *cpus = list_or(node->cpus, "none (memory only)");

	printf("\nnode %u\n", node->id);
	print_paragraph("CPUs", "%s", cpus);
	print_paragraph("memory", "%s, %s free", memory, unused);
	if (node->n_pages)
		print_hugepages(node);
	if (host->n_nodes > 1)
		print_distances(host, node);
}

static void print_packages(const struct host *host)
{
	if (host->n_packages)
		putchar('\n');
	for (size_t i = 0; i < host->n_packages; i++) {
		const struct host_package *package = &host->packages[i];
		cleanup_free char *cpus = list_or(package->cpus, "");
		cleanup_free char *label =
		    package->id < 0 ? xstrdup("package") : xasprintf("package %d", package->id);

		print_paragraph(label, "%s", cpus);
	}
}

static void print_summary(const struct host *host, const char *description)
{
	cleanup_free char *allowed = list_or(host->allowed, "none");
	cleanup_free char *isolated = list_or(host->isolated, "none");
	cleanup_free char *page = format_size(host->page_size);
	cleanup_free char *name = description ? escape(description, strlen(description), WIDTH - 3)
	                                      : xstrdup("this machine");

	puts(name);
	print_paragraph("has",
	                "CPUs: %d; cores: %zu; L3: %zu; packages: %zu; nodes: %zu; pages: %s",
	                hwloc_bitmap_weight(host->cpus), host->n_cores, host->n_l3s,
	                host->n_packages, host->n_nodes, page);
	print_paragraph("allowed", "%s", allowed);
	print_paragraph("isolated", "%s", isolated);
}

static void print_legend(const struct host *host)
{
	if (host->n_cores < (size_t)hwloc_bitmap_weight(host->cpus))
		puts("\n0+1: SMT siblings of one core");
	if (!hwloc_bitmap_isequal(host->allowed, host->cpus))
		puts("(0): not allowed");
	if (!hwloc_bitmap_iszero(host->isolated))
		puts("0*:  isolated");
}

static void print_host(const struct host *host, const struct claims *claims,
                       const char *description)
{
	cleanup_free const struct host_core **cores = ordered_cores(host);
	size_t next = 0;

	while (next < host->n_cores && cores[next]->node < 0)
		next++;
	print_summary(host, description);
	for (size_t i = 0; i < host->n_nodes; i++) {
		print_node(host, &host->nodes[i]);
		next = print_cores(host, claims, cores, next, (int)host->nodes[i].id);
	}
	if (host->n_cores && cores[0]->node < 0) {
		puts("\nno node");
		print_cores(host, claims, cores, 0, -1);
	}
	print_packages(host);
	print_legend(host);
}

static int run(const struct invocation *call)
{
	cleanup_error struct error err = ERROR_INIT;
	const char *description = invocation_option(call, "host");
	cleanup_host struct host *host = host_load(description, &err);
	cleanup_claims struct claims *claims = NULL;

	/* Of the isolated CPUs, some may be a dead VM's. */
	if (host && !description && !hwloc_bitmap_iszero(host->isolated) && ledger_give_back()) {
		host_free(host);
		host = host_load(NULL, &err);
	}
	if (!host || ledger_read_claims(description == NULL, &claims, &err) < 0)
		return command_fail(&err);
	command_warn(claims->left_out);
	if (invocation_option(call, "json")) {
		struct json_object *json = host_json(host);

		json_object_object_add(json, "claims", claims_json(claims));
		return command_print_json(json);
	}
	print_host(host, claims, description);
	return command_flush();
}

static const struct command_option options[] = {
	{ "host", "H", "an hwloc XML file or a synthetic description instead of this machine" },
	OPTION_JSON,
	{ NULL, NULL, NULL },
};

const struct command cmd_host = {
	.name = "host",
	.arguments = "",
	.summary = "Show the host as placement sees it",
	.details =
	    "NUMA nodes with memory, huge pages and distances, caches, cores with their SMT\n"
	    "siblings, which CPUs are allowed and isolated, and who holds which.",
	.options = options,
	.run = run,
};
