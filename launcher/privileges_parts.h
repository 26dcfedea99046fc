/* The parts of privileges, for privileges*.c only. */
#ifndef ANCLA_PRIVILEGES_PARTS_H
#define ANCLA_PRIVILEGES_PARTS_H

#include "privileges.h"
#include "users.h"

/* What QEMU opens by path. */
struct opened {
	char *field; /* of the spec */
	char *path;
	int mode; /* as access(2) takes it: R_OK, W_OK, X_OK; of the directory, if created */
	enum opened_kind {
		OPENED_FILE,
		OPENED_BLOCK,
		OPENED_SOCKET,
		OPENED_PROGRAM,
		OPENED_DEVICE, /* a grant of the host */
		OPENED_LOG, /* made if it is not there, a regular file or character device if it is
		             */
	} kind;
};

struct opened_list {
	struct opened *list;
	size_t count;
};

/* The files and devices of the spec, and QEMU itself (`binary`). EXIT_GRANT for a PCI device that
 * is not there or not vfio-pci's. */
int opened_collect(const struct spec *spec, const char *binary, enum accel accel,
                   struct opened_list *list, struct error *err);
void opened_free(struct opened_list *list);
#define cleanup_opened __attribute__((cleanup(opened_free)))

/* Tries each as the calling thread is. `who` ("", or "user \"qemu\" ") goes before "cannot". */
int opened_check(const struct opened_list *list, const char *who, struct error *err);

/* Calls `function` in a thread that has the user, groups and capabilities for all access to files,
 * and returns its result; -1 with an error if this process may not become that. The thread cannot
 * be signalled or traced by that user. */
int privileges_try(const struct plan_process *process, int (*function)(void *data), void *data,
                   struct error *err);

#endif
