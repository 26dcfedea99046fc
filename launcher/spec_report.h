/* A spec for a command, with its errors told to the user. */
#ifndef ANCLA_SPEC_REPORT_H
#define ANCLA_SPEC_REPORT_H

#include "command.h"
#include "spec.h"

/* Reads a spec. If it is wrong, prints every error on standard error as
 * "FILE:LINE: POINTER: MESSAGE" (the first 100, and how many more there are) and returns NULL;
 * the command then returns EXIT_SPEC. The caller frees with spec_free(). */
struct spec *spec_load_or_report(const char *path);

/* The spec that a command is called with, and what its options change in it. NULL: `code` is the
 * exit code, and the user was told why. */
struct spec *spec_of_call(const struct invocation *call, int *code);

/* The options that it knows; a command has all of them. */
#define OPTION_RESERVE                                                                             \
	{                                                                                          \
		"reserve", "N", "keep N cores for the host (placement.reserve of the spec)"        \
	}

#define OPTION_ALLOW_ARGS                                                                          \
	{                                                                                          \
		"allow-args", NULL,                                                                \
		    "honour qemu.args of the spec: words that can do all that "                    \
		    "QEMU can"                                                                     \
	}

#endif
