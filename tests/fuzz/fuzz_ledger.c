/* What others may have written: plan.json and state.json of a VM. Read as the VM's owner reads
 * them, and as root reads those of a user (which is why this includes ledger_users.c); what was
 * read can be used by whatever uses plans.
 *
 * In the input, a byte 0xff (of which there is none in UTF-8) ends the plan, and another the state;
 * then follows QEMU's log. */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>

#include "fuzz.h"

#include "launcher/ledger_users.c"

#include "argv.h"
#include "command.h"
#include "kernel.h"
#include "verify.h"
#include "vm_client.h"
#include "waits.h"

#define NAME "vm"
#define MEMORY_MOST (UINT64_C(1) << 36)

extern const struct command cmd_list, cmd_verify;

/* No process is the one that a state names: by chance it could be one of this machine, and commands
 * would wait for it, or kill it. Nobody is waited for: the clock runs a second each time it is
 * looked at. */
int __wrap_kernel_pidfd(pid_t pid, uint64_t start_time);
int __wrap_kernel_pidfd(pid_t pid, uint64_t start_time)
{
	(void)pid;
	(void)start_time;
	errno = ESRCH;
	return -1;
}

int64_t __wrap_kernel_now_ms(void);
int64_t __wrap_kernel_now_ms(void)
{
	static int64_t now;

	return now += 1000;
}

/* The runtime directory, with one VM whose lock is held. */
struct runtime {
	char path[64];
	int dirfd, vm, lock;
	int memory;  /* as QEMU's FD_MEMORY */
	char *locks; /* what /proc/locks says of it */
	FILE *null;
};

static struct runtime runtime;

static void remove_runtime(void)
{
	cleanup_free char *command = xasprintf("rm -rf '%s'", runtime.path);

	if (system(command) != 0)
		fprintf(stderr, "%s is left\n", runtime.path);
}

