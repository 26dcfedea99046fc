#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache.h"
#include "util.h"

#define CACHE_LIMIT (64 << 20) /* bytes of a file */

uint64_t hash_text(uint64_t hash, const char *text)
{
	for (; *text; text++)
		hash = (hash ^ (unsigned char)*text) * UINT64_C(1099511628211);
	return hash;
}

static char *directory_path(void)
{
	const char *base = getenv("XDG_CACHE_HOME");
	const char *home = getenv("HOME");

	if (base && *base == '/')
		return xasprintf("%s/ancla", base);
	if (geteuid() == 0)
		return xstrdup("/var/cache/ancla");
	return home && *home == '/' ? xasprintf("%s/.cache/ancla", home) : NULL;
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
	cleanup_free char *path = directory_path();

	if (!path)
		return -1;
	cleanup_close int fd = open(path, flags);
	if (fd < 0 && create) {
		make_directories(path);
		fd = open(path, flags);
	}
	return fd >= 0 && is_private(fd, S_IFDIR) ? take_fd(&fd) : -1;
}

static char *read_private(const char *name)
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
	return read(fd, text, (size_t)info.st_size) == info.st_size ? take_pointer(&text) : NULL;
}

/* The first line of a file: what it depends on, and what tells that it is whole. */
static char *first_line(const char *key, const char *text)
{
	return xasprintf("%s hash=%016" PRIx64 "\n", key, hash_text(HASH_START, text));
}

char *cache_read(const char *name, const char *key, size_t *length)
{
	char *text = read_private(name);
	char *body = text ? strchr(text, '\n') : NULL;

	if (body) {
		cleanup_free char *line = first_line(key, ++body);
		if (strncmp(text, line, strlen(line)) == 0) {
			*length = strlen(body);
			memmove(text, body, *length + 1);
			return text;
		}
	}
	free(text);
	return NULL;
}

void cache_write(const char *name, const char *key, const char *text)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_close int directory = open_directory(true);

	if (directory < 0)
		return;
	cleanup_free char *line = first_line(key, text);
	cleanup_free char *file = xasprintf("%s%s", line, text);
	write_file_atomic(directory, name, file, &ignored);
}
