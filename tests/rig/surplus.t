# Where somebody uses more huge pages than were reserved (nr_overcommit_hugepages), a VM that reserves
# what it lacks adds exactly that on its nodes and gives exactly that back, whatever surplus there is.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

my ($here, $there) = map { $_->{id} } @{ host()->{nodes} };

# By node: pages that are there to stay, surplus ones, free ones.
sub pools {
	return [ map {
		my $surplus = AnclaTest::slurp(AnclaTest::hugepages_file('surplus_hugepages', $_)) + 0;
		[ hugepages_total($_) - $surplus, $surplus, hugepages_free($_) ];
	} $here, $there ];
}

my $before = pools();
my ($free, $total) = ($before->[0][2], $before->[1][0]);
AnclaTest::set_hugepages(AnclaTest::hugepages_file('nr_overcommit_hugepages'), 3) or die "nr_overcommit_hugepages: $!";
my $give_back = take_hugepages($there, $before->[1][2] + 3);
my $used = pools();
is_deeply $used, [ $before->[0], [ $total, 3, 0 ] ], "node $there has a surplus" or diag explain $used;

start_vm({
	name => 'beside', vcpus => 1, memory => 2 * ($free + 4 + 2) . 'MiB', 'memory-backing' => { hugepages => { size => '2MiB', reserve => 'grow' } },
	placement => { mode => 'static' }, qemu => { accel => accel() },
	numa => { nodes => [
		{ vcpus => '0', memory => 2 * ($free + 4) . 'MiB', 'host-nodes' => "$here" },
		{ memory => '4MiB', 'host-nodes' => "$there" },
	] },
});
pages_are(qemu_of('beside'), 2 << 20, [ { $here => $free + 4 }, { $there => 2 } ], 'all are there');
is pools()->[0][0], $before->[0][0] + 4, 'four were added';
stop_vm('beside');
is_deeply pools(), $used, 'and given back, none of anybody else' or diag explain pools();
$give_back->();
is_deeply pools(), $before, 'as before';
clean 'nothing is left';
AnclaTest::set_hugepages(AnclaTest::hugepages_file('nr_overcommit_hugepages'), 0);
done_testing;
