#include <string.h>

#include "names.h"
#include "plan.h"
#include "spec.h"
#include "util.h"

#define NAMES(table, ...)                                                                          \
	static const char *const table##_list[] = { __VA_ARGS__ };                                 \
	const struct name_table table = { table##_list, ARRAY_SIZE(table##_list) }

NAMES(names_accel, [ACCEL_UNSET] = "unset", [ACCEL_KVM] = "kvm", [ACCEL_TCG] = "tcg");
NAMES(names_cpu_policy, [CPU_POLICY_UNSET] = "unset", [CPU_POLICY_SHARED] = "shared",
      [CPU_POLICY_DEDICATED] = "dedicated");
NAMES(names_smt, [SMT_UNSET] = "unset", [SMT_PREFER] = "prefer", [SMT_ISOLATE] = "isolate",
      [SMT_REQUIRE] = "require");
NAMES(names_emulator, [EMULATOR_UNSET] = "unset", [EMULATOR_SHARE] = "share",
      [EMULATOR_ISOLATE] = "isolate");
NAMES(names_scheduler, [SCHED_UNSET] = "other", [SCHED_OF_OTHER] = "other",
      [SCHED_OF_BATCH] = "batch", [SCHED_OF_IDLE] = "idle", [SCHED_OF_FIFO] = "fifo",
      [SCHED_OF_RR] = "rr");
NAMES(names_mem_policy, [MEM_POLICY_UNSET] = "default", [MEM_POLICY_STRICT] = "strict",
      [MEM_POLICY_PREFERRED] = "preferred", [MEM_POLICY_INTERLEAVE] = "interleave",
      [MEM_POLICY_RESTRICTIVE] = "restrictive");
NAMES(names_page_kind, [PAGES_UNSET] = "unset", [PAGES_PLAIN] = "none", [PAGES_THP] = "thp",
      [PAGES_HUGE] = "huge");
NAMES(names_backing, [BACKING_ANON] = "anonymous", [BACKING_MEMFD] = "memfd",
      [BACKING_PATH] = "path");
NAMES(names_action, [ACTION_DESTROY] = "destroy", [ACTION_RESTART] = "restart",
      [ACTION_PRESERVE] = "preserve", [ACTION_DUMP] = "dump");
NAMES(names_fill, [FILL_NONE] = "none", [FILL_LAUNCHER] = "launcher", [FILL_QEMU] = "qemu");

const char *name_of(const struct name_table *table, unsigned value)
{
	return value < table->count && table->names[value] ? table->names[value] : "?";
}

int value_of(const struct name_table *table, const char *name)
{
	for (size_t i = table->count; i-- > 0;)
		if (name && table->names[i] && strcmp(table->names[i], name) == 0)
			return (int)i;
	return -1;
}
