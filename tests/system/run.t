# `ancla run`: the guest's console is on the terminal, keys reach the guest, wishes to stop are heard,
# the terminal gets its old state back however it ends, and the exit code says how it ended.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

sub on_terminal { my ($spec) = @_; return spawn_ancla('run', make_spec($spec), { pty => 1 }) }

sub restored { my ($vm, $before, $what) = @_;
	return ok eventually(120, sub { $vm->terminal_modes eq $before }), "the terminal is as it was $what" }

my $fresh = fresh_modes();

subtest 'a shell in the guest' => sub {
	my $vm = run_linux(linux('shell', 'ancla.do=shell'), { pty => 1 }) or return;
	isnt $vm->terminal_modes, $fresh, 'keys are passed as they are typed';
	like $vm->out, qr/shell runs \(QEMU \d+\): \d+ threads, \d+ checks, all as planned\r\n/, 'it said that it runs';
	like $vm->out, qr/console: Ctrl-C asks the guest to power down/, 'and what keys do';
	$vm->send("echo it is \$((6 * 7))\r");
	ok $vm->wait_for_output(qr/it is 42/), 'keys reach the guest';
	$vm->send("echo go''ing; while :; do :; done\r");
	ok $vm->wait_for_output(qr/going/), 'a command runs in it';
	$vm->send("\c]\cC");
	# The echo of ^C may go with what the terminal throws away then; the prompt does not.
	ok $vm->wait_for_output(qr/going\r.*guest # /s), 'Ctrl-] Ctrl-C interrupts it';
	$vm->send("stty -echo; echo read''ing; read -r line; stty echo; echo \"got <\$line>\"\r");
	ok $vm->wait_for_output(qr/reading/), 'it reads' or return;
	$vm->send("a\c]\c]b\r");
	ok $vm->wait_for_output(qr/got <a\c]b>/), 'Ctrl-] Ctrl-] is one Ctrl-]';
	$vm->send("\cC");
	ok $vm->wait_for_output(qr/asked the guest to power down; once more forces it off/), 'Ctrl-C asks the guest';
	ended $vm->wait_exit, 0, qr/ANCLA-GUEST-POWER-BUTTON/, 'which powers off';
	restored $vm, $fresh, 'at the end';
	clean;
};

subtest 'a terminal gets its old state back' => sub {
	for my $case (
		['after SIGTERM twice', sub { $_[0]->signal('TERM'); $_[0]->wait_for_output(qr/asked the guest/); $_[0]->signal('TERM') }, 1, qr/forced off/],
		['after SIGINT and SIGHUP', sub { $_[0]->signal('INT'); $_[0]->wait_for_output(qr/asked the guest/); $_[0]->signal('HUP') }, 1, qr/forced off/],
		['after Ctrl-C twice', sub { $_[0]->send("\cC\cC") }, 1, qr/forced off/],
		['after QEMU is killed', sub { kill KILL => qemu_of('modes') }, 1, qr/QEMU was killed by SIGKILL/],
		['after QEMU quits', sub { qmp(runtime_dir() . '/modes/qmp.sock', 'quit') }, 0, qr/runs/],
		['after `ancla stop`', sub { stop_vm('modes') }, 0, qr/runs/],
	) {
		my ($what, $do, $exit, $message) = @$case;
		my $vm = on_terminal(spec('modes', { serial => 'stdio' }));
		ok $vm->wait_for_output(qr/Ctrl-C asks/) && eventually(120, sub { $vm->terminal_modes ne $fresh }), 'it runs' or next;
		$do->($vm);
		ended $vm->wait_exit, $exit, $message, $what;
		restored $vm, $fresh, $what;
		clean;
	}
	my $vm = on_terminal(spec('modes', { serial => 'stdio' }));
	ok $vm->wait_for_output(qr/Ctrl-C asks/) && eventually(120, sub { $vm->terminal_modes ne $fresh }), 'it runs' or return;
	$vm->signal('KILL');
	is $vm->wait_exit->{signal}, 9, 'ancla itself is killed';
	restored $vm, $fresh, 'after that, too';
	ok is_running(qemu_of('modes')), 'and QEMU lives on';
	stop_vm('modes');
	clean;
};

