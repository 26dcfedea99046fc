#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net.h"
#include "util.h"

static int attach(const char *tap, const char *bridge, struct error *err)
{
	cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = { 0 };

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", bridge);
	request.ifr_ifindex = (int)if_nametoindex(tap);
	if (fd >= 0 && ioctl(fd, SIOCBRADDIF, &request) == 0)
		return 0;
	bool none = errno == ENODEV || errno == EOPNOTSUPP;
	return error_set(err, EXIT_GRANT, "nics: cannot attach %s to the bridge %s: %s%s", tap,
	                 bridge, strerror(errno),
	                 none ? "; `ip link show type bridge` lists those that there are" : "");
}

static int set_up(const char *tap, struct error *err)
{
	cleanup_close int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq request = { 0 };

	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", tap);
	if (fd >= 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0) {
		if (request.ifr_flags & IFF_UP)
			return 0;
		request.ifr_flags |= IFF_UP;
		if (ioctl(fd, SIOCSIFFLAGS, &request) == 0)
			return 0;
	}
	return error_set(err, EXIT_GRANT, "nics: cannot set %s up: %s", tap, strerror(errno));
}

int net_open_tap(const struct spec_nic *nic, struct error *err)
{
	cleanup_close int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };

	if (fd < 0)
		return error_set(
		    err, EXIT_GRANT,
		    "nics: cannot open /dev/net/tun: %s; load the tun module, or use the "
		    "type user",
		    strerror(errno));
	/* Without a name the kernel picks one: tap0, tap1, … */
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s",
	         nic->ifname ? nic->ifname : "tap%d");
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		return error_set(
		    err, EXIT_GRANT,
		    "nics: cannot open the tap %s: %s; it needs CAP_NET_ADMIN, or a tap made "
		    "for this user (ip tuntap add), not in use",
		    request.ifr_name, strerror(errno));
	if (nic->type == NIC_BRIDGE && attach(request.ifr_name, nic->bridge, err) < 0)
		return -1;
	if (set_up(request.ifr_name, err) < 0)
		return -1;
	return take_fd(&fd);
}

int net_open_vhost(struct error *err)
{
	int fd = open("/dev/vhost-net", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return error_set(
		    err, EXIT_GRANT,
		    "nics: cannot open /dev/vhost-net: %s; load the vhost_net module, or "
		    "leave vhost out",
		    strerror(errno));
	return fd;
}
