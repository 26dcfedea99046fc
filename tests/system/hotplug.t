# vCPUs and iothreads that are added to a running VM are where its plan says from their first moment, and a
# real Linux guest uses them; what is taken away is gone.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

my $cpus = () = glob '/sys/devices/system/cpu/cpu[0-9]*';
BAIL_OUT('these tests pin threads to CPUs 0 and 1, and there is one CPU') if $cpus < 2;

my %plug = (
	vcpus => 1, 'max-vcpus' => 3,
	cputune => { vcpupin => { 0 => '0', 1 => '1', 2 => '0' }, emulatorpin => '0', vcpusched => [ { vcpus => '1', scheduler => 'fifo', priority => 2 } ] },
);

sub task_of {
	my ($pid, $name) = @_;
	my ($task) = grep { join(' ', role_of($_)) eq $name } tasks($pid);
	return $task;
}

# Since a thread was made it has been on one CPU only: the kernel counts its moves, and where it is.
sub never_elsewhere {
	my ($pid, $name, $cpu) = @_;
	my $task = task_of($pid, $name) or return fail "$name has no thread";
	is $task->{last_cpu}, $cpu, "$name is on CPU $cpu";
	my $path = "/proc/$pid/task/$task->{tid}/sched";
	my ($moves) = (AnclaTest::peek($path) // '') =~ /se\.nr_migrations\s*:\s*(\d+)/;
	return note "no $path to count moves in" if !defined $moves;
	return is $moves, 0, "$name has never been elsewhere";
}

# ancla's answers in the end agree with the kernel's threads.
sub settled {
	my ($pid, $vcpus) = @_;
	is status_of('plug')->{state}, 'running', 'the guest runs';
	is json(run_ancla('list', '--json'))->[0]{vcpus}, $vcpus, "list says $vcpus vCPUs";
	my @threads = grep { $_->{role} eq 'vcpu' } @{ status_of('plug')->{threads} };
	is @threads, $vcpus, "status lists $vcpus vCPUs";
	my $roles = roles($pid);
	is_deeply [ sort { $a cmp $b } grep { /^vcpu/ } keys %$roles ], [ map { "vcpu $_" } 0 .. $vcpus - 1 ], 'so does the kernel';
	is_deeply [ grep { !/^(?:vcpu|iothread)/ && $roles->{$_} ne '0 other' } keys %$roles ], [], 'the emulator is where it was';
	ended run_ancla('verify', 'plug'), 0, qr/./, 'verify finds nothing';
}

for my $qemu (qemus()) {
	subtest "$qemu->[0]: vCPUs" => sub {
		my $spec = linux('plug', 'ancla.do=idle', { %plug, qemu => { binary => $qemu->[1] } });
		my $vm = run_linux($spec) or return;
		my $pid = qemu_of('plug');
		ended run_ancla(qw(vcpus plug 4)), 1, qr/can have at most 3 vCPUs \(max-vcpus of its spec\), not 4/, 'not more than max-vcpus';
		ended run_ancla(qw(vcpus plug 2)), 0, qr/^vCPU 1 is there, on 1, fifo:2: the guest may bring it online$/m, 'one is added';
		is roles($pid)->{'vcpu 1'}, '1 fifo:2', 'pinned and scheduled';
		ok $vm->wait_for_output(qr/ANCLA-GUEST-CPU cpu1 online/), 'the guest brings it online';
		never_elsewhere($pid, 'vcpu 1', 1);
		settled($pid, 2);
		ended run_ancla(qw(vcpus plug 2)), 0, qr/^plug has 2 vCPUs$/m, 'nothing to do';

		ended run_ancla(qw(vcpus plug 1)), 1, qr/with TCG, QEMU does not survive it when a vCPU is taken away/, 'none is taken away with TCG';
		settled($pid, 2);
		my $result = json(run_ancla(qw(vcpus plug 3 --json)));
		is_deeply $result, {
			name => 'plug', vcpus => 3, 'max-vcpus' => 3, removed => [],
			added => [ { index => 2, tid => task_of($pid, 'vcpu 2')->{tid}, cpus => '0', scheduler => 'other', priority => 0 } ],
		}, 'another one';
		settled($pid, 3);
		ended run_ancla(qw(stop --timeout 120 plug), { timeout => 150 }), 0, qr//, 'the guest powers off';
		is $vm->wait_exit->{exit}, 0, 'and the supervisor ends';
	};

	subtest "$qemu->[0]: iothreads" => sub {
		start_vm(spec('plug', { %plug, qemu => { binary => $qemu->[1] } })) or return;
		my $pid = qemu_of('plug');
		ended run_ancla(qw(iothread plug add io7 --cpus 0 --scheduler rr:3)), 0, qr/^iothread io7 is there/m, 'one is added';
		is roles($pid)->{'iothread io7'}, '0 rr:3', 'pinned and scheduled';
		never_elsewhere($pid, 'iothread io7', 0);
		settled($pid, 1);
		ended run_ancla(qw(pin plug iothread io7 --scheduler other)), 0, qr/read back/, 'it can be pinned like any other';
		ended run_ancla(qw(iothread plug add io7)), 1, qr/has an iothread "io7" already/, 'not twice';
		ended run_ancla(qw(iothread plug add io8 --cpus 1)), 4, qr/vCPU 1 runs fifo on CPUs 1 and would starve iothread io8/, 'checked as at a launch';
		ended run_ancla(qw(iothread plug add io8 --cpus 4095)), 4, qr/no CPU 4095 online/, 'its CPUs, too';
		ended run_ancla('iothread', 'plug', 'add', $_), 2, qr/an ID is letters/, 'its name, too' for '8io', 'i' x 64;
		is_deeply [ map { $_->{id} } grep { $_->{role} eq 'iothread' } @{ status_of('plug')->{threads} } ], ['io7'], 'there is one';
		my $result = run_ancla(qw(iothread plug remove io7 --json));
		is_deeply json($result), { name => 'plug', iothreads => [] }, 'it is taken away';
		ended run_ancla(qw(iothread plug remove io7)), 1, qr/has no iothread "io7"/, 'once';
		settled($pid, 1);
		stop_vm('plug');
	};

	subtest "$qemu->[0]: an iothread that serves a disk" => sub {
		my $image = tmpdir() . '/disk.img';
		open my $file, '>', $image or die "$image: $!";
		truncate $file, 1 << 20;
		start_vm(spec('plug', { %plug, iothreads => ['io0'], disks => [ { file => $image, iothread => 'io0' } ], qemu => { binary => $qemu->[1] } })) or return;
		my $pid = qemu_of('plug');
		my $thread = task_of($pid, 'iothread io0')->{tid};
		ended run_ancla(qw(iothread plug remove io0)), 1, qr/iothread "io0" serves the device virtio-disk0/, 'is not taken away';
		is task_of($pid, 'iothread io0')->{tid}, $thread, 'and is the same thread still';
		settled($pid, 1);
		stop_vm('plug');
	};
}

# A cgroup of shares may grant no real time: what runs in it is born outside.
subtest 'with shares' => sub {
	start_vm(spec('plug', { %plug, cputune => { %{ $plug{cputune} }, shares => 512 } })) or return;
	my $pid = qemu_of('plug');
	ended run_ancla(qw(vcpus plug 2)), 0, qr/^vCPU 1 is there/m, 'a vCPU is added';
	ended run_ancla(qw(iothread plug add io7 --cpus 0 --scheduler rr:3)), 0, qr/^iothread io7 is there/m, 'an iothread, too';
	is_deeply [ @{ roles($pid) }{ 'vcpu 1', 'iothread io7' } ], [ '1 fifo:2', '0 rr:3' ], 'both run in real time';
	settled($pid, 2);
	stop_vm('plug');
};

# Adds a vCPU as anybody could, over QMP.
sub add_behind_its_back {
	my $monitor = runtime_dir() . '/plug/qmp.sock';
	my ($slot) = sort { $a->{props}{'core-id'} <=> $b->{props}{'core-id'} } grep { !$_->{'qom-path'} } @{ qmp($monitor, 'query-hotpluggable-cpus')->{return} };
	my $reply = qmp($monitor, 'device_add', { driver => $slot->{type}, %{ $slot->{props} } });
	return ok exists $reply->{return}, 'somebody adds a vCPU over QMP' || diag explain $reply;
}

subtest 'a vCPU that somebody else adds is pinned once the guest takes it in' => sub {
	# With shares, so that it has a cgroup to leave, as it runs in real time.
	my $vm = run_linux(linux('plug', 'ancla.do=idle', { %plug, cputune => { %{ $plug{cputune} }, shares => 512 } })) or return;
	my $pid = qemu_of('plug');
	add_behind_its_back();
	ok $vm->wait_for_output(qr/ANCLA-GUEST-CPU cpu1 online/), 'the guest brings it online';
	ok eventually(120, sub { roles($pid)->{'vcpu 1'} eq '1 fifo:2' }), 'the supervisor pins it' or diag explain roles($pid);
	ok $vm->wait_for_output(qr/vCPU 1 was on CPUs 0, is on 1, fifo:2 now/m), 'and says so';
	ok eventually(120, sub { (grep { $_->{online} } @{ json(runtime_dir() . '/plug/plan.json')->{vcpus} }) == 2 }), 'the plan has it';
	settled($pid, 2);

	# Nobody supervises any more: commands still do all of it.
	$vm->signal('KILL');
	$vm->wait_exit;
	add_behind_its_back();
	is roles($pid)->{'vcpu 2'}, '0 other', 'one that is added then is where the emulator is, which here is its place';
	run_command('taskset', '-cp', '0', task_of($pid, 'vcpu 1')->{tid});
	ended run_ancla(qw(verify plug)), 5, qr/^DIFFERS vCPU 1: CPUs: expected 1, the kernel has 0$/m, 'without a supervisor verify works';
	ended run_ancla(qw(repin plug)), 0, qr/^vCPU 1: was on 0, fifo:2; is on 1, fifo:2$/m, 'and repin';
	settled($pid, 3);
	stop_vm('plug');
};

subtest 'a QEMU that is stopped' => sub {
	start_vm(spec('plug', { %plug, iothreads => ['io0'] })) or return;
	my $pid = qemu_of('plug');
	my $before = roles($pid);
	kill STOP => $pid;
	ok eventually(120, sub { AnclaTest::slurp("/proc/$pid/stat") =~ /\) T / }), 'it is stopped';
	my $stopped = qr/QEMU of "plug" \($pid\) is stopped by a signal and cannot answer; `kill -CONT $pid` lets it go on/;
	ended run_ancla(split ' '), 1, $stopped, $_
		for 'status plug', 'pin plug vcpu 0 1', 'repin plug', 'vcpus plug 2', 'iothread plug add io9';
	is_deeply roles($pid), $before, 'no thread was touched';
	my $result = run_ancla(qw(verify plug --json));
	is $result->{exit}, 5, 'verify fails';
	my @checks = @{ json($result)->{checks} };
	is_deeply [ map { $_->{what} } grep { !$_->{ok} } @checks ], ['monitor'], 'only as the monitor does not answer' or diag explain \@checks;
	my %read = map { $_->{what} => $_->{actual} } @checks;
	is $read{$_->[0]}, $_->[1], "$_->[0] was read" for [ 'vCPU 0: CPUs', '0' ], [ 'iothread io0: CPUs', '0' ];
	ok exists $read{'memory: pages'}, 'so was memory';
	run_command('taskset', '-cp', '1', task_of($pid, 'vcpu 0')->{tid});
	ended run_ancla(qw(verify plug)), 5, qr/^DIFFERS monitor: expected an answer, got .*^DIFFERS vCPU 0: CPUs: expected 0, the kernel has 1$/ms,
		'what else differs is found';
	kill CONT => $pid;
	ended run_ancla(qw(repin plug)), 0, qr/^vCPU 0: was on 1, other; is on 0, other$/m, 'it goes on, and is put right';
	ended run_ancla(qw(verify plug)), 0, qr/./, 'all is well';
	stop_vm('plug');
};

subtest 'usage' => sub {
	ended run_ancla('vcpus', 'plug', $_), 2, qr/from 1 to the VM's max-vcpus, not "\Q$_\E"/, "vcpus \"$_\"" for '0', 'x', '2x', '';
	ended run_ancla(qw(vcpus nobody 2)), 1, qr/no VM "nobody" runs/, 'no such VM';
	ended run_ancla(qw(iothread nobody add io0)), 1, qr/no VM "nobody" runs/, 'no such VM';
	ended run_ancla(qw(iothread nobody drop io0)), 2, qr/NAME add ID, or NAME remove ID/, 'no such word';
};

clean 'nothing is left';
done_testing;
