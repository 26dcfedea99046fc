#!/usr/bin/perl
# Promises of `ancla check` and `ancla schema`: every spec that must be refused gets exactly its
# message and exit code 3, whatever is in the file; every example passes; the kept schema is the
# program's. UPDATE=1 rewrites specs/bad/*.err and specs/vm.schema.json.
use strict;
use warnings;
use File::Temp qw(tempdir);
use Fcntl qw(SEEK_SET);
use JSON::PP;
use POSIX qw(mkfifo);
use Test::More;
use Time::HiRes qw(time);

my $ancla = $ENV{ANCLA} // 'build/ancla';
my $scratch = tempdir(CLEANUP => 1);

sub slurp { open my $in, '<:raw', $_[0] or die "$_[0]: $!"; local $/; my $text = <$in>; $text // '' }
sub spew { open my $out, '>:raw', $_[0] or die "$_[0]: $!"; print $out $_[1]; close $out or die "$_[0]: $!" }

# Runs the program; returns its standard output, standard error and exit code.
sub ancla {
    my @words = @_;
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        alarm 20;
        open STDOUT, '>', "$scratch/out" or die;
        open STDERR, '>', "$scratch/err" or die;
        exec $ancla, @words or die "$ancla: $!";
    }
    waitpid $pid, 0;
    my $code = $? & 127 ? 'signal ' . ($? & 127) : $? >> 8;
    return (slurp("$scratch/out"), slurp("$scratch/err"), $code);
}

# A spec that is made here: refused at once with one error.
sub refused {
    my ($what, $path, $message) = @_;
    my $begin = time;
    my ($out, $err, $code) = ancla('check', $path);
    is "$code $err", "3 $path$message\n", "$what is refused";
    cmp_ok time - $begin, '<', 10, "... at once";
}

for my $spec (glob 'specs/*.json') {
    next if $spec eq 'specs/vm.schema.json';
    my ($out, $err, $code) = ancla('check', $spec);
    is "$code$out$err", '0', "$spec passes, and nothing is printed";
}

for my $spec (glob 'specs/bad/*.json') {
    (my $expected = $spec) =~ s/json$/err/;
    my ($out, $err, $code) = ancla('check', $spec);
    spew($expected, $err) if $ENV{UPDATE};
    is $err, slurp($expected), "$spec gets its message";
    is "$code$out", '3', '... and exit code 3';
    my ($json) = ancla('check', '--json', $spec);
    my $errors = eval { JSON::PP->new->utf8->decode($json)->{errors} } // [];
    my $lines = join '', map {
        my $line = $_->{line} ? ":$_->{line}" : '';
        my $pointer = length $_->{pointer} ? " $_->{pointer}:" : '';
        "$_->{file}$line:$pointer $_->{message}\n"
    } @$errors;
    utf8::encode($lines);
    is $lines, $err, '... and the same as JSON';
}
is scalar(grep { !-e s/err$/json/r } glob 'specs/bad/*.err'), 0, 'no message without its spec';

my $path = "$scratch/spec.json";
open my $sparse, '>', $path or die;
truncate $sparse, 100 << 20;
close $sparse;
refused('a file of 100 MiB', $path, ': larger than 1MiB: not a spec');

spew($path, "\x7fELF\x02\x01\x01\0\0\0" . join '', map { chr } 0 .. 255);
refused('a binary file', $path, ':1: not text: a zero byte at offset 7; expected JSON in UTF-8');

spew($path, '{"a":' . '[' x 10000);
refused('text nested 10,000 deep', $path, ':1: nested too deeply at column 37: at most 32 levels');

spew($path, '{"a":' x 10000 . '1' . '}' x 10000);
refused('an object nested 10,000 deep', $path,
    ':1: nested too deeply at column 161: at most 32 levels');

spew($path, '{ "memory": "1GiB", "name": "' . 'n' x 10000 . '" }');
refused('a name of 10,000 characters', $path,
    ':1: /name: expected at most 63 bytes, found 10000: "' . 'n' x 60 . '..."');

spew($path, '{ "memory": "1GiB", "name": "a", "iothreads": ['
    . join(',', map { "\"io$_\"" } 1 .. 5000) . '] }');
refused('a list of 5,000 iothreads', $path, ':1: /iothreads: expected 0 to 1024 entries, found 5000');

