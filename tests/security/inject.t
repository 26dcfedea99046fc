# A string of a spec is data to QEMU, whatever it holds. Every string field that the schema has gets
# every hostile text in turn: it is refused where the spec is checked, or it changes one word of
# QEMU's command line, in which QEMU's own rules give it back as it was. A real QEMU agrees.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use JSON::PP ();
use Test::More;

my $dir = tmpdir();
my ($tried, $refused, $planned) = (0, 0, 0);

# --- the fields, from the schema; a new one without a benign value below fails this test ---

my $schema = json(run_ancla('schema'));
my %fields;
sub walk {
	my ($node, $path) = @_;
	return unless ref $node eq 'HASH';
	$fields{$path} = 1 if ($node->{type} // '') eq 'string';
	walk($node->{properties}{$_}, "$path/$_") for keys %{ $node->{properties} // {} };
	walk($node->{items}, "$path/0");
	walk($node->{additionalProperties}, "$path/*");
	walk($_, $path) for map { @{ $node->{$_} // [] } } qw(anyOf oneOf allOf);
}
walk($schema, '');

# What each holds in a spec that is right, and more that it needs beside it. Keys of maps are strings,
# too: "KEY" stands for one.
my %benign = (
	'/name' => ['inject'],
	'/memory' => ['256MiB'],
	'/boot/kernel' => ['/b/kernel'],
	'/boot/initrd' => [ '/b/initrd', { boot => { kernel => '/b/kernel' } } ],
	'/boot/cmdline' => [ 'quiet', { boot => { kernel => '/b/kernel' } } ],
	'/boot/firmware' => ['/b/bios'],
	'/boot/nvram' => [ '/b/nvram', { boot => { firmware => '/b/bios' } } ],
	'/cpu/model' => [ 'Haswell', { cpu => { mode => 'custom' } } ],
	'/cpu/features/KEY' => ['x2apic'],
	'/cputune/emulatorpin' => ['0'],
	'/cputune/iothreadpin/*' => [ '0', { iothreads => ['io0'] }, 'io0' ],
	'/cputune/iothreadpin/KEY' => [ 'io0', { iothreads => ['io0'] } ],
	'/cputune/iothreadsched/0/iothreads' => [ 'io0', { iothreads => ['io0'], cputune => { iothreadsched => [ { scheduler => 'batch' } ] } } ],
	'/cputune/quota' => ['100%'],
	'/cputune/vcpupin/*' => [ '1', {}, '0' ],
	'/cputune/vcpupin/KEY' => ['0'],
	'/cputune/vcpusched/0/vcpus' => [ '0', { cputune => { vcpusched => [ { scheduler => 'batch' } ] } } ],
	'/disks/0/file' => ['/b/disk'],
	'/disks/0/iothread' => [ 'io0', { iothreads => ['io0'], disks => [ { file => '/b/disk' } ] } ],
	'/hostdevs/0/pci' => ['0000:3b:00.0'],
	'/iothreads/0' => ['io0'],
	'/memory-backing/host-nodes' => ['0'],
	'/memory-backing/hugepages' => ['2MiB'],
	'/memory-backing/hugepages/size' => ['2MiB'],
	'/memory-backing/path' => [ '/b/huge', { 'memory-backing' => { hugepages => '2MiB' } } ],
	'/nics/0/bridge' => [ 'br0', { nics => [ { type => 'bridge' } ] } ],
	'/nics/0/ifname' => [ 'tap0', { nics => [ { type => 'tap' } ] } ],
	'/nics/0/mac' => [ '52:54:00:12:34:56', { nics => [ { type => 'user' } ] } ],
	'/nics/0/socket' => [ '/b/sock', { nics => [ { type => 'vhost-user' } ], 'memory-backing' => { prealloc => TRUE } } ],
	'/numa/nodes/0/host-nodes' => [ '0', { numa => { nodes => [ { memory => '256MiB' } ] } } ],
	'/numa/nodes/0/hugepages' => [ '2MiB', { numa => { nodes => [ { memory => '256MiB' } ] } } ],
	'/numa/nodes/0/hugepages/size' => [ '2MiB', { numa => { nodes => [ { memory => '256MiB' } ] } } ],
	'/numa/nodes/0/memory' => ['256MiB'],
	'/numa/nodes/0/vcpus' => [ '0', { numa => { nodes => [ { memory => '256MiB' } ] } } ],
	'/qemu/args/0' => ['-usb'],
	'/qemu/binary' => ['/b/qemu'],
	'/qemu/user' => ['nobody'],
	'/serial/file' => ['/b/log'],
);
is_deeply [ grep { !$benign{$_} } sort keys %fields ], [], 'every string field of the schema is tried';
is_deeply [ grep { !$fields{$_} && !/KEY$/ } sort keys %benign ], [], 'and no other';

# --- hostile texts ---

my @texts = (
	',x=y', 'a,id=monitor', 'a,,b', 'a,', '=', 'a=b', 'a b', '-S', '--daemonize', '-x', ' -x', "a\n-x", "a\r", "\t", "a\0b", "\e[31m",
	'"', "'", '\\', 'a"b', "a'b", '\\"', '\\n', '%s%n', '%5$x', '%%', '$(id)', '`id`', '${HOME}', ';id', '|id', '&', '*', '~', '!',
	'{"driver":"null-co"}', '"},{"x":"', '[]', 'json:{}', 'nbd:host:1', 'file:x', 'fd:3', 'exec:id', 'on', 'off', 'true', '',
	'.', '..', '../x', '../../etc/shadow', '/', '/dev/null', '/etc/shadow', '/proc/self/fd/3', '/dev/fdset/1', '//x', 'a/../b', 'a:b', '0x10', '-1', '1e9',
	'99999999999999999999', "\x{e9}\x{2028}", "\x{202e}gpj", "\x{feff}", 'a' x 300, ',' x 200, '/' . 'b,' x 100, 'help', '?', 'q35',
);

# --- planning one spec ---

my $compact = JSON::PP->new->utf8->canonical;
my $number = 0;
sub put {
	my ($spec, $path, $value, $key) = @_;
	my @steps = split m{/}, substr $path, 1;
	my $at = \$spec;
	for (@steps) {
		my $step = $_ eq 'KEY' ? $value : $_ eq '*' ? $key : $_;
		if ($step =~ /^0$/ && $path =~ m{/0(?:/|$)} && ref $$at ne 'HASH') { $$at //= []; $at = \$$at->[0] } else { $$at //= {}; $at = \$$at->{$step} }
	}
	$$at = $path =~ m{features/KEY$} ? 'disable' : $path =~ /KEY$/ ? '0' : $value;
	return $spec;
}
sub plan_of {
	my ($path, $value, $more, $key) = @_;
	my $spec = JSON::PP->new->utf8->decode($compact->encode(spec('inject', AnclaVm::merge({ memory => '256MiB' }, $more // {}))));
	$spec->{qemu} = {};
	my $file = "$dir/s" . $number++ . '.json';
	open my $out, '>', $file or die;
	print $out $compact->encode(put($spec, $path, $value, $key));
	close $out;
	my @options = $path =~ m{^/qemu/(?:args|binary)} ? '--allow-args' : ();
	my $result = run_ancla('plan', '--json', @options, '--host', 'numa:1(memory=8589934592) core:4 pu:1', '--qemu-caps', "$ROOT/tests/golden/made-up-xeon-qemu-7.2-kvm.caps.json", $file);
	unlink $file;
	return ($result, $file);
}

# What QEMU makes of a word: literal texts in it. JSON is JSON; else options are separated by single
# commas, a doubled one stands for itself, and a value follows the first "="; else it is itself.
sub leaves { my ($data) = @_; return ref $data eq 'HASH' ? map { leaves($_) } values %$data : ref $data eq 'ARRAY' ? map { leaves($_) } @$data : "$data" }
sub meanings {
	my ($word) = @_;
	utf8::encode(my $bytes = $word);
	my @all = ($word);
	push @all, leaves($compact->decode($bytes)) if $word =~ /^\{/;
	my @parts = split /(?<!,)(?:,,)*\K,(?!,)/, $word;
	push @all, map { s/,,/,/gr } map { (/^[^=]*=(.*)/s ? ($1) : ()), $_ } @parts;
	return @all;
}

# Where a relative path ends up: in the directory of the spec.
sub same_text { my ($meaning, $value) = @_; return $meaning eq $value || $meaning eq "$dir/$value" || $meaning eq lc $value || $meaning eq "0000:$value" }

for my $path (sort keys %benign) {
	my ($good, $more, $key) = @{ $benign{$path} };
	subtest $path => sub {
		my ($plain) = plan_of($path, $good, $more, $key);
		my $base = $plain->{exit} == 0 ? json($plain) : undef;
		ok $base || $plain->{exit} == 4 || $plain->{err} =~ /not yet supported/, 'a benign one is planned' or return diag $plain->{err};
		my @wrong;
		for my $text (@texts) {
			my ($result, $file) = plan_of($path, $text, $more, $key);
			$tried++;
			my $shown = $compact->encode([$text]);
			push @wrong, "$shown: control characters in the message" if $result->{err} =~ /[^\n\t\x20-\x7e\x80-\xff]/;
			if (!defined $result->{exit}) { push @wrong, "$shown: signal $result->{signal}"; next }
			if ($result->{exit} != 0) {
				$refused++;
				push @wrong, "$shown: exit $result->{exit}, $result->{err}" if $result->{exit} != 3 && $result->{exit} != 4;
				push @wrong, "$shown: no place is named: $result->{err}" if $result->{exit} == 3 && $result->{err} !~ m{^\Q$file\E:\d+: (?:/|not JSON: zero character)}m;
				next;
			}
			$planned++;
			next if !$base;
			my ($before, $after) = ($base->{argv}, json($result)->{argv});
			if (@$before != @$after) { push @wrong, "$shown: " . @$after . ' words, not ' . @$before; next }
			my @changed = grep { $before->[$_] ne $after->[$_] } 0 .. $#$after;
			# The name makes the hardware address, an iothread is named once more by a disk.
			push @wrong, "$shown: changes words @changed: @$after[@changed]" if @changed > 1;
			for (@changed) {
				push @wrong, "$shown: means something else: $after->[$_]" if !grep { same_text($_, $text) } meanings($after->[$_]);
			}
		}
		is_deeply \@wrong, [], scalar(@texts) . ' hostile ones are refused, or are data';
	};
}

subtest 'a real QEMU has them as they are' => sub {
	my @hostile = (',id=x', 'a,,b', 'a=b', '"', "'", '\\', '%s', '$(id)', '`id`', ' -S', '{"x":1}', 'json:{}', '..;', "\x{e9}");
	my ($path, $checked) = (runtime_dir() . '/asks/qmp.sock', 0);
	for my $text (@hostile) {
		utf8::encode(my $bytes = $text);
		my $file = "$dir/-$bytes";
		system 'cp', "$ROOT/build/demo/vmlinuz", $file;
		system 'cp', "$ROOT/build/demo/initrd", "$file.initrd";
		my ($kernel, $disk) = ("$dir/-$text", "$dir/-$text");
		ended run_ancla('start', make_spec(spec('asks', { boot => { kernel => "-$text", initrd => "-$text.initrd", cmdline => "-S $text" },
			disks => [ { file => "-$text", readonly => TRUE } ], serial => { file => "-$text.log" }, memory => '256MiB' }))), 0, qr/runs/, "starts with $bytes" or next;
		my $machine = sub { return qmp($path, 'qom-get', { path => '/machine', property => $_[0] })->{return} };
		is_deeply [ map { $machine->($_) } qw(kernel initrd append) ], [ $kernel, "$kernel.initrd", "-S $text" ], 'kernel, initrd, command line';
		my ($node) = grep { ($_->{'node-name'} // '') eq 'disk0' } @{ qmp($path, 'query-named-block-nodes', { flat => TRUE })->{return} };
		is $node->{image}{filename}, $disk, 'disk';
		ok -e "$file.log", 'serial file';
		is @{ qmp($path, 'query-block')->{return} }, 1, 'one disk';
		stop_vm('asks');
		$checked += 5;
	}
	note "QEMU was asked for $checked values";
};

clean 'nothing is left';
note "$tried hostile strings in " . keys(%benign) . " fields: $refused refused, $planned planned as data";
cmp_ok $tried, '>=', 2000, 'at least 2,000 tried';
done_testing;
