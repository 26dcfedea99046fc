# As a part of the system: a service manager is told when the VM runs and what becomes of it, logs have
# the form that their reader wants, none grows without end, and the unit's confinement is wide enough.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Fcntl qw(O_NONBLOCK O_RDONLY O_WRONLY);
use IO::Socket::UNIX;
use POSIX qw(mkfifo);
use Socket qw(SOCK_DGRAM);
use Test::More;

my $ancla = AnclaTest::abs_path($ENV{ANCLA} // "$BUILD/ancla");

# A service manager: what it has heard so far, message by message.
sub manager {
	my $path = tmpdir() . '/notify.sock';
	unlink $path;
	return { path => $path, said => [], socket => IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => $path) // die "$path: $!" };
}

# Waits for a message that matches; true once there is one.
sub hears {
	my ($manager, $pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $heard = eventually(120, sub {
		while (AnclaTest::wait_readable(0.1, $manager->{socket})) {
			recv $manager->{socket}, my $message, 4096, 0;
			push @{ $manager->{said} }, $message;
		}
		return grep { $_ =~ $pattern } @{ $manager->{said} } });
	return ok($heard, $name) || diag explain $manager->{said};
}

subtest 'a service manager' => sub {
	my $manager = manager();
	my $vm = spawn_ancla('run', make_spec(linux('service', 'ancla.do=idle')),
		{ env => { NOTIFY_SOCKET => $manager->{path}, WATCHDOG_USEC => 2_000_000 } });
	hears $manager, qr/^MAINPID=@{[$vm->pid]}\nREADY=1\nSTATUS=service runs \(QEMU \d+\): \d+ threads, \d+ checks, all as planned$/, 'hears that the VM runs';
	is scalar(grep { /READY=1/ } @{ $manager->{said} }), 1, 'once';
	my $qemu = qemu_of('service');
	is((AnclaTest::slurp("/proc/$qemu/environ") =~ tr/\0/\n/r) =~ /^(?:NOTIFY_SOCKET|WATCHDOG_\w+)=/m ? 1 : 0, 0, 'QEMU knows nothing of it');
	ok eventually(120, sub { hears_count($manager, 'WATCHDOG=1') >= 3 }), 'hears signs of life';
	# A manager listens all the time.
	ok eventually(120, sub { hears_count($manager, ''); $vm->step(0.05); $vm->{out} =~ /ANCLA-GUEST-READY/ }), 'Linux' or return;
	$vm->signal('TERM');
	hears $manager, qr/^STOPPING=1$/, 'hears that it stops';
	hears $manager, qr/^STATUS=asked the guest to power down/, 'and how';
	is $vm->wait_exit->{exit}, 0, 'it ends';
	clean;

	$manager = manager();
	ended run_ancla('start', make_spec(spec('detached')), { env => { NOTIFY_SOCKET => $manager->{path} } }), 0, qr/runs/, '`start`';
	hears $manager, qr/^MAINPID=@{[status_of('detached')->{supervisor}]}\nREADY=1\n/, 'names the supervisor';
	stop_vm('detached');
	$manager = manager();
	ended run_ancla('run', make_spec(spec('refused', { cputune => { vcpupin => { 0 => '999' } } })), { env => { NOTIFY_SOCKET => $manager->{path} } }), 4, qr/999/, 'a refusal';
	ok !AnclaTest::wait_readable(0, $manager->{socket}), 'is not ready';
	clean;
};

sub hears_count { my ($manager, $message) = @_;
	while (AnclaTest::wait_readable(0, $manager->{socket})) {
		recv $manager->{socket}, my $heard, 4096, 0;
		push @{ $manager->{said} }, $heard;
	}
	return scalar grep { $_ eq $message } @{ $manager->{said} };
}

subtest 'the form of logs' => sub {
	my $log = tmpdir() . '/journal';
	my $path = make_spec(linux('form', 'ancla.do=panic'));
	run_command('sh', '-c', "exec 2>$log; export JOURNAL_STREAM=\$(stat -L -c %d:%i /dev/fd/2); exec $ancla run $path");
	my $text = AnclaTest::slurp($log);
	like $text, qr/^<5>form runs \(QEMU/m, 'the journal: levels';
	like $text, qr/^<3>the guest panicked$/m, 'errors are more than notices';
	unlike $text, qr/^ancla: /m, 'and no name, which it has already';
	my $plain = run_ancla('run', make_spec(spec('none', { cputune => { vcpupin => { 0 => '999' } } })), { env => { JOURNAL_STREAM => '1:2' } });
	like $plain->{err}, qr/^ancla: /, 'another journal than standard error: as for people';

	my $result = run_ancla('run', '--log-json', $path);
	my @lines = map { json($_) } split /\n/, $result->{err};
	is_deeply [ grep { join(' ', sort keys %$_) ne 'event level message time vm' || $_->{vm} ne 'form' || $_->{time} !~ /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/ } @lines ], [], '--log-json: an object a line, with its keys';
	is_deeply [ map { "$_->{level} $_->{event}" } @lines ], ['notice runs', 'error panicked', 'error failed'], 'the story';
	$result = run_ancla('start', '--log-json', make_spec({ name => 'bad', memory => 7, vcpu => 1 }));
	is $result->{exit}, 3, 'a bad spec';
	is_deeply [ map { json($_)->{event} } split /\n/, $result->{err} ], ['spec', 'spec'], 'JSON as well';
	$result = run_ancla('run', '--quiet', $path);
	is $result->{err}, "ancla: the guest panicked\nancla: the guest panicked\n", '--quiet: what is wrong';
	clean;
};

subtest 'the log of a detached supervisor' => sub {
	my $status = start_vm(linux('logged', 'ancla.do=reboot', { 'on-poweroff' => 'preserve' })) or return;
	my $log = runtime_dir() . '/logged/ancla.log';
	ok eventually(300, sub { (AnclaTest::peek($log) // '') =~ /^\S+Z notice: the guest powered off; it is kept/m }), 'tells what happens' or return;
	like AnclaTest::slurp($log), qr/^\d{4}-\d\d-\d\dT\S+Z notice: the guest reset$/m, 'and when';
	is +(stat $log)[2] & 0777, 0600, 'to nobody else';
	open my $kept, '<', $log or die;
	stop_vm('logged');
	wait_gone($status->{supervisor});
	ok !-e $log, 'it goes with the VM';
	clean;
};

subtest 'a QEMU that says too much' => sub {
	my @cues = map { tmpdir() . "/cue$_" } 0, 1;
	mkfifo $_, 0600 or die for @cues;
	my $chatty = wrapper('chatty', "( read go <$cues[0]; i=0; zeros=\$(printf %0100d 7); while [ \$i -lt 30000 ]; do i=\$((i + 1)); echo \"line \$i \$zeros\"; done >&2; "
		. "read go <$cues[1]; echo the end >&2 ) &\nexec \$qemu \"\$@\"");
	my $status = start_vm(spec('chatty', { qemu => { binary => $chatty } })) or return;
	my $log = runtime_dir() . '/chatty/qemu.log';
	# Opened for writing once it is read.
	my $reader = sub { my ($cue) = @_; return eventually(120, sub { sysopen my $to, $cue, O_WRONLY | O_NONBLOCK or return; return $to }) };
	my $first = $reader->($cues[0]) or return fail 'it waits';
	syswrite $first, "go\n";
	close $first;
	my $second = $reader->($cues[1]) or return fail 'it has said most of it';
	# What is written while the log is cut may be lost, so that its last word comes after that.
	ok eventually(120, sub { -s $log && -s $log <= 1 << 20 }), 'its log is cut';
	syswrite $second, "go\n";
	close $second;
	ok eventually(120, sub { (AnclaTest::peek($log) // '') =~ /^the end$/m }), 'has said it';
	ok eventually(120, sub { -s $log <= 1 << 20 }), 'its log is not longer than 1 MiB';
	like AnclaTest::slurp($log), qr/\Aline \d+ 0+7\n.*the end\n/s, 'whole lines, the last ones';
	stop_vm('chatty');
	clean;
};

# The unit's settings, lists joined.
sub unit { my %unit; for (split /\n/, AnclaTest::slurp("$ROOT/systemd/ancla\@.service")) { /^(\w+)=(.*)/ and $unit{$1} .= " $2" } return \%unit }

subtest 'what the unit allows is enough' => sub {
	my ($unit, %allowed) = (unit());
	my @sets = split ' ', $unit->{SystemCallFilter} =~ s/~\S+//r;
	while (my $set = shift @sets) {
		if ($set !~ /^@/) { $allowed{$set} = 1; next }
		my @members = grep { /^\S/ } map { s/^\s+//r } grep { !/^\s*#/ } split /\n/, run_command('systemd-analyze', 'syscall-filter', $set)->{out};
		for (@members) { if (/^@/ && $_ ne $set) { push @sets, $_ } else { $allowed{$_} = 1 } }
	}
	cmp_ok keys %allowed, '>', 200, 'system calls are allowed';
	my $trace = tmpdir() . '/calls';
	my $spec = make_spec(linux('confined', 'ancla.do=poweroff', {
		iothreads => ['io0'], nics => [ { type => 'user' } ], 'memory-backing' => { prealloc => TRUE, 'host-nodes' => '0', locked => TRUE },
		cputune => { vcpupin => { 0 => '1' }, emulatorpin => '0', vcpusched => [ { vcpus => '0', scheduler => 'fifo', priority => 1 } ] } }));
	my $run = run_command('strace', '-f', '-qq', '-o', $trace, $ancla, 'run', $spec, traced(timeout => 600));
	is $run->{exit}, 0, 'a VM, traced' or diag $run->{err};
	my %used;
	open my $calls, '<', $trace or die;
	while (<$calls>) { $used{$1} = 1 if /^\d+ +(\w+)\(/ }
	cmp_ok keys %used, '>', 60, scalar(keys %used) . ' system calls are used';
	is_deeply [ grep { !$allowed{$_} } sort keys %used ], [], 'all of them are allowed';

	my $bounding = join ',', '-all', map { '+' . lc s/^CAP_//r } split ' ', $unit->{CapabilityBoundingSet};
	my @confined = ('setpriv', '--no-new-privs', '--bounding-set', $bounding, '--inh-caps=-all', $ancla);
	ended run_command(@confined, 'start', $spec =~ s/confined/confined/r), 0, qr/all as planned/, 'with the capabilities of the unit a VM starts'
		or return;
	ended run_command(@confined, 'stop', '--force', 'confined'), 0, qr/^$/, 'and stops';
	clean;
};

clean 'nothing is left';
done_testing;
