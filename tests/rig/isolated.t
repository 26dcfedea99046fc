# CPUs that the kernel keeps for pinned work (isolcpus=): a thread can be pinned to one of them,
# although no inherited mask has it; a set of several is refused, since it would stick to the first.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

my $host = host();
my @isolated = @{ $host->{isolated} };
my %isolated = map { $_ => 1 } @isolated;
my @others = grep { !$isolated{$_} } map { @{ $_->{cpus} } } @{ $host->{nodes} };
cmp_ok scalar @isolated, '>=', 4, 'there are isolated CPUs' or BAIL_OUT('no isolated CPUs on this shape');
my $mask = thread_affinity($$);
is $mask, list(@others), 'the mask that programs inherit has none of them';

sub vm {
	my ($tune) = @_;
	return { name => 'isolated', vcpus => 2, memory => '32MiB', qemu => { accel => accel() }, cputune => $tune };
}

my $spec = vm({
	vcpupin => { 0 => "$isolated[0]", 1 => "$isolated[1]" }, emulatorpin => list(@others),
	vcpusched => [ { vcpus => '0-1', scheduler => 'fifo', priority => 1 } ],
});
if (start_vm($spec)) {
	threads_are(qemu_of('isolated'), $spec, 'FIFO vCPUs on isolated CPUs, the emulator on all others');
	ended run_ancla('verify', 'isolated'), 0, qr//, 'verify agrees';
	stop_vm('isolated');
}

for my $case (
	[ 'a vCPU on several isolated CPUs', { vcpupin => { 0 => "$isolated[0],$isolated[1]" } } ],
	[ 'a vCPU on an isolated CPU and another', { vcpupin => { 0 => "$isolated[0],$others[0]" } } ],
	[ 'the emulator on isolated CPUs', { vcpupin => { 0 => "$others[0]" }, emulatorpin => "$isolated[2],$isolated[3]" } ],
) {
	my ($what, $tune) = @$case;
	ended run_ancla('start', make_spec(vm($tune))), 4, qr/isolated/, "$what: refused";
	is qemu_of('isolated'), undef, "$what: no QEMU";
}

# Without a pin, no thread gets a set with isolated CPUs in it.
if (start_vm({ name => 'isolated', vcpus => 2, memory => '32MiB', qemu => { accel => accel() }, cputune => { vcpupin => { 0 => "$isolated[0]" } } })) {
	my $is = where_threads_are(qemu_of('isolated'));
	my @wide = grep { my ($set) = split ' ', $is->{$_}; my @cpus = numbers($set); @cpus > 1 && grep { $isolated{$_} } @cpus } keys %$is;
	is_deeply \@wide, [], 'threads that are not pinned' or diag explain $is;
	stop_vm('isolated');
}
clean;
done_testing;
