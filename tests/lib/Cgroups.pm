package Cgroups;

# The kernel's word on cgroups: in which of them threads are, and what those say.

use strict;
use warnings;

use AnclaTest;
use Exporter qw(import);

our @EXPORT = qw(cgroup_version cgroup_root cgroup_path own_cgroup cgroup_file write_cgroup in_cgroup vm_cgroups cgroup_tree);

sub lines { return split /\n/, AnclaTest::peek($_[0]) // '' }

# 1 or 2: which cgroups have the controller here; the file is of any process or thread.
sub cgroup_version {
	my ($controller) = @_;
	return (grep { my (undef, $list) = split /:/; ",$list," =~ /,$controller,/ } lines('/proc/self/cgroup')) ? 1 : 2;
}

# Where they are mounted.
sub cgroup_root {
	my ($controller) = @_;
	my $version = cgroup_version($controller);
	for (lines('/proc/self/mounts')) {
		my (undef, $at, $type, $options) = split;
		return $at if $version == 2 ? $type eq 'cgroup2' : $type eq 'cgroup' && ",$options," =~ /,$controller,/;
	}
	die "no cgroups with $controller\n";
}

# The path of the cgroup of a process, or of a thread ("PID/task/TID").
sub cgroup_path {
	my ($task, $controller) = @_;
	my %path = map { my (undef, $list, $path) = split /:/, $_, 3; map { ($_ => $path) } $list eq '' ? '' : split /,/, $list }
		lines("/proc/$task/cgroup");
	return $path{$controller} // $path{''};
}

# The directory of this test's own cgroup.
sub own_cgroup {
	my ($controller) = @_;
	return cgroup_root($controller) . (cgroup_path($$, $controller) =~ s{^/$}{}r);
}

sub cgroup_file { my ($path) = @_; my $text = AnclaTest::peek($path) // return; chomp $text; return $text }

sub write_cgroup {
	my ($path, $text) = @_;
	open my $file, '>', $path or die "$path: $!\n";
	syswrite($file, "$text\n") // die "$path: $text: $!\n";
	close $file;
	return;
}

# The words that run a command in the cgroup.
sub in_cgroup { my ($cgroup, @words) = @_; return ('sh', '-c', 'echo $$ >"$0" && exec "$@"', "$cgroup/cgroup.procs", @words) }

# What there is of a VM's cgroups, anywhere below a directory.
sub vm_cgroups {
	my ($root, $vm) = @_;
	my @found;
	my @look = ($root);
	while (defined(my $at = shift @look)) {
		opendir my $dir, $at or next;
		for (grep { !/^\.\.?$/ && -d "$at/$_" } readdir $dir) {
			push @found, "$at/$_" if /^ancla-\Q$vm\E-/;
			push @look, "$at/$_";
		}
	}
	return @found;
}

# Everything that a VM might leave behind in a hierarchy of v2: directories, controllers that are
# passed on, exclusive CPUs, isolated ones.
sub cgroup_tree {
	my ($root) = @_;
	my (%tree, @look);
	@look = ($root);
	while (defined(my $at = shift @look)) {
		for my $file ('cgroup.type', 'cgroup.subtree_control', 'cpuset.cpus.exclusive', 'cpuset.cpus.effective', 'cpuset.cpus.isolated') {
			$tree{"$at/$file"} = cgroup_file("$at/$file");
		}
		opendir my $dir, $at or next;
		push @look, map { "$at/$_" } grep { !/^\.\.?$/ && -d "$at/$_" } readdir $dir;
	}
	return \%tree;
}

1;
