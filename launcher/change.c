#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "change.h"
#include "cpulist.h"
#include "names.h"
#include "place.h"
#include "util.h"

void change_free(struct change *change)
{
	for (size_t i = 0; i < change->count; i++) {
		free(change->list[i].iothread);
		hwloc_bitmap_free(change->list[i].cpus);
	}
	free(change->list);
	*change = (struct change){ 0 };
}

int change_parse_sched(const char *text, struct sched *sched, struct error *err)
{
	cleanup_free char *name = xstrdup(text);
	char *priority = strchr(name, ':'), *end = NULL;
	long number = 0;

	if (priority) {
		*priority++ = '\0';
		number = strtol(priority, &end, 10);
	}
	int scheduler = value_of(&names_scheduler, name);
	*sched = (struct sched){ (enum scheduler)scheduler, (int)number };
	if (scheduler < 0 || (priority && (!*priority || *end)))
		return error_set(err, EXIT_USAGE,
		                 "--scheduler takes fifo:PRIORITY, rr:PRIORITY, other, batch or "
		                 "idle, not \"%s\"",
		                 text);
	if (sched_is_realtime(*sched) && (number < 1 || number > 99))
		return error_set(err, EXIT_USAGE,
		                 "--scheduler %s needs a priority from 1 to 99: \"%s:1\"", text,
		                 name);
	if (!sched_is_realtime(*sched) && priority)
		return error_set(err, EXIT_USAGE, "--scheduler %s: %s has no priority", text, name);
	return 0;
}

/* ---- words ---- */

struct words {
	char *const *list;
	int count, at;
};

const char *const change_kinds[] = { "vcpu",  "emulator", "iothread", "shares",
	                             "quota", "memory",   NULL };
#define N_KINDS (ARRAY_SIZE(change_kinds) - 1)

static bool is_kind(const char *word)
{
	for (size_t i = 0; i < N_KINDS; i++)
		if (strcmp(word, change_kinds[i]) == 0)
			return true;
	return false;
}

static const char *next_word(struct words *words)
{
	return words->at < words->count ? words->list[words->at++] : NULL;
}

static int parse_list(const char *text, const char *what, hwloc_bitmap_t *set, struct error *err)
{
	if (cpulist_parse(text, set, err) < 0) {
		err->code = EXIT_USAGE;
		return error_prefix(err, "%s: ", what);
	}
	if (!hwloc_bitmap_iszero(*set))
		return 0;
	hwloc_bitmap_free(*set);
	*set = NULL;
	return error_set(err, EXIT_USAGE, "%s: \"%s\" names none", what, text);
}

/* The CPUs that follow a target, or none. */
static int parse_cpus(struct words *words, hwloc_bitmap_t *cpus, struct error *err)
{
	if (words->at == words->count || is_kind(words->list[words->at]))
		return 0;
	return parse_list(next_word(words), "CPUs", cpus, err);
}

static void add(struct change *change, enum thread_role role, int vcpu, hwloc_const_bitmap_t cpus)
{
	struct change_target *target = array_append(&change->list, &change->count);

	target->role = role;
	target->vcpu = vcpu;
	target->cpus = cpus ? xbitmap_dup(cpus) : NULL;
}

/* A list in the order in which it is written: "3,0-1" is 3, 0, 1. */
static int parse_ordered(char *text, const char *what, int **numbers, size_t *count,
                         struct error *err)
{
	char *part;

	while ((part = strsep(&text, ","))) {
		cleanup_bitmap hwloc_bitmap_t set = NULL;
		unsigned number;
		if (*part == '^')
			return error_set(err, EXIT_USAGE,
			                 "%s: \"%s\": one to one, \"^\" has no place", what, part);
		if (parse_list(part, what, &set, err) < 0)
			return -1;
		hwloc_bitmap_foreach_begin(number, set) * array_append(numbers, count) =
		    (int)number;
		hwloc_bitmap_foreach_end();
	}
	return 0;
}

static int parse_one_to_one(struct change *change, const char *word, struct error *err)
{
	cleanup_free char *vcpu_text = xstrdup(word);
	cleanup_free int *vcpus = NULL, *cpus = NULL;
	size_t n_vcpus = 0, n_cpus = 0;
	char *cpu_text = strchr(vcpu_text, '=');

	assert(cpu_text); /* that is how it is known */
	*cpu_text++ = '\0';
	if (parse_ordered(vcpu_text, "vCPUs", &vcpus, &n_vcpus, err) < 0 ||
	    parse_ordered(cpu_text, "CPUs", &cpus, &n_cpus, err) < 0)
		return -1;
	if (n_vcpus != n_cpus)
		return error_set(err, EXIT_USAGE,
		                 "\"%s\" is one to one, but has %zu vCPU%s and %zu CPU%s", word,
		                 n_vcpus, plural(n_vcpus), n_cpus, plural(n_cpus));
	for (size_t i = 0; i < n_vcpus; i++) {
		cleanup_bitmap hwloc_bitmap_t cpu = xbitmap();
		hwloc_bitmap_only(cpu, (unsigned)cpus[i]);
		add(change, THREAD_VCPU, vcpus[i], cpu);
	}
	return 0;
}

