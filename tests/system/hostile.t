# A monitor that stalls for ever, floods, or breaks off in the middle of a message: in a start, in the
# supervisor, in each command. All of them end in bounded time and memory, say what is wrong, and leave
# nothing. All wait at the same time.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use IO::Socket::UNIX;
use Test::More;
use Time::HiRes qw(time);

my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
my $slow = $ENV{ANCLA_TEST_SLOW} || 1;
# The largest message is 16 MiB, or 250,000 values; sanitizers take several times what they guard.
use constant { MOST_KB => 200 * 1024, LONGEST => 90 }; # seconds
my $most_kB = MOST_KB * ($ENV{ASAN_OPTIONS} ? 4 : 1);

# The program under a parent that says how much memory and time it took, and passes its exit code on.
my $measured = wrapper('measured', 'exec perl -e \'$begin = time; $SIG{TERM} = sub { kill TERM => $pid }; $pid = fork // die; exec @ARGV or exit 126 if !$pid; '
	. '1 while waitpid($pid, 0) < 0; $code = $?; syscall 98, -1, $usage = "\0" x 144; ' # getrusage, RUSAGE_CHILDREN
	. 'printf STDERR "\nMAXRSS %d in %d s\n", (unpack "q*", $usage)[4], time - $begin; exit($code >> 8 || $code & 127)\' "$@"', 1);
sub spawn_measured { my @words = @_; return spawn_command($measured, $ancla, @words) }

sub was_bounded {
	my ($result, $name) = @_;
	my ($kB, $seconds) = $result->{err} =~ /^MAXRSS (\d+) in (\d+) s$/m;
	note sprintf '%s: %d kB at most, %d s', $name, $kB // -1, $seconds // -1;
	cmp_ok $kB // ~0, '<', $most_kB, "$name: memory is bounded";
	cmp_ok $seconds // ~0, '<', LONGEST * $slow, "$name: so is the time";
	return;
}

sub fake {
	my ($name, @does) = @_;
	return wrapper("fake-$name", "exec perl $ROOT/tests/lib/fake-qemu @does -- \"\$@\"");
}

# ---- a start ----

