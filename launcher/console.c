#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "console.h"
#include "util.h"

enum { KEY_INTERRUPT = 0x03, KEY_ESCAPE = 0x1d };

int console_terminal(void)
{
	return isatty(STDIN_FILENO) ? STDIN_FILENO : -1;
}

void console_open(struct console *console, int serial)
{
	*console = (struct console){ .serial = serial, .input = true };
	if (console_terminal() < 0 || tcgetattr(STDIN_FILENO, &console->before) < 0)
		return;
	struct termios raw = console->before;
	cfmakeraw(&raw);
	console->raw = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
}

void console_close(struct console *console)
{
	if (console->raw)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &console->before);
	console->raw = false;
}

void console_polls(const struct console *console, struct pollfd polls[2])
{
	bool room = console->n_pending < sizeof(console->pending);

	polls[0] = (struct pollfd){
		.fd = console->input && console->serial >= 0 && room ? STDIN_FILENO : -1,
		.events = POLLIN,
	};
	polls[1] = (struct pollfd){
		.fd = console->serial,
		.events = (short)(POLLIN | (console->n_pending ? POLLOUT : 0)),
	};
}

static void take_key(struct console *console, char key, bool *interrupted)
{
	if (console->raw && !console->escape) {
		if (key == KEY_ESCAPE) {
			console->escape = true;
			return;
		}
		if (key == KEY_INTERRUPT) {
			*interrupted = true;
			return;
		}
	}
	console->escape = false;
	console->pending[console->n_pending++] = key;
}

static void read_input(struct console *console, bool *interrupted)
{
	char keys[sizeof(console->pending)];
	ssize_t got = read(STDIN_FILENO, keys, sizeof(keys) - console->n_pending);

	if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN))
		console->input = false;
	for (ssize_t i = 0; i < got; i++)
		take_key(console, keys[i], interrupted);
}

static void send_pending(struct console *console)
{
	ssize_t put = send(console->serial, console->pending, console->n_pending,
	                   MSG_DONTWAIT | MSG_NOSIGNAL);

	if (put <= 0)
		return;
	memmove(console->pending, console->pending + put, console->n_pending - (size_t)put);
	console->n_pending -= (size_t)put;
}

static int write_output(const char *text, size_t size, struct error *err)
{
	while (size) {
		ssize_t put = write(STDOUT_FILENO, text, size);
		if (put < 0 && errno == EAGAIN) {
			struct pollfd room = { .fd = STDOUT_FILENO, .events = POLLOUT };
			poll(&room, 1, -1);
			continue;
		}
		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return error_set(err, EXIT_FAILED,
			                 "cannot write the console to standard output: %s",
			                 strerror(errno));
		text += put;
		size -= (size_t)put;
	}
	return 0;
}

/* 1: something was read; 0: nothing was there, or the guest's end is closed. */
static int read_serial(struct console *console, struct error *err)
{
	char text[16384];
	ssize_t got = recv(console->serial, text, sizeof(text), MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0) {
		console->serial = -1;
		return 0;
	}
	return write_output(text, (size_t)got, err) < 0 ? -1 : 1;
}

int console_process(struct console *console, const struct pollfd polls[2], bool *interrupted,
                    struct error *err)
{
	if (polls[0].revents)
		read_input(console, interrupted);
	if (console->n_pending && console->serial >= 0)
		send_pending(console);
	if (polls[1].revents & (POLLIN | POLLHUP | POLLERR))
		return read_serial(console, err) < 0 ? -1 : 0;
	return 0;
}

void console_drain(struct console *console)
{
	cleanup_error struct error ignored = ERROR_INIT;

	while (console->serial >= 0 && read_serial(console, &ignored) > 0)
		continue;
}
