# Huge pages of one node among several: what others were promised there is not promised again, though
# the machine has more; what is missing there is reserved there, and given back there.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Cgroups;
use Rig;
use Test::More;

# Forty pages of each node are as good as hundreds, and sooner filled.
reserve_hugepages(40, $_->{id}) for grep { $_->{free2m} > 40 } @{ host()->{nodes} };
my $host = host();
my @nodes = grep { $_->{kB} } @{ $host->{nodes} };
my ($there, $other) = sort { $b->{free2m} <=> $a->{free2m} || $b->{id} <=> $a->{id} } @nodes;
my ($id, $free) = @$there{qw(id free2m)};
my %before = map { $_->{id} => hugepages_total($_->{id}) } @nodes;

sub vm {
	my ($name, $pages, $node, $hugepages) = @_;
	return {
		name => $name, vcpus => 1, memory => 2 * $pages . 'MiB', placement => { mode => 'static' },
		'memory-backing' => { hugepages => $hugepages // '2MiB', 'host-nodes' => "$node" }, qemu => { accel => accel() },
		boot => idle_firmware(),
	};
}

sub growing { return vm(@_, { size => '2MiB', reserve => 'grow' }) }

sub totals { return { map { $_->{id} => hugepages_total($_->{id}) } @nodes } }

# Others have pages enough for the machine's reservation to be granted to all twelve. Those that start do
# it at once, on one real CPU at worst: more of them would have to wait for each other too long.
subtest 'twelve VMs at once for the pages of three' => sub {
	my $each = int $free / 3;
	my @results = map { $_->wait_exit } map { spawn_ancla('start', make_spec(vm("race$_", $each, $id)), { timeout => 300 }) } 1 .. 12;
	is scalar(grep { $_->{exit} == 0 } @results), 3, 'three run' or diag map { "$_->{exit} $_->{err}" } @results;
	is scalar(grep { $_->{exit} == 4 && $_->{err} =~ /needs $each huge pages of 2MiB on host node $id, which has \d+ free/ } @results),
		9, 'nine are told what is short, and where';
	is hugepages_free($id), $free - 3 * $each, 'the node has given what it had';
	my @stops = map { spawn_ancla('stop', '--force', $_->{name}) } @{ json(run_ancla('list', '--json')) };
	$_->wait_exit for @stops;
	clean 'all are back';
	is hugepages_free($id), $free, 'the node has them all again';
};

subtest 'missing pages are reserved where they are missing' => sub {
	starts(growing('grows', $free + 9, $id)) or return;
	is_deeply totals(), { %before, $id => $before{$id} + 9 }, 'nine more, on that node';
	pages_are(qemu_of('grows'), 2 << 20, [ { $id => $free + 9 } ], 'all are there');
	stop_vm('grows');
	is_deeply totals(), \%before, 'and back';
	clean;
};

subtest 'interleaved ones are reserved on each' => sub {
	my $all = list(map { $_->{id} } @nodes);
	my ($least, $most) = (sort { $a <=> $b } map { $_->{free2m} } @nodes)[0, -1];
	my $each = $least + 6;
	my $spec = growing('spread', $each * @nodes, $all);
	$spec->{'memory-backing'}{policy} = 'interleave';
	starts($spec) or return;
	is_deeply totals(), { map { $_->{id} => $before{ $_->{id} } + ($each > $_->{free2m} ? $each - $_->{free2m} : 0) } @nodes },
		'as many as each lacked';
	pages_are(qemu_of('spread'), 2 << 20, [ { map { $_->{id} => $each } @nodes } ], 'all are there');
	stop_vm('spread');
	is_deeply totals(), \%before, 'and back';
	clean;
} if 0 == grep { $_->{free2m} < 8 } @nodes;

# All that the node has cannot be had: Linux itself is there.
subtest 'what cannot be reserved is told, and nothing is kept' => sub {
	my ($node) = grep { $_->{id} == $id } @{ json(run_ancla('host', '--json'))->{nodes} };
	my $result = run_ancla('start', make_spec(growing('greedy', int($node->{memory} / (2 << 20)), $id)), { timeout => 300 });
	ended $result, 4, qr/needs \d+ huge pages of 2MiB on host node $id, which (?:had $free free; the kernel could reserve \d+ of the \d+ that are missing, and memory has been compacted|has \d+ free or could have by growing)/,
		'with numbers';
	is_deeply totals(), \%before, 'all as before';
	clean;
};

# The limits of the group that the launcher is in, and of those above it.
subtest 'control groups' => sub {
	my $top = '/sys/fs/cgroup';
	my $write = sub { my ($path, $text) = @_; open my $file, '>', "$top/$path" or return fail "$path: $!"; syswrite $file, $text or fail "$path: $!" };
	$write->('cgroup.subtree_control', '+memory +hugetlb') if !-e "$top/limits";
	mkdir "$top/limits";
	$write->('limits/cgroup.subtree_control', '+memory +hugetlb');
	mkdir "$top/limits/in";
	my $start = sub { return run_command(in_cgroup("$top/limits/in", $ENV{ANCLA} // "$BUILD/ancla", 'start', make_spec($_[0]))) };
	$write->('limits/hugetlb.2MB.max', 20 << 20);
	ended $start->(vm('limited', 16, $id)), 4,
		qr{the guest needs 32MiB of 2MiB pages, and its control group may have 20MiB more: /sys/fs/cgroup/limits/hugetlb\.2MB\.max is 20MiB; raise that \(echo 33554432 > \S+\), or ask for less},
		'huge pages: told before QEMU';
	$write->('limits/hugetlb.2MB.max', 32 << 20);
	ended $start->(vm('limited', 16, $id)), 0, qr/limited runs/, 'as many as the limit are granted' and stop_vm('limited');
	$write->('limits/in/memory.max', 48 << 20);
	my $plain = vm('limited', 32, $id, 'none');
	$plain->{'memory-backing'}{prealloc} = TRUE;
	ended $start->($plain), 4, qr{the guest needs 64MiB of plain pages, and its control group may have \d+MiB more: /sys/fs/cgroup/limits/in/memory\.max is 48MiB}, 'plain ones';
	clean;
	rmdir "$top/limits/in";
	rmdir "$top/limits";
};

done_testing;
