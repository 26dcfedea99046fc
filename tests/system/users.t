# Root sees what users' VMs hold, and gives it to nobody else; a user's files can mislead root's
# commands in nothing, and are never written by them.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Errno qw(EMFILE ENOMEM);
use Fcntl qw(:flock);
use File::Path qw(make_path remove_tree);
use POSIX qw(mkfifo);
use Test::More;

use constant { USER => 47321, FLOODER => 47325 }; # nobody's

plan skip_all => 'needs root' if $>;
my $had = -d '/run/user';
my $home = '/run/user/' . USER;
END { remove_tree($home, '/run/user/' . FLOODER) if $home && !$>; rmdir '/run/user' unless $had }
make_path("$home/cache", { mode => 0700 });
chown USER, USER, $home, "$home/cache" or die;
chmod 0755, tmpdir();
my $ancla = tmpdir() . '/ancla';
is system('cp', $ENV{ANCLA} // "$BUILD/ancla", $ancla), 0, 'a program that the user can reach';

my $env = { env => { ANCLA_RUNTIME_DIR => undef, XDG_RUNTIME_DIR => $home, XDG_CACHE_HOME => "$home/cache" } };
my @user = ('setpriv', '--reuid', USER, '--regid', USER, '--clear-groups', $ancla);
my @root = ($ENV{ANCLA} // "$BUILD/ancla");
my $json = JSON::PP->new->utf8;
my $alone = { memory => '16MiB', cputune => { vcpupin => { 0 => '1' }, emulatorpin => '0' }, placement => { 'cpu-policy' => 'dedicated' } };

my $path = make_spec(spec('theirs', $alone));
ended run_command(@user, 'start', $path, $env), 0, qr/theirs runs/, 'a user starts a VM' or BAIL_OUT('no VM');
my $name = USER . '/theirs';
my ($listed) = grep { $_->{name} eq $name } @{ json(run_command(@root, 'list', '--json', $env)) };
# A busy machine may take longer to tell than `list` waits.
like $listed->{state}, qr/^(?:running|silent)$/, 'root lists it, as the user\'s';
is $listed->{cpus}, '1', 'with its CPUs';
my ($claim) = grep { $_->{vm} eq $name && $_->{role} eq 'vcpu 0' } @{ json(run_command(@root, 'host', '--json', $env))->{claims} };
is $claim->{cpus}, '1', 'the map shows what it holds';
ok $claim->{dedicated}, 'alone';
ended run_command(@root, 'start', make_spec(spec('ours', $alone)), $env), 4, qr/CPUs 1 alone, but VM "$name" holds 1 alone/, 'root\'s VM does not get that CPU';

subtest 'where root cannot look' => sub {
	for ([ 'openat', 257, EMFILE ], [ 'getdents64', 217, ENOMEM ], [ 'read', 0, ENOMEM ]) {
		my ($call, $number, $errno) = @$_;
		my ($nth, @missed) = (0);
		while (++$nth < 1000) {
			my $result = run_command("$BUILD/tests/inject", '--fail', 0, $number, $nth, $errno, @root, 'list', traced(env => { %{ $env->{env} }, %{ traced()->{env} } }));
			last if $result->{exit} == 99;
			push @missed, "$nth: $result->{out}" if $result->{exit} == 0 && $result->{out} !~ m{^$name }m;
		}
		is_deeply \@missed, [], "it does not say that the user has no VM, whichever $call() fails";
		cmp_ok $nth, '>', 2, "of $nth";
	}
};

ended run_command(@root, 'status', 'theirs', $env), 1, qr/no VM "theirs" runs/, 'it is none of root\'s own';
ended run_command(@root, 'stop', $name, $env), 1, qr{only user @{[USER]} can ask for the VM "theirs", or change it}, 'nor to be stopped by the name that it is listed with';

subtest 'what a user puts there' => sub {
	my $runtime = "$home/ancla";
	make_path("$runtime/$_") for qw(fifo link);
	symlink '/etc/shadow', "$runtime/link/plan.json";
	mkfifo "$runtime/fifo/plan.json", 0600;
	make_path("$runtime/bad\e[31m");
	for my $directory ("$runtime/fifo", "$runtime/link", "$runtime/bad\e[31m") {
		open my $lock, '>', "$directory/lock" or die "$directory/lock: $!";
		chown USER, USER, $directory, "$directory/lock";
	}
	system 'cp', "$runtime/theirs/plan.json", "$runtime/bad\e[31m/plan.json";
	my @held = map { my $file = $_; spawn_command('flock', '-F', $file, 'sleep', '1000') } glob "$runtime/{fifo,link,bad*}/lock";
	my @inodes = map { (stat)[1] } glob "$runtime/{fifo,link,bad*}/lock";
	ok eventually(120, sub { my $locks = AnclaTest::slurp('/proc/locks'); !grep { $locks !~ /:$_ / } @inodes }), 'held' or return;
	my $list = run_command(@root, 'list', $env);
	ended $list, 0, qr/theirs/, 'root\'s list does not wait for a FIFO';
	unlike $list->{out}, qr/\e/, 'and brings nothing to the terminal that acts on it';
	like $list->{out}, qr/bad\\u001b\[31m/, 'a name is shown as what it is';
	unlike $list->{out}, qr/fifo|link/, 'what is no plan is no VM';
	$_->signal('KILL') for @held;
	$_->wait_exit for @held;
	remove_tree(glob("$runtime/{fifo,link,bad*}"));
};

# A VM's directory as the user can make one, its lock held until the returned file is closed.
sub forge {
	my ($user, $vm, %files) = @_;
	my $directory = "/run/user/$user/ancla/$vm";
	make_path($directory, { mode => 0700 });
	chown $user, $user, "/run/user/$user", "/run/user/$user/ancla";
	$files{lock} //= '';
	for my $file (keys %files) {
		open my $out, '>', "$directory/$file" or die "$directory/$file: $!";
		print $out $files{$file};
		close $out or die;
	}
	chown $user, $user, $directory, map { "$directory/$_" } keys %files;
	open my $lock, '<', "$directory/lock" or die;
	flock $lock, LOCK_EX | LOCK_NB or die "$directory/lock: $!";
	return $lock;
}

subtest 'memory that is promised to nobody' => sub {
	my $filled = { cputune => { vcpupin => { 0 => '0' }, emulatorpin => '0' }, 'memory-backing' => { prealloc => JSON::PP::true, 'host-nodes' => '0', policy => 'strict' } };
	my $plan = json("$home/ancla/theirs/plan.json");
	$_->{cpus} = '1' for @{ $plan->{vcpus} };
	$plan->{memory} = [ { %{ $plan->{memory}[0] }, fill => 'launcher', size => 1 << 50, 'host-nodes' => '0', policy => 'strict' } ];
	my $init = (split ' ', AnclaTest::slurp('/proc/1/stat') =~ s/.*\)//sr)[19];
	for my $state ({ state => 'starting' }, { state => 'starting', qemu => 1, 'qemu-start' => 0 + $init }) {
		my $lock = forge(USER, 'greedy', 'plan.json' => $json->encode($plan), 'state.json' => $json->encode($state));
		like run_command(@root, 'list', $env)->{out}, qr{/greedy .* 1PiB$}m, 'root sees what a user\'s plan says';
		ended run_command(@root, 'start', make_spec(spec('roots', $filled)), $env), 0, qr/roots runs/, 'and starts its own VM all the same';
		ended run_command(@root, 'stop', '--force', 'roots', $env), 0, qr//, 'which ends';
		remove_tree("$home/ancla/greedy");
	}
};

# What root does with it takes a moment, little memory and one line, and what others hold is seen all the same.
sub endures {
	my ($what, $left_out) = @_;
	for my $command ([ 'list' ], [ 'host' ], [ 'plan', make_spec(spec('roots', { cputune => { vcpupin => { 0 => '0' }, emulatorpin => '0' } })) ]) {
		my $result = run_command(@root, @$command, $env);
		ended $result, 0, $left_out ? qr{of user @{[FLOODER]} not all VMs are counted, nor the CPUs that they hold: }m : qr//, "$what: `$command->[0]`";
		is 0 + grep({ /counted/ } split /\n/, "$result->{out}$result->{err}"), $left_out ? 1 : 0, 'says so once, or nothing';
	}
	my $list = run_command(@root, 'list', $env)->{out};
	like $list, qr{^@{[USER]}/theirs }m, 'and others\' VMs are seen';
	return $list;
}

subtest 'more than anybody has' => sub {
	my $flood = '/run/user/' . FLOODER;
	my $plan = json("$home/ancla/theirs/plan.json");
	my $text = $json->encode($plan);
	my $one = forge(FLOODER, 'one', 'plan.json' => $text);
	like endures('one VM'), qr{^@{[FLOODER]}/one }m, 'it is seen';

	my $lock = forge(FLOODER, 'plan', 'plan.json' => $text);
	make_path("$flood/ancla/link", { mode => 0700 });
	link "$flood/ancla/plan/lock", "$flood/ancla/link/lock" or die;
	link "$flood/ancla/one/plan.json", "$flood/ancla/link/plan.json" or die;
	system 'chown', '-R', FLOODER, "$flood/ancla";
	unlike endures('one lock and one plan of several VMs'), qr{@{[FLOODER]}/}, 'they are no VM\'s';
	remove_tree("$flood/ancla/link");

	my %wide = %$plan;
	$wide{vcpus} = [ map { { %{ $plan->{vcpus}[0] }, id => 0 + $_, cpus => '0-65535' } } 0 .. 4095 ];
	$wide{topology} = { sockets => 1, dies => 1, cores => 4096, threads => 1 };
	my @locks = forge(FLOODER, 'cpus', 'plan.json' => $json->encode(\%wide));
	unlike endures('CPUs that the host cannot have'), qr{@{[FLOODER]}/cpus }, 'a plan with those is none';
	my $nodes = { %$plan, memory => [ { %{ $plan->{memory}[0] }, 'host-nodes' => '0-65535', policy => 'strict' } ] };
	push @locks, forge(FLOODER, 'nodes', 'plan.json' => $json->encode($nodes));
	unlike endures('nodes that it cannot have'), qr{@{[FLOODER]}/nodes }, 'nor one with those';

	$wide{vcpus} = $plan->{vcpus};
	$wide{topology} = $plan->{topology};
	$wide{why} = [ ('x' x 1000) x 1100 ];
	push @locks, forge(FLOODER, 'large', 'plan.json' => $json->encode(\%wide));
	unlike endures('more than 1MiB', 1), qr{@{[FLOODER]}/large }, 'is not read';
	remove_tree("$flood/ancla");
	$one = forge(FLOODER, 'one', 'plan.json' => $text);
	make_path(map { "$flood/ancla/$_" } 1 .. 520);
	endures('hundreds of names', 1);
	remove_tree($flood);
};

subtest 'a directory that others can write' => sub {
	chmod 0777, "$home/ancla";
	unlike run_command(@root, 'list', $env)->{out}, qr/theirs/, 'is not looked at';
	chmod 0700, "$home/ancla";
};

# All that it may say is that a busy machine's QEMU had to be killed.
ended run_command(@user, 'stop', '--force', 'theirs', $env), 0, qr/^(?:ancla: QEMU of "theirs" did not quit within .*\n)?\z/, 'the user stops it';
unlike run_command(@root, 'list', $env)->{out}, qr/theirs/, 'and it is gone';
clean 'nothing is left';
done_testing;
