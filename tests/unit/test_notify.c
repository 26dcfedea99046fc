/* The protocol of sd_notify(3), against a real datagram socket. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernel.h"
#include "notify.h"
#include "waits.h"

struct listener {
	char name[64]; /* for NOTIFY_SOCKET */
	int fd;
};

/* A service manager's socket: in the file system, or of an abstract name. */
static struct listener listen_at(bool abstract)
{
	struct listener listener = { .fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) };
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	socklen_t length;

	snprintf(listener.name, sizeof(listener.name), "%c%s/ancla-notify.%d", abstract ? '@' : '/',
	         abstract ? "" : "tmp", getpid());
	length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(listener.name));
	memcpy(address.sun_path, listener.name, strlen(listener.name));
	if (abstract)
		address.sun_path[0] = '\0';
	else
		unlink(listener.name);
	assert_int_equal(bind(listener.fd, (struct sockaddr *)&address, length), 0);
	setenv("NOTIFY_SOCKET", listener.name, 1);
	return listener;
}

static void end_listening(struct listener *listener)
{
	close(listener->fd);
	if (listener->name[0] == '/')
		unlink(listener->name);
}

static const char *heard(const struct listener *listener)
{
	static char text[256];
	ssize_t got = recv(listener->fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	text[got > 0 ? got : 0] = '\0';
	return text;
}

static void without_a_manager_nothing_is_sent(void **state)
{
	(void)state;
	unsetenv("NOTIFY_SOCKET");
	setenv("WATCHDOG_USEC", "1000000", 1);
	notify_begin();
	assert_int_equal(notify("READY=1"), 0);
	assert_int_equal(notify_watchdog_ms(), -1);
}

static void a_message_arrives_whole(bool abstract)
{
	struct listener listener = listen_at(abstract);

	notify_begin();
	assert_null(getenv("NOTIFY_SOCKET"));
	assert_int_equal(notify("MAINPID=%d\nREADY=1\nSTATUS=%s", 17, "it runs"), 0);
	assert_string_equal(heard(&listener), "MAINPID=17\nREADY=1\nSTATUS=it runs");
	assert_int_equal(notify("STOPPING=1"), 0);
	assert_string_equal(heard(&listener), "STOPPING=1");
	end_listening(&listener);
	/* Nobody listens any more: an error, and no wait, no signal. */
	assert_int_equal(notify("READY=1"), -1);
}

static void a_path_is_written_to(void **state)
{
	(void)state;
	a_message_arrives_whole(false);
}

static void an_abstract_name_is_written_to(void **state)
{
	(void)state;
	a_message_arrives_whole(true);
}

/* What is said once waits until a busy manager hears it; signs of life do not. */
static void a_busy_manager_is_waited_for(void **state)
{
	struct listener listener = listen_at(false);
	int status, result;

	(void)state;
	notify_begin();
	while (notify("WATCHDOG=1") == 0)
		continue;
	assert_int_equal(errno, EAGAIN);
	pid_t manager = fork();
	assert_true(manager >= 0);
	if (manager == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (strcmp(heard(&listener), "STOPPING=1") != 0)
			continue;
		_exit(0);
	}
	/* A manager that has not come to hear anything by then would not be told. */
	do {
		int64_t before = kernel_now_ms();
		result = notify("STOPPING=1");
		if (result < 0)
			assert_true(kernel_now_ms() - before >= LIMIT_NOTIFY_MS / 2);
	} while (result < 0);
	assert_int_equal(waitpid(manager, &status, 0), manager);
	assert_int_equal(status, 0);
	end_listening(&listener);
}

static int watchdog(const char *usec, const char *pid)
{
	struct listener listener = listen_at(true);

	setenv("WATCHDOG_USEC", usec, 1);
	if (pid)
		setenv("WATCHDOG_PID", pid, 1);
	notify_begin();
	assert_null(getenv("WATCHDOG_USEC"));
	assert_null(getenv("WATCHDOG_PID"));
	end_listening(&listener);
	return notify_watchdog_ms();
}

static void signs_of_life_are_due_twice_an_interval(void **state)
{
	char own[16];

	(void)state;
	snprintf(own, sizeof(own), "%d", getpid());
	assert_int_equal(watchdog("30000000", NULL), 15000);
	assert_int_equal(watchdog("30000000", own), 15000);
	assert_int_equal(watchdog("1000", NULL), 1);
	assert_int_equal(watchdog("18446744073709551615", NULL), 1800000);
	/* Not asked for, or of another process. */
	assert_int_equal(watchdog("0", NULL), -1);
	assert_int_equal(watchdog("x", NULL), -1);
	assert_int_equal(watchdog("30000000", "1"), -1);
}

static void what_is_no_address_is_no_manager(void **state)
{
	static const char *const names[] = { "", "/", "@", "relative", "vsock:2:1234" };

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		setenv("NOTIFY_SOCKET", names[i], 1);
		notify_begin();
		assert_int_equal(notify("READY=1"), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_a_manager_nothing_is_sent),
		cmocka_unit_test(a_path_is_written_to),
		cmocka_unit_test(an_abstract_name_is_written_to),
		cmocka_unit_test(a_busy_manager_is_waited_for),
		cmocka_unit_test(signs_of_life_are_due_twice_an_interval),
		cmocka_unit_test(what_is_no_address_is_no_manager),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
