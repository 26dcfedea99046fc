#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "dump.h"
#include "util.h"

static char *directory_path(void)
{
	const char *own = getenv("ANCLA_DUMP_DIR");
	const char *state = getenv("XDG_STATE_HOME");
	const char *home = getenv("HOME");

	if (own && *own == '/')
		return xstrdup(own);
	if (geteuid() == 0)
		return xstrdup("/var/lib/ancla/dump");
	if (state && *state == '/')
		return xasprintf("%s/ancla/dump", state);
	return home && *home == '/' ? xasprintf("%s/.local/state/ancla/dump", home) : NULL;
}

char *dump_directory(struct error *err)
{
	cleanup_free char *path = directory_path();
	const char *own = getenv("ANCLA_DUMP_DIR");

	if (own && *own && *own != '/') {
		error_set(err, EXIT_GRANT, "ANCLA_DUMP_DIR is \"%s\"; give an absolute path", own);
		return NULL;
	}
	if (!path) {
		error_set(err, EXIT_GRANT,
		          "there is no directory for dumps: HOME is not set; set ANCLA_DUMP_DIR to "
		          "one");
		return NULL;
	}
	make_directories(path);
	if (access(path, W_OK | X_OK) == 0)
		return take_pointer(&path);
	error_set(err, EXIT_GRANT,
	          "dumps cannot be written to %s: %s; make it, or set ANCLA_DUMP_DIR to another "
	          "directory",
	          path, strerror(errno));
	return NULL;
}

static int check_room(const char *directory, uint64_t bytes, struct error *err)
{
	struct statvfs room;

	if (statvfs(directory, &room) < 0 || (uint64_t)room.f_bavail * room.f_frsize > bytes)
		return 0;
	cleanup_free char *need = format_size(bytes);
	cleanup_free char *have = format_size((uint64_t)room.f_bavail * room.f_frsize);
	return error_set(err, EXIT_FAILED, "the dump needs %s in %s, which has %s free", need,
	                 directory, have);
}

int dump_create(const char *vm, uint64_t bytes, char **path, struct error *err)
{
	cleanup_free char *directory = dump_directory(err);
	time_t now = time(NULL);
	struct tm parts;
	char when[32];

	if (!directory || check_room(directory, bytes, err) < 0)
		return -1;
	gmtime_r(&now, &parts);
	strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &parts);
	cleanup_free char *file = xasprintf("%s/%s-%s.elf", directory, vm, when);
	cleanup_close int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_set(err, EXIT_FAILED, "cannot make the dump %s: %s", file,
		                 strerror(errno));
	*path = take_pointer(&file);
	return take_fd(&fd);
}
