# VMs are started, changed, verified and stopped, again and again, beside one that lives through all
# of it and is changed, too: nothing grows. SOAK_SECONDS says for how long (1800); every minute the
# figures are printed. Those that can be counted (processes, descriptors, files, claims, cgroups,
# memory files, huge pages) are at the end of each lap what they were after the first; memory stays
# below the bounds stated here.
#
# The one that lasts and some of the others are on huge pages of 2 MiB, which they reserve and give back, unless
# SOAK_HUGEPAGES=no: then others on this machine may do with them what they like.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Cgroups;
use Test::More;
use Time::HiRes qw(time);

use constant { WARM_UP => 3, MINUTE => 60 }; # laps until the figures count; seconds between two prints

# How much each figure may grow after the warm-up, in its own unit; 0: not at all.
my @bounds = (
	[ 'processes',         0, 'processes of this test' ],
	[ 'supervisor-fds',    0, 'descriptors of the long-lived supervisor' ],
	[ 'supervisor-kB',   512, 'its own memory (RssAnon)' ],
	[ 'qemu-fds',          0, 'descriptors of its QEMU' ],
	[ 'qemu-threads',      4, 'threads of its QEMU, which has helpers that come and go' ],
	[ 'qemu-kB',       32768, 'its own memory (RssAnon)' ],
	[ 'files',             0, 'files and directories in the runtime directory' ],
	[ 'bytes',       2 << 20, 'in them; logs are trimmed at 1 MiB' ],
	[ 'claims',            0, 'claims in the ledger' ],
	[ 'cgroups',           0, 'cgroups of VMs' ],
	[ 'memory-files',      0, 'memory files (memfd) that are open anywhere' ],
	[ 'hugepages-used',    0, 'huge pages that are not free' ],
	[ 'hugepages',         0, 'huge pages reserved' ],
);
# Of the whole machine, on which others may work: the least of the last third is compared with the
# most of the first.
my @of_machine = ([ 'used-kB', 262144, 'memory that is not available' ], [ 'slab-kB', 65536, 'of the kernel, that it cannot reclaim' ]);

