#!/usr/bin/perl
# Golden tests of the pure stages: spec x host x capabilities -> plan and QEMU's command line, as
# tests/golden/cases lists them. Every case runs twice and must give the same bytes. UPDATE=1
# rewrites the expected answers: read them before you commit them.
use strict;
use warnings;
use Cwd qw(getcwd);
use File::Temp qw(tempdir);
use JSON::PP;
use Lists qw(numbers);
use Test::More;

my $ancla = $ENV{ANCLA} // 'build/ancla';
my $golden = 'tests/golden';
my $top = getcwd;
my $scratch = tempdir(CLEANUP => 1);

sub slurp { open my $in, '<:raw', $_[0] or return undef; local $/; return readline($in) // '' }
sub spew { open my $out, '>:raw', $_[0] or die "$_[0]: $!"; print $out $_[1]; close $out or die "$_[0]: $!" }

# The plan, or "exit CODE" and the message; the checkout's path is written {TOP}.
sub run_plan {
	my ($spec, $host, $caps) = @_;
	my $pid = fork // die "fork: $!";
	if (!$pid) {
		alarm 60;
		open STDOUT, '>', "$scratch/out" or die;
		open STDERR, '>', "$scratch/err" or die;
		exec $ancla, 'plan', '--json', '--host', $host, '--qemu-caps', "tests/$caps", $spec or die "$ancla: $!";
	}
	waitpid $pid, 0;
	my $answer = $? == 0 ? slurp("$scratch/out")
		: ($? & 127 ? 'signal ' . ($? & 127) : 'exit ' . ($? >> 8)) . "\n" . slurp("$scratch/err");
	$answer =~ s/\Q$top\E/{TOP}/g;
	return ($? == 0, $answer);
}

# What holds of every plan, whatever its golden file says.
sub check_plan {
	my ($name, $plan) = @_;
	my (%dedicated, @wrong);
	for my $vcpu (@{ $plan->{vcpus} }) {
		push @wrong, "vCPU $vcpu->{id} has no CPU" if $vcpu->{cpus} eq '';
		next if $plan->{'cpu-policy'} ne 'dedicated';
		$dedicated{$_}++ for numbers($vcpu->{cpus});
	}
	push @wrong, "CPU $_ is dedicated twice" for grep { $dedicated{$_} > 1 } sort keys %dedicated;
	push @wrong, "CPU $_ is a vCPU's and an idle sibling" for grep { $dedicated{$_} } numbers($plan->{'idle-siblings'});
	push @wrong, 'the emulator has no CPU' if $plan->{emulator}{cpus} eq '';
	my %topology = %{ $plan->{topology} };
	push @wrong, 'the topology does not give its vCPUs'
		if $topology{sockets} * $topology{dies} * $topology{cores} * $topology{threads} != @{ $plan->{vcpus} };
	my @argv = @{ $plan->{argv} };
	push @wrong, 'the first word is no absolute path' if $argv[0] !~ m{^/};
	push @wrong, 'the guest would run at once' if !grep { $_ eq '-S' } @argv;
	my ($size) = map { /^size=(\d+)k$/ ? $1 * 1024 : () } @argv;
	my $sum = 0;
	$sum += $_->{size} for @{ $plan->{memory} };
	push @wrong, "guest node $_->{'guest-node'} has no whole pages" for grep { !$_->{size} || $_->{size} % $_->{'page-size'} } @{ $plan->{memory} };
	push @wrong, 'the memory of the plan is not that of -m' if $size != $sum;
	my (%fd, %id);
	for my $word (@argv) {
		$fd{$_}++ for $word =~ m{(?:\bfd=|/fd/|"(?:vhost)?fd":")(\d+)}g;
		my $json = $word =~ /^\{"/ ? eval { JSON::PP->new->decode($word) } // push @wrong, "not JSON: $word" : undef;
		$id{ $json->{id} // $json->{'node-name'} // $word }++ if ref $json;
	}
	push @wrong, "descriptor $_ is used twice" for grep { $fd{$_} > 1 } sort keys %fd;
	push @wrong, "id $_ is used twice" for grep { $id{$_} > 1 } sort keys %id;
	is_deeply \@wrong, [], "$name: what holds of every plan";
}

open my $cases, '<', "$golden/cases" or die "$golden/cases: $!";
my (%specs, %answers);
while (<$cases>) {
	next if /^#/;
	chomp;
	my ($name, $spec, $host, $caps) = split /\s*\|\s*/;
	my ($ok, $answer) = run_plan($spec, $host, $caps);
	my $file = "$golden/$name." . ($ok ? 'json' : 'err');
	my $other = "$golden/$name." . ($ok ? 'err' : 'json');
	$specs{$spec} = 1;
	ok !$answers{$file}++, "$name: one case of that name";
	if ($ENV{UPDATE}) {
		spew($file, $answer);
		unlink $other;
	}
	ok !-e $other, "$name: " . ($ok ? 'planned' : 'refused') or diag $answer;
	is $answer, slurp($file) // '', "$name: the answer is $file";
	is +(run_plan($spec, $host, $caps))[1], $answer, "$name: the same again";
	check_plan($name, JSON::PP->new->decode($answer)) if $ok;
}

for my $file (grep { !/caps\.json$/ } glob "$golden/*.json $golden/*.err") {
	unlink $file if $ENV{UPDATE} && !$answers{$file};
	ok !-e $file || $answers{$file}, "$file belongs to a case";
}
ok $specs{$_}, "$_ has a case" for grep { $_ ne 'specs/vm.schema.json' } glob 'specs/*.json tests/golden/specs/*.json';

# The same, for people.
for ([ 'specs/multi-node.json', qr/^  vcpu 8 +CPUs 16 +other +host node 1, guest node 1$/m, qr/^  guest node 1 +16GiB of 2MiB pages, host node 1, policy strict, filled while QEMU starts\n  distances +10 +20\n +20 +10$/m ],
	[ "$golden/specs/pages-thp-prealloc-qemu.json", qr/^  guest node 0 .*, anonymous, filled by QEMU$/m ]) {
	my ($spec, @patterns) = @$_;
	open my $plan, '-|', $ancla, 'plan', '--host', 'numa:2(memory=68719476736) core:16 pu:1', '--qemu-caps', "$golden/made-up-xeon-qemu-7.2-kvm.caps.json", $spec or die "$ancla: $!";
	my $text = do { local $/; <$plan> };
	like $text, $_, "$spec, as text" for @patterns;
}

done_testing;
