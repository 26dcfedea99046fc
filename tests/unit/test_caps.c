/* What a QEMU can do: from recorded answers, from binaries that are no QEMU, from the cache.
 *
 * Two more modes of this program: `record QEMU PREFIX` writes the recordings (tests/qmp/record),
 * and `serve FILE ARGUMENTS...` is the fake QEMU that answers from one. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "launcher/caps_parts.h"
#include "launcher/util.h"

#define RECORDED "tests/qmp/"
#define BINARY "/usr/bin/qemu-system-x86_64"
#define TIMEOUT_MS 60000

static const char *const recordings[] = { "qemu-7.2-tcg", "qemu-7.2-kvm", "qemu-10.0-tcg",
	                                  "qemu-10.0-kvm" };

/* A fresh directory for each test, in it the cache and whatever is played. */
static char *directory;

#define assert_contains(text, part)                                                                \
	do {                                                                                       \
		if (!strstr((text), (part)))                                                       \
			fail_msg("\"%s\" is not in \"%s\"", (part), (text));                       \
	} while (0)

static int enter(void **state)
{
	char template[] = "/tmp/ancla-caps-XXXXXX";

	(void)state;
	directory = mkdtemp(template) ? xstrdup(template) : NULL;
	return directory ? setenv("XDG_CACHE_HOME", directory, 1) : -1;
}

static int leave(void **state)
{
	cleanup_free char *command = xasprintf("rm -rf %s", directory);

	(void)state;
	free(directory);
	return system(command);
}

static char *in_directory(const char *name)
{
	return xasprintf("%s/%s", directory, name);
}

static void write_text(const char *path, const char *text, mode_t mode)
{
	FILE *file = fopen(path, "w");

	assert_non_null(file);
	assert_true(fputs(text, file) >= 0);
	assert_int_equal(fclose(file), 0);
	assert_int_equal(chmod(path, mode), 0);
}

static char *read_text(const char *path)
{
	cleanup_error struct error error = ERROR_INIT;
	char *text = NULL;

	if (read_file(path, 16 << 20, &text, NULL, &error) < 0)
		fail_msg("%s", error.message);
	return text;
}

/* An executable script in the test's directory; the caller frees the path. */
static char *script(const char *name, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static char *script(const char *name, const char *format, ...)
{
	char *path = in_directory(name);
	va_list args;

	va_start(args, format);
	cleanup_free char *body = xvasprintf(format, args);
	va_end(args);
	cleanup_free char *text = xasprintf("#!/bin/sh\n%s\n", body);
	write_text(path, text, 0755);
	return path;
}

/* ---- the fake QEMU ---- */

static struct json_object *load_exchanges(const char *file)
{
	struct json_object *json = json_object_from_file(file);
	struct json_object *list = NULL;

	if (!json || !json_object_object_get_ex(json, "exchanges", &list))
		return NULL;
	json_object_get(list);
	json_object_put(json);
	return list;
}

static void say(int fd, struct json_object *json)
{
	cleanup_free char *line =
	    xasprintf("%s\r\n", json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN));
	size_t length = strlen(line), sent = 0;

	while (sent < length) {
		ssize_t put = write(fd, line + sent, length - sent);
		if (put <= 0)
			_exit(1);
		sent += (size_t)put;
	}
}

/* The recorded reply to a command, with the id of this one. */
static struct json_object *reply_to(struct json_object *exchanges, const char *machine,
                                    struct json_object *command)
{
	struct json_object *reply = json_object_new_object();
	struct json_object *id = NULL, *value = NULL;
	struct json_object *arguments = NULL, *recorded = NULL;

	json_object_object_get_ex(command, "id", &id);
	json_object_object_add(reply, "id", json_object_get(id));
	json_object_object_get_ex(command, "arguments", &arguments);
	for (size_t i = 0; i < json_length(exchanges); i++) {
		struct json_object *one = json_object_array_get_idx(exchanges, i);

		if (strcmp(json_string(one, "machine"), machine) != 0 ||
		    strcmp(json_string(one, "execute"), json_string(command, "execute")) != 0)
			continue;
		json_object_object_get_ex(one, "arguments", &recorded);
		if (!json_object_equal(recorded, arguments))
			continue;
		const char *key =
		    json_object_object_get_ex(one, "return", &value) ? "return" : "error";
		json_object_object_get_ex(one, key, &value);
		json_object_object_add(reply, key, json_object_get(value));
		return reply;
	}
	/* qmp_capabilities and quit; anything else was not recorded. */
	const char *name = json_string(command, "execute");
	if (strcmp(name, "qmp_capabilities") != 0 && strcmp(name, "quit") != 0) {
		fprintf(stderr, "not recorded: %s\n", json_object_to_json_string(command));
		_exit(2);
	}
	json_object_object_add(reply, "return", json_object_new_object());
	return reply;
}

