/* Which NUMA node a device is on. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "host_parts.h"
#include "util.h"

static void add(struct host *host, const char *name, int64_t node)
{
	struct host_device *device;

	/* -1: the firmware does not say. */
	if (node < 0 || node > INT_MAX || !host_node(host, (unsigned)node))
		return;
	device = array_append(&host->devices, &host->n_devices);
	device->name = xstrdup(name);
	device->node = (int)node;
}

int host_device_node(const struct host *host, const char *name)
{
	for (size_t i = 0; i < host->n_devices; i++)
		if (strcmp(host->devices[i].name, name) == 0)
			return host->devices[i].node;
	return -1;
}

void host_find_pci(struct host *host, const char *address)
{
	if (host->live && host_device_node(host, address) < 0)
		add(host, address, read_number("/sys/bus/pci/devices/%s/numa_node", address));
}

/* The node of the controller that a block device hangs on: the first directory above it in the tree
 * of devices that names one. Disks of software (RAID, device mapper) have none. */
static int64_t block_node(dev_t device)
{
	cleanup_free char *link = xasprintf("/sys/dev/block/%u:%u", major(device), minor(device));
	char path[PATH_MAX];

	if (!realpath(link, path))
		return -1;
	for (char *end = path + strlen(path); end > path; *end = '\0') {
		int64_t node = read_number("%s/numa_node", path);
		if (node >= 0)
			return node;
		end = strrchr(path, '/');
	}
	return -1;
}

void host_find_disk(struct host *host, const char *path)
{
	struct stat file;

	if (host->live && host_device_node(host, path) < 0 && stat(path, &file) == 0)
		add(host, path, block_node(S_ISBLK(file.st_mode) ? file.st_rdev : file.st_dev));
}

/* PCI devices that an XML file has. Those near several nodes are near none in particular. */
void host_topology_devices(struct host *host, hwloc_topology_t topology)
{
	hwloc_obj_t obj = NULL;

	while ((obj = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_PCI_DEVICE, obj))) {
		const struct hwloc_pcidev_attr_s *pci = &obj->attr->pcidev;
		hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(topology, obj);
		cleanup_free char *name =
		    xasprintf("%04x:%02x:%02x.%x", pci->domain, pci->bus, pci->dev, pci->func);
		if (near && near->nodeset && hwloc_bitmap_weight(near->nodeset) == 1)
			add(host, name, hwloc_bitmap_first(near->nodeset));
	}
}
