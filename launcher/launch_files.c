/* What QEMU inherits. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch_parts.h"
#include "net.h"
#include "util.h"

static int make_memory(struct launching *l, size_t index, struct error *err)
{
	const struct plan *plan = l->vm->plan;
	cleanup_free char *label = xasprintf("ancla-%s-node%zu", plan->name, index);
	int fd = memory_create(&plan->memory[index], plan->memory_path, label, err);

	l->memory_fds[index] = fd;
	/* QEMU opens it once more, by its name in /proc. Anybody may open a memfd so, but a file of
	 * hugetlbfs is its owner's. */
	if (fd >= 0 && plan->process.uid != geteuid() &&
	    plan->memory[index].backing == BACKING_PATH &&
	    fchown(fd, plan->process.uid, plan->process.gid) < 0)
		return error_set(err, EXIT_GRANT,
		                 "memory-backing.path: cannot give a file in %s to user %u: %s",
		                 plan->memory_path, plan->process.uid, strerror(errno));
	return fd;
}

static int make_one(struct launching *l, const struct inherited *inherited, struct error *err)
{
	const struct vm *vm = l->vm;
	int lock;

	switch (inherited->kind) {
	case INHERIT_MONITOR:
		return vm_listen(&vm->dir, VM_MONITOR, err);
	case INHERIT_COMMANDS:
		lock = vm_open_monitor_lock(&vm->dir);
		if (lock < 0)
			return error_set(err, EXIT_FAILED, "cannot make %s/%s.lock: %s",
			                 vm->dir.path, VM_COMMANDS, strerror(errno));
		close(lock);
		return vm_listen(&vm->dir, VM_COMMANDS, err);
	case INHERIT_SERIAL:
		return vm_listen(&vm->dir, VM_SERIAL, err);
	case INHERIT_LOCK:
		/* The same open file, so the same flock(2), which lasts as long as either is open.
		 */
		lock = fcntl(vm->dir.lock, F_DUPFD_CLOEXEC, 0);
		return lock >= 0 ? lock
		                 : error_set(err, EXIT_FAILED, "cannot pass on the lock: %s",
		                             strerror(errno));
	case INHERIT_MEMORY:
		return make_memory(l, inherited->index, err);
	case INHERIT_TAP:
		return net_open_tap(&vm->spec->nics[inherited->index], err);
	case INHERIT_VHOST:
		return net_open_vhost(err);
	}
	return -1;
}

int launch_make_inherited(struct launching *l, struct error *err)
{
	struct vm *vm = l->vm;
	size_t count = vm->line->n_inherited;

	vm->fds = xcalloc(count, sizeof(*vm->fds));
	l->memory_fds = xcalloc(vm->plan->n_memory, sizeof(*l->memory_fds));
	for (size_t i = 0; i < count; i++)
		vm->fds[i] = -1;
	for (size_t i = 0; i < vm->plan->n_memory; i++)
		l->memory_fds[i] = -1;
	for (size_t i = 0; i < count; i++) {
		vm->fds[i] = make_one(l, &vm->line->inherited[i], err);
		if (vm->fds[i] < 0)
			return -1;
	}
	return 0;
}
