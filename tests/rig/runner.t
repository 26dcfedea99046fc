# The rig's runner gives a command's output, error output and exit code exactly, and leaves nothing
# behind. Runs on the outer machine.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Digest::MD5 qw(md5_hex);
use Test::More;

my $rig = "$FindBin::Bin/rig";

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
my $result = run_command($rig, 'thp', 'sh', '-c', $inside, 'sh', @words, { timeout => 300 });
my $bytes = join('', map { "$_|" } @words) . pack('C*', 0 .. 255) x 4096;
is $result->{exit}, 42, 'exit code' or diag $result->{err};
cmp_ok $result->{seconds}, '<', 60, 'the host boots in less than a minute';
is md5_hex($result->{out}), md5_hex($bytes), 'standard output: ' . length($bytes) . ' bytes';
is $result->{err}, "to stderr\n", 'standard error';
ok !-e '/work-of-the-rig' && !-e '/usr/work-of-the-rig', 'files stay inside';

my $late = spawn_command($rig, 'memory-only', 'sleep', 1000, { env => { RIG_TIMEOUT => 50 } }); # meanwhile
my $console = "$BUILD/rig/thp.log";
unlink $console;
my $running = spawn_command($rig, 'thp', 'sleep', 1000);
ok eventually(60, sub { (AnclaTest::peek($console) // '') =~ /rig: .*: the command/ }), 'one that is interrupted';
$running->signal('INT');
$result = $running->wait_exit(10);
is $result->{exit}, 130, 'ends at once';

# On a terminal: a shell, its size, its interrupt key, and its end.
my $shell = spawn_command($rig, 'thp', { pty => 1 });
ok $shell->wait_for_output(qr/^root@.*# \z|# \z/m, 90), 'a shell' or diag $shell->out;
# One process group from its first word on: between two commands a shell may lose the signal.
$shell->send("sh -c 'stty size; sleep 1000'\n");
ok $shell->wait_for_output(qr/24 80\r/), 'as wide as this terminal';
$shell->send("\cC");
$shell->send("echo after-\$((40 + 2))\n");
ok $shell->wait_for_output(qr/after-42/), 'the interrupt key is for the command inside';
$shell->send("exit\n");
is $shell->wait_exit(30)->{exit}, 0, 'and it ends with "exit"';

$result = $late->wait_exit(100);
is $result->{exit}, 124, 'a command that takes too long';
like $result->{err}, qr/out of time/, 'is told';

$result = run_command($rig, '--help');
like $result->{out}, qr/^usage: tests\/rig\/rig SHAPE.*^  thp +generic, intel: 2 sockets/ms, '--help';
is $result->{exit}, 0, 'is no error';
is run_command($rig, 'no-such-shape', 'true')->{exit}, 2, 'no such shape';
is_deeply [our_processes()], [], 'no process is left';
done_testing;
