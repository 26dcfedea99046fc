/* What QEMU opens by path, and whether it can. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "privileges_parts.h"
#include "util.h"

static void add(struct opened_list *list, enum opened_kind kind, char *field, const char *path,
                int mode)
{
	struct opened *opened;

	if (!path) {
		free(field);
		return;
	}
	opened = array_append(&list->list, &list->count);
	opened->kind = kind;
	opened->field = field;
	opened->path = xstrdup(path);
	opened->mode = mode;
}

static void add_file(struct opened_list *list, const char *field, const char *path, int mode)
{
	add(list, OPENED_FILE, xstrdup(field), path, mode);
}

static int add_hostdev(struct opened_list *list, const char *pci, struct error *err)
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
	add(list, OPENED_DEVICE, xasprintf("hostdevs: PCI device %s", pci), vfio, R_OK | W_OK);
	return 0;
}

/* A file that is not there yet is made in its directory. */
static void add_log(struct opened_list *list, const char *path)
{
	cleanup_free char *directory = xstrdup(path);

	if (access(path, F_OK) == 0) {
		add(list, OPENED_LOG, xstrdup("serial.file"), path, W_OK);
		return;
	}
	*strrchr(directory, '/') = '\0';
	add(list, OPENED_LOG, xstrdup("serial.file"), *directory ? directory : "/", W_OK | X_OK);
}

int opened_collect(const struct spec *spec, const char *binary, enum accel accel,
                   struct opened_list *list, struct error *err)
{
	add(list, OPENED_PROGRAM, xstrdup("qemu.binary"), binary, X_OK);
	if (accel == ACCEL_KVM)
		add(list, OPENED_DEVICE, xstrdup("qemu.accel"), "/dev/kvm", R_OK | W_OK);
	add_file(list, "boot.kernel", spec->boot.kernel, R_OK);
	add_file(list, "boot.initrd", spec->boot.initrd, R_OK);
	add_file(list, "boot.firmware", spec->boot.firmware, R_OK);
	add_file(list, "boot.nvram", spec->boot.nvram, R_OK | W_OK);
	for (size_t i = 0; i < spec->n_disks; i++) {
		const struct spec_disk *disk = &spec->disks[i];
		add(list, disk->type == DISK_TYPE_BLOCK ? OPENED_BLOCK : OPENED_FILE,
		    xasprintf("disks/%zu", i), disk->file, disk->readonly ? R_OK : R_OK | W_OK);
	}
	for (size_t i = 0; i < spec->n_nics; i++)
		if (spec->nics[i].type == NIC_VHOST_USER)
			add(list, OPENED_SOCKET, xasprintf("nics/%zu", i), spec->nics[i].socket,
			    R_OK | W_OK);
	if (spec->serial.type == SERIAL_FILE)
		add_log(list, spec->serial.path);
	for (size_t i = 0; i < spec->n_hostdevs; i++)
		if (add_hostdev(list, spec->hostdevs[i].pci, err) < 0)
			return -1;
	if (spec->n_hostdevs > 0)
		add(list, OPENED_DEVICE, xstrdup("hostdevs"), "/dev/vfio/vfio", R_OK | W_OK);
	return 0;
}

void opened_free(struct opened_list *list)
{
	for (size_t i = 0; i < list->count; i++) {
		free(list->list[i].field);
		free(list->list[i].path);
	}
	free(list->list);
	*list = (struct opened_list){ 0 };
}

static const char *verb(const struct opened *opened)
{
	if (opened->kind == OPENED_PROGRAM)
		return "execute";
	if (opened->mode & X_OK)
		return "make a file in";
	if (!(opened->mode & W_OK))
		return "read";
	return opened->mode & R_OK ? "read and write" : "write";
}

/* Access is of the effective user, and of fsuid: access(2) would ask for the real one. */
static int may(const char *path, int mode)
{
	return faccessat(AT_FDCWD, path, mode, AT_EACCESS);
}