subtest 'without a terminal' => sub {
	my $vm = run_linux(linux('pipe', 'ancla.do=shell'), { stdin => undef }) or return;
	$vm->send("echo it is \$((6 * 7))\n");
	ok $vm->wait_for_output(qr/it is 42/), 'standard input goes to the guest';
	$vm->send("echo go''ing; while :; do :; done\n");
	ok $vm->wait_for_output(qr/going/), 'a command runs in it';
	$vm->send("\cC");
	ok $vm->wait_for_output(qr/going\r.*guest # /s), 'Ctrl-C goes there, too';
	# Its output is closed now; what the guest prints from here on is more than any buffer takes.
	close delete $vm->{readers}{out};
	my $line = 'x' x 100;
	$vm->send("\n\ni=0; while [ \$i -lt 8000 ]; do echo $line; i=\$((i + 1)); done; poweroff -f\n");
	my $result = $vm->wait_exit;
	is $result->{exit}, 0, 'a guest whose console nobody reads goes on' or diag explain $result;
	like $result->{err}, qr/^ancla: cannot write the console to standard output: Broken pipe$/m, 'that is told';
	clean;
};

subtest 'standard output that takes no more' => sub {
	my $vm = run_linux(linux('stuck', 'ancla.do=shell'), { stdin => undef }) or return;
	my ($qemu, $line) = (qemu_of('stuck'), 'x' x 100);
	my $reader = delete $vm->{readers}{out}; # open, but not read
	$vm->send("while :; do echo $line; done\n");
	my $full = pack 'i', 0;
	# A pipe of 16 pages, where what two writes bring need not share one.
	ok eventually(120, sub { ioctl($reader, 0x541B, $full) && unpack('i', $full) > 32_768 }), 'a full pipe'; # FIONREAD
	$vm->signal('TERM');
	ok $vm->wait_for_output(qr/asked the guest to power down/), 'signals are heard all the same';
	$vm->signal('TERM');
	ok wait_gone($qemu), 'and QEMU is forced off';
	ended $vm->wait_exit, 1, qr/forced off/, 'it ends';
	clean;
};

subtest 'descriptors that are closed' => sub {
	my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
	for my $closed ('<&-', '>&-', '2>&-', '<&- >&- 2>&-') {
		my $path = make_spec(spec('closed', { serial => 'stdio' }));
		my $vm = spawn_command('sh', '-c', "exec \"\$0\" run \"\$1\" $closed", $ancla, $path);
		ok eventually(120, sub { (AnclaTest::peek(runtime_dir() . '/closed/state.json') // '') =~ /"running"/ }), "$closed: it runs"
			or do { my $result = $vm->wait_exit(1); diag $result->{err}; next };
		my $pid = $vm->pid;
		my @fds = map { readlink("/proc/$pid/fd/$_") // '' } 0 .. 2;
		ok !(grep { !m{^(?:/dev/null|pipe:)} } @fds), "$closed: nothing else has their numbers" or diag "@fds";
		$vm->signal('TERM');
		ok eventually(120, sub { AnclaTest::slurp("/proc/$pid/status") !~ /^ShdPnd:\s*0*[1-9a-f]/m }), "$closed: it hears SIGTERM";
		stop_vm('closed');
		is $vm->wait_exit->{exit}, 0, "$closed: and ends well";
		clean;
	}
};

subtest 'SIGINT once, without a terminal' => sub {
	my $vm = run_linux(linux('polite', 'ancla.do=idle')) or return;
	$vm->signal('INT');
	my $result = $vm->wait_exit;
	ended $result, 0, qr/ANCLA-GUEST-POWER-BUTTON/, 'the guest powers off';
	like $result->{err}, qr/^ancla: asked the guest to power down; once more forces it off$/m, 'it says so';
	clean;
};

subtest 'a guest that does not listen' => sub {
	my $vm = run_linux(linux('deaf', 'ancla.do=hang')) or return;
	$vm->signal('TERM');
	ok $vm->wait_for_output(qr/asked the guest to power down/), 'is asked';
	ok !wait_gone($vm->pid, 0.5), 'does nothing';
	$vm->signal('TERM');
	ended $vm->wait_exit, 1, qr/forcing QEMU to quit.*the guest was forced off/s, 'and is forced off';
	clean;
	my $stopped = spawn_ancla('run', make_spec(spec('stopped')));
	ok $stopped->wait_for_output(qr/stopped runs/), 'a QEMU' or return;
	kill STOP => qemu_of('stopped');
	$stopped->signal('TERM');
	ok $stopped->wait_for_output(qr/asked the guest/), 'that is stopped';
	$stopped->signal('TERM');
	ended $stopped->wait_exit, 1, qr/QEMU did not quit within 5 s; killing it/, 'is killed';
	clean;
};

subtest 'a guest that reboots' => sub {
	my $result = run_ancla('run', make_spec(linux('again', 'ancla.do=reboot')), { timeout => 300 });
	is_deeply [ $result->{out} =~ /^boot=([^\r]*)/mg ], ['first', 'after-reset'], 'starts again';
	is $result->{exit}, 0, 'exit code' or diag $result->{err};
	$result = run_ancla('run', make_spec(linux('once', 'ancla.do=reboot', { 'on-reboot' => 'destroy' })));
	is_deeply [ $result->{out} =~ /^boot=([^\r]*)/mg ], ['first'], 'or not, if the spec says so';
	is $result->{exit}, 0, 'exit code' or diag $result->{err};
	clean;
};

subtest 'a guest that panics' => sub {
	my $result = run_ancla('run', make_spec(linux('crash', 'ancla.do=panic')));
	like $result->{out}, qr/Kernel panic - not syncing/, 'says so itself';
	ended $result, 1, qr/^ancla: the guest panicked$/m, 'ancla says so, too';
	clean;
	my $vm = spawn_ancla('run', make_spec(linux('kept', 'ancla.do=panic', { 'on-crash' => 'preserve' })));
	ok $vm->wait_for_output(qr/Kernel panic/), 'another panics' or return;
	ok eventually(120, sub { status_of('kept')->{state} eq 'guest-panicked' }), 'and is kept';
	$vm->signal('TERM');
	ended $vm->wait_exit, 1, qr/the guest panicked/, 'until it is told to stop';
	clean;
};

subtest 'a guest that powers off and is kept' => sub {
	my $keep = sub { my ($name) = @_;
		my $vm = spawn_ancla('run', make_spec(linux($name, 'ancla.do=poweroff', { 'on-poweroff' => 'preserve' })));
		ok $vm->wait_for_output(qr/ANCLA-GUEST-END/), "$name powers off";
		ok eventually(120, sub { status_of($name)->{state} eq 'shutdown' }), 'and is kept';
		return $vm };
	my $vm = $keep->('kept');
	$vm->signal('TERM');
	ended $vm->wait_exit, 0, qr/the guest is off; QEMU quits/, 'a signal ends it';
	$vm = $keep->('kept2');
	ended run_ancla('stop', 'kept2'), 0, qr/^$/, '`ancla stop` ends it, and does not say that it waited for the guest';
	is $vm->wait_exit->{exit}, 0, 'exit code';
	clean;
};

done_testing;
