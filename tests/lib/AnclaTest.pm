package AnclaTest;

# What the system tests share: running ancla under a time limit, in a pipe or on a terminal, and
# reading the kernel without ancla's help. Only Perl's core modules.
#
# Every test program gets a directory of its own, with the runtime directory in it, and at the end,
# however it ends, whatever still runs from there is killed and huge pages are given back. The
# cache of QEMU's capabilities is shared, so that they are asked for once.

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(basename dirname);
use File::Path qw(make_path);
use File::Temp ();
use IO::Select;
use IO::Socket::UNIX;
use JSON::PP ();
use POSIX ();
use Test::More ();
use Clock qw(time);

our @EXPORT = qw(
	$ROOT $BUILD tmpdir runtime_dir json make_spec demo_boot guest_report
	run_ancla spawn_ancla run_command spawn_command ended qmp
	tasks thread_affinity thread_scheduler wait_gone our_processes process_ids leftovers
	hugepages_free hugepages_total reserve_hugepages
);

our $ROOT = abs_path(dirname(__FILE__) . '/../..');
our $BUILD = abs_path($ENV{BUILD} // "$ROOT/build") // "$ROOT/build";

# Seconds that a program may take if the test does not say. ANCLA_TEST_SLOW=N allows N times as
# long everywhere, for sanitizers and busy machines.
use constant LIMIT => 120;
use constant PF_EXITING => 4; # in /proc/PID/stat, see include/linux/sched.h
my $slow = $ENV{ANCLA_TEST_SLOW} || 1;

my $owner = $$;
my %running; # the programs that we started and have not waited for, by process id
my $tmp = File::Temp->newdir('ancla-test.XXXXXX', TMPDIR => 1);
my $json = JSON::PP->new->utf8->canonical->pretty;

sub tmpdir { return "$tmp" }
sub runtime_dir { return "$tmp/run" }

$ENV{ANCLA_RUNTIME_DIR} = runtime_dir();
$ENV{XDG_CACHE_HOME} //= "$BUILD/tests/cache";
make_path($ENV{XDG_CACHE_HOME});

# --- JSON, specs, guests ---

# The data in a JSON text, in a file, or in the `out` of a result of run_ancla.
sub json {
	my ($from) = @_;
	my $text = ref $from ? $from->{out} : $from =~ /^\s*[\[{]/ ? $from : slurp($from);
	return $json->decode($text);
}

# Writes a spec to a file in tmpdir, named after the VM, and returns its path.
sub make_spec {
	my ($spec) = @_;
	my $path = sprintf '%s/%s.json', tmpdir(), $spec->{name} // 'spec';
	open my $file, '>', $path or die "$path: $!";
	print $file $json->encode($spec);
	close $file or die "$path: $!";
	return $path;
}

# The `boot` part of a spec that boots the demo's guest with these words added to its command
# line, for instance 'ancla.do=idle'. Linux counts the ticks of its timer as it boots, and panics where a
# busy machine gives an emulated CPU too few of them.
sub demo_boot {
	my @words = @_;
	return {
		kernel => "$ROOT/build/demo/vmlinuz",
		initrd => "$ROOT/build/demo/initrd",
		cmdline => join(' ', 'console=ttyS0 quiet panic=-1 no_timer_check', @words),
	};
}

# What the guest reported of itself on its console: a reference to a hash, with the last report
# where there are several; undef where there is none.
sub guest_report {
	my ($console) = @_;
	my @reports = $console =~ /^ANCLA-GUEST-BEGIN\r?\n(.*?)^ANCLA-GUEST-END/msg;
	return unless @reports;
	return { map { /^([^=]+)=([^\r]*)/ ? ($1, $2) : () } split /\n/, $reports[-1] };
}

# --- running programs ---

# run_ancla(ARGS..., {timeout, stdin, env, pty}): runs it to its end. Returns a reference to
#   exit       the exit code; undef if a signal ended it
#   signal     that signal, or 0
#   out, err   what it printed (on a terminal, all of it is in out)
#   seconds    how long it took
#   timed_out  true if it had to be killed
#   held_open  true if it ended, but left a process behind that holds its stdout or stderr
sub run_ancla { return run_command($ENV{ANCLA} // "$BUILD/ancla", @_) }

sub run_command {
	my $options = ref $_[-1] ? $_[-1] : {};
	return spawn_command(@_)->wait_exit($options->{timeout});
}

# The same in the background: returns an AnclaTest::Program, see below.
#   stdin  a string; without one, and without a terminal, standard input is empty; with
#          {stdin => undef} it is a pipe to send() to
#   env    variables to set, or to remove (undef)
#   pty    true: on a new terminal of 24 lines, which is the program's controlling terminal
sub spawn_ancla { return spawn_command($ENV{ANCLA} // "$BUILD/ancla", @_) }

sub spawn_command {
	my $options = ref $_[-1] ? pop : {};
	return AnclaTest::Program->new($options, @_);
}

# A test: the program ended with this code, and said that. Shows what it did say, if not.
sub ended {
	my ($result, $exit, $pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $good = defined $result->{exit} && $result->{exit} == $exit
		&& "$result->{out}$result->{err}" =~ $pattern;
	Test::More::ok($good, $name) or Test::More::diag(
		sprintf "exit %s, signal %d, after %.1f s%s\n--- stdout\n%s\n--- stderr\n%s\n--- expected: exit %d, %s",
		$result->{exit} // 'none', $result->{signal}, $result->{seconds},
		$result->{timed_out} ? ' (time limit)' : '', $result->{out}, $result->{err}, $exit, $pattern);
	return $good;
}

# One command to a QEMU monitor socket; returns its whole reply, or dies.
sub qmp {
	my ($path, $command, $arguments) = @_;
	my $compact = JSON::PP->new->utf8->canonical;
	my $socket = IO::Socket::UNIX->new(Peer => $path) or die "$path: $!";
	my ($buffer, $deadline) = ('', time + LIMIT * $slow);
	my $reply = sub {
		while (1) {
			while ($buffer =~ s/^(.*?)\r?\n//) {
				my $message = $compact->decode($1);
				return $message unless exists $message->{event};
			}
			wait_readable($deadline - time, $socket) or die "$path: no reply to $command";
			sysread $socket, $buffer, 65536, length $buffer or die "$path: closed";
		}
	};
	$reply->(); # the greeting
	for my $message ({ execute => 'qmp_capabilities' },
		{ execute => $command, $arguments ? (arguments => $arguments) : () })
	{
		syswrite $socket, $compact->encode($message) . "\n" or die "$path: $!";
		$message->{reply} = $reply->();
		return $message->{reply} if $message->{execute} eq $command;
	}
}

# --- the kernel's word ---

# Dies where the file cannot be read to its end, as of a thread that ended just then.
sub slurp {
	my ($path) = @_;
	open my $file, '<', $path or die "$path: $!\n";
	local $/;
	my $text = <$file> // '';
	die "$path: $!\n" if $file->error;
	return $text;
}

# What slurp gives, or undef where there is no such file (any more).
sub peek { my ($path) = @_; return eval { slurp($path) } }

# The threads of a process by increasing id: {tid, name, cpus, scheduler, priority, last_cpu}.
sub tasks {
	my ($pid) = @_;
	my @tasks;
	for my $tid (sort { $a <=> $b } map { basename($_) } glob "/proc/$pid/task/*") {
		my $stat = peek("/proc/$pid/task/$tid/stat") // next;
		my $cpus = thread_affinity($pid, $tid) // next;
		my ($name, $rest) = $stat =~ /\((.*)\) (.*)/s;
		my ($last_cpu, $priority, $policy) = (split ' ', $rest)[36, 37, 38];
		push @tasks, {
			tid => $tid, name => $name, cpus => $cpus, last_cpu => $last_cpu, priority => $priority,
			scheduler => (qw(other fifo rr batch), 4, 'idle', 'deadline', 'ext')[$policy],
		};
	}
	return @tasks;
}

# The CPUs that the kernel lets a thread use, as a list: "0-3,8". undef when it is gone.
sub thread_affinity {
	my ($pid, $tid) = @_;
	my $status = peek('/proc/' . $pid . '/task/' . ($tid // $pid) . '/status') // return;
	return $status =~ /^Cpus_allowed_list:\s*(\S+)/m ? $1 : undef;
}

# Its policy and priority, as ancla writes them: ("fifo", 1).
sub thread_scheduler {
	my ($pid, $tid) = @_;
	my ($task) = grep { $_->{tid} == ($tid // $pid) } tasks($pid);
	return $task ? ($task->{scheduler}, $task->{priority}) : ();
}

# Waits until a process has ended: true once it has, false when the time is over.
sub wait_gone {
	my ($pid, $seconds) = @_;
	my $pidfd = open_pidfd($pid) // return 1;
	return wait_readable($seconds // LIMIT * $slow, $pidfd);
}

# A handle that is readable once the process has ended; undef when there is no such process.
sub open_pidfd {
	my ($pid) = @_;
	my $fd = syscall 434, $pid + 0, 0; # pidfd_open
	if ($fd < 0) {
		return if $!{ESRCH};
		die "pidfd_open: $!";
	}
	open my $handle, '<&=', $fd or die "pidfd: $!";
	return $handle;
}

# The handles among these that have something to read, after at most so many seconds.
sub wait_readable {
	my ($seconds, @handles) = @_;
	return IO::Select->new(@handles)->can_read($seconds > 0 ? $seconds : 0);
}

# Threads of the kernel's own, once seen: hundreds, on a host of many CPUs. By process id: the number of its
# inode in /proc, which the next process of that id has not.
my %of_the_kernel;

# Processes that this test is answerable for: started, or holding a file, in its directory.
# Returns strings: "123 qemu-system-x86_64 -name ...".
sub our_processes {
	my @found;
	my $kthreadd = (peek('/proc/2/comm') // '') eq "kthreadd\n";
	for my $pid (process_ids()) {
		next if $pid == $$;
		my $inode = (stat "/proc/$pid")[1] // next;
		next if ($of_the_kernel{$pid} // 0) == $inode;
		my ($parent) = parent_and_flags($pid) or next;
		next if $kthreadd && $parent == 2 && ($of_the_kernel{$pid} = $inode);
		my $command = peek("/proc/$pid/cmdline") // next;
		my $known = $command . (peek("/proc/$pid/environ") // '')
			. join ' ', map { readlink($_) // '' } glob "/proc/$pid/fd/*";
		# One that is ending has no command line any more, but still what it holds: files, locks and
		# memory, as long as any of its threads is not gone. It is dead when all of them are.
		next if is_ending($pid) && wait_gone($pid);
		next if index($known, tmpdir()) < 0;
		$command =~ tr/\0/ /;
		push @found, "$pid $command";
	}
	return @found;
}

sub is_ending { my ($pid) = @_; my (undef, $flags) = parent_and_flags($pid) or return 1; return $flags & PF_EXITING }

# Its parent, and its PF_ flags, see proc(5); nothing where there is no such process.
sub parent_and_flags {
	my ($pid) = @_;
	return (peek("/proc/$pid/stat") // '') =~ /.*\) \S (\d+) (?:\S+ ){4}(\d+)/s;
}

# The ids of all processes; a glob would look at each, which takes long where there are hundreds.
sub process_ids { opendir my $proc, '/proc' or die "/proc: $!"; return grep { /^\d+$/ } readdir $proc }

# What is still there and should not be: processes, and all in the runtime directory but a lock
# file at its top. Returns strings; none when all is clean.
sub leftovers {
	my @found = map { "process $_" } our_processes();
	my @look = entries(runtime_dir());
	while (defined(my $path = shift @look)) {
		if (-d $path && !-l $path) {
			push @found, "directory $path";
			push @look, entries($path);
		} elsif (dirname($path) ne runtime_dir() || $path !~ /lock$/) {
			push @found, "file $path";
		}
	}
	return @found;
}

sub entries {
	my ($directory) = @_;
	opendir my $handle, $directory or return;
	return map { "$directory/$_" } sort grep { !/^\.\.?$/ } readdir $handle;
}

# --- huge pages: of the whole machine, or of one node; the size in kB is 2048 by default ---

my %hugepages_before;

sub hugepages_file {
	my ($name, $node, $size) = @_;
	return sprintf '%s/hugepages/hugepages-%dkB/%s',
		defined $node ? "/sys/devices/system/node/node$node" : '/sys/kernel/mm', $size // 2048, $name;
}

sub hugepages_free { return 0 + (peek(hugepages_file('free_hugepages', @_)) // 0) }
sub hugepages_total { return 0 + (peek(hugepages_file('nr_hugepages', @_)) // 0) }

# Asks for a pool of so many huge pages; the old number comes back when the test ends. Returns
# how many there are now: fewer, where memory or privileges are short.
sub reserve_hugepages {
	my ($count, $node, $size) = @_;
	my $path = hugepages_file('nr_hugepages', $node, $size);
	my $before = hugepages_total($node, $size);
	$hugepages_before{$path} //= $before if set_hugepages($path, $count);
	# Where free memory is in pieces, the kernel gives up early: it is put together, and asked again.
	for (1 .. 5) {
		last if hugepages_total($node, $size) >= $count || !set_hugepages('/proc/sys/vm/compact_memory', 1);
		set_hugepages($path, $count);
	}
	return hugepages_total($node, $size);
}

sub set_hugepages {
	my ($path, $count) = @_;
	open my $file, '>', $path or return 0;
	return (print $file $count) && close $file;
}

# A signal ends a test as any other end does: through END.
$SIG{$_} = sub { exit 1 } for qw(HUP INT PIPE TERM);

# First what we started ourselves, then what that started. Twice none means none: a process that is just
# starting a program cannot be recognised.
sub end_processes {
	kill KILL => keys %running;
	waitpid $_, 0 for keys %running;
	%running = ();
	for (my ($none, $tries) = (0, 0); $none < 2 && $tries < 20; $none++, $tries++) {
		my @pids = map { /^(\d+)/ } our_processes() or next;
		$none = -1;
		kill KILL => @pids;
		wait_gone($_) for @pids;
	}
	return;
}

# Those that were reserved for a VM that is dead: any command gives them back.
sub give_owed_pages_back {
	my @owed = glob runtime_dir() . '/*/reserved.json' or return;
	my $list = run_ancla('list', { env => { ANCLA_RUNTIME_DIR => runtime_dir() }, timeout => 30 });
	warn "huge pages stay reserved: $list->{err}@owed\n" if grep { -e } @owed;
	return;
}

END {
	if ($$ == $owner) {
		local $?;
		# Each for itself: that one fails does not keep the others from it.
		eval { $_->(); 1 } or warn $@ for \&end_processes, \&give_owed_pages_back;
		set_hugepages($_, $hugepages_before{$_}) for keys %hugepages_before;
		undef $tmp;
	}
}

# --- a program in the background ---

package AnclaTest::Program;

use Fcntl qw(O_NOCTTY O_RDWR);
use Clock qw(time);

# From asm-generic/ioctls.h, which x86-64 uses.
use constant { TIOCSCTTY => 0x540E, TIOCSWINSZ => 0x5414, TIOCGPTN => 0x80045430, TIOCSPTLCK => 0x40045431 };

sub new {
	my ($class, $options, @command) = @_;
	my $self = bless { command => \@command, out => '', err => '', unsent => '', started => time }, $class;
	my ($in, $out, $err);
	if ($options->{pty}) {
		($self->{master}, $self->{terminal}) = open_pty();
		($in, $out, $err) = ($self->{terminal}) x 3;
		$self->{readers} = { out => $self->{master} };
		$self->{writer} = $self->{master};
	} else {
		pipe $in, $self->{writer} or die "pipe: $!";
		pipe $self->{readers}{out}, $out or die "pipe: $!";
		pipe $self->{readers}{err}, $err or die "pipe: $!";
	}
	$self->{writer}->blocking(0);

	my $pid = fork // die "fork: $!";
	if (!$pid) {
		$SIG{$_} = 'DEFAULT' for qw(HUP INT TERM PIPE);
		for (keys %{ $options->{env} // {} }) {
			if (defined $options->{env}{$_}) { $ENV{$_} = $options->{env}{$_} } else { delete $ENV{$_} }
		}
		if ($options->{pty}) {
			POSIX::setsid();
			ioctl $in, TIOCSCTTY, 0;
		} else {
			setpgrp;
		}
		my @fds = map { fileno $_ } $in, $out, $err;
		POSIX::dup2($fds[$_], $_) // POSIX::_exit(126) for 0 .. 2;
		no warnings 'exec';
		exec { $command[0] } @command or do {
			syswrite STDERR, "$command[0]: $!\n";
			POSIX::_exit(127);
		};
	}
	$self->{pid} = $pid;
	$running{$pid} = 1;
	$self->{pidfd} = AnclaTest::open_pidfd($pid);
	if (!$options->{pty}) {
		close $_ for $in, $out, $err;
		if (!exists $options->{stdin}) {
			$self->close_stdin;
		} elsif (defined $options->{stdin}) {
			$self->send($options->{stdin});
			$self->close_stdin;
		}
	}
	return $self;
}

# Both ends of a new terminal. The program's end stays open here, too: it outlives the program,
# so that its modes can be looked at afterwards.
sub open_pty {
	sysopen my $master, '/dev/ptmx', O_RDWR | O_NOCTTY or die "/dev/ptmx: $!";
	my ($unlocked, $number, $size) = (pack('I', 0), pack('I', 0), pack('S4', 24, 80, 0, 0));
	ioctl $master, TIOCSPTLCK, $unlocked or die "TIOCSPTLCK: $!";
	ioctl $master, TIOCGPTN, $number or die "TIOCGPTN: $!";
	my $path = '/dev/pts/' . unpack 'I', $number;
	sysopen my $terminal, $path, O_RDWR | O_NOCTTY or die "$path: $!";
	ioctl $terminal, TIOCSWINSZ, $size or die "TIOCSWINSZ: $!";
	return ($master, $terminal);
}

sub pid { return $_[0]{pid} }
sub out { return $_[0]{out} } # all that it printed so far and that was waited for
sub err { return $_[0]{err} }
sub is_there { return !defined $_[0]{status} } # it has not ended, as far as was seen

# Writes to its standard input, or types on its terminal ("\cC" is the interrupt key).
# What does not fit goes out later, while one of the waits below waits.
sub send {
	my ($self, $text) = @_;
	die 'its standard input was closed' if $self->{closing} || !$self->{writer};
	$self->{unsent} .= $text;
	$self->step(0);
	return;
}

sub close_stdin { my ($self) = @_; $self->{closing} = 1; $self->step(0); return }

sub signal { my ($self, $signal) = @_; return kill $signal => $self->{pid} unless $self->{status}; }

# The modes of its terminal as one string, to be compared.
sub terminal_modes {
	my ($self) = @_;
	my $modes = POSIX::Termios->new;
	$modes->getattr(fileno $self->{terminal}) // die "tcgetattr: $!";
	return join ' ', $modes->getiflag, $modes->getoflag, $modes->getcflag, $modes->getlflag,
		map { $modes->getcc($_) } 0 .. POSIX::NCCS() - 1;
}

# Writes and reads what it can, after at most so many seconds, and sees whether the program has
# ended. Returns false if nothing could be done.
sub step {
	my ($self, $seconds) = @_;
	my %key = map { fileno($self->{readers}{$_}) => $_ } keys %{ $self->{readers} };
	my $readers = IO::Select->new(values %{ $self->{readers} }, $self->{pidfd} // ());
	my $writers = IO::Select->new($self->{unsent} eq '' ? () : $self->{writer});
	my ($can_read, $can_write) =
		IO::Select->select($readers, $writers, undef, $seconds > 0 ? $seconds : 0);
	if (@{ $can_write // [] }) {
		local $SIG{PIPE} = 'IGNORE';
		my $sent = syswrite $self->{writer}, $self->{unsent};
		if (defined $sent) { substr $self->{unsent}, 0, $sent, '' }
		elsif (!$!{EAGAIN}) { $self->{unsent} = '' } # nobody reads it any more
	}
	if ($self->{closing} && $self->{unsent} eq '' && !$self->{master}) {
		delete $self->{writer};
	}
	for my $handle (@{ $can_read // [] }) {
		my $key = $key{ fileno $handle };
		if (!$key) {
			waitpid $self->{pid}, 0;
			$self->{status} = $?;
			delete $running{ $self->{pid} };
			$self->{seconds} = time - $self->{started};
			delete $self->{pidfd};
		} elsif (!sysread $handle, $self->{$key}, 65536, length $self->{$key}) {
			delete $self->{readers}{$key};
		}
	}
	return @{ $can_read // [] } + @{ $can_write // [] };
}

# Waits until the output (of stdout; of stderr if it matched there) matches; true if it does.
# False when the program has ended, or time is over: then it says what there was instead.
sub wait_for_output {
	my ($self, $pattern, $seconds) = @_;
	my $deadline = time + ($seconds // AnclaTest::LIMIT) * $slow;
	while ($self->{out} !~ $pattern && $self->{err} !~ $pattern) {
		my $ended = defined $self->{status};
		# Once it has ended, only what is still in the pipes can come.
		next if $self->step($ended ? 0 : $deadline - time);
		next if !$ended && time < $deadline;
		Test::More::diag(sprintf "%s %s before it printed %s\n--- stdout\n%s\n--- stderr\n%s",
			$self->{command}[0], $ended ? 'ended' : 'took too long', $pattern, $self->{out}, $self->{err});
		return 0;
	}
	return 1;
}

# Waits until it has ended and returns what run_ancla returns. It is killed when the time is over.
sub wait_exit {
	my ($self, $seconds) = @_;
	my $deadline = time + ($seconds // AnclaTest::LIMIT) * $slow;
	my $timed_out = 0;
	while (!defined $self->{status}) {
		$self->step($deadline - time);
		next if time < $deadline || $timed_out;
		$timed_out = 1;
		kill KILL => $self->{pid};
		$deadline = time + 10;
	}
	# A pipe is closed by now, unless somebody else has it; a terminal is held open by ourselves.
	my $grace = time + 0.5 * $slow;
	while (%{ $self->{readers} }) {
		$self->step($self->{master} ? 0 : $grace - time) or last;
	}
	Test::More::diag("$self->{command}[0] was killed: it took too long\n--- stdout\n$self->{out}\n--- stderr\n$self->{err}") if $timed_out;
	my $status = $self->{status};
	return {
		exit => $status & 127 ? undef : $status >> 8,
		signal => $status & 127,
		out => $self->{out},
		err => $self->{err},
		seconds => $self->{seconds},
		timed_out => $timed_out,
		held_open => !$self->{master} && %{ $self->{readers} } ? 1 : 0,
	};
}

sub DESTROY {
	my ($self) = @_;
	return if !$self->{pid} || $$ != $owner || !delete $running{ $self->{pid} };
	local ($?, $!);
	kill KILL => $self->{pid};
	waitpid $self->{pid}, 0;
}

1;