my $seconds = $ENV{SOAK_SECONDS} || 1800;
my $huge = ($ENV{SOAK_HUGEPAGES} // '') ne 'no';
my $root = cgroup_root('cpu');
my $cpus = () = glob '/sys/devices/system/cpu/cpu[0-9]*';
BAIL_OUT('VMs are moved between CPUs 0 and 1, and there is one CPU') if $cpus < 2;

# ---- figures ----

# The cgroups of this test's VMs, less those that a test before may have left when it was killed.
my %old_cgroups;
sub our_cgroups { return grep { !$old_cgroups{$_} } map { vm_cgroups($root, $_) } 'lasting', 'soak' }
%old_cgroups = map { $_ => 1 } our_cgroups();

sub count_matches { my ($pattern, @paths) = @_; return scalar grep { (readlink($_) // '') =~ $pattern } @paths }

sub status_kB { my ($pid, $key) = @_; return (AnclaTest::peek("/proc/$pid/status") // '') =~ /^$key:\s+(\d+)/m ? $1 : -1 }

# Each file and directory below, and the bytes in them.
sub measure_tree {
	my ($files, $bytes, @look) = (0, 0, runtime_dir());
	while (defined(my $path = shift @look)) {
		for (AnclaTest::entries($path)) {
			$files++;
			$bytes += -s _ // 0 if lstat $_;
			push @look, $_ if -d _;
		}
	}
	return ($files, $bytes);
}

sub figures {
	my ($status) = @_;
	my ($supervisor, $qemu) = @$status{qw(supervisor pid)};
	my ($files, $bytes) = measure_tree();
	my ($available) = AnclaTest::slurp('/proc/meminfo') =~ /^MemAvailable:\s+(\d+)/m;
	my ($total) = AnclaTest::slurp('/proc/meminfo') =~ /^MemTotal:\s+(\d+)/m;
	my ($slab) = AnclaTest::slurp('/proc/meminfo') =~ /^SUnreclaim:\s+(\d+)/m;
	return {
		processes => scalar(our_processes()),
		'supervisor-fds' => scalar(() = glob "/proc/$supervisor/fd/*"),
		'supervisor-kB' => status_kB($supervisor, 'RssAnon'),
		'qemu-fds' => scalar(() = glob "/proc/$qemu/fd/*"),
		'qemu-threads' => scalar(tasks($qemu)),
		'qemu-kB' => status_kB($qemu, 'RssAnon'),
		files => $files, bytes => $bytes,
		claims => scalar(@{ json(run_ancla('host', '--json'))->{claims} }),
		cgroups => scalar(our_cgroups()),
		'memory-files' => count_matches(qr/^\/memfd:ancla-(?:soak|lasting)-/, map { glob "/proc/$_/fd/*" } process_ids()),
		$huge ? ('hugepages-used' => hugepages_total() - hugepages_free(), hugepages => hugepages_total()) : (),
		'used-kB' => $total - $available, 'slab-kB' => $slab,
	};
}

# ---- what is done ----

my $failures = 0;
sub good { my (@words) = @_; return ended(run_ancla(@words), 0, qr//, "ancla @words") || !++$failures }

# A start, what is done with the VM, its end.
sub with_vm {
	my ($more, @commands) = @_;
	my $spec = spec('soak', { memory => '16MiB', %$more });
	ended(run_ancla('start', make_spec($spec)), 0, qr/soak runs/, 'start') or return $failures++;
	good(@$_) for @commands, [qw(verify soak)], [qw(stop --force soak)];
	return;
}

# Memory of so many huge pages, and as many of those are reserved as the pool is short of.
sub huge { my ($pages) = @_; return (memory => 2 * $pages . 'MiB', 'memory-backing' => { hugepages => { size => '2MiB', reserve => 'grow' } }) }
# All that are free, and some more.
sub more_huge { return { huge(hugepages_free() + 4) } }

sub killed {
	my ($more) = @_;
	my $status = start_vm(spec('soak', { memory => '16MiB', %$more })) or return $failures++;
	kill KILL => @$status{qw(supervisor pid)};
	wait_gone($_) for @$status{qw(supervisor pid)};
	return good('list');
}

sub stopped_early {
	my ($more) = @_;
	my $start = spawn_ancla('start', make_spec(spec('soak', { memory => '16MiB', %$more })));
	select undef, undef, undef, rand 0.3;
	$start->signal('TERM');
	my $result = $start->wait_exit;
	return !defined $result->{exit} || $result->{exit} || good(qw(stop --force soak));
}

my %two = (vcpus => 2, cputune => { vcpupin => { 0 => '0', 1 => '1' }, emulatorpin => '0' });
my $spec_lap = 0;

my @kinds = (
	[ 'plain' => sub { with_vm({}) } ],
	[ 'pinned, and moved' => sub {
		with_vm(\%two, ['pin', 'soak', 'vcpu', '0-1=1,0', 'emulator', '1'], [qw(verify soak)], [qw(pin soak vcpu 0 0-1 --save)], [qw(repin soak)]);
	} ],
	[ 'automatic, filled' => sub { with_vm({ placement => { mode => 'auto', 'cpu-policy' => 'shared' }, 'memory-backing' => { prealloc => TRUE } }, [qw(status soak)], ['list']) } ],
	[ 'more vCPUs' => sub { with_vm({ %two, vcpus => 1, 'max-vcpus' => 2 }, [qw(vcpus soak 2)], [qw(pin soak vcpu 1 0)]) } ],
	[ 'shares and quota' => sub {
		with_vm({ %two, cputune => { %{ $two{cputune} }, shares => 512, quota => '150%' } }, [qw(pin soak shares 2048 quota 120%)]);
	} ],
	[ 'huge pages that it reserves' => sub { with_vm(more_huge(), [qw(status soak)]) if $huge } ],
	[ 'such a one killed with its supervisor' => sub { killed(more_huge()) if $huge } ],
	[ 'such a one stopped while it starts' => sub { stopped_early(more_huge()) if $huge } ],
	[ 'in the foreground, ended by signals' => sub {
		my $run = spawn_ancla('run', make_spec(spec('soak', { memory => '16MiB' })));
		$run->wait_for_output(qr/soak runs/) or return $failures++;
		$run->signal('TERM');
		$run->wait_for_output(qr/power down/) or $failures++;
		$run->signal('TERM');
		ended($run->wait_exit, 1, qr/forced off/, 'run') or $failures++;
	} ],
	[ 'a Linux that powers off' => sub {
		return if $spec_lap % 4; # it boots for seconds
		my $result = run_ancla('run', make_spec(linux('soak', 'ancla.do=poweroff')), { timeout => 120 });
		ended($result, 0, qr//, 'run') or $failures++;
	} ],
	[ 'refused' => sub {
		ended(run_ancla('start', make_spec(spec('soak', { cputune => { vcpupin => { 0 => '4000' } } }))), 4, qr/4000/, 'refused') or $failures++;
	} ],
	[ 'a QEMU that dies' => sub {
		my $spec = spec('soak', { memory => '16MiB', qemu => { binary => wrapper('dies', 'exit 3') } });
		ended(run_ancla('start', make_spec($spec)), 1, qr/status 3/, 'dies') or $failures++;
	} ],
	[ 'killed with its supervisor' => sub { killed({ cputune => { shares => 512 } }) } ],
	[ 'taken over' => sub {
		my $status = start_vm(spec('soak', { memory => '16MiB' })) or return $failures++;
		kill KILL => $status->{supervisor};
		wait_gone($status->{supervisor});
		my $run = spawn_ancla('run', '--attach', 'soak');
		$run->wait_for_output(qr/soak is taken over/) or $failures++;
		good(qw(stop --force soak));
		defined $run->wait_exit->{exit} or $failures++;
	} ],
	[ 'stopped while it starts' => sub { stopped_early({}) } ],
);

# The changes of the one that lasts.
sub change_lasting {
	good(@$_) for ['pin', 'lasting', 'vcpu', '0-1=1,0', 'emulator', '1'], [qw(pin lasting vcpu 0 --scheduler batch)], [qw(verify lasting)],
		[qw(iothread lasting add io9 --cpus 0)], [qw(status lasting)], [qw(iothread lasting remove io9)],
		[qw(pin lasting shares 4096 quota 180%)], [qw(verify lasting)], [qw(pin lasting shares 1024 quota 200%)],
		[qw(pin lasting memory --node 0)], [qw(pin lasting vcpu 0-1 0-1 emulator 0-1 --scheduler other)], [qw(repin lasting)], [qw(verify lasting)],
		['pin', 'lasting', 'vcpu', '0-1=0,1', 'emulator', '0'];
	return;
}

sub lap {
	change_lasting();
	$_->[1]->() for @kinds;
	$spec_lap++;
	# What ancla leaves to die, such as a guard, takes a moment.
	return eventually(20, sub { our_processes() == 3 - 1 }) ? 1 : 0;
}

# ---- the soak ----

my @pages_before = (hugepages_free(), hugepages_total());
my $status = start_vm(spec('lasting', {
	%two, iothreads => ['io0'], cputune => { %{ $two{cputune} }, shares => 1024, quota => '200%' },
	$huge ? huge(32) : ('memory-backing' => { prealloc => TRUE }),
})) or BAIL_OUT('the VM that lasts does not start');
my ($began, $shown, $base, $now, $laps, %all) = (time, 0, undef, undef, 0);
my @names = map { $_->[0] } @bounds, @of_machine;
sub show { my ($time, $lap, @values) = @_; note join ' ', map { sprintf "%$_->[0]s", $_->[1] } [ 6, $time ], [ 5, $lap ], map { [ length $names[$_], $values[$_] ] } 0 .. $#names }
show('s', 'laps', @names);
while (time < $began + $seconds || $laps <= WARM_UP) {
	subtest 'lap ' . ($laps + 1) => sub { ok lap(), 'all others have ended' };
	last if $failures;
	$now = figures($status);
	$base = $now if ++$laps == WARM_UP;
	push @{ $all{ $_->[0] } }, $now->{ $_->[0] } for $laps < WARM_UP ? () : @of_machine;
	if (time > $shown + MINUTE || $laps == WARM_UP) {
		$shown = time;
		show(int($shown - $began), $laps, map { $now->{$_} // '-' } @names);
	}
	my @grown = !$base ? () : grep { defined $now->{ $_->[0] } && $now->{ $_->[0] } > $base->{ $_->[0] } + $_->[1] } @bounds;
	last if @grown && fail 'nothing grows' && diag explain \@grown, $base, $now, [ our_processes() ];
}

unless ($failures) {
	is_deeply [ grep { defined $now->{ $_->[0] } && $now->{ $_->[0] } > $base->{ $_->[0] } + $_->[1] } @bounds ], [], "nothing has grown in $laps laps";
	for (@of_machine) {
		my ($name, $bound, $what) = @$_;
		my @values = @{ $all{$name} };
		my $third = int(@values / 3) or next;
		my ($most) = sort { $b <=> $a } @values[ 0 .. $third - 1 ];
		my ($least) = sort { $a <=> $b } @values[ -$third .. -1 ];
		cmp_ok $least, '<=', $most + $bound, "$name, $what: from at most $most to at least $least";
	}
	note sprintf '%-15s %9s %9s %9s  %s', 'figure', 'first', 'last', 'bound', 'of what';
	note sprintf '%-15s %9s %9s %9s  %s', $_->[0], $base->{ $_->[0] } // '-', $now->{ $_->[0] } // '-', "+$_->[1]", $_->[2] for @bounds, @of_machine;
}
stop_vm('lasting');
clean 'and nothing is left';
is_deeply [ our_cgroups() ], [], 'nor a cgroup';
is_deeply [ hugepages_free(), hugepages_total() ], \@pages_before, "all $pages_before[1] huge pages are as they were" if $huge;
done_testing;
