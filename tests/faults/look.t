# Commands that only look say what is wrong where a system call fails, and change nothing: neither a
# VM that runs, nor the host.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Faults;
use Test::More;

for ([ 'check', $path ], [ 'plan', $path ], ['host']) {
	try_all(command => $_, after => sub { return leftovers() });
}

my $runs = sub {
	my ($result, $how) = @_;
	return end_vm() if $how->[0] eq '--kill-qemu';
	return told_of_none($result, $how, $vm), pid_of() ? is_verified() : 'the VM is gone';
};
for ([ 'verify', $vm ], [ 'status', $vm ], ['list']) {
	try_all(command => $_, ready => \&a_vm, qemu => 'theirs', after => $runs);
}

told_all();
done_testing;
