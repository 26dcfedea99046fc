/* Users and groups of /etc/passwd and /etc/group. A static program must not load what else may know
 * users (NSS), so those of a directory service are not found by name; a number always works. */
#ifndef ANCLA_USERS_H
#define ANCLA_USERS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "error.h"

struct user {
	char *name; /* as in /etc/passwd; the number where it is not there */
	uid_t uid;
	gid_t gid;     /* primary group; the user's number where it is not in /etc/passwd */
	gid_t *groups; /* of which it is a member in /etc/group, without the primary one */
	size_t n_groups;
};

/* By name, else by number. EXIT_GRANT with the nearest name if there is none. The caller frees with
 * user_free(). */
int user_find(const char *name, struct user *user, struct error *err);
void user_free(struct user *user);
#define cleanup_user __attribute__((cleanup(user_free)))

/* The name for a number, or the number in digits. The caller frees. */
char *user_name(uid_t uid);
char *group_name(gid_t gid);

/* Whether nobody but these users is in the group: it is root's, or known to /etc/passwd or
 * /etc/group, where it is nobody else's primary group and has no other member. */
bool users_have_group(const uid_t *users, size_t count, gid_t gid);

#endif
