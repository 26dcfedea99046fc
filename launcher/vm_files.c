/* The files in a VM's directory. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../qmp/qmp.h"
#include "ledger.h"
#include "names.h"
#include "quote.h"
#include "util.h"

/* plan.json of the largest VM is below this: 4,096 vCPUs, each with a mask of every second CPU. */
#define FILE_LIMIT (128 << 20)

/* The file of a user, who may have put anything in its place: no link is followed, and no FIFO
 * waited for; and what is somebody else's counts under one name only. -1 and errno. */
static int open_regular(const struct vm_dir *vm, const char *name)
{
	cleanup_close int fd =
	    openat(vm->dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat status;

	if (fd < 0 || fstat(fd, &status) < 0)
		return -1;
	if (!S_ISREG(status.st_mode)) {
		errno = EINVAL;
		return -1;
	}
	if (vm->budget && status.st_nlink != 1) {
		errno = EMLINK;
		return -1;
	}
	return take_fd(&fd);
}

/* As read_fd() does, within what may be read of the VM. */
static int read_within(const struct vm_dir *vm, int fd, const char *path, char **text,
                       struct error *err)
{
	struct vm_budget *budget = vm->budget;
	size_t length;

	if (read_fd(fd, path, budget ? budget->bytes : FILE_LIMIT, text, &length, err) == 0) {
		if (budget)
			budget->bytes -= length;
		return 0;
	}
	if (budget)
		*budget = (struct vm_budget){ .exceeded = true };
	return -1;
}

/* json-c takes some 150 bytes for a value, were it three in the file. A plan of 4,096 vCPUs and as
 * many iothreads has some 80,000. */
#define VALUES_MAX 250000

/* As json_parse() reads it: only '"' quotes, and nothing is a comment. */
static bool has_too_many_values(const char *text)
{
	size_t values = 0;
	bool quoted = false;

	for (const char *p = text; *p && values <= VALUES_MAX; p++) {
		if (*p == '"')
			quoted = !quoted;
		else if (quoted && *p == '\\' && p[1])
			p++;
		else if (!quoted)
			values += *p == ',' || *p == '[' || *p == '{';
	}
	return values > VALUES_MAX;
}

struct json_object *vm_read_json(const struct vm_dir *vm, const char *name, struct error *err)
{
	cleanup_free char *path = xasprintf("%s/%s", vm->path, name);
	cleanup_free char *text = NULL;
	cleanup_close int fd = open_regular(vm, name);
	struct json_object *json;

	if (fd < 0) {
		error_set(err, EXIT_FAILED, "cannot open %s: %s", path, strerror(errno));
		return NULL;
	}
	if (read_within(vm, fd, path, &text, err) < 0)
		return NULL;
	if (has_too_many_values(text)) {
		error_set(err, EXIT_FAILED, "%s has more than %d values", path, VALUES_MAX);
		return NULL;
	}
	json = json_parse(text);
	if (!json)
		error_set(err, EXIT_FAILED, "%s is not JSON", path);
	return json;
}

int vm_write_json(const struct vm_dir *vm, const char *name, struct json_object *json,
                  struct error *err)
{
	const char *text = json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN);

	if (write_file_atomic(vm->dirfd, name, text, err) < 0)
		return error_prefix(err, "%s: ", vm->path);
	return 0;
}

struct plan *vm_read_plan(const struct vm_dir *vm, struct error *err)
{
	cleanup_json struct json_object *json = vm_read_json(vm, VM_PLAN, err);
	struct plan *plan = json ? plan_from_json(json, err) : NULL;

	if (json && !plan)
		error_prefix(err, "%s/%s: ", vm->path, VM_PLAN);
	return plan;
}

int vm_write_plan(const struct vm_dir *vm, const struct plan *plan, struct error *err)
{
	cleanup_json struct json_object *json = plan_to_json(plan);

	return vm_write_json(vm, VM_PLAN, json, err);
}

