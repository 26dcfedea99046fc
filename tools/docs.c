/* usage: docs man DATE | man-spec DATE | bash | zsh
 *
 * The manual pages and the shells' completion, made from the tables that the program itself uses:
 * the commands, the fields of the spec, the limits of waiting. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "command.h"
#include "spec.h"
#include "util.h"
#include "waits.h"

/* ---- troff: see groff_man(7) ---- */

/* Text as it is; what is in backticks is bold; a line must not begin with a request. */
static void troff(const char *text)
{
	bool bold = false, start = true;

	for (; *text; text++) {
		if (start && (*text == '.' || *text == '\''))
			fputs("\\&", stdout);
		start = *text == '\n';
		switch (*text) {
		case '\\':
			fputs("\\e", stdout);
			break;
		case '-':
			fputs("\\-", stdout);
			break;
		case '`':
			fputs(bold ? "\\fR" : "\\fB", stdout);
			bold = !bold;
			break;
		default:
			putchar(*text);
		}
	}
}

static void troff_line(const char *text)
{
	troff(text);
	putchar('\n');
}

/* Paragraphs; lines that begin with blanks keep their form. */
static void troff_details(const char *text)
{
	bool form = false;

	while (*text) {
		size_t length = strcspn(text, "\n");
		cleanup_free char *line = xasprintf("%.*s", (int)length, text);
		bool indented = *line == ' ';
		if (indented != form)
			puts(indented ? ".PP\n.nf" : ".fi\n.PP");
		form = indented;
		if (*line)
			troff_line(line);
		else
			puts(".PP");
		text += length + (text[length] == '\n');
	}
	if (form)
		puts(".fi");
}

static void title(const char *name, const char *section, const char *date)
{
	printf(".TH %s %s %s \"ancla %s\"\n", name, section, date, ANCLA_VERSION);
	puts(".SH NAME");
}

static void man_option(const struct command_option *option)
{
	puts(".TP");
	printf("\\fB\\-\\-%s\\fR", option->name);
	if (option->value)
		printf(" \\fI%s\\fR", option->value);
	putchar('\n');
	troff_line(option->help);
}

static void man_command(const struct command *command)
{
	printf(".SS \"%s%s%s\"\n", command->name, *command->arguments ? " " : "",
	       command->arguments);
	printf("%s.\n", command->summary);
	if (command->details) {
		puts(".PP");
		troff_details(command->details);
	}
	for (const struct command_option *o = command->options; o && o->name; o++)
		man_option(o);
}

static void man_limits(void)
{
	puts(".SH LIMITS\nEvery wait ends. What is waited for, how long, and what happens then:");
	for (size_t i = 0; i < n_limits; i++) {
		int ms = limits[i].ms;
		puts(".TP");
		if (ms % 1000)
			printf("%d ms\n", ms);
		else
			printf("%d s\n", ms / 1000);
		troff(limits[i].what);
		fputs(". Then: ", stdout);
		troff(limits[i].then);
		puts(".");
	}
}

static void tagged(const char *const rows[][2])
{
	for (size_t i = 0; rows[i][0]; i++) {
		puts(".TP");
		troff_line(rows[i][0]);
		troff_line(rows[i][1]);
	}
}

static const char *const exit_codes[][2] = {
	{ "0", "Done." },
	{ "1", "Failed while running, or there is no such VM." },
	{ "2", "Usage." },
	{ "3", "The spec is wrong or unreadable." },
	{ "4", "The host cannot grant what the spec asks for." },
	{ "5", "Verification failed." },
	{ NULL, NULL },
};

static const char *const variables[][2] = {
	{ "`ANCLA_RUNTIME_DIR`",
	  "The runtime directory, an absolute path, in place of /run/ancla." },
	{ "`ANCLA_DUMP_DIR`", "Where dumps go, in place of /var/lib/ancla/dump." },
	{ "`XDG_RUNTIME_DIR`, `XDG_CACHE_HOME`, `XDG_STATE_HOME`, `HOME`",
	  "Of a user who is not root: below these are the same directories." },
	{ "`NOTIFY_SOCKET`, `WATCHDOG_USEC`",
	  "`run` and `start` tell a service manager that the VM runs, what happens to it, and that "
	  "they live, by the protocol of sd_notify(3)." },
	{ "`JOURNAL_STREAM`",
	  "If it names standard error, lines on it begin with their level, as sd-daemon(3) says." },
	{ NULL, NULL },
};