static void set_up(void)
{
	struct stat status;

	strcpy(runtime.path, "/tmp/ancla-fuzz-ledger-XXXXXX");
	promise(mkdtemp(runtime.path), "no %s", runtime.path);
	atexit(remove_runtime);
	setenv("ANCLA_RUNTIME_DIR", runtime.path, 1);
	runtime.dirfd = open(runtime.path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	promise(mkdirat(runtime.dirfd, NAME, 0700) == 0, "no directory");
	runtime.vm = openat(runtime.dirfd, NAME, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	runtime.lock = openat(runtime.vm, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	promise(flock(runtime.lock, LOCK_EX | LOCK_NB) == 0, "no lock");
	promise(fstat(runtime.lock, &status) == 0, "no lock");
	runtime.locks =
	    xasprintf("1: FLOCK  ADVISORY  WRITE 1 %02x:%02x:%lu 0 EOF\n", major(status.st_dev),
	              minor(status.st_dev), (unsigned long)status.st_ino);
	runtime.null = fopen("/dev/null", "we");
	runtime.memory = memfd_create("memory", MFD_CLOEXEC);
	promise(dup2(runtime.memory, FD_MEMORY) == FD_MEMORY, "no memory");
}

static void write_bytes(const char *name, const uint8_t *data, size_t size)
{
	cleanup_close int fd =
	    openat(runtime.vm, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	promise(fd >= 0 && write(fd, data, size) == (ssize_t)size, "%s is not written", name);
}

/* The parts of the input. */
static void write_files(const uint8_t *data, size_t size)
{
	static const char *const names[] = { VM_PLAN, VM_STATE, VM_LOG };

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		const uint8_t *cut = i < 2 ? memchr(data, 0xff, size) : NULL;
		size_t length = cut ? (size_t)(cut - data) : size;

		write_bytes(names[i], data, length);
		data += length + (cut != NULL);
		size -= length + (cut != NULL);
	}
}

/* What plan.h says of every plan. */
static void promise_plan(const struct plan *plan)
{
	promise(plan->name, "no name");
	promise(plan->n_vcpus >= 1 && plan->vcpus_online <= (int)plan->n_vcpus, "%d vCPUs of %zu",
	        plan->vcpus_online, plan->n_vcpus);
	promise((int64_t)plan->sockets * plan->dies * plan->cores * plan->threads ==
	            (int64_t)plan->n_vcpus,
	        "the topology does not give its vCPUs");
	promise(plan->n_memory >= 1, "no memory");
	promise_within(plan->emulator, "the emulator");
	promise_within(plan->siblings, "an idle sibling");
	for (size_t i = 0; i < plan->n_vcpus; i++) {
		promise(!hwloc_bitmap_iszero(plan->vcpus[i].cpus), "vCPU %zu has no CPU", i);
		promise_within(plan->vcpus[i].cpus, "a vCPU");
	}
	for (size_t i = 0; i < plan->n_iothreads; i++) {
		promise(!hwloc_bitmap_iszero(plan->iothreads[i].cpus), "iothread %zu", i);
		promise_within(plan->iothreads[i].cpus, "an iothread");
		for (size_t j = 0; j < i; j++)
			promise(strcmp(plan->iothreads[i].id, plan->iothreads[j].id) != 0,
			        "iothread %s is there twice", plan->iothreads[i].id);
	}
	for (size_t i = 0; i < plan->n_memory; i++) {
		const struct plan_memory *memory = &plan->memory[i];

		promise(memory->size && memory->size % memory->page_size == 0, "memory %zu", i);
		promise(memory->shared || memory->backing == BACKING_ANON, "memory %zu", i);
		const struct plan_memory policy = plan_memory_of_policy(memory);

		promise((policy.host_nodes != NULL) == (policy.policy != MEM_POLICY_UNSET),
		        "memory %zu has a policy or nodes", i);
		promise(memory->host_nodes || !memory->policy_nodes, "memory %zu was moved nowhere",
		        i);
		promise(!memory->host_nodes || !hwloc_bitmap_iszero(memory->host_nodes),
		        "memory %zu is on no node", i);
		promise(memory->guest_node ==
		            (plan->n_memory == 1 && memory->guest_node < 0 ? -1 : (int)i),
		        "memory %zu is of guest node %d", i, memory->guest_node);
	}
}

/* What can be taken for the first region: a file mapped, or anonymous memory. */
static void *make_memory(uint64_t size, bool file)
{
	void *address = MAP_FAILED;

	promise(ftruncate(runtime.memory, 0) == 0, "the file");
	if (size % 4096 || size > MEMORY_MOST ||
	    (file && ftruncate(runtime.memory, (off_t)size) < 0))
		return NULL;
	address = mmap(NULL, size, PROT_READ | PROT_WRITE,
	               MAP_NORESERVE | (file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS),
	               file ? runtime.memory : -1, 0);
	promise(address != MAP_FAILED, "%zu bytes are not mapped", (size_t)size);
	*(char *)address = 1;
	return address;
}

/* Every thread of the plan is this one, and its first region a memory of this process: what verify
 * does with it. */
static void verify_it(const struct plan *plan)
{
	void *memory = make_memory(plan->memory[0].size, plan->memory[0].backing != BACKING_ANON);
	cleanup_checks struct checks checks = { 0 };
	cleanup_error struct error err = ERROR_INIT;
	struct threads threads = { .pid = getpid() };

	for (size_t i = 0; i < plan->n_vcpus + plan->n_iothreads + 3; i++) {
		struct thread *thread = array_append(&threads.list, &threads.count);

		thread->tid = getpid();
		thread->role = i < plan->n_vcpus ? THREAD_VCPU : THREAD_IOTHREAD;
		thread->index = (int)(i < plan->n_vcpus ? i : i - plan->n_vcpus);
		if (i < plan->n_vcpus + plan->n_iothreads)
			continue;
		thread->role = THREAD_EMULATOR + (enum thread_role)(i % 3);
		thread->index = -1;
	}
	verify_threads(plan, &threads, &checks);
	if (verify_memory(plan, getpid(), NULL, true, &checks, &err) < 0)
		promise_error(&err);
	verify_verdict(&checks, &err);
	if (memory)
		munmap(memory, plan->memory[0].size);
	threads_free(&threads);
}

static void use(const struct plan *plan)
{
	cleanup_claims struct claims *claims = claims_new();
	cleanup_plan struct plan *copy = plan_copy(plan);
	cleanup_json struct json_object *json = plan_to_json(plan), *again = plan_to_json(copy);

	promise_plan(plan);
	promise_same_json(json, again);
	claims_add_plan(claims, plan);
	promise(claims_conflict(claims, plan->emulator, false), "it does not hold what it holds");
	for (size_t i = 0; i < plan->n_memory; i++) {
		cleanup_free char *text = plan_memory_format(&plan->memory[i]);
		promise_printable(text);
	}
	verify_it(plan);
	promise(claims_drop(claims, plan->name) && claims->count == 0, "it keeps what it held");
}

/* As root reads it of a user: nothing that a terminal would act on. */
static void read_as_root(void)
{
	cleanup_user_vms struct user_vms vms = { 0 };
	cleanup_error struct error err = ERROR_INIT;
	struct reading reading = {
		.budget = { .bytes = BYTES_MAX }, .owner = (char *)"user", .vms = &vms, .err = &err
	};
	cleanup_free char *locks = xstrdup(runtime.locks);

	find_locked(&reading, locks);
	read_vm(&reading, runtime.dirfd, NAME, geteuid());
	promise(!reading.failed, "%s", err.message);
	free(reading.locked);
	for (size_t i = 0; i < vms.count; i++) {
		const struct user_vm *vm = &vms.list[i];
		cleanup_claims struct claims *claims = claims_new();

		promise(strchr(vm->name, '/'), "named as one's own: %s", vm->name);
		promise(strcmp(vm->plan->name, vm->name) == 0, "the plan is of %s", vm->plan->name);
		promise_printable(vm->name);
		if (vm->state.state)
			promise_printable(vm->state.state);
		claims_add_plan(claims, vm->plan);
		for (size_t j = 0; j < claims->count; j++)
			promise_printable(claims->list[j].role);
	}
}

/* The commands themselves; what they print goes nowhere. */
static void run_commands(void)
{
	static const struct command *const commands[] = { &cmd_list, &cmd_verify, NULL };
	char *list[] = { "ancla", "list", "--json", NULL };
	char *verify[] = { "ancla", "verify", NAME, NULL };
	FILE *out = stdout, *err = stderr;

	stdout = stderr = runtime.null;
	int listed = command_main(commands, 3, list);
	int verified = command_main(commands, 3, verify);
	stdout = out;
	stderr = err;
	promise(listed == EXIT_DONE, "list ends with %d", listed);
	promise(verified == EXIT_FAILED, "verify ends with %d", verified);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	cleanup_error struct error err = ERROR_INIT, state_err = ERROR_INIT,
	                           claims_err = ERROR_INIT;
	cleanup_ledger struct ledger ledger = LEDGER_INIT;
	cleanup_vm_state struct vm_state state = { 0 };

	if (!runtime.null)
		set_up();
	const struct vm_dir dir = { NAME, runtime.path, runtime.vm, -1, NULL };
	write_files(data, size);
	cleanup_free char *words = vm_last_words(&dir);
	promise_printable(words);
	promise(strlen(words) <= 1024 + 4 * strlen("; "), "many words: %s", words);

	cleanup_plan struct plan *plan = vm_read_plan(&dir, &err);
	if (plan)
		use(plan);
	else
		promise_error(&err);
	if (err.message)
		promise_printable(err.message);
	if (vm_read_state(&dir, &state, &state_err) == 0)
		promise(state.state && state.spec && state.serial && state.qemu >= 0 &&
		            state.launcher >= 0,
		        "a state without its parts");
	else
		promise_error(&state_err);
	read_as_root();
	if (ledger_open(&ledger, false, &claims_err) < 0)
		promise(false, "%s", claims_err.message);
	cleanup_claims struct claims *claims = ledger_claims(&ledger, &claims_err);
	promise(!claims == !plan, "the ledger reads it otherwise: %s", claims_err.message);
	ledger_close(&ledger);
	run_commands();
	return 0;
}
