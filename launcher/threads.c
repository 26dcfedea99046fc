#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "threads.h"
#include "util.h"

void threads_free(struct threads *threads)
{
	free(threads->list);
	*threads = (struct threads){ 0 };
}

bool threads_are_dying(const struct threads *threads)
{
	for (size_t i = 0; i < threads->count; i++)
		if ((threads->list[i].role == THREAD_VCPU ||
		     threads->list[i].role == THREAD_IOTHREAD) &&
		    kernel_is_dying(threads->list[i].tid))
			return true;
	return false;
}

static const struct thread *by_tid(const struct threads *threads, pid_t tid)
{
	for (size_t i = 0; i < threads->count; i++)
		if (threads->list[i].tid == tid)
			return &threads->list[i];
	return NULL;
}

void threads_add(struct threads *threads, enum thread_role role, int index, pid_t tid)
{
	struct thread *thread = array_append(&threads->list, &threads->count);

	thread->role = role;
	thread->index = index;
	thread->tid = tid;
	kernel_comm(role == THREAD_VHOST || role == THREAD_KVM_PIT ? tid : threads->pid, tid,
	            thread->comm);
}

static int64_t member(struct json_object *item, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(item, key, &value) ? json_object_get_int64(value) : -1;
}

static pid_t tid_of_vcpu(struct json_object *cpus, size_t vcpu)
{
	size_t count =
	    json_object_is_type(cpus, json_type_array) ? json_object_array_length(cpus) : 0;

	for (size_t i = 0; i < count; i++) {
		struct json_object *item = json_object_array_get_idx(cpus, i);
		if (member(item, "cpu-index") == (int64_t)vcpu)
			return (pid_t)member(item, "thread-id");
	}
	return 0;
}

int threads_count_vcpus(const struct plan *plan, struct json_object *cpus)
{
	int count = 1;

	while ((size_t)count < plan->n_vcpus && tid_of_vcpu(cpus, (size_t)count) > 0)
		count++;
	return count;
}

static int add_vcpus(struct threads *threads, const struct plan *plan, struct json_object *cpus,
                     struct error *err)
{
	for (size_t vcpu = 0; vcpu < plan->n_vcpus; vcpu++) {
		pid_t tid = tid_of_vcpu(cpus, vcpu);
		if (tid <= 0 && vcpu >= (size_t)plan->vcpus_online)
			continue;
		if (tid <= 0)
			return error_set(err, EXIT_FAILED, "QEMU names no thread for vCPU %zu",
			                 vcpu);
		const struct thread *other = by_tid(threads, tid);
		if (tid == threads->pid || other)
			return error_set(
			    err, EXIT_FAILED,
			    "QEMU runs vCPU %zu on the thread of %s (%d): single-threaded "
			    "TCG, whose vCPUs cannot be pinned one by one; use thread=multi, "
			    "without icount",
			    vcpu, other ? "another vCPU" : "its main loop", tid);
		threads_add(threads, THREAD_VCPU, (int)vcpu, tid);
	}
	return 0;
}

static int add_iothreads(struct threads *threads, const struct plan *plan,
                         struct json_object *iothreads, struct error *err)
{
	size_t count = json_object_is_type(iothreads, json_type_array)
	                   ? json_object_array_length(iothreads)
	                   : 0;

	for (size_t index = 0; index < plan->n_iothreads; index++) {
		pid_t tid = 0;
		for (size_t i = 0; i < count; i++) {
			struct json_object *item = json_object_array_get_idx(iothreads, i), *id;
			if (json_object_object_get_ex(item, "id", &id) &&
			    json_object_is_type(id, json_type_string) &&
			    strcmp(json_object_get_string(id), plan->iothreads[index].id) == 0)
				tid = (pid_t)member(item, "thread-id");
		}
		if (tid <= 0)
			return error_set(err, EXIT_FAILED, "QEMU names no thread for iothread %s",
			                 plan->iothreads[index].id);
		threads_add(threads, THREAD_IOTHREAD, (int)index, tid);
	}
	return 0;
}

static int compare_tids(const void *a, const void *b)
{
	pid_t x = *(const pid_t *)a, y = *(const pid_t *)b;

	return (x > y) - (x < y);
}

/* What QEMU names must be its own: nobody else's thread is touched. */
static int check_own(const struct threads *threads, const pid_t *tids, size_t count,
                     struct error *err)
{
	for (size_t i = 0; i < threads->count; i++) {
		const struct thread *thread = &threads->list[i];
		if ((thread->role == THREAD_VCPU || thread->role == THREAD_IOTHREAD) &&
		    !bsearch(&thread->tid, tids, count, sizeof(*tids), compare_tids))
			return error_set(
			    err, EXIT_FAILED,
			    "QEMU (%d) names thread %d for %s %d, which is not one of its "
			    "own threads",
			    threads->pid, thread->tid,
			    thread->role == THREAD_VCPU ? "vCPU" : "iothread", thread->index);
	}
	return 0;
}

