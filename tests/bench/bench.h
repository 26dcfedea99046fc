/* What the benchmarks share: an end with words, clocks, medians, verdicts. */
#ifndef ANCLA_BENCH_H
#define ANCLA_BENCH_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Whether judge() has said so of anything. */
static bool missed;

static inline void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
static inline void die(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "bench: ");
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(1);
}

static inline double now_ms(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static inline int compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts the list. */
static inline double median(double *list, int count)
{
	qsort(list, (size_t)count, sizeof(*list), compare_doubles);
	return count % 2 ? list[count / 2] : (list[count / 2 - 1] + list[count / 2]) / 2;
}

static inline const char *judge(bool good)
{
	missed |= !good;
	return good ? "ok" : "MISSED";
}

#endif
