/* The topology of this machine as hwloc found it, kept for the next start: hwloc opens some twenty
 * files for every CPU, which is more than all else before QEMU runs.
 *
 * It counts during one boot, for the same CPUs and nodes online. Memory, huge pages and the CPUs
 * that are allowed change all the time and are not taken from it. */
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "host_parts.h"
#include "kernel.h"
#include "util.h"

#define NAME "host.xml"

/* Raised when another filter keeps other objects. */
#define FORM 1

static char *online(const char *what)
{
	cleanup_free char *path = xasprintf("/sys/devices/system/%s/online", what);
	cleanup_error struct error ignored = ERROR_INIT;
	char *text = NULL;

	if (read_file(path, 1 << 16, &text, NULL, &ignored) < 0)
		return xstrdup("none");
	text[strcspn(text, "\n")] = '\0';
	return text;
}

char *host_cache_key(void)
{
	cleanup_free char *boot = kernel_boot_id();
	cleanup_free char *cpus = online("cpu");
	cleanup_free char *nodes = online("node");

	return boot ? xasprintf("boot=%s cpus=%s nodes=%s hwloc=%#x form=%d", boot, cpus, nodes,
	                        hwloc_get_api_version(), FORM)
	            : NULL;
}

bool host_cache_load(const char *key, hwloc_topology_t topology)
{
	size_t length;
	cleanup_free char *xml = key ? cache_read(NAME, key, &length) : NULL;

	return xml && hwloc_topology_set_xmlbuffer(topology, xml, (int)length + 1) == 0 &&
	       hwloc_topology_load(topology) == 0;
}

void host_cache_store(const char *key, hwloc_topology_t topology)
{
	char *xml;
	int length;

	if (!key || hwloc_topology_export_xmlbuffer(topology, &xml, &length, 0) < 0)
		return;
	cache_write(NAME, key, xml);
	hwloc_free_xmlbuffer(topology, xml);
}
