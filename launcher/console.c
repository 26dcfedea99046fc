#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "console.h"
#include "waits.h"
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

void console_polls(const struct console *console, struct pollfd polls[CONSOLE_POLLS])
{
	bool room = console->n_pending < sizeof(console->pending);
	bool listen = !console->n_output;

	polls[0] = (struct pollfd){
		.fd = console->input && console->serial >= 0 && room ? STDIN_FILENO : -1,
		.events = POLLIN,
	};
	polls[1] = (struct pollfd){
		.fd = listen || console->n_pending ? console->serial : -1,
		.events = (short)((listen ? POLLIN : 0) | (console->n_pending ? POLLOUT : 0)),
	};
	polls[2] = (struct pollfd){
		.fd = console->n_output ? STDOUT_FILENO : -1,
		.events = POLLOUT,
	};
}

static void take_key(struct console *console, char key, unsigned *interrupts)
{
	if (console->raw && !console->escape) {
		if (key == KEY_ESCAPE) {
			console->escape = true;
			return;
		}
		if (key == KEY_INTERRUPT) {
			++*interrupts;
			return;
		}
	}
	console->escape = false;
	console->pending[console->n_pending++] = key;
}

static void read_input(struct console *console, unsigned *interrupts)
{
	char keys[sizeof(console->pending)];
	ssize_t got = read(STDIN_FILENO, keys, sizeof(keys) - console->n_pending);

	if (got == 0 || (got < 0 && errno != EINTR && errno != EAGAIN))
		console->input = false;
	for (ssize_t i = 0; i < got; i++)
		take_key(console, keys[i], interrupts);
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

/* Writes what standard output takes without waiting, at most PIPE_BUF at a time: then a pipe that
 * is ready does not block. After `limit_ms` what it has not taken stays. */
static int write_output(struct console *console, int limit_ms, struct error *err)
{
	while (console->n_output) {
		struct pollfd room = { .fd = STDOUT_FILENO, .events = POLLOUT };
		if (poll(&room, 1, limit_ms) <= 0)
			return 0;
		ssize_t put = write(STDOUT_FILENO, console->output, console->n_output);
		if (put < 0 && (errno == EAGAIN || errno == EINTR))
			return 0;
		if (put < 0) {
			console->mute = true;
			console->n_output = 0;
			return error_set(err, EXIT_FAILED,
			                 "cannot write the console to standard output: %s",
			                 strerror(errno));
		}
		memmove(console->output, console->output + put, console->n_output - (size_t)put);
		console->n_output -= (size_t)put;
	}
	return 0;
}

/* True if something was read; false if nothing was there, or the guest's end is closed. */
static bool read_serial(struct console *console)
{
	ssize_t got = recv(console->serial, console->output, sizeof(console->output), MSG_DONTWAIT);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got <= 0) {
		console->serial = -1;
		return false;
	}
	console->n_output = console->mute ? 0 : (size_t)got;
	return true;
}

int console_process(struct console *console, const struct pollfd polls[CONSOLE_POLLS],
                    unsigned *interrupts, struct error *err)
{
	if (polls[0].revents)
		read_input(console, interrupts);
	if (console->n_pending && console->serial >= 0)
		send_pending(console);
	if (!console->n_output && (polls[1].revents & (POLLIN | POLLHUP | POLLERR)))
		read_serial(console);
	return write_output(console, 0, err);
}

void console_drain(struct console *console)
{
	cleanup_error struct error ignored = ERROR_INIT;

	do
		write_output(console, LIMIT_DRAIN_MS, &ignored);
	while (!console->n_output && console->serial >= 0 && read_serial(console));
}
