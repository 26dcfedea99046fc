# A look that fails is not taken for "nobody is there", nor for "he is dead": a VM keeps what it holds, a
# start that is under way goes on, and what the dead left is given back by whoever can look.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Cgroups;
use Clock qw(time);
use Faults;

use Test::More;

# By these a command looks.
my $looks = 'open|openat|read|pread64|getdents64|access|faccessat2?|stat|fstat|newfstatat|statx|flock|pidfd_open|poll|ppoll';

# --- a VM that somebody has started, and is there for good ---

a_neighbour() or BAIL_OUT('no neighbour');

my $rival = make_spec(spec("rival$$", { memory => '16MiB', placement => { 'cpu-policy' => 'dedicated' },
	cputune => { vcpupin => { 0 => '1' }, emulatorpin => '0' } }));
# What is wrong if it has started. (Where the kernel says that there is no file, there is none.)
sub no_rival {
	my ($how) = @_;
	qemu_of("rival$$") or return;
	run_ancla('stop', '--force', "rival$$");
	return $how->[4] == Errno::ENOENT ? () : "it has the CPU of $beside, too";
}

try_all(command => [ 'start', $rival ], exit => 4, fails => 1, calls => $looks, least => 2,
	after => sub { return no_rival($_[1]), is_unharmed($_[1]) });

my $supervisor = json(AnclaTest::slurp(runtime_dir() . "/$beside/state.json"))->{launcher};
for ([ 0, 'list' ], [ 0, 'verify', $beside ], [ 0, 'repin', $beside ], [ 1, 'run', '--attach', $beside ]) {
	my ($exit, @command) = @$_;
	try_all(command => \@command, exit => $exit, fails => 1, calls => $looks, least => 4, after => sub {
		my ($result, $how) = @_;
		my @wrong = (is_unharmed($how), told_of_none($result, $how, $beside));
		push @wrong, "it does not list it: $result->{out}"
			if $command[0] eq 'list' && $result->{exit} == 0 && $result->{out} !~ /\b$beside\b/ && ($how->[4] // 0) != Errno::ENOENT;
		push @wrong, 'its supervisor is not known any more'
			if json(AnclaTest::slurp(runtime_dir() . "/$beside/state.json"))->{launcher} != $supervisor;
		return @wrong;
	});
}

# --- a start that is under way: it is not done, as QEMU does not answer ---

my $hangs = wrapper('hangs', "exec perl $ROOT/tests/lib/fake-qemu qmp_capabilities=hang -- \"\$@\"");
my $slow = make_spec(spec($vm, { memory => '16MiB', placement => { mode => 'static' }, cputune => { vcpupin => { 0 => '0' }, emulatorpin => '0' },
	qemu => { binary => $hangs } }));
my ($start, $since, $its_qemu);

sub end_start {
	$start->signal('TERM') if $start && $start->is_there;
	$start->wait_exit(20) if $start;
	undef $start;
	return;
}

# It gives up after 30 s.
sub a_start {
	return 1 if $start && is_running($its_qemu) && time < $since + 15;
	end_start();
	($start, $since) = (spawn_ancla('start', $slow), time);
	return eventually(20, sub { ($its_qemu) = map { /^(\d+) / } grep { /fake-qemu.*guest=$vm,/ } our_processes() })
		&& eventually(20, sub { AnclaTest::peek(runtime_dir() . "/$vm/state.json") =~ /"qemu":\s*$its_qemu\b/ });
}

for ([ 0, 'list' ], [ 1, 'status', $vm ], [ 1, 'run', '--attach', $vm ], [ 4, 'start', $rival ]) {
	my ($exit, @command) = @$_;
	try_all(command => \@command, exit => $exit, fails => 1, calls => $looks, least => 4, ready => \&a_start, after => sub {
		my ($result, $how) = @_;
		$start->step(0);
		my $ended = time >= $since + 28; # by itself, on a busy machine
		return ($ended || is_running($its_qemu) && $start->is_there ? () : "the start is dead"), no_rival($how), is_unharmed($how);
	});
}
end_start();

# --- what a dead VM has left: it is given back now, or by the next command ---

my $dead = tmpdir() . '/dead';
my (@cgroups, $owed);

sub copy { system('cp', '-a', @_) == 0 or die "cp @_: $?"; return }

# As it is after a kill, made once, and then made again by hand.
sub a_dead_vm {
	if (!-d $dead) {
		my $before = hugepages_total();
		run_ancla('start', $holding)->{exit} == 0 or return 0;
		$owed = hugepages_total() - $before;
		@cgroups = vm_cgroups(cgroup_root('cpu'), $vm);
		kill KILL => launcher_of(), pid_of();
		eventually(20, sub { !ours() }) or return 0;
		copy(runtime_dir() . "/$vm", $dead);
		return @cgroups && (!$pages || $owed);
	}
	copy($dead, runtime_dir() . "/$vm") unless -d runtime_dir() . "/$vm";
	-d or mkdir or return 0 for @cgroups;
	return !$pages || reserve_hugepages($Faults::total + $owed) == $Faults::total + $owed;
}

# What cannot be written to standard error is not said, either.
for ([ 0, 'write', 'list' ], [ 1, 'rename', 'status', $vm ]) {
	my ($exit, $more, @command) = @$_;
	try_all(command => \@command, exit => $exit, calls => "$looks|rmdir|unlink|unlinkat|renameat|getxattr|removexattr|$more",
		least => 7, ready => \&a_dead_vm, after => sub { return remains(), is_unharmed($_[1]) });
}

told_all();
done_testing;
