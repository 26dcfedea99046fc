# Every system call of the program fails once, and the program is killed at each. Whatever happens
# then: nothing is left behind, what it says it did is done, what it did not do says why, and a VM
# that runs is as its plan says.
#
# The table of calls is made from a run of each command. ANCLA_FAULTS=I/N tries every Nth case,
# from the Ith on; without it, all are tried.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Errno qw(:POSIX);
use Test::More;

my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
my $inject = "$BUILD/tests/inject";
my ($from, $step) = split m{/}, $ENV{ANCLA_FAULTS} // '0/1';
my $free = hugepages_free();
my $before = hugepages_total();
my $pages = reserve_hugepages($before + 16) == $before + 16;

# By number: its name, and how it may fail. What cannot fail, or only by a mistake of the caller's,
# is not here; nor is close(2), which closes even then. See syscalls(2), and each one's page.
my %calls = (
	0 => [read => EIO, EINTR], 1 => [write => ENOSPC, EINTR], 2 => [open => EMFILE, EACCES],
	4 => [stat => EACCES], 5 => [fstat => ENOMEM], 7 => [poll => EINTR, ENOMEM], 9 => [mmap => ENOMEM],
	16 => [ioctl => ENOTTY, EIO], 17 => [pread64 => EIO, EINTR], 18 => [pwrite64 => ENOSPC],
	21 => [access => EACCES], 22 => [pipe => EMFILE], 25 => [mremap => ENOMEM], 28 => [madvise => ENOMEM, EFAULT, EAGAIN],
	32 => [dup => EMFILE], 33 => [dup2 => EMFILE, EINTR], 41 => [socket => EMFILE, ENOBUFS], 42 => [connect => ECONNREFUSED, EAGAIN],
	43 => [accept => EMFILE], 44 => [sendto => EPIPE, EINTR, EAGAIN], 45 => [recvfrom => ECONNRESET, EINTR],
	46 => [sendmsg => EPIPE, EINTR], 47 => [recvmsg => ECONNRESET, EINTR], 49 => [bind => EADDRINUSE], 50 => [listen => EADDRINUSE],
	53 => [socketpair => EMFILE], 54 => [setsockopt => EPERM], 56 => [clone => EAGAIN, ENOMEM], 57 => [fork => EAGAIN],
	58 => [vfork => EAGAIN], 59 => [execve => ENOENT, ENOMEM], 61 => [wait4 => EINTR, ECHILD], 62 => [kill => EPERM],
	72 => [fcntl => EMFILE], 73 => [flock => EINTR, ENOLCK], 77 => [ftruncate => ENOSPC, EINTR], 78 => [getdents => EIO],
	80 => [chdir => EACCES], 82 => [rename => ENOSPC], 83 => [mkdir => ENOSPC], 84 => [rmdir => EBUSY], 87 => [unlink => EROFS],
	89 => [readlink => ENOENT], 90 => [chmod => EPERM], 91 => [fchmod => EPERM], 93 => [fchown => EPERM], 97 => [getrlimit => EPERM],
	112 => [setsid => EPERM], 137 => [statfs => EIO], 138 => [fstatfs => EIO], 140 => [getpriority => ESRCH], 141 => [setpriority => EACCES],
	142 => [sched_setparam => EPERM], 143 => [sched_getparam => EPERM], 144 => [sched_setscheduler => EPERM], 145 => [sched_getscheduler => EPERM],
	157 => [prctl => EINVAL, EPERM], 160 => [setrlimit => EPERM], 203 => [sched_setaffinity => EINVAL, EPERM],
	204 => [sched_getaffinity => EPERM], 217 => [getdents64 => EIO], 237 => [mbind => EPERM, ENOMEM], 238 => [set_mempolicy => EPERM, ENOMEM],
	239 => [get_mempolicy => EPERM], 247 => [waitid => ECHILD, EINTR], 254 => [inotify_add_watch => ENOSPC], 256 => [migrate_pages => EPERM],
	257 => [openat => EMFILE, EACCES, ENOENT], 258 => [mkdirat => ENOSPC, EACCES], 262 => [newfstatat => EACCES], 263 => [unlinkat => EROFS],
	264 => [renameat => ENOSPC], 267 => [readlinkat => ENOENT], 268 => [fchmodat => EPERM], 269 => [faccessat => EACCES], 271 => [ppoll => EINTR, ENOMEM],
	279 => [move_pages => EPERM, ENOMEM], 281 => [epoll_pwait => EINTR], 283 => [timerfd_create => EMFILE], 285 => [fallocate => ENOSPC, EINTR],
	288 => [accept4 => EMFILE], 289 => [signalfd4 => EMFILE], 290 => [eventfd2 => EMFILE], 291 => [epoll_create1 => EMFILE], 292 => [dup3 => EMFILE],
	293 => [pipe2 => EMFILE], 302 => [prlimit64 => EPERM], 314 => [sched_setattr => EPERM], 315 => [sched_getattr => EPERM], 316 => [renameat2 => ENOSPC],
	318 => [getrandom => EAGAIN], 319 => [memfd_create => EMFILE, ENOMEM], 332 => [statx => EACCES], 424 => [pidfd_send_signal => EPERM],
	434 => [pidfd_open => EMFILE], 435 => [clone3 => EAGAIN, ENOSYS], 436 => [close_range => ENOSYS], 437 => [openat2 => ENOSYS],
	439 => [faccessat2 => EACCES],
);

