#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernel.h"
#include "launch.h"
#include "lock.h"
#include "quote.h"
#include "util.h"
#include "vm_client.h"

int vm_client_open(struct vm_client *client, const char *name, struct error *err)
{
	cleanup_ledger struct ledger ledger = LEDGER_INIT;

	if (ledger_open(&ledger, false, err) < 0 ||
	    ledger_find(&ledger, name, &client->dir, err) < 0)
		return -1;
	ledger_close(&ledger);
	if (vm_read_state(&client->dir, &client->state, err) < 0)
		return error_prefix(err, "VM \"%s\" is ending: ", name);
	client->plan = vm_read_plan(&client->dir, err);
	if (vm_client_is_starting(client) && !client->state.qemu) {
		error_clear(err); /* there is a plan once there is room */
		return 0;
	}
	if (!client->plan)
		return error_prefix(err, "VM \"%s\" is ending: ", name);
	client->pidfd = kernel_pidfd(client->state.qemu, client->state.qemu_start);
	if (client->pidfd < 0 && errno == ESRCH)
		return error_set(err, EXIT_FAILED, "VM \"%s\" is ending: its QEMU (%d) is gone",
		                 name, client->state.qemu);
	if (client->pidfd < 0)
		return error_set(err, EXIT_FAILED, "cannot reach QEMU of \"%s\" (%d): %s", name,
		                 client->state.qemu, strerror(errno));
	return 0;
}

bool vm_client_is_starting(const struct vm_client *client)
{
	return client->state.state && strcmp(client->state.state, "starting") == 0;
}

static int limit(const struct vm_client *client, int usual_ms)
{
	return client->patience_ms ? client->patience_ms : usual_ms;
}

static int take_monitor(struct vm_client *client, struct error *err)
{
	int limit_ms = limit(client, LIMIT_MONITOR_MS);
	pid_t holder;

	client->lock = vm_open_monitor_lock(&client->dir);
	if (client->lock < 0)
		return error_set(err, EXIT_FAILED, "cannot lock the monitor of \"%s\": %s",
		                 client->dir.name, strerror(errno));
	if (lock_take(client->lock, limit_ms, &holder) == 0)
		return 0;
	if (errno != ETIMEDOUT)
		return error_set(err, EXIT_FAILED, "cannot lock the monitor of \"%s\": %s",
		                 client->dir.name, strerror(errno));
	return error_set(err, EXIT_FAILED,
	                 "the monitor of \"%s\" is kept busy by process %d for more than %d s",
	                 client->dir.name, holder, limit_ms / 1000);
}

static int qmp_failed(struct vm_client *client, const struct qmp_error *qmp_error,
                      struct error *err)
{
	client->failure = client->qmp ? qmp_error->kind : QMP_ERROR_CLOSED;
	return error_set(err, EXIT_FAILED, "VM \"%s\": %s", client->dir.name, qmp_error->message);
}

/* Who had the monitor before may have changed it. */
static int read_plan_again(struct vm_client *client, struct error *err)
{
	struct plan *plan = vm_read_plan(&client->dir, err);

	if (!plan)
		return error_prefix(err, "VM \"%s\" is ending: ", client->dir.name);
	plan_free(client->plan);
	client->plan = plan;
	if (cgroup_is_needed(plan))
		return vm_read_cgroup(&client->dir, &plan->cgroup, err);
	return 0;
}

int vm_client_lock(struct vm_client *client, struct error *err)
{
	return take_monitor(client, err) < 0 ? -1 : read_plan_again(client, err);
}

