/* What it costs that one node takes these units: its CPUs, its memory. Answers about CPUs are kept:
 * the search asks the same of many nodes and branches. */
#include <stdlib.h>
#include <string.h>

#include "fit_parts.h"
#include "util.h"

size_t fit_state_of(const struct searching *s, const unsigned *counts)
{
	size_t state = 0;

	for (size_t c = 0; c < s->problem->n_classes; c++)
		state += counts[c] * s->strides[c];
	return state;
}

/* The lowest units of each class, so many of it; returns how many. */
static size_t list_units(const struct searching *s, const unsigned *counts, size_t *units)
{
	unsigned more[FIT_UNITS_MAX];
	size_t n = 0;

	memcpy(more, counts, s->problem->n_classes * sizeof(*more));
	for (size_t i = 0; i < s->problem->n_units; i++) {
		size_t class = s->problem->units[i].class;
		if (more[class]) {
			more[class]--;
			units[n++] = i;
		}
	}
	return n;
}

static bool ask_cpus(struct searching *s, size_t node, const unsigned *counts, enum fit_spare spare,
                     struct place_cost *cost)
{
	cleanup_free size_t *units = xcalloc(s->problem->n_units, sizeof(*units));
	size_t n = list_units(s, counts, units);
	struct fit_choice choice = { 0 };

	uint64_t left = s->work < s->effort ? (s->effort - s->work) / FIT_STEP_WORK : 0;
	uint64_t steps = left < FIT_STEPS_LEAST ? FIT_STEPS_LEAST
	                 : left < FIT_STEPS_MAX ? left
	                                        : FIT_STEPS_MAX;

	bool fits = fit_cpus(s->problem, node, units, n, spare, steps, &choice);
	s->work += choice.work;
	s->cut |= choice.cut;
	if (!fits)
		return false;
	*cost = choice.cost;
	free(choice.amounts);
	return true;
}

/* Answers about several units, by node, counts and what is left to the emulator: a hash table, as
 * most are never asked for. */
#define MEMO_SLOTS (1 << 14)

struct memo {
	struct entry *entries;
	unsigned char *keys; /* MEMO_SLOTS × length: the counts, the node, the spare */
	size_t length, filled;
};

static struct memo *memo_new(const struct searching *s)
{
	struct memo *memo = xcalloc(1, sizeof(*memo));

	memo->length = s->problem->n_classes + sizeof(uint32_t) + 1;
	memo->entries = xcalloc(MEMO_SLOTS, sizeof(*memo->entries));
	memo->keys = xcalloc(MEMO_SLOTS, memo->length);
	return memo;
}

void fit_memo_free(struct memo *memo)
{
	if (!memo)
		return;
	free(memo->entries);
	free(memo->keys);
	free(memo);
}

/* The slot of this key, empty or filled; NULL: there is no room for a new one. */
static struct entry *memo_entry(struct memo *memo, const unsigned char *key)
{
	uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */

	for (size_t i = 0; i < memo->length; i++)
		hash = (hash ^ key[i]) * UINT64_C(1099511628211);
	for (size_t slot = hash % MEMO_SLOTS;; slot = (slot + 1) % MEMO_SLOTS) {
		struct entry *entry = &memo->entries[slot];
		unsigned char *there = memo->keys + slot * memo->length;
		if (entry->known && memcmp(there, key, memo->length) == 0)
			return entry;
		if (entry->known)
			continue;
		if (memo->filled >= MEMO_SLOTS / 4 * 3)
			return NULL;
		memo->filled++;
		memcpy(there, key, memo->length);
		return entry;
	}
}

static struct entry *remembered(struct searching *s, size_t same, const unsigned *counts,
                                enum fit_spare spare)
{
	unsigned char key[FIT_UNITS_MAX + sizeof(uint32_t) + 1];
	uint32_t node = (uint32_t)same;
	size_t n = 0;

	if (!s->memo)
		s->memo = memo_new(s);
	for (; n < s->problem->n_classes; n++)
		key[n] = (unsigned char)counts[n]; /* at most FIT_UNITS_MAX */
	memcpy(key + n, &node, sizeof(node));
	key[n + sizeof(node)] = (unsigned char)spare;
	return memo_entry(s->memo, key);
}

/* Where the answer to that question is kept: NULL, nowhere. */
static struct entry *cpus_entry(struct searching *s, size_t node, const unsigned *counts,
                                enum fit_spare spare)
{
	size_t same = s->problem->nodes[node].same, class = 0, n = 0;

	if (s->n_states)
		return &s->cpus[spare][same * s->n_states + fit_state_of(s, counts)];
	for (size_t c = 0; c < s->problem->n_classes; c++) {
		n += counts[c];
		class = counts[c] ? c : class;
	}
	return n == 1 ? &s->single[spare][same * s->problem->n_classes + class]
	              : remembered(s, same, counts, spare);
}

