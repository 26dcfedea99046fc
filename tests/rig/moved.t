# What is moved behind its back, `ancla verify` finds and names: a thread, its scheduler, a page of
# guest memory, huge or plain. Put back, all is well again.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

my $host = host();
my @nodes = grep { @{ $_->{cpus} } >= 3 } @{ $host->{nodes} };
my ($here, $there) = @nodes;
my ($cpu0, $emulator) = @{ $here->{cpus} };
my ($cpu1, $other) = @{ $there->{cpus} };

sub start {
	my ($backing) = @_;
	start_vm({
		name => 'moved', vcpus => 2, memory => '64MiB', 'memory-backing' => $backing,
		numa => { nodes => [
			{ vcpus => '0', memory => '32MiB', 'host-nodes' => "$here->{id}" },
			{ vcpus => '1', memory => '32MiB', 'host-nodes' => "$there->{id}" },
		] },
		cputune => {
			vcpupin => { 0 => "$cpu0", 1 => "$cpu1" }, emulatorpin => "$emulator",
			vcpusched => [ { vcpus => '1', scheduler => 'fifo', priority => 3 } ],
		},
		qemu => { accel => accel() }, boot => idle_firmware(),
	}) or return;
	return qemu_of('moved');
}

# verify fails, and names exactly one thing that differs.
sub found {
	my ($name, $what, $expected, $actual) = @_;
	my $result = run_ancla('verify', '--json', 'moved');
	is $result->{exit}, 5, "$name: exit code 5";
	my @bad = grep { !$_->{ok} } @{ json($result)->{checks} };
	is @bad, 1, "$name: one thing differs" or diag explain \@bad;
	like $bad[0]{what}, $what, "$name: which";
	like $bad[0]{expected}, $expected, "$name: what was expected";
	like $bad[0]{actual}, $actual, "$name: what there is";
	return;
}

sub all_well { ended run_ancla('verify', 'moved'), 0, qr//, $_[0] }

sub tid {
	my ($pid, $name) = @_;
	my ($tid) = map { $_->{tid} } grep { $_->{name} =~ $name } tasks($pid);
	return $tid;
}

for my $kind ([ 'huge pages', { hugepages => '2MiB' }, 3, 16 ], [ 'plain pages', { prealloc => TRUE }, 5, 8192 ]) {
	my ($pages, $backing, $count, $total) = @$kind;
	my $free = hugepages_free();
	my $pid = start($backing) or next;
	all_well "$pages: all is well";

	if ($pages eq 'huge pages') {
		my $vcpu = tid($pid, qr{^CPU 0/});
		run_command('taskset', '-cp', $other, $vcpu);
		found('a vCPU on another node', qr/^vCPU 0: CPUs$/, qr/^$cpu0$/, qr/^$other$/);
		run_command('taskset', '-cp', $cpu0, $vcpu);
		all_well 'a vCPU put back';
		run_command('taskset', '-cp', $other, $pid);
		found('the emulator on another node', qr/^emulator thread $pid .*: CPUs$/, qr/^$emulator$/, qr/^$other$/);
		run_command('taskset', '-cp', $emulator, $pid);
		my $fifo = tid($pid, qr{^CPU 1/});
		run_command('chrt', '--pid', '-o', '0', $fifo);
		found('a vCPU without FIFO', qr/^vCPU 1: scheduler$/, qr/^fifo:3$/, qr/^other$/);
		run_command('chrt', '--pid', '-f', '3', $fifo);
		all_well 'FIFO put back';
	}
	is_deeply [ witness('move', $pid, 'node0', $count, $there->{id}) ], ["moved $count"], "$pages: some move";
	my $left = $total - $count;
	found("$pages on another node", qr/^guest node 0: pages/, qr/\b$here->{id}\b/, qr/\b$count\b/);
	pages_are($pid, $backing->{hugepages} ? 2 << 20 : 4096,
		[ { $here->{id} => $left, $there->{id} => $count }, { $there->{id} => $total } ], "$pages: the witness agrees");
	is_deeply [ witness('move', $pid, 'node0', $count, $here->{id}) ], ["moved $count"], "$pages: they move back";
	all_well "$pages: all is well again";
	stop_vm('moved');
	clean "$pages: nothing is left", $free;
}
done_testing;
