#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "caps.h"
#include "util.h"

/* What a failed open of /dev/kvm means, and what to do. */
static char *open_reason(int error)
{
	switch (error) {
	case ENOENT:
	case ENODEV:
	case ENXIO:
		return xasprintf("/dev/kvm: %s: no hardware virtualisation, or the module "
		                 "kvm_intel or kvm_amd is not loaded",
		                 strerror(error));
	case EACCES:
	case EPERM:
		return xasprintf("/dev/kvm: %s: become a member of the group kvm", strerror(error));
	default:
		return xasprintf("/dev/kvm: %s", strerror(error));
	}
}

static char *vm_reason(int error)
{
	if (error == EBUSY)
		return xasprintf("KVM cannot create a VM: %s: another hypervisor holds the CPUs' "
		                 "virtualisation",
		                 strerror(error));
	return xasprintf("KVM cannot create a VM: %s", strerror(error));
}

/* NULL where KVM works, else why not. */
static char *why_not(void)
{
	cleanup_close int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (kvm < 0)
		return open_reason(errno);
	int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
	if (version < 0)
		return xasprintf("/dev/kvm is not KVM: %s", strerror(errno));
	if (version != KVM_API_VERSION)
		return xasprintf("KVM's API has version %d, %d is needed", version,
		                 KVM_API_VERSION);
	cleanup_close int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	return vm < 0 ? vm_reason(errno) : NULL;
}

bool kvm_works(char **reason)
{
	cleanup_free char *why = why_not();
	bool works = !why;

	if (reason)
		*reason = take_pointer(&why);
	return works;
}
