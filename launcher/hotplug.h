/* vCPUs and iothreads added to a running VM, and taken away again.
 *
 * A thread inherits CPUs and scheduling from the one that makes it, and that is QEMU's main thread.
 * So for the moment of the command the main thread gets what the new thread is to have: it is born
 * in the right place, and no guest instruction runs on it anywhere else. */
#ifndef ANCLA_HOTPLUG_H
#define ANCLA_HOTPLUG_H

#include <stdbool.h>

#include "live.h"

/* What QEMU tells while it waits for a guest to let go of a vCPU; the handler of the client. */
struct hotplug_events {
	int vcpu;         /* that is waited for */
	const char *path; /* its QOM path, or id */
	bool deleted;     /* DEVICE_DELETED, or ACPI_DEVICE_OST: success */
	int refused;      /* ACPI_DEVICE_OST: the guest's status, 0 while it has not refused */
};
void hotplug_on_event(void *events, const char *event, struct json_object *arguments);

/* Adds the first vCPU that is not there yet, and pins, schedules and reads it back as live->plan
 * says. The plan is written. After an error the vCPU may be there, and not as planned: the error
 * says so. */
int hotplug_add_vcpu(struct live *live, struct error *err);

/* Asks the guest to let go of the last vCPU and waits until it has. EXIT_FAILED: it refuses, or
 * does not answer. */
int hotplug_remove_vcpu(struct live *live, struct hotplug_events *events, struct error *err);

/* Makes the iothread that is the last in live->plan. If a step fails, there is none; or the error
 * says that QEMU may have one. */
int hotplug_add_iothread(struct live *live, struct error *err);

/* Whether QEMU has one of that name, though the plan may not: a command was killed in the middle.
 */
bool hotplug_has_iothread(struct live *live, const char *id);

/* Takes an iothread away, and out of live->plan. EXIT_FAILED: it serves a device, among others. */
int hotplug_remove_iothread(struct live *live, const char *id, struct error *err);

#endif
