/* Network devices that QEMU inherits by descriptor: it needs no privilege and no helper for them.
 */
#ifndef ANCLA_NET_H
#define ANCLA_NET_H

#include "error.h"
#include "spec.h"

/* Opens the tap of a NIC of type tap or bridge (made if it does not exist; then it is gone when the
 * last descriptor is), attaches it to the bridge, and sets it up. Returns the descriptor or -1. */
int net_open_tap(const struct spec_nic *nic, struct error *err);

/* Opens /dev/vhost-net. */
int net_open_vhost(struct error *err);

#endif
