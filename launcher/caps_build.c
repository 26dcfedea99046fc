/* Making capabilities of QEMU's answers. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "caps_parts.h"
#include "util.h"

/* Settings of the CPU object that are booleans like its features. Of its own accord QEMU marks
 * only experimental ones ("x-"). */
static const char *const settings[] = {
	"check",
	"cpuid-0xb",
	"enforce",
	"fill-mtrr-mask",
	"full-cpuid-auto-level",
	"host-cache-info",
	"host-phys-bits",
	"hotpluggable",
	"hotplugged",
	"hv-enforce-cpuid",
	"hv-passthrough",
	"kvm-no-smi-migration",
	"kvm-pv-enforce-cpuid",
	"l3-cache",
	"legacy-cache",
	"legacy-multi-node",
	"migratable",
	"realized",
	"start-powered-off",
	"tcg-cpuid",
	"vmware-cpuid-freq",
	"xen-vapic",
};

/* Features that are KVM's work: TCG takes them without a word and does nothing. */
static const char *const kvm_only[] = { "kvm", "pmu" };

/* Features that KVM's QEMU takes, but never switches on by itself, so that the model `max` does
 * not show them; the enlightenments "hv-…" are of this kind, too. Where the kernel lacks one,
 * QEMU refuses to start. Found by starting QEMU 7.2 and 10.0 with `-cpu max,FEATURE=on,enforce`
 * for every feature; in all others the answers here and those starts agreed, but for "ht", which
 * comes with the topology. */
static const char *const kvm_opt_in[] = {
	"kvm-hint-dedicated", "lmce", "overflow-recov", "succor", "topoext",
};

static bool is_one_of(const char *name, const char *const *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(list[i], name) == 0)
			return true;
	return false;
}

/* ---- looking into answers ---- */

struct json_object *caps_result(const struct caps_answers *answers, const char *machine,
                                const char *command, const char *subject)
{
	for (size_t i = 0; i < answers->count; i++) {
		const struct caps_exchange *exchange = &answers->list[i];

		if (strcmp(exchange->machine, machine) == 0 &&
		    strcmp(exchange->command, command) == 0 &&
		    (!subject || strcmp(exchange->subject, subject) == 0))
			return exchange->result;
	}
	return NULL;
}

bool json_true(struct json_object *json, const char *key)
{
	struct json_object *value = NULL;

	return json_object_object_get_ex(json, key, &value) &&
	       json_object_is_type(value, json_type_boolean) && json_object_get_boolean(value);
}

size_t json_length(struct json_object *json)
{
	return json_object_is_type(json, json_type_array) ? json_object_array_length(json) : 0;
}

struct json_object *json_element(struct json_object *array, const char *key, const char *value)
{
	for (size_t i = 0; i < json_length(array); i++) {
		struct json_object *one = json_object_array_get_idx(array, i);
		const char *text = json_string(one, key);

		if (text && strcmp(text, value) == 0)
			return one;
	}
	return NULL;
}

/* ---- the questions ---- */

/* "q35:hpet": whether the machine has the property. */
static bool machine_has(const struct caps_answers *answers, const char *machine,
                        const char *property)
{
	struct json_object *list = caps_result(answers, machine, "qom-list", "/machine");
	cleanup_free char *type = caps_machine_type(answers, machine);

	if (!type)
		return false;
	if (!list)
		list = caps_result(answers, "none", "qom-list-properties", type);
	return json_element(list, "name", property) != NULL;
}

static bool answer(const struct caps_answers *answers, const char *question)
{
	static const char none[] = "none";
	cleanup_free char *kind = xstrdup(question);
	char *rest = kind, *subject, *property;
	struct json_object *list;

	strsep(&rest, ":");
	subject = strsep(&rest, ":");
	property = rest;
	assert(subject);
	if (strcmp(kind, "machine") == 0)
		return property ? machine_has(answers, subject, property)
		                : caps_answers_machine(answers, subject);
	if (strcmp(kind, "option") == 0) {
		list = caps_result(answers, none, "query-command-line-options", NULL);
		return json_element(list, "option", subject) != NULL;
	}
	if (strcmp(kind, "command") == 0) {
		list = caps_result(answers, none, "query-commands", NULL);
		return json_element(list, "name", subject) != NULL;
	}
	cleanup_free char *type = caps_question_type(question);
	list = caps_result(answers, none, "qom-list-properties", type);
	return property ? json_element(list, "name", property) != NULL : list != NULL;
}

/* ---- CPU models and features ---- */

static bool is_feature(const char *name)
{
	return strncmp(name, "x-", 2) != 0 && !is_one_of(name, settings, ARRAY_SIZE(settings));
}

static bool is_enlightenment(const char *name)
{
	return strncmp(name, "hv-", 3) == 0;
}

/* The properties of a model as QEMU expanded it, or NULL. */
static struct json_object *expansion(const struct caps_answers *answers, const char *model)
{
	struct json_object *json = caps_result(answers, "none", "query-cpu-model-expansion", model);

	if (json_object_object_get_ex(json, "model", &json) &&
	    json_object_object_get_ex(json, "props", &json) &&
	    json_object_is_type(json, json_type_object))
		return json;
	return NULL;
}

/* Features in a list have dashes only: each name with an underscore is another for the same. What
 * could not stand in a list is no name. */
static void add_feature(struct json_object *set, const char *name)
{
	cleanup_free char *copy = xstrdup(name);

	if (!*name || strchr(name, ' '))
		return;
	for (char *c = copy; *c; c++)
		if (*c == '_')
			*c = '-';
	json_object_object_add(set, copy, NULL);
}

