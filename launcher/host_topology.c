/* A topology from hwloc: of the live machine, an XML file, or a synthetic description. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpulist.h"
#include "host_parts.h"
#include "quote.h"
#include "util.h"

/* Exported by hwloc, a machine of 2,048 PUs takes 2 MB. */
#define XML_LIMIT (64u << 20)

/* What of a description an error message shows, in bytes. */
#define SHOWN_LIMIT 200

#define SYNTHETIC_EXAMPLE "\"numa:2 l3:2 core:4 pu:2\""

/* hwloc's variables can replace the live machine by a file and make the library talk; its plugins
 * (CUDA, OpenCL, GL, PCI; another XML parser) cost time at every start and change what a file
 * means. The same command has to see the same host on every machine; and nothing foreign is
 * printed. */
static void hide_environment(void)
{
	static char *none[] = { NULL };

	for (char **variable = environ ? environ : none; *variable;) {
		if (strncmp(*variable, "HWLOC_", 6) != 0) {
			variable++;
			continue;
		}
		cleanup_free char *name =
		    xasprintf("%.*s", (int)strcspn(*variable, "="), *variable);
		if (unsetenv(name) < 0)
			variable++;
	}
	setenv("HWLOC_HIDE_ERRORS", "2", 1);
	setenv("HWLOC_PLUGINS_PATH", "/dev/null", 1);
}

/* The product of the levels' arities ("numa:2 core:4" is 8), as far as we need to know it:
 * hwloc would try to build any number of PUs. It reads numbers as C does: 0x10 and +16, too. */
static uint64_t synthetic_size(const char *text)
{
	uint64_t size = 1;
	int depth = 0;

	for (const char *p = text; *p && size <= CPULIST_MAX; p++) {
		bool starts = p == text || p[-1] == ':' || isspace((unsigned char)p[-1]);

		if (*p == '(' || *p == '[')
			depth++;
		else if (*p == ')' || *p == ']')
			depth--;
		else if (depth == 0 && starts && (isdigit((unsigned char)*p) || *p == '+')) {
			uint64_t arity = strtoul(p, NULL, 0);

			size *= arity <= CPULIST_MAX ? arity : CPULIST_MAX + 1;
		}
	}
	return size;
}

/* "pu:2(indexes=0,70000)": as with files, hwloc would take up to 1 GiB for a set with that number.
 */
static bool has_large_index(const char *text)
{
	static const char attribute[] = "indexes=";

	for (const char *p = strstr(text, attribute); p; p = strstr(p, attribute))
		for (p += strlen(attribute); *p && *p != ')' && *p != ' '; p++)
			if (*p >= '0' && *p <= '9') {
				char *end;
				if (strtoul(p, &end, 10) > CPULIST_MAX)
					return true;
				p = end - 1;
			}
	return false;
}

static int load_synthetic(hwloc_topology_t topology, const char *text, struct error *err)
{
	cleanup_free char *shown = escape(text, strlen(text), SHOWN_LIMIT);

	if (synthetic_size(text) > CPULIST_MAX)
		return error_set(err, EXIT_SPEC, "synthetic host \"%s\" has more than %d CPUs",
		                 shown, CPULIST_MAX);
	if (has_large_index(text))
		return error_set(err, EXIT_SPEC,
		                 "synthetic host \"%s\" has a number above %d in its indexes",
		                 shown, CPULIST_MAX);
	if (hwloc_topology_set_synthetic(topology, text) < 0)
		return error_set(err, EXIT_SPEC,
		                 "no file \"%s\", and hwloc cannot read it as a synthetic host: "
		                 "expected levels from the outside in, as in " SYNTHETIC_EXAMPLE,
		                 shown);
	if (hwloc_topology_load(topology) < 0)
		return error_set(err, EXIT_SPEC, "hwloc cannot build the host \"%s\": %s", shown,
		                 strerror(errno));
	return 0;
}

/* An attribute of a tag as hwloc's own parser reads it: NAME="VALUE". */
struct attribute {
	const char *name, *value;
	size_t name_length, value_length;
};

/* Reads the attribute at *text and goes behind it; false: there is none. */
static bool next_attribute(const char **text, struct attribute *attribute)
{
	const char *name = *text + strspn(*text, " \t\n"), *end;

	attribute->name = name;
	attribute->name_length = strspn(name, "abcdefghijklmnopqrstuvwxyz_");
	if (strncmp(name + attribute->name_length, "=\"", 2) != 0)
		return false;
	attribute->value = name + attribute->name_length + 2;
	end = strpbrk(attribute->value, "\">");
	if (!end || *end != '"')
		return false;
	attribute->value_length = (size_t)(end - attribute->value);
	*text = end + 1;
	return true;
}

static bool is_named(const struct attribute *attribute, const char *name)
{
	return attribute->name_length == strlen(name) &&
	       strncmp(attribute->name, name, attribute->name_length) == 0;
}

static bool is_number_of_linux(const struct attribute *attribute)
{
	return isdigit((unsigned char)*attribute->value) &&
	       strtoul(attribute->value, NULL, 10) <= CPULIST_MAX;
}

/* The attributes of one object: is it a CPU or node without a number that Linux has? */
static bool has_wrong_number(const char *attributes)
{
	hwloc_obj_type_t type = HWLOC_OBJ_MACHINE;
	bool numbered = false, wrong = false;
	struct attribute attribute;

	while (next_attribute(&attributes, &attribute)) {
		if (is_named(&attribute, "type")) {
			cleanup_free char *name =
			    xasprintf("%.*s", (int)attribute.value_length, attribute.value);
			hwloc_type_sscanf(name, &type, NULL, 0);
		} else if (is_named(&attribute, "os_index")) {
			numbered = true;
			wrong |= !is_number_of_linux(&attribute);
		}
	}
	return (type == HWLOC_OBJ_PU || type == HWLOC_OBJ_NUMANODE) && (wrong || !numbered);
}

