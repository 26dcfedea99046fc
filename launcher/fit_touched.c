/* Several guest nodes over the L3 groups of one host node, where the spec pins vCPUs of some to
 * groups: those cost nothing to touch. Each guest node is put into one group, then two, three, …:
 * branch and bound. */
#include <stdlib.h>
#include <string.h>

#include "fit_filling.h"
#include "util.h"

struct sharing {
	struct filling *f;
	unsigned *total;    /* by group, of all units */
	unsigned *amounts;  /* by unit and group */
	unsigned *least_l3; /* by unit: groups that it and those after it need at least */
	weight rest;        /* what all the rest costs at least */
	weight best;        /* of the best choice so far */
	unsigned *best_amounts;
	bool *apart; /* by unit: it, or one after it, tells groups apart */
};

static weight sharing_rest(const struct sharing *s)
{
	weight sum = 0;

	for (size_t j = 0; j < s->f->node->count; j++) {
		weight here = s->f->tables[j][s->total[j]];
		if (here == NO_WEIGHT)
			return NO_WEIGHT;
		sum += here;
	}
	return sum;
}

/* Until this unit both groups were filled alike; units that still come do not tell them apart. */
static bool groups_look_alike(const struct sharing *s, size_t unit, size_t a, size_t b)
{
	const struct fit_group *left = group_of(s->f, a), *right = group_of(s->f, b);
	size_t groups = s->f->node->count;

	return left->capacity == right->capacity &&
	       s->total[a] - s->amounts[unit * groups + a] ==
	           s->total[b] - s->amounts[unit * groups + b] &&
	       memcmp(s->f->tables[a], s->f->tables[b], (left->capacity + 1) * sizeof(weight)) == 0;
}

/* The most that the unit may have of the group: of groups that look alike, the lower ones give no
 * less, as the other way round is the same. */
static unsigned most_of(const struct sharing *s, size_t unit, size_t group)
{
	size_t groups = s->f->node->count;
	unsigned most = group_of(s->f, group)->capacity - s->total[group];

	if (s->apart[unit])
		return most;
	for (size_t j = group; j-- > 0;)
		if (groups_look_alike(s, unit, j, group))
			return s->amounts[unit * groups + j] < most ? s->amounts[unit * groups + j]
			                                            : most;
	return most;
}

static void share_unit(struct sharing *s, size_t unit, weight l3);

/* With an answer at hand, the ledger is not kept from others for ever. */
static bool is_over(struct sharing *s)
{
	if (++s->f->steps <= s->f->steps_max || s->best == NO_WEIGHT)
		return false;
	s->f->cut = true;
	return true;
}

/* So many groups from `from` on could give so much. */
static bool is_room(const struct sharing *s, unsigned vcpus, size_t from, unsigned parts)
{
	uint64_t most = 0;

	for (size_t j = from; j < s->f->node->count; j++) {
		unsigned room = group_of(s->f, j)->capacity - s->total[j];
		most = room > most ? room : most;
	}
	return parts * most >= vcpus;
}

/* The unit's next `parts` groups, from `from` on, give `vcpus`. */
static void share_parts(struct sharing *s, size_t unit, weight l3, unsigned vcpus, size_t from,
                        unsigned parts)
{
	size_t groups = s->f->node->count;

	if (parts == 0) {
		share_unit(s, unit + 1, l3);
		return;
	}
	if (is_over(s) || !is_room(s, vcpus, from, parts))
		return;
	for (size_t j = from; j < groups; j++) {
		unsigned room = most_of(s, unit, j);
		unsigned most = vcpus - (parts - 1) < room ? vcpus - (parts - 1) : room;
		unsigned least = parts == 1 ? vcpus : 1;
		for (unsigned here = most; here && here >= least; here--) {
			s->total[j] += here;
			s->amounts[unit * groups + j] = here;
			share_parts(s, unit, l3 + fit_touch(s->f, unit, j), vcpus - here, j + 1,
			            parts - 1);
			s->total[j] -= here;
			s->amounts[unit * groups + j] = 0;
		}
	}
}

static void share_unit(struct sharing *s, size_t unit, weight l3)
{
	const struct filling *f = s->f;
	unsigned vcpus = unit < f->n_units ? f->problem->units[f->units[unit]].vcpus : 0;

	if (l3 + fit_weigh(s->least_l3[unit], 0, 0, 0, 0) + s->rest >= s->best)
		return;
	if (unit == f->n_units) {
		weight rest = sharing_rest(s);
		if (rest == NO_WEIGHT || l3 + rest >= s->best)
			return;
		s->best = l3 + rest;
		memcpy(s->best_amounts, s->amounts,
		       f->n_units * f->node->count * sizeof(*s->amounts));
		return;
	}
	if (vcpus == 0)
		share_unit(s, unit + 1, l3);
	for (unsigned parts = 1; parts <= vcpus && parts <= f->node->count; parts++)
		share_parts(s, unit, l3, vcpus, 0, parts);
}

static int compare_down(const void *a, const void *b)
{
	unsigned left = *(const unsigned *)a, right = *(const unsigned *)b;

	return left < right ? 1 : left > right ? -1 : 0;
}

/* The groups that these vCPUs need at least, of groups with `rooms`, the largest first. */
static unsigned groups_needed(const unsigned *rooms, size_t count, unsigned vcpus)
{
	unsigned needed = 0;

	for (size_t j = 0; vcpus && j < count; j++, needed++)
		vcpus -= vcpus < rooms[j] ? vcpus : rooms[j];
	return needed;
}

weight fit_touched(struct filling *f, unsigned *amounts)
{
	size_t groups = f->node->count;
	cleanup_free unsigned *total = xcalloc(groups, sizeof(*total));
	cleanup_free unsigned *now = xcalloc(f->n_units * groups, sizeof(*now));
	cleanup_free unsigned *least = xcalloc(f->n_units + 1, sizeof(*least));
	cleanup_free unsigned *rooms = xcalloc(groups, sizeof(*rooms));
	cleanup_free bool *apart = xcalloc(f->n_units + 1, sizeof(*apart));
	struct sharing s = { f, total, now, least, 0, NO_WEIGHT, amounts, apart };
	unsigned vcpus = 0;

	for (size_t j = 0; j < groups; j++)
		rooms[j] = group_of(f, j)->capacity;
	qsort(rooms, groups, sizeof(*rooms), compare_down);
	for (size_t i = f->n_units; i-- > 0;) {
		const struct fit_unit *unit = &f->problem->units[f->units[i]];
		unsigned needed = groups_needed(rooms, groups, unit->vcpus);
		for (size_t j = 0; unit->touched && needed && j < groups; j++)
			needed -= needed && unit->touched[f->node->first + j];
		least[i] = least[i + 1] + needed;
		apart[i] = apart[i + 1] || unit->touched;
		vcpus += unit->vcpus;
	}
	cleanup_free weight *rest = fit_least(f, NULL, vcpus);
	s.rest = rest[vcpus];
	uint64_t before = f->steps;
	if (s.rest != NO_WEIGHT)
		share_unit(&s, 0, 0);
	f->work += (f->steps - before) * FIT_STEP_WORK;
	return s.best;
}
