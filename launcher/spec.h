/* The spec: what a VM is and where it belongs, as its JSON file says it.
 *
 * `struct spec` is plain data, complete after spec_load(): defaults that do not depend on the
 * host are filled in, the rest say "unset" and are decided by `place` and `argv`. Every field is
 * declared once, as a row in spec_fields.c. */
#ifndef ANCLA_SPEC_H
#define ANCLA_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <hwloc.h>

#include "error.h"

/* Bytes of a VM's name, or of an iothread's id. */
#define NAME_LONGEST 63

/* An integer that the spec leaves open. */
#define SPEC_UNSET (-1)

/* QEMU's accelerators. UNSET: KVM where it works, else TCG. */
enum accel { ACCEL_UNSET, ACCEL_KVM, ACCEL_TCG };

/* libvirt's names for CPU modes. UNSET: host-passthrough with KVM, maximum with TCG. */
enum cpu_mode {
	CPU_MODE_UNSET,
	CPU_MODE_HOST_PASSTHROUGH,
	CPU_MODE_HOST_MODEL,
	CPU_MODE_CUSTOM,
	CPU_MODE_MAXIMUM,
};

enum cpu_cache { CPU_CACHE_UNSET, CPU_CACHE_PASSTHROUGH, CPU_CACHE_EMULATE, CPU_CACHE_DISABLE };

enum feature_policy { FEATURE_REQUIRE, FEATURE_DISABLE };

/* Memory policies: strict fails if the node is short, preferred may fall back, interleave goes
 * round, restrictive confines the whole process and sets no policy on the backend. */
enum mem_policy {
	MEM_POLICY_UNSET,
	MEM_POLICY_STRICT,
	MEM_POLICY_PREFERRED,
	MEM_POLICY_INTERLEAVE,
	MEM_POLICY_RESTRICTIVE,
};

/* Pages that back guest memory. */
enum page_kind {
	PAGES_UNSET, /* in a guest node: as memory-backing says */
	PAGES_PLAIN, /* "none": the base page size */
	PAGES_THP,   /* "thp": transparent huge pages */
	PAGES_HUGE,  /* hugetlb pages of a given size */
};

struct pages {
	enum page_kind kind;
	uint64_t size; /* bytes; PAGES_HUGE only */
	bool grow;     /* "reserve": "grow" */
};

enum prealloc { PREALLOC_UNSET, PREALLOC_FALSE, PREALLOC_TRUE, PREALLOC_QEMU };

enum placement_mode { PLACEMENT_UNSET, PLACEMENT_STATIC, PLACEMENT_AUTO };
enum cpu_policy { CPU_POLICY_UNSET, CPU_POLICY_SHARED, CPU_POLICY_DEDICATED };
enum smt_policy { SMT_UNSET, SMT_PREFER, SMT_ISOLATE, SMT_REQUIRE };
enum emulator_policy { EMULATOR_UNSET, EMULATOR_SHARE, EMULATOR_ISOLATE };

/* Linux's scheduling policies, by the names that libvirt and chrt(1) use. */
enum scheduler {
	SCHED_UNSET,
	SCHED_OF_OTHER,
	SCHED_OF_BATCH,
	SCHED_OF_IDLE,
	SCHED_OF_FIFO,
	SCHED_OF_RR
};

struct sched {
	enum scheduler scheduler;
	int priority; /* 1 to 99 with fifo and rr, else 0 */
};

enum isolation { ISOLATION_NONE, ISOLATION_PARTITION };
enum disk_format { DISK_FORMAT_RAW, DISK_FORMAT_QCOW2 };
enum disk_type { DISK_TYPE_FILE, DISK_TYPE_BLOCK };
enum nic_type { NIC_USER, NIC_TAP, NIC_BRIDGE, NIC_VHOST_USER };
enum serial_type { SERIAL_NONE, SERIAL_STDIO, SERIAL_FILE, SERIAL_PTY, SERIAL_SOCKET };
enum life_action { ACTION_DESTROY, ACTION_RESTART, ACTION_PRESERVE, ACTION_DUMP };
enum strictness { STRICTNESS_REQUIRE, STRICTNESS_PREFER };
enum machine { MACHINE_Q35, MACHINE_PC, MACHINE_MICROVM };
enum distances { DISTANCES_UNSET, DISTANCES_HOST, DISTANCES_MATRIX };

