#include <poll.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"
#include "memory_parts.h"
#include "util.h"
#include "waits.h"

/* So many pages are asked for at a time, as the kernel does itself. */
#define PAGES_AT_ONCE 512

/* So many may be on their way at a time, whatever else there is: some batches of migrate_pages().
 */
#define MOVING_MOST 4096

struct finder {
	pid_t pid;
	uintptr_t start;
	uint64_t page_size;
	struct residency seen;
	uint64_t *missing; /* by number; those that are nowhere just now */
	size_t n_missing;
};

/* Where these pages are; false if the kernel does not say (move_pages(2)). */
static bool ask(struct finder *f, const uint64_t *numbers, size_t count)
{
	void *addresses[PAGES_AT_ONCE];
	int nodes[PAGES_AT_ONCE];

	for (size_t i = 0; i < count; i++)
		addresses[i] = (char *)f->start + numbers[i] * f->page_size; /* QEMU's */
	if (syscall(SYS_move_pages, f->pid, count, addresses, NULL, nodes, 0) < 0)
		return false;
	for (size_t i = 0; i < count; i++) {
		if (nodes[i] >= 0)
			residency_add(&f->seen, (size_t)nodes[i], 1);
		else
			*array_append(&f->missing, &f->n_missing) = numbers[i];
	}
	return true;
}

static bool ask_all(struct finder *f, uint64_t pages)
{
	uint64_t numbers[PAGES_AT_ONCE];

	for (uint64_t first = 0; first < pages; first += PAGES_AT_ONCE) {
		size_t count = 0;
		while (count < PAGES_AT_ONCE && first + count < pages) {
			numbers[count] = first + count;
			count++;
		}
		if (!ask(f, numbers, count))
			return false;
	}
	return true;
}

static bool ask_again(struct finder *f)
{
	cleanup_free uint64_t *numbers = take_pointer(&f->missing);
	size_t count = f->n_missing;

	f->n_missing = 0;
	for (size_t first = 0; first < count; first += PAGES_AT_ONCE) {
		size_t left = count - first;
		if (!ask(f, numbers + first, left < PAGES_AT_ONCE ? left : PAGES_AT_ONCE))
			return false;
	}
	return true;
}

void residency_find(pid_t pid, uintptr_t start, uint64_t size, uint64_t expected,
                    struct residency *residency)
{
	struct finder f = { .pid = pid,
		            .start = start,
		            .page_size = residency->page_size,
		            .seen = { .page_size = residency->page_size, .thp = residency->thp } };
	int64_t deadline = kernel_now_ms() + LIMIT_MOVING_MS;

	/* Much that is missing is not on its way: it is not there, and may be any size. */
	if (!f.page_size || residency->resident >= expected ||
	    expected - residency->resident > residency->resident + MOVING_MOST)
		return;
	bool known = ask_all(&f, size / f.page_size);
	while (known && f.seen.resident < expected && kernel_now_ms() < deadline) {
		poll(NULL, 0, 1);
		known = ask_again(&f);
	}
	free(f.missing);
	if (!known) {
		free(f.seen.pages);
		return;
	}
	free(residency->pages);
	*residency = f.seen;
}