/* The directory on the path that lets nobody through, "" if it is not one. The caller frees. */
static char *blocking_directory(const char *path)
{
	cleanup_free char *part = xstrdup(path);

	for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		if (may(part, X_OK) < 0 && errno == EACCES)
			return xasprintf(", as %s may not be entered", part);
		*slash = '/';
	}
	return xstrdup("");
}

/* What to do about it, "" if the reason says it. */
static const char *advice(const struct opened *opened, int reason)
{
	if (opened->kind == OPENED_DEVICE && reason == EACCES)
		return "; make the user a member of its group";
	if (opened->kind == OPENED_FILE && reason == ENOENT &&
	    strncmp(opened->field, "disks/", 6) == 0)
		return "; `qemu-img create` makes images (a relative path is from the spec's "
		       "directory)";
	return "";
}

static int refuse(const struct opened *opened, const char *who, int reason, struct error *err)
{
	cleanup_free char *where =
	    reason == EACCES ? blocking_directory(opened->path) : xstrdup("");

	return error_set(err, opened->kind == OPENED_DEVICE ? EXIT_GRANT : EXIT_SPEC,
	                 "%s: %scannot %s %s: %s%s%s", opened->field, who, verb(opened),
	                 opened->path, strerror(reason), where, advice(opened, reason));
}

static int check_one(const struct opened *opened, const char *who, struct stat *status,
                     struct error *err)
{
	static const struct {
		mode_t type;
		const char *name;
	} types[] = {
		[OPENED_FILE] = { S_IFREG, "regular file" },
		[OPENED_BLOCK] = { S_IFBLK, "block device (disks[].type is block)" },
		[OPENED_SOCKET] = { S_IFSOCK, "socket" },
		[OPENED_PROGRAM] = { S_IFREG, "regular file" },
		[OPENED_DEVICE] = { S_IFCHR, "character device" },
		[OPENED_LOG] = { 0, NULL },
	};
	mode_t type = types[opened->kind].type;

	if (stat(opened->path, status) < 0 || may(opened->path, opened->mode) < 0)
		return refuse(opened, who, errno, err);
	if (opened->kind == OPENED_FILE && S_ISBLK(status->st_mode))
		return error_set(err, EXIT_SPEC,
		                 "%s: %s is a block device; say \"type\": \"block\"", opened->field,
		                 opened->path);
	/* QEMU would wait for somebody to read from a FIFO. (A directory is where a file is to be
	 * made.) */
	if (opened->kind == OPENED_LOG && !(opened->mode & X_OK) && !S_ISREG(status->st_mode) &&
	    !S_ISCHR(status->st_mode))
		return error_set(err, EXIT_SPEC,
		                 "%s: %s is neither a regular file nor a character device",
		                 opened->field, opened->path);
	if (type && (status->st_mode & S_IFMT) != type)
		return error_set(err, EXIT_SPEC, "%s: %s is not a %s", opened->field, opened->path,
		                 types[opened->kind].name);
	return 0;
}

/* Each would overwrite what the other wrote. Of two disks QEMU sees that, of a disk and a console
 * not. */
static bool are_one(const struct opened *opened, const struct stat *a, const struct opened *other,
                    const struct stat *b)
{
	return ((opened->mode | other->mode) & W_OK) && a->st_ino == b->st_ino &&
	       a->st_dev == b->st_dev && (S_ISREG(a->st_mode) || S_ISBLK(a->st_mode));
}

int opened_check(const struct opened_list *list, const char *who, struct error *err)
{
	cleanup_free struct stat *found = xcalloc(list->count, sizeof(*found));

	for (size_t i = 0; i < list->count; i++) {
		const struct opened *opened = &list->list[i];
		if (check_one(opened, who, &found[i], err) < 0)
			return -1;
		for (size_t j = 0; j < i; j++)
			if (are_one(opened, &found[i], &list->list[j], &found[j]))
				return error_set(
				    err, EXIT_SPEC,
				    "%s: %s is the file of %s, too, and not only read; "
				    "give it another",
				    opened->field, opened->path, list->list[j].field);
	}
	return 0;
}
