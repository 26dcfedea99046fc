# Disks, network cards, serial consoles and what is booted arrive in the guest as the spec says; and no
# string of a spec is ever taken for an option of QEMU's, whatever is in it.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Fcntl ();
use POSIX ();
use Test::More;

my $free = hugepages_free();

# What may stand in a file name, and hurts where it is not quoted.
my $hostile = q{a,b=c "d" 'e' $(f) `g` ;|& {"h":1} \\i %s -x};

sub image {
	my ($name, $text, $size) = @_;
	my $path = tmpdir() . "/$name";
	open my $file, '>', $path or die "$path: $!";
	print $file $text;
	truncate $file, $size;
	return $path;
}

sub qcow2 {
	my ($name, $size) = @_;
	my $path = tmpdir() . "/$name";
	run_command('qemu-img', 'create', '-q', '-f', 'qcow2', $path, $size)->{exit} == 0 or die 'qemu-img';
	return $path;
}

sub cpu_time { my ($pid, $name) = @_;
	my ($task) = grep { $_->{name} eq $name } tasks($pid);
	return (split ' ', AnclaTest::slurp("/proc/$pid/task/$task->{tid}/schedstat"))[2] }

subtest 'disks, cards and a command line in Linux' => sub {
	my $kernel = tmpdir() . "/kernel $hostile";
	my $initrd = tmpdir() . "/initrd $hostile";
	symlink "$ROOT/build/demo/vmlinuz", $kernel or die;
	symlink "$ROOT/build/demo/initrd", $initrd or die;
	my $words = q{a,b=c,,d "e f" 'g' h=$(i);j|k&l {"m":[1]} \n %s -S -device x,y panic=-1 no_timer_check};
	my $vm = run_linux(spec('devices', {
		memory => '256MiB', serial => 'stdio', iothreads => [ 'io0', 'io-1.x_y' ],
		cputune => { vcpupin => { 0 => '0' }, emulatorpin => '0', iothreadpin => { io0 => '1', 'io-1.x_y' => '0-1' } },
		boot => { kernel => $kernel, initrd => $initrd, cmdline => "console=ttyS0 quiet ancla.do=shell $words" },
		disks => [
			{ file => image("raw $hostile", 'first disk', 3 << 20), iothread => 'io0' },
			{ file => qcow2("qcow2 $hostile", '5M'), format => 'qcow2', iothread => 'io-1.x_y' },
			{ file => image('read only', 'third disk', 1 << 20), readonly => TRUE },
		],
		nics => [ { type => 'user', mac => '52:54:00:AA:bb:01' }, { type => 'user' } ],
	}), { stdin => undef }) or return;
	my $report = guest_report($vm->out);
	is $report->{'block.vda'}, 3 << 20, 'a raw disk';
	is $report->{'block.vdb'}, 5 << 20, 'a qcow2 disk';
	is $report->{'block.vdc'}, 1 << 20, 'a third one';
	is $report->{'net.eth0'}, '52:54:00:aa:bb:01', 'a card with its address';
	like $report->{'net.eth1'}, qr/^52:54:00:/, 'and one with another';
	isnt $report->{'net.eth1'}, '52:54:00:12:34:57', 'of its own';
	my $pid = qemu_of('devices');
	my $do = sub { my ($command, $pattern, $what) = @_;
		$vm->send("$command\n");
		return ok $vm->wait_for_output($pattern), $what };
	my $command_line = "console=ttyS0 quiet ancla.do=shell $words";
	$do->('cat /proc/cmdline', qr/^\Q$command_line\E\r?$/m, 'the command line, byte for byte');
	my $slices = cpu_time($pid, 'IO io0');
	$do->('head -c 10 /dev/vda; echo "<a"', qr/first disk<a/, 'the first disk is the first');
	$do->('head -c 10 /dev/vdc; echo "<c"', qr/third disk<c/, 'the third is the third');
	$do->('echo written >/dev/vda; sync; dd if=/dev/zero of=/dev/vdb bs=64k 2>/dev/null; sync; echo done-$((40+2))', qr/done-42/, 'disks are written');
	$do->('cat /sys/block/vda/ro /sys/block/vdc/ro | tr "\n" .; echo "<ro"', qr/0\.1\.<ro/, 'one is read-only');
	cmp_ok cpu_time($pid, 'IO io0'), '>', $slices, 'by its iothread';
	is AnclaTest::slurp(tmpdir() . "/raw $hostile") =~ /^written\n/, 1, 'what the guest wrote is in the file';
	my $workers = grep { $_->{name} eq 'worker' } tasks($pid);
	ended run_ancla('verify', 'devices'), 0, qr/^ok      iothread io-1\.x_y: CPUs: 0-1$/m, "verify is content, with $workers workers about";
	my %off = map { $_->{name} => $_->{cpus} } grep { $_->{name} !~ m{^(?:CPU|IO io|worker)} && $_->{cpus} ne '0' } tasks($pid);
	is_deeply \%off, {}, 'and all other threads are the emulator\'s';
	$vm->send("poweroff -f\n");
	is $vm->wait_exit->{exit}, 0, 'it powers off';
	clean;
};