int vm_client_connect(struct vm_client *client, struct error *err)
{
	cleanup_free char *path = xasprintf("%s/%s", client->dir.path, VM_COMMANDS);
	struct qmp_error qmp_error;
	int fd;

	if (vm_client_is_starting(client))
		return error_set(
		    err, EXIT_FAILED,
		    "VM \"%s\" is being started (by process %d): it can be asked once it "
		    "runs; `ancla stop %s` ends the start",
		    client->dir.name, client->state.launcher, client->dir.name);
	if (kernel_is_stopped(client->state.qemu))
		return error_set(err, EXIT_FAILED,
		                 "QEMU of \"%s\" (%d) is stopped by a signal and cannot answer; "
		                 "`kill -CONT %d` lets it go on",
		                 client->dir.name, client->state.qemu, client->state.qemu);
	if (vm_client_lock(client, err) < 0)
		return -1;
	fd = qmp_connect_at(client->dir.dirfd, VM_COMMANDS, path, &qmp_error);
	if (fd < 0)
		return qmp_failed(client, &qmp_error, err);
	client->qmp = qmp_new(fd, client->on_event, client->event_data);
	if (qmp_wait_ready(client->qmp, limit(client, LIMIT_REPLY_MS), &qmp_error) < 0)
		return qmp_failed(client, &qmp_error, err);
	return 0;
}

int vm_client_call(struct vm_client *client, const char *command, struct json_object *arguments,
                   struct json_object **reply, struct error *err)
{
	struct qmp_error qmp_error;

	client->failure = QMP_ERROR_NONE;
	if (qmp_call(client->qmp, command, arguments, limit(client, LIMIT_REPLY_MS), reply,
	             &qmp_error) < 0)
		return qmp_failed(client, &qmp_error, err);
	return 0;
}

int vm_client_command(struct vm_client *client, const char *command, struct error *err)
{
	return vm_client_call(client, command, NULL, NULL, err);
}

int vm_client_query(struct vm_client *client, struct error *err)
{
	static const char *const questions[] = { "query-status", "query-cpus-fast",
		                                 "query-iothreads" };
	struct json_object *replies[ARRAY_SIZE(questions)] = { NULL };
	unsigned ids[ARRAY_SIZE(questions)];
	struct qmp_error qmp_error;
	int result = 0;

	for (size_t i = 0; i < ARRAY_SIZE(questions) && result == 0; i++) {
		ids[i] = qmp_send(client->qmp, questions[i], NULL, &qmp_error);
		if (!ids[i])
			result = qmp_failed(client, &qmp_error, err);
	}
	for (size_t i = 0; i < ARRAY_SIZE(questions) && result == 0; i++)
		if (qmp_wait_reply(client->qmp, ids[i], limit(client, LIMIT_REPLY_MS), &replies[i],
		                   &qmp_error) < 0)
			result = qmp_failed(client, &qmp_error, err);
	if (result == 0) {
		const char *status = json_string(replies[0], "status");
		snprintf(client->run_state, sizeof(client->run_state), "%s",
		         status ? status : "unknown");
		blank_unprintable(client->run_state, strlen(client->run_state));
		/* vCPUs come and go by other means, too. */
		client->plan->vcpus_online = threads_count_vcpus(client->plan, replies[1]);
		result = threads_read(&client->threads, client->state.qemu, client->plan,
		                      replies[1], replies[2], err);
	}
	for (size_t i = 0; i < ARRAY_SIZE(questions); i++)
		json_object_put(replies[i]);
	return result;
}

bool vm_client_has_ended(const struct vm_client *client)
{
	if (client->pidfd < 0)
		return false;
	if (kernel_is_dying(client->state.qemu))
		return true;
	return (client->failure == QMP_ERROR_CLOSED || threads_are_dying(&client->threads)) &&
	       kernel_wait_gone(client->pidfd, LIMIT_DYING_MS);
}

const struct error *vm_client_blame(const struct vm_client *client, struct error *err)
{
	if (vm_client_has_ended(client)) {
		cleanup_free char *what = take_pointer(&err->message);
		error_set(err, EXIT_FAILED, "VM \"%s\" is ending: its QEMU (%d) is gone (%s)",
		          client->dir.name, client->state.qemu, what);
	}
	return err;
}

void vm_client_disconnect(struct vm_client *client)
{
	qmp_free(client->qmp);
	client->qmp = NULL;
	if (client->lock >= 0)
		close(client->lock);
	client->lock = -1;
}

void vm_client_close(struct vm_client *client)
{
	vm_client_disconnect(client);
	if (client->pidfd >= 0)
		close(client->pidfd);
	threads_free(&client->threads);
	plan_free(client->plan);
	vm_state_free(&client->state);
	vm_dir_close(&client->dir);
}
