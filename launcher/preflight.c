#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "preflight.h"
#include "util.h"

static int check_file(const char *field, const char *path, bool writable, mode_t type,
                      struct error *err)
{
	struct stat status;

	if (!path)
		return 0;
	if (stat(path, &status) < 0 || access(path, writable ? R_OK | W_OK : R_OK) < 0)
		return error_set(err, EXIT_SPEC, "%s: cannot %s %s: %s", field,
		                 writable ? "read and write" : "read", path, strerror(errno));
	if ((status.st_mode & S_IFMT) != type)
		return error_set(err, EXIT_SPEC, "%s: %s is not a %s", field, path,
		                 type == S_IFREG   ? "regular file"
		                 : type == S_IFBLK ? "block device (disks[].type is block)"
		                                   : "socket");
	return 0;
}

static int check_disks(const struct spec *spec, struct error *err)
{
	for (size_t i = 0; i < spec->n_disks; i++) {
		const struct spec_disk *disk = &spec->disks[i];
		cleanup_free char *field = xasprintf("disks/%zu", i);
		struct stat status;
		if (disk->type == DISK_TYPE_FILE && stat(disk->file, &status) == 0 &&
		    S_ISBLK(status.st_mode))
			return error_set(err, EXIT_SPEC,
			                 "%s: %s is a block device; say \"type\": \"block\"", field,
			                 disk->file);
		if (check_file(field, disk->file, !disk->readonly,
		               disk->type == DISK_TYPE_BLOCK ? S_IFBLK : S_IFREG, err) < 0)
			return -1;
	}
	return 0;
}

static int check_hostdev(const char *pci, struct error *err)
{
	cleanup_free char *device = xasprintf("/sys/bus/pci/devices/%s", pci);
	cleanup_free char *link = xasprintf("%s/driver", device);
	cleanup_free char *group_link = xasprintf("%s/iommu_group", device);
	cleanup_free char *driver = realpath(link, NULL);
	cleanup_free char *group = realpath(group_link, NULL);
	const char *name = driver ? strrchr(driver, '/') + 1 : "no driver";

	if (access(device, F_OK) < 0)
		return error_set(err, EXIT_GRANT,
		                 "hostdevs: there is no PCI device %s; `lspci -D` "
		                 "lists them",
		                 pci);
	if (strcmp(name, "vfio-pci") != 0)
		return error_set(err, EXIT_GRANT,
		                 "hostdevs: PCI device %s is bound to %s, not to vfio-pci; bind it "
		                 "(`driverctl set-override %s vfio-pci`)",
		                 pci, name, pci);
	cleanup_free char *vfio =
	    xasprintf("/dev/vfio/%s", group ? strrchr(group, '/') + 1 : "no-iommu-group");
	if (access(vfio, R_OK | W_OK) < 0)
		return error_set(err, EXIT_GRANT, "hostdevs: PCI device %s needs %s: %s", pci, vfio,
		                 strerror(errno));
	return 0;
}

struct trial {
	struct sched sched;
	int error;
};

static void *try_sched(void *data)
{
	struct trial *trial = data;

	trial->error = kernel_set_sched(0, trial->sched) < 0 ? errno : 0;
	return NULL;
}

/* Whether the kernel grants the scheduler: asked by a throwaway thread. */
static int check_sched(const char *who, struct sched sched, struct error *err)
{
	struct trial trial = { .sched = sched };
	pthread_t thread;

	if (!sched_is_realtime(sched) || pthread_create(&thread, NULL, try_sched, &trial) != 0)
		return 0;
	pthread_join(thread, NULL);
	if (trial.error == 0)
		return 0;
	return error_set(err, EXIT_GRANT,
	                 "%s: the kernel refuses the scheduler %s with priority %d: "
	                 "%s%s",
	                 who, scheduler_name(sched.scheduler), sched.priority,
	                 strerror(trial.error), kernel_sched_advice(trial.error));
}

/* The highest priority of each kind of thread stands for all of that kind. */
static int check_scheds(const struct plan *plan, struct error *err)
{
	struct sched vcpus = { SCHED_UNSET, 0 }, iothreads = { SCHED_UNSET, 0 };

	for (size_t i = 0; i < plan->n_vcpus; i++)
		if (sched_is_realtime(plan->vcpus[i].sched) &&
		    plan->vcpus[i].sched.priority > vcpus.priority)
			vcpus = plan->vcpus[i].sched;
	for (size_t i = 0; i < plan->n_iothreads; i++)
		if (sched_is_realtime(plan->iothreads[i].sched) &&
		    plan->iothreads[i].sched.priority > iothreads.priority)
			iothreads = plan->iothreads[i].sched;
	if (check_sched("cputune.vcpusched", vcpus, err) < 0 ||
	    check_sched("cputune.iothreadsched", iothreads, err) < 0)
		return -1;
	return check_sched("cputune.emulatorsched", plan->emulator_sched, err);
}

static bool has_capability(int capability)
{
	cleanup_free char *text = NULL;
	cleanup_error struct error ignored = ERROR_INIT;
	const char *line;

	if (read_file("/proc/self/status", 1 << 16, &text, NULL, &ignored) < 0)
		return false;
	line = strstr(text, "\nCapEff:");
	return line && (strtoull(line + strlen("\nCapEff:"), NULL, 16) >> capability & 1);
}

static int check_lock(const struct plan *plan, struct error *err)
{
	struct rlimit limit;
	uint64_t bytes = 0;

	for (size_t i = 0; i < plan->n_memory; i++)
		bytes += plan->memory[i].size;
	if (!plan->locked || has_capability(CAP_IPC_LOCK) ||
	    getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_max > bytes)
		return 0;
	cleanup_free char *have = format_size(limit.rlim_max);
	cleanup_free char *need = format_size(bytes);
	return error_set(
	    err, EXIT_GRANT,
	    "memory-backing.locked needs more than %s of locked memory, and this process "
	    "may lock %s; grant CAP_IPC_LOCK, or raise the limit (ulimit -Hl)",
	    need, have);
}

int preflight(const struct spec *spec, const struct plan *plan, struct error *err)
{
	if (check_file("boot.kernel", spec->boot.kernel, false, S_IFREG, err) < 0 ||
	    check_file("boot.initrd", spec->boot.initrd, false, S_IFREG, err) < 0 ||
	    check_file("boot.firmware", spec->boot.firmware, false, S_IFREG, err) < 0 ||
	    check_file("boot.nvram", spec->boot.nvram, true, S_IFREG, err) < 0 ||
	    check_disks(spec, err) < 0 || check_scheds(plan, err) < 0 || check_lock(plan, err) < 0)
		return -1;
	for (size_t i = 0; i < spec->n_nics; i++)
		if (spec->nics[i].type == NIC_VHOST_USER &&
		    check_file("nics", spec->nics[i].socket, true, S_IFSOCK, err) < 0)
			return -1;
	for (size_t i = 0; i < spec->n_hostdevs; i++)
		if (check_hostdev(spec->hostdevs[i].pci, err) < 0)
			return -1;
	return 0;
}