static const char *const files[][2] = {
	{ "/run/ancla/NAME/",
	  "A running VM's directory (of a user: $XDG_RUNTIME_DIR/ancla/NAME/)." },
	{ "/run/ancla/NAME/plan.json", "Where all of it is, which is also what it holds." },
	{ "/run/ancla/NAME/qmp.sock", "QEMU's monitor; one client at a time." },
	{ "/run/ancla/NAME/serial.sock", "The guest's serial console, if it is a socket." },
	{ "/run/ancla/NAME/qemu.log",
	  "What QEMU says. Its older half goes when it is longer than 1 MiB." },
	{ "/run/ancla/NAME/ancla.log",
	  "What the supervisor of `start` logs, likewise; from the level notice on it goes to "
	  "syslog(3), too." },
	{ "/var/lib/ancla/dump/",
	  "Dumps of guests (of a user: $XDG_STATE_HOME/ancla/dump/). They are never removed." },
	{ "/var/cache/ancla/", "What QEMU can do, and this boot's topology." },
	{ NULL, NULL },
};

static void print_man(const char *date)
{
	title("ANCLA", "1", date);
	puts(
	    "ancla \\- run virtual machines exactly where they belong\n"
	    ".SH SYNOPSIS\n.B ancla\n.I COMMAND\n[options] [arguments]\n"
	    ".SH DESCRIPTION\n"
	    "Starts QEMU with nothing in between, puts every thread and every page of the virtual\n"
	    "machine where its spec says, reads the kernel back to prove it, and only then lets\n"
	    "the first guest instruction run. Specs are described in\n.BR ancla\\-spec (5).\n"
	    ".PP\nThere is no daemon. What supervises a VM is the process that launched it, which\n"
	    "sleeps until something happens.\n"
	    ".SH COMMANDS\n"
	    "Options may be given as \\fB\\-\\-name value\\fR or \\fB\\-\\-name=value\\fR, before "
	    "or\n"
	    "after the arguments.");
	for (size_t i = 0; commands[i]; i++)
		man_command(commands[i]);
	puts(".SH EXIT STATUS");
	tagged(exit_codes);
	puts(".SH ENVIRONMENT");
	tagged(variables);
	puts(".SH FILES");
	tagged(files);
	man_limits();
	puts(".SH SEE ALSO\n.BR ancla\\-spec (5),\n.BR qemu\\-system\\-x86_64 (1)");
}

static void man_field(const struct field_text *field, void *data)
{
	(void)data;
	puts(".TP");
	printf("\\fB");
	troff(field->path);
	puts("\\fR");
	troff(field->help);
	fputs(".\n.br\nTakes: ", stdout);
	troff(field->type);
	if (*field->fallback) {
		fputs(". Default: ", stdout);
		troff(field->fallback);
	}
	puts(".");
}

static void print_man_spec(const char *date)
{
	title("ANCLA\\-SPEC", "5", date);
	puts(
	    "ancla\\-spec \\- what a virtual machine is, and where it belongs\n"
	    ".SH DESCRIPTION\n"
	    "A spec is one JSON object, with comments. Names are QEMU's and libvirt's where they\n"
	    "have one. Sizes are strings with a unit (\"16GiB\", \"512MiB\"); CPU and node sets "
	    "are\n"
	    "Linux lists (\"0\\-3,8\", \"0\\-31:2\" for every second one, \"0\\-7,^2\" to leave "
	    "one\n"
	    "out). Relative paths are relative to the spec's directory. Unknown keys are refused,\n"
	    "with the nearest known one. \\fBancla check\\fR finds every error in a spec,\n"
	    "\\fBancla plan\\fR shows what becomes of it.\n"
	    ".SH FIELDS");
	spec_each_field(man_field, NULL);
	puts(
	    ".SH EXAMPLES\n.nf\n"
	    "{\n  \"name\": \"rt\\-app\", \"vcpus\": 2, \"memory\": \"4GiB\",\n"
	    "  \"memory\\-backing\": { \"hugepages\": \"1GiB\", \"locked\": true },\n"
	    "  \"cputune\": {\n    \"vcpupin\": { \"0\": \"2\", \"1\": \"3\" },\n"
	    "    \"emulatorpin\": \"0\\-1\",\n"
	    "    \"vcpusched\": [ { \"vcpus\": \"0\\-1\", \"scheduler\": \"fifo\", \"priority\": 1 "
	    "} ]\n  }\n}\n.fi\n"
	    ".SH SEE ALSO\n.BR ancla (1)");
}

