/* Several guest nodes over the L3 groups of one host node.
 *
 * Given how many CPUs each group gives in all, guest nodes touch the fewest groups where the pairs
 * of a guest node and a group that gives to it are a forest: the sparsest solutions of a
 * transportation problem are. A tree of it, a *block*, has some guest nodes and some groups, and
 * one pair less than both together; and any guest nodes and groups whose sums agree can be one. So
 * all that matters of a block under way is how many CPUs it still needs. The groups are gone
 * through one after the other: each gives to a block, or begins one, or gives nothing; branch and
 * bound, where the same rest is not gone through twice unless it was reached more cheaply. */
#include <stdlib.h>
#include <string.h>

#include "fit_filling.h"
#include "util.h"

#define OPEN_MAX 8 /* blocks under way at once */

/* What a group gives, and to the block that began at which position. */
struct given {
	unsigned amount;
	size_t block;
};

struct blocks {
	struct filling *f;
	size_t n_groups, n_classes;
	size_t *order;     /* groups, those that are alike side by side; a position is one in it */
	size_t *next_kind; /* by position: the next group that is not alike */
	unsigned *most;    /* by position: CPUs that the group can give */
	unsigned *room;    /* by position: the most that one from there on can give */
	unsigned *sizes;   /* by class: vCPUs of a unit, the most first */
	weight *least;     /* position × width: what so many CPUs cost at least */
	size_t width;
	struct given *best_given;
	unsigned char *best_begun;
	weight best, goal;

	/* The branch under way. */
	unsigned vcpus;      /* that no group gave yet */
	unsigned char *left; /* by class: units that no block has */
	unsigned needed[OPEN_MAX];
	size_t began[OPEN_MAX]; /* the positions where these blocks began */
	size_t n_open;
	struct given *given;  /* by position */
	unsigned char *begun; /* position × class: units of the block that begins there */

	/* Rests that were reached before, and what that cost. */
	unsigned char *keys;
	weight *costs;
	size_t key_length, n_keys;
};

static const weight *table_of(const struct blocks *b, size_t position)
{
	return b->f->tables[b->order[position]];
}

static unsigned parts(unsigned vcpus, unsigned room)
{
	return (vcpus + room - 1) / room;
}

/* ---- rests that were reached before ---- */

#define KEYS_MAX (1 << 15)

static int compare_down(const void *a, const void *b)
{
	unsigned left = *(const unsigned *)a, right = *(const unsigned *)b;

	return left < right ? 1 : left > right ? -1 : 0;
}

static void make_key(const struct blocks *b, size_t position, unsigned char *key)
{
	unsigned needed[OPEN_MAX] = { 0 };
	uint16_t at = (uint16_t)(position + 1); /* 0: an empty slot */

	for (size_t i = 0; i < b->n_open; i++) {
		size_t to = i;
		for (; to > 0 && needed[to - 1] < b->needed[i]; to--)
			needed[to] = needed[to - 1];
		needed[to] = b->needed[i];
	}
	memcpy(key, &at, sizeof(at));
	memcpy(key + sizeof(at), needed, sizeof(needed));
	memcpy(key + sizeof(at) + sizeof(needed), b->left, b->n_classes);
}

/* This rest was reached before, as cheaply. Remembers it. */
static bool was_here(struct blocks *b, size_t position, weight cost)
{
	unsigned char key[sizeof(uint16_t) + OPEN_MAX * sizeof(unsigned) + FIT_UNITS_MAX];
	uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

	if (!b->keys) {
		b->key_length = sizeof(uint16_t) + OPEN_MAX * sizeof(unsigned) + b->n_classes;
		b->keys = xcalloc(KEYS_MAX, b->key_length);
		b->costs = xcalloc(KEYS_MAX, sizeof(*b->costs));
	}
	make_key(b, position, key);
	for (size_t i = 0; i < b->key_length; i++)
		hash = (hash ^ key[i]) * UINT64_C(1099511628211);
	for (size_t slot = (hash >> 20) % KEYS_MAX;; slot = (slot + 1) % KEYS_MAX) {
		unsigned char *there = b->keys + slot * b->key_length;
		bool empty = !there[0] && !there[1];
		if (!empty && memcmp(there, key, b->key_length) != 0)
			continue;
		if (!empty && b->costs[slot] <= cost)
			return true;
		if (empty && b->n_keys >= KEYS_MAX / 4 * 3)
			return false;
		b->n_keys += empty;
		memcpy(there, key, b->key_length);
		b->costs[slot] = cost;
		return false;
	}
}

