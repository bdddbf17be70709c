#include "plan/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace transship::plan {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMiB = 1ULL << 20;
constexpr uint64_t kGiB = 1ULL << 30;

NodeFacts good_node(const std::string& name) {
  NodeFacts n;
  n.node = name;
  n.program_version = "0.1.0";
  n.kernel = "6.12.0-amd64";
  n.architecture = "x86_64";
  n.criu_version = "4.2.1";
  n.runc_version = "1.1.15";
  n.cgroup_mode = "v2";
  n.memory_total = 8 * kGiB;
  n.memory_available = 6 * kGiB;
  n.storage_total = 100 * kGiB;
  n.storage_free = 50 * kGiB;
  n.storage_free_inodes = 1'000'000;
  n.images_free = 6 * kGiB;
  n.load_1m = 0.5;
  n.cpus = 2;
  n.vdso_digest = "0123456789abcdef";
  n.engines = {"podman 5.4.2", "runc 1.1.15"};
  return n;
}

// A Redis as the demo moves it: nothing to object to.
PlanInput good_input() {
  PlanInput in;
  in.peer = "azure";
  in.container.engine = "podman";
  in.container.name = "redis";
  in.container.state = "running";
  in.container.runtime = "runc";
  in.container.rootfs_kind = "overlay";
  in.container.upper_dir = "/var/lib/containers/storage/overlay/x/diff";
  in.container.image = "registry:5000/redis";
  in.container.image_digest = "sha256:1";
  in.container.image_bytes = 100 * kMiB;
  in.container.addresses = {"10.88.0.5"};
  in.container.network_mode = "bridge";
  in.tasks.processes = 1;
  in.tasks.threads = 5;
  in.tasks.memory_bytes = 300 * kMiB;
  in.tasks.anonymous_bytes = 280 * kMiB;
  in.tasks.tcp_listening = 1;
  in.tasks.tcp_established = 4;
  in.tasks.established_by_port = {{6379, 4}};
  in.rootfs_bytes = kMiB;
  in.rootfs_files = 10;
  in.source = good_node("aws");
  in.destination = good_node("azure");
  in.link = {.rtt_ms = 0.3, .bits_per_second = 1e9, .clock_offset_ms = 2, .protocol_version = 1, .error = ""};
  in.image_present = true;
  in.destination_judged = true;
  in.destination_rows = {{"cpu-features", Verdict::kOk, "fit", ""}};
  return in;
}

const Row* find(const std::vector<Row>& rows, std::string_view check) {
  for (const auto& r : rows)
    if (r.check == check) return &r;
  return nullptr;
}

Verdict verdict_of(const PlanInput& in, std::string_view check) {
  auto result = make_plan(in);
  const Row* row = find(result.rows, check);
  return row == nullptr ? Verdict::kInvalid : row->verdict;
}

std::string found_of(const PlanInput& in, std::string_view check) {
  auto result = make_plan(in);
  const Row* row = find(result.rows, check);
  return row == nullptr ? "no such row" : row->found;
}

TEST(Plan, GoodContainerOnGoodHostsPasses) {
  auto r = make_plan(good_input());
  for (const auto& row : r.rows) EXPECT_EQ(row.verdict, Verdict::kOk) << row.check << ": " << row.found;
  EXPECT_FALSE(r.blocked);
  for (const char* check :
       {"connectivity",  "protocol",       "clock",  "architecture", "kernel", "vdso",         "cpu-features",
        "criu",          "runtime",        "cgroup", "engine",       "state",  "network-mode", "mounts",
        "rootfs-driver", "restart-policy", "tasks",  "tcp",          "memory", "images-space", "disk",
        "inodes",        "cpu-load",       "image",  "gap",          "name",   "address"})
    EXPECT_NE(find(r.rows, check), nullptr) << check;
}

