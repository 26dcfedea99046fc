/* What root reads of users' VMs: their claims hold for it, too.
 *
 * A user's runtime directory is /run/user/UID/ancla. It is the user's: nothing in it is written,
 * removed, waited for, or locked (which the user's own commands would notice); links and what is
 * owned by somebody else are passed over; and what its files say is distrusted as all files are. A
 * VM counts as long as somebody holds its lock, as /proc/locks shows (proc(5)). */
#ifndef ANCLA_LEDGER_USERS_H
#define ANCLA_LEDGER_USERS_H

#include "ledger.h"

struct user_vm {
	char *name;            /* "USER/NAME": of no VM of one's own, which have no slash */
	struct plan *plan;     /* named so, too */
	struct vm_state state; /* .state NULL: none yet */
};

/* The VMs of all users, sorted by name, where this process is root and its runtime directory the
 * system's own; else none. The caller frees them with user_vms_free(). */
void user_vms_read(struct user_vm **list, size_t *count);
void user_vms_free(struct user_vm *list, size_t count);

#endif
