# The rig's runner gives a command's output, error output and exit code exactly, and leaves nothing
# behind. Runs on the outer machine.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Digest::MD5 qw(md5_hex);
use File::Path qw(make_path);
use Test::More;

my $rig = "$FindBin::Bin/rig";
# A build directory of its own, for what is written there of each host: others run on those shapes meanwhile.
my $build = tmpdir() . '/build';
make_path("$build/rig");
symlink "$BUILD/rig/$_", "$build/rig/$_" or die "$build: $!" for 'generic', 'witness';
$ENV{BUILD} = $build;

# Arguments, every byte, both outputs, a process that stays, and an exit code.
my $inside = <<'END';
printf '%s|' "$@"
perl -e 'binmode STDOUT; print map { pack "C*", 0 .. 255 } 1 .. 4096'
echo to stderr >/dev/stderr
sleep 1000 &
touch /work-of-the-rig /usr/work-of-the-rig || exit 1
exit 42
END
my @words = ('a b', "it's", '"$HOME"', '', '*', "two\nlines");
my $result = run_command($rig, 'thp', 'sh', '-c', $inside, 'sh', @words, { timeout => 1200 });
my $bytes = join('', map { "$_|" } @words) . pack('C*', 0 .. 255) x 4096;
is $result->{exit}, 42, 'exit code' or diag $result->{err};
my ($seconds) = AnclaTest::slurp("$build/rig/thp.boot") =~ /cpu-seconds=(\d+) tries=\d$/;
cmp_ok $seconds, '<', 60, 'the host boots with less than a minute of CPU time';
is md5_hex($result->{out}), md5_hex($bytes), 'standard output: ' . length($bytes) . ' bytes';
# A boot that stalls is tried again, one waits for another of its shape: that is told, and no failure.
is $result->{err} =~ s/^rig: .*\n//gmr, "to stderr\n", 'standard error';
ok !-e '/work-of-the-rig' && !-e '/usr/work-of-the-rig', 'files stay inside';

my $late = spawn_command($rig, 'memory-only', 'sleep', 1000, { env => { RIG_TIMEOUT => 1 } }); # meanwhile
my $console = "$build/rig/thp.log";
unlink $console;
my $running = spawn_command($rig, 'thp', 'sleep', 1000);
ok eventually(300, sub { (AnclaTest::peek($console) // '') =~ /rig: .*: the command/ }), 'one that is interrupted';
$running->signal('INT');
is $running->wait_exit(30)->{exit}, 130, 'ends at once';

# On a terminal: a shell, its size, its interrupt key, and its end.
# (Who looks at it sees when a boot stalls; here that is tried again.)
my ($shell, $prompts);
for (1 .. 3) {
	$shell = spawn_command($rig, 'thp', { pty => 1 });
	last if $prompts = $shell->wait_for_output(qr/^root@.*# \z|# \z/m, 120);
	$shell->signal('TERM');
	$shell->wait_exit;
}
ok $prompts, 'a shell';
# One process group from its first word on: between two commands a shell may lose the signal.
$shell->send("sh -c 'stty size; sleep 1000'\n");
ok $shell->wait_for_output(qr/24 80\r/), 'as wide as this terminal';
$shell->send("\cC");
$shell->send("echo after-\$((40 + 2))\n");
ok $shell->wait_for_output(qr/after-42/), 'the interrupt key is for the command inside';
$shell->send("exit\n");
is $shell->wait_exit(60)->{exit}, 0, 'and it ends with "exit"';

$result = $late->wait_exit(1200);
is $result->{exit}, 124, 'a command that takes too long';
like $result->{err}, qr/out of time/, 'is told';

# --- hosts that do not come up ---

# Stands in for QEMU, says how often it was started, and does something else before it is one.
my $tries = tmpdir() . '/tries';
sub qemu_that {
	my ($name, $does, $env) = @_;
	my $path = tmpdir() . "/$name";
	open my $file, '>', $path or die "$path: $!";
	print $file "#!/bin/sh\necho x >>$tries\n$does\nexec $ROOT/build/qemu-10.0/qemu-system-x86_64 \"\$@\"\n";
	close $file;
	chmod 0755, $path;
	unlink $tries;
	return { env => { RIG_QEMU => $path, %{ $env // {} } }, timeout => 1200 };
}
sub tries { return length((AnclaTest::peek($tries) // '') =~ s/\n//gr) }
sub failed { my ($result) = @_; return scalar(() = $result->{err} =~ /^rig: \S+ did not come up/gm) } # boots, as it tells

$result = run_command($rig, 'thp', 'sh', '-c', 'echo it runs; exit 3', qemu_that('dies', "[ \$(wc -l <$tries) -gt 1 ] || exit 0"));
is "$result->{exit} $result->{out}", "3 it runs\n", 'a boot that fails is tried again' or diag $result->{err};
cmp_ok failed($result), '>=', 1, 'which is told';
is tries(), 1 + failed($result), 'once for each that failed';
like AnclaTest::slurp("$build/rig/thp.boot"), qr/tries=@{[tries()]}$/, 'and counted';
$result = run_command($rig, 'thp', 'true', qemu_that('stalls', 'exec sleep 1000', { RIG_SILENCE => 5 }));
is $result->{exit}, 125, 'one that stalls, with not a word on the console, is given up in the end';
is tries(), 3, 'after three tries';
like $result->{err}, qr/^rig: thp did not come up in time/m, 'and that is told';
# Once the command runs, nothing is tried again, whatever happens.
my $die = 'echo once >/dev/kmsg; echo c >/proc/sysrq-trigger; sleep 1000';
$result = run_command($rig, 'thp', 'sh', '-c', $die, qemu_that('lives', ':'));
is $result->{exit}, 125, 'a host that dies with its command is told';
is tries(), 1 + failed($result), 'and is not started again';
like $result->{err}, qr/ended without an exit code.*\Q$build\E\/rig\/thp\.log/s, 'with the end of its console';

$result = run_command($rig, '--help');
like $result->{out}, qr/^usage: tests\/rig\/rig SHAPE.*^  thp +generic, intel: 2 sockets/ms, '--help';
is $result->{exit}, 0, 'is no error';
is run_command($rig, 'no-such-shape', 'true')->{exit}, 2, 'no such shape';
ended run_command($rig, 'thp', 'true', { env => { RIG_TIMEOUT => 'soon' } }), 2, qr/RIG_TIMEOUT and RIG_SILENCE are seconds, not "soon"/, 'no such time';
is_deeply [our_processes()], [], 'no process is left';
done_testing;
