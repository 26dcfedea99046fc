# Each scenario of specs/, scaled to this host and launched: every thread and every page is where the
# spec says, by the word of a witness; the guest sees the distances of the host, and runs on all its
# vCPUs; ancla agrees; and nothing is left. RIG_SCENARIO=NAME runs one.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use File::Basename qw(basename);
use Rig;
use Test::More;

my @names = $ENV{RIG_SCENARIO} // grep { !/schema/ } map { basename($_, '.json') } glob "$ROOT/specs/*.json";
my $host = host();
my %node_of = map { my $node = $_; map { $_ => $node } @{ $node->{cpus} } } @{ $host->{nodes} };

# Where nothing is pinned, nobody knows but the plan; what must hold all the same.
sub auto_threads_are_sane {
	my ($pid, $spec) = @_;
	my $is = where_threads_are($pid);
	my (%uses, %wrong);
	my @guest_nodes = $spec->{numa} ? @{ $spec->{numa}{nodes} } : ();
	for my $vcpu (0 .. $spec->{vcpus} - 1) {
		my ($set) = ($is->{"vcpu $vcpu"} // '') =~ /^(\S+) other:0$/;
		$uses{$_}++ for numbers($set);
		my ($guest_node) = grep { my $node = $_; grep { $_ == $vcpu } numbers($node->{vcpus}) } @guest_nodes;
		my $wanted = $guest_node && $guest_node->{'host-nodes'} // next;
		$wrong{$vcpu} = $set if grep { $node_of{$_}{id} != $wanted } numbers($set);
	}
	is_deeply \%wrong, {}, 'vCPUs are on the host node of their guest node';
	return if ($spec->{placement}{'cpu-policy'} // 'dedicated') eq 'shared';
	is keys %uses, $spec->{vcpus}, 'a CPU each';
	my ($emulator) = $is->{emulator} =~ /^(\S+) other:0$/;
	ok defined $emulator && !(grep { $uses{$_} } numbers($emulator)), 'the emulator apart';
	return if ($spec->{placement}{smt} // '') ne 'isolate';
	my @siblings = grep { !$uses{$_} } map { @{ $host->{siblings}{$_} } } keys %uses;
	ok !(grep { my $cpu = $_; grep { $_ == $cpu } @siblings } numbers($emulator)), 'siblings are idle';
	return;
}

sub page_size { return { '2MiB' => 2 << 20, '1GiB' => 1 << 30 }->{ $_[0] // '' } // 4096 }
sub bytes { my ($number, $unit) = $_[0] =~ /(\d+)(\S+)/; return $number << { MiB => 20, GiB => 30 }->{$unit} }

# Where the spec leaves open where memory is, it is near the vCPUs, all of it that is there.
sub auto_pages_are_near {
	my ($pid, $spec, $lazy) = @_;
	my $threads = where_threads_are($pid);
	my @guest_nodes = $spec->{numa} ? @{ $spec->{numa}{nodes} } : { vcpus => '0-' . ($spec->{vcpus} - 1) };
	my @regions; # of memory that is not filled, none has a page before the guest's first word
	soon(60, sub { @regions = where_pages_are($pid, $lazy ? bytes($spec->{memory}) : undef); grep { %{ $_->{nodes} } } @regions });
	is @regions, @guest_nodes, 'memory of each guest node is found' or diag explain \@regions;
	for my $i (0 .. $#regions) {
		my %near = map { $node_of{$_}{id} => 1 } map { numbers((split ' ', $threads->{"vcpu $_"})[0]) } numbers($guest_nodes[$i]{vcpus});
		my @is = keys %{ $regions[$i]{nodes} };
		ok @is && !(grep { !$near{$_} } @is), "guest node $i: pages on @is, near its vCPUs" or diag explain $regions[$i], $threads;
		is $regions[$i]{absent}, 0, "guest node $i: all pages are there" if !$lazy;
	}
	return;
}

# Pages by node, for each guest node; undef where the spec leaves it open.
sub expected_pages {
	my ($spec, $page) = @_;
	my @regions = $spec->{numa} ? @{ $spec->{numa}{nodes} }
		: { memory => $spec->{memory}, %{ $spec->{'memory-backing'} // {} } };
	return if grep { !defined $_->{'host-nodes'} } @regions;
	return [ map { { $_->{'host-nodes'} => bytes($_->{memory}) / $page } } @regions ];
}

sub guest_sees {
	my ($pid, $spec) = @_;
	my @guest_nodes = @{ $spec->{numa}{nodes} };
	my $numa = guest_numa($pid);
	my @ids = map { $_->{'host-nodes'} } @guest_nodes;
	my @memory = map { bytes($_->{memory}) } @guest_nodes;
	$memory[0] -= 384 << 10; # where the PC has its BIOS
	is_deeply [ map { $numa->{memory}{$_} } 0 .. $#ids ], \@memory, 'SRAT: memory of each guest node';
	is_deeply [ map { $numa->{cpus}{$_} } 0 .. $#ids ], [ map { scalar(my @list = numbers($_->{vcpus})) } @guest_nodes ],
		'SRAT: CPUs of each guest node';
	return if ($spec->{numa}{distances} // '') ne 'host' || grep { !defined } @ids;
	my %distances = map { my $node = $_; ($node->{id} => { map { $host->{nodes}[$_]{id} => $node->{distances}[$_] }
		0 .. $#{ $host->{nodes} } }) } @{ $host->{nodes} };
	is_deeply $numa->{slit}, [ map { my $from = $_; [ map { $distances{$from}{$_} } @ids ] } @ids ],
		'SLIT: the distances of the host';
	return;
}

for my $name (@names) {
	my $spec = scaled($name, $host);
	next if !ok $spec, "$name: this host has room for it";
	subtest $name => sub {
		my $free = hugepages_free();
		my %backing = %{ $spec->{'memory-backing'} // {} };
		note compact($spec);
		starts($spec) or return;
		my $pid = qemu_of($name) // return fail 'there is a QEMU';
		if ($spec->{cputune}{vcpupin}) {
			threads_are($pid, $spec, 'every thread on its CPUs, scheduled as asked');
		} else {
			auto_threads_are_sane($pid, $spec);
		}
		my $page = page_size($backing{hugepages});
		my $pages = expected_pages($spec, $page);
		my $lazy = !$spec->{numa} && !%backing;
		if ($pages) {
			pages_are($pid, $page, $pages, 'every page on its node');
		} elsif (!$spec->{cputune}) {
			auto_pages_are_near($pid, $spec, $lazy);
		}
		if ($backing{locked}) {
			like AnclaTest::slurp("/proc/$pid/status"), qr/^VmLck:\s+[1-9]\d{4,} kB/m, 'QEMU is locked in memory';
		}
		ran_everywhere($pid, $spec->{vcpus}, 'the guest runs on all its vCPUs',
			$lazy ? 'anonymous:' . bytes($spec->{memory}) : 'node0') if $spec->{disks};
		guest_sees($pid, $spec) if $spec->{numa};
		threads_are($pid, $spec, 'and when it has run, threads are still there') if $spec->{cputune}{vcpupin};
		ended run_ancla('verify', $name), 0, qr//, 'ancla verify agrees';
		stop_vm($name);
		clean "$name: nothing is left", $free;
	};
}
done_testing;
