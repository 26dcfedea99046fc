# Shares and quota: the kernel has them for the VM's threads, not for those that run in real time;
# what is changed behind the VM's back is found; and nothing is left of them, however it ends. A VM
# that asks for none has no cgroup.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Cgroups;
use Test::More;

my $version = cgroup_version('cpu');
my $root = cgroup_root('cpu');
my $before = $version == 2 ? cgroup_tree($root) : {};
note "the controller cpu is on cgroup v$version, at $root";

my $limits = { shares => 2048, quota => '150%' };
my %expected = $version == 1
	? ('cpu.shares' => '2048', 'cpu.cfs_period_us' => '100000', 'cpu.cfs_quota_us' => '150000')
	: ('cpu.weight' => '200', 'cpu.max' => '150000 100000');
my ($share_file, $share, $other_share) = $version == 1 ? ('cpu.shares', 2048, 1024) : ('cpu.weight', 200, 100);

# Which of the VM's threads are in its own cgroup: {role => "in" or "out"}, by the kernel.
sub where {
	my ($pid, $name) = @_;
	my %where;
	for my $task (tasks($pid)) {
		my $role = join ' ', role_of($task);
		my $own = cgroup_path("$pid/task/$task->{tid}", 'cpu') =~ m{/ancla-\Q$name\E-} ? 'in' : 'out';
		$where{$role}{$own} = 1;
	}
	return { map { $_ => join ' and ', sort keys %{ $where{$_} } } keys %where };
}

sub nothing_left {
	my ($name, $what) = @_;
	is_deeply [ vm_cgroups($root, $name) ], [], "$what: no cgroup is left";
	is_deeply cgroup_tree($root), $before, "$what: controllers are as before" if $version == 2;
	return;
}

