#include "sys/task_tree.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <sys/sysmacros.h>
#include <sys/wait.h>

#include <filesystem>

#include "base/fd.h"
#include "base/text.h"
#include "sys/file.h"
#include "sys/proc_text.h"

namespace transship::sys {
namespace {

using testing::HasSubstr;

// ---- a recorded tree: a directory that looks like /proc
class RecordedTree : public testing::Test {
 protected:
  RecordedTree() {
    std::string pattern = testing::TempDir() + "/treeXXXXXX";
    dir_ = ::mkdtemp(pattern.data());
    link("self/ns/net", "net:[1]");
    link("self/ns/ipc", "ipc:[1]");
    process(100, 1, "redis");
    put("100/mountinfo", "50 1 0:60 / / rw - overlay overlay rw\n51 50 0:61 / /dev rw - tmpfs tmpfs rw\n");
  }
  ~RecordedTree() override { (void)remove_tree(dir_); }

  void put(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(std::filesystem::path(dir_ + "/" + name).parent_path());
    EXPECT_TRUE(write_file_atomic(dir_ + "/" + name, text));
  }
  void link(const std::string& name, const std::string& target) {
    std::filesystem::create_directories(std::filesystem::path(dir_ + "/" + name).parent_path());
    EXPECT_EQ(::symlink(target.c_str(), (dir_ + "/" + name).c_str()), 0) << name;
  }
  void process(int pid, int parent, const std::string& name, const std::string& state = "S (sleeping)") {
    put(fmt::format("{}/status", pid),
        fmt::format("Name:\t{}\nState:\t{}\nPPid:\t{}\nTracerPid:\t0\n", name, state, parent));
    thread(pid, pid, state);
    std::filesystem::create_directories(fmt::format("{}/{}/fd", dir_, pid));
    for (const char* ns : {"pid", "mnt", "net", "user", "ipc", "uts", "cgroup"})
      link(fmt::format("{}/ns/{}", pid, ns), fmt::format("{}:[7]", ns));
    pids_.push_back(pid);
  }
  void thread(int pid, int tid, const std::string& state, int tracer = 0) {
    put(fmt::format("{}/task/{}/status", pid, tid), fmt::format("State:\t{}\nTracerPid:\t{}\n", state, tracer));
  }
  void fd(int number, const std::string& target, const std::string& info = "pos:\t0\nmnt_id:\t50\n", int pid = 100) {
    link(fmt::format("{}/fd/{}", pid, number), target);
    put(fmt::format("{}/fdinfo/{}", pid, number), info);
  }
  TaskFindings inspect() {
    auto r = inspect_tasks(100, pids_, {.proc = dir_, .examples = 3, .ask_kernel = false});
    EXPECT_TRUE(r) << r.error().message();
    return r ? *r : TaskFindings{};
  }
  static uint64_t count(const TaskFindings& f, Trait trait) {
    const Seen* seen = f.find(trait);
    return seen == nullptr ? 0 : seen->count;
  }
  std::string dir_;
  std::vector<pid_t> pids_;
};

TEST_F(RecordedTree, PlainServerHasNothingToObject) {
  fd(0, "/dev/null");
  fd(1, "pipe:[12]");
  fd(3, "anon_inode:[eventpoll]");
  fd(4, "anon_inode:[eventfd]");
  fd(5, "anon_inode:[timerfd]");
  fd(6, "anon_inode:[signalfd]");
  fd(7, "/data/dump.rdb");
  fd(8, "/memfd:jit (deleted)");
  fd(9, "socket:[900]");
  put("100/maps",
      "55d0-55e0 r-xp 00000000 00:3c 11 /usr/bin/redis-server\n"
      "7f00-7f10 rw-s 00000000 00:05 12 /dev/zero (deleted)\n"
      "7f20-7f30 rw-s 00000000 00:05 13 /memfd:jit (deleted)\n"
      "7f40-7f50 rw-s 00000000 00:05 13 /SYSV00000000 (deleted)\n"
      "7ffc-7ffd r-xp 00000000 00:00 0 [vdso]\n");
  auto f = inspect();
  EXPECT_TRUE(f.seen.empty()) << "trait " << static_cast<int>(f.seen.begin()->first);
  EXPECT_EQ(f.processes, 1U);
  EXPECT_EQ(f.threads, 1U);
  EXPECT_TRUE(f.unreadable.empty()) << testing::PrintToString(f.unreadable);
}

TEST_F(RecordedTree, AnonymousInodesThatCannotMove) {
  fd(3, "anon_inode:[io_uring]");
  fd(4, "anon_inode:[userfaultfd]");
  fd(5, "anon_inode:bpf-map");
  fd(6, "anon_inode:[perf_event]");
  fd(7, "anon_inode:[fanotify]");
  fd(8, "anon_inode:seccomp notify");
  fd(9, "anon_inode:kvm-vm");
  fd(10, "anon_inode:inotify",
     "mnt_id:\t15\ninotify wd:1 ino:9e7e sdev:3c mask:2\ninotify wd:2 ino:a1 sdev:3c\ninotify wd:3 ino:a1 "
     "sdev:800013\n");
  auto f = inspect();
  for (Trait t : {Trait::kIoUring, Trait::kUserfaultfd, Trait::kBpf, Trait::kPerfEvent, Trait::kFanotify,
                  Trait::kSeccompNotify, Trait::kOtherAnonInode, Trait::kInotify})
    EXPECT_EQ(count(f, t), 1U) << static_cast<int>(t);
  EXPECT_EQ(f.find(Trait::kInotify)->amount, 2U);
  EXPECT_EQ(f.find(Trait::kOtherAnonInode)->examples[0].detail, "kvm-vm");
  EXPECT_EQ(f.find(Trait::kIoUring)->examples[0].process, "redis");
}

TEST_F(RecordedTree, ExamplesAreFewCountsAreAll) {
  for (int i = 0; i < 20; ++i) {
    fd(10 + i, "anon_inode:[io_uring]");
    fd(40 + i, fmt::format("/dev/card{}-not-here", i));
  }
  auto f = inspect();
  EXPECT_EQ(count(f, Trait::kIoUring), 20U);
  EXPECT_EQ(f.find(Trait::kIoUring)->examples.size(), 1U) << "all the same";
  EXPECT_EQ(count(f, Trait::kDevice), 20U);
  EXPECT_EQ(f.find(Trait::kDevice)->examples.size(), 3U);
}

TEST_F(RecordedTree, RingThatIsOnlyMappedIsFoundToo) {
  put("100/maps", "7f00-7f10 rw-s 00000000 00:0e 13 anon_inode:[io_uring]\n");
  EXPECT_EQ(count(inspect(), Trait::kIoUring), 1U);
}

TEST_F(RecordedTree, DevicesAndTerminals) {
  fd(3, "/dev/fuse-not-on-this-host");
  fd(4, "/dev/pts/0");
  EXPECT_EQ(count(inspect(), Trait::kDevice), 1U);
  EXPECT_EQ(count(inspect(), Trait::kTerminal), 1U);
  fd(5, "/dev/ptmx", "mnt_id:\t50\ntty-index:\t0\n");
  EXPECT_EQ(count(inspect(), Trait::kTerminal), 0U) << "its master is inside";
}

TEST_F(RecordedTree, FilesOnMountsOfTheHost) {
  fd(3, "/var/log/app.log", "mnt_id:\t28\n");
  auto f = inspect();
  ASSERT_EQ(count(f, Trait::kOutsideFile), 1U);
  EXPECT_EQ(f.find(Trait::kOutsideFile)->examples[0].detail, "/var/log/app.log");
}

TEST_F(RecordedTree, LocksAndLeases) {
  fd(3, "/data/db",
     "mnt_id:\t50\nlock:\t1: POSIX  ADVISORY  WRITE 100 00:3c:1 0 EOF\nlock:\t2: LEASE  ACTIVE READ 100 00:3c:1 0 "
     "EOF\n");
  EXPECT_EQ(count(inspect(), Trait::kFileLock), 1U);
  EXPECT_EQ(count(inspect(), Trait::kLease), 1U);
}

TEST_F(RecordedTree, Mappings) {
  put("100/maps",
      "200000-600000 rw-p 00000000 00:0f 13 /anon_hugepage (deleted)\n"
      "700000-701000 rw-s 00000000 00:06 13 /dev/infiniband-not-here\n"
      "800000-801000 r-xp 00000000 00:00 0 [uprobes]\n");
  auto f = inspect();
  ASSERT_EQ(count(f, Trait::kHugetlb), 1U);
  EXPECT_EQ(f.find(Trait::kHugetlb)->amount, 4U << 20);
  EXPECT_EQ(count(f, Trait::kDevice), 1U);
  EXPECT_EQ(count(f, Trait::kUprobes), 1U);
}

TEST_F(RecordedTree, StatesOfThreads) {
  thread(100, 101, "T (stopped)");
  thread(100, 102, "S (sleeping)", 4711);
  process(200, 100, "worker", "Z (zombie)");
  thread(200, 201, "S (sleeping)");
  auto f = inspect();
  EXPECT_EQ(count(f, Trait::kStoppedThread), 1U);
  EXPECT_EQ(count(f, Trait::kDebugger), 1U);
  EXPECT_EQ(count(f, Trait::kZombieLeader), 1U);
  EXPECT_EQ(f.zombies, 1U);
  EXPECT_EQ(f.threads, 4U);
}

TEST_F(RecordedTree, WholeProcessStoppedMoves) {
  process(200, 100, "paused", "T (stopped)");
  thread(200, 201, "T (stopped)");
  EXPECT_EQ(count(inspect(), Trait::kStoppedThread), 0U);
}

TEST_F(RecordedTree, NamespacesInsideAndShared) {
  process(200, 100, "sandbox");
  std::filesystem::remove(dir_ + "/200/ns/user");
  link("200/ns/user", "user:[99]");
  std::filesystem::remove(dir_ + "/100/ns/net");
  std::filesystem::remove(dir_ + "/200/ns/net");
  link("100/ns/net", "net:[1]");
  link("200/ns/net", "net:[1]");
  auto f = inspect();
  ASSERT_EQ(count(f, Trait::kNestedNamespace), 1U);
  EXPECT_EQ(f.find(Trait::kNestedNamespace)->examples[0].detail, "user");
  ASSERT_EQ(count(f, Trait::kHostNamespace), 1U);
  EXPECT_EQ(f.find(Trait::kHostNamespace)->examples[0].detail, "net");
}

TEST_F(RecordedTree, SysvMemoryOfTheHost) {
  std::filesystem::remove(dir_ + "/100/ns/ipc");
  link("100/ns/ipc", "ipc:[1]");
  put("100/maps", "7f40-7f50 rw-s 00000000 00:05 13 /SYSV00000000 (deleted)\n");
  EXPECT_EQ(count(inspect(), Trait::kHostSysvShm), 1U);
}

TEST_F(RecordedTree, ExecSessionsAreNotDescendants) {
  process(200, 100, "child");
  process(201, 200, "grandchild");
  process(300, 55, "bash");
  process(301, 300, "vi");
  fd(3, "anon_inode:[io_uring]", "", 301);
  auto f = inspect();
  EXPECT_EQ(count(f, Trait::kExecSession), 2U);
  EXPECT_EQ(f.processes, 3U);
  EXPECT_EQ(count(f, Trait::kIoUring), 0U) << "it does not move, so what it holds does not matter";
}

TEST_F(RecordedTree, ThirtyTwoBits) {
  put("100/exe", std::string("\x7f"
                             "ELF\x01\x01\x01",
                             7) +
                     std::string(9, '\0'));
  EXPECT_EQ(count(inspect(), Trait::k32Bit), 1U);
}

TEST_F(RecordedTree, SocketsOfOneAddress) {
  for (int i = 0; i < 8; ++i) fd(3 + i, fmt::format("socket:[{}]", 900 + i));
  const std::string head =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
  const std::string none = "00000000:0000";
  int next = 900;
  auto line = [&](const std::string& local, const std::string& remote, const char* state) {
    return fmt::format(" 0: {} {} {} 00000000:00000000 00:00000000 00000000 0 0 {} 1 0 100 0 0 10 0\n", local, remote,
                       state, next++);
  };
  put("100/net/tcp", head + line("0300580A:18EB", none, "0A") +  // 10.88.0.3
                         line("0100007F:18EC", none, "0A"));     // loopback
  put("100/net/tcp6",
      head + line("000000FD000000000000000003000000:0050", "00000000000000000000000000000000:0000", "0A"));
  put("100/net/udp", head + line("0300580A:0035", none, "07") +          // without a peer
                         line("0300580A:0036", "0200020A:0035", "01") +  // with one: it is chosen anew
                         line("010000E0:14E9", none, "07") +             // multicast
                         line("00000000:0044", none, "07"));
  put("100/net/udp6",
      head + line("0000000000000000FFFF00000300580A:0037", "00000000000000000000000000000000:0000", "07"));
  EXPECT_THAT(inspect().bound_to_address,
              ::testing::ElementsAre("TCP 10.88.0.3:6379", "TCP [fd00::3]:80", "UDP 10.88.0.3:53", "UDP 10.88.0.3:55"));
}

TEST_F(RecordedTree, TcpConnections) {
  fd(3, "socket:[900]");
  fd(4, "socket:[901]");
  fd(5, "socket:[902]");
  const std::string head =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
  const std::string tail = " 00:00000000 00000000 0 0 ";
  put("100/net/tcp", head + "   0: 00000000:18EB 00000000:0000 0A 00000000:00000002" + tail +
                         "900 1 0 100 0 0 10 0\n"  // listening, 2 waiting
                         "   1: 0100020A:18EB 0200020A:C001 01 00000000:00000000" +
                         tail +
                         "901 1 0 100 0 0 10 0\n"  // established
                         "   2: 0100007F:18EB 0100007F:C002 01 00000000:00000000" +
                         tail +
                         "902 1 0 100 0 0 10 0\n"  // loopback
                         "   3: 0100020A:18EB 0200020A:C003 01 00000000:00000000" +
                         tail +
                         "950 1 0 100 0 0 10 0\n"  // somebody else's
                         "   4: 0100020A:18EB 0200020A:C004 03 00000000:00000000" +
                         tail +
                         "0 1 0 100 0 0 10 0\n"  // handshake
                         "   5: 0100020A:0050 0200020A:C004 03 00000000:00000000" +
                         tail + "0 1 0 100 0 0 10 0\n");  // not ours
  auto f = inspect();
  EXPECT_EQ(f.tcp_listening, 1U);
  EXPECT_EQ(f.tcp_established, 1U);
  EXPECT_EQ(f.tcp_loopback, 1U);
  EXPECT_EQ(f.established_by_port.at(0x18EB), 1U);
  EXPECT_EQ(f.tcp_hosts, 1U);
  EXPECT_TRUE(f.bound_to_address.empty()) << "it listens on all addresses";
  EXPECT_EQ(count(f, Trait::kSynReceived), 1U);
  ASSERT_EQ(count(f, Trait::kBacklog), 1U);
  EXPECT_EQ(f.find(Trait::kBacklog)->amount, 2U);
}

TEST_F(RecordedTree, RawAndPacketSocketsByTheirTables) {
  fd(3, "socket:[900]");
  fd(4, "socket:[901]");
  put("100/net/raw",
      "  sl  local_address rem_address   st\n   1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 "
      "00000000 0 0 900 2 0 0\n");
  put("100/net/packet", "sk RefCnt Type Proto Iface R Rmem User Inode\n0 3 3 0003 2 1 0 0 901\n");
  auto f = inspect();
  ASSERT_EQ(count(f, Trait::kRawSocket), 2U);
}

TEST_F(RecordedTree, MemoryIsSummed) {
  process(200, 100, "child");
  for (int pid : {100, 200})
    put(fmt::format("{}/smaps_rollup", pid),
        "0-1 ---p 0 0 0 [rollup]\nRss: 300 kB\nPss: 200 kB\nPss_Anon: 100 kB\nPss_Shmem: 50 kB\nSwapPss: 10 kB\n");
  auto f = inspect();
  EXPECT_EQ(f.memory_bytes, 2U * 210 * 1024);
  EXPECT_EQ(f.anonymous_bytes, 2U * 110 * 1024);
  EXPECT_EQ(f.shared_bytes, 2U * 50 * 1024);
}

TEST_F(RecordedTree, GoneProcessesAreSkippedGoneInitIsSaid) {
  pids_.push_back(777);
  EXPECT_EQ(inspect().processes, 1U);
  auto r = inspect_tasks(778, {}, {.proc = dir_});
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kNotFound);
}

// ---- the real thing: this very process, and children of it
class RealTree : public testing::Test {
 protected:
  static TaskFindings inspect(std::vector<pid_t> pids = {}) {
    auto r = inspect_tasks(::getpid(), pids);
    EXPECT_TRUE(r) << r.error().message();
    return r ? *r : TaskFindings{};
  }
  static uint64_t count(const TaskFindings& f, Trait trait) {
    const Seen* seen = f.find(trait);
    return seen == nullptr ? 0 : seen->count;
  }
  // The thread sanitizer maps a deleted file of its own.
  const uint64_t ghosts_before_ = count(inspect(), Trait::kGhostFile);
};

TEST_F(RealTree, DeletedFilesCountOnceWithTheirSize) {
  std::string path = std::filesystem::canonical(testing::TempDir()).string() + "/ghostXXXXXX";
  Fd file(::mkstemp(path.data()));
  ASSERT_TRUE(write_all(file.get(), std::string(1U << 20, 'x')));
  EXPECT_EQ(count(inspect(), Trait::kGhostFile), ghosts_before_);
  ASSERT_EQ(::unlink(path.c_str()), 0);
  Fd again(::dup(file.get()));
  auto f = inspect();
  ASSERT_EQ(count(f, Trait::kGhostFile), ghosts_before_ + 1);
  const Seen& ghosts = *f.find(Trait::kGhostFile);
  EXPECT_GE(ghosts.amount, 1U << 20);
  EXPECT_THAT(ghosts.examples, testing::Contains(testing::Field(&Seen::Example::detail, path)));
}

TEST_F(RealTree, DeletedNameWithAnotherLink) {
  std::string path = testing::TempDir() + "/linkedXXXXXX";
  Fd file(::mkstemp(path.data()));
  std::string other = path + ".other";
  ASSERT_EQ(::link(path.c_str(), other.c_str()), 0);
  ASSERT_EQ(::unlink(path.c_str()), 0);
  EXPECT_EQ(count(inspect(), Trait::kLinkedGhost), 1U);
  ASSERT_EQ(::unlink(other.c_str()), 0);
}

TEST_F(RealTree, LocksInotifyAndMemfds) {
  std::string path = testing::TempDir() + "/lockXXXXXX";
  Fd file(::mkstemp(path.data()));
  struct flock lock{};
  lock.l_type = F_WRLCK;
  ASSERT_EQ(::fcntl(file.get(), F_SETLK, &lock), 0);
  Fd watch(::inotify_init1(IN_CLOEXEC));
  ASSERT_GE(::inotify_add_watch(watch.get(), path.c_str(), IN_MODIFY), 0);
  Fd memory(::memfd_create("mine", MFD_CLOEXEC));
  auto f = inspect();
  EXPECT_EQ(count(f, Trait::kFileLock), 1U);
  auto info = read_file(fmt::format("/proc/self/fdinfo/{}", watch.get()));
  ASSERT_TRUE(info);
  struct stat s{};
  ASSERT_EQ(::fstat(file.get(), &s), 0);
  auto watched = parse_fdinfo(*info).watched;
  ASSERT_EQ(watched.size(), 1U);
  EXPECT_EQ(watched[0], fmt::format("{}:{}", major(s.st_dev), minor(s.st_dev)));
  EXPECT_EQ(count(f, Trait::kGhostFile), ghosts_before_) << "a memfd is no deleted file";
  ASSERT_EQ(::unlink(path.c_str()), 0);
}

TEST_F(RealTree, UnixSocketPairIsExternalOnceTheOtherEndLeaves) {
  int ends[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  Fd mine(ends[0]);
  Fd theirs(ends[1]);
  EXPECT_EQ(count(inspect(), Trait::kExternalUnixSocket), 0U) << "both ends are inside";
  auto sync = make_pipe();
  pid_t child = ::fork();
  if (child == 0) {
    mine.reset();
    char c = 0;
    sync->write.reset();
    (void)!::read(sync->read.get(), &c, 1);
    ::_exit(0);
  }
  theirs.reset();
  EXPECT_EQ(count(inspect(), Trait::kExternalUnixSocket), 1U);
  auto both = inspect({child});
  EXPECT_EQ(count(both, Trait::kExternalUnixSocket), 0U);
  EXPECT_EQ(count(both, Trait::kExecSession), 0U);
  sync->write.reset();
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST_F(RealTree, NetlinkSocketIsNamedByTheKernel) {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0));
  ASSERT_TRUE(socket.valid());
  EXPECT_EQ(count(inspect(), Trait::kNetlinkSocket), 1U);
}

TEST_F(RealTree, MemoryIsMeasured) {
  constexpr size_t kSize = 32U << 20;
  uint64_t before = inspect().anonymous_bytes;
  void* p = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  ASSERT_NE(p, MAP_FAILED);
  uint64_t after = inspect().anonymous_bytes;
  EXPECT_GE(after, before + kSize - (1U << 20));
  ASSERT_EQ(::munmap(p, kSize), 0);
}

TEST(ProcText, MountPointsHaveTheirEscapesUndone) {
  auto mounts = parse_mountinfo("50 1 0:60 / /a\\040b rw,relatime shared:1 - ext4 /dev/vda rw\nnonsense\n");
  ASSERT_EQ(mounts.size(), 1U);
  EXPECT_EQ(mounts[0].point, "/a b");
  EXPECT_EQ(mounts[0].type, "ext4");
}

TEST(ProcText, GarbageIsSkipped) {
  EXPECT_TRUE(parse_maps("x\n\n-\n1-2 r 0 0 0\nzz-yy rwxp 0 0 0\n").empty());
  EXPECT_TRUE(parse_inet_sockets("a b c d e f g h i j\n").empty());
  EXPECT_EQ(parse_fdinfo("lock:\n\tinotify\n").locks.size(), 0U);
  EXPECT_EQ(parse_fdinfo("inotify wd:1\n").watched.at(0), "");
}

}  // namespace
}  // namespace transship::sys
