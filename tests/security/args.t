# What a spec can make run: words for QEMU's command line and a program of somebody else only if the
# caller says so, and never what would undo what ancla promises.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use File::Path qw(make_path);
use Test::More;

my @allow = '--allow-args';
my $tried = 0;
sub with { my ($words, %more) = @_; return make_spec(spec('args', { qemu => { args => $words, %more } })) }
sub argv { return @{ json(run_ancla('plan', '--json', @_))->{argv} } }

subtest 'they need the caller\'s word' => sub {
	my $path = with(['-device', 'virtio-rng-pci']);
	ended run_ancla('check', $path), 0, qr/^$/, 'they are no mistake';
	ended run_ancla($_, $path), 3, qr/^\Q$path\E: \/qemu\/args: these 2 words for QEMU are honoured only with --allow-args, .*read them first, or leave them out$/m,
		"`$_` refuses them" for qw(plan run start);
	is_deeply [ argv(@allow, $path) ], [ argv(make_spec(spec('args'))), '-device', 'virtio-rng-pci' ], 'allowed, they come last and change nothing else';
	like run_ancla('plan', @allow, with(['-device', 'virtio-rng-pci']))->{out}, qr/qemu\.args: what these 2 words give QEMU is not placed/, 'and the plan says what it does not know';
	is_deeply [ leftovers() ], [], 'nothing is left';
};

subtest 'what ancla gives by itself' => sub {
	my @words = qw(name S sandbox add-fd set readconfig preconfig incoming daemonize runas chroot run-with qmp qmp-pretty smp cpu accel
		enable-kvm icount m mem-path mem-prealloc overcommit numa kernel initrd append bios action no-reboot no-shutdown watchdog-action);
	for my $word (@words) {
		for my $dash ('-', '--') {
			ended run_ancla('check', with([ '-device', 'x', "$dash$word", 'y' ])), 3, qr{: /qemu/args/2: -\Q$word\E cannot be given here: \w}, "$dash$word is refused";
			$tried++;
		}
	}
	my @values = (
		[ object => 'memory-backend-ram,id=x,size=1M' ], [ object => '{"qom-type":"memory-backend-file","id":"x"}' ],
		[ object => 'id=x,qom-type=memory-backend-memfd' ], [ object => '{"qom-type":"memory\u002dbackend-ram","id":"x"}' ],
		[ object => 'iothread,id=x' ], [ object => 'thread-context,id=x' ], [ machine => 'pc' ], [ machine => 'pc,usb=on' ], [ M => 'q35' ],
		[ machine => 'type=pc' ], [ machine => 'memory-backend=x' ], [ machine => 'accel=tcg' ], [ chardev => 'socket,id=monitor,path=/x' ],
		[ chardev => 'null,id=commands' ], [ chardev => 'null,id=serial0' ], [ mon => 'chardev=monitor' ], [ mon => 'chardev=commands,mode=readline' ],
	);
	for (@values) {
		my ($option, $value) = @$_;
		ended run_ancla('check', with([ "-$option", $value ])), 3, qr{: /qemu/args/1: -$option with .* cannot be given here: \w}, "-$option $value is refused";
		$tried++;
	}
	ended run_ancla('check', with([ '-machine', 'smm=off', '-object', 'rng-random,id=r,filename=/dev/urandom', '-chardev', 'null,id=monitor2', '-d', 'guest_errors' ])), 0, qr/^$/, 'others are not';
};

# As setfacl -m u:USER:rwx does (acl(5); <linux/posix_acl_xattr.h>).
sub set_acl {
	my ($path, $user) = @_;
	my @entries = ([ 1, 7, ~0 ], [ 2, 7, $user ], [ 4, 5, ~0 ], [ 0x10, 7, ~0 ], [ 0x20, 5, ~0 ]);
	my $list = pack 'V' . 'vvV' x @entries, 2, map { $_->[0], $_->[1], $_->[2] & 0xffffffff } @entries;
	my $name = 'system.posix_acl_access';
	is syscall(188, $path, $name, $list, length $list, 0), 0, 'an access control list' or diag "$path: $!";
}
sub remove_acl { my ($path) = @_; my $name = 'system.posix_acl_access'; syscall 197, $path, $name }