TEST(Plan, EveryRowThatDoesNotPassSaysWhatToDo) {
  PlanInput in = good_input();
  in.container.privileged = true;
  in.container.terminal = true;
  in.container.pod = "0123456789abcdef";
  in.container.mounts = {{"bind", "/srv", "/data", "", 0, true},
                         {"volume", "/v/_data", "/vol", "db", 0, false, {"podman:web"}},
                         {"tmpfs", "", "/t", ""}};
  in.container.host_ports = {{"", 6379, 6379, "tcp"}};
  in.container.network_mode = "host";
  in.container.state = "paused";
  in.container.rootfs_kind = "btrfs";
  in.destination = NodeFacts{};
  in.destination.missing = {"CRIU does not run here (open criu: no such file): install CRIU 4.2"};
  in.link.clock_offset_ms = -90'000;
  in.link.protocol_version = 0;
  in.link.bits_per_second = 0;
  in.destination_judged = false;
  in.destination_rows.clear();
  in.tasks.unreadable = {"mappings of process 7: permission denied"};
  for (int t = 0; t <= static_cast<int>(Trait::kTerminal); ++t) {
    Seen seen{.count = 5, .amount = kGiB, .largest = kGiB, .examples = {{7, "app", "net"}, {8, "app", "pid"}}};
    in.tasks.seen[static_cast<Trait>(t)] = seen;
  }
  auto r = make_plan(in);
  std::set<std::string> names;
  for (const auto& row : r.rows) {
    EXPECT_FALSE(row.found.empty()) << row.check;
    EXPECT_EQ(row.remedy.empty(), row.verdict == Verdict::kOk) << row.check << ": " << row.found;
    EXPECT_NE(row.verdict, Verdict::kInvalid) << row.check;
  }
  EXPECT_TRUE(r.blocked);
}

struct TraitCase {
  Trait trait;
  const char* check;
  Verdict verdict;
};
class TraitVerdict : public testing::TestWithParam<TraitCase> {};
TEST_P(TraitVerdict, IsThatOfTheTable) {
  auto [trait, check, verdict] = GetParam();
  PlanInput in = good_input();
  in.tasks.seen[trait] = {.count = 2, .amount = 3, .largest = 2, .examples = {{42, "worker", "net"}}};
  EXPECT_EQ(verdict_of(in, check), verdict);
  EXPECT_EQ(make_plan(in).blocked, verdict == Verdict::kBlock);
}
INSTANTIATE_TEST_SUITE_P(
    Policy, TraitVerdict,
    testing::Values(
        TraitCase{Trait::kIoUring, "io-uring", Verdict::kBlock},
        TraitCase{Trait::kUserfaultfd, "userfaultfd", Verdict::kBlock}, TraitCase{Trait::kBpf, "bpf", Verdict::kBlock},
        TraitCase{Trait::kPerfEvent, "perf-events", Verdict::kBlock},
        TraitCase{Trait::kFanotify, "fanotify", Verdict::kWarn},
        TraitCase{Trait::kSeccompNotify, "seccomp-notify", Verdict::kBlock},
        TraitCase{Trait::kOtherAnonInode, "kernel-objects", Verdict::kBlock},
        TraitCase{Trait::kInotify, "inotify", Verdict::kWarn}, TraitCase{Trait::kDevice, "devices", Verdict::kBlock},
        TraitCase{Trait::kOutsideFile, "outside-files", Verdict::kBlock},
        TraitCase{Trait::kGhostFile, "ghost-files", Verdict::kOk},
        TraitCase{Trait::kLinkedGhost, "linked-files", Verdict::kBlock},
        TraitCase{Trait::kExternalUnixSocket, "unix-sockets", Verdict::kBlock},
        TraitCase{Trait::kRawSocket, "raw-sockets", Verdict::kWarn},
        TraitCase{Trait::kOtherSocket, "sockets", Verdict::kBlock},
        TraitCase{Trait::kNetlinkSocket, "netlink", Verdict::kOk}, TraitCase{Trait::kSynReceived, "tcp", Verdict::kOk},
        TraitCase{Trait::kBacklog, "tcp", Verdict::kWarn}, TraitCase{Trait::kHugetlb, "hugetlb", Verdict::kBlock},
        TraitCase{Trait::kUprobes, "uprobes", Verdict::kBlock}, TraitCase{Trait::k32Bit, "32-bit", Verdict::kWarn},
        TraitCase{Trait::kDebugger, "debugger", Verdict::kBlock},
        TraitCase{Trait::kStoppedThread, "stopped-threads", Verdict::kBlock},
        TraitCase{Trait::kZombieLeader, "zombie-leader", Verdict::kBlock},
        TraitCase{Trait::kNestedNamespace, "nested-namespaces", Verdict::kBlock},
        TraitCase{Trait::kHostNamespace, "host-network", Verdict::kBlock},
        TraitCase{Trait::kHostSysvShm, "sysv-shm", Verdict::kBlock},
        TraitCase{Trait::kExecSession, "exec-sessions", Verdict::kWarn},
        TraitCase{Trait::kFileLock, "file-locks", Verdict::kOk}, TraitCase{Trait::kLease, "file-locks", Verdict::kOk},
        TraitCase{Trait::kTerminal, "terminal", Verdict::kBlock}),
    [](const auto& c) { return "Trait" + std::to_string(static_cast<int>(c.param.trait)); });

