/* A running VM seen from a later command: its files, and an exchange over its second monitor. */
#ifndef ANCLA_VM_CLIENT_H
#define ANCLA_VM_CLIENT_H

#include "../qmp/qmp.h"
#include "error.h"
#include "ledger.h"
#include "plan.h"
#include "threads.h"

struct vm_client {
	struct vm_dir dir;
	struct vm_state state;
	struct plan *plan;
	int pidfd; /* of QEMU */
	int lock;  /* of the monitor, which serves one client; -1 while not connected */
	struct qmp *qmp;
	struct threads threads;
	qmp_event_fn *on_event; /* of the monitor, with event_data; may be NULL */
	void *event_data;
	enum qmp_error_kind failure; /* why the last call failed: only after QMP_ERROR_COMMAND it is
	                                known that nothing was done */
	int patience_ms;             /* for each wait; 0: the usual limits */
	char run_state[40]; /* "running", "paused", …, as query-status says; "" before it was asked
	                     */
};

#define VM_CLIENT_INIT                                                                             \
	{                                                                                          \
		.dir = VM_DIR_INIT, .pidfd = -1, .lock = -1                                        \
	}

/* Finds the VM and reads its files; EXIT_FAILED: no such VM, or it is ending. One that is being
 * started may have no QEMU yet, and no plan: .pidfd is -1, .plan NULL. */
int vm_client_open(struct vm_client *client, const char *name, struct error *err);

/* True while its launcher has not let the guest run: then it cannot be asked. */
bool vm_client_is_starting(const struct vm_client *client);

/* Connects to its monitor, waiting for other commands to leave it; limits as in launch.h. The plan
 * is the one of that moment, and whoever changes it stays connected until it is written.
 * EXIT_FAILED at once while it is being started. */
int vm_client_connect(struct vm_client *client, struct error *err);

/* Only waits for the others, and keeps them waiting until vm_client_disconnect(): for what needs no
 * QEMU, but is not to see a change half done. The plan is read again. */
int vm_client_lock(struct vm_client *client, struct error *err);

/* One command. `arguments` (may be NULL) is consumed; the caller puts the reply, if it wants it. */
int vm_client_call(struct vm_client *client, const char *command, struct json_object *arguments,
                   struct json_object **reply, struct error *err);

/* One command, its reply dropped. */
int vm_client_command(struct vm_client *client, const char *command, struct error *err);

/* Fills run_state and threads, and says in plan->vcpus_online how many vCPUs there are now. */
int vm_client_query(struct vm_client *client, struct error *err);

/* Whether QEMU has ended, or is dying, since it was found. */
bool vm_client_has_ended(const struct vm_client *client);

/* What fails while QEMU dies fails for that, and then it is the error, EXIT_FAILED. Returns it. */
const struct error *vm_client_blame(const struct vm_client *client, struct error *err);

void vm_client_disconnect(struct vm_client *client);
void vm_client_close(struct vm_client *client);
#define cleanup_vm_client __attribute__((cleanup(vm_client_close)))

#endif
