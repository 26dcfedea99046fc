/* Who QEMU is to the kernel, and what it may do there: user, groups, capabilities.
 *
 * QEMU gets as little as its spec needs: the user of qemu.user (else the launcher's); of that
 * user's groups only those by which it may open something that the spec names; no capability but
 * CAP_IPC_LOCK, where memory is to be locked and the limit cannot be raised, and CAP_DAC_OVERRIDE,
 * where root starts it for a file that root may open in no other way; and no way to get more
 * (no_new_privs). */
#ifndef ANCLA_PRIVILEGES_H
#define ANCLA_PRIVILEGES_H

#include <stdbool.h>

#include "caps.h"
#include "error.h"
#include "plan.h"
#include "spec.h"

/* Decides it all, and tries as that user, in a throwaway thread, everything that QEMU will open.
 * Errors: EXIT_SPEC for a file that is missing or cannot be opened, EXIT_GRANT for an unknown user,
 * a device, or another user where the launcher is not root. The caller frees with
 * plan_process_free(). */
int privileges_decide(const struct spec *spec, const struct caps *caps, enum accel accel,
                      struct plan_process *process, struct error *err);

/* Whether KVM works for the user that QEMU will be. As kvm_works(), which asks for ourselves: so it
 * is where there is no qemu.user, or we cannot become that user. */
bool privileges_kvm_works(const struct spec *spec, char **reason);

/* Whether the user of qemu.user is who we are already. */
bool privileges_is_own_user(const char *name);

/* Makes the calling process, which has one thread and is about to become QEMU, what was decided. -1
 * with errno, and what failed in `what`. Allocates nothing. */
int privileges_take(const struct plan_process *process, const char **what);

/* Whether this process has the capability in effect (CAP_... of <linux/capability.h>). */
bool has_capability(int capability);

/* "none", or names: "cap_ipc_lock,cap_dac_override". The caller frees. */
char *capabilities_format(uint64_t set);

#endif
