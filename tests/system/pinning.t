# Every thread of a VM is where its spec says and scheduled as it says, by the kernel's own word;
# ancla says the same; and a thread that is moved behind its back is found.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

my $cpus = () = glob '/sys/devices/system/cpu/cpu[0-9]*';
BAIL_OUT('these tests pin threads to CPUs 0 and 1, and there is one CPU') if $cpus < 2;

# What to ask for, and what the kernel must then say: of the vCPUs, the iothreads, and every other
# thread of QEMU.
my @cases = (
	{
		what => 'FIFO vCPU on a CPU of its own, FIFO and RR iothreads beside the emulator',
		spec => {
			vcpus => 1, iothreads => ['io0', 'io1'],
			cputune => {
				vcpupin => { 0 => '1' }, emulatorpin => '0',
				iothreadpin => { io0 => '0', io1 => '0' },
				vcpusched => [ { vcpus => '0', scheduler => 'fifo', priority => 7 } ],
				iothreadsched => [
					{ iothreads => 'io0', scheduler => 'fifo', priority => 3 },
					{ iothreads => 'io1', scheduler => 'rr', priority => 2 },
				],
			},
		},
		is => {
			'vcpu 0' => '1 fifo:7', 'iothread io0' => '0 fifo:3', 'iothread io1' => '0 rr:2',
			emulator => '0 other', 'kvm-pit' => '0 other',
		},
	},
	{
		what => 'RR vCPU, RR emulator, an iothread that follows the emulator',
		spec => {
			vcpus => 1, iothreads => ['io0'],
			cputune => {
				vcpupin => { 0 => '1' }, emulatorpin => '0',
				vcpusched => [ { vcpus => '0', scheduler => 'rr', priority => 99 } ],
				emulatorsched => { scheduler => 'rr', priority => 1 },
			},
		},
		is => { 'vcpu 0' => '1 rr:99', 'iothread io0' => '0 other', emulator => '0 rr:1', 'kvm-pit' => '0 other' },
	},
	{
		what => 'batch and idle, each vCPU for itself',
		spec => {
			vcpus => 2, iothreads => ['io0', 'io1'],
			cputune => {
				vcpupin => { 0 => '0', 1 => '1' }, emulatorpin => '0-1',
				iothreadpin => { io0 => '1', io1 => '0-1' },
				vcpusched => [
					{ vcpus => '0', scheduler => 'batch' }, { vcpus => '1', scheduler => 'idle' },
				],
				iothreadsched => [
					{ iothreads => 'io0', scheduler => 'idle' }, { iothreads => 'io1', scheduler => 'batch' },
				],
				emulatorsched => { scheduler => 'batch' },
			},
		},
		is => {
			'vcpu 0' => '0 batch', 'vcpu 1' => '1 idle', 'iothread io0' => '1 idle',
			'iothread io1' => '0-1 batch', emulator => '0-1 batch', 'kvm-pit' => '0 other',
		},
	},
	{
		what => 'idle emulator, FIFO emulator-free iothread, a vCPU over both CPUs',
		spec => {
			vcpus => 3, iothreads => ['io0'],
			cputune => {
				vcpupin => { 0 => '0-1', 1 => '0', 2 => '0-1,^0' }, emulatorpin => '1',
				iothreadpin => { io0 => '0' },
				iothreadsched => [ { iothreads => 'io0', scheduler => 'fifo', priority => 1 } ],
				emulatorsched => { scheduler => 'idle' },
			},
		},
		is => {
			'vcpu 0' => '0-1 other', 'vcpu 1' => '0 other', 'vcpu 2' => '1 other',
			'iothread io0' => '0 fifo:1', emulator => '1 idle', 'kvm-pit' => '0-1 other',
		},
	},
	{
		what => 'one vCPU pinned, the others get the CPUs that are left',
		spec => { vcpus => 2, cputune => { vcpupin => { 0 => '1' } } },
		is => { 'vcpu 0' => '1 other', 'vcpu 1' => '0 other', emulator => '0 other', 'kvm-pit' => '1 other' },
	},
);

