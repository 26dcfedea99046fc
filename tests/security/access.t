# `ancla check --host-access` tells each user what the kernel grants it, by trying, and what is missing
# by its name; with a spec, whether that is enough for it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use File::Path qw(make_path);
use Test::More;

plan skip_all => 'needs root' if $>;

my $dir = tmpdir();
chmod 0711, $dir;
my $public = "$dir/public";
make_path("$public/run", "$public/cache");
chown 65534, 65534, $public, "$public/run", "$public/cache";
is system('cp', $ENV{ANCLA} // "$BUILD/ancla", "$public/ancla"), 0, 'a program that a user can reach';
my $tried = 0;

my @root = ($ENV{ANCLA} // "$BUILD/ancla");
my @env = ('env', "ANCLA_RUNTIME_DIR=$public/run", "XDG_CACHE_HOME=$public/cache");
my @nobody = (@env, qw(setpriv --reuid 65534 --regid 65534 --clear-groups));
# Whether a limit can be raised here; root may lack CAP_SYS_RESOURCE.
sub raises { my ($limit) = @_; return run_command('prlimit', $limit, 'true')->{exit} == 0 }
sub may { my ($what) = @_; return ('--inh-caps', "+$what", '--ambient-caps', "+$what") }

# The grants by name, for a command that ends in ancla.
sub grants {
	my (@command) = @_;
	my $result = run_command(@command, 'check', '--host-access', '--json');
	ended $result, 0, qr/"grants"/, 'told' or return {};
	$tried++;
	my $said = json($result);
	ok $said->{ok}, 'nothing is needed without a spec';
	return { map { $_->{name} => $_ } @{ $said->{grants} } };
}
sub is_granted { my ($grants, $name, $pattern) = @_; my $grant = $grants->{$name};
	return ok $grant->{granted} && $grant->{detail} =~ $pattern && !defined $grant->{how}, "$name is granted" || diag explain $grant }
sub is_missing { my ($grants, $name, $pattern, $how) = @_; my $grant = $grants->{$name};
	return ok !$grant->{granted} && $grant->{detail} =~ $pattern && $grant->{how} =~ $how, "$name is missing" || diag explain $grant }

subtest 'real-time scheduling' => sub {
	my $name = 'real-time scheduling';
	is_granted grants(@root), $name, qr/priorities 1 to 99$/;
	is_missing grants('prlimit', '--rtprio=0:0', @nobody, "$public/ancla"), $name, qr/fifo:1 is refused: Operation not permitted/, qr/CAP_SYS_NICE, or RLIMIT_RTPRIO/;
	is_granted grants('prlimit', '--rtprio=5:5', @nobody, "$public/ancla"), $name, qr/priorities 1 to 5$/ if raises('--rtprio=5:5');
	is_granted grants('prlimit', '--rtprio=0:0', @nobody, may('sys_nice'), "$public/ancla"), $name, qr/priorities 1 to 99$/;
};

subtest 'locked memory' => sub {
	my $name = 'locked memory';
	is_granted grants(@root), $name, qr/any amount/;
	is_missing grants('prlimit', '--memlock=65536:8388608', @nobody, "$public/ancla"), $name, qr/up to 8MiB/, qr/CAP_IPC_LOCK, or RLIMIT_MEMLOCK/;
	is_granted grants('prlimit', '--memlock=8388608:8388608', @nobody, may('ipc_lock'), "$public/ancla"), $name, qr/any amount/;
};

subtest 'KVM' => sub {
	my $why = kvm_missing();
	is_granted grants(@root), 'KVM', qr/creates a VM/ unless $why;
	my @without = -e '/dev/kvm' ? (qw(unshare -m sh -c), 'mount --bind /dev/null /dev/kvm && exec "$@"', 'sh') : ();
	is_missing grants(@without, @root), 'KVM', qr/not KVM/, qr/group of \/dev\/kvm/ if @without;
	my %any = %{ spec('any') };
	delete $any{qemu};
	ended run_command(@without, @root, 'plan', make_spec(\%any)), 0, qr{^  qemu\.accel is tcg, as KVM does not work here: /dev/kvm}m, 'without it, and no wish, it is TCG, which the plan says';
};

subtest 'CPUs' => sub {
	is_missing grants('taskset', '-c', '0', @root), 'all CPUs', qr/CPUs 0 allowed, none isolated, not 1/, qr/taskset/;
	is_granted grants(@root), 'all CPUs', qr/CPUs 0-\d+ allowed/;
};

subtest 'memory policy' => sub {
	is_granted grants(@root), 'memory policy', qr/work/;
	is_missing grants(without($_), @root), 'memory policy', qr/Operation not permitted/, qr/seccomp/ for 237, 238; # mbind, set_mempolicy
};

subtest 'huge pages' => sub {
	my $before = hugepages_total();
	reserve_hugepages($before + 4);
	is_granted grants(@root), 'huge pages of 2MiB on node 0', qr/^\d+ of \d+ free$/;
	my $free = hugepages_free();
	grants(@root);
	is hugepages_free(), $free, 'the one that was tried is back';
	is_missing grants(without(319), @root), 'huge pages of 2MiB on node 0', qr/cannot be had: Operation not permitted/, qr/cgroup/; # memfd_create
};

subtest 'runtime directory' => sub {
	is_granted grants(@nobody, "$public/ancla"), 'runtime directory', qr{^$public/run$};
	is_granted grants(@nobody, 'env', "ANCLA_RUNTIME_DIR=$public/new", "$public/ancla"), 'runtime directory', qr{^$public/new$};
	ok !-e "$public/new", 'it was not made';
	is_missing grants(@nobody, 'env', "ANCLA_RUNTIME_DIR=/usr/new", "$public/ancla"), 'runtime directory', qr{/usr/new cannot be made: Permission denied}, qr/ANCLA_RUNTIME_DIR/;
	is_missing grants(@nobody, 'env', '-u', 'ANCLA_RUNTIME_DIR', '-u', 'XDG_RUNTIME_DIR', "$public/ancla"), 'runtime directory', qr/XDG_RUNTIME_DIR is not set/, qr/ANCLA_RUNTIME_DIR/;
};

subtest 'another user' => sub {
	is_granted grants(@root), 'another user for QEMU', qr/anyone/;
	is_missing grants(@nobody, "$public/ancla"), 'another user for QEMU', qr/user 65534 only/, qr/root/;
	is_missing grants('setpriv', '--bounding-set', '-kill', '--inh-caps', '-kill', @root), 'another user for QEMU', qr/user 0 only/, qr/CAP_KILL/;
};

# A spec: exit 0 where it would start, else 4 and what is missing.
sub enough { my ($what, $spec, $exit, $pattern, @command) = @_;
	$tried++;
	return ended run_command(@command, 'check', '--host-access', make_spec($spec)), $exit, $pattern, $what }

subtest 'enough for a spec' => sub {
	my $fifo = spec('fifo', { cputune => { vcpupin => { 0 => '1' }, emulatorpin => '0', vcpusched => [ { vcpus => '0', scheduler => 'fifo', priority => 5 } ] } });
	enough 'a plain one', spec('plain'), 0, qr/^ok +its placement/m, @root;
	enough 'a plain one, for a user', spec('plain'), 0, qr/^ok +its files and devices/m, @nobody, "$public/ancla";
	enough 'FIFO', $fifo, 0, qr/^ok +its scheduling and locked memory/m, @root;
	enough 'FIFO, for a user', $fifo, 4, qr/^MISSING its scheduling.*fifo with priority 5: Operation not permitted; it needs CAP_SYS_NICE/m, 'prlimit', '--rtprio=0:0', @nobody, "$public/ancla";
	if (raises('--rtprio=5:5')) {
		enough 'FIFO, with a limit below', $fifo, 4, qr/^MISSING its scheduling/m, 'prlimit', '--rtprio=4:4', @nobody, "$public/ancla";
		enough 'FIFO, with the limit', $fifo, 0, qr/^ok +its scheduling/m, 'prlimit', '--rtprio=5:5', @nobody, "$public/ancla";
	}
	enough 'FIFO, with the capability', $fifo, 0, qr/^ok +its scheduling/m, @nobody, may('sys_nice'), "$public/ancla";
	my $locked = spec('locked', { 'memory-backing' => { locked => TRUE } });
	enough 'locked', $locked, 4, qr/^MISSING its scheduling and locked memory.*needs more than 64MiB/m, 'prlimit', '--memlock=8388608:8388608', @nobody, "$public/ancla";
	enough 'locked, with the limit', $locked, 0, qr/^ok +its scheduling/m, 'prlimit', '--memlock=134217728:134217728', @nobody, "$public/ancla" if raises('--memlock=134217728:134217728');
	enough 'locked, with the capability', $locked, 0, qr/^ok +its scheduling/m, 'prlimit', '--memlock=8388608:8388608', @nobody, may('ipc_lock'), "$public/ancla";
	enough 'a file', spec('file', { boot => { kernel => '/etc/shadow' } }), 4, qr/^MISSING its files and devices +boot\.kernel: cannot read \/etc\/shadow: Permission denied/m, @nobody, "$public/ancla";
	enough 'another user', spec('user', { qemu => { user => 'games' } }), 4, qr/^MISSING another user for QEMU/m, @nobody, "$public/ancla";
	enough 'a CPU', spec('cpu', { cputune => { vcpupin => { 0 => '4000' } } }), 4, qr/^MISSING its placement .*4000/m, @root;
	enough 'huge pages', spec('pages', { memory => '64GiB', 'memory-backing' => { hugepages => '2MiB' } }), 4, qr/^MISSING its placement .*huge pages of 2MiB/m, @root;
	my $grows = spec('grows', { memory => '16MiB', 'memory-backing' => { hugepages => { size => '2MiB', reserve => 'grow' } } });
	enough 'huge pages to be reserved', $grows, 0, qr/^ok +its huge pages/m, @root;
	enough 'huge pages to be reserved, for a user', $grows, 4, qr{^MISSING its huge pages +cannot change \S+/nr_hugepages: Permission denied; only root}m, @nobody, "$public/ancla";
	my $quota = spec('quota', { cputune => { quota => '50%' } });
	enough 'a quota', $quota, 0, qr/^ok +its cgroup/m, @root;
	enough 'a quota, for a user', $quota, 4, qr/^MISSING cgroups/m, @nobody, "$public/ancla";
	enough 'a QEMU', spec('qemu', { qemu => { binary => '/nonexistent' } }), 4, qr/^MISSING its QEMU .*nonexistent/m, @root;
	ended run_command(@root, 'check', '--host-access', "$ROOT/specs/bad/nic-user.json"), 3, qr/nic/, 'a wrong one is told first';
	my $said = json(run_command(@root, 'check', '--host-access', '--json', make_spec(spec('cpu', { cputune => { vcpupin => { 0 => '4000' } } }))));
	ok !$said->{ok}, 'JSON says so, too';
	is_deeply [ map { $_->{name} } grep { $_->{needed} && !$_->{granted} } @{ $said->{grants} } ], ['its placement'], 'and what';
};

ended run_command(@root, 'check'), 2, qr/needs SPEC, or --host-access/, 'without either there is nothing to check';
clean 'nothing is left';
note "$tried times asked";
done_testing;
