package Faults;

# Every system call of a command fails once, the program is killed before and after it, and so is
# QEMU. Tables of calls are made from a run of each command. ANCLA_FAULTS=I/N tries every Nth case,
# from the Ith on; without it, all are tried. With ANCLA_FAULTS_PLAIN=1 no huge pages are asked for.

use strict;
use warnings;

use AnclaTest;
use AnclaVm;
use Cgroups;
use Errno qw(:POSIX);
use Exporter qw(import);
use Test::More import => [qw(diag fail is note)];

our @EXPORT = qw(
	$vm $path $holding $pages try_all told_all snapshot state_of pid_of launcher_of
	no_vm a_vm is_verified end_vm remains was_killed told_of_none
	$beside a_neighbour is_unharmed ours
);

my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
my $inject = "$BUILD/tests/inject";
my ($from, $step) = split m{/}, $ENV{ANCLA_FAULTS} // '0/1';
my $free = hugepages_free();
my $before = hugepages_total();
our $pages = !$ENV{ANCLA_FAULTS_PLAIN} && reserve_hugepages($before + 16) == $before + 16;

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


# ---- the VM to which it is done ----

our $vm = "victim$$"; # other tests may run beside this
# All that a VM may hold of the host: huge pages of which some are missing, a cgroup. It leaves CPU 1 to
# its neighbour.
our $holding = tmpdir() . '/holding.json';
rename make_spec(spec($vm, {
	vcpus => 2, iothreads => ['io0'], memory => '40MiB',
	'memory-backing' => $pages ? { hugepages => { size => '2MiB', reserve => 'grow' }, 'host-nodes' => '0' } : { prealloc => TRUE, 'host-nodes' => '0' },
	cputune => { vcpupin => { 0 => '0', 1 => '0' }, emulatorpin => '0', iothreadpin => { io0 => '0' }, shares => 512 },
})), $holding or die "$holding: $!";
our $path = make_spec(spec($vm, {
	vcpus => 2, 'max-vcpus' => 3, iothreads => ['io0'], serial => 'socket',
	'memory-backing' => $pages ? { hugepages => '2MiB', 'host-nodes' => '0' } : { prealloc => TRUE, 'host-nodes' => '0' },
	memory => '16MiB',
	cputune => { vcpupin => { 0 => '0', 1 => '1', 2 => '1' }, emulatorpin => '0', iothreadpin => { io0 => '1' },
		emulatorsched => { scheduler => 'batch' } },
}));
my $text = AnclaTest::slurp($path);
our $total = hugepages_total();

