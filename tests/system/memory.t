# Guest memory is made of the pages that the spec asks for, as many as it asks for, where it asks
# for them, locked and unshared if it says so: counted here in the kernel's own files, and `verify`
# finds the same.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/../lib";
use AnclaTest;
use AnclaVm;
use Test::More;

# Not 64 MiB: that much address space has each of glibc's arenas, and anonymous memory has no name.
use constant { MIB => 1 << 20, GIB => 1 << 30, SIZE => 80 << 20 };

my %page_size = (none => 4096, thp => 4096, '2MiB' => 2 * MIB, '1GiB' => GIB);

my $need = 64;
my $total = hugepages_total();
cmp_ok reserve_hugepages($total + $need), '>=', $total + $need, "$need huge pages of 2 MiB can be reserved"
	or BAIL_OUT('these tests need root and 128 MiB in huge pages');
my $free = hugepages_free();
my $gigantic = reserve_hugepages(hugepages_total(undef, 1 << 20) + 1, undef, 1 << 20) > 0
	&& hugepages_free(undef, 1 << 20) > 0;
diag 'no page of 1 GiB can be reserved on this machine (its memory is too small or too fragmented): not tested'
	unless $gigantic;

# What the kernel says of the VM's one region: {bytes, page_size, thp, mapping}.
sub region {
	my ($pid, $spec) = @_;
	my $size = $spec->{memory} =~ /GiB/ ? GIB : SIZE;
	my $name = readlink("/proc/$pid/fd/10") // '';
	# Memory that nobody fills beforehand needs no file, and transparent huge pages can have none.
	if ($name !~ /memfd|huge/) {
		like $spec->{'memory-backing'}{hugepages}, qr/none|thp/, 'anonymous memory of plain pages';
		my @found = grep { $_->{size} == $size } mappings($pid, qr/^(\[anon.*)?$/);
		is @found, 1, 'one anonymous mapping of its size' or return;
		return { bytes => $found[0]{rss}, page_size => 4096, thp => $found[0]{thp}, mapping => $found[0] };
	}
	my ($bytes, $page_size) = guest_file_bytes($pid);
	my @found = mappings($pid, qr/^\Q$name\E$/);
	is @found, 1, 'one mapping of the file' or return;
	is $found[0]{size}, $size, 'all of it is mapped';
	return { bytes => $bytes, page_size => $page_size, mapping => $found[0] };
}

# Whether the anonymous region is in transparent huge pages: most of it at once. One that could not be had at
# once, as free memory was in pieces, the kernel makes of plain ones later, if it was asked for huge ones.
sub all_huge {
	my ($pid, $is) = @_;
	return 1 if $is->{thp} == $is->{mapping}{size};
	return 0 if $is->{thp} < $is->{mapping}{size} / 2;
	note "$is->{thp} of $is->{mapping}{size} bytes in huge pages";
	return eventually(120, sub {
		my ($now) = grep { $_->{start} == $is->{mapping}{start} } mappings($pid, qr/^/);
		return $now->{thp} == $now->{size} });
}

sub status_field {
	my ($pid, $field) = @_;
	return AnclaTest::slurp("/proc/$pid/status") =~ /^$field:\s*(\d+) kB/m ? $1 * 1024 : undef;
}

# The policy as numa_maps says it, on this machine's node 0.
sub policy_is_right {
	my ($policy, $is) = @_;
	return $is eq 'default' if $policy eq 'none';
	# Without a policy of its own, the mapping has that of the process.
	return $is eq 'bind:0' if $policy eq 'restrictive';
	return $is =~ /^prefer(?:=relative| \(many\))?:0$/ if $policy eq 'preferred';
	return $is eq { strict => 'bind:0', interleave => 'interleave:0' }->{$policy};
}

# The number of pages that verify says it has counted.
sub verified_pages {
	my ($name, $node) = @_;
	my $result = run_ancla('verify', '--json', $name);
	is $result->{exit}, 0, 'verify finds nothing' or diag $result->{out}, $result->{err};
	my $who = defined $node ? "guest node $node" : 'memory';
	my ($pages) = grep { $_->{what} eq "$who: pages" } @{ json($result)->{checks} };
	my ($count, $size, $unit) = ($pages->{actual} // '') =~ /^(\d+) pages of (\d+)(KiB|MiB|GiB)/ or return -1;
	return $count * $size * { KiB => 1024, MiB => MIB, GiB => GIB }->{$unit};
}

my ($runs, @qemus) = (0, qemus());

sub try_one {
	my ($pages, $prealloc, $policy) = @_;
	my $run = $runs++;
	my $binary = $qemus[ $run % 2 ];
	my $locked = $prealloc ne 'false' && $run / 2 % 2;
	my $alone = $run / 4 % 2;
	my %backing = (
		hugepages => $pages,
		prealloc => { true => TRUE, false => FALSE, qemu => 'qemu' }->{$prealloc},
		$policy eq 'none' ? () : ('host-nodes' => '0', policy => $policy),
		$locked ? (locked => TRUE) : (),
		$alone ? (nosharepages => TRUE) : (),
	);
	my $what = join ' ', $pages, $prealloc, $policy, $locked ? 'locked' : (), $alone ? 'nosharepages' : (), $binary->[0];
	my $size = $pages eq '1GiB' ? GIB : SIZE;
	my $huge_kB = $page_size{$pages} / 1024;
	my $before = hugepages_free(undef, $huge_kB) if $huge_kB > 4;
	my $spec = spec('memory', {
		memory => $pages eq '1GiB' ? '1GiB' : '80MiB',
		'memory-backing' => \%backing,
		qemu => { binary => $binary->[1] },
	});
	subtest $what => sub {
		start_vm($spec) or return;
		my $pid = qemu_of('memory');
		my $is = region($pid, $spec) or return stop_vm('memory');
		my $mapping = $is->{mapping};
		my $pages_now = hugepages_free(undef, $huge_kB) if $huge_kB > 4;
		is $is->{page_size}, $page_size{$pages}, 'pages of the right size';
		if ($prealloc eq 'false') {
			cmp_ok $is->{bytes}, '<', $size, 'pages come as they are used' if $pages ne '1GiB';
		} else {
			is $is->{bytes}, $size, 'all pages are there';
		}
		# A guest that gets its pages as it goes may have got some more meanwhile.
		cmp_ok $before - $pages_now, $prealloc eq 'false' ? '>=' : '==', $is->{bytes} / $page_size{$pages},
			'they are from the pool' if defined $before;
		ok all_huge($pid, $is), 'in transparent huge pages' if $pages eq 'thp' && $prealloc ne 'false';
		ok policy_is_right($policy, $mapping->{policy}), "the policy is $mapping->{policy}";
		is_deeply [ keys %{ $mapping->{pages} } ], [0], 'all on node 0' if %{ $mapping->{pages} };
		ok $mapping->{flags}{dd}, 'not in core dumps';
		ok !$mapping->{flags}{mg}, 'not mergeable' if $alone;
		if ($locked) {
			ok $mapping->{flags}{lo}, 'locked' if $huge_kB == 4;
			my $own = status_field($pid, 'VmLck');
			cmp_ok $own, '>', $huge_kB == 4 ? $size : 0, 'the process is locked';
			cmp_ok $own, '<', ($huge_kB == 4 ? $size : 0) + 640 * MIB, 'and bounded: no gigabyte of translated code';
		} else {
			is status_field($pid, 'VmLck'), 0, 'nothing is locked';
		}
		my $counted = verified_pages('memory');
		cmp_ok $counted, $prealloc eq 'false' ? '>=' : '==', $is->{bytes}, 'verify has counted them';
		stop_vm('memory');
		is hugepages_free(undef, $huge_kB), $before, 'the pages are back' if defined $before;
	};
}

for my $pages ('none', '2MiB', $gigantic ? '1GiB' : (), 'thp') {
	for my $prealloc (qw(true false qemu)) {
		for my $policy (qw(none strict preferred interleave restrictive)) {
			try_one($pages, $prealloc, $policy);
		}
	}
}

subtest 'guest nodes, each with its own pages' => sub {
	start_vm(spec('nodes', {
		vcpus => 2, memory => '96MiB', 'memory-backing' => { prealloc => TRUE },
		numa => { nodes => [
			{ vcpus => '0', memory => '64MiB', hugepages => '2MiB', 'host-nodes' => '0', policy => 'strict' },
			{ vcpus => '1', memory => '32MiB', hugepages => 'none' },
		] },
	})) or return;
	my $pid = qemu_of('nodes');
	is_deeply [ guest_file_bytes($pid, 0) ], [ 64 * MIB, 2 * MIB ], 'guest node 0 in 2 MiB pages';
	is_deeply [ guest_file_bytes($pid, 1) ], [ 32 * MIB, 4096 ], 'guest node 1 in plain ones';
	is $free - hugepages_free(), 32, '32 pages are from the pool';
	is verified_pages('nodes', $_), (64 * MIB, 32 * MIB)[$_], "verify counts guest node $_" for 0, 1;
	stop_vm('nodes');
};

# Takes a page, at 24 MiB, of the guest node's memory from behind QEMU's back: fallocate(2), with
# FALLOC_FL_PUNCH_HOLE and FALLOC_FL_KEEP_SIZE.
sub take_page {
	my ($pid, $node, $size) = @_;
	open my $file, '+<', sprintf '/proc/%d/fd/%d', $pid, 10 + $node or die "guest node $node: $!";
	return syscall(285, fileno $file, 3, 24 * MIB, $size) == 0;
}

subtest 'pages that are lost while it runs' => sub {
	start_vm(spec('lost', {
		memory => '96MiB', 'memory-backing' => { prealloc => TRUE },
		numa => { nodes => [
			{ vcpus => '0', memory => '32MiB', 'host-nodes' => '0' },
			{ memory => '32MiB', 'host-nodes' => '0' },
			{ memory => '32MiB', hugepages => '2MiB', 'host-nodes' => '0' },
		] },
	})) or return;
	my $pid = qemu_of('lost');
	ok exists qmp(runtime_dir() . '/lost/qmp.sock', 'stop')->{return}, 'its guest touches none';
	ended run_ancla('verify', 'lost'), 0, qr/./, 'all is well';
	ok take_page($pid, 1, 4096) && take_page($pid, 2, 2 * MIB), 'a page of each kind is gone' or diag $!;
	for ('is told', 'and not made by asking') {
		my $result = run_ancla('verify', '--json', 'lost');
		is $result->{exit}, 5, $_ or diag $result->{err};
		is_deeply [ map { "$_->{what}: $_->{actual}" } grep { !$_->{ok} } @{ json($result)->{checks} } ],
			[ 'guest node 1: pages: 8191 pages of 4KiB, node 0: 8191', 'guest node 2: pages: 15 pages of 2MiB, node 0: 15' ], 'by count';
	}
	stop_vm('lost');
};

subtest 'huge pages that are preferred, and not there' => sub {
	my $pages = hugepages_free() + 8;
	my $result = run_ancla('start', make_spec(spec('prefer', {
		memory => 2 * $pages . 'MiB', 'memory-backing' => { hugepages => '2MiB', prealloc => FALSE },
		strictness => { hugepages => 'prefer' },
	})));
	ended $result, 0, qr/warning: .*needs $pages huge pages of 2MiB.*plain pages are used instead/, 'plain ones, and it says so' or return;
	unlike readlink('/proc/' . qemu_of('prefer') . '/fd/10') // '', qr/huge/, 'they are plain';
	ended run_ancla('verify', 'prefer'), 0, qr/ok      memory: pages/, 'verify knows';
	stop_vm('prefer');
};

my $mount = tmpdir() . '/huge';
subtest 'a hugetlbfs of ours' => sub {
	mkdir $mount;
	is run_command('mount', '-t', 'hugetlbfs', '-o', 'pagesize=2M', 'none', $mount)->{exit}, 0, 'mounted' or return;
	for my $prealloc (TRUE, FALSE, 'qemu') {
		start_vm(spec('path', { 'memory-backing' => { hugepages => '2MiB', path => $mount, prealloc => $prealloc } }))
			or next;
		my $pid = qemu_of('path');
		like readlink("/proc/$pid/fd/10"), qr/^\Q$mount\E\//, 'the file is there';
		is_deeply [ glob "$mount/*" ], [], 'without a name';
		my ($bytes) = guest_file_bytes($pid);
		is $bytes, 64 * MIB, 'all pages are there' if $prealloc;
		cmp_ok $free - hugepages_free(), '>=', $bytes / (2 * MIB), 'from the pool';
		cmp_ok verified_pages('path'), '>=', $bytes, 'verify has counted them';
		stop_vm('path');
	}
	ended run_ancla('start', make_spec(spec('path', {
		memory => '1GiB', 'memory-backing' => { hugepages => '1GiB', path => $mount },
	}))), 4, qr/hugetlbfs|1GiB/, 'one of another page size is refused';
	ended run_ancla('start', make_spec(spec('path', {
		'memory-backing' => { hugepages => '2MiB', path => tmpdir() },
	}))), 4, qr/not on a hugetlbfs/, 'what is none is refused';
	is run_command('umount', $mount)->{exit}, 0, 'unmounted, so nothing is left in it';
};

END { local $?; system "umount -l '$mount' 2>/dev/null" if defined $mount && -d $mount }

clean 'nothing is left, and all pages are free', $free;
done_testing;
