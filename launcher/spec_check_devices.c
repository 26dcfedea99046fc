/* Consistency of devices and of what is booted. */
#include <stdlib.h>
#include <string.h>

#include "spec_parse.h"

enum need { NEED_NONE, NEED_MAY, NEED_MUST };

/* What each kind of network card takes; by enum nic_type. */
static const struct nic_rule {
	const char *name;
	enum need ifname, bridge, socket, vhost;
} nic_rules[] = {
	[NIC_USER] = { "user", NEED_NONE, NEED_NONE, NEED_NONE, NEED_NONE },
	[NIC_TAP] = { "tap", NEED_MUST, NEED_NONE, NEED_NONE, NEED_MAY },
	[NIC_BRIDGE] = { "bridge", NEED_MAY, NEED_MUST, NEED_NONE, NEED_MAY },
	[NIC_VHOST_USER] = { "vhost-user", NEED_NONE, NEED_NONE, NEED_MUST, NEED_NONE },
};

static void check_need(struct parse *parse, const char *nic, const char *type, const char *key,
                       enum need need, bool given)
{
	cleanup_free char *pointer = xasprintf("%s/%s", nic, key);

	if (!spec_good(parse, "%s/type", nic) || !spec_good(parse, "%s", pointer))
		return;
	if (need == NEED_MUST && !given)
		spec_fail_at(parse, pointer, "required with type \"%s\"", type);
	if (need == NEED_NONE && given)
		spec_fail_at(parse, pointer, "does not go with type \"%s\": leave it out", type);
}

/* A vhost-user backend maps guest memory: memfd and hugetlbfs are shared by what they are. */
static bool is_mappable(const struct spec *spec, const struct pages *pages, bool shared)
{
	return shared || pages->kind == PAGES_HUGE ||
	       (pages->kind == PAGES_PLAIN && spec->backing.prealloc == PREALLOC_TRUE);
}

static void check_vhost_user(struct parse *parse, const char *nic)
{
	struct spec *spec = parse->spec;
	bool mappable = true;

	for (size_t i = 0; i < spec->numa.n_nodes; i++)
		mappable = mappable && is_mappable(spec, &spec->numa.nodes[i].pages,
		                                   spec->numa.nodes[i].shared);
	if (!spec->numa.n_nodes)
		mappable = is_mappable(spec, &spec->backing.pages, false);
	if (!mappable && spec_good(parse, "/numa") && spec_good(parse, "/memory-backing"))
		spec_fail_at(parse, nic,
		             "\"vhost-user\" needs guest memory that its backend can map: set "
		             "\"shared\": true in every guest node, or use huge pages");
}

static void check_mac(struct parse *parse, size_t index)
{
	struct spec *spec = parse->spec;
	const char *mac = spec->nics[index].mac;
	cleanup_free char *pointer = xasprintf("/nics/%zu/mac", index);

	if (!mac || !spec_good(parse, "%s", pointer))
		return;
	if (strtoul(mac, NULL, 16) & 1) {
		spec_fail_at(parse, pointer,
		             "\"%s\" is a multicast address: the first byte must be even", mac);
		return;
	}
	for (size_t i = 0; i < index; i++) {
		if (!spec->nics[i].mac || strcmp(spec->nics[i].mac, mac) != 0)
			continue;
		spec_fail_at(parse, pointer, "\"%s\" is already the address of nic %zu", mac, i);
		return;
	}
}

static void check_nics(struct parse *parse)
{
	for (size_t i = 0; i < parse->spec->n_nics; i++) {
		const struct spec_nic *nic = &parse->spec->nics[i];
		const struct nic_rule *rule = &nic_rules[nic->type];
		cleanup_free char *at = xasprintf("/nics/%zu", i);

		check_need(parse, at, rule->name, "ifname", rule->ifname, nic->ifname);
		check_need(parse, at, rule->name, "bridge", rule->bridge, nic->bridge);
		check_need(parse, at, rule->name, "socket", rule->socket, nic->socket);
		check_need(parse, at, rule->name, "vhost", rule->vhost, nic->vhost);
		check_mac(parse, i);
		if (nic->type == NIC_VHOST_USER && spec_good(parse, "%s", at))
			check_vhost_user(parse, at);
	}
}

static void check_hostdevs(struct parse *parse)
{
	struct spec *spec = parse->spec;

	if (spec->n_hostdevs && spec->qemu.machine == MACHINE_MICROVM &&
	    spec_good(parse, "/qemu/machine"))
		spec_fail_at(parse, "/hostdevs",
		             "machine \"microvm\" has no PCI for host devices: use \"q35\"");
	for (size_t i = 0; i < spec->n_hostdevs; i++) {
		cleanup_free char *pointer = xasprintf("/hostdevs/%zu/pci", i);
		const char *pci = spec->hostdevs[i].pci;

		for (size_t j = 0; j < i && pci && spec_good(parse, "%s", pointer); j++)
			if (spec->hostdevs[j].pci && strcmp(spec->hostdevs[j].pci, pci) == 0)
				spec_fail_at(parse, pointer, "\"%s\" is already host device %zu",
				             pci, j);
	}
}

static void check_boot(struct parse *parse)
{
	struct spec *spec = parse->spec;

	if (!spec->boot.kernel && spec_good(parse, "/boot/kernel")) {
		if (spec->boot.initrd)
			spec_fail_at(parse, "/boot/initrd", "needs \"kernel\" beside it");
		if (spec->boot.cmdline)
			spec_fail_at(parse, "/boot/cmdline", "needs \"kernel\" beside it");
	}
	if (spec->boot.nvram && !spec->boot.firmware && spec_good(parse, "/boot/firmware"))
		spec_fail_at(parse, "/boot/nvram", "needs \"firmware\" beside it");
}

void spec_check_devices(struct parse *parse)
{
	check_nics(parse);
	check_hostdevs(parse);
	check_boot(parse);
}
