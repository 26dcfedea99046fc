/* usage: place [SHAPE]
 *
 * How fast placement is: the median of some runs of place() for each shape of host and guest,
 * against its limit. Exits with 1 if one is missed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "place.h"
#include "util.h"

#define RUNS 11

struct shape {
	const char *what;
	const char *host;
	unsigned nodes; /* of the guest; 0: it leaves that to us */
	unsigned vcpus; /* of each */
	unsigned last;  /* of the last one */
	unsigned
	    step; /* each has so many more than the one before, until the 15th is like the first */
	unsigned group; /* host nodes so many at a time are near each other; 0: all alike */
	bool holes;     /* other VMs hold a CPU here and there */
	bool fits;
	double limit; /* ms */
};

#define HOST_16 "numa:16(memory=68719476736) core:16 pu:1"
#define HOST_64 "numa:64(memory=68719476736) l3:2 core:4 pu:2"
#define HOST_4096 "numa:32(memory=68719476736) l3:8 core:8 pu:2"
#define HOST_16_L3 "numa:1(memory=1099511627776) l3:16 core:8 pu:2"
#define HOST_ONE "numa:1(memory=4398046511104) l3:256 core:8 pu:2"

static const struct shape shapes[] = {
	{ "16 x 8, the last is too large", HOST_16, 8, 9, 17, 0, 0, false, false, 2 },
	{ "16 x 8 that fit", HOST_16, 8, 12, 12, 0, 0, true, true, 2 },
	{ "16 x 17 that need a node each", HOST_16, 17, 9, 9, 0, 0, false, false, 2 },
	{ "16 x 8 of eight sizes, the last is too large", HOST_16, 8, 6, 17, 1, 4, true, false, 2 },
	{ "16 x 8 of eight sizes, distances, holes", HOST_16, 8, 6, 13, 1, 4, true, true, 50 },
	{ "64 nodes, 1,024 CPUs, 32 guest nodes", HOST_64, 32, 16, 16, 0, 0, false, true, 50 },
	{ "the same, eight groups of nodes", HOST_64, 32, 16, 16, 0, 8, false, true, 50 },
	{ "the same, half of a node each, holes", HOST_64, 32, 7, 7, 0, 8, true, true, 50 },
	{ "the same, of two sizes", HOST_64, 32, 12, 3, 0, 8, true, true, 50 },
	{ "the same, one node too many", HOST_64, 64, 16, 16, 0, 8, false, false, 50 },
	{ "4,096 CPUs, 4 vCPUs", HOST_4096, 0, 4, 4, 0, 0, false, true, 250 },
	{ "4,096 CPUs, 1,000 vCPUs", HOST_4096, 0, 1000, 1000, 0, 8, true, true, 250 },
	{ "4,096 CPUs, 16 guest nodes of 64", HOST_4096, 16, 64, 64, 0, 8, true, true, 250 },
	{ "4,096 CPUs of one node, 2,000 vCPUs", HOST_ONE, 0, 2000, 2000, 0, 0, true, true, 250 },
	/* Bin packing; none of these may take seconds. */
	{ "64 nodes, 14 guest nodes, no two alike", HOST_64, 14, 1, 14, 1, 8, true, true, 1000 },
	{ "64 nodes, 96 guest nodes of 14 sizes", HOST_64, 96, 2, 9, 1, 8, true, true, 1000 },
	{ "the same, too many", HOST_64, 120, 2, 9, 1, 8, true, false, 1000 },
	{ "4,096 CPUs, 40 guest nodes of 14 sizes", HOST_4096, 40, 20, 60, 5, 8, true, true, 1000 },
	{ "one node, 16 L3 groups, 4 guest nodes", HOST_16_L3, 4, 20, 20, 0, 0, true, true, 50 },
	{ "one node, 16 L3 groups, 16 guest nodes", HOST_16_L3, 16, 3, 21, 1, 0, true, true, 1000 },
	{ "4,096 CPUs of one node, 100 guest nodes", HOST_ONE, 100, 3, 39, 3, 0, true, true, 1000 },
};

