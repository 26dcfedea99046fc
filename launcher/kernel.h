/* Threads and processes as the kernel has them: affinity, scheduling, identity. All reads are of
 * what is in force, not of what was asked for. */
#ifndef ANCLA_KERNEL_H
#define ANCLA_KERNEL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <hwloc.h>

#include "error.h"
#include "spec.h"

/* sched_setaffinity(2). Returns 0 or -1 with errno. The kernel may grant less than was asked for:
 * read it back. */
int kernel_set_affinity(pid_t tid, hwloc_const_bitmap_t cpus);

/* sched_getaffinity(2), into an existing set. Returns 0 or -1 with errno. */
int kernel_get_affinity(pid_t tid, hwloc_bitmap_t cpus);

/* sched_setscheduler(2) and back. Returns 0 or -1 with errno. */
int kernel_set_sched(pid_t tid, struct sched sched);
int kernel_get_sched(pid_t tid, struct sched *sched);

/* What to do about an errno of kernel_set_sched(): a clause for an error message. */
const char *kernel_sched_advice(int error);

/* All threads of a process, ascending; the caller frees the list. -1 with errno if it is gone, or
 * they cannot be read. */
int kernel_tasks(pid_t pid, pid_t **tids, size_t *count);

/* The thread's name in /proc/PID/task/TID/comm. -1 with errno, and "", if it cannot be read: ESRCH
 * if it is gone. */
int kernel_comm(pid_t pid, pid_t tid, char comm[64]);

/* When a process started, in clock ticks since boot (proc(5), stat, field 22): with the pid, its
 * identity. 0 if there is no such process (ESRCH), or it cannot be told (another errno). */
uint64_t kernel_start_time(pid_t pid);

/* Whether the process is on its way out (proc(5), stat: state, flags), or gone: it runs no more of
 * its program, though it may still hold files. Not, if that cannot be told. */
bool kernel_is_dying(pid_t pid);

/* 1 if it is a thread of the kernel's own, whose name nobody else gave it (proc(5), stat: flags); 0
 * if not, or gone; -1 with errno if that cannot be told. */
int kernel_is_its_own(pid_t pid);

/* Whether it was stopped by a signal (SIGSTOP). One that is traced stops now and then ("t" in
 * proc(5)), and goes on. */
bool kernel_is_stopped(pid_t pid);

/* Opens a pidfd on the process with that pid and start time. -1 with ESRCH if it is gone or
 * another, with another errno if that cannot be told. */
int kernel_pidfd(pid_t pid, uint64_t start_time);

/* Whether that process runs: not, if it has ended and nobody has reaped it yet. Where it cannot be
 * told, errno says why. */
enum kernel_life { KERNEL_GONE, KERNEL_LIVES, KERNEL_UNKNOWN };
enum kernel_life kernel_lives(pid_t pid, uint64_t start_time);

/* Sends a signal through a pidfd; -1 with errno. */
int kernel_pidfd_kill(int pidfd, int signal);

/* Waits until the process behind the pidfd is gone; false after the limit (ms, -1: none). */
bool kernel_wait_gone(int pidfd, int timeout_ms);

/* Names this boot of the kernel (random(4), boot_id); NULL where it cannot be read. The caller
 * frees. */
char *kernel_boot_id(void);

/* CLOCK_MONOTONIC in milliseconds. */
int64_t kernel_now_ms(void);

#endif
