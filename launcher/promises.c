#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "argv.h"
#include "kernel.h"
#include "memory.h"
#include "promises.h"
#include "util.h"

/* The VM whose regions are looked at. */
struct look {
	bool started; /* it has a QEMU, and may have taken something */
	bool running; /* it is filled, or will be as the guest goes */
	bool owing;   /* pages that were reserved for it are on their way out */
	pid_t qemu;   /* 0: gone */
};

/* Bytes of the region's file that hold no page yet; false: it cannot be seen, as QEMU does not have
 * it yet, or no longer. */
static bool file_left(const struct look *look, size_t index, uint64_t size, uint64_t *left)
{
	cleanup_free char *path = xasprintf("/proc/%d/fd/%d", look->qemu, FD_MEMORY + (int)index);
	struct stat file;

	/* Before exec, another file may have the number. */
	if (look->qemu <= 0 || stat(path, &file) < 0 || !S_ISREG(file.st_mode) ||
	    (uint64_t)file.st_size != size)
		return false;
	uint64_t taken = (uint64_t)file.st_blocks * 512;
	*left = taken < size ? size - taken : 0;
	return true;
}

/* What is being cleared by the fill's threads is no longer free, and not in the file yet. */
static uint64_t less_in_flight(const struct plan_memory *memory, uint64_t left)
{
	uint64_t in_flight = memory->fill == FILL_LAUNCHER ? fill_in_flight(memory)
	                     : memory->fill == FILL_QEMU   ? left
	                                                   : 0;

	return left > in_flight ? left - in_flight : 0;
}

static void look_at_region(const struct look *look, const struct plan_memory *memory, size_t index,
                           uint64_t *least, uint64_t *most)
{
	bool is_file = memory->backing != BACKING_ANON;
	uint64_t left;

	*least = *most = 0;
	if (memory->fill == FILL_NONE && memory->pages != PAGES_HUGE)
		return; /* Linux promises nothing, either */
	if (!look->started) {
		*least = *most = memory->size;
	} else if (is_file && file_left(look, index, memory->size, &left)) {
		*most = left;
		*least = less_in_flight(memory, left);
	} else if (!look->running || look->owing) {
		*most = memory->size;
	}
}

void promises_add(struct claims *claims, const struct plan *plan, const struct vm_state *state,
                  bool owing)
{
	struct look look = { .owing = owing };

	/* The state is there before the plan, and goes before it: without one the VM is ending. */
	bool known = state && state->state, has_qemu = known && state->qemu > 0;
	look.started = !known || has_qemu;
	look.running = has_qemu && strcmp(state->state, "starting") != 0;
	if (has_qemu && kernel_start_time(state->qemu) == state->qemu_start)
		look.qemu = state->qemu;
	for (size_t i = 0; i < plan->n_memory; i++) {
		const struct plan_memory *memory = &plan->memory[i];
		uint64_t least, most;
		look_at_region(&look, memory, i, &least, &most);
		if (!most)
			continue;
		struct promise *promise = array_append(&claims->promises, &claims->n_promises);
		promise->vm = xstrdup(plan->name);
		promise->nodes = memory->host_nodes ? xbitmap_dup(memory->host_nodes) : NULL;
		promise->page_size = memory->pages == PAGES_HUGE ? memory->page_size : 0;
		promise->least = least;
		promise->most = most;
	}
}
