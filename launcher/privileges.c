/* Becoming what was decided: in QEMU's process, or in a thread that tries. By system call, as each
 * is of one thread, and glibc's functions change all of them. */
#include <errno.h>
#include <linux/capability.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "privileges.h"
#include "privileges_parts.h"
#include "util.h"

static int set_capabilities(uint64_t set)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		data[i].effective = (uint32_t)(set >> (32 * i));
		data[i].permitted = data[i].inheritable = data[i].effective;
	}
	return (int)syscall(SYS_capset, &header, data);
}

/* What a program that root executes could get back. Only CAP_SETPCAP may drop it; who has not is
 * held by no_new_privs alone. */
static void drop_bounding_set(uint64_t keep)
{
	for (int i = 0; i <= CAP_LAST_CAP; i++)
		if (!(keep >> i & 1))
			prctl(PR_CAPBSET_DROP, i, 0, 0, 0);
}

static int become_user(const struct plan_process *process)
{
	if (process->uid == geteuid())
		return 0;
	if (syscall(SYS_setgroups, process->n_groups, process->groups) < 0 ||
	    syscall(SYS_setresgid, process->gid, process->gid, process->gid) < 0 ||
	    prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		return -1;
	return (int)syscall(SYS_setresuid, process->uid, process->uid, process->uid);
}

static int raise_ambient(uint64_t set)
{
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return -1;
	for (int i = 0; i <= CAP_LAST_CAP; i++)
		if ((set >> i & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) < 0)
			return -1;
	return 0;
}

int privileges_take(const struct plan_process *process, const char **what)
{
	if (!process->known)
		return 0;
	*what = "cannot give up new privileges";
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	drop_bounding_set(process->capabilities);
	*what = "cannot become the user of qemu.user";
	if (become_user(process) < 0)
		return -1;
	*what = "cannot drop capabilities";
	if (set_capabilities(process->capabilities) < 0)
		return -1;
	return raise_ambient(process->capabilities);
}

struct trial {
	const struct plan_process *process;
	int (*function)(void *data);
	void *data;
	int result;
	int error; /* errno of what the thread could not become; 0: it did */
};

/* The user for access to files only (credentials(7), fsuid): others may signal and trace who is
 * their user, but not who only opens files as it. */
static int become_for_files(const struct plan_process *process)
{
	if (process->uid != geteuid()) {
		if (syscall(SYS_setgroups, process->n_groups, process->groups) < 0)
			return -1;
		syscall(SYS_setfsgid, process->gid);
		syscall(SYS_setfsuid, process->uid);
		if ((gid_t)syscall(SYS_setfsgid, -1) != process->gid ||
		    (uid_t)syscall(SYS_setfsuid, -1) != process->uid) {
			errno = EPERM;
			return -1;
		}
	}
	return set_capabilities(process->capabilities);
}

static void *try_thread(void *data)
{
	struct trial *trial = data;

	if (become_for_files(trial->process) < 0)
		trial->error = errno;
	else
		trial->result = trial->function(trial->data);
	return NULL;
}

int privileges_try(const struct plan_process *process, int (*function)(void *data), void *data,
                   struct error *err)
{
	struct trial trial = { .process = process, .function = function, .data = data };
	int dumpable = prctl(PR_GET_DUMPABLE, 0, 0, 0, 0);
	pthread_t thread;
	int failed = pthread_create(&thread, NULL, try_thread, &trial);

	if (failed)
		return error_set(err, EXIT_FAILED, "cannot start a thread: %s", strerror(failed));
	pthread_join(thread, NULL);
	/* Its change of user took this from the whole process. */
	if (dumpable == 1)
		prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	if (trial.error)
		return error_set(err, EXIT_GRANT,
		                 "this process may not become user %u: %s; it needs CAP_SETUID and "
		                 "CAP_SETGID",
		                 process->uid, strerror(trial.error));
	return trial.result;
}

bool has_capability(int capability)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];

	return syscall(SYS_capget, &header, data) == 0 &&
	       (data[CAP_TO_INDEX(capability)].effective & CAP_TO_MASK(capability));
}

char *capabilities_format(uint64_t set)
{
	static const char *const names[] = {
		"chown",
		"dac_override",
		"dac_read_search",
		"fowner",
		"fsetid",
		"kill",
		"setgid",
		"setuid",
		"setpcap",
		"linux_immutable",
		"net_bind_service",
		"net_broadcast",
		"net_admin",
		"net_raw",
		"ipc_lock",
		"ipc_owner",
		"sys_module",
		"sys_rawio",
		"sys_chroot",
		"sys_ptrace",
		"sys_pacct",
		"sys_admin",
		"sys_boot",
		"sys_nice",
		"sys_resource",
		"sys_time",
		"sys_tty_config",
		"mknod",
		"lease",
		"audit_write",
		"audit_control",
		"setfcap",
		"mac_override",
		"mac_admin",
		"syslog",
		"wake_alarm",
		"block_suspend",
		"audit_read",
		"perfmon",
		"bpf",
		"checkpoint_restore",
	};
	char *text = NULL;
	size_t length;
	FILE *out = xmemstream(&text, &length);

	for (int i = 0; i < 64; i++) {
		if (!(set >> i & 1))
			continue;
		if (i < (int)ARRAY_SIZE(names))
			fprintf(out, "%scap_%s", ftell(out) > 0 ? "," : "", names[i]);
		else
			fprintf(out, "%scap_%d", ftell(out) > 0 ? "," : "", i);
	}
	if (!set)
		fputs("none", out);
	fclose(out);
	return text;
}
