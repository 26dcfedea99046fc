/* Every wait has a limit, and all of them are in this table: the name in the code, milliseconds,
 * what is waited for, and what happens when the time is over. The manual page shows the same rows.
 */
#ifndef ANCLA_WAITS_H
#define ANCLA_WAITS_H

#include <stddef.h>

#include "../qmp/qmp.h"

#define LIMITS(ROW)                                                                                \
	ROW(LIMIT_LEDGER_MS, 10000,                                                                \
	    "the runtime directory's lock, while one other process holds it", "the command fails") \
	ROW(LIMIT_ROOM_MS, 60000,                                                                  \
	    "VMs that are being started to take their memory, where only then it is known "        \
	    "whether "                                                                             \
	    "there is room",                                                                       \
	    "the start fails")                                                                     \
	ROW(LIMIT_PROBE_MS, 30000, "what QEMU can do, when it is asked for the first time",        \
	    "the command fails") /* an emulated CPU on a busy machine needs 12 s */                \
	ROW(LIMIT_PROBE_EXIT_MS, 1000, "the end of a QEMU that was asked what it can do",          \
	    "it is killed")                                                                        \
	ROW(LIMIT_GREETING_MS, 30000,                                                              \
	    "QEMU's greeting; 1 s more for each 100 MiB that QEMU fills or locks",                 \
	    "QEMU is killed, the start fails")                                                     \
	ROW(LIMIT_CONNECT_MS, QMP_CONNECT_LIMIT_S * 1000, "QEMU's monitor to take a connection",   \
	    "the command fails")                                                                   \
	ROW(LIMIT_REPLY_MS, 10000, "QEMU's reply to a command",                                    \
	    "the command fails; at a start, QEMU is killed")                                       \
	ROW(LIMIT_FIRST_EXIT_MS, 100, "a vCPU's first return from the guest under KVM",            \
	    "threads are looked at without it")                                                    \
	ROW(LIMIT_DYING_MS, 5000, "the end of a QEMU whose threads, or monitor, are gone",         \
	    "the error is told without how QEMU ended")                                            \
	ROW(LIMIT_FILLER_MS, 1000, "the process that has filled guest memory, told to end",        \
	    "it is killed")                                                                        \
	ROW(LIMIT_BUSY_MS, 10000,                                                                  \
	    "pages of guest memory that somebody just uses, when they are moved: one of them to "  \
	    "become movable",                                                                      \
	    "they are said not to be movable, and the others are moved back")                      \
	ROW(LIMIT_MOVING_MS, 2000, "pages that the kernel is moving, when they are counted",       \
	    "they are counted as missing")                                                         \
	ROW(LIMIT_POWERDOWN_MS, 30000, "a guest that was asked to power down",                     \
	    "`ancla stop` makes QEMU quit (`--timeout` sets another limit), `ancla run` says so")  \
	ROW(LIMIT_PRESS_MS, 2000, "a guest that was asked to power down",                          \
	    "it is asked again, as one that boots does not hear it")                               \
	ROW(LIMIT_UNPLUG_MS, 20000, "a guest that was asked to let go of a vCPU",                  \
	    "the command fails; the guest may still do so")                                        \
	ROW(LIMIT_QUIT_MS, 5000, "QEMU's end after it was told to quit", "it is killed")           \
	ROW(LIMIT_FIRMWARE_MS, 30000,                                                              \
	    "the reset that a firmware makes of its own after a restart",                          \
	    "the next one is the guest's")                                                         \
	ROW(LIMIT_FIRMWARE_AGAIN_MS, 1000, "other resets of the firmware after that",              \
	    "the next one is the guest's")                                                         \
	ROW(LIMIT_DUMP_MS, 60000, "QEMU to dump the guest's memory; 1 s more for each 10 MiB",     \
	    "the dump is removed, QEMU quits")                                                     \
	ROW(LIMIT_KILL_MS, 5000, "the end of a QEMU that was killed",                              \
	    "the command fails, and says where to look")                                           \
	ROW(LIMIT_TIDY_MS, 30000, "the supervisor of a VM whose QEMU is gone, as it tidies up",    \
	    "`ancla stop` fails, and says who keeps the VM's name")                                \
	ROW(LIMIT_UNLOCK_MS, 1000, "the lock of a QEMU that is dying", "the VM counts as alive")   \
	ROW(LIMIT_MONITOR_MS, 15000, "the monitor of a VM, while one other command uses it",       \
	    "the command fails")                                                                   \
	ROW(LIMIT_LIST_MS, 1000, "each answer of a VM that is listed", "its state is \"silent\"")  \
	ROW(LIMIT_NOTIFY_MS, 1000, "a busy service manager to take what it is told",               \
	    "it is not told")                                                                      \
	ROW(LIMIT_DRAIN_MS, 1000, "standard output to take a guest's last words",                  \
	    "they are dropped")

#define LIMIT_ENUM(name, ms, what, then) name = (ms),
enum limit_ms { LIMITS(LIMIT_ENUM) };
#undef LIMIT_ENUM

/* How often the power button is pressed by a supervisor. */
enum { LIMIT_PRESSES = LIMIT_POWERDOWN_MS / LIMIT_PRESS_MS };

/* How fast QEMU fills memory at the very least, for LIMIT_GREETING_MS: bytes a millisecond; and how
 * much of its own mlockall(2) fills at the most: code, stacks, heaps, translated code. */
enum { SLOWEST_FILL = 100 * 1024, QEMU_LOCKS = 640 << 20 };

/* And how fast it writes a dump, for LIMIT_DUMP_MS. */
enum { SLOWEST_DUMP = 10 * 1024 };

/* The rows, for the manual page. */
struct limit {
	int ms;
	const char *what, *then;
};
extern const struct limit limits[];
extern const size_t n_limits;

#endif
