# What this host cannot grant is refused before QEMU is started: exit code 4 and a message that names
# the node, what is needed, and what is free. What it can grant all the same, it grants.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

# One node has next to none, whatever the shape; the others keep theirs.
{
	my @with = grep { $_->{free2m} > 8 } @{ host()->{nodes} };
	is reserve_hugepages(8, $with[-1]{id}), 8, "node $with[-1]{id} has 8 huge pages" if @with > 1;
}
my $host = host();
my @by_pages = sort { $a->{free2m} <=> $b->{free2m} } @{ $host->{nodes} };
my ($short, $long) = @by_pages[0, -1];
my ($cpu, $emulator) = map { @{ $_->{cpus} } } @{ $host->{nodes} };
my $free = hugepages_free();

sub vm {
	my ($more) = @_;
	return AnclaVm::merge({
		name => 'refused', vcpus => 1, memory => '32MiB', qemu => { accel => accel() }, boot => idle_firmware(),
		cputune => { vcpupin => { 0 => "$cpu" }, emulatorpin => "$emulator" },
	}, $more);
}

sub refused {
	my ($what, $more, $message) = @_;
	my $path = make_spec(vm($more));
	for my $command ('plan', 'start') {
		ended run_ancla($command, $path), 4, $message, "$what: $command";
	}
	is qemu_of('refused'), undef, "$what: no QEMU";
	return;
}

my $needed = $short->{free2m} + 4;
my $size = 2 * $needed . 'MiB';
refused('a node short of huge pages', { memory => $size, 'memory-backing' => { hugepages => '2MiB', 'host-nodes' => "$short->{id}" } },
	qr/needs $needed huge pages of 2MiB on .*\bnode $short->{id}\b.* $short->{free2m} free/);
refused('a guest node on it', {
	memory => 2 * $needed + 16 . 'MiB', vcpus => 2, 'memory-backing' => { hugepages => '2MiB' },
	cputune => { vcpupin => { 0 => "$cpu", 1 => "$emulator" } },
	numa => { nodes => [
		{ vcpus => '0', memory => '16MiB', 'host-nodes' => "$long->{id}" },
		{ vcpus => '1', memory => $size, 'host-nodes' => "$short->{id}" },
	] },
}, qr/guest node 1 needs $needed huge pages of 2MiB on .*\bnode $short->{id}\b.* $short->{free2m} free/)
	if $short->{id} != $long->{id};
my $share = $short->{free2m} + 2;
refused('interleaved over it', {
	memory => 2 * $share * @{ $host->{nodes} } . 'MiB',
	'memory-backing' => { hugepages => '2MiB', policy => 'interleave', 'host-nodes' => list(map { $_->{id} } @{ $host->{nodes} }) },
}, qr/needs $share huge pages of 2MiB on .*\bnode \d+\b.* $short->{free2m} free/);
my ($gib) = map { int($_->{kB} / 1048576) + 1 } $short;
refused('a node with too little memory', { memory => "${gib}GiB", 'memory-backing' => { prealloc => TRUE, 'host-nodes' => "$short->{id}" } },
	qr/needs ${gib}GiB of plain pages on .*\bnode $short->{id}\b.* \d\S* free/);
refused('a node that does not exist', { 'memory-backing' => { 'host-nodes' => '63' } }, qr/63/);
refused('a CPU that does not exist', { cputune => { vcpupin => { 0 => '999' } } }, qr/999/);

my %online = map { $_ => 1 } keys %{ $host->{siblings} };
my ($hole) = grep { !$online{$_} } 0 .. (sort { $b <=> $a } keys %online)[0];
refused('a CPU that is offline', { cputune => { vcpupin => { 0 => "$hole" } } }, qr/\b$hole\b/) if defined $hole;

# Preferred may go elsewhere, and says where it went: all that the node has, the rest elsewhere.
cmp_ok $short->{free2m}, '>', 0, 'a node is short of huge pages, and has some';
cmp_ok $long->{free2m}, '>', $short->{free2m} + 8, 'another has more';
{
	my $spec = vm({ memory => $size, 'memory-backing' => { hugepages => '2MiB', 'host-nodes' => "$short->{id}", policy => 'preferred' } });
	start_vm($spec) or last;
	my ($is) = where_pages_are(qemu_of('refused'));
	is $is->{nodes}{ $short->{id} }, $short->{free2m}, 'preferred: all the pages of the node';
	is $is->{absent}, 0, 'preferred: and the rest elsewhere';
	ended run_ancla('verify', 'refused'), 0, qr//, 'preferred: verify agrees';
	stop_vm('refused');
}

# A CPU that was given out is given to nobody else.
my $dedicated = vm({ name => 'first', placement => { mode => 'static', 'cpu-policy' => 'dedicated' } });
if (start_vm($dedicated)) {
	refused('a CPU that another VM has', {}, qr/\bfirst\b/);
	stop_vm('first');
}
clean 'nothing is left', $free;
# Linux 6.1: a VM's CPUs cannot become a partition, which the kernel says only when it is asked.
ended run_ancla('start', make_spec(vm({ isolation => 'partition' }))), 4,
	qr/isolation: this kernel has no cpuset\.cpus\.exclusive, .* Linux 6\.7/, 'a partition on an older kernel: refused';
is qemu_of('refused'), undef, 'no QEMU';
is_deeply [ glob '/sys/fs/cgroup/ancla-*' ], [], 'no cgroup is left';

done_testing;
