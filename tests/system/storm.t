# Two hundred launches at the same moment: what they are given never overlaps, and none fails that
# could have fitted.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Lists qw(numbers);
use Test::More;

use constant { DEDICATED => 160, SHARED => 40 };

my $host = json(run_ancla('host', '--json'));
my %allowed = map { $_ => 1 } numbers($host->{allowed});
my @cores = map { [ grep { $allowed{$_} } numbers($_->{cpus}) ] } @{ $host->{cores} };
my ($kept, @free) = map { @$_ } @cores;
cmp_ok scalar @free, '>=', 1, 'there is a CPU beside one for the host' or BAIL_OUT('one CPU');

# Those that want a CPU alone, and those that share the host's own, mixed.
my $small = { memory => '16MiB' };
my @specs = (
	(map { spec("alone$_", { %$small, placement => { mode => 'auto', emulator => 'isolate' } }) } 1 .. DEDICATED),
	(map { spec("shared$_", { %$small, cputune => { vcpupin => { 0 => "$kept" }, emulatorpin => "$kept" } }) } 1 .. SHARED),
);
@specs = @specs[ map { ($_ * 77) % @specs } 0 .. $#specs ];
is scalar(@specs), 200, 'two hundred';
my @paths = map { make_spec($_) } @specs;
my @runs = map { spawn_ancla('start', $_, { timeout => 300 }) } @paths;
my @results = map { $_->wait_exit(300) } @runs;

my (@alone, @shared, @odd);
for my $i (0 .. $#specs) {
	my ($name, $result) = ($specs[$i]{name}, $results[$i]);
	if (defined $result->{exit} && $result->{exit} == 0) {
		push @{ $name =~ /^alone/ ? \@alone : \@shared }, $name;
	} elsif ($name =~ /^shared/ || !defined $result->{exit} || $result->{exit} != 4
		|| $result->{err} !~ /no host node has room/)
	{
		push @odd, "$name: exit " . ($result->{exit} // 'none') . " $result->{err}";
	}
}
is_deeply \@odd, [], 'who fails is told that there is no room';
is scalar(@shared), SHARED, 'all that share start';
my $room = @free < DEDICATED ? @free : DEDICATED;
is scalar(@alone), $room, "and as many as there are CPUs to be alone on ($room)";

my (%held, @overlap);
for my $claim (@{ json(run_ancla('host', '--json'))->{claims} }) {
	for my $cpu (numbers($claim->{cpus})) {
		push @overlap, "CPU $cpu: $claim->{vm} and $held{$cpu}{vm}"
			if $held{$cpu} && $held{$cpu}{vm} ne $claim->{vm} && ($claim->{dedicated} || $held{$cpu}{dedicated});
		$held{$cpu} = $claim if !$held{$cpu} || $claim->{dedicated};
	}
}
is_deeply \@overlap, [], 'no CPU that one has alone is anybody else\'s, says the ledger';
my %kernel;
for my $name (@alone) {
	my ($vcpu) = grep { $_->{role} eq 'vcpu' } @{ json(run_ancla('status', '--json', $name))->{threads} };
	my $cpus = thread_affinity(qemu_of($name), $vcpu->{tid});
	push @{ $kernel{$cpus} }, $name;
	ok $cpus =~ /^\d+$/ && $cpus != $kept, "$name: one CPU, not the host's";
}
is_deeply [ grep { @{ $kernel{$_} } > 1 } sort keys %kernel ], [], 'nor anybody else\'s, says the kernel';

# A claim ends with its QEMU, whatever ended that: then the next one fits.
if (@alone) {
	my $first = shift @alone;
	my @pids = (json(runtime_dir() . "/$first/state.json")->{launcher}, qemu_of($first));
	kill KILL => @pids;
	wait_gone($_) for @pids;
	start_vm(spec('next', { %$small, placement => { mode => 'auto' } })) and push @alone, 'next';
}
my @stops = map { spawn_ancla('stop', '--force', $_) } @alone, @shared;
is scalar(grep { ($_->wait_exit->{exit} // -1) == 0 } @stops), scalar(@stops), 'all stop';
clean 'nothing is left';
done_testing;
