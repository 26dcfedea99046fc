# A running VM is moved to another node: its threads, and every page of its memory, huge, plain or
# QEMU's own; the witness agrees. What does not fit is refused, and then nothing has moved.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

my $host = host();
my %isolated = map { $_ => 1 } @{ $host->{isolated} };
my ($here, $there) = grep { @{ $_->{cpus} } >= 3 } @{ $host->{nodes} };
my @cpus = map { [ grep { !$isolated{$_} } @{ $_->{cpus} } ] } $here, $there;

# One vCPU and one guest node on each node.
sub start {
	my ($backing, %more) = @_;
	start_vm({
		name => 'live', vcpus => 2, memory => '64MiB', 'memory-backing' => $backing,
		numa => { nodes => [
			{ vcpus => '0', memory => '32MiB', 'host-nodes' => "$here->{id}" },
			{ vcpus => '1', memory => '32MiB', 'host-nodes' => "$there->{id}" },
		] },
		cputune => { vcpupin => { 0 => "$cpus[0][-1]", 1 => "$cpus[1][-1]" }, emulatorpin => "$cpus[0][0]" },
		qemu => { accel => accel() }, boot => idle_firmware(), %more,
	}) or return;
	return qemu_of('live');
}

sub ancla { my ($words, $exit, $pattern, $name) = @_; return ended run_ancla(split ' ', $words), $exit, $pattern, $name // "ancla $words" }
sub plan_of { return AnclaTest::slurp(runtime_dir() . '/live/plan.json') }

# Has the kernel compact memory again and again, which moves any page; returns what ends that.
sub compacting {
	my $pid = fork // die "fork: $!";
	return sub { kill KILL => $pid; waitpid $pid, 0 } if $pid;
	while (1) {
		AnclaTest::set_hugepages('/proc/sys/vm/compact_memory', 1) or POSIX::_exit(1);
		select undef, undef, undef, 0.02;
	}
}

for my $kind ([ 'huge pages', { hugepages => '2MiB' }, 2 << 20 ], [ 'plain pages', { prealloc => TRUE }, 4096 ]) {
	my ($pages, $backing, $size) = @$kind;
	my ($free, $total) = (hugepages_free(), (32 << 20) / $size);
	my $pid = start($backing) or next;
	my ($to, $from) = ($here->{id}, $there->{id});

	my $plan = plan_of();
	ancla("pin live memory 1 --node $to --dry-run", 0,
		qr/^guest node 1: $total of $total pages of \S+ would move to host node $to\n.*\nnothing was changed/m, "$pages: --dry-run");
	is plan_of(), $plan, "$pages: the plan is not touched";
	pages_are($pid, $size, [ { $to => $total }, { $from => $total } ], "$pages: nor is a page");

	ancla("pin live memory 1 --node $to", 0, qr/^guest node 1: $total of $total pages of \S+ moved to host node $to, all read back$/m);
	pages_are($pid, $size, [ { $to => $total }, { $to => $total } ], "$pages: the witness sees all on node $to");
	ancla('verify live', 0, qr/guest node 1: pages: .*node $to: $total\n.*guest node 1: policy: bind:$from\n/s,
		"$pages: verify goes by the plan, QEMU's policy is as it was");
	ancla('status live', 0, qr/^guest node 1 +.*host node $to, policy strict, in QEMU still for $from$/m, "$pages: status says so");
	my ($region) = (json(plan_of())->{memory}[1]);
	is_deeply [ @$region{qw(host-nodes policy-nodes policy)} ], [ "$to", "$from", 'strict' ], "$pages: the plan has both";
	ancla("pin live vcpu 1 $cpus[0][-1]", 0, qr/read back/, "$pages: its vCPU follows");

	# What is moved from the new place is found, too.
	is_deeply [ witness('move', $pid, 'node1', 3, $from) ], ['moved 3'], "$pages: three move back by themselves";
	ancla('verify live', 5, qr/^DIFFERS guest node 1: pages: expected $total pages of \S+ node $to/m, "$pages: which is found");

	# Back home, residency and policy are one again.
	my $result = json(run_ancla(qw(pin live memory 1 --json --node), $from));
	is_deeply $result->{changes}, [ {
		role => 'memory', 'guest-node' => 1, 'host-nodes' => "$from", 'policy-nodes' => "$from", policy => 'strict',
		'page-size' => $size, pages => $total, 'to-move' => $total - 3, moved => $total - 3, was => { 'host-nodes' => "$to" },
	} ], "$pages: back, as JSON";
	pages_are($pid, $size, [ { $to => $total }, { $from => $total } ], "$pages: the witness sees it");
	ok !exists json(plan_of())->{memory}[1]{'policy-nodes'}, "$pages: nothing to tell apart any more";
	ancla('verify live', 0, qr/./, "$pages: all is well");

	if ($size > 4096) {
		# Too few pages there: refused before any moves.
		my $pool = hugepages_total($here->{id});
		reserve_hugepages($pool - hugepages_free($here->{id}) + 5, $here->{id});
		is hugepages_free($here->{id}), 5, 'five huge pages are left';
		$plan = plan_of();
		ancla("pin live memory 1 --node $to", 4,
			qr/guest node 1 on host node $to: $total huge pages of 2MiB needed, 0 had, free: 5 on node $to; missing @{[$total - 5]}, reserve them: echo/);
		pages_are($pid, $size, [ { $to => $total }, { $from => $total } ], 'no page has moved');
		is plan_of(), $plan, 'the plan is the old one';
		ok eventually(60, sub { reserve_hugepages($pool, $here->{id}) == $pool }), 'all are there again';
	} else {
		my $end = compacting();
		for ($to, $from, $to, $from) {
			ancla("pin live memory 1 --node $_", 0, qr/^guest node 1: $total of $total pages of \S+ moved to host node $_, all read back$/m,
				"to node $_, as the kernel compacts memory");
			pages_are($pid, $size, [ { $to => $total }, { $_ => $total } ], "the witness sees all on node $_");
		}
		$end->();
	}
	ancla('pin live memory 1 --node 63', 4, qr/the host has no node 63 with memory/);
	ancla("pin live memory 2 --node $to", 1, qr/has no guest node 2; it has 0 to 1/);
	ancla('pin live memory 1', 2, qr/needs --node/);
	ancla("pin live vcpu 0 $cpus[0][0] --node 1", 2, qr/--node is for memory/);
	stop_vm('live');
	clean "$pages: nothing is left", $free;
}

# The first 2 MiB of a mapping that have no page: their address. See Documentation/admin-guide/mm/pagemap.rst.
sub empty_at {
	my ($pid, $mapping) = @_;
	open my $file, '<:raw', "/proc/$pid/pagemap" or die "pagemap: $!";
	for (my $at = $mapping->{start} + -$mapping->{start} % (2 << 20); $at < $mapping->{start} + $mapping->{size}; $at += 2 << 20) {
		sysseek $file, $at / 512, 0;
		sysread($file, my $entries, 4096) == 4096 or die "pagemap: $!";
		return $at if !grep { $_ >> 62 } unpack 'Q*', $entries;
	}
	die "no part is empty\n";
}

sub touch {
	my ($pid, $at) = @_;
	open my $file, '+<:raw', "/proc/$pid/mem" or die "mem: $!";
	return sysseek($file, $at, 0) && syswrite($file, "\1") == 1;
}

# The guest has run and halted. What nobody uses khugepaged would fill: it sleeps.
subtest 'memory that is not filled: what is there moves, what comes later follows the policy' => sub {
	my ($to, $from, $size) = ($here->{id}, $there->{id}, 64 << 20);
	AnclaTest::set_hugepages('/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs', 1 << 30);
	my $pid = start({}, boot => {}, disks => [ { file => guest_disk('raw', 'live.raw') } ],
		numa => { nodes => [ { vcpus => '0-1', memory => '64MiB', 'host-nodes' => "$to" } ] }) or return;
	ran_everywhere($pid, 2, 'the guest has run on both vCPUs', "anonymous:$size");
	ancla("pin live memory --node $from", 0, qr/moved to host node $from, all read back/);
	my ($is, @more) = where_pages_are($pid, $size);
	is_deeply [ keys %{ $is->{nodes} }, @more ], [$from], "the witness sees all on node $from" or diag explain $is;
	my ($mapping) = grep { $_->{size} == $size } mappings($pid, qr/^$/);
	ok touch($pid, empty_at($pid, $mapping)), 'more of it is used';
	my ($then) = where_pages_are($pid, $size);
	cmp_ok delete $then->{nodes}{$to} // 0, '>', 0, "that comes from node $to";
	is_deeply $then->{nodes}, $is->{nodes}, 'the others stay';
	ancla('verify live', 0, qr/guest node 0: pages: /, 'verify agrees');
	stop_vm('live');
};

clean 'nothing is left';
done_testing;
