/* What a QEMU says that it can do: its answers to the questions of caps, or the file that is made
 * of them. Both give capabilities that are written and read back the same, and that the CPU of a
 * guest can be chosen by. */
#include "argv.h"
#include "caps_parts.h"
#include "fuzz.h"

static const char *const commands[] = {
	"query-version",
	"query-commands",
	"query-machines",
	"query-command-line-options",
	"query-cpu-definitions",
	"query-cpu-model-expansion",
	"qom-list-properties",
	"qom-list-types",
	"qom-list",
};

/* One of the words that caps knows, as the answers borrow it; NULL: another. */
static const char *known(const char *const *words, size_t count, const char *word)
{
	for (size_t i = 0; word && i < count; i++)
		if (strcmp(words[i], word) == 0)
			return words[i];
	return NULL;
}

static void add_answer(struct caps_answers *answers, struct json_object *json)
{
	static const char *const machines[] = { "none", "microvm" };
	const char *machine = known(machines, 2, json_string(json, "machine"));
	const char *command = known(commands, ARRAY_SIZE(commands), json_string(json, "execute"));
	const char *subject = json_string(json, "subject"), *refusal = json_string(json, "error");
	struct json_object *result = NULL;

	if (!machine || !command)
		return;
	json_object_object_get_ex(json, "return", &result);
	struct caps_exchange *exchange = array_append(&answers->list, &answers->count);
	exchange->machine = machine;
	exchange->command = command;
	exchange->subject = xstrdup(subject ? subject : "");
	exchange->result = json_object_get(result);
	if (refusal)
		snprintf(exchange->refusal, sizeof(exchange->refusal), "%s", refusal);
}

static struct caps *caps_of_answers(struct json_object *list)
{
	cleanup_answers struct caps_answers answers = { 0 };

	for (size_t i = 0; i < json_length(list); i++)
		add_answer(&answers, json_object_array_get_idx(list, i));
	return caps_build("/usr/bin/qemu", answers.count % 2 ? ACCEL_KVM : ACCEL_TCG, &answers);
}

/* The caller frees. NULL: it is not one, and the error says why. */
static struct caps *caps_of_text(const char *text, size_t size, bool *answered)
{
	cleanup_error struct error err = ERROR_INIT;
	cleanup_json struct json_object *json = caps_parse(text, size, &err);
	struct json_object *list = NULL;
	struct caps *caps = NULL;

	*answered = json && json_object_object_get_ex(json, "exchanges", &list);
	if (*answered)
		return caps_of_answers(list);
	caps = json ? caps_from_json(json, &err) : NULL;
	if (caps)
		return caps;
	promise_error(&err);
	promise_printable(err.message);
	return NULL;
}

static void promise_read_back(const struct caps *caps)
{
	cleanup_free char *text = caps_format(caps);
	bool answered;
	cleanup_caps struct caps *again = caps_of_text(text, strlen(text), &answered);

	promise(again && !answered, "what it wrote is refused: %s", text);
	cleanup_free char *same = caps_format(again);
	promise(strcmp(text, same) == 0, "%s\nis read back as\n%s", text, same);
}

/* The CPU of a guest that wants this. */
static void choose_cpu(const struct caps *caps, const char *cpu)
{
	cleanup_free char *text =
	    xasprintf("{ \"name\": \"a\", \"memory\": \"1GiB\", \"cpu\": %s }", cpu);
	cleanup_error struct error err = ERROR_INIT;
	struct spec_errors errors = { 0 };
	cleanup_spec struct spec *spec = spec_parse("/a.json", text, strlen(text), &errors);

	promise(spec, "%s: %s", text, errors.list[0].message);
	cleanup_free char *chosen = guest_cpu(spec, caps, &err);
	if (!chosen)
		promise_error(&err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_free char *text = text_of_bytes(data, size);
	bool answered;
	cleanup_caps struct caps *caps = caps_of_text(text, size, &answered);

	if (!caps)
		return 0;
	promise_read_back(caps);
	choose_cpu(caps, "{ \"mode\": \"host-model\" }");
	choose_cpu(caps, "{ \"mode\": \"custom\", \"model\": \"Broadwell\", "
	                 "\"features\": { \"pdpe1gb\": \"require\", \"avx\": \"disable\" } }");
	choose_cpu(caps, "{ \"mode\": \"maximum\", \"features\": { \"x2apic\": \"require\" } }");
	for (size_t i = 0; caps_questions[i]; i++)
		caps_has(caps, caps_questions[i]);
	return 0;
}