bool vm_lacks(const struct vm_dir *vm, const char *name)
{
	return faccessat(vm->dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT;
}

bool vm_has_cgroup(const struct vm_dir *vm)
{
	return !vm_lacks(vm, VM_CGROUP);
}

int vm_read_cgroup(const struct vm_dir *vm, struct cgroup **cgroup, struct error *err)
{
	cleanup_json struct json_object *json = NULL;

	if (!vm_has_cgroup(vm))
		return 0;
	json = vm_read_json(vm, VM_CGROUP, err);
	if (!json)
		return -1;
	struct cgroup *read = xcalloc(1, sizeof(*read));
	if (cgroup_from_json(json, read, err) == 0) {
		*cgroup = read;
		return 0;
	}
	free(read);
	return error_prefix(err, "%s/%s: ", vm->path, VM_CGROUP);
}

int vm_write_cgroup(const struct vm_dir *vm, const struct cgroup *cgroup, struct error *err)
{
	cleanup_json struct json_object *json = cgroup_to_json(cgroup);

	return write_file_atomic(vm->dirfd, VM_CGROUP,
	                         json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN), err);
}

static const char *text_of(struct json_object *json, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(json, key, &value) &&
	               json_object_is_type(value, json_type_string)
	           ? json_object_get_string(value)
	           : "";
}

/* As long as it says nothing else, a VM ends with its guest. */
static enum life_action action_of(struct json_object *json, const char *key)
{
	int value = value_of(&names_action, text_of(json, key));

	return value < 0 ? ACTION_DESTROY : (enum life_action)value;
}

static int64_t number_of(struct json_object *json, const char *key)
{
	struct json_object *value;

	return json_object_object_get_ex(json, key, &value) ? json_object_get_int64(value) : 0;
}

/* 0, which is nobody, for what is no process id. */
static pid_t pid_of(struct json_object *json, const char *key)
{
	int64_t number = number_of(json, key);

	return number > 0 && number <= INT_MAX ? (pid_t)number : 0;
}

int vm_read_state(const struct vm_dir *vm, struct vm_state *state, struct error *err)
{
	cleanup_json struct json_object *json = vm_read_json(vm, VM_STATE, err);

	if (!json)
		return -1;
	if (!json_object_is_type(json, json_type_object))
		return error_set(err, EXIT_FAILED, "%s/%s is not an object", vm->path, VM_STATE);
	state->state = xstrdup(text_of(json, "state"));
	state->spec = xstrdup(text_of(json, "spec"));
	state->serial = xstrdup(text_of(json, "serial"));
	state->console = *text_of(json, "console") ? xstrdup(text_of(json, "console")) : NULL;
	state->launcher = pid_of(json, "launcher");
	state->launcher_start = (uint64_t)number_of(json, "launcher-start");
	state->qemu = pid_of(json, "qemu");
	state->qemu_start = (uint64_t)number_of(json, "qemu-start");
	state->started = number_of(json, "started");
	state->actions.on_poweroff = action_of(json, "on-poweroff");
	state->actions.on_reboot = action_of(json, "on-reboot");
	state->actions.on_crash = action_of(json, "on-crash");
	return 0;
}

int vm_write_state(const struct vm_dir *vm, const struct vm_state *state, struct error *err)
{
	cleanup_json struct json_object *json = json_object_new_object();

	json_add_string(json, "state", state->state);
	json_add_string(json, "spec", state->spec);
	json_add_string(json, "serial", state->serial);
	if (state->console)
		json_add_string(json, "console", state->console);
	json_add_int(json, "launcher", state->launcher);
	json_add_int(json, "launcher-start", (int64_t)state->launcher_start);
	json_add_int(json, "qemu", state->qemu);
	json_add_int(json, "qemu-start", (int64_t)state->qemu_start);
	json_add_int(json, "started", state->started);
	json_add_string(json, "on-poweroff", name_of(&names_action, state->actions.on_poweroff));
	json_add_string(json, "on-reboot", name_of(&names_action, state->actions.on_reboot));
	json_add_string(json, "on-crash", name_of(&names_action, state->actions.on_crash));
	return vm_write_json(vm, VM_STATE, json, err);
}

int vm_write_threads(const struct vm_dir *vm, const struct threads *threads, struct error *err)
{
	cleanup_json struct json_object *json = json_object_new_object();
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; i < threads->count; i++) {
		struct json_object *item = json_object_new_object();
		json_add_string(item, "role", thread_role_name(threads->list[i].role));
		json_add_int(item, "index", threads->list[i].index);
		json_add_int(item, "tid", threads->list[i].tid);
		json_object_array_add(list, item);
	}
	json_object_object_add(json, "threads", list);
	return vm_write_json(vm, VM_THREADS, json, err);
}

