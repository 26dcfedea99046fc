#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernel.h"
#include "ledger.h"
#include "ledger_users.h"
#include "log.h"
#include "promises.h"
#include "reserve.h"
#include "util.h"
#include "waits.h"

/* So often a VM's directory is emptied that others still write to, and made that others remove. */
#define REMOVE_ROUNDS 3

void ledger_close(struct ledger *ledger)
{
	free(ledger->path);
	if (ledger->dirfd >= 0)
		close(ledger->dirfd);
	if (ledger->lock >= 0)
		close(ledger->lock);
	*ledger = (struct ledger)LEDGER_INIT;
}

static int open_vm(const struct ledger *ledger, const char *name, struct vm_dir *vm)
{
	int dirfd = openat(ledger->dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (dirfd < 0)
		return -1;
	vm->name = xstrdup(name);
	vm->path = xasprintf("%s/%s", ledger->path, name);
	vm->dirfd = dirfd;
	vm->lock = -1;
	return 0;
}

void vm_dir_close(struct vm_dir *vm)
{
	free(vm->name);
	free(vm->path);
	if (vm->dirfd >= 0)
		close(vm->dirfd);
	if (vm->lock >= 0)
		close(vm->lock);
	*vm = (struct vm_dir)VM_DIR_INIT;
}

/* What the host does not have back yet. A launch that waits for room looks again and again: it is
 * told once. */
static void tell_kept(const struct vm_dir *vm, const struct error *why)
{
	static bool told;

	if (!told)
		log_say(LOG_WARNING, "kept",
		        "VM \"%s\" has ended, but what it held is not given back yet: %s; the next "
		        "command tries again",
		        vm->name, why->message);
	told = true;
}

/* False if somebody is still in the VM's cgroups, or that cannot be told: then the file that names
 * them stays, and whoever looks next tries again. */
static bool remove_cgroups(const struct vm_dir *vm)
{
	struct cgroup *cgroup = NULL;
	cleanup_error struct error err = ERROR_INIT;
	int result = vm_read_cgroup(vm, &cgroup, &err);

	if (result == 0 && cgroup)
		result = cgroup_remove(cgroup, &err);
	if (result < 0)
		tell_kept(vm, &err);
	if (cgroup)
		cgroup_free(cgroup);
	free(cgroup);
	return result == 0;
}

/* False if something is left that names what the host still owes. */
static bool remove_files(const struct vm_dir *vm)
{
	/* The state goes before the plan: a state without a plan would be a VM that holds what
	 * nobody knows. The lock goes last, and only then: it is what says that the rest is a
	 * VM's, to whoever looks next. */
	static const char *const files[] = {
		VM_COMMANDS,       VM_MONITOR,
		VM_SERIAL,         VM_LOG,
		VM_OWN_LOG,        VM_STATE,
		VM_PLAN,           VM_PLAN ".new",
		VM_STATE ".new",   VM_COMMANDS ".lock",
		VM_RESERVED,       VM_RESERVED ".new",
		VM_CGROUP ".new",  VM_THREADS,
		VM_THREADS ".new",
	};
	bool gone = vm->dirfd >= 0 && remove_cgroups(vm);

	for (size_t i = 0; i < ARRAY_SIZE(files) && vm->dirfd >= 0; i++)
		gone &= unlinkat(vm->dirfd, files[i], 0) == 0 || errno == ENOENT;
	gone = gone && (unlinkat(vm->dirfd, VM_CGROUP, 0) == 0 || errno == ENOENT);
	return gone && (unlinkat(vm->dirfd, "lock", 0) == 0 || errno == ENOENT);
}

void vm_dir_remove(struct vm_dir *vm)
{
	/* From the directory itself, not by its path, which may lead elsewhere by now. */
	cleanup_close int above =
	    vm->dirfd < 0 ? -1 : openat(vm->dirfd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);

	/* A command that found the VM alive a moment ago may make a file of its own (the monitor's
	 * lock, a plan) after that name was removed. Without the lock nobody would know it for a
	 * VM's. */
	for (int round = 0; round < REMOVE_ROUNDS && remove_files(vm); round++)
		if (above < 0 || unlinkat(above, vm->name, AT_REMOVEDIR) == 0 || errno != ENOTEMPTY)
			return;
}

/* True if somebody holds the VM's lock, or it cannot be told. If not, we do, in vm->lock, unless
 * there is no lock. */
static bool is_held(struct vm_dir *vm)
{
	struct stat status;

	if (fstatat(vm->dirfd, "lock", &status, AT_SYMLINK_NOFOLLOW) == 0 &&
	    !S_ISREG(status.st_mode))
		return false;
	vm->lock = openat(vm->dirfd, "lock", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	if (vm->lock < 0)
		return errno != ENOENT;
	if (flock(vm->lock, LOCK_EX | LOCK_NB) == 0)
		return false;
	close(vm->lock);
	vm->lock = -1;
	return true;
}

/* True for a VM that is held by nobody who lives: its QEMU has just died, or was let go before the
 * guest ran by a launcher that has, and is ended here. The lock goes a moment after the process.
 * Who cannot be seen may live. */
static bool is_orphan(const struct vm_dir *vm)
{
	cleanup_vm_state struct vm_state state = { 0 };
	cleanup_error struct error ignored = ERROR_INIT;

	if (vm_read_state(vm, &state, &ignored) < 0 || state.qemu <= 0)
		return false;
	cleanup_close int qemu = kernel_pidfd(state.qemu, state.qemu_start);
	if (qemu < 0 && errno != ESRCH)
		return false;
	if (kernel_lives(state.launcher, state.launcher_start) != KERNEL_GONE)
		return false;
	if (qemu < 0)
		return true;
	if (strcmp(state.state, "starting") != 0)
		return kernel_is_dying(state.qemu);
	kernel_pidfd_kill(qemu, SIGKILL);
	return kernel_wait_gone(qemu, LIMIT_KILL_MS);
}

/* Whether the VM is held, now that it is known to die: waits until it is not. A dying QEMU lets go
 * of its lock after its memory; a process that it left behind may keep it. */
static bool stays_held(struct vm_dir *vm)
{
	int64_t deadline = kernel_now_ms() + LIMIT_UNLOCK_MS;

	while (is_held(vm)) {
		if (kernel_now_ms() > deadline)
			return true;
		poll(NULL, 0, 1);
	}
	return false;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void remove_dead(struct ledger *ledger, struct vm_dir *vm)
{
	cleanup_error struct error err = ERROR_INIT;

	if (reserve_give_back(vm, &err) < 0) {
		tell_kept(vm, &err);
		return;
	}
	if (vm_has_cgroup(vm))
		ledger->gave_back = true;
	vm_dir_remove(vm);
}

/* What has that name is no VM's: it is no directory, or has just gone. */
static bool is_no_vm(int error)
{
	return error == ENOENT || error == ENOTDIR || error == ELOOP;
}

static int cannot_open(const struct ledger *ledger, const char *name, struct error *err)
{
	return error_set(err, EXIT_FAILED, "cannot open %s/%s, which may be a VM's: %s",
	                 ledger->path, name, strerror(errno));
}

/* 1: a VM that lives; 0: there is none, or none any more. */
static int sweep_one(struct ledger *ledger, const char *name, struct error *err)
{
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;

	if (open_vm(ledger, name, &vm) < 0)
		return is_no_vm(errno) ? 0 : cannot_open(ledger, name, err);
	if (is_held(&vm) && (!is_orphan(&vm) || stays_held(&vm)))
		return 1;
	if (vm.lock >= 0)
		remove_dead(ledger, &vm);
	else
		/* No VM's, unless its launcher died before it had the lock. */
		unlinkat(ledger->dirfd, name, AT_REMOVEDIR);
	return 0;
}

static void free_names(char **names, size_t count)
{
	for (size_t i = 0; i < count; i++)
		free(names[i]);
	free(names);
}

/* 1 and the next name that the directory has, 0 after the last. */
static int next_name(const struct ledger *ledger, DIR *dir, const char **name, struct error *err)
{
	struct dirent *entry;

	do {
		errno = 0;
		entry = readdir(dir);
	} while (entry && entry->d_name[0] == '.');
	if (!entry && errno)
		return error_set(err, EXIT_FAILED, "cannot read %s: %s", ledger->path,
		                 strerror(errno));
	*name = entry ? entry->d_name : NULL;
	return entry != NULL;
}

int ledger_sweep(struct ledger *ledger, char ***names, size_t *count, struct error *err)
{
	const char *name;
	int result;
	DIR *dir;

	*names = NULL;
	*count = 0;
	if (ledger->dirfd < 0)
		return 0;
	int copy = openat(ledger->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = copy < 0 ? NULL : fdopendir(copy);
	if (!dir)
		return error_set(err, EXIT_FAILED, "cannot read %s: %s", ledger->path,
		                 strerror(errno));
	while ((result = next_name(ledger, dir, &name, err)) > 0 &&
	       (result = sweep_one(ledger, name, err)) >= 0)
		if (result)
			*array_append(names, count) = xstrdup(name);
	closedir(dir);
	if (result < 0) {
		free_names(*names, *count);
		*names = NULL;
		*count = 0;
		return -1;
	}
	if (*count)
		qsort(*names, *count, sizeof(**names), compare_names);
	return 0;
}

/* A VM that has no plan yet, as it waits for room or was refused, or no longer, as it has ended:
 * its launcher still has the lock, but not the ledger's. */
static bool holds_nothing(const struct vm_dir *vm)
{
	cleanup_vm_state struct vm_state state = { 0 };
	cleanup_error struct error ignored = ERROR_INIT;

	if (!vm_lacks(vm, VM_PLAN))
		return false;
	return vm_lacks(vm, VM_STATE) || (vm_read_state(vm, &state, &ignored) == 0 && !state.qemu &&
	                                  strcmp(state.state, "starting") == 0);
}

/* Only CPUs: a promise of memory would be a user's word, and could be of all that there is. What a
 * user's VM has taken, the nodes show. */
static int add_users(struct claims *claims, struct error *err)
{
	cleanup_user_vms struct user_vms vms = { 0 };

	if (user_vms_read(&vms, err) < 0)
		return -1;
	for (size_t i = 0; i < vms.count; i++)
		claims_add_plan(claims, vms.list[i].plan);
	claims->left_out = take_pointer(&vms.left_out);
	return 0;
}

struct claims *ledger_claims(struct ledger *ledger, struct error *err)
{
	cleanup_claims struct claims *claims = claims_new();
	char **names;
	size_t count;
	int result = 0;

	if (ledger_sweep(ledger, &names, &count, err) < 0)
		return NULL;
	for (size_t i = 0; i < count && result == 0; i++) {
		cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;
		cleanup_plan struct plan *plan = NULL;
		if (open_vm(ledger, names[i], &vm) < 0) {
			result = is_no_vm(errno) ? 0 : cannot_open(ledger, names[i], err);
			continue;
		}
		if (holds_nothing(&vm))
			continue;
		plan = vm_read_plan(&vm, err);
		if (plan) {
			cleanup_error struct error none_yet = ERROR_INIT;
			cleanup_vm_state struct vm_state state = { 0 };
			vm_read_state(&vm, &state, &none_yet);
			claims_add_plan(claims, plan);
			promises_add(claims, plan, &state, reserve_is_owed(&vm));
		} else if (holds_nothing(&vm)) {
			error_clear(err); /* it has just ended */
		} else {
			result = error_prefix(
			    err, "VM \"%s\" runs, but what it holds is unknown: ", names[i]);
		}
	}
	free_names(names, count);
	if (result < 0 || add_users(claims, err) < 0)
		return NULL;
	return take_pointer(&claims);
}

bool ledger_give_back(void)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_error struct error ignored = ERROR_INIT;
	char **names;
	size_t count;

	if (ledger_open(&ledger, false, &ignored) < 0 ||
	    ledger_sweep(&ledger, &names, &count, &ignored) < 0)
		return false;
	free_names(names, count);
	return ledger.gave_back;
}

int ledger_read_claims(bool live, struct claims **claims, struct error *err)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	bool has_runtime =
	    geteuid() == 0 || getenv("XDG_RUNTIME_DIR") || getenv("ANCLA_RUNTIME_DIR");

	if (!live || !has_runtime)
		*claims = claims_new();
	else if (ledger_open(&ledger, false, err) == 0)
		*claims = ledger_claims(&ledger, err);
	return *claims ? 0 : -1;
}

/* What is there after a sweep and not a VM's is not ours to remove. */
static int refuse_existing(const struct ledger *ledger, const char *name, struct error *err)
{
	cleanup_vm_dir struct vm_dir vm = VM_DIR_INIT;

	bool opened = open_vm(ledger, name, &vm) == 0;
	if (!opened && !is_no_vm(errno))
		return cannot_open(ledger, name, err);
	bool free = !opened || !is_held(&vm);
	if (free && vm.dirfd >= 0 && vm_has_cgroup(&vm))
		return error_set(
		    err, EXIT_FAILED,
		    "a VM named \"%s\" has ended, but processes are still in its "
		    "cgroups, which %s/%s names; end them, or give this one another name",
		    name, vm.path, VM_CGROUP);
	if (free)
		return error_set(
		    err, EXIT_FAILED,
		    "%s/%s exists, but is no VM's: it is not a directory, or holds files "
		    "that are not ancla's; remove it, or give the VM another name",
		    ledger->path, name);
	return error_set(err, EXIT_FAILED,
	                 "a VM named \"%s\" is already running; `ancla stop %s` ends it, or give "
	                 "this one another name",
	                 name, name);
}

/* 0, or -1 and errno; what is made so far is in `vm`. A VM of that name that is just ending removes
 * its directory without asking, by name, once: without its lock, which goes last, that is empty,
 * and so is the new one, which may be the one that goes, until it has a lock. */
static int make_vm(const struct ledger *ledger, const char *name, struct vm_dir *vm)
{
	for (int tries = 0; tries < REMOVE_ROUNDS; tries++) {
		cleanup_vm_dir struct vm_dir made = VM_DIR_INIT;
		unlinkat(ledger->dirfd, name, AT_REMOVEDIR);
		if (mkdirat(ledger->dirfd, name, 0700) < 0)
			return -1;
		if (open_vm(ledger, name, &made) == 0)
			made.lock =
			    openat(made.dirfd, "lock", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (made.lock < 0 && errno == ENOENT)
			continue;
		*vm = made;
		made = (struct vm_dir)VM_DIR_INIT;
		return vm->lock < 0 ? -1 : flock(vm->lock, LOCK_EX | LOCK_NB);
	}
	errno = ENOENT;
	return -1;
}

int ledger_add(struct ledger *ledger, const char *name, struct vm_dir *vm, struct error *err)
{
	if (make_vm(ledger, name, vm) == 0)
		return 0;
	if (vm->dirfd < 0 && errno == EEXIST)
		return refuse_existing(ledger, name, err);
	error_set(err, EXIT_FAILED, "cannot make %s/%s and lock it: %s", ledger->path, name,
	          strerror(errno));
	if (vm->dirfd >= 0)
		vm_dir_remove(vm);
	vm_dir_close(vm);
	return -1;
}

/* Says why it is not there. */
static void refuse_name(const char *name, char **names, size_t count, struct error *err)
{
	cleanup_user_vms struct user_vms users = { 0 };
	cleanup_error struct error ignored = ERROR_INIT;
	const char *near = nearest_word(name, (const char *const *)names, count);
	const char *slash = strchr(name, '/');

	if (slash)
		user_vms_read(&users, &ignored);
	for (size_t i = 0; i < users.count; i++)
		if (strcmp(users.list[i].name, name) == 0) {
			error_set(err, EXIT_FAILED,
			          "only user %.*s can ask for the VM \"%s\", or change it",
			          (int)(slash - name), name, slash + 1);
			return;
		}
	error_set(err, EXIT_FAILED, "no VM \"%s\" runs%s%s%s `ancla list` shows those that do",
	          name, near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : ";");
}

int ledger_find(struct ledger *ledger, const char *name, struct vm_dir *vm, struct error *err)
{
	char **names;
	size_t count;
	bool found = false;

	if (ledger_sweep(ledger, &names, &count, err) < 0)
		return -1;
	for (size_t i = 0; i < count; i++)
		found |= strcmp(names[i], name) == 0;
	int result = found ? open_vm(ledger, name, vm) : -1;
	/* One that is just ending removes its directory without asking. */
	if (result < 0 && found && errno != ENOENT)
		error_set(err, EXIT_FAILED, "cannot open %s/%s: %s", ledger->path, name,
		          strerror(errno));
	else if (result < 0)
		refuse_name(name, names, count, err);
	free_names(names, count);
	return result;
}
