# specs/demo.json boots a real Linux with nothing but what the machine gives, and what that Linux sees is
# what `plan` said it would see.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

use constant MIB => 1 << 20;

chdir $ROOT or die;
my $free = hugepages_free();

# "0-1,3" as (0, 1, 3).
sub numbers { return map { /^(\d+)-(\d+)$/ ? ($1 .. $2) : $_ } split /,/, $_[0] }

# What is inside against the plan: topology, guest nodes, their vCPUs, memory, distances.
sub inside_agrees {
	my ($report, $plan) = @_;
	my ($sockets, $dies, $cores, $threads) = @{ $plan->{topology} }{qw(sockets dies cores threads)};
	my @vcpus = @{ $plan->{vcpus} };
	my @nodes = @{ $plan->{memory} };
	is scalar(numbers($report->{'cpus.online'})), @vcpus, @vcpus . ' CPUs';
	is scalar(numbers($report->{'nodes.online'})), @nodes, @nodes . ' nodes';
	is $report->{accel}, $plan->{accel}, "under $plan->{accel}";
	for my $node (map { $_->{'guest-node'} } @nodes) {
		my @cpus = map { $_->{id} } grep { $_->{'guest-node'} == $node } @vcpus;
		is_deeply [ numbers($report->{"node$node.cpus"}) ], \@cpus, "CPUs @cpus are on node $node";
		my ($has, $should) = ($report->{"node$node.memory-kB"}, $nodes[$node]{size} / 1024);
		# Linux takes a part for itself: page descriptors, kernel, initrd, what the firmware keeps.
		ok $has <= $should && $has > $should * 0.75 - 32 * 1024, "node $node has $has kB of $should";
		is $report->{"node$node.distances"}, join(' ', @{ $plan->{distances}[$node] }), "distances of node $node";
	}
	my (%packages, %cores, %dies);
	for my $cpu (0 .. $#vcpus) {
		my %is = map { $_ => $report->{"cpu$cpu.$_"} } qw(package die core siblings);
		push @{ $packages{ $is{package} } }, $cpu;
		push @{ $cores{"$is{package} $is{die} $is{core}"} }, $cpu;
		$dies{"$is{package} $is{die}"}++;
		is scalar(numbers($is{siblings})), $threads, "CPU $cpu has $threads threads in its core";
	}
	is scalar(keys %packages), $sockets, "$sockets sockets";
	is scalar(keys %dies), $sockets * $dies, "$dies dies in each";
	is scalar(keys %cores), $sockets * $dies * $cores, "$cores cores in each";
	return;
}

subtest 'the demo' => sub {
	my $planned = run_ancla('plan', '--json', 'specs/demo.json');
	is $planned->{exit}, 0, 'it can be planned' or return diag $planned->{err};
	my $plan = json($planned);
	my $result = run_ancla('run', 'specs/demo.json', { timeout => 120 });
	is $result->{exit}, 0, 'it runs, and ends well' or diag $result->{err};
	like $result->{err}, qr/^ancla: demo runs \(QEMU \d+\): \d+ threads, \d+ checks, all as planned$/m, 'verified';
	my $report = guest_report($result->{out});
	ok $report, 'Linux reports' or return diag $result->{out};
	inside_agrees($report, $plan);
	is @{ $plan->{memory} }, 2, 'two guest nodes';
	like $result->{out}, qr/^ *node +CPUs +memory +distances\r?$/m, 'and says it for people';
	clean 'nothing is left', $free;
};

subtest 'with huge pages' => sub {
	my $total = hugepages_total();
	cmp_ok reserve_hugepages($total + 256), '>=', $total + 256, '256 huge pages are reserved' or return;
	my $all = hugepages_free();
	my $spec = json(AnclaTest::slurp('specs/demo.json') =~ s{^\s*//.*$}{}gmr);
	$spec->{boot} = demo_boot('ancla.do=idle');
	my $plan = json(run_ancla('plan', '--json', make_spec($spec)));
	is_deeply [ map { $_->{'page-size'} } @{ $plan->{memory} } ], [ 2 * MIB, 2 * MIB ], 'planned';
	my $vm = run_linux($spec) or return;
	my $pid = qemu_of('demo');
	is $all - hugepages_free(), 256, 'all 256 are in use';
	for my $node (0, 1) {
		is_deeply [ guest_file_bytes($pid, $node) ], [ 256 * MIB, 2 * MIB ], "guest node $node is in them";
		my ($mapping) = grep { $_->{flags}{ht} } mappings($pid, qr/\Qancla-demo-node$node\E|^\Q@{[readlink "\/proc\/$pid\/fd\/1$node"]}\E$/);
		is $mapping->{size}, 256 * MIB, 'QEMU has it mapped so';
		is $mapping->{page_size}, 2 * MIB, 'and the guest runs on pages of 2 MiB';
	}
	inside_agrees(guest_report($vm->out), $plan);
	ended run_ancla('verify', 'demo'), 0, qr/^ok      guest node 1: pages: 128 pages of 2MiB/m, 'verify agrees';
	$vm->signal('TERM');
	is $vm->wait_exit->{exit}, 0, 'it powers down';
	is hugepages_free(), $all, 'and all pages are free again';
};

subtest 'a guest of another shape' => sub {
	my $spec = linux('shape', 'ancla.do=poweroff', {
		vcpus => 8, memory => '384MiB',
		cpu => { topology => { sockets => 2, dies => 1, cores => 2, threads => 2 } },
		numa => {
			nodes => [ { vcpus => '0-3', memory => '128MiB' }, { vcpus => '4-5', memory => '96MiB' }, { vcpus => '6-7', memory => '160MiB' } ],
			distances => [ [ 10, 21, 31 ], [ 22, 10, 41 ], [ 33, 44, 10 ] ],
		},
	});
	my $plan = json(run_ancla('plan', '--json', make_spec($spec)));
	my $result = run_ancla('run', make_spec($spec), { timeout => 180 });
	is $result->{exit}, 0, 'it runs' or return diag $result->{err};
	my $report = guest_report($result->{out});
	inside_agrees($report, $plan);
	is $report->{'node2.distances'}, '33 44 10', 'distances as asked for, in both directions';
	clean;
};

clean 'nothing is left', $free;
done_testing;