/* Answers what comes until "quit", the end of the stream, or `limit` replies. */
static void serve(int fd, struct json_object *exchanges, const char *machine, int limit)
{
	cleanup_json struct json_object *greeting = json_tokener_parse(
	    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": 0}, "
	    "\"package\": \"\"}, \"capabilities\": [\"oob\"]}}");
	cleanup_json struct json_object *event = json_tokener_parse(
	    "{\"event\": \"RTC_CHANGE\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 0}}");
	cleanup_file FILE *lines = fdopen(dup(fd), "r");
	cleanup_free char *line = NULL;
	size_t room = 0;

	say(fd, greeting);
	while (limit-- > 0 && getline(&line, &room, lines) > 0) {
		cleanup_json struct json_object *command = json_tokener_parse(line);
		cleanup_json struct json_object *reply = reply_to(exchanges, machine, command);

		say(fd, event);
		say(fd, reply);
		if (strcmp(json_string(command, "execute"), "quit") == 0)
			return;
	}
}

/* `serve FILE LIMIT -S ... -machine none,accel=tcg ...`, with the monitor on descriptor 3. */
static int serve_main(char *argv[])
{
	const char *machine = "none";

	for (char **word = argv; *word; word++)
		if (strncmp(*word, "microvm,", 8) == 0)
			machine = "microvm";
	cleanup_json struct json_object *exchanges = load_exchanges(argv[0]);
	if (!exchanges)
		return 3;
	serve(3, exchanges, machine, atoi(argv[1]));
	return 0;
}

/* A script that is a fake QEMU and counts its starts; the caller frees. */
static char *fake_qemu(const char *recording, int limit)
{
	char self[4096], here[4096];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	assert_true(length > 0);
	self[length] = '\0';
	assert_non_null(getcwd(here, sizeof(here)));
	return script("qemu",
	              "echo x >>%s/starts\nexec %s serve %s/" RECORDED "%s.qmp.json %d \"$@\"",
	              directory, self, here, recording, limit);
}

/* How often the fake QEMU was asked; it is started twice for that, once for microvm. */
static int times_asked(void)
{
	cleanup_free char *path = in_directory("starts");
	cleanup_free char *text = access(path, F_OK) == 0 ? read_text(path) : xstrdup("");

	return (int)strlen(text) / 2 / 2;
}

/* ---- recorded answers ---- */

static enum accel accel_of(const char *recording)
{
	return strstr(recording, "kvm") ? ACCEL_KVM : ACCEL_TCG;
}

static pid_t fork_peer(const char *recording, const char *machine, struct qmp **qmp)
{
	cleanup_free char *path = xasprintf(RECORDED "%s.qmp.json", recording);
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		close(pair[0]);
		serve(pair[1], load_exchanges(path), machine, 10000);
		_exit(0);
	}
	close(pair[1]);
	*qmp = qmp_new(pair[0], NULL, NULL);
	return pid;
}

static struct caps *replay(const char *recording)
{
	static const char *const machines[] = { "none", "microvm" };
	cleanup_answers struct caps_answers answers = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(machines); i++) {
		struct qmp_error error = { 0 };
		struct qmp *qmp;
		pid_t pid = fork_peer(recording, machines[i], &qmp);

		assert_int_equal(qmp_wait_ready(qmp, TIMEOUT_MS, &error), 0);
		int result = i ? caps_ask_machine(qmp, machines[i], TIMEOUT_MS, &answers, &error)
		               : caps_ask(qmp, TIMEOUT_MS, &answers, &error);
		if (result < 0)
			fail_msg("%s: %s", recording, error.message);
		qmp_free(qmp);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
	return caps_build(BINARY, accel_of(recording), &answers);
}

static struct caps *read_recorded(const char *recording)
{
	cleanup_free char *path = xasprintf(RECORDED "%s.caps.json", recording);
	cleanup_error struct error error = ERROR_INIT;
	struct caps *caps = caps_read(path, &error);

	if (!caps)
		fail_msg("%s", error.message);
	return caps;
}

static void recorded_answers_give_the_recorded_capabilities(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(recordings); i++) {
		cleanup_caps struct caps *caps = replay(recordings[i]);
		cleanup_free char *path = xasprintf(RECORDED "%s.caps.json", recordings[i]);
		cleanup_free char *text = caps_format(caps);

		if (getenv("UPDATE"))
			write_text(path, text, 0644);
		cleanup_free char *expected = read_text(path);
		assert_string_equal(text, expected);
	}
}

