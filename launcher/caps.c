#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "cache.h"
#include "caps_parts.h"
#include "util.h"

#define MACHINE(name)                                                                              \
	"machine:" name, "machine:" name ":usb", "machine:" name ":sata",                          \
	    "machine:" name ":smbus", "machine:" name ":vmport", "machine:" name ":hpet",          \
	    "machine:" name ":pit", "machine:" name ":smm", "machine:" name ":graphics",           \
	    "machine:" name ":dump-guest-core", "machine:" name ":mem-merge",                      \
	    "machine:" name ":memory-backend", "machine:" name ":rtc",                             \
	    "machine:" name ":isa-serial", "machine:" name ":acpi", "machine:" name ":i8042",      \
	    "machine:" name ":pic"

/* Which options take JSON cannot be asked without the 207 kB schema: -object, -device, -blockdev
 * and -netdev do in every QEMU that has thread-context (7.2); nothing else is assumed. */
const char *const caps_questions[] = {
	"accel:kvm",
	"accel:tcg",
	"type:iothread",
	"type:thread-context",
	"type:memory-backend-file",
	"type:memory-backend-ram",
	"type:memory-backend-memfd",
	"type:virtio-blk-pci",
	"type:virtio-blk-device",
	"type:virtio-net-pci",
	"type:virtio-net-device",
	"type:vfio-pci",
	"type:pcie-root-port",
	"type:intel-iommu",
	"type:isa-serial",
	"type:pvpanic",
	"type:pvpanic-pci",
	"type:kvm-pit",
	"type:hpet",
	"property:memory-backend-file:prealloc-context",
	"property:memory-backend-file:prealloc-threads",
	"property:memory-backend-file:policy",
	"property:memory-backend-file:host-nodes",
	"property:memory-backend-file:share",
	"property:memory-backend-file:x-use-canonical-path-for-ramblock-id",
	"property:memory-backend-ram:prealloc-context",
	"property:memory-backend-ram:host-nodes",
	"property:memory-backend-ram:reserve",
	"property:virtio-blk-pci:iothread-vq-mapping",
	"property:intel-iommu:eim",
	"property:kvm-pit:lost_tick_policy",
	MACHINE("q35"),
	MACHINE("pc"),
	MACHINE("microvm"),
	"option:sandbox",
	"option:overcommit",
	"option:action",
	"option:numa",
	"option:smp-opts",
	"option:netdev",
	"option:msg",
	"option:run-with",
	"command:query-stats",
	"command:query-iothreads",
	"command:query-cpus-fast",
	"command:system_powerdown",
	NULL,
};

/* To be raised when the same questions get answers of another form, or are answered by other
 * means. */
#define ANSWERS_FORM "2"

uint64_t caps_questions_hash(void)
{
	uint64_t hash = hash_text(HASH_START, ANSWERS_FORM);

	for (const char *const *question = caps_questions; *question; question++)
		hash = hash_text(hash_text(hash, "\n"), *question);
	return hash;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

void caps_sort(char **list, size_t *count)
{
	size_t kept = 0, ascending = 1;

	/* What comes from the cache is. */
	while (ascending < *count && strcmp(list[ascending - 1], list[ascending]) < 0)
		ascending++;
	if (ascending >= *count)
		return;
	if (*count)
		qsort(list, *count, sizeof(*list), compare_names);
	for (size_t i = 0; i < *count; i++) {
		if (!kept || strcmp(list[kept - 1], list[i]) != 0)
			list[kept++] = list[i];
	}
	*count = kept;
}

char **caps_split(const char *text, size_t *count)
{
	size_t size = strlen(text) + 1, names = 1, used = 0;

	for (const char *c = text; *c; c++)
		names += *c == ' ';
	char **list = xcalloc(1, names * sizeof(*list) + size);
	char *copy = memcpy((char *)(list + names), text, size);
	for (char *rest, *name = strtok_r(copy, " ", &rest); name;
	     name = strtok_r(NULL, " ", &rest))
		list[used++] = name;
	*count = used;
	return list;
}

char *caps_join(char *const *list, size_t count)
{
	size_t size = 1;

	for (size_t i = 0; i < count; i++)
		size += strlen(list[i]) + 1;
	char *text = xcalloc(size, 1), *end = text;
	for (size_t i = 0; i < count; i++)
		end = stpcpy(stpcpy(end, i ? " " : ""), list[i]);
	return text;
}

static bool contains(char *const *list, size_t count, const char *name)
{
	return count && bsearch(&name, list, count, sizeof(*list), compare_names);
}

static bool is_question(const char *what)
{
	for (const char *const *question = caps_questions; *question; question++)
		if (strcmp(*question, what) == 0)
			return true;
	return false;
}

bool caps_has(const struct caps *caps, const char *what)
{
	assert(is_question(what));
	return contains(caps->has, caps->n_has, what);
}

const struct caps_model *caps_model(const struct caps *caps, const char *name)
{
	for (size_t i = 0; i < caps->n_models; i++)
		if (strcmp(caps->models[i].name, name) == 0)
			return &caps->models[i];
	return NULL;
}

/* QEMU takes a feature's name with dashes or underscores; the lists have dashes only. */
static bool contains_feature(char *const *list, size_t count, const char *feature)
{
	cleanup_free char *name = xstrdup(feature);

	for (char *c = name; *c; c++)
		if (*c == '_')
			*c = '-';
	return contains(list, count, name);
}

bool caps_knows_feature(const struct caps *caps, const char *feature)
{
	return contains_feature(caps->known_features, caps->n_known_features, feature);
}

bool caps_gives_feature(const struct caps *caps, const char *feature)
{
	return contains_feature(caps->features, caps->n_features, feature);
}

/* TCG emulates every vendor's models alike: what its own `max` says it is does not matter. */
static bool vendor_fits(const struct caps *caps, const struct caps_model *model)
{
	if (caps->accel != ACCEL_KVM || !caps->vendor)
		return true;
	return model->vendor && strcmp(model->vendor, caps->vendor) == 0;
}

const struct caps_model *caps_host_model(const struct caps *caps)
{
	const struct caps_model *best = NULL;

	for (size_t i = 0; i < caps->n_models; i++) {
		const struct caps_model *model = &caps->models[i];

		if (model->score < 0 || !vendor_fits(caps, model))
			continue;
		if (!best || model->score > best->score ||
		    (model->score == best->score && strverscmp(model->name, best->name) > 0))
			best = model;
	}
	return best;
}

void caps_free(struct caps *caps)
{
	if (!caps)
		return;
	for (size_t i = 0; i < caps->n_models; i++) {
		free(caps->models[i].name);
		free(caps->models[i].alias_of);
		free(caps->models[i].vendor);
		free(caps->models[i].unavailable);
	}
	free(caps->models);
	free(caps->has);
	free(caps->features);
	free(caps->known_features);
	free(caps->binary);
	free(caps->version);
	free(caps->vendor);
	free(caps);
}
