#!/usr/bin/perl
# `ancla host`: this machine against what the kernel says (read here, without hwloc), described
# machines, the map for people, and errors.
use strict;
use warnings;
use File::Temp;
use JSON::PP;
use Lists qw(numbers);
use Test::More;

my $ancla = $ENV{ANCLA} // 'build/ancla';

# Runs a command (a list: no shell) and returns its exit code, output and errors.
sub run {
	my @command = @_;
	my ($out, $err) = (File::Temp->new, File::Temp->new);
	my $pid = fork // die "fork: $!";
	if ($pid == 0) {
		open STDOUT, '>', "$out" or die;
		open STDERR, '>', "$err" or die;
		exec 'timeout', 60, @command or die;
	}
	waitpid $pid, 0;
	return ($? >> 8, slurp("$out"), slurp("$err"));
}

sub slurp {
	my ($file) = @_;
	open my $in, "<", $file or return undef;
	local $/;
	my $text = <$in>;
	return $text // "";
}

# The first line of a file of /sys, undef where it is missing.
sub sys { my $text = slurp($_[0]); chomp $text if defined $text; return $text }

sub json {
	my ($code, $out, $err) = run($ancla, 'host', '--json', @_);
	is $code, 0, "host --json @_ succeeds";
	is $err, '', 'and says nothing on standard error';
	return decode_json($out);
}

my $cpu_dir = '/sys/devices/system/cpu';
my $node_dir = '/sys/devices/system/node';