static void reading_and_formatting_changes_nothing(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(recordings); i++) {
		cleanup_free char *path = xasprintf(RECORDED "%s.caps.json", recordings[i]);
		cleanup_caps struct caps *caps = read_recorded(recordings[i]);
		cleanup_free char *text = caps_format(caps);
		cleanup_free char *expected = read_text(path);

		assert_string_equal(text, expected);
	}
}

static void recordings_name_no_other_machine(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(recordings); i++) {
		cleanup_caps struct caps *caps = read_recorded(recordings[i]);

		assert_string_equal(caps->binary, BINARY);
	}
}

/* What was found by starting QEMU with `-cpu max,FEATURE=on,enforce` for each feature. */
static void features_are_those_that_enforce_accepts(void **state)
{
	(void)state;
	cleanup_caps struct caps *tcg = read_recorded("qemu-7.2-tcg");
	cleanup_caps struct caps *newer = read_recorded("qemu-10.0-tcg");

	assert_true(caps_gives_feature(tcg, "avx2"));
	assert_true(caps_gives_feature(tcg, "pdpe1gb"));
	assert_false(caps_gives_feature(tcg, "invpcid"));
	assert_false(caps_gives_feature(tcg, "rtm"));
	assert_false(caps_gives_feature(tcg, "x2apic"));
	assert_true(caps_gives_feature(newer, "x2apic"));
	assert_true(caps_knows_feature(tcg, "invpcid"));
	assert_true(caps_knows_feature(tcg, "lahf_lm"));
	assert_true(caps_knows_feature(tcg, "sse4.2"));
	assert_false(caps_knows_feature(tcg, "enforce"));
	assert_false(caps_knows_feature(tcg, "avx3"));
	assert_false(caps_knows_feature(tcg, ""));
}

static void paravirtual_features_need_kvm(void **state)
{
	static const char *const names[] = { "kvm", "pmu", "kvm-hint-dedicated", "hv-relaxed" };
	cleanup_caps struct caps *tcg = read_recorded("qemu-7.2-tcg");
	cleanup_caps struct caps *kvm = read_recorded("qemu-7.2-kvm");

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		assert_true(caps_knows_feature(tcg, names[i]));
		assert_false(caps_gives_feature(tcg, names[i]));
		assert_true(caps_gives_feature(kvm, names[i]));
	}
}

static void machines_differ_in_their_properties(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(recordings); i++) {
		cleanup_caps struct caps *caps = read_recorded(recordings[i]);

		assert_true(caps_has(caps, "machine:q35"));
		assert_true(caps_has(caps, "machine:q35:hpet"));
		assert_true(caps_has(caps, "machine:pc:smbus"));
		assert_false(caps_has(caps, "machine:q35:rtc"));
		assert_true(caps_has(caps, "machine:microvm:rtc"));
		assert_true(caps_has(caps, "machine:microvm:isa-serial"));
		assert_false(caps_has(caps, "machine:microvm:hpet"));
		assert_true(caps_has(caps, "property:memory-backend-file:prealloc-context"));
		assert_true(caps_has(caps, "option:sandbox"));
		assert_true(caps_has(caps, "command:query-stats"));
	}
}

static void newer_answers_are_seen(void **state)
{
	(void)state;
	cleanup_caps struct caps *older = read_recorded("qemu-7.2-tcg");
	cleanup_caps struct caps *newer = read_recorded("qemu-10.0-tcg");

	assert_false(caps_has(older, "option:run-with"));
	assert_true(caps_has(newer, "option:run-with"));
	assert_false(caps_has(older, "property:virtio-blk-pci:iothread-vq-mapping"));
	assert_true(caps_has(newer, "property:virtio-blk-pci:iothread-vq-mapping"));
}