/* ---- the search ---- */

static void go_on(struct blocks *b, size_t position, weight cost);

/* Pairs that the rest needs at least. */
static weight pairs_needed(const struct blocks *b, size_t position)
{
	unsigned room = b->room[position], pairs = 0;

	for (size_t c = 0; c < b->n_classes; c++)
		pairs += b->left[c] * parts(b->sizes[c], room);
	for (size_t i = 0; i < b->n_open; i++)
		pairs += parts(b->needed[i], room);
	return fit_weigh(pairs, 0, 0, 0, 0);
}

static bool is_hopeless(const struct blocks *b, size_t position, weight cost)
{
	if (position == b->n_groups || !b->room[position])
		return true;
	weight least = b->least[position * b->width + b->vcpus];
	return least == NO_WEIGHT || cost + least + pairs_needed(b, position) >= b->best;
}

/* The group gives to one of the blocks under way. */
static void serve(struct blocks *b, size_t position, size_t i, weight cost)
{
	unsigned needed = b->needed[i];
	unsigned most = needed < b->most[position] ? needed : b->most[position];

	for (unsigned here = most; here > 0; here--) {
		weight price = table_of(b, position)[here];
		size_t block = b->began[i];
		if (price == NO_WEIGHT)
			continue;
		b->given[position] = (struct given){ here, block };
		b->vcpus -= here;
		b->needed[i] -= here;
		bool done = !b->needed[i];
		if (done) {
			b->n_open--;
			b->needed[i] = b->needed[b->n_open];
			b->began[i] = b->began[b->n_open];
		}
		go_on(b, position + 1, cost + price + fit_weigh(1, 0, 0, 0, 0));
		if (done) {
			b->needed[b->n_open] = b->needed[i];
			b->began[b->n_open] = b->began[i];
			b->n_open++;
		}
		b->began[i] = block;
		b->needed[i] = needed;
		b->vcpus += here;
	}
	b->given[position].amount = 0;
}

/* The group begins a block of the units that were chosen, `sum` vCPUs, and gives `here` of them. */
static void begin_with(struct blocks *b, size_t position, unsigned units, unsigned sum,
                       unsigned here, weight cost)
{
	weight price = table_of(b, position)[here];

	if (price == NO_WEIGHT)
		return;
	if (here < sum && b->n_open == OPEN_MAX) {
		b->f->cut = true;
		return;
	}
	b->given[position] = (struct given){ here, position };
	b->vcpus -= here;
	if (here < sum) {
		b->needed[b->n_open] = sum - here;
		b->began[b->n_open++] = position;
	}
	go_on(b, position + 1, cost + price + fit_weigh(units, 0, 0, 0, 0));
	b->n_open -= here < sum;
	b->vcpus += here;
	b->given[position].amount = 0;
}

/* Chooses units of the classes from `class` on. `whole`: those that the group can hold, as many as
 * it can first; else those that need more groups, as few as they can be first. */
static void begin(struct blocks *b, size_t position, size_t class, bool whole, unsigned units,
                  unsigned sum, weight cost)
{
	unsigned most = b->most[position], all = class < b->n_classes ? b->left[class] : 0;

	if (b->best == b->goal || b->f->steps > b->f->steps_max)
		return;
	if (class == b->n_classes) {
		b->f->steps++;
		if (whole && units)
			begin_with(b, position, units, sum, sum, cost);
		unsigned here = sum <= most ? sum - 1 : most;
		for (; !whole && units && here > 0; here--)
			begin_with(b, position, units, sum, here, cost);
		return;
	}
	unsigned can = whole ? (most - sum) / b->sizes[class] : all;
	can = can < all ? can : all;
	for (unsigned i = 0; i <= can; i++) {
		unsigned n = whole ? can - i : i;
		b->left[class] = (unsigned char)(all - n);
		b->begun[position * b->n_classes + class] = (unsigned char)n;
		begin(b, position, class + 1, whole, units + n, sum + n * b->sizes[class], cost);
	}
	b->left[class] = (unsigned char)all;
	b->begun[position * b->n_classes + class] = 0;
}

