# A change of a running VM is done as a whole, or not at all: whichever system call fails. Where it
# is killed in the middle, `ancla repin` makes it one or the other.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Faults;
use Test::More;

my @parts = qw(threads cgroups plan spec);
sub same { my ($is, $was) = @_; return !grep { $is->{$_} ne $was->{$_} } @parts }
sub differences { my ($is, $was) = @_; return join '; ', map { "$_ is $is->{$_}, was $was->{$_}" } grep { $is->{$_} ne $was->{$_} } @parts }

my $base;

# As it was at first: put back by what undoes it, or started anew.
sub put_back {
	my (@undo) = @_;
	if ($base && pid_of()) {
		a_vm();
		return 1 if same(snapshot(), $base);
		run_ancla(@$_) for @undo;
		return 1 if same(snapshot(), $base);
		run_ancla('stop', '--force', $vm);
	}
	a_vm() or return 0;
	$base //= snapshot();
	return same(snapshot(), $base) || !diag 'it cannot be put back: ' . differences(snapshot(), $base);
}

# What is wrong after a kill in the middle, and `repin`.
sub after_kill {
	my ($new, $mend) = @_;
	my @wrong;
	my $mended = run_ancla('repin', $vm);
	push @wrong, "repin: $mended->{out}$mended->{err}" if $mended->{exit};
	$mend->() if $mend;
	my $is = snapshot();
	my $planned = $is->{plan} eq $new->{plan} ? $new : $base;
	push @wrong, "it is neither done nor not: $_ is $is->{$_}" for grep { $is->{$_} ne $planned->{$_} } qw(threads cgroups plan);
	push @wrong, 'the spec is neither the old one nor the new' if $is->{spec} ne $base->{spec} && $is->{spec} ne $new->{spec};
	return @wrong;
}

# change(COMMAND, [UNDO...], ...):
#   ready  what else is to be done before
#   mend   what is to be done after a kill, beside `repin`
#   half   what it says where it cannot undo: then `repin` makes it whole
#   wrong  true if the VM is not as planned before
sub change {
	my ($command, $undo, %more) = @_;
	my ($was, $new);
	my $ready = $more{ready} // sub { 1 };
	return try_all(command => $command, qemu => 'theirs',
		ready => sub { return put_back(@$undo) && $ready->() && !!($was = snapshot()) },
		after => sub {
			my ($result, $how) = @_;
			return end_vm() if $how->[0] eq '--kill-qemu';
			my @wrong;
			my $is = snapshot();
			my $done = $result->{exit} == 0 || $result->{exit} == 99 || $result->{err} =~ /cannot write to standard output/;
			$new = $is if $how->[0] eq '--list';
			if (was_killed($result, $how) || $more{half} && $result->{err} =~ $more{half}) {
				push @wrong, after_kill($new, $more{mend});
			} elsif ($done) {
				push @wrong, 'it is not done: ' . differences($is, $new) unless same($is, $new);
			} else {
				push @wrong, "it is half done: $result->{err}" . differences($is, $was) unless same($is, $was);
				return @wrong if $more{wrong};
			}
			# Who guards a new file sees only then that it is not wanted any more.
			push @wrong, "left: $path.*" unless eventually(5, sub { !grep { $_ ne $path && !-d } glob "$path*" });
			return @wrong, is_verified();
		});
}

change([ 'pin', $vm, 'vcpu', '0,1=1,0', '--save' ], [ [ 'pin', $vm, 'vcpu', '0,1=0,1' ] ]);
change([ 'pin', $vm, 'emulator', '1', 'iothread', 'io0', '0', '--scheduler', 'idle' ],
	[ [ 'pin', $vm, qw(emulator 0 --scheduler batch) ], [ 'pin', $vm, qw(iothread io0 1 --scheduler other) ] ]);
change([ 'pin', $vm, qw(shares 2048) ], []);
change([ 'pin', $vm, qw(memory --node 0) ], []);

# Behind the VM's back.
sub displace {
	my ($vcpu) = grep { join(' ', role_of($_)) eq 'vcpu 0' } tasks(pid_of());
	my ($cpu_1, $priority) = (pack('Q', 2), pack 'i', 0);
	return $vcpu && syscall(203, $vcpu->{tid} + 0, 8, $cpu_1) == 0 # sched_setaffinity
		&& syscall(144, pid_of() + 0, 5, $priority) == 0; # sched_setscheduler: idle
}
change([ 'repin', $vm ], [ [ 'repin', $vm ] ], ready => \&displace, wrong => 1);

change([ 'vcpus', $vm, '3' ], [], half => qr/vCPU 2 was added, but|whether vCPU 2 was added/);

# Killed between the two, QEMU has an iothread that the plan does not have.
sub remove_iothread { run_ancla('iothread', $vm, 'remove', $_[0]) if snapshot()->{plan} !~ /"$_[0]"/ }
my $may_be = qr/QEMU may have an iothread/;
change([ 'iothread', $vm, qw(add io1) ], [ [ 'iothread', $vm, qw(remove io1) ] ], half => $may_be, mend => sub { remove_iothread('io1') });
change([ 'iothread', $vm, qw(remove io0) ], [ [ 'iothread', $vm, qw(add io0 --cpus 1) ] ], half => $may_be, mend => sub { remove_iothread('io0') });

try_all(command => [ 'resume', $vm ], qemu => 'theirs',
	ready => sub { return put_back() && !!qmp(runtime_dir() . "/$vm/qmp.sock", 'stop') },
	after => sub {
		my ($result, $how) = @_;
		return end_vm() if $how->[0] eq '--kill-qemu';
		my $state = run_ancla('status', $vm);
		return "it is not resumed: $state->{out}$state->{err}" unless $state->{out} =~ /^$vm: (running|paused)/;
		return $result->{exit} || $1 eq 'running' ? is_verified() : 'it is not resumed';
	});

told_all();
done_testing;
