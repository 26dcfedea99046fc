# A start that is told to stop, at whatever moment, by a signal or by `ancla stop`: either its guest never
# runs, or it is stopped; whoever asked is told which; and nothing is left.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
my $trace = tmpdir() . '/trace';
my %small = (memory => '16MiB', 'memory-backing' => { prealloc => TRUE });

# `ancla start` with strace's options, which let go of QEMU; its process id is ancla's.
sub traced_start {
	my ($spec, $file, @options) = @_;
	return spawn_command('strace', '-D', '-f', '-b', 'execve', '-qq', '-o', $file, @options, $ancla, 'start', make_spec($spec),
		# The leak check of a build with sanitizers cannot work under strace.
		{ env => { ASAN_OPTIONS => join ':', $ENV{ASAN_OPTIONS} // (), 'detect_leaks=0' } });
}

# Each file of the VM's directory that the launcher renames into its place takes its time: there is a
# while between any two steps.
my @slowly = ('-e', 'trace=rename,renameat,renameat2,sched_setaffinity', '-e', 'inject=rename,renameat,renameat2,sched_setaffinity:delay_enter=50000');

# What is left of the VM by now; the guard, and a QEMU that was let go, take a moment.
sub nothing_is_left {
	my ($name, $what) = @_;
	my $gone = eventually(20, sub { !qemu_of($name) && !-e runtime_dir() . "/$name" });
	return ok $gone, "$what: nothing is left";
}

# It ended as it was told to, or it runs.
sub is_decided {
	my ($name, $result, $signals, $what) = @_;
	my $exit = $result->{exit} // -1;
	if ($exit == 0) {
		ended run_ancla('verify', $name), 0, qr/^ok/, "$what: too late, it runs";
		stop_vm($name);
		return 'ran';
	}
	# At its very first, or in the child that becomes QEMU, it is just the end of that process.
	return nothing_is_left($name, $what) && 'stopped' if $result->{signal} || $result->{err} =~ /QEMU was killed by SIG(?:$signals)|release QEMU/;
	my $told = qr/^ancla: (?:stopped by SIG(?:$signals) (?:while|before|as) |the supervisor was killed by SIG(?:$signals) .*before the VM ran)/m;
	ended $result, 1, $told, "$what: it says so";
	nothing_is_left($name, $what);
	return 'stopped';
}

subtest 'the supervisor has a signal at each of its steps' => sub {
	my $start = traced_start(spec('step', \%small), $trace);
	ended $start->wait_exit, 0, qr/step runs/, 'a start, call by call' or return;
	my $supervisor = status_of('step')->{supervisor};
	stop_vm('step');
	my (%count, @calls);
	for (split /\n/, AnclaTest::slurp($trace)) {
		/^$supervisor +(\w+)\(/ or next;
		push @calls, [ $1, ++$count{$1} ];
		last if /write\(\d+, "\\0", 1\)/; # the result
	}
	my ($claim) = grep { $calls[$_][0] =~ /^mkdir/ } 0 .. $#calls;
	ok $claim && @calls > $claim + 50, @calls . ' calls' or return;
	my %decided;
	for my $i (0 .. $#calls) {
		my ($call, $n) = @{ $calls[$i] };
		next unless $i > $#calls - 6 || $i % ($i < $claim ? 120 : 14) == 0;
		my $signal = qw(TERM INT HUP)[ $i % 3 ];
		my $run = traced_start(spec('step', \%small), '/dev/null', '-e', "trace=$call", '-e', "inject=$call:signal=$signal:when=$n");
		$decided{ is_decided('step', $run->wait_exit, $signal, "SIG$signal at $call $n") }++;
	}
	note explain \%decided;
	cmp_ok $decided{stopped} // 0, '>', $decided{ran} // 0, 'most of them end it';
	clean;
};

subtest '`ancla start` itself has a signal' => sub {
	my @starts = map { my $name = "told$_"; [ $name, traced_start(spec($name, \%small), '/dev/null', @slowly) ] } 0 .. 11;
	my %decided;
	for my $i (0 .. $#starts) {
		my ($name, $run) = @{ $starts[$i] };
		# Some as soon as it is known, the others at any time.
		$i & 1 ? $run->step(rand 0.3) : eventually(20, sub { -e runtime_dir() . "/$name/plan.json" });
		$run->signal(qw(INT TERM HUP)[ $i % 3 ]);
		$run->signal('TERM') if $i % 4 == 3;
	}
	$decided{ is_decided($_->[0], $_->[1]->wait_exit, 'TERM|INT|HUP', $_->[0]) }++ for @starts;
	note explain \%decided;
	clean;
};

subtest '`ancla stop`' => sub {
	my @starts = map { my $name = "stop$_"; [ $name, traced_start(spec($name, \%small), '/dev/null', @slowly) ] } 0 .. 15;
	my @stops;
	for my $i (0 .. $#starts) {
		my ($name, $run) = @{ $starts[$i] };
		my @how = $i & 1 ? '--force' : ('--timeout', '1');
		# Until there is something to be stopped.
		my $script = "until out=\$($ancla stop $name @how 2>&1); do case \$out in *'no VM \"$name\" runs'*) ;; *) echo \"\$out\"; exit 1 ;; esac; done; echo \"\$out\"";
		eventually(20, sub { -e runtime_dir() . "/$name" }) if $i % 4 > 1;
		$run->step(rand 0.5);
		push @stops, spawn_command('sh', '-c', $script);
	}
	for my $i (0 .. $#starts) {
		my ($name, $run) = @{ $starts[$i] };
		my ($stop, $start) = ($stops[$i]->wait_exit, $run->wait_exit);
		ended $stop, 0, qr/^(?:ancla: (?:the guest|QEMU) of "$name" did not .*|)$/, "$name: is stopped";
		is_deeply [ -e runtime_dir() . "/$name" ? 'directory' : (), qemu_of($name) // () ], [], 'and gone by then';
		my $said = ($start->{exit} // -1) == 0 ? qr/$name runs/ : qr/^ancla: stopped by SIGTERM (?:while|before|as) /m;
		ended $start, ($start->{exit} // -1) == 0 ? 0 : 1, $said, 'whether it ran before that is told';
	}
	clean;
};

clean 'nothing is left';
done_testing;
