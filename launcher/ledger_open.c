/* The runtime directory: where it is, that nobody else could write it, and its lock. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ledger.h"
#include "lock.h"
#include "trust.h"
#include "util.h"
#include "waits.h"

static char *runtime_path(struct error *err)
{
	const char *own = getenv("ANCLA_RUNTIME_DIR");
	const char *user = getenv("XDG_RUNTIME_DIR");

	if (own && *own == '/')
		return xstrdup(own);
	if (own && *own) {
		error_set(err, EXIT_FAILED,
		          "ANCLA_RUNTIME_DIR is \"%.100s\"; give an absolute path", own);
		return NULL;
	}
	if (geteuid() == 0)
		return xstrdup("/run/ancla");
	if (user && *user == '/')
		return xasprintf("%s/ancla", user);
	error_set(err, EXIT_FAILED,
	          "no runtime directory: XDG_RUNTIME_DIR is %s; set it, or ANCLA_RUNTIME_DIR, to "
	          "a directory of your own",
	          user && *user ? "no absolute path" : "not set");
	return NULL;
}

static int check_owner(int fd, const char *path, struct error *err)
{
	struct stat status;

	if (fstat(fd, &status) < 0)
		return error_set(err, EXIT_FAILED, "cannot read %s: %s", path, strerror(errno));
	if (status.st_uid != geteuid())
		return error_set(
		    err, EXIT_FAILED,
		    "%s belongs to user %u, not to you (%u); it is not safe to use: remove "
		    "it, or set ANCLA_RUNTIME_DIR",
		    path, status.st_uid, geteuid());
	if (status.st_mode & 022)
		return error_set(
		    err, EXIT_FAILED,
		    "%s can be written by others (mode %03o); it is not safe to use: %s", path,
		    status.st_mode & 07777,
		    status.st_mode & S_ISVTX ? "name a directory in it"
		                             : "chmod 700 it, if it is to be a runtime directory");
	return 0;
}

/* Who can write the directory above could put another in its place while we work. In a sticky one,
 * as /tmp is, only we can. */
static int check_above(int fd, const char *path, struct error *err)
{
	cleanup_free char *above = xasprintf("/proc/self/fd/%d/..", fd);
	struct stat status;

	if (stat(above, &status) < 0)
		return error_set(err, EXIT_FAILED, "cannot read the directory above %s: %s", path,
		                 strerror(errno));
	if (status.st_uid != geteuid() && status.st_uid != 0)
		return error_set(err, EXIT_FAILED,
		                 "the directory above %s belongs to user %u, who could replace it; "
		                 "it is not safe to use: set ANCLA_RUNTIME_DIR to another",
		                 path, status.st_uid);
	if (trust_others_write(above, &status))
		return error_set(err, EXIT_FAILED,
		                 "the directory above %s can be written by others (mode %03o), who "
		                 "could replace it; it is not safe to use: chmod go-w it, or set "
		                 "ANCLA_RUNTIME_DIR to another",
		                 path, status.st_mode & 07777);
	return 0;
}

static int cannot_open(const char *path, int reason, struct error *err)
{
	struct stat status;

	if (lstat(path, &status) == 0 && S_ISLNK(status.st_mode))
		return error_set(
		    err, EXIT_FAILED,
		    "cannot open the runtime directory %s: it is a symbolic link, which "
		    "others might turn; name what it points to",
		    path);
	return error_set(err, EXIT_FAILED, "cannot open the runtime directory %s: %s", path,
	                 strerror(reason));
}

/* Who holds it is a launch between its look and its claim: that takes milliseconds. */
static int take_lock(int lock, const char *path, struct error *err)
{
	pid_t holder;

	if (lock_take(lock, LIMIT_LEDGER_MS, &holder) == 0)
		return 0;
	if (errno != ETIMEDOUT)
		return error_set(err, EXIT_FAILED, "cannot lock %s/.lock: %s", path,
		                 strerror(errno));
	return error_set(err, EXIT_FAILED,
	                 "%s/.lock is held by process %d for more than %d s; if that is stuck, end "
	                 "it",
	                 path, holder, LIMIT_LEDGER_MS / 1000);
}

int ledger_open(struct ledger *ledger, bool create, struct error *err)
{
	cleanup_free char *path = runtime_path(err);
	cleanup_close int dirfd = -1;

	if (!path)
		return -1;
	if (create && mkdir(path, 0700) < 0 && errno != EEXIST)
		return error_set(err, EXIT_FAILED, "cannot make the runtime directory %s: %s", path,
		                 errno == ENOENT ? "the directory above it is missing"
		                                 : strerror(errno));
	dirfd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dirfd < 0 && errno == ENOENT && !create) {
		ledger->path = take_pointer(&path);
		return 0;
	}
	if (dirfd < 0)
		return cannot_open(path, errno, err);
	if (check_owner(dirfd, path, err) < 0 || check_above(dirfd, path, err) < 0)
		return -1;
	cleanup_close int lock =
	    openat(dirfd, ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (lock < 0)
		return error_set(err, EXIT_FAILED, "cannot lock %s/.lock: %s", path,
		                 strerror(errno));
	if (take_lock(lock, path, err) < 0)
		return -1;
	ledger->path = take_pointer(&path);
	ledger->dirfd = take_fd(&dirfd);
	ledger->lock = take_fd(&lock);
	return 0;
}
