package Shapes;

# The rig's hosts, as tests/rig/shapes has them: read by the runner, which makes them, and by the
# tests, which look whether they are so.

use strict;
use warnings;

use Exporter qw(import);
use File::Basename qw(dirname);
use Lists qw(numbers);

our @EXPORT_OK = qw(shapes distance);

# ({name, kernel, cpu, sockets, cores, threads, tests => [...], nodes => [{cpus => [QEMU's numbers],
# memory (MiB), pages (of 2 MiB)}, ...], and the words that its line has, by name}, ...)
sub shapes {
	my $path = dirname(__FILE__) . '/shapes';
	my @shapes;
	open my $file, '<', $path or die "$path: $!\n";
	while (<$file>) {
		next if /^\s*(#|$)/;
		my ($name, $kernel, $cpu, $smp, @words) = split;
		my %shape = (name => $name, kernel => $kernel, cpu => $cpu, nodes => []);
		@shape{qw(sockets cores threads)} = $smp =~ /^(\d+)x(\d+)x(\d+)$/ or die "$path: $name: $smp?\n";
		for (@words) {
			if (/^([\d+-]*):(\d+):(\d+)$/) {
				push @{ $shape{nodes} }, { cpus => [ numbers($1 =~ tr/+/,/r) ], memory => $2, pages => $3 };
			} elsif (/^(\w+)=(.*)$/) {
				$shape{$1} = $2;
			} else {
				die "$path: $name: $_?\n";
			}
		}
		$shape{tests} = [ split /,/, $shape{tests} // '' ];
		push @shapes, \%shape;
	}
	return @shapes;
}

# From one node to another, by how many steps they are apart on a ring.
sub distance {
	my ($shape, $from, $to) = @_;
	my @by_steps = (10, split /,/, $shape->{ring});
	my $steps = abs $from - $to;
	my $around = @{ $shape->{nodes} } - $steps;
	return $by_steps[$steps < $around ? $steps : $around] // $by_steps[-1];
}

1;