static int parse_vcpus(struct change *change, struct words *words, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t vcpus = NULL, cpus = NULL;
	const char *list = next_word(words);
	unsigned vcpu;

	if (!list)
		return error_set(err, EXIT_USAGE, "\"vcpu\" needs a list of vCPUs: vcpu 0-3 8-11");
	if (strchr(list, '='))
		return parse_one_to_one(change, list, err);
	if (parse_list(list, "vCPUs", &vcpus, err) < 0 || parse_cpus(words, &cpus, err) < 0)
		return -1;
	hwloc_bitmap_foreach_begin(vcpu, vcpus) add(change, THREAD_VCPU, (int)vcpu, cpus);
	hwloc_bitmap_foreach_end();
	return 0;
}

/* "shares 2048", "quota 200%": within what a spec may say. */
static int parse_limit(struct change *change, const char *kind, struct words *words,
                       struct error *err)
{
	bool is_quota = strcmp(kind, "quota") == 0;
	int *limit = is_quota ? &change->quota : &change->shares;
	const char *word = next_word(words);
	char *end = NULL;
	long number = word ? strtol(word, &end, 10) : 0;

	if (*limit)
		return error_set(err, EXIT_USAGE, "%s is named twice", kind);
	if (!word || end == word || strcmp(end, is_quota ? "%" : "") != 0 ||
	    number < (is_quota ? 1 : 2) || number > (is_quota ? 999999 : 262144))
		return error_set(err, EXIT_USAGE, "%s takes %s, not \"%s\"", kind,
		                 is_quota ? "percent of one CPU, as 200%"
		                          : "a number from 2 to 262144",
		                 word ? word : "");
	*limit = (int)number;
	return 0;
}

static int parse_target(struct change *change, struct words *words, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t cpus = NULL;
	const char *kind = next_word(words), *id = NULL;

	if (strcmp(kind, "vcpu") == 0)
		return parse_vcpus(change, words, err);
	if (strcmp(kind, "shares") == 0 || strcmp(kind, "quota") == 0)
		return parse_limit(change, kind, words, err);
	if (strcmp(kind, "iothread") == 0 && !(id = next_word(words)))
		return error_set(err, EXIT_USAGE, "\"iothread\" needs a name: iothread io0 6");
	if (!id && strcmp(kind, "emulator") != 0) {
		const char *near = nearest_word(kind, change_kinds, N_KINDS);
		return error_set(err, EXIT_USAGE,
		                 "no target \"%s\"%s%s%s there are vcpu, emulator, iothread, "
		                 "shares, quota, memory",
		                 kind, near ? "; did you mean \"" : "", near ? near : "",
		                 near ? "\"?" : ";");
	}
	if (parse_cpus(words, &cpus, err) < 0)
		return -1;
	add(change, id ? THREAD_IOTHREAD : THREAD_EMULATOR, -1, cpus);
	if (id)
		change->list[change->count - 1].iothread = xstrdup(id);
	return 0;
}

/* "vcpu 3", "emulator", "iothread io0". The caller frees. */
static char *target_text(const struct change_target *target)
{
	if (target->role == THREAD_VCPU)
		return xasprintf("vcpu %d", target->vcpu);
	if (target->role == THREAD_IOTHREAD)
		return xasprintf("iothread %s", target->iothread);
	return xstrdup("emulator");
}

static bool same_target(const struct change_target *a, const struct change_target *b)
{
	return a->role == b->role && a->vcpu == b->vcpu &&
	       (a->role != THREAD_IOTHREAD || strcmp(a->iothread, b->iothread) == 0);
}

/* Each target once, and something to change for each. */
static int check_targets(const struct change *change, bool has_sched, struct error *err)
{
	for (size_t i = 0; i < change->count; i++) {
		const struct change_target *target = &change->list[i];
		cleanup_free char *text = target_text(target);
		for (size_t j = 0; j < i; j++)
			if (same_target(target, &change->list[j]))
				return error_set(err, EXIT_USAGE, "%s is named twice", text);
		if (!target->cpus && !has_sched)
			return error_set(err, EXIT_USAGE,
			                 "%s: nothing to change; give CPUs, or --scheduler", text);
	}
	return 0;
}