/* What follows when the guest powers off, resets, or panics. */
struct life_actions {
	enum life_action on_poweroff, on_reboot, on_crash;
};

/* Whether QEMU only stops the guest where it would end, so that the supervisor can act: it has but
 * one setting for a guest that powers off and one whose reset is its end. */
static inline bool actions_pause(const struct life_actions *actions)
{
	return actions->on_poweroff != ACTION_DESTROY || actions->on_reboot == ACTION_PRESERVE ||
	       actions->on_reboot == ACTION_DUMP;
}

struct spec_feature {
	char *name;
	enum feature_policy policy;
};

struct spec_node {
	hwloc_bitmap_t vcpus;      /* may be empty (a node with memory only), never NULL */
	uint64_t memory;           /* bytes */
	struct pages pages;        /* resolved: never PAGES_UNSET after spec_load() */
	hwloc_bitmap_t host_nodes; /* NULL: not said */
	enum mem_policy policy;    /* UNSET: not said */
	bool shared;
};

struct spec_vcpupin {
	int vcpu;
	hwloc_bitmap_t cpus;
};

struct spec_iothreadpin {
	char *iothread;
	hwloc_bitmap_t cpus;
};

struct spec_vcpusched {
	hwloc_bitmap_t vcpus;
	struct sched sched;
};

struct spec_iothreadsched {
	char *iothreads; /* names separated by commas */
	struct sched sched;
};

struct spec_disk {
	char *file; /* absolute, or relative to the working directory: joined with the spec's */
	enum disk_type type;
	enum disk_format format;
	bool readonly;
	char *iothread; /* NULL: the main loop */
};

struct spec_nic {
	enum nic_type type;
	char *mac;    /* NULL: QEMU's own default */
	char *ifname; /* tap: the interface; bridge: the tap's name, or NULL */
	char *bridge; /* bridge */
	char *socket; /* vhost-user: path */
	bool vhost;   /* tap, bridge: packets handled by vhost-net */
};

struct spec_hostdev {
	char *pci; /* "0000:3b:00.0" */
};

struct spec {
	char *file; /* as given to spec_load() */
	char *name;
	int vcpus, max_vcpus;
	uint64_t memory; /* bytes */

	struct {
		struct pages pages; /* never UNSET after spec_load() */
		bool locked, nosharepages;
		enum prealloc prealloc; /* resolved: FALSE, TRUE or QEMU */
		char *path;             /* a directory of hugetlbfs, NULL: memfd */
		hwloc_bitmap_t host_nodes;
		enum mem_policy policy;
	} backing;

	struct {
		enum cpu_mode mode;
		char *model;
		enum cpu_cache cache;
		bool topology_given;
		int sockets, dies, cores, threads; /* 0 when the topology is not given */
		struct spec_feature *features;
		size_t n_features;
	} cpu;

	struct {
		struct spec_node *nodes; /* every vCPU up to max_vcpus is in exactly one */
		size_t n_nodes;
		enum distances distances;
		unsigned *matrix; /* n_nodes × n_nodes, rows by source, DISTANCES_MATRIX only */
	} numa;

	struct {
		enum placement_mode mode;      /* resolved: STATIC or AUTO */
		enum cpu_policy cpu_policy;    /* resolved: SHARED or DEDICATED */
		enum smt_policy smt;           /* UNSET: not said */
		enum emulator_policy emulator; /* UNSET: not said */
		int reserve;                   /* cores kept for the host; SPEC_UNSET */
	} placement;

