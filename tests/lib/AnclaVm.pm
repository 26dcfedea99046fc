package AnclaVm;

# Small virtual machines for the system tests, and the kernel's word on them: nothing here believes
# what ancla says of a VM, except which process it is.

use strict;
use warnings;
no warnings 'portable'; # addresses have 64 bits

use AnclaTest;
use Exporter qw(import);
use JSON::PP ();
use Lists qw(numbers);
use Test::More import => [qw(is is_deeply ok)];
use Clock qw(time);

our @EXPORT = qw(
	TRUE FALSE spec linux idle_firmware hear start_vm starts stop_vm status_of qemu_of run_linux run_through linux_agrees
	qemus kvm_missing kvm role_of all_tasks roles mappings guest_file_bytes
	wrapper traced with_madvise without fresh_modes wait_all_gone clean eventually is_running
);

use constant { TRUE => JSON::PP::true, FALSE => JSON::PP::false };

# --- specs ---

# In the rig, the `boot` of a VM of which nothing is wanted but threads and memory: firmware that halts
# (tests/rig/inside). What QEMU's own does before it finds nothing to boot takes seconds there.
sub idle_firmware { return { firmware => '/run/halt.bin' } }

# A spec of a VM without a guest: firmware that finds nothing to boot, in 64 MiB, under TCG, on any
# CPUs. What is given replaces that, or is merged into it where both are objects.
sub spec {
	my ($name, $more) = @_;
	my %plain = (($ENV{RIG_SHAPE} && !$more->{boot} ? (boot => idle_firmware()) : ()),
		name => $name, memory => '64MiB', placement => { mode => 'static' }, qemu => { accel => 'tcg' });
	return merge(\%plain, $more // {});
}

sub merge {
	my ($into, $more) = @_;
	my %merged = %$into;
	for (keys %$more) {
		$merged{$_} = ref $more->{$_} eq 'HASH' && ref $merged{$_} eq 'HASH'
			? merge($merged{$_}, $more->{$_}) : $more->{$_};
	}
	return \%merged;
}

# The demo's Linux, with its console on standard output; the words go to its command line.
sub linux {
	my ($name, $words, $more) = @_;
	return merge(spec($name, { memory => '256MiB', serial => 'stdio', boot => demo_boot(split ' ', $words) }),
		$more // {});
}

# The QEMUs to be tested: [name, binary].
sub qemus {
	return (['QEMU 7.2', 'qemu-system-x86_64'], ['QEMU 10.0', "$ROOT/build/qemu-10.0/qemu-system-x86_64"]);
}

# Why there can be no KVM test here, in the words of a QEMU started without ancla; undef if there
# can. Whether a guest gets anywhere does not matter: those tests have none.
my ($kvm_asked, $kvm_reason);
sub kvm_missing {
	return $kvm_reason if $kvm_asked++;
	return $kvm_reason = '/dev/kvm cannot be opened: ' . ($! + 0 ? "$!" : 'missing')
		unless open my $kvm, '+<', '/dev/kvm';
	my $bare = run_command(qw(qemu-system-x86_64 -nodefaults -no-user-config -display none -S
		-accel kvm -cpu), 'host,arch-capabilities=off', '-qmp', 'stdio',
		{ stdin => '{"execute":"qmp_capabilities"}{"execute":"quit"}', timeout => 20 });
	return if defined $bare->{exit} && $bare->{exit} == 0;
	return $kvm_reason = "QEMU cannot start with KVM here: $bare->{err}";
}

# What a spec needs for KVM: some hosts (nested ones) offer a feature that they then refuse.
sub kvm { return { qemu => { accel => 'kvm' }, cpu => { features => { 'arch-capabilities' => 'disable' } } } }

# An executable script that stands in for QEMU. It is asked for its capabilities like QEMU, and
# answers as QEMU does; started for a VM it does what the shell text says, with the real one in $qemu.
sub wrapper {
	my ($name, $text, $always) = @_;
	my $path = tmpdir() . "/$name";
	open my $file, '>', $path or die "$path: $!";
	print $file "#!/bin/sh\nqemu=/usr/bin/qemu-system-x86_64\n",
		$always ? '' : "case \"\$*\" in *guest=*) ;; *) exec \$qemu \"\$@\" ;; esac\n", "$text\n";
	close $file or die "$path: $!";
	chmod 0755, $path;
	return $path;
}

# --- VMs ---

# Options of run_command() and the like for a program that is traced, where the leak check of a build with
# sanitizers cannot work; and others.
sub traced { return { env => { ASAN_OPTIONS => join ':', $ENV{ASAN_OPTIONS} // (), 'detect_leaks=0' }, @_ } }

# The words that run ancla with something done to each of its madvise calls: of a fill's, one for every 2 MiB.
sub with_madvise {
	my ($inject, @words) = @_;
	return (qw(strace -f -b execve -qq -o /dev/null -e trace=madvise -e), "inject=madvise:$inject", $ENV{ANCLA} // "$BUILD/ancla", @words);
}

# The words that run a command under a seccomp filter as containers have it: this system call is not permitted.
sub without {
	my ($number) = @_;
	return ('perl', '-e', '
		my $filter = pack "SCCL" x 4, 0x20, 0, 0, 0, 0x15, 0, 1, shift, 0x06, 0, 0, 0x50001, 0x06, 0, 0, 0x7fff0000;
		syscall(157, 38, 1, 0, 0, 0) == 0 && syscall(157, 22, 2, pack "S x6 P", 4, $filter) == 0 or die "seccomp: $!";
		exec @ARGV', $number);
}

# A terminal's modes before anything was done to it.
sub fresh_modes {
	my $nothing = spawn_command('true', { pty => 1 });
	$nothing->wait_exit;
	return $nothing->terminal_modes;
}

# Starts a VM by `ancla start` and returns its status (`status --json`); undef, and a failed test,
# if it did not start.
sub start_vm {
	my ($spec, $options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return starts($spec, $options) ? status_of($spec->{name}) : undef;
}

# The same without its status: true if it started.
sub starts {
	my ($spec, $options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $result = run_ancla('start', make_spec($spec), $options // {});
	return ended($result, 0, qr/^ancla: \Q$spec->{name}\E runs/m, "$spec->{name} starts");
}

# Ends it without asking the guest. True if that worked.
sub stop_vm {
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ended(run_ancla('stop', '--force', $name), 0, qr//, "$name stops");
}

sub status_of { my ($name) = @_; return json(run_ancla('status', '--json', $name)) }

# The process id of a VM's QEMU by its command line, without ancla; undef when there is none.
sub qemu_of {
	my ($name) = @_;
	for my $pid (sort { $b <=> $a } process_ids()) { # it is one of the newest
		my $words = AnclaTest::peek("/proc/$pid/cmdline") // next;
		next if $words !~ /\0-name\0guest=\Q$name\E,/;
		next if (AnclaTest::peek("/proc/$pid/comm") // '') !~ /^qemu-system/;
		return $pid if (AnclaTest::peek("/proc/$pid/environ") // '') =~ /\Q@{[tmpdir()]}\E/;
	}
	return;
}

# A Linux with several vCPUs under TCG stalls in one of some hundred boots: where one CPU changes code just
# when another translates it (a static key: first an int3, then the new bytes), QEMU may keep the int3, in
# which that CPU then stays for ever. 7.2 and 10.0 do so, without ancla, too. Such a boot is tried again.
use constant BOOTS => 3;

# Starts a guest by $start, at most so many times, as long as it does not become $ready, but can be brought
# to an $end (both are given what $start returned). Returns what that returned, and whether it is ready;
# nothing if it returned nothing.
sub boot_until_ready {
	my ($boots, $start, $ready, $end) = @_;
	for my $boot (1 .. $boots) {
		my $guest = $start->() or return;
		return ($guest, 1) if $ready->($guest);
		return ($guest, 0) if !$end->($guest) || $boot == $boots;
		Test::More::diag("a guest stalled in boot $boot; once more");
	}
}

# `ancla run` in the background, with a Linux guest that has said it is ready.
sub run_linux {
	my ($spec, $options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $boots = ($spec->{vcpus} // 1) > 1 && ($spec->{qemu}{accel} // '') eq 'tcg' ? BOOTS : 1;
	my ($vm, $ready) = boot_until_ready($boots, sub { spawn_ancla('run', make_spec($spec), $options // {}) },
		sub { $_[0]->wait_for_output(qr/ANCLA-GUEST-READY|guest # /, 120) },
		sub { $_[0]->is_there && stop_vm($spec->{name}) && $_[0]->wait_exit });
	return Test::More::ok($ready, "$spec->{name} boots Linux") ? $vm : undef;
}

# `ancla run` of the spec in a file, whose guest powers off by itself; what run_command() returns.
sub run_through {
	my ($name, $path) = @_;
	my ($result) = boot_until_ready(BOOTS, sub { run_ancla('run', $path) },
		sub { !$_[0]{timed_out} || $_[0]{out} =~ /ANCLA-GUEST-END/ }, sub { stop_vm($name) });
	return $result;
}

# Tests: what Linux reports from inside is what the plan says: topology, guest nodes, their vCPUs,
# memory, distances.
sub linux_agrees {
	my ($report, $plan) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($sockets, $dies, $cores, $threads) = @{ $plan->{topology} }{qw(sockets dies cores threads)};
	my @vcpus = @{ $plan->{vcpus} };
	my @nodes = @{ $plan->{memory} };
	is scalar(numbers($report->{'cpus.online'})), @vcpus, @vcpus . ' CPUs';
	is scalar(numbers($report->{'nodes.online'})), @nodes, @nodes . ' nodes';
	is $report->{accel}, $plan->{accel}, "under $plan->{accel}";
	for my $node (map { $_->{'guest-node'} } @nodes) {
		my @cpus = map { $_->{id} } grep { $_->{'guest-node'} == $node } @vcpus;
		is_deeply [ numbers($report->{"node$node.cpus"}) ], \@cpus, "CPUs @cpus are on node $node";
		my ($has, $should) = ($report->{"node$node.memory-kB"}, $nodes[$node]{size} / 1024);
		# Linux takes a part for itself: page descriptors, kernel, initrd, what the firmware keeps.
		ok $has <= $should && $has > $should * 0.75 - 32 * 1024, "node $node has $has kB of $should";
		is $report->{"node$node.distances"}, join(' ', @{ $plan->{distances}[$node] }), "distances of node $node";
	}
	my (%packages, %cores, %dies);
	for my $cpu (0 .. $#vcpus) {
		my %is = map { $_ => $report->{"cpu$cpu.$_"} } qw(package die core siblings);
		push @{ $packages{ $is{package} } }, $cpu;
		push @{ $cores{"$is{package} $is{die} $is{core}"} }, $cpu;
		$dies{"$is{package} $is{die}"}++;
		is scalar(numbers($is{siblings})), $threads, "CPU $cpu has $threads threads in its core";
	}
	is scalar(keys %packages), $sockets, "$sockets sockets";
	is scalar(keys %dies), $sockets * $dies, "$dies dies in each";
	is scalar(keys %cores), $sockets * $dies * $cores, "$cores cores in each";
	return;
}

# --- threads ---

# What a thread of QEMU is by its name: ("vcpu", 0), ("iothread", "io0"), ("emulator"). QEMU's
# own mon_iothread is nobody's iothread.
sub role_of {
	my ($task) = @_;
	return ('vcpu', $1) if $task->{name} =~ m{^CPU (\d+)/};
	return ('iothread', $1) if $task->{name} =~ /^IO (?!mon_iothread)(\S+)/;
	return ('kvm-pit') if $task->{name} =~ m{^kvm-pit/};
	return ('vhost') if $task->{name} =~ /^vhost-/;
	return ('emulator');
}

# The threads of a QEMU, and the kernel's own that work for it: they carry its id in their name.
sub all_tasks {
	my ($pid) = @_;
	my @kernel = grep { (AnclaTest::peek("/proc/$_/comm") // '') =~ m{^(?:kvm-pit/|vhost-)$pid$} }
		process_ids();
	return (tasks($pid), map { tasks($_) } @kernel);
}

# All threads of a VM as the kernel has them: "vcpu 0" => "1 fifo:3", those without a number of
# their own by id.
sub roles {
	my ($pid) = @_;
	my %roles;
	for my $task (all_tasks($pid)) {
		my @role = role_of($task);
		push @role, $task->{tid} if @role == 1;
		$roles{"@role"} = placed($task);
	}
	return \%roles;
}

sub placed {
	my ($thread) = @_;
	return "$thread->{cpus} $thread->{scheduler}" . ($thread->{priority} ? ":$thread->{priority}" : '');
}

# --- memory ---

# Mappings of a process: {start, size, name, policy, flags => {...}, rss, thp, pages => {node => n},
# page_size}; sizes in bytes. Those for which the filter, a regular expression on the name, holds.
sub mappings {
	my ($pid, $filter) = @_;
	my (@list, $at);
	for (split /\n/, AnclaTest::slurp("/proc/$pid/smaps")) {
		if (/^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ \S+ *(.*)/) {
			push @list, $at = { start => hex $1, size => hex($2) - hex $1, name => $3, pages => {}, policy => '' };
		} elsif (/^Rss: +(\d+)/) { $at->{rss} = $1 * 1024
		} elsif (/^(?:AnonHugePages|ShmemPmdMapped): +(\d+)/) { $at->{thp} += $1 * 1024
		} elsif (/^VmFlags: (.*)/) { $at->{flags} = { map { $_ => 1 } split ' ', $1 }
		}
	}
	my %by_start = map { $_->{start} => $_ } @list;
	for (split /\n/, AnclaTest::slurp("/proc/$pid/numa_maps")) {
		my ($start, $policy, $rest) = /^([0-9a-f]+) (prefer \(many\):\S+|\S+) ?(.*)/ or next;
		$at = $by_start{ hex $start } or next;
		$at->{policy} = $policy;
		$at->{pages}{$1} = $2 while $rest =~ /\bN(\d+)=(\d+)/g;
		$at->{page_size} = $1 * 1024 if $rest =~ /kernelpagesize_kB=(\d+)/;
	}
	return grep { $_->{name} =~ $filter } @list;
}

# The bytes that the file behind guest node N really has, and its page size: what the kernel has
# allocated for it, wherever it is mapped.
sub guest_file_bytes {
	my ($pid, $node) = @_;
	my @stat = stat sprintf '/proc/%d/fd/%d', $pid, 10 + ($node // 0) or return;
	return ($stat[12] * 512, $stat[11]);
}

# --- ends ---

# Waits until no process of ours is left: those that ancla left to die, such as its guard.
sub wait_all_gone {
	my ($seconds) = @_;
	my $deadline = time + ($seconds // 20) * ($ENV{ANCLA_TEST_SLOW} || 1);
	while (my @pids = map { /^(\d+)/ } our_processes()) {
		return 0 if time > $deadline;
		wait_gone($_, $deadline - time) for @pids;
	}
	return 1;
}

# A test: nothing is left of anything, and as many huge pages are free as there were. What is left is
# ended, so that the next test does not fail for it.
sub clean {
	my ($name, $free) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	wait_all_gone();
	my @left = leftovers();
	push @left, sprintf '%d huge pages of 2 MiB', $free - hugepages_free() if defined $free && hugepages_free() < $free;
	if (@left) {
		kill KILL => map { /^(\d+)/ } our_processes();
		run_ancla('list');
	}
	return Test::More::is_deeply(\@left, [], $name // 'nothing is left');
}

# Looks again and again until it is so, or the time is over, of which ANCLA_TEST_SLOW makes more: for what
# the kernel gives no event for. $pause is between two looks, in seconds.
sub eventually {
	my ($seconds, $test, $pause) = @_;
	my $deadline = time + $seconds * ($ENV{ANCLA_TEST_SLOW} || 1);
	while (1) {
		my $value = $test->();
		return $value if $value || time > $deadline;
		select undef, undef, undef, $pause // 0.01;
	}
}

# Listens on a guest's console, an open socket, until it has said that; true if it did. It may have said
# its prompt before anybody listened, so that a silent one is sent a newline each second.
sub hear {
	my ($console, $pattern) = @_;
	my $said = '';
	local $SIG{PIPE} = 'IGNORE';
	return eventually(120, sub {
		if (AnclaTest::wait_readable(1, $console)) { sysread $console, $said, 65536, length $said or die "closed: $said" }
		else { syswrite $console, "\n" }
		return $said =~ $pattern });
}

sub is_running { my ($pid) = @_; return (AnclaTest::peek("/proc/$pid/stat") // ') Z') !~ /.*\) [ZX]/s }

1;
