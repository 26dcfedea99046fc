# The host's clock jumps by hours, forwards and backwards, while a start, a stop and a change wait: no limit
# ends early, and none late.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib", $FindBin::Bin;
use AnclaTest;
use AnclaVm;
use Rig;
use Test::More;

my $ancla = $ENV{ANCLA} // "$BUILD/ancla";

# Runs a command while the clock jumps, and is right again before the test looks at it. Seconds are
# those since the boot, which do not jump. Returns [exit code, seconds, output].
sub jumping {
	my (@command) = @_;
	my ($output, $result) = map { tmpdir() . "/$_" } qw(output result);
	my $script = <<'SH';
		output=$1 result=$2; shift 2
		now() { sed 's/\..*//' /proc/uptime; }
		jump() { date -s "@$(($(date +%s) + $1))" >/dev/null; jumps=$((jumps + 1)); }
		began=$(now) jumps=0
		"$@" >"$output" 2>&1 &
		while :; do
			jump 21600; sleep 0.2; jump -43200; sleep 0.2; jump 21600
			kill -0 $! 2>/dev/null || break
		done
		wait $!
		echo "$? $(($(now) - began)) $jumps" >"$result"
SH
	my $ran = run_command('sh', '-c', $script, 'sh', $output, $result, @command, { timeout => 300 });
	is $ran->{exit}, 0, 'the clock is right again' or diag $ran->{err};
	my ($exit, $seconds, $jumps) = split ' ', AnclaTest::slurp($result);
	return ($exit, $seconds, $jumps, AnclaTest::slurp($output));
}

sub is_told {
	my ($name, $exit, $least, $most, $pattern, @command) = @_;
	my ($code, $seconds, $jumps, $output) = jumping(@command);
	is $code, $exit, "$name: exit code $exit" or diag $output;
	like $output, $pattern, "$name: it says so";
	cmp_ok $seconds, '>=', $least, "$name: not before its time";
	cmp_ok $seconds, '<=', $most, "$name: nor long after it ($seconds s)";
	cmp_ok $jumps, '>=', 3, "$name: the clock jumped";
	return;
}

my $slow = $ENV{ANCLA_TEST_SLOW} || 1;
my $silent = wrapper('silent', 'exec sleep 1000');
is_told('a QEMU that does not greet', 1, 29, 30 + 15 * $slow, qr/did not greet within 30 s/,
	$ancla, 'start', make_spec(spec('silent', { memory => '16MiB', qemu => { binary => $silent } })));
is_told('a start', 0, 0, 30 * $slow, qr/jumps runs/, $ancla, 'start', make_spec(spec('jumps', { memory => '16MiB' })));
is_told('verify', 0, 0, 30 * $slow, qr/^ok/, $ancla, 'verify', 'jumps');
is_told('a change', 0, 0, 30 * $slow, qr/read back/, $ancla, 'pin', 'jumps', 'vcpu', '0', '1');
is_told('a guest that does not power down', 0, 9, 10 + 15 * $slow, qr/did not power down within 10 s/,
	$ancla, 'stop', '--timeout', '10', 'jumps');
clean 'nothing is left';
done_testing;