static void a_question_that_is_not_in_the_table_aborts(void **state)
{
	cleanup_caps struct caps *caps = read_recorded("qemu-7.2-tcg");
	int status = 0;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		signal(SIGABRT, SIG_DFL);
		close(STDERR_FILENO);
		caps_has(caps, "type:nonsense");
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

/* ---- CPU models ---- */

static void models_say_what_they_lack(void **state)
{
	(void)state;
	cleanup_caps struct caps *caps = read_recorded("qemu-7.2-tcg");
	const struct caps_model *broadwell = caps_model(caps, "Broadwell");

	assert_non_null(broadwell);
	assert_string_equal(broadwell->alias_of, "Broadwell-v1");
	assert_int_equal(broadwell->n_unavailable, 8);
	assert_string_equal(broadwell->unavailable[2], "invpcid");
	assert_int_equal(broadwell->score, -1);
	assert_int_equal(caps_model(caps, "Westmere")->n_unavailable, 0);
	assert_null(caps_model(caps, "Broadwel"));
}

static void tcg_runs_westmere_as_its_best_model(void **state)
{
	(void)state;
	cleanup_caps struct caps *older = read_recorded("qemu-7.2-tcg");
	cleanup_caps struct caps *newer = read_recorded("qemu-10.0-tcg");

	assert_string_equal(caps_host_model(older)->name, "Westmere-v1");
	assert_string_equal(caps_host_model(newer)->name, "Westmere-v1");
}

/* The KVM that was recorded lacks SSE3, and so all 64-bit models. */
static void no_32_bit_model_stands_for_a_64_bit_host(void **state)
{
	(void)state;
	cleanup_caps struct caps *caps = read_recorded("qemu-7.2-kvm");

	assert_int_equal(caps_model(caps, "pentium3-v1")->n_unavailable, 0);
	assert_null(caps_host_model(caps));
}

#define MADE_UP(accel, models)                                                                     \
	"{\"binary\": \"/q\", \"version\": \"1\", \"accel\": \"" accel "\", "                      \
	"\"vendor\": \"AuthenticAMD\", \"has\": [], \"features\": \"lm\", "                        \
	"\"known-features\": \"lm\", \"models\": [" models "]}"
#define MODEL(name, vendor, score)                                                                 \
	"{\"name\": \"" name "\", \"vendor\": \"" vendor "\", \"score\": " score "}"

static struct caps *made_up(const char *text)
{
	cleanup_error struct error error = ERROR_INIT;
	cleanup_json struct json_object *json = caps_parse(text, strlen(text), &error);
	struct caps *caps = json ? caps_from_json(json, &error) : NULL;

	if (!caps)
		fail_msg("%s", error.message);
	return caps;
}

#define THREE_MODELS                                                                               \
	MODEL("EPYC-v9", "AuthenticAMD", "50")                                                     \
	"," MODEL("EPYC-v10", "AuthenticAMD", "50") "," MODEL("Big", "GenuineIntel", "60")

static void host_model_is_of_the_hosts_vendor_with_kvm(void **state)
{
	(void)state;
	cleanup_caps struct caps *kvm = made_up(MADE_UP("kvm", THREE_MODELS));
	cleanup_caps struct caps *tcg = made_up(MADE_UP("tcg", THREE_MODELS));
	cleanup_caps struct caps *none = made_up(MADE_UP("kvm", MODEL("A", "GenuineIntel", "9")));

	assert_string_equal(caps_host_model(kvm)->name, "EPYC-v10");
	assert_string_equal(caps_host_model(tcg)->name, "Big");
	assert_null(caps_host_model(none));
}

/* ---- files that are none ---- */

static void wrong_files_are_refused_with_the_reason(void **state)
{
	static const char *const cases[][2] = {
		{ "", "not a file of QEMU capabilities" },
		{ "[]", "it must be one JSON object" },
		{ "{} x", "it must be one JSON object" },
		{ "{\"binary\": 1}", "\"binary\" must be a string" },
		{ "{\"binary\": \"\", \"version\": \"\", \"accel\": \"xen\"}",
		  "\"accel\" must be \"kvm\" or \"tcg\"" },
		{ "{\"binary\": \"\", \"version\": \"\", \"accel\": \"tcg\", \"has\": [1]}",
		  "\"has\" must be an array of strings" },
		{ MADE_UP("tcg", "3"), "\"models\" must be an array of objects" },
		{ MADE_UP("tcg", "{\"name\": \"A\", \"score\": \"\"}"),
		  "\"score\" must be an integer" },
		{ "[[[[[[[[[[[[", "nesting" },
	};
	cleanup_free char *path = in_directory("caps.json");

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		cleanup_error struct error error = ERROR_INIT;

		write_text(path, cases[i][0], 0600);
		assert_null(caps_read(path, &error));
		assert_contains(error.message, path);
		assert_contains(error.message, cases[i][1]);
	}
}

static void a_truncated_file_is_refused_wherever_it_ends(void **state)
{
	cleanup_free char *text = read_text(RECORDED "qemu-7.2-tcg.caps.json");
	size_t length = strlen(text);

	(void)state;
	for (size_t end = 0; end < length - 2; end += 97) {
		cleanup_error struct error error = ERROR_INIT;
		cleanup_free char *part = xasprintf("%.*s", (int)end, text);

		assert_null(caps_parse(part, end, &error));
		assert_non_null(error.message);
	}
}

/* ---- binaries that are no QEMU ---- */

static void assert_probe_fails(const char *binary, enum accel accel, int timeout_ms,
                               const char *expected)
{
	cleanup_answers struct caps_answers answers = { 0 };
	cleanup_error struct error error = ERROR_INIT;

	assert_int_equal(caps_probe(binary, accel, timeout_ms, &answers, &error), -1);
	assert_int_equal(error.code, EXIT_GRANT);
	assert_contains(error.message, binary);
	assert_contains(error.message, expected);
}

