# A page that cannot be had after all, or is lost: taken by somebody else on the node that was promised,
# beyond a limit that has become lower, broken. In the middle of the fill, where the filler is stopped
# for it, that is an error with node and count, and nothing is left. Later, `ancla verify` finds it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Cgroups;
use Rig;
use Test::More;

use constant HUGE => 2 << 20;
use constant { MAP_SHARED => 1, MADV_HWPOISON => 100 }; # <linux/mman.h>

my ($node) = map { $_->{id} } reverse @{ host()->{nodes} };
my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
my $cgroup = '/sys/fs/cgroup/lost';

# Memory is filled whatever QEMU does: this one does nothing, and takes no memory, either.
my $stuck = wrapper('stuck', 'exec sleep 1000');

sub vm {
	my ($kind) = @_;
	return {
		name => 'lost', vcpus => 1, memory => '48MiB', placement => { mode => 'static' }, qemu => { accel => accel(), binary => $stuck },
		'memory-backing' => { hugepages => $kind, prealloc => TRUE, 'host-nodes' => "$node" },
	};
}

# Two guest nodes, of which only the second comes to be short.
sub vm_of_two {
	return {
		name => 'lost', vcpus => 1, 'memory-backing' => { prealloc => TRUE }, placement => { mode => 'static' },
		numa => { nodes => [ { vcpus => '0', memory => '256MiB', 'host-nodes' => '0' }, { memory => '512MiB', 'host-nodes' => "$node" } ] },
		qemu => { accel => accel(), binary => $stuck },
	};
}

