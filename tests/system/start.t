# `ancla start` returns once the VM runs and is verified, and leaves nothing of the caller's open; the
# commands for a running VM do what they say, within their limits.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use File::Basename qw(basename);
use IO::Socket::UNIX;
use Test::More;

my $ancla = $ENV{ANCLA} // "$BUILD/ancla";

# The processes of ours that hold this open: "supervisor 1".
sub holders {
	my ($what) = @_;
	my @found;
	for my $line (our_processes()) {
		my ($pid, $command) = split ' ', $line;
		for (glob "/proc/$pid/fd/*") {
			push @found, basename($command) . ' ' . basename($_) if (readlink($_) // '') eq $what;
		}
	}
	return @found;
}

subtest 'it leaves nothing of the caller\'s open' => sub {
	my @files = map { tmpdir() . "/caller-$_" } 0 .. 3;
	open my $input, '>', $files[0] or die;
	my $directory = tmpdir() . '/caller-cwd';
	mkdir $directory;
	my $path = make_spec(spec('free', { iothreads => ['io0'] }));
	my $result = run_command('sh', '-c', "cd $directory && exec " . AnclaTest::abs_path($ancla)
		. " start $path <$files[0] >$files[1] 2>$files[2] 7>$files[3] 8>&1");
	is $result->{exit}, 0, 'it starts' or return diag AnclaTest::slurp($files[2]);
	ok !$result->{held_open}, 'a pipe to it is closed';
	is_deeply [ holders($_) ], [], basename($_) . ' is held by nobody' for @files;
	like AnclaTest::slurp($files[2]), qr/^ancla: free runs \(QEMU \d+\): \d+ threads, \d+ checks, all as planned$/m, 'it said so on standard error';
	is AnclaTest::slurp($files[1]), '', 'and nothing on standard output';
	my $status = status_of('free');
	for my $who ('supervisor', 'pid') {
		my $pid = $status->{$who};
		my ($session) = (split ' ', AnclaTest::slurp("/proc/$pid/stat") =~ s/.*\) //sr)[3];
		is $session, $pid, "$who: a session of its own";
		isnt readlink("/proc/$pid/cwd"), $directory, "$who: not in the caller's directory";
	}
	my @zombies = grep { (AnclaTest::peek("$_/stat") // '') =~ /\) Z $status->{supervisor} / } glob '/proc/[0-9]*';
	is_deeply \@zombies, [], 'the supervisor has no dead child';
	# What QEMU has open: standard input and output, its log, sockets, the lock; nothing else of ancla's.
	my %open = map { (readlink($_) // '') => 1 } glob "/proc/$status->{pid}/fd/*";
	is_deeply [ grep { m{^/} && !m{^/dev/(?:null|ptmx|urandom)$|^\Q@{[runtime_dir()]}\E/free/(?:qemu\.log|lock)$|^/memfd} } keys %open ], [],
		'QEMU has nothing open but its own';
	stop_vm('free');
	clean;
};

# openat(2), dup2(2) and poll(2) of the command (role 0) and of its supervisor (1).
subtest 'a call that fails leaves nothing of the caller\'s open, nor a VM behind an error' => sub {
	my $path = make_spec(spec('free'));
	my $with = sub { return run_command("$BUILD/tests/inject", '--fail', @_, $ancla, 'start', $path, traced()) };
	for (['/dev/null', 1, 257, 1, 24], ['standard input', 1, 33, 1, 24], ['standard output', 1, 33, 2, 24], ['standard error', 1, 33, 3, 24]) {
		my ($name, @call) = @$_;
		my $result = $with->(@call);
		ended $result, 1, qr/^ancla: cannot let go of the caller's descriptors: Too many open files$/m, "$name: is told";
		ok !$result->{held_open}, "$name: nobody holds what the caller waits for";
		clean;
	}
	for my $errno (4, 12) {
		my $result = $with->(0, 7, 1, $errno);
		ended $result, 0, qr/\Aancla: free runs[^\n]*\n\z/, "poll(2): error $errno: it waits on";
		ok !$result->{held_open}, 'its supervisor holds nothing';
		stop_vm('free');
	}
	clean;
};

subtest 'bad specs and refusals' => sub {
	my $path = tmpdir() . '/bad.json';
	open my $file, '>', $path or die;
	print $file '{ "name": "bad", "vcpu": 1, "memory": 7 }';
	close $file;
	for my $command (qw(start run)) {
		my $result = run_ancla($command, $path);
		ended $result, 3, qr{bad\.json:1: /vcpu: .*vcpus}, "$command: a bad spec";
		like $result->{err}, qr{/memory: }, "$command: all its errors";
		is $result->{out}, '', "$command: on standard error";
		ended run_ancla($command, tmpdir() . '/missing.json'), 3, qr/missing\.json.*No such file/, "$command: no spec";
		ended run_ancla($command), 2, qr/needs SPEC/, "$command: no argument";
		ended run_ancla($command, make_spec(spec('refused', { cputune => { vcpupin => { 0 => '999' } } }))), 4, qr/999/, "$command: a refusal";
	}
	clean;
};

subtest 'a VM that does not run' => sub {
	start_vm(spec('webserver')) or return;
	for my $command (qw(status verify stop)) {
		ended run_ancla($command, 'webservr'), 1, qr/^ancla: no VM "webservr" runs; did you mean "webserver"\? `ancla list`/m, "$command: the nearest name";
		ended run_ancla($command, 'database'), 1, qr/^ancla: no VM "database" runs; `ancla list` shows those that do$/m, "$command: no name is near";
		ended run_ancla($command, '../webserver'), 1, qr/no VM/, "$command: a path is no name";
		ended run_ancla($command, $_), 1, qr/no VM/, "$command: nor is '$_'" for '', '.', '..', '.lock', 'a' x 5000;
		ended run_ancla($command), 2, qr/needs NAME/, "$command: no name";
		ended run_ancla($command, 'a', 'b'), 2, qr/too many/, "$command: two";
	}
	ended run_ancla('stop', '--timeout', $_, 'webserver'), 2, qr/--timeout takes seconds/, "--timeout '$_'" for 'x', '-1', '1s', '', '99999999999999999999';
	stop_vm('webserver');
	my $list = run_ancla('list');
	is "$list->{exit} $list->{out}$list->{err}", '0 ', 'nothing runs, and `list` says nothing';
	my $env = { env => { ANCLA_RUNTIME_DIR => tmpdir() . '/never' } };
	ended run_ancla('list', $env), 0, qr/^$/, 'nor where nothing ever ran';
	ended run_ancla('status', 'x', $env), 1, qr/no VM "x" runs/, '`status` neither';
	ok !-e tmpdir() . '/never', 'and they make nothing';
};

# The keys that other programs read.
sub has_keys {
	my ($what, $data, %types) = @_;
	my @bad = grep { !exists $data->{$_} || ref \$data->{$_} eq 'SCALAR' && ref $data->{$_} ne $types{$_} && $types{$_} ne ''
		&& !($types{$_} eq 'number' && $data->{$_} =~ /^-?\d+$/) || ref $data->{$_} && ref $data->{$_} ne $types{$_} } sort keys %types;
	return is_deeply \@bad, [], "$what has its keys" || diag explain $data;
}

subtest 'what it prints as JSON' => sub {
	my $spec = spec('keys', {
		vcpus => 2, iothreads => ['io0'], 'memory-backing' => { prealloc => TRUE, 'host-nodes' => '0' },
		cputune => { vcpupin => { 0 => '1', 1 => '0' }, emulatorpin => '0', vcpusched => [ { vcpus => '0', scheduler => 'fifo', priority => 1 } ] },
	});
	my $plan = json(run_ancla('plan', '--json', make_spec($spec)));
	has_keys 'plan', $plan, vcpus => 'ARRAY', emulator => 'HASH', iothreads => 'ARRAY', memory => 'ARRAY', argv => 'ARRAY';
	has_keys 'plan: a vCPU', $plan->{vcpus}[0], id => 'number', cpus => '', 'host-node' => 'number', scheduler => '', priority => 'number';
	has_keys 'plan: an iothread', $plan->{iothreads}[0], id => '', cpus => '';
	has_keys 'plan: memory', $plan->{memory}[0], 'guest-node' => 'number', 'host-nodes' => '', policy => '', size => 'number', 'page-size' => 'number';
	is "$plan->{vcpus}[0]{cpus} $plan->{vcpus}[0]{scheduler} $plan->{vcpus}[0]{priority} $plan->{emulator}{cpus}", '1 fifo 1 0', 'plan: as asked';
	start_vm($spec) or return;
	my $status = status_of('keys');
	has_keys 'status', $status, name => '', state => '', pid => 'number', threads => 'ARRAY';
	is "$status->{name} $status->{state}", 'keys running', 'status: as it is';
	has_keys "status: $_->{role}", $_, role => '', tid => 'number', cpus => '', scheduler => '', priority => 'number' for @{ $status->{threads} };
	is_deeply [ map { "$_->{role} " . ($_->{index} // $_->{id}) } grep { $_->{role} ne 'emulator' } @{ $status->{threads} } ],
		['vcpu 0', 'vcpu 1', 'iothread io0'], 'status: vCPUs have an index, iothreads an id';
	my @argv = split /\0/, AnclaTest::slurp("/proc/$status->{pid}/cmdline");
	is_deeply \@argv, $plan->{argv}, 'QEMU was started with the command line of the plan';
	my $verify = json(run_ancla('verify', '--json', 'keys'));
	has_keys 'verify', $verify, ok => 'JSON::PP::Boolean', checks => 'ARRAY';
	has_keys 'verify: a check', $_, what => '', expected => '', actual => '', ok => 'JSON::PP::Boolean' for $verify->{checks}[0], $verify->{checks}[-1];
	my $host = json(run_ancla('host', '--json'));
	has_keys 'host', $host, nodes => 'ARRAY', cores => 'ARRAY', allowed => '', isolated => '', claims => 'ARRAY';
	has_keys 'host: a node', $host->{nodes}[0], id => 'number', cpus => '', memory => 'number', free => 'number', hugepages => 'HASH', distances => 'ARRAY';
	my $list = json(run_ancla('list', '--json'));
	has_keys 'list', $list->[0], name => '', state => '', pid => 'number';
	for my $command (['status', 'keys'], ['verify', 'keys'], ['list'], ['host'], ['plan', make_spec(spec('another'))]) {
		my $result = run_command('sh', '-c', 'exec "$@" >/dev/full', 'sh', $ancla, @$command);
		ended $result, 1, qr/No space left|cannot write|write/, "$command->[0]: output that cannot be written is an error";
		$result = run_command('sh', '-c', 'exec "$@" >/dev/full', 'sh', $ancla, @$command, '--json');
		ended $result, 1, qr/No space left|cannot write|write/, "$command->[0] --json: likewise";
	}
	stop_vm('keys');
	clean;
};

subtest 'many commands at once' => sub {
	start_vm(spec('busy')) or return;
	my @runs = map { spawn_ancla(@$_) } (['status', '--json', 'busy'], ['verify', '--json', 'busy'], ['list', '--json']) x 6;
	my @bad = grep { $_->{exit} } map { $_->wait_exit } @runs;
	is_deeply [ map { $_->{err} } @bad ], [], 'they wait for each other';
	stop_vm('busy');
};

subtest 'stop: the guest is asked first' => sub {
	my $console = tmpdir() . '/console';
	start_vm(linux('polite', 'ancla.do=idle', { serial => { file => $console } })) or return;
	ok eventually(120, sub { (AnclaTest::peek($console) // '') =~ /ANCLA-GUEST-READY/ }), 'it boots' or return stop_vm('polite');
	my $supervisor = status_of('polite')->{supervisor};
	ended run_ancla('stop', '--timeout', 120, 'polite', { timeout => 150 }), 0, qr/^$/, 'it stops';
	like AnclaTest::slurp($console), qr/ANCLA-GUEST-POWER-BUTTON/, 'by its power button';
	ok !is_running($supervisor), 'the supervisor has ended, too';
	ok !-e runtime_dir() . '/polite', 'and the directory is gone';
};

subtest 'stop: a guest that is still booting hears it later' => sub {
	my $console = tmpdir() . '/console2';
	start_vm(linux('early', 'ancla.do=idle', { serial => { file => $console } })) or return;
	ended run_ancla('stop', '--timeout', 120, 'early', { timeout => 150 }), 0, qr/^$/, 'asked at once, it stops once it can';
	like AnclaTest::slurp($console), qr/ANCLA-GUEST-POWER-BUTTON/, 'by its power button';
};

subtest 'stop: then QEMU, then the kernel, each with its limit' => sub {
	start_vm(spec('deaf')) or return;
	my $stop = run_ancla('stop', '--timeout', 1, 'deaf');
	ended $stop, 0, qr/^ancla: the guest of "deaf" did not power down within 1 s$/m, 'a guest that does not listen';
	cmp_ok $stop->{seconds}, '>=', 1, 'not before its time';
	start_vm(spec('deaf')) or return;
	$stop = run_ancla('stop', '--force', 'deaf');
	is $stop->{err}, '', '--force does not ask, and does not say that it waited';
	for my $option ('--timeout=1', '--force') {
		start_vm(spec('frozen')) or return;
		kill STOP => qemu_of('frozen');
		my ($frozen) = grep { $_->{name} eq 'frozen' } @{ json(run_ancla('list', '--json')) };
		is $frozen->{state}, 'silent', 'a QEMU that does not answer is listed as such';
		ended run_ancla('stop', $option, 'frozen'), 0, qr/^ancla: QEMU of "frozen" did not quit within 5 s; killing it$/m, "$option: it is killed";
		clean;
	}
};

subtest 'its console' => sub {
	my $vm = linux('console', 'ancla.do=shell', { serial => 'stdio' });
	my $result = run_ancla('start', make_spec($vm));
	my $path = runtime_dir() . '/console/serial.sock';
	ended $result, 0, qr/^ancla: its console is the socket \Q$path\E$/m, 'stdio becomes a socket' or return;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or return fail "connect: $!";
	ok hear($socket, qr/guest # /), 'the guest is there';
	syswrite $socket, "echo it is \$((6 * 7))\n";
	ok hear($socket, qr/it is 42/), 'and hears';
	is +(stat $path)[2] & 0777, 0600, 'nobody else may';
	stop_vm('console');
};

subtest 'status of a VM that is being started or has just ended' => sub {
	start_vm(spec('ends')) or return;
	my $pid = qemu_of('ends');
	my @runs = map { $_ == 4 ? do { kill KILL => $pid; () } : spawn_ancla('status', 'ends') } 1 .. 8;
	my @odd = grep { $_->{exit} && ($_->{exit} != 1 || $_->{err} !~ /^ancla: (?:no VM "ends" runs|VM "ends")[^\n]*\n$/) } map { $_->wait_exit } @runs;
	is_deeply [ map { "$_->{exit} $_->{err}" } @odd ], [], 'says one of the two';
	clean;
};

clean 'nothing is left';
done_testing;
