# Pages that VMs are given while others start: never the same twice, counted before QEMU exists; and
# pages that are reserved for a VM: as many as it lacks, given back however it ends.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

my $before = hugepages_total();
my $spare = 40;
cmp_ok reserve_hugepages($before + $spare), '>=', $before + $spare, "$spare huge pages of 2 MiB can be reserved"
	or BAIL_OUT('these tests need root and 80 MiB in huge pages');
my $total = hugepages_total();
my $free = hugepages_free();

# A VM of so many huge pages.
sub huge {
	my ($name, $pages, $more) = @_;
	return spec($name, AnclaVm::merge({
		memory => 2 * $pages . 'MiB', 'memory-backing' => { hugepages => '2MiB', 'host-nodes' => '0' },
	}, $more // {}));
}

sub growing { my ($name, $pages, $more) = @_; return huge($name, $pages, AnclaVm::merge({ 'memory-backing' => { hugepages => { size => '2MiB', reserve => 'grow' } } }, $more // {})) }

subtest 'twenty VMs at once for the pages of ten' => sub {
	my $each = int $free / 10;
	my $fit = int $free / $each; # more than ten, where somebody had pages free before
	my @results = map { $_->wait_exit } map { spawn_ancla('start', make_spec(huge("race$_", $each))) } 1 .. 20;
	is scalar(grep { $_->{exit} == 0 } @results), $fit, "$fit run" or diag map { "$_->{exit} $_->{err}" } @results;
	my @refused = grep { $_->{exit} == 4 && $_->{err} =~ /needs $each huge pages of 2MiB on host node 0, which has \d+ free/ } @results;
	is @refused, 20 - $fit, 'the others are told what is short, and where';
	is scalar(grep { /-name guest=/ } our_processes()), $fit, 'and had no QEMU';
	is hugepages_free(), $free - $fit * $each, 'all pages are taken that should be';
	my @stops = map { spawn_ancla('stop', '--force', $_->{name}) } @{ json(run_ancla('list', '--json')) };
	$_->wait_exit for @stops;
	clean 'all are back', $free;
};

# A QEMU that does not get on: its VM stays one that is being started.
my $stuck = wrapper('stuck', 'exec sleep 1000');
subtest 'pages of a VM that is only being started' => sub {
	my $launch = spawn_ancla('start', make_spec(huge('slow', $free - 4, { 'memory-backing' => { prealloc => 'qemu' }, qemu => { binary => $stuck } })));
	if (!eventually(120, sub { (json(AnclaTest::peek(runtime_dir() . '/slow/state.json') // '{}')->{qemu} // 0) > 0 })) {
		$launch->signal('TERM');
		return ended $launch->wait_exit, 0, qr/QEMU/, 'it has a QEMU';
	}
	is hugepages_free(), $free, 'the node still has them all';
	ended run_ancla('plan', make_spec(huge('second', 5))), 4,
		qr/needs 5 huge pages of 2MiB on host node 0, which has 4 free, not counting @{[$free - 4]} promised to VMs that are being started/, '`plan` counts them';
	my $second = spawn_ancla('start', make_spec(huge('second', 5)));
	my $stopped = spawn_ancla('start', make_spec(huge('stopped', 5)));
	eventually(120, sub { -d runtime_dir() . '/stopped' });
	$stopped->signal('TERM');
	ended $stopped->wait_exit, 1, qr/^ancla: stopped by SIGTERM while it waited for others to take their memory$/m, 'a start that waits for them can be stopped';
	my $third = run_ancla('start', make_spec(huge('third', 4)));
	ended $third, 0, qr/third runs/, 'one that fits beside them does not wait';
	kill TERM => $launch->{pid};
	ended $launch->wait_exit, 1, qr/stopped by SIGTERM/, 'the first gives up';
	ended $second->wait_exit, 0, qr/second runs/, 'and the second, which waited to see, has them';
	stop_vm($_) for qw(second third);
	clean 'all are back', $free;
};

# The commands are those that would help, wherever it would be placed.
subtest 'a shortage says what to do' => sub {
	my $command = "echo @{[$total + 8]} > /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
	for my $more ({ placement => { mode => 'static' } }, { placement => { mode => 'auto' }, 'memory-backing' => { 'host-nodes' => undef } }) {
		my $spec = huge('short', $free + 8, $more);
		delete $spec->{'memory-backing'}{'host-nodes'} if !defined $spec->{'memory-backing'}{'host-nodes'};
		ended run_ancla('plan', make_spec($spec)), 4, qr/\Q$command\E.*"reserve": "grow" in memory-backing\.hugepages/, "placement is $spec->{placement}{mode}";
	}
};

subtest 'missing pages are reserved, and given back when the VM ends' => sub {
	start_vm(growing('grows', $free + 7)) or return;
	is hugepages_total(), $total + 7, 'seven more';
	is hugepages_free(), 0, 'all are used';
	ended run_ancla('verify', 'grows'), 0, qr/ok/, 'verified';
	start_vm(growing('more', 3)) or return;
	is hugepages_total(), $total + 10, 'three more for another';
	stop_vm('grows');
	is hugepages_total(), $total + 3, 'seven less';
	is hugepages_free(), $free, 'but those of the other are its own';
	ended run_ancla('verify', 'more'), 0, qr/ok/, 'which still has them';
	stop_vm('more');
	is hugepages_total(), $total, 'all as before';
	clean 'nothing is left', $free;
};

subtest 'six that grow at once' => sub {
	my $each = int $free / 2;
	my $missing = 6 * $each - $free;
	my @results = map { $_->wait_exit } map { spawn_ancla('start', make_spec(growing("six$_", $each))) } 1 .. 6;
	is scalar(grep { $_->{exit} == 0 } @results), 6, 'all run' or diag map { "$_->{exit} $_->{err}" } @results;
	# What the others' threads are clearing just then, a page each, is neither free nor theirs yet.
	my $cpus = () = glob '/sys/devices/system/cpu/cpu[0-9]*';
	my $cleared = 6 * ($cpus < 16 ? $cpus : 16);
	my $added = hugepages_total() - $total;
	ok $added >= $missing && $added <= $missing + $cleared, 'as many were added as were missing' or diag $added;
	my @stops = map { spawn_ancla('stop', '--force', "six$_") } 1 .. 6;
	$_->wait_exit for @stops;
	is hugepages_total(), $total, 'all as before';
	clean 'nothing is left', $free;
};

subtest 'a VM that is killed with its supervisor' => sub {
	start_vm(growing('killed', $free + 5)) or return;
	my @pids = (json(runtime_dir() . '/killed/state.json')->{launcher}, qemu_of('killed'));
	kill KILL => @pids;
	wait_gone($_) for @pids;
	is hugepages_total(), $total + 5, 'nobody has given them back yet';
	run_ancla('list');
	is hugepages_total(), $total, 'the next command has';
	clean 'nothing is left', $free;
};

# Killed at each write: to the journal, to the kernel's file, to the plan.
subtest 'a launcher that is killed while it reserves' => sub {
	my $path = make_spec(growing('victim', $free + 5));
	my $traced = traced();
	my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
	my @odd;
	# Which calls there are between the first look at the journal and the plan.
	my $trace = tmpdir() . '/trace';
	my $launch = spawn_command('strace', '-o', $trace, $ancla, 'run', $path, $traced);
	ok $launch->wait_for_output(qr/victim runs/), 'it runs' or return;
	stop_vm('victim');
	$launch->wait_exit;
	my (%count, @calls, $within);
	for (split /\n/, AnclaTest::slurp($trace)) {
		my ($call) = /^(\w+)\(/ or next;
		$count{$call}++;
		$within = 1 if /reserved\.json/;
		push @calls, [ $call, $count{$call} ] if $within;
		last if $within && /plan\.json/ && $call =~ /^rename/;
	}
	cmp_ok scalar @calls, '>=', 10, scalar(@calls) . ' calls';
	for (@calls) {
		my ($call, $n) = @$_;
		my $result = run_command('strace', '-o', '/dev/null', '-e', "trace=$call", '-e', "inject=$call:signal=KILL:when=$n", $ancla, 'run', $path, $traced);
		push @odd, "$call $n: it was not killed" if defined $result->{exit};
		run_ancla('list');
		push @odd, "$call $n: " . (hugepages_total() - $total) . ' pages more' if hugepages_total() != $total;
	}
	is_deeply \@odd, [], 'the next command gives back what was added, to the page';
	clean 'nothing is left', $free;
};

subtest 'who may not reserve' => sub {
	my $bound = run_command(qw(unshare -m sh -c), 'mount -o bind,ro /sys /sys && exec "$@"', 'sh',
		$ENV{ANCLA} // "$BUILD/ancla", 'start', make_spec(growing('denied', $free + 1)));
	ended $bound, 4, qr{cannot change /sys/\S*/nr_hugepages: .*only root may reserve huge pages}, 'is told';
	ended run_ancla('start', make_spec(growing('denied', 1 << 24))), 4, qr/needs 16777216 huge pages of 2MiB on host node 0, which has \d+ free or could have by growing/,
		'nor is more reserved than a node has memory';
	is hugepages_total(), $total, 'nothing was';
	clean 'nothing is left', $free;
};

done_testing;
