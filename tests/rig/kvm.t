# Real KVM, on an emulated AMD: a Linux guest of two nodes reports from inside what the plan says;
# every CPU mode runs; KVM's threads are where they should be; its statistics can be asked for.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

BAIL_OUT('no /dev/kvm on this shape') if !has_kvm();
my $host = host();
my ($here, $there) = map { $_->{id} } @{ $host->{nodes} };
my @here = @{ $host->{nodes}[0]{cpus} };
my @there = @{ $host->{nodes}[1]{cpus} };

# Two guest nodes on the host's, whose threads are pinned.
sub vm {
	my ($more) = @_;
	return AnclaVm::merge({
		name => 'kvm', vcpus => 4, memory => '256MiB', 'memory-backing' => { hugepages => '2MiB' },
		cpu => { mode => 'host-passthrough', cache => 'passthrough', topology => { sockets => 2, cores => 2, threads => 1 } },
		numa => {
			nodes => [
				{ vcpus => '0-1', memory => '128MiB', 'host-nodes' => "$here", policy => 'strict' },
				{ vcpus => '2-3', memory => '128MiB', 'host-nodes' => "$there", policy => 'strict' },
			],
			distances => 'host',
		},
		cputune => {
			vcpupin => { 0 => "$here[0]", 1 => "$here[1]", 2 => "$there[0]", 3 => "$there[1]" },
			emulatorpin => "$here[2]",
		},
		qemu => { accel => 'kvm' },
	}, $more);
}

sub kernel_cache {
	my ($level, $type) = @_;
	for my $at (glob '/sys/devices/system/cpu/cpu0/cache/index*') {
		next if Rig::line("$at/level") != $level || Rig::line("$at/type") ne $type;
		return Rig::line("$at/size");
	}
	return;
}