subtest 'shares and quota, and a vCPU in real time' => sub {
	my $spec = spec('limited', {
		vcpus => 2, iothreads => ['io0'],
		cputune => {
			%$limits, vcpupin => { 0 => '1', 1 => '0' }, emulatorpin => '0', iothreadpin => { io0 => '0' },
			vcpusched => [ { vcpus => '0', scheduler => 'fifo', priority => 1 } ],
		},
	});
	my $plan = json(run_ancla('plan', '--json', make_spec($spec)));
	is "$plan->{shares} $plan->{quota}", '2048 150%', 'plan --json has them';
	like run_ancla('plan', make_spec($spec))->{out}, qr/^CPU time\n  shares 2048, quota 150%$/m, 'plan shows them';
	my $status = start_vm($spec) or return;
	my $pid = $status->{pid};
	my @own = vm_cgroups($root, 'limited');
	is @own, 1, 'it has one cgroup' or return;
	is cgroup_file("$own[0]/$_"), $expected{$_}, "$_ is $expected{$_}" for sort keys %expected;
	is_deeply where($pid, 'limited'), { 'vcpu 0' => 'out', 'vcpu 1' => 'in', 'iothread io0' => 'in', emulator => 'in' },
		'every thread is in it but the one in real time';
	is roles($pid)->{'vcpu 0'}, '1 fifo:1', 'which runs in real time';
	is cgroup_path($status->{supervisor}, 'cpu'), cgroup_path($$, 'cpu'), 'the supervisor is where it was';
	is cgroup_path($pid, 'memory') =~ s{/ancla-limited-[^/]*$}{}r =~ s{^$}{/}r, cgroup_path($$, 'memory'),
		'and its memory is charged where it was';
	is "$status->{shares} $status->{quota} $status->{cgroup}{directory}", "2048 150% $own[0]", 'status --json has it all';
	is $status->{cgroup}{$share_file}, $share, 'as the kernel has it';
	like run_ancla('status', 'limited')->{out}, qr/^CPU time +shares 2048, quota 150% \(.*\Q$share_file $share\E/m, 'status shows it';
	ended run_ancla('verify', 'limited'), 0, qr/^ok      cgroup: \Q$share_file: $share\E$/m, 'verify agrees';

	write_cgroup("$own[0]/$share_file", $other_share);
	ended run_ancla('verify', 'limited'), 5, qr/^DIFFERS cgroup: \Q$share_file: expected $share, the kernel has $other_share\E$/m,
		'shares changed behind its back are found';
	write_cgroup("$own[0]/$share_file", $share);
	my ($io) = map { $_->{tid} } grep { $_->{name} =~ /^IO io0/ } tasks($pid);
	my $threads = $version == 1 ? 'tasks' : 'cgroup.threads';
	write_cgroup(own_cgroup('cpu') . "/$threads", $io);
	ended run_ancla('verify', 'limited'), 5, qr/^DIFFERS iothread io0: cgroup: expected ancla-limited-\w+, the kernel has outside$/m,
		'so is a thread that was taken out';
	write_cgroup("$own[0]/$threads", $io);
	ended run_ancla('verify', 'limited'), 0, qr//, 'put back, all is well';
	stop_vm('limited');
	nothing_left('limited', 'stopped');
};

subtest 'a quota holds' => sub {
	start_vm(spec('slow', { cputune => { quota => '150%' } })) or return;
	my ($own) = vm_cgroups($root, 'slow');
	is cgroup_file("$own/$share_file"), $version == 1 ? 1024 : 100, 'shares are the usual ones';
	stop_vm('slow');
	# A guest that never stops (its first instruction is `jmp .`), and comes before all others: a busy machine
	# would give it less than that by itself. QEMU has no more than that to start with, either: too little,
	# where it is emulated.
	my $quota = $ENV{RIG_SHAPE} ? '60%' : '20%';
	my $firmware = tmpdir() . '/spins';
	open my $file, '>', $firmware or die "$firmware: $!";
	print $file "\xf4" x 0xfff0, "\xeb\xfe", "\xf4" x 14;
	close $file or die "$firmware: $!";
	start_vm(spec('slow', { cputune => { quota => $quota, shares => 262144 }, boot => { firmware => $firmware } })) or return;
	($own) = vm_cgroups($root, 'slow');
	ok eventually(120, sub { (cgroup_file("$own/cpu.stat") // '') =~ /^nr_throttled ([1-9]\d*)/m }), 'its threads are made to wait';
	stop_vm('slow');
	nothing_left('slow', 'stopped');
};

subtest 'changed while it runs' => sub {
	my $spec = spec('changed', {
		vcpus => 2, cputune => {
			vcpupin => { 0 => '1', 1 => '0' }, emulatorpin => '0',
			vcpusched => [ { vcpus => '0', scheduler => 'fifo', priority => 1 } ],
		},
	});
	my $status = start_vm($spec) or return;
	my $pid = $status->{pid};
	is_deeply [ vm_cgroups($root, 'changed') ], [], 'it has no cgroup';
	ended run_ancla('pin', '--dry-run', 'changed', 'shares', '2048'), 0, qr/^CPU time: was as the host's, is shares 2048$/m, 'a dry run';
	is_deeply [ vm_cgroups($root, 'changed') ], [], 'makes none';
	ended run_ancla('pin', '--save', 'changed', 'shares', '2048', 'quota', '150%'), 0, qr/read back$/m, 'pin shares and quota';
	my ($own) = vm_cgroups($root, 'changed') or return fail 'a cgroup';
	is cgroup_file("$own/$_"), $expected{$_}, "$_ is $expected{$_}" for sort keys %expected;
	is_deeply where($pid, 'changed'), { 'vcpu 0' => 'out', 'vcpu 1' => 'in', emulator => 'in' }, 'threads are in it, but the one in real time';
	ended run_ancla('verify', 'changed'), 0, qr/^ok      cgroup: \Q$share_file: $share\E$/m, 'verify goes by it';
	my $saved = json(tmpdir() . '/changed.json')->{cputune};
	is "$saved->{shares} $saved->{quota}", '2048 150%', '--save wrote it to the spec';

	ended run_ancla('pin', 'changed', 'shares', '1024'), 0, qr/^CPU time: was shares 2048, quota 150%, is shares 1024, quota 150%$/m, 'and other shares';
	is cgroup_file("$own/$share_file"), $other_share, 'are the kernel\'s';
	my $taken = runtime_dir() . '/changed/plan.json.new';
	mkdir $taken or die "$taken: $!";
	ended run_ancla('pin', 'changed', 'vcpu', '0', '--scheduler', 'other'), 1, qr/cannot write plan\.json/, 'a plan that cannot be written';
	rmdir $taken or die "$taken: $!";
	is where($pid, 'changed')->{'vcpu 0'}, 'out', 'leaves the vCPU out of the cgroup';
	is roles($pid)->{'vcpu 0'}, '1 fifo:1', 'and in real time';
	ended run_ancla('verify', 'changed'), 0, qr//, 'all is as before';
	ended run_ancla('pin', 'changed', 'vcpu', '0', '--scheduler', 'other'), 0, qr/read back$/m, 'a vCPU leaves real time';
	is where($pid, 'changed')->{'vcpu 0'}, 'in', 'and is in the cgroup';
	ended run_ancla('pin', 'changed', 'vcpu', '0', '--scheduler', 'rr:2'), 0, qr/read back$/m, 'it runs in real time again';
	is_deeply where($pid, 'changed'), { 'vcpu 0' => 'out', 'vcpu 1' => 'in', emulator => 'in' }, 'and is out of it';
	ended run_ancla('verify', 'changed'), 0, qr//, 'verify agrees';
	ended run_ancla('pin', 'changed', @$_), 2, qr/takes/, "pin @$_ is refused" for [ 'shares', '1' ], [ 'quota', '20' ], ['quota'];
	stop_vm('changed');
	nothing_left('changed', 'stopped');
};

# Killed after its cgroup was made, and before the plan was written.
subtest 'a change that was killed' => sub {
	my $status = start_vm(spec('halfway')) or return;
	my $plan = runtime_dir() . '/halfway/plan.json';
	my $before_change = AnclaTest::slurp($plan);
	my $kill_halfway = sub {
		ended run_ancla('pin', 'halfway', 'shares', '512'), 0, qr/read back$/m, 'pin shares';
		open my $file, '>', $plan or die "$plan: $!";
		print $file $before_change;
		close $file or die "$plan: $!";
		return (vm_cgroups($root, 'halfway'))[0];
	};
	$kill_halfway->() or return fail 'a cgroup';
	ended run_ancla('verify', 'halfway'), 5, qr/^DIFFERS cgroup: expected none, /m, 'verify finds what is left';
	ended run_ancla('repin', 'halfway'), 0, qr//, 'repin';
	nothing_left('halfway', 'put right');
	ended run_ancla('verify', 'halfway'), 0, qr//, 'verify agrees';

	my $left = $kill_halfway->() or return fail 'a cgroup';
	ended run_ancla('pin', 'halfway', 'shares', '2048', 'quota', '150%'), 0, qr/read back$/m, 'the next one is made';
	my @own = vm_cgroups($root, 'halfway');
	is @own, 1, 'there is one cgroup';
	isnt $own[0], $left, 'and not the one that was left';
	ended run_ancla('verify', 'halfway'), 0, qr/^ok      cgroup: \Q$share_file: $share\E$/m, 'verify agrees';
	stop_vm('halfway');
	nothing_left('halfway', 'stopped');
};

subtest 'two VMs, ended in any order' => sub {
	start_vm(spec($_, { cputune => { shares => 512 } })) or return for 'first', 'second';
	stop_vm('first');
	is scalar(vm_cgroups($root, 'second')), 1, 'the other one keeps its cgroup';
	ended run_ancla('verify', 'second'), 0, qr//, 'and what it has';
	stop_vm('second');
	nothing_left($_, 'both stopped') for 'first', 'second';
};

subtest 'killed, all of it' => sub {
	my $status = start_vm(spec('killed', { cputune => $limits })) or return;
	kill KILL => $status->{supervisor}, $status->{pid};
	wait_gone($_) for $status->{supervisor}, $status->{pid};
	is scalar(vm_cgroups($root, 'killed')), 1, 'its cgroup is left';
	is_deeply json(run_ancla('list', '--json')), [], 'the next command';
	nothing_left('killed', 'after it');
	clean;
};

subtest 'a start that fails' => sub {
	my $dies = wrapper('dies', 'echo no luck >&2; exit 3');
	ended run_ancla('start', make_spec(spec('unlucky', { cputune => $limits, qemu => { binary => $dies } }))), 1, qr/no luck/,
		'QEMU dies';
	nothing_left('unlucky', 'after it');
	clean;
};

subtest 'killed while it starts' => sub {
	my $silent = wrapper('silent', 'exec sleep 1000');
	my $launch = spawn_ancla('run', make_spec(spec('orphan', { cputune => $limits, qemu => { binary => $silent } })));
	ok eventually(120, sub { grep { /sleep 1000/ } our_processes() }), 'QEMU was started';
	my ($pid) = map { /^(\d+) sleep 1000/ } our_processes();
	like cgroup_path($pid, 'cpu'), qr{/ancla-orphan-}, 'in its cgroup from the beginning';
	$launch->signal('KILL');
	$launch->wait_exit;
	ok wait_all_gone(), 'the guard ends it';
	run_ancla('list');
	nothing_left('orphan', 'the next command');
	clean;
};

subtest 'without shares and quota there is none' => sub {
	my $status = start_vm(spec('plain')) or return;
	is_deeply [ vm_cgroups($root, 'plain') ], [], 'no cgroup';
	is cgroup_path($status->{pid}, 'cpu'), cgroup_path($$, 'cpu'), 'QEMU is where its launcher is';
	is_deeply [ grep { exists $status->{$_} } qw(shares quota isolation cgroup) ], [], 'status does not speak of it';
	stop_vm('plain');
};

if (cgroup_version('cpuset') == 1) {
	my $spec = spec('part', { isolation => 'partition', cputune => { vcpupin => { 0 => '1' }, emulatorpin => '0' } });
	ended run_ancla('start', make_spec($spec)), 4, qr/isolation: partitions are of cgroup v2, but here cpuset is a controller of v1/,
		'a partition is refused where cpuset is on cgroup v1';
}

nothing_left('', 'at the end');
clean 'nothing is left';
done_testing;
