/* The devices on QEMU's command line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "argv_parts.h"
#include "util.h"

/* microvm has virtio over MMIO, the others over PCI. */
static const char *virtio_type(const struct building *b, const char *kind)
{
	bool mmio = b->spec->qemu.machine == MACHINE_MICROVM;

	if (strcmp(kind, "blk") == 0)
		return mmio ? "virtio-blk-device" : "virtio-blk-pci";
	return mmio ? "virtio-net-device" : "virtio-net-pci";
}

static struct json_object *file_node(const char *path, enum disk_type type)
{
	struct json_object *file = json_object_new_object();

	json_add_string(file, "driver", type == DISK_TYPE_BLOCK ? "host_device" : "file");
	json_add_string(file, "filename", path);
	return file;
}

void argv_flash(struct building *b, int unit, const char *path, bool readonly)
{
	struct json_object *node = json_object_new_object();
	cleanup_free char *name = xasprintf("flash%d", unit);

	json_add_string(node, "driver", "raw");
	json_add_string(node, "node-name", name);
	json_add_bool(node, "read-only", readonly);
	json_object_object_add(node, "file", file_node(path, DISK_TYPE_FILE));
	argv_json(b, "-blockdev", node);
	argv_option(b, "-machine", "pflash%d=%s", unit, name);
}

static void add_disk(struct building *b, size_t index)
{
	const struct spec_disk *disk = &b->spec->disks[index];
	struct json_object *node = json_object_new_object();
	struct json_object *device = json_object_new_object();
	cleanup_free char *node_name = xasprintf("disk%zu", index);
	cleanup_free char *id = xasprintf("virtio-disk%zu", index);

	json_add_string(node, "driver", disk->format == DISK_FORMAT_QCOW2 ? "qcow2" : "raw");
	json_add_string(node, "node-name", node_name);
	json_add_bool(node, "read-only", disk->readonly);
	json_object_object_add(node, "file", file_node(disk->file, disk->type));
	argv_json(b, "-blockdev", node);

	json_add_string(device, "driver", virtio_type(b, "blk"));
	json_add_string(device, "id", id);
	json_add_string(device, "drive", node_name);
	if (disk->iothread)
		json_add_string(device, "iothread", disk->iothread);
	if (!b->spec->boot.kernel && b->spec->qemu.machine != MACHINE_MICROVM)
		json_add_int(device, "bootindex", (int64_t)index + 1);
	argv_json(b, "-device", device);
}

/* QEMU gives every guest the same address; two on one bridge need two. The same name and index
 * give the same address each time: 52:54:00 is QEMU's prefix, the rest FNV-1a. */
