/* The capabilities as a file: the form of the cache, of `--qemu-caps FILE` and of the recorded
 * answers under tests/qmp/.
 *
 * Lists of features are strings with spaces between the names: the file has some thousand of
 * them; as arrays they would take json-c three times as long. */
#include <stdlib.h>
#include <string.h>

#include "caps_parts.h"
#include "names.h"
#include "util.h"

#define FILE_LIMIT (1024 * 1024)
#define NEST_LIMIT 8

static struct json_object *join(char *const *list, size_t count)
{
	cleanup_free char *text = caps_join(list, count);

	return json_object_new_string(text);
}

static struct json_object *model_to_json(const struct caps_model *model)
{
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "name", json_object_new_string(model->name));
	if (model->alias_of)
		json_object_object_add(json, "alias-of", json_object_new_string(model->alias_of));
	if (model->score >= 0)
		json_object_object_add(json, "score", json_object_new_int(model->score));
	if (model->vendor)
		json_object_object_add(json, "vendor", json_object_new_string(model->vendor));
	if (model->n_unavailable && !model->alias_of)
		json_object_object_add(json, "unavailable",
		                       join(model->unavailable, model->n_unavailable));
	return json;
}

struct json_object *caps_base_to_json(const struct caps *caps)
{
	struct json_object *json = json_object_new_object();
	struct json_object *has = json_object_new_array();

	json_object_object_add(json, "binary", json_object_new_string(caps->binary));
	json_object_object_add(json, "version", json_object_new_string(caps->version));
	json_object_object_add(json, "accel", json_object_new_string(accel_name(caps->accel)));
	if (caps->vendor)
		json_object_object_add(json, "vendor", json_object_new_string(caps->vendor));
	for (size_t i = 0; i < caps->n_has; i++)
		json_object_array_add(has, json_object_new_string(caps->has[i]));
	json_object_object_add(json, "has", has);
	return json;
}

void caps_cpu_to_json(const struct caps *caps, struct json_object *json)
{
	struct json_object *models = json_object_new_array();

	json_object_object_add(json, "features", join(caps->features, caps->n_features));
	json_object_object_add(json, "known-features",
	                       join(caps->known_features, caps->n_known_features));
	for (size_t i = 0; i < caps->n_models; i++)
		json_object_array_add(models, model_to_json(&caps->models[i]));
	json_object_object_add(json, "models", models);
}

char *caps_format(const struct caps *caps)
{
	const int flags =
	    JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_PRETTY_TAB | JSON_C_TO_STRING_NOSLASHESCAPE;
	cleanup_json struct json_object *json = caps_base_to_json(caps);

	caps_cpu_to_json(caps, json);
	return xasprintf("%s\n", json_object_to_json_string_ext(json, flags));
}

static int wrong(struct error *err, const char *key, const char *expected)
{
	return error_set(err, EXIT_FAILED, "not a file of QEMU capabilities: \"%s\" must be %s",
	                 key, expected);
}

/* Stores a member that is a string; where it is absent, NULL if it may be. */
static int get_string(struct json_object *json, const char *key, bool optional, const char **text,
                      struct error *err)
{
	struct json_object *value = NULL;

	*text = NULL;
	if (!json_object_object_get_ex(json, key, &value) && optional)
		return 0;
	if (!json_object_is_type(value, json_type_string))
		return wrong(err, key, "a string");
	*text = json_object_get_string(value);
	return 0;
}

static int get_copy(struct json_object *json, const char *key, bool optional, char **copy,
                    struct error *err)
{
	const char *text;

	if (get_string(json, key, optional, &text, err) < 0)
		return -1;
	*copy = text ? xstrdup(text) : NULL;
	return 0;
}

/* Splits "a b c"; no list where the member is absent. */
static int get_names(struct json_object *json, const char *key, bool optional, char ***list,
                     size_t *count, struct error *err)
{
	const char *text;

	if (get_string(json, key, optional, &text, err) < 0)
		return -1;
	if (text)
		*list = caps_split(text, count);
	return 0;
}

static int get_accel(struct json_object *json, enum accel *accel, struct error *err)
{
	const char *text;

	if (get_string(json, "accel", false, &text, err) < 0)
		return -1;
	int value = value_of(&names_accel, text);
	if (value != ACCEL_KVM && value != ACCEL_TCG)
		return wrong(err, "accel", "\"kvm\" or \"tcg\"");
	*accel = (enum accel)value;
	return 0;
}

static int get_model(struct json_object *json, struct caps_model *model, struct error *err)
{
	struct json_object *score = NULL;

	if (!json_object_is_type(json, json_type_object))
		return wrong(err, "models", "an array of objects");
	model->score = -1;
	if (json_object_object_get_ex(json, "score", &score)) {
		if (!json_object_is_type(score, json_type_int))
			return wrong(err, "score", "an integer");
		model->score = json_object_get_int(score);
	}
	if (get_copy(json, "name", false, &model->name, err) < 0 ||
	    get_copy(json, "alias-of", true, &model->alias_of, err) < 0 ||
	    get_copy(json, "vendor", true, &model->vendor, err) < 0)
		return -1;
	return get_names(json, "unavailable", true, &model->unavailable, &model->n_unavailable,
	                 err);
}

