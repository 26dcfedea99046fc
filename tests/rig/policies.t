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
my $thp = (AnclaTest::peek('/sys/kernel/mm/transparent_hugepage/enabled') // '') =~ /\[madvise\]/;
my $MIB = 8 * @ids; # of memory: as many huge pages on each node, when they are interleaved

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
# Where memory that asks for it is in huge pages, that is what is looked at; the rest is as on other hosts.
@cases = (
	[ 'strict, transparent huge pages', { hugepages => 'thp', prealloc => TRUE, 'host-nodes' => "$last" }, 4096, { $last => $plain }, "bind:$last" ],
	[ 'preferred, transparent huge pages', { hugepages => 'thp', prealloc => TRUE, 'host-nodes' => "$last", policy => 'preferred' }, 4096, { $last => $plain }, qr/^prefer(?: \(many\))?:$last$/ ],
	[ 'interleave, transparent huge pages', { hugepages => 'thp', prealloc => TRUE, 'host-nodes' => $all, policy => 'interleave' }, 4096, even($plain), "interleave:$all" ],
	[ 'restrictive, transparent huge pages', { hugepages => 'thp', prealloc => TRUE, 'host-nodes' => "$last", policy => 'restrictive' }, 4096, { $last => $plain }, undef ],
) if $thp;

# Where transparent huge pages may be in a memfd, the launcher fills it; else it is QEMU's own memory.
my $shmem = '/sys/kernel/mm/transparent_hugepage/shmem_enabled';
sub memfd_may { my ($how) = @_; open my $file, '>', $shmem or die "$shmem: $!"; syswrite $file, $how or die "$shmem: $!"; return }

# Bytes of files in transparent huge pages on each node, by the kernel's own count.
sub memfd_thp {
	my %bytes;
	for (@ids) {
		my ($kB) = AnclaTest::slurp("/sys/devices/system/node/node$_/meminfo") =~ /ShmemHugePages: +(\d+)/;
		$bytes{$_} = $kB * 1024 if $kB;
	}
	return \%bytes;
}
@cases = map { my $how = $_; map { [ @$_, $how ] } @cases } $thp ? qw(never advise within_size) : undef;
@cases = grep { ($_->[5] // '') ne 'within_size' || $_->[0] =~ /^strict/ } @cases;

for my $case (@cases) {
	my ($what, $backing, $page, $pages, $policy, $shmem) = @$case;
	$what .= ", a memfd may $shmem" if $shmem;
	memfd_may($shmem) if $shmem;
	my $in_memfd = ($shmem // 'never') ne 'never';
	my $free = hugepages_free();
	my $name = 'policy';
	my $spec = {
		name => $name, vcpus => 1, memory => "${MIB}MiB", 'memory-backing' => $backing,
		cputune => { vcpupin => { 0 => '0' }, emulatorpin => '1' }, qemu => { accel => accel() },
		boot => idle_firmware(),
	};
	ended run_ancla('plan', make_spec($spec)), 0, $in_memfd ? qr/in a memfd \(shmem_enabled\), filled while QEMU starts/ : qr/anonymous, filled by QEMU/,
		"$what: the plan says who fills it" if $shmem;
	starts($spec) or next;
	my $pid = qemu_of($name);
	my $anonymous = ($backing->{hugepages} // '') eq 'thp' && !$in_memfd ? $MIB << 20 : undef;
	is_deeply memfd_thp(), { map { $_ => $pages->{$_} * $page } keys %$pages }, "$what: all in huge pages" if $in_memfd;
	# What was made remains, whatever comes to be allowed.
	memfd_may('never') if $in_memfd;
	pages_are($pid, $page, [$pages], "$what: pages by node", $anonymous);
	my ($mapping) = grep { $_->{size} == $MIB << 20 } mappings($pid, $anonymous ? qr/^$/ : qr/ancla|hugepages/);
	if (defined $policy) { like $mapping->{policy}, ref $policy ? $policy : qr/^\Q$policy\E$/, "$what: the policy" }
	is $mapping->{thp}, $MIB << 20, "$what: all in huge pages" if $anonymous && @ids <= 2 && $what !~ /^interleave/;
	if ($backing->{locked}) {
		my ($locked) = AnclaTest::slurp("/proc/$pid/status") =~ /^VmLck:\s+(\d+) kB/m;
		cmp_ok $locked, '>=', $MIB * 1024, "$what: all of it is locked";
		ok $mapping->{flags}{lo}, "$what: so says its mapping";
	}
	ended run_ancla('verify', $name), 0, qr//, "$what: verify agrees";
	stop_vm($name);
	clean "$what: nothing is left", $free;
}
done_testing;
