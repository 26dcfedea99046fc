/* The cgroups of a VM: one for its shares and quota, one that is an isolated partition of its CPUs.
 * A VM that asks for neither has none, and nothing here is called for it.
 *
 * They are made below the cgroup that QEMU is in anyway (the launcher's), for threads, not for the
 * process: on cgroup v2 they are threaded (Documentation/admin-guide/cgroup-v2.rst, "Threads"), and
 * have the controllers cpu and cpuset only. So the process, and with it the memory that it and the
 * launcher touch, stays charged where it was; the cgroup it is in may keep its own processes; and
 * each thread can be where it belongs:
 *
 *     real-time threads       in QEMU's cgroup: shares and quota do not hold for them, and a cgroup
 *                             without a real-time budget (RT_GROUP_SCHED) would refuse them
 *     vCPUs with a partition  in the partition
 *     all others              in the cgroup of shares and quota
 *
 * The two are nested unless the partition's threads run in real time. On cgroup v1 there are shares
 * and quota only. */
#ifndef ANCLA_CGROUP_H
#define ANCLA_CGROUP_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <hwloc.h>
#include <json-c/json.h>

#include "error.h"
#include "plan.h"
#include "threads.h"
#include "verify.h"

struct cgroup {
	int version;         /* 1 or 2; 0: the VM has none */
	char *name;          /* in the path of each, unique: "ancla-NAME-0123456789abcdef" */
	char *parent;        /* directory of the cgroup that QEMU is in without */
	char *limits;        /* directory of the one with shares and quota, or NULL */
	char *partition;     /* directory of the isolated partition, or NULL */
	hwloc_bitmap_t cpus; /* of the partition */
	char **exclusive; /* directories above, from the top, whose exclusive CPUs get these, too */
	size_t n_exclusive;
};

/* Whether the VM needs cgroups. */
bool cgroup_is_needed(const struct plan *plan);

/* Chooses them for a VM whose QEMU is, or will be, in the cgroup of process `pid`, and makes
 * nothing. NULL and EXIT_GRANT: no such cgroup can be made there, why, and what to do. The plan
 * takes it. */
struct cgroup *cgroup_choose(const struct plan *plan, pid_t pid, struct error *err);

/* Makes what was chosen, plan->cgroup, and reads back what the kernel granted. It must be on file
 * before, so that whoever finds the VM dead can remove it; after an error, too, cgroup_remove() is
 * called. EXIT_GRANT with the kernel's reason. */
int cgroup_make(const struct plan *plan, struct error *err);

/* Gives everything back. -1 (EXIT_FAILED) if a process is still there. */
int cgroup_remove(const struct cgroup *cgroup, struct error *err);

/* The three below do nothing for a plan without cgroups. */

/* Puts a process that has one thread, and no role yet, where the emulator belongs. EXIT_GRANT. */
int cgroup_add_process(const struct plan *plan, pid_t pid, struct error *err);

/* Puts a thread where the plan wants it. Kernel threads and workers are left where they are: with
 * whom they work for. One that has ended is no error. The kernel may forget its affinity, and
 * grants the CPUs of a partition only in it, so this comes before pinning. EXIT_GRANT. */
int cgroup_put_thread(const struct plan *plan, const struct thread *thread, struct error *err);

/* The directory of the VM's that a thread of process `pid` is in, its parent for any other:
 * borrowed. NULL if that cannot be read. */
const char *cgroup_find_thread(const struct cgroup *cgroup, pid_t pid, pid_t tid);

/* Puts a thread into one of the VM's directories. -1 with errno. */
int cgroup_move_thread(const struct cgroup *cgroup, const char *directory, pid_t tid);

/* Puts all threads back into QEMU's own cgroup, so that these can be removed. EXIT_FAILED. */
int cgroup_leave(const struct cgroup *cgroup, const struct threads *threads, struct error *err);

/* Settings, partition, and where each thread is, against the plan. */
void verify_cgroup(const struct plan *plan, const struct threads *threads, struct checks *checks);

/* Sets shares and quota as the plan has them; EXIT_GRANT. */
int cgroup_set_limits(const struct plan *plan, struct error *err);

/* The weight of cgroup v2 (1 to 10000, 100 is usual) that shares of cgroup v1 (1024 is usual) mean:
 * the ratio stays, as in the kernel (kernel/sched/sched.h, sched_weight_to_cgroup()) and systemd
 * (cgroup_cpu_shares_to_weight()). What lies outside is cut. */
unsigned cgroup_weight(int shares);

/* Adds what there is, file by file as the kernel has it, to an object: {"directory": ...,
 * "cpu.weight": "200", ...}. */
void cgroup_add_status(const struct cgroup *cgroup, struct json_object *json);

struct json_object *cgroup_to_json(const struct cgroup *cgroup);
int cgroup_from_json(struct json_object *json, struct cgroup *cgroup, struct error *err);

void cgroup_free(struct cgroup *cgroup);
#define cleanup_cgroup __attribute__((cleanup(cgroup_free)))

#endif