/* ---- completion ---- */

/* What a word of the usage stands for: v, a running VM; f, a file; d, a field of the spec; ""
 * nothing that could be listed. */
static const char *kind_of(const char *word)
{
	static const char *const kinds[][2] = {
		{ "NAME", "vm" }, { "SPEC", "file" },   { "FILE", "file" },
		{ "H", "file" },  { "FIELD", "field" },
	};

	word += strspn(word, "[");
	for (size_t i = 0; word && i < ARRAY_SIZE(kinds); i++) {
		size_t length = strlen(kinds[i][0]);
		if (strncmp(word, kinds[i][0], length) == 0 &&
		    !isupper((unsigned char)word[length]))
			return kinds[i][1];
	}
	return "none";
}

static void bash_field(const struct field_text *field, void *data)
{
	printf("%s%s", (*(int *)data)++ ? " " : "", field->path);
}

static void bash_options(const struct command *command)
{
	for (const struct command_option *o = command->options; o && o->name; o++)
		printf("--%s ", o->name);
	fputs("--help", stdout);
}

/* What the second argument may be, between blanks. */
static void print_second(const struct command *command)
{
	for (size_t i = 0; command->second && command->second[i]; i++)
		printf("%s%s", i ? " " : "", command->second[i]);
}

static void print_bash(void)
{
	int fields = 0;

	puts(
	    "# bash completion for ancla(1), made from its tables\n\n"
	    "_ancla_words() { # KIND: what there is of it\n"
	    "\tcase $1 in\n"
	    "\tvm) COMPREPLY=($(compgen -W \"$(ancla list --names 2>/dev/null)\" -- \"$cur\")) ;;\n"
	    "\tfile) compopt -o filenames; COMPREPLY=($(compgen -f -- \"$cur\")) ;;");
	fputs("\tfield) COMPREPLY=($(compgen -W \"", stdout);
	spec_each_field(bash_field, &fields);
	puts("\" -- \"$cur\")) ;;\n\tesac\n}\n\n"
	     "_ancla() {\n"
	     "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} options "
	     "kind second\n"
	     "\tCOMPREPLY=()\n"
	     "\tif [ \"$cur\" = = ]; then cur=; elif [ \"$prev\" = = ]; then "
	     "prev=${COMP_WORDS[COMP_CWORD "
	     "- 2]}; fi\n"
	     "\tif [ \"$COMP_CWORD\" = 1 ]; then");
	fputs("\t\tCOMPREPLY=($(compgen -W \"", stdout);
	for (size_t i = 0; commands[i]; i++)
		printf("%s ", commands[i]->name);
	puts("--help --version\" -- \"$cur\"))\n\t\treturn\n\tfi\n"
	     "\tcase ${COMP_WORDS[1]} in");
	for (size_t i = 0; commands[i]; i++) {
		const struct command *command = commands[i];
		printf("\t%s)\n\t\toptions='", command->name);
		bash_options(command);
		printf("' kind=%s second='", kind_of(command->arguments));
		print_second(command);
		puts("'\n\t\tcase $prev in");
		for (const struct command_option *o = command->options; o && o->name; o++)
			if (o->value)
				printf("\t\t--%s) _ancla_words %s; return ;;\n", o->name,
				       kind_of(o->value));
		puts("\t\tesac\n\t\t;;");
	}
	puts("\t*) return ;;\n\tesac\n"
	     "\tcase $cur in\n"
	     "\t-*) COMPREPLY=($(compgen -W \"$options\" -- \"$cur\")) ;;\n"
	     "\t*) case $COMP_CWORD:${COMP_WORDS[2]} in # only the first argument is one\n"
	     "\t\t2:* | *:-*) _ancla_words \"$kind\" ;;\n"
	     "\t\t3:*) COMPREPLY=($(compgen -W \"$second\" -- \"$cur\")) ;;\n"
	     "\t\tesac ;;\n"
	     "\tesac\n}\n\ncomplete -F _ancla ancla");
}

