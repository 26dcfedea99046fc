/* Asking QEMU over QMP, and making capabilities of its answers.
 *
 * Commands are sent together and their replies collected afterwards, in two rounds: the second
 * asks about what the first named (the real type of a machine's alias, the models that run in
 * full). qom-list-types would answer for all types at once, but loads every module of QEMU for
 * it (35 ms, and an abort where a module is of another build); qom-list-properties of one type
 * takes 0.3 ms and tells that there is none, too. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "caps_parts.h"
#include "util.h"

/* ---- exchanges ---- */

void caps_answers_clear(struct caps_answers *answers)
{
	for (size_t i = 0; i < answers->count; i++) {
		free(answers->list[i].subject);
		json_object_put(answers->list[i].result);
	}
	free(answers->list);
	*answers = (struct caps_answers){ 0 };
}

/* With migratable=off the model max has all that the accelerator can give (invtsc); other models
 * have no such property. */
static struct json_object *model_argument(const char *name)
{
	struct json_object *model = json_object_new_object();

	json_object_object_add(model, "name", json_object_new_string(name));
	if (strcmp(name, "max") == 0) {
		struct json_object *props = json_object_new_object();
		json_object_object_add(props, "migratable", json_object_new_boolean(false));
		json_object_object_add(model, "props", props);
	}
	return model;
}

struct json_object *caps_arguments(const char *command, const char *subject)
{
	if (!subject)
		return NULL;
	struct json_object *arguments = json_object_new_object();

	if (strcmp(command, "query-cpu-model-expansion") == 0) {
		json_object_object_add(arguments, "type", json_object_new_string("full"));
		json_object_object_add(arguments, "model", model_argument(subject));
	} else {
		const char *key = strcmp(command, "qom-list") == 0 ? "path" : "typename";
		json_object_object_add(arguments, key, json_object_new_string(subject));
	}
	return arguments;
}

/* A conversation under way: where the answers go, and until when. */
struct talk {
	struct qmp *qmp;
	const char *machine;
	struct caps_answers *answers;
	size_t collected; /* answers before this index are complete */
	int64_t deadline;
};

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int ask(struct talk *talk, const char *command, const char *subject, struct qmp_error *error)
{
	struct json_object *arguments = caps_arguments(command, subject);
	struct caps_exchange *exchange = array_append(&talk->answers->list, &talk->answers->count);

	exchange->machine = talk->machine;
	exchange->command = command;
	exchange->subject = subject ? xstrdup(subject) : NULL;
	exchange->id = qmp_send(talk->qmp, command, arguments, error);
	return exchange->id ? 0 : -1;
}

/* Collects every reply that is under way. A command that QEMU answers with an error has no
 * result: it knows no such type, or no such command. */
static int collect(struct talk *talk, struct qmp_error *error)
{
	for (; talk->collected < talk->answers->count; talk->collected++) {
		struct caps_exchange *exchange = &talk->answers->list[talk->collected];
		int64_t left = talk->deadline - now_ms();

		if (qmp_wait_reply(talk->qmp, exchange->id, left > 0 ? (int)left : 0,
		                   &exchange->result, error) == 0)
			continue;
		if (error->kind != QMP_ERROR_COMMAND)
			return -1;
		snprintf(exchange->refusal, sizeof(exchange->refusal), "%s", error->class);
		*error = (struct qmp_error){ 0 };
		exchange->result = NULL;
	}
	return 0;
}

/* ---- what is asked ---- */

char *caps_question_type(const char *question)
{
	const char *subject = strchr(question, ':') + 1;

	if (strncmp(question, "accel:", 6) == 0)
		return xasprintf("%s-accel", subject);
	if (strncmp(question, "type:", 5) == 0 || strncmp(question, "property:", 9) == 0)
		return xasprintf("%.*s", (int)strcspn(subject, ":"), subject);
	return NULL;
}