static void default_mac(const char *name, size_t index, char mac[18])
{
	uint32_t hash = 2166136261u;

	for (const char *p = name; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619u;
	hash = (hash ^ (uint32_t)index) * 16777619u;
	snprintf(mac, 18, "52:54:00:%02x:%02x:%02x", (hash >> 16) & 0xff, (hash >> 8) & 0xff,
	         hash & 0xff);
}

static void add_netdev(struct building *b, size_t index, const char *id, int *fd)
{
	const struct spec_nic *nic = &b->spec->nics[index];
	struct json_object *netdev = json_object_new_object();

	if (nic->type == NIC_VHOST_USER) {
		cleanup_free char *path = argv_escape(nic->socket);
		argv_option(b, "-chardev", "socket,id=chr-%s,path=%s", id, path);
		json_add_string(netdev, "type", "vhost-user");
		json_add_string(netdev, "id", id);
		cleanup_free char *chardev = xasprintf("chr-%s", id);
		json_add_string(netdev, "chardev", chardev);
	} else if (nic->type == NIC_USER) {
		json_add_string(netdev, "type", "user");
		json_add_string(netdev, "id", id);
	} else {
		cleanup_free char *tap =
		    xasprintf("%d", argv_inherit(b, INHERIT_TAP, index, (*fd)++));
		json_add_string(netdev, "type", "tap");
		json_add_string(netdev, "id", id);
		json_add_string(netdev, "fd", tap);
		if (nic->vhost) {
			cleanup_free char *vhost =
			    xasprintf("%d", argv_inherit(b, INHERIT_VHOST, index, (*fd)++));
			json_add_bool(netdev, "vhost", true);
			json_add_string(netdev, "vhostfd", vhost);
		}
	}
	argv_json(b, "-netdev", netdev);
}

static void add_nic(struct building *b, size_t index, int *fd)
{
	const struct spec_nic *nic = &b->spec->nics[index];
	struct json_object *device = json_object_new_object();
	cleanup_free char *id = xasprintf("net%zu", index);
	cleanup_free char *device_id = xasprintf("virtio-net%zu", index);
	char mac[18];

	add_netdev(b, index, id, fd);
	default_mac(b->spec->name, index, mac);
	json_add_string(device, "driver", virtio_type(b, "net"));
	json_add_string(device, "id", device_id);
	json_add_string(device, "netdev", id);
	json_add_string(device, "mac", nic->mac ? nic->mac : mac);
	/* No boot from the network, so no option ROM to load. */
	if (b->spec->qemu.machine != MACHINE_MICROVM)
		json_add_string(device, "romfile", "");
	argv_json(b, "-device", device);
}

static void add_hostdev(struct building *b, size_t index)
{
	struct json_object *device = json_object_new_object();
	cleanup_free char *id = xasprintf("hostdev%zu", index);

	json_add_string(device, "driver", "vfio-pci");
	json_add_string(device, "id", id);
	json_add_string(device, "host", b->spec->hostdevs[index].pci);
	argv_json(b, "-device", device);
}

/* Of the 32 on the PCI bus the chipset takes two; microvm has 24 virtio transports. Tried with QEMU
 * 7.2 and 10.0. */
static size_t slots(const struct building *b)
{
	return b->spec->qemu.machine == MACHINE_MICROVM ? 24 : 30;
}

static int check_devices(const struct building *b, struct error *err)
{
	const struct {
		const char *field, *type;
		size_t count;
	} needs[] = {
		{ "disks", virtio_type(b, "blk"), b->spec->n_disks },
		{ "nics", virtio_type(b, "net"), b->spec->n_nics },
		{ "hostdevs", "vfio-pci", b->spec->n_hostdevs },
	};

	if (b->spec->n_disks + b->spec->n_nics + b->spec->n_hostdevs > slots(b))
		return error_set(
		    err, EXIT_GRANT,
		    "disks, nics, hostdevs: %zu devices, but machine %s has places for "
		    "%zu; use fewer",
		    b->spec->n_disks + b->spec->n_nics + b->spec->n_hostdevs,
		    machine_name(b->spec->qemu.machine), slots(b));
	for (size_t i = 0; i < ARRAY_SIZE(needs); i++) {
		cleanup_free char *question = xasprintf("type:%s", needs[i].type);
		if (needs[i].count && !caps_has(b->caps, question))
			return error_set(err, EXIT_GRANT, "%s: %s has no device %s", needs[i].field,
			                 b->caps->binary, needs[i].type);
	}
	return 0;
}

int argv_devices(struct building *b, struct error *err)
{
	int fd = FD_MEMORY + (int)b->plan->n_memory;

	if (check_devices(b, err) < 0)
		return -1;
	for (size_t i = 0; i < b->plan->n_iothreads; i++) {
		struct json_object *iothread = json_object_new_object();
		json_add_string(iothread, "qom-type", "iothread");
		json_add_string(iothread, "id", b->plan->iothreads[i].id);
		argv_json(b, "-object", iothread);
	}
	for (size_t i = 0; i < b->spec->n_disks; i++)
		add_disk(b, i);
	for (size_t i = 0; i < b->spec->n_nics; i++)
		add_nic(b, i, &fd);
	for (size_t i = 0; i < b->spec->n_hostdevs; i++)
		add_hostdev(b, i);
	return 0;
}
