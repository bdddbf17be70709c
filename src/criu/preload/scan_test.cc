#include <dlfcn.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <tuple>
#include <vector>

#include "base/fd.h"
#include "criu/preload/report.h"

namespace transship::criu {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kSize = 8U << 20;

using Regions = std::vector<std::tuple<uint64_t, uint64_t, uint64_t>>;
using Ioctl = int (*)(int, unsigned long, ...);

struct Answer {
  int result = 0;
  uint64_t walk_end = 0;
  Regions regions;
  bool operator==(const Answer&) const = default;
};

class ScanPreload : public testing::Test {
 protected:
  void SetUp() override {
    library_ = ::dlopen(TS_CRIU_PRELOAD, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << ::dlerror();
    theirs_ = reinterpret_cast<Ioctl>(::dlsym(library_, "ioctl"));
    auto* report = static_cast<criu_preload::Report**>(::dlsym(library_, "transship_criu_report"));
    ASSERT_TRUE(theirs_ != nullptr && report != nullptr);
    report_ = *report;
    auto fd = open_file("/proc/self/pagemap", O_RDONLY);
    ASSERT_TRUE(fd) << fd.error().message();
    pagemap_ = std::move(*fd);
  }
  void TearDown() override {
    if (memory_ != MAP_FAILED) ::munmap(memory_, kSize);
    if (library_ != nullptr) ::dlclose(library_);
  }
  char* map(int prot, int flags, int fd) {
    memory_ = ::mmap(nullptr, kSize, prot, flags, fd, 0);
    EXPECT_NE(memory_, MAP_FAILED);
    (void)::madvise(memory_, kSize, MADV_NOHUGEPAGE);
    return static_cast<char*>(memory_);
  }
  // CRIU's question.
  pm_scan_arg question(uint64_t bytes, Regions& room) {
    room.resize(4096);
    pm_scan_arg a{};
    a.size = sizeof a;
    a.start = reinterpret_cast<uint64_t>(memory_);
    a.end = a.start + bytes;
    a.vec_len = room.size();
    a.category_inverted = a.category_mask = PAGE_IS_PFNZERO | PAGE_IS_FILE;
    a.category_anyof_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;
    a.return_mask = PAGE_IS_PRESENT | PAGE_IS_SWAPPED | PAGE_IS_SOFT_DIRTY;
    return a;
  }
  Answer ask(bool preloaded, uint64_t bytes = kSize) {
    Regions room;
    auto a = question(bytes, room);
    std::vector<page_region> found(room.size());
    a.vec = reinterpret_cast<uint64_t>(found.data());
    Answer answer;
    answer.result = preloaded ? theirs_(pagemap_.get(), PAGEMAP_SCAN, &a)
                              : static_cast<int>(::syscall(SYS_ioctl, pagemap_.get(), PAGEMAP_SCAN, &a));
    answer.walk_end = a.walk_end;
    for (int i = 0; i < answer.result; ++i)
      answer.regions.emplace_back(found[static_cast<size_t>(i)].start, found[static_cast<size_t>(i)].end,
                                  found[static_cast<size_t>(i)].categories);
    return answer;
  }
  // Every third page written, some of them given back, some only read.
  void use(char* at) {
    for (size_t page = 0; page < kSize / kPage; page += 3) at[page * kPage] = 1;
    for (size_t page = 1; page < kSize / kPage; page += 9) (void)*static_cast<volatile char*>(at + page * kPage);
  }
  static bool kernel_tells_mappings() {  // 6.11
    utsname name{};
    int major = 0, minor = 0;
    return ::uname(&name) == 0 && std::sscanf(name.release, "%d.%d", &major, &minor) == 2 &&
           (major > 6 || (major == 6 && minor >= 11));
  }

  void* library_ = nullptr;
  Ioctl theirs_ = nullptr;
  criu_preload::Report* report_ = nullptr;
  Fd pagemap_;
  void* memory_ = MAP_FAILED;
};

TEST_F(ScanPreload, PrivateAnonymousMemoryIsToldAsEver) {
  char* at = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  use(at);
  ::madvise(at + kSize / 2, kSize / 4, MADV_DONTNEED);
  auto expected = ask(false);
  ASSERT_GT(expected.result, 100);
  EXPECT_EQ(ask(true), expected);
  EXPECT_EQ(report_->scans, kernel_tells_mappings() ? 1U : 0U);
}

TEST_F(ScanPreload, SharedMemoryIsNotTakenForPrivate) {
  use(map(PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1));
  auto expected = ask(false);
  EXPECT_EQ(expected.result, 0);
  EXPECT_EQ(ask(true), expected);
  EXPECT_EQ(report_->scans, 0U);
}

TEST_F(ScanPreload, PagesOfFilesStayOut) {
  Fd file(::memfd_create("scan", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), kSize), 0);
  char* at = map(PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get());
  for (size_t page = 0; page < kSize / kPage; ++page) (void)*static_cast<volatile char*>(at + page * kPage);
  for (size_t page = 0; page < kSize / kPage; page += 5) at[page * kPage] = 1;  // these are its own from here on
  auto expected = ask(false);
  ASSERT_GT(expected.result, 100);
  EXPECT_EQ(ask(true), expected);
  EXPECT_EQ(report_->scans, 0U);
}

TEST_F(ScanPreload, SmallScansAreLeftAlone) {
  use(map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1));
  EXPECT_EQ(ask(true, 64 * kPage), ask(false, 64 * kPage));
  EXPECT_EQ(report_->scans, 0U);
}

TEST_F(ScanPreload, SeveralMappingsAreLeftAlone) {
  char* at = map(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  use(at);
  ASSERT_EQ(::mprotect(at + kSize / 2, kPage, PROT_READ), 0);
  auto expected = ask(false);
  EXPECT_EQ(ask(true), expected);
  EXPECT_EQ(report_->scans, 0U);
}

TEST_F(ScanPreload, ErrorsAndOtherRequestsPassThrough) {
  pm_scan_arg wrong{};
  errno = 0;
  EXPECT_EQ(theirs_(pagemap_.get(), PAGEMAP_SCAN, &wrong), -1);
  EXPECT_EQ(errno, EINVAL);
  EXPECT_EQ(theirs_(-1, FIOCLEX, nullptr), -1);
  EXPECT_EQ(errno, EBADF);
  EXPECT_EQ(theirs_(pagemap_.get(), FIOCLEX, nullptr), 0);
}

}  // namespace
}  // namespace transship::criu
