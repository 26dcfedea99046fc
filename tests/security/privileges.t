# QEMU is who the spec says, may do no more than the spec needs, and cannot get more; what that user
# may not open is told before QEMU exists. Every claim is read from /proc, thread by thread.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use File::Path qw(make_path);
use Test::More;

plan skip_all => 'needs root' if $>;

use constant { NOBODY => 65534, USER => 47322, DISKS => 47400, OTHERS => 47401, DAC_OVERRIDE => 1 << 1, IPC_LOCK => 1 << 14 };

my $free = hugepages_free();
my $dir = tmpdir();
chmod 0711, $dir;
my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
my ($threads, $starts) = (0, 0);

# Users and groups of our own, and whatever else is to be mounted over, for one command.
sub file { my ($name, $text, $mode, $user, $group) = @_;
	my $path = "$dir/$name";
	open my $file, '>', $path or die "$path: $!";
	print $file $text;
	close $file;
	chmod $mode // 0644, $path;
	chown $user // 0, $group // 0, $path;
	return $path;
}
my $passwd = file('passwd', AnclaTest::slurp('/etc/passwd') . 'anclaqemu:x:' . USER . ':' . USER . "::/:/bin/false\n");
my $group = file('group', AnclaTest::slurp('/etc/group') . 'ancladisks:x:' . DISKS . ":anclaqemu\nanclaothers:x:" . OTHERS . ":anclaqemu\n");
my @with_users = ('unshare', '-m', 'sh', '-c',
	"mount --bind $passwd /etc/passwd && mount --bind $group /etc/group && exec \"\$\@\"", 'sh');

