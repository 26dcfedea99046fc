/* The plan: where every thread and every page of one VM goes, and why.
 *
 * Made by `place` from spec and host, pure data; written to plan.json (which is the claim of a
 * running VM), and read back by the commands that verify and show. Sets hold OS indexes. */
#ifndef ANCLA_PLAN_H
#define ANCLA_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <hwloc.h>
#include <json-c/json.h>

#include "error.h"
#include "spec.h"

struct cgroup;

struct plan_vcpu {
	hwloc_bitmap_t cpus;
	int host_node;  /* the node of all its CPUs, -1 when they are on several */
	int guest_node; /* -1 without guest nodes */
	struct sched sched;
};

struct plan_iothread {
	char *id;
	hwloc_bitmap_t cpus;
	struct sched sched;
};

/* What holds the pages of a guest node. */
enum backing {
	BACKING_ANON,  /* memory-backend-ram: QEMU's own anonymous memory */
	BACKING_MEMFD, /* a memfd of the launcher's, inherited by QEMU */
	BACKING_PATH,  /* an unlinked file in a directory of hugetlbfs, inherited likewise */
};

/* Who touches the pages first. */
enum fill_by {
	FILL_NONE,     /* nobody: pages come as the guest uses them */
	FILL_LAUNCHER, /* the launcher, while QEMU starts */
	FILL_QEMU,     /* QEMU, before it answers */
};

struct plan_memory {
	int guest_node;              /* -1: the whole memory, without guest nodes */
	hwloc_bitmap_t host_nodes;   /* where its pages are; NULL: anywhere */
	hwloc_bitmap_t policy_nodes; /* where QEMU's policy would have them, once they were moved:
	                                it cannot be changed from outside. Empty: anywhere. NULL: as
	                                host_nodes */
	enum mem_policy policy;      /* UNSET with host_nodes NULL */
	uint64_t size;               /* bytes, a multiple of page_size */
	enum page_kind pages;
	uint64_t page_size; /* bytes; the base page size with plain pages and THP */
	enum backing backing;
	enum fill_by fill;
	bool grow;     /* huge pages that are missing are reserved for it. Not in plan.json */
	bool shared;   /* mapped MAP_SHARED: always with MEMFD and PATH */
	bool has_cpus; /* some of host_nodes has CPUs: threads can be bound to them. Not in
	                  plan.json */
};

/* Who QEMU is to the kernel, and what it may do; decided when it is launched, see privileges.h. */
struct plan_process {
	bool known; /* false: nothing was decided */
	uid_t uid;
	gid_t gid;
	gid_t *groups; /* supplementary */
	size_t n_groups;
	uint64_t capabilities; /* bit N is capability N of <linux/capability.h> */
	bool sandbox;          /* it confines itself to a seccomp filter */
	bool locks;            /* it locks memory. Not in plan.json */
};
void plan_process_free(struct plan_process *process);

/* For plan_to_json() and back, which distrusts as that does. */
struct json_object *plan_process_to_json(const struct plan_process *process);
int plan_process_from_json(struct json_object *json, struct plan_process *process,
                           struct error *err);

struct plan {
	char *name;
	enum accel accel;
	enum cpu_policy cpu_policy;
	enum smt_policy smt;
	enum emulator_policy emulator_policy;
	int vcpus_online;        /* the first of them run at start, the rest may be added */
	struct plan_vcpu *vcpus; /* by vCPU index, up to max-vcpus */
	size_t n_vcpus;
	hwloc_bitmap_t emulator;
	struct sched emulator_sched;
	struct plan_iothread *iothreads;
	size_t n_iothreads;
	struct plan_memory *memory; /* by guest node */
	size_t n_memory;
	unsigned *distances; /* n_memory × n_memory between guest nodes; NULL: QEMU's default */
	int sockets, dies, cores, threads; /* the product is n_vcpus */
	bool locked, nosharepages;
	bool kernel_threads; /* the kernel may run threads of its own for this VM (KVM, vhost) */
	bool pages_required; /* huge pages that turn out smaller are a failure, not a fact */
	char *memory_path;   /* of BACKING_PATH */
	struct plan_process process;
	int shares;              /* CPU shares as of cgroup v1; 0: none asked for */
	int quota;               /* percent of one CPU; 0: no limit */
	bool partition;          /* the vCPUs' CPUs, and idle siblings, are an isolated partition */
	struct cgroup *cgroup;   /* made for these; NULL: none. Owned; not in plan.json */
	hwloc_bitmap_t siblings; /* CPUs kept idle beside dedicated vCPUs (smt: isolate) */
	char **why;              /* one sentence each: what was chosen, what was rejected */
	size_t n_why;
	char **warnings; /* what was asked for softly and is not granted */
	size_t n_warnings;
};

/* No plan has more memory than this, as far as physical addresses reach. */
#define PLAN_MEMORY_MAX (UINT64_C(1) << 52)

struct plan *plan_new(void);
void plan_free(struct plan *plan);

#define cleanup_plan __attribute__((cleanup(cleanup_plan_fn)))
static inline void cleanup_plan_fn(struct plan **plan)
{
	plan_free(*plan);
}

void plan_why(struct plan *plan, const char *format, ...) __attribute__((format(printf, 2, 3)));
void plan_warn(struct plan *plan, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* True when vCPU threads of this plan hold their CPUs alone: dedicated, or a real-time scheduler
 * that would starve a neighbour. */
bool plan_vcpu_is_dedicated(const struct plan *plan, size_t vcpu);

bool sched_is_realtime(struct sched sched);

/* The CPUs of the isolated partition: the vCPUs', and siblings kept idle. The caller frees. */
hwloc_bitmap_t plan_partition_cpus(const struct plan *plan);

/* For people; the caller frees: "shares 2048, quota 400%, isolated partition of CPUs 2-5", or "" */
char *plan_limits_format(const struct plan *plan);

/* For people; the caller frees: "fifo:1", "other"; "2MiB", "transparent huge", "plain"; "256MiB of
 * 2MiB pages, host node 0, policy strict". */
char *sched_format(struct sched sched);
char *plan_pages_name(const struct plan_memory *memory);
char *plan_memory_format(const struct plan_memory *memory);

/* The region with the host nodes of QEMU's policy. Its sets are borrowed. */
struct plan_memory plan_memory_of_policy(const struct plan_memory *memory);

/* Pages of the region were moved to other nodes. */
void plan_memory_move(struct plan_memory *memory, hwloc_const_bitmap_t nodes);

/* Stable JSON and back. plan_from_json() distrusts its input (another user may have written it)
 * and returns NULL with an error that names the key. */
struct json_object *plan_to_json(const struct plan *plan);
struct plan *plan_from_json(struct json_object *json, struct error *err);

/* Whether the parts of a plan fit together as this file says; else EXIT_FAILED. */
int plan_check(const struct plan *plan, struct error *err);

/* Adds "shares", "quota" and "isolation" to an object, each where the plan has it. */
void plan_add_limits(struct json_object *json, const struct plan *plan);

/* A copy of what JSON holds of it, and of its cgroups. The caller frees. */
struct plan *plan_copy(const struct plan *plan);

#endif
