/* What QEMU needs. */
#include <errno.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "privileges.h"
#include "privileges_parts.h"
#include "util.h"

#define KVM "/dev/kvm"

static uint64_t bit(int capability)
{
	return (uint64_t)1 << capability;
}

static void keep_own(struct plan_process *process)
{
	int count = getgroups(0, NULL);

	process->uid = geteuid();
	process->gid = getegid();
	process->groups = xcalloc((size_t)(count > 0 ? count : 0), sizeof(*process->groups));
	count = getgroups(count, process->groups);
	process->n_groups = count > 0 ? (size_t)count : 0;
}

/* Only root can: later commands must signal QEMU, read its maps and set its scheduling, too. */
static int may_switch(const struct user *user, struct error *err)
{
	static const int needed[] = { CAP_SETUID, CAP_SETGID, CAP_KILL, CAP_SYS_PTRACE,
		                      CAP_SYS_NICE };
	uint64_t missing = 0;

	if (geteuid() != 0)
		return error_set(err, EXIT_GRANT,
		                 "qemu.user is \"%s\", but only root can run QEMU as another user, "
		                 "and you are user %u; start ancla as root or as that user",
		                 user->name, geteuid());
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++)
		if (!has_capability(needed[i]))
			missing |= bit(needed[i]);
	if (!missing)
		return 0;
	cleanup_free char *names = capabilities_format(missing);
	return error_set(err, EXIT_GRANT,
	                 "qemu.user is \"%s\", but root may not run QEMU as another user here: it "
	                 "lacks %s",
	                 user->name, names);
}

static bool is_member(const struct user *user, gid_t gid)
{
	for (size_t i = 0; i < user->n_groups; i++)
		if (user->groups[i] == gid)
			return true;
	return false;
}

static void add_group(struct plan_process *process, gid_t gid)
{
	for (size_t i = 0; i < process->n_groups; i++)
		if (process->groups[i] == gid)
			return;
	*array_append(&process->groups, &process->n_groups) = gid;
}

/* Joins the group of one file or directory, if that is how the user gets at it. */
static void join_for_one(const struct user *user, const char *path, mode_t mode,
                         struct plan_process *process)
{
	struct stat status;

	if (stat(path, &status) == 0 && status.st_uid != user->uid &&
	    (status.st_mode & mode) != mode && (status.st_mode >> 3 & mode) == mode &&
	    is_member(user, status.st_gid))
		add_group(process, status.st_gid);
}

static void join_for_path(const struct user *user, const char *path, int mode,
                          struct plan_process *process)
{
	cleanup_free char *part = xstrdup(path);

	join_for_one(user, path, (mode_t)mode, process);
	for (char *slash = strchr(part + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		join_for_one(user, part, X_OK, process);
		*slash = '/';
	}
}

static void join_groups(const struct user *user, const struct opened_list *list,
                        struct plan_process *process)
{
	for (size_t i = 0; i < list->count; i++) {
		cleanup_free char *real = realpath(list->list[i].path, NULL);
		join_for_path(user, list->list[i].path, list->list[i].mode, process);
		if (real)
			join_for_path(user, real, list->list[i].mode, process);
	}
}

/* Tried and put back, as a capability may be that of a container, which does not count here. */
static bool limit_can_be_raised(void)
{
	struct rlimit unlimited = { RLIM_INFINITY, RLIM_INFINITY }, before;

	if (getrlimit(RLIMIT_MEMLOCK, &before) < 0 || setrlimit(RLIMIT_MEMLOCK, &unlimited) < 0)
		return false;
	setrlimit(RLIMIT_MEMLOCK, &before);
	return true;
}

struct checking {
	const struct opened_list *list;
	const char *who;
	struct error *err;
};

static int check(void *data)
{
	struct checking *checking = data;

	return opened_check(checking->list, checking->who, checking->err);
}

/* A file that root may open by its privilege alone (somebody's 0600, a home of 0700) is worth that
 * privilege: root named it. */
static int check_as_root(const struct opened_list *list, struct plan_process *process,
                         struct error *err)
{
	cleanup_error struct error without = ERROR_INIT;
	struct checking checking = { list, "", &without };

	if (geteuid() != 0 || !has_capability(CAP_DAC_OVERRIDE)) {
		checking.err = err;
		return check(&checking);
	}
	if (privileges_try(process, check, &checking, &without) == 0)
		return 0;
	process->capabilities |= bit(CAP_DAC_OVERRIDE);
	return opened_check(list, "", err);
}

static int check_as_user(const struct opened_list *list, const struct user *user,
                         struct plan_process *process, struct error *err)
{
	cleanup_free char *who = xasprintf("user \"%s\" (qemu.user) ", user->name);
	struct checking checking = { list, who, err };

	return privileges_try(process, check, &checking, err);
}

static int decide(const struct spec *spec, const struct caps *caps, enum accel accel,
                  struct plan_process *process, struct error *err)
{
	cleanup_user struct user user = { 0 };
	cleanup_opened struct opened_list list = { 0 };
	bool switches;

	if (spec->qemu.user && user_find(spec->qemu.user, &user, err) < 0)
		return -1;
	switches = spec->qemu.user && user.uid != geteuid();
	if (switches && may_switch(&user, err) < 0)
		return -1;
	if (opened_collect(spec, caps->binary, switches ? accel : ACCEL_UNSET, &list, err) < 0)
		return -1;
	/* A device of the host reads and writes the guest's memory, which so has to stay. */
	process->locks = spec->backing.locked || spec->n_hostdevs > 0;
	if (process->locks && !limit_can_be_raised() && has_capability(CAP_IPC_LOCK))
		process->capabilities |= bit(CAP_IPC_LOCK);
	process->sandbox = caps_has(caps, "option:sandbox");
	process->known = true;
	if (!switches) {
		keep_own(process);
		return check_as_root(&list, process, err);
	}
	process->uid = user.uid;
	process->gid = user.gid;
	join_groups(&user, &list, process);
	return check_as_user(&list, &user, process, err);
}

int privileges_decide(const struct spec *spec, const struct caps *caps, enum accel accel,
                      struct plan_process *process, struct error *err)
{
	struct plan_process decided = { 0 };

	if (decide(spec, caps, accel, &decided, err) < 0) {
		plan_process_free(&decided);
		return -1;
	}
	*process = decided;
	return 0;
}

bool privileges_is_own_user(const char *name)
{
	cleanup_user struct user user = { 0 };
	cleanup_error struct error ignored = ERROR_INIT;

	return user_find(name, &user, &ignored) == 0 && user.uid == geteuid();
}

static int try_kvm(void *data)
{
	return kvm_works(data) ? 0 : -1;
}

bool privileges_kvm_works(const struct spec *spec, char **reason)
{
	cleanup_user struct user user = { 0 };
	cleanup_error struct error ignored = ERROR_INIT;
	struct plan_process process = { 0 };
	char *why = NULL;

	if (!spec->qemu.user || user_find(spec->qemu.user, &user, &ignored) < 0 ||
	    user.uid == geteuid() || may_switch(&user, &ignored) < 0)
		return kvm_works(reason);
	process.uid = user.uid;
	process.gid = user.gid;
	join_for_path(&user, KVM, R_OK | W_OK, &process);
	bool works = privileges_try(&process, try_kvm, &why, &ignored) == 0;
	plan_process_free(&process);
	if (!works)
		*reason = xasprintf("as user \"%s\": %s", user.name, why ? why : ignored.message);
	free(why);
	return works;
}