	struct {
		struct spec_vcpupin *vcpupin; /* ascending by vCPU */
		size_t n_vcpupin;
		hwloc_bitmap_t emulatorpin; /* NULL: not said */
		struct spec_iothreadpin *iothreadpin;
		size_t n_iothreadpin;
		struct spec_vcpusched *vcpusched;
		size_t n_vcpusched;
		struct spec_iothreadsched *iothreadsched;
		size_t n_iothreadsched;
		struct sched emulatorsched;
		int shares;  /* SPEC_UNSET */
		char *quota; /* NULL */
	} cputune;

	enum isolation isolation;
	char **iothreads;
	size_t n_iothreads;
	struct spec_disk *disks;
	size_t n_disks;
	struct spec_nic *nics;
	size_t n_nics;
	struct spec_hostdev *hostdevs;
	size_t n_hostdevs;

	struct {
		enum serial_type type;
		char *path; /* SERIAL_FILE only */
	} serial;

	struct {
		char *kernel, *initrd, *cmdline; /* direct kernel boot */
		char *firmware;                  /* an image for the machine's BIOS or UEFI */
		char *nvram;                     /* with firmware: its variable store */
	} boot;

	struct life_actions actions;
	bool die_with_supervisor;

	struct {
		enum strictness hugepages;
	} strictness;

	struct {
		char *binary; /* a name to look up in PATH, or a path */
		enum machine machine;
		enum accel accel;
		char *user; /* NULL: the launcher's */
		char **args;
		size_t n_args;
	} qemu;
};

/* All errors of one spec, in the order of the file. */
struct spec_error {
	unsigned line; /* 1 for the first; 0 where no line applies (the file cannot be read) */
	char *pointer; /* JSON pointer (RFC 6901) to the value, "" for the whole */
	char *message; /* what is wrong, what was expected, the nearest name for an unknown key */
};

struct spec_errors {
	struct spec_error *list;
	size_t count;
};

/* Reads, parses and validates a whole spec before anything happens. Returns the spec, or NULL
 * and every error found. Relative paths in the spec are relative to its own directory. The
 * caller frees the spec with spec_free() and the errors with spec_errors_free(). */
struct spec *spec_load(const char *path, struct spec_errors *errors);

/* The same from memory; `path` is for messages and as the base of relative paths. */
struct spec *spec_parse(const char *path, const char *text, size_t length,
                        struct spec_errors *errors);

void spec_free(struct spec *spec);
void spec_errors_free(struct spec_errors *errors);

#define cleanup_spec __attribute__((cleanup(cleanup_spec_fn)))
static inline void cleanup_spec_fn(struct spec **spec)
{
	spec_free(*spec);
}

/* The scheduling that the spec asks for; SCHED_UNSET where it does not. */
struct sched spec_vcpu_sched(const struct spec *spec, int vcpu);
struct sched spec_iothread_sched(const struct spec *spec, const char *iothread);

/* How many vCPUs are threads of one core of the guest, if placement.smt is "require". */
int spec_threads(const struct spec *spec);

/* The pin that the spec names, or NULL. Not owned by the caller. */
hwloc_const_bitmap_t spec_vcpupin(const struct spec *spec, int vcpu);
hwloc_const_bitmap_t spec_iothreadpin(const struct spec *spec, const char *iothread);

/* Whether argv gives guest memory such an id in QEMU: "ram0", "fill0". No other object may have it.
 */
bool spec_is_memory_id(const char *id);

/* The names that the spec, and all output, use for the values. */
const char *scheduler_name(enum scheduler scheduler); /* "other" also for UNSET */
const char *mem_policy_name(enum mem_policy policy);  /* "default" for UNSET */
const char *accel_name(enum accel accel);

/* The spec's JSON Schema (draft 2020-12), made from the field table; the caller frees. */
char *spec_schema(void);

/* A field for people; what a spec would write is in backticks. */
struct field_text {
	const char *path; /* "memory-backing.hugepages.size", "disks[].file" */
	const char *type, *fallback, *help;
};

/* Calls for every field, in the order of the table. The texts are borrowed for the call. */
typedef void field_text_fn(const struct field_text *field, void *data);
void spec_each_field(field_text_fn *fn, void *data);

/* The field table of the README, in Markdown, made from the same rows; the caller frees. */
char *spec_field_table(void);

#endif
