/* What this host grants to this user, found by trying, and what a spec needs of it. */
#ifndef ANCLA_GRANTS_H
#define ANCLA_GRANTS_H

#include <stdbool.h>
#include <stddef.h>

#include "error.h"
#include "host.h"
#include "spec.h"

struct grant {
	char *name;   /* "KVM", "huge pages of 2MiB on node 0" */
	char *detail; /* what there is, or why not */
	char *how;    /* how to get it, NULL where it is granted or `detail` says it */
	bool granted;
	bool needed; /* by the spec */
};

struct grants {
	struct grant *list;
	size_t count;
};

/* All that could be needed. What is tried is undone; a page, a thread, a lock, a cgroup at most. */
void grants_of_host(const struct host *host, struct grants *grants);

/* Marks what the spec needs of them, and adds what only the spec can tell: its placement, its files
 * and devices, and scheduling and locked memory as much as it wants. The host is the live one. */
int grants_of_spec(const struct spec *spec, struct grants *grants, struct error *err);

/* Whether something that is needed is not granted. */
bool grants_lack(const struct grants *grants);

void grants_free(struct grants *grants);
#define cleanup_grants __attribute__((cleanup(grants_free)))

/* For grants*.c: adds one; takes the strings. `how` is dropped where it is granted. */
struct grant *grants_add(struct grants *grants, bool granted, char *name, char *detail, char *how);

void grants_add_cgroups(struct grants *grants);

/* Names that grants_of_spec() marks. */
#define GRANT_KVM "KVM"
#define GRANT_VFIO "VFIO"
#define GRANT_FIFO "real-time scheduling"
#define GRANT_LOCK "locked memory"
#define GRANT_POLICY "memory policy"
#define GRANT_CGROUPS "cgroups"
#define GRANT_USER "another user for QEMU"
#define GRANT_RUNTIME "runtime directory"

#endif