# `ancla run` of the spec in the control group, its filler stopped when one of its threads has filled two
# chunks or three: the program, the filler and its launcher; or nothing.
my $run = 0;
sub stopped {
	my ($spec) = @_;
	my $trace = tmpdir() . '/trace' . $run++;
	my $program = spawn_command(in_cgroup($cgroup,
		'strace', '-f', '-b', 'execve', '-qq', '-o', $trace, '-e', 'trace=madvise', '-e', 'inject=madvise:signal=STOP:when=3',
		$ancla, 'run', make_spec($spec)));
	my $stop = eventually(60, sub { (AnclaTest::peek($trace) // '') =~ /^(\d+) +--- stopped by SIGSTOP/m && $1 });
	my ($pid, $launcher) = $stop ? AnclaTest::slurp("/proc/$stop/status") =~ /^Tgid:\s+(\d+).*^PPid:\s+(\d+)/ms : ();
	return ($program, $pid, $launcher) if $pid;
	fail 'it is stopped';
	diag AnclaTest::peek($trace) // 'no trace', ' ', explain $program->wait_exit;
	return;
}

# Lets it go on, however often it is stopped again, until it ends.
sub ends {
	my ($program, $pid) = @_;
	eventually(120, sub { kill CONT => $pid; !is_running($program->pid) });
	return $program->wait_exit;
}

# Somebody takes all the huge pages that are free on the node.
sub take_all {
	my $give_back = take_hugepages($node, hugepages_free($node));
	is hugepages_free($node), 0, "node $node has none left";
	return $give_back;
}

# Somebody takes all that is free on the node: as huge pages, for which the kernel kills nobody.
sub take_all_plain {
	my ($file, $before) = (AnclaTest::hugepages_file('nr_hugepages', $node), hugepages_total($node));
	AnclaTest::set_hugepages($file, 1 << 20); # as many as come at once
	cmp_ok hugepages_total($node), '>', $before, 'they are taken';
	return sub { AnclaTest::set_hugepages($file, $before) };
}

# One more than it has now.
sub limit {
	write_cgroup("$cgroup/hugetlb.2MB.max", AnclaTest::slurp("$cgroup/hugetlb.2MB.current") + HUGE);
	return sub { write_cgroup("$cgroup/hugetlb.2MB.max", 'max') };
}

# The page at that many MiB of a guest node breaks, by the memory that the process holds, as if the
# hardware had said so.
sub poison {
	my ($pid, $index, $MIB) = @_;
	my ($path) = grep { (readlink // '') =~ /ancla-lost-node$index\b/ } glob "/proc/$pid/fd/*";
	open my $file, '+<', $path or die "guest memory: $!";
	my $at = mmap(HUGE, MAP_SHARED, fileno $file, $MIB << 20);
	ok madvise($at, 4096, MADV_HWPOISON), 'it is broken' or diag $!;
	return sub { munmap($at, HUGE) };
}

mkdir $cgroup or die "$cgroup: $!";
my $free = hugepages_free();

for my $case (
	[ 'huge pages that somebody else takes', vm('2MiB'), 24, \&take_all,
		qr/guest memory on host node $node: 24 huge pages of 2MiB needed, (\d+) had, free: 0 on node $node; missing (\d+), reserve them: echo \d+ > \S+node$node\S+2048kB\/nr_hugepages/ ],
	[ 'a limit of huge pages', vm('2MiB'), 24, \&limit,
		qr/guest memory on host node $node: 24 huge pages of 2MiB needed, (\d+) had, free: \d+ on node $node: the pages are there but the kernel does not give them \(.*\): see the limits of the cgroup \(hugetlb/ ],
	[ 'plain pages that somebody else takes', vm_of_two(), 131072, \&take_all_plain,
		qr/guest node 1 on host node $node: 131072 pages of 4KiB needed, (\d+) had \(Cannot allocate memory\), free: \d+MiB on node $node: stop something, ask for less/ ],
	[ 'a plain page that breaks', vm('none'), 12288, sub { poison($_[0], 0, 46) },
		qr/guest memory on host node $node: a page of 4KiB is broken \(memory error of the hardware, see dmesg\) after (\d+) of 12288: start again/ ],
	[ 'a huge page that breaks', vm('2MiB'), 24, sub { poison($_[0], 0, 46) },
		qr/guest memory on host node $node: a page of 2MiB is broken \(memory error of the hardware, see dmesg\) after (\d+) of 24: start again/ ],
) {
	my ($what, $spec, $count, $lose, $message) = @$case;
	subtest $what => sub {
		my ($program, $pid, $launcher) = stopped($spec) or return;
		my $undo = $lose->($launcher);
		my $result = ends($program, $pid);
		$undo->();
		ended $result, 4, $message, 'is an error that counts' or return;
		my ($had) = $result->{err} =~ $message;
		cmp_ok $had, '>', 0, 'in the middle';
		cmp_ok $had, '<', $count, "after $had of $count";
		# A huge page that is broken is set aside.
		clean 'nothing is left', $free - ($what eq 'a huge page that breaks');
	};
}

# QEMU does not get to know it: stopped, it does not take the signal by which the kernel tells.
subtest 'pages that break while it runs' => sub {
	start_vm({
		name => 'lost', vcpus => 1, memory => '48MiB', 'memory-backing' => { prealloc => TRUE }, placement => { mode => 'static' },
		numa => { nodes => [
			{ vcpus => '0', memory => '16MiB', 'host-nodes' => "$node" },
			{ memory => '16MiB', 'host-nodes' => "$node" },
			{ memory => '16MiB', hugepages => '2MiB', 'host-nodes' => "$node" },
		] },
		qemu => { accel => accel() }, boot => idle_firmware(),
	}) or return;
	my $pid = qemu_of('lost');
	kill STOP => $pid;
	my @undo = map { poison($pid, $_, 8) } 1, 2;
	my $result = run_ancla('verify', '--json', 'lost');
	is $result->{exit}, 5, '`verify` says so' or diag $result->{err};
	is_deeply [ map { "$_->{what}: $_->{actual}" } grep { !$_->{ok} && $_->{what} =~ /pages/ } @{ json($result)->{checks} } ], [
		"guest node 1: pages: 4095 pages of 4KiB, node $node: 4095; 1 broken (memory error of the hardware, see dmesg)",
		"guest node 2: pages: 7 pages of 2MiB, node $node: 7; 1 broken (memory error of the hardware, see dmesg)",
	], 'and which' or diag $result->{out};
	$_->() for @undo;
	stop_vm('lost');
	clean 'nothing is left', $free - 2;
};

rmdir $cgroup;
done_testing;
