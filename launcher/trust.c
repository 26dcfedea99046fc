#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "trust.h"
#include "users.h"
#include "util.h"

/* Whom we trust: root, us, and where that is asked for, who called sudo. */
struct trusted {
	uid_t list[3];
	size_t count;
};

static struct trusted who_is_trusted(bool with_sudo)
{
	const char *sudo = with_sudo && geteuid() == 0 ? getenv("SUDO_UID") : NULL;
	struct trusted trusted = { { 0, geteuid() }, 2 };

	if (sudo && *sudo)
		trusted.list[trusted.count++] = (uid_t)strtoul(sudo, NULL, 10);
	return trusted;
}

static bool is_trusted(const struct trusted *trusted, uid_t user)
{
	for (size_t i = 0; i < trusted->count; i++)
		if (trusted->list[i] == user)
			return true;
	return false;
}

/* In a sticky directory only the owner of a name can change it, and that is looked at next. */
static bool is_writable(const struct stat *status, mode_t bits)
{
	return !S_ISLNK(status->st_mode) && (status->st_mode & bits) &&
	       !(S_ISDIR(status->st_mode) && (status->st_mode & S_ISVTX));
}

/* With an access control list the group's bits are all that any of it may (acl(5)). */
static bool has_acl(const char *path)
{
	return getxattr(path, "system.posix_acl_access", NULL, 0) > 0;
}

/* Who else may write it: "all", a group; NULL: nobody. The caller frees. */
static char *who_may_write(const char *path, const struct stat *status,
                           const struct trusted *trusted)
{
	if (is_writable(status, S_IWOTH))
		return xstrdup("all");
	if (!is_writable(status, S_IWGRP))
		return NULL;
	if (has_acl(path))
		return xstrdup("those in its access control list");
	if (users_have_group(trusted->list, trusted->count, status->st_gid))
		return NULL;
	cleanup_free char *group = group_name(status->st_gid);
	return xasprintf("group %s", group);
}

bool trust_others_write(const char *path, const struct stat *status)
{
	const struct trusted trusted = who_is_trusted(false);
	cleanup_free char *who = who_may_write(path, status, &trusted);

	return who != NULL;
}

static char *doubt_of_one(const char *path)
{
	const struct trusted trusted = who_is_trusted(true);
	struct stat status;

	if (lstat(path, &status) < 0)
		return NULL;
	cleanup_free char *who = who_may_write(path, &status, &trusted);
	if (who)
		return xasprintf("%s can be written by %s", path, who);
	if (is_trusted(&trusted, status.st_uid))
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
