#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cpulist.h"
#include "kernel.h"
#include "util.h"
#include "verify.h"
#include "verify_parts.h"

void checks_free(struct checks *checks)
{
	for (size_t i = 0; i < checks->count; i++) {
		free(checks->list[i].what);
		free(checks->list[i].expected);
		free(checks->list[i].actual);
	}
	free(checks->list);
	*checks = (struct checks){ 0 };
}

void checks_add(struct checks *checks, char *what, char *expected, char *actual, bool ok)
{
	struct check *check = array_append(&checks->list, &checks->count);

	check->what = what;
	check->expected = expected;
	check->actual = actual;
	check->ok = ok;
	checks->failed += !ok;
}

void checks_move(struct checks *checks, struct checks *from)
{
	for (size_t i = 0; i < from->count; i++)
		*(struct check *)array_append(&checks->list, &checks->count) = from->list[i];
	checks->failed += from->failed;
	free(from->list);
	*from = (struct checks){ 0 };
}

/* A thread of the emulator may have ended since the list was made: then there is nothing to check.
 */
static bool is_gone(const struct thread *thread)
{
	return thread->role != THREAD_VCPU && thread->role != THREAD_IOTHREAD && errno == ESRCH;
}

static void verify_thread(const struct plan *plan, const struct thread *thread,
                          struct checks *checks)
{
	cleanup_bitmap hwloc_bitmap_t actual = xbitmap();
	cleanup_free char *name = thread_name(thread, plan);
	hwloc_const_bitmap_t cpus = thread_cpus(thread, plan);
	struct sched wanted = thread_sched(thread, plan), sched;

	if (kernel_get_affinity(thread->tid, actual) < 0) {
		if (!is_gone(thread))
			checks_add(checks, xasprintf("%s: CPUs", name), cpulist_format(cpus),
			           xasprintf("unreadable: %s", strerror(errno)), false);
		return;
	}
	checks_add(checks, xasprintf("%s: CPUs", name), cpulist_format(cpus),
	           cpulist_format(actual), thread_may_be_on(thread, plan, actual));
	if (kernel_get_sched(thread->tid, &sched) < 0) {
		if (!is_gone(thread))
			checks_add(checks, xasprintf("%s: scheduler", name), sched_format(wanted),
			           xasprintf("unreadable: %s", strerror(errno)), false);
		return;
	}
	checks_add(checks, xasprintf("%s: scheduler", name), sched_format(wanted),
	           sched_format(sched), thread_may_run_as(thread, plan, sched));
}

void verify_add(struct checks *checks, const char *what, const char *expected, const char *actual)
{
	checks_add(checks, xstrdup(what), xstrdup(expected), xstrdup(actual), false);
}

static bool has_thread(const struct threads *threads, enum thread_role role, int index)
{
	for (size_t i = 0; i < threads->count; i++)
		if (threads->list[i].role == role && threads->list[i].index == index)
			return true;
	return false;
}

void verify_presence(const struct plan *plan, const struct threads *threads, struct checks *checks)
{
	for (int i = 0; i < plan->vcpus_online; i++) {
		cleanup_free char *what = xasprintf("vCPU %d: thread", i);
		if (!has_thread(threads, THREAD_VCPU, i))
			verify_add(checks, what, "one", "none");
	}
	for (size_t i = 0; i < plan->n_iothreads; i++) {
		cleanup_free char *what = xasprintf("iothread %s: thread", plan->iothreads[i].id);
		if (!has_thread(threads, THREAD_IOTHREAD, (int)i))
			verify_add(checks, what, "one", "none");
	}
}

void verify_threads(const struct plan *plan, const struct threads *threads, struct checks *checks)
{
	for (size_t i = 0; i < threads->count; i++)
		verify_thread(plan, &threads->list[i], checks);
}

int verify_verdict(const struct checks *checks, struct error *err)
{
	cleanup_free char *text = NULL;
	size_t length;

	if (checks->failed == 0)
		return 0;
	FILE *out = xmemstream(&text, &length);
	for (size_t i = 0; i < checks->count; i++)
		if (!checks->list[i].ok)
			fprintf(out, "\n  %s: expected %s, the kernel has %s", checks->list[i].what,
			        checks->list[i].expected, checks->list[i].actual);
	fclose(out);
	return error_set(err, EXIT_VERIFY, "%zu of %zu checks failed:%s", checks->failed,
	                 checks->count, text);
}
