#include "place_cost.h"

enum place_term place_cost_difference(const struct place_cost *left, const struct place_cost *right)
{
	enum place_term term = 0;

	while (term < N_TERMS && left->terms[term] == right->terms[term])
		term++;
	return term;
}

int place_cost_compare(const struct place_cost *left, const struct place_cost *right)
{
	enum place_term term = place_cost_difference(left, right);

	if (term == N_TERMS)
		return 0;
	return left->terms[term] < right->terms[term] ? -1 : 1;
}

void place_cost_add(struct place_cost *sum, const struct place_cost *more)
{
	for (enum place_term term = 0; term < N_TERMS; term++)
		sum->terms[term] += more->terms[term];
}

const char *place_term_name(enum place_term term)
{
	static const char *const names[N_TERMS] = {
		[TERM_OVERCOMMIT] = "vCPUs without a CPU of their own",
		[TERM_DEGRADED] = "guest nodes without their huge pages",
		[TERM_CROWDED] = "emulator on the vCPUs' CPUs",
		[TERM_SLOW] = "faster kinds of cores",
		[TERM_NODES] = "host nodes",
		[TERM_DISTANCE] = "distance between nodes",
		[TERM_DEVICES] = "distance to devices",
		[TERM_L3] = "L3 groups",
		[TERM_FOREIGN] = "vCPUs on cores that others use",
		[TERM_CORES] = "cores",
		[TERM_ORDINARY] = "vCPUs on CPUs that are not isolated",
		[TERM_EMULATOR] = "place of the emulator",
		[TERM_LEFT] = "CPUs left over on its nodes",
		[TERM_LEFT_L3] = "CPUs left over in its L3 groups",
	};

	return names[term];
}
