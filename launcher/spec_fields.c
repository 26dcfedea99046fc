#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "spec_fields.h"
#include "util.h"

#define MEMBER(type, member) .offset = offsetof(type, member), .size = sizeof(((type *)0)->member)
#define SPEC(member) MEMBER(struct spec, member)
#define ROW(type_, name_, help_, ...)                                                              \
	{                                                                                          \
		.name = name_, .help = help_, .type = type_, __VA_ARGS__                           \
	}
#define STRING(...) ROW(FIELD_STRING, __VA_ARGS__)
#define PATH(...) ROW(FIELD_PATH, __VA_ARGS__)
#define PROGRAM(...) ROW(FIELD_PROGRAM, __VA_ARGS__)
#define SIZE(...) ROW(FIELD_SIZE, __VA_ARGS__)
#define PAGE_SIZE(...) ROW(FIELD_PAGE_SIZE, __VA_ARGS__)
#define INTEGER(...) ROW(FIELD_INTEGER, __VA_ARGS__)
#define BOOL(...) ROW(FIELD_BOOL, __VA_ARGS__, .fallback = "false")
#define ENUM(...) ROW(FIELD_ENUM, __VA_ARGS__)
#define CPUS(...) ROW(FIELD_CPUS, __VA_ARGS__)
#define PAGES(...) ROW(FIELD_PAGES, __VA_ARGS__, .values = page_values)
#define DISTANCES(...) ROW(FIELD_DISTANCES, __VA_ARGS__)
#define NAMES(...) ROW(FIELD_NAMES, __VA_ARGS__)
#define OBJECT(...) ROW(FIELD_OBJECT, __VA_ARGS__)
#define LIST(...) ROW(FIELD_LIST, __VA_ARGS__)
#define MAP(...) ROW(FIELD_MAP, __VA_ARGS__)

#define COUNT(type, member) .count = offsetof(type, member)
#define TABLE(rows, type)                                                                          \
	{                                                                                          \
		rows, ARRAY_SIZE(rows), sizeof(type)                                               \
	}
#define END                                                                                        \
	{                                                                                          \
		.name = NULL                                                                       \
	}
#define VALUE(name_, value_, ...)                                                                  \
	{                                                                                          \
		.name = name_, .value = value_, ##__VA_ARGS__                                      \
	}
#define MIB ((int64_t)1024 * 1024)

/* No x86-64 has physical addresses beyond 52 bits. */
#define MEMORY_MAX ((int64_t)1 << 52)

/* QEMU's largest machine. */
#define VCPUS_MAX 4096

/* One name that QEMU, its option parser and file systems take as it is. */
#define NAME_PATTERN "^[A-Za-z0-9][A-Za-z0-9._-]*$"
#define NAME_WHAT "letters, digits, \".\", \"_\" and \"-\", starting with a letter or digit"
#define ID_CHARS "[A-Za-z][A-Za-z0-9._-]*"
#define ID_WHAT "letters, digits, \".\", \"_\" and \"-\", starting with a letter"
#define INTERFACE_PATTERN "^[^/ :%]+$"
#define INTERFACE_WHAT "an interface name without \"/\", \":\", \"%\" and blanks"
#define INTERFACE_MAX 15 /* IFNAMSIZ less its zero */
#define CMDLINE_MAX 2047 /* COMMAND_LINE_SIZE of x86 less its zero */

