/* The answers of earlier, kept in a file: asking takes 100 ms, twice the start of a VM. Below its
 * key, which names all that the answers depend on, it has the members of `--qemu-caps FILE`. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache.h"
#include "caps_parts.h"
#include "kernel.h"
#include "waits.h"
#include "util.h"

/* ---- the binary ---- */

static int check_executable(const char *path, struct error *err)
{
	struct stat info;

	if (stat(path, &info) < 0)
		return error_set(err, EXIT_GRANT,
		                 "qemu.binary: %s: %s: install qemu-system-x86 or name it in "
		                 "qemu.binary",
		                 path, strerror(errno));
	if (!S_ISREG(info.st_mode))
		return error_set(err, EXIT_GRANT, "qemu.binary: %s is not a file", path);
	if (access(path, X_OK) < 0)
		return error_set(err, EXIT_GRANT, "qemu.binary: %s cannot be executed: %s", path,
		                 strerror(errno));
	return 0;
}

/* Looks a name up in PATH, leaving out entries that mean the working directory. A file that
 * cannot be executed is passed over, but told about where there is no other. */
static char *search_path(const char *name, struct error *err)
{
	const char *list = getenv("PATH");
	cleanup_error struct error worse = ERROR_INIT;
	bool seen = false;

	if (!list || !*list)
		list = "/usr/local/bin:/usr/bin:/bin";
	for (const char *entry = list; *entry; entry += *entry == ':') {
		size_t length = strcspn(entry, ":");
		cleanup_free char *path = xasprintf("%.*s/%s", (int)length, entry, name);

		entry += length;
		if (*path != '/' || access(path, F_OK) < 0)
			continue;
		if (check_executable(path, seen ? &worse : err) == 0) {
			error_clear(err);
			return take_pointer(&path);
		}
		seen = true;
	}
	if (!seen)
		error_set(err, EXIT_GRANT,
		          "qemu.binary: %s is not in PATH (%s): install qemu-system-x86 or name "
		          "it in qemu.binary",
		          name, list);
	return NULL;
}

char *caps_find_binary(const char *binary, struct error *err)
{
	if (!strchr(binary, '/'))
		return search_path(binary, err);
	cleanup_free char *here = *binary == '/' ? NULL : getcwd(NULL, 0);
	cleanup_free char *path = here ? xasprintf("%s/%s", here, binary) : xstrdup(binary);
	return check_executable(path, err) < 0 ? NULL : take_pointer(&path);
}

/* ---- the key ---- */

/* All that the answers depend on; the caller frees. NULL where the binary has gone. */
static char *make_key(const char *path, enum accel accel)
{
	struct stat info;

	if (stat(path, &info) < 0)
		return NULL;
	cleanup_free char *boot = accel == ACCEL_KVM ? kernel_boot_id() : NULL;
	return xasprintf("path=%s inode=%ju device=%ju size=%jd mtime=%jd.%09ld accel=%s boot=%s "
	                 "questions=%016" PRIx64,
	                 path, (uintmax_t)info.st_ino, (uintmax_t)info.st_dev,
	                 (intmax_t)info.st_size, (intmax_t)info.st_mtim.tv_sec,
	                 info.st_mtim.tv_nsec, accel_name(accel),
	                 accel != ACCEL_KVM ? "any"
	                 : boot             ? boot
	                                    : "unknown",
	                 caps_questions_hash());
}

static char *cache_name(const char *path, enum accel accel)
{
	uint64_t hash = hash_text(hash_text(HASH_START, path), accel_name(accel));

	return xasprintf("qemu-%016" PRIx64 ".json", hash);
}

/* ---- load and store ---- */

/* Two lines of JSON: what is known of CPUs has one of its own, as few starts need it. */
static struct caps *load_cached(const char *name, const char *key, bool cpus)
{
	cleanup_error struct error ignored = ERROR_INIT;
	size_t length = 0;
	cleanup_free char *text = cache_read(name, key, &length);
	char *second = text ? strchr(text, '\n') : NULL;

	if (!second)
		return NULL;
	size_t first_length = (size_t)(second++ - text);
	text[first_length] = '\0';
	cleanup_json struct json_object *base = caps_parse(text, first_length, &ignored);
	cleanup_caps struct caps *caps = base ? caps_base_from_json(base, &ignored) : NULL;
	if (!caps || !cpus)
		return take_pointer(&caps);
	cleanup_json struct json_object *json =
	    caps_parse(second, length - first_length - 1, &ignored);
	return json && caps_cpu_from_json(caps, json, &ignored) == 0 ? take_pointer(&caps) : NULL;
}

static void store(const char *name, const char *key, const struct caps *caps)
{
	cleanup_json struct json_object *base = caps_base_to_json(caps);
	cleanup_json struct json_object *cpu = json_object_new_object();

	caps_cpu_to_json(caps, cpu);
	cleanup_free char *text =
	    xasprintf("%s\n%s\n", json_object_to_json_string_ext(base, JSON_C_TO_STRING_PLAIN),
	              json_object_to_json_string_ext(cpu, JSON_C_TO_STRING_PLAIN));
	cache_write(name, key, text);
}

struct caps *caps_load(const char *binary, enum accel accel, bool cpus, struct error *err)
{
	cleanup_answers struct caps_answers answers = { 0 };
	cleanup_free char *path = caps_find_binary(binary, err);

	if (!path)
		return NULL;
	cleanup_free char *key = make_key(path, accel);
	cleanup_free char *name = cache_name(path, accel);
	struct caps *caps = key ? load_cached(name, key, cpus) : NULL;
	if (caps)
		return caps;
	if (caps_probe(path, accel, LIMIT_PROBE_MS, &answers, err) < 0)
		return NULL;
	caps = caps_build(path, accel, &answers);
	/* A binary that was replaced while it was asked is asked again next time. */
	cleanup_free char *key_after = make_key(path, accel);
	if (key && key_after && strcmp(key, key_after) == 0)
		store(name, key, caps);
	return caps;
}