static void programs_that_are_not_qemu_are_told(void **state)
{
	(void)state;
	assert_probe_fails("/bin/true", ACCEL_TCG, TIMEOUT_MS, "exit status 0");
	assert_probe_fails("/bin/true", ACCEL_TCG, TIMEOUT_MS, "is it QEMU?");
	assert_probe_fails("/bin/cat", ACCEL_TCG, TIMEOUT_MS, "exit status 1");
	assert_probe_fails("/bin/yes", ACCEL_TCG, TIMEOUT_MS, "exit status 1");
}

static void last_words_are_quoted(void **state)
{
	cleanup_free char *path =
	    script("dying", "echo first >&2; printf 'no \\033accel\\n\\n' >&2; exit 7");

	(void)state;
	assert_probe_fails(path, ACCEL_TCG, TIMEOUT_MS, "(exit status 7)");
	assert_probe_fails(path, ACCEL_TCG, TIMEOUT_MS, ": \"no  accel\"");
}

static void a_death_by_signal_is_told(void **state)
{
	cleanup_free char *path = script("killed", "kill -SEGV $$");

	(void)state;
	assert_probe_fails(path, ACCEL_TCG, TIMEOUT_MS, "killed by signal 11");
}

static void a_file_that_does_not_execute_is_told(void **state)
{
	cleanup_free char *path = in_directory("empty");

	(void)state;
	write_text(path, "no program\n", 0755);
	assert_probe_fails(path, ACCEL_TCG, TIMEOUT_MS, "Exec format error");
}

static void garbage_on_the_monitor_is_told(void **state)
{
	cleanup_free char *path = script("garbage", "echo hello >&3; exec sleep 1000");

	(void)state;
	assert_probe_fails(path, ACCEL_TCG, TIMEOUT_MS, "does not speak QMP");
}

static void a_flood_does_not_block_the_launcher(void **state)
{
	cleanup_free char *path = script("flood", "exec yes >&2");

	(void)state;
	assert_probe_fails(path, ACCEL_TCG, 300, "did not answer within 0.3 s");
}

static bool is_alive(pid_t pid)
{
	cleanup_free char *path = xasprintf("/proc/%d/stat", pid);
	cleanup_error struct error ignored = ERROR_INIT;
	cleanup_free char *text = NULL;

	if (read_file(path, 4096, &text, NULL, &ignored) < 0)
		return false;
	return !strstr(text, ") Z ");
}

/* The second is the first one's child, and not ours to reap: it may be dying still. */
static void nothing_is_left_of_a_program_that_hangs(void **state)
{
	cleanup_free char *path =
	    script("hanging", "sleep 1000 & echo $$ $! >%s/pids; wait", directory);
	cleanup_free char *pids = in_directory("pids");
	struct stat written;
	int parent, child;

	(void)state;
	/* A busy machine may need longer than that to start it. */
	for (int limit = 500; stat(pids, &written) < 0 || written.st_size == 0; limit *= 2) {
		cleanup_free char *told = xasprintf("did not answer within %g s", limit / 1000.0);
		assert_in_range(limit, 500, 32000);
		assert_probe_fails(path, ACCEL_TCG, limit, told);
	}
	cleanup_free char *text = read_text(pids);
	assert_int_equal(sscanf(text, "%d %d", &parent, &child), 2);
	assert_false(is_alive(parent));
	while (is_alive(child))
		usleep(1000);
}

static void a_qemu_that_dies_between_answers_is_told(void **state)
{
	static const int limits[] = { 0, 1, 2, 5, 20 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(limits); i++) {
		cleanup_free char *path = fake_qemu("qemu-7.2-tcg", limits[i]);

		assert_probe_fails(path, ACCEL_TCG, TIMEOUT_MS, "it ended (exit status 0)");
	}
}

/* ---- finding the binary ---- */

static void assert_not_found(const char *binary, const char *expected)
{
	cleanup_error struct error error = ERROR_INIT;

	assert_null(caps_load(binary, ACCEL_TCG, true, &error));
	assert_int_equal(error.code, EXIT_GRANT);
	assert_contains(error.message, binary);
	assert_contains(error.message, expected);
}

static void a_missing_binary_says_what_to_install(void **state)
{
	(void)state;
	assert_not_found("qemu-system-nonsense", "is not in PATH");
	assert_not_found("qemu-system-nonsense", "install qemu-system-x86");
	assert_not_found("/nonexistent/qemu", "No such file or directory");
	assert_not_found("/nonexistent/qemu", "install qemu-system-x86");
	assert_not_found("/tmp", "is not a file");
	assert_not_found("/proc/self/status", "cannot be executed");
}

