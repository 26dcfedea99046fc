# A guest's life: what the spec wants when it powers off, resets, panics, or cannot write its disk is
# done, and told; nobody wakes while nothing happens; a VM outlives its supervisor, or not, as the spec
# says, and gets another.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use IO::Socket::UNIX;
use JSON::PP ();
use Test::More;

my $dumps = tmpdir() . '/dumps';
$ENV{ANCLA_DUMP_DIR} = $dumps;
my $ancla = AnclaTest::abs_path($ENV{ANCLA} // "$BUILD/ancla");

# The guest's shell has asked for a command in so many boots.
sub shells { my ($vm, $times, $name) = @_;
	return ok $vm->wait_for_output(qr/(?:^ANCLA-GUEST-END.*?guest # .*?){$times}/ms, 300), $name }

sub dump_files { return sort glob "$dumps/*" }

my $panic = "modprobe pvpanic-mmio; echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger\n";

subtest 'restart' => sub {
	# It powers off when it is told to: what `stop` finds is not a guest that is just doing so.
	my $vm = run_linux(linux('again', 'ancla.do=shell', { 'on-poweroff' => 'restart' }), { stdin => undef }) or return;
	my @before = map { $_->{tid} } grep { (role_of($_))[0] eq 'vcpu' } tasks(qemu_of('again'));
	for my $times (2, 3) {
		$vm->send("poweroff -f\n");
		shells $vm, $times, 'a guest that powers off is started again' or return;
	}
	is scalar(() = $vm->err =~ /^ancla: the guest powered off; it is started again$/mg), 2, 'it says so, both times';
	is_deeply [ map { $_->{tid} } grep { (role_of($_))[0] eq 'vcpu' } tasks(qemu_of('again')) ], \@before, 'with the same threads';
	ended run_ancla('verify', 'again'), 0, qr/^ok      vCPU 0/m, 'as planned';
	ended run_ancla('stop', '--timeout', 120, 'again', { timeout => 150 }), 0, qr/^$/, 'one that was asked to is not';
	ended $vm->wait_exit, 0, qr/ANCLA-GUEST-POWER-BUTTON.*^ancla: the guest powered off$/ms, 'and `run` ends well';

	$vm = run_linux(linux('mended', 'ancla.do=shell', { 'on-crash' => 'restart', 'on-reboot' => 'destroy' }), { stdin => undef }) or return;
	$vm->send($panic);
	shells $vm, 2, 'a guest that panics is started again' or return;
	like $vm->err, qr/^ancla: the guest panicked; it is started again$/m, 'it says so';
	$vm->send("reboot -f\n");
	ended $vm->wait_exit, 0, qr/^ancla: the guest rebooted$/m, 'its own reset is still its end';
	clean;
};

# As QEMU would tell it.
sub event { my ($name, %data) = @_; return { event => $name, data => \%data, timestamp => { seconds => 1, microseconds => 2 } } }

# The reset of its firmware may be two, if that asks in two ways, and QEMU has begun the first by then.
subtest 'restart: a firmware that resets twice' => sub {
	my %tells = (
		# A reset of another vCPU, when QEMU is just stopping all: it is over with the panic.
		cont => [ event('GUEST_PANICKED', action => 'pause'), event('STOP'),
			event('SHUTDOWN', guest => TRUE, reason => 'guest-reset') ],
		system_reset => [ event('RESET', guest => FALSE), ((event('RESET', guest => TRUE)) x 3), event('WATCHDOG', action => 'none') ],
	);
	my @does = map { "$_=tell:" . JSON::PP->new->canonical->encode($tells{$_}) } sort keys %tells;
	my $qemu = wrapper('twice', "exec perl $ROOT/tests/lib/fake-qemu " . join(' ', map { "'$_'" } @does) . ' -- "$@"');
	my $vm = spawn_ancla('run', make_spec(spec('twice', { 'on-crash' => 'restart', 'on-reboot' => 'destroy', qemu => { binary => $qemu } })));
	ok $vm->wait_for_output(qr/the guest's watchdog fired/), 'it runs on' or return;
	like $vm->err, qr/^ancla: the guest panicked; it is started again$/m, 'after a panic';
	unlike $vm->err, qr/the guest reset|rebooted/, 'none of them is the guest\'s';
	stop_vm('twice');
	$vm->wait_exit;
	clean;
};

subtest 'a reset of the guest that its firmware repeats is one' => sub {
	my $tells = JSON::PP->new->canonical->encode([ ((event('RESET', guest => TRUE)) x 3), event('WATCHDOG', action => 'none') ]);
	my $qemu = wrapper('repeated', "exec perl $ROOT/tests/lib/fake-qemu 'cont=tell:$tells' -- \"\$@\"");
	my $vm = spawn_ancla('run', make_spec(spec('repeated', { qemu => { binary => $qemu } })));
	ok $vm->wait_for_output(qr/the guest's watchdog fired/), 'it runs on' or return;
	is scalar(() = $vm->err =~ /^ancla: the guest reset$/mg), 1, 'it is told once';
	stop_vm('repeated');
	$vm->wait_exit;
	clean;
};

subtest 'preserve' => sub {
	my $vm = spawn_ancla('run', make_spec(linux('kept', 'ancla.do=reboot', { 'on-reboot' => 'preserve' })));
	ok $vm->wait_for_output(qr/^ancla: the guest rebooted; it is kept as it is, and `ancla stop kept` ends it$/m), 'a guest that resets is kept';
	is status_of('kept')->{state}, 'shutdown', '`status` works';
	ended run_ancla('verify', 'kept'), 0, qr/^ok/m, '`verify` works';
	ended run_ancla('resume', 'kept'), 1, qr/cannot run on: its state is "shutdown"; `ancla stop kept` ends it/, '`resume` says what to do';
	ended run_ancla('stop', 'kept'), 0, qr/^$/, '`stop` works, and does not say that it waited for the guest';
	is $vm->wait_exit->{exit}, 0, 'exit code';
	# The same setting of QEMU's, but powering off is to be its end.
	$vm = spawn_ancla('run', make_spec(linux('half', 'ancla.do=poweroff', { 'on-reboot' => 'preserve' })));
	ended $vm->wait_exit, 0, qr/^ancla: the guest powered off$/m, 'one that powers off ends';
	clean;
};

subtest 'dump' => sub {
	my $marker = "ancla.marker=$$-" . time;
	ended run_ancla('run', make_spec(linux('crash', "ancla.do=panic $marker", { 'on-crash' => 'dump' }))),
		1, qr{^ancla: the guest panicked; its memory is dumped to (\Q$dumps\E/crash-\d{8}T\d{6}Z\.elf)\nancla: the guest's memory is in \1\n(?:.*\n)?ancla: the guest panicked$}m, 'a guest that panics is dumped';
	my ($file) = dump_files() or return fail 'a file';
	my @stat = stat $file;
	is $stat[2] & 07777, 0600, 'nobody else can read it';
	cmp_ok $stat[7], '>=', 256 << 20, 'all its memory is there';
	open my $dump, '<', $file or die;
	read $dump, my $magic, 4;
	is $magic, "\x7fELF", 'an ELF file';
	is run_command('grep', '-q', '-a', '-F', $marker, $file)->{exit}, 0, 'with what the guest had in it';
	unlink $file;
	ended run_ancla('run', make_spec(linux('off', 'ancla.do=poweroff', { 'on-poweroff' => 'dump' }))),
		0, qr/the guest powered off; its memory is dumped to /, 'a guest that powers off, too';
	my @files = dump_files();
	is scalar(@files), 1, 'one more file';
	unlink dump_files();
	clean;
};

subtest 'a dump of a QEMU that cannot open the file' => sub {
	plan skip_all => 'needs root' if $>;
	chmod 0711, tmpdir();
	my $spec = linux('theirs', 'ancla.do=poweroff', { 'on-poweroff' => 'dump', qemu => { user => 'nobody' } });
	for (qw(kernel initrd)) {
		is system('cp', $spec->{boot}{$_}, tmpdir() . "/$_"), 0;
		$spec->{boot}{$_} = tmpdir() . "/$_";
	}
	ended run_ancla('run', make_spec($spec)), 0, qr{^ancla: the guest's memory is in \Q$dumps\E/theirs-}m, 'it gets it open';
	my ($file) = dump_files() or return fail 'a file';
	is_deeply [ (stat $file)[4], (stat _)[2] & 07777 ], [ 0, 0600 ], 'it is root\'s alone';
	unlink $file;
	clean;
};

subtest 'a dump that cannot be written' => sub {
	my $file = tmpdir() . '/no-directory';
	open my $handle, '>', $file or die;
	my $path = make_spec(linux('nowhere', 'ancla.do=panic', { 'on-crash' => 'dump' }));
	ended run_ancla('run', $path, { env => { ANCLA_DUMP_DIR => "$file/dumps" } }),
		4, qr{dumps cannot be written to \Q$file\E/dumps: Not a directory; make it, or set ANCLA_DUMP_DIR}, 'no directory: no start';
	ended run_ancla('run', $path, { env => { ANCLA_DUMP_DIR => 'dumps' } }), 4, qr/ANCLA_DUMP_DIR is "dumps"; give an absolute path/, 'nor a relative one';
	my $small = tmpdir() . '/small';
	mkdir $small;
	my $result = run_command('unshare', '-m', 'sh', '-c',
		"mount -t tmpfs -o size=1m small $small && exec $ancla run $path", { env => { ANCLA_DUMP_DIR => $small }, timeout => 120 });
	ended $result, 1, qr{could not be dumped: the dump needs 256MiB in \Q$small\E, which has 1MiB free}, 'no room: told with numbers';
	clean;
};

subtest 'a disk without room' => sub {
	my $small = tmpdir() . '/disk';
	mkdir $small;
	my $path = make_spec(linux('full', 'ancla.do=shell', { disks => [ { file => "$small/disk.img" } ] }));
	my $vm = spawn_command('unshare', '-m', 'sh', '-c', "mount -t tmpfs -o size=1m small $small && truncate -s 8M $small/disk.img && exec $ancla run $path",
		{ stdin => undef });
	ok $vm->wait_for_output(qr/guest # /), 'a guest with a disk that can grow' or return;
	$vm->send("dd if=/dev/zero of=/dev/vda bs=64k count=64 conv=fsync && echo writ''ten\n");
	ok $vm->wait_for_output(qr/^ancla: the guest is stopped, as a write of disk0 failed: No space left on device; when that is mended, `ancla resume full` lets it run on$/m), 'is stopped, which is told';
	like run_ancla('status', 'full')->{out}, qr/: io-error, .*^  the guest is stopped; `ancla resume full` lets it run on$/ms, '`status` shows it';
	is run_command('nsenter', '-m', '-t', $vm->pid, 'mount', '-o', 'remount,size=16m', $small)->{exit}, 0, 'there is room';
	ended run_ancla('resume', 'full'), 0, qr/^$/, '`resume`';
	ok $vm->wait_for_output(qr/written/), 'and it goes on';
	ok $vm->wait_for_output(qr/^ancla: the guest runs on$/m), 'that is told, too';
	ended run_ancla('resume', 'full'), 0, qr/^$/, '`resume` of one that runs is nothing';
	stop_vm('full');
	is $vm->wait_exit->{exit}, 0, 'it ends';
	clean;
};

subtest 'a watchdog' => sub {
	my (undef, $binary) = @{ (qemus())[1] }; # QEMU 7.2 has q35's turned off
	my $vm = run_linux(linux('dog', 'ancla.do=shell', { 'on-reboot' => 'destroy', qemu => { binary => $binary } }), { stdin => undef }) or return;
	# It is in the chip set (Intel's ICH9 data sheet). GCS, in memory, lets it reboot; the guest has no
	# driver, so the rest is done for it: TCO_TMR is 4 ticks of 0.6 s, TCO_RLD starts it.
	$vm->send("devmem 0xfed1f410 32 0; echo ar''med\n");
	ok $vm->wait_for_output(qr/^armed/m), 'can reset the guest';
	qmp(runtime_dir() . '/dog/qmp.sock', 'human-monitor-command', { 'command-line' => "o /h $_" }) for '0x672 4', '0x660 1';
	my $result = $vm->wait_exit;
	ended $result, 1, qr/^ancla: the guest's watchdog fired$/m, 'fires';
	like $result->{err}, qr/^ancla: warning: the guest's watchdog fired \(reset\)\nancla: the guest's watchdog reset it\n/m, 'and the spec says what then';
	clean;
};

subtest 'nobody wakes while nothing happens' => sub {
	my $status = start_vm(spec('idle', { serial => 'socket' })) or return;
	for my $pid ($status->{supervisor}) {
		my $trace = tmpdir() . '/idle';
		# It may still be on its way there, from the start that it has told of: poll(2) is 7.
		ok eventually(120, sub { AnclaTest::slurp("/proc/$pid/syscall") =~ /^7 / }), 'it sleeps';
		my $strace = spawn_command('strace', '-f', '-o', $trace, '-p', $pid);
		ok $strace->wait_for_output(qr/attached/), 'it is traced' or next;
		ok !wait_gone($pid, 10), 'for 10 seconds';
		$strace->signal('INT');
		$strace->wait_exit;
		my @calls = grep { !/restart_syscall|poll\(|detached|SIG/ } split /\n/, AnclaTest::slurp($trace);
		my @polls = grep { /restart_syscall|poll\(/ } split /\n/, AnclaTest::slurp($trace);
		is_deeply \@calls, [], 'no system call';
		cmp_ok scalar(@polls), '<=', 1, 'but the one it sleeps in' or diag "@polls";
	}
	stop_vm('idle');
	clean;
};

subtest 'a supervisor after another' => sub {
	my $status = start_vm(linux('orphan', 'ancla.do=shell', { 'on-poweroff' => 'preserve' })) or return;
	ended run_ancla('run', '--attach', 'orphan'), 1, qr/^ancla: VM "orphan" has a supervisor that lives \(process $status->{supervisor}\)/, 'is refused while the first lives';
	ended run_ancla('run', '--attach', 'orphn'), 1, qr/no VM "orphn" runs; did you mean "orphan"\?/, 'a VM that does not run';
	ended run_ancla('run', '--attach', 'orphan', 'orphan.json'), 2, qr/needs SPEC, or --attach NAME/, 'either, or';
	kill KILL => $status->{supervisor};
	wait_gone($status->{supervisor});
	like run_ancla('status', 'orphan')->{out}, qr/^  its supervisor is gone; `ancla run --attach orphan` is another$/m, '`status` says what to do';
	my $vm = spawn_ancla('run', '--attach', 'orphan', { stdin => undef });
	ok $vm->wait_for_output(qr/^ancla: orphan is taken over \(QEMU $status->{pid}\)$/m), 'the VM is taken over' or return;
	is status_of('orphan')->{supervisor}, $vm->pid, '`status` shows its supervisor';
	ended run_ancla('run', '--attach', 'orphan'), 1, qr/supervisor that lives \(process @{[$vm->pid]}\)/, 'of which there is one';
	$vm->send("\n");
	ok $vm->wait_for_output(qr/guest # /), 'the console is there' or return;
	$vm->send("echo it is \$((6 * 7))\n");
	ok $vm->wait_for_output(qr/it is 42/), 'and takes keys';
	my @locks = grep { (readlink($_) // '') eq runtime_dir() . '/orphan/lock' } glob '/proc/' . $vm->pid . '/fd/*';
	is scalar(@locks), 1, 'it holds the lock';
	$vm->send("poweroff -f\n");
	ok $vm->wait_for_output(qr/^ancla: the guest powered off; it is kept/m), 'what the spec wants is still known';
	$vm->signal('TERM');
	ended $vm->wait_exit, 0, qr/QEMU quits/, 'it ends as any other';
	clean;
};

subtest 'a guest that powers off while nobody looks' => sub {
	my $status = start_vm(linux('alone', 'ancla.do=shell', { 'on-poweroff' => 'restart' })) or return;
	kill KILL => $status->{supervisor};
	wait_gone($status->{supervisor});
	my $console = IO::Socket::UNIX->new(Peer => $status->{console}) or return fail "$status->{console}: $!";
	ok hear($console, qr/guest # /), 'its console is there' or return;
	syswrite $console, "poweroff -f\n";
	ok eventually(120, sub { status_of('alone')->{state} eq 'shutdown' }), 'is kept' or return;
	close $console;
	my $fresh = fresh_modes();
	my $vm = spawn_ancla('run', '--attach', 'alone', { pty => 1 });
	ok $vm->wait_for_output(qr/ancla: the guest had powered off; it is started again/), 'until somebody takes it over';
	ok $vm->wait_for_output(qr/guest # /), 'who does what the spec wants';
	isnt $vm->terminal_modes, $fresh, 'keys go to the guest';
	kill KILL => $vm->pid;
	$vm->wait_exit;
	ok eventually(120, sub { $vm->terminal_modes eq $fresh }), 'a supervisor that is killed leaves the terminal as it was';
	ok is_running($status->{pid}), 'and the VM, again';
	ended run_ancla('stop', '--timeout', 120, 'alone', { timeout => 150 }), 0, qr/^$/, '`stop` ends a guest that QEMU keeps, once it is off';
	ended run_ancla('run', '--attach', 'alone'), 1, qr/no VM "alone" runs/, 'then it is gone';
	clean;
};

subtest 'die-with-supervisor' => sub {
	my $bound = sub { start_vm(spec('bound', { 'die-with-supervisor' => TRUE })) };
	my $status = $bound->() or return;
	my ($guard) = map { /^(\d+)/ && (AnclaTest::peek("/proc/$1/comm") // '') eq "ancla-guard\n" ? $1 : () } our_processes();
	ok $guard, 'a guard stays';
	kill KILL => $status->{supervisor};
	ok wait_gone($status->{pid}), 'QEMU ends with its supervisor';
	ended run_ancla('list'), 0, qr/^$/, 'nothing runs';
	clean;
	$status = $bound->() or return;
	($guard) = map { /^(\d+)/ && (AnclaTest::peek("/proc/$1/comm") // '') eq "ancla-guard\n" ? $1 : () } our_processes();
	kill KILL => $guard, $status->{supervisor};
	ok wait_gone($status->{pid}), 'also if the guard is killed with it';
	run_ancla('list');
	clean;
	$status = $bound->() or return;
	ended run_ancla('stop', '--force', 'bound'), 0, qr/^$/, 'else it ends as any other';
	clean;
};

clean 'nothing is left';
done_testing;
