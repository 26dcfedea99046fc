# The library of the system tests keeps its own promises.
use strict;
use warnings;
use FindBin;
use lib $FindBin::Bin;
use AnclaTest;
use Test::More;
use Time::HiRes qw(time);

subtest 'a program that runs to its end' => sub {
	my $result = run_command('sh', '-c', 'cat; echo oops >&2; exit 3', { stdin => 'hello' });
	is $result->{exit}, 3, 'exit code';
	is $result->{out}, 'hello', 'standard input to standard output';
	is $result->{err}, "oops\n", 'standard error';
	ok !$result->{timed_out} && !$result->{held_open}, 'in time, and all gone';
	ended $result, 3, qr/oops/, 'ended';
	is run_command('cat')->{out}, '', 'without stdin it is empty';
	is run_command('sh', '-c', 'kill -TERM $$')->{signal}, 15, 'a signal';
	is run_command('/nonexistent')->{exit}, 127, 'no such program';
	is run_command('sh', '-c', 'echo $FOO$HOME', { env => { FOO => 'bar', HOME => undef } })->{out},
		"bar\n", 'environment';
	my $big = 'x' x 3_000_000;
	ok run_command('cat', { stdin => $big })->{out} eq $big, 'more than a pipe holds, both ways';
	is run_command('true', { stdin => $big })->{exit}, 0, 'a program that does not read';
};

subtest 'time limits hold' => sub {
	my $start = time;
	my $result;
	{
		local *Test::More::diag = sub { };
		no warnings 'redefine';
		$result = run_command('sleep', 100, { timeout => 0.2, stdin => 'x' x 1_000_000 });
	}
	ok $result->{timed_out} && $result->{signal} == 9, 'killed';
	cmp_ok time - $start, '<', 20, 'in time';
	$result = run_command('sh', '-c', 'sleep 100 & exit 0');
	is $result->{exit}, 0, 'a program that leaves a child';
	ok $result->{held_open}, 'which holds its output';
	is scalar(grep { /sleep 100/ } leftovers()), 1, 'it is a leftover';
	my ($pid) = map { /(\d+) sleep 100/ } our_processes();
	ok !wait_gone($pid, 0.05), 'that is not gone';
	kill KILL => $pid;
	ok wait_gone($pid), 'until it is killed';
	ok wait_gone($pid), 'and stays gone';
	is_deeply [leftovers()], [], 'nothing is left';
};

subtest 'a program in the background' => sub {
	my $program = spawn_command('sh', '-c',
		'trap "echo caught; exit 4" TERM; echo ready; read x; echo "got $x"; while :; do sleep 0.01; done',
		{ stdin => undef });
	ok $program->wait_for_output(qr/ready/), 'its output is waited for';
	$program->send("it\n");
	ok $program->wait_for_output(qr/got it/), 'its input is written';
	$program->signal('TERM');
	my $result = $program->wait_exit;
	is $result->{exit}, 4, 'exit code';
	is $result->{out}, "ready\ngot it\ncaught\n", 'all of its output';
	my $dropped = spawn_command('sleep', 100);
	my $pid = $dropped->pid;
	undef $dropped;
	ok wait_gone($pid), 'one that is no longer wanted is killed';
};

subtest 'a terminal' => sub {
	my $program = spawn_command('sh', '-c',
		'test -t 0 && test -t 1 && tty </dev/tty && stty size && modes=$(stty -g) && stty raw -echo && '
			. 'echo raw && read x && stty "$modes" && echo "got $x"; exec sleep 100',
		{ pty => 1 });
	my $before = $program->terminal_modes;
	ok $program->wait_for_output(qr/raw/), 'it is one, and the controlling one';
	like $program->out, qr{^/dev/(tty|pts/\d+)\r\n24 80}, 'with a size';
	isnt $program->terminal_modes, $before, 'modes can be seen to change';
	$program->send("keys\n");
	ok $program->wait_for_output(qr/got keys/), 'keys arrive';
	is $program->terminal_modes, $before, 'modes can be seen to be back';
	$program->send("\cC");
	is $program->wait_exit->{signal}, 2, 'the interrupt key interrupts';
	is $program->terminal_modes, $before, 'the terminal outlives the program';
};

