# What a VM holds is given to nobody else: its name, its dedicated CPUs, its huge pages; as long as it
# lives and no longer, and for one of many that ask at the same time.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

my $free = hugepages_free();

sub on_cpu {
	my ($name, $cpu, $policy, $more) = @_;
	return spec($name, AnclaVm::merge({
		placement => { mode => 'static', 'cpu-policy' => $policy // 'dedicated' },
		cputune => { vcpupin => { 0 => "$cpu" }, emulatorpin => '0' },
	}, $more // {}));
}

subtest 'a name' => sub {
	start_vm(spec('name')) or return;
	my $pid = qemu_of('name');
	ended run_ancla($_, make_spec(spec('name'))), 1,
		qr/^ancla: a VM named "name" is already running; `ancla stop name` ends it, or give this one another name$/m,
		"`$_` refuses it" for qw(start run);
	is qemu_of('name'), $pid, 'the first one still runs';
	ended run_ancla('verify', 'name'), 0, qr/ok/, 'unharmed';
	stop_vm('name');
	start_vm(spec('name')) and stop_vm('name');
};

subtest 'a dedicated CPU' => sub {
	start_vm(on_cpu('first', 1)) or return;
	my $refusal = qr/CPUs? (?:0-)?1,? .*"first" holds 1 alone \(vcpu 0\)|CPUs? 1\b.*first|first.*CPUs? 1\b/;
	ended run_ancla('start', make_spec(on_cpu('second', 1))), 4, $refusal, 'is not given to another VM';
	ended run_ancla('start', make_spec(on_cpu('second', 1, 'shared'))), 4, $refusal, 'nor shared with one';
	ended run_ancla('start', make_spec(spec('second', { cputune => { vcpupin => { 0 => '0' }, emulatorpin => '1' } }))), 4,
		$refusal, 'nor to its emulator threads';
	ended run_ancla('start', make_spec(spec('second', { cputune => { vcpupin => { 0 => '0' }, emulatorpin => '0', iothreadpin => { io0 => '0-1' } }, iothreads => ['io0'] }))), 4,
		$refusal, 'nor to its iothread';
	ended run_ancla('start', make_spec(spec('second', { placement => { mode => 'auto' }, vcpus => 2 }))), 4, qr/CPU/, 'nor found by auto';
	ended run_ancla('plan', make_spec(on_cpu('second', 1))), 4, $refusal, '`plan` sees it';
	my ($claim) = grep { $_->{vm} eq 'first' && $_->{cpus} eq '1' } @{ json(run_ancla('host', '--json'))->{claims} };
	ok $claim, '`host` shows it' or diag run_ancla('host', '--json')->{out};
	start_vm(on_cpu('beside', 0, 'shared')) and stop_vm('beside');
	is_deeply [ glob runtime_dir() . '/*' ], [ runtime_dir() . '/first' ], 'nothing is left of those refused';
	stop_vm('first');
	start_vm(on_cpu('second', 1)) and stop_vm('second');
};

subtest 'a shared CPU is not made dedicated' => sub {
	start_vm(on_cpu('sharing', 1, 'shared')) or return;
	ended run_ancla('start', make_spec(on_cpu('greedy', 1))), 4, qr/sharing/, 'while somebody uses it';
	start_vm(on_cpu('modest', 1, 'shared')) and stop_vm('modest');
	stop_vm('sharing');
};

# All ancla commands of these specs at once; their results.
sub at_once { my @runs = map { spawn_ancla('start', make_spec($_)) } @_; return map { $_->wait_exit } @runs }

subtest 'twenty at once for one CPU' => sub {
	my @results = at_once(map { on_cpu("vm$_", 1) } 1 .. 20);
	my @won = grep { $results[$_]{exit} == 0 } 0 .. 19;
	is @won, 1, 'one has it' or diag explain \@results;
	my $winner = 'vm' . ($won[0] + 1);
	my @lost = grep { $_->{exit} == 4 && $_->{err} =~ /\bCPUs? 1\b/ && $_->{err} =~ /\b$winner\b/ } @results;
	is @lost, 19, 'the others are told who' or diag map { "$_->{exit} $_->{err}" } @results;
	my @qemus = grep { /-name guest=/ } our_processes();
	is @qemus, 1, 'and one QEMU runs';
	is_deeply [ map { $_->{name} } @{ json(run_ancla('list', '--json')) } ], [$winner], '`list` agrees';
	stop_vm($winner);
	clean;
};

subtest 'twelve at once of one name' => sub {
	my $path = make_spec(spec('same'));
	my @runs = map { spawn_ancla('start', $path) } 1 .. 12;
	my @results = map { $_->wait_exit } @runs;
	is scalar(grep { $_->{exit} == 0 } @results), 1, 'one wins';
	is scalar(grep { $_->{exit} == 1 && $_->{err} =~ /already running/ } @results), 11, 'the others are told'
		or diag map { "$_->{exit} $_->{err}" } @results;
	stop_vm('same');
	clean;
};

subtest 'twelve at once of twelve names' => sub {
	my @results = at_once(map { spec("free$_") } 1 .. 12);
	is scalar(grep { $_->{exit} == 0 } @results), 12, 'all start' or diag map { "$_->{exit} $_->{err}" } @results;
	is @{ json(run_ancla('list', '--json')) }, 12, 'all are listed';
	my @stops = map { spawn_ancla('stop', '--force', "free$_") } 1 .. 12;
	is scalar(grep { $_->wait_exit->{exit} == 0 } @stops), 12, 'all stop, at once';
	clean;
};

subtest 'starts and stops of one name, over and over' => sub {
	my $path = make_spec(spec('churn'));
	my @odd;
	for (1 .. 8) {
		my @runs = map { spawn_ancla(@$_) } ['start', $path], ['stop', '--force', 'churn'], ['start', $path], ['list'];
		# A start that does not end within 5 s when it is told to is killed by who told it.
		push @odd, grep { $_->{signal} != 9 || $_->{timed_out} } grep { !defined $_->{exit} || $_->{exit} > 1
			|| $_->{exit} == 1 && $_->{err} !~ /already running|no VM "churn"|is ending|being started|stopped by SIG|was killed by SIG|QEMU exited|is gone/ } map { $_->wait_exit } @runs;
	}
	is_deeply [ map { "$_->{exit} $_->{err}" } @odd ], [], 'nothing odd is said';
	run_ancla('stop', '--force', 'churn');
	clean;
};

subtest 'huge pages' => sub {
	my $total = hugepages_total();
	cmp_ok reserve_hugepages($total + 40), '>=', $total + 40, '40 huge pages of 2 MiB' or return;
	my $all = hugepages_free();
	my $big = sub { spec($_[0], { memory => 2 * ($all - 8) . 'MiB', 'memory-backing' => { hugepages => '2MiB' } }) };
	my @results = at_once(map { $big->("pages$_") } 1 .. 4);
	is scalar(grep { $_->{exit} == 0 } @results), 1, 'one of four has them' or diag map { $_->{err} } @results;
	is scalar(grep { $_->{exit} == 4 && $_->{err} =~ /huge pages of 2MiB/ } @results), 3, 'the others are told that they are short';
	stop_vm($_) for grep { qemu_of($_) } map { "pages$_" } 1 .. 4;
	is hugepages_free(), $all, 'all are back';
};

clean 'nothing is left', $free;
done_testing;
