# QEMU's own memory is near its emulator threads, wherever its vCPUs run and the guest's memory is: its
# heap, stacks and all else without a name, and the tables of its pages.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Cgroups;
use List::Util qw(sum0);
use Rig;
use Test::More;

use constant { GUEST => 256 << 20, NOT_COUNTED => 8 * 4096 }; # tables of the highest levels

my $group = '/sys/fs/cgroup/own';
mkdir $group or die "$group: $!";

# Bytes of page tables that a process has.
sub tables {
	my ($pid) = @_;
	my ($kB) = (AnclaTest::peek("/proc/$pid/status") // '') =~ /^VmPTE:\s+(\d+) kB/m;
	return ($kB // 0) * 1024;
}

# Those of the whole group, by node.
sub tables_by_node {
	my ($line) = AnclaTest::slurp("$group/memory.numa_stat") =~ /^pagetables (.*)/m;
	return { $line =~ /N(\d+)=(\d+)/g };
}

my @nodes = grep { @{ $_->{cpus} } > 1 } @{ host()->{nodes} };
for ([ @nodes[0, -1] ], [ @nodes[-1, 0] ]) {
	my ($near, $far) = @$_;
	my $what = "emulator on node $near->{id}, guest on node $far->{id}";
	my $path = make_spec({
		name => 'own', vcpus => 1, memory => (GUEST >> 20) . 'MiB', qemu => { accel => accel() }, boot => idle_firmware(),
		'memory-backing' => { hugepages => 'thp', prealloc => TRUE, 'host-nodes' => "$far->{id}" },
		cputune => { vcpupin => { 0 => "$far->{cpus}[0]" }, emulatorpin => "$near->{cpus}[0]" },
	});
	ended run_command(in_cgroup($group, $ENV{ANCLA} // "$BUILD/ancla", 'start', $path)),
		0, qr/own runs/, "$what: starts" or next;
	my $pid = qemu_of('own');
	pages_are($pid, 4096, [ { $far->{id} => GUEST / 4096 } ], "$what: guest memory", GUEST);

	my $on = pages_by_node(grep { $_->{size} != GUEST } mappings($pid, qr{^(?!/)}));
	is_deeply [ keys %$on ], [ $near->{id} ], "$what: heap and stacks" or diag explain $on;

	# One for 2 MiB, and what is above. The kernel adds its counts up every other second.
	my $own = tables($pid);
	cmp_ok $own, '>', GUEST >> 9, "$what: QEMU has page tables for the guest's memory";
	my @others = grep { $_ != $pid } split ' ', cgroup_file("$group/cgroup.procs");
	my ($is, $others);
	ok soon(20, sub {
		$is = tables_by_node();
		$others = sum0 map { tables($_) } @others;
		my $here = $is->{ $near->{id} };
		return $here >= $own - NOT_COUNTED && sum0(values %$is) - $here <= $others;
	}), "$what: page tables" or diag "QEMU has $own, others $others, by node ", explain $is;
	cmp_ok $others, '<', $own / 2, "$what: they are QEMU's";
	stop_vm('own');
	clean "$what: nothing is left";
}
rmdir $group or fail "$group: $!";
done_testing;
