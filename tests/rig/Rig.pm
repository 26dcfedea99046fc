package Rig;

# What the rig's tests share: the inner host by its own /sys, the scenarios of specs/ scaled to it,
# and the witness, which says where threads and pages are without a line of ancla's code.

use strict;
use warnings;

use AnclaTest;
use AnclaVm;
use Exporter qw(import);
use File::Basename qw(basename);
use JSON::PP ();
use Lists qw(numbers list);
use Test::More;

our @EXPORT = qw(
	host numbers list compact has_kvm accel scaled guest_disk witness where_threads_are where_pages_are
	threads_are pages_are pages_by_node guest_numa guest_cpuid ran_everywhere soon
	mmap munmap madvise take_hugepages
);

my $rig = "$BUILD/rig";

# Seconds in which a guest does what it must, of which ANCLA_TEST_SLOW makes more.
use constant WAIT => 60;
my $wait = WAIT * ($ENV{ANCLA_TEST_SLOW} || 1);

# What QEMU can do is asked here, before any test: once on each host, then ancla has it in its cache. All
# that QEMU is made of comes from the outer machine then, and on a busy one that may take longer than
# ancla waits; not once more.
{
	my $asked;
	for (1 .. 3) {
		$asked = run_ancla('plan', make_spec({ name => 'ask', memory => '32MiB', qemu => { accel => accel() } }));
		last if $asked->{err} !~ /did not answer within/;
		diag $asked->{err};
	}
	die "QEMU cannot be asked: $asked->{err}" if $asked->{exit} // 1;
	note sprintf 'QEMU was asked what it can do: %.1f s', $asked->{seconds};
}

# Data on one line, for notes.
sub compact { return JSON::PP->new->canonical->encode($_[0]) }

