#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cpulist.h"
#include "spec_edit.h"
#include "spec_json.h"
#include "spec_save.h"
#include "util.h"

/* Parses as a launch does; the first error is told. */
static struct spec *parse(const char *path, const char *text, struct error *err)
{
	struct spec_errors errors = { 0 };
	struct spec *spec = spec_parse(path, text, strlen(text), &errors);

	if (!spec)
		error_set(err, EXIT_SPEC, "%s:%u: %s%s%s", path, errors.list[0].line,
		          errors.list[0].pointer, *errors.list[0].pointer ? ": " : "",
		          errors.list[0].message);
	spec_errors_free(&errors);
	return spec;
}

int spec_save_open(struct spec_save *save, const char *path, const char *vm, struct error *err)
{
	save->path = realpath(path, NULL);
	if (!save->path || stat(save->path, &save->before) < 0 || !S_ISREG(save->before.st_mode))
		return error_set(err, EXIT_SPEC,
		                 "--save: \"%s\", which the VM was started from, is not a file "
		                 "(any more)",
		                 path);
	if (read_file(save->path, SPEC_JSON_SIZE, &save->text, NULL, err) < 0 ||
	    !(save->was = parse(save->path, save->text, err))) {
		err->code = EXIT_SPEC;
		return error_prefix(err, "--save: ");
	}
	if (strcmp(save->was->name, vm) == 0)
		return 0;
	return error_set(err, EXIT_SPEC, "--save: %s is the spec of \"%s\" by now, not of \"%s\"",
	                 save->path, save->was->name, vm);
}

