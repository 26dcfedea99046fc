# `ancla pin` changes where the threads of a running VM may run and how they are scheduled: checked as
# a launch is, by the kernel's own word, all or nothing, and what the VM holds changes with it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

my $cpus = () = glob '/sys/devices/system/cpu/cpu[0-9]*';
BAIL_OUT('these tests pin threads to CPUs 0 and 1, and there is one CPU') if $cpus < 2;

my %two = (
	vcpus => 2, iothreads => ['io0'],
	cputune => { vcpupin => { 0 => '0', 1 => '1' }, emulatorpin => '0', iothreadpin => { io0 => '1' } },
);

# The roles are those that the kernel now has for the named ones; "emulator" is all that are its.
sub are {
	my ($name, $expected, $what) = @_;
	my %is;
	for my $task (tasks(qemu_of($name))) {
		my ($role, $which) = role_of($task);
		$is{ defined $which ? "$role $which" : $role }{ AnclaVm::placed($task) } = 1;
	}
	is_deeply { map { $_ => join ' and ', sort keys %{ $is{$_} // {} } } keys %$expected }, $expected, $what;
}

sub plan_of { my ($name) = @_; return AnclaTest::slurp(runtime_dir() . "/$name/plan.json") }

sub pinned { my ($words, $pattern) = @_; return ended run_ancla('pin', split ' ', $words), 0, $pattern // qr/read back$/m, "pin $words" }

# Refused with these words, and neither a thread nor the plan is touched.
sub refused {
	my ($words, $exit, $pattern) = @_;
	my ($name) = split ' ', $words;
	my ($before, $plan) = (roles(qemu_of($name)), plan_of($name));
	ended run_ancla('pin', split ' ', $words), $exit, $pattern, "pin $words: refused";
	is_deeply roles(qemu_of($name)), $before, 'no thread was touched';
	is plan_of($name), $plan, 'nor the plan';
}

subtest 'CPUs: the whole set, one to one, the emulator, an iothread' => sub {
	start_vm(spec('live', \%two)) or return;
	pinned 'live vcpu 0-1 0-1';
	are 'live', { 'vcpu 0' => '0-1 other', 'vcpu 1' => '0-1 other', emulator => '0 other', 'iothread io0' => '1 other' },
		'each vCPU has the whole set, and nobody else moved';
	pinned 'live vcpu 0-1=1,0';
	are 'live', { 'vcpu 0' => '1 other', 'vcpu 1' => '0 other' }, 'one to one, in the order written';
	pinned 'live emulator 0-1 iothread io0 0 vcpu 1 1';
	are 'live', { 'vcpu 0' => '1 other', 'vcpu 1' => '1 other', emulator => '0-1 other', 'iothread io0' => '0 other' },
		'several in one call';
	ended run_ancla('verify', 'live'), 0, qr/^ok      vCPU 1: CPUs: 1$/m, 'verify goes by the new plan';
	my ($listed) = @{ json(run_ancla('list', '--json')) };
	is $listed->{cpus}, '1', 'so does list';
	my @claims = grep { $_->{vm} eq 'live' } @{ json(run_ancla('host', '--json'))->{claims} };
	is_deeply { map { $_->{role} => $_->{cpus} } @claims },
		{ 'vcpu 0' => '1', 'vcpu 1' => '1', emulator => '0-1', 'iothread io0' => '0' }, 'the claim is the new one';
	pinned 'live vcpu 0 1', qr/^nothing to change$/m;
	stop_vm('live');
};

subtest 'scheduling, with CPUs and without' => sub {
	start_vm(spec('live', { %two, vcpus => 1, cputune => { vcpupin => { 0 => '1' }, emulatorpin => '0' } })) or return;
	pinned 'live vcpu 0 --scheduler fifo:3';
	are 'live', { 'vcpu 0' => '1 fifo:3', emulator => '0 other' }, 'a FIFO vCPU';
	my ($claim) = grep { $_->{role} eq 'vcpu 0' } @{ json(run_ancla('host', '--json'))->{claims} };
	ok $claim->{dedicated}, 'holds its CPU alone';
	pinned 'live emulator iothread io0 --scheduler=batch';
	are 'live', { 'vcpu 0' => '1 fifo:3', emulator => '0 batch', 'iothread io0' => '0 batch' }, 'a batch emulator and iothread';
	refused 'live emulator 0-1', 4, qr/vCPU 0 runs fifo on CPUs 1 and would starve the emulator threads on 0-1/;
	refused 'live iothread io0 1', 4, qr/vCPU 0 runs fifo on CPUs 1 and would starve iothread io0 on 1/;
	pinned 'live vcpu 0 0 emulator 1 iothread io0 1 --scheduler other';
	are 'live', { 'vcpu 0' => '0 other', emulator => '1 other', 'iothread io0' => '1 other' }, 'all changed places';
	ended run_ancla('verify', 'live'), 0, qr/./, 'as planned';
	stop_vm('live');
};

subtest 'a FIFO vCPU and the emulator change places' => sub {
	start_vm(spec('live', { %two, vcpus => 1, cputune => {
		vcpupin => { 0 => '1' }, emulatorpin => '0', vcpusched => [ { vcpus => '0', scheduler => 'fifo', priority => 1 } ],
	} })) or return;
	pinned 'live emulator 1 iothread io0 1 vcpu 0 0';
	are 'live', { 'vcpu 0' => '0 fifo:1', emulator => '1 other', 'iothread io0' => '1 other' }, 'in one call';
	stop_vm('live');
};

subtest 'what a launch refuses' => sub {
	start_vm(spec('live', \%two)) or return;
	refused 'live vcpu 0 0,4095', 4, qr/vCPU 0 is pinned to CPUs 0,4095, but the host has no CPU 4095 online/;
	refused 'live emulator 4095', 4, qr/the emulator is pinned to CPUs 4095/;
	refused 'live vcpu 0-1 1 --scheduler fifo:1', 4, qr/vCPU 0 runs fifo on CPUs 1 and would starve vCPU 1 on 1/;
	refused 'live vcpu 0 --scheduler fifo:1', 4, qr/would starve the emulator/;
	refused 'live vcpu 2 0', 1, qr/has no vCPU 2; it has 0 to 1/;
	refused 'live iothread io9 0', 1, qr/has no iothread "io9"/;
	ended run_ancla('pin', 'live', @$_[0 .. $#$_ - 1]), 2, $_->[-1], "pin @$_[0 .. $#$_ - 1]: usage" for (
		[ 'vcpu', '0', qr/nothing to change; give CPUs, or --scheduler/ ], [ 'vcpu', qr/needs a list/ ],
		[ 'vpcu', '0', '1', qr/no target "vpcu"; did you mean "vcpu"\? there are .*memory$/m ], [ 'vcpu', '0-1=0', qr/2 vCPUs and 1 CPU$/m ],
		[ 'vcpu', '0', '0', 'vcpu', '0', '1', qr/vcpu 0 is named twice/ ], [ 'emulator', 'x', qr/CPUs: / ],
		[ 'emulator', '--scheduler', 'fifo', qr/needs a priority/ ], [ 'emulator', '--scheduler', 'fifo:100', qr/1 to 99/ ],
		[ 'emulator', '--scheduler', 'deadline', qr/not "deadline"/ ], [ 'iothread', qr/needs a name/ ],
	);
	stop_vm('live');
};

subtest 'what another VM holds' => sub {
	my $on = sub { spec($_[0], { cputune => { vcpupin => { 0 => $_[1] }, emulatorpin => '0' }, placement => { 'cpu-policy' => $_[2] } }) };
	start_vm($on->('alone', '1', 'dedicated')) and start_vm($on->('live', '0', 'shared')) or return;
	my $held = qr/VM "alone" holds 1 alone \(vcpu 0\)/;
	refused 'live vcpu 0 1', 4, $held;
	refused 'live emulator 0-1', 4, $held;
	refused 'alone vcpu 0 0', 4, qr/vcpu 0 needs CPUs 0 alone, but VM "live" holds 0/;
	pinned 'alone vcpu 0 1 --scheduler fifo:1';
	stop_vm('alone');
	pinned 'live vcpu 0 1';
	ended run_ancla('start', make_spec($on->('alone', '1', 'dedicated'))), 4, qr/VM "live" holds 1/, 'what was pinned is held';
	stop_vm('live');
	start_vm($on->('alone', '1', 'dedicated')) and stop_vm('alone');
};

subtest '--dry-run shows what would change, and changes nothing' => sub {
	start_vm(spec('live', \%two)) or return;
	my ($before, $plan) = (roles(qemu_of('live')), plan_of('live'));
	ended run_ancla(qw(pin live vcpu 0 1 --scheduler batch --dry-run)), 0,
		qr/^vcpu 0 +0 +other +1 +batch\nnothing was changed/m, 'in words';
	my $result = json(run_ancla(qw(pin live vcpu 0 1 --scheduler batch --dry-run --json)));
	is_deeply $result, {
		name => 'live', 'dry-run' => TRUE, threads => 0,
		changes => [ {
			role => 'vcpu', index => 0, cpus => '1', scheduler => 'batch', priority => 0,
			was => { cpus => '0', scheduler => 'other', priority => 0 },
		} ],
	}, 'as JSON';
	is_deeply roles(qemu_of('live')), $before, 'no thread was touched';
	is plan_of('live'), $plan, 'nor the plan';
	refused 'live vcpu 0 --scheduler fifo:1 --dry-run', 4, qr/would starve the emulator/;
	stop_vm('live');
};

subtest 'a step that fails leaves everything as it was' => sub {
	start_vm(spec('live', { %two, cputune => { vcpupin => { 0 => '0', 1 => '1' }, emulatorpin => '0' } })) or return;
	my ($before, $plan) = (roles(qemu_of('live')), plan_of('live'));

	# The emulator, iothread and vCPU 0 have moved when the plan cannot be written: its temporary name is taken.
	my $taken = runtime_dir() . '/live/plan.json.new';
	mkdir $taken or die;
	ended run_ancla('pin', 'live', split / /, 'vcpu 0-1=1,0 emulator 1 iothread io0 1'), 1, qr/cannot write plan.json/, 'the plan cannot be written';
	rmdir $taken or die;
	is_deeply roles(qemu_of('live')), $before, 'every thread is back';
	is plan_of('live'), $plan, 'the plan is the old one';
	ended run_ancla('verify', 'live'), 0, qr/./, 'as planned';
	stop_vm('live');
};

subtest 'a scheduler that the kernel refuses' => sub {
	plan skip_all => 'only root can drop privileges' if $> != 0;
	my @without = (qw(setpriv --bounding-set -sys_nice -- prlimit --rtprio=0:0), $ENV{ANCLA} // "$BUILD/ancla");
	my $spec = spec('live', { %two, vcpus => 1, cputune => { vcpupin => { 0 => '0' }, emulatorpin => '0' } });
	ended run_command(@without, 'start', make_spec($spec)), 0, qr/live runs/, 'a VM without privileges' or return;
	my ($before, $plan) = (roles(qemu_of('live')), plan_of('live'));
	# The vCPU is on its new CPU already when FIFO is refused.
	my $result = run_command(@without, qw(pin live vcpu 0 1 --scheduler fifo:1));
	ended $result, 4, qr/the kernel refuses vCPU 0 the scheduler fifo with priority 1: .*CAP_SYS_NICE/, 'FIFO is refused';
	is_deeply roles(qemu_of('live')), $before, 'the vCPU is back where it was';
	is plan_of('live'), $plan, 'the plan is the old one';
	stop_vm('live');
};

subtest 'several at once come one after the other' => sub {
	start_vm(spec('live', \%two)) or return;
	my @runs = map { spawn_ancla('pin', 'live', split ' ', $_) }
		('vcpu 0-1=1,0', 'vcpu 0-1=0,1', 'vcpu 0-1 0-1', 'emulator 0-1', 'vcpu 0-1 --scheduler batch', 'emulator 1');
	is_deeply [ map { $_->wait_exit->{exit} } @runs ], [ (0) x @runs ], 'all succeed';
	ended run_ancla('verify', 'live'), 0, qr/vCPU 0: scheduler: batch/, 'and in the end the threads are as the plan says';
	stop_vm('live');
};

# A spec in a file of this text, for --save.
sub spec_file {
	my ($text) = @_;
	my $path = tmpdir() . '/kept.json';
	open my $file, '>', $path or die "$path: $!";
	print $file $text;
	close $file or die "$path: $!";
	return $path;
}

my $kept = <<'END';
// A spec with comments.
{
  "name": "kept", "memory": "64MiB", "vcpus": 2, /* two */ "iothreads": [ "io0", "io1" ],
  "placement": { "mode": "static" }, "qemu": { "accel": "tcg" },
  "cputune": {
    "vcpupin": { "0": "0" /* low */, "1": "1" },
    "emulatorpin": "0", // "emulatorpin": "1" was too slow
    "vcpusched": [ { "vcpus": "0-1", "scheduler": "batch" } ] // both
  }
}
END

subtest '--save writes it to the spec, and nothing else' => sub {
	my $path = spec_file($kept);
	chmod 0640, $path or die;
	ended run_ancla('start', $path), 0, qr/kept runs/, 'it runs' or return;
	pinned 'kept vcpu 0-1=1,0 iothread io1 1 --save';
	my $expected = $kept =~ s/"0": "0" (.*), "1": "1"/"0": "1" $1, "1": "0"/r
		=~ s/(batch" \} \]) (.*)/$1, $2\n    "iothreadpin": { "io1": "1" }/r;
	is AnclaTest::slurp($path), $expected, 'CPUs, with every comment in its place';
	is sprintf('%o', (stat $path)[2] & 07777), '640', 'and the mode kept';
	pinned 'kept vcpu 0 --scheduler idle --save';
	$expected =~ s/"vcpus": "0-1", ("scheduler": "batch" \}) \]/"vcpus": "1", $1, { "vcpus": "0", "scheduler": "idle" } ]/;
	is AnclaTest::slurp($path), $expected, 'a scheduler for one of two';
	pinned 'kept emulator iothread io0 --scheduler fifo:2 --save';
	my $spec = AnclaTest::slurp($path);
	like $spec, qr/"emulatorsched": \{ "scheduler": "fifo", "priority": 2 \}/, 'the emulator\'s';
	like $spec, qr/"iothreadsched": \[ \{ "iothreads": "io0", "scheduler": "fifo", "priority": 2 \} \]/, 'an iothread\'s';
	pinned 'kept emulator iothread io0 vcpu 0-1 --scheduler other --save';
	unlike AnclaTest::slurp($path), qr/fifo|priority|idle/, 'and all of it taken back';
	my $threads = roles(qemu_of('kept'));
	my %named = map { $_ => $threads->{$_} } grep { /^(vcpu|iothread)/ } keys %$threads;
	stop_vm('kept');
	ended run_ancla('start', $path), 0, qr/kept runs/, 'the next start' or return;
	$threads = roles(qemu_of('kept'));
	is_deeply { map { $_ => $threads->{$_} } grep { /^(vcpu|iothread)/ } keys %$threads }, \%named, 'is as the VM was left';
	my $before = AnclaTest::slurp($path);
	pinned 'kept vcpu 0 0 --save --dry-run', qr/nothing was changed/;
	is AnclaTest::slurp($path), $before, '--dry-run writes nothing';
	is_deeply [ glob "$path.*" ], [], 'no other file is left';

	open my $file, '>>', $path or die;
	print $file '}';
	close $file;
	refused 'kept vcpu 0 0 --save', 3, qr/^ancla: --save: .*kept\.json:\d+: not JSON/m;
	spec_file($kept =~ s/"kept"/"another"/r);
	refused 'kept vcpu 0 0 --save', 3, qr/is the spec of "another" by now, not of "kept"/;
	unlink $path or die;
	refused 'kept vcpu 0 0 --save', 3, qr/is not a file \(any more\)/;
	stop_vm('kept');
};

subtest '--save keeps the placement of what is not pinned automatic' => sub {
	my $path = spec_file('{ "name": "kept", "memory": "64MiB", "vcpus": 1, "qemu": { "accel": "tcg" },' . "\n"
		. '  "placement": { "cpu-policy": "shared" } }');
	ended run_ancla('start', $path), 0, qr/kept runs/, 'it runs' or return;
	pinned 'kept vcpu 0 0-1 --save';
	like AnclaTest::slurp($path), qr/"placement": \{ "cpu-policy": "shared", "mode": "auto" \},\s+"cputune": \{ "vcpupin": \{ "0": "0-1" \} \} \}/,
		'and says so';
	stop_vm('kept');
};

subtest 'repin puts right what others have moved, and nothing else' => sub {
	start_vm(spec('live', \%two)) or return;
	my $pid = qemu_of('live');
	my %tid = map { my @role = role_of($_); ("@role", $_->{tid}) } grep { $_->{tid} != $pid } tasks($pid);
	my $right = roles($pid);
	ended run_ancla(qw(repin live)), 0, qr/^every thread of live is as planned$/m, 'nothing to do';
	run_command('taskset', '-cp', '0-1', $pid);
	run_command('taskset', '-cp', '0', $tid{'vcpu 1'});
	run_command('chrt', '--pid', '-i', '0', $tid{'iothread io0'});
	ended run_ancla('verify', 'live'), 5, qr/3 of/, 'three were moved';
	my $result = run_ancla(qw(repin live --json));
	is $result->{exit}, 0, 'repin succeeds';
	is_deeply { map { $_->{tid} => $_ } @{ json($result)->{changes} } }, {
		$pid => { tid => $pid, thread => "emulator thread $pid (qemu-system-x86)", cpus => '0', scheduler => 'other', priority => 0,
			was => { cpus => '0-1', scheduler => 'other', priority => 0 } },
		$tid{'vcpu 1'} => { tid => 0 + $tid{'vcpu 1'}, thread => 'vCPU 1', cpus => '1', scheduler => 'other', priority => 0,
			was => { cpus => '0', scheduler => 'other', priority => 0 } },
		$tid{'iothread io0'} => { tid => 0 + $tid{'iothread io0'}, thread => 'iothread io0', cpus => '1', scheduler => 'other',
			priority => 0, was => { cpus => '1', scheduler => 'idle', priority => 0 } },
	}, 'it says what it changed';
	is_deeply roles($pid), $right, 'every thread is as planned again';
	ended run_ancla(qw(repin live)), 0, qr/^every thread of live is as planned$/m, 'once more: nothing to do';
	run_command('taskset', '-cp', '0', $tid{'vcpu 1'});
	ended run_ancla(qw(repin live)), 0, qr/^vCPU 1: was on 0, other; is on 1, other$/m, 'in words';
	stop_vm('live');
};

# Pages come as Linux boots: one that comes between the first look and the move has not moved.
subtest 'memory that is where it should be' => sub {
	my $console = tmpdir() . '/console';
	start_vm(linux('boots', 'ancla.do=idle', { serial => { file => $console }, 'memory-backing' => { 'host-nodes' => '0' } })) or return;
	my @told;
	ok eventually(120, sub {
		my $result = run_ancla(qw(pin boots memory 0 --node 0));
		push @told, $result->{out} if !$result->{exit}; # a busy QEMU may answer too late
		(AnclaTest::peek($console) // '') =~ /ANCLA-GUEST-READY/;
	}, 0.1), 'Linux boots' and cmp_ok scalar @told, '>', 0, 'and pages came meanwhile';
	is_deeply [ grep { !/^guest node 0: 0 of \d+ pages/ } @told ], [], 'none is said to have moved, in ' . @told . ' tries';
	stop_vm('boots');
};

subtest 'no such VM' => sub {
	ended run_ancla(qw(pin nobody vcpu 0 0)), 1, qr/no VM "nobody" runs/, 'is said';
	ended run_ancla(qw(repin nobody)), 1, qr/no VM "nobody" runs/, 'to repin, too';
};

clean 'nothing is left';
done_testing;
