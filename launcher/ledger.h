/* The runtime directory: one directory for each VM, and who holds what.
 *
 * /run/ancla/NAME/ (for a user: $XDG_RUNTIME_DIR/ancla/NAME/; anywhere: $ANCLA_RUNTIME_DIR/NAME/),
 * mode 0700, holds `lock`, `plan.json`, `state.json`, the monitor and console sockets, and
 * `qemu.log`. The lock is an flock(2) whose descriptor QEMU inherits: it is held exactly as long as
 * QEMU or its supervisor lives, so a claim can be neither lost nor left behind. A directory whose
 * lock nobody holds is a dead VM's and is removed by whoever looks next.
 *
 * The ledger is the set of plan.json files whose lock is held; claiming is atomic under one more
 * lock, which every command holds while it looks. */
#ifndef ANCLA_LEDGER_H
#define ANCLA_LEDGER_H

#include <stdint.h>
#include <sys/types.h>

#include "cgroup.h"
#include "claims.h"
#include "error.h"
#include "plan.h"
#include "threads.h"

struct ledger {
	char *path; /* of the runtime directory */
	int dirfd;  /* -1: the directory does not exist, there are no VMs */
	int lock;
	bool gave_back; /* a sweep has removed cgroups: the host has more CPUs than before */
};

/* How much of somebody else's files is read. */
struct vm_budget {
	size_t bytes;  /* that are left */
	bool exceeded; /* a file was larger; no more is read */
};

/* A VM's own directory. */
struct vm_dir {
	char *name;
	char *path;
	int dirfd;
	int lock;                 /* held by us, or -1 for a VM of somebody else */
	struct vm_budget *budget; /* NULL: of a VM of one's own. Borrowed */
};

/* What state.json says: enough to find the VM's processes. */
struct vm_state {
	char *state;   /* "starting" or "running" */
	char *spec;    /* file it was started from */
	char *serial;  /* "socket", "pty", … */
	char *console; /* path of that socket, terminal, or file; NULL: none */
	pid_t launcher, qemu;
	uint64_t launcher_start, qemu_start; /* kernel_start_time() */
	int64_t started;                     /* seconds since the epoch */
	struct life_actions actions;         /* of the spec, for whoever supervises it */
};

#define VM_COMMANDS "qmp.sock"
#define VM_MONITOR "supervisor.sock"
#define VM_SERIAL "serial.sock"
#define VM_LOG "qemu.log"
#define VM_OWN_LOG "ancla.log" /* the supervisor's, where it has no standard error */
#define VM_PLAN "plan.json"
#define VM_STATE "state.json"
#define VM_RESERVED "reserved.json" /* see reserve.h */
#define VM_CGROUP "cgroup.json"     /* only of a VM that has cgroups */
#define VM_THREADS "threads.json"

/* Opens and locks. With `create` the directory is made if it is missing; without, its absence means
 * that there are no VMs. Refused (EXIT_FAILED) if it is owned by another, a link, or writable by
 * others. */
int ledger_open(struct ledger *ledger, bool create, struct error *err);
void ledger_close(struct ledger *ledger);
#define cleanup_ledger __attribute__((cleanup(ledger_close)))
#define LEDGER_INIT                                                                                \
	{                                                                                          \
		NULL, -1, -1, false                                                                \
	}

/* Removes the directories of dead VMs, ends a QEMU that was left paused by a launcher that died,
 * and returns the names of the VMs that live (sorted; the caller frees each and the list). What a
 * dead one holds and cannot be given back now is left to the next command, and told (log.h). -1 and
 * an error if a VM cannot be looked at: it may live. */
int ledger_sweep(struct ledger *ledger, char ***names, size_t *count, struct error *err);

/* What all living VMs hold; for root, the CPUs of users' VMs too. NULL and an error if it cannot be
 * read. */
struct claims *ledger_claims(struct ledger *ledger, struct error *err);

/* Removes what dead VMs left, where that may change the host: isolated partitions. True if there
 * was any, so that the host is to be read again. */
bool ledger_give_back(void);

/* For commands that only look: what is held on this machine (`live`), or on a described one, where
 * nobody holds anything. A user without a runtime directory has no VMs. */
int ledger_read_claims(bool live, struct claims **claims, struct error *err);

/* Makes the directory of a new VM and takes its lock. EXIT_FAILED if a VM of that name lives. */
int ledger_add(struct ledger *ledger, const char *name, struct vm_dir *vm, struct error *err);

/* Opens the directory of a living VM. EXIT_FAILED: no such VM, with the nearest name. */
int ledger_find(struct ledger *ledger, const char *name, struct vm_dir *vm, struct error *err);

/* Removes a VM's cgroups, its directory and everything in it; tells (log.h) if a cgroup has to
 * stay, with the file that names it, until the next command. Whoever has no ledger locked and knows
 * of cgroups locks it before. */
void vm_dir_remove(struct vm_dir *vm);
void vm_dir_close(struct vm_dir *vm);
#define cleanup_vm_dir __attribute__((cleanup(vm_dir_close)))
#define VM_DIR_INIT                                                                                \
	{                                                                                          \
		NULL, NULL, -1, -1, NULL                                                           \
	}

/* A file of the VM's: JSON, replaced as a whole, and distrusted (no link is followed). NULL or -1
 * and an error. */
struct json_object *vm_read_json(const struct vm_dir *vm, const char *name, struct error *err);
int vm_write_json(const struct vm_dir *vm, const char *name, struct json_object *json,
                  struct error *err);

/* Whether there is no such file. Not, if that cannot be told: what the VM holds is in its files. */
bool vm_lacks(const struct vm_dir *vm, const char *name);

struct plan *vm_read_plan(const struct vm_dir *vm, struct error *err);
int vm_write_plan(const struct vm_dir *vm, const struct plan *plan, struct error *err);
int vm_read_state(const struct vm_dir *vm, struct vm_state *state, struct error *err);
int vm_write_state(const struct vm_dir *vm, const struct vm_state *state, struct error *err);
bool vm_has_cgroup(const struct vm_dir *vm); /* or that cannot be told */

/* The VM's cgroups; NULL, without an error, if it has none. The caller frees them. */
int vm_read_cgroup(const struct vm_dir *vm, struct cgroup **cgroup, struct error *err);
int vm_write_cgroup(const struct vm_dir *vm, const struct cgroup *cgroup, struct error *err);

/* The threads as they were last known, for when QEMU does not answer. What is read of vCPUs and
 * iothreads is within the plan's bounds. */
int vm_write_threads(const struct vm_dir *vm, const struct threads *threads, struct error *err);
int vm_read_threads(const struct vm_dir *vm, const struct plan *plan, struct threads *threads,
                    struct error *err);
void vm_state_free(struct vm_state *state);
#define cleanup_vm_state __attribute__((cleanup(vm_state_free)))

/* A UNIX stream socket listening in the VM's directory, mode 0600, close-on-exec; -1 and an error.
 */
int vm_listen(const struct vm_dir *vm, const char *name, struct error *err);

/* The file whose lock_take() every command holds while it is at the VM's second monitor; made with
 * the VM, so that a disk which is full by then keeps nobody from it. -1 with errno. */
int vm_open_monitor_lock(const struct vm_dir *vm);

/* A connection to such a socket, close-on-exec; -1 and an error. */
int vm_connect(const struct vm_dir *vm, const char *name, struct error *err);

/* The last lines of qemu.log, at most five and 1 KiB, joined by "; "; "" if there are none. The
 * caller frees. */
char *vm_last_words(const struct vm_dir *vm);

#endif
