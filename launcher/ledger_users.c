#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "cpulist.h"
#include "ledger_users.h"
#include "quote.h"
#include "users.h"
#include "util.h"

#define USERS "/run/user"
#define LOCKS_LIMIT (16 << 20)
#define LIST_LIMIT (1 << 20)
#define NAME_SHOWN 64 /* bytes */

/* Of one user: some 300 VMs of a few vCPUs, or one with 500 whose lists of CPUs are long. */
#define NAMES_MAX 512
#define BYTES_MAX (1 << 20)

/* A file that somebody holds the flock(2) of. */
struct locked {
	unsigned major, minor;
	unsigned long inode;
};

struct reading {
	struct locked *locked; /* in order */
	size_t n_locked;
	hwloc_bitmap_t cpus, nodes; /* that this host may ever have; NULL: unknown */
	struct vm_budget budget;    /* of the user whose VMs are being read */
	char *owner;                /* its name */
	char *exceeding;            /* the first user whose VMs were too many, or NULL */
	size_t n_exceeding;
	struct user_vms *vms;
	bool failed; /* with that error */
	struct error *err;
};

/* What fails so fails for what we lack, and a VM may go unseen. Anything else may be of the user's
 * making, and is no VM. */
static bool is_our_lack(int error)
{
	return error == EMFILE || error == ENFILE || error == ENOMEM;
}

static void note_lack(struct reading *r, int error)
{
	if (!is_our_lack(error) || r->failed)
		return;
	r->failed = true;
	error_set(r->err, EXIT_FAILED, "cannot see what the VMs of users hold: " USERS ": %s",
	          strerror(error));
}

static int compare_locked(const void *a, const void *b)
{
	const struct locked *x = a, *y = b;

	if (x->inode != y->inode)
		return x->inode < y->inode ? -1 : 1;
	if (x->major != y->major)
		return x->major < y->major ? -1 : 1;
	return x->minor < y->minor ? -1 : x->minor > y->minor;
}

/* Takes the text of /proc/locks (proc(5)) apart: "1: FLOCK  ADVISORY  WRITE 12 00:1b:34 0 EOF". */
static void find_locked(struct reading *r, char *locks)
{
	char *line;

	while ((line = strsep(&locks, "\n"))) {
		const char *flock = strstr(line, " FLOCK ");
		struct locked locked;
		if (flock && sscanf(flock, " FLOCK %*s %*s %*s %x:%x:%lu ", &locked.major,
		                    &locked.minor, &locked.inode) == 3)
			*array_append(&r->locked, &r->n_locked) = locked;
	}
	if (r->n_locked)
		qsort(r->locked, r->n_locked, sizeof(*r->locked), compare_locked);
}

/* Opens a directory in another, if it is the user's alone to write. */
static int open_owned(struct reading *r, int above, const char *name, uid_t user)
{
	cleanup_close int fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0) {
		note_lack(r, errno);
		return -1;
	}
	return status.st_uid == user && !(status.st_mode & 022) ? take_fd(&fd) : -1;
}

/* Whether a process that is not gone holds the lock: of this VM, and not under other names, of
 * others. */
static bool is_locked(struct reading *r, int dirfd)
{
	struct stat status;

	if (fstatat(dirfd, "lock", &status, AT_SYMLINK_NOFOLLOW) < 0) {
		note_lack(r, errno);
		return false;
	}
	if (status.st_nlink != 1)
		return false;
	const struct locked lock = { major(status.st_dev), minor(status.st_dev), status.st_ino };
	return r->n_locked && bsearch(&lock, r->locked, r->n_locked, sizeof(lock), compare_locked);
}

static bool is_within(hwloc_const_bitmap_t set, hwloc_const_bitmap_t all)
{
	return !set || !all || hwloc_bitmap_isincluded(set, all);
}

/* No VM has CPUs or nodes that the host cannot have; and their numbers could make large sets. */
static bool is_of_this_host(const struct reading *r, const struct plan *plan)
{
	bool is = is_within(plan->emulator, r->cpus) && is_within(plan->siblings, r->cpus);

	for (size_t i = 0; i < plan->n_vcpus && is; i++)
		is = is_within(plan->vcpus[i].cpus, r->cpus);
	for (size_t i = 0; i < plan->n_iothreads && is; i++)
		is = is_within(plan->iothreads[i].cpus, r->cpus);
	for (size_t i = 0; i < plan->n_memory && is; i++)
		is = is_within(plan->memory[i].host_nodes, r->nodes) &&
		     is_within(plan->memory[i].policy_nodes, r->nodes);
	return is;
}

/* What is printed on root's terminal must not act on it. */
static char *escaped(const char *text)
{
	return escape(text, strlen(text), NAME_SHOWN);
}

static void replace(char **text, char *by)
{
	free(*text);
	*text = by;
}