TEST(Plan, TraitsSayWhoAndWhat) {
  PlanInput in = good_input();
  in.tasks.seen[Trait::kDevice] = {.count = 4, .examples = {{42, "worker", "/dev/fuse"}}};
  EXPECT_THAT(found_of(in, "devices"), HasSubstr("4 × device: worker (42) /dev/fuse, 3 more"));
}

TEST(Plan, AbilitiesChangeVerdicts) {
  PlanInput in = good_input();
  in.tasks.seen[Trait::kGhostFile] = {.count = 1, .amount = 65 * kMiB, .largest = 65 * kMiB};
  in.tasks.seen[Trait::kLinkedGhost] = {.count = 1};
  in.tasks.seen[Trait::kFileLock] = {.count = 1};
  in.tasks.seen[Trait::kTerminal] = {.count = 1};
  in.abilities = {.file_locks = false, .link_remap = true, .terminal = true, .ghost_limit = 64 * kMiB};
  EXPECT_EQ(verdict_of(in, "ghost-files"), Verdict::kBlock);
  EXPECT_EQ(verdict_of(in, "linked-files"), Verdict::kOk);
  EXPECT_EQ(verdict_of(in, "file-locks"), Verdict::kBlock);
  EXPECT_EQ(verdict_of(in, "terminal"), Verdict::kInvalid);
  in.abilities.ghost_limit = 66 * kMiB;
  EXPECT_EQ(verdict_of(in, "ghost-files"), Verdict::kOk);
}

struct ContainerCase {
  const char* name;
  void (*change)(PlanInput&);
  const char* check;
  Verdict verdict;
};
class ContainerVerdict : public testing::TestWithParam<ContainerCase> {};
TEST_P(ContainerVerdict, IsThatOfTheTable) {
  PlanInput in = good_input();
  GetParam().change(in);
  EXPECT_EQ(verdict_of(in, GetParam().check), GetParam().verdict) << found_of(in, GetParam().check);
}
INSTANTIATE_TEST_SUITE_P(
    Policy, ContainerVerdict,
    testing::Values(
        ContainerCase{"stopped", [](PlanInput& in) { in.container.state = "exited"; }, "state", Verdict::kBlock},
        ContainerCase{"bind", [](PlanInput& in) { in.container.mounts = {{"bind", "/a", "/b", ""}}; }, "mounts",
                      Verdict::kOk},
        ContainerCase{"volume", [](PlanInput& in) { in.container.mounts = {{"volume", "/a", "/b", "v"}}; }, "mounts",
                      Verdict::kOk},
        ContainerCase{"file", [](PlanInput& in) { in.container.mounts = {{"bind", "/a", "/b", "", 0, true}}; },
                      "mounts", Verdict::kBlock},
        ContainerCase{
            "shared",
            [](PlanInput& in) { in.container.mounts = {{"volume", "/a", "/b", "v", 0, false, {"podman:web"}}}; },
            "mounts", Verdict::kBlock},
        ContainerCase{"tmpfs", [](PlanInput& in) { in.container.mounts = {{"tmpfs", "", "/b", ""}}; }, "mounts",
                      Verdict::kOk},
        ContainerCase{"pod", [](PlanInput& in) { in.container.pod = "abc"; }, "pod", Verdict::kBlock},
        ContainerCase{"hostnet", [](PlanInput& in) { in.container.network_mode = "host"; }, "host-network",
                      Verdict::kBlock},
        ContainerCase{"othernet", [](PlanInput& in) { in.container.network_mode = "container:ab"; }, "network-mode",
                      Verdict::kBlock},
        ContainerCase{"pasta", [](PlanInput& in) { in.container.network_mode = "pasta"; }, "network-mode",
                      Verdict::kBlock},
        ContainerCase{"privileged", [](PlanInput& in) { in.container.privileged = true; }, "privileged",
                      Verdict::kWarn},
        ContainerCase{"terminal", [](PlanInput& in) { in.container.terminal = true; }, "terminal", Verdict::kBlock},
        ContainerCase{"restarts", [](PlanInput& in) { in.container.restart_policy = "always"; }, "restart-policy",
                      Verdict::kOk},
        ContainerCase{"driver", [](PlanInput& in) { in.container.upper_dir.clear(); }, "rootfs-driver",
                      Verdict::kBlock},
        ContainerCase{"plain", [](PlanInput& in) { in.container.rootfs_kind = "plain"; }, "rootfs-driver",
                      Verdict::kOk},
        ContainerCase{"ports", [](PlanInput& in) { in.container.host_ports = {{"", 6379, 6379, "tcp"}}; },
                      "published-ports", Verdict::kWarn}),
    [](const auto& c) { return c.param.name; });

