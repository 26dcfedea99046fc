# `ancla host` says of this machine what its kernel says; and what `auto` places on it is sane.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

my $host = host();
my $seen = json(run_ancla('host', '--json'));

is_deeply [ map { $_->{id} } @{ $seen->{nodes} } ], [ map { $_->{id} } @{ $host->{nodes} } ], 'the nodes';
for my $node (@{ $host->{nodes} }) {
	my ($is) = grep { $_->{id} == $node->{id} } @{ $seen->{nodes} };
	is $is->{cpus}, list(@{ $node->{cpus} }), "node $node->{id}: CPUs";
	is_deeply $is->{distances}, $node->{distances}, "node $node->{id}: distances";
	is $is->{hugepages}{2097152}{free}, $node->{free2m}, "node $node->{id}: free huge pages";
	is $is->{hugepages}{1073741824}{free} // 0, $node->{free1g}, "node $node->{id}: free pages of 1 GiB";
	cmp_ok $is->{memory}, '<=', $node->{kB} * 1024, "node $node->{id}: memory";
	cmp_ok $is->{memory}, '>', $node->{kB} * 1024 * 0.9, "node $node->{id}: nearly all of it";
}
my @all = map { @{ $_->{cpus} } } @{ $host->{nodes} };
is $seen->{allowed}, list(@all), 'all CPUs may be used';
is $seen->{isolated}, list(@{ $host->{isolated} }), 'isolated CPUs';
my %cores = map { list(@$_) => 1 } values %{ $host->{siblings} };
is_deeply [ sort map { $_->{cpus} } @{ $seen->{cores} } ], [ sort keys %cores ], 'cores';

# --- auto ---

my %node_of = map { my $node = $_; map { $_ => $node->{id} } @{ $node->{cpus} } } @{ $host->{nodes} };
my ($small) = sort { $a <=> $b } grep { $_ } map { scalar @{ $_->{cpus} } } @{ $host->{nodes} };
my %isolated = map { $_ => 1 } @{ $host->{isolated} };

# The plan of an auto spec, looked at for what must never be.
sub sane {
	my ($what, $more) = @_;
	my $spec = AnclaVm::merge({ name => 'auto', memory => '32MiB', qemu => { accel => accel() } }, $more);
	my $result = run_ancla('plan', '--json', make_spec($spec));
	# A VM that no node holds may be refused, with the reason of each node.
	return ended $result, 4, qr/node 0: .*\d+ needed/, "$what: refused, with numbers"
		if $spec->{vcpus} > $small && $result->{exit} == 4;
	ended $result, 0, qr//, "$what: there is a place" or return;
	my $plan = json($result);
	my @sets = map { [ numbers($_->{cpus}) ] } @{ $plan->{vcpus} };
	my @emulator = numbers($plan->{emulator}{cpus});
	my %uses;
	$uses{$_}++ for map { @$_ } @sets;
	ok !(grep { $_ > 1 } values %uses), "$what: no two vCPUs on one CPU" or diag explain $plan->{vcpus};
	ok !(grep { $uses{$_} } @emulator), "$what: the emulator is on no vCPU's CPU" or diag explain \@emulator;
	ok !(grep { @$_ > 1 && grep { $isolated{$_} } @$_ } @sets, \@emulator), "$what: no set of isolated CPUs";
	ok !(grep { !exists $node_of{$_} } keys %uses, @emulator), "$what: only CPUs that are there";
	for my $region (@{ $plan->{memory} }) {
		my @vcpus = grep { ($_->{'guest-node'} // -1) == $region->{'guest-node'} || $region->{'guest-node'} < 0 }
			@{ $plan->{vcpus} };
		my %nodes = map { $node_of{$_} => 1 } map { numbers($_->{cpus}) } @vcpus;
		is $region->{'host-nodes'}, list(keys %nodes),
			"$what: the memory of guest node $region->{'guest-node'} is where its vCPUs are" if %nodes;
	}
	return $plan;
}

my $plan = sane('one vCPU', { vcpus => 1 });
$plan = sane('two vCPUs', { vcpus => 2 }) if @all > 3;
if ($plan && $small > 2) {
	my %nodes = map { $node_of{$_} => 1 } map { numbers($_->{cpus}) } @{ $plan->{vcpus} };
	is keys %nodes, 1, 'two vCPUs are on one node';
}
sane('more than a node has', { vcpus => $small + 1, memory => '64MiB' }) if @all > $small + 2;
sane('huge pages', { vcpus => 1, 'memory-backing' => { hugepages => '2MiB' } });
done_testing;