my %spec = (
	vcpus => 2, iothreads => ['io0'], serial => 'socket',
	'memory-backing' => $pages ? { hugepages => '2MiB', 'host-nodes' => '0' } : { prealloc => TRUE, 'host-nodes' => '0' },
	memory => '16MiB',
	cputune => { vcpupin => { 0 => '0', 1 => '1' }, emulatorpin => '0', iothreadpin => { io0 => '1' },
		emulatorsched => { scheduler => 'batch' } },
);
my $path = make_spec(spec('victim', \%spec));
my ($tried, %ends) = (0);

sub state_of { return json(AnclaTest::peek(runtime_dir() . '/victim/state.json') // '{}')->{state} // '' }
sub cpus_of { my %roles = %{ roles(qemu_of('victim')) }; return join ' ', map { "$_: $roles{$_}" } grep { /vcpu|iothread/ } sort keys %roles }

# Those that have not decided yet whether QEMU may live, and those that wait for its end.
sub guards { return grep { (AnclaTest::peek("/proc/$_/comm") // '') eq "ancla-guard\n" } map { /^(\d+)/ } our_processes() }

# The program under the injector, until it has ended, or says that its VM runs and sleeps.
sub attempt {
	my ($how, @command) = @_;
	my $program = spawn_command($inject, @$how, $ancla, @command, { timeout => 60 });
	return $program->wait_exit(60) if $command[0] ne 'run';
	my $ends = eventually(60, sub { $program->step(0.005); defined $program->{status} || state_of() eq 'running' });
	my $ran = !defined $program->{status} && state_of() eq 'running';
	if ($ran) {
		# It may fail after that, too.
		my $verified = run_ancla('verify', 'victim');
		run_ancla('stop', '--force', 'victim');
		my $result = $program->wait_exit(60);
		return { %$result, ran => 1, verified => $verified };
	}
	return $ends ? $program->wait_exit(60) : { exit => undef, timed_out => 1, %{ $program->wait_exit(0.1) } };
}

# The program's own start, and fcntl(2) that duplicates nothing.
sub cannot_fail {
	my ($role, $call, $argument) = @_;
	my $name = ($calls{$call} // [''])->[0];
	return $name eq 'execve' && $role == 0 || $name eq 'fcntl' && $argument < 5 && $argument != 0;
}

# All that the command calls, as [role, call, nth].
sub table {
	my (@command) = @_;
	my $file = tmpdir() . '/calls';
	my $program = spawn_command('sh', '-c', 'exec "$@" 9>"$0"', $file, $inject, '--list', $ancla, @command);
	if ($command[0] eq 'run') {
		eventually(60, sub { $program->step(0.01); defined $program->{status} || state_of() eq 'running' });
		run_ancla('stop', '--force', 'victim');
	}
	my $ended = $program->wait_exit(60);
	return unless is($ended->{exit}, 0, "`@command` by itself");
	my (%count, @all);
	for (split /\n/, AnclaTest::slurp($file)) {
		my ($role, $call, $argument) = split;
		my $nth = ++$count{"$role $call"};
		push @all, [$role, $call, $nth] unless cannot_fail($role, $call, $argument);
	}
	return @all;
}

# The cases: how to inject, and what to call it.
sub cases {
	my (@calls) = @_;
	my @cases;
	for (@calls) {
		my ($role, $call, $nth) = @$_;
		my ($name, @errors) = @{ $calls{$call} // [] } or next;
		push @cases, [['--fail', $role, $call, $nth, $_], "$name $nth of role $role: " . do { local $! = $_; "$!" }] for @errors;
		push @cases, [['--kill', $role, $call, $nth], "killed before $name $nth of role $role"];
		push @cases, [['--kill-after', $role, $call, $nth], "killed after $name $nth of role $role"] if $nth % 4 == 0;
	}
	return @cases;
}

# What is wrong with how it ended; nothing if all is as it should be.
sub judge {
	my ($how, $result) = @_;
	my $killed = $how->[0] =~ /kill/;
	return 'it does not end' if $result->{timed_out};
	return 'the injector failed: ' . $result->{err} if !defined $result->{exit} || $result->{exit} == 98;
	return 'a crash: ' . ($result->{exit} - 128) . " $result->{err}" if $result->{exit} >= 128 && !($killed && $result->{exit} == 137);
	return if $result->{exit} == 99 || $result->{exit} == 0 || $killed;
	return "exit code $result->{exit}: $result->{err}" unless $result->{exit} =~ /^[1345]$/;
	return "exit $result->{exit} without a word" unless $result->{err} =~ /^\S.{10}/m;
	return;
}

# What is left of a VM that should be gone: processes and pages now, files after the next command.
sub remains {
	my @left;
	push @left, our_processes() unless wait_all_gone();
	push @left, 'huge pages: ' . hugepages_free() . ' free' if $pages && !eventually(5, sub { hugepages_free() >= $free + 16 });
	run_ancla('list');
	push @left, leftovers();
	return @left;
}

sub try_all {
	my ($what, $before, $after, @command) = @_;
	$before->();
	my @all = cases(table(@command));
	$after->();
	my @cases = @all[ grep { $_ % $step == $from } 0 .. $#all ];
	my @wrong;
	for my $case (@cases) {
		my ($how, $name) = @$case;
		$before->() or return fail("$what: cannot be tried after the last case");
		my $result = attempt($how, @command);
		my @faults = grep { defined } judge($how, $result), $after->($result, $how);
		push @wrong, "$what: $name: " . join '; ', @faults if @faults;
		if (@faults) {
			diag $wrong[-1];
			kill KILL => map { /^(\d+)/ } our_processes();
			run_ancla('list');
		}
		$tried++;
		$ends{ $result->{exit} // 'none' }++;
	}
	return is(scalar(@wrong), 0, sprintf '%s: %d of %d cases', $what, scalar @cases, scalar @all);
}

sub no_vm { return 1 }
sub a_vm { return qemu_of('victim') || run_ancla('start', $path)->{exit} == 0 }
sub is_verified { my $result = run_ancla('verify', 'victim'); return $result->{exit} == 0 ? () : "verify: $result->{out}$result->{err}" }
sub end_vm { run_ancla('stop', '--force', 'victim') if qemu_of('victim'); return remains() }

try_all('run', \&no_vm, sub {
	my ($result) = @_ or return;
	my @wrong;
	push @wrong, "it runs, but: $result->{verified}{out}$result->{verified}{err}" if $result->{ran} && $result->{verified}{exit} && $result->{verified}{exit} != 1;
	# Killed after `cont`, it leaves a VM that runs and can be stopped; or the guard ends that.
	push @wrong, 'the guard does not end' unless eventually(20, sub { !guards() });
	my @differs = qemu_of('victim') && state_of() eq 'running' ? is_verified() : ();
	push @wrong, @differs if @differs && !eventually(5, sub { !qemu_of('victim') });
	return @wrong, end_vm();
}, 'run', $path);

my $live = sub { my ($result) = @_ or return; return a_vm() ? is_verified() : 'the VM is gone' };
try_all($_, \&a_vm, $live, $_, $_ eq 'list' ? () : 'victim') for qw(verify status list);

try_all('stop', \&a_vm, sub { my ($result) = @_ or return; return end_vm() }, 'stop', '--force', 'victim');

note "tried $tried cases; exit codes: " . join ', ', map { "$_: $ends{$_}" } sort keys %ends;
clean 'nothing is left', $free;
done_testing;
