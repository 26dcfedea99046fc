#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "trust.h"
#include "users.h"
#include "util.h"

static bool is_trusted(uid_t user)
{
	const char *sudo = geteuid() == 0 ? getenv("SUDO_UID") : NULL;

	return user == 0 || user == geteuid() || (sudo && *sudo && strtoul(sudo, NULL, 10) == user);
}

/* In a sticky directory only the owner of a name can change it, and that is looked at next. */
static bool all_may_write(const struct stat *status)
{
	return !S_ISLNK(status->st_mode) && (status->st_mode & S_IWOTH) &&
	       !(S_ISDIR(status->st_mode) && (status->st_mode & S_ISVTX));
}

static char *doubt_of_one(const char *path)
{
	struct stat status;

	if (lstat(path, &status) < 0)
		return NULL;
	if (all_may_write(&status))
		return xasprintf("%s can be written by all", path);
	if (is_trusted(status.st_uid))
		return NULL;
	cleanup_free char *owner = user_name(status.st_uid);
	return xasprintf("%s belongs to user %s", path, owner);
}

static char *doubt_of_way(const char *path)
{
	cleanup_free char *part = xstrdup(path);
	char *doubt = doubt_of_one(path);

	for (char *slash = strchr(part + 1, '/'); slash && !doubt; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		doubt = doubt_of_one(part);
		*slash = '/';
	}
	return doubt;
}

char *trust_doubt(const char *path)
{
	cleanup_free char *real = realpath(path, NULL);
	char *doubt = doubt_of_way(path);

	return doubt || !real ? doubt : doubt_of_way(real);
}
