# This host is what its line in tests/rig/shapes says, by the kernel's own files: else nothing that the
# other tests find here would be worth much.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use Lists qw(numbers);
use Shapes qw(shapes distance);
use Test::More;

my ($shape) = grep { $_->{name} eq ($ENV{RIG_SHAPE} // '') } shapes();
BAIL_OUT('RIG_SHAPE names no shape: start this with tests/rig/rig') if !$shape;
my $cpu_files = '/sys/devices/system/cpu';
my $node_files = '/sys/devices/system/node';

sub line { my ($path) = @_; my $text = AnclaTest::peek($path) // ''; chomp $text; return $text }
sub sorted { return join ' ', sort { $a <=> $b } @_ }

# Linux's number of each of QEMU's CPUs, which come in the order of sockets, cores, threads.
my ($sockets, $cores, $threads) = @$shape{qw(sockets cores threads)};
my $by_turns = ($shape->{numbers} // '') eq 'interleaved';
sub linux_number {
	my ($cpu) = @_;
	return $cpu if !$by_turns;
	my ($socket, $core, $thread) = (int($cpu / $threads / $cores), $cpu / $threads % $cores, $cpu % $threads);
	return ($thread * $cores + $core) * $sockets + $socket;
}
my %offline = map { $_ => 1 } numbers($shape->{offline});
sub online { return grep { !$offline{$_} } map { linux_number($_) } @_ }

is sorted(numbers(line("$cpu_files/online"))), sorted(online(0 .. $sockets * $cores * $threads - 1)), 'CPUs that are online';

my @nodes = @{ $shape->{nodes} };
is line("$node_files/online"), '0-' . $#nodes, @nodes . ' nodes';
is_deeply [ numbers(line("$node_files/has_cpu")) ], [ grep { @{ $nodes[$_]{cpus} } } 0 .. $#nodes ], 'nodes that have CPUs';
for my $id (0 .. $#nodes) {
	is sorted(numbers(line("$node_files/node$id/cpulist"))), sorted(online(@{ $nodes[$id]{cpus} })), "node $id: its CPUs";
	my ($kB) = line("$node_files/node$id/meminfo") =~ /MemTotal:\s+(\d+)/;
	my $MIB = $kB / 1024;
	ok $MIB <= $nodes[$id]{memory} && $MIB > $nodes[$id]{memory} * 0.85, "node $id: $MIB of $nodes[$id]{memory} MiB";
	is line("$node_files/node$id/distance"), join(' ', map { distance($shape, $id, $_) } 0 .. $#nodes), "node $id: distances";
	is hugepages_total($id), $nodes[$id]{pages}, "node $id: huge pages";
	is hugepages_free($id), $nodes[$id]{pages}, "node $id: all free";
}
for (split /,/, $shape->{'1g'} // '') {
	my ($id, $pages) = split /:/;
	is hugepages_free($id, 1 << 20), $pages, "node $id: pages of 1 GiB";
}

# The emulated AMD shows a core for each thread.
my $shown = $shape->{cpu} eq 'intel' ? $threads : 1;
my %siblings = map { $_ => line("$cpu_files/cpu$_/topology/thread_siblings_list") } online(0 .. $sockets * $cores * $threads - 1);
my @wrong = grep {
	my $cpu = $_;
	sorted(numbers($siblings{ linux_number($cpu) } // '')) ne sorted(online(map { $cpu - $cpu % $shown + $_ } 0 .. $shown - 1))
} grep { !$offline{ linux_number($_) } } 0 .. $sockets * $cores * $threads - 1;
is_deeply \@wrong, [], "$shown threads in a core" or diag explain \%siblings;
if ($by_turns) {
	is_deeply [ grep { /^(\d+)[-,](\d+)$/ && $2 == $1 + 1 } values %siblings ], [], 'no siblings are neighbours in number';
	like line("$node_files/node0/cpulist"), qr/,/, 'the CPUs of a node are not in a row';
}

# --- the kernel ---

my ($isolated) = ($shape->{cmdline} // '') =~ /isolcpus=(?:[a-z_]+,)*(\d\S*)/;
is sorted(numbers(line("$cpu_files/isolated"))), sorted(numbers($isolated)), 'isolated CPUs';
is line('/sys/kernel/realtime'), $shape->{kernel} eq 'rt' ? 1 : '', 'PREEMPT_RT or not';
my ($thp) = ($shape->{cmdline} // '') =~ /transparent_hugepage=(\w+)/;
like line('/sys/kernel/mm/transparent_hugepage/enabled'), qr/\[$thp\]/, "transparent huge pages: $thp" if $thp;
is -e '/dev/kvm' ? 1 : 0, $shape->{cpu} eq 'amd' ? 1 : 0, 'KVM or not';
is_deeply [ sort grep { /^(?:cpu|cpuset|hugetlb|memory)$/ } split ' ', line('/sys/fs/cgroup/cgroup.subtree_control') ],
	[qw(cpu cpuset hugetlb memory)], 'cgroup v2 with the controllers that are of use';
my ($khz) = AnclaTest::slurp('/proc/cmdline') =~ /tsc_early_khz=(\d+)/;
my $is = run_command("$BUILD/rig/witness", 'tsc')->{out} + 0;
ok abs($is - $khz) < $khz / 100, "its clock runs as the machine's: $is of $khz kHz";
like AnclaTest::slurp('/proc/mounts'), qr/^root \/ overlay rw/m, 'the root is under an overlay';
done_testing;