sub in_run { return AnclaTest::peek(runtime_dir() . "/$vm/$_[0]") }
sub state_file { return json(in_run('state.json') || '{}') }
sub state_of { return state_file()->{state} // '' }
sub launcher_of { return state_file()->{launcher} } # its supervisor, or the last one

# Its QEMU; undef if there is none that runs.
sub pid_of {
	my $pid = state_file()->{qemu} // return qemu_of($vm);
	return is_running($pid) && (AnclaTest::peek("/proc/$pid/cmdline") // '') =~ /guest=$vm,/ ? $pid : undef;
}

# What a change changes, by the kernel and the files: where threads run, the plan, the spec.
sub snapshot {
	my $pid = pid_of() // return {};
	my %roles = %{ roles($pid) };
	$roles{main} = delete $roles{"emulator $pid"};
	return {
		threads => join(', ', map { "$_: $roles{$_}" } grep { /vcpu|iothread|main/ } sort keys %roles),
		cgroups => scalar(vm_cgroups(cgroup_root('cpu'), $vm)),
		plan => in_run('plan.json') // '', spec => AnclaTest::slurp($path), state => state_of(),
	};
}

# The spec as it was, and nothing beside it.
sub restore_spec {
	unlink grep { $_ ne $path && !-d } glob "$path*";
	return if AnclaTest::slurp($path) eq $text;
	open my $file, '>', $path or die "$path: $!";
	print $file $text;
	close $file or die "$path: $!";
	return;
}

sub no_vm { return 1 }
sub a_vm { restore_spec(); return pid_of() || run_ancla('start', $_[0] // $path)->{exit} == 0 }
sub is_verified { my $result = run_ancla('verify', $vm); return $result->{exit} == 0 ? () : "verify: $result->{out}$result->{err}" }
sub end_vm { run_ancla('stop', '--force', $vm) if pid_of(); return remains() }

# Guards: those that have not decided yet whether QEMU may live, and those that wait for its end.
sub guards { return grep { (AnclaTest::peek("/proc/$_/comm") // '') eq "ancla-guard\n" } map { /^(\d+)/ } ours() }

# What is left of a VM that should be gone: processes and pages now, files after the next command.
sub remains {
	my @left;
	push @left, ours() unless eventually(20, sub { !ours() });
	# Those that are free anyhow, less what was not given back yet.
	push @left, 'huge pages: ' . hugepages_free() . ' free' if $pages && !eventually(5, sub { hugepages_free() >= $free + 16 });
	run_ancla('list');
	push @left, grep { !of_neighbour($_) } leftovers();
	push @left, vm_cgroups(cgroup_root('cpu'), $vm);
	push @left, 'huge pages: ' . hugepages_total() . " of $total" if $pages && hugepages_total() != $total;
	return @left;
}

# ---- who is there beside it ----

# A VM that has CPU 1 for itself alone, while it is there.
our $beside = "beside$$";
my $beside_path = make_spec(spec($beside, { memory => '16MiB', placement => { 'cpu-policy' => 'dedicated' },
	cputune => { vcpupin => { 0 => '1' }, emulatorpin => '0' } }));
my ($beside_pid, %of_neighbour);

sub a_neighbour {
	return 1 if $beside_pid && is_running($beside_pid);
	return 0 unless run_ancla('start', $beside_path)->{exit} == 0 && ($beside_pid = qemu_of($beside));
	%of_neighbour = map { /^(\d+)/ ? ($1 => 1) : () } our_processes();
	return 1;
}

sub of_neighbour { return $_[0] =~ /^(?:process )?(\d+)/ ? $of_neighbour{$1} : $_[0] =~ m{/\Q$beside\E(?:/|$)} }
sub ours { return grep { !of_neighbour($_) } our_processes() }

# What is wrong with the neighbour: it is as it was, and has its CPU alone. (Where the kernel says that
# there is no file, there is none.)
sub is_unharmed {
	my ($how) = @_;
	return unless $beside_pid;
	return "$beside does not run" unless is_running($beside_pid);
	my $result = run_ancla('verify', $beside);
	my @wrong = $result->{exit} == 0 ? () : "verify $beside: $result->{out}$result->{err}";
	my $pid = pid_of();
	push @wrong, map { "on the CPU of $beside: $_->{name} ($_->{cpus})" } grep { $_->{cpus} =~ /1/ } tasks($pid)
		if $pid && ($how->[4] // 0) != ENOENT;
	return @wrong;
}

sub end_neighbour {
	run_ancla('stop', '--force', $beside) if $beside_pid;
	$beside_pid = undef;
	return;
}

# A command that is wrong on what runs. (Where the kernel says that there is no file, there is none.)
sub told_of_none {
	my ($result, $how, $name) = @_;
	return if ($how->[4] // 0) == ENOENT || ($how->[0] ne '--fail');
	return "it says that $name does not run: $result->{err}" if $result->{err} =~ /no VM "\Q$name\E"/;
	return;
}

# ---- cases ----

# The program under the injector, until it has ended, or does what it does until it is ended.
sub attempt {
	my ($how, $try) = @_;
	my $program = spawn_command(@$how, $ancla, @{ $try->{command} }, { timeout => 60 });
	return $program->wait_exit(60) unless $try->{stays};
	my $stays;
	my $ends = eventually(60, sub { $program->step(0.005); defined $program->{status} || ($stays = $try->{stays}->($program)) });
	if ($stays) {
		# It may fail after that, too.
		my $verified = run_ancla('verify', $vm);
		$try->{end}->();
		my $result = $program->wait_exit(60);
		return { %$result, ran => 1, verified => $verified };
	}
	return $ends ? $program->wait_exit(60) : { %{ $program->wait_exit(0.1) }, timed_out => 1 };
}

# The program's own start, and fcntl(2) that duplicates nothing.
sub cannot_fail {
	my ($role, $call, $argument) = @_;
	my $name = ($calls{$call} // [''])->[0];
	return $name eq 'execve' && $role == 0 || $name eq 'fcntl' && $argument < 5 && $argument != 0;
}

# All that the command calls, as [role, call, nth, QEMU].
sub table {
	my ($try) = @_;
	my $file = tmpdir() . '/calls';
	my $result = attempt([ 'sh', '-c', 'exec "$@" 9>"$0"', $file, $inject, '--list' ], $try);
	return unless is($result->{exit} // "$result->{err}", $try->{exit} // 0, "`@{ $try->{command} }` by itself");
	my (%count, @all);
	for (split /\n/, AnclaTest::slurp($file)) {
		my ($role, $call, $argument, $qemu) = split;
		my $nth = ++$count{"$role $call"};
		push @all, [ $role, $call, $nth, $qemu ]
			unless cannot_fail($role, $call, $argument) || $try->{most} && $nth > $try->{most};
	}
	$try->{after}->($result, [ '--list' ]);
	return @all;
}

# How to inject, and what to call it.
sub cases {
	my ($try, @calls) = @_;
	my @cases;
	for (@calls) {
		my ($role, $call, $nth, $qemu) = @$_;
		my ($name, @errors) = @{ $calls{$call} // [] } or next;
		next if $try->{calls} && $name !~ /^(?:$try->{calls})$/;
		push @cases, [ [ '--fail', $role, $call, $nth, $_ ], "$name $nth of role $role: " . do { local $! = $_; "$!" } ] for @errors;
		next if $try->{fails};
		push @cases, [ [ '--kill', $role, $call, $nth ], "killed before $name $nth of role $role" ];
		push @cases, [ [ '--kill-after', $role, $call, $nth ], "killed after $name $nth of role $role" ] if $nth % 4 == 0;
		push @cases, [ [ '--kill-qemu', $role, $call, $nth ], "QEMU killed before $name $nth of role $role" ]
			if $try->{qemu} eq 'ours' ? $qemu : $try->{qemu};
	}
	return @cases;
}

sub was_killed { my ($result, $how) = @_; return ($result->{ran} || $how->[0] =~ /^--kill(-after)?$/) && ($result->{exit} // 0) == 137 }

# What is wrong with how it ended; nothing if all is as it should be.
sub judge {
	my ($how, $result) = @_;
	return "it does not end: $result->{out}$result->{err}" if $result->{timed_out};
	return "the injector failed: $result->{err}" if !defined $result->{exit} || $result->{exit} == 98;
	my $said = "exit $result->{exit}: $result->{out}$result->{err}";
	return if $result->{exit} == 99 || $result->{exit} == 0 || was_killed($result, $how);
	return "a crash: $said" if $result->{exit} >= 128;
	return $said unless $result->{exit} =~ /^[1345]$/;
	return "exit $result->{exit} without a word" unless $result->{err} =~ /^\S.{10}/m;
	return "not a word of QEMU's end: $said" if $how->[0] eq '--kill-qemu' && $result->{err} !~ /QEMU|no VM "$vm"|"$vm" is ending/;
	return;
}

my ($tried, %ends) = (0);

# try_all(command => [...], ...):
#   ready  brings all into a known state, cheaply; true if that worked
#   after  what is wrong after a case (it gets the result, and how it was injected); gets the run
#          without a fault first, too, as --list
#   qemu   'ours': a QEMU is started, and killed as well; 'theirs': the VM's is; '': none
#   stays  of a command that stays: true once it does; then `end` ends it
#   most   of a call by one role, where it repeats as long as the guest talks
#   exit   of the run without a fault (0)
#   calls  only these, a pattern of names
#   fails  true: calls fail, and nobody is killed
#   least  every so manieth case is tried at least, whatever ANCLA_FAULTS says
sub try_all {
	my (%try) = (qemu => '', ready => \&no_vm, @_);
	my $what = "@{ $try{command} }" =~ s/\Q@{[tmpdir()]}\E\///gr;
	$try{ready}->() or return fail("$what: is not ready");
	my @all = cases(\%try, table(\%try));
	my $each = $try{least} && $try{least} < $step ? $try{least} : $step;
	my @cases = @all[ grep { $_ % $each == $from % $each } 0 .. $#all ];
	my (@wrong, %codes);
	my $started = time;
	for my $case (@cases) {
		my ($how, $name) = @$case;
		$try{ready}->() or return fail("$what: cannot be tried after the last case");
		my @kill = $how->[0] ne '--kill-qemu' ? () : $try{qemu} eq 'ours' ? 0 : pid_of();
		my $result = attempt([ $inject, @$how, @kill ], \%try);
		my @faults = grep { defined } judge($how, $result), $try{after}->($result, $how);
		push @wrong, "$what: $name: " . join '; ', @faults if @faults;
		if (@faults) {
			diag $wrong[-1];
			kill KILL => map { /^(\d+)/ } ours();
			run_ancla('list');
			reserve_hugepages($total) if $pages;
		}
		$_->{ $result->{exit} // 'none' }++ for \%codes, \%ends;
	}
	$tried += @cases;
	return is(scalar(@wrong), 0, sprintf '%s: %d of %d cases in %d s; exit codes %s', $what, scalar @cases, scalar @all,
		time - $started, join ', ', map { "$_: $codes{$_}" } sort keys %codes);
}

# The last word of a test.
sub told_all {
	run_ancla('stop', '--force', $vm) if pid_of();
	end_neighbour();
	note "tried $tried cases; exit codes: " . join ', ', map { "$_: $ends{$_}" } sort keys %ends;
	return clean 'nothing is left', $free;
}

1;
