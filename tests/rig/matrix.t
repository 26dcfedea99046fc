# Guest nodes of one VM, each with a policy and a kind of page of its own: every policy with every kind of
# page that this host has. Every page is where that says, by the word of a witness, and the policy of
# QEMU's mapping is that. QEMU's own memory is near its emulator threads.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use List::Util qw(sum0);
use Rig;
use Test::More;

my $host = host();
my @ids = map { $_->{id} } @{ $host->{nodes} };
my ($first, $last) = @ids[0, -1];
my $all = list(@ids);
my $ends = list($first, $last);
my ($near) = reverse grep { @{ $_->{cpus} } } @{ $host->{nodes} };
my $thp = (AnclaTest::peek('/sys/kernel/mm/transparent_hugepage/enabled') // '') =~ /\[(always|madvise)\]/;
my %page_size = (none => 4096, thp => 4096, '2MiB' => 2 << 20, '1GiB' => 1 << 30);
my $giant = @ids == grep { $_->{free1g} } @{ $host->{nodes} }; # one on each node
my @kinds = ('none', '2MiB', $thp ? 'thp' : (), $giant ? '1GiB' : ());

# policy => [nodes, how numa_maps shows it]
my %policies = (
	strict => [ [$last], qr/^bind:$last$/ ],
	preferred => [ [$first], qr/^prefer(?: \(many\))?:$first$/ ],
	interleave => [ \@ids, qr/^interleave:\Q$all\E$/ ],
	restrictive => [ [$last], qr/./ ], # it has none of its own
);

# A guest node of so many MiB.
sub node {
	my ($policy, $kind, $MIB, @on) = @_;
	@on = @{ $policies{$policy}[0] } if !@on;
	my $pages = ($MIB << 20) / $page_size{$kind} / @on;
	return {
		spec => { memory => "${MIB}MiB", hugepages => $kind, 'host-nodes' => list(@on), policy => $policy },
		is => { page => $page_size{$kind}, absent => 0, nodes => { map { $_ => $pages } @on } },
		policy => $policies{$policy}[1], anonymous => $kind eq 'thp' ? $MIB << 20 : 0,
	};
}

# One over two nodes, which have all its pages, each as many as it likes. (Preferred is both: Linux 5.15;
# QEMU's mapping says so from QEMU 8.0 on.)
sub spread {
	my ($policy, $kind) = @_;
	my $node = node($policy, $kind, 4, $first, $last);
	$node->{is}{nodes} = { $ends => (4 << 20) / $page_size{$kind} };
	$node->{policy} = $policy eq 'strict' ? qr/^bind:\Q$ends\E$/ : qr/^prefer(?::$first| \(many\):\Q$ends\E)$/;
	return $node;
}

# The pages by node, with those of two nodes taken together.
sub together {
	my ($pages) = @_;
	my %pages = %$pages;
	$pages{$ends} = sum0 grep { defined } delete @pages{ $first, $last };
	return \%pages;
}

# Memory without a name is told by its size: each has another, and none that of a stack or an arena. What
# is interleaved takes a page of each node, and of 1 GiB there is but one: that is a VM of its own.
my $odd = 1;
sub nodes_of {
	my ($policy, @on) = @_;
	my %size = map { $_ => 2 * @ids } @kinds;
	$size{'1GiB'} = 1024 if $giant;
	delete $size{thp} if $policy eq 'restrictive';
	delete $size{'1GiB'} if $policy eq 'interleave';
	return map { node($policy, $_, $size{$_} * ($_ eq 'thp' ? $odd += 2 : 1), @on) } grep { $size{$_} } @kinds;
}

sub free { return [ map { hugepages_free(undef, $_) } 2048, 1048576 ] }

sub looked_at {
	my ($what, @nodes) = @_;
	my $free = free();
	my $MIB = 0;
	$MIB += $_->{spec}{memory} =~ s/MiB//r for @nodes;
	starts({
		name => 'matrix', vcpus => 1, memory => "${MIB}MiB", 'memory-backing' => { prealloc => TRUE },
		numa => { nodes => [ { vcpus => '0', %{ $nodes[0]{spec} } }, map { $_->{spec} } @nodes[1 .. $#nodes] ] },
		cputune => { vcpupin => { 0 => "$host->{nodes}[0]{cpus}[0]" }, emulatorpin => "$near->{cpus}[-1]" },
		qemu => { accel => accel() }, boot => idle_firmware(),
	}) or return;
	my $pid = qemu_of('matrix');
	my %files = map { $_->{name} =~ /-node(\d+)$/ ? ($1 => $_) : () } where_pages_are($pid);
	my @mappings = mappings($pid, qr{ancla-matrix|^(?!/)});
	my %guest = map { $_->{anonymous} => 1 } @nodes;
	for my $i (0 .. $#nodes) {
		my $node = $nodes[$i];
		my $name = "$what: guest node $i, $node->{spec}{policy}, $node->{spec}{hugepages}";
		my ($found) = $node->{anonymous} ? where_pages_are($pid, $node->{anonymous}) : $files{$i};
		my %is = map { $_ => $found->{$_} } qw(page absent nodes);
		$is{nodes} = together($is{nodes}) if $node->{is}{nodes}{$ends};
		is_deeply \%is, $node->{is}, $name or diag explain $found;
		my ($mapping) = grep { $node->{anonymous} ? $_->{size} == $node->{anonymous} && !$_->{name} : $_->{name} =~ /-node$i\b/ } @mappings;
		like $mapping->{policy}, $node->{policy}, "$name: the policy";
	}
	my %there = map { $_ => 1 } $nodes[0]{spec}{policy} eq 'restrictive' ? map { numbers($_->{spec}{'host-nodes'}) } @nodes : $near->{id};
	my $own = pages_by_node(grep { $_->{name} !~ m{^/} && !$guest{ $_->{size} } } @mappings);
	my @elsewhere = grep { !$there{$_} } keys %$own;
	is "@elsewhere", '', "$what: all of QEMU's own memory is where it should be" or diag explain $own;
	cmp_ok sum0(values %$own), '>', 256, "$what: that is its heap and more";
	ended run_ancla('verify', 'matrix'), 0, qr//, "$what: verify agrees";
	stop_vm('matrix');
	clean "$what: nothing is left", $free->[0];
	is_deeply free(), $free, "$what: nor is a huge page";
	return;
}

# "restrictive" is for all guest nodes or none; of several, QEMU may fill none by itself.
looked_at('strict, preferred, interleave', map({ nodes_of($_) } qw(strict preferred interleave)),
	map { spread('strict', $_), spread('preferred', $_) } 'none', '2MiB');
looked_at('restrictive', nodes_of('restrictive', $last), nodes_of('restrictive', $first));
looked_at('interleave, 1 GiB', node('interleave', '1GiB', 1024 * @ids)) if $giant;
done_testing;