static void keep(struct blocks *b, weight cost)
{
	if (cost >= b->best)
		return;
	b->best = cost;
	memcpy(b->best_given, b->given, b->n_groups * sizeof(*b->given));
	memcpy(b->best_begun, b->begun, b->n_groups * b->n_classes);
}

static void go_on(struct blocks *b, size_t position, weight cost)
{
	if (b->vcpus == 0) {
		keep(b, cost);
		return;
	}
	if (b->best == b->goal || is_hopeless(b, position, cost))
		return;
	if (++b->f->steps > b->f->steps_max) {
		b->f->cut = true;
		return;
	}
	if (was_here(b, position, cost))
		return;
	for (size_t i = 0; i < b->n_open; i++) {
		bool again = false;
		for (size_t other = 0; other < i; other++)
			again |= b->needed[other] == b->needed[i];
		if (!again)
			serve(b, position, i, cost);
	}
	begin(b, position, 0, true, 0, 0, cost);
	/* Units that each fit into a group make a block of several at the price of one pair more.
	 */
	begin(b, position, 0, false, 0, 0, cost);
	/* Of groups that are alike the first ones give. */
	go_on(b, b->next_kind[position], cost);
}

/* All units as one block, the groups in order: always possible, seldom the best. */
static void begin_simply(struct blocks *b)
{
	unsigned units = 0, vcpus = b->vcpus;
	size_t groups = 0, first = 0;
	weight cost = 0;

	while (first < b->n_groups && !b->most[first])
		first++;
	if (first == b->n_groups)
		return;
	for (size_t c = 0; c < b->n_classes; c++) {
		units += b->left[c];
		b->begun[first * b->n_classes + c] = b->left[c];
	}
	for (size_t j = first; j < b->n_groups && vcpus; j++) {
		unsigned here = vcpus < b->most[j] ? vcpus : b->most[j];
		while (here && table_of(b, j)[here] == NO_WEIGHT)
			here--;
		b->given[j] = (struct given){ here, first };
		cost += table_of(b, j)[here];
		groups += here > 0;
		vcpus -= here;
	}
	if (!vcpus)
		keep(b, cost + fit_weigh(units + groups - 1, 0, 0, 0, 0));
	memset(b->given, 0, b->n_groups * sizeof(*b->given));
	memset(b->begun + first * b->n_classes, 0, b->n_classes);
}

/* ---- from blocks to amounts ---- */

/* The block that begins at the position: its units and groups in order, each unit from the first
 * group that has some left. */
static void share_block(const struct blocks *b, size_t position, bool *used, unsigned *amounts)
{
	const struct filling *f = b->f;
	const unsigned char *begun = b->best_begun + position * b->n_classes;
	cleanup_free unsigned *has = xcalloc(b->n_groups, sizeof(*has));
	cleanup_free unsigned char *wanted = xcalloc(b->n_classes, 1);
	size_t group = 0;

	memcpy(wanted, begun, b->n_classes);
	for (size_t j = 0; j < b->n_groups; j++)
		if (b->best_given[j].block == position)
			has[b->order[j]] = b->best_given[j].amount;
	for (size_t i = 0; i < f->n_units; i++) {
		unsigned vcpus = f->problem->units[f->units[i]].vcpus;
		size_t class = 0;
		while (class < b->n_classes && b->sizes[class] != vcpus)
			class ++;
		if (used[i] || class == b->n_classes || !wanted[class])
			continue;
		wanted[class]--;
		used[i] = true;
		while (vcpus) {
			while (!has[group])
				group++;
			unsigned here = vcpus < has[group] ? vcpus : has[group];
			amounts[i * b->n_groups + group] = here;
			has[group] -= here;
			vcpus -= here;
		}
	}
}

/* Of groups that are alike the lowest give to the lowest units. */
static void sort_alike(const struct blocks *b, unsigned *amounts)
{
	size_t n = b->n_groups;

	for (size_t j = 0; j < n; j++)
		for (size_t k = j + 1; k < b->next_kind[j]; k++) {
			size_t low = b->order[j], high = b->order[k], i = 0;
			while (i < b->f->n_units && amounts[i * n + low] == amounts[i * n + high])
				i++;
			if (i == b->f->n_units || amounts[i * n + low] > amounts[i * n + high])
				continue;
			for (; i < b->f->n_units; i++) {
				unsigned more = amounts[i * n + high];
				amounts[i * n + high] = amounts[i * n + low];
				amounts[i * n + low] = more;
			}
		}
}