static bool was_asked(const struct talk *talk, const char *command, const char *subject)
{
	for (size_t i = 0; i < talk->answers->count; i++) {
		const struct caps_exchange *exchange = &talk->answers->list[i];

		if (exchange->subject && strcmp(exchange->command, command) == 0 &&
		    strcmp(exchange->subject, subject) == 0)
			return true;
	}
	return false;
}

static int ask_basics(struct talk *talk, struct qmp_error *error)
{
	static const char *const commands[] = {
		"query-version",  "query-commands",        "query-command-line-options",
		"query-machines", "query-cpu-definitions",
	};

	for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
		if (ask(talk, commands[i], NULL, error) < 0)
			return -1;
	if (ask(talk, "query-cpu-model-expansion", "max", error) < 0)
		return -1;
	for (const char *const *question = caps_questions; *question; question++) {
		cleanup_free char *type = caps_question_type(*question);

		if (type && !was_asked(talk, "qom-list-properties", type) &&
		    ask(talk, "qom-list-properties", type, error) < 0)
			return -1;
	}
	return collect(talk, error);
}

/* The machine by its name or alias ("q35" is "pc-q35-7.2"), as query-machines tells it. */
static struct json_object *find_machine(const struct caps_answers *answers, const char *name)
{
	struct json_object *list = caps_result(answers, "none", "query-machines", NULL);
	struct json_object *machine = json_element(list, "alias", name);

	return machine ? machine : json_element(list, "name", name);
}

bool caps_answers_machine(const struct caps_answers *answers, const char *machine)
{
	return find_machine(answers, machine) != NULL;
}

char *caps_machine_type(const struct caps_answers *answers, const char *name)
{
	const char *real = json_string(find_machine(answers, name), "name");

	return real ? xasprintf("%s-machine", real) : NULL;
}

bool caps_is_candidate(struct json_object *model)
{
	struct json_object *list = NULL;

	return json_object_object_get_ex(model, "unavailable-features", &list) &&
	       json_length(list) == 0 && json_string(model, "name") &&
	       !json_string(model, "alias-of") && json_true(model, "migration-safe") &&
	       !json_true(model, "static") && !json_true(model, "deprecated");
}

static int ask_models(struct talk *talk, struct qmp_error *error)
{
	struct json_object *models =
	    caps_result(talk->answers, "none", "query-cpu-definitions", NULL);

	for (size_t i = 0; i < json_length(models); i++) {
		struct json_object *model = json_object_array_get_idx(models, i);

		if (caps_is_candidate(model) &&
		    ask(talk, "query-cpu-model-expansion", json_string(model, "name"), error) < 0)
			return -1;
	}
	return 0;
}

/* Properties of the machines that a QEMU without a machine can create for a look at them.
 * microvm is not one: doing so aborts QEMU 7.2 (an assertion in acpi_setup_microvm). */
static int ask_machine_types(struct talk *talk, struct qmp_error *error)
{
	static const char *const machines[] = { "q35", "pc" };

	for (size_t i = 0; i < ARRAY_SIZE(machines); i++) {
		cleanup_free char *type = caps_machine_type(talk->answers, machines[i]);

		if (type && ask(talk, "qom-list-properties", type, error) < 0)
			return -1;
	}
	return 0;
}

int caps_ask(struct qmp *qmp, int timeout_ms, struct caps_answers *answers, struct qmp_error *error)
{
	struct talk talk = { qmp, "none", answers, answers->count, now_ms() + timeout_ms };

	if (ask_basics(&talk, error) < 0 || ask_machine_types(&talk, error) < 0 ||
	    ask_models(&talk, error) < 0)
		return -1;
	return collect(&talk, error);
}

int caps_ask_machine(struct qmp *qmp, const char *machine, int timeout_ms,
                     struct caps_answers *answers, struct qmp_error *error)
{
	struct talk talk = { qmp, machine, answers, answers->count, now_ms() + timeout_ms };

	if (ask(&talk, "qom-list", "/machine", error) < 0)
		return -1;
	return collect(&talk, error);
}
