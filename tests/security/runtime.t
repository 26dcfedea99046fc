# The runtime directory is ours alone: nothing that others put in its place, on the way or inside is
# followed, written or removed; no name leads out of it; and no race does.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use File::Path qw(make_path remove_tree);
use POSIX ();
use Test::More;
use Time::HiRes qw(time);

plan skip_all => 'needs root' if $>;

use constant USER => 47324; # nobody's
my $dir = tmpdir();
chmod 0755, $dir;
my ($tried, $races) = (0, 0);
my $program = "$dir/ancla";
is system('cp', $ENV{ANCLA} // "$BUILD/ancla", $program), 0, 'a program that a user can reach';

sub mode { my @stat = lstat $_[0]; return @stat ? sprintf '%04o', $stat[2] & 07777 : 'missing' }
sub touch { open my $file, '>', $_[0] or die "$_[0]: $!"; print $file $_[1] // 'precious'; close $file; return $_[0] }
sub in { my ($runtime, @words) = @_; return run_ancla(@words, { env => { ANCLA_RUNTIME_DIR => $runtime } }) }
# A start that is refused after the runtime directory was opened, so that it needs no QEMU.
my $late = make_spec(spec('late', { cputune => { vcpupin => { 0 => '4000' } } }));

subtest 'modes' => sub {
	umask 0;
	start_vm(spec('modes', { serial => 'socket' })) or return;
	is mode(runtime_dir()), '0700', 'the runtime directory';
	is mode(runtime_dir() . '/modes'), '0700', 'the VM\'s';
	run_ancla('status', 'modes');
	my @files = AnclaTest::entries(runtime_dir() . '/modes');
	is_deeply [ grep { mode($_) ne '0600' } @files, runtime_dir() . '/.lock' ], [], 'all files and sockets in it';
	cmp_ok scalar(grep { -S } @files), '>=', 3, 'the sockets among them';
	is system('setpriv', '--reuid', USER, '--regid', USER, '--clear-groups', 'sh', '-c', 'ls ' . runtime_dir() . ' 2>/dev/null') >> 8, 2, 'nobody else sees it';
	stop_vm('modes');
	umask 022;
};

subtest 'names that lead out' => sub {
	make_path("$dir/outside/vm");
	touch("$dir/outside/vm/lock");
	for my $name ('..', '.', '', '../outside', '../outside/vm', "$dir/outside/vm", 'a/b', '/', '%s', "\e[31m", 'a' x 5000) {
		for my $command ([ 'status', $name ], [ 'verify', $name ], [ 'stop', '--force', $name ]) {
			my $result = run_ancla(@$command);
			ok defined $result->{exit} && ($result->{exit} == 1 || $result->{exit} == 2), "`$command->[0]` knows no such VM" or diag $result->{err};
			$tried++;
		}
	}
	for my $name ('..', '.hidden', 'a/b', '/etc', '', ' ', "a\n", '-x', 'a' x 64, '.lock') {
		open my $file, '>', "$dir/named.json" or die;
		print $file JSON::PP->new->encode({ %{ spec('x') }, name => $name });
		close $file;
		ended run_ancla('start', "$dir/named.json"), 3, qr{: /name: expected}, 'no VM is named so';
		$tried++;
	}
	ok -e "$dir/outside/vm/lock", 'what is outside is untouched';
};

subtest 'what others put in its place' => sub {
	make_path("$dir/real", { mode => 0700 });
	symlink "$dir/real", "$dir/link";
	ended in("$dir/link", 'start', $late), 1, qr/cannot open the runtime directory $dir\/link: it is a symbolic link, which others might turn; name what it points to/, 'a link';
	make_path("$dir/theirs", { mode => 0700 });
	chown USER, USER, "$dir/theirs";
	ended in("$dir/theirs", 'start', $late), 1, qr/$dir\/theirs belongs to user @{[USER]}, not to you \(0\)/, 'somebody else\'s';
	ended in("$dir/theirs/run", 'start', $late), 1, qr/directory above $dir\/theirs\/run belongs to user @{[USER]}, who could replace it/, 'one in somebody else\'s';
	make_path("$dir/$_") for qw(group others);
	chmod 0770, "$dir/group";
	chmod 0707, "$dir/others";
	ended in("$dir/$_", 'start', $late), 1, qr/$dir\/$_ can be written by others/, "one that $_ can write" for qw(group others);
	make_path("$dir/open/run");
	chmod 0777, "$dir/open";
	ended in("$dir/open/run", 'start', $late), 1, qr/directory above $dir\/open\/run can be written by others \(mode 777\), who could replace it/, 'one in what all can write';
	chmod 01777, "$dir/open";
	ended in("$dir/open/run", 'start', $late), 4, qr/CPU/, 'unless that is sticky';
	ended in("$dir/open", 'start', $late), 1, qr/$dir\/open can be written by others \(mode 1777\); it is not safe to use: name a directory in it/, 'which is none itself';
	ended in("$dir/missing/run", 'start', $late), 1, qr/cannot make the runtime directory $dir\/missing\/run: the directory above it is missing/, 'one in what is not there';
	chown 0, USER, "$dir/open";
	chmod 0770, "$dir/open";
	ended in("$dir/open/run", 'start', $late), 1, qr/directory above $dir\/open\/run can be written by others \(mode 770\), who could replace it/, 'one in what a group can write';
	chown 0, 0, "$dir/open";
	ended in("$dir/open/run", 'start', $late), 4, qr/CPU/, 'unless that is root\'s';
	ended in("relative", 'start', $late), 1, qr/give an absolute path/, 'a relative one';
	ended run_ancla('list', { env => { ANCLA_RUNTIME_DIR => undef, XDG_RUNTIME_DIR => 'x' } }), 0, qr//, 'root does not ask XDG_RUNTIME_DIR';
	ended in(touch("$dir/file"), 'start', $late), 1, qr/cannot (?:open|make) the runtime directory/, 'a file';
	is_deeply [ AnclaTest::entries("$dir/real"), AnclaTest::entries("$dir/theirs/run") ], [], 'nothing was made in any';
	$tried += 10;
};

# With umask 0002 and a group for each user, as some systems have it, all that a user makes is so.
subtest 'a group of one\'s own' => sub {
	my $home = "$dir/home";
	make_path("$home/run");
	chown USER, USER, $home, "$home/run";
	chmod 0775, $home;
	chmod 0700, "$home/run";
	my $try = sub {
		my ($group, $more, $exit, $pattern, $what) = @_;
		touch("$dir/etc-passwd", AnclaTest::slurp('/etc/passwd') . 'me:x:' . USER . ':' . USER . "::/:/bin/sh\n$more");
		touch("$dir/etc-group", AnclaTest::slurp('/etc/group') . "me:x:@{[USER]}:$group\n");
		chmod 0644, "$dir/etc-passwd", "$dir/etc-group";
		my $result = run_command('unshare', '-m', 'sh', '-c', "mount --bind $dir/etc-passwd /etc/passwd && mount --bind $dir/etc-group /etc/group && exec \"\$@\"", 'sh',
			'setpriv', '--reuid', USER, '--regid', USER, '--clear-groups', $program, 'list', { env => { ANCLA_RUNTIME_DIR => "$home/run" } });
		ended $result, $exit, $pattern, $what;
		$tried++;
	};
	my $refused = qr/directory above $home\/run can be written by others \(mode 775\)/;
	$try->('', '', 0, qr/^$/, 'may write: nobody else is in it');
	$try->('me', '', 0, qr/^$/, 'named in it or not');
	$try->('me,nobody', '', 1, $refused, 'unless it has another member');
	$try->('', "other:x:1:@{[USER]}::/:/bin/sh\n", 1, $refused, 'or is somebody else\'s, too');
	chown USER, 1, $home;
	$try->('', '', 1, $refused, 'and no other group');
};

subtest 'what is put inside' => sub {
	my $run = "$dir/inside";
	make_path($run, { mode => 0700 });
	my $victim = touch("$dir/victim");
	make_path("$dir/victims/vm");
	touch("$dir/victims/vm/$_") for qw(lock plan.json state.json qemu.log);
	my $intact = sub { AnclaTest::slurp($victim) eq 'precious' && !grep { AnclaTest::slurp("$dir/victims/vm/$_") ne 'precious' } qw(lock plan.json state.json qemu.log) };
	symlink $victim, "$run/.lock";
	ended in($run, 'list'), 1, qr/cannot lock $run\/\.lock/, 'a lock that is a link';
	unlink "$run/.lock";
	symlink "$dir/victims/vm", "$run/put";
	ended in($run, 'start', make_spec(spec("put"))), 1, qr/$run\/put exists, but is no VM's/, 'a VM\'s directory that is a link';
	ended in($run, "stop", "--force", "put"), 1, qr/no VM "put" runs/, 'which is no VM';
	unlink "$run/put";
	make_path("$run/dead");
	symlink "$dir/victims/vm/$_", "$run/dead/$_" for qw(lock plan.json state.json qemu.log supervisor.sock);
	ended in($run, 'list'), 0, qr//, 'files that are links';
	ok $intact->(), 'nothing was written or removed through a link';
	remove_tree("$run/dead");
	make_path("$run/dead/lock");
	touch("$run/dead/mine");
	ended in($run, 'list'), 0, qr//, 'directories where files should be';
	ok -e "$run/dead/mine", 'what is not ancla\'s stays';
	POSIX::mkfifo("$run/dead/plan.json", 0600);
	my $result = in($run, 'list');
	ended $result, 0, qr//, 'a FIFO is not waited for';
	$tried += 6;
};

# As another user, again and again until it is told to end.
sub attack {
	my ($what) = @_;
	my $pid = fork // die "fork: $!";
	if (!$pid) {
		POSIX::setgid(USER);
		POSIX::setuid(USER);
		$SIG{TERM} = sub { POSIX::_exit(0) };
		$what->() while getppid() != 1;
		POSIX::_exit(0);
	}
	return $pid;
}
sub end_attack { kill TERM => $_[0]; waitpid $_[0], 0; return }

subtest 'a race for the directory' => sub {
	my $sticky = "$dir/sticky";
	make_path($sticky, "$dir/roots");
	chmod 01777, $sticky;
	my $run = "$sticky/run";
	my $attacker = attack(sub { mkdir $run; rmdir $run; symlink "$dir/roots", $run; unlink $run });
	my %codes;
	for (1 .. 150) {
		my $result = in($run, 'start', $late);
		$codes{ $result->{exit} // 'signal' }++;
		$races++;
		# Ours, if we won; theirs cannot be removed by them then.
		remove_tree($run) if lstat $run && -d _ && (stat _)[4] == 0;
	}
	end_attack($attacker);
	is_deeply [ grep { $_ ne '1' && $_ ne '4' } keys %codes ], [], 'won or refused' or diag explain \%codes;
	is_deeply [ AnclaTest::entries("$dir/roots") ], [], 'root\'s own directory behind a link was never used';
	note "race for the directory: ", join ', ', map { "exit $_: $codes{$_}" } sort keys %codes;
};

subtest 'a race under root\'s eyes' => sub {
	my $had = -d '/run/user';
	my $home = '/run/user/' . USER;
	make_path("$home/ancla/vm", "$home/other");
	touch("$home/ancla/vm/$_", '{}') for qw(lock plan.json state.json);
	symlink '/etc', "$home/etc";
	symlink '/etc/shadow', "$home/ancla/vm/link";
	system 'chown', '-R', USER . ':' . USER, $home;
	chmod 0700, $home, "$home/ancla";
	my @pairs = ([ "$home/ancla", "$home/etc" ], [ "$home/ancla", "$home/other" ], [ "$home/ancla/vm/plan.json", "$home/ancla/vm/link" ]);
	my $exchange = sub { my @pair = map { "$_\0" } @{ $pairs[ int rand @pairs ] }; syscall 316, -100, $pair[0], -100, $pair[1], 2 };
	my $attacker = attack($exchange);
	my @odd;
	my $start = time;
	for (1 .. 150) {
		my $result = run_ancla('list', { env => { ANCLA_RUNTIME_DIR => undef } });
		push @odd, "$result->{out}$result->{err}" if !defined $result->{exit} || $result->{exit} || $result->{err} =~ /root:|shadow/ || $result->{out} =~ /root:/;
		$races++;
	}
	end_attack($attacker);
	is_deeply \@odd, [], 'root\'s list is never misled, nor kept waiting';
	remove_tree($home);
	rmdir '/run/user' unless $had;
};

clean 'nothing is left';
note "$tried links, names and owners, $races races";
done_testing;