static void take_thread(struct json_object *item, const struct plan *plan, struct threads *threads)
{
	int64_t index = number_of(item, "index"), tid = number_of(item, "tid");
	const char *role = text_of(item, "role");

	/* One that has ended since is nobody's any more. */
	cleanup_free char *path = xasprintf("/proc/%d/task/%lld", threads->pid, (long long)tid);
	if (tid <= 0 || access(path, F_OK) < 0)
		return;
	if (strcmp(role, "vcpu") == 0 && index >= 0 && index < (int64_t)plan->n_vcpus)
		threads_add(threads, THREAD_VCPU, (int)index, (pid_t)tid);
	else if (strcmp(role, "iothread") == 0 && index >= 0 && index < (int64_t)plan->n_iothreads)
		threads_add(threads, THREAD_IOTHREAD, (int)index, (pid_t)tid);
}

int vm_read_threads(const struct vm_dir *vm, const struct plan *plan, struct threads *threads,
                    struct error *err)
{
	cleanup_json struct json_object *json = vm_read_json(vm, VM_THREADS, err);
	struct json_object *list;

	if (!json)
		return -1;
	if (!json_object_object_get_ex(json, "threads", &list) ||
	    !json_object_is_type(list, json_type_array))
		return error_set(err, EXIT_FAILED, "%s/%s has no threads", vm->path, VM_THREADS);
	for (size_t i = 0; i < json_object_array_length(list); i++)
		take_thread(json_object_array_get_idx(list, i), plan, threads);
	return threads_complete(threads, plan, err);
}

void vm_state_free(struct vm_state *state)
{
	free(state->state);
	free(state->spec);
	free(state->serial);
	free(state->console);
	*state = (struct vm_state){ 0 };
}

int vm_listen(const struct vm_dir *vm, const char *name, struct error *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	cleanup_close int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* Through the descriptor: the directory's own path may be longer than a socket's may. */
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", vm->dirfd,
	         name);
	if (fd < 0 || fchmod(fd, 0600) < 0 ||
	    bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4) < 0)
		return error_set(err, EXIT_FAILED, "cannot listen on %s/%s: %s", vm->path, name,
		                 strerror(errno));
	return take_fd(&fd);
}

int vm_open_monitor_lock(const struct vm_dir *vm)
{
	return openat(vm->dirfd, VM_COMMANDS ".lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC,
	              0600);
}

int vm_connect(const struct vm_dir *vm, const char *name, struct error *err)
{
	cleanup_free char *path = xasprintf("%s/%s", vm->path, name);
	struct qmp_error qmp_error;
	int fd = qmp_connect_at(vm->dirfd, name, path, &qmp_error);

	return fd >= 0 ? fd : error_set(err, EXIT_FAILED, "%s", qmp_error.message);
}

char *vm_last_words(const struct vm_dir *vm)
{
	cleanup_close int fd = openat(vm->dirfd, VM_LOG, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	char text[1025];
	off_t end = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	off_t start = end > 1024 ? end - 1024 : 0;
	ssize_t got = fd < 0 ? 0 : pread(fd, text, 1024, start);
	char *words, *to, *line, *rest = text;
	int lines = 0;

	text[got > 0 ? got : 0] = '\0';
	for (ssize_t i = 0; i < got; i++) /* all of it is looked at, also behind a zero */
		text[i] = text[i] ? text[i] : ' ';
	for (char *p = text + strlen(text); p > text && lines < 6; p--)
		if (p[-1] == '\n' && p[0] && ++lines == 5)
			rest = p;
	words = to = xcalloc(strlen(rest) * 2 + 1, 1);
	while ((line = strsep(&rest, "\n"))) {
		if (!*line)
			continue;
		to += sprintf(to, "%s%s", to > words ? "; " : "", line);
	}
	/* They go to a terminal, and part of them may be of anybody's making. */
	blank_unprintable(words, strlen(words));
	return words;
}