/* The names of a set, sorted. */
static char **set_list(struct json_object *set, size_t *count)
{
	size_t used = 0;
	cleanup_free char **names = xcalloc((size_t)json_object_object_length(set), sizeof(*names));

	json_object_object_foreach(set, name, value)
	{
		(void)value;
		names[used++] = name;
	}
	caps_sort(names, &used);
	cleanup_free char *text = caps_join(names, used);
	return caps_split(text, count);
}

/* Adds what a model has to the features that the accelerator can give. */
static void add_given(struct json_object *set, enum accel accel, struct json_object *props)
{
	json_object_object_foreach(props, name, value)
	{
		if (!json_object_is_type(value, json_type_boolean) || !is_feature(name))
			continue;
		if (accel != ACCEL_KVM &&
		    (is_one_of(name, kvm_only, ARRAY_SIZE(kvm_only)) || is_enlightenment(name)))
			continue;
		if (json_object_get_boolean(value) ||
		    (accel == ACCEL_KVM && (is_one_of(name, kvm_opt_in, ARRAY_SIZE(kvm_opt_in)) ||
		                            is_enlightenment(name))))
			add_feature(set, name);
	}
}

static void build_features(struct caps *caps, const struct caps_answers *answers)
{
	cleanup_json struct json_object *known = json_object_new_object();
	cleanup_json struct json_object *given = json_object_new_object();
	struct json_object *max = expansion(answers, "max");

	for (size_t i = 0; i < answers->count; i++) {
		const struct caps_exchange *exchange = &answers->list[i];
		struct json_object *props = NULL;

		if (strcmp(exchange->command, "query-cpu-model-expansion") == 0)
			props = expansion(answers, exchange->subject);
		if (props)
			add_given(given, caps->accel, props);
	}
	if (max) {
		const char *vendor = json_string(max, "vendor");

		caps->vendor = vendor ? xstrdup(vendor) : NULL;
		json_object_object_foreach(max, name, value)
		{
			if (json_object_is_type(value, json_type_boolean) && is_feature(name))
				add_feature(known, name);
		}
	}
	caps->known_features = set_list(known, &caps->n_known_features);
	caps->features = set_list(given, &caps->n_features);
}

/* How many features the model has; -1 for a 32-bit one where the accelerator has long mode: the
 * best of those is no model of this host. */
static int score_of(const struct caps *caps, struct json_object *props)
{
	int score = 0;

	if (!json_true(props, "lm") && caps_gives_feature(caps, "lm"))
		return -1;
	json_object_object_foreach(props, name, value)
	{
		score += json_object_is_type(value, json_type_boolean) &&
		         json_object_get_boolean(value) && is_feature(name) && !strchr(name, '_');
	}
	return score;
}

static void build_model(struct caps *caps, const struct caps_answers *answers,
                        struct json_object *json)
{
	struct caps_model *model = array_append(&caps->models, &caps->n_models);
	struct json_object *list = NULL;

	model->name = xstrdup(json_string(json, "name"));
	if (json_string(json, "alias-of"))
		model->alias_of = xstrdup(json_string(json, "alias-of"));
	model->score = -1;
	cleanup_json struct json_object *set = json_object_new_object();
	json_object_object_get_ex(json, "unavailable-features", &list);
	for (size_t i = 0; i < json_length(list); i++) {
		const char *name = json_object_get_string(json_object_array_get_idx(list, i));
		if (name)
			add_feature(set, name);
	}
	model->unavailable = set_list(set, &model->n_unavailable);
	struct json_object *props =
	    caps_is_candidate(json) ? expansion(answers, model->name) : NULL;
	if (!props)
		return;
	model->score = score_of(caps, props);
	if (json_string(props, "vendor"))
		model->vendor = xstrdup(json_string(props, "vendor"));
}

static int compare_models(const void *a, const void *b)
{
	return strverscmp(((const struct caps_model *)a)->name,
	                  ((const struct caps_model *)b)->name);
}

static void build_models(struct caps *caps, const struct caps_answers *answers)
{
	struct json_object *list = caps_result(answers, "none", "query-cpu-definitions", NULL);

	for (size_t i = 0; i < json_length(list); i++) {
		struct json_object *json = json_object_array_get_idx(list, i);

		if (json_string(json, "name"))
			build_model(caps, answers, json);
	}
	if (caps->n_models)
		qsort(caps->models, caps->n_models, sizeof(*caps->models), compare_models);
}

/* ---- all of it ---- */

static int int_of(struct json_object *json, const char *key)
{
	struct json_object *value = NULL;

	return json_object_object_get_ex(json, key, &value) ? json_object_get_int(value) : 0;
}

/* "7.2.22 (Debian 1:7.2+dfsg-7)" */
static char *version_of(struct json_object *json)
{
	const char *package = json_string(json, "package");
	struct json_object *qemu = NULL;

	json_object_object_get_ex(json, "qemu", &qemu);
	cleanup_free char *number = xasprintf("%d.%d.%d", int_of(qemu, "major"),
	                                      int_of(qemu, "minor"), int_of(qemu, "micro"));
	return package && *package ? xasprintf("%s (%s)", number, package) : take_pointer(&number);
}

struct caps *caps_build(const char *binary, enum accel accel, const struct caps_answers *answers)
{
	struct caps *caps = xcalloc(1, sizeof(*caps));

	caps->binary = xstrdup(binary);
	caps->version = version_of(caps_result(answers, "none", "query-version", NULL));
	caps->accel = accel;
	cleanup_json struct json_object *has = json_object_new_object();
	for (const char *const *question = caps_questions; *question; question++)
		if (answer(answers, *question))
			json_object_object_add(has, *question, NULL);
	caps->has = set_list(has, &caps->n_has);
	build_features(caps, answers);
	build_models(caps, answers);
	return caps;
}
