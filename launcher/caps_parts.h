/* What the parts of caps share: the questions, the answers while they are collected, the JSON
 * form, the probe with its time limit. For caps*.c and their tests only. */
#ifndef ANCLA_CAPS_PARTS_H
#define ANCLA_CAPS_PARTS_H

#include <stdint.h>

#include <json-c/json.h>

#include "caps.h"
#include "qmp/qmp.h"

/* Everything that caps_has() can be asked, NULL-terminated. */
extern const char *const caps_questions[];

/* A hash of the questions and of the form of the answers: a cache made by an ancla that asked
 * something else does not count. */
uint64_t caps_questions_hash(void);

/* Lists of names are one allocation each, the pointers and the text behind them: there are some
 * thousand names in a cache, and every start reads it. The caller frees the list alone. */
char **caps_split(const char *text, size_t *count); /* at spaces */
char *caps_join(char *const *list, size_t count);   /* with spaces */

/* Sorts a list and leaves out duplicates. */
void caps_sort(char **list, size_t *count);

/* ---- asking ---- */

/* One command and what came back. */
struct caps_exchange {
	const char *machine; /* which paused machine was asked: "none", "microvm" */
	const char *command;
	char *subject;              /* the type, model or path asked about, NULL if none */
	unsigned id;                /* while it is under way */
	struct json_object *result; /* NULL: QEMU answered with an error */
	char refusal[40];           /* its class */
};

struct caps_answers {
	struct caps_exchange *list;
	size_t count;
};

/* Asks a QEMU with machine "none", ready for commands, all that does not need a machine. */
int caps_ask(struct qmp *qmp, int timeout_ms, struct caps_answers *answers,
             struct qmp_error *error);

/* Asks a QEMU that runs the machine `machine` (paused) for that machine's properties. */
int caps_ask_machine(struct qmp *qmp, const char *machine, int timeout_ms,
                     struct caps_answers *answers, struct qmp_error *error);

/* The arguments that go with a command about a subject; NULL if it takes none. */
struct json_object *caps_arguments(const char *command, const char *subject);

void caps_answers_clear(struct caps_answers *answers);
#define cleanup_answers __attribute__((cleanup(caps_answers_clear)))

/* From the answers to the capabilities. Never fails: what QEMU did not say is not there. */
struct caps *caps_build(const char *binary, enum accel accel, const struct caps_answers *answers);

/* ---- looking into answers; JSON of another form than expected is as if it were absent ---- */

/* What came back for a command on a machine (about a subject, or about anything if NULL); NULL
 * where there was an error, or nothing was asked. Borrowed, as are all below. */
struct json_object *caps_result(const struct caps_answers *answers, const char *machine,
                                const char *command, const char *subject);

/* Whether QEMU listed this machine, by its name or alias; its QOM type (freed by the caller, NULL
 * if there is none). */
bool caps_answers_machine(const struct caps_answers *answers, const char *machine);
char *caps_machine_type(const struct caps_answers *answers, const char *machine);

/* The type that a question is about, freed by the caller, or NULL: kvm-pit for
 * "property:kvm-pit:lost_tick_policy", kvm-accel for "accel:kvm". */
char *caps_question_type(const char *question);

/* Whether a model of query-cpu-definitions can be a host-model: it runs in full, is no alias of
 * another, and describes a CPU that exists (`base` is static; `host` and `max` are not
 * migration-safe). */
bool caps_is_candidate(struct json_object *model);

bool json_true(struct json_object *json, const char *key);
size_t json_length(struct json_object *array);

/* The element of an array of objects whose `key` is the string `value`. */
struct json_object *json_element(struct json_object *array, const char *key, const char *value);

/* ---- the process ---- */

/* Starts the binary (an absolute path), asks everything within `timeout_ms`, ends it. Nothing of
 * it is left, whatever it did. Errors as caps_load() has them. */
int caps_probe(const char *binary, enum accel accel, int timeout_ms, struct caps_answers *answers,
               struct error *err);

/* ---- JSON ---- */

/* Two parts: what every start needs, and what is known of CPUs (models, features), which is nine
 * tenths of it all. */
struct json_object *caps_base_to_json(const struct caps *caps);
void caps_cpu_to_json(const struct caps *caps, struct json_object *json);
struct caps *caps_base_from_json(struct json_object *json, struct error *err);
int caps_cpu_from_json(struct caps *caps, struct json_object *json, struct error *err);

/* Both. */
struct caps *caps_from_json(struct json_object *json, struct error *err);

/* Parses a whole text; NULL and a reason where it is not one JSON object. */
struct json_object *caps_parse(const char *text, size_t length, struct error *err);

/* ---- the cache ---- */

/* The absolute path of a binary: a name is looked up in PATH, a path is taken as it is. The
 * caller frees. */
char *caps_find_binary(const char *binary, struct error *err);

#endif