/* hwloc's sets would take 512 MiB for such a number, each, and seconds. */
static bool has_wrong_numbers(const char *text)
{
	static const char object[] = "<object ";

	for (const char *found = strstr(text, object); found; found = strstr(found, object)) {
		found += strlen(object);
		if (has_wrong_number(found))
			return true;
	}
	return false;
}

/* What is wrong with a file that is better not shown to hwloc; NULL if nothing strikes us. */
static const char *xml_fault(const char *text, size_t length)
{
	if (length == 0)
		return "it is empty";
	if (strlen(text) != length || !strstr(text, "<topology"))
		return "it is not XML of hwloc (write one with: lstopo --of xml FILE)";
	if (!strstr(text, "</topology>"))
		return "it is cut short: its end, </topology>, is missing";
	if (has_wrong_numbers(text))
		return "it has a CPU or node with a number above that of any Linux, or without one";
	return NULL;
}

/* What is wrong with a file that hwloc did not load. */
static const char *xml_load_fault(const char *text)
{
	const char *version = strstr(text, "<topology version=\"");

	if (version &&
	    strtoul(version + strlen("<topology version=\""), NULL, 10) > HWLOC_API_VERSION >> 16)
		return "it was written by a newer hwloc (write it with: lstopo "
		       "--export-xml-flags v2 --of xml FILE)";
	return "hwloc finds a mistake in it";
}

static int load_xml(hwloc_topology_t topology, const char *path, struct error *err)
{
	cleanup_free char *text = NULL;
	const char *fault;
	size_t length;

	if (read_file(path, XML_LIMIT, &text, &length, err) < 0) {
		err->code = EXIT_SPEC;
		return error_prefix(err, "host description: ");
	}
	fault = xml_fault(text, length);
	if (!fault && (hwloc_topology_set_xmlbuffer(topology, text, (int)length + 1) < 0 ||
	               hwloc_topology_load(topology) < 0))
		fault = xml_load_fault(text);
	if (!fault)
		return 0;
	cleanup_free char *shown = escape(path, strlen(path), SHOWN_LIMIT);
	return error_set(err, EXIT_SPEC, "cannot read the host from \"%s\": %s", shown, fault);
}

/* Only what placement looks at: a cache that is left out is five files less to read for every CPU.
 * Groups stay (as structure): without them hwloc hangs a node whose CPUs are no other object's on
 * a parent that has more CPUs. */
static int set_filters(hwloc_topology_t topology, bool live)
{
	unsigned long flags = live ? HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED : 0;

	if (hwloc_topology_set_flags(topology, flags | HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS) < 0 ||
	    hwloc_topology_set_io_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE) < 0 ||
	    hwloc_topology_set_type_filter(topology, HWLOC_OBJ_PCI_DEVICE,
	                                   live ? HWLOC_TYPE_FILTER_KEEP_NONE
	                                        : HWLOC_TYPE_FILTER_KEEP_ALL) < 0 ||
	    hwloc_topology_set_cache_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE) < 0 ||
	    hwloc_topology_set_type_filter(topology, HWLOC_OBJ_L3CACHE,
	                                   HWLOC_TYPE_FILTER_KEEP_ALL) < 0 ||
	    hwloc_topology_set_type_filter(topology, HWLOC_OBJ_MISC, HWLOC_TYPE_FILTER_KEEP_NONE) <
	        0)
		return -1;
	/* CPUID adds nothing that we use to what the kernel says, and costs half of the time:
	 * it visits every CPU. */
	return live ? hwloc_topology_set_components(topology,
	                                            HWLOC_TOPOLOGY_COMPONENTS_FLAG_BLACKLIST, "x86")
	            : 0;
}

static int load_live(hwloc_topology_t topology, struct error *err)
{
	cleanup_free char *key = host_cache_key();

	if (host_cache_load(key, topology))
		return 0;
	if (set_filters(topology, true) < 0 || hwloc_topology_load(topology) < 0)
		return error_set(err, EXIT_FAILED, "hwloc cannot read this machine: %s",
		                 strerror(errno));
	/* Not what was there before, if it has changed meanwhile. */
	cleanup_free char *key_after = host_cache_key();
	if (key && key_after && strcmp(key, key_after) == 0)
		host_cache_store(key, topology);
	return 0;
}

static int load(hwloc_topology_t topology, const char *description, struct error *err)
{
	if (!description)
		return load_live(topology, err);
	if (access(description, F_OK) == 0)
		return load_xml(topology, description, err);
	if (strchr(description, ':') && !strchr(description, '/'))
		return load_synthetic(topology, description, err);
	int reason = errno;
	cleanup_free char *shown = escape(description, strlen(description), SHOWN_LIMIT);
	return error_set(err, EXIT_SPEC,
	                 "cannot read the host from \"%s\": %s; expected an XML file of hwloc or a "
	                 "synthetic description such as " SYNTHETIC_EXAMPLE,
	                 shown, strerror(reason));
}

hwloc_topology_t host_topology_open(const char *description, struct error *err)
{
	hwloc_topology_t topology;

	hide_environment();
	if (hwloc_topology_init(&topology) < 0) {
		error_set(err, EXIT_FAILED, "hwloc does not start: %s", strerror(errno));
		return NULL;
	}
	if (set_filters(topology, !description) < 0)
		error_set(err, EXIT_FAILED, "hwloc refuses its settings: %s", strerror(errno));
	else if (load(topology, description, err) == 0)
		return topology;
	hwloc_topology_destroy(topology);
	return NULL;
}