static int get_array(struct json_object *json, const char *key, struct json_object **array,
                     struct error *err)
{
	if (!json_object_object_get_ex(json, key, array) ||
	    !json_object_is_type(*array, json_type_array))
		return wrong(err, key, "an array");
	return 0;
}

static int get_has(struct json_object *json, struct caps *caps, struct error *err)
{
	struct json_object *array;

	if (get_array(json, "has", &array, err) < 0)
		return -1;
	size_t count = json_object_array_length(array);
	cleanup_free char **names = xcalloc(count, sizeof(*names));
	for (size_t i = 0; i < count; i++) {
		struct json_object *name = json_object_array_get_idx(array, i);

		if (!json_object_is_type(name, json_type_string))
			return wrong(err, "has", "an array of strings");
		names[i] = (char *)json_object_get_string(name);
	}
	cleanup_free char *text = caps_join(names, count);
	caps->has = caps_split(text, &caps->n_has);
	caps_sort(caps->has, &caps->n_has);
	return 0;
}

/* An alias lacks what its model lacks; the file says it once. */
static void complete_alias(const struct caps *caps, struct caps_model *alias)
{
	const struct caps_model *model = caps_model(caps, alias->alias_of);

	if (!model || alias->unavailable)
		return;
	cleanup_free char *text = caps_join(model->unavailable, model->n_unavailable);
	alias->unavailable = caps_split(text, &alias->n_unavailable);
}

static int get_models(struct json_object *json, struct caps *caps, struct error *err)
{
	struct json_object *array;

	if (get_array(json, "models", &array, err) < 0)
		return -1;
	for (size_t i = 0; i < json_object_array_length(array); i++)
		if (get_model(json_object_array_get_idx(array, i),
		              array_append(&caps->models, &caps->n_models), err) < 0)
			return -1;
	for (size_t i = 0; i < caps->n_models; i++)
		if (caps->models[i].alias_of)
			complete_alias(caps, &caps->models[i]);
	return 0;
}

struct caps *caps_base_from_json(struct json_object *json, struct error *err)
{
	cleanup_caps struct caps *caps = xcalloc(1, sizeof(*caps));

	if (get_copy(json, "binary", false, &caps->binary, err) < 0 ||
	    get_copy(json, "version", false, &caps->version, err) < 0 ||
	    get_copy(json, "vendor", true, &caps->vendor, err) < 0 ||
	    get_accel(json, &caps->accel, err) < 0 || get_has(json, caps, err) < 0)
		return NULL;
	return take_pointer(&caps);
}

int caps_cpu_from_json(struct caps *caps, struct json_object *json, struct error *err)
{
	if (get_names(json, "features", false, &caps->features, &caps->n_features, err) < 0 ||
	    get_names(json, "known-features", false, &caps->known_features, &caps->n_known_features,
	              err) < 0 ||
	    get_models(json, caps, err) < 0)
		return -1;
	caps_sort(caps->features, &caps->n_features);
	caps_sort(caps->known_features, &caps->n_known_features);
	return 0;
}

struct caps *caps_from_json(struct json_object *json, struct error *err)
{
	cleanup_caps struct caps *caps = caps_base_from_json(json, err);

	return caps && caps_cpu_from_json(caps, json, err) == 0 ? take_pointer(&caps) : NULL;
}

struct json_object *caps_parse(const char *text, size_t length, struct error *err)
{
	struct json_tokener *tokener = json_tokener_new_ex(NEST_LIMIT);
	struct json_object *json = json_tokener_parse_ex(tokener, text, (int)length);
	enum json_tokener_error reason = json_tokener_get_error(tokener);
	size_t end = json_tokener_get_parse_end(tokener);

	json_tokener_free(tokener);
	if (json_object_is_type(json, json_type_object) &&
	    end + strspn(text + end, " \t\r\n") == length)
		return json;
	json_object_put(json);
	error_set(err, EXIT_FAILED, "not a file of QEMU capabilities: %s",
	          reason == json_tokener_success ? "it must be one JSON object"
	                                         : json_tokener_error_desc(reason));
	return NULL;
}

struct caps *caps_read(const char *path, struct error *err)
{
	cleanup_free char *text = NULL;
	cleanup_json struct json_object *json = NULL;
	struct caps *caps = NULL;
	size_t length;

	if (read_file(path, FILE_LIMIT, &text, &length, err) < 0)
		return NULL;
	json = caps_parse(text, length, err);
	if (json)
		caps = caps_from_json(json, err);
	if (!caps)
		error_prefix(err, "%s: ", path);
	return caps;
}