# The caller has a file open that is nobody else's business, at places of QEMU's own and above them.
my $secret = file('secret', 'precious', 0600);
my @caller = ('perl', '-MPOSIX=dup2', '-e', 'open my $file, "<", shift or die; defined dup2(fileno $file, $_) or die for 4, 10, 25, 900; exec @ARGV', $secret);
sub holders { my @held = grep { (readlink($_) // '') eq $secret } map { glob "/proc/$_/fd/*" } map { /^(\d+)/ } our_processes(); return @held }

sub start { my ($spec, @before) = @_; return run_command(@caller, @before, $ancla, 'start', make_spec($spec)) }

# Starts a VM, compares every thread of its QEMU with what is expected, verifies, and stops it.
sub is_who {
	my ($what, $spec, $who, @before) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$starts++;
	ended start($spec, @before), 0, qr/runs/, "$what: starts" or return;
	my $pid = qemu_of($spec->{name}) or return fail 'QEMU';
	my ($uid, $gid) = ($who->{uid} // 0, $who->{gid} // 0);
	my $caps = sprintf '%016x', $who->{caps} // 0;
	my %expected = (Uid => "$uid\t" x 3 . $uid, Gid => "$gid\t" x 3 . $gid, Groups => $who->{groups} // '',
		NoNewPrivs => 1, Seccomp => 2, map { $_ => $caps } qw(CapInh CapPrm CapEff CapAmb CapBnd));
	my @wrong;
	for my $task (tasks($pid)) {
		my $status = AnclaTest::peek("/proc/$pid/task/$task->{tid}/status") // next;
		my %has = map { /^(\w+):\s*(.*?)\s*$/ ? ($1, $2) : () } split /\n/, $status;
		push @wrong, map { "$task->{name}: $_ is $has{$_}, not $expected{$_}" } grep { $has{$_} ne $expected{$_} } keys %expected;
		$threads++;
	}
	is_deeply \@wrong, [], "$what: every thread is that";
	is_deeply [ holders() ], [], "$what: neither it nor its supervisor has a descriptor of the caller's";
	my $verified = run_ancla('verify', '--json', $spec->{name});
	is $verified->{exit}, 0, "$what: verify agrees" or diag $verified->{out}, $verified->{err};
	is scalar(grep { $_->{what} =~ /^process: (?:user|group|groups|capabilities|no_new_privs|seccomp)$/ } @{ json($verified)->{checks} }),
		6, "$what: it has looked";
	stop_vm($spec->{name});
	return;
}

sub refused {
	my ($what, $spec, $exit, $pattern, @before) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $started = "$dir/started";
	unlink $started;
	$spec->{qemu}{binary} //= wrapper('tells', "echo >$started; exec \$qemu \"\$\@\"");
	ended start($spec, @before), $exit, $pattern, $what or stop_vm($spec->{name});
	ok !-e $started, "$what: before QEMU exists";
	is_deeply [ leftovers() ], [], "$what: nothing is left" if wait_all_gone();
	return;
}

my %nobody = (qemu => { user => 'nobody' });
my $who = { uid => NOBODY, gid => NOBODY };

subtest 'another user' => sub {
	is_who 'by name', spec('other', {%nobody}), $who;
	is_who 'by number', spec('other', { qemu => { user => '65534' } }), $who;
	is_who 'a number without a name', spec('other', { qemu => { user => '47399' } }), { uid => 47399, gid => 47399 };
	is_who 'the same as ours', spec('other', { qemu => { user => 'root' } }), {};
	is_who "serial $_", spec('other', { %nobody, serial => $_ }), $who for qw(pty socket);
	make_path("$dir/logs");
	chown NOBODY, NOBODY, "$dir/logs";
	is_who 'a serial file that QEMU makes', spec('other', { %nobody, serial => { file => "$dir/logs/new" } }), $who;
	is_deeply [ (stat "$dir/logs/new")[4] ], [NOBODY], 'it is that user\'s';
	my $disk = file('disk', "\0" x 1048576, 0600, NOBODY);
	is_who 'a disk of its own', spec('other', { %nobody, disks => [ { file => $disk } ] }), $who;
	is_who 'memory that is filled', spec('other', { %nobody, 'memory-backing' => { prealloc => TRUE } }), $who;
	my $limit = sub { return ('prlimit', "--memlock=$_[0]") };
	is_who 'locked, with a limit that does', spec('other', { %nobody, 'memory-backing' => { locked => TRUE } }), $who,
		$limit->('unlimited') if system('prlimit --memlock=unlimited true 2>/dev/null') == 0;
	# With CAP_SYS_RESOURCE root raises any limit.
	is_who 'locked, with a limit that does not', spec('other', { %nobody, 'memory-backing' => { locked => TRUE } }), { %$who, caps => IPC_LOCK },
		$limit->('8388608:8388608'), qw(setpriv --bounding-set -sys_resource --inh-caps -sys_resource);
	reserve_hugepages(hugepages_total() + 40);
	is_who 'huge pages', spec('other', { %nobody, 'memory-backing' => { hugepages => '2MiB' } }), $who;
	my @hugetlbfs = ('unshare', '-m', 'sh', '-c', "mkdir -p $dir/huge && mount -t hugetlbfs -o pagesize=2M none $dir/huge && exec \"\$\@\"", 'sh');
	is_who 'huge pages of a mount', spec('other', { %nobody, 'memory-backing' => { hugepages => '2MiB', path => "$dir/huge" } }), $who, @hugetlbfs;
	clean;
};

subtest 'groups, only those that something is opened by' => sub {
	my $user = { uid => USER, gid => USER };
	my $spec = sub { return spec('grouped', { qemu => { user => 'anclaqemu' }, @_ }) };
	is_who 'none is needed', $spec->(), $user, @with_users;
	my $disk = file('grouped', "\0" x 1048576, 0660, 0, DISKS);
	is_who 'of a disk', $spec->(disks => [ { file => $disk } ]), { %$user, groups => DISKS }, @with_users;
	make_path("$dir/vault");
	chown 0, OTHERS, "$dir/vault";
	chmod 0710, "$dir/vault";
	file('vault/disk', "\0" x 1048576, 0660, 0, DISKS);
	is_who 'of a directory, too', $spec->(disks => [ { file => "$dir/vault/disk" } ]), { %$user, groups => DISKS . ' ' . OTHERS }, @with_users;
	my $foreign = file('foreign', "\0" x 1048576, 0660, 0, 47402);
	refused 'one that it is not in', $spec->(disks => [ { file => $foreign } ]), 3,
		qr{disks/0: user "anclaqemu" \(qemu\.user\) cannot read and write $foreign: Permission denied$}m, @with_users;
	my $open = file('open', "\0" x 1048576, 0666, 0, DISKS);
	is_who 'not where all may', $spec->(disks => [ { file => $open } ]), $user, @with_users;
};

subtest 'what it may not open' => sub {
	my $private = file('private', "\0" x 1048576, 0600);
	my @files = (
		[ 'disks/0', disks => [ { file => $private } ] ], [ 'disks/0', disks => [ { file => $private, readonly => TRUE } ] ],
		[ 'boot.kernel', boot => { kernel => $private } ], [ 'boot.firmware', boot => { firmware => $private } ],
		[ 'boot.initrd', boot => { kernel => "$ROOT/build/demo/vmlinuz", initrd => $private } ],
		[ 'boot.nvram', boot => { firmware => "$ROOT/README.md", nvram => $private } ],
		[ 'serial.file', serial => { file => $private } ], [ 'serial.file', serial => { file => "$dir/run/new" } ],
	);
	make_path("$dir/run");
	refused "$_->[0]", spec('blind', { %nobody, @$_[1, 2] }), 3,
		qr/^ancla: $_->[0]: user "nobody" \(qemu\.user\) cannot (?:read|write|read and write|make a file in) \S+: Permission denied/m for @files;
	make_path("$dir/closed", { mode => 0700 });
	file('closed/disk', "\0" x 1048576, 0666);
	refused 'a directory on the way', spec('blind', { %nobody, disks => [ { file => "$dir/closed/disk" } ] }), 3,
		qr{Permission denied, as $dir/closed may not be entered$}m;
	my $binary = file('qemu', "#!/bin/sh\nexec qemu-system-x86_64 \"\$\@\"\n", 0744);
	refused 'QEMU itself', spec('blind', { qemu => { user => 'nobody', binary => $binary } }), 3, qr/qemu\.binary: user "nobody" \(qemu\.user\) cannot execute/;
	refused 'an unknown user', spec('blind', { qemu => { user => 'nobodi' } }), 4, qr/no user "nobodi" in \/etc\/passwd, the nearest is "nobody"/;
};

subtest 'KVM' => sub {
	my $missing = kvm_missing();
	return plan skip_all => $missing if $missing;
	my $device = sub { my ($mode, $gid) = @_;
		return ('unshare', '-m', 'sh', '-c', "mount --bind $passwd /etc/passwd && mount --bind $group /etc/group && "
			. "mount -t tmpfs none /mnt && mknod /mnt/kvm c 10 232 && chown 0:$gid /mnt/kvm && chmod $mode /mnt/kvm && mount --bind /mnt/kvm /dev/kvm && exec \"\$\@\"", 'sh') };
	my $spec = sub { my $spec = AnclaVm::merge(spec('kvm', kvm()), { qemu => { user => 'anclaqemu', @_ } }); return $spec };
	is_who 'by its group', $spec->(), { uid => USER, gid => USER, groups => DISKS }, $device->('0660', DISKS);
	refused 'not for a user outside', $spec->(), 4, qr{qemu\.accel is kvm, but KVM does not work here: as user "anclaqemu": /dev/kvm: Permission denied: become a member of the group kvm}, $device->('0660', 47402);
	my $either = $spec->();
	delete $either->{qemu}{accel};
	delete $either->{cpu};
	is_who 'else TCG', $either, { uid => USER, gid => USER }, $device->('0660', 47402);
};

# What needs a right is opened by ancla, and QEMU is given it open.
subtest 'network cards' => sub {
	my @alone = ('unshare', '-n');
	my %open = (nics => [ { type => 'tap', ifname => 'ancla-t2' } ]);
	is_who 'a tap, with root\'s QEMU', spec('tapped', {%open}), {}, @alone;
	is_who 'a tap, with another\'s', spec('tapped', { %nobody, %open }), $who, @alone;
};

# This machine's PCI devices and its /dev, as if one were bound to a driver.
subtest 'PCI devices' => sub {
	my $machine = sub {
		my ($driver, $group_mode, $all_mode) = @_;
		return ('unshare', '-m', 'sh', '-c', <<"		END", 'sh');
			set -e
			mount --bind $passwd /etc/passwd
			mount --bind $group /etc/group
			mount -t tmpfs none /mnt
			mkdir -p /mnt/dev/vfio /mnt/drivers/$driver /mnt/groups/7 /mnt/pci/0000:3b:00.0
			cp -a /dev/null /dev/zero /dev/urandom /mnt/dev
			mknod /mnt/dev/vfio/7 c 240 7
			mknod /mnt/dev/vfio/vfio c 10 196
			chown 0:@{[DISKS]} /mnt/dev/vfio/*
			chmod $group_mode /mnt/dev/vfio/7
			chmod $all_mode /mnt/dev/vfio/vfio
			ln -s /mnt/drivers/$driver /mnt/pci/0000:3b:00.0/driver
			ln -s /mnt/groups/7 /mnt/pci/0000:3b:00.0/iommu_group
			mount --bind /mnt/pci /sys/bus/pci/devices
			mount --bind /mnt/dev /dev
			exec "\$@"
		END
	};
	my $spec = sub { return spec('device', { hostdevs => [ { pci => '3b:00.0' } ], qemu => { user => 'anclaqemu' } }) };
	my $cannot = sub { return qr{: user "anclaqemu" \(qemu\.user\) cannot read and write $_[0]: Permission denied; make the user a member of its group$}m };
	refused 'bound to another driver', $spec->(), 4, qr{hostdevs: PCI device 0000:3b:00\.0 is bound to e1000e, not to vfio-pci; bind it}, $machine->('e1000e', '0660', '0666');
	refused 'of a group that the user is not in', $spec->(), 4, $cannot->('/dev/vfio/7'), $machine->('vfio-pci', '0600', '0666');
	refused 'nor VFIO itself', $spec->(), 4, $cannot->('/dev/vfio/vfio'), $machine->('vfio-pci', '0660', '0600');
};

subtest 'root' => sub {
	is_who 'has no capability', spec('root'), {};
	is_who 'nor one that the launcher got', spec('root'), {}, 'setpriv', '--inh-caps', '+net_admin,+sys_nice', '--ambient-caps', '+net_admin,+sys_nice';
	my $theirs = file('theirs', "\0" x 1048576, 0600, USER);
	is_who 'but for a file of another', spec('root', { disks => [ { file => $theirs } ] }), { caps => DAC_OVERRIDE };
	make_path("$dir/home");
	file('home/disk', "\0" x 1048576, 0644, USER);
	chown USER, USER, "$dir/home";
	chmod 0700, "$dir/home";
	is_who 'or in a directory of another', spec('root', { disks => [ { file => "$dir/home/disk" } ] }), { caps => DAC_OVERRIDE };
	refused 'not where it has none itself', spec('root', { disks => [ { file => $theirs } ] }), 3, qr{disks/0: cannot read and write $theirs: Permission denied},
		'setpriv', '--bounding-set', '-dac_override,-dac_read_search', '--inh-caps', '-dac_override,-dac_read_search';
};

subtest 'an ordinary user' => sub {
	my $public = "$dir/public";
	make_path("$public/run", "$public/cache");
	chown NOBODY, NOBODY, $public, "$public/run", "$public/cache";
	is system('cp', $ancla, "$public/ancla"), 0;
	my @as = ('env', "ANCLA_RUNTIME_DIR=$public/run", "XDG_CACHE_HOME=$public/cache", qw(setpriv --reuid 65534 --regid 65534 --clear-groups), "$public/ancla");
	my $path = make_spec(spec('user', { qemu => { user => 'games' } }));
	ended run_command(@as, 'start', $path), 4, qr/qemu\.user is "games", but only root can run QEMU as another user, and you are user 65534; start ancla as root or as that user/, 'has no other user';
	ended run_command(@as, 'plan', $path), 0, qr/user/, 'may plan for one';
	$path = make_spec(spec('user', { qemu => { user => 'nobody' } }));
	ended run_command(@as, 'start', $path), 0, qr/runs/, 'may say itself';
	ended run_command(@as, 'verify', 'user'), 0, qr/process: no_new_privs: 1/, 'and verify';
	ended run_command(@as, 'stop', '--force', 'user'), 0, qr//, 'and stop';
};

# Linux before 5.9, or a container's seccomp filter, knows no close_range(2).
subtest 'without close_range(2)' => sub {
	use constant CLOSE_RANGE => 436;
	is_who 'as with it', spec('closed'), {}, without(CLOSE_RANGE);
	is_who 'also as another user, with files', spec('closed', { %nobody, iothreads => ['io0'], serial => 'socket', disks => [ { file => file('closed-disk', "\0" x 1048576, 0600, NOBODY) } ] }), $who, without(CLOSE_RANGE);
	is_who 'QEMU can be asked what it can', spec('closed'), {}, 'env', "XDG_CACHE_HOME=$dir/cache", without(CLOSE_RANGE);
	my $vm = spawn_command(@caller, without(CLOSE_RANGE), $ancla, 'run', make_spec(spec('closed')));
	ok $vm->wait_for_output(qr/closed runs/), '`run` starts, too' or return;
	my $pid = qemu_of('closed');
	is_deeply [ grep { (readlink($_) // '') eq $secret } glob "/proc/$pid/fd/*" ], [], 'and its QEMU has no descriptor of the caller\'s';
	stop_vm('closed');
	$vm->wait_exit;
};

subtest 'what differs is found before the guest runs' => sub {
	refused 'no seccomp', spec('open', { qemu => { binary => wrapper('open',
		q{exec perl -e 'exec grep { !/^-sandbox$|^on,obsolete=/ } @ARGV' $qemu "$@"}) } }), 5,
		qr/process: seccomp: expected 2, the kernel has 0/;
};

clean 'nothing is left', $free;
note "$starts starts, $threads threads compared";
done_testing;