static int set(struct spec_save *save, const char *json, struct error *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static int set(struct spec_save *save, const char *json, struct error *err, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	cleanup_free char *pointer = xvasprintf(format, args);
	va_end(args);
	return spec_edit_set(&save->text, pointer, json, err);
}

static int set_list(struct spec_save *save, hwloc_const_bitmap_t list, const char *pointer,
                    struct error *err)
{
	cleanup_free char *text = cpulist_format(list);
	cleanup_free char *json = xasprintf("\"%s\"", text);

	return set(save, json, err, "%s", pointer);
}

/* ---- scheduling ---- */

/* The two members of an object that has them. */
static int set_sched(struct spec_save *save, const char *object, struct sched sched,
                     struct error *err)
{
	cleanup_free char *scheduler = xasprintf("\"%s\"", scheduler_name(sched.scheduler));
	cleanup_free char *priority = xasprintf("%d", sched.priority);
	cleanup_free char *at = xasprintf("%s/priority", object);

	if (set(save, scheduler, err, "%s/scheduler", object) < 0)
		return -1;
	return sched.priority ? spec_edit_set(&save->text, at, priority, err)
	                      : spec_edit_remove(&save->text, at, err);
}

static char *entry_json(const char *key, const char *who, struct sched sched)
{
	if (sched.priority)
		return xasprintf("{ \"%s\": \"%s\", \"scheduler\": \"%s\", \"priority\": %d }", key,
		                 who, scheduler_name(sched.scheduler), sched.priority);
	return xasprintf("{ \"%s\": \"%s\", \"scheduler\": \"%s\" }", key, who,
	                 scheduler_name(sched.scheduler));
}

/* Entries that are only for vCPUs of the set are changed; others lose those vCPUs; for what is left
 * there is a new entry. */
static int save_vcpusched(struct spec_save *save, hwloc_bitmap_t vcpus, struct sched sched,
                          struct error *err)
{
	const struct spec *spec = save->was;

	for (size_t i = 0; i < spec->cputune.n_vcpusched; i++) {
		hwloc_const_bitmap_t those = spec->cputune.vcpusched[i].vcpus;
		cleanup_free char *entry = xasprintf("/cputune/vcpusched/%zu", i);
		cleanup_free char *list = xasprintf("%s/vcpus", entry);
		cleanup_bitmap hwloc_bitmap_t rest = xbitmap();
		if (!hwloc_bitmap_intersects(those, vcpus))
			continue;
		hwloc_bitmap_andnot(rest, those, vcpus);
		if (!hwloc_bitmap_iszero(rest)) {
			if (set_list(save, rest, list, err) < 0)
				return -1;
			continue;
		}
		if (set_sched(save, entry, sched, err) < 0)
			return -1;
		hwloc_bitmap_andnot(vcpus, vcpus, those);
	}
	if (hwloc_bitmap_iszero(vcpus) || sched.scheduler == SCHED_OF_OTHER)
		return 0;
	cleanup_free char *text = cpulist_format(vcpus);
	cleanup_free char *json = entry_json("vcpus", text, sched);
	return set(save, json, err, "/cputune/vcpusched/-");
}

/* The names of an entry without one of them; "" if it is the only one. */
static char *names_without(const char *names, const char *name)
{
	cleanup_free char *copy = xstrdup(names);
	char *rest = copy, *part, *result = xstrdup("");

	while ((part = strsep(&rest, ","))) {
		if (strcmp(part, name) == 0)
			continue;
		char *longer = xasprintf("%s%s%s", result, *result ? "," : "", part);
		free(result);
		result = longer;
	}
	return result;
}

static int save_iothreadsched(struct spec_save *save, const char *id, struct sched sched,
                              struct error *err)
{
	const struct spec *spec = save->was;

	for (size_t i = 0; i < spec->cputune.n_iothreadsched; i++) {
		const char *names = spec->cputune.iothreadsched[i].iothreads;
		cleanup_free char *entry = xasprintf("/cputune/iothreadsched/%zu", i);
		cleanup_free char *rest = names_without(names, id);
		cleanup_free char *json = xasprintf("\"%s\"", rest);
		if (strlen(rest) == strlen(names))
			continue;
		if (!*rest)
			return set_sched(save, entry, sched, err);
		if (set(save, json, err, "%s/iothreads", entry) < 0)
			return -1;
	}
	if (sched.scheduler == SCHED_OF_OTHER)
		return 0;
	cleanup_free char *json = entry_json("iothreads", id, sched);
	return set(save, json, err, "/cputune/iothreadsched/-");
}

/* ---- targets ---- */

static int save_target(struct spec_save *save, const struct change_target *target,
                       hwloc_bitmap_t vcpus, struct error *err)
{
	cleanup_free char *pointer = target->role == THREAD_VCPU
	                                 ? xasprintf("/cputune/vcpupin/%d", target->vcpu)
	                             : target->role == THREAD_IOTHREAD
	                                 ? xasprintf("/cputune/iothreadpin/%s", target->iothread)
	                                 : xstrdup("/cputune/emulatorpin");

	if (target->cpus && set_list(save, target->cpus, pointer, err) < 0)
		return -1;
	if (target->sched.scheduler == SCHED_UNSET)
		return 0;
	if (target->role == THREAD_VCPU)
		hwloc_bitmap_set(vcpus, (unsigned)target->vcpu);
	else if (target->role == THREAD_IOTHREAD)
		return save_iothreadsched(save, target->iothread, target->sched, err);
	else
		return set_sched(save, "/cputune/emulatorsched", target->sched, err);
	return 0;
}

/* A pin makes "static" the default where "auto" was: then it is said. */
static int keep_mode(struct spec_save *save, struct error *err)
{
	cleanup_spec struct spec *is = parse(save->path, save->text, err);

	if (!is)
		return -1;
	if (is->placement.mode == save->was->placement.mode)
		return 0;
	return set(save, "\"auto\"", err, "/placement/mode");
}

static int save_limits(struct spec_save *save, const struct change *change, struct error *err)
{
	cleanup_free char *shares = xasprintf("%d", change->shares);
	cleanup_free char *quota = xasprintf("\"%d%%\"", change->quota);

	if (change->shares && set(save, shares, err, "/cputune/shares") < 0)
		return -1;
	return change->quota ? set(save, quota, err, "/cputune/quota") : 0;
}

int spec_save_threads(struct spec_save *save, const struct change *change, struct error *err)
{
	cleanup_bitmap hwloc_bitmap_t vcpus = xbitmap();

	for (size_t i = 0; i < change->count; i++)
		if (save_target(save, &change->list[i], vcpus, err) < 0)
			return error_prefix(err, "--save: ");
	if (save_limits(save, change, err) < 0 ||
	    (!hwloc_bitmap_iszero(vcpus) &&
	     save_vcpusched(save, vcpus, change->list[0].sched, err) < 0) ||
	    keep_mode(save, err) < 0)
		return error_prefix(err, "--save: ");
	return 0;
}

int spec_save_memory(struct spec_save *save, const struct plan *plan, hwloc_const_bitmap_t regions,
                     struct error *err)
{
	unsigned i;

	hwloc_bitmap_foreach_begin(i, regions)
	{
		const struct plan_memory *memory = &plan->memory[i];
		cleanup_free char *pointer =
		    memory->guest_node < 0
		        ? xstrdup("/memory-backing/host-nodes")
		        : xasprintf("/numa/nodes/%d/host-nodes", memory->guest_node);
		if (memory->guest_node >= (int)save->was->numa.n_nodes)
			return error_set(err, EXIT_SPEC,
			                 "--save: %s names no guest node %d, it was placement's "
			                 "choice; write /numa/nodes into it first",
			                 save->path, memory->guest_node);
		if (set_list(save, memory->host_nodes, pointer, err) < 0)
			return error_prefix(err, "--save: ");
	}
	hwloc_bitmap_foreach_end();
	return 0;
}

/* ---- proof ---- */

static bool is_as_meant(const struct spec *spec, const struct change_target *target)
{
	struct sched sched = target->role == THREAD_VCPU ? spec_vcpu_sched(spec, target->vcpu)
	                     : target->role == THREAD_IOTHREAD
	                         ? spec_iothread_sched(spec, target->iothread)
	                         : spec->cputune.emulatorsched;
	hwloc_const_bitmap_t cpus = target->role == THREAD_VCPU ? spec_vcpupin(spec, target->vcpu)
	                            : target->role == THREAD_IOTHREAD
	                                ? spec_iothreadpin(spec, target->iothread)
	                                : spec->cputune.emulatorpin;

	if (target->cpus && (!cpus || !hwloc_bitmap_isequal(cpus, target->cpus)))
		return false;
	if (sched.scheduler == SCHED_UNSET)
		sched.scheduler = SCHED_OF_OTHER;
	return target->sched.scheduler == SCHED_UNSET ||
	       (target->sched.scheduler == sched.scheduler &&
	        target->sched.priority == sched.priority);
}

static bool is_named(const struct change *change, int vcpu)
{
	for (size_t i = 0; change && i < change->count; i++)
		if (change->list[i].role == THREAD_VCPU && change->list[i].vcpu == vcpu)
			return true;
	return false;
}

/* What was not meant to change has not: the vCPUs that are not named, and how the rest is placed.
 */
static bool rest_is_same(const struct spec *was, const struct spec *is, const struct change *change)
{
	for (int i = 0; i < was->max_vcpus; i++) {
		struct sched a = spec_vcpu_sched(was, i), b = spec_vcpu_sched(is, i);
		hwloc_const_bitmap_t x = spec_vcpupin(was, i), y = spec_vcpupin(is, i);
		if (!is_named(change, i) &&
		    (a.scheduler != b.scheduler || a.priority != b.priority || !x != !y ||
		     (x && !hwloc_bitmap_isequal(x, y))))
			return false;
	}
	return was->placement.mode == is->placement.mode &&
	       was->placement.cpu_policy == is->placement.cpu_policy &&
	       was->max_vcpus == is->max_vcpus && was->memory == is->memory &&
	       was->numa.n_nodes == is->numa.n_nodes && strcmp(was->name, is->name) == 0;
}

static int prove(const struct spec_save *save, const struct change *change, struct error *err)
{
	cleanup_spec struct spec *is = parse(save->path, save->text, err);

	if (!is)
		return error_prefix(err, "--save: what would be written is wrong: ");
	for (size_t i = 0; change && i < change->count; i++)
		if (!is_as_meant(is, &change->list[i]))
			return error_set(err, EXIT_SPEC,
			                 "--save: %s cannot be edited so that it says this; edit "
			                 "/cputune by hand",
			                 save->path);
	if (rest_is_same(save->was, is, change))
		return 0;
	return error_set(err, EXIT_SPEC,
	                 "--save: %s cannot be edited without changing more; edit it by hand",
	                 save->path);
}

static int write_fresh(struct spec_save *save, struct error *err)
{
	size_t length = strlen(save->text), done = 0;
	cleanup_close int fd = spec_fresh_make(&save->fresh, save->path, err);

	if (fd < 0)
		return error_prefix(err, "--save: ");
	while (done < length) {
		ssize_t wrote = write(fd, save->text + done, length - done);
		if (wrote < 0 && errno != EINTR)
			break;
		done += wrote > 0 ? (size_t)wrote : 0;
	}
	/* The owner first: a change of owner takes bits of the mode away. */
	if (done == length && fchown(fd, save->before.st_uid, save->before.st_gid) == 0 &&
	    fchmod(fd, save->before.st_mode & 07777) == 0 && fsync(fd) == 0)
		return 0;
	return error_set(err, EXIT_FAILED,
	                 "--save: cannot write %s with the owner and mode of %s: %s",
	                 save->fresh.path, save->path, strerror(errno));
}

int spec_save_prepare(struct spec_save *save, const struct change *change, struct error *err)
{
	return prove(save, change, err) < 0 ? -1 : write_fresh(save, err);
}

int spec_save_commit(struct spec_save *save, struct error *err)
{
	const struct stat *was = &save->before;
	struct stat is;

	if (stat(save->path, &is) < 0 || is.st_ino != was->st_ino || is.st_dev != was->st_dev ||
	    is.st_size != was->st_size || is.st_mtim.tv_sec != was->st_mtim.tv_sec ||
	    is.st_mtim.tv_nsec != was->st_mtim.tv_nsec)
		return error_set(err, EXIT_SPEC,
		                 "--save: %s was changed by somebody else meanwhile", save->path);
	if (spec_fresh_replace(&save->fresh, save->path) < 0)
		return error_set(err, EXIT_FAILED, "--save: cannot replace %s: %s", save->path,
		                 strerror(errno));
	return 0;
}

void spec_save_end(struct spec_save *save)
{
	spec_fresh_end(&save->fresh);
	free(save->path);
	free(save->text);
	spec_free(save->was);
	*save = (struct spec_save)SPEC_SAVE_INIT;
}
