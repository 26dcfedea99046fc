#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "argv.h"
#include "util.h"

/* QEMU takes a feature's name with dashes or underscores. */
static bool same_feature(const char *a, const char *b)
{
	for (; *a || *b; a++, b++)
		if ((*a == '_' ? '-' : *a) != (*b == '_' ? '-' : *b))
			return false;
	return true;
}

static bool policy_of(const struct spec *spec, const char *feature, enum feature_policy *policy)
{
	for (size_t i = 0; i < spec->cpu.n_features; i++)
		if (same_feature(spec->cpu.features[i].name, feature)) {
			*policy = spec->cpu.features[i].policy;
			return true;
		}
	return false;
}

/* Adds to `missing` what the model has, the accelerator cannot give, and the spec does not disable.
 */
static void missing_features(const struct spec *spec, const struct caps_model *model, FILE *missing)
{
	const char *separator = "";

	for (size_t i = 0; i < model->n_unavailable; i++) {
		enum feature_policy policy;
		if (policy_of(spec, model->unavailable[i], &policy) && policy == FEATURE_DISABLE)
			continue;
		fprintf(missing, "%s%s", separator, model->unavailable[i]);
		separator = ", ";
	}
}

static int check_model(const struct spec *spec, const struct caps *caps, const char *name,
                       struct error *err)
{
	const struct caps_model *model = caps_model(caps, name);
	cleanup_free char *missing = NULL;
	size_t length = 0;

	if (!model) {
		cleanup_free const char **names = xcalloc(caps->n_models, sizeof(*names));
		for (size_t i = 0; i < caps->n_models; i++)
			names[i] = caps->models[i].name;
		const char *near = nearest_word(name, names, caps->n_models);
		return error_set(
		    err, EXIT_GRANT,
		    "cpu.model: %s knows no CPU model \"%s\"%s%s%s; `%s -cpu help` lists "
		    "them",
		    caps->binary, name, near ? ", the nearest is \"" : "", near ? near : "",
		    near ? "\"" : "", caps->binary);
	}
	FILE *out = xmemstream(&missing, &length);
	missing_features(spec, model, out);
	fclose(out);
	if (length == 0)
		return 0;
	return error_set(err, EXIT_GRANT,
	                 "cpu.model: %s cannot give %s these features: %s; set each to \"disable\" "
	                 "in cpu.features, or choose another model",
	                 accel_name(caps->accel), name, missing);
}

static int check_feature(const struct caps *caps, const struct spec_feature *feature,
                         struct error *err)
{
	if (!caps_knows_feature(caps, feature->name)) {
		const char *near =
		    nearest_word(feature->name, (const char *const *)caps->known_features,
		                 caps->n_known_features);
		return error_set(err, EXIT_GRANT,
		                 "cpu.features: %s knows no CPU feature \"%s\"%s%s%s", caps->binary,
		                 feature->name, near ? ", the nearest is \"" : "", near ? near : "",
		                 near ? "\"" : "");
	}
	if (feature->policy == FEATURE_REQUIRE && !caps_gives_feature(caps, feature->name))
		return error_set(
		    err, EXIT_GRANT,
		    "cpu.features: \"%s\" is required, but %s on this machine cannot give "
		    "it; leave it out, or run where the CPU has it",
		    feature->name, accel_name(caps->accel));
	return 0;
}

static const char *model_name(const struct spec *spec, const struct caps *caps, struct error *err)
{
	enum cpu_mode mode = spec->cpu.mode;
	const struct caps_model *best;

	if (mode == CPU_MODE_UNSET)
		mode = caps->accel == ACCEL_KVM ? CPU_MODE_HOST_PASSTHROUGH : CPU_MODE_MAXIMUM;
	switch (mode) {
	case CPU_MODE_HOST_PASSTHROUGH:
		if (caps->accel == ACCEL_KVM)
			return "host";
		error_set(err, EXIT_GRANT,
		          "cpu.mode: host-passthrough needs KVM, and this VM runs with %s; use "
		          "maximum or custom",
		          accel_name(caps->accel));
		return NULL;
	case CPU_MODE_HOST_MODEL:
		best = caps_host_model(caps);
		if (best)
			return best->name;
		error_set(err, EXIT_GRANT,
		          "cpu.mode: no named model of %s runs in full with %s here; use "
		          "host-passthrough, maximum or custom",
		          caps->binary, accel_name(caps->accel));
		return NULL;
	case CPU_MODE_CUSTOM:
		return check_model(spec, caps, spec->cpu.model, err) < 0 ? NULL : spec->cpu.model;
	default:
		return "max";
	}
}

bool guest_cpu_is_chosen(const struct spec *spec)
{
	return spec->cpu.n_features || spec->cpu.mode == CPU_MODE_CUSTOM ||
	       spec->cpu.mode == CPU_MODE_HOST_MODEL;
}

char *guest_cpu(const struct spec *spec, const struct caps *caps, struct error *err)
{
	const char *model = model_name(spec, caps, err);
	cleanup_free char *text = NULL;
	size_t length;

	if (!model)
		return NULL;
	if (spec->cpu.cache == CPU_CACHE_PASSTHROUGH && strcmp(model, "host") != 0) {
		error_set(err, EXIT_GRANT,
		          "cpu.cache: passthrough needs cpu.mode host-passthrough, and this VM has "
		          "the model %s; use emulate",
		          model);
		return NULL;
	}
	for (size_t i = 0; i < spec->cpu.n_features; i++)
		if (check_feature(caps, &spec->cpu.features[i], err) < 0)
			return NULL;
	FILE *out = xmemstream(&text, &length);
	fputs(model, out);
	for (size_t i = 0; i < spec->cpu.n_features; i++)
		fprintf(out, ",%s=%s", spec->cpu.features[i].name,
		        spec->cpu.features[i].policy == FEATURE_REQUIRE ? "on" : "off");
	if (spec->cpu.cache == CPU_CACHE_PASSTHROUGH)
		fputs(",host-cache-info=on,l3-cache=off", out);
	else if (spec->cpu.cache == CPU_CACHE_EMULATE)
		fputs(",l3-cache=on", out);
	else if (spec->cpu.cache == CPU_CACHE_DISABLE)
		fputs(",l3-cache=off", out);
	/* What is missing in spite of all is an error of QEMU's, not a warning. */
	if (guest_cpu_is_chosen(spec))
		fputs(",enforce=on", out);
	fclose(out);
	return take_pointer(&text);
}
