/* What root reads of users' VMs: their claims hold for it, too.
 *
 * A user's runtime directory is /run/user/UID/ancla. It is the user's: nothing in it is written,
 * removed, waited for, or locked (which the user's own commands would notice); links and what is
 * owned by somebody else are passed over; and what its files say is distrusted as all files are: of
 * each user so many names and bytes are read, and none under several names. A VM counts as long as
 * somebody holds its lock, as /proc/locks shows (proc(5)). */
#ifndef ANCLA_LEDGER_USERS_H
#define ANCLA_LEDGER_USERS_H

#include "ledger.h"

struct user_vm {
	char *name;            /* "USER/NAME": of no VM of one's own, which have no slash */
	struct plan *plan;     /* named so, too */
	struct vm_state state; /* .state NULL: none yet */
};

struct user_vms {
	struct user_vm *list; /* sorted by name */
	size_t count;
	char *left_out; /* a warning: what was not read; NULL: all was */
};

/* The VMs of all users, where this process is root and its runtime directory the system's own; else
 * none. -1 and an error if memory or descriptors are short: what else cannot be read may be of a
 * user's making, and is no VM. */
int user_vms_read(struct user_vms *vms, struct error *err);
void user_vms_free(struct user_vms *vms);
#define cleanup_user_vms __attribute__((cleanup(user_vms_free)))

#endif
