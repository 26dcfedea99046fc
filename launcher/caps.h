/* What a QEMU binary can do, asked of the binary itself over QMP and cached.
 *
 * Nothing is decided by a version number: every decision of the launcher is one of the questions
 * in caps.c, answered by qom-list-types, qom-list-properties, query-commands,
 * query-command-line-options and query-cpu-definitions. The answers depend on the accelerator
 * (CPU models, features), so they are asked for one accelerator at a time. */
#ifndef ANCLA_CAPS_H
#define ANCLA_CAPS_H

#include <stdbool.h>
#include <stddef.h>

#include "error.h"
#include "spec.h"

struct caps_model {
	char *name;         /* "Broadwell-v1", "host", "max" */
	char *alias_of;     /* "Broadwell-v1" for "Broadwell", else NULL */
	char **unavailable; /* features that the accelerator cannot give it; empty: runs in full */
	size_t n_unavailable;
	int score;    /* number of its features, -1 if it cannot be a host-model */
	char *vendor; /* "GenuineIntel", NULL if not asked */
};

struct caps {
	char *binary;     /* absolute path */
	char *version;    /* for people, never for decisions: "7.2.22 (Debian 1:7.2+dfsg-7)" */
	enum accel accel; /* the accelerator these answers hold for */
	char **has;       /* sorted names of what is there, as caps_has() takes them */
	size_t n_has;
	struct caps_model *models;
	size_t n_models;
	char **features; /* sorted: CPU features that this accelerator can give */
	size_t n_features;
	char **known_features; /* sorted: every CPU feature name that this QEMU knows */
	size_t n_known_features;
	char *vendor; /* of the CPU that the accelerator shows as host or max */
};

/* True where QEMU has what is named:
 *   "accel:kvm", "accel:tcg"                    an accelerator built in
 *   "type:thread-context"                       a QOM type (device, object)
 *   "property:memory-backend-file:prealloc-context"   a property of a QOM type
 *   "machine:q35", "machine:q35:hpet"           a machine, a property of a machine
 *   "option:sandbox"                            a command line option
 *   "command:query-stats"                       a QMP command
 * Asking for a name that is not one of the questions in caps.c is a programming error
 * (assertion). */
bool caps_has(const struct caps *caps, const char *what);

const struct caps_model *caps_model(const struct caps *caps, const char *name);
bool caps_knows_feature(const struct caps *caps, const char *feature);
bool caps_gives_feature(const struct caps *caps, const char *feature);

/* The best named model that the accelerator can run in full: with KVM one of the host's vendor
 * (TCG emulates all vendors alike), with most features, the highest version among equals; a
 * 32-bit one only where the accelerator has no long mode. NULL if there is none. */
const struct caps_model *caps_host_model(const struct caps *caps);

/* Asks the binary (a name to look up in PATH, or a path) for one accelerator, or takes the answer
 * from the cache: keyed by path, inode, size, mtime, accelerator and, with KVM, the host's boot
 * id. Models and features may be missing unless `cpus` is set. A cache that cannot be written is no
 * error. Errors (EXIT_GRANT): no such binary, not executable, not QEMU, exits at once (with its
 * last words), hangs (limit 30 s), has no such accelerator, KVM does not work here (with the
 * reason). */
struct caps *caps_load(const char *binary, enum accel accel, bool cpus, struct error *err);

/* Reads, prints the form that the cache and `--qemu-caps FILE` have: JSON, stable. */
struct caps *caps_read(const char *path, struct error *err);
char *caps_format(const struct caps *caps);
void caps_free(struct caps *caps);

/* Whether KVM works on this machine: /dev/kvm opens for reading and writing, its API version is
 * 12, and it can create a VM. On failure `reason` (if not NULL) gets the reason; caller frees. */
bool kvm_works(char **reason);

#define cleanup_caps __attribute__((cleanup(cleanup_caps_fn)))
static inline void cleanup_caps_fn(struct caps **caps)
{
	caps_free(*caps);
}

#endif
