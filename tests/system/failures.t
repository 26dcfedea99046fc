# Whatever goes wrong at a start: one clear message with the right exit code, and nothing is left.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use File::Copy qw(copy);
use POSIX ();
use Test::More;

my $free = hugepages_free();

# A start that must fail so. The program that ancla is started by comes first, if there is one.
sub fails {
	my ($what, $spec, $exit, $pattern, $options, @through) = @_;
	my $result = run_command(@through, $ENV{ANCLA} // "$BUILD/ancla", 'start', make_spec($spec), $options // {});
	ended $result, $exit, $pattern, $what;
	my @lines = grep { /^ancla: (?!warning: )/ } split /\n/, $result->{err};
	is @lines, 1, 'one message' or diag $result->{err};
	return stop_vm($spec->{name}) if ($result->{exit} // 1) == 0;
	is_deeply [ leftovers() ], [], 'nothing is left' if wait_all_gone();
	return;
}

sub binary { my ($name, $path) = @_; return spec($name, { qemu => { binary => $path } }) }

subtest 'QEMU is missing, or is not QEMU' => sub {
	fails 'a path that is not there', binary('bad', '/nonexistent/qemu'), 4,
		qr{qemu\.binary: /nonexistent/qemu: No such file or directory};
	fails 'a name that is not in PATH', binary('bad', 'qemu-system-pdp11'), 4,
		qr/qemu\.binary: qemu-system-pdp11 is not in PATH/;
	fails 'a file that cannot be executed', binary('bad', '/etc/passwd'), 4, qr/cannot be executed: Permission denied/;
	fails 'a directory', binary('bad', '/usr'), 4, qr/is not a file/;
	fails '/bin/true', binary('bad', '/bin/true'), 4, qr/ended \(exit status 0\).*is it QEMU\?/;
	fails '/bin/false', binary('bad', '/bin/false'), 4, qr/ended \(exit status 1\).*is it QEMU\?/;
	fails '/bin/cat', binary('bad', '/bin/cat'), 4, qr/ended \(exit status 1\).*"?cat|Try/;
	fails 'one that exits with words', binary('bad', wrapper('w-words', 'echo no such luck >&2; exit 3', 1)), 4,
		qr/ended \(exit status 3\).*"no such luck"/;
	fails 'one that kills itself', binary('bad', wrapper('w-kill', 'kill -9 $$', 1)), 4, qr/killed by signal 9/;
	fails 'one without an interpreter', binary('bad', do {
		my $path = wrapper('w-interpreter', '');
		open my $file, '>', $path or die;
		print $file "#!/nonexistent/sh\n";
		close $file;
		$path;
	}), 4, qr/ended \(exit status 127\).*No such file/;
};

subtest 'QEMU dies before it greets' => sub {
	fails 'at once, with words', binary('dead', wrapper('d-words', "printf 'one\\ntwo\\n' >&2; exit 3")), 1,
		qr/^ancla: QEMU exited with status 3 while QEMU started|QEMU exited with status 3.*; its last words: one; two$/m;
	fails 'at once, without a word', binary('dead', wrapper('d-silent', 'exit 0')), 1,
		qr/QEMU exited with status 0 .*without a word/;
	fails 'by a signal', binary('dead', wrapper('d-kill', 'kill -9 $$')), 1, qr/QEMU was killed by SIGKILL/;
	fails 'by an abort', binary('dead', wrapper('d-abort', 'ulimit -c 0; kill -ABRT $$')), 1, qr/QEMU was killed by SIGABRT/;
	fails 'with binary words', binary('dead', wrapper('d-binary', "printf 'a\\033[31mb\\001\\377c' >&2; exit 1")), 1,
		qr/last words: a[^\033\001]*c$/m;
	fails 'with 10 MB of words', binary('dead', wrapper('d-many', 'yes "last words" | head -c 10000000 >&2; exit 1')), 1,
		qr/last words: (?:last words; ){1,4}last words$/m;
	fails 'for a property it does not know',
		binary('dead', wrapper('d-property', 'exec $qemu "$@" -machine nonsense=on')), 1,
		qr/QEMU exited with status 1.*Property '[^']*nonsense' not found/;
	fails 'for an option it does not know',
		binary('dead', wrapper('d-option', 'exec $qemu "$@" -nonsense')), 1, qr/QEMU exited with status 1.*nonsense: invalid option/;
};

sub fake { my @does = @_; return wrapper('fake-' . join('-', map { /(\w[\w-]*)/ } @does) =~ s/[^\w-]//gr,
	"exec perl $ROOT/tests/lib/fake-qemu " . join(' ', map { "'$_'" } @does) . ' -- "$@"') }

subtest 'QEMU misbehaves once it has greeted' => sub {
	for my $step ('greeting', 'qmp_capabilities', 'query-cpus-fast', 'query-iothreads') {
		my $odd = sub { return spec('odd', { iothreads => ['io0'], qemu => { binary => fake("$step=$_[0]") } }) };
		fails "it exits at $step", $odd->('exit'), 1,
			qr/QEMU exited with status 7 .*its last words: first words; fake: last words at $step$/m;
		fails "it dies at $step", $odd->('die'), 1, qr/QEMU was killed by SIGABRT/;
		fails "it answers $step with garbage", $odd->('garbage'), 1, qr/not (?:QMP|JSON)|JSON|QMP/;
		fails "it refuses $step", $odd->('error'), 1, qr/fake: refused|greet|QMP/ if $step ne 'greeting';
	}
	fails 'it names no vCPU', binary('odd', fake('query-cpus-fast=[]')), 1, qr/names no thread for vCPU 0/;
	fails 'it answers with another type', binary('odd', fake('query-cpus-fast="x"')), 1, qr/names no thread for vCPU 0/;
	fails 'its vCPU has no thread of its own', binary('odd', fake('query-cpus-fast=[{"cpu-index":0,"thread-id":$PID}]')), 1,
		qr/runs vCPU 0 on the thread of its main loop .*single-threaded/;
	fails 'two vCPUs have one thread', spec('odd', { vcpus => 2, qemu => { binary => fake(
		'query-cpus-fast=[{"cpu-index":0,"thread-id":$CPU},{"cpu-index":1,"thread-id":$CPU}]') } }), 1,
		qr/runs vCPU 1 on the thread of another vCPU/;
	my $mine = thread_affinity($$);
	fails 'it names a thread of somebody else', spec('odd', { cputune => { vcpupin => { 0 => '1' } }, qemu => { binary =>
		fake("query-cpus-fast=[{\"cpu-index\":0,\"thread-id\":$$}]") } }), 1, qr/names thread $$ for vCPU 0, which is not one of its own/;
	is thread_affinity($$), $mine, 'which is left alone';
	fails 'it names a thread that is not there', binary('odd', fake('query-cpus-fast=[{"cpu-index":0,"thread-id":4194304}]')), 1,
		qr/names thread 4194304 for vCPU 0, which is not one of its own/;
};

# A real QEMU that is killed as it sends its Nth message: its greeting, then each reply.
subtest 'QEMU is killed between any two steps' => sub {
	my $messages = 0;
	for my $n (1 .. 12) {
		my $binary = wrapper('killed', "exec strace -D -f -o /dev/null -e trace=sendmsg -e inject=sendmsg:signal=KILL:when=$n \$qemu \"\$@\"");
		my $result = run_ancla('start', make_spec(spec('killed', { vcpus => 2, iothreads => ['io0'],
			'memory-backing' => { prealloc => TRUE }, qemu => { binary => $binary } })));
		last if $result->{exit} == 0;
		$messages++;
		ended $result, 1, qr/^ancla: QEMU was killed by SIGKILL \(Killed\).*without a word$/m, "at its message $n";
		clean "nothing is left of message $n";
	}
	cmp_ok $messages, '>=', 5, "killed at each of its $messages messages";
	# It is killed as it answers the next command.
	my $pid = qemu_of('killed');
	run_ancla('list');
	ok wait_gone($pid), 'the one that ran, at its next' if $pid;
	run_ancla('list');
	clean 'nothing is left of the one that ran';
};

subtest 'QEMU is killed while memory is filled' => sub {
	# On two CPUs half a minute, as each 2 MiB of it take so many microseconds longer.
	my $launch = spawn_command(with_madvise('delay_enter=500000', 'start',
		make_spec(spec('filling', { memory => '256MiB', 'memory-backing' => { prealloc => TRUE } }))), traced());
	my $pid = eventually(120, sub { qemu_of('filling') }) or return fail 'QEMU starts';
	kill KILL => $pid;
	ended $launch->wait_exit, 1, qr/QEMU was killed by SIGKILL/, 'told';
	clean 'no page is left', $free;
};

subtest 'files that are missing or busy' => sub {
	my $disk = tmpdir() . '/disk.img';
	open my $file, '>', $disk or die;
	truncate $file, 1 << 20;
	my $dir = tmpdir();
	fails 'a disk', spec('files', { disks => [ { file => 'missing.img' } ] }), 3,
		qr{disks/0.*$dir/missing\.img: No such file or directory; `qemu-img create` makes images};
	fails 'a disk that is a directory', spec('files', { disks => [ { file => '/tmp' } ] }), 3, qr{disks/0.*/tmp.*not a};
	fails 'a disk that is a device', spec('files', { disks => [ { file => '/dev/null' } ] }), 3, qr{disks/0.*/dev/null};
	fails 'a kernel', spec('files', { boot => { kernel => 'missing' } }), 3, qr{boot\.kernel: cannot read $dir/missing: No such};
	fails 'an initrd', spec('files', { boot => { kernel => "$ROOT/build/demo/vmlinuz", initrd => 'missing' } }), 3,
		qr{boot\.initrd: cannot read $dir/missing: No such};
	fails 'firmware', spec('files', { boot => { firmware => 'missing' } }), 3, qr{boot\.firmware: cannot read $dir/missing: No such};
	my $fifo = tmpdir() . '/fifo';
	POSIX::mkfifo($fifo, 0600);
	fails 'a serial console that nobody may read', spec('files', { serial => { file => $fifo } }), 3, qr{serial\.file: $fifo is neither a regular file nor a character device};
	fails 'one that is a directory', spec('files', { serial => { file => $dir } }), 3, qr{serial\.file: $dir is neither};
	fails 'one that is a disk', spec('files', { disks => [ { file => $disk } ], serial => { file => $disk } }), 3,
		qr{serial\.file: $disk is the file of disks/0, too, and not only read; give it another};
	fails 'a disk twice', spec('files', { disks => [ { file => $disk, readonly => TRUE }, { file => "$dir/./disk.img" } ] }), 3,
		qr{disks/1: $dir/\./disk\.img is the file of disks/0, too};
	fails 'a disk that is no qcow2', spec('files', { disks => [ { file => $disk, format => 'qcow2' } ] }), 1,
		qr/QEMU exited with status 1 .*not in qcow2 format/;
	start_vm(spec('first', { disks => [ { file => $disk } ] })) or return;
	my $second = run_ancla('start', make_spec(spec('second', { disks => [ { file => $disk } ] })));
	ended $second, 1, qr/QEMU exited with status 1 .*Failed to get "write" lock.*; VM "first" \(QEMU \d+\) has it: stop that/, 'a disk that another VM has';
	stop_vm('first');
	# Locked as QEMU locks, by F_OFD_SETLK: a byte for each thing that others may not do.
	open my $image, '+<', $disk or die;
	my $lock = pack 's s x4 q q i x4', 0, 0, 200, 10, 0;
	ok fcntl($image, 37, $lock), 'locked' or diag $!;
	ended run_ancla('start', make_spec(spec('second', { disks => [ { file => $disk } ] }))), 1, qr/lock.*; process $$ \(\S+\) has locked it/, 'a disk that another program has';
	close $image;
	clean;
};

subtest 'what the host cannot grant' => sub {
	my @cpus = glob '/sys/devices/system/cpu/cpu[0-9]*';
	fails 'a CPU that does not exist', spec('grant', { cputune => { vcpupin => { 0 => '4000' } } }), 4,
		qr/vCPU 0.*CPUs? 4000/;
	fails 'a CPU list that does in part', spec('grant', { cputune => { emulatorpin => '0,4000' } }), 4, qr/emulator.*4000/;
	fails 'a node that does not exist', spec('grant', { 'memory-backing' => { 'host-nodes' => '9' } }), 4,
		qr/host node 9, which does not exist/;
	fails 'more memory than there is', spec('grant', { memory => '4TiB', 'memory-backing' => { prealloc => TRUE } }), 4,
		qr/needs 4TiB of plain pages.*ha(?:s|ve) \S+ free/;
	my $short = $free + 1000;
	fails 'too few huge pages', spec('grant', { memory => 2 * $short . 'MiB', 'memory-backing' => { hugepages => '2MiB' } }), 4,
		qr/needs $short huge pages of 2MiB.*which ha(?:s|ve) \d+ free; reserve/;
	fails 'a size of huge pages that there is not', spec('grant', { memory => '64MiB', 'memory-backing' => { hugepages => '64KiB' } }), 4,
		qr/64KiB/;
	fails 'a CPU feature that TCG has not', spec('grant', { cpu => { features => { invpcid => 'require' } } }), 4,
		qr/cpu\.features: "invpcid" is required, but tcg on this machine cannot give it/;
	fails 'a CPU feature that nobody knows', spec('grant', { cpu => { features => { 'x2apik' => 'require' } } }), 4,
		qr/knows no CPU feature "x2apik", the nearest is "x2apic"/;
	fails 'a CPU model that TCG has in part', spec('grant', { cpu => { mode => 'custom', model => 'Broadwell' } }), 4,
		qr/cpu\.model: tcg cannot give Broadwell these features: .*invpcid/;
	fails 'a CPU model that nobody knows', spec('grant', { cpu => { mode => 'custom', model => 'Broadwel' } }), 4, qr/nearest is "Broadwell/;
	fails 'an interface that cannot be had', spec('grant', { nics => [ { type => 'bridge', bridge => 'nosuchbridge' } ] }), 4,
		qr/nosuchbridge|tap|tun/;
	fails 'a PCI device that is not there', spec('grant', { hostdevs => [ { pci => '0000:ff:1f.7' } ] }), 4,
		qr/no PCI device 0000:ff:1f\.7/;
	fails 'KVM that QEMU fails on', spec('grant', { qemu => { accel => 'kvm', binary => wrapper('aborts', 'kill -ABRT $$') } }), 1,
		qr/killed by SIGABRT.*try another cpu\.mode or cpu\.features, or "qemu": \{"accel": "tcg"\}/ unless kvm_missing();
	fails 'KVM that is none', spec('grant', { qemu => { accel => 'kvm' } }), 4, qr{/dev/kvm.*not KVM}, {},
		qw(unshare -m sh -c), 'mount --bind /dev/null /dev/kvm && exec "$@"', 'sh' if -e '/dev/kvm';
};

# What an ordinary user gets, and a root without privileges.
my $public = tmpdir() . '/public';
subtest 'without the privileges' => sub {
	chmod 0711, tmpdir();
	mkdir $_ for $public, "$public/run", "$public/cache";
	copy($ENV{ANCLA} // "$BUILD/ancla", "$public/ancla") or die;
	chmod 0755, "$public/ancla";
	chown 65534, 65534, $public, "$public/run", "$public/cache";
	my $old = $ENV{ANCLA};
	local $ENV{ANCLA} = "$public/ancla";
	my $env = { env => { ANCLA_RUNTIME_DIR => "$public/run", XDG_CACHE_HOME => "$public/cache" } };
	my @nobody = qw(setpriv --reuid 65534 --regid 65534 --clear-groups);
	my $try = sub {
		my ($what, $spec, $exit, $pattern, @before) = @_;
		fails $what, $spec, $exit, $pattern, $env, @before, @nobody;
	};
	my $fifo = { cputune => { vcpupin => { 0 => '1' }, emulatorpin => '0', vcpusched => [ { vcpus => '0', scheduler => 'fifo', priority => 5 } ] } };
	$try->('FIFO for a user', spec('user', $fifo), 4,
		qr/cputune\.vcpusched: the kernel refuses the scheduler fifo with priority 5: Operation not permitted; it needs CAP_SYS_NICE/,
		qw(prlimit --rtprio=0:0));
	fails 'FIFO for a root without CAP_SYS_NICE', spec('user', $fifo), 4, qr/fifo with priority 5: Operation not permitted/, {},
		qw(prlimit --rtprio=0:0 setpriv --bounding-set -sys_nice --inh-caps -sys_nice);
	$try->('locked memory for a user', spec('user', { 'memory-backing' => { locked => TRUE } }), 4,
		qr/memory-backing\.locked needs more than 64MiB.*CAP_IPC_LOCK/, qw(prlimit --memlock=8388608:8388608));
	if (-e '/dev/kvm' && ((stat '/dev/kvm')[2] & 06) == 0) {
		$try->('KVM for a user', spec('user', { qemu => { accel => 'kvm' } }), 4,
			qr{KVM does not work here: /dev/kvm: Permission denied.*group kvm});
	}
	$try->('a tap for a user', spec('user', { nics => [ { type => 'tap', ifname => 'notap0' } ] }), 4, qr{/dev/net/tun|notap0});
	$try->('a kernel that a user may not read', spec('user', { boot => { kernel => '/etc/shadow' } }), 3,
		qr{boot\.kernel: cannot read /etc/shadow: Permission denied});

	my $path = make_spec(spec('user', $fifo));
	my @may = qw(--inh-caps +sys_nice --ambient-caps +sys_nice);
	ended run_command(@nobody, @may, $ENV{ANCLA}, 'start', $path, $env), 0, qr/user runs/, 'FIFO for a user who may'
		or return;
	is +(roles(qemu_of('user')))->{'vcpu 0'}, '1 fifo:5', 'it is FIFO';
	ended run_command(@nobody, @may, $ENV{ANCLA}, 'verify', 'user', $env), 0, qr/ok      vCPU 0: scheduler: fifo:5/, 'the user verifies';
	ended run_command($ENV{ANCLA}, 'list', $env), 1, qr/belongs to user 65534, not to you \(0\)/, 'the directory is not root\'s';
	ended run_command(@nobody, $ENV{ANCLA}, 'stop', '--force', 'user', $env), 0, qr//, 'and stops it';
	is_deeply [ our_processes() ], [], 'no process is left' if wait_all_gone();
	is_deeply [ grep { !/\.lock$/ } AnclaTest::entries("$public/run") ], [], 'nor a file';
};

subtest 'limits' => sub {
	# Sanitizers take terabytes of addresses, but no memory.
	my @limits = ('--nofile=5:5', '--nofile=12:12', '--nofile=20:20', '--fsize=0:0', $ENV{ASAN_OPTIONS} ? () : '--as=30000000:30000000');
	for my $limit (@limits) {
		my $result = run_command('prlimit', $limit, $ENV{ANCLA} // "$BUILD/ancla", 'start', make_spec(spec('limits')));
		ok !defined $result->{exit} || $result->{exit}, "$limit: no start" or stop_vm('limits');
		ok defined $result->{exit}, "$limit: it ends by itself";
		like $result->{err}, qr/^ancla: \S.*\S/m, "$limit: it says why";
		run_ancla('list');
		clean "$limit: nothing is left";
	}
};

subtest 'a runtime directory that is not ours' => sub {
	my $dir = tmpdir() . '/other';
	my $env = { env => { ANCLA_RUNTIME_DIR => $dir } };
	my $try = sub {
		my ($what, $exit, $pattern) = @_;
		ended run_ancla($_->[0], $_->[1] // (), $env), $exit, $pattern, "$what: ancla $_->[0]"
			for [ 'start', make_spec(spec('other')) ], ['list'];
		is_deeply [ our_processes() ], [], 'no process';
	};
	mkdir $dir;
	chown 65534, 65534, $dir;
	$try->('somebody else\'s', 1, qr/belongs to user 65534, not to you/);
	chown 0, 0, $dir;
	chmod 0777, $dir;
	$try->('anybody\'s', 1, qr/can be written by others \(mode 777\)/);
	rmdir $dir;
	symlink '/tmp', $dir;
	$try->('a link', 1, qr/cannot open the runtime directory|symbolic/);
	unlink $dir;
	open my $file, '>', $dir;
	$try->('a file', 1, qr/cannot open the runtime directory|Not a directory/);
	unlink $dir;
	$env->{env}{ANCLA_RUNTIME_DIR} = "$dir/missing/deep";
	ended run_ancla('start', make_spec(spec('other')), $env), 1, qr/cannot make the runtime directory.*: the directory above it is missing/, 'no parent';
};

clean 'nothing is left, and no huge page is missing', $free;
done_testing;
