# What is made from the tables and installed: manual pages that are well formed and name every command,
# option, field and limit; completion that works in real shells; a unit that systemd accepts; and
# nothing is left when all is removed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use Test::More;

my $prefix = tmpdir() . '/usr';
my $ancla = "$prefix/bin/ancla";

sub make { return run_command('make', '-s', "BUILD=$ENV{BUILD_NAME}", "PREFIX=$prefix", @_, { timeout => 300 }) }
sub installed { return split /\n/, run_command('find', $prefix, '-type', 'f')->{out} }
$ENV{BUILD_NAME} = $ENV{BUILD} // 'build';

# The commands, with their options, by the program itself.
my %options;
for my $command (run_ancla('--help')->{out} =~ /^  ([a-z]+) /mg) {
	$options{$command} = [ run_ancla($command, '--help')->{out} =~ /^  --([a-z-]+)/mg ];
}
my @fields = run_ancla('schema', '--fields')->{out} =~ /^\| `([^`]+)`/mg;

subtest 'make install' => sub {
	is make('install')->{exit}, 0, 'installs' or return;
	my $version = run_command($ancla, '--version')->{out};
	is $version, run_ancla('--version')->{out}, 'the program';
	like $version, qr/\Aancla \d+\.\d+\nbuilt by (?:gcc|clang) \d.*; linked .*\nwith hwloc \d+\.\d+\.\d+, json-c \d+\.\d+, glibc \d+\.\d+\n\z/, '--version says what it was built with';
	my $ldd = run_command('ldd', $ancla);
	is $version =~ /linked statically/ ? 1 : 0, "$ldd->{out}$ldd->{err}" =~ /not a dynamic executable|statically linked/ ? 1 : 0, 'and how it was linked';
	my @files = map { s{^\Q$prefix\E/}{}r } installed();
	for my $file (qw(bin/ancla lib/systemd/system/ancla@.service share/man/man1/ancla.1 share/man/man5/ancla-spec.5
		share/bash-completion/completions/ancla share/zsh/site-functions/_ancla share/ancla/vm.schema.json share/doc/ancla/specs/rt-app.json))
	{
		ok scalar(grep { $_ eq $file } @files), $file;
	}
	my $staged = tmpdir() . '/the stage';
	is make('install', "DESTDIR=$staged", 'PREFIX=/usr')->{exit}, 0, 'DESTDIR';
	like AnclaTest::slurp("$staged/usr/lib/systemd/system/ancla\@.service"), qr{^ExecStart=/usr/bin/ancla run}m, 'is in no file';
	is make('uninstall', "DESTDIR=$staged", 'PREFIX=/usr')->{exit}, 0, 'is uninstalled';
	is run_command('find', $staged, '-type', 'f')->{out}, '', 'and nothing is left';
	ended make('uninstall', "DESTDIR=$staged", 'PREFIX=/usr/my own'), 2, qr{PREFIX is one path without blanks, not "/usr/my own"}, 'a PREFIX that is two words';
};

subtest 'manual pages' => sub {
	my @pages = ("$prefix/share/man/man1/ancla.1", "$prefix/share/man/man5/ancla-spec.5");
	my $lint = run_command('mandoc', '-T', 'lint', '-W', 'warning', @pages);
	is "$lint->{exit} $lint->{out}$lint->{err}", '0 ', 'mandoc finds nothing';
	my ($man, $spec) = map { run_command('mandoc', '-T', 'ascii', '-O', 'width=1000', $_)->{out} =~ s/.\x08//gr } @pages;
	is_deeply [ grep { /(?:^|\s)\.[A-Zbfn][A-Z]?[a-z]?(?:\s|$)/ } split /\n/, $man ], [], 'no request is shown as text';
	for my $command (sort keys %options) {
		ok $man =~ /^   \Q$command\E\b.*?(?=^   [a-z]|^[A-Z])/ms, "ancla(1) has $command" or next;
		my $section = $&;
		is_deeply [ grep { $_ ne 'help' && $section !~ /--\Q$_\E\b/ } @{ $options{$command} } ], [], "$command: all its options";
	}
	my @limits = AnclaTest::slurp('launcher/waits.h') =~ /ROW\(LIMIT_/g;
	my ($section) = $man =~ /^LIMITS\n(.*?)^[A-Z]/ms;
	is scalar(() = $section =~ /^       \d+ m?s\b/mg), scalar(@limits), 'every limit is there';
	is_deeply [ grep { $spec !~ /^       \Q$_\E(?: |$)/m } @fields ], [], 'ancla-spec(5) has every field';
};

# What bash completes the words to, the last of which may be unfinished.
sub bash { my (@words) = @_;
	my $list = join ' ', map { "'$_'" } @words;
	my $script = "source $prefix/share/bash-completion/completions/ancla; compopt() { :; }; COMP_WORDS=($list); COMP_CWORD=\$((\${#COMP_WORDS[@]} - 1));"
		. ' _ancla; printf "%s\n" "${COMPREPLY[@]}"';
	my $result = run_command('bash', '--norc', '-c', $script, { env => { PATH => "$prefix/bin:$ENV{PATH}" } });
	is $result->{err}, '', "bash: @words: no error";
	return join ' ', sort split /\n/, $result->{out};
}

# A VM of that name, as far as `ancla list --names` can tell: its lock is held, by the test.
sub hold_vm { my ($name) = @_;
	my $directory = runtime_dir() . "/$name";
	AnclaTest::make_path($directory, { mode => 0700 });
	chmod 0700, runtime_dir();
	open my $lock, '>', "$directory/lock" or die "$directory/lock: $!";
	flock $lock, 2 or die "flock: $!";
	return $lock;
}

my $held = hold_vm('webserver');

subtest 'completion in bash' => sub {
	is bash('ancla', 'st'), join(' ', sort grep { /^st/ } keys %options), 'commands';
	for my $command (sort keys %options) {
		is bash('ancla', $command, '--'), join(' ', sort map { "--$_" } @{ $options{$command} }), "$command: its options";
	}
	is bash('ancla', 'status', ''), 'webserver', 'VMs that run';
	is bash('ancla', 'verify', 'webserver', ''), '', 'and no second one';
	is bash('ancla', 'iothread', 'webserver', ''), 'add remove', 'what may be done with an iothread';
	is bash('ancla', 'pin', 'webserver', ''), 'emulator iothread memory quota shares vcpu', 'what is pinned';
	is bash('ancla', 'pin', 'webserver', 'vcpu', ''), '', 'and nothing where a list is';
	is bash('ancla', 'stop', '--force', 'we'), 'webserver', 'after an option';
	is bash('ancla', 'run', '--attach', 'we'), 'webserver', 'as the value of an option';
	is bash('ancla', 'run', '--attach', '=', 'we'), 'webserver', 'and after "="';
	is bash('ancla', 'schema', 'cputune.vcpup'), 'cputune.vcpupin', 'fields of the spec';
	is bash('ancla', 'check', 'specs/rt-'), 'specs/rt-app.json', 'files';
	is bash('ancla', 'nonsense', ''), '', 'nothing for a command that is not there';
};

subtest 'completion in zsh' => sub {
	# A shell on a terminal, as its completion needs one; the Tab key is what a user would press.
	my $shell = spawn_command('zsh', '-f', '-i', { pty => 1, env => { PATH => "$prefix/bin:$ENV{PATH}", TERM => 'dumb', PS1 => 'ready> ' } });
	my $type = sub { my ($text, $expected, $name) = @_;
		$shell->{out} = '';
		$shell->send($text);
		ok $shell->wait_for_output($expected, 20), $name;
		$shell->{out} = '';
		$shell->send("\cU\n");
		$shell->wait_for_output(qr/ready> /, 20) };
	$shell->wait_for_output(qr/ready> /, 20);
	$type->("fpath=($prefix/share/zsh/site-functions \$fpath); autoload -U compinit; compinit -u -D; unsetopt zle_bracketed_paste; echo do''ne\n", qr/done/, 'it starts');
	$type->("ancla veri\t", qr/verify/, 'a command');
	$type->("ancla status we\t", qr/webserver/, 'a VM');
	$type->("ancla iothread webserver rem\t", qr/remove/, 'what may be done with it');
	$type->("ancla pin webserver emul\t", qr/emulator/, 'what is pinned');
	$type->("ancla stop --for\t", qr/--force/, 'an option');
	$type->("ancla schema cputune.vcpup\t", qr/cputune\.vcpupin/, 'a field');
	$shell->send("exit\n");
	is $shell->wait_exit(20)->{exit}, 0, 'and ends';
};

subtest 'the unit' => sub {
	my $unit = "$prefix/lib/systemd/system/ancla\@.service";
	my $verify = run_command('systemd-analyze', 'verify', '--man=no', $unit);
	my @said = grep { /ancla/ } split /\n/, "$verify->{out}$verify->{err}";
	is_deeply \@said, [], '`systemd-analyze verify` finds nothing' ;
	is $verify->{exit}, 0, 'and says so';
	my $security = run_command('systemd-analyze', 'security', '--offline=yes', '--threshold=50', '--no-pager', $unit);
	ended $security, 0, qr/exposure level for ancla\@\S+: \S+ OK/, '`systemd-analyze security` is content';
	my %directive = map { /^(\w+)=(.*)/ ? ($1, $2) : () } split /\n/, AnclaTest::slurp($unit);
	is $directive{Type}, 'notify', 'ready when ancla says so';
	like $directive{"Exec$_->[0]"}, qr{^\Q$ancla\E $_->[1] }, "Exec$_->[0]" for ['Start', 'run'], ['Stop', 'stop'], ['Reload', 'verify'];
};

close $held;
is make('uninstall')->{exit}, 0, 'make uninstall';
is_deeply [installed()], [], 'leaves nothing';
done_testing;
