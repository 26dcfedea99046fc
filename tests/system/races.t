# Commands that meet at one VM: two changes come one after the other, whole; `verify` never sees half of
# one; and a start that is told to stop, at whatever moment, either never runs its guest or is stopped.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

my $cpus = () = glob '/sys/devices/system/cpu/cpu[0-9]*';
BAIL_OUT('these tests pin threads to CPUs 0 and 1, and there is one CPU') if $cpus < 2;

my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
my $traced = traced();

# The command in the background, each of these system calls of it taking so many milliseconds longer.
sub slowed {
	my ($calls, $ms, @command) = @_;
	return spawn_command('strace', '-f', '-qq', '-o', '/dev/null', '-e', "trace=$calls", '-e',
		sprintf('inject=%s:delay_enter=%d', $calls, $ms * 1000), $ancla, @command, $traced);
}

my %two = (
	vcpus => 2, 'max-vcpus' => 4, iothreads => ['io0'],
	cputune => { vcpupin => { map { $_ => "" . $_ % 2 } 0 .. 3 }, emulatorpin => '0', iothreadpin => { io0 => '1' } },
);
my @one_way = ('vcpu', '0-1=0,1', 'emulator', '0', 'iothread', 'io0', '1');
my @other_way = ('vcpu', '0-1=1,0', 'emulator', '1', 'iothread', 'io0', '0');

# Where the kernel has the VM's threads: {"vcpu 0" => "0 other", emulator => ...}.
sub places {
	my ($name) = @_;
	my %is;
	for my $task (tasks(qemu_of($name))) {
		my ($role, $which) = role_of($task);
		$is{ defined $which ? "$role $which" : $role }{ AnclaVm::placed($task) } = 1;
	}
	return { map { $_ => join ' and ', sort keys %{ $is{$_} } } keys %is };
}

sub expected {
	my ($way, @more) = @_;
	my ($a, $b) = $way eq 'one' ? (0, 1) : (1, 0);
	return { 'vcpu 0' => "$a other", 'vcpu 1' => "$b other", emulator => "$a other", 'iothread io0' => "$b other", @more };
}

