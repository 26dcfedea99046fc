/* One error type for the whole launcher.
 *
 * A function that can fail returns 0 or -1 (or a pointer or NULL) and takes `struct error *` as
 * its last argument. The error is written only on failure, results only on success. Stages
 * return errors; only commands print them. A message says what, where, what was needed, what is
 * available, and what to do. It is one line unless there is a list to show, has no final full
 * stop or newline, and does not repeat the program's name. What it quotes (a path, QEMU's words)
 * may be of anybody's making: what a terminal would act on becomes blanks. */
#ifndef ANCLA_ERROR_H
#define ANCLA_ERROR_H

/* The exit codes of the program; see "The command line" in the README. */
enum exit_code {
	EXIT_DONE = 0,   /* done */
	EXIT_FAILED = 1, /* failed while running, or no such VM */
	EXIT_USAGE = 2,  /* the command line is wrong */
	EXIT_SPEC = 3,   /* the spec is wrong or unreadable */
	EXIT_GRANT = 4,  /* the host cannot grant what the spec asks for */
	EXIT_VERIFY = 5, /* the kernel's state differs from the plan */
};

struct error {
	enum exit_code code;
	char *message; /* owned; NULL while there is no error */
};

#define ERROR_INIT                                                                                 \
	{                                                                                          \
		EXIT_DONE, 0                                                                       \
	}

/* Sets the error, replacing an older one, and returns -1, so that a stage can
 * `return error_set(err, ...)`. */
int error_set(struct error *err, enum exit_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts text before the message ("specs/demo.json: ..."), keeps the code, and returns -1. */
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* That they return -1 is for compilers and analyzers to see, too. */
#define error_set(...)                                                                             \
	({                                                                                         \
		error_set(__VA_ARGS__);                                                            \
		-1;                                                                                \
	})
#define error_prefix(...)                                                                          \
	({                                                                                         \
		error_prefix(__VA_ARGS__);                                                         \
		-1;                                                                                \
	})

/* Frees the message; the error can be used again. */
void error_clear(struct error *err);

#define cleanup_error __attribute__((cleanup(error_clear)))

#endif
