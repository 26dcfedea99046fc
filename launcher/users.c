#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

#include "users.h"
#include "util.h"

#define PASSWD "/etc/passwd"
#define GROUP "/etc/group"

static void take_entry(struct user *user, const struct passwd *entry)
{
	user->name = xstrdup(entry->pw_name);
	user->uid = entry->pw_uid;
	user->gid = entry->pw_gid;
}

/* True if the text is a number that can be a user's: -1 means "no change" to the kernel. */
static bool parse_id(const char *text, uid_t *id)
{
	unsigned long number;
	char *end;

	errno = 0;
	number = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno || number >= (uid_t)-1)
		return false;
	*id = (uid_t)number;
	return true;
}

/* The entry of that name or, with NULL, of that number; false: there is none. */
static bool find_entry(const char *name, uid_t uid, struct user *user)
{
	cleanup_file FILE *file = fopen(PASSWD, "re");
	struct passwd *entry;

	while (file && (entry = fgetpwent(file)))
		if (name ? strcmp(entry->pw_name, name) == 0 : entry->pw_uid == uid) {
			take_entry(user, entry);
			return true;
		}
	return false;
}

static void find_groups(struct user *user)
{
	cleanup_file FILE *file = fopen(GROUP, "re");
	struct group *entry;

	while (file && (entry = fgetgrent(file)))
		for (char **member = entry->gr_mem; *member; member++)
			if (strcmp(*member, user->name) == 0 && entry->gr_gid != user->gid)
				*array_append(&user->groups, &user->n_groups) = entry->gr_gid;
}

static int no_such_user(const char *name, struct error *err)
{
	cleanup_file FILE *file = fopen(PASSWD, "re");
	char **names = NULL;
	size_t count = 0;
	struct passwd *entry;

	while (file && (entry = fgetpwent(file)))
		*array_append(&names, &count) = xstrdup(entry->pw_name);
	const char *near = nearest_word(name, (const char *const *)names, count);
	error_set(err, EXIT_GRANT,
	          "qemu.user: there is no user \"%s\" in " PASSWD "%s%s%s; make it (useradd "
	          "--system), or give a number",
	          name, near ? ", the nearest is \"" : "", near ? near : "", near ? "\"" : "");
	for (size_t i = 0; i < count; i++)
		free(names[i]);
	free(names);
	return -1;
}

int user_find(const char *name, struct user *user, struct error *err)
{
	uid_t uid;

	if (!find_entry(name, 0, user)) {
		if (!parse_id(name, &uid))
			return no_such_user(name, err);
		if (!find_entry(NULL, uid, user)) {
			user->name = xstrdup(name);
			user->uid = user->gid = uid;
		}
	}
	find_groups(user);
	return 0;
}

void user_free(struct user *user)
{
	free(user->name);
	free(user->groups);
	*user = (struct user){ 0 };
}

char *user_name(uid_t uid)
{
	cleanup_user struct user user = { 0 };

	return find_entry(NULL, uid, &user) ? take_pointer(&user.name) : xasprintf("%u", uid);
}

char *group_name(gid_t gid)
{
	cleanup_file FILE *file = fopen(GROUP, "re");
	struct group *entry;

	while (file && (entry = fgetgrent(file)))
		if (entry->gr_gid == gid)
			return xstrdup(entry->gr_name);
	return xasprintf("%u", gid);
}

static bool is_one_of(const uid_t *users, size_t count, uid_t uid)
{
	for (size_t i = 0; i < count; i++)
		if (users[i] == uid)
			return true;
	return false;
}

/* Whether it is the primary group of nobody else; `known` if it is that of one of the users. */
static bool is_primary_of_none_else(const uid_t *users, size_t count, gid_t gid, bool *known)
{
	cleanup_file FILE *file = fopen(PASSWD, "re");
	struct passwd *entry;

	while (file && (entry = fgetpwent(file))) {
		if (entry->pw_gid != gid)
			continue;
		if (!is_one_of(users, count, entry->pw_uid))
			return false;
		*known = true;
	}
	return file != NULL;
}

static bool are_among(char *const *members, const uid_t *users, size_t count)
{
	for (; *members; members++) {
		cleanup_user struct user user = { 0 };
		if (!find_entry(*members, 0, &user) || !is_one_of(users, count, user.uid))
			return false;
	}
	return true;
}

bool users_have_group(const uid_t *users, size_t count, gid_t gid)
{
	struct group *entry;
	bool known = false;

	if (gid == 0)
		return true;
	if (!is_primary_of_none_else(users, count, gid, &known))
		return false;
	cleanup_file FILE *file = fopen(GROUP, "re");
	while (file && (entry = fgetgrent(file))) {
		if (entry->gr_gid != gid)
			continue;
		if (!are_among(entry->gr_mem, users, count))
			return false;
		known = true;
	}
	return file && known; /* of a group that is in neither file we know nothing */
}
