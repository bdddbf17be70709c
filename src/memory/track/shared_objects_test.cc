#include "memory/track/shared_objects.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "memory/track/test_kid.h"

namespace transship::memory {
namespace {

using testing::Kid;
using testing::word;

constexpr size_t kPages = 600;
constexpr size_t kBytes = kPages * kPageBytes;

// The test's own process is the container: what it shares is known to it.
class SharedObjectsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "not root";
  }
  void TearDown() override {
    for (void* at : mapped_) (void)::munmap(at, kBytes);
  }
  std::byte* map(int fd) {
    void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, fd < 0 ? MAP_SHARED | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
    EXPECT_NE(at, MAP_FAILED);
    mapped_.push_back(at);
    return static_cast<std::byte*>(at);
  }
  static uint64_t inode_at(const void* at) {
    auto vmas = read_vmas(::getpid());
    auto address = reinterpret_cast<uint64_t>(at);
    for (const auto& vma : *vmas)
      if (vma.start <= address && address < vma.end) return vma.inode;
    return 0;
  }
  static void put(std::byte* memory, uint64_t page, uint64_t value) {
    *reinterpret_cast<volatile uint64_t*>(memory + page * kPageBytes + 64) = value;
  }
  // Page -> the number in it, of one object.
  using Pages = std::map<uint64_t, uint64_t>;
  Pages round(uint64_t inode) {
    Pages got;
    auto sink = [&](const PageBlock& block) -> Result<> {
      EXPECT_EQ(block.space.kind, SpaceKind::kShared);
      const std::byte* from = block.content.data();
      for (const auto& r : block.ranges)
        for (uint64_t at = r.address; at < r.end(); at += kPageBytes, from += kPageBytes)
          if (block.space.id == inode) got[at / kPageBytes] = *reinterpret_cast<const uint64_t*>(from + 64);
      return {};
    };
    auto stats = objects_.round(sink, cancel_);
    EXPECT_TRUE(stats) << stats.error().message();
    return got;
  }
  std::vector<void*> mapped_;
  Cancel cancel_ = *Cancel::create();
  SharedObjects objects_{{[]() -> Result<std::vector<pid_t>> { return std::vector{::getpid()}; }, {}}};
};

TEST_F(SharedObjectsTest, AnonymousWhatChangesAndWhatBecomesAHole) {
  auto* memory = map(-1);
  for (uint64_t page : {0UL, 5UL, 200UL, 599UL}) put(memory, page, page + 1);
  uint64_t inode = inode_at(memory);
  EXPECT_EQ(round(inode), (Pages{{0, 1}, {5, 6}, {200, 201}, {599, 600}}));
  EXPECT_EQ(round(inode), Pages{});
  put(memory, 5, 50);
  put(memory, 7, 70);
  EXPECT_EQ(round(inode), (Pages{{5, 50}, {7, 70}}));
  ASSERT_EQ(::madvise(memory + 200 * kPageBytes, kPageBytes, MADV_REMOVE), 0);
  EXPECT_EQ(round(inode), (Pages{{200, 0}}));
  EXPECT_EQ(round(inode), Pages{});
  put(memory, 200, 201);
  EXPECT_EQ(round(inode), (Pages{{200, 201}}));
}

// By write(2), and by a process that is not in the container: no page table of ours knows.
TEST_F(SharedObjectsTest, WhoeverWrites) {
  Fd memfd(static_cast<int>(::syscall(SYS_memfd_create, "tracked", 1U)));
  ASSERT_EQ(::ftruncate(memfd.get(), kBytes), 0);
  auto* memory = map(memfd.get());
  put(memory, 1, 11);
  uint64_t inode = inode_at(memory);
  EXPECT_EQ(round(inode), (Pages{{1, 11}}));
  uint64_t value = 12;
  ASSERT_EQ(::pwrite(memfd.get(), &value, sizeof value, kPageBytes + 64), 8);
  EXPECT_EQ(round(inode), (Pages{{1, 12}}));
  Kid kid([&](std::byte* shared) {
    put(memory, 2, 22);
    word(shared, 0) = 1;
    ::pause();
  });
  ASSERT_TRUE(kid.reached(0, 1));
  EXPECT_EQ(round(inode), (Pages{{2, 22}}));
}

