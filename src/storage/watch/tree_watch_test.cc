// Every way to change a tree, on each file system: the watch must find what a walk finds.
#include "storage/watch/tree_watch.h"

#include <gmock/gmock.h>
#include <linux/aio_abi.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include <filesystem>

#include "storage/watch/open_files.h"
#include "storage/watch/watch_test.h"

namespace transship::storage {
namespace {

namespace fs = std::filesystem;
using namespace transship::storage::testing;
using ::testing::HasSubstr;

class TreeWatchOn : public ::testing::TestWithParam<FileSystem> {};

void append(const std::string& path, std::string_view text) {
  auto fd = open_file(path, O_WRONLY | O_APPEND);
  ASSERT_TRUE(fd) << fd.error().message();
  ASSERT_TRUE(write_all(fd->get(), text));
}

void bind_socket(const std::string& dir, const std::string& name) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  Fd where(::open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  auto path = fmt::format("/proc/self/fd/{}/{}", where.get(), name);
  path.copy(static_cast<char*>(address.sun_path), sizeof address.sun_path - 1);
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0) << errno_text(errno);
}

void make_base(const WatchedTree& t) {
  fs::create_directories(t / "a/b/c");
  fs::create_directories(t / "d/e");
  for (const char* name : {"top", "a/one", "a/two", "a/b/three", "a/b/c/four", "d/five", "d/e/six"})
    write_text(t / name, name);
  fs::create_hard_link(t / "a/one", t / "d/linked");
  write_text(t.fs.outside() + "/there", "there");
  fs::create_directories(t.fs.outside() + "/dir/below");
  write_text(t.fs.outside() + "/dir/below/file", "x");
}

struct Operation {
  const char* what;
  std::function<void(WatchedTree&)> run;
};

bool ok(int result) {
  EXPECT_EQ(result, 0) << errno_text(errno);
  return result == 0;
}

std::vector<Operation> attribute_operations() {
  using T = WatchedTree;
  return {
      {"nothing", [](T&) {}},
      {"write", [](T& t) { write_text(t / "a/two", "other"); }},
      {"append", [](T& t) { append(t / "a/b/three", "more"); }},
      {"truncate", [](T& t) { fs::resize_file(t / "a/b/c/four", 100'000); }},
      {"fallocate", [](T& t) { ok(::fallocate(open_file(t / "top", O_RDWR)->get(), 0, 0, 10'000)); }},
      {"chmod", [](T& t) { ok(::chmod((t / "d/five").c_str(), 0600)); }},
      {"chmod of a directory", [](T& t) { ok(::chmod((t / "a/b").c_str(), 0711)); }},
      {"chmod of the root", [](T& t) { ok(::chmod(t.fs.tree().c_str(), 0711)); }},
      {"chown", [](T& t) { ok(::chown((t / "d/e/six").c_str(), 7, 8)); }},
      {"setxattr", [](T& t) { ok(::setxattr((t / "a/two").c_str(), "trusted.x", "1", 1, 0)); }},
      {"setxattr of a directory", [](T& t) { ok(::setxattr((t / "d").c_str(), "trusted.x", "1", 1, 0)); }},
      {"removexattr", [](T& t) { ok(::removexattr((t / "a/two").c_str(), "trusted.x")); }},
      {"utimens",
       [](T& t) {
         timespec times[2] = {{5, 6}, {7, 8}};
         ok(::utimensat(AT_FDCWD, (t / "top").c_str(), times, 0));
       }},
      {"rename one of two names",
       [](T& t) { fs::rename(t / "a/one", t / "a/eins"), fs::rename(t / "a/eins", t / "a/one"); }},
      {"write to a file with two names", [](T& t) { append(t / "d/linked", "more"); }},
  };
}

std::vector<Operation> name_operations() {
  using T = WatchedTree;
  return {
      {"create", [](T& t) { write_text(t / "a/b/c/new", "new"); }},
      {"mkdir -p", [](T& t) { fs::create_directories(t / "p/q/r/s/t/u"), write_text(t / "p/q/r/s/t/u/f", "f"); }},
      {"link", [](T& t) { fs::create_hard_link(t / "top", t / "a/b/top"); }},
      {"unlink one of two names", [](T& t) { fs::remove(t / "top"); }},
      {"symlink", [](T& t) { fs::create_symlink("a/b", t / "symlink"); }},
      {"mknod", [](T& t) { ok(::mknod((t / "d/null").c_str(), S_IFCHR | 0600, makedev(1, 3))); }},
      {"fifo", [](T& t) { ok(::mkfifo((t / "d/fifo").c_str(), 0600)); }},
      {"socket", [](T& t) { bind_socket(t / "d", "socket"); }},
      {"unlink and create", [](T& t) { fs::remove(t / "a/two"), write_text(t / "a/two", "again"); }},
      {"rmdir and a file in its place",
       [](T& t) { fs::remove_all(t / "p/q/r/s/t/u"), write_text(t / "p/q/r/s/t/u", ""); }},
      {"rmdir and mkdir", [](T& t) { fs::remove_all(t / "p/q/r"), fs::create_directory(t / "p/q/r"); }},
      {"rename", [](T& t) { fs::rename(t / "a/two", t / "a/zwei"); }},
      {"rename into another directory", [](T& t) { fs::rename(t / "a/zwei", t / "d/e/zwei"); }},
      {"rename over", [](T& t) { fs::rename(t / "d/e/zwei", t / "d/five"); }},
      {"rename a directory", [](T& t) { fs::rename(t / "a/b", t / "a/x"); }},
      {"in the renamed directory", [](T& t) { append(t / "a/x/c/four", "y"), write_text(t / "a/x/c/z", ""); }},
      {"move a directory", [](T& t) { fs::rename(t / "a/x", t / "d/e/x"); }},
      {"move a directory over an empty one",
       [](T& t) { fs::create_directory(t / "empty"), fs::rename(t / "d/e", t / "empty"); }},
      {"exchange",
       [](T& t) { ok(::renameat2(AT_FDCWD, (t / "empty").c_str(), AT_FDCWD, (t / "p/q").c_str(), RENAME_EXCHANGE)); }},
      {"exchange a file and a directory",
       [](T& t) {
         ok(::renameat2(AT_FDCWD, (t / "d/five").c_str(), AT_FDCWD, (t / "p/q/x").c_str(), RENAME_EXCHANGE));
       }},
      {"away and back with other contents",
       [](T& t) {
         fs::rename(t / "p", t.fs.outside() + "/p");
         write_text(t.fs.outside() + "/p/q/while-away", "");
         fs::create_directories(t.fs.outside() + "/p/more/below");
         fs::rename(t.fs.outside() + "/p", t / "p");
       }},
      {"names of any bytes",
       [](T& t) { write_text(t / "d/\xff\n\x01 \\", ""), write_text(t / ("d/" + std::string(255, '\xfe')), ""); }},
      {"remove those",
       [](T& t) { fs::remove(t / "d/\xff\n\x01 \\"), fs::remove(t / ("d/" + std::string(255, '\xfe'))); }},
      {"a temporary file",
       [](T& t) {
         auto fd = open_file(t.fs.tree(), O_TMPFILE | O_RDWR, 0600);
         ASSERT_TRUE(fd) << fd.error().message();
         ok(::linkat(AT_FDCWD, fmt::format("/proc/self/fd/{}", fd->get()).c_str(), AT_FDCWD, (t / "named").c_str(),
                     AT_SYMLINK_FOLLOW));
         t.check("a temporary file gets a name");
         ASSERT_TRUE(write_all(fd->get(), "after that"));
       }},
      {"rm -r", [](T& t) { fs::remove_all(t / "a"), fs::remove_all(t / "p"); }},
  };
}

std::vector<Operation> outside_operations() {
  using T = WatchedTree;
  return {
      {"link to the outside", [](T& t) { fs::create_hard_link(t / "top", t.fs.outside() + "/top"); }},
      {"write there", [](T& t) { append(t.fs.outside() + "/top", "more"); }},
      {"rename there",
       [](T& t) {
         fs::rename(t.fs.outside() + "/top", t.fs.outside() + "/peak");
         fs::rename(t.fs.outside() + "/peak", t.fs.outside() + "/top");
       }},
      {"chmod there", [](T& t) { ok(::chmod((t.fs.outside() + "/top").c_str(), 0640)); }},
      {"unlink there", [](T& t) { fs::remove(t.fs.outside() + "/top"); }},
      {"link from the outside", [](T& t) { fs::create_hard_link(t.fs.outside() + "/there", t / "a/there"); }},
      {"write by a name that is gone",
       [](T& t) {
         auto fd = open_file(t.fs.outside() + "/there", O_WRONLY | O_APPEND);
         ASSERT_TRUE(fd);
         fs::remove(t.fs.outside() + "/there");
         t.check("the other name is gone");
         ASSERT_TRUE(write_all(fd->get(), "more"));
       }},
      {"move in", [](T& t) { fs::rename(t.fs.outside() + "/dir", t / "a/dir"); }},
      {"write what was moved in", [](T& t) { append(t / "a/dir/below/file", "more"); }},
      {"move out", [](T& t) { fs::rename(t / "a", t.fs.outside() + "/a"); }},
      {"write what was moved out", [](T& t) { append(t.fs.outside() + "/a/dir/below/file", "more"); }},
      {"move in again", [](T& t) { fs::rename(t.fs.outside() + "/a", t / "d/a"); }},
      {"the whole tree moves",
       [](T& t) { fs::rename(t.fs.tree(), t.fs.outside() + "/tree"), write_text(t.fs.outside() + "/tree/new", ""); }},
      {"the tree moves back", [](T& t) { fs::rename(t.fs.outside() + "/tree", t.fs.tree()); }},
  };
}

void run_all(WatchedTree& t, const std::vector<Operation>& operations, bool one_by_one) {
  if (!t.fs.missing().empty()) GTEST_SKIP() << t.fs.missing();
  make_base(t);
  ASSERT_NO_FATAL_FAILURE(t.watch());
  for (const auto& o : operations) {
    o.run(t);
    if (one_by_one) t.check(o.what);
    if (::testing::Test::HasFatalFailure()) return;
  }
  t.check("at last");
}

TEST_P(TreeWatchOn, FindsAttributesAndContents) {
  WatchedTree t(GetParam());
  run_all(t, attribute_operations(), true);
}

TEST_P(TreeWatchOn, FindsNames) {
  WatchedTree t(GetParam());
  run_all(t, name_operations(), true);
}

TEST_P(TreeWatchOn, FindsWhatIsDoneFromOutside) {
  WatchedTree t(GetParam());
  run_all(t, outside_operations(), true);
}

TEST_P(TreeWatchOn, FindsEverythingAtOnce) {
  WatchedTree t(GetParam());
  auto all = attribute_operations();
  for (auto& o : name_operations()) all.push_back(std::move(o));
  run_all(t, all, false);
}

TEST_P(TreeWatchOn, LooksAtWhatIsNotTold) {
  WatchedTree t(GetParam());
  if (!t.fs.missing().empty()) GTEST_SKIP() << t.fs.missing();
  make_base(t);
  write_text(t / "mapped", std::string(8192, 'm'));
  auto fd = open_file(t / "mapped", O_RDWR);
  ASSERT_TRUE(fd);
  ASSERT_NO_FATAL_FAILURE(t.watch());
  settle();
  void* memory = ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd->get(), 0);
  ASSERT_NE(memory, MAP_FAILED);
  *static_cast<volatile char*>(memory) = 'x';
  ASSERT_EQ(::munmap(memory, 8192), 0);
  settle();
  auto not_told = t.follow->scan(&*t.last, {}, never());
  ASSERT_TRUE(not_told) << not_told.error().message();
  EXPECT_EQ(t.follow->stats().looked_at, 0U) << "it is told? Then nobody need say which files are open";
  t.last = std::move(*not_told);
  t.look_too = *inodes_open_for_writing({::getpid()});
  t.check("written through a mapping, open still");
  aio_context_t context = 0;
  ASSERT_EQ(::syscall(SYS_io_setup, 1, &context), 0) << errno_text(errno);
  std::string text = "asynchronous";
  iocb request = {};
  request.aio_fildes = static_cast<uint32_t>(fd->get());
  request.aio_lio_opcode = IOCB_CMD_PWRITE;
  request.aio_buf = reinterpret_cast<uint64_t>(text.data());
  request.aio_nbytes = text.size();
  request.aio_offset = 8192;
  iocb* requests[] = {&request};
  io_event event = {};
  EXPECT_EQ(::syscall(SYS_io_submit, context, 1, requests), 1);
  EXPECT_EQ(::syscall(SYS_io_getevents, context, 1, 1, &event, nullptr), 1);
  (void)::syscall(SYS_io_destroy, context);
  t.check("written by asynchronous I/O, open still");
  t.look_too.clear();
  fd->reset();
  t.check("closed");
}

INSTANTIATE_TEST_SUITE_P(, TreeWatchOn,
                         ::testing::Values(FileSystem::kBuildDirectory, FileSystem::kTmpfs, FileSystem::kXfs,
                                           FileSystem::kBtrfs, FileSystem::kBtrfsSubvolume),
                         [](const auto& p) { return name_of(p.param); });

TEST(TreeWatch, SaysWhyItCannotFollowAnOverlay) {
  TestFileSystem overlay(FileSystem::kOverlay);
  if (!overlay.missing().empty()) GTEST_SKIP() << overlay.missing();
  auto made = TreeWatch::create(overlay.fd());
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code(), Errc::kKernelFeatureMissing);
  EXPECT_THAT(made.error().message(), HasSubstr("follow changes"));
}

TEST(TreeWatch, LooksAtMountsAndWalksWhenTheyChange) {
  WatchedTree t(FileSystem::kBuildDirectory);
  make_base(t);
  ASSERT_NO_FATAL_FAILURE(t.watch());
  if (::mount("tmpfs", (t / "a/b").c_str(), "tmpfs", 0, "size=1m") != 0) GTEST_SKIP() << errno_text(errno);
  t.check("a mount", "other mounts");
  write_text(t / "a/b/in-the-mount", "");
  t.check("its root changed");
  EXPECT_EQ(::umount((t / "a/b").c_str()), 0);
  t.check("unmounted", "other mounts");
  append(t / "a/b/c/four", "more");
  t.check("what was below");
}

TEST(TreeWatch, WalksWhenEventsWereLost) {
  WatchedTree t(FileSystem::kTmpfs);
  if (!t.fs.missing().empty()) GTEST_SKIP() << t.fs.missing();
  make_base(t);
  // Nobody empties the queue, which holds 16384.
  ASSERT_NO_FATAL_FAILURE(t.watch({.unlimited_queue = false, .gather = milliseconds(600'000)}));
  write_text(t / "first", "");
  fs::create_directory(t / "many");
  for (int i = 0; i < 17'000; ++i) ok(::mknod((t / fmt::format("many/{}", i)).c_str(), S_IFREG | 0600, 0));
  t.check("too many events", "the kernel dropped events");
  write_text(t / "many/1", "again");
  t.check("after that");
}

TEST(TreeWatch, ReadsADirectoryWholeThatChangedALot) {
  WatchedTree t(FileSystem::kTmpfs);
  if (!t.fs.missing().empty()) GTEST_SKIP() << t.fs.missing();
  make_base(t);
  ASSERT_NO_FATAL_FAILURE(t.watch());
  for (int i = 0; i < 4'500; ++i) ok(::mknod((t / fmt::format("a/{}", i)).c_str(), S_IFREG | 0600, 0));
  fs::rename(t / "a/b", t / "a/moved");
  t.check("many new names");
  for (int i = 0; i < 4'500; ++i) fs::remove(t / fmt::format("a/{}", i));
  append(t / "a/moved/c/four", "more");
  t.check("gone again");
}

TEST(TreeWatch, WalksWhenTheScanIsNotTheLastOne) {
  WatchedTree t(FileSystem::kBuildDirectory);
  make_base(t);
  ASSERT_NO_FATAL_FAILURE(t.watch());
  auto older = std::move(t.last);
  t.last = std::move(*t.follow->scan(&*older, {}, never()));
  write_text(t / "new", "");
  t.check("the next");
  t.last = std::move(older);
  t.check("the round after this one had failed", "not the scan before");
}

TEST(TreeWatch, ARoundSendsWhatItWasToldOf) {
  WatchedTree t(FileSystem::kBuildDirectory);
  make_base(t);
  auto made = TreeWatch::create(t.fs.fd());
  ASSERT_TRUE(made) << made.error().message();
  RoundOptions options;
  options.watch = made->get();
  TempDir to;
  settle();
  auto first = move_round(t.fs.fd(), to, nullptr, options);
  ASSERT_TRUE(first) << first.error().message();
  append(t / "a/b/three", "more");
  fs::rename(t / "d", t / "a/d");
  fs::create_directories(t / "x/y/z");
  settle();
  RoundStats stats;
  options.must_be_still = true;
  auto second = move_round(t.fs.fd(), to, &*first, options, &stats);
  ASSERT_TRUE(second) << second.error().message();
  EXPECT_EQ(made->get()->stats().walked, "");
  EXPECT_THAT(describe(to.path()), ::testing::ElementsAreArray(describe(t.fs.tree())));
  EXPECT_LT(stats.entries, 20U);
}

}  // namespace
}  // namespace transship::storage
