/* The parts of placement, for place*.c only. */
#ifndef ANCLA_PLACE_PARTS_H
#define ANCLA_PLACE_PARTS_H

#include "place.h"

/* One placement under way. The plan's vCPUs, iothreads and memory regions exist from the start;
 * their sets are filled in by the parts, explicit pins first. */
struct placing {
	const struct spec *spec;
	const struct host *host;
	const struct claims *claims;
	struct plan *plan;
	hwloc_bitmap_t free;   /* allowed CPUs that nobody holds as dedicated */
	hwloc_bitmap_t unheld; /* allowed CPUs that nobody holds at all */
	hwloc_bitmap_t pinned; /* CPUs that the spec's own pins name */
};

/* Fills in what the spec does not pin: the design's rules for static. */
int place_static(struct placing *p, struct error *err);

/* Chooses nodes and CPUs. */
int place_auto(struct placing *p, struct error *err);

/* Puts the emulator on CPUs of the vCPUs: all of them, but where some are isolated those that are
 * not, or one, as the kernel does not balance there. */
void place_share_emulator(struct placing *p, hwloc_const_bitmap_t vcpus);

/* Bytes or pages of this kind that a new VM can have on a node. */
uint64_t place_memory_free(const struct placing *p, const struct host_node *node,
                           enum page_kind pages, uint64_t page_size);

/* Checks that the nodes have the pages each region needs; degrades huge pages where the spec lets
 * them be. */
int place_memory(struct placing *p, struct error *err);

/* Distances between guest nodes, and the guest's topology where the spec leaves them open. */
void place_guest_view(struct placing *p);

#endif