static struct host *make_host(const struct shape *shape)
{
	cleanup_error struct error err = ERROR_INIT;
	struct host *host = host_load(shape->host, &err);

	if (!host)
		die("%s", err.message);
	for (size_t i = 0; shape->group && i < host->n_nodes; i++)
		for (size_t j = 0; j < host->n_nodes; j++)
			if (i != j)
				host->nodes[i].distances[j] =
				    i / shape->group == j / shape->group ? 16 : 32;
	return host;
}

static struct claims *make_claims(const struct shape *shape, const struct host *host)
{
	struct claims *claims = claims_new();
	cleanup_plan struct plan *other = plan_new();

	other->name = xstrdup("other");
	other->emulator = xbitmap();
	other->cpu_policy = CPU_POLICY_DEDICATED;
	for (unsigned cpu = 7; shape->holes && cpu < (unsigned)hwloc_bitmap_weight(host->cpus);
	     cpu += 37 + cpu % 5) {
		struct plan_vcpu *vcpu = array_append(&other->vcpus, &other->n_vcpus);
		vcpu->cpus = xbitmap();
		hwloc_bitmap_set(vcpu->cpus, cpu);
	}
	claims_add_plan(claims, other);
	return claims;
}

static struct spec *make_spec(const struct shape *shape)
{
	cleanup_free char *text = NULL;
	size_t length;
	FILE *out = open_memstream(&text, &length);
	struct spec_errors errors = { 0 };
	unsigned next = 0;

	fprintf(out, "{ \"name\": \"bench\", \"placement\": { \"mode\": \"auto\" }");
	if (shape->nodes == 0)
		fprintf(out, ", \"vcpus\": %u, \"memory\": \"64GiB\"", next = shape->vcpus);
	else
		fprintf(out, ", \"numa\": { \"nodes\": [");
	for (unsigned i = 0; i < shape->nodes; i++) {
		unsigned vcpus =
		    i + 1 == shape->nodes ? shape->last : shape->vcpus + i % 14 * shape->step;
		fprintf(out, "%s{ \"vcpus\": \"%u-%u\", \"memory\": \"1GiB\" }", i ? ", " : "",
		        next, next + vcpus - 1);
		next += vcpus;
	}
	if (shape->nodes)
		fprintf(out, " ] }, \"vcpus\": %u, \"memory\": \"%uGiB\"", next, shape->nodes);
	fprintf(out, " }");
	fclose(out);
	struct spec *spec = spec_parse("bench.json", text, length, &errors);
	if (!spec)
		die("%s", errors.count ? errors.list[0].message : "the spec is wrong");
	return spec;
}

static void measure(const struct shape *shape)
{
	cleanup_host struct host *host = make_host(shape);
	cleanup_claims struct claims *claims = make_claims(shape, host);
	cleanup_spec struct spec *spec = make_spec(shape);
	double times[RUNS];
	bool fits = false;

	for (size_t i = 0; i < RUNS; i++) {
		cleanup_error struct error err = ERROR_INIT;
		double start = now_ms(CLOCK_THREAD_CPUTIME_ID);
		cleanup_plan struct plan *plan = place(spec, host, claims, ACCEL_KVM, &err);
		times[i] = now_ms(CLOCK_THREAD_CPUTIME_ID) - start;
		fits = plan != NULL;
	}
	double time = median(times, RUNS);
	printf("%-48s %8.2f  (limit %.0f)  %-13s %s\n", shape->what, time, shape->limit,
	       fits ? "placed" : "does not fit", judge(time < shape->limit && fits == shape->fits));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	printf("place(), median of %d runs in ms of CPU time\n\n", RUNS);
	for (size_t i = 0; i < ARRAY_SIZE(shapes); i++)
		if (argc < 2 || strstr(shapes[i].what, argv[1]))
			measure(&shapes[i]);
	return missed;
}