static void a_name_is_looked_up_in_path(void **state)
{
	cleanup_free char *path = script("qemu", "exit 0");
	cleanup_free char *old = xstrdup(getenv("PATH"));
	cleanup_free char *list = xasprintf("relative:/nonexistent:%s:/usr/bin", directory);
	cleanup_error struct error error = ERROR_INIT;

	(void)state;
	setenv("PATH", list, 1);
	cleanup_free char *found = caps_find_binary("qemu", &error);
	assert_string_equal(found, path);
	assert_int_equal(chmod(path, 0644), 0);
	assert_null(caps_find_binary("qemu", &error));
	assert_contains(error.message, "cannot be executed");
	setenv("PATH", old, 1);
}

/* ---- the cache ---- */

static void assert_loads(const char *binary, enum accel accel)
{
	cleanup_error struct error error = ERROR_INIT;
	cleanup_caps struct caps *caps = caps_load(binary, accel, true, &error);

	if (!caps)
		fail_msg("%s", error.message);
	assert_true(caps_has(caps, "machine:microvm:rtc"));
	assert_string_equal(caps->binary, binary);
}

/* The one file in the cache; the caller frees. */
static char *cache_file(void)
{
	cleanup_free char *command = xasprintf("echo %s/ancla/qemu-*.json", directory);
	cleanup_free char *line = NULL;
	size_t room = 0;
	FILE *pipe = popen(command, "r");

	assert_true(getline(&line, &room, pipe) > 0);
	pclose(pipe);
	line[strcspn(line, "\n")] = '\0';
	return take_pointer(&line);
}

static void damage_file(const char *file, const char *damage)
{
	cleanup_free char *command = xasprintf("f=%s; cp $f $f.old; %s", file, damage);

	assert_int_equal(system(command), 0);
}

static void qemu_is_asked_once(void **state)
{
	cleanup_free char *qemu = fake_qemu("qemu-7.2-tcg", 10000);

	(void)state;
	assert_loads(qemu, ACCEL_TCG);
	assert_int_equal(times_asked(), 1);
	assert_loads(qemu, ACCEL_TCG);
	assert_int_equal(times_asked(), 1);
	cleanup_free char *file = cache_file();
	struct stat info;
	assert_int_equal(stat(file, &info), 0);
	assert_int_equal(info.st_mode & 07777, 0600);
	assert_true(info.st_size < 40 * 1024);
}

static void the_cache_gives_back_what_was_asked(void **state)
{
	cleanup_free char *qemu = fake_qemu("qemu-7.2-tcg", 10000);
	cleanup_error struct error error = ERROR_INIT;

	(void)state;
	assert_loads(qemu, ACCEL_TCG);
	cleanup_caps struct caps *cached = caps_load(qemu, ACCEL_TCG, true, &error);
	assert_int_equal(times_asked(), 1);
	cleanup_caps struct caps *recorded = read_recorded("qemu-7.2-tcg");
	free(recorded->binary);
	recorded->binary = xstrdup(qemu);
	cleanup_free char *text = caps_format(cached);
	cleanup_free char *expected = caps_format(recorded);
	assert_string_equal(text, expected);
}

static void each_accelerator_is_asked_for_itself(void **state)
{
	cleanup_free char *qemu = fake_qemu("qemu-7.2-tcg", 10000);

	(void)state;
	assert_loads(qemu, ACCEL_TCG);
	assert_loads(qemu, ACCEL_KVM);
	assert_int_equal(times_asked(), 2);
	assert_loads(qemu, ACCEL_KVM);
	assert_loads(qemu, ACCEL_TCG);
	assert_int_equal(times_asked(), 2);
}

static void a_changed_binary_is_asked_again(void **state)
{
	cleanup_free char *qemu = fake_qemu("qemu-7.2-tcg", 10000);
	const struct timespec times[2] = { { 1, 5 }, { 1, 5 } };

	(void)state;
	assert_loads(qemu, ACCEL_TCG);
	assert_int_equal(utimensat(AT_FDCWD, qemu, times, 0), 0);
	assert_loads(qemu, ACCEL_TCG);
	assert_int_equal(times_asked(), 2);
	assert_loads(qemu, ACCEL_TCG);
	assert_int_equal(times_asked(), 2);
}