sub line { my ($path) = @_; my $text = AnclaTest::peek($path) // ''; chomp $text; return $text }

# --- the host ---

# {nodes => [{id, cpus => [...], distances => [...], free2m, free1g, kB}, ...], isolated => [...],
# siblings => {cpu => [...]}}, read anew each time.
sub host {
	my $cpu = '/sys/devices/system/cpu';
	my $node = '/sys/devices/system/node';
	my %host = (isolated => [ numbers(line("$cpu/isolated")) ], nodes => []);
	for my $id (numbers(line("$node/online"))) {
		my ($kB) = line("$node/node$id/meminfo") =~ /MemTotal:\s+(\d+)/;
		push @{ $host{nodes} }, {
			id => $id, kB => $kB,
			cpus => [ numbers(line("$node/node$id/cpulist")) ],
			distances => [ split ' ', line("$node/node$id/distance") ],
			free2m => hugepages_free($id), free1g => hugepages_free($id, 1048576),
		};
	}
	for (numbers(line("$cpu/online"))) {
		$host{siblings}{$_} = [ numbers(line("$cpu/cpu$_/topology/thread_siblings_list")) ];
	}
	return \%host;
}

sub has_kvm { return -e '/dev/kvm' }
sub accel { return has_kvm() ? 'kvm' : 'tcg' }

# --- memory of the test's own, by system calls of x86-64 ---

sub mmap {
	my ($length, $flags, $fd, $offset) = @_;
	my $at = syscall 9, 0, $length, 3, $flags, $fd, $offset; # readable and writable
	die "mmap: $!" if $at == -1;
	return $at;
}
sub munmap { my ($at, $length) = @_; return syscall 11, $at, $length }
sub madvise { my ($at, $length, $advice) = @_; return syscall(28, $at, $length, $advice) == 0 }

# Takes so many huge pages of 2 MiB on a node, or as many as can be had; returns what gives them back.
sub take_hugepages {
	my ($node, $count) = @_;
	my $length = $count << 21;
	my $at = mmap($length, 0x40021, -1, 0); # MAP_SHARED, MAP_ANONYMOUS, MAP_HUGETLB
	die "mbind: $!" if syscall(237, $at, $length, 2, pack('Q', 1 << $node), 64, 0) < 0; # MPOL_BIND
	madvise($at, $length, 23); # MADV_POPULATE_WRITE
	return sub { munmap($at, $length) };
}

# How many pages of these mappings (of mappings()) each node has.
sub pages_by_node {
	my %pages;
	for my $mapping (@_) {
		$pages{$_} += $mapping->{pages}{$_} for keys %{ $mapping->{pages} };
	}
	return \%pages;
}

# --- scenarios ---

# A spec's text without its comments; and what its header says of the host it is made for.
sub scenario {
	my ($name) = @_;
	my $text = AnclaTest::slurp("$ROOT/specs/$name.json");
	my (undef, $cores, $threads) = $text =~ /--host "numa:(\d+)\S* (?:l3:\d+ )?core:(\d+) pu:(\d+)"/;
	my ($isolated) = $text =~ /isolcpus=(\d[\d,-]*\d)/;
	$text =~ s{//.*}{}g;
	return (json($text), ($cores // 8) * ($threads // 1), { map { $_ => 1 } numbers($isolated) });
}

# A disk with a boot sector that runs on every vCPU (everywhere.S). A BIOS that needs no disk for it: bios.S.
sub guest_disk {
	my ($format, $name) = @_;
	my $path = tmpdir() . "/$name";
	open my $file, '>', $path or die "$path: $!";
	print $file AnclaTest::slurp("$rig/everywhere.$format");
	close $file or die "$path: $!";
	return $path;
}

# The CPUs of the host, to be given out one by one: from a node, isolated ones or not as wanted, and
# from elsewhere when there are none of these.
sub pool {
	my ($host) = @_;
	my %isolated = map { $_ => 1 } @{ $host->{isolated} };
	my %free = map { $_->{id} => [ @{ $_->{cpus} } ] } @{ $host->{nodes} };
	my @order = map { $_->{id} } reverse @{ $host->{nodes} };
	return sub {
		my ($node, $want_isolated) = @_;
		for my $pass (!!$want_isolated, !$want_isolated) {
			for my $id ($node, grep { $_ != $node } @order) {
				my ($cpu) = grep { !!$isolated{$_} == $pass } @{ $free{$id} };
				next unless defined $cpu;
				$free{$id} = [ grep { $_ != $cpu } @{ $free{$id} } ];
				return $cpu;
			}
		}
		die "no CPU is left\n";
	};
}

# scaled(NAME, HOST): the scenario with the same fields, on this host: fewer vCPUs, less memory, its
# pins and nodes on CPUs and nodes that are here. On a host without KVM, what only KVM can do (its
# CPU modes and models, the host's caches) becomes mode maximum. undef if this host has no room.
sub scaled {
	my ($name, $host) = @_;
	my ($spec, $cpus_per_node, $on_isolated) = scenario($name);
	my @nodes = grep { @{ $_->{cpus} } >= 2 && $_->{free2m} >= 40 } @{ $host->{nodes} };
	return unless @nodes;

	# Guest nodes: as many as there are nodes for, each with half of its node's CPUs at most.
	my $guest_nodes = $spec->{numa} ? $spec->{numa}{nodes} : [];
	@$guest_nodes = @$guest_nodes[0 .. $#nodes] if @$guest_nodes > @nodes;
	my $groups = @$guest_nodes || 1;
	my $each = @$guest_nodes ? () = numbers($guest_nodes->[0]{vcpus}) : $spec->{vcpus};
	for my $node (@nodes[0 .. $groups - 1]) {
		my $cores = int(@{ $node->{cpus} } / 2);
		$each = $cores if $cores < $each;
	}
	$each = 4 if $each > 4;
	# A core kept for the host would be a whole node here.
	$spec->{placement}{reserve} = 0
		if ($spec->{placement}{mode} // 'auto') eq 'auto' && !$spec->{cputune} && grep { @{ $_->{cpus} } <= 2 } @nodes[0 .. $groups - 1];
	$each-- if ($spec->{placement}{smt} // '') eq 'isolate' && $each > 1; # a core for the emulator
	my %node_of = map { $_ => $nodes[$_ < @nodes ? $_ : $#nodes]{id} } 0 .. 7;
	my $total = $spec->{vcpus} = $each * $groups;

	my $backing = $spec->{'memory-backing'};
	my $size = '64MiB';
	if ($backing && ($backing->{hugepages} // '') eq '1GiB') {
		if (grep { !$_->{free1g} } @nodes[0 .. $groups - 1]) { $backing->{hugepages} = '2MiB' } else { $size = '1GiB' }
	}
	$spec->{memory} = ($groups * ($size =~ /(\d+)/)[0]) . ($size =~ /([A-Z].*)/)[0];
	for my $i (0 .. $#$guest_nodes) {
		my $first = $i * $each;
		$guest_nodes->[$i]{vcpus} = list($first .. $first + $each - 1);
		$guest_nodes->[$i]{memory} = $size;
		$guest_nodes->[$i]{'host-nodes'} = "$node_of{$i}" if exists $guest_nodes->[$i]{'host-nodes'};
	}
	$backing->{'host-nodes'} = "$node_of{ $backing->{'host-nodes'} }" if $backing && exists $backing->{'host-nodes'};

	if (my $topology = $spec->{cpu}{topology}) {
		$topology->{sockets} = $topology->{sockets} > 1 ? $groups : 1;
		my $rest = $total / $topology->{sockets};
		$topology->{threads} = 1 if $rest % ($topology->{threads} // 1);
		$topology->{cores} = $rest / ($topology->{threads} // 1);
	}
	scale_pins($spec, $host, sub { $node_of{ int($_[0] / $cpus_per_node) } }, $on_isolated);
	scale_devices($spec);
	if (!has_kvm()) {
		$spec->{cpu} = { mode => 'maximum', $spec->{cpu}{topology} ? (topology => $spec->{cpu}{topology}) : () };
	}
	# The rig's KVM runs on an emulated CPU, which none of the named ones of real machines is.
	$spec->{cpu}{model} = 'qemu64' if ($spec->{cpu}{mode} // '') eq 'custom';
	$spec->{qemu}{accel} = accel();
	return $spec;
}

sub scale_pins {
	my ($spec, $host, $node_of_cpu, $on_isolated) = @_;
	my $take = pool($host);
	my $tune = $spec->{cputune} or return;
	my $pin = sub { my ($cpu) = @_; return $take->($node_of_cpu->($cpu), $on_isolated->{$cpu}) };
	my $each = sub { my ($set) = @_; return list(map { $pin->($_) } numbers($set)) };
	# The emulator first: its set may have several CPUs, and must not have isolated ones.
	$tune->{emulatorpin} = $each->($tune->{emulatorpin}) if exists $tune->{emulatorpin};
	if (my $pins = $tune->{vcpupin}) {
		my @old = map { $pins->{$_} } sort { $a <=> $b } keys %$pins;
		my $guest_nodes = $spec->{numa} ? $spec->{numa}{nodes} : [ { vcpus => list(0 .. $spec->{vcpus} - 1) } ];
		my $stride = @old / (@$guest_nodes > 1 || !$spec->{numa} ? @$guest_nodes : 2);
		my %new;
		for my $i (0 .. $#$guest_nodes) {
			my @from = @old[$i * $stride .. $i * $stride + $stride - 1];
			$new{$_} = $each->(shift @from) for numbers($guest_nodes->[$i]{vcpus});
		}
		$tune->{vcpupin} = \%new;
	}
	$_ = $each->($_) for values %{ $tune->{iothreadpin} // {} };
	$_->{vcpus} = list(0 .. $spec->{vcpus} - 1) for @{ $tune->{vcpusched} // [] };
	return;
}

sub scale_devices {
	my ($spec) = @_;
	my $number = 0;
	$spec->{disks} //= [ {} ] if delete $spec->{boot}; # in the place of its Linux
	$_->{file} = guest_disk($_->{format} // 'raw', "$spec->{name}-" . $number++ . '.img') for @{ $spec->{disks} // [] };
	# QEMU's BIOS boots from the disk of the scenario that is about disks; that of bios.S takes a tenth of the time.
	$spec->{boot} = { firmware => "$rig/bios.bin" } if $spec->{name} ne 'emulator-iothread-pinning';
	$spec->{serial} = 'none' if ($spec->{serial} // '') eq 'stdio';
	return unless grep { ($_->{bridge} // '') eq 'br0' } @{ $spec->{nics} // [] };
	run_command(qw(ip link add br0 type bridge)) if !-e '/sys/class/net/br0';
	run_command(qw(ip link set br0 up));
	return;
}

# --- the witness ---

sub witness {
	my @words = @_;
	my $result = run_command("$rig/witness", @words, { timeout => 2 * WAIT });
	diag "witness @words: $result->{err}" if $result->{exit};
	return $result->{exit} ? () : split /\n/, $result->{out};
}

# By role ("vcpu 0", "iothread io0", "emulator"): the sets and schedulers that there are, "0-3 other:0".
# The kernel's own threads that work for the VM count, too.
sub where_threads_are {
	my ($pid) = @_;
	my %is;
	for (witness('threads', $pid)) {
		my (undef, $cpus, $scheduler, $name) = split ' ', $_, 4;
		my $role = $name =~ m{^CPU (\d+)/(TCG|KVM)$} ? "vcpu $1" : $name =~ /^IO (\S+)/ && $1 !~ /^mon/ ? "iothread $1"
			: $name =~ /^(vhost|kvm-pit|worker)/ ? $1 : 'emulator';
		$is{$role}{"$cpus $scheduler"} = 1;
	}
	return { map { $_ => join ' | ', sort keys %{ $is{$_} } } keys %is };
}

# [{name, size, page, absent, nodes => {node => pages}}, ...] of the guest's memory, by guest node.
sub where_pages_are {
	my ($pid, $anonymous) = @_;
	return map {
		my ($name, @rest) = split;
		my %found = map { split /=/ } @rest;
		{
			name => $name, map({ $_ => delete $found{$_} } qw(size page absent)),
			nodes => { map { /^N(\d+)/; $1 => $found{$_} } keys %found },
		}
	} sort $anonymous ? witness('anonymous', $pid, $anonymous) : witness('memory', $pid);
}

# A test: threads are where the spec pins them, and scheduled so.
sub threads_are {
	my ($pid, $spec, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $is = where_threads_are($pid);
	my $should = expected_threads($spec);
	# The kernel's threads: those of vhost with the emulator; KVM's timer with vCPU 0, except where a
	# real-time vCPU would starve it. A worker is where the loop is that it works for.
	$should->{vhost} = ($should->{emulator} =~ /(\S+)/)[0] . ' other:0' if $is->{vhost};
	my $timer = $should->{'vcpu 0'} =~ / (fifo|rr)/ ? 'emulator' : 'vcpu 0';
	$should->{'kvm-pit'} = ($should->{$timer} =~ /(\S+)/)[0] . ' other:0' if $is->{'kvm-pit'};
	my %loops = map { $should->{$_} => 1 } grep { /^(emulator|iothread)/ } keys %$should;
	$should->{worker} = join ' | ', grep { $loops{$_} } split / \| /, $is->{worker} if $is->{worker};
	return is_deeply $is, $should, $what;
}

sub expected_threads {
	my ($spec) = @_;
	my $tune = $spec->{cputune};
	my $sched = sub { my ($rule) = @_; return $rule ? $rule->{scheduler} . ':' . ($rule->{priority} // 0) : 'other:0' };
	my %should = (emulator => list(numbers($tune->{emulatorpin})) . ' ' . $sched->($tune->{emulatorsched}));
	for my $vcpu (keys %{ $tune->{vcpupin} }) {
		my ($rule) = grep { my $rule = $_; grep { $_ == $vcpu } numbers($rule->{vcpus}) } @{ $tune->{vcpusched} // [] };
		$should{"vcpu $vcpu"} = list(numbers($tune->{vcpupin}{$vcpu})) . ' ' . $sched->($rule);
	}
	for my $id (@{ $spec->{iothreads} // [] }) {
		my ($rule) = grep { my $rule = $_; grep { $_ eq $id } split /,/, $rule->{iothreads} } @{ $tune->{iothreadsched} // [] };
		$should{"iothread $id"} = list(numbers($tune->{iothreadpin}{$id} // $tune->{emulatorpin})) . ' ' . $sched->($rule);
	}
	return \%should;
}

# A test: every page of guest memory is there, of that size, and on the nodes that are given, a
# reference to a hash {node => pages} for each guest node.
sub pages_are {
	my ($pid, $page, $expected, $what, $anonymous) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @is = where_pages_are($pid, $anonymous);
	my @short = map { { page => $_->{page}, absent => $_->{absent}, nodes => $_->{nodes} } } @is;
	return is_deeply \@short, [ map { { page => $page, absent => 0, nodes => $_ } } @$expected ], $what;
}

# The guest's NUMA as its ACPI tables in its memory say: {slit => [[...], ...], cpus => {node => n},
# memory => {node => bytes}}, waiting for the firmware to write them.
sub guest_numa {
	my ($pid) = @_;
	# An absent table is an exit code, not worth a word.
	my ($srat, $slit) = map {
		my $result = run_command("$rig/witness", 'table', $pid, @$_, { timeout => 2 * WAIT });
		pack 'H*', $result->{out} =~ s/\n//r;
	} [ 'SRAT', $wait ], ['SLIT'];
	return {} if !length $srat;
	my %numa = (cpus => {}, memory => {});
	for (my $at = 48; $at < length $srat;) {
		my ($type, $length) = unpack 'CC', substr $srat, $at, 2;
		my $entry = substr $srat, $at, $length;
		if ($type == 0) {
			my ($node, $flags) = (unpack('x2 C', $entry), unpack('x4 V', $entry));
			$numa{cpus}{$node}++ if $flags & 1;
		} elsif ($type == 2) {
			my ($node, $flags) = unpack 'x4 V x4 V', $entry;
			$numa{cpus}{$node}++ if $flags & 1;
		} elsif ($type == 1) {
			my ($node, undef, undef, $bytes, $flags) = unpack 'x2 V v Q< Q< x4 V', $entry;
			$numa{memory}{$node} += $bytes if $flags & 1;
		}
		$at += $length || 1 << 30;
	}
	if (length $slit) {
		my $count = unpack 'x36 Q<', $slit;
		my @all = unpack "x44 C*", $slit;
		$numa{slit} = [ map { [ splice @all, 0, $count ] } 1 .. $count ];
	}
	return \%numa;
}

# As eventually(), for what takes emulated CPUs long to look at.
sub soon {
	my ($seconds, $test) = @_;
	return AnclaVm::eventually($seconds, $test, 0.33);
}

# A test: the guest of guest_disk() has run on all its vCPUs. `memory` names the guest's first memory
# as the witness finds it.
sub ran_everywhere {
	my ($pid, $vcpus, $what, $memory) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($ran) = witness('peek', $pid, $memory // 'node0', 0x9000, 1, $vcpus, $wait);
	return is $ran, $vcpus, $what;
}

# What the guest of guest_disk(), which has run, was told by CPUID: {signature, features (1.ECX), name,
# l2 (KiB)}; see everywhere.S.
sub guest_cpuid {
	my ($pid) = @_;
	my @words = witness('peek', $pid, 'node0', 0x9010, 4 * 6);
	return {} if @words < 24;
	return {
		signature => $words[0], features => $words[2],
		name => unpack('Z*', pack 'V12', @words[8 .. 19]) =~ s/^ +| +$//gr, l2 => $words[22] >> 16,
	};
}

1;
