# isolation "partition": the vCPUs' CPUs are an isolated partition of the kernel while the VM lives,
# below the root cgroup and deep below it, with shares and quota and without; vCPUs are in it, all
# other threads of the host are off it; they are given back after any end; and what the kernel does
# not grant is refused with its reason, before the guest runs.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Cgroups;
use Rig;
use Test::More;

my $root = '/sys/fs/cgroup';
my $host = host();
my ($here, $there) = map { $_->{cpus} } @{ $host->{nodes} };
my @all = (@$here, @$there);
my %siblings = %{ $host->{siblings} };
BAIL_OUT('no SMT on this shape') if @{ $siblings{ $here->[0] } } < 2;
cgroup_file("$root/cpuset.cpus.isolated") // BAIL_OUT('this kernel has no cpuset.cpus.isolated');

# Deep below the root, as in a scope of systemd's: the cgroups above pass the controllers on.
my $leaf = "$root/top/scope/leaf";
mkdir $_ or die "$_: $!" for "$root/top", "$root/top/scope", $leaf;
write_cgroup("$_/cgroup.subtree_control", '+cpu +cpuset') for "$root/top", "$root/top/scope";
sub move_to { my ($at) = @_; write_cgroup("$at/cgroup.procs", $$); return }
my $before = cgroup_tree($root);

