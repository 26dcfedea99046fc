# What QEMU says is words, and no more: of any type, or with line ends in them, they neither end the
# supervisor nor become lines of its own.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use IO::Socket::UNIX;
use JSON::PP ();
use Test::More;

my $json = JSON::PP->new->canonical->allow_nonref;
my $fakes = 0;

# A QEMU that says these events once its guest runs, and answers so; what is no JSON it does.
sub fake {
	my ($events, %answers) = (@_, system_powerdown => \'exit');
	my @events = map { { %$_, timestamp => { seconds => 1, microseconds => 2 } } } @$events;
	my @does = ((@events ? 'cont=tell:' . $json->encode(\@events) : ()), map { "$_=" . (ref $answers{$_} eq 'SCALAR' ? ${ $answers{$_} } : $json->encode($answers{$_})) } sort keys %answers);
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
		my $qemu = fake([ event('GUEST_PANICKED', action => 'pause'), event('STOP'), event('DUMP_COMPLETED', result => $result, error => undef) ], quit => \'exit');
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

# Each way that a log goes has lines that could be forged.
my $forged = "x\nancla: odd runs (QEMU 1): all as planned\n<0>kernel: boom\nMAINPID=1\n2026-01-01T00:00:00.000Z notice: it runs\r\e[2J";
my @forging = (event('BLOCK_IO_ERROR', map { $_ => $forged } qw(action node-name operation reason)),
	event('WATCHDOG', action => $forged), event('SHUTDOWN', reason => $forged), $last);
my $said = qr/x ancla: odd runs \(QEMU 1\): all as planned <0>kernel: boom MAINPID=1 /;

subtest 'words with ends of lines' => sub {
	my $spec = { qemu => { binary => fake(\@forging) } };
	my $vm = says('odd', qr/watchdog fired \(none\)/, 'for people', $spec) or return;
	my $text = ends($vm);
	is scalar(() = $text =~ /$said/g), 5, 'what it said is there';
	is_deeply [ grep { !/^ancla: (?!odd runs \(QEMU 1\))/ } split /\n/, $text ], [], 'no line is QEMU\'s';

	open my $null, '>', tmpdir() . '/journal' or die;
	my ($device, $inode) = stat $null;
	my @journal = ('sh', '-c', 'exec "$@" 2>>' . tmpdir() . '/journal', 'sh', $ENV{ANCLA} // "$BUILD/ancla");
	$vm = spawn_command(@journal, 'run', make_spec(spec('odd', $spec)), { env => { JOURNAL_STREAM => "$device:$inode" } });
	my $journal = sub { AnclaTest::slurp(tmpdir() . '/journal') };
	ok eventually(60, sub { $journal->() =~ /watchdog fired \(none\)/ }), 'for the journal' or return;
	ends($vm);
	is_deeply [ grep { !/^<[3-6]>/ } split /\n/, $journal->() ], [], 'no line is QEMU\'s, nor a priority';

	$text = ends(says('odd', qr/watchdog fired \(none\)/, 'as JSON', $spec, '--log-json') // return);
	is_deeply [ grep { !eval { $json->decode($_) } } split /\n/, $text ], [], 'each line is an object';

	ended run_ancla('start', make_spec(spec('odd', $spec))), 0, qr/runs/, 'in a file' or return;
	my $log = runtime_dir() . '/odd/ancla.log';
	ok eventually(60, sub { AnclaTest::slurp($log) =~ /watchdog fired \(none\)/ }), 'it is told' or return;
	is_deeply [ grep { !/^20\S+Z \w+: (?:a \w|the guest's watchdog|QEMU ends)/ } split /\n/, AnclaTest::slurp($log) ], [], 'no line is QEMU\'s';
	kill TERM => json(runtime_dir() . '/odd/state.json')->{launcher};
	wait_all_gone();
	clean;
};

subtest 'a service manager is told one thing' => sub {
	my $path = tmpdir() . '/notify';
	my $socket = IO::Socket::UNIX->new(Local => $path, Type => SOCK_DGRAM) or die "$path: $!";
	my $vm = says('odd', qr/watchdog fired \(none\)/, 'it is told', { qemu => { binary => fake(\@forging) } }, { env => { NOTIFY_SOCKET => $path } }) or return;
	my @told;
	while (!@told || $told[-1] !~ /\(none\)/) { defined $socket->recv(my $message, 65536) or last; push @told, $message }
	is scalar(grep { /^STATUS=.*$said/ } @told), 3, 'what QEMU said';
	is_deeply [ grep { !/^MAINPID=\d+\nREADY=1\nSTATUS=odd runs.*\z|^STATUS=.*\z/ } @told ], [], 'and nothing else';
	ends($vm);
};

subtest 'an answer with ends of lines' => sub {
	my $qemu = fake([], 'query-cpus-fast' => \('error:' . $json->encode($forged)));
	ended run_ancla('start', make_spec(spec('odd', { qemu => { binary => $qemu } }))), 1, qr/\Aancla: QEMU refused "query-cpus-fast": $said[^\n]*\n\z/, 'is one line of an error';
	clean;
};

done_testing;