mkfifo("$scratch/fifo", 0600) or die;
refused('a FIFO', "$scratch/fifo", ': is a pipe; expected a regular file');
refused('a directory', $scratch, ': is a directory; expected a regular file');
refused('an endless device', '/dev/zero', ': is a device or socket; expected a regular file');
refused('a missing file', "$scratch/none.json", ': cannot open: No such file or directory');

spew($path, '{ "name": "a", "memory": "1GiB", ' . join(',', map { "\"key$_\": 0" } 1 .. 2000) . '}');
my ($out, $err, $code) = ancla('check', $path);
my @lines = split /\n/, $err;
is scalar(@lines), 101, 'of 2,000 errors 100 are shown';
is $lines[-1], "$path: ... and 1900 more", '... and how many more there are';

spew($path, '{ "name": "a", "memory": "1GiB", "bad\"key": 1, "a~b/c": 2 }');
($out) = ancla('check', '--json', $path);
my $json = decode_json($out);
is_deeply [ map { $_->{pointer} } @{ $json->{errors} } ], [ '/bad\\"key', '/a~0b~1c' ],
    'pointers are escaped as RFC 6901 says';
is $json->{ok}, JSON::PP::false, '"ok" is false';
($out, $err, $code) = ancla('check', '--json', 'specs/demo.json');
is_deeply decode_json($out), { ok => JSON::PP::true, errors => [] }, 'a good spec is ok in JSON';

# Every beginning and every single damaged byte of a real spec: an error, never a crash.
my $demo = slurp('specs/db-server.json');
srand 1;
my $crashes = 0;
for my $round (1 .. 150) {
    my $damaged = $demo;
    if ($round % 2) {
        substr($damaged, rand length $damaged) = '';
    } else {
        substr($damaged, rand length $damaged, 1) = chr int rand 256;
    }
    spew($path, $damaged);
    (undef, $err, $code) = ancla('check', $path);
    $crashes++ unless $code eq 0 || $code eq 3 && length $err;
}
is $crashes, 0, 'damaged specs never crash it';

($out, $err, $code) = ancla('schema');
is $code, 0, 'schema is printed';
spew('specs/vm.schema.json', $out) if $ENV{UPDATE};
is $out, slurp('specs/vm.schema.json'), 'specs/vm.schema.json is what `ancla schema` prints';
($out, $err, $code) = ancla('schema', '--fields');
my ($table) = slurp('README.md') =~ /^<!-- fields: [^\n]*\n(.*)^<!-- end of fields -->/ms;
is $table, $out, 'the README has the table of fields that `ancla schema --fields` prints';
my $schema = decode_json(slurp('specs/vm.schema.json'));
is $schema->{'$schema'}, 'https://json-schema.org/draft/2020-12/schema', '... of draft 2020-12';

($out) = ancla('schema', '--fields');
for my $field (qw(name memory-backing.hugepages cputune.vcpupin numa.nodes[].host-nodes qemu.args)) {
    like $out, qr/^\| `\Q$field\E` \| /m, "the field table has $field";
}

# What one field is, with all below it, however the lists on the way are written.
($out, $err, $code) = ancla('schema', 'cputune.vcpupin');
is "$code $err", '0 ', 'one field is told';
like $out, qr/\Acputune\.vcpupin: .+\n  takes    .*list\n  default  .+\n\z/, 'and nothing else';
for my $list (qw(disks disks[])) {
    ($out) = ancla('schema', $list);
    like $out, qr/^disks\[\]\.file: .+\n  takes    path$/m, "$list has all below it";
    unlike $out, qr/^(?!disks\[\]|  |$)/m, '... and nothing else';
    my ($below) = ancla('schema', "$list.file");
    like $below, qr/\Adisks\[\]\.file: .+\n  takes    path$/m, "$list.file is in it";
}
($out, $err, $code) = ancla('schema', 'cputune.vcpupni');
is "$code $out", '2 ', 'a field that there is not is refused';
like $err, qr/no field "cputune\.vcpupni"; did you mean "cputune\.vcpupin"\?/, '... with the nearest';
($out, $err, $code) = ancla('schema', 'xyzzy');
like "$code $err", qr/^2 .*no field "xyzzy"; `ancla schema --fields` lists them$/, '... or with where they are';

done_testing;
