/* The parts of placement, for place*.c only. */
#ifndef ANCLA_PLACE_PARTS_H
#define ANCLA_PLACE_PARTS_H

#include "fit.h"
#include "place.h"

/* One placement under way. The plan's vCPUs, iothreads and memory regions exist from the start;
 * their sets are filled in by the parts, explicit pins first. */
struct placing {
	const struct spec *spec;
	const struct host *host;
	const struct claims *claims;
	struct plan *plan;
	hwloc_bitmap_t free;         /* allowed CPUs that nobody holds as dedicated */
	hwloc_bitmap_t unheld;       /* allowed CPUs that nobody holds at all */
	hwloc_bitmap_t reserve;      /* allowed CPUs that are kept for the host */
	hwloc_bitmap_t pinned;       /* CPUs that the spec's own pins name */
	hwloc_bitmap_t pinned_vcpus; /* of these, those of vCPUs */
	bool made_nodes;             /* the guest nodes are placement's own making */
	unsigned waived;             /* enum demand bits: what does not count for now */
	bool any;                    /* any placement will do, and not much effort */
};

/* What can stand in the way of a placement. */
enum demand {
	DEMAND_MEMORY,
	DEMAND_PAGES,    /* huge pages; plain ones would do */
	DEMAND_BOUND,    /* pins and host-nodes of the spec */
	DEMAND_SMT,      /* isolate, require */
	DEMAND_EMULATOR, /* isolate */
	DEMAND_KIND,     /* cores of one kind */
	DEMAND_RESERVE,  /* CPUs kept for the host */
	DEMAND_CLAIMS,   /* CPUs that other VMs hold */
	N_DEMANDS
};

/* With smt "require", vCPUs whose siblings are pinned go beside them. */
int place_siblings(struct placing *p, struct error *err);

/* Fills in what the spec does not pin: the design's rules for static. */
int place_static(struct placing *p, struct error *err);

/* Chooses nodes and CPUs: the best there are, by place_cost.h. */
int place_auto(struct placing *p, struct error *err);

/* Puts the emulator on CPUs of the vCPUs: all of them, but where some are isolated those that are
 * not, or one, as the kernel does not balance there. */
void place_share_emulator(struct placing *p, hwloc_const_bitmap_t vcpus);

/* Adds a region of guest memory to the plan; `host_nodes` may be NULL. */
void place_add_region(struct placing *p, int guest_node, uint64_t size, struct pages pages,
                      hwloc_const_bitmap_t host_nodes, enum mem_policy policy, bool shared);

/* Automatic placement in numbers. `kind`: only these CPUs, or NULL. The caller frees it with
 * fit_problem_free(). */
void place_problem(const struct placing *p, hwloc_const_bitmap_t kind, struct fit_problem *problem);

/* The CPUs that automatic vCPUs, or the emulator, may have; `last`: when nothing else is left. */
void place_available(const struct placing *p, hwloc_const_bitmap_t kind, hwloc_bitmap_t cpus);
void place_spare(const struct placing *p, bool last, hwloc_bitmap_t cpus);

/* How many vCPUs have to be on a core together: 1, but with smt "require". */
unsigned place_step(const struct placing *p);

/* Sizes of `count` guest nodes that some host nodes can hold together, where equal ones do not fit:
 * as equal as they allow. `problem` has the whole VM as its one unit; the shares are zero before.
 * False: no nodes so few have the room. */
bool place_uneven(const struct fit_problem *problem, size_t count, uint64_t page, uint64_t pages,
                  uint64_t *vcpu_shares, uint64_t *page_shares);

/* Says in plan.why what was chosen, and why not something else. */
void place_explain(struct placing *p, const struct fit_problem *problem,
                   const struct fit_solution *solution);

/* "guest node 3", "the VM"; and why it does not fit on the node, were it alone there, NULL: it
 * does. The caller frees them. */
char *place_unit_name(const struct placing *p, size_t unit);
char *place_unit_reason(const struct placing *p, const struct fit_problem *problem, size_t unit,
                        size_t node);

/* Why there is no solution, and what would be one. Always -1. */
int place_refuse(struct placing *p, const struct fit_problem *problem, struct error *err);

/* Whether there is a solution at all. The plan is left as it is. */
bool place_possible(struct placing *p);

/* Bytes or pages of this kind that a new VM can have on a node. */
uint64_t place_memory_free(const struct placing *p, const struct host_node *node,
                           enum page_kind pages, uint64_t page_size);

/* Makes huge pages of a region plain ones, and says why: `message` is what is short. */
void place_degrade(struct placing *p, size_t region, const char *message);

/* Checks that the nodes have the pages each region needs; degrades huge pages where the spec lets
 * them be. */
int place_memory(struct placing *p, struct error *err);

/* Distances between guest nodes, and the guest's topology where the spec leaves them open. */
void place_guest_view(struct placing *p);

#endif