# The threads as the kernel has them are those that were asked for; returns them.
sub threads_are {
	my ($pid, $expected, $what) = @_;
	my %is = %{ roles($pid) };
	my %should = map { my ($role) = split; $_ => $expected->{$_} // $expected->{$role} // 'not expected' } keys %is;
	$should{$_} = $expected->{$_} for grep { /^(vcpu|iothread)/ } keys %$expected;
	is_deeply \%is, \%should, $what;
	return \%is;
}

sub status_agrees {
	my ($name, $pid) = @_;
	my $status = status_of($name);
	my %listed;
	for (@{ $status->{threads} }) {
		my @role = ($_->{role}, $_->{index} // $_->{id} // $_->{tid});
		$listed{"@role"} = AnclaVm::placed($_);
	}
	is $status->{pid}, $pid, 'status names the process';
	is $status->{state}, 'running', 'status says that it runs';
	is_deeply \%listed, roles($pid), 'status lists every thread as the kernel has it';
}

sub verify_agrees {
	my ($name, $pid) = @_;
	my $result = run_ancla('verify', '--json', $name);
	is $result->{exit}, 0, 'verify finds nothing' or diag $result->{out}, $result->{err};
	my $verdict = json($result);
	ok $verdict->{ok}, 'verify --json says so';
	my %checked = map { $_->{what} => $_->{actual} } @{ $verdict->{checks} };
	my $missing = 0;
	for my $task (all_tasks($pid)) {
		my @role = role_of($task);
		my $who = $role[0] eq 'vcpu' ? "vCPU $role[1]"
			: $role[0] eq 'iothread' ? "iothread $role[1]" : "$role[0] thread $task->{tid} ($task->{name})";
		my ($cpus, $scheduler) = split ' ', AnclaVm::placed($task);
		$missing++ if ($checked{"$who: CPUs"} // '') ne $cpus || ($checked{"$who: scheduler"} // '') ne $scheduler;
	}
	is $missing, 0, 'it has read every thread' or diag explain \%checked;
}

# TCG is the same on any host: in the rig, the host that has KVM is there for that.
sub accels { return ($ENV{RIG_SHAPE} && !kvm_missing() ? () : [ 'TCG', {} ], kvm_missing() ? () : [ 'KVM', kvm() ]) }

for my $qemu (qemus()) {
	for my $accel (accels()) {
		subtest "$qemu->[0], $accel->[0]" => sub {
			for my $case (@cases) {
				my $spec = AnclaVm::merge(spec('pinned', $case->{spec}), { qemu => { binary => $qemu->[1] } });
				my $status = start_vm(AnclaVm::merge($spec, $accel->[1])) or next;
				my $pid = qemu_of('pinned');
				threads_are($pid, $case->{is}, $case->{what});
				status_agrees('pinned', $pid);
				verify_agrees('pinned', $pid);
				stop_vm('pinned');
			}
		};
	}
}
subtest 'KVM' => sub { plan skip_all => kvm_missing() } if kvm_missing();

# verify must name the thread, what it expected, and what there is; and nothing else.
sub found {
	my ($what, $expected, $actual, $name) = @_;
	my $result = run_ancla('verify', '--json', 'moved');
	my @bad = grep { !$_->{ok} } @{ json($result)->{checks} };
	is $result->{exit}, 5, "$name: exit code 5";
	ok !json($result)->{ok}, "$name: not ok";
	is_deeply [ map { [ @$_{qw(what expected actual)} ] } @bad ], [ [ $what, $expected, $actual ] ],
		"$name: found and named" or diag explain \@bad;
	ended run_ancla('verify', 'moved'), 5, qr/^DIFFERS \Q$what\E: expected $expected, the kernel has $actual$/m,
		"$name: told to people";
}

sub change { my (@command) = @_; return run_command(@command)->{exit} == 0 || diag "@command failed" }

subtest 'what is moved behind its back is found' => sub {
	start_vm(spec('moved', {
		vcpus => 2, iothreads => ['io0'],
		cputune => {
			vcpupin => { 0 => '1', 1 => '0' }, emulatorpin => '0', iothreadpin => { io0 => '0' },
			vcpusched => [ { vcpus => '0', scheduler => 'fifo', priority => 5 } ],
		},
	})) or return;
	my $pid = qemu_of('moved');
	my %tid = map { my @role = role_of($_); ("@role", $_->{tid}) } grep { $_->{tid} != $pid } tasks($pid);
	my @chrt = ('chrt', '--pid');

	change 'taskset', '-cp', '0', $tid{'vcpu 0'};
	found 'vCPU 0: CPUs', '1', '0', 'a vCPU moved';
	change 'taskset', '-cp', '1', $tid{'vcpu 0'};

	change 'taskset', '-cp', '0-1', $tid{'vcpu 1'};
	found 'vCPU 1: CPUs', '0', '0-1', 'a vCPU let loose';
	change 'taskset', '-cp', '0', $tid{'vcpu 1'};

	change @chrt, '-f', '6', $tid{'vcpu 0'};
	found 'vCPU 0: scheduler', 'fifo:5', 'fifo:6', 'a priority changed';
	change @chrt, '-o', '0', $tid{'vcpu 0'};
	found 'vCPU 0: scheduler', 'fifo:5', 'other', 'FIFO taken away';
	change @chrt, '-f', '-R', '5', $tid{'vcpu 0'};

	change @chrt, '-i', '0', $tid{'iothread io0'};
	found 'iothread io0: scheduler', 'other', 'idle', 'an iothread at idle';
	change @chrt, '-o', '0', $tid{'iothread io0'};

	change 'taskset', '-cp', '0-1', $pid;
	my ($name) = map { $_->{name} } grep { $_->{tid} == $pid } tasks($pid);
	found "emulator thread $pid ($name): CPUs", '0', '0-1', 'the emulator widened';
	change 'taskset', '-cp', '0', $pid;

	ended run_ancla('verify', 'moved'), 0, qr/^ok      vCPU 0: CPUs: 1$/m, 'put back, all is well';
	stop_vm('moved');
};

clean 'nothing is left';
done_testing;
