/* What every stage asks of a spec, and its end; both by the rows. */
#include <stdlib.h>
#include <string.h>

#include "spec.h"
#include "spec_fields.h"
#include "util.h"

static void free_rows(const struct field_table *table, void *base);

static void free_array(const struct field *field, void *base)
{
	char **array = field_member(field, base);
	size_t count = *field_count(field, base);

	for (size_t i = 0; i < count; i++) {
		if (field->type == FIELD_NAMES)
			free(((char **)(void *)*array)[i]);
		else
			free_rows(field->table, *array + i * field->table->size);
	}
	free(*array);
}

static void free_rows(const struct field_table *table, void *base)
{
	for (size_t i = 0; i < table->n_rows; i++) {
		const struct field *row = &table->rows[i];

		switch (row->type) {
		case FIELD_STRING:
		case FIELD_PATH:
		case FIELD_PROGRAM:
			free(*(char **)field_member(row, base));
			break;
		case FIELD_CPUS:
			hwloc_bitmap_free(*(hwloc_bitmap_t *)field_member(row, base));
			break;
		case FIELD_NAMES:
		case FIELD_LIST:
		case FIELD_MAP:
			free_array(row, base);
			break;
		case FIELD_OBJECT:
		case FIELD_ENUM:
			if (row->table)
				free_rows(row->table, base);
			break;
		case FIELD_SIZE:
		case FIELD_PAGE_SIZE:
		case FIELD_INTEGER:
		case FIELD_BOOL:
		case FIELD_PAGES:
		case FIELD_DISTANCES:
			break;
		}
	}
}

void spec_free(struct spec *spec)
{
	if (!spec)
		return;
	free_rows(&spec_table, spec);
	free(spec->numa.matrix);
	free(spec->file);
	free(spec);
}

void spec_errors_free(struct spec_errors *errors)
{
	for (size_t i = 0; i < errors->count; i++) {
		free(errors->list[i].pointer);
		free(errors->list[i].message);
	}
	free(errors->list);
	*errors = (struct spec_errors){ 0 };
}

struct sched spec_vcpu_sched(const struct spec *spec, int vcpu)
{
	for (size_t i = 0; i < spec->cputune.n_vcpusched; i++)
		if (hwloc_bitmap_isset(spec->cputune.vcpusched[i].vcpus, (unsigned)vcpu))
			return spec->cputune.vcpusched[i].sched;
	return (struct sched){ 0 };
}

/* True if a name is in a list of names separated by commas. */
static bool names_hold(const char *names, const char *name)
{
	size_t length = strlen(name);

	for (const char *p = names; *p; p += strcspn(p, ",")) {
		p += *p == ',';
		if (strcspn(p, ",") == length && strncmp(p, name, length) == 0)
			return true;
	}
	return false;
}

struct sched spec_iothread_sched(const struct spec *spec, const char *iothread)
{
	for (size_t i = 0; i < spec->cputune.n_iothreadsched; i++)
		if (names_hold(spec->cputune.iothreadsched[i].iothreads, iothread))
			return spec->cputune.iothreadsched[i].sched;
	return (struct sched){ 0 };
}

int spec_threads(const struct spec *spec)
{
	return spec->cpu.topology_given ? spec->cpu.threads : 2;
}

hwloc_const_bitmap_t spec_vcpupin(const struct spec *spec, int vcpu)
{
	for (size_t i = 0; i < spec->cputune.n_vcpupin; i++)
		if (spec->cputune.vcpupin[i].vcpu == vcpu)
			return spec->cputune.vcpupin[i].cpus;
	return NULL;
}

hwloc_const_bitmap_t spec_iothreadpin(const struct spec *spec, const char *iothread)
{
	for (size_t i = 0; i < spec->cputune.n_iothreadpin; i++)
		if (strcmp(spec->cputune.iothreadpin[i].iothread, iothread) == 0)
			return spec->cputune.iothreadpin[i].cpus;
	return NULL;
}

static const char *value_name(const struct field_value *values, int value, const char *fallback)
{
	for (; values->name; values++)
		if (!values->instead && values->value == value)
			return values->name;
	return fallback;
}

const char *scheduler_name(enum scheduler scheduler)
{
	return value_name(scheduler_values, (int)scheduler, "other");
}

const char *mem_policy_name(enum mem_policy policy)
{
	return value_name(mem_policy_values, (int)policy, "default");
}

const char *accel_name(enum accel accel)
{
	return value_name(accel_values, (int)accel, "unset");
}
