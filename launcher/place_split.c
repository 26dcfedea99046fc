/* How large the guest nodes are that placement makes where equal ones do not fit. */
#include <stdlib.h>

#include "place_parts.h"
#include "util.h"

/* What a host node could take. */
struct room {
	size_t node;
	uint64_t vcpus, pages;
};

static int compare_rooms(const void *a, const void *b)
{
	const struct room *left = a, *right = b;

	if (left->vcpus != right->vcpus)
		return left->vcpus > right->vcpus ? -1 : 1;
	return left->node < right->node ? -1 : 1;
}

static int compare_nodes(const void *a, const void *b)
{
	const struct room *left = a, *right = b;

	return left->node < right->node ? -1 : 1;
}

/* Nodes that can hold a part, the largest first; returns how many. */
static size_t list_rooms(const struct fit_problem *problem, uint64_t page, struct room *rooms)
{
	const struct fit_unit *unit = &problem->units[0];
	size_t count = 0;

	for (size_t n = 0; n < problem->n_nodes; n++) {
		const struct fit_node *node = &problem->nodes[n];
		uint64_t pages = problem->pools[n * problem->n_pools + unit->pool] / page;
		uint64_t vcpus = problem->dedicated ? node->capacity
		                 : node->has_cpus   ? unit->vcpus
		                                    : 0;
		if (node->home == n && unit->may[n] && vcpus && pages)
			rooms[count++] = (struct room){ n, vcpus, pages };
	}
	qsort(rooms, count, sizeof(*rooms), compare_rooms);
	return count;
}

/* The most pages that `wanted` of these have. */
static uint64_t most_pages(const struct room *rooms, size_t count, size_t wanted)
{
	uint64_t sum = 0, last = UINT64_MAX;
	size_t taken = 0;

	while (taken < wanted) {
		uint64_t most = 0;
		for (size_t i = 0; i < count; i++)
			if (rooms[i].pages < last && rooms[i].pages > most)
				most = rooms[i].pages;
		if (!most)
			break;
		for (size_t i = 0; i < count && taken < wanted; i++)
			if (rooms[i].pages == most) {
				sum += most;
				taken++;
			}
		last = most;
	}
	return sum;
}

static uint64_t most_vcpus(const struct room *rooms, size_t count, size_t wanted)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < wanted && i < count; i++)
		sum += rooms[i].vcpus;
	return sum;
}

/* Picks `wanted` of the rooms that have so much together: the first such pick, so that of the
 * largest nodes. */
static bool pick(const struct room *rooms, size_t count, size_t wanted, uint64_t vcpus,
                 uint64_t pages, struct room *picked)
{
	if (wanted == 0)
		return vcpus == 0 && pages == 0;
	for (size_t i = 0; i + wanted <= count; i++) {
		if (most_vcpus(rooms + i, count - i, wanted) < vcpus ||
		    most_pages(rooms + i, count - i, wanted) < pages)
			return false;
		*picked = rooms[i];
		if (pick(rooms + i + 1, count - i - 1, wanted - 1,
		         vcpus > rooms[i].vcpus ? vcpus - rooms[i].vcpus : 0,
		         pages > rooms[i].pages ? pages - rooms[i].pages : 0, picked + 1))
			return true;
	}
	return false;
}

/* Shares as equal as the rooms let them be, at least one each: what one cannot take, the others do.
 */
static void level(const uint64_t *rooms, size_t count, uint64_t total, uint64_t *shares)
{
	while (total) {
		size_t open = 0;
		for (size_t i = 0; i < count; i++)
			open += shares[i] < rooms[i];
		if (!open) /* the picked rooms are enough */
			return;
		uint64_t each = total / open;
		for (size_t i = 0; i < count && total; i++) {
			uint64_t more = rooms[i] - shares[i], fair = each ? each : 1;
			more = more < fair ? more : fair;
			shares[i] += more;
			total -= more;
		}
	}
}

bool place_uneven(const struct fit_problem *problem, size_t count, uint64_t page, uint64_t pages,
                  uint64_t *vcpu_shares, uint64_t *page_shares)
{
	cleanup_free struct room *rooms = xcalloc(problem->n_nodes, sizeof(*rooms));
	cleanup_free struct room *picked = xcalloc(count, sizeof(*picked));
	cleanup_free uint64_t *limits = xcalloc(count, sizeof(*limits));
	size_t n_rooms = list_rooms(problem, page, rooms);
	uint64_t vcpus = problem->units[0].vcpus;

	if (vcpus / problem->step < count || pages < count ||
	    !pick(rooms, n_rooms, count, vcpus, pages, picked))
		return false;
	qsort(picked, count, sizeof(*picked), compare_nodes);
	for (size_t i = 0; i < count; i++)
		limits[i] = picked[i].vcpus / problem->step;
	level(limits, count, vcpus / problem->step, vcpu_shares);
	for (size_t i = 0; i < count; i++)
		vcpu_shares[i] *= problem->step;
	for (size_t i = 0; i < count; i++)
		limits[i] = picked[i].pages;
	level(limits, count, pages, page_shares);
	return true;
}