subtest 'what the kernel says of threads' => sub {
	my ($first) = thread_affinity($$) =~ /^(\d+)/;
	my $program = spawn_command('taskset', '-c', $first, 'chrt', '--batch', '0', 'sh', '-c', 'echo up; exec sleep 100');
	$program->wait_for_output(qr/up/);
	is thread_affinity($program->pid), $first, 'affinity';
	is_deeply [thread_scheduler($program->pid)], ['batch', 0], 'policy and priority';
	my @tasks = tasks($program->pid);
	is @tasks, 1, 'one thread';
	is $tasks[0]{tid}, $program->pid, 'its id';
	is $tasks[0]{last_cpu}, $first, 'the CPU it ran on';
	is thread_affinity(2**22), undef, 'nothing of a thread that is not there';

	SKIP: {
		my $fifo = spawn_command('chrt', '--fifo', '7', 'sh', '-c', 'echo up; exec sleep 100');
		skip 'no privilege for real-time policies', 1 unless $fifo->wait_for_output(qr/up/);
		is_deeply [thread_scheduler($fifo->pid)], ['fifo', 7], 'a real-time policy';
	}
};

subtest 'files and reports' => sub {
	my $path = make_spec({ name => 'vm', vcpus => 2 });
	like $path, qr{/vm\.json$}, 'a spec is named after its VM';
	is_deeply json($path), { name => 'vm', vcpus => 2 }, 'and can be read back';
	is_deeply json({ out => '[1]' }), [1], 'JSON that a program printed';
	is guest_report('nothing'), undef, 'no report';
	is_deeply guest_report("x\r\nANCLA-GUEST-BEGIN\r\na.b=1 = 2\r\nc=\r\nANCLA-GUEST-END\r\n"),
		{ 'a.b' => '1 = 2', c => '' }, 'a report';
	is $ENV{ANCLA_RUNTIME_DIR}, runtime_dir(), 'the runtime directory is the test\'s own';
	mkdir $_ for runtime_dir(), runtime_dir() . '/a b';
	open my $file, '>', runtime_dir() . '/lock' or die;
	is_deeply [leftovers()], ['directory ' . runtime_dir() . '/a b'], 'a directory that is left is found';
};

subtest 'huge pages come and go' => sub {
	my $before = hugepages_total();
	plan skip_all => 'no privilege to reserve huge pages' unless -w '/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages';
	my $free = hugepages_free();
	my $code = 'use AnclaTest; print reserve_hugepages(hugepages_total() + 3), " ", hugepages_free()';
	my $result = run_command($^X, "-I$FindBin::Bin", '-e', $code);
	is $result->{out}, ($before + 3) . ' ' . ($free + 3), 'they are there';
	is hugepages_total(), $before, 'they are given back';
};

subtest 'huge pages that a dead VM owes are given back' => sub {
	my $before = hugepages_total(0);
	plan skip_all => 'no privilege to reserve huge pages' unless -w AnclaTest::hugepages_file('nr_hugepages', 0);
	my $code = 'use AnclaTest; my ($dead, $before) = (runtime_dir() . "/dead", hugepages_total(0)); mkdir $_, 0700 for runtime_dir(), $dead;'
		. 'AnclaTest::set_hugepages(AnclaTest::hugepages_file("nr_hugepages", 0), $before + 3); print my $owed = hugepages_total(0) - $before;'
		. 'open my $lock, ">", "$dead/lock"; open my $file, ">", "$dead/reserved.json";'
		. 'print $file qq([{"node": 0, "page-size": 2097152, "owed": $owed, "from": 0, "change": 0}]); close $file; die "on the way\n"';
	my $result = run_command($^X, "-I$FindBin::Bin", '-e', $code);
	like "$result->{out} $result->{err}", qr/^[123] on the way\n\z/, 'they are there when the test dies';
	is hugepages_total(0), $before, 'and no longer';
};

# Its main thread has ended, and it has no command line any more: what it holds goes with the last thread.
subtest 'a process is there until its last thread is gone' => sub {
	my $code = 'use threads; $| = 1; threads->create(sub { select undef, undef, undef, 0.3; open my $file, ">", shift; }, shift)->detach;'
		. 'print "alone\n"; syscall 60, 0'; # exit(2), of this thread
	my $program = spawn_command($^X, '-e', $code, tmpdir() . '/last');
	ok $program->wait_for_output(qr/alone/), 'a thread remains' or return;
	my $pid = $program->pid;
	1 while grep { /^$pid / } our_processes();
	ok -e tmpdir() . '/last', 'which is waited for';
	$program->wait_exit;
};

subtest 'the end of a test cleans up' => sub {
	my $code = 'use AnclaTest; $p = spawn_command("sh", "-c", "setsid sleep 100 & echo \$! >&2; wait");'
		. '$p->wait_for_output(qr/\d/); print tmpdir(), " ", $p->err; kill INT => $$; sleep 100';
	my $result = run_command($^X, "-I$FindBin::Bin", '-e', $code);
	my ($directory, $pid) = split ' ', $result->{out};
	is $result->{exit}, 1, 'interrupted';
	ok !-e $directory, 'its directory is gone';
	ok wait_gone($pid, 0), 'what it left running is gone';
};

done_testing;
