# The guest of the demo and of the system tests does what demo/init says, under QEMU alone.
use strict;
use warnings;
no warnings 'qw';
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm ();
use Test::More;

my $monitor = tmpdir() . '/qmp.sock';
my $disk = tmpdir() . '/disk.img';
open my $file, '>', $disk or die;
truncate $file, 3 << 20;

# Two nodes; of one the CPUs are there, one or both, and those of the other can be plugged in.
sub boot_cpus {
	my ($cpus, $word, @options) = @_;
	my $boot = demo_boot("ancla.do=$word");
	return spawn_command('qemu-system-x86_64', qw(-nodefaults -no-user-config -display none),
		'-machine', 'q35,usb=off,sata=off,smbus=off,vmport=off,hpet=off',
		qw(-accel tcg,thread=multi -cpu max,vendor=GenuineIntel -m 512),
		'-smp', "$cpus,maxcpus=4,sockets=2,cores=1,threads=2",
		map({ ('-object', "memory-backend-ram,id=m$_,size=256M") } 0, 1),
		qw(-numa node,nodeid=0,cpus=0-1,memdev=m0 -numa node,nodeid=1,cpus=2-3,memdev=m1),
		qw(-numa dist,src=0,dst=1,val=21 -chardev stdio,id=s,signal=off -serial chardev:s),
		'-qmp', "unix:$monitor,server=on,wait=off",
		'-kernel', $boot->{kernel}, '-initrd', $boot->{initrd}, '-append', $boot->{cmdline}, @options);
}

# With one CPU, where a second one makes no difference: with several, QEMU stalls in some boots (see
# AnclaVm, BOOTS).
sub boot { return boot_cpus(1, @_) }

# With two; such a boot is tried again. Nothing if it is not ready.
sub ready {
	my @options = @_;
	my ($guest, $ready) = AnclaVm::boot_until_ready(AnclaVm::BOOTS, sub { boot_cpus(2, @options) },
		sub { $_[0]->wait_for_output(qr/ANCLA-GUEST-READY/) },
		sub { $_[0]->is_there && $_[0]->signal('KILL') && $_[0]->wait_exit });
	return ok($ready, 'ready') ? $guest : undef;
}

sub press_power_button { return qmp($monitor, 'system_powerdown') }

subtest 'idle: the report is right, CPUs can be plugged in, the power button works' => sub {
	my $guest = ready('idle', '-blockdev', "driver=file,node-name=d,filename=$disk",
		qw(-device virtio-blk-pci,drive=d -netdev user,id=n -device),
		'virtio-net-pci,netdev=n,romfile=,mac=52:54:00:00:00:07') or return;
	my $report = guest_report($guest->out);
	my %expected = (
		'boot' => 'first', 'accel' => 'tcg',
		'cpus.online' => '0-1', 'cpus.possible' => '0-3', 'nodes.online' => '0-1',
		'cpu0.package' => 0, 'cpu0.core' => 0, 'cpu0.siblings' => '0-1', 'cpu0.node' => 0,
		'cpu1.package' => 0, 'cpu1.core' => 0, 'cpu1.siblings' => '0-1', 'cpu1.node' => 0,
		'node0.cpus' => '0-1', 'node1.cpus' => '',
		'node0.distances' => '10 21', 'node1.distances' => '21 10',
		'block.vda' => 3 << 20, 'net.eth0' => '52:54:00:00:00:07',
	);
	is $report->{$_}, $expected{$_}, "$_=$expected{$_}" for sort keys %expected;
	for my $node (0, 1) {
		my $kB = $report->{"node$node.memory-kB"};
		ok $kB > 200 * 1024 && $kB <= 256 * 1024, "node$node.memory-kB=$kB";
	}
	like $report->{'kernel.cmdline'}, qr/ancla\.do=idle/, 'command line';
	like " $report->{'cpu.flags'} ", qr/ lm .* hypervisor /, 'CPU flags';
	like " $report->{'acpi.tables'} ", qr/ APIC .* SLIT SRAT /, 'ACPI tables';
	like $report->{'cpu0.l1d.size'}, qr/^\d+K$/, 'size of a cache';
	is $report->{'cpu0.l2.shared'}, '0-1', 'who shares one';

	qmp($monitor, 'device_add', { driver => 'max-x86_64-cpu', 'socket-id' => 1, 'core-id' => 0, 'thread-id' => 0 });
	ok $guest->wait_for_output(qr/ANCLA-GUEST-CPU cpu2 online/), 'a new CPU is brought online';
	press_power_button();
	ended $guest->wait_exit, 0, qr/ANCLA-GUEST-POWER-BUTTON/, 'it powers off';
};

subtest 'spin: touches the memory of every node' => sub {
	my $guest = ready('spin') or return;
	open my $smaps, '<', '/proc/' . $guest->pid . '/smaps' or die;
	my @backends = map { /^Rss:\s+(\d+)/ ? $1 : () } grep { /^Size:\s+262144 kB/ .. /^Rss:/ } <$smaps>;
	is @backends, 2, 'two backends';
	ok $_ > 180 * 1024, "one has $_ kB resident" for @backends;
	press_power_button();
	ended $guest->wait_exit, 0, qr/ANCLA-GUEST-POWER-BUTTON/, 'it powers off';
};

subtest 'hang: the power button does nothing' => sub {
	my $guest = boot('hang');
	ok $guest->wait_for_output(qr/ANCLA-GUEST-READY/), 'ready' or return;
	press_power_button();
	ok !wait_gone($guest->pid, 1), 'it is still there after a second';
	qmp($monitor, 'quit');
	$guest->wait_exit;
};

subtest 'shell: a shell with job control on the console' => sub {
	my $guest = boot('shell', { pty => 1 });
	ok $guest->wait_for_output(qr/guest # /), 'a prompt' or return;
	# It is the command itself that speaks: then it has the terminal, and hears its interrupt.
	$guest->send("sh -c 'echo sum \$((40 + 1)); exec sleep 1000'\r");
	ok $guest->wait_for_output(qr/sum 41/), 'a command runs' or return;
	$guest->send("\cC");
	ok $guest->wait_for_output(qr/sum 41\r.*guest # /s), 'it can be interrupted' or return;
	$guest->send("echo it is \$((6 * 7))\r");
	ok $guest->wait_for_output(qr/it is 42/), 'the next one runs';
	$guest->send("exit\r");
	is $guest->wait_exit->{exit}, 0, 'at its end the guest powers off';
};

subtest 'reboot: once' => sub {
	my $result = boot('reboot')->wait_exit(300);
	is_deeply [$result->{out} =~ /^boot=([^\r]*)/mg], ['first', 'after-reset'], 'then it powers off';
	is $result->{exit}, 0, 'exit code' or diag $result->{out};
};

subtest 'panic: as the kernel does it' => sub {
	ended boot('panic', '-no-reboot')->wait_exit, 0, qr/Kernel panic - not syncing/, 'it panics, and resets';
};

subtest 'poweroff: when there is nothing else to do' => sub {
	ended boot('poweroff')->wait_exit, 0, qr/ANCLA-GUEST-END/, 'it powers off';
};

is_deeply [our_processes()], [], 'no process is left';
done_testing;