/* What is known to run in a QEMU beside vCPUs and iothreads, by the beginnings of the names: QEMU's
 * own (softmmu, util, io, migration, ui, backends), its libraries', and the kernel's (KVM, vhost).
 */
static const struct {
	const char *name;
	enum thread_role role;
} kinds[] = {
	{ "worker", THREAD_WORKER },   /* QEMU's thread pool */
	{ "iou-wrk-", THREAD_WORKER }, /* the kernel's, for io_uring */
	{ "vhost-", THREAD_VHOST },    /* Linux 6.4 on: a thread of QEMU */
	{ "qemu-", THREAD_EMULATOR },  /* and all that have no name of their own */
	{ "call_rcu", THREAD_EMULATOR },
	{ "rcu", THREAD_EMULATOR },
	{ "IO ", THREAD_EMULATOR },  /* the monitor's, and iothreads that others made */
	{ "CPU ", THREAD_EMULATOR }, /* a vCPU that is just being made */
	{ "TC ", THREAD_EMULATOR },  /* thread-context */
	{ "touch_pages", THREAD_EMULATOR },
	{ "io-task-worker", THREAD_EMULATOR },
	{ "vnc_worker", THREAD_EMULATOR },
	{ "SPICE", THREAD_EMULATOR },
	{ "gmain", THREAD_EMULATOR },
	{ "gdbus", THREAD_EMULATOR },
	{ "pool-", THREAD_EMULATOR },
	{ "dump_thread", THREAD_EMULATOR },
	{ "live_migration", THREAD_EMULATOR },
	{ "migration", THREAD_EMULATOR },
	{ "mig/", THREAD_EMULATOR },
	{ "multifd", THREAD_EMULATOR },
	{ "return path", THREAD_EMULATOR },
	{ "postcopy", THREAD_EMULATOR },
	{ "bg_snapshot", THREAD_EMULATOR },
	{ "kvm-nx-lpage", THREAD_EMULATOR },
};

static void classify(struct thread *thread, const char *main_comm)
{
	thread->unknown = strcmp(thread->comm, main_comm) != 0 && *thread->comm;
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strncmp(thread->comm, kinds[i].name, strlen(kinds[i].name)) == 0) {
			thread->role = kinds[i].role;
			thread->unknown = false;
			return;
		}
}

char *threads_unknown(const struct threads *threads)
{
	char *text = NULL;

	for (size_t i = 0; i < threads->count; i++) {
		const struct thread *thread = &threads->list[i];
		cleanup_free char *before = text;
		if (!thread->unknown) {
			before = NULL;
			continue;
		}
		text = xasprintf("%s%s%d (%s)",
		                 before ? before
		                        : "QEMU has threads of an unknown kind, which run where "
		                          "the emulator does: ",
		                 before ? ", " : "", thread->tid, thread->comm);
	}
	return text;
}

static int add_emulator(struct threads *threads, struct error *err)
{
	cleanup_free pid_t *tids = NULL;
	char main_comm[64];
	size_t count;

	kernel_comm(threads->pid, threads->pid, main_comm);
	if (kernel_tasks(threads->pid, &tids, &count) < 0)
		return error_set(err, EXIT_FAILED, "QEMU's threads %s: %s",
		                 errno == ENOENT || errno == ESRCH ? "are gone" : "cannot be read",
		                 strerror(errno));
	if (check_own(threads, tids, count, err) < 0)
		return -1;
	for (size_t i = 0; i < count; i++) {
		if (by_tid(threads, tids[i]))
			continue;
		threads_add(threads, THREAD_EMULATOR, -1, tids[i]);
		classify(&threads->list[threads->count - 1], main_comm);
	}
	return 0;
}

/* Kernel threads of the VM carry QEMU's pid in their name. They are looked for only where there can
 * be any: the whole of /proc is read for it. */
static int add_kernel_thread(struct threads *threads, pid_t pid, const char *vhost, const char *pit)
{
	char comm[64];

	/* Where /proc hides others from a user (hidepid), the kernel's are none that he could
	 * place. */
	if (kernel_comm(pid, pid, comm) < 0)
		return errno == ESRCH || errno == EPERM || errno == EACCES ? 0 : -1;
	bool is_vhost = strcmp(comm, vhost) == 0;
	if ((!is_vhost && strcmp(comm, pit) != 0) || by_tid(threads, pid))
		return 0;
	int own = kernel_is_its_own(pid); /* any process may call itself so */
	if (own > 0)
		threads_add(threads, is_vhost ? THREAD_VHOST : THREAD_KVM_PIT, -1, pid);
	return own < 0 ? -1 : 0;
}

