# kill -9 of the launcher or of QEMU at two hundred random moments of a start: as many huge pages are
# reserved and free afterwards as before.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;
use Time::HiRes qw(time);

use constant TIMES => 200;

my $total = hugepages_total();
cmp_ok reserve_hugepages($total + 8), '>=', $total + 8, '8 huge pages of 2 MiB can be reserved' or BAIL_OUT('this test needs root');
$total = hugepages_total();
my $free = hugepages_free();
my @specs = map { make_spec(spec('victim', { memory => 2 * $_->[0] . 'MiB',
	'memory-backing' => { hugepages => { size => '2MiB', reserve => $_->[1] }, 'host-nodes' => '0' } })) }
	[ 8, 'existing' ], [ $free + 40, 'grow' ];

# How long a start takes here, so that the moments are spread over all of it.
my $begin = time;
start_vm(spec('victim')) and stop_vm('victim');
my $span = time - $begin;

srand($ENV{ANCLA_TEST_SEED} // time);
my $seed = srand(int rand 1 << 30);
my (%died, @odd);
for my $n (1 .. TIMES) {
	my $launch = spawn_ancla('start', $specs[$n % 2]);
	# The command and its supervisor, or QEMU once there is one, or all; whoever is there.
	my $whom = (qw(launcher qemu all))[rand 3];
	eventually(120, sub { $launch->step(0); defined $launch->{status} || qemu_of('victim') }) if $whom eq 'qemu';
	select undef, undef, undef, rand $span;
	my @all = our_processes();
	my @pids = map { /^(\d+)/ } grep { $whom eq 'all' || (/-name guest=/ xor $whom eq 'launcher') } @all;
	$died{$whom}++ if @pids;
	kill KILL => @pids;
	$launch->wait_exit;
	# One that got to run, and whose QEMU was spared, is ended as users end it.
	run_ancla('stop', '--force', 'victim');
	wait_all_gone();
	run_ancla('list');
	my ($total_now, $free_now) = (hugepages_total(), hugepages_free());
	next if $total_now == $total && $free_now == $free && !leftovers();
	push @odd, "$n ($whom of @all): $total_now reserved of $total, $free_now free of $free, " . join ', ', leftovers();
	last if @odd > 5;
}
is_deeply \@odd, [], TIMES . ' times: nothing is left, nothing is missing' or diag "ANCLA_TEST_SEED=$seed";
cmp_ok $died{$_} // 0, '>', TIMES / 10, "$died{$_} times $_ was there to be killed" for qw(launcher qemu all);
clean 'nothing is left', $free;
done_testing;