# What the ledger says that it holds, as "role: CPUs", for the roles of that hash.
sub ledger_agrees {
	my ($name, $places) = @_;
	my %held = map { $_->{role} => $_->{cpus} } grep { $_->{vm} eq $name } @{ json(run_ancla('host', '--json'))->{claims} };
	is_deeply { map { $_ => $held{$_} } keys %$places }, { map { $_ => $places->{$_} =~ s/ .*//r } keys %$places }, 'so says the ledger';
	ended run_ancla('verify', $name), 0, qr/^ok/, 'and `verify`';
	return;
}

subtest '`verify` never sees half of a `pin`' => sub {
	start_vm(spec('seen', \%two)) or return;
	my ($verified, $pinned, %odd) = (0, 0);
	my $look = sub {
		my ($result) = @_;
		$verified++;
		$odd{"$result->{out}$result->{err}"}++ if ($result->{exit} // -1) != 0;
	};
	# A `pin` that takes its time from thread to thread.
	for my $way (1 .. 3) {
		my $pin = slowed('sched_setaffinity', 20, 'pin', 'seen', $way & 1 ? @other_way : @one_way);
		while (!defined $pin->{status}) {
			$look->(run_ancla('verify', 'seen'));
			$pin->step(0);
		}
		ended $pin->wait_exit, 0, qr/read back$/m, 'a slow `pin`';
	}
	# A `verify` that does, on its way through the threads, or as it looks at memory.
	for (my $round = 0; $round < 3 || $pinned < 6; $round++) {
		my $calls = $round % 3 == 2 ? 'openat' : 'sched_getaffinity';
		my $verify = slowed($calls, $calls eq 'openat' ? 4 : 20, 'verify', 'seen');
		while (!defined $verify->{status}) {
			my $pin = run_ancla('pin', 'seen', ++$pinned & 1 ? @one_way : @other_way);
			ended $pin, 0, qr/read back$/m, 'a `pin` beside it' if ($pin->{exit} // -1) != 0;
			$verify->step(0);
		}
		$look->($verify->wait_exit);
	}
	is_deeply [ keys %odd ], [], "none of $verified sees it, beside $pinned fast changes";
	ledger_agrees 'seen', places('seen');
	stop_vm('seen');
};

subtest 'both in a loop' => sub {
	start_vm(spec('seen', \%two)) or return;
	my @loops = (
		[ pin => map { "$ancla pin seen " . join ' ', $_ % 2 ? @other_way : @one_way } 1 .. 20 ],
		[ verify => ("$ancla verify seen") x 25 ],
		[ verify => ("$ancla verify seen --json") x 25 ],
	);
	my @running = map { my ($what, @lines) = @$_; [ $what, spawn_command('sh', '-ec', join "\n", @lines) ] } @loops;
	ended $_->[1]->wait_exit, 0, qr//, "$_->[0], again and again" for @running;
	is_deeply places('seen'), expected('one'), 'the last `pin` is what there is';
	ledger_agrees 'seen', expected('one');
	stop_vm('seen');
};

subtest 'two `pin` at once' => sub {
	start_vm(spec('pulled', \%two)) or return;
	my %won;
	for my $round (1 .. 8) {
		# Sometimes the one is slower, sometimes the other.
		my @two = ([ one => @one_way ], [ other => @other_way ]);
		@two = reverse @two if $round & 1;
		my @pins = map { my ($way, @words) = @$_; slowed('sched_setaffinity', $round & 2 ? 5 : 0, 'pin', 'pulled', @words) } @two;
		my @results = map { $_->wait_exit } @pins;
		is scalar(grep { ($_->{exit} // -1) == 0 } @results), 2, 'both say that it is done';
		my $is = places('pulled');
		my ($way) = grep { eq_hash($is, expected($_)) } qw(one other);
		ok $way, 'one of the two whole results' or diag explain $is;
		$won{ $way // '' }++;
	}
	note explain \%won;
	ledger_agrees 'pulled', places('pulled');

	my @pins = map { spawn_ancla('pin', 'pulled', split ' ') } 'vcpu 0 0-1', 'vcpu 1 0-1', 'emulator 0-1', 'iothread io0 0-1', 'vcpu 0 --scheduler batch';
	is scalar(grep { ($_->wait_exit->{exit} // -1) == 0 } @pins), 5, 'five, each of something else';
	my $all = { 'vcpu 0' => '0-1 batch', 'vcpu 1' => '0-1 other', emulator => '0-1 other', 'iothread io0' => '0-1 other' };
	is_deeply places('pulled'), $all, 'none of them is lost';
	ledger_agrees 'pulled', $all;
	stop_vm('pulled');
};

subtest '`pin` beside other changes' => sub {
	start_vm(spec('pulled', \%two)) or return;
	my @changes = (
		[ [ 'pin', 'pulled', @other_way ], qr/read back|nothing to change/ ], [ [qw(repin pulled)], qr/./ ], [ [qw(vcpus pulled 3)], qr/vCPU 2 is there/ ],
		[ [qw(iothread pulled add io1 --cpus 1)], qr/io1 is there/ ], [ [qw(repin pulled)], qr/./ ], [ [qw(vcpus pulled 4)], qr/vCPU 3 is there/ ],
		[ [qw(iothread pulled add io2 --cpus 0)], qr/io2 is there/ ],
	);
	my @running = map { spawn_ancla(@{ $_->[0] }) } @changes;
	for my $i (0 .. $#changes) {
		my ($words, $pattern) = @{ $changes[$i] };
		my $result = $running[$i]->wait_exit;
		# Whoever asks for 3 after another has asked for 4 wants one taken away.
		next if "@$words" eq 'vcpus pulled 3' && ($result->{exit} // -1) == 1 && $result->{err} =~ /does not survive/;
		ended $result, 0, $words->[0] eq 'vcpus' ? qr/vCPU \d is there/ : $pattern, "@$words";
	}
	my $all = expected('other', 'vcpu 2' => '0 other', 'vcpu 3' => '1 other', 'iothread io1' => '1 other', 'iothread io2' => '0 other');
	is_deeply places('pulled'), $all, 'all of them are there';
	ledger_agrees 'pulled', $all;
	stop_vm('pulled');
};

clean 'nothing is left';
done_testing;
