/* QEMU's threads, each with its role: vCPUs and iothreads as QMP names them, the rest the
 * emulator's. */
#ifndef ANCLA_THREADS_H
#define ANCLA_THREADS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <json-c/json.h>

#include "error.h"
#include "plan.h"

enum thread_role {
	THREAD_VCPU,
	THREAD_IOTHREAD,
	THREAD_EMULATOR,
	THREAD_WORKER, /* does I/O for the main loop or an iothread, where that runs; comes and goes
	                */
	THREAD_VHOST,
	THREAD_KVM_PIT,
};

struct thread {
	enum thread_role role;
	int index; /* of the vCPU or iothread in the plan; -1 else */
	pid_t tid;
	char comm[64];
	bool unknown; /* an emulator thread of a kind that nobody has thought of */
};

struct threads {
	pid_t pid;
	struct thread *list; /* vCPUs by index, iothreads by index, then the rest by id */
	size_t count;
};

/* Makes the list from the replies to query-cpus-fast and query-iothreads and from the process's
 * task directory, and finds the kernel's own threads that work for the VM: vhost-PID (before Linux
 * 6.4) and kvm-pit/PID. Refused (EXIT_FAILED): a vCPU of the plan without a thread, two vCPUs with
 * one id, or a vCPU whose id is the process's (single-threaded TCG): then they cannot be pinned one
 * by one; and a thread that is not the process's. */
int threads_read(struct threads *threads, pid_t pid, const struct plan *plan,
                 struct json_object *cpus, struct json_object *iothreads, struct error *err);

/* The same in steps, for vCPUs and iothreads that are known by other means: `pid` is set by the
 * caller, then each is added, then the rest is found. */
void threads_add(struct threads *threads, enum thread_role role, int index, pid_t tid);
int threads_complete(struct threads *threads, const struct plan *plan, struct error *err);

/* How many vCPUs there are by the reply to query-cpus-fast, counted from 0 to the first that is not
 * there; at least 1, and at most as many as the plan has. */
int threads_count_vcpus(const struct plan *plan, struct json_object *cpus);

/* A sentence on the threads of unknown kind, NULL if there are none; the caller frees. */
char *threads_unknown(const struct threads *threads);

/* Whether a vCPU or an iothread is gone: they live as long as their QEMU, unless they are taken
 * away.
 */
bool threads_are_dying(const struct threads *threads);

/* Looks again: adds the emulator threads that were born since, drops those that ended. */
int threads_refresh(struct threads *threads, struct error *err);

void threads_free(struct threads *threads);
#define cleanup_threads __attribute__((cleanup(threads_free)))

/* "vCPU 3", "iothread io0", "emulator thread 123 (qemu-system-x86)"; the caller frees. */
char *thread_name(const struct thread *thread, const struct plan *plan);

/* "vcpu", "iothread", "emulator", "worker", "vhost", "kvm-pit". */
const char *thread_role_name(enum thread_role role);

/* Where the plan wants the thread, and how scheduled. vhost workers are the emulator's; the
 * kernel's timer thread goes with vCPU 0, unless that would starve it. The set is the plan's. */
hwloc_const_bitmap_t thread_cpus(const struct thread *thread, const struct plan *plan);
struct sched thread_sched(const struct thread *thread, const struct plan *plan);

/* Workers are born where the thread is that they work for, and inherit its CPUs and scheduler:
 * right for one is any subset of the emulator's and the iothreads' CPUs. */
bool thread_may_be_on(const struct thread *thread, const struct plan *plan,
                      hwloc_const_bitmap_t cpus);
bool thread_may_run_as(const struct thread *thread, const struct plan *plan, struct sched sched);

#endif
