#include "storage/written/written_test.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>
#include <utility>

namespace transship::storage::testing {

const DiskKind kExt4{.name = "ext4", .mkfs = {"mkfs.ext4", "-q", "-b", "4096"}};
const std::vector<DiskKind> kDiskKinds = {
    {.name = "ext2", .mkfs = {"mkfs.ext2", "-q"}},
    kExt4,
    {.name = "ext4_small_blocks", .mkfs = {"mkfs.ext4", "-q", "-b", "1024"}},
    {.name = "xfs", .mkfs = {"mkfs.xfs", "-q"}},
    {.name = "xfs_small_blocks", .mkfs = {"mkfs.xfs", "-q", "-b", "size=1024", "-i", "exchange=1"}},
    {.name = "btrfs", .mkfs = {"mkfs.btrfs", "-q"}},
    {.name = "btrfs_compressed", .mkfs = {"mkfs.btrfs", "-q"}, .options = "loop,compress-force=zstd"},
    {.name = "btrfs_in_place", .mkfs = {"mkfs.btrfs", "-q"}, .options = "loop,nodatacow"},
};

FileCopy::FileCopy(WrittenBlocks& blocks, int fd) : blocks_(blocks), fd_(fd) {
  auto followed = blocks.follow(fd);
  EXPECT_TRUE(followed) << followed.error().message();
  read_all();
}

std::optional<size_t> FileCopy::update(bool settle) {
  auto taken = blocks_.take(fd_, settle);
  EXPECT_TRUE(taken) << taken.error().message();
  if (!taken) return std::nullopt;
  if (!*taken) return read_all(), std::nullopt;
  bytes_.resize(size());
  for (const auto& range : std::exchange(missing_, {})) read(range);
  size_t sum = 0;
  for (const auto& range : **taken) {
    sum += static_cast<size_t>(range.length);
    read(range);
  }
  return sum;
}

std::string FileCopy::difference() const {
  std::vector<char> real(size());
  if (::pread(fd_, real.data(), real.size(), 0) != static_cast<ssize_t>(real.size())) return "cannot be read";
  if (real.size() != bytes_.size()) return fmt::format("{} bytes, copied {}", real.size(), bytes_.size());
  auto [at, copied] = std::ranges::mismatch(real, bytes_);
  if (at == real.end()) return "";
  return fmt::format("at {:#x}: {:#x}, copied {:#x}", at - real.begin(), *at & 0xff, *copied & 0xff);
}

size_t FileCopy::size() const {
  struct stat st{};
  return ::fstat(fd_, &st) == 0 ? static_cast<size_t>(st.st_size) : 0;
}

// What is not there is zeros until the next time.
void FileCopy::read(const Extent& range) {
  auto from = static_cast<size_t>(range.offset), end = from + static_cast<size_t>(range.length);
  size_t at = from, last = std::min(end, bytes_.size());
  for (; at < last;) {
    auto n = ::pread(fd_, bytes_.data() + at, last - at, static_cast<off_t>(at));
    if (n <= 0) break;
    at += static_cast<size_t>(n);
  }
  if (at < last) std::fill(bytes_.begin() + static_cast<ssize_t>(at), bytes_.begin() + static_cast<ssize_t>(last), 0);
  if (at < end) missing_.push_back({.offset = static_cast<int64_t>(at), .length = static_cast<int64_t>(end - at)});
}

void FileCopy::read_all() {
  missing_.clear();
  bytes_.resize(size());
  read({.offset = 0, .length = static_cast<int64_t>(bytes_.size())});
}

void WrittenBlocksTest::start(const DiskKind& kind, const WriteEvents::Options& options) {
  auto made = WrittenBlocks::create(options);
  // What the kernel does not let us do, as against what it does not let our programs do.
  auto refused = made ? 0 : made.error().sys_errno();
  if (refused == 0 || refused == EPERM || refused == ENOSYS) {
    if (!made) GTEST_SKIP() << made.error().message();
  }
  ASSERT_TRUE(made) << made.error().message();
  blocks_ = std::move(*made);
  disk_ = std::make_unique<TestDisk>(kind);
  if (!disk_->why_not().empty()) GTEST_SKIP() << disk_->why_not();
}

unsigned WrittenBlocksTest::seed() {
  const char* given = std::getenv("TRANSSHIP_TEST_SEED");
  auto seed = given != nullptr ? static_cast<unsigned>(std::strtoul(given, nullptr, 10)) : std::random_device{}();
  std::cout << "TRANSSHIP_TEST_SEED=" << seed << "\n";
  return seed;
}

}  // namespace transship::storage::testing