# name, what QEMU does, message
my @starts = (
	[ 'line-greeting', 'greeting=line', qr/expected a message of at most 16 MiB, got: \{"return": "x+\.\.\. \(while QEMU started\)/ ],
	[ 'line-reply', 'query-cpus-fast=line', qr/expected a message of at most 16 MiB, got: .*asked for its threads/ ],
	[ 'many-objects', "'query-cpus-fast=many:{}'", qr/expected a message of at most 250000 values, got: \{"return":\[\{\},\{\}.*asked for its threads/ ],
	[ 'many-arrays', "'query-cpus-fast=many:[]'", qr/expected a message of at most 250000 values, got: .*asked for its threads/ ],
	[ 'many-numbers', 'query-cpus-fast=many:1', qr/expected a message of at most 250000 values, got: .*asked for its threads/ ],
	[ 'many-words', qq('query-cpus-fast=many:""'), qr/expected a message of at most 250000 values, got: .*asked for its threads/ ],
	[ 'events-heavy', 'cont=heavy', qr/"cont".*within 10 s/ ],
	[ 'events-greeting', 'greeting=events', qr/QEMU broke the protocol: expected its greeting, got: \{"event":"STOP"/ ],
	[ 'events-reply', 'query-cpus-fast=events', qr/"query-cpus-fast".*within 10 s/ ],
	[ 'events-cont', 'cont=events', qr/"cont".*within 10 s/ ],
	[ 'half-greeting', 'greeting=half', qr/closed the connection in the middle of a message: \{"return": \[\{"cpu-in/ ],
	[ 'half-reply', 'query-cpus-fast=half', qr/closed the connection in the middle of a message: \{"return": \[\{"cpu-in/ ],
);
my %started = map { $_->[0] => spawn_measured('run', make_spec(spec($_->[0], { qemu => { binary => fake(@$_[0, 1]) } }))) } @starts;

# ---- a supervisor ----

# Its QEMU says that the guest runs, and then never stops talking; or it exits, and what it leaves
# behind keeps the connection.
my $flooded = spawn_measured('run', make_spec(spec('flooded', { qemu => { binary => fake('flooded', 'cont=flood') } })));
my $left = spawn_measured('run', make_spec(spec('left', { qemu => { binary => fake('left', 'system_powerdown=leave') } })));

# ---- the commands ----

# Takes the place of a VM's second monitor, and is a bad one to everybody who comes.
sub take_monitor {
	my ($name, $does) = @_;
	my $path = runtime_dir() . "/$name/qmp.sock";
	unlink $path or die "$path: $!";
	my $listener = IO::Socket::UNIX->new(Local => $path, Listen => 4) or die "$path: $!";
	my $pid = fork // die "fork: $!";
	return $pid if $pid;
	$SIG{PIPE} = 'IGNORE';
	$SIG{TERM} = 'DEFAULT';
	while (my $peer = $listener->accept) { fork or last_words($peer, $does) }
	POSIX::_exit(0);
}

sub last_words {
	my ($peer, $does) = @_;
	my $event = join '', map { qq({"event":"$_","data":{},"timestamp":{"seconds":1,"microseconds":2}}\n) } qw(STOP NEWS) x 400;
	syswrite $peer, qq({"QMP":{"version":{"qemu":{"major":9,"minor":9,"micro":9},"package":""},"capabilities":[]}}\n) if $does ne 'stall';
	if ($does ne 'stall' && defined(my $line = <$peer>)) {
		my ($id) = $line =~ /"id":(\d+)/;
		syswrite $peer, qq({"return":{},"id":$id}\n);
		<$peer>;
	}
	if ($does eq 'half') { syswrite $peer, '{"return": {"sta' }
	elsif ($does eq 'line') { syswrite $peer, '{"return":"'; for (1 .. 16384) { defined syswrite $peer, 'x' x 65536 or last } }
	elsif ($does eq 'events') { 1 while defined syswrite $peer, $event }
	else { sysread $peer, my $more, 1 }
	POSIX::_exit(0);
}

# what the monitor does, what is wrong with it to whoever asks
my @monitors = (
	[ 'stall', qr/VM "\w+": .*(?:greet|within 10 s)/ ], [ 'events', qr/VM "\w+": .*within 10 s/ ],
	[ 'line', qr/VM "\w+": .*QEMU broke the protocol: expected a message of at most 16 MiB/ ],
	[ 'half', qr/VM "\w+": .*closed the connection in the middle of a message: \{"return": \{"sta/ ],
);
my (@asked, @bad);
for (@monitors) {
	my ($does, $pattern) = @$_;
	my %commands = (
		status => [ 1, $pattern, 'status' ], pin => [ 1, $pattern, 'pin', 'vcpu', '0', '0' ],
		verify => [ 5, qr/^DIFFERS monitor: expected an answer, got $pattern.*^ok      vCPU 0: CPUs/ms, 'verify' ],
		stop => [ 0, qr/^ancla: QEMU of "\w+" did not quit within 5 s; killing it$/m, 'stop', '--force' ],
	);
	for my $command (sort keys %commands) {
		my ($exit, $said, $verb, @words) = @{ $commands{$command} };
		my $name = "$does$command";
		start_vm(spec($name, { memory => '16MiB' })) or next;
		push @bad, take_monitor($name, $does);
		push @asked, [ $name, $exit, $said, spawn_measured($verb, $verb eq 'stop' ? @words : (), $name, $verb eq 'stop' ? () : @words) ];
	}
}

subtest 'a start' => sub {
	for (@starts) {
		my ($name, undef, $message) = @$_;
		my $result = $started{$name}->wait_exit;
		ended $result, 1, $message, $name;
		was_bounded($result, $name);
		ok !-e runtime_dir() . "/$name", "$name: no file is left";
	}
};

subtest 'a command' => sub {
	for (@asked) {
		my ($name, $exit, $said, $command) = @$_;
		my $result = $command->wait_exit;
		ended $result, $exit, $said, $name;
		was_bounded($result, $name);
	}
};

subtest 'a supervisor' => sub {
	ok $flooded->wait_for_output(qr/flooded runs/), 'it runs' or return;
	ok $left->wait_for_output(qr/left runs/), 'so does another' or return;
	$_->signal('TERM') for $flooded, $left;
	ok $flooded->wait_for_output(qr/asked the guest to power down/), 'it listens in the middle of a flood';
	$flooded->signal('TERM');
	my $result = $flooded->wait_exit;
	ended $result, 1, qr/the guest was forced off/, 'and ends';
	was_bounded($result, 'flooded');
	$result = $left->wait_exit;
	ended $result, 0, qr/asked the guest to power down/, 'it ends with its QEMU, whoever has the connection';
	was_bounded($result, 'left');
};

# The VMs whose monitors are bad, and what those and the fake have forked.
kill KILL => @bad, map { /^(\d+)/ } our_processes();
waitpid $_, 0 for @bad;
wait_all_gone();
ended run_ancla('list', '--json'), 0, qr/^\[\s*\]$/, 'no VM is left';
clean 'nothing is left';
done_testing;
