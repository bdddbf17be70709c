#include "storage/tree_delta.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include <filesystem>
#include <set>

#include "base/text.h"
#include "base/thread.h"
#include "storage/test_tree.h"

namespace transship::storage {
namespace {

namespace fs = std::filesystem;
using namespace transship::storage::testing;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

std::string read_text(const std::string& path) {
  auto fd = open_file(path, O_RDONLY);
  if (!fd) return fd.error().message();
  std::string text(1 << 20, '\0');
  ssize_t n = ::read(fd->get(), text.data(), text.size());
  text.resize(n > 0 ? static_cast<size_t>(n) : 0);
  return text;
}

void expect_same(const TempDir& from, const TempDir& to) {
  EXPECT_THAT(describe(to.path()), ElementsAreArray(describe(from.path())));
}

TEST(TreeDelta, ANastyTreeArrivesAsItIs) {
  TempDir from, to;
  auto missing = make_nasty_tree(from.path());
  auto scan = move_round(from, to, nullptr);
  ASSERT_TRUE(scan) << scan.error().message();
  expect_same(from, to);
  // Said last, so that everything else was checked also where something is not possible.
  if (!missing.empty()) GTEST_SKIP() << "not root, or a file system without it; left out: " << join(missing, "; ");
}

TEST(TreeDelta, SizeOnDiskCountsHardLinksOnceAndNoHoles) {
  TempDir tree;
  fs::create_directory(tree / "inside");
  write_text(tree / "inside/file", std::string(10'000, 'x'));
  ASSERT_EQ(::link((tree / "inside/file").c_str(), (tree / "second-name").c_str()), 0);
  write_text(tree / "hole", "");
  fs::resize_file(tree / "hole", 64U << 20);
  auto scan = scan_tree(tree.fd(), never());
  ASSERT_TRUE(scan) << scan.error().message();
  EXPECT_GE(scan->disk_bytes(), 10'000U);
  EXPECT_LT(scan->disk_bytes(), 20'000U);
  EXPECT_EQ(scan->entries(), 5U) << "the root, a directory and three names";
}

TEST(TreeDelta, WhatCriuMakesForAMomentIsLeftOut) {
  TempDir tree;
  namespace fs = std::filesystem;
  auto make = [&](const std::string& name, bool secret = true) {
    fs::create_directories(tree.path() + "/" + name);
    fs::permissions(tree.path() + "/" + name, secret ? fs::perms::owner_all : fs::perms(0755));
  };
  make("tmp", false);
  make("cr-tmpfs.a1B2c3");
  make("tmp/cr-tmpfs.6lk5zo");
  make("tmp/cr-tmpfs.else", true);
  make("tmp/cr-tmpfs.public", false);
  make("home", false);
  make("home/cr-tmpfs.6lk5zo");
  auto scan = scan_tree(tree.fd(), never());
  ASSERT_TRUE(scan) << scan.error().message();
  std::set<std::string> names;
  for (uint32_t i = 1; i < scan->nodes().size(); ++i) names.insert(scan->path(i));
  EXPECT_EQ(names,
            (std::set<std::string>{"home", "home/cr-tmpfs.6lk5zo", "tmp", "tmp/cr-tmpfs.else", "tmp/cr-tmpfs.public"}));
}

TEST(TreeDelta, NothingChangedSendsNothing) {
  TempDir from, to;
  (void)make_nasty_tree(from.path());
  settle();
  auto first = move_round(from, to, nullptr);
  ASSERT_TRUE(first) << first.error().message();
  RoundStats stats;
  auto second = move_round(from, to, &*first, {.must_be_still = true}, &stats);
  ASSERT_TRUE(second) << second.error().message();
  EXPECT_EQ(stats.entries, 0U);
  EXPECT_EQ(stats.deletions, 0U);
  EXPECT_EQ(stats.unsettled, 0U);
  expect_same(from, to);
}

TEST(TreeDelta, SecondRoundBringsEveryKindOfChange) {
  TempDir from, to;
  (void)make_nasty_tree(from.path());
  settle();
  auto first = move_round(from, to, nullptr);
  ASSERT_TRUE(first) << first.error().message();
  write_text(from / "big", "now small");
  ASSERT_EQ(::chmod((from / "suid").c_str(), 0600), 0);
  ASSERT_EQ(::unlink((from / "links/a-second").c_str()), 0);
  ASSERT_EQ(::link((from / "links/z-first").c_str(), (from / "empty/another-link").c_str()), 0);
  fs::rename(from / "names", from / "renamed");
  fs::rename(from / "islands", from / "empty/er/islands");
  fs::remove(from / "fifo");
  fs::create_directory(from / "fifo");
  write_text(from / "fifo/inside", "a directory where a FIFO was");
  fs::remove_all(from / "sticky");
  ASSERT_EQ(::symlink("empty", (from / "sticky").c_str()), 0);
  fs::remove(from / "long-target");
  write_text(from / "long-target", "a file where a link was");
  (void)::lremovexattr((from / "opaque").c_str(), "trusted.overlay.opaque");
  fs::remove(from / "whiteout");
  fs::create_directory(from / "whiteout");
  settle();
  RoundStats stats;
  auto second = move_round(from, to, &*first, {.must_be_still = true}, &stats);
  ASSERT_TRUE(second) << second.error().message();
  expect_same(from, to);
  EXPECT_GE(stats.deletions, 3U);
  EXPECT_LT(stats.data_bytes, 1'000'000U);
}

TEST(TreeDelta, AChangeInsideADirectoryKeepsTheDirectorysTimes) {
  TempDir from, to;
  fs::create_directories(from / "d");
  write_text(from / "d/f", "one");
  timespec t[2] = {{7, 8}, {9, 10}};
  ASSERT_EQ(::utimensat(AT_FDCWD, (from / "d").c_str(), t, 0), 0);
  settle();
  auto first = move_round(from, to, nullptr);
  ASSERT_TRUE(first);
  write_text(from / "d/f", "two");
  auto second = move_round(from, to, &*first);
  ASSERT_TRUE(second);
  expect_same(from, to);
}

TEST(TreeDelta, AChangeInTheSameTickIsSentAgain) {
  TempDir from, to;
  write_text(from / "f", "aaaa");
  RoundStats stats;
  auto first = move_round(from, to, nullptr, {}, &stats);
  ASSERT_TRUE(first);
  EXPECT_GE(stats.unsettled, 1U);
  auto again = move_round(from, to, &*first, {}, &stats);
  ASSERT_TRUE(again);
  EXPECT_GE(stats.entries, 1U) << "just written, so the next write need not show in its time";
}

TEST(TreeDelta, AFileThatIsWrittenWhileItIsReadDoesNotBreakTheStream) {
  TempDir from, to;
  write_text(from / "log", std::string(8 << 20, 'x'));
  write_text(from / "other", "steady");
  settle();
  auto cancel = never();
  Thread writer("churn", [&] {
    for (int i = 0; !cancel.cancelled(); ++i) {
      off_t size = (i % 3) * (4 << 20);
      (void)!::truncate((from / "log").c_str(), size);
      write_text(from / fmt::format("new-{}", i % 50), "short-lived");
      if (i % 2 == 1) (void)::unlink((from / fmt::format("new-{}", (i * 7) % 50)).c_str());
      ::usleep(200);
    }
  });
  std::vector<Scan> scans;
  for (int round = 0; round < 5; ++round) {
    auto scan = move_round(from, to, scans.empty() ? nullptr : &scans.back());
    ASSERT_TRUE(scan) << scan.error().message();
    scans.push_back(std::move(*scan));
  }
  cancel.cancel("enough");
  writer.join();
  auto last = move_round(from, to, &scans.back(), {.must_be_still = true});
  ASSERT_TRUE(last) << last.error().message();
  expect_same(from, to);
}

// A process inside an overlay of its own, as in a container, with "/mapped" mapped shared. Every byte on `commands`
// makes it write through the mapping once more.
class MappingProcess {
 public:
  explicit MappingProcess(const std::string& merged)
      : commands_(std::move(*make_pipe())), answers_(std::move(*make_pipe())) {
    pid_ = ::fork();
    if (pid_ == 0) inside(merged.c_str());
    answers_.write.reset();
  }
  ~MappingProcess() {
    commands_.write.reset();
    (void)::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  bool write_once() {
    char c = 'x';
    return write_all(commands_.write.get(), std::string_view(&c, 1)) && ::read(answers_.read.get(), &c, 1) == 1;
  }

 private:
  [[noreturn]] void inside(const char* merged) {
    commands_.write.reset();
    bool ok = ::unshare(CLONE_NEWNS) == 0 && ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
              ::mount(merged, merged, nullptr, MS_BIND, nullptr) == 0 && ::chdir(merged) == 0 &&
              ::syscall(SYS_pivot_root, ".", ".") == 0 && ::umount2(".", MNT_DETACH) == 0;
    int fd = ok ? ::open("/mapped", O_RDWR | O_CLOEXEC) : -1;
    void* memory = ::mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) ::_exit(1);
    char c = 0;
    for (int i = 0; ::read(commands_.read.get(), &c, 1) == 1; ++i) {
      static_cast<char*>(memory)[i] = static_cast<char>('A' + i);
      if (::write(answers_.write.get(), &c, 1) != 1) break;
    }
    ::_exit(0);
  }
  Pipe commands_, answers_;
  pid_t pid_ = -1;
};

TEST(TreeDelta, WritesThroughAMappingAreFoundAndSent) {
  TempDir base, to;
  if (::mount("tmpfs", base.path().c_str(), "tmpfs", 0, "size=16m") != 0)
    GTEST_SKIP() << "mount: " << errno_text(errno);
  for (const char* d : {"lower", "upper", "work", "merged"}) fs::create_directory(base / d);
  write_text(base / "lower/mapped", std::string(4096, 'a'));
  auto options = fmt::format("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", base.path());
  bool mounted = ::mount("overlay", (base / "merged").c_str(), "overlay", 0, options.c_str()) == 0;
  if (mounted) {
    MappingProcess process(base / "merged");
    EXPECT_TRUE(process.write_once());  // the first write to the page makes a fault, and a new time; the next do not
    settle();
    auto upper = open_file(base / "upper", O_RDONLY | O_DIRECTORY);
    auto first = move_round(upper->get(), to, nullptr);
    EXPECT_TRUE(first) << first.error().message();
    EXPECT_TRUE(process.write_once());
    auto maps = shared_writable_inodes({process.pid()}, upper->get());
    EXPECT_TRUE(maps) << maps.error().message();
    EXPECT_EQ(maps->inodes.size(), 1U);
    EXPECT_THAT(maps->unresolved, ::testing::IsEmpty());
    auto second = move_round(upper->get(), to, &*first, {.always_resend = maps->inodes, .must_be_still = true});
    EXPECT_TRUE(second) << second.error().message();
    EXPECT_EQ(read_text(to / "mapped").substr(0, 3), "ABa");
  }
  (void)::umount2((base / "merged").c_str(), MNT_DETACH);
  ASSERT_EQ(::umount2(base.path().c_str(), MNT_DETACH), 0);
  if (!mounted) GTEST_SKIP() << "no overlay here";
}

TEST(TreeDelta, ATreeOfWhatOverlayKeepsForItselfIsCleaned) {
  TempDir from, to;
  write_text(from / "f", "x");
  if (::lsetxattr((from / "f").c_str(), "trusted.overlay.origin", "id", 2, 0) != 0) GTEST_SKIP() << "no trusted.* here";
  ASSERT_TRUE(move_round(from, to, nullptr));
  EXPECT_EQ(::lgetxattr((to / "f").c_str(), "trusted.overlay.origin", nullptr, 0), -1);
}

TEST(TreeDelta, AMetacopyFileNeedsTheMergedView) {
  TempDir from, to, merged;
  write_text(from / "f", "");
  ASSERT_EQ(::truncate((from / "f").c_str(), 8), 0);
  write_text(merged / "f", "contents");
  if (::lsetxattr((from / "f").c_str(), "trusted.overlay.metacopy", "", 0, 0) != 0) GTEST_SKIP() << "no trusted.* here";
  auto r = move_round(from, to, nullptr);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kKernelFeatureMissing);
  EXPECT_THAT(r.error().remedy(), HasSubstr("metacopy=on"));
  auto with = move_round(from, to, nullptr, {.merged_fd = merged.fd()});
  ASSERT_TRUE(with) << with.error().message();
  EXPECT_EQ(read_text(to / "f"), "contents");
  EXPECT_EQ(::lgetxattr((to / "f").c_str(), "trusted.overlay.metacopy", nullptr, 0), -1);
}

TEST(TreeDelta, SourceFollowsNoLinkThatReplacesADirectory) {
  TempDir from, to, secret;
  write_text(secret / "shadow", "secret");
  fs::create_directory(from / "d");
  write_text(from / "d/shadow", "mine");
  auto cancel = never();
  Thread swapper("swapper", [&] {
    while (!cancel.cancelled()) {
      (void)::rename((from / "d").c_str(), (from / "kept").c_str());
      (void)!::symlink(secret.path().c_str(), (from / "d").c_str());
      (void)::unlink((from / "d").c_str());
      (void)::rename((from / "kept").c_str(), (from / "d").c_str());
    }
  });
  for (int i = 0; i < 100 && !::testing::Test::HasFailure(); ++i) {
    TempDir copy;
    auto r = move_round(from, copy, nullptr);
    EXPECT_TRUE(r) << r.error().message();                       // not ASSERT: somebody has to end the swapper
    bool link = fs::is_symlink(fs::symlink_status(copy / "d"));  // copied as what it is: fine
    EXPECT_TRUE(link || read_text(copy / "d/shadow") != "secret");
  }
  cancel.cancel("enough");
}

TEST(TreeDelta, ADiskThatIsFullSaysSo) {
  TempDir from, to;
  write_text(from / "big", std::string(3 << 20, 'x'));
  if (::mount("tmpfs", to.path().c_str(), "tmpfs", 0, "size=1m") != 0) GTEST_SKIP() << "mount: " << errno_text(errno);
  auto fd = open_file(to.path(), O_RDONLY | O_DIRECTORY);
  auto cancel = never();
  auto pipe = StreamPipe::create(cancel, milliseconds(20'000));
  Thread sender("send", [&] {
    auto r = send_round(from.fd(), **pipe, nullptr, {}, cancel);
    if (r) (*pipe)->finish();
  });
  auto r = apply_round(fd->get(), **pipe, {}, cancel);
  (*pipe)->fail_writer(Error(Errc::kNoSpace, "full"));
  fd->reset();
  ASSERT_EQ(::umount2(to.path().c_str(), MNT_DETACH), 0);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kNoSpace);
  EXPECT_THAT(r.error().message(), HasSubstr("big"));
  EXPECT_THAT(r.error().remedy(), HasSubstr("free space"));
}

// In the middle of a file, with nothing written after the failure: neither padding nor an end that looks complete.
TEST(TreeDelta, AWriterThatFailsEndsTheRoundAtOnce) {
  struct Broken final : Writer {
    Result<> write(std::span<const std::byte> data) override {
      if ((left -= static_cast<int64_t>(data.size())) > 0) return {};
      ++refused;
      return fail(Errc::kUnavailable, "lane 1 broke");
    }
    int64_t left = 1 << 20;
    int refused = 0;
  };
  TempDir from;
  write_text(from / "big", std::string(8 << 20, 'x'));
  Broken out;
  auto r = send_round(from.fd(), out, nullptr, {}, never());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().message(), "big: lane 1 broke");
  EXPECT_EQ(out.refused, 1);
}

TEST(TreeDelta, CancelEndsARound) {
  TempDir from, to;
  write_text(from / "f", "x");
  auto cancel = never();
  cancel.cancel("by hand");
  auto pipe = StreamPipe::create(cancel, milliseconds(20'000));
  auto r = send_round(from.fd(), **pipe, nullptr, {}, cancel);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kCancelled);
}

TEST(Overlay, ChangesBelowAMountedOverlayShowAfterRefresh) {
  TempDir base, from;
  if (::mount("tmpfs", base.path().c_str(), "tmpfs", 0, "size=16m") != 0)
    GTEST_SKIP() << "mount: " << errno_text(errno);
  for (const char* d : {"lower", "upper", "work", "merged"}) fs::create_directory(base / d);
  write_text(base / "lower/passwd", "old");
  write_text(base / "lower/gone", "old");
  auto options = fmt::format("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", base.path());
  bool mounted = ::mount("overlay", (base / "merged").c_str(), "overlay", 0, options.c_str()) == 0;
  if (mounted) {
    EXPECT_EQ(read_text(base / "merged/passwd"), "old");  // overlay remembers both names from here on
    EXPECT_EQ(read_text(base / "merged/gone"), "old");
    EXPECT_FALSE(fs::exists(base / "merged/new"));
    write_text(from / "passwd", "changed");
    write_text(from / "new", "new");
    EXPECT_EQ(::mknod((from / "gone").c_str(), S_IFCHR, 0), 0);
    auto upper = open_file(base / "upper", O_RDONLY | O_DIRECTORY);
    auto cancel = never();
    auto pipe = StreamPipe::create(cancel, milliseconds(20'000));
    EXPECT_TRUE(send_round(from.fd(), **pipe, nullptr, {}, cancel));
    (*pipe)->finish();
    EXPECT_TRUE(apply_round(upper->get(), **pipe, {}, cancel));
    EXPECT_EQ(read_text(base / "merged/passwd"), "old") << "this kernel needs no refresh: is it still worth having?";
    auto r = refresh_overlay(base / "merged");
    EXPECT_TRUE(r) << r.error().message();
    EXPECT_EQ(read_text(base / "merged/passwd"), "changed");
    EXPECT_EQ(read_text(base / "merged/new"), "new");
    EXPECT_FALSE(fs::exists(base / "merged/gone"));
    (void)::umount2((base / "merged").c_str(), 0);
  }
  ASSERT_EQ(::umount2(base.path().c_str(), MNT_DETACH), 0);
  if (!mounted) GTEST_SKIP() << "no overlay here";
}

}  // namespace
}  // namespace transship::storage
