# A disk that is full: a start on it fails, says which file had no room, and leaves nothing; a VM that runs
# takes no harm, and a change of it is undone; a spec that cannot be saved stays as it is.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

my $cpus = () = glob '/sys/devices/system/cpu/cpu[0-9]*';
BAIL_OUT('these tests pin threads to CPUs 0 and 1, and there is one CPU') if $cpus < 2;

# What is mounted from here on is seen by this test and what it starts, and goes with them.
syscall(272, 0x20000) == 0 or die "unshare: $!"; # CLONE_NEWNS
system('mount', '--make-rprivate', '/') == 0 or die 'mount';

# A small file system in memory.
sub small_disk {
	my ($path, $options) = @_;
	mkdir $path;
	system('mount', '-t', 'tmpfs', '-o', "mode=0700,$options", 'small', $path) == 0 or die "mount: $path";
	return;
}

sub take_away { my ($path) = @_; return ok eventually(120, sub { system('umount', $path) == 0 }), 'nobody holds it' }

# Takes all the room that is left; gives it back.
sub fill {
	my ($path) = @_;
	open my $file, '>', "$path/.ballast" or die "$path: $!";
	for my $size (65536, 4096) { 1 while syswrite $file, "\0" x $size }
	return;
}
sub empty { my ($path) = @_; return unlink "$path/.ballast" }

my $run = runtime_dir();
my $spec = spec('full', {
	memory => '16MiB', vcpus => 2, iothreads => ['io0'],
	cputune => { vcpupin => { 0 => '0', 1 => '1' }, emulatorpin => '0', iothreadpin => { io0 => '1' } },
});

# Of each size from next to nothing on, until there is enough.
for my $unit ([ 'size', 'pages', sub { 4096 * $_[0] }, 2 ], [ 'nr_inodes', 'files', sub { $_[0] + 1 }, 5 ]) {
	my ($option, $what, $amount, $files) = @$unit;
	subtest "a start on a disk of a few $what" => sub {
		my (%named, $started);
		for my $n (1 .. 24) {
			small_disk($run, "$option=" . $amount->($n));
			my $result = run_ancla('start', make_spec($spec));
			$started = ($result->{exit} // -1) == 0;
			if ($started) {
				ended run_ancla('verify', 'full'), 0, qr/^ok/, "with $n it runs";
				stop_vm('full');
			} else {
				ended $result, 1, qr{^ancla: .*(?:$run|\w+\.\w+).*: No space left on device$}m, "with $n it does not, and says why";
				$named{$1} = 1 if $result->{err} =~ /([.\w]+)[^.\w]*: No space left/;
			}
			wait_all_gone();
			is_deeply [ leftovers() ], [], 'nothing is left';
			take_away($run);
			last if $started;
		}
		ok $started, 'in the end there is room';
		cmp_ok scalar(keys %named), '>=', $files, 'different files had none: ' . join ' ', sort keys %named;
	};
}

subtest 'a VM that runs' => sub {
	small_disk($run, 'size=512k');
	my $status = start_vm($spec) or return;
	fill($run);
	my $places = roles($status->{pid});
	my $works = sub {
		my ($when) = @_;
		ended run_ancla('verify', 'full'), 0, qr/^ok/, "$when: `verify`";
		is status_of('full')->{state}, 'running', '`status`';
		is_deeply [ map { $_->{name} } @{ json(run_ancla('list', '--json')) } ], ['full'], '`list`';
		is_deeply roles($status->{pid}), $places, 'each thread is where it was';
		ok is_running($status->{supervisor}), 'its supervisor lives';
	};
	$works->('the disk is full');
	ended run_ancla('pin', 'full', 'vcpu', '0-1=1,0', 'emulator', '1'), 1, qr{^ancla: $run/full: cannot write plan\.json: No space left on device$}m, '`pin` says so';
	$works->('a change was undone');
	ended run_ancla(qw(iothread full add io1 --cpus 0)), 1, qr{cannot write \w+\.json: No space left on device}, '`iothread add` says so';
	$works->('an iothread was taken back');
	# The supervisor has something to log, and to record.
	qmp("$run/full/qmp.sock", 'system_reset');
	ended run_ancla(qw(repin full)), 0, qr/as planned/, '`repin` has nothing to write';
	$works->('the guest was reset');
	ok empty($run), 'there is room again';
	ended run_ancla('pin', 'full', 'vcpu', '0-1=1,0'), 0, qr/read back$/m, '`pin`';
	ended run_ancla(qw(iothread full add io1 --cpus 0)), 0, qr/io1 is there/, '`iothread add`';
	ended run_ancla('verify', 'full'), 0, qr/^ok/, '`verify`';
	fill($run);
	stop_vm('full');
	empty($run);
	clean 'it is stopped on a full disk, too';
	take_away($run);
};

subtest 'a spec' => sub {
	my $disk = tmpdir() . '/specs';
	small_disk($disk, 'size=64k');
	my $text = AnclaTest::slurp(make_spec($spec));
	my $path = "$disk/full.json";
	open my $file, '>', $path or die;
	print $file $text;
	close $file;
	ended run_ancla('start', $path), 0, qr/full runs/, 'a start' or return;
	my ($pid, $plan) = (qemu_of('full'), AnclaTest::slurp("$run/full/plan.json"));
	my $places = roles($pid);
	fill($disk);
	ended run_ancla('pin', 'full', 'vcpu', '0-1=1,0', '--save'), 1, qr{^ancla: .*full\.json.*: No space left on device$}m, '`pin --save` says which file';
	is AnclaTest::slurp($path), $text, 'the spec is as it was';
	is_deeply [ grep { !m{/(?:full\.json|\.ballast)$} } AnclaTest::entries($disk) ], [], 'nothing is beside it';
	is AnclaTest::slurp("$run/full/plan.json"), $plan, 'so is the plan';
	is_deeply roles($pid), $places, 'and each thread';
	empty($disk);
	ended run_ancla('pin', 'full', 'vcpu', '0-1=1,0', '--save'), 0, qr/read back$/m, 'with room it is saved';
	isnt AnclaTest::slurp($path), $text, 'which the spec shows';
	stop_vm('full');
	take_away($disk);
};

# A limit on the size of files is a signal first, which would end the supervisor at its next word.
subtest 'a limit on the size of files' => sub {
	my $limited = sub { my ($limit, $words) = @_;
		return run_command('sh', '-c', "$words; ulimit -f $limit; exec \"\$0\" start \"\$1\" 2>>\"\$2\"", $ENV{ANCLA} // "$BUILD/ancla",
			make_spec($spec), tmpdir() . '/words') };
	is $limited->(0, ':')->{exit}, 1, 'of none a start fails';
	clean 'and leaves nothing';
	is $limited->(64, 'head -c 100000 /dev/zero >"$2"')->{exit}, 0, 'what it has to say is lost, but it runs';
	ok is_running(status_of('full')->{supervisor}), 'with its supervisor';
	stop_vm('full');
};

clean 'nothing is left';
done_testing;
