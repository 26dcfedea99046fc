#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <link.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#include "command.h"
#include "log.h"
#include "util.h"

static int option_index(const struct command *command, const char *name, size_t length)
{
	for (int i = 0; command->options && command->options[i].name; i++)
		if (strlen(command->options[i].name) == length &&
		    strncmp(command->options[i].name, name, length) == 0)
			return i;
	return -1;
}

const char *invocation_option(const struct invocation *call, const char *name)
{
	int index = option_index(call->command, name, strlen(name));

	assert(index >= 0);
	return call->values[index];
}

int command_fail(const struct error *err)
{
	fflush(stdout);
	log_say(LOG_ERR, "failed", "%s", err->message);
	return (int)err->code;
}

void command_warn(const char *text)
{
	if (text)
		fprintf(stderr, "ancla: warning: %s\n", text);
}

int command_flush(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return EXIT_DONE;
	fprintf(stderr, "ancla: cannot write to standard output: %s\n", strerror(errno));
	return EXIT_FAILED;
}

int command_print_json(struct json_object *json)
{
	puts(json_object_to_json_string_ext(json, JSON_C_TO_STRING_PRETTY |
	                                              JSON_C_TO_STRING_SPACED |
	                                              JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(json);
	return command_flush();
}

static void print_usage(FILE *out, const struct command *command)
{
	fprintf(out, "usage: ancla %s", command->name);
	for (const struct command_option *o = command->options; o && o->name; o++) {
		if (o->value)
			fprintf(out, " [--%s %s]", o->name, o->value);
		else
			fprintf(out, " [--%s]", o->name);
	}
	fprintf(out, "%s%s\n", *command->arguments ? " " : "", command->arguments);
}

static int print_command_help(const struct command *command)
{
	print_usage(stdout, command);
	printf("\n%s.\n", command->summary);
	if (command->details)
		printf("\n%s\n", command->details);
	printf("\noptions:\n");
	for (const struct command_option *o = command->options; o && o->name; o++) {
		cleanup_free char *left =
		    xasprintf("--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
		printf("  %-20s %s\n", left, o->help);
	}
	printf("  %-20s %s\n", "--help", "print this");
	return command_flush();
}

static int print_help(const struct command *const table[])
{
	printf("usage: ancla COMMAND [options] [arguments]\n\n"
	       "Runs virtual machines exactly where they belong, and proves it.\n\n"
	       "commands:\n");
	for (int i = 0; table[i]; i++) {
		cleanup_free char *left = xasprintf("%s %s", table[i]->name, table[i]->arguments);
		printf("  %-28s %s\n", left, table[i]->summary);
	}
	printf(
	    "\n`ancla COMMAND --help` tells more. Exit codes: 0 done; 1 failed while running, or "
	    "no such VM;\n2 usage; 3 the spec is wrong or unreadable; 4 the host cannot grant it; "
	    "5 verification failed.\n");
	return command_flush();
}

static int usage_error(const struct command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static int usage_error(const struct command *command, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	fprintf(stderr, "ancla %s: ", command->name);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	print_usage(stderr, command);
	return EXIT_USAGE;
}

static int unknown_option(const struct command *command, const char *word)
{
	const char *names[ARRAY_SIZE(((struct invocation *)0)->values)];
	size_t count = 0;

	for (const struct command_option *o = command->options; o && o->name; o++)
		names[count++] = o->name;
	cleanup_free char *name = xstrdup(word + 2);
	name[strcspn(name, "=")] = '\0';
	const char *near = nearest_word(name, names, count);
	if (near)
		return usage_error(command, "no option --%s; did you mean --%s?", name, near);
	return usage_error(command, "no option --%s", name);
}

static int run_command(const struct command *command, int argc, char **argv)
{
	struct invocation call = { .command = command };
	cleanup_free char **args = xcalloc((size_t)argc + 1, sizeof(*args));
	bool only_args = false;

	call.args = args;
	for (int i = 0; i < argc; i++) {
		char *word = argv[i];
		if (only_args || word[0] != '-' || word[1] == '\0') {
			args[call.n_args++] = word;
			continue;
		}
		if (strcmp(word, "--") == 0) {
			only_args = true;
			continue;
		}
		if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
			return print_command_help(command);
		if (word[1] != '-')
			return usage_error(command, "no option %s", word);
		char *value = strchr(word, '=');
		int index = option_index(command, word + 2,
		                         value ? (size_t)(value - word - 2) : strlen(word + 2));
		if (index < 0)
			return unknown_option(command, word);
		if (!command->options[index].value) {
			if (value)
				return usage_error(command, "--%s takes no value",
				                   command->options[index].name);
			call.values[index] = "";
			continue;
		}
		if (!value && i + 1 == argc)
			return usage_error(command, "%s needs a value: %s", word,
			                   command->options[index].value);
		call.values[index] = value ? value + 1 : argv[++i];
	}
	if (call.n_args < command->min_args)
		return usage_error(command, "needs %s", command->arguments);
	if (call.n_args > command->max_args)
		return usage_error(command, "too many arguments: \"%s\"", args[command->max_args]);
	return command->run(&call);
}

/* A program may be started with a standard descriptor closed. Whatever is opened next must not get
 * its number, and its use must fail as it would: so each is open, the wrong way round. */
static void open_standard_descriptors(void)
{
	static const int wrong_way[] = { O_WRONLY, O_RDONLY, O_RDONLY };

	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", wrong_way[fd]) != fd)
			_exit(EXIT_FAILED);
}

#ifdef __clang__
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif
#ifdef __SANITIZE_ADDRESS__
#define SANITIZED ", with AddressSanitizer"
#else
#define SANITIZED ""
#endif

/* A program that needs no dynamic loader names none. */
static bool is_static(void)
{
	const ElfW(Phdr) *header = (const void *)getauxval(AT_PHDR);

	for (unsigned long i = 0; i < getauxval(AT_PHNUM); i++)
		if (header[i].p_type == PT_INTERP)
			return false;
	return true;
}

static void print_version(void)
{
	unsigned hwloc = hwloc_get_api_version();

	printf("ancla %s\n", ANCLA_VERSION);
	printf("built by %s%s; linked %s\n", COMPILER, SANITIZED,
	       is_static() ? "statically" : "to shared libraries");
	printf("with hwloc %u.%u.%u, json-c %s, glibc %s\n", hwloc >> 16, hwloc >> 8 & 0xff,
	       hwloc & 0xff, json_c_version(), gnu_get_libc_version());
}

int command_main(const struct command *const table[], int argc, char **argv)
{
	const char *names[64];
	size_t count = 0;

	open_standard_descriptors();
	/* Inherited as ignored, it would hide how a child ended. */
	signal(SIGCHLD, SIG_DFL);
	/* Past a limit on the size of files a write fails, as on a full disk. */
	signal(SIGXFSZ, SIG_IGN);
	log_begin(false, false);
	if (argc < 2) {
		fprintf(stderr, "ancla: no command; try `ancla --help`\n");
		return EXIT_USAGE;
	}
	if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
	    strcmp(argv[1], "help") == 0)
		return print_help(table);
	if (strcmp(argv[1], "--version") == 0) {
		print_version();
		return command_flush();
	}
	for (; table[count]; count++) {
		names[count] = table[count]->name;
		if (strcmp(argv[1], names[count]) == 0)
			return run_command(table[count], argc - 2, argv + 2);
	}
	const char *near = nearest_word(argv[1], names, count);
	fprintf(stderr, "ancla: no command \"%s\"%s%s%s try `ancla --help`\n", argv[1],
	        near ? "; did you mean \"" : "", near ? near : "", near ? "\"?" : ";");
	return EXIT_USAGE;
}
