# A launch whose system calls fail, or that is killed in the middle, or whose QEMU is, leaves nothing
# behind; and what it says it did is done. So does one that takes a VM over, and a stop. Who runs beside
# it keeps what he has.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Clock qw(time);
use Faults;
use Test::More;

# Killed after `cont`, a launcher leaves a VM that runs and can be stopped; or the guard ends that.
sub launched {
	my ($result, $how) = @_;
	my @wrong;
	push @wrong, "it runs, but: $result->{verified}{out}$result->{verified}{err}"
		if $result->{ran} && $result->{verified}{exit} && $result->{verified}{exit} != 1;
	# Without the command its supervisor goes on, or ends.
	push @wrong, 'it neither runs nor ends' unless eventually(20, sub { !ours() || state_of() eq 'running' && !Faults::guards() });
	my @differs = pid_of() && state_of() eq 'running' ? is_verified() : ();
	push @wrong, @differs if @differs && !eventually(5, sub { !pid_of() });
	# Where the supervisor could not tell the command, it has ended the VM: then that is an error.
	push @wrong, 'nothing runs' if ($result->{err} // '') =~ /^ancla: $vm runs/m && !$result->{exit} && !pid_of() && $how->[0] !~ /qemu/ && !$result->{ran};
	return @wrong, is_unharmed($how), end_vm();
}

# Of the caller's it keeps nothing; and who is told of an error need not look for a VM, unless that says so.
sub detached {
	my ($result, $how) = @_;
	my @wrong;
	if (my $supervisor = pid_of() && state_of() eq 'running' && launcher_of()) {
		push @wrong, map { "its supervisor has $_" } grep { $_ ne '/dev/null' } map { readlink("/proc/$supervisor/fd/$_") // () } 0 .. 2
			if defined $result->{exit} && $result->{exit} == 0;
		push @wrong, "it runs, in spite of: $result->{err}" if ($result->{exit} // 0) == 1 && ($result->{err} // '') !~ /`ancla list` shows/;
	}
	return @wrong, launched($result, $how);
}

try_all(command => [ 'run', $path ], qemu => 'ours', after => \&launched,
	stays => sub { state_of() eq 'running' }, end => sub { run_ancla('stop', '--force', $vm) });

# Who takes a VM over takes nothing from it, except when he ends it.
sub end_supervisor {
	my $pid = launcher_of();
	kill KILL => $pid if $pid && is_running($pid);
	return !$pid || eventually(20, sub { !is_running($pid) });
}

try_all(command => [ 'run', '--attach', $vm ], qemu => 'theirs', exit => 137, most => 60,
	ready => sub { return a_vm() && end_supervisor() },
	# What it says may be what fails.
	stays => sub { $_[0]->err =~ /is taken over/ || time > $_[0]{started} + 3 && is_running(launcher_of()) },
	end => \&end_supervisor,
	after => sub {
		my ($result, $how) = @_;
		return end_vm() if $how->[0] eq '--kill-qemu';
		return pid_of() ? is_verified() : 'the VM is gone';
	});

end_vm();
a_neighbour() or BAIL_OUT('no neighbour');

try_all(command => [ 'start', $holding ], qemu => 'ours', after => \&detached);

try_all(command => [ 'stop', '--force', $vm ], qemu => 'theirs', ready => sub { return a_vm($holding) },
	after => sub { return is_unharmed($_[1]), end_vm() });

told_all();
done_testing;