static void a_cache_that_cannot_be_trusted_is_replaced(void **state)
{
	static const char *const damages[] = {
		": >$f",
		"echo garbage >$f",
		"head -c 9000 $f.old >$f",
		"sed 's/inode=[0-9]*/inode=1/' $f.old >$f",
		"sed 's/questions=[0-9a-f]*/questions=0/' $f.old >$f",
		"sed 's/\"models\":\\[/\"models\":[1,/' $f.old >$f",
		"rm $f; ln -s $f.old $f",
		"rm $f; mkfifo $f",
		"chmod 666 $f",
	};
	cleanup_free char *qemu = fake_qemu("qemu-7.2-tcg", 10000);

	(void)state;
	assert_loads(qemu, ACCEL_TCG);
	cleanup_free char *file = cache_file();
	for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
		damage_file(file, damages[i]);
		assert_loads(qemu, ACCEL_TCG);
		if (times_asked() != (int)i + 2)
			fail_msg("taken from the cache after \"%s\"", damages[i]);
		assert_loads(qemu, ACCEL_TCG);
		if (times_asked() != (int)i + 2)
			fail_msg("not replaced after \"%s\"", damages[i]);
	}
}

static void a_cache_of_somebody_elses_directory_is_not_used(void **state)
{
	cleanup_free char *qemu = fake_qemu("qemu-7.2-tcg", 10000);
	cleanup_free char *cache = in_directory("ancla");

	(void)state;
	assert_int_equal(mkdir(cache, 0700), 0);
	assert_int_equal(chmod(cache, 0777), 0);
	assert_loads(qemu, ACCEL_TCG);
	assert_loads(qemu, ACCEL_TCG);
	assert_int_equal(times_asked(), 2);
}

static void a_cache_that_cannot_be_written_is_no_error(void **state)
{
	cleanup_free char *qemu = fake_qemu("qemu-7.2-tcg", 10000);

	(void)state;
	setenv("XDG_CACHE_HOME", "/proc/nonexistent", 1);
	assert_loads(qemu, ACCEL_TCG);
	assert_int_equal(times_asked(), 1);
}

static void kvm_works_or_says_why_not(void **state)
{
	cleanup_free char *reason = NULL;
	bool works = kvm_works(&reason);

	(void)state;
	assert_true(works == (reason == NULL));
	assert_true(works == kvm_works(NULL));
}

/* ---- recording ---- */

/* Leaves the booleans that are on (all for the model max) and the vendor. */
static struct json_object *slim_props(struct json_object *props, bool all)
{
	struct json_object *slim = json_object_new_object();

	json_object_object_foreach(props, name, value)
	{
		bool wanted = json_object_is_type(value, json_type_boolean)
		                  ? all || json_object_get_boolean(value)
		                  : strcmp(name, "vendor") == 0;
		if (wanted)
			json_object_object_add(slim, name, json_object_get(value));
	}
	return slim;
}

/* A list of objects with only one of their members. */
static struct json_object *slim_list(struct json_object *list, const char *key)
{
	struct json_object *slim = json_object_new_array();

	for (size_t i = 0; i < json_length(list); i++) {
		struct json_object *one = json_object_new_object();
		const char *text = json_string(json_object_array_get_idx(list, i), key);

		json_object_object_add(one, key, json_object_new_string(text));
		json_object_array_add(slim, one);
	}
	return slim;
}

static struct json_object *slim_result(const struct caps_exchange *exchange)
{
	struct json_object *model, *props;

	if (strcmp(exchange->command, "query-cpu-model-expansion") == 0 &&
	    json_object_object_get_ex(exchange->result, "model", &model) &&
	    json_object_object_get_ex(model, "props", &props)) {
		bool all = strcmp(exchange->subject, "max") == 0;
		json_object_object_add(model, "props", slim_props(props, all));
	}
	if (strcmp(exchange->command, "query-command-line-options") == 0)
		return slim_list(exchange->result, "option");
	if (strncmp(exchange->command, "qom-list", 8) == 0)
		return slim_list(exchange->result, "name");
	return json_object_get(exchange->result);
}

static void print_exchange(FILE *file, const struct caps_exchange *exchange, bool last)
{
	cleanup_json struct json_object *json = json_object_new_object();
	struct json_object *arguments = caps_arguments(exchange->command, exchange->subject);

	json_object_object_add(json, "machine", json_object_new_string(exchange->machine));
	json_object_object_add(json, "execute", json_object_new_string(exchange->command));
	if (arguments)
		json_object_object_add(json, "arguments", arguments);
	if (exchange->result) {
		json_object_object_add(json, "return", slim_result(exchange));
	} else {
		struct json_object *error = json_object_new_object();
		json_object_object_add(error, "class", json_object_new_string(exchange->refusal));
		json_object_object_add(error, "desc", json_object_new_string("recorded"));
		json_object_object_add(json, "error", error);
	}
	fprintf(file, "%s%s\n", json_object_to_json_string_ext(json, JSON_C_TO_STRING_PLAIN),
	        last ? "" : ",");
}

