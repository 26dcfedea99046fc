# Where guest memory is, for each policy and kind of page: page by page, as a witness counts them
# through its own mapping of the same memory.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

my $host = host();
my @ids = map { $_->{id} } @{ $host->{nodes} };
my ($first, $last) = @ids[0, -1];
my $all = list(@ids);
my $thp = (AnclaTest::peek('/sys/kernel/mm/transparent_hugepage/enabled') // '') =~ /\[(always|madvise)\]/;
my $MIB = 32; # of memory, a multiple of 2 MiB times the nodes there can be

sub even { my ($pages) = @_; return { map { $_ => $pages / @ids } @ids } }

# [what, memory-backing, page size, pages by node, policy that QEMU's mapping shows]
my $huge = $MIB / 2;
my $plain = $MIB * 256;
my @cases = (
	[ 'strict, huge pages', { hugepages => '2MiB', 'host-nodes' => "$last", policy => 'strict' }, 2 << 20, { $last => $huge }, "bind:$last" ],
	[ 'strict, plain pages', { prealloc => TRUE, 'host-nodes' => "$last", policy => 'strict' }, 4096, { $last => $plain }, "bind:$last" ],
	[ 'strict is the default', { hugepages => '2MiB', 'host-nodes' => "$first" }, 2 << 20, { $first => $huge }, "bind:$first" ],
	[ 'strict, filled by QEMU', { hugepages => '2MiB', prealloc => 'qemu', 'host-nodes' => "$last" }, 2 << 20, { $last => $huge }, "bind:$last" ],
	[ 'strict, from a hugetlbfs', { hugepages => '2MiB', path => '/dev/hugepages', 'host-nodes' => "$last" }, 2 << 20, { $last => $huge }, "bind:$last" ],
	[ 'preferred, huge pages', { hugepages => '2MiB', 'host-nodes' => "$last", policy => 'preferred' }, 2 << 20, { $last => $huge }, qr/^prefer(?: \(many\))?:$last$/ ],
	[ 'preferred, plain pages', { prealloc => TRUE, 'host-nodes' => "$last", policy => 'preferred' }, 4096, { $last => $plain }, qr/^prefer(?: \(many\))?:$last$/ ],
	[ 'interleave, huge pages', { hugepages => '2MiB', 'host-nodes' => $all, policy => 'interleave' }, 2 << 20, even($huge), "interleave:$all" ],
	[ 'interleave, plain pages', { prealloc => TRUE, 'host-nodes' => $all, policy => 'interleave' }, 4096, even($plain), "interleave:$all" ],
	[ 'restrictive, huge pages', { hugepages => '2MiB', 'host-nodes' => "$last", policy => 'restrictive' }, 2 << 20, { $last => $huge }, undef ],
	[ 'restrictive, plain pages', { prealloc => TRUE, 'host-nodes' => "$last", policy => 'restrictive' }, 4096, { $last => $plain }, undef ],
	[ 'locked plain pages', { locked => TRUE, 'host-nodes' => "$last" }, 4096, { $last => $plain }, "bind:$last" ],
);
# Where plain pages can be huge ones, that is what is looked at; the rest is as on other hosts.
@cases = (
	[ 'strict, transparent huge pages', { hugepages => 'thp', prealloc => TRUE, 'host-nodes' => "$last" }, 4096, { $last => $plain }, "bind:$last" ],
	[ 'preferred, transparent huge pages', { hugepages => 'thp', prealloc => TRUE, 'host-nodes' => "$last", policy => 'preferred' }, 4096, { $last => $plain }, qr/^prefer(?: \(many\))?:$last$/ ],
	[ 'interleave, transparent huge pages', { hugepages => 'thp', prealloc => TRUE, 'host-nodes' => $all, policy => 'interleave' }, 4096, even($plain), "interleave:$all" ],
	[ 'restrictive, transparent huge pages', { hugepages => 'thp', prealloc => TRUE, 'host-nodes' => "$last", policy => 'restrictive' }, 4096, { $last => $plain }, undef ],
) if $thp;
# Three nodes do not divide into pages without rest.
$_->[3] = undef for grep { $_->[0] =~ /^interleave/ && 16 % @ids } @cases;

for my $case (@cases) {
	my ($what, $backing, $page, $pages, $policy) = @$case;
	my $free = hugepages_free();
	my $name = 'policy';
	start_vm({
		name => $name, vcpus => 1, memory => "${MIB}MiB", 'memory-backing' => $backing,
		cputune => { vcpupin => { 0 => '0' }, emulatorpin => '1' }, qemu => { accel => accel() },
	}) or next;
	my $pid = qemu_of($name);
	my $anonymous = ($backing->{hugepages} // '') eq 'thp' ? $MIB << 20 : undef;
	if ($pages) {
		pages_are($pid, $page, [$pages], "$what: pages by node", $anonymous);
	} else {
		my ($is) = where_pages_are($pid, $anonymous);
		my @counts = sort { $a <=> $b } values %{ $is->{nodes} };
		ok @counts == @ids && $counts[-1] - $counts[0] <= ($anonymous ? 512 : 1) && !$is->{absent}, "$what: pages by node" or diag explain $is;
	}
	my ($mapping) = grep { $_->{size} == $MIB << 20 } mappings($pid, $anonymous ? qr/^$/ : qr/ancla|hugepages/);
	if (defined $policy) { like $mapping->{policy}, ref $policy ? $policy : qr/^\Q$policy\E$/, "$what: the policy" }
	is $mapping->{thp}, $MIB << 20, "$what: all in huge pages" if $anonymous && @ids <= 2 && $what !~ /^interleave/;
	like AnclaTest::slurp("/proc/$pid/status"), qr/^VmLck:\s+[1-9]\d{4,} kB/m, "$what: locked" if $backing->{locked};
	ended run_ancla('verify', $name), 0, qr//, "$what: verify agrees";
	stop_vm($name);
	clean "$what: nothing is left", $free;
}
done_testing;
