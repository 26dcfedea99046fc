#include "waits.h"
#include "util.h"

#define LIMIT_ROW(name, ms, what, then) { ms, what, then },
const struct limit limits[] = { LIMITS(LIMIT_ROW) };
const size_t n_limits = ARRAY_SIZE(limits);