class HostVerdict : public testing::TestWithParam<ContainerCase> {};
TEST_P(HostVerdict, IsThatOfTheTable) {
  PlanInput in = good_input();
  GetParam().change(in);
  EXPECT_EQ(verdict_of(in, GetParam().check), GetParam().verdict) << found_of(in, GetParam().check);
}
INSTANTIATE_TEST_SUITE_P(
    Policy, HostVerdict,
    testing::Values(
        ContainerCase{"arch", [](PlanInput& in) { in.destination.architecture = "aarch64"; }, "architecture",
                      Verdict::kBlock},
        ContainerCase{"older_kernel", [](PlanInput& in) { in.destination.kernel = "6.1.0"; }, "kernel", Verdict::kWarn},
        ContainerCase{"newer_kernel", [](PlanInput& in) { in.destination.kernel = "6.18.2"; }, "kernel", Verdict::kOk},
        ContainerCase{"ancient_kernel", [](PlanInput& in) { in.destination.kernel = "5.10.0-30"; }, "kernel",
                      Verdict::kBlock},
        ContainerCase{"odd_kernel", [](PlanInput& in) { in.destination.kernel = "custom"; }, "kernel", Verdict::kBlock},
        ContainerCase{"vdso", [](PlanInput& in) { in.destination.vdso_digest = "f"; }, "vdso", Verdict::kWarn},
        ContainerCase{"no_vdso", [](PlanInput& in) { in.destination.vdso_digest = ""; }, "vdso", Verdict::kBlock},
        ContainerCase{"no_cpu_answer", [](PlanInput& in) { in.destination_rows.clear(); }, "cpu-features",
                      Verdict::kWarn},
        ContainerCase{"cpu_answer", [](PlanInput& in) { in.destination_rows[0].verdict = Verdict::kBlock; },
                      "cpu-features", Verdict::kBlock},
        ContainerCase{"older_criu", [](PlanInput& in) { in.destination.criu_version = "4.2"; }, "criu",
                      Verdict::kBlock},
        ContainerCase{"newer_criu", [](PlanInput& in) { in.destination.criu_version = "4.10"; }, "criu", Verdict::kOk},
        ContainerCase{"no_criu", [](PlanInput& in) { in.destination.criu_version = ""; }, "criu", Verdict::kBlock},
        ContainerCase{"no_runc", [](PlanInput& in) { in.destination.runc_version = ""; }, "runtime", Verdict::kBlock},
        ContainerCase{"cgroup1_here", [](PlanInput& in) { in.source.cgroup_mode = "v1"; }, "cgroup", Verdict::kBlock},
        ContainerCase{"cgroup1_there", [](PlanInput& in) { in.destination.cgroup_mode = "v1"; }, "cgroup",
                      Verdict::kBlock},
        ContainerCase{"hybrid", [](PlanInput& in) { in.destination.cgroup_mode = "hybrid"; }, "cgroup", Verdict::kOk},
        ContainerCase{"hybrid_limit",
                      [](PlanInput& in) {
                        in.destination.cgroup_mode = "hybrid";
                        in.container.memory_limit = 1;
                      },
                      "cgroup", Verdict::kWarn},
        ContainerCase{"no_engine", [](PlanInput& in) { in.destination.engines = {"runc 1.1"}; }, "engine",
                      Verdict::kBlock},
        ContainerCase{"engine_prefix", [](PlanInput& in) { in.destination.engines = {"podmanx 1"}; }, "engine",
                      Verdict::kBlock},
        ContainerCase{"missing", [](PlanInput& in) { in.destination.missing = {"no root: start as root"}; }, "node",
                      Verdict::kBlock},
        ContainerCase{"missing_here", [](PlanInput& in) { in.source.missing = {"no root: start as root"}; }, "node",
                      Verdict::kBlock},
        ContainerCase{"clock", [](PlanInput& in) { in.link.clock_offset_ms = -1001; }, "clock", Verdict::kWarn},
        ContainerCase{"protocol", [](PlanInput& in) { in.link.protocol_version = 0; }, "protocol", Verdict::kBlock},
        ContainerCase{"bandwidth", [](PlanInput& in) { in.link.bits_per_second = 0; }, "connectivity", Verdict::kWarn},
        ContainerCase{"load", [](PlanInput& in) { in.destination.load_1m = 3.1; }, "cpu-load", Verdict::kWarn},
        ContainerCase{"inodes", [](PlanInput& in) { in.destination.storage_free_inodes = 10'005; }, "inodes",
                      Verdict::kBlock},
        ContainerCase{"btrfs", [](PlanInput& in) { in.destination.storage_free_inodes = 0; }, "inodes",
                      Verdict::kInvalid},
        ContainerCase{"slow", [](PlanInput& in) { in.link.bits_per_second = 100e6; }, "gap", Verdict::kWarn}),
    [](const auto& c) { return c.param.name; });

// 300 MiB for the tasks, 280 MiB × 1.02 + 0.5 MiB for the images, 256 MiB margin: 842.1 MiB.
TEST(Plan, MemoryBlocksJustBelowWhatIsNeeded) {
  PlanInput in = good_input();
  in.destination.memory_available = 843 * kMiB;
  EXPECT_EQ(verdict_of(in, "memory"), Verdict::kOk);
  in.destination.memory_available = 842 * kMiB;
  EXPECT_EQ(verdict_of(in, "memory"), Verdict::kBlock);
}

TEST(Plan, ImagesNeedRoomOnBothSides) {
  PlanInput in = good_input();
  in.source.images_free = 286 * kMiB;
  EXPECT_EQ(verdict_of(in, "images-space"), Verdict::kBlock);
  EXPECT_THAT(found_of(in, "images-space"), HasSubstr("needed here"));
  in.source.images_free = 287 * kMiB;
  EXPECT_EQ(verdict_of(in, "images-space"), Verdict::kOk);
  in.destination.images_free = 286 * kMiB;
  EXPECT_THAT(found_of(in, "images-space"), HasSubstr("needed on azure"));
}

TEST(Plan, DiskCountsTheImageOnlyWhenItIsMissing) {
  PlanInput in = good_input();
  in.destination.storage_free = 514 * kMiB;  // 512 margin + 1 of files
  EXPECT_EQ(verdict_of(in, "disk"), Verdict::kOk);
  in.image_present = false;
  EXPECT_EQ(verdict_of(in, "disk"), Verdict::kBlock);
  in.image_missing_bytes = kMiB;
  EXPECT_EQ(verdict_of(in, "disk"), Verdict::kOk);
}

TEST(Plan, TmpfsContentsTravelWithTheImages) {
  PlanInput in = good_input();
  auto before = make_plan(in).prediction;
  in.tasks.tmpfs_bytes = 100 * kMiB;
  auto after = make_plan(in).prediction;
  EXPECT_GE(after.bytes_memory, before.bytes_memory + 100 * kMiB);
  EXPECT_GT(after.gap_ms, before.gap_ms);
}

TEST(Plan, FilesInPodmansDevShm) {
  PlanInput in = good_input();
  in.tasks.dev_shm_bytes = 4096;
  EXPECT_EQ(verdict_of(in, "dev-shm"), Verdict::kBlock);
  in.abilities.dev_shm = true;
  EXPECT_EQ(verdict_of(in, "dev-shm"), Verdict::kInvalid);
  in.abilities.dev_shm = false;
  in.container.engine = "runc";
  EXPECT_EQ(verdict_of(in, "dev-shm"), Verdict::kInvalid);
}

TEST(Plan, AskedForRateBoundsTheMeasuredOne) {
  PlanInput in = good_input();
  in.max_bits_per_second = 100'000'000;
  auto slow = make_plan(in).prediction;
  in.max_bits_per_second = 10'000'000'000;
  auto fast = make_plan(in).prediction;
  in.max_bits_per_second = 0;
  EXPECT_EQ(fast.gap_ms, make_plan(in).prediction.gap_ms);
  EXPECT_GT(slow.transfer_ms, 9 * fast.transfer_ms);
}

TEST(Plan, UnreachablePeerClaimsNothingAboutIt) {
  PlanInput in = good_input();
  in.link = {.error = "connection refused"};
  in.destination = NodeFacts{};
  auto r = make_plan(in);
  EXPECT_TRUE(r.blocked);
  EXPECT_THAT(found_of(in, "connectivity"), HasSubstr("azure cannot be reached: connection refused"));
  for (const char* check : {"kernel", "memory", "disk", "engine", "name", "cpu-features"})
    EXPECT_EQ(find(r.rows, check), nullptr) << check;
  EXPECT_NE(find(r.rows, "mounts"), nullptr) << "what the source knows is still said";
}

TEST(Plan, DestinationRowsAreTakenOver) {
  PlanInput in = good_input();
  in.container.host_ports = {{"", 8080, 80, "tcp"}};
  in.destination_rows.push_back({"host-port", Verdict::kBlock, "8080/tcp is bound by nginx", "free it"});
  EXPECT_EQ(verdict_of(in, "host-port"), Verdict::kBlock);
  EXPECT_EQ(verdict_of(in, "name"), Verdict::kOk);
  in.destination_rows.pop_back();
  EXPECT_EQ(verdict_of(in, "host-port"), Verdict::kOk);
  in.destination_judged = false;
  EXPECT_EQ(verdict_of(in, "host-port"), Verdict::kWarn);
}

TEST(Plan, PublishedPortsCountTheirConnections) {
  PlanInput in = good_input();
  in.container.host_ports = {{"", 6379, 6379, "tcp"}, {"", 9000, 9000, "udp"}};
  in.tasks.established_by_port = {{6379, 4}, {9000, 2}, {22, 1}};
  EXPECT_THAT(found_of(in, "published-ports"), HasSubstr("4 connections"));
  in.abilities.published_ports_follow = true;
  EXPECT_EQ(verdict_of(in, "published-ports"), Verdict::kInvalid);
}

const Row* row_of(const PlanResult& result, const std::string& check) {
  auto found = std::ranges::find(result.rows, check, &Row::check);
  return found == result.rows.end() ? nullptr : &*found;
}

TEST(Plan, BothNodesMustHaveTheSameArbiterAndItMustAnswer) {
  auto in = good_input();
  EXPECT_EQ(row_of(make_plan(in), "arbiter"), nullptr) << "nobody has one";
  in.source.arbiter = in.destination.arbiter = "etcd f00 /transship";
  EXPECT_EQ(row_of(make_plan(in), "arbiter")->verdict, Verdict::kOk);
  auto blocks = [](const PlanInput& input, const std::string& words) {
    auto result = make_plan(input);
    const Row* row = row_of(result, "arbiter");
    ASSERT_NE(row, nullptr);
    EXPECT_EQ(row->verdict, Verdict::kBlock);
    EXPECT_THAT(row->found, HasSubstr(words));
    EXPECT_FALSE(row->remedy.empty());
  };
  auto other = in;
  other.destination.arbiter = "etcd f00 /other";
  blocks(other, "/transship here, etcd f00 /other there");
  other.destination.arbiter = "";
  blocks(other, "aws decides its moves by etcd, azure does not");
  other = in;
  other.source.arbiter = "";
  blocks(other, "azure decides its moves by etcd, aws does not");
  other = in;
  other.destination.arbiter_error = "etcd does not answer: timeout";
  blocks(other, "on azure: etcd does not answer");
  other.source.arbiter_error = "no leader";
  blocks(other, "here: no leader");
}

TEST(Plan, SameThingFoundTwiceIsOneRow) {
  PlanInput in = good_input();
  in.container.network_mode = "host";
  in.tasks.seen[Trait::kHostNamespace] = {.count = 1, .examples = {{42, "redis", "net"}}};
  in.container.terminal = true;
  in.tasks.seen[Trait::kTerminal] = {.count = 1, .examples = {{42, "redis", "/dev/pts/0"}}};
  auto rows = make_plan(in).rows;
  EXPECT_EQ(std::ranges::count(rows, "host-network", &Row::check), 1);
  EXPECT_EQ(std::ranges::count(rows, "terminal", &Row::check), 1);
}

TEST(Plan, ObjectionsForAListAreOnlyWhatBlocks) {
  PlanInput in = good_input();
  EXPECT_TRUE(source_objections(in.container, &in.tasks, in.source).empty());
  in.container.privileged = true;
  in.container.mounts = {{"bind", "/srv", "/data", "", 0, true}};
  in.tasks.seen[Trait::kIoUring] = {.count = 1, .examples = {{42, "pg", "[io_uring]"}}};
  auto rows = source_objections(in.container, &in.tasks, in.source);
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_THAT(blocking_text(rows), HasSubstr("mounts: bind /srv on /data; io-uring: 1 × "));
  EXPECT_THAT(blocking_remedies(rows), HasSubstr("mount the directory that the file is in"));
  EXPECT_EQ(source_objections(in.container, nullptr, in.source).size(), 1U);
}

PlanInput new_address_input() {
  PlanInput in = good_input();
  in.new_address = true;
  in.tasks.tcp_hosts = 2;
  return in;
}

TEST(PlanNewAddress, SaysWhoseConnectionsEndAndWhichEntriesStay) {
  auto in = new_address_input();
  EXPECT_EQ(verdict_of(in, "new-address"), Verdict::kWarn);
  EXPECT_THAT(found_of(in, "new-address"), HasSubstr("10.88.0.5 ends, azure gives it another one"));
  EXPECT_THAT(found_of(in, "new-address"), HasSubstr("4 established connections with 2 hosts will be closed"));
  EXPECT_EQ(verdict_of(in, "address"), Verdict::kInvalid) << "whether the old one is free there is no matter";
  EXPECT_THAT(find(make_plan(in).rows, "new-address")->remedy, HasSubstr("redis.transship"));
  in.entries = {"aws:7379/tcp", "openstack:7379/tcp"};
  EXPECT_THAT(found_of(in, "new-address"),
              HasSubstr("aws:7379/tcp, openstack:7379/tcp lead to it as before, for new connections"));
  in.tasks.tcp_established = 1;
  in.tasks.tcp_hosts = 1;
  EXPECT_THAT(found_of(in, "new-address"), HasSubstr("1 established connection with 1 host will be closed"));
}

TEST(PlanNewAddress, WithoutConnectionsItIsFine) {
  auto in = new_address_input();
  in.tasks.tcp_established = in.tasks.tcp_hosts = 0;
  EXPECT_EQ(verdict_of(in, "new-address"), Verdict::kOk);
  EXPECT_FALSE(make_plan(in).blocked);
  in.container.addresses.clear();
  EXPECT_EQ(verdict_of(in, "new-address"), Verdict::kOk);
}

TEST(PlanNewAddress, SocketsOfTheOldAddressBlock) {
  auto in = new_address_input();
  in.tasks.bound_to_address = {"TCP 10.88.0.5:6379"};
  EXPECT_EQ(verdict_of(in, "bound-address"), Verdict::kBlock);
  EXPECT_THAT(found_of(in, "bound-address"), HasSubstr("TCP 10.88.0.5:6379 is bound"));
  EXPECT_THAT(find(make_plan(in).rows, "bound-address")->remedy, HasSubstr("0.0.0.0"));
  in.new_address = false;
  EXPECT_EQ(verdict_of(in, "bound-address"), Verdict::kInvalid) << "with its address it moves";
  EXPECT_EQ(verdict_of(in, "new-address"), Verdict::kInvalid);
}

TEST(PlanNewAddress, PublishedPortsAreTheDestinationsFromThenOn) {
  auto in = new_address_input();
  in.container.host_ports = {{"", 8080, 6379, "tcp"}};
  for (bool follow : {false, true}) {
    in.abilities.published_ports_follow = follow;
    EXPECT_EQ(verdict_of(in, "published-ports"), Verdict::kWarn);
    EXPECT_THAT(found_of(in, "published-ports"), HasSubstr("8080/tcp: published by azure"));
  }
}

TEST(PlanNewAddress, WhatTheEngineCannotDoBlocks) {
  auto in = new_address_input();
  in.destination_rows.push_back({"new-address", Verdict::kBlock, "a plain bundle", "without --new-ip"});
  EXPECT_TRUE(make_plan(in).blocked);
}

}  // namespace
}  // namespace transship::plan