/* What the CPUs of dedicated units on the node cost, if they leave this to the emulator. */
bool fit_dedicated_cost(struct searching *s, size_t node, const unsigned *counts,
                        enum fit_spare spare, struct place_cost *cost)
{
	struct entry *entry = cpus_entry(s, node, counts, spare);

	if (!entry)
		return ask_cpus(s, node, counts, spare, cost);
	if (!entry->known)
		entry->known = ask_cpus(s, node, counts, spare, &entry->cost) ? FITS : DOES_NOT;
	if (entry->known == FITS)
		*cost = entry->cost;
	return entry->known == FITS;
}

/* The fewest units that have to go without their huge pages so that the node's memory is enough:
 * classes from `class` on still choose. */
static void degrade(struct searching *s, const unsigned *counts, size_t class, uint64_t *needed,
                    const uint64_t *free, unsigned *now, unsigned sum, unsigned *best,
                    unsigned *best_sum)
{
	size_t n_pools = s->problem->n_pools;

	s->work++;
	if (sum >= *best_sum)
		return;
	if (class == s->problem->n_classes) {
		for (size_t p = 0; p < n_pools; p++)
			if (needed[p] > free[p])
				return;
		memcpy(best, now, s->problem->n_classes * sizeof(*best));
		*best_sum = sum;
		return;
	}
	const struct fit_unit *unit = unit_of(s, class);
	for (unsigned n = 0; n <= counts[class]; n++) {
		now[class] = n;
		degrade(s, counts, class + 1, needed, free, now, sum + n, best, best_sum);
		if (!unit->may_degrade)
			break;
		needed[unit->pool] -= unit->memory;
		needed[0] += unit->memory;
	}
	if (unit->may_degrade) {
		needed[unit->pool] += unit->memory * (counts[class] + 1);
		needed[0] -= unit->memory * (counts[class] + 1);
	}
	now[class] = 0;
}

/* Whether the memory is enough, and, by class, how many units have plain pages instead of huge
 * ones. */
static bool memory_fits(struct searching *s, const unsigned *counts, const uint64_t *free,
                        unsigned *degraded, uint32_t *sum)
{
	const struct fit_problem *problem = s->problem;
	uint64_t needed[FIT_POOLS_MAX];
	bool enough = true;

	memset(needed, 0, sizeof(needed));
	memset(degraded, 0, problem->n_classes * sizeof(*degraded));
	*sum = 0;
	for (size_t c = 0; c < problem->n_classes; c++)
		needed[unit_of(s, c)->pool] += unit_of(s, c)->memory * counts[c];
	for (size_t p = 0; p < problem->n_pools; p++)
		enough &= needed[p] <= free[p];
	if (enough)
		return true;
	cleanup_free unsigned *now = xcalloc(problem->n_classes, sizeof(*now));
	unsigned best = UINT32_MAX;
	degrade(s, counts, 0, needed, free, now, 0, degraded, &best);
	*sum = best;
	return best != UINT32_MAX;
}

/* What it costs, apart from the distances to other nodes, that the node takes these units. False:
 * they do not fit. `pools` is what is left of the memory. */
bool fit_node_cost(struct searching *s, size_t node, const unsigned *counts, const uint64_t *pools,
                   unsigned *degraded, struct place_cost *cost)
{
	const struct fit_problem *problem = s->problem;
	const struct fit_node *host = &problem->nodes[node];
	uint64_t vcpus = 0;
	unsigned units = 0;
	uint32_t without = 0;

	memset(cost, 0, sizeof(*cost));
	memset(degraded, 0, problem->n_classes * sizeof(*degraded));
	for (size_t c = 0; c < problem->n_classes; c++) {
		units += counts[c];
		vcpus += (uint64_t)counts[c] * unit_of(s, c)->vcpus;
		if (counts[c] && !unit_of(s, c)->may[node])
			return false;
		cost->terms[TERM_DISTANCE] += counts[c] * unit_of(s, c)->far[node];
	}
	if (units == 0)
		return true;
	if ((s->banned && s->banned[node]) || (problem->apart && units > 1))
		return false;
	if (problem->dedicated ? vcpus > host->capacity : vcpus && !host->has_cpus)
		return false;
	if (!memory_fits(s, counts, pools + host->home * problem->n_pools, degraded, &without))
		return false;
	if (problem->dedicated) {
		struct place_cost cpus;
		if (!fit_dedicated_cost(s, node, counts, SPARE_NOTHING, &cpus))
			return false;
		place_cost_add(cost, &cpus);
	}
	if (vcpus > host->capacity)
		cost->terms[TERM_OVERCOMMIT] = (uint32_t)(vcpus - host->capacity);
	else
		cost->terms[TERM_LEFT] = (uint32_t)(host->capacity - vcpus);
	cost->terms[TERM_DEGRADED] = without;
	cost->terms[TERM_NODES] = 1;
	return true;
}
