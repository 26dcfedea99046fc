#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cgroup.h"
#include "grants.h"
#include "launch.h"
#include "ledger.h"
#include "place.h"
#include "preflight.h"
#include "privileges.h"
#include "reserve.h"
#include "util.h"

static void need(struct grants *grants, const char *name, bool needed)
{
	for (size_t i = 0; i < grants->count && needed; i++)
		if (strcmp(grants->list[i].name, name) == 0)
			grants->list[i].needed = true;
}

static bool any_policy(const struct plan *plan)
{
	for (size_t i = 0; i < plan->n_memory; i++)
		if (plan->memory[i].host_nodes)
			return true;
	return false;
}

static bool any_grows(const struct plan *plan)
{
	for (size_t i = 0; i < plan->n_memory; i++)
		if (plan->memory[i].grow)
			return true;
	return false;
}

/* Adds a step of a launch as a grant that the spec needs; the error goes into it. */
static void add_step(struct grants *grants, const char *name, const char *good, int result,
                     struct error *err)
{
	grants_add(grants, result == 0, xstrdup(name), xstrdup(result == 0 ? good : err->message),
	           NULL)
	    ->needed = true;
	error_clear(err);
}

/* The placement says which huge pages, on which nodes, and which CPUs. */
static void add_placed(const struct spec *spec, struct planning *planning,
                       const struct claims *claims, struct plan *plan, struct grants *grants)
{
	cleanup_error struct error err = ERROR_INIT;
	int result = privileges_decide(spec, planning->caps, planning->accel, &plan->process, &err);

	need(grants, GRANT_KVM, planning->accel == ACCEL_KVM);
	need(grants, GRANT_POLICY, any_policy(plan));
	need(grants, GRANT_CGROUPS, cgroup_is_needed(plan));
	add_step(grants, "its files and devices", "can be opened by QEMU's user", result, &err);
	plan->process.locks = plan->locked || spec->n_hostdevs > 0;
	add_step(grants, "its scheduling and locked memory", "granted", preflight(spec, plan, &err),
	         &err);
	if (any_grows(plan))
		add_step(grants, "its huge pages", "are there, or can be reserved",
		         reserve_check(plan, planning->host, claims, &err), &err);
	if (cgroup_is_needed(plan)) {
		plan->cgroup = cgroup_choose(plan, getpid(), &err);
		add_step(grants, "its cgroup", "has its controllers", plan->cgroup ? 0 : -1, &err);
	}
}

int grants_of_spec(const struct spec *spec, struct grants *grants, struct error *err)
{
	cleanup_planning struct planning planning = { 0 };
	cleanup_claims struct claims *claims = NULL;
	cleanup_plan struct plan *plan = NULL;
	cleanup_error struct error why = ERROR_INIT;

	need(grants, GRANT_RUNTIME, true);
	need(grants, GRANT_VFIO, spec->n_hostdevs > 0);
	need(grants, GRANT_USER,
	     spec->qemu.user != NULL && !privileges_is_own_user(spec->qemu.user));
	if (planning_begin(&planning, spec, NULL, NULL, &why) < 0) {
		add_step(grants, "its QEMU", "", -1, &why);
		return 0;
	}
	if (ledger_read_claims(true, &claims, err) < 0)
		return -1;
	claims_drop(claims, spec->name);
	plan = place(spec, planning.host, claims, planning.accel, &why);
	add_step(grants, "its placement", "CPUs, nodes and pages are there", plan ? 0 : -1, &why);
	if (plan)
		add_placed(spec, &planning, claims, plan, grants);
	return 0;
}