subtest 'what QEMU is asked of block devices' => sub {
	start_vm(spec('blocks', { disks => [
		{ file => image("one $hostile", '', 1 << 20) }, { file => image('two', '', 1 << 20), readonly => TRUE } ] })) or return;
	my $blocks = qmp(runtime_dir() . '/blocks/qmp.sock', 'query-named-block-nodes', { flat => TRUE })->{return};
	my %of = map { $_->{'node-name'} => $_ } @$blocks;
	is $of{disk0}{drv}, 'raw', 'a raw disk is never probed';
	is $of{disk0}{file}, tmpdir() . "/one $hostile", 'the name is as it was';
	ok !$of{disk0}{ro} && $of{disk1}{ro}, 'read-only where it is asked for';
	stop_vm('blocks');
	# An image that says it is qcow2 with a backing file, given as raw, stays raw.
	my $secret = image('secret', 'secret', 512);
	my $trap = tmpdir() . '/trap';
	run_command('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw', '-b', $secret, $trap);
	start_vm(spec('blocks', { disks => [ { file => $trap } ] })) or return;
	my @files = map { $_->{file} } @{ qmp(runtime_dir() . '/blocks/qmp.sock', 'query-named-block-nodes', { flat => TRUE })->{return} };
	is_deeply [ grep { /secret/ } @files ], [], 'a raw disk that looks like another format opens no other file';
	stop_vm('blocks');
	clean;
};

subtest 'machines' => sub {
	for my $machine (qw(pc microvm)) {
		# Linux on a microvm has no clock to measure the CPU's by, without KVM.
		my $vm = run_linux(linux('machine', 'ancla.do=idle tsc_early_khz=2000000', {
			qemu => { machine => $machine }, disks => [ { file => image('small', '', 2 << 20) } ], nics => [ { type => 'user' } ],
		})) or next;
		my $report = guest_report($vm->out);
		is $report->{'block.vda'}, 2 << 20, "$machine: a disk";
		like $report->{'net.eth0'}, qr/^52:54:00:/, "$machine: a card";
		stop_vm('machine');
		$vm->wait_exit;
	}
	clean;
};

