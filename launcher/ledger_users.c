#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "ledger_users.h"
#include "quote.h"
#include "users.h"
#include "util.h"

#define USERS "/run/user"
#define LOCKS_LIMIT (16 << 20)
#define NAME_SHOWN 64 /* bytes */

struct reading {
	char *locks; /* /proc/locks */
	struct user_vm *list;
	size_t count;
};

/* Opens a directory in another, if it is the user's alone to write. */
static int open_owned(int above, const char *name, uid_t user)
{
	cleanup_close int fd = openat(above, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0 || status.st_uid != user || status.st_mode & 022)
		return -1;
	return take_fd(&fd);
}

/* Whether a process that is not gone holds the file's flock(2). */
static bool is_locked(const struct reading *r, int dirfd)
{
	struct stat status;

	if (fstatat(dirfd, "lock", &status, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	cleanup_free char *file = xasprintf(" %02x:%02x:%lu ", major(status.st_dev),
	                                    minor(status.st_dev), (unsigned long)status.st_ino);
	for (const char *found = strstr(r->locks, file); found; found = strstr(found + 1, file)) {
		const char *line = found;
		while (line > r->locks && line[-1] != '\n')
			line--;
		const char *flock = strstr(line, " FLOCK ");
		if (flock && flock < found)
			return true;
	}
	return false;
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

	dir.dirfd = open_owned(runtime, name, user);
	if (dir.dirfd < 0 || !is_locked(r, dir.dirfd))
		return;
	dir.name = xstrdup(name);
	dir.path = xasprintf(USERS "/%u/ancla/%s", user, name);
	struct plan *plan = vm_read_plan(&dir, &ignored);
	if (!plan)
		return;
	cleanup_free char *owner = user_name(user);
	cleanup_free char *shown = escaped(name);
	struct user_vm *vm = array_append(&r->list, &r->count);
	vm->name = xasprintf("%s/%s", owner, shown);
	vm->plan = plan;
	replace(&plan->name, xstrdup(vm->name));
	for (size_t i = 0; i < plan->n_iothreads; i++)
		replace(&plan->iothreads[i].id, escaped(plan->iothreads[i].id));
	if (vm_read_state(&dir, &vm->state, &ignored) == 0)
		replace(&vm->state.state, escaped(vm->state.state));
}

static void read_user(struct reading *r, int users, const char *number)
{
	char *end;
	uid_t user = (uid_t)strtoul(number, &end, 10);
	cleanup_close int above = *end ? -1 : open_owned(users, number, user);
	int runtime = above < 0 ? -1 : open_owned(above, "ancla", user);
	DIR *dir = runtime < 0 ? NULL : fdopendir(runtime);
	struct dirent *entry;

	while (dir && (entry = readdir(dir)))
		if (entry->d_name[0] != '.')
			read_vm(r, runtime, entry->d_name, user);
	if (dir)
		closedir(dir);
	else if (runtime >= 0)
		close(runtime);
}

static int compare(const void *a, const void *b)
{
	return strcmp(((const struct user_vm *)a)->name, ((const struct user_vm *)b)->name);
}

void user_vms_read(struct user_vm **list, size_t *count)
{
	cleanup_error struct error ignored = ERROR_INIT;
	struct reading r = { 0 };
	const char *own = getenv("ANCLA_RUNTIME_DIR");
	DIR *users = geteuid() == 0 && !(own && *own) ? opendir(USERS) : NULL;
	struct dirent *entry;

	*list = NULL;
	*count = 0;
	if (!users)
		return;
	if (read_file("/proc/locks", LOCKS_LIMIT, &r.locks, NULL, &ignored) == 0)
		while ((entry = readdir(users)))
			if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9')
				read_user(&r, dirfd(users), entry->d_name);
	closedir(users);
	free(r.locks);
	if (r.count)
		qsort(r.list, r.count, sizeof(*r.list), compare);
	*list = r.list;
	*count = r.count;
}

void user_vms_free(struct user_vm *list, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		free(list[i].name);
		plan_free(list[i].plan);
		vm_state_free(&list[i].state);
	}
	free(list);
}