static char *lower_case(const char *text)
{
	char *lower = xstrdup(text);

	for (char *p = lower; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	return lower;
}

static char *full_pci_address(const char *text)
{
	cleanup_free char *lower = lower_case(text);

	return xasprintf("%s%s", strlen(lower) < strlen("0000:3b:00.0") ? "0000:" : "", lower);
}

static char *without_blanks(const char *text)
{
	char *dense = xcalloc(strlen(text) + 1, 1);

	for (char *p = dense; *text; text++)
		if (*text != ' ')
			*p++ = *text;
	return dense;
}

static const struct field_value page_values[] = {
	VALUE("none", PAGES_PLAIN),
	VALUE("thp", PAGES_THP),
	END,
};

static const struct field_value reserve_values[] = {
	VALUE("existing", false),
	VALUE("grow", true),
	END,
};

static const struct field_value prealloc_values[] = {
	VALUE("true", PREALLOC_TRUE, .literal = true),
	VALUE("false", PREALLOC_FALSE, .literal = true),
	VALUE("qemu", PREALLOC_QEMU),
	END,
};

const struct field_value mem_policy_values[] = {
	VALUE("strict", MEM_POLICY_STRICT),
	VALUE("preferred", MEM_POLICY_PREFERRED),
	VALUE("interleave", MEM_POLICY_INTERLEAVE),
	VALUE("restrictive", MEM_POLICY_RESTRICTIVE),
	END,
};

static const struct field_value cpu_mode_values[] = {
	VALUE("host-passthrough", CPU_MODE_HOST_PASSTHROUGH),
	VALUE("host-model", CPU_MODE_HOST_MODEL),
	VALUE("custom", CPU_MODE_CUSTOM),
	VALUE("maximum", CPU_MODE_MAXIMUM),
	END,
};

static const struct field_value cpu_cache_values[] = {
	VALUE("passthrough", CPU_CACHE_PASSTHROUGH),
	VALUE("emulate", CPU_CACHE_EMULATE),
	VALUE("disable", CPU_CACHE_DISABLE),
	END,
};

static const struct field_value feature_values[] = {
	VALUE("require", FEATURE_REQUIRE),
	VALUE("disable", FEATURE_DISABLE),
	END,
};

static const struct field_value distances_values[] = {
	VALUE("host", DISTANCES_HOST),
	END,
};

static const struct field_value placement_values[] = {
	VALUE("static", PLACEMENT_STATIC),
	VALUE("auto", PLACEMENT_AUTO),
	END,
};

static const struct field_value cpu_policy_values[] = {
	VALUE("shared", CPU_POLICY_SHARED),
	VALUE("dedicated", CPU_POLICY_DEDICATED),
	END,
};

static const struct field_value smt_values[] = {
	VALUE("prefer", SMT_PREFER),
	VALUE("isolate", SMT_ISOLATE),
	VALUE("require", SMT_REQUIRE),
	END,
};

static const struct field_value emulator_values[] = {
	VALUE("share", EMULATOR_SHARE),
	VALUE("isolate", EMULATOR_ISOLATE),
	END,
};

const struct field_value scheduler_values[] = {
	VALUE("other", SCHED_OF_OTHER), VALUE("batch", SCHED_OF_BATCH),
	VALUE("idle", SCHED_OF_IDLE),   VALUE("fifo", SCHED_OF_FIFO),
	VALUE("rr", SCHED_OF_RR),       END,
};

static const struct field_value isolation_values[] = {
	VALUE("none", ISOLATION_NONE),
	VALUE("partition", ISOLATION_PARTITION),
	END,
};

static const struct field_value disk_type_values[] = {
	VALUE("file", DISK_TYPE_FILE),
	VALUE("block", DISK_TYPE_BLOCK),
	END,
};

static const struct field_value disk_format_values[] = {
	VALUE("raw", DISK_FORMAT_RAW),
	VALUE("qcow2", DISK_FORMAT_QCOW2),
	END,
};

static const struct field_value nic_values[] = {
	VALUE("user", NIC_USER),
	VALUE("tap", NIC_TAP),
	VALUE("bridge", NIC_BRIDGE),
	VALUE("vhost-user", NIC_VHOST_USER),
	END,
};

static const struct field_value serial_values[] = {
	VALUE("none", SERIAL_NONE),
	VALUE("stdio", SERIAL_STDIO),
	VALUE("pty", SERIAL_PTY),
	VALUE("socket", SERIAL_SOCKET),
	{ .name = "file", .instead = "{\"file\": \"PATH\"}" },
	END,
};

static const struct field_value action_values[] = {
	VALUE("destroy", ACTION_DESTROY),
	VALUE("restart", ACTION_RESTART),
	VALUE("preserve", ACTION_PRESERVE),
	VALUE("dump", ACTION_DUMP),
	END,
};

static const struct field_value strictness_values[] = {
	VALUE("require", STRICTNESS_REQUIRE),
	VALUE("prefer", STRICTNESS_PREFER),
	END,
};

static const struct field_value machine_values[] = {
	VALUE("q35", MACHINE_Q35),
	VALUE("pc", MACHINE_PC),
	VALUE("microvm", MACHINE_MICROVM),
	END,
};

const struct field_value accel_values[] = {
	VALUE("kvm", ACCEL_KVM),
	VALUE("tcg", ACCEL_TCG),
	END,
};

static const struct field pages_rows[] = {
	PAGE_SIZE("size", "size of one huge page", .required = true, MEMBER(struct pages, size)),
	ENUM("reserve", "take pages that the host has reserved, or reserve what is missing",
	     .fallback = "existing", MEMBER(struct pages, grow), .values = reserve_values),
};
const struct field_table pages_table = TABLE(pages_rows, struct pages);

static const struct field backing_rows[] = {
	PAGES("hugepages", "pages that back guest memory: none, thp, or a size of huge pages",
	      .fallback = "none", SPEC(backing.pages)),
	BOOL("locked", "no page of QEMU is ever swapped out", SPEC(backing.locked)),
	BOOL("nosharepages", "keep guest memory out of kernel samepage merging",
	     SPEC(backing.nosharepages)),
	ENUM("prealloc", "fill guest memory before the guest starts; \"qemu\": by QEMU itself",
	     .absent = "true with huge pages or locked", SPEC(backing.prealloc),
	     .values = prealloc_values),
	PATH("path", "mounted hugetlbfs to take huge pages from, instead of memfd",
	     SPEC(backing.path)),
	CPUS("host-nodes", "host nodes of the memory, when there are no guest nodes",
	     SPEC(backing.host_nodes)),
	ENUM("policy", "memory policy over host-nodes, when there are no guest nodes",
	     .absent = "strict with host-nodes", SPEC(backing.policy), .values = mem_policy_values),
};
static const struct field_table backing_table = TABLE(backing_rows, struct spec);

#define TOPOLOGY_ROW(what, text)                                                                   \
	INTEGER(#what, text, .fallback = "1", SPEC(cpu.what), .min = 1, .max = VCPUS_MAX)
static const struct field topology_rows[] = {
	TOPOLOGY_ROW(sockets, "sockets; the product of all is max-vcpus"),
	TOPOLOGY_ROW(dies, "dies in a socket"),
	TOPOLOGY_ROW(cores, "cores in a die"),
	TOPOLOGY_ROW(threads, "threads in a core"),
};
static const struct field_table topology_table = TABLE(topology_rows, struct spec);

static const struct field feature_rows[] = {
	STRING("feature", "QEMU's name of a CPU feature", MEMBER(struct spec_feature, name),
	       .longest = 63, .pattern = "^[a-z0-9][a-z0-9._-]*$",
	       .what = "a CPU feature, as \"pdpe1gb\" or \"tsc-deadline\""),
	ENUM("policy", "require or disable", MEMBER(struct spec_feature, policy),
	     .values = feature_values),
};
static const struct field_table feature_table = TABLE(feature_rows, struct spec_feature);

static const struct field cpu_rows[] = {
	ENUM("mode", "where the guest's CPU comes from, by libvirt's names",
	     .absent = "host-passthrough with kvm, maximum with tcg", SPEC(cpu.mode),
	     .values = cpu_mode_values),
	STRING("model", "QEMU's name of the CPU model, with mode custom", SPEC(cpu.model),
	       .longest = 63, .pattern = "^[A-Za-z0-9._-]+$",
	       .what = "a CPU model, as \"Broadwell\" or \"EPYC-v4\""),
	ENUM("cache", "the host's caches, QEMU's, or none; passthrough with host-passthrough only",
	     .absent = "QEMU's", SPEC(cpu.cache), .values = cpu_cache_values),
	OBJECT("topology", "how the guest sees its vCPUs",
	       .absent = "what placement finds, or one socket", .table = &topology_table,
	       .given = offsetof(struct spec, cpu.topology_given)),
	MAP("features", "CPU features that must be there, or must not; enforced",
	    SPEC(cpu.features), COUNT(struct spec, cpu.n_features), .max = 512,
	    .table = &feature_table),
};
static const struct field_table cpu_table = TABLE(cpu_rows, struct spec);

static const struct field node_rows[] = {
	CPUS("vcpus", "vCPUs of the guest node; what no node names goes to guest node 0",
	     .fallback = "", MEMBER(struct spec_node, vcpus)),
	SIZE("memory", "memory of the guest node", .required = true,
	     MEMBER(struct spec_node, memory), .min = MIB, .max = MEMORY_MAX),
	PAGES("hugepages", "pages that back the guest node", .absent = "memory-backing.hugepages",
	      MEMBER(struct spec_node, pages)),
	CPUS("host-nodes", "host nodes of the guest node's memory",
	     MEMBER(struct spec_node, host_nodes)),
	ENUM("policy", "memory policy over host-nodes", .absent = "strict with host-nodes",
	     MEMBER(struct spec_node, policy), .values = mem_policy_values),
	BOOL("shared", "other processes may map the memory (vhost-user)",
	     MEMBER(struct spec_node, shared)),
};
static const struct field_table node_table = TABLE(node_rows, struct spec_node);

static const struct field numa_rows[] = {
	LIST("nodes", "the guest's NUMA nodes", .required = true, SPEC(numa.nodes),
	     COUNT(struct spec, numa.n_nodes), .min = 1, .max = 128,
	     /* QEMU's MAX_NODES */ .table = &node_table),
	DISTANCES("distances", "distances between guest nodes: the host's, or a matrix by rows",
	          .absent = "the host's with placement auto, else 10 and 20", SPEC(numa.distances),
	          .min = 10, .max = 255, .values = distances_values),
};
static const struct field_table numa_table = TABLE(numa_rows, struct spec);

static const struct field placement_rows[] = {
	ENUM("mode", "static: as pinned; auto: fills in what is not pinned",
	     .absent = "static if anything is pinned, else auto", SPEC(placement.mode),
	     .values = placement_values),
	ENUM("cpu-policy", "dedicated CPUs are given to nobody else",
	     .absent = "dedicated with auto or isolation partition, else shared",
	     SPEC(placement.cpu_policy), .values = cpu_policy_values),
	ENUM(
	    "smt",
	    "isolate leaves siblings idle, prefer uses them where they fit, require takes pairs of "
	    "siblings only, and shows them to the guest as threads",
	    .absent = "prefer", SPEC(placement.smt), .values = smt_values),
	ENUM("emulator", "emulator threads apart from the vCPUs, or with them",
	     .absent = "isolate with dedicated CPUs, if one is left", SPEC(placement.emulator),
	     .values = emulator_values),
	INTEGER("reserve", "cores kept for the host: automatic vCPUs stay off them",
	        .absent = "1, where there is another", SPEC(placement.reserve), .unset = SPEC_UNSET,
	        .min = 0, .max = VCPUS_MAX),
};
static const struct field_table placement_table = TABLE(placement_rows, struct spec);

static const struct field vcpupin_rows[] = {
	INTEGER("vcpu", "number of a vCPU", MEMBER(struct spec_vcpupin, vcpu), .min = 0,
	        .max = VCPUS_MAX - 1),
	CPUS("cpus", "host CPUs", MEMBER(struct spec_vcpupin, cpus)),
};
static const struct field_table vcpupin_table = TABLE(vcpupin_rows, struct spec_vcpupin);

static const struct field iothreadpin_rows[] = {
	STRING("iothread", "name of an iothread", MEMBER(struct spec_iothreadpin, iothread),
	       .longest = NAME_LONGEST, .pattern = "^" ID_CHARS "$", .what = ID_WHAT),
	CPUS("cpus", "host CPUs", MEMBER(struct spec_iothreadpin, cpus)),
};
static const struct field_table iothreadpin_table =
    TABLE(iothreadpin_rows, struct spec_iothreadpin);

#define SCHED_ROWS(type, member)                                                                   \
	ENUM("scheduler", "Linux's scheduling policy", .required = true,                           \
	     MEMBER(type, member.scheduler), .values = scheduler_values),                          \
	    INTEGER("priority", "1 to 99, with fifo and rr only", MEMBER(type, member.priority),   \
	            .min = 1, .max = 99)
static const struct field vcpusched_rows[] = {
	CPUS("vcpus", "vCPUs that it is for", .required = true,
	     MEMBER(struct spec_vcpusched, vcpus)),
	SCHED_ROWS(struct spec_vcpusched, sched),
};
static const struct field_table vcpusched_table = TABLE(vcpusched_rows, struct spec_vcpusched);

static const struct field iothreadsched_rows[] = {
	STRING("iothreads", "iothreads that it is for, separated by commas", .required = true,
	       MEMBER(struct spec_iothreadsched, iothreads),
	       .pattern = "^" ID_CHARS "( *, *" ID_CHARS ")*$",
	       .what = "names of iothreads separated by commas, as \"io0,io1\"",
	       .normalise = without_blanks),
	SCHED_ROWS(struct spec_iothreadsched, sched),
};
static const struct field_table iothreadsched_table =
    TABLE(iothreadsched_rows, struct spec_iothreadsched);

static const struct field emulatorsched_rows[] = { SCHED_ROWS(struct spec, cputune.emulatorsched) };
static const struct field_table emulatorsched_table = TABLE(emulatorsched_rows, struct spec);

static const struct field cputune_rows[] = {
	MAP("vcpupin", "host CPUs of each vCPU",
	    .absent = "static: the allowed CPUs less other pins", SPEC(cputune.vcpupin),
	    COUNT(struct spec, cputune.n_vcpupin), .max = VCPUS_MAX, .table = &vcpupin_table),
	CPUS("emulatorpin", "host CPUs of QEMU's other threads",
	     .absent = "static: those kept for the host, else the allowed ones, less other pins",
	     SPEC(cputune.emulatorpin)),
	MAP("iothreadpin", "host CPUs of each iothread", .absent = "the emulator's CPUs",
	    SPEC(cputune.iothreadpin), COUNT(struct spec, cputune.n_iothreadpin), .max = 1024,
	    .table = &iothreadpin_table),
	LIST("vcpusched", "scheduling of vCPUs", SPEC(cputune.vcpusched),
	     COUNT(struct spec, cputune.n_vcpusched), .max = VCPUS_MAX, .table = &vcpusched_table),
	LIST("iothreadsched", "scheduling of iothreads", SPEC(cputune.iothreadsched),
	     COUNT(struct spec, cputune.n_iothreadsched), .max = 1024,
	     .table = &iothreadsched_table),
	OBJECT("emulatorsched", "scheduling of the emulator threads",
	       .table = &emulatorsched_table),
	INTEGER("shares", "cgroup v1 CPU shares, or the cgroup v2 weight that they mean",
	        .absent = "the host's", SPEC(cputune.shares), .unset = SPEC_UNSET, .min = 2,
	        .max = 262144),
	STRING("quota", "CPU time in percent of one CPU", .absent = "no limit", SPEC(cputune.quota),
	       .longest = 7, .pattern = "^[1-9][0-9]*%$",
	       .what = "percent of one CPU, as \"400%\""),
};
static const struct field_table cputune_table = TABLE(cputune_rows, struct spec);

static const struct field disk_rows[] = {
	PATH("file", "image file or block device", .required = true,
	     MEMBER(struct spec_disk, file)),
	ENUM("type", "a regular file or a block device of the host", .fallback = "file",
	     MEMBER(struct spec_disk, type), .values = disk_type_values),
	ENUM("format", "format of the image; never guessed", .fallback = "raw",
	     MEMBER(struct spec_disk, format), .values = disk_format_values),
	BOOL("readonly", "the guest cannot write it", MEMBER(struct spec_disk, readonly)),
	STRING("iothread", "iothread that serves the disk", .absent = "QEMU's main loop",
	       MEMBER(struct spec_disk, iothread), .longest = NAME_LONGEST,
	       .pattern = "^" ID_CHARS "$", .what = ID_WHAT),
};
static const struct field_table disk_table = TABLE(disk_rows, struct spec_disk);

static const struct field nic_rows[] = {
	ENUM("type", "what is behind the virtio network card", .required = true,
	     MEMBER(struct spec_nic, type), .values = nic_values),
	STRING("mac", "hardware address", .absent = "made from the VM's name",
	       MEMBER(struct spec_nic, mac), .longest = 17,
	       .pattern = "^([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}$",
	       .what = "a hardware address, as \"52:54:00:12:34:56\"", .normalise = lower_case),
	STRING("ifname", "tap: the interface; bridge: a name for the tap",
	       MEMBER(struct spec_nic, ifname), .longest = INTERFACE_MAX,
	       .pattern = INTERFACE_PATTERN, .what = INTERFACE_WHAT),
	STRING("bridge", "bridge: the bridge interface", MEMBER(struct spec_nic, bridge),
	       .longest = INTERFACE_MAX, .pattern = INTERFACE_PATTERN, .what = INTERFACE_WHAT),
	/* 107: sun_path less its zero */
	PATH("socket", "vhost-user: socket of the backend", MEMBER(struct spec_nic, socket),
	     .longest = 107),
	BOOL("vhost", "tap, bridge: packets are moved by the kernel (vhost-net)",
	     MEMBER(struct spec_nic, vhost)),
};
static const struct field_table nic_table = TABLE(nic_rows, struct spec_nic);

static const struct field hostdev_rows[] = {
	STRING("pci", "PCI address of a host device bound to vfio-pci", .required = true,
	       MEMBER(struct spec_hostdev, pci), .longest = 12,
	       .pattern = "^([0-9A-Fa-f]{4}:)?[0-9A-Fa-f]{2}:[01][0-9A-Fa-f]\\.[0-7]$",
	       .what = "a PCI address, as \"0000:3b:00.0\"", .normalise = full_pci_address),
};
static const struct field_table hostdev_table = TABLE(hostdev_rows, struct spec_hostdev);

static const struct field serial_rows[] = {
	PATH("file", "file that takes what the guest writes", .required = true, SPEC(serial.path)),
};
static const struct field_table serial_table = TABLE(serial_rows, struct spec);

static const struct field boot_rows[] = {
	PATH("kernel", "kernel to boot directly", .absent = "the firmware boots a disk",
	     SPEC(boot.kernel)),
	PATH("initrd", "initial file system of the kernel", SPEC(boot.initrd)),
	STRING("cmdline", "command line of the kernel", SPEC(boot.cmdline), .longest = CMDLINE_MAX,
	       .what = "printable text on one line"),
	PATH("firmware", "image of the machine's BIOS or UEFI", .absent = "QEMU's",
	     SPEC(boot.firmware)),
	PATH("nvram", "variable store of the firmware", SPEC(boot.nvram)),
};
static const struct field_table boot_table = TABLE(boot_rows, struct spec);

static const struct field strictness_rows[] = {
	ENUM("hugepages", "prefer: may fall back to smaller pages, and says so",
	     .fallback = "require", SPEC(strictness.hugepages), .values = strictness_values),
};
static const struct field_table strictness_table = TABLE(strictness_rows, struct spec);

static const struct field qemu_rows[] = {
	PROGRAM("binary", "a name to look up in PATH, or a path", .fallback = "qemu-system-x86_64",
	        SPEC(qemu.binary)),
	ENUM("machine", "QEMU's machine", .fallback = "q35", SPEC(qemu.machine),
	     .values = machine_values),
	ENUM("accel", "accelerator", .absent = "kvm where it works, else tcg (and says so)",
	     SPEC(qemu.accel), .values = accel_values),
	STRING("user", "user that QEMU runs as", .absent = "the launcher's", SPEC(qemu.user),
	       .longest = 32, .pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$",
	       .what = "a user name or number"),
	NAMES("args", "more words for QEMU's command line, honoured only with --allow-args",
	      SPEC(qemu.args), COUNT(struct spec, qemu.n_args), .max = 256,
	      .what = "printable text on one line"),
};
static const struct field_table qemu_table = TABLE(qemu_rows, struct spec);

static const struct field spec_rows[] = {
	STRING("name", "name of the VM, unique in its runtime directory", .required = true,
	       SPEC(name), .longest = NAME_LONGEST, .pattern = NAME_PATTERN, .what = NAME_WHAT),
	INTEGER("vcpus", "vCPUs at the start", .fallback = "1", SPEC(vcpus), .min = 1,
	        .max = VCPUS_MAX),
	INTEGER("max-vcpus", "vCPUs that there can ever be; topology and guest nodes cover them",
	        .absent = "vcpus", SPEC(max_vcpus), .min = 1, .max = VCPUS_MAX),
	SIZE("memory", "guest memory",
	     .absent = "the sum of the guest nodes; required without them", SPEC(memory),
	     .min = MIB, .max = MEMORY_MAX),
	OBJECT("memory-backing", "what guest memory is made of", .table = &backing_table),
	OBJECT("cpu", "the CPU that the guest sees", .table = &cpu_table),
	OBJECT("numa", "the NUMA that the guest sees",
	       .absent = "none with placement static; with auto, what fits", .table = &numa_table),
	OBJECT("placement", "how CPUs and nodes of the host are chosen", .table = &placement_table),
	OBJECT("cputune", "pins and scheduling, by libvirt's names", .table = &cputune_table),
	ENUM("isolation", "partition: an isolated cgroup v2 cpuset while the VM lives",
	     .fallback = "none", SPEC(isolation), .values = isolation_values),
	NAMES("iothreads", "names of QEMU's iothreads", SPEC(iothreads),
	      COUNT(struct spec, n_iothreads), .max = 1024, .longest = NAME_LONGEST,
	      .pattern = "^" ID_CHARS "$", .what = ID_WHAT),
	LIST("disks", "virtio disks, the first is booted from", SPEC(disks),
	     COUNT(struct spec, n_disks), .max = 256, .table = &disk_table),
	LIST("nics", "virtio network cards", SPEC(nics), COUNT(struct spec, n_nics), .max = 256,
	     .table = &nic_table),
	LIST("hostdevs", "devices of the host, given to the guest by VFIO", SPEC(hostdevs),
	     COUNT(struct spec, n_hostdevs), .max = 256, .table = &hostdev_table),
	ENUM("serial", "the guest's serial console; stdio under `ancla start` becomes a socket",
	     .fallback = "none", SPEC(serial.type), .values = serial_values, .table = &serial_table,
	     .table_value = SERIAL_FILE),
	OBJECT("boot", "what is booted", .absent = "firmware", .table = &boot_table),
	ENUM("on-poweroff",
	     "when the guest powers off by itself: end, start again, stay stopped, or write its "
	     "memory to a file and end",
	     .fallback = "destroy", SPEC(actions.on_poweroff), .values = action_values),
	ENUM("on-reboot",
	     "when the guest or its watchdog resets it: start again, end, stay stopped, or write "
	     "its memory to a file and end",
	     .fallback = "restart", SPEC(actions.on_reboot), .values = action_values),
	ENUM("on-crash",
	     "when the guest panics: end, start again, stay stopped, or write its memory to a "
	     "file and end",
	     .fallback = "destroy", SPEC(actions.on_crash), .values = action_values),
	BOOL("die-with-supervisor", "QEMU is killed when its supervisor is gone",
	     SPEC(die_with_supervisor)),
	OBJECT("strictness", "what may degrade", .table = &strictness_table),
	OBJECT("qemu", "QEMU itself", .table = &qemu_table),
};
const struct field_table spec_table = TABLE(spec_rows, struct spec);
