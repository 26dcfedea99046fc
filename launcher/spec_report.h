/* A spec for a command, with its errors told to the user. */
#ifndef ANCLA_SPEC_REPORT_H
#define ANCLA_SPEC_REPORT_H

#include "spec.h"

/* Reads a spec. If it is wrong, prints every error on standard error as
 * "FILE:LINE: POINTER: MESSAGE" (the first 100, and how many more there are) and returns NULL;
 * the command then returns EXIT_SPEC. The caller frees with spec_free(). */
struct spec *spec_load_or_report(const char *path);

#endif
