/* Which CPUs this process may use, and which are isolated. */
#include <errno.h>
#include <mntent.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "cpulist.h"
#include "host_parts.h"
#include "util.h"

/* The kernel wants a set at least as big as its own (sched_getaffinity(2)) and cuts a bigger one:
 * one size does for any machine. */
#define SET_BITS (CPULIST_MAX + 1)
#define SET_SIZE CPU_ALLOC_SIZE(SET_BITS)

struct probe {
	cpu_set_t *set; /* of SET_SIZE bytes */
	int reason;     /* errno, 0 if `set` is what the kernel granted */
};

/* The calling thread's affinity. */
static int get_affinity(cpu_set_t *set)
{
	CPU_ZERO_S(SET_SIZE, set);
	return sched_getaffinity(0, SET_SIZE, set) < 0 ? errno : 0;
}

/* A thread of its own, so that nobody else's affinity changes. Where asking is forbidden
 * (seccomp) the inherited set is what there is. */
static void *ask_for_all(void *argument)
{
	struct probe *probe = argument;

	memset(probe->set, 0xff, SET_SIZE);
	if (sched_setaffinity(0, SET_SIZE, probe->set) < 0 && errno != EPERM && errno != EACCES)
		probe->reason = errno;
	else
		probe->reason = get_affinity(probe->set);
	return NULL;
}

/* `set` holds the inherited CPUs before. Who has all that are online can be granted no more: the
 * kernel shows no others. */
static int granted_cpus(cpu_set_t *set)
{
	struct probe probe = { set, 0 };
	pthread_t thread;
	int reason;

	if (CPU_COUNT_S(SET_SIZE, set) == sysconf(_SC_NPROCESSORS_ONLN))
		return 0;
	reason = pthread_create(&thread, NULL, ask_for_all, &probe);
	if (reason)
		return reason;
	pthread_join(thread, NULL);
	return probe.reason;
}

static hwloc_bitmap_t to_bitmap(const cpu_set_t *set)
{
	hwloc_bitmap_t bitmap = xbitmap();
	int left = CPU_COUNT_S(SET_SIZE, set);

	for (unsigned cpu = 0; cpu < SET_BITS && left > 0; cpu++)
		if (CPU_ISSET_S(cpu, SET_SIZE, set)) {
			hwloc_bitmap_set(bitmap, cpu);
			left--;
		}
	return bitmap;
}

static void add_list(hwloc_bitmap_t set, const char *path)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_bitmap hwloc_bitmap_t more = NULL;
	cleanup_free char *text = NULL;

	if (read_file(path, 1u << 20, &text, NULL, &err) < 0)
		return; /* the kernel is without it: nothing is isolated this way */
	text[strcspn(text, "\n")] = '\0';
	if (cpulist_parse(text, &more, &err) == 0)
		hwloc_bitmap_or(set, set, more);
}

/* The CPUs of isolated partitions (cpuset.cpus.isolated, Documentation/admin-guide/cgroup-v2.rst);
 * only the root cgroup has the file. */
static void add_partitions(hwloc_bitmap_t set)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	struct mntent *mount;

	if (!mounts)
		return;
	while ((mount = getmntent(mounts)))
		if (strcmp(mount->mnt_type, "cgroup2") == 0) {
			cleanup_free char *path =
			    xasprintf("%s/cpuset.cpus.isolated", mount->mnt_dir);
			add_list(set, path);
			break;
		}
	endmntent(mounts);
}

int host_allowed_cpus(hwloc_bitmap_t *allowed, hwloc_bitmap_t *isolated, struct error *err)
{
	cleanup_free cpu_set_t *set = xcalloc(1, SET_SIZE);
	cleanup_bitmap hwloc_bitmap_t inherited = NULL, granted = NULL, ordinary = xbitmap();
	hwloc_bitmap_t apart;
	int reason = get_affinity(set);

	if (reason)
		return error_set(err, EXIT_FAILED, "cannot read this process's CPU affinity: %s",
		                 strerror(reason));
	inherited = to_bitmap(set);
	reason = granted_cpus(set);
	if (reason)
		return error_set(err, EXIT_FAILED, "cannot ask the kernel which CPUs it grants: %s",
		                 strerror(reason));
	granted = to_bitmap(set);
	apart = xbitmap();
	add_list(apart, "/sys/devices/system/cpu/isolated");
	add_partitions(apart);
	hwloc_bitmap_andnot(ordinary, granted, apart);
	*allowed =
	    take_pointer(hwloc_bitmap_isincluded(ordinary, inherited) ? &granted : &inherited);
	*isolated = apart;
	return 0;
}