static int record(const char *qemu, enum accel accel, const char *prefix)
{
	cleanup_free char *log = xasprintf("%s-%s.qmp.json", prefix, accel_name(accel));
	cleanup_free char *path = xasprintf("%s-%s.caps.json", prefix, accel_name(accel));
	cleanup_answers struct caps_answers answers = { 0 };
	cleanup_error struct error error = ERROR_INIT;

	if (caps_probe(qemu, accel, TIMEOUT_MS, &answers, &error) < 0) {
		fprintf(stderr, "%s\n", error.message);
		return 1;
	}
	cleanup_caps struct caps *caps = caps_build(BINARY, accel, &answers);
	cleanup_free char *text = caps_format(caps);
	cleanup_file FILE *file = fopen(path, "w");
	cleanup_file FILE *transcript = fopen(log, "w");
	if (!file || !transcript) {
		perror(prefix);
		return 1;
	}
	fputs(text, file);
	fprintf(transcript, "{\"exchanges\": [\n");
	for (size_t i = 0; i < answers.count; i++)
		print_exchange(transcript, &answers.list[i], i + 1 == answers.count);
	fprintf(transcript, "]}\n");
	return 0;
}

static int record_main(const char *qemu, const char *prefix)
{
	if (kvm_works(NULL) && record(qemu, ACCEL_KVM, prefix) != 0)
		return 1;
	return record(qemu, ACCEL_TCG, prefix);
}

/* What QEMU says in another form is as if it were not said. */
static void answers_of_another_form_are_none(void **state)
{
	static const char *const results[] = {
		"[]",
		"5",
		"null",
		"{ \"model\": { \"props\": [] } }",
		"{ \"model\": { \"props\": 1 } }",
		"{ \"model\": { \"props\": { \"a b\": true, \"\": true, \"avx\": true } } }",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(results); i++) {
		cleanup_answers struct caps_answers answers = { 0 };
		struct caps_exchange *exchange = array_append(&answers.list, &answers.count);

		exchange->machine = "none";
		exchange->command = "query-cpu-model-expansion";
		exchange->subject = xstrdup("max");
		exchange->result = json_tokener_parse(results[i]);
		cleanup_caps struct caps *caps = caps_build(BINARY, ACCEL_TCG, &answers);
		assert_int_equal(caps->n_features, i == ARRAY_SIZE(results) - 1);
		assert_int_equal(caps->n_known_features, caps->n_features);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, enter, leave)

int main(int argc, char *argv[])
{
	const struct CMUnitTest tests[] = {
		TEST(recorded_answers_give_the_recorded_capabilities),
		TEST(reading_and_formatting_changes_nothing),
		TEST(recordings_name_no_other_machine),
		TEST(features_are_those_that_enforce_accepts),
		TEST(paravirtual_features_need_kvm),
		TEST(machines_differ_in_their_properties),
		TEST(answers_of_another_form_are_none),
		TEST(newer_answers_are_seen),
		TEST(a_question_that_is_not_in_the_table_aborts),
		TEST(models_say_what_they_lack),
		TEST(tcg_runs_westmere_as_its_best_model),
		TEST(no_32_bit_model_stands_for_a_64_bit_host),
		TEST(host_model_is_of_the_hosts_vendor_with_kvm),
		TEST(wrong_files_are_refused_with_the_reason),
		TEST(a_truncated_file_is_refused_wherever_it_ends),
		TEST(programs_that_are_not_qemu_are_told),
		TEST(last_words_are_quoted),
		TEST(a_death_by_signal_is_told),
		TEST(a_file_that_does_not_execute_is_told),
		TEST(garbage_on_the_monitor_is_told),
		TEST(a_flood_does_not_block_the_launcher),
		TEST(nothing_is_left_of_a_program_that_hangs),
		TEST(a_qemu_that_dies_between_answers_is_told),
		TEST(a_missing_binary_says_what_to_install),
		TEST(a_name_is_looked_up_in_path),
		TEST(qemu_is_asked_once),
		TEST(the_cache_gives_back_what_was_asked),
		TEST(each_accelerator_is_asked_for_itself),
		TEST(a_changed_binary_is_asked_again),
		TEST(a_cache_that_cannot_be_trusted_is_replaced),
		TEST(a_cache_of_somebody_elses_directory_is_not_used),
		TEST(a_cache_that_cannot_be_written_is_no_error),
		TEST(kvm_works_or_says_why_not),
	};

	if (argc >= 4 && strcmp(argv[1], "serve") == 0)
		return serve_main(argv + 2);
	if (argc == 4 && strcmp(argv[1], "record") == 0)
		return record_main(argv[2], argv[3]);
	return cmocka_run_group_tests_name("caps", tests, NULL, NULL);
}
