# What QEMU says is words, and no more: of any type, or with line ends in them, they neither end the
# supervisor nor become lines of its own.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use JSON::PP ();
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;
my $fakes = 0;

# A QEMU that says these events once its guest runs, and answers so; "exit" is what it does.
sub fake {
	my ($events, %answers) = (@_, system_powerdown => 'exit');
	my @events = map { { %$_, timestamp => { seconds => 1, microseconds => 2 } } } @$events;
	my @does = ((@events ? 'cont=tell:' . $json->encode(\@events) : ()), map { "$_=" . ($answers{$_} eq 'exit' ? 'exit' : $json->encode($answers{$_})) } sort keys %answers);
	return wrapper('fake-' . $fakes++, "exec perl $ROOT/tests/lib/fake-qemu " . join(' ', map { my $word = s/'/'\\''/gr; "'$word'" } @does) . ' -- "$@"');
}

sub event { my ($name, %data) = @_; return { event => $name, data => \%data } }

# Its start, as `run` tells of it, until that has said so; undef if it did not.
sub says {
	my ($name, $pattern, $what, $spec, @options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $vm = spawn_ancla('run', make_spec(spec($name, $spec)), @options);
	return $vm if ok $vm->wait_for_output($pattern), $what;
	my $result = $vm->wait_exit(5);
	diag sprintf "exit %s, signal %d: %s", $result->{exit} // 'none', $result->{signal}, $result->{err};
	return;
}

# It is asked to end, by which its QEMU exits.
sub ends {
	my ($vm) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$vm->signal('TERM');
	my $result = $vm->wait_exit;
	is $result->{signal}, 0, 'no signal has ended the supervisor';
	clean;
	return $result->{err};
}

# What each of these words may be instead.
my @odd = (undef, 17, TRUE, [], {}, '');
# A last event, which tells that those before it are over.
my $last = event('WATCHDOG', action => 'none');

subtest 'words that are none' => sub {
	my %words = (
		SHUTDOWN => [qw(reason)], GUEST_PANICKED => [qw(action)], WATCHDOG => [qw(action)],
		BLOCK_IO_ERROR => [qw(action node-name operation reason)], DUMP_COMPLETED => [qw(result error)],
	);
	for my $name (sort keys %words) {
		my @events = map { my $odd = $_; event($name, map { $_ => $odd } @{ $words{$name} }) } @odd;
		push @events, map { { event => $name, data => $_ } } @odd;
		my $vm = says('odd', qr/the guest's watchdog fired \(none\)/, $name, { qemu => { binary => fake([ @events, $last ]) } }) or next;
		ends($vm);
	}
	for my $odd (@odd) {
		my $vm = says('odd', qr/watchdog fired \(none\)/, 'query-status: ' . $json->encode($odd),
			{ qemu => { binary => fake([ event('STOP'), $last ], 'query-status' => { status => $odd }) } }) or next;
		ends($vm);
	}
};

subtest 'a dump whose end is none' => sub {
	my $tries = 0;
	for my $result (undef, { status => undef }, { status => 17 }, []) {
		my $folder = tmpdir() . '/dump' . $tries++;
		my $qemu = fake([ event('GUEST_PANICKED', action => 'pause'), event('STOP'), event('DUMP_COMPLETED', result => $result, error => undef) ], quit => 'exit');
		my $vm = spawn_ancla('run', make_spec(spec('odd', { 'on-crash' => 'dump', qemu => { binary => $qemu } })), { env => { ANCLA_DUMP_DIR => $folder } });
		ended $vm->wait_exit, 1, qr/^ancla: the guest's memory could not be dumped: QEMU does not say why$/m, 'DUMP_COMPLETED: ' . $json->encode($result);
		is_deeply [ AnclaTest::entries($folder) ], [], 'no part of it is left';
	}
	clean;
};

subtest 'a terminal that has no name' => sub {
	for my $odd (@odd) {
		for my $chardev ({ label => $odd, filename => 'pty:/dev/pts/0' }, { label => 'serial0', filename => $odd }) {
			my $result = run_ancla('start', make_spec(spec('odd', { serial => 'pty', qemu => { binary => fake([], 'query-chardev' => [ $odd, $chardev ]) } })));
			ended $result, 1, qr/^ancla: serial is pty, but QEMU names no terminal$/m, $json->encode($chardev);
		}
	}
	clean;
};

done_testing;
