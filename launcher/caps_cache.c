/* The answers of earlier, kept in a file: asking takes 100 ms, twice the start of a VM.
 *
 * The file has the form of `--qemu-caps FILE` and a "key", which names all that the answers
 * depend on. A file that is damaged, has another key, or could have been written by somebody
 * else does not count; it is replaced. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "caps_parts.h"
#include "util.h"

#define PROBE_LIMIT_MS 30000 /* an emulated CPU on a busy machine needs 12 s */
#define CACHE_LIMIT (256 * 1024)

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

/* The host's boot id: what KVM can give may change with the kernel or its modules' options. */
static char *boot_id(void)
{
	cleanup_error struct error ignored = ERROR_INIT;
	char *text = NULL;

	if (read_file("/proc/sys/kernel/random/boot_id", 100, &text, NULL, &ignored) < 0)
		return xstrdup("unknown");
	text[strcspn(text, "\n")] = '\0';
	return text;
}

/* All that the answers depend on; the caller frees. NULL where the binary has gone. */
static char *make_key(const char *path, enum accel accel)
{
	struct stat info;

	if (stat(path, &info) < 0)
		return NULL;
	cleanup_free char *boot = accel == ACCEL_KVM ? boot_id() : xstrdup("any");
	return xasprintf("path=%s inode=%ju device=%ju size=%jd mtime=%jd.%09ld accel=%s boot=%s "
	                 "questions=%016" PRIx64,
	                 path, (uintmax_t)info.st_ino, (uintmax_t)info.st_dev,
	                 (intmax_t)info.st_size, (intmax_t)info.st_mtim.tv_sec,
	                 info.st_mtim.tv_nsec, accel_name(accel), boot, caps_questions_hash());
}

static char *cache_name(const char *path, enum accel accel)
{
	uint64_t hash = caps_hash(caps_hash(CAPS_HASH_START, path), accel_name(accel));

	return xasprintf("qemu-%016" PRIx64 ".json", hash);
}

/* ---- the directory ---- */

static char *cache_directory(void)
{
	const char *base = getenv("XDG_CACHE_HOME");
	const char *home = getenv("HOME");

	if (base && *base == '/')
		return xasprintf("%s/ancla", base);
	if (geteuid() == 0)
		return xstrdup("/var/cache/ancla");
	return home && *home == '/' ? xasprintf("%s/.cache/ancla", home) : NULL;
}

static void make_directories(const char *path)
{
	cleanup_free char *prefix = xstrdup(path);

	for (char *slash = strchr(prefix + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(prefix, 0700);
		*slash = '/';
	}
	mkdir(path, 0700);
}

/* Ours, and nobody else's to write: else a file in it could say anything. */
static bool is_private(int fd, mode_t type)
{
	struct stat info;

	return fstat(fd, &info) == 0 && (info.st_mode & S_IFMT) == type &&
	       info.st_uid == geteuid() && !(info.st_mode & (S_IWGRP | S_IWOTH));
}

/* Opens the cache directory, -1 where there is none to be had. */
static int open_directory(bool create)
{
	const int flags = O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	cleanup_free char *path = cache_directory();

	if (!path)
		return -1;
	cleanup_close int fd = open(path, flags);
	if (fd < 0 && create) {
		make_directories(path);
		fd = open(path, flags);
	}
	return fd >= 0 && is_private(fd, S_IFDIR) ? take_fd(&fd) : -1;
}

/* ---- load and store ---- */

static char *read_cache_file(const char *name, size_t *length)
{
	cleanup_close int directory = open_directory(false);

	if (directory < 0)
		return NULL;
	cleanup_close int fd =
	    openat(directory, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat info;
	if (fd < 0 || !is_private(fd, S_IFREG) || fstat(fd, &info) < 0 ||
	    info.st_size > CACHE_LIMIT)
		return NULL;
	cleanup_free char *text = xcalloc((size_t)info.st_size + 1, 1);
	if (read(fd, text, (size_t)info.st_size) != info.st_size)
		return NULL;
	*length = (size_t)info.st_size;
	return take_pointer(&text);
}

static struct caps *load_cached(const char *name, const char *key)
{
	cleanup_error struct error ignored = ERROR_INIT;
	size_t length = 0;
	cleanup_free char *text = read_cache_file(name, &length);
	cleanup_json struct json_object *json = text ? caps_parse(text, length, &ignored) : NULL;

	if (!json || !json_string(json, "key") || strcmp(json_string(json, "key"), key) != 0)
		return NULL;
	return caps_from_json(json, &ignored);
}

/* A cache that cannot be written is no error: the next start asks again. */
static void store(const char *name, const char *key, const struct caps *caps)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_close int directory = open_directory(true);

	if (directory < 0)
		return;
	cleanup_json struct json_object *json = caps_to_json(caps);
	json_object_object_add(json, "key", json_object_new_string(key));
	write_file_atomic(directory, name,
	                  json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN), &ignored);
}

struct caps *caps_load(const char *binary, enum accel accel, struct error *err)
{
	cleanup_answers struct caps_answers answers = { 0 };
	cleanup_free char *path = caps_find_binary(binary, err);

	if (!path)
		return NULL;
	cleanup_free char *key = make_key(path, accel);
	cleanup_free char *name = cache_name(path, accel);
	struct caps *caps = key ? load_cached(name, key) : NULL;
	if (caps)
		return caps;
	if (caps_probe(path, accel, PROBE_LIMIT_MS, &answers, err) < 0)
		return NULL;
	caps = caps_build(path, accel, &answers);
	/* A binary that was replaced while it was asked is asked again next time. */
	cleanup_free char *key_after = make_key(path, accel);
	if (key && key_after && strcmp(key, key_after) == 0)
		store(name, key, caps);
	return caps;
}
