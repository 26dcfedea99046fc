#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util.h"

void cleanup_free_fn(void *pointer)
{
	free(*(void **)pointer);
}

void cleanup_close_fn(int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

void cleanup_file_fn(FILE **file)
{
	if (*file)
		fclose(*file);
}

void cleanup_bitmap_fn(hwloc_bitmap_t *set)
{
	hwloc_bitmap_free(*set);
}

void cleanup_json_fn(struct json_object **json)
{
	json_object_put(*json);
}

int take_fd(int *fd)
{
	int taken = *fd;

	*fd = -1;
	return taken;
}

void *array_append_(void **array, size_t *count, size_t size)
{
	char *grown = xreallocarray(*array, *count + 1, size);
	void *element = grown + *count * size;

	memset(element, 0, size);
	*array = grown;
	(*count)++;
	return element;
}

int read_file(const char *path, size_t limit, char **text, size_t *length, struct error *err)
{
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return error_set(err, EXIT_FAILED, "cannot open %s: %s", path, strerror(errno));
	return read_fd(fd, path, limit, text, length, err);
}

int read_fd(int fd, const char *path, size_t limit, char **text, size_t *length, struct error *err)
{
	cleanup_free char *buffer = NULL;
	size_t size = 0, room = 0;

	for (;;) {
		if (size == room) {
			room = room ? room * 2 : 4096;
			buffer = xreallocarray(buffer, room + 1, 1);
		}
		ssize_t got = read(fd, buffer + size, room - size);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return error_set(err, EXIT_FAILED, "cannot read %s: %s", path,
			                 strerror(errno));
		if (got == 0)
			break;
		size += (size_t)got;
		if (size > limit) {
			cleanup_free char *most = format_size(limit);
			return error_set(err, EXIT_FAILED, "%s is larger than %s", path, most);
		}
	}
	buffer[size] = '\0';
	*text = take_pointer(&buffer);
	if (length)
		*length = size;
	return 0;
}

int64_t read_number(const char *format, ...)
{
	char buffer[64];
	char *end;
	va_list args;

	va_start(args, format);
	cleanup_free char *path = xvasprintf(format, args);
	va_end(args);
	cleanup_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t got = read(fd, buffer, sizeof(buffer) - 1);
	if (got <= 0)
		return -1;
	buffer[got] = '\0';
	errno = 0;
	long long value = strtoll(buffer, &end, 10);
	if (errno || end == buffer || (*end && *end != '\n') || value < 0)
		return -1;
	return value;
}

static int write_all(int fd, const char *text, size_t size)
{
	while (size) {
		ssize_t put = write(fd, text, size);
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -1;
		text += put;
		size -= (size_t)put;
	}
	return 0;
}

int write_file_atomic(int dirfd, const char *path, const char *text, struct error *err)
{
	cleanup_free char *fresh = xasprintf("%s.new", path);
	cleanup_close int fd =
	    openat(dirfd, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd >= 0 && write_all(fd, text, strlen(text)) == 0 &&
	    renameat(dirfd, fresh, dirfd, path) == 0)
		return 0;
	int reason = errno;
	unlinkat(dirfd, fresh, 0);
	return error_set(err, EXIT_FAILED, "cannot write %s: %s", path, strerror(reason));
}

void make_directories(const char *path)
{
	cleanup_free char *prefix = xstrdup(path);

	for (char *slash = strchr(prefix + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		mkdir(prefix, 0700);
		*slash = '/';
	}
	mkdir(path, 0700);
}

/* Around keys json-c takes these, strict or not. */
static bool has_single_quotes(const char *text)
{
	bool quoted = false;

	for (const char *p = text; *p; p++) {
		if (*p == '"')
			quoted = !quoted;
		else if (quoted && *p == '\\' && p[1])
			p++;
		else if (!quoted && *p == '\'')
			return true;
	}
	return false;
}

struct json_object *json_parse(const char *text)
{
	struct json_tokener *tokener = has_single_quotes(text) ? NULL : json_tokener_new();

	if (!tokener)
		return NULL;
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
	/* With its zero, by which a number at the end of the text is known to be whole. */
	struct json_object *json = json_tokener_parse_ex(tokener, text, (int)strlen(text) + 1);
	json_tokener_free(tokener);
	return json;
}

void json_add_string(struct json_object *json, const char *key, const char *value)
{
	json_object_object_add(json, key, json_object_new_string(value));
}

const char *json_string(struct json_object *json, const char *key)
{
	struct json_object *value = NULL;

	if (!json_object_object_get_ex(json, key, &value) ||
	    !json_object_is_type(value, json_type_string))
		return NULL;
	return json_object_get_string(value);
}

void json_add_int(struct json_object *json, const char *key, int64_t value)
{
	json_object_object_add(json, key, json_object_new_int64(value));
}

void json_add_bool(struct json_object *json, const char *key, bool value)
{
	json_object_object_add(json, key, json_object_new_boolean(value));
}

char *format_size(uint64_t bytes)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	size_t unit = 0;

	while (bytes && bytes % 1024 == 0 && unit + 1 < ARRAY_SIZE(units)) {
		bytes /= 1024;
		unit++;
	}
	return xasprintf("%llu%s", (unsigned long long)bytes, units[unit]);
}

static size_t edit_distance(const char *a, const char *b)
{
	size_t columns = strlen(b) + 1;
	cleanup_free size_t *row = xcalloc(columns, sizeof(*row));

	for (size_t j = 0; j < columns; j++)
		row[j] = j;
	for (size_t i = 1; a[i - 1]; i++) {
		size_t diagonal = row[0];
		row[0] = i;
		for (size_t j = 1; j < columns; j++) {
			size_t best = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[columns - 1];
}

const char *nearest_word(const char *word, const char *const *candidates, size_t count)
{
	size_t length = strlen(word);
	size_t limit = length / 3 > 2 ? length / 3 : 2;
	const char *nearest = NULL;

	if (length > 64)
		return NULL;
	for (size_t i = 0; i < count; i++) {
		size_t distance = edit_distance(word, candidates[i]);
		if (distance <= limit && distance < strlen(candidates[i])) {
			nearest = candidates[i];
			limit = distance ? distance - 1 : 0;
			if (distance == 0)
				break;
		}
	}
	return nearest;
}
