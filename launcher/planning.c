#include <stdlib.h>

#include "argv.h"
#include "launch.h"
#include "privileges.h"
#include "util.h"

static int choose_accel(struct planning *planning, const struct spec *spec, struct error *err)
{
	cleanup_free char *reason = NULL;

	planning->accel = spec->qemu.accel;
	if (planning->accel == ACCEL_TCG)
		return 0;
	if (privileges_kvm_works(spec, &reason)) {
		planning->accel = ACCEL_KVM;
		return 0;
	}
	if (planning->accel == ACCEL_KVM)
		return error_set(err, EXIT_GRANT,
		                 "qemu.accel is kvm, but KVM does not work here: %s; load the kvm "
		                 "module, get access to /dev/kvm (group kvm), or use tcg",
		                 reason);
	planning->accel = ACCEL_TCG;
	planning->accel_reason = take_pointer(&reason);
	return 0;
}

static int load_caps(struct planning *planning, const struct spec *spec, const char *caps_file,
                     struct error *err)
{
	if (caps_file) {
		planning->caps = caps_read(caps_file, err);
		if (!planning->caps)
			return -1;
		if (spec->qemu.accel != ACCEL_UNSET && spec->qemu.accel != planning->caps->accel)
			return error_set(
			    err, EXIT_GRANT,
			    "%s holds what that QEMU can do with %s, but qemu.accel is %s",
			    caps_file, accel_name(planning->caps->accel),
			    accel_name(spec->qemu.accel));
		planning->accel = planning->caps->accel;
		return 0;
	}
	if (choose_accel(planning, spec, err) < 0)
		return -1;
	planning->caps =
	    caps_load(spec->qemu.binary, planning->accel, guest_cpu_is_chosen(spec), err);
	return planning->caps ? 0 : -1;
}

int planning_begin(struct planning *planning, const struct spec *spec, const char *host,
                   const char *caps_file, struct error *err)
{
	planning->host = host_load(host, err);
	/* Of the isolated CPUs, some may be a dead VM's. */
	if (planning->host && !host && !hwloc_bitmap_iszero(planning->host->isolated) &&
	    ledger_give_back()) {
		host_free(planning->host);
		planning->host = host_load(NULL, err);
	}
	if (!planning->host)
		return -1;
	for (size_t i = 0; i < spec->n_hostdevs; i++)
		host_find_pci(planning->host, spec->hostdevs[i].pci);
	for (size_t i = 0; i < spec->n_disks; i++)
		host_find_disk(planning->host, spec->disks[i].file);
	return load_caps(planning, spec, caps_file, err);
}

void planning_warn(const struct planning *planning, const struct spec *spec,
                   const struct claims *claims, struct plan *plan)
{
	if (claims->left_out)
		plan_warn(plan, "%s", claims->left_out);
	if (planning->accel_reason)
		plan_warn(plan, "qemu.accel is tcg, as KVM does not work here: %s",
		          planning->accel_reason);
	if (spec->qemu.n_args)
		plan_warn(plan,
		          "qemu.args: what these %zu words give QEMU is not placed: its memory may "
		          "be anywhere, its threads count as the emulator's",
		          spec->qemu.n_args);
}

void planning_end(struct planning *planning)
{
	host_free(planning->host);
	caps_free(planning->caps);
	free(planning->accel_reason);
	*planning = (struct planning){ 0 };
}
