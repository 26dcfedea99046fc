/* Put before every file of a build that counts coverage: a process that ends by _exit(), or becomes
 * another program, counts, too. A child that no tracer follows writes what was counted, so that
 * tests/faults finds no calls but the program's own, and limits are only the program's. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

void __gcov_dump(void);

/* Seconds; other threads of the program do not run in the child, and may have held its locks. */
#define COVERAGE_LIMIT 10

static inline void coverage_write(void)
{
	long child = syscall(SYS_clone, CLONE_UNTRACED, 0, 0, 0, 0);

	if (child == 0) {
		alarm(COVERAGE_LIMIT);
		__gcov_dump();
		_exit(0);
	}
	while (child > 0 && syscall(SYS_wait4, child, 0, __WALL, 0) < 0 && errno == EINTR)
		;
}

static inline void coverage_exit(int status) __attribute__((noreturn, unused));
static inline void coverage_exit(int status)
{
	coverage_write();
	_exit(status);
}

static inline int coverage_execv(const char *path, char *const argv[]) __attribute__((unused));
static inline int coverage_execv(const char *path, char *const argv[])
{
	coverage_write();
	return (int)syscall(SYS_execve, path, argv, environ);
}

int coverage_begun __attribute__((weak));

static inline void coverage_end(int status, void *unused)
{
	(void)unused;
	fflush(NULL);
	coverage_exit(status);
}

static void coverage_begin(void) __attribute__((constructor, unused));
static void coverage_begin(void)
{
	if (!coverage_begun++)
		on_exit(coverage_end, NULL); /* after all that is to run at the end */
}

#define _exit coverage_exit
#define execv coverage_execv