subtest 'this machine: CPUs' => sub {
	my $host = json();
	my @online = numbers(sys("$cpu_dir/online"));
	ok $host->{live}, 'live';
	is $host->{cpus}, sys("$cpu_dir/online"), 'online CPUs';
	is $host->{isolated}, sys("$cpu_dir/isolated"), 'isolated CPUs';
	is $host->{'page-size'}, `getconf PAGESIZE` + 0, 'page size';
	my (%siblings, %packages, %l3s);
	for my $cpu (@online) {
		$siblings{ sys("$cpu_dir/cpu$cpu/topology/thread_siblings_list") } = 1;
		$packages{ sys("$cpu_dir/cpu$cpu/topology/package_cpus_list")
			// sys("$cpu_dir/cpu$cpu/topology/core_siblings_list") } = 1;
		my ($l3) = grep { (sys("$_/level") // 0) == 3 } glob "$cpu_dir/cpu$cpu/cache/index*";
		$l3s{ sys("$l3/shared_cpu_list") } = 1 if $l3;
	}
	is_deeply [ sort map { $_->{cpus} } @{ $host->{cores} } ], [ sort keys %siblings ], 'cores';
	is_deeply [ sort map { $_->{cpus} } @{ $host->{packages} } ], [ sort keys %packages ], 'packages';
	is_deeply [ sort map { $_->{cpus} } @{ $host->{l3s} } ], [ sort keys %l3s ], 'L3s';
	is_deeply $host->{claims}, [], 'no claims' unless glob '/run/ancla/*/lock';
};

subtest 'this machine: nodes' => sub {
	my $host = json();
	my @ids = -d $node_dir ? numbers(sys("$node_dir/online")) : (0);
	is_deeply [ map { $_->{id} } @{ $host->{nodes} } ], \@ids, 'ids';
	for my $node (@{ $host->{nodes} }) {
		my $dir = "$node_dir/node$node->{id}";
		my $meminfo = @ids > 1 ? slurp("$dir/meminfo") : slurp('/proc/meminfo');
		my ($total) = $meminfo =~ /MemTotal:\s+(\d+) kB/;
		my ($free) = $meminfo =~ /MemFree:\s+(\d+) kB/;
		# Memory of a virtual machine may be plugged while we look.
		cmp_ok abs($node->{memory} - $total * 1024), '<=', 0.1 * $total * 1024, 'memory';
		cmp_ok $node->{free}, '<=', $node->{memory}, 'free memory is at most the memory';
		cmp_ok $node->{free}, '>=', 0.8 * $free * 1024, 'free memory counts what is free';
		if (-d $dir) {
			is $node->{cpus}, sys("$dir/cpulist"), 'CPUs';
			is join(' ', @{ $node->{distances} }), sys("$dir/distance"), 'distances';
		}
		my $pages = -d "$dir/hugepages" ? "$dir/hugepages" : '/sys/kernel/mm/hugepages';
		my %expected = map { m{hugepages-(\d+)kB$}; ($1 * 1024 => 0 + sys("$_/nr_hugepages")) }
			glob "$pages/hugepages-*kB";
		my %actual = map { $_ => $node->{hugepages}{$_}{total} } keys %{ $node->{hugepages} };
		is_deeply \%actual, \%expected, 'huge pages';
	}
};

subtest 'allowed CPUs: all that the kernel grants, unless somebody narrowed the mask' => sub {
	my ($inherited) = slurp('/proc/self/status') =~ /^Cpus_allowed_list:\s*(\S+)/m;
	my $host = json();
	my %isolated = map { $_ => 1 } numbers($host->{isolated});
	my @allowed = numbers($host->{allowed});
	is_deeply [ grep { !$isolated{$_} } @allowed ], [ grep { !$isolated{$_} } numbers($inherited) ],
		'those that are not isolated are the inherited ones';
	my ($cpu) = grep { !$isolated{$_} } reverse @allowed;
	my ($code, $out, $err) = run('taskset', '-c', $cpu, $ancla, 'host', '--json');
	is $code, 0, 'runs under taskset' or diag $err;
	is decode_json($out)->{allowed}, @allowed > 1 ? $cpu : $host->{allowed}, 'a narrow mask is kept';
};

subtest 'the environment cannot change which machine it is' => sub {
	local $ENV{HWLOC_SYNTHETIC} = 'numa:7 pu:3';
	local $ENV{HWLOC_XMLFILE} = '/dev/null';
	is json()->{cpus}, sys("$cpu_dir/online"), 'still this one';
};

subtest 'a synthetic host' => sub {
	my $host = json('--host', 'pack:2 [numa(memory=8589934592)] l3:2(size=33554432) core:2 pu:2(indexes=2*8:1*2)');
	ok !$host->{live}, 'not live';
	is $host->{allowed}, '0-15', 'every CPU is allowed';
	is_deeply [ map { $_->{cpus} } @{ $host->{cores} } ], [ map { "$_," . ($_ + 8) } 0 .. 7 ], 'cores';
	is_deeply $host->{nodes}, [ map { {
		id => $_, cpus => ('0-3,8-11', '4-7,12-15')[$_], memory => 8 << 30, free => 8 << 30,
		hugepages => {}, distances => $_ ? [ 20, 10 ] : [ 10, 20 ]
	} } 0, 1 ], 'nodes';
	is_deeply $host->{l3s}[3], { cpus => '6-7,14-15', size => 32 << 20 }, 'L3';
	is_deeply $host->{cores}[7], { cpus => '7,15', node => 1, l3 => 3, package => 1, kind => undef }, 'a core';
	is_deeply $host->{packages}, [ { id => 0, cpus => '0-3,8-11' }, { id => 1, cpus => '4-7,12-15' } ], 'packages';
};

subtest 'the map' => sub {
	my ($code, $out, $err) = run($ancla, 'host', '--host', 'numa:2(memory=1073741824) l3:1(size=1048576) core:2 pu:2');
	is "$code$err", '0', 'succeeds';
	like $out, qr/^node 1\n  CPUs +4-7\n  memory +1GiB, 1GiB free\n  distance +10 to 1, 20 to 0\n  L3 1 1MiB +4\+5 6\+7$/m,
		'says what a node has';
	($code, $out, $err) = run($ancla, 'host');
	is "$code$err", '0', 'of this machine succeeds';
	like $out, qr/^this machine\n  has +CPUs: \d+; cores: \d+; L3: \d+; packages: \d+; nodes: \d+; pages: 4KiB$/m, 'and sums up';
	($code, $out) = run($ancla, 'host', '--host', 'group:32 pack:4 [numa] l3:1 core:8 pu:2(indexes=2*1024:1*2)');
	is_deeply [ grep { length > 100 } split /\n/, $out ], [], '2,048 CPUs do not make long lines';
	($code, $out) = run($ancla, 'host', '--host', 'numa:1 core:1000 pu:1');
	is_deeply [ grep { length > 100 } split /\n/, $out ], [], 'nor does an L3 of 1,000 cores';
};

# One line on standard error, exit code 3, nothing on standard output.
sub refused {
	my ($description, $expected) = @_;
	my ($code, $out, $err) = run($ancla, 'host', '--host', $description);
	my $name = length $description > 40 ? substr($description, 0, 40) . '...' : $description;
	subtest "refused: \"$name\"" => sub {
		is $code, 3, 'exit code';
		is $out, '', 'no output';
		like $err, qr/\Aancla: [^\n]*\n\z/, 'one line';
		like $err, $expected, 'which says what is wrong';
	};
}

sub file { my $file = File::Temp->new; print $file @_; close $file; return $file }

my $xml = file(
	qq{<?xml version="1.0" encoding="UTF-8"?>\n},
	qq{<!DOCTYPE topology SYSTEM "hwloc2.dtd">\n},
	qq{<topology version="2.0">\n},
	qq{  <object type="Machine" os_index="0" cpuset="0x00000003" complete_cpuset="0x00000003" allowed_cpuset="0x00000001" nodeset="0x1" complete_nodeset="0x1" allowed_nodeset="0x1" gp_index="1">\n},
	qq{    <object type="NUMANode" os_index="0" cpuset="0x00000003" complete_cpuset="0x00000003" nodeset="0x1" complete_nodeset="0x1" gp_index="4" local_memory="1073741824">\n},
	qq{      <page_type size="4096" count="262144"/>\n},
	qq{    </object>\n},
	qq{    <object type="PU" os_index="0" cpuset="0x00000001" complete_cpuset="0x00000001" nodeset="0x1" complete_nodeset="0x1" gp_index="2"/>\n},
	qq{    <object type="PU" os_index="1" cpuset="0x00000002" complete_cpuset="0x00000002" nodeset="0x1" complete_nodeset="0x1" gp_index="3"/>\n},
	qq{  </object>\n},
	qq{</topology>\n});
my $text = slurp("$xml");

subtest 'XML: CPUs that were not allowed are not there' => sub {
	my $host = json('--host', "$xml");
	is $host->{cpus}, '0', 'CPUs';
	is_deeply [ map { $_->{cpus} } @{ $host->{cores} } ], ['0'], 'cores';
	is $host->{nodes}[0]{memory}, 1 << 30, 'memory';
};

refused('', qr/expected an XML file of hwloc or a synthetic description such as "numa:2/);
refused('no/such/file.xml', qr{no/such/file.xml.*No such file});
refused('nowhere.xml', qr/nowhere.xml.*No such file.*synthetic/);
refused('numa:2 horse:4', qr/numa:2 horse:4.*expected levels from the outside in/);
refused('numa:60000 pu:60000', qr/more than 65535 CPUs/);
refused('numa:2 pu:9223372036854775808', qr/more than 65535 CPUs/);
refused('x:' . 'y' x 10_000, qr/expected levels/);
refused("a:b\nc", qr/expected levels/);
refused('/tmp', qr{/tmp.*directory});
refused('/bin/sh', qr{/bin/sh.*not XML of hwloc});
refused('/dev/zero', qr{/dev/zero.*larger than 64MiB});
refused(file(''), qr/is empty/);
refused(file('<html></html>'), qr/not XML of hwloc/);
refused(file(substr $text, 0, length($text) - 15), qr/cut short/);
refused(file($text =~ s/version="2.0"/version="9.0"/r), qr/newer hwloc/);
refused(file($text =~ s/type="PU"/type="Horse"/r), qr/hwloc finds a mistake/);
refused(file($text =~ s/ cpuset="0x00000002"//r), qr/damaged|mistake/);
refused(file($text =~ s/type="PU" os_index="0"/type="PU" os_index="70000"/r), qr/number above|mistake|damaged/);

# What changes by itself, or is taken by others, between two looks.
sub lasting { my ($json) = @_; delete @{$_}{qw(free hugepages)} for @{ $json->{nodes} }; return $json }

subtest 'the topology of this machine is kept, while it counts' => sub {
	my $directory = File::Temp->newdir;
	local $ENV{XDG_CACHE_HOME} = "$directory";
	my $kept = "$ENV{XDG_CACHE_HOME}/ancla/host.xml";
	my $first = lasting(decode_json((run($ancla, 'host', '--json'))[1]));
	my $text = slurp($kept);
	like $text, qr/^boot=\S+ cpus=\S+ nodes=\S+ .*\n<\?xml/, 'it is in the cache';
	my %damages = (
		'another boot' => sub { $_[0] =~ s/boot=\S/boot=x/r },
		'other CPUs' => sub { $_[0] =~ s/cpus=\S+/cpus=0-999/r },
		'a file cut short' => sub { substr $_[0], 0, length($_[0]) / 2 },
		'a changed object' => sub { $_[0] =~ s/type="PU" os_index="0"/type="PU" os_index="7"/r },
		'an empty file' => sub { '' },
	);
	is_deeply lasting(decode_json((run($ancla, 'host', '--json'))[1])), $first, 'from there it is the same';
	is slurp($kept), $text, 'which does not write it again';
	for my $damage (sort keys %damages) {
		my $changed = $damages{$damage}->($text);
		isnt $changed, $text, $damage;
		open my $out, '>', $kept or die; print $out $changed; close $out;
		is_deeply lasting(decode_json((run($ancla, 'host', '--json'))[1])), $first, '... does not count';
		my $now = slurp($kept);
		ok $now ne $changed && (split / hash=/, $now)[0] eq (split / hash=/, $text)[0], '... and is replaced';
	}
};

subtest 'usage' => sub {
	my ($code, $out, $err) = run($ancla, 'host', 'something');
	is $code, 2, 'no arguments';
	($code, $out, $err) = run($ancla, 'host', '--hots=x');
	is $code, 2, 'an unknown option';
	like $err, qr/did you mean --host/, 'gets the nearest one';
	($code) = run('sh', '-c', '"$0" host --json >/dev/full 2>/dev/null', $ancla);
	is $code, 1, 'standard output that cannot be written is a failure';
};

done_testing;
