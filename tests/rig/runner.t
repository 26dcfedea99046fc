# The rig's runner gives a command's output, error output and exit code exactly, and leaves nothing
# behind. Runs on the outer machine.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
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
is md5_hex($result->{out}), md5_hex($bytes), 'standard output: ' . length($bytes) . ' bytes';
is $result->{err}, "to stderr\n", 'standard error';
ok !-e '/work-of-the-rig' && !-e '/usr/work-of-the-rig', 'files stay inside';

$result = run_command($rig, 'thp', 'sleep', 1000, { timeout => 300, env => { RIG_TIMEOUT => 45 } });
is $result->{exit} // 'none', $result->{err} =~ /did not come up/ ? 125 : 124, 'a command that takes too long';
like $result->{err}, qr/out of time/, 'is told';
is run_command($rig, 'no-such-shape', 'true')->{exit}, 2, 'no such shape';
is_deeply [our_processes()], [], 'no process is left';
done_testing;
