# While memory is filled: how far it is, on a terminal and in a log; Ctrl-C; and whatever makes a page
# unavailable is an error with numbers. The kernel is made slow, or to fail, by strace.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Cgroups;
use Test::More;

my $free = hugepages_free();
my $spec = make_spec(spec('filled', { memory => '256MiB', 'memory-backing' => { prealloc => TRUE } }));

sub spawn_slowed { my ($inject, @words) = @_; my $options = traced(ref $words[-1] ? %{ pop @words } : ()); return spawn_command(with_madvise($inject, @words), $options) }

# It has 128 chunks, and a thread for each CPU of the node, of which 16 at most. The delay that makes the whole
# of it take so many seconds; longer where QEMU's start is, too.
my $more = $ENV{ANCLA_TEST_SLOW} || 1;
my $workers = () = glob '/sys/devices/system/cpu/cpu[0-9]*';
$workers = 16 if $workers > 16;
sub lasting { my ($seconds) = @_; return sprintf 'delay_enter=%d', $seconds * $more * 1e6 * $workers / 128 }
my $slow = lasting(4);

subtest 'in a log, a line a second' => sub {
	my $run = spawn_slowed($slow, 'run', $spec);
	ok $run->wait_for_output(qr/^ancla: filling memory: \d+ of 256 MiB, \d+\.\d GiB\/s, \d+ s left$/m), 'with rate and time left';
	ok $run->wait_for_output(qr/filled runs/), 'then it runs' and stop_vm('filled');
	my $result = $run->wait_exit;
	unlike $result->{out} . $result->{err}, qr/\r|#/, 'no bar';
	clean 'nothing is left', $free;
};

subtest 'on a terminal, a bar that goes' => sub {
	my $run = spawn_slowed($slow, 'run', $spec, { pty => 1 });
	ok $run->wait_for_output(qr/\rfilling memory \[#+\.+\] \d+\/256 MiB, \d+\.\d GiB\/s, \d+ s left/), 'with rate and time left';
	ok $run->wait_for_output(qr/left *\r {79}\r.*filled runs/s), 'it goes before anything else is said';
	stop_vm('filled');
	unlike $run->wait_exit->{out}, qr/ancla: filling/, 'no lines';
	clean 'nothing is left', $free;
};

subtest 'when quiet, nothing' => sub {
	for my $pty (0, 1) {
		my $run = spawn_slowed($slow, 'run', '--quiet', $spec, { pty => $pty });
		ok eventually(120, sub { (AnclaTest::peek(runtime_dir() . '/filled/state.json') // '') =~ /running/ }), 'it runs';
		stop_vm('filled');
		my $result = $run->wait_exit;
		unlike $result->{out} . $result->{err}, qr/filling/, $pty ? 'on a terminal' : 'in a log';
	}
	clean 'nothing is left', $free;
};

subtest 'Ctrl-C' => sub {
	# To its end it would take a minute.
	my $run = spawn_slowed(lasting(64), 'run', $spec, { pty => 1 });
	ok $run->wait_for_output(qr/filling memory \[#/), 'while the bar is there' or return;
	my $begin = time;
	$run->send("\003");
	my $result = $run->wait_exit;
	ended $result, 1, qr/\r {79}\rancla: stopped by SIGINT while (?:its memory was filled|QEMU started)/, 'ends it, and says when';
	cmp_ok time - $begin, '<', 45 * $more, 'at once';
	clean 'nothing is left', $free;
};

# A group of this test's own for processes that have a limit of memory.
sub memory_group {
	my $version = cgroup_version('memory');
	my $parent = $version == 1 ? own_cgroup('memory') : cgroup_root('memory');
	write_cgroup("$parent/cgroup.subtree_control", '+memory') if $version == 2;
	my $group = "$parent/ancla-filling-$$";
	mkdir $group or die "$group: $!\n";
	# What is filled must not be swapped out instead.
	my $swap = "$group/" . ($version == 1 ? 'memory.swappiness' : 'memory.swap.max');
	write_cgroup($swap, 0) if -e $swap;
	return ($group, $version == 1 ? 'memory.limit_in_bytes' : 'memory.max');
}

# The kernel would not refuse the pages, but kill a process for each. The limit comes when a few dozen MiB are
# filled, and is half of the guest.
subtest 'the control group may have less than when it was counted' => sub {
	my ($group, $limit) = memory_group();
	my $large = make_spec(spec('large', { memory => '1GiB', 'memory-backing' => { prealloc => TRUE } }));
	my $run = spawn_command(in_cgroup($group, with_madvise($slow, 'run', $large)), traced());
	if (ok $run->wait_for_output(qr/^ancla: filling memory: \d+ of 1024 MiB/m), 'while memory is filled') {
		ok eval { write_cgroup("$group/$limit", 512 << 20); 1 }, 'the limit is lowered' or diag $@;
		ended $run->wait_exit, 4, qr{^ancla: guest memory: \d+MiB are still to be filled, and the control group may have \d+MiB more: \Q$group/$limit\E is 512MiB; raise that, or ask for less$}m,
			'is an error with both numbers';
	}
	clean 'nothing is left', $free;
	ok eventually(120, sub { rmdir $group }), 'nobody is in the group' or diag "$group: $!";
};

# What the kernel says when a page cannot be had: at the 40th chunk of one of the threads, or before, as
# each may have no more than its share of them.
my $chunk = $workers < 4 ? 40 : int(127 / $workers);
for (
	[ EHWPOISON => qr/guest memory on host node 0: a page of 4KiB is broken \(memory error of the hardware, see dmesg\) after \d+ of 65536/ ],
	[ EFAULT => qr/guest memory on host node 0: 65536 pages of 4KiB needed, \d+ had \(Bad address\), free: \d+MiB on node 0/ ],
	[ ENOMEM => qr/guest memory on host node 0: 65536 pages of 4KiB needed, \d+ had \(Cannot allocate memory\), free: \d+MiB on node 0: .*memory\.max/ ],
) {
	my ($error, $pattern) = @$_;
	subtest $error => sub {
		my $result = spawn_slowed("error=$error:when=$chunk+", 'start', make_spec(spec('filled', {
			memory => '256MiB', 'memory-backing' => { prealloc => TRUE, 'host-nodes' => '0' } })))->wait_exit;
		ended $result, 4, $pattern, 'is an error with node and count';
		clean 'nothing is left', $free;
	};
}

done_testing;