int change_parse(struct change *change, char *const *words, int count, const char *scheduler,
                 struct error *err)
{
	struct words rest = { words, count, 0 };
	struct sched sched = { SCHED_UNSET, 0 };

	if (scheduler && change_parse_sched(scheduler, &sched, err) < 0)
		return -1;
	while (rest.at < rest.count)
		if (parse_target(change, &rest, err) < 0)
			return -1;
	for (size_t i = 0; i < change->count; i++)
		change->list[i].sched = sched;
	return check_targets(change, scheduler != NULL, err);
}

/* ---- the plan ---- */

static void put(const struct change_target *target, hwloc_bitmap_t cpus, struct sched *sched)
{
	if (target->cpus)
		hwloc_bitmap_copy(cpus, target->cpus);
	if (target->sched.scheduler != SCHED_UNSET)
		*sched = target->sched;
}

static int put_vcpu(const struct change_target *target, struct plan *plan, struct error *err)
{
	if ((size_t)target->vcpu >= plan->n_vcpus)
		return error_set(err, EXIT_FAILED, "VM \"%s\" has no vCPU %d; it has 0 to %zu",
		                 plan->name, target->vcpu, plan->n_vcpus - 1);
	put(target, plan->vcpus[target->vcpu].cpus, &plan->vcpus[target->vcpu].sched);
	return 0;
}

static int put_iothread(const struct change_target *target, struct plan *plan, struct error *err)
{
	for (size_t i = 0; i < plan->n_iothreads; i++)
		if (strcmp(plan->iothreads[i].id, target->iothread) == 0) {
			put(target, plan->iothreads[i].cpus, &plan->iothreads[i].sched);
			return 0;
		}
	return error_set(err, EXIT_FAILED,
	                 "VM \"%s\" has no iothread \"%s\"; `ancla status %s` lists them",
	                 plan->name, target->iothread, plan->name);
}

/* A partition is made for a VM's CPUs at its start, below or beside the cgroup of its shares. */
static int check_partition(const struct change_target *target, const struct plan *plan,
                           struct error *err)
{
	bool realtime = sched_is_realtime(target->sched);

	if (!plan->partition || target->role != THREAD_VCPU ||
	    (size_t)target->vcpu >= plan->n_vcpus)
		return 0;
	if (target->cpus && !hwloc_bitmap_isequal(target->cpus, plan->vcpus[target->vcpu].cpus))
		return error_set(err, EXIT_GRANT,
		                 "vCPU %d is in an isolated partition (isolation), whose CPUs stay "
		                 "while the VM lives; stop the VM, and start it with other pins",
		                 target->vcpu);
	if (target->sched.scheduler != SCHED_UNSET && (plan->shares || plan->quota) &&
	    realtime != sched_is_realtime(plan->vcpus[target->vcpu].sched))
		return error_set(
		    err, EXIT_GRANT,
		    "vCPU %d is in an isolated partition (isolation) of a VM with shares "
		    "or quota: whether it runs in real time is decided when it starts",
		    target->vcpu);
	return 0;
}

static int put_target(const struct change_target *target, struct plan *plan,
                      const struct host *host, struct error *err)
{
	cleanup_free char *what = target->role == THREAD_VCPU ? xasprintf("vCPU %d", target->vcpu)
	                          : target->role == THREAD_IOTHREAD
	                              ? xasprintf("iothread %s", target->iothread)
	                              : xstrdup("the emulator");

	if (check_partition(target, plan, err) < 0 ||
	    (target->cpus && place_check_pin(host, what, target->cpus, err) < 0))
		return -1;
	if (target->role == THREAD_VCPU)
		return put_vcpu(target, plan, err);
	if (target->role == THREAD_IOTHREAD)
		return put_iothread(target, plan, err);
	put(target, plan->emulator, &plan->emulator_sched);
	return 0;
}

int change_plan(const struct change *change, struct plan *plan, const struct host *host,
                const struct claims *others, struct error *err)
{
	for (size_t i = 0; i < change->count; i++)
		if (put_target(&change->list[i], plan, host, err) < 0)
			return -1;
	plan->shares = change->shares ? change->shares : plan->shares;
	plan->quota = change->quota ? change->quota : plan->quota;
	hwloc_bitmap_zero(plan->siblings);
	if (place_isolate(plan, host, err) < 0)
		return -1;
	place_find_nodes(plan, host);
	if (place_check_siblings(plan, host, err) < 0)
		return -1;
	return place_check(plan, others, err);
}
