# kill -9 at any moment: a launcher that dies before the guest runs takes QEMU with it; after that
# QEMU lives on and every command still works; what is left in files is removed by the next command.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
my $free = hugepages_free();

my $traced = traced();
my $trace = tmpdir() . '/trace';
my $spec = make_spec(spec('victim', {
	vcpus => 2, iothreads => ['io0'], 'memory-backing' => { prealloc => TRUE },
	cputune => { vcpupin => { 0 => '0', 1 => '1' }, emulatorpin => '0' },
}));

sub state_of { my ($name) = @_; return json(AnclaTest::peek(runtime_dir() . "/$name/state.json") // '{}')->{state} // '' }

sub guard_pid { return map { /^(\d+)/ && (AnclaTest::peek("/proc/$1/comm") // '') eq "ancla-guard\n" ? $1 : () } our_processes() }

# SIGKILL is on its way to it (see proc(5), SigPnd), or has arrived.
sub is_killed {
	my ($pid) = @_;
	my $status = AnclaTest::peek("/proc/$pid/status") // return 1;
	return $status =~ /^SigPnd:\s*([0-9a-f]+)$/m && hex($1) & 1 << 8 || AnclaTest::is_ending($pid) || !is_running($pid);
}

# All system calls that the launcher makes, up to the one that tells the guard of `cont`:
# ["openat", 17] is its 17th openat.
my @calls;
subtest 'a launch, call by call' => sub {
	my $launch = spawn_command('strace', '-o', $trace, $ancla, 'run', $spec, $traced);
	ok $launch->wait_for_output(qr/victim runs/), 'it runs' or return;
	stop_vm('victim');
	ended $launch->wait_exit, 0, qr//, 'and ends';
	my %count;
	for (split /\n/, AnclaTest::slurp($trace)) {
		/^(\w+)\(/ or next;
		push @calls, [$1, ++$count{$1}];
		last if /^write\(\d+, "r", 1\)/;
	}
	cmp_ok @calls, '>', 200, scalar(@calls) . ' calls';
};

# Not all of them, but all kinds after the claim, and every so many-th.
my ($claim) = grep { $calls[$_][0] eq 'mkdirat' || $calls[$_][0] eq 'mkdir' && $_ > 100 } 0 .. $#calls;
my (%seen, @moments);
for my $i (0 .. $#calls) {
	my $new = $claim && $i > $claim && !$seen{ $calls[$i][0] }++;
	my $every = !$claim || $i < $claim ? 60 : 6;
	push @moments, $i if $new || $i % $every == 0 || $i > $#calls - 8;
}

subtest scalar(@moments) . ' moments before the guest runs' => sub {
	my ($killed, $survived) = (0, 0);
	for my $i (@moments) {
		my ($call, $n) = @{ $calls[$i] };
		my $launch = spawn_command('strace', '-o', '/dev/null', '-e', "trace=$call",
			'-e', "inject=$call:signal=KILL:when=$n", $ancla, 'run', $spec, $traced);
		# It may get past that call, as polls are not the same each time; then it is killed now.
		my $result;
		if (eventually(120, sub { $launch->step(0.01); defined $launch->{status} || $launch->err =~ /victim runs/ })
			&& !defined $launch->{status})
		{
			my ($pid) = map { /^(\d+) \Q$ancla\E run/ ? $1 : () } our_processes();
			kill KILL => $pid if $pid;
		}
		$result = $launch->wait_exit;
		$killed++ if $result->{signal} == 9;
		# What is left now is dying, or a QEMU that was let run.
		my $ok = eventually(120, sub {
			my @left = our_processes();
			return 1 if !@left;
			return 2 if @left == 1 && $left[0] =~ /qemu/ && state_of('victim') eq 'running';
			return 0;
		});
		fail "killed at $call $n: what is left ends" and diag explain [our_processes()], state_of('victim') unless $ok;
		# The guard may have killed it just before it ended.
		my $qemu = qemu_of('victim');
		if (($ok // 0) == 2 && $qemu && !(is_killed($qemu) && wait_gone($qemu))) {
			$survived++;
			ended run_ancla('verify', 'victim'), 0, qr/ok/, "killed at $call $n, it runs on as planned";
			stop_vm('victim');
		}
		my $list = run_ancla('list', '--json');
		my @left = (@{ json($list) }, leftovers());
		is_deeply \@left, [], "killed at $call $n: nothing is left" if @left || $list->{exit};
	}
	cmp_ok $killed, '>=', @moments * 0.8, "killed in $killed of " . @moments . " moments; in $survived of them the guest ran already";
	clean 'and nothing is left', $free;
};

subtest 'the guard is killed, too' => sub {
	for my $command ('list', 'start') {
		my $silent = wrapper('silent', 'exec sleep 1000');
		my $launch = spawn_ancla('run', make_spec(spec('orphan', { qemu => { binary => $silent } })));
		my $guard = eventually(120, sub { (guard_pid())[0] }) or return fail 'a guard';
		ok eventually(120, sub { grep { /sleep 1000/ } our_processes() }), 'QEMU was started';
		kill KILL => $guard;
		wait_gone($guard);
		$launch->signal('KILL');
		is $launch->wait_exit->{signal}, 9, 'both are killed';
		is scalar(grep { /sleep 1000/ } our_processes()), 1, 'QEMU is left';
		ended run_ancla($command, $command eq 'start' ? make_spec(spec('orphan')) : ()), 0, qr//,
			"the next command is `ancla $command`";
		ok eventually(120, sub { !grep { /sleep 1000/ } our_processes() }), 'which ends it';
		stop_vm('orphan') if $command eq 'start';
		clean;
	}
};

subtest 'the launcher is killed while the guest runs' => sub {
	my $status = start_vm(spec('survivor', { vcpus => 2, cputune => { vcpupin => { 0 => '1', 1 => '0' } } })) or return;
	my ($qemu, $supervisor) = @$status{qw(pid supervisor)};
	kill KILL => $supervisor;
	ok wait_gone($supervisor), 'the supervisor is gone';
	ok is_running($qemu), 'QEMU lives on';
	my $list = json(run_ancla('list', '--json'));
	# Its state is `status`'s to tell: a busy machine may take longer than `list` waits.
	is_deeply [ map { "$_->{name} $_->{pid}" } @$list ], ["survivor $qemu"], '`list` shows it';
	is status_of('survivor')->{state}, 'running', '`status` works';
	ended run_ancla('verify', 'survivor'), 0, qr/^ok      vCPU 0: CPUs: 1$/m, '`verify` works';
	ended run_ancla('start', make_spec(spec('survivor'))), 1, qr/a VM named "survivor" is already running/, 'its name is taken';
	stop_vm('survivor');
	ok !is_running($qemu), '`stop` works';
	clean;
};

subtest 'QEMU is killed while the guest runs' => sub {
	my $run = spawn_ancla('run', make_spec(spec('shot')));
	ok $run->wait_for_output(qr/shot runs \(QEMU (\d+)\)/), 'it runs' or return;
	kill KILL => qemu_of('shot');
	ended $run->wait_exit, 1, qr/^ancla: QEMU was killed by SIGKILL \(Killed\) while the guest ran, without a word$/m,
		'`run` says so';
	clean;
	$run = spawn_ancla('run', make_spec(spec('segv')));
	ok $run->wait_for_output(qr/segv runs/), 'another runs' or return;
	kill SEGV => qemu_of('segv');
	ended $run->wait_exit, 1, qr/QEMU was killed by SIGSEGV/, 'a crash is told, too';
	clean;
	my $status = start_vm(spec('shot')) or return;
	kill KILL => $status->{pid};
	ok wait_gone($status->{supervisor}), 'a supervisor ends';
	clean 'and tidies up';
};

subtest 'everything is killed' => sub {
	my $dedicated = { placement => { mode => 'static', 'cpu-policy' => 'dedicated' }, cputune => { vcpupin => { 0 => '1' }, emulatorpin => '0' } };
	my $status = start_vm(spec('gone', $dedicated)) or return;
	ended run_ancla('start', make_spec(spec('next', $dedicated))), 4, qr/"?gone"?/, 'its CPU is claimed';
	kill KILL => $status->{supervisor}, $status->{pid};
	wait_gone($_) for $status->{supervisor}, $status->{pid};
	ok -d runtime_dir() . '/gone', 'its directory is left';
	my $list = run_ancla('list', '--json');
	is_deeply json($list), [], '`list` does not show it';
	ok !-d runtime_dir() . '/gone', 'and removes it';
	start_vm(spec('next', $dedicated)) and stop_vm('next');
	clean 'nothing is left', $free;
};

subtest 'the supervisor of `ancla start`, before it has told anything' => sub {
	my $start = spawn_ancla('start', make_spec(spec('untold', { qemu => { binary => wrapper('mute', 'exec sleep 1000') } })));
	my $supervisor = eventually(120, sub { json(AnclaTest::peek(runtime_dir() . '/untold/state.json') // '{}')->{launcher} });
	ok $supervisor, 'it has a VM in hand' or return;
	kill KILL => $supervisor;
	ended $start->wait_exit, 1, qr/^ancla: the supervisor was killed by SIGKILL \(Killed\) before it said that the VM runs; /m,
		'its command says so';
	wait_all_gone();
	run_ancla('list');
	clean 'nothing is left', $free;
};

done_testing;
