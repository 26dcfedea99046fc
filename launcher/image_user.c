/* Who has locked an image that QEMU could not lock. */
#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "image_user.h"
#include "kernel.h"
#include "util.h"

#define FDINFO_LIMIT ((size_t)1 << 20)
#define COMMAND_LINE_LIMIT ((size_t)2 << 20)

/* proc(5), fdinfo: a line "lock:" for each lock of the open file. */
static bool has_lock(const char *pid, const char *fd)
{
	cleanup_free char *path = xasprintf("/proc/%s/fdinfo/%s", pid, fd), *text = NULL;
	cleanup_error struct error ignored = ERROR_INIT;

	return read_file(path, FDINFO_LIMIT, &text, NULL, &ignored) == 0 &&
	       strstr(text, "\nlock:") != NULL;
}

static bool locks(const char *pid, const struct stat *image)
{
	cleanup_free char *path = xasprintf("/proc/%s/fd", pid);
	DIR *fds = opendir(path);
	bool found = false;
	struct dirent *entry;
	struct stat status;

	while (fds && !found && (entry = readdir(fds)))
		found = entry->d_name[0] != '.' &&
		        fstatat(dirfd(fds), entry->d_name, &status, 0) == 0 &&
		        status.st_dev == image->st_dev && status.st_ino == image->st_ino &&
		        has_lock(pid, entry->d_name);
	if (fds)
		closedir(fds);
	return found;
}

/* The process that has locked the image; 0 if none can be seen. */
static pid_t find_user(const char *path)
{
	struct stat image;
	DIR *processes = stat(path, &image) == 0 ? opendir("/proc") : NULL;
	struct dirent *entry;
	pid_t found = 0;

	while (processes && !found && (entry = readdir(processes)))
		if (isdigit((unsigned char)entry->d_name[0]) && locks(entry->d_name, &image))
			found = (pid_t)strtol(entry->d_name, NULL, 10);
	if (processes)
		closedir(processes);
	return found;
}

/* The VM that the process is the QEMU of, by its command line; NULL if it is none. */
static char *vm_of(pid_t pid)
{
	static const char option[] = "guest=";
	cleanup_free char *path = xasprintf("/proc/%d/cmdline", pid), *words = NULL;
	cleanup_error struct error ignored = ERROR_INIT;
	size_t length;

	if (read_file(path, COMMAND_LINE_LIMIT, &words, &length, &ignored) < 0)
		return NULL;
	for (const char *word = words; word < words + length; word += strlen(word) + 1)
		if (strncmp(word, option, strlen(option)) == 0) {
			word += strlen(option);
			return xasprintf("%.*s", (int)strcspn(word, ","), word);
		}
	return NULL;
}

char *image_user_advice(const char *words)
{
	static const char says[] = "another process using the image [";
	const char *start = strstr(words, says);
	const char *end = start ? strstr(start, "]?") : NULL;

	if (!end)
		return xstrdup("");
	start += strlen(says);
	cleanup_free char *path = xasprintf("%.*s", (int)(end - start), start);
	pid_t pid = find_user(path);
	if (!pid)
		return xstrdup("; it may not be used twice, unless both have it \"readonly\"");
	cleanup_free char *vm = vm_of(pid);
	char name[64];
	kernel_comm(pid, pid, name);
	return vm ? xasprintf("; VM \"%s\" (QEMU %d) has it: stop that, or give it to both as "
	                      "\"readonly\"",
	                      vm, pid)
	          : xasprintf("; process %d (%s) has locked it", pid, name);
}
