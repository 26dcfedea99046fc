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

subtest 'the demo' => sub {
	my $planned = run_ancla('plan', '--json', 'specs/demo.json');
	is $planned->{exit}, 0, 'it can be planned' or return diag $planned->{err};
	my $plan = json($planned);
	my $result = run_through('demo', 'specs/demo.json');
	is $result->{exit}, 0, 'it runs, and ends well' or diag $result->{err};
	like $result->{err}, qr/^ancla: demo runs \(QEMU \d+\): \d+ threads, \d+ checks, all as planned$/m, 'verified';
	my $report = guest_report($result->{out});
	ok $report, 'Linux reports' or return diag $result->{out};
	linux_agrees($report, $plan);
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
	linux_agrees(guest_report($vm->out), $plan);
	ended run_ancla('verify', 'demo'), 0, qr/^ok      guest node 1: pages: 128 pages of 2MiB/m, 'verify agrees';
	$vm->signal('TERM');
	is $vm->wait_exit->{exit}, 0, 'it powers down';
	is hugepages_free(), $all, 'and all pages are free again';
};

subtest 'a guest of another shape' => sub {
	my $spec = linux('shape', 'ancla.do=idle', {
		vcpus => 8, memory => '384MiB',
		cpu => { topology => { sockets => 2, dies => 1, cores => 2, threads => 2 } },
		numa => {
			nodes => [ { vcpus => '0-3', memory => '128MiB' }, { vcpus => '4-5', memory => '96MiB' }, { vcpus => '6-7', memory => '160MiB' } ],
			distances => [ [ 10, 21, 31 ], [ 22, 10, 41 ], [ 33, 44, 10 ] ],
		},
	});
	my $plan = json(run_ancla('plan', '--json', make_spec($spec)));
	my $vm = run_linux($spec) or return;
	my $report = guest_report($vm->out);
	linux_agrees($report, $plan);
	is $report->{'node2.distances'}, '33 44 10', 'distances as asked for, in both directions';
	$vm->signal('TERM');
	is $vm->wait_exit->{exit}, 0, 'it powers down';
};

clean 'nothing is left', $free;
done_testing;
