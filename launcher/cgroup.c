#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cgroup_parts.h"
#include "kernel.h"
#include "util.h"

/* The kernel's own period of bandwidth control, in microseconds. */
#define PERIOD_US 100000

#define WEIGHT_MAX 10000

char *cgroup_read(const char *directory, const char *file)
{
	cleanup_free char *path = xasprintf("%s/%s", directory, file);
	cleanup_error struct error ignored = ERROR_INIT;
	char *text = NULL;

	if (read_file(path, 1 << 20, &text, NULL, &ignored) < 0)
		return NULL;
	text[strcspn(text, "\n")] = '\0';
	return text;
}

int cgroup_write(const char *directory, const char *file, const char *text)
{
	cleanup_free char *path = xasprintf("%s/%s", directory, file);
	cleanup_close int fd = open(path, O_WRONLY | O_CLOEXEC);
	size_t length = strlen(text);

	if (fd < 0)
		return -1;
	return write(fd, text, length) == (ssize_t)length ? 0 : -1;
}

void cgroup_free(struct cgroup *cgroup)
{
	free(cgroup->name);
	free(cgroup->parent);
	free(cgroup->limits);
	free(cgroup->partition);
	hwloc_bitmap_free(cgroup->cpus);
	for (size_t i = 0; i < cgroup->n_exclusive; i++)
		free(cgroup->exclusive[i]);
	free(cgroup->exclusive);
	*cgroup = (struct cgroup){ 0 };
}

bool cgroup_is_nested(const struct cgroup *cgroup)
{
	size_t length = cgroup->limits ? strlen(cgroup->limits) : 0;

	return length && cgroup->partition &&
	       strncmp(cgroup->partition, cgroup->limits, length) == 0 &&
	       cgroup->partition[length] == '/';
}

unsigned cgroup_weight(int shares)
{
	unsigned weight = ((unsigned)shares * 100 + 512) / 1024;

	return weight < 1 ? 1 : weight > WEIGHT_MAX ? WEIGHT_MAX : weight;
}

/* Without shares, or without a quota, what a new cgroup has: so that a change can take them away.
 */
size_t cgroup_settings(const struct plan *plan, struct cgroup_setting settings[CGROUP_SETTINGS])
{
	int shares = plan->shares ? plan->shares : 1024;
	long long quota_us = plan->quota ? (long long)plan->quota * PERIOD_US / 100 : -1;

	if (plan->cgroup->version == 1) {
		settings[0].file = "cpu.shares";
		snprintf(settings[0].text, sizeof(settings[0].text), "%d", shares);
		settings[1].file = "cpu.cfs_period_us";
		snprintf(settings[1].text, sizeof(settings[1].text), "%d", PERIOD_US);
		settings[2].file = "cpu.cfs_quota_us";
		snprintf(settings[2].text, sizeof(settings[2].text), "%lld", quota_us);
		return 3;
	}
	settings[0].file = "cpu.weight";
	snprintf(settings[0].text, sizeof(settings[0].text), "%u", cgroup_weight(shares));
	settings[1].file = "cpu.max";
	if (plan->quota)
		snprintf(settings[1].text, sizeof(settings[1].text), "%lld %d", quota_us,
		         PERIOD_US);
	else
		snprintf(settings[1].text, sizeof(settings[1].text), "max %d", PERIOD_US);
	return 2;
}

int cgroup_set_limits(const struct plan *plan, struct error *err)
{
	const struct cgroup *cgroup = plan->cgroup;
	struct cgroup_setting settings[CGROUP_SETTINGS];
	size_t count = cgroup_settings(plan, settings);

	for (size_t i = 0; i < count; i++) {
		const struct cgroup_setting *setting = &settings[i];
		if (cgroup_write(cgroup->limits, setting->file, setting->text) < 0)
			return error_set(
			    err, EXIT_GRANT, "cputune: the kernel refuses \"%s\" in %s/%s: %s%s",
			    setting->text, cgroup->limits, setting->file, strerror(errno),
			    errno == EINVAL ? "; a cgroup above may have a smaller quota" : "");
		cleanup_free char *now = cgroup_read(cgroup->limits, setting->file);
		if (!now || strcmp(now, setting->text) != 0)
			return error_set(err, EXIT_VERIFY,
			                 "cputune: \"%s\" was written to %s/%s, but the kernel has "
			                 "\"%s\"",
			                 setting->text, cgroup->limits, setting->file,
			                 now ? now : "");
	}
	return 0;
}

