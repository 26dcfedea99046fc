#!/usr/bin/perl
# `ancla host` on machines of all kinds says what is known of them: one test per machine, against
# facts that were computed from the same files by other programs (see README.md beside them).
use strict;
use warnings;
use File::Temp;
use JSON::PP;
use Lists qw(numbers list);
use Test::More;

my $ancla = $ENV{ANCLA} // 'build/ancla';
my $folder = $ENV{TOPOLOGIES} // '../shared/topologies';
$folder =~ s{/given/?$}{};
my $facts_file = "$folder/facts-given.json";

plan skip_all => "no $facts_file: the machines' topologies are not here" unless -e $facts_file;

sub slurp {
	my ($file) = @_;
	open my $in, "<", $file or die "$file: $!";
	local $/;
	my $text = <$in>;
	return $text // "";
}

sub by_first_cpu { return sort { (numbers($a->{cpus}))[0] <=> (numbers($b->{cpus}))[0] } @_ }

# The CPUs that placement may count as a node's own: each CPU in one node only. HBM, MCDRAM, NVM
# and a node that repeats another's CPUs or has only CPUs of others are memory only.
sub expected_nodes {
	my ($view) = @_;
	my %taken;
	my %own;
	my @order = sort {
		defined $a->{subtype} <=> defined $b->{subtype}
			|| numbers($a->{pus}) <=> numbers($b->{pus})
	} @{ $view->{nodes} };
	for my $node (@order) {
		my @own = grep { !$taken{$_}++ } numbers($node->{pus});
		$own{ $node->{os_index} } = list(@own);
	}
	for my $node (@order) {
		next unless defined $node->{same_pus_as_node} || $node->{no_pus};
		is $own{ $node->{os_index} }, '', "node $node->{os_index} is memory only in the facts";
	}
	return [ map { { id => $_->{os_index}, cpus => $own{ $_->{os_index} }, memory => $_->{memory_bytes} } }
		sort { $a->{os_index} <=> $b->{os_index} } @{ $view->{nodes} } ];
}

# Every PU that is in no core is a core of its own.
sub expected_cores {
	my ($view) = @_;
	my @cores = grep { $_ ne '' } @{ $view->{cores} };
	my %seen = map { $_ => 1 } map { numbers($_) } @cores;
	push @cores, grep { !$seen{$_} } numbers($view->{pus});
	return [ map { list(numbers($_->{cpus})) } by_first_cpu(map { { cpus => $_ } } @cores) ];
}

sub with_cpus {
	my ($objects, $extra, $name) = @_;
	return [ by_first_cpu(map { { cpus => list(numbers($_->{pus})), $name => $_->{$extra} } }
			grep { $_->{pus} ne '' } @$objects) ];
}

# Distances that the facts say, with 10 and 20 where they say nothing.
sub expected_distances {
	my ($view, @ids) = @_;
	my %rows;
	if (my $latency = $view->{numa_latency}) {
		my @nodes = @{ $latency->{nodes} };
		for my $i (0 .. $#nodes) {
			$rows{ $nodes[$i] }{ $nodes[$_] } = $latency->{rows}[$i][$_] for 0 .. $#nodes;
		}
	}
	return [ map { my $from = $_; [ map { $rows{$from}{$_} // ($from == $_ ? 10 : 20) } @ids ] } @ids ];
}

# Cores point to the right node, L3, package.
sub check_joins {
	my ($host, $view) = @_;
	my (%node, %l3, %package);
	for my $node (@{ $host->{nodes} }) { $node{$_} = $node->{id} for numbers($node->{cpus}) }
	for my $i (0 .. $#{ $host->{l3s} }) { $l3{$_} = $i for numbers($host->{l3s}[$i]{cpus}) }
	for my $i (0 .. $#{ $host->{packages} }) { $package{$_} = $i for numbers($host->{packages}[$i]{cpus}) }
	my @wrong;
	for my $core (@{ $host->{cores} }) {
		my ($cpu) = numbers($core->{cpus});
		for ([ node => $node{$cpu} ], [ l3 => $l3{$cpu} ], [ package => $package{$cpu} ]) {
			my ($key, $expected) = @$_;
			push @wrong, "core $core->{cpus}: $key"
				if ($core->{$key} // 'none') ne ($expected // 'none');
		}
	}
	is_deeply \@wrong, [], 'cores are joined to their node, L3 and package';
	my @without_node = grep { !defined $node{$_} } numbers($view->{pus});
	is list(@without_node), $view->{pus_without_node}, 'CPUs without a node';
	my @without_l3 = grep { !defined $l3{$_} } numbers($view->{pus});
	is list(@without_l3), $view->{pus_without_l3}, 'CPUs without an L3' if @{ $host->{l3s} };
}

sub check {
	my ($name, $view) = @_;
	my $file = "$folder/given/$name.xml";
	my $errors = File::Temp->new;
	my $text = `timeout 60 '$ancla' host --host '$file' --json 2>'$errors'`;
	is $?, 0, 'exit code';
	is slurp("$errors"), '', 'nothing on standard error';
	my $host = eval { decode_json($text) } or return fail("JSON: $@");

	ok !$host->{live}, 'not live';
	is $host->{cpus}, $view->{pus}, 'CPUs';
	is $host->{allowed}, $view->{pus}, 'allowed CPUs';
	is $host->{isolated}, '', 'isolated CPUs';
	my @nodes = map { { id => $_->{id}, cpus => $_->{cpus}, memory => $_->{memory} } } @{ $host->{nodes} };
	is_deeply \@nodes, expected_nodes($view), 'nodes';
	my @distances = map { $_->{distances} } @{ $host->{nodes} };
	is_deeply \@distances, expected_distances($view, map { $_->{id} } @nodes), 'distances';
	is_deeply [ map { $_->{cpus} } @{ $host->{cores} } ], expected_cores($view), 'cores';
	is_deeply $host->{l3s}, with_cpus($view->{l3}, 'size_bytes', 'size'), 'L3s';
	my $packages = with_cpus($view->{packages}, 'os_index', 'id');
	$_->{id} = undef for grep { $_->{id} < 0 } @$packages;
	is_deeply $host->{packages}, $packages, 'packages';
	my @kinds = map { { cpus => $_->{pus}, efficiency => $_->{efficiency} < 0 ? undef : $_->{efficiency} } }
		@{ $view->{cpukinds} };
	is_deeply $host->{kinds} // [], \@kinds, 'kinds';
	check_joins($host, $view);
	my @map = `timeout 60 '$ancla' host --host '$file' 2>&1`;
	is $?, 0, 'exit code of the map';
	is_deeply [ grep { length > 101 } @map ], [], 'no line of the map is longer than 100';
}

my $facts = decode_json(slurp($facts_file));
my @names = sort grep { $facts->{$_}{set} eq 'given' } keys %$facts;
plan tests => scalar @names;
for my $name (@names) {
	subtest $name => sub { check($name, $facts->{$name}{default}) };
}