subtest 'a program of somebody else' => sub {
	plan skip_all => 'needs root' if $>;
	my $dir = tmpdir() . '/theirs';
	make_path($dir);
	my $ran = tmpdir() . '/ran';
	my $case = sub {
		my ($what, $binary, $doubt) = @_;
		my $path = make_spec(spec('args', { qemu => { binary => $binary } }));
		ended run_ancla($_, $path), 3, qr{/qemu/binary: $doubt, so what would be run as you may be anything}, "`$_` refuses $what" for qw(plan run start);
		ok !-e $ran, 'it has not run';
		$tried += 3;
	};
	my $binary = wrapper('theirs/qemu', "echo >$ran; exec \$qemu \"\$@\"", 1);
	chown 47323, 47323, $binary;
	$case->('one of a user', $binary, qr{$binary belongs to user 47323});
	chown 0, 0, $binary;
	chmod 0777, $binary;
	$case->('one that all can write', $binary, qr{$binary can be written by all});
	chmod 0755, $binary;
	chown 47323, 47323, $dir;
	$case->('one in a directory of a user', $binary, qr{$dir belongs to user 47323});
	symlink '/usr/bin/qemu-system-x86_64', "$dir/link";
	$case->('a link that a user can change', "$dir/link", qr{$dir belongs to user 47323});
	chown 0, 0, $dir;
	chmod 0777, $dir;
	$case->('one where all can write', $binary, qr{$dir can be written by all});
	chmod 01777, $dir;
	ended run_ancla('plan', make_spec(spec('args', { qemu => { binary => "$dir/link" } }))), 0, qr/QEMU/, 'a sticky directory does not matter';
	chmod 0755, $dir;
	for (['one that a group can write', $binary], ['one where a group can write', $dir]) {
		my ($what, $path) = @$_;
		chmod 0775, $path;
		chown 0, 47323, $path;
		$case->($what, $binary, qr{$path can be written by group 47323});
		chown 0, 0, $path;
		set_acl($path, 47323);
		$case->("$what, of a list of its own", $binary, qr{$path can be written by those in its access control list});
		remove_acl($path);
		chmod 0775, $path;
		ended run_ancla('plan', make_spec(spec('args', { qemu => { binary => $binary } }))), 0, qr/QEMU/, 'root\'s group does not matter';
		chown 0, scalar getgrnam('staff'), $path; # as Debian has it, for /usr/local
		ended run_ancla('plan', make_spec(spec('args', { qemu => { binary => $binary } }))), 0, qr/QEMU/, 'nor does one that nobody is in';
		chown 0, 0, $path;
		unlink $ran;
		chmod 0755, $path;
	}
	chown 47323, 47323, $binary;
	utime 1, 1, $binary; # so that it is asked again what it can do
	ended run_ancla('plan', @allow, make_spec(spec('args', { qemu => { binary => $binary } }))), 0, qr/QEMU/, 'unless the caller says so';
	ok -e $ran, 'then it runs';
	ended run_ancla('plan', make_spec(spec('args', { qemu => { binary => $binary } })), { env => { SUDO_UID => 47323 } }), 0, qr/QEMU/, 'or it is the user\'s who called sudo';
};

subtest 'they reach QEMU' => sub {
	my $path = make_spec(spec('args', { qemu => { args => [ '-device', 'virtio-rng-pci,id=extra' ] } }));
	ended run_ancla('start', @allow, $path), 0, qr/warning: qemu\.args: what these 2 words.*args runs/s, 'started' or return;
	my @devices = map { $_->{name} } @{ qmp(runtime_dir() . '/args/qmp.sock', 'qom-list', { path => '/machine/peripheral' })->{return} };
	ok scalar(grep { $_ eq 'extra' } @devices), 'the device is there';
	ended run_ancla('verify', 'args'), 0, qr/ok/, 'all else is as planned';
	stop_vm('args');
};

clean 'nothing is left';
note "$tried words and programs tried";
done_testing;
