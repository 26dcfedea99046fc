package Lists;

# CPU and node lists as Linux writes them (cpuset(7), "List format"), and the numbers in them.

use strict;
use warnings;

use Exporter qw(import);

our @EXPORT_OK = qw(numbers list);

# "0-1,3" as (0, 1, 3); in scalar context how many.
sub numbers { return map { /^(\d+)-(\d+)$/ ? $1 .. $2 : $_ } split /,/, $_[0] // '' }

# (3, 0, 1) as "0-1,3".
sub list {
	my @all = sort { $a <=> $b } @_;
	my @parts;
	while (@all) {
		my $first = my $last = shift @all;
		$last = shift @all while @all && $all[0] == $last + 1;
		push @parts, $first == $last ? $first : "$first-$last";
	}
	return join ',', @parts;
}

1;
