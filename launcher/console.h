/* The guest's serial console on our standard input and output.
 *
 * On a terminal, keys go to the guest as they are typed (raw mode), except Ctrl-C, which asks the
 * guest to power down, and Ctrl-], which sends the next key to the guest whatever it is. The
 * terminal gets its old state back when the console is closed; if this process is killed, the guard
 * does it. */
#ifndef ANCLA_CONSOLE_H
#define ANCLA_CONSOLE_H

#include <limits.h>
#include <poll.h>
#include <stdbool.h>
#include <termios.h>

#include "error.h"

struct console {
	int serial;  /* socket to the guest's serial port, borrowed; -1 once it is closed */
	bool raw;    /* the terminal is in raw mode, and `before` is what it was */
	bool input;  /* standard input has not ended */
	bool escape; /* the next key goes to the guest as it is */
	bool mute;   /* standard output cannot be written: what the guest says is dropped */
	struct termios before;
	char pending[4096]; /* typed, not yet taken by the guest */
	size_t n_pending;
	char output[PIPE_BUF]; /* the guest's, not yet taken by standard output */
	size_t n_output;
};

/* The terminal that standard input is, or -1. */
int console_terminal(void);

void console_open(struct console *console, int serial);
void console_close(struct console *console);

/* What to poll: standard input, the serial socket, standard output; fd -1 for what is not waited
 * for. While standard output takes nothing, the guest waits, and nobody else. */
enum { CONSOLE_POLLS = 3 };
void console_polls(const struct console *console, struct pollfd polls[CONSOLE_POLLS]);

/* Moves what is there. `interrupts` counts each Ctrl-C that was typed. -1 (EXIT_FAILED), once, if
 * standard output cannot be written; the guest goes on, and its console is still read: one that
 * nobody reads makes it stop. */
int console_process(struct console *console, const struct pollfd polls[CONSOLE_POLLS],
                    unsigned *interrupts, struct error *err);

/* Writes what the guest said before its end, as far as it is taken. */
void console_drain(struct console *console);

#endif