const char *cgroup_of_thread(const struct plan *plan, const struct thread *thread)
{
	const struct cgroup *cgroup = plan->cgroup;

	if (thread->role == THREAD_WORKER || thread->role == THREAD_VHOST ||
	    thread->role == THREAD_KVM_PIT)
		return NULL;
	if (thread->role == THREAD_VCPU && cgroup->partition)
		return cgroup->partition;
	if (!cgroup->limits || sched_is_realtime(thread_sched(thread, plan)))
		return cgroup->parent;
	return cgroup->limits;
}

const char *cgroup_find_thread(const struct cgroup *cgroup, pid_t pid, pid_t tid)
{
	cleanup_free char *file = xasprintf("/proc/%d/task/%d/cgroup", pid, tid);
	cleanup_free char *path = NULL;
	const char *directories[] = { cgroup->partition, cgroup->limits };

	if (!cgroup_find_path(file, cgroup->limits ? "cpu" : "cpuset", &path))
		return NULL;
	for (size_t i = 0; i < ARRAY_SIZE(directories); i++) {
		const char *name = directories[i] ? strrchr(directories[i], '/') : NULL;
		size_t length = strlen(path), own = name ? strlen(name) : 0;
		if (own && length >= own && strcmp(path + length - own, name) == 0)
			return directories[i];
	}
	return cgroup->parent;
}

/* Writing the id of a thread that is there already costs the kernel little. */
int cgroup_move_thread(const struct cgroup *cgroup, const char *directory, pid_t tid)
{
	cleanup_free char *text = xasprintf("%d", tid);

	return cgroup_write(directory, cgroup->version == 1 ? "tasks" : "cgroup.threads", text);
}

static int refused(const char *who, const char *directory, struct error *err)
{
	int reason = errno;

	return error_set(err, EXIT_GRANT, "the kernel refuses to put %s into the cgroup %s: %s%s",
	                 who, directory, strerror(reason),
	                 reason == EINVAL ? "; it runs in real time, for which that cgroup has no "
	                                    "budget"
	                                  : "");
}

int cgroup_add_process(const struct plan *plan, pid_t pid, struct error *err)
{
	const struct cgroup *cgroup = plan->cgroup;

	if (!cgroup || !cgroup->limits || sched_is_realtime(plan->emulator_sched) ||
	    cgroup_move_thread(cgroup, cgroup->limits, pid) == 0)
		return 0;
	return refused("QEMU", cgroup->limits, err);
}

int cgroup_put_thread(const struct plan *plan, const struct thread *thread, struct error *err)
{
	const char *directory = plan->cgroup ? cgroup_of_thread(plan, thread) : NULL;
	struct sched sched = thread_sched(thread, plan);

	if (!directory || cgroup_move_thread(plan->cgroup, directory, thread->tid) == 0)
		return 0;
	/* One that leaves real time, or was born of one that runs in it. */
	if (errno == EINVAL && !sched_is_realtime(sched) &&
	    kernel_set_sched(thread->tid, sched) == 0 &&
	    cgroup_move_thread(plan->cgroup, directory, thread->tid) == 0)
		return 0;
	if (errno == ESRCH && thread->role == THREAD_EMULATOR)
		return 0;
	cleanup_free char *name = thread_name(thread, plan);
	return refused(name, directory, err);
}

int cgroup_leave(const struct cgroup *cgroup, const struct threads *threads, struct error *err)
{
	for (size_t i = 0; i < threads->count; i++)
		if (cgroup_move_thread(cgroup, cgroup->parent, threads->list[i].tid) < 0 &&
		    errno != ESRCH)
			return error_set(err, EXIT_FAILED,
			                 "cannot put thread %d back into the cgroup %s: %s",
			                 threads->list[i].tid, cgroup->parent, strerror(errno));
	return 0;
}

void cgroup_add_status(const struct cgroup *cgroup, struct json_object *json)
{
	static const char *const limits[] = { "cpu.shares", "cpu.cfs_quota_us", "cpu.weight",
		                              "cpu.max" };
	static const char *const partition[] = { "cpuset.cpus.partition", "cpuset.cpus.effective" };

	json_add_string(json, "directory", cgroup->limits ? cgroup->limits : cgroup->partition);
	for (size_t i = 0; cgroup->limits && i < ARRAY_SIZE(limits); i++) {
		cleanup_free char *text = cgroup_read(cgroup->limits, limits[i]);
		if (text)
			json_add_string(json, limits[i], text);
	}
	for (size_t i = 0; cgroup->partition && i < ARRAY_SIZE(partition); i++) {
		cleanup_free char *text = cgroup_read(cgroup->partition, partition[i]);
		if (text)
			json_add_string(json, partition[i], text);
	}
}