static void tell(const struct blocks *b, unsigned *amounts)
{
	cleanup_free bool *used = xcalloc(b->f->n_units, sizeof(*used));

	for (size_t j = 0; j < b->n_groups; j++)
		if (b->best_given[j].amount && b->best_given[j].block == j)
			share_block(b, j, used, amounts);
	sort_alike(b, amounts);
}

/* ---- preparing ---- */

static bool are_alike(const struct filling *f, size_t a, size_t b)
{
	const struct fit_group *left = group_of(f, a), *right = group_of(f, b);

	return left->capacity == right->capacity &&
	       memcmp(f->tables[a], f->tables[b], (left->capacity + 1) * sizeof(weight)) == 0;
}

static void order_groups(struct blocks *b)
{
	cleanup_free bool *listed = xcalloc(b->n_groups, sizeof(*listed));
	size_t n = 0;

	for (size_t j = 0; j < b->n_groups; j++) {
		size_t first = n;
		for (size_t k = j; !listed[j] && k < b->n_groups; k++)
			if (k == j || (!listed[k] && are_alike(b->f, j, k))) {
				listed[k] = k != j;
				b->order[n++] = k;
			}
		listed[j] = true;
		for (size_t i = first; i < n; i++)
			b->next_kind[i] = n;
	}
	for (size_t j = n; j-- > 0;) {
		unsigned most = group_of(b->f, b->order[j])->capacity;
		while (most && table_of(b, j)[most] == NO_WEIGHT)
			most--;
		b->most[j] = most;
		b->room[j] = j + 1 < n && b->room[j + 1] > most ? b->room[j + 1] : most;
	}
}

static void find_classes(struct blocks *b)
{
	for (size_t i = 0; i < b->f->n_units; i++) {
		unsigned vcpus = b->f->problem->units[b->f->units[i]].vcpus;
		size_t class = 0;
		while (class < b->n_classes && b->sizes[class] != vcpus)
			class ++;
		b->vcpus += vcpus;
		if (vcpus && class == b->n_classes)
			b->sizes[b->n_classes++] = vcpus;
	}
	qsort(b->sizes, b->n_classes, sizeof(*b->sizes), compare_down);
	for (size_t i = 0; i < b->f->n_units; i++)
		for (size_t c = 0; c < b->n_classes; c++)
			b->left[c] += b->sizes[c] == b->f->problem->units[b->f->units[i]].vcpus;
}

static void end(struct blocks *b)
{
	free(b->order);
	free(b->next_kind);
	free(b->most);
	free(b->room);
	free(b->sizes);
	free(b->least);
	free(b->best_given);
	free(b->best_begun);
	free(b->left);
	free(b->given);
	free(b->begun);
	free(b->keys);
	free(b->costs);
}

weight fit_blocks(struct filling *f, unsigned *amounts)
{
	size_t n = f->node->count;
	__attribute__((cleanup(end))) struct blocks b = {
		.f = f,
		.n_groups = n,
		.order = xcalloc(n, sizeof(*b.order)),
		.next_kind = xcalloc(n, sizeof(*b.next_kind)),
		.most = xcalloc(n, sizeof(*b.most)),
		.room = xcalloc(n, sizeof(*b.room)),
		.sizes = xcalloc(f->n_units, sizeof(*b.sizes)),
		.left = xcalloc(f->n_units, 1),
		.given = xcalloc(n, sizeof(*b.given)),
		.best_given = xcalloc(n, sizeof(*b.given)),
		.best = NO_WEIGHT,
	};

	order_groups(&b);
	find_classes(&b);
	if (!b.vcpus)
		return 0;
	b.begun = xcalloc(n * b.n_classes, 1);
	b.best_begun = xcalloc(n * b.n_classes, 1);
	b.width = b.vcpus + 1;
	b.least = fit_least(f, b.order, b.vcpus);
	if (b.least[b.vcpus] == NO_WEIGHT)
		return NO_WEIGHT;
	b.goal = b.least[b.vcpus] + pairs_needed(&b, 0);
	uint64_t before = f->steps;
	begin_simply(&b);
	go_on(&b, 0, 0);
	f->work += (f->steps - before) * FIT_STEP_WORK;
	if (b.best != NO_WEIGHT)
		tell(&b, amounts);
	return b.best;
}
