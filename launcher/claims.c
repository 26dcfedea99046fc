#include <stdlib.h>
#include <string.h>

#include "claims.h"
#include "plan.h"
#include "util.h"

struct claims *claims_new(void)
{
	struct claims *claims = xcalloc(1, sizeof(*claims));

	claims->dedicated = xbitmap();
	claims->shared = xbitmap();
	return claims;
}

static void free_promise(struct promise *promise)
{
	free(promise->vm);
	hwloc_bitmap_free(promise->nodes);
}

void claims_free(struct claims *claims)
{
	if (!claims)
		return;
	for (size_t i = 0; i < claims->count; i++) {
		free(claims->list[i].vm);
		free(claims->list[i].role);
		hwloc_bitmap_free(claims->list[i].cpus);
	}
	free(claims->list);
	for (size_t i = 0; i < claims->n_promises; i++)
		free_promise(&claims->promises[i]);
	free(claims->promises);
	free(claims->left_out);
	hwloc_bitmap_free(claims->dedicated);
	hwloc_bitmap_free(claims->shared);
	free(claims);
}

static void drop_promises(struct claims *claims, const char *vm)
{
	size_t kept = 0;

	for (size_t i = 0; i < claims->n_promises; i++) {
		if (strcmp(claims->promises[i].vm, vm) == 0)
			free_promise(&claims->promises[i]);
		else
			claims->promises[kept++] = claims->promises[i];
	}
	claims->n_promises = kept;
}

bool claims_drop(struct claims *claims, const char *vm)
{
	size_t kept = 0, before = claims->count;

	hwloc_bitmap_zero(claims->dedicated);
	hwloc_bitmap_zero(claims->shared);
	for (size_t i = 0; i < before; i++) {
		struct claim *claim = &claims->list[i];
		hwloc_bitmap_t all = claim->dedicated ? claims->dedicated : claims->shared;
		if (strcmp(claim->vm, vm) == 0) {
			free(claim->vm);
			free(claim->role);
			hwloc_bitmap_free(claim->cpus);
			continue;
		}
		hwloc_bitmap_or(all, all, claim->cpus);
		claims->list[kept++] = *claim;
	}
	claims->count = kept;
	drop_promises(claims, vm);
	return kept < before;
}

static void add(struct claims *claims, const char *vm, char *role, hwloc_const_bitmap_t cpus,
                bool dedicated)
{
	struct claim *claim = array_append(&claims->list, &claims->count);
	hwloc_bitmap_t all = dedicated ? claims->dedicated : claims->shared;

	claim->vm = xstrdup(vm);
	claim->role = role;
	claim->cpus = xbitmap_dup(cpus);
	claim->dedicated = dedicated;
	hwloc_bitmap_or(all, all, cpus);
}

void claims_add_plan(struct claims *claims, const struct plan *plan)
{
	for (size_t i = 0; i < plan->n_vcpus; i++)
		add(claims, plan->name, xasprintf("vcpu %zu", i), plan->vcpus[i].cpus,
		    plan_vcpu_is_dedicated(plan, i));
	add(claims, plan->name, xstrdup("emulator"), plan->emulator, false);
	for (size_t i = 0; i < plan->n_iothreads; i++)
		add(claims, plan->name, xasprintf("iothread %s", plan->iothreads[i].id),
		    plan->iothreads[i].cpus, false);
	if (!hwloc_bitmap_iszero(plan->siblings))
		add(claims, plan->name, xstrdup("idle sibling"), plan->siblings, true);
}

uint64_t claims_promised(const struct claims *claims, int node, uint64_t page_size)
{
	uint64_t bytes = 0;

	for (size_t i = 0; i < claims->n_promises; i++) {
		const struct promise *promise = &claims->promises[i];
		uint64_t share = 0;
		if (promise->page_size != page_size)
			continue;
		if (!promise->nodes)
			share = node < 0 ? promise->most : 0;
		else if (node >= 0 && hwloc_bitmap_isset(promise->nodes, (unsigned)node))
			share = promise->most / (uint64_t)hwloc_bitmap_weight(promise->nodes);
		bytes = share < UINT64_MAX - bytes ? bytes + share : UINT64_MAX;
	}
	return bytes;
}

void claims_hope(struct claims *claims)
{
	for (size_t i = 0; i < claims->n_promises; i++)
		claims->promises[i].most = claims->promises[i].least;
}

const struct claim *claims_conflict(const struct claims *claims, hwloc_const_bitmap_t cpus,
                                    bool dedicated_only)
{
	for (size_t i = 0; i < claims->count; i++)
		if ((claims->list[i].dedicated || !dedicated_only) &&
		    hwloc_bitmap_intersects(claims->list[i].cpus, cpus))
			return &claims->list[i];
	return NULL;
}
