/* The host as placement sees it: CPUs, NUMA nodes, caches, siblings, memory.
 *
 * Plain data from hwloc: the live machine, an hwloc XML file, or a synthetic description. What
 * hwloc does not know of the live machine (free memory, huge pages, isolated CPUs, the CPUs that
 * the kernel grants) is read from /proc and /sys. All CPU and node sets hold OS indexes. */
#ifndef ANCLA_HOST_H
#define ANCLA_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <hwloc.h>

#include "error.h"

struct json_object;

struct host_pages {
	uint64_t size;        /* bytes of one huge page */
	uint64_t total, free; /* pages */
};

/* Every CPU is in at most one node: where hwloc gives it several (HBM beside DRAM, CXL memory local
 * to a whole package), in the DRAM-like one with the fewest CPUs; the others are memory only.
 *
 * `free` of the live machine is MemFree plus the page cache that is clean and not mapped, so
 * that the kernel can drop it at once; slab, which it may or may not give back, does not count.
 * On a described host it is the memory less the huge pages. */
struct host_node {
	unsigned id;              /* OS index */
	hwloc_bitmap_t cpus;      /* may be empty: memory only */
	uint64_t memory;          /* bytes; 0 on a node without memory */
	uint64_t free;            /* bytes that plain pages can still take; see above */
	struct host_pages *pages; /* ascending by size; huge ones only */
	size_t n_pages;
	unsigned *distances; /* to every node, in the order of host.nodes; 10 = local */
};

struct host_core {
	hwloc_bitmap_t cpus; /* SMT siblings, at least one PU */
	int node;            /* OS index of its NUMA node, -1 if none */
	int l3;              /* index in host.l3s, -1 if none */
	int package;         /* index in host.packages, -1 if none */
	int kind;            /* index in host.kinds, -1 where there is only one or it has none */
};

/* CPUs of one kind ("P cores", "E cores"), the slowest and most frugal kind first. */
struct host_kind {
	hwloc_bitmap_t cpus;
	int efficiency; /* hwloc's rank, higher is faster; -1: it could not rank the kinds */
};

struct host_l3 {
	hwloc_bitmap_t cpus;
	uint64_t size; /* bytes */
};

struct host_package {
	int id; /* OS index; -1 where there is none, and not unique on some machines */
	hwloc_bitmap_t cpus;
};

/* A device whose NUMA node is known. */
struct host_device {
	char *name; /* PCI address, or path of a disk */
	int node;   /* OS index */
};

struct host {
	bool live; /* this machine; false: described by XML or a synthetic string */
	struct host_package *packages; /* ascending by lowest PU */
	size_t n_packages;
	struct host_node *nodes; /* ascending by OS index; at least one (hwloc makes one up) */
	size_t n_nodes;
	struct host_core *cores; /* ascending by lowest PU; every PU is in exactly one */
	size_t n_cores;
	struct host_l3 *l3s; /* ascending by lowest PU */
	size_t n_l3s;
	struct host_kind *kinds; /* empty where hwloc knows of none; may leave CPUs out */
	size_t n_kinds;
	hwloc_bitmap_t cpus;         /* online PUs */
	hwloc_bitmap_t allowed;      /* CPUs that may be used; see host_allowed_cpus() */
	hwloc_bitmap_t isolated;     /* isolcpus and isolated partitions, a subset of cpus */
	uint64_t page_size;          /* bytes of a base page */
	bool memfd_thp;              /* memfds can have transparent huge pages; see host_live.c */
	struct host_device *devices; /* PCI devices of a described machine; see host_find_pci() */
	size_t n_devices;

	/* Private: by CPU number, the index of its core and its node, -1 for none. */
	int *core_by_cpu, *node_by_cpu;
	size_t n_by_cpu;
};

/* Loads the host. `description` is NULL for the live machine, the path of an hwloc XML file, or
 * a synthetic description ("numa:2 l3:2 core:4 pu:2"). Errors: EXIT_SPEC when the description is
 * unreadable or wrong, EXIT_FAILED when the machine cannot be read. Takes variables of hwloc
 * (HWLOC_*) out of the environment: they could turn the live machine into another one. */
struct host *host_load(const char *description, struct error *err);
void host_free(struct host *host);

#define cleanup_host __attribute__((cleanup(cleanup_host_fn)))
static inline void cleanup_host_fn(struct host **host)
{
	host_free(*host);
}

const struct host_node *host_node(const struct host *host, unsigned id); /* NULL: no such node */

/* The node, the core of a CPU; NULL for a CPU that is in none. */
const struct host_node *host_node_of_cpu(const struct host *host, unsigned cpu);
const struct host_core *host_core_of_cpu(const struct host *host, unsigned cpu);

/* Pages of that size on the node, NULL if the node has none of that size (not even total 0). */
const struct host_pages *host_node_pages(const struct host_node *node, uint64_t size);

/* Replaces memory, free memory and huge pages of every node of the live machine, and whether memfds
 * can have transparent ones, by what the kernel says now. EXIT_FAILED: it cannot be read. */
int host_live_memory(struct host *host, struct error *err);

/* Looks up the node of a PCI device, of the controller behind a disk, file or block device, of the
 * live machine, for host_device_node(). What nobody knows is left out. */
void host_find_pci(struct host *host, const char *address);
void host_find_disk(struct host *host, const char *path);

/* The node (OS index) of a PCI address or path; -1: not known. */
int host_device_node(const struct host *host, const char *name);

/* The host as JSON, with the keys of `ancla host --json` except "claims". The caller puts it. */
struct json_object *host_json(const struct host *host);

/* The CPUs that this process may use (live): those the kernel grants a throwaway thread which
 * asks for every CPU, so that isolated CPUs are in; but an inherited mask that is narrower than
 * those less the isolated ones was somebody's wish and is kept. Both sets are the caller's. */
int host_allowed_cpus(hwloc_bitmap_t *allowed, hwloc_bitmap_t *isolated, struct error *err);

#endif
