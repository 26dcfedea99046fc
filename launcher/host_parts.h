/* What the files of the host stage share. Not for other stages: they include host.h. */
#ifndef ANCLA_HOST_PARTS_H
#define ANCLA_HOST_PARTS_H

#include "host.h"

/* Distances where nobody says: the kernel's LOCAL_DISTANCE and REMOTE_DISTANCE. */
#define DISTANCE_LOCAL 10
#define DISTANCE_REMOTE 20

/* The topology of the live machine (NULL) or of a description; see host_load() for the errors.
 * The caller destroys it with hwloc_topology_destroy(). */
hwloc_topology_t host_topology_open(const char *description, struct error *err);

/* What a kept topology depends on; NULL: nothing can be kept. The caller frees. */
char *host_cache_key(void);

/* Loads what was stored with this key into a topology that is set up and not loaded; false where
 * there is nothing, and then it has to be set up again. */
bool host_cache_load(const char *key, hwloc_topology_t topology);

void host_cache_store(const char *key, hwloc_topology_t topology);

/* Fills in all that hwloc knows: every array of the host, `cpus`, `allowed`, `page_size`.
 * Returns whether the topology has a matrix of latencies between nodes. */
bool host_topology_read(struct host *host, hwloc_topology_t topology);

/* Fills in `devices`: what hwloc knows of a described machine. */
void host_topology_devices(struct host *host, hwloc_topology_t topology);

/* Replaces distances by the kernel's (ACPI SLIT), for nodes that it has a row of. */
void host_live_distances(struct host *host);

#endif
