#include <signal.h>

#include "live.h"
#include "live_limits.h"
#include "supervise.h"
#include "util.h"

void live_defer_signals(void)
{
	sigset_t set = supervise_wishes();

	sigprocmask(SIG_BLOCK, &set, NULL);
}

int live_begin(struct live *live, const char *name, struct error *err)
{
	struct vm_client *client = &live->client;

	if (vm_client_open(client, name, err) < 0)
		return -1;
	live->host = host_load(NULL, err);
	if (!live->host || vm_client_connect(client, err) < 0 || vm_client_query(client, err) < 0)
		return -1;
	live->plan = plan_copy(client->plan);
	return 0;
}

int live_lock(struct live *live, struct error *err)
{
	if (ledger_open(&live->ledger, false, err) < 0)
		return -1;
	live->others = ledger_claims(&live->ledger, err);
	if (!live->others)
		return -1;
	claims_drop(live->others, live->plan->name);
	return 0;
}

int live_write(struct live *live, struct spec_save *save, struct error *err)
{
	const struct vm_client *client = &live->client;
	cleanup_error struct error undo = ERROR_INIT;

	if (vm_write_plan(&client->dir, live->plan, err) < 0)
		return -1;
	if (!save || spec_save_commit(save, err) == 0)
		return 0;
	if (vm_write_plan(&client->dir, client->plan, &undo) < 0)
		error_prefix(err, "%s; before that: ", undo.message);
	return -1;
}

int live_commit(struct live *live, struct spec_save *save, struct error *err)
{
	cleanup_error struct error undo = ERROR_INIT;
	struct vm_client *client = &live->client;

	live_defer_signals();
	if (live_limits_apply(live, err) < 0)
		return -1;
	if (apply_plan(client->plan, live->plan, &client->threads, &live->moves, err) == 0) {
		if (live_write(live, save, err) == 0)
			return 0;
		if (apply_undo(&live->moves, &undo) < 0)
			error_prefix(err, "%s; before that: ", undo.message);
	}
	error_clear(&undo);
	if (live_limits_undo(live, &undo) < 0)
		error_prefix(err, "%s; before that: ", undo.message);
	return -1;
}

void live_end(struct live *live)
{
	moves_free(&live->moves);
	plan_free(live->plan);
	claims_free(live->others);
	ledger_close(&live->ledger);
	host_free(live->host);
	vm_client_close(&live->client);
}