static void read_vm(struct reading *r, int runtime, const char *name, uid_t user)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_vm_dir struct vm_dir dir = VM_DIR_INIT;

	dir.dirfd = open_owned(r, runtime, name, user);
	if (dir.dirfd < 0 || !is_locked(r, dir.dirfd))
		return;
	dir.name = xstrdup(name);
	dir.path = xasprintf(USERS "/%u/ancla/%s", user, name);
	dir.budget = &r->budget;
	errno = 0;
	cleanup_plan struct plan *plan = vm_read_plan(&dir, &ignored);
	if (!plan)
		note_lack(r, errno);
	if (!plan || !is_of_this_host(r, plan))
		return;
	cleanup_free char *shown = escaped(name);
	struct user_vm *vm = array_append(&r->vms->list, &r->vms->count);
	vm->name = xasprintf("%s/%s", r->owner, shown);
	vm->plan = take_pointer(&plan);
	replace(&vm->plan->name, xstrdup(vm->name));
	for (size_t i = 0; i < vm->plan->n_iothreads; i++)
		replace(&vm->plan->iothreads[i].id, escaped(vm->plan->iothreads[i].id));
	if (vm_read_state(&dir, &vm->state, &ignored) == 0)
		replace(&vm->state.state, escaped(vm->state.state));
}

static void read_names(struct reading *r, DIR *dir, uid_t user)
{
	struct dirent *entry;

	for (int names = 0; !r->budget.exceeded && (errno = 0, entry = readdir(dir)); names++) {
		if (names == NAMES_MAX)
			r->budget.exceeded = true;
		else if (entry->d_name[0] != '.')
			read_vm(r, dirfd(dir), entry->d_name, user);
	}
	if (!r->budget.exceeded)
		note_lack(r, errno);
	else if (r->n_exceeding++ == 0)
		r->exceeding = xstrdup(r->owner);
}

static void read_user(struct reading *r, int users, const char *number)
{
	char *end;
	uid_t user = (uid_t)strtoul(number, &end, 10);
	cleanup_close int above = *end ? -1 : open_owned(r, users, number, user);
	cleanup_close int runtime = above < 0 ? -1 : open_owned(r, above, "ancla", user);
	DIR *dir = runtime < 0 ? NULL : fdopendir(runtime);

	if (runtime >= 0 && !dir)
		note_lack(r, errno);
	if (!dir)
		return;
	take_fd(&runtime);
	r->budget = (struct vm_budget){ .bytes = BYTES_MAX };
	r->owner = user_name(user);
	read_names(r, dir, user);
	free(r->owner);
	closedir(dir);
}

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct user_vm *)a)->name, ((const struct user_vm *)b)->name);
}

/* The CPUs or nodes in a list of the kernel's; NULL where there is none. */
static hwloc_bitmap_t read_list(const char *path)
{
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_free char *text = NULL;
	hwloc_bitmap_t set = NULL;

	if (read_file(path, LIST_LIMIT, &text, NULL, &ignored) == 0)
		cpulist_parse(text, &set, &ignored);
	return set;
}

/* One line, whatever the users do. */
static void tell_what_is_left_out(const struct reading *r)
{
	size_t more = r->n_exceeding - 1;
	cleanup_free char *others =
	    more ? xasprintf(" and %zu more user%s", more, plural(more)) : xstrdup("");

	r->vms->left_out =
	    xasprintf("of user %s%s not all VMs are counted, nor the CPUs that they hold: in "
	              "the runtime directory are more than %d names or %d MiB",
	              r->exceeding, others, NAMES_MAX, BYTES_MAX >> 20);
}

static void read_users(struct reading *r, DIR *users)
{
	struct dirent *entry;

	r->cpus = read_list("/sys/devices/system/cpu/possible");
	r->nodes = read_list("/sys/devices/system/node/possible");
	while ((errno = 0, entry = readdir(users)))
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
			read_user(r, dirfd(users), entry->d_name);
	note_lack(r, errno);
	if (r->n_exceeding)
		tell_what_is_left_out(r);
	if (r->vms->count)
		qsort(r->vms->list, r->vms->count, sizeof(*r->vms->list), compare);
	hwloc_bitmap_free(r->cpus);
	hwloc_bitmap_free(r->nodes);
	free(r->exceeding);
}

static void read_locks(struct reading *r, DIR *users)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_free char *locks = NULL;

	errno = 0;
	if (read_file("/proc/locks", LOCKS_LIMIT, &locks, NULL, &err) < 0) {
		note_lack(r, errno);
		r->vms->left_out = xasprintf("users' VMs are not counted, nor the CPUs that they "
		                             "hold: %s",
		                             err.message);
		return;
	}
	find_locked(r, locks);
	read_users(r, users);
	free(r->locked);
}

int user_vms_read(struct user_vms *vms, struct error *err)
{
	struct reading r = { .vms = vms, .err = err };
	const char *own = getenv("ANCLA_RUNTIME_DIR");

	*vms = (struct user_vms){ 0 };
	if (geteuid() != 0 || (own && *own))
		return 0;
	DIR *users = opendir(USERS);
	if (!users && errno == ENOENT)
		return 0;
	if (!users)
		return error_set(err, EXIT_FAILED, "cannot read " USERS ": %s", strerror(errno));
	read_locks(&r, users);
	closedir(users);
	return r.failed ? -1 : 0;
}

void user_vms_free(struct user_vms *vms)
{
	for (size_t i = 0; i < vms->count; i++) {
		free(vms->list[i].name);
		plan_free(vms->list[i].plan);
		vm_state_free(&vms->list[i].state);
	}
	free(vms->list);
	free(vms->left_out);
	*vms = (struct user_vms){ 0 };
}
