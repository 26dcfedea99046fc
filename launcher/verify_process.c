/* Who QEMU is to the kernel: proc(5), status. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "privileges.h"
#include "util.h"
#include "verify.h"
#include "verify_parts.h"

#define STATUS_LIMIT (1 << 20)
#define NO_GROUPS "none"

/* What follows "KEY:" on its line, without blanks around it. The caller frees. */
static char *value_of(const char *status, const char *key)
{
	cleanup_free char *start = xasprintf("\n%s:", key);
	const char *at = strstr(status, start);
	size_t length;

	if (!at)
		return xstrdup("");
	at += strlen(start);
	at += strspn(at, " \t");
	length = strcspn(at, "\n");
	while (length > 0 && (at[length - 1] == ' ' || at[length - 1] == '\t'))
		length--;
	return xasprintf("%.*s", (int)length, at);
}

static void add_same(struct checks *checks, const char *what, char *expected, char *actual)
{
	checks_add(checks, xasprintf("process: %s", what), expected, actual,
	           strcmp(expected, actual) == 0);
}

/* The kernel shows real, effective, saved, and that for files: all must be the same. */
static void check_id(struct checks *checks, const char *what, unsigned expected, char *actual)
{
	unsigned ids[4];
	int count = sscanf(actual, "%u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]);

	if (count == 4 && ids[0] == ids[1] && ids[0] == ids[2] && ids[0] == ids[3]) {
		free(actual);
		actual = xasprintf("%u", ids[0]);
	}
	add_same(checks, what, xasprintf("%u", expected), actual);
}

static int compare_groups(const void *a, const void *b)
{
	gid_t left = *(const gid_t *)a, right = *(const gid_t *)b;

	return (left > right) - (left < right);
}

/* As the kernel shows them, ascending. The caller frees. */
static char *groups_format(const struct plan_process *process)
{
	cleanup_free gid_t *sorted = xcalloc(process->n_groups, sizeof(*sorted));
	char *text = NULL;
	size_t length;
	FILE *out = xmemstream(&text, &length);

	if (process->n_groups) {
		memcpy(sorted, process->groups, process->n_groups * sizeof(*sorted));
		qsort(sorted, process->n_groups, sizeof(*sorted), compare_groups);
	}
	for (size_t i = 0; i < process->n_groups; i++)
		fprintf(out, "%s%u", i ? " " : "", sorted[i]);
	if (!process->n_groups)
		fputs(NO_GROUPS, out);
	fclose(out);
	return text;
}

/* One set stands for all: what QEMU has in effect, and what it could have without asking. */
static void check_capabilities(struct checks *checks, uint64_t expected, const char *status)
{
	static const char *const keys[] = { "CapInh", "CapPrm", "CapEff", "CapAmb" };
	uint64_t all = 0, in_effect = 0;

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		cleanup_free char *text = value_of(status, keys[i]);
		uint64_t set = strtoull(text, NULL, 16);
		all |= set;
		if (strcmp(keys[i], "CapEff") == 0)
			in_effect = set;
	}
	checks_add(checks, xstrdup("process: capabilities"), capabilities_format(expected),
	           capabilities_format(all), all == expected && in_effect == expected);
}

int verify_process(const struct plan *plan, pid_t pid, struct checks *checks, struct error *err)
{
	const struct plan_process *process = &plan->process;
	cleanup_free char *path = xasprintf("/proc/%d/status", pid);
	cleanup_free char *status = NULL;

	if (!process->known)
		return 0;
	if (read_file(path, STATUS_LIMIT, &status, NULL, err) < 0)
		return -1;
	check_id(checks, "user", process->uid, value_of(status, "Uid"));
	check_id(checks, "group", process->gid, value_of(status, "Gid"));
	char *groups = value_of(status, "Groups");
	if (!*groups) {
		free(groups);
		groups = xstrdup(NO_GROUPS);
	}
	add_same(checks, "groups", groups_format(process), groups);
	check_capabilities(checks, process->capabilities, status);
	add_same(checks, "no_new_privs", xstrdup("1"), value_of(status, "NoNewPrivs"));
	if (process->sandbox)
		/* 2: a filter, see seccomp(2) */
		add_same(checks, "seccomp", xstrdup("2"), value_of(status, "Seccomp"));
	return 0;
}