subtest 'serial consoles' => sub {
	my $file = tmpdir() . "/log $hostile";
	my $booted = qr/SeaBIOS/;
	start_vm(spec('serial', { serial => { file => $file } })) or return;
	ok eventually(120, sub { (AnclaTest::peek($file) // '') =~ $booted }), 'a file';
	stop_vm('serial');
	my $before = -s $file;
	start_vm(spec('serial', { serial => { file => $file } })) or return;
	ok eventually(120, sub { -s $file > $before }), 'which grows';
	stop_vm('serial');

	my $result = run_ancla('start', make_spec(linux('serial', 'ancla.do=shell', { serial => 'pty' })));
	ended $result, 0, qr{^ancla: its console is the terminal (/dev/pts/\d+)$}m, 'a pty, and it says which' or return;
	my ($pty) = $result->{err} =~ m{(/dev/pts/\d+)};
	is status_of('serial')->{console}, $pty, 'so does `status`';
	sysopen my $terminal, $pty, Fcntl::O_RDWR() | Fcntl::O_NOCTTY() or return fail "$pty: $!";
	my $raw = POSIX::Termios->new;
	$raw->getattr(fileno $terminal);
	$raw->setlflag(0);
	$raw->setattr(fileno $terminal);
	ok hear($terminal, qr/guest # /), 'the guest is there';
	stop_vm('serial');

	start_vm(spec('serial', { serial => 'socket' })) or return;
	is status_of('serial')->{console}, runtime_dir() . '/serial/serial.sock', 'a socket';
	stop_vm('serial');
	start_vm(spec('serial', { serial => 'none' })) or return;
	is status_of('serial')->{console}, undef, 'none';
	stop_vm('serial');
	clean;
};

subtest 'firmware' => sub {
	my $bios = tmpdir() . "/bios $hostile";
	symlink '/usr/share/seabios/bios-256k.bin', $bios or die;
	my $console = tmpdir() . '/bios.log';
	start_vm(spec('bios', { serial => { file => $console }, boot => { firmware => $bios } })) or return;
	ok eventually(120, sub { (AnclaTest::peek($console) // '') =~ /SeaBIOS/ }), 'a BIOS of one\'s own';
	stop_vm('bios');
	my $code = image("code $hostile", 'x', 256 << 10);
	my $vars = image("vars $hostile", 'y', 64 << 10);
	start_vm(spec('flash', { boot => { firmware => $code, nvram => $vars } })) or return;
	my %of = map { $_->{'node-name'} => $_ } @{ qmp(runtime_dir() . '/flash/qmp.sock', 'query-named-block-nodes', { flat => TRUE })->{return} };
	is_deeply [ map { "$of{$_}{file} $of{$_}{ro}" } 'flash0', 'flash1' ], [ "$code 1", "$vars 0" ], 'UEFI code is read-only, its variables are not';
	stop_vm('flash');
	clean;
};

# Whatever the words are, QEMU has as many as it would have with harmless ones, and no option more.
subtest 'hostile strings' => sub {
	# The guest's command line is a word of its own, and may well begin with a dash.
	my $options = sub {
		my @argv = @{ $_[0]{argv} };
		$argv[ $_ + 1 ] = '' for grep { $argv[$_] eq '-append' } 0 .. $#argv;
		return join ' ', grep { /^-/ } @argv;
	};
	my %harmless;
	my @words = ('-S', '-device', '-monitor stdio', ',if=none', 'x,readonly=off', '{"driver":"file"}', 'json:{}', 'nbd://h/x',
		'fat:rw:/etc', '/dev/fd/0', '@x', '%n%n', "\t", 'ü€', '..', '-', '--', '$HOME', '~', 'a' x 200);
	for my $word (@words) {
		for my $at (
			['disk', sub { disks => [ { file => $_[0] } ] }], ['kernel', sub { boot => { kernel => $_[0] } }],
			['cmdline', sub { boot => { kernel => "$ROOT/build/demo/vmlinuz", cmdline => $_[0] } }],
			['firmware', sub { boot => { firmware => $_[0] } }], ['serial', sub { serial => { file => $_[0] } }],
			['nvram', sub { boot => { firmware => 'x', nvram => $_[0] } }], ['socket', sub { nics => [ { type => 'vhost-user', socket => substr $_[0], 0, 60 } ], 'memory-backing' => { prealloc => TRUE } }],
		) {
			my ($what, $make) = @$at;
			my $path = make_spec(spec('hostile', { $make->($word) }));
			my $result = run_ancla('plan', '--json', $path);
			next if $result->{exit} == 3; # no name for that: it is refused
			my @is = $options->(json($result));
			my @should = $harmless{$what} ||= $options->(json(run_ancla('plan', '--json', make_spec(spec('harmless', { $make->('harmless') })))));
			is "@is", "@should", "$what: $word" if "@is" ne "@should";
		}
	}
	pass @words . ' words in 7 places';
	for my $bad ([ name => 'a,b' ], [ name => '-S' ], [ name => "a\nb" ], [ name => '../x' ]) {
		ended run_ancla('start', do { my $path = make_spec({ %{ spec('named') }, name => 'named' });
			my $spec = json($path); $spec->{ $bad->[0] } = $bad->[1];
			open my $file, '>', $path or die; print $file JSON::PP->new->utf8->encode($spec); close $file; $path }), 3, qr{/$bad->[0]: },
			'a name like ' . JSON::PP->new->allow_nonref->encode($bad->[1]) . ' is refused';
	}
	clean;
};

subtest 'taps and bridges' => sub {
	my $ancla = $ENV{ANCLA} // "$BUILD/ancla";
	my $tap = make_spec(spec('tapped', { nics => [ { type => 'tap', ifname => 'ancla-t0' }, { type => 'bridge', bridge => 'br,0' } ] }));
	my $plain = make_spec(spec('bridged', { nics => [ { type => 'bridge', bridge => 'br,0', ifname => 'x,ifname=y' } ] }));
	my $lost = make_spec(spec('lost', { nics => [ { type => 'tap', ifname => 'ancla-t1' }, { type => 'bridge', bridge => 'nobridge' } ] }));
	# A network of its own, with this test's processes as the only ones in it.
	my $result = run_command('unshare', '-n', 'sh', '-c', <<'	END', 'sh', $ancla, $tap, $plain, $lost);
		ip link add br,0 type bridge && ip link set br,0 up || exit 77
		"$1" start "$2" && ip -o link show up | sed 's/^/A /' && "$1" stop --force tapped
		ip -o link show | sed 's/^/B /'
		"$1" start "$3" && ip -o link show up master br,0 | sed 's/^/C /' && "$1" stop --force bridged
		"$1" start "$4"; echo "D $?"
		ip -o link show | sed 's/^/E /'
	END
	return plan skip_all => "no bridge can be made here: $result->{err}" if ($result->{exit} // 0) == 77;
	like $result->{out}, qr/^A \d+: ancla-t0: .*UP/m, 'a tap is made and up' or diag explain $result;
	like $result->{out}, qr/^A \d+: tap\d+: .*master br,0 /m, 'and one on a bridge';
	unlike $result->{out}, qr/^B .*tap|^B .*ancla-t0/m, 'afterwards they are gone';
	like $result->{out}, qr/^C \d+: x,ifname=y: .*master br,0 /m, 'with any name';
	like $result->{out}, qr/^D 4$/m, 'a bridge that is not there: exit code 4';
	like $result->{err}, qr/cannot attach tap\d+ to the bridge nobridge: No such device; `ip link show type bridge` lists/, 'and the reason';
	unlike $result->{out}, qr/^E .*(?:tap|ancla-t1)/m, 'and no tap is left';
	clean;
};

clean 'nothing is left', $free;
done_testing;
