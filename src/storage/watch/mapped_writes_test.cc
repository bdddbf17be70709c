// Writes through shared mappings, of which neither the file's times nor the kernel tell: each is in some round all the
// same.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "storage/watch/open_files.h"
#include "storage/watch/watch_test.h"
#include "sys/file.h"

namespace transship::storage {
namespace {

using namespace transship::storage::testing;

constexpr size_t kSize = 8192;

class MappedWrites : public ::testing::TestWithParam<FileSystem> {
 protected:
  void SetUp() override {
    if (!tree.fs.missing().empty()) GTEST_SKIP() << tree.fs.missing();
    write_text(tree / "file", std::string(kSize, '-'));
    auto opened = open_file(tree / "file", O_RDWR);
    ASSERT_TRUE(opened);
    fd = std::move(*opened);
    auto made = TreeWatch::create(tree.fs.fd());
    ASSERT_TRUE(made) << made.error().message();
    watch = std::move(*made);
  }
  void TearDown() override { unmap(); }

  void map() {
    memory = ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
    ASSERT_NE(memory, MAP_FAILED);
  }
  void unmap() {
    if (memory == nullptr) return;
    ASSERT_EQ(::munmap(memory, kSize), 0);
    memory = nullptr;
  }
  // The first time it is read before: where a page is then writable at once, there is no fault.
  void store(char c) {
    (void)*static_cast<volatile char*>(memory);
    static_cast<volatile char*>(memory)[100] = c;
  }
  void round(bool still = false) {
    settle();
    RoundOptions options{.must_be_still = still, .watch = watch.get()};
    if (still) options.always_look = *inodes_open_for_writing({::getpid()});
    auto next = move_round(tree.fs.fd(), to, last ? &*last : nullptr, options, &stats);
    ASSERT_TRUE(next) << next.error().message();
    last = std::move(*next);
  }
  char arrived() const { return sys::read_file(to / "file").value_or(std::string(kSize, '?'))[100]; }

  WatchedTree tree{GetParam()};
  TempDir to;
  Fd fd;
  void* memory = nullptr;
  std::unique_ptr<TreeWatch> watch;
  std::optional<Scan> last;
  RoundStats stats;
};

TEST_P(MappedWrites, AreSentWhenTheLastMappingIsGone) {
  map();
  fd.reset();
  store('a');
  round();
  EXPECT_EQ(arrived(), 'a');
  store('b');
  unmap();
  round(true);
  EXPECT_EQ(arrived(), 'b');
  round(true);
  EXPECT_EQ(stats.entries, 0U) << "once is enough";
}

TEST_P(MappedWrites, AreSentWhenTheFileIsStillOpen) {
  map();
  store('a');
  round();
  store('b');
  unmap();
  round(true);
  EXPECT_EQ(arrived(), 'b');
}

TEST_P(MappedWrites, AreSentOfMappingsThatNoRoundHasSeen) {
  round();
  map();
  store('b');
  unmap();
  fd.reset();
  round(true);
  EXPECT_EQ(arrived(), 'b');
}

TEST_P(MappedWrites, AreSentOfAFileThatIsLinkedElsewhere) {
  ASSERT_EQ(::link((tree / "file").c_str(), (tree.fs.outside() + "/link").c_str()), 0);
  auto by_link = open_file(tree.fs.outside() + "/link", O_RDWR);
  ASSERT_TRUE(by_link);
  fd = std::move(*by_link);
  map();
  fd.reset();
  store('a');
  round();
  store('b');
  unmap();
  round(true);
  EXPECT_EQ(arrived(), 'b');
}

// Without a watch: by what is mapped at each round.
TEST_P(MappedWrites, OfATreeThatIsWalkedAreSentOnceMore) {
  map();
  fd.reset();
  store('a');
  watch.reset();
  settle();
  RoundOptions options;
  options.always_resend = shared_writable_inodes({::getpid()}, tree.fs.fd(), tree.fs.tree())->inodes;
  ASSERT_EQ(options.always_resend.size(), 1U);
  auto first = move_round(tree.fs.fd(), to, nullptr, options, &stats);
  ASSERT_TRUE(first) << first.error().message();
  last = std::move(*first);
  EXPECT_EQ(stats.unsettled, 1U);
  store('b');
  unmap();
  round(true);
  EXPECT_EQ(arrived(), 'b');
}

INSTANTIATE_TEST_SUITE_P(, MappedWrites,
                         ::testing::Values(FileSystem::kBuildDirectory, FileSystem::kTmpfs, FileSystem::kXfs,
                                           FileSystem::kBtrfs),
                         [](const auto& p) { return name_of(p.param); });

}  // namespace
}  // namespace transship::storage
