# A QEMU that does not answer is given up after the limit of launch.h, killed, and told about; a wish
# to stop ends the wait at once. All of them wait at the same time.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

sub fake {
	my ($name, @does) = @_;
	return wrapper("fake-$name", "exec perl $ROOT/tests/lib/fake-qemu @does -- \"\$@\"");
}

# name, binary, exit code, message
my @cases = (
	['silent', wrapper('silent', 'exec sleep 1000'), 1, qr/QEMU did not greet within 30 s; it was killed. Is .* a QEMU\?/],
	['greeted', fake('greeted', 'qmp_capabilities=hang'), 1, qr/QEMU did not (?:greet|become ready) within 30 s/],
	['cpus', fake('cpus', 'query-cpus-fast=hang'), 1, qr/query-cpus-fast.*(?:10 s|time|reply)/],
	['cont', fake('cont', 'cont=hang'), 1, qr/cont.*(?:10 s|time|reply)/],
	['closed', fake('closed', 'query-cpus-fast=close'), 1, qr/closed/],
	['mute', wrapper('mute', 'exec sleep 1000', 1), 4, qr/qemu\.binary: .*did not answer within 30 s/],
	['children', wrapper('children', 'sleep 1000 & sleep 1000', 1), 4, qr/did not answer within 30 s/],
	['yes', '/bin/yes', 4, qr/cannot be asked what it can do/],
);
my %running = map { $_->[0] => spawn_ancla('start', make_spec(spec($_->[0], { qemu => { binary => $_->[1] } }))) } @cases;

subtest 'meanwhile' => sub {
	ok eventually(120, sub { -e runtime_dir() . "/silent/state.json" }), 'it waits' or return;
	my $list = run_ancla('list', '--json');
	my ($silent) = grep { $_->{name} eq 'silent' } @{ json($list) };
	is $silent->{state}, 'starting', '`list` does not wait for it, and says that it is being started';
	my $status = run_ancla('status', 'silent');
	ended $status, 1, qr/"silent" is being started/, '`status` does not wait either';

	my $other = spawn_ancla('start', make_spec(spec('stopped', { qemu => { binary => $cases[0][1] } })));
	ok eventually(120, sub { -e runtime_dir() . "/stopped/state.json" }), 'another one waits';
	ended run_ancla('stop', 'stopped'), 0, qr/^$/, '`stop` ends a start';
	ended $other->wait_exit, 1, qr/stopped by SIGTERM while QEMU started/, 'which says so';
	ok !-e runtime_dir() . '/stopped', 'nothing is left of it';

	for my $signal (qw(INT TERM HUP)) {
		my $launch = spawn_ancla('start', make_spec(spec("by-$signal", { qemu => { binary => $cases[0][1] } })));
		ok eventually(120, sub { -e runtime_dir() . "/by-$signal/state.json" }), 'it waits' or next;
		$launch->signal($signal);
		ended $launch->wait_exit, 1, qr/stopped by SIG$signal while QEMU started/, "SIG$signal ends it";
		ok !-e runtime_dir() . "/by-$signal", 'nothing is left of it';
	}
	my $launch = spawn_ancla('run', make_spec(spec('asked', { qemu => { binary => wrapper('mute2', 'exec sleep 1000', 1) } })));
	ok eventually(120, sub { grep { /sleep 1000/ && /mute2|asked/ || /ancla run/ } our_processes() }), 'one that asks';
	$launch->signal('TERM');
	my $result = $launch->wait_exit;
	isnt $result->{exit}, 0, 'SIGTERM ends one that asks QEMU what it can do';
	unlike $result->{err}, qr/within 30 s/, 'before QEMU has had its 30 s';
};

my $deaf = spawn_ancla('run', make_spec(spec('deaf')));
ok $deaf->wait_for_output(qr/deaf runs/), 'a VM without a guest';
$deaf->signal('TERM');
ok $deaf->wait_for_output(qr/asked the guest to power down/), 'is asked to power down';

for (@cases) {
	my ($name, undef, $exit, $message) = @$_;
	ended $running{$name}->wait_exit, $exit, $message, $name;
}
ok $deaf->wait_for_output(qr/the guest did not power down within 30 s; once more forces it off/), 'that it does not is told';
$deaf->signal('TERM');
ended $deaf->wait_exit, 1, qr/the guest was forced off/, 'and once more forces it off';
clean 'nothing is left';
done_testing;