TEST_F(SharedObjectsTest, MemfdThatIsOnlyOpen) {
  Fd memfd(static_cast<int>(::syscall(SYS_memfd_create, "open", 1U)));
  uint64_t value = 9;
  ASSERT_EQ(::pwrite(memfd.get(), &value, sizeof value, 3 * kPageBytes + 64), 8);  // the last page is not whole
  struct stat info{};
  ASSERT_EQ(::fstat(memfd.get(), &info), 0);
  EXPECT_EQ(round(info.st_ino), (Pages{{3, 9}}));
}

// It is there for a moment in each task that CRIU dumps, and gone when it is to be read.
TEST_F(SharedObjectsTest, WhatCriuBringsAlongIsLeftOut) {
  Fd memfd(static_cast<int>(::syscall(SYS_memfd_create, "CRIUMFD", 1U)));
  ASSERT_EQ(::ftruncate(memfd.get(), kBytes), 0);
  auto* memory = map(memfd.get());
  put(memory, 1, 7);
  EXPECT_EQ(round(inode_at(memory)), Pages{});
}

TEST_F(SharedObjectsTest, SystemVIsNamedByItsIdentifier) {
  int segment = ::shmget(IPC_PRIVATE, kBytes, 0600);
  ASSERT_GE(segment, 0);
  void* at = ::shmat(segment, nullptr, 0);
  (void)::shmctl(segment, IPC_RMID, nullptr);
  ASSERT_NE(at, reinterpret_cast<void*>(-1));
  put(static_cast<std::byte*>(at), 4, 44);
  EXPECT_EQ(round(static_cast<uint64_t>(segment)), (Pages{{4, 44}}));
  (void)::shmdt(at);
  EXPECT_EQ(round(static_cast<uint64_t>(segment)), Pages{});
}

TEST_F(SharedObjectsTest, KnowsWhatWasSent) {
  auto* memory = map(-1);
  for (uint64_t page : {5, 7, 8, 550}) put(memory, page, page);
  uint64_t inode = inode_at(memory);
  (void)round(inode);
  using Ranges = std::vector<PageRange>;
  EXPECT_EQ(objects_.sent(inode, {0, kPages}),
            (Ranges{{5 * kPageBytes, 1}, {7 * kPageBytes, 2}, {550 * kPageBytes, 1}}));
  EXPECT_EQ(objects_.sent(inode, {6 * kPageBytes, 2}), (Ranges{{7 * kPageBytes, 1}}));
  EXPECT_EQ(objects_.sent(inode + 1, {0, kPages}), Ranges{});
  ASSERT_EQ(::madvise(memory + 7 * kPageBytes, kPageBytes, MADV_REMOVE), 0);
  (void)round(inode);
  EXPECT_EQ(objects_.sent(inode, {0, 512}), (Ranges{{5 * kPageBytes, 1}, {8 * kPageBytes, 1}}));
}

TEST_F(SharedObjectsTest, WhatTheLatestRoundDidNotReadIsNotSent) {
  auto* memory = map(-1);
  put(memory, 5, 5);
  uint64_t inode = inode_at(memory);
  (void)round(inode);
  auto full = [](const PageBlock&) -> Result<> { return fail(Errc::kNoSpace, "full"); };
  put(memory, 6, 6);
  EXPECT_FALSE(objects_.round(full, cancel_));
  EXPECT_TRUE(objects_.sent(inode, {0, kPages}).empty());
}

TEST_F(SharedObjectsTest, MappedFilesAreNotMemory) {
  std::string path = ::testing::TempDir() + fmt::format("/mapped-{}", ::getpid());
  auto file = open_file(path, O_RDWR | O_CREAT, 0600);
  ASSERT_TRUE(file);
  (void)::unlink(path.c_str());
  ASSERT_EQ(::ftruncate(file->get(), kBytes), 0);
  auto* memory = map(file->get());
  put(memory, 0, 1);
  EXPECT_EQ(round(inode_at(memory)), Pages{});
}

TEST_F(SharedObjectsTest, ErrorOfTheSinkIsTheRounds) {
  put(map(-1), 0, 1);
  auto full = [](const PageBlock&) -> Result<> { return fail(Errc::kNoSpace, "full"); };
  EXPECT_EQ(objects_.round(full, cancel_).error().code(), Errc::kNoSpace);
}

}  // namespace
}  // namespace transship::memory
