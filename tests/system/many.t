# Fifty VMs at once on the same CPUs: all start, all are verified, all stop, nothing is left.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

use constant MANY => 50;

# Firmware that finds nothing to boot, and then waits: it needs no CPU. Every third has its memory filled.
my @names = map { "one$_" } 1 .. MANY;
my @paths = map { make_spec(spec($names[$_], {
	memory => '16MiB', cputune => { vcpupin => { 0 => '0-1' }, emulatorpin => '0-1' },
	'memory-backing' => { prealloc => $_ % 3 ? FALSE : TRUE },
})) } 0 .. $#names;

# All at the same time; who is not done by then is told of.
sub all_do {
	my ($what, $pattern, @commands) = @_;
	my @running = map { spawn_ancla(@$_, { timeout => 300 }) } @commands;
	my @odd = grep { ($_->{exit} // -1) != 0 || "$_->{out}$_->{err}" !~ $pattern } map { $_->wait_exit(300) } @running;
	is_deeply [ map { "exit " . ($_->{exit} // 'none') . ": $_->{out}$_->{err}" } @odd ], [], "all $what";
	return;
}

all_do 'start', qr/runs \(QEMU/, map { [ 'start', $_ ] } @paths;
# Not in which state: a busy machine may take longer to tell than `list` waits.
is_deeply [ map { $_->{name} } @{ json(run_ancla('list', '--json')) } ], [ sort @names ], '`list` has them all';
my @qemus = grep { / -name guest=one\d+,/ } our_processes();
is scalar(@qemus), MANY, 'so has the kernel';
my %held;
$held{ $_->{vm} }{ $_->{role} } = $_->{cpus} for @{ json(run_ancla('host', '--json'))->{claims} };
is_deeply \%held, { map { $_ => { 'vcpu 0' => '0-1', emulator => '0-1' } } @names }, 'each holds what it asked for';
all_do 'verify', qr/^ok      vCPU 0: CPUs: 0-1$/m, map { [ 'verify', $_ ] } @names;
all_do 'move', qr/read back$/m, map { [ 'pin', $_, 'vcpu', '0', '1' ] } @names;
all_do 'verify', qr/^ok      vCPU 0: CPUs: 1$/m, map { [ 'verify', $_ ] } @names;
all_do 'stop', qr//, map { [ 'stop', '--force', $_ ] } @names;
is_deeply [ grep { -e runtime_dir() . "/$_" } @names ], [], 'and are gone by then';
clean 'nothing is left';
done_testing;