static int add_kernel_threads(struct threads *threads, struct error *err)
{
	cleanup_free char *vhost = xasprintf("vhost-%d", threads->pid);
	cleanup_free char *pit = xasprintf("kvm-pit/%d", threads->pid);
	DIR *dir = opendir("/proc");
	struct dirent *entry;
	int result = dir ? 0 : -1;

	while (result == 0 && (errno = 0, entry = readdir(dir)))
		if (atoi(entry->d_name) > 0)
			result = add_kernel_thread(threads, atoi(entry->d_name), vhost, pit);
	if (result < 0 || errno)
		result =
		    error_set(err, EXIT_FAILED,
		              "the kernel's threads of the VM cannot be looked for in /proc: %s",
		              strerror(errno));
	if (dir)
		closedir(dir);
	return result;
}

int threads_complete(struct threads *threads, const struct plan *plan, struct error *err)
{
	if (add_emulator(threads, err) < 0)
		return -1;
	return plan->kernel_threads ? add_kernel_threads(threads, err) : 0;
}

int threads_read(struct threads *threads, pid_t pid, const struct plan *plan,
                 struct json_object *cpus, struct json_object *iothreads, struct error *err)
{
	threads_free(threads);
	threads->pid = pid;
	if (add_vcpus(threads, plan, cpus, err) < 0 ||
	    add_iothreads(threads, plan, iothreads, err) < 0)
		return -1;
	return threads_complete(threads, plan, err);
}

int threads_refresh(struct threads *threads, struct error *err)
{
	size_t kept = 0;

	for (size_t i = 0; i < threads->count; i++) {
		struct thread *thread = &threads->list[i];
		char comm[64];
		kernel_comm(threads->pid, thread->tid, comm);
		if ((thread->role != THREAD_EMULATOR && thread->role != THREAD_WORKER) || *comm)
			threads->list[kept++] = *thread;
	}
	threads->count = kept;
	return add_emulator(threads, err);
}

const char *thread_role_name(enum thread_role role)
{
	static const char *const names[] = { "vcpu",   "iothread", "emulator",
		                             "worker", "vhost",    "kvm-pit" };

	return names[role];
}

char *thread_name(const struct thread *thread, const struct plan *plan)
{
	switch (thread->role) {
	case THREAD_VCPU:
		return xasprintf("vCPU %d", thread->index);
	case THREAD_IOTHREAD:
		return xasprintf("iothread %s", plan->iothreads[thread->index].id);
	default:
		return xasprintf("%s thread %d (%s)", thread_role_name(thread->role), thread->tid,
		                 thread->comm);
	}
}

hwloc_const_bitmap_t thread_cpus(const struct thread *thread, const struct plan *plan)
{
	switch (thread->role) {
	case THREAD_VCPU:
		return plan->vcpus[thread->index].cpus;
	case THREAD_IOTHREAD:
		return plan->iothreads[thread->index].cpus;
	case THREAD_KVM_PIT:
		return sched_is_realtime(plan->vcpus[0].sched) ? plan->emulator
		                                               : plan->vcpus[0].cpus;
	default:
		return plan->emulator;
	}
}

struct sched thread_sched(const struct thread *thread, const struct plan *plan)
{
	static const struct sched other = { SCHED_OF_OTHER, 0 };

	switch (thread->role) {
	case THREAD_VCPU:
		return plan->vcpus[thread->index].sched;
	case THREAD_IOTHREAD:
		return plan->iothreads[thread->index].sched;
	case THREAD_EMULATOR:
	case THREAD_WORKER:
		return plan->emulator_sched;
	default:
		return other;
	}
}

bool thread_may_be_on(const struct thread *thread, const struct plan *plan,
                      hwloc_const_bitmap_t cpus)
{
	cleanup_bitmap hwloc_bitmap_t all = NULL;

	if (thread->role != THREAD_WORKER)
		return hwloc_bitmap_isequal(cpus, thread_cpus(thread, plan));
	all = xbitmap_dup(plan->emulator);
	for (size_t i = 0; i < plan->n_iothreads; i++)
		hwloc_bitmap_or(all, all, plan->iothreads[i].cpus);
	return hwloc_bitmap_isincluded(cpus, all);
}

static bool same_sched(struct sched a, struct sched b)
{
	if (a.scheduler == SCHED_UNSET)
		a.scheduler = SCHED_OF_OTHER;
	if (b.scheduler == SCHED_UNSET)
		b.scheduler = SCHED_OF_OTHER;
	return a.scheduler == b.scheduler && a.priority == b.priority;
}

bool thread_may_run_as(const struct thread *thread, const struct plan *plan, struct sched sched)
{
	if (same_sched(sched, thread_sched(thread, plan)))
		return true;
	for (size_t i = 0; thread->role == THREAD_WORKER && i < plan->n_iothreads; i++)
		if (same_sched(sched, plan->iothreads[i].sched))
			return true;
	return false;
}