/* In a word of _arguments: "[", "]" and ":" have a meaning of their own, and so has "'". */
static void zsh_text(const char *text)
{
	for (; *text; text++) {
		if (strchr("[]:", *text))
			putchar('\\');
		if (*text == '\'')
			fputs("'\\''", stdout);
		else
			putchar(*text);
	}
}

static const char *zsh_action(const char *kind)
{
	return strcmp(kind, "vm") == 0      ? "_ancla_vms"
	       : strcmp(kind, "field") == 0 ? "_ancla_fields"
	       : strcmp(kind, "file") == 0  ? "_files"
	                                    : " ";
}

static void zsh_command(const struct command *command)
{
	printf("\t%s) _arguments -s", command->name);
	for (const struct command_option *o = command->options; o && o->name; o++) {
		printf(" \\\n\t\t'--%s%s[", o->name, o->value ? "=" : "");
		zsh_text(o->help);
		putchar(']');
		if (o->value)
			printf(":%s:%s", o->value, zsh_action(kind_of(o->value)));
		putchar('\'');
	}
	fputs(" \\\n\t\t'--help[print this]'", stdout);
	if (command->second) {
		fputs(" \\\n\t\t'1:", stdout);
		zsh_text(command->arguments);
		printf(":%s' \\\n\t\t'2:", zsh_action(kind_of(command->arguments)));
		zsh_text(command->arguments);
		fputs(":(", stdout);
		print_second(command);
		fputs(")' \\\n\t\t'*: : '", stdout);
	} else if (*command->arguments) {
		fputs(" \\\n\t\t'*:", stdout);
		zsh_text(command->arguments);
		printf(":%s'", zsh_action(kind_of(command->arguments)));
	}
	puts(" ;;");
}

static void zsh_field(const struct field_text *field, void *data)
{
	(void)data;
	printf(" '%s'", field->path);
}

static void print_zsh(void)
{
	puts("#compdef ancla\n# zsh completion for ancla(1), made from its tables\n\n"
	     "_ancla_vms() { compadd -- ${(f)\"$(ancla list --names 2>/dev/null)\"} }");
	fputs("_ancla_fields() { compadd --", stdout);
	spec_each_field(zsh_field, NULL);
	puts(" }\n\n_ancla_command() {\n\tlocal -a names\n\tnames=(");
	for (size_t i = 0; commands[i]; i++) {
		printf("\t\t'%s:", commands[i]->name);
		zsh_text(commands[i]->summary);
		puts("'");
	}
	puts("\t)\n\t_describe command names\n}\n\n"
	     "_ancla() {\n"
	     "\tif (( CURRENT == 2 )); then\n\t\t_ancla_command\n\t\treturn\n\tfi\n"
	     "\tlocal command=$words[2]\n\tshift words\n\t(( CURRENT-- ))\n"
	     "\tcase $command in");
	for (size_t i = 0; commands[i]; i++)
		zsh_command(commands[i]);
	puts("\tesac\n}\n\n_ancla \"$@\"");
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "", *date = argc > 2 ? argv[2] : "";

	if (strcmp(what, "man") == 0)
		print_man(date);
	else if (strcmp(what, "man-spec") == 0)
		print_man_spec(date);
	else if (strcmp(what, "bash") == 0)
		print_bash();
	else if (strcmp(what, "zsh") == 0)
		print_zsh();
	else
		return EXIT_USAGE;
	return fflush(stdout) == 0 ? EXIT_DONE : EXIT_FAILED;
}
