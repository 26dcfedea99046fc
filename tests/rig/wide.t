# A VM that no node holds, of which the spec says nothing but its size, gets guest nodes, each on a node
# of the host: its vCPUs and all its pages are there by the word of a witness, and the guest sees the
# distances of the host.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

my $host = host();
my %node_of = map { my $node = $_; map { $_ => $node->{id} } @{ $node->{cpus} } } @{ $host->{nodes} };
my %distance = map { my $node = $_; map { ("$node->{id} $host->{nodes}[$_]{id}" => $node->{distances}[$_]) } 0 .. $#{ $host->{nodes} } }
	@{ $host->{nodes} };
my ($largest) = sort { $b <=> $a } map { scalar @{ $_->{cpus} } } @{ $host->{nodes} };
my $vcpus = $largest + 2;
my $free = hugepages_free();
my $spec = {
	name => 'wide', vcpus => $vcpus, memory => 8 * $vcpus . 'MiB', 'memory-backing' => { hugepages => '2MiB' },
	placement => { mode => 'auto', reserve => 0 }, qemu => { accel => accel() }, disks => [ { file => guest_disk('raw', 'disk.img') } ],
};
my $planned = run_ancla('plan', '--json', make_spec($spec));
ended $planned, 0, qr//, "there is a place for $vcpus vCPUs on nodes of $largest CPUs at most" or BAIL_OUT('no plan');
my $plan = json($planned);
cmp_ok scalar @{ $plan->{memory} }, '>=', 2, 'the plan has guest nodes';

if (start_vm($spec)) {
	my $pid = qemu_of('wide');
	my $threads = where_threads_are($pid);
	my %cpu = map { $_ => ($threads->{"vcpu $_"} // '') =~ /^(\d+) other:0$/ ? $1 : undef } 0 .. $vcpus - 1;
	my %uses = map { ($_ // 'none') => 1 } values %cpu;
	is keys %uses, $vcpus, 'each vCPU has a CPU of its own' or diag explain $threads;
	ok !(grep { $uses{$_} } numbers((split ' ', $threads->{emulator})[0])), 'the emulator is on none of them';

	my @on; # host node of each guest node, by where its vCPUs are
	for my $guest_node (0 .. $#{ $plan->{memory} }) {
		my %nodes = map { $node_of{ $cpu{ $_->{id} } // 'none' } // 'none' => 1 } grep { $_->{'guest-node'} == $guest_node } @{ $plan->{vcpus} };
		is keys %nodes, 1, "the vCPUs of guest node $guest_node are on one host node" or diag explain $threads;
		push @on, keys %nodes;
	}
	is scalar(my @distinct = keys %{ { map { $_ => 1 } @on } }), scalar @on, 'each guest node is on a host node of its own';
	pages_are($pid, 2 << 20, [ map { { $on[$_] => $plan->{memory}[$_]{size} >> 21 } } 0 .. $#on ], 'and so is every page');

	my $numa = guest_numa($pid);
	is_deeply $numa->{slit}, [ map { my $from = $_; [ map { $distance{"$from $_"} } @on ] } @on ], 'SLIT: the distances of the host';
	is_deeply $numa->{cpus}, { map { my $node = $_; $node => scalar grep { $_->{'guest-node'} == $node } @{ $plan->{vcpus} } } 0 .. $#on },
		'SRAT: CPUs of each guest node';
	my %memory = map { $_ => $plan->{memory}[$_]{size} } 0 .. $#on;
	$memory{0} -= 384 << 10; # where the PC has its BIOS
	is_deeply $numa->{memory}, \%memory, 'SRAT: memory of each guest node';
	ran_everywhere($pid, $vcpus, 'the guest runs on all its vCPUs');
	ended run_ancla('verify', 'wide'), 0, qr//, 'ancla verify agrees';
	stop_vm('wide');
}
clean 'nothing is left', $free;
done_testing;