subtest 'Linux, host-passthrough with the host\'s caches' => sub {
	my $free = hugepages_free();
	my $spec = vm({ serial => { file => tmpdir() . '/console' }, boot => demo_boot('ancla.do=spin') });
	my $plan = json(run_ancla('plan', '--json', make_spec($spec)));
	my $console;
	# This host's CPUs are emulated, and the guest's with them.
	my ($pid, $ready) = AnclaVm::boot_until_ready(AnclaVm::BOOTS, sub {
		start_vm($spec) or return;
		my $pid = qemu_of('kvm');
		threads_are($pid, $spec, 'every thread on its CPU');
		pages_are($pid, 2 << 20, [ { $here => 64 }, { $there => 64 } ], 'every page on its node');
		return $pid;
	}, sub {
		return soon(120, sub { $console = AnclaTest::peek(tmpdir() . '/console') // ''; $console =~ /ANCLA-GUEST-READY/ });
	}, sub {
		diag $console;
		return stop_vm('kvm') && unlink tmpdir() . '/console';
	}) or return;
	ok $ready, 'Linux boots, and runs on all vCPUs' or diag $console;
	my $report = guest_report($console) // {};
	my %expected = (
		accel => 'kvm', 'cpus.online' => '0-3', 'nodes.online' => '0-1',
		'node0.cpus' => '0-1', 'node1.cpus' => '2-3',
		'node0.distances' => "$host->{nodes}[0]{distances}[0] $host->{nodes}[0]{distances}[1]",
		'node1.distances' => "$host->{nodes}[1]{distances}[0] $host->{nodes}[1]{distances}[1]",
		map({ ("cpu$_.package" => int($_ / 2), "cpu$_.core" => $_ % 2, "cpu$_.siblings" => $_, "cpu$_.node" => int($_ / 2)) } 0 .. 3),
		'cpu0.package-cpus' => '0-1',
		'cpu0.l1d.size' => kernel_cache(1, 'Data'), 'cpu0.l1i.size' => kernel_cache(1, 'Instruction'),
		'cpu0.l2.size' => kernel_cache(2, 'Unified'), 'cpu0.l3.size' => kernel_cache(3, 'Unified'),
	);
	is $report->{$_}, $expected{$_}, "$_ in the guest" for sort keys %expected;
	linux_agrees($report, $plan);
	like " $report->{'acpi.tables'} ", qr/ APIC .*SLIT SRAT /, 'ACPI tables';
	is_deeply [ sort map { $_->{name} } grep { $_->{name} =~ /^CPU/ } tasks($pid) ], [ map { "CPU $_/KVM" } 0 .. 3 ],
		'KVM\'s thread names';
	my %on = map { $_->{name} => $_->{last_cpu} } tasks($pid);
	is_deeply [ map { $on{"CPU $_/KVM"} } 0 .. 3 ], [ @here[0, 1], @there[0, 1] ], 'each ran where it is pinned';
	threads_are($pid, $spec, 'and is still there');
	pages_are($pid, 2 << 20, [ { $here => 64 }, { $there => 64 } ], 'pages, too');
	ended run_ancla('verify', 'kvm'), 0, qr//, 'verify agrees';
	my ($socket) = glob runtime_dir() . '/kvm/qmp.sock';
	my $stats = qmp($socket, 'query-stats', { target => 'vcpu' });
	is @{ $stats->{return} // [] }, 4, 'query-stats: one of each vCPU';
	my ($exits) = map { $_->{value} } grep { $_->{name} eq 'exits' } @{ $stats->{return}[0]{stats} // [] };
	cmp_ok $exits // 0, '>', 0, 'query-stats: exits are counted';
	ended run_ancla('stop', '--timeout', 200, 'kvm', { timeout => 100 }), 0, qr//, 'it powers off when asked';
	like AnclaTest::peek(tmpdir() . '/console'), qr/ANCLA-GUEST-POWER-BUTTON/, 'by its power button';
	clean 'nothing is left', $free;
};

# This host's CPU, as the kernel has it, in the words of CPUID.
sub host_cpuid {
	my %is = map { /^([^\t]+)\t*: (.*)$/ ? ($1 => $2) : () } split /\n/, AnclaTest::slurp('/proc/cpuinfo') =~ s/\n\n.*//sr;
	my $family = $is{'cpu family'};
	return {
		name => $is{'model name'}, l2 => kernel_cache(2, 'Unified') =~ s/K$//r,
		signature => ($family > 15 ? $family - 15 << 20 | 15 << 8 : $family << 8)
			| ($is{model} >> 4) << 16 | ($is{model} & 15) << 4 | $is{stepping},
	};
}
my $host_cpuid = host_cpuid();

# Without Linux: the boot sector on every vCPU, which asks CPUID.
my %modes = (
	'host-passthrough' => { mode => 'host-passthrough' },
	'host-passthrough, the host\'s caches' => { mode => 'host-passthrough', cache => 'passthrough' },
	'host-passthrough, no caches' => { mode => 'host-passthrough', cache => 'disable' },
	'host-model' => { mode => 'host-model' },
	'maximum' => { mode => 'maximum' },
	'custom, with features' => { mode => 'custom', model => 'qemu64', features => { 'sse4.1' => 'require', x2apic => 'disable' } },
);
for my $mode (sort keys %modes) {
	subtest $mode => sub {
		my $free = hugepages_free();
		my $spec = vm({ memory => '32MiB', disks => [ { file => guest_disk('raw', 'disk.img') } ] });
		$spec->{cpu} = { %{ $modes{$mode} }, topology => $spec->{cpu}{topology} };
		$_->{memory} = '16MiB' for @{ $spec->{numa}{nodes} };
		start_vm($spec) or return;
		my $pid = qemu_of('kvm');
		threads_are($pid, $spec, 'every thread on its CPU');
		ran_everywhere($pid, 4, 'the guest runs on all its vCPUs') or return stop_vm('kvm');
		my $is = guest_cpuid($pid);
		note compact($is);
		ok $is->{features} >> 31, 'it is told of a hypervisor';
		if ($mode =~ /^host-p/) {
			is $is->{name}, $host_cpuid->{name}, 'it sees the name of the host\'s CPU';
			is $is->{signature}, $host_cpuid->{signature}, 'its family, model and stepping';
		}
		is $is->{l2}, $host_cpuid->{l2}, 'its caches' if ($spec->{cpu}{cache} // '') eq 'passthrough';
		if ($mode =~ /^custom/) {
			like $is->{name}, qr/^QEMU Virtual CPU/, 'it sees the model';
			ok $is->{features} >> 19 & 1, 'and the feature that is required';
			ok !($is->{features} >> 21 & 1), 'but not the one that is disabled';
		}
		my ($cpu) = AnclaTest::slurp("/proc/$pid/cmdline") =~ /\0-cpu\0([^\0]*)/;
		note "-cpu $cpu";
		like $cpu, qr/^host,.*host-cache-info=on/, 'the host\'s caches' if ($spec->{cpu}{cache} // '') eq 'passthrough';
		like $cpu, qr/^host(,|$)/, 'the host\'s CPU' if $mode =~ /^host-p/;
		if ($mode eq 'host-model') {
			unlike $cpu, qr/^(host|max)/, 'a named model';
			isnt $is->{name}, $host_cpuid->{name}, 'as the guest sees';
		}
		like $cpu, qr/^qemu64,.*sse4[._-]1=on/, 'the model and its feature' if $mode =~ /^custom/;
		stop_vm('kvm');
		clean 'nothing is left', $free;
	};
}

ended run_ancla('plan', make_spec(vm({ cpu => { mode => 'custom', model => 'Skylake-Server', cache => 'emulate' } }))), 4,
	qr/kvm cannot give Skylake-Server these features: \S/, 'a model that this host cannot run is refused, with what it lacks';
ended run_ancla('plan', make_spec(vm({ cpu => { features => { avx512f => 'require' } } }))), 4,
	qr/"avx512f" is required/, 'so is a feature';
done_testing;
