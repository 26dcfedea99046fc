/* What the tests of the pure stages share: specs written in the test, described hosts, recorded
 * capabilities. */
#ifndef ANCLA_TEST_STAGES_H
#define ANCLA_TEST_STAGES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "caps.h"
#include "cpulist.h"
#include "host.h"
#include "place.h"
#include "spec.h"
#include "util.h"

/* Eight CPUs: two nodes of 8 GiB with two cores of two threads each. */
#define SMT_HOST "numa:2(memory=8589934592) core:2 pu:2"

/* Sixteen: two nodes of 32 GiB with eight cores each. */
#define PLAIN_HOST "numa:2(memory=34359738368) core:8 pu:1"

static inline struct host *host_of(const char *description)
{
	cleanup_error struct error err = ERROR_INIT;
	struct host *host = host_load(description, &err);

	if (!host)
		fail_msg("%s: %s", description, err.message);
	return host;
}

static inline struct caps *caps_of(const char *path)
{
	cleanup_error struct error err = ERROR_INIT;
	struct caps *caps = caps_read(path, &err);

	if (!caps)
		fail_msg("%s", err.message);
	return caps;
}

/* A spec named "test" with 1 GiB, and these members more: "'vcpus': 2", with ' for ". */
static inline struct spec *spec_of(const char *members)
{
	cleanup_free char *text =
	    xasprintf("{ 'name': 'test', 'memory': '1GiB'%s %s }", *members ? "," : "", members);
	struct spec_errors errors = { 0 };
	struct spec *spec;

	for (char *c = text; *c; c++)
		*c = *c == '\'' ? '"' : *c;
	spec = spec_parse("/specs/test.json", text, strlen(text), &errors);
	if (!spec)
		fail_msg("%s: %s", text, errors.count ? errors.list[0].message : "no error");
	spec_errors_free(&errors);
	return spec;
}

static inline hwloc_bitmap_t list(const char *text)
{
	cleanup_error struct error err = ERROR_INIT;
	hwloc_bitmap_t set = NULL;

	if (cpulist_parse(text, &set, &err) < 0)
		fail_msg("%s", err.message);
	return set;
}

static inline void set_list(hwloc_bitmap_t set, const char *text)
{
	cleanup_bitmap hwloc_bitmap_t value = list(text);

	hwloc_bitmap_copy(set, value);
}

#define assert_set(set, expected)                                                                  \
	do {                                                                                       \
		cleanup_free char *actual_ = cpulist_format(set);                                  \
		assert_string_equal(actual_, expected);                                            \
	} while (0)

/* The error has that code, and its message all these parts (separated by "|"). */
#define assert_refused(err, expected_code, parts)                                                  \
	do {                                                                                       \
		cleanup_free char *copy_ = xstrdup(parts);                                         \
		char *rest_ = copy_, *part_;                                                       \
		assert_non_null((err)->message);                                                   \
		assert_int_equal((err)->code, expected_code);                                      \
		while ((part_ = strsep(&rest_, "|")))                                              \
			if (!strstr((err)->message, part_))                                        \
				fail_msg("\"%s\" does not say \"%s\"", (err)->message, part_);     \
	} while (0)

/* The plan for these members on this host, with these claims (NULL: none). Fails the test if it is
 * refused. */
static inline struct plan *planned(const char *members, const struct host *host,
                                   const struct claims *claims)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_spec struct spec *spec = spec_of(members);
	struct plan *plan = place(spec, host, claims, ACCEL_KVM, &err);

	if (!plan)
		fail_msg("%s: %s", members, err.message);
	return plan;
}

#define assert_not_planned(members, host, claims, parts)                                           \
	do {                                                                                       \
		cleanup_error struct error err_ = ERROR_INIT;                                      \
		cleanup_spec struct spec *spec_ = spec_of(members);                                \
		cleanup_plan struct plan *plan_ = place(spec_, host, claims, ACCEL_KVM, &err_);    \
		assert_null(plan_);                                                                \
		assert_refused(&err_, EXIT_GRANT, parts);                                          \
	} while (0)

#endif
