#!/usr/bin/perl
# A fixed set of guests on machines of all kinds: each is placed, or refused with the reason; and what
# holds of every plan on every machine is checked against what hwloc's own tools say of it.
use strict;
use warnings;
use File::Temp qw(tempdir);
use IPC::Open2;
use JSON::PP;
use Lists qw(numbers);
use Test::More;

my $ancla = $ENV{ANCLA} // 'build/ancla';
my $caps = 'tests/golden/made-up-xeon-qemu-10.0-kvm.caps.json';
my $folder = $ENV{TOPOLOGIES} // '../shared/topologies';
$folder =~ s{/given/?$}{};
my @files = sort glob "$folder/given/*.xml";
plan skip_all => "no $folder/given: the machines' topologies are not here" unless @files;
my $facts = decode_json(slurp("$folder/facts-given.json"));
my $scratch = tempdir(CLEANUP => 1);

sub slurp { open my $in, '<', $_[0] or die "$_[0]: $!"; local $/; return scalar(<$in>) // '' }

my $dedicated = { mode => 'auto' };
my %guests = (
	'one vCPU' => { vcpus => 1, memory => '64MiB', placement => $dedicated },
	'four' => { vcpus => 4, memory => '256MiB', placement => $dedicated },
	'four, alone on their cores' => { vcpus => 4, memory => '256MiB', placement => { mode => 'auto', smt => 'isolate' } },
	'four, on siblings only' => { vcpus => 4, memory => '256MiB', placement => { mode => 'auto', smt => 'require' } },
	'three, the emulator apart' => { vcpus => 3, memory => '64MiB', placement => { mode => 'auto', emulator => 'isolate' } },
	'four, shared' => { vcpus => 4, memory => '64MiB', placement => { mode => 'auto', 'cpu-policy' => 'shared' } },
	'two guest nodes' => { vcpus => 4, memory => '2GiB', placement => $dedicated, numa => { nodes => [
		{ vcpus => '0-1', memory => '1GiB' }, { vcpus => '2-3', memory => '1GiB' } ] } },
	'more than a node has' => { vcpus => 24, memory => '24GiB', placement => { mode => 'auto', reserve => 0 } },
	'1,500 vCPUs' => { vcpus => 1500, memory => '3000MiB', placement => $dedicated },
	'too much memory' => { vcpus => 1, memory => '1024TiB', placement => $dedicated },
);

# What hwloc-calc says of each CPU: the numbers of what has it.
sub asked {
	my ($file, $what, $has_cores, @cpus) = @_;
	my @kind = $what eq 'core' ? qw(--pi --lo) : qw(--physical);
	return map { $_ => '' } @cpus if $what eq 'core' && !$has_cores;
	my $pid = open2(my $out, my $in, 'hwloc-calc', '-i', $file, '-q', @kind, '-I', $what);
	print $in "pu:$_\n" for @cpus;
	close $in;
	chomp(my @answers = grep { !/^Waiting/ } <$out>);
	waitpid $pid, 0;
	die "hwloc-calc: $file" if $? || @answers != @cpus;
	my %of;
	@of{@cpus} = @answers;
	return %of;
}

sub distance {
	my ($view, $from, $to) = @_;
	return 11 if $from == $to;
	my $latency = $view->{numa_latency} or return 20;
	my %at = map { $latency->{nodes}[$_] => $_ } 0 .. $#{ $latency->{nodes} };
	return 20 unless defined $at{$from} && defined $at{$to};
	my $value = $latency->{rows}[ $at{$from} ][ $at{$to} ];
	return $value <= 10 ? 11 : $value > 254 ? 254 : $value;
}

sub check_plan {
	my ($guest, $plan, $view, $node_of, $core_of) = @_;
	my (%taken, %core, @wrong, %used, %memory);
	my %there = map { $_ => 1 } numbers($view->{pus});
	my $alone = $plan->{'cpu-policy'} eq 'dedicated';
	for my $vcpu (@{ $plan->{vcpus} }) {
		my @cpus = numbers($vcpu->{cpus});
		push @wrong, "vCPU $vcpu->{id} has no CPU" unless @cpus;
		for my $cpu (@cpus) {
			push @wrong, "CPU $cpu is not there" unless $there{$cpu};
			push @wrong, "CPU $cpu twice" if $alone && $taken{$cpu}++;
			push @wrong, "two vCPUs on the core of CPU $cpu"
				if ($guest->{placement}{smt} // '') eq 'isolate' && $core_of->{$cpu} ne '' && $core{ $core_of->{$cpu} }++;
			push @wrong, "vCPU $vcpu->{id}: CPU $cpu is not of node $vcpu->{'host-node'}"
				unless grep { $_ == $vcpu->{'host-node'} } split /,/, $node_of->{$cpu};
		}
	}
	push @wrong, "CPU $_ of the emulator is not there" for grep { !$there{$_} } numbers($plan->{emulator}{cpus});
	if (($guest->{placement}{emulator} // '') eq 'isolate') {
		push @wrong, "CPU $_ is the emulator's and a vCPU's" for grep { $taken{$_} } numbers($plan->{emulator}{cpus});
	}
	push @wrong, 'siblings are not shown as threads'
		if ($guest->{placement}{smt} // '') eq 'require' && $plan->{topology}{threads} < 2;
	if ($plan->{topology}{threads} > 1) {
		my @at = map { $core_of->{ $_->{cpus} } } @{ $plan->{vcpus} };
		push @wrong, "vCPUs $_ are threads on different cores" for grep { $at[$_] ne $at[ $_ + 1 ] } map { 2 * $_ } 0 .. @at / 2 - 1;
	}
	my @nodes = map { $_->{'host-nodes'} } @{ $plan->{memory} };
	$memory{ $_->{'host-nodes'} } += $_->{size} for @{ $plan->{memory} };
	for my $node (@{ $view->{nodes} }) {
		my $asked = delete $memory{ $node->{os_index} } // 0;
		push @wrong, "node $node->{os_index} has less memory" if $asked > $node->{memory_bytes};
	}
	push @wrong, "memory on node $_, which is not there" for keys %memory;
	for my $i (0 .. $#{ $plan->{distances} }) {
		for my $j (0 .. $#{ $plan->{distances} }) {
			my $expected = $i == $j ? 10 : distance($view, $nodes[$i], $nodes[$j]);
			push @wrong, "distance $i to $j is $plan->{distances}[$i][$j], not $expected"
				if $plan->{distances}[$i][$j] != $expected;
		}
	}
	return @wrong;
}

my ($placed, $refused) = (0, 0);
for my $file (@files) {
	my ($name) = $file =~ m{([^/]+)\.xml$};
	my $view = $facts->{$name}{default} or next;
	my @cpus = numbers($view->{pus});
	my %node_of = asked($file, 'numanode', 1, @cpus);
	my %core_of = asked($file, 'core', $view->{n_cores} > 0, @cpus);
	my @wrong;
	for my $what (sort keys %guests) {
		my $guest = { name => 'guest', %{ $guests{$what} } };
		open my $out, '>', "$scratch/spec.json" or die "spec: $!";
		print $out encode_json($guest);
		close $out;
		my $text = `timeout 60 '$ancla' plan --json --host '$file' --qemu-caps '$caps' '$scratch/spec.json' 2>'$scratch/err'`;
		my ($code, $error) = ($?, slurp("$scratch/err"));
		if ($code == 0) {
			$placed++;
			push @wrong, map { "$what: $_" } check_plan($guest, decode_json($text), $view, \%node_of, \%core_of);
		} elsif ($code == 4 << 8 && $error =~ /^ancla: .{20,}\n\z/) {
			$refused++;
		} else {
			push @wrong, "$what: status $code, $error";
		}
	}
	is_deeply \@wrong, [], $name;
}
cmp_ok $placed, '>', @files, "$placed plans";
cmp_ok $refused, '>', @files, "$refused refusals";
done_testing;