# vCPU 0 on the first node, vCPU 1 on the second; the emulator on a core of the first.
my @cpus = ($here->[2], $there->[2]);
my $emulator = $here->[0];
sub vm {
	my ($name, $more) = @_;
	return AnclaVm::merge({
		name => $name, vcpus => 2, memory => '32MiB', iothreads => ['io0'], isolation => 'partition',
		qemu => { accel => accel() }, placement => { mode => 'static' },
		disks => [ { file => guest_disk('raw', "$name.img"), iothread => 'io0' } ],
		cputune => { vcpupin => { 0 => "$cpus[0]", 1 => "$cpus[1]" }, emulatorpin => "$emulator" },
	}, $more // {});
}

sub isolated { return cgroup_file("$root/cpuset.cpus.isolated") }
sub without { my %not = map { $_ => 1 } @_; return list(grep { !$not{$_} } @all) }

sub given_back {
	my ($what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is_deeply cgroup_tree($root), $before, "$what: every cgroup is as before";
	is thread_affinity($$), list(@all), "$what: other threads have all CPUs again";
	clean "$what: nothing is left";
	return;
}

sub fifo { return { vcpusched => [ { vcpus => '0-1', scheduler => 'fifo', priority => 1 } ] } }
my $limits = { shares => 2048, quota => '300%' };

for my $case (
	[ 'in the root cgroup', $root, {}, 'ancla-part-\w+-isolated' ],
	[ 'deep below', $leaf, {}, 'top/scope/leaf/ancla-part-\w+-isolated' ],
	[ 'with shares and quota', $leaf, { cputune => $limits }, 'top/scope/leaf/ancla-part-(\w+)/ancla-part-\g{-1}-isolated' ],
	[ 'with shares and quota, in real time', $leaf, { cputune => { %$limits, %{ fifo() } } }, 'top/scope/leaf/ancla-part-\w+-isolated' ],
	[ 'in the root cgroup, with shares', $root, { cputune => { shares => 100 } }, 'ancla-part-(\w+)/ancla-part-\g{-1}-isolated' ],
	[ 'with idle siblings', $leaf, { placement => { smt => 'isolate' } }, 'top/scope/leaf/ancla-part-\w+-isolated' ],
) {
	my ($what, $at, $more, $path) = @$case;
	subtest $what => sub {
		move_to($at);
		my $spec = vm('part', $more);
		my $status = start_vm($spec) or return;
		my $pid = $status->{pid};
		my @isolated = $more->{placement} ? map { @{ $siblings{$_} } } @cpus : @cpus;
		is isolated(), list(@isolated), 'the kernel has isolated their CPUs';
		is cgroup_file("$root/cpuset.cpus.effective"), without(@isolated), 'all others have what is left';
		is thread_affinity($$), without(@isolated), 'this test, too';
		threads_are($pid, $spec, 'every thread is where it should be');
		for my $task (tasks($pid)) {
			my ($role) = role_of($task);
			my $in = cgroup_path("$pid/task/$task->{tid}", '');
			next if $role ne 'vcpu' && $in !~ /-isolated/;
			like $in, qr{^/$path$}, "$task->{name} is in the partition" if $role eq 'vcpu';
			fail "$task->{name} is not in the partition" if $role ne 'vcpu';
		}
		ran_everywhere($pid, 2, 'the guest runs on both', 'anonymous:' . (32 << 20));
		is $status->{isolation}, 'partition', 'status says it';
		is $status->{cgroup}{'cpuset.cpus.partition'}, 'isolated', 'as the kernel has it';
		ended run_ancla('verify', 'part'), 0, qr/^ok      cgroup: cpuset.cpus.partition: isolated$/m, 'verify agrees';
		stop_vm('part');
		given_back('stopped');
	};
}

subtest 'two VMs, placed automatically' => sub {
	move_to($leaf);
	my %taken;
	for my $name ('auto-1', 'auto-2') {
		my $spec = vm($name, { placement => { mode => 'auto' } });
		delete $spec->{cputune};
		start_vm($spec) or return;
		$taken{$_}++ for numbers(json(AnclaTest::slurp(runtime_dir() . "/$name/cgroup.json"))->{cpus});
	}
	is scalar(keys %taken), 4, 'no CPU is in both';
	is isolated(), list(keys %taken), 'and all are isolated';
	ended run_ancla('verify', $_), 0, qr//, "verify agrees on $_" for 'auto-1', 'auto-2';
	stop_vm('auto-1');
	is scalar(numbers(isolated())), 2, 'one stops: the other keeps its CPUs';
	ended run_ancla('verify', 'auto-2'), 0, qr//, 'verify agrees';
	stop_vm('auto-2');
	given_back('both stopped');
};

subtest 'changed behind its back' => sub {
	my $status = start_vm(vm('part')) or return;
	my ($own) = vm_cgroups($root, 'part');
	write_cgroup("$own/cpuset.cpus.partition", 'member');
	ended run_ancla('verify', 'part'), 5, qr/^DIFFERS cgroup: cpuset.cpus.partition: expected isolated, the kernel has member$/m,
		'a partition taken away is found';
	stop_vm('part');
	given_back('stopped');
};

for my $next ('list', 'start', 'host') {
	subtest "kill -9 of everything, then `ancla $next`" => sub {
		my $status = start_vm(vm('part', { cputune => $next eq 'list' ? $limits : {} })) or return;
		kill KILL => $status->{supervisor}, $status->{pid};
		wait_gone($_) for $status->{supervisor}, $status->{pid};
		is isolated(), list(@cpus), 'its CPUs are still isolated';
		if ($next eq 'start') {
			start_vm(vm('next')) and stop_vm('next');
		} else {
			my $result = run_ancla($next, '--json');
			is $result->{exit}, 0, 'the next command' or diag $result->{err};
			is json($result)->{allowed}, list(@all), 'sees all CPUs' if $next eq 'host';
		}
		given_back('after it');
	};
}

sub refused {
	my ($what, $spec, $code, $message) = @_;
	ended run_ancla('start', make_spec($spec)), $code, $message, "$what: refused";
	is qemu_of($spec->{name}), undef, "$what: no QEMU";
	return;
}

subtest 'what is refused' => sub {
	refused 'several CPUs', vm('part', { cputune => { vcpupin => { 0 => "$cpus[0],$here->[4]" } } }), 3,
		qr{/cputune/vcpupin/0: vCPU 0 is pinned to 2 CPUs of an isolated partition};
	refused 'the emulator on a vCPU\'s CPU', vm('part', { cputune => { emulatorpin => "$cpus[0],$emulator" } }), 4,
		qr/isolation is partition, but .* has CPU $cpus[0], which is in it/;
	given_back('before anything is made');

	mkdir "$root/other" or die $!;
	write_cgroup("$root/other/cpuset.cpus", $cpus[1]);
	write_cgroup("$root/other/cpuset.cpus.partition", 'isolated');
	my $with_other = cgroup_tree($root);
	refused 'a CPU of another partition', vm('part'), 4, qr/CPU $cpus[1] may not be used by this process/;
	is_deeply cgroup_tree($root), $with_other, 'and nothing is left';
	write_cgroup("$root/other/cpuset.cpus.partition", 'member');
	rmdir "$root/other" or die $!;

	my $narrow = "$root/narrow";
	mkdir $narrow or die $!;
	write_cgroup("$narrow/cpuset.cpus.exclusive", $cpus[1]);
	my $with_narrow = cgroup_tree($root);
	refused 'a CPU that another cgroup has as its own', vm('part'), 4,
		qr{isolation: CPUs \S+ cannot be made exclusive \($root/top/cpuset.cpus.exclusive: Invalid argument\)};
	is_deeply cgroup_tree($root), $with_narrow, 'and nothing is left';
	rmdir $narrow or die $!;

	move_to($root);
	mkdir "$root/bare" or die $!;
	write_cgroup("$root/top/scope/cgroup.subtree_control", '-cpuset');
	move_to($leaf);
	refused 'a cgroup without the controller', vm('part'), 4,
		qr{isolation: the cgroup $leaf, in which ancla runs, has no controller cpuset \(it has: cpu\); start ancla as root, or .*Delegate=yes};
	write_cgroup("$root/top/scope/cgroup.subtree_control", '+cpuset');
	rmdir "$root/bare";
	given_back('after all that');
};

done_testing;
