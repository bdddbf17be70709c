#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "base/fd.h"
#include "base/text.h"
#include "criu/mapping_layout.h"
#include "criu/preload/mapping_flags.h"
#include "criu/preload/report.h"
#include "sys/file.h"

namespace transship::criu {
namespace {

constexpr size_t kPage = 4096;
using OpenAt = int (*)(int, const char*, int, ...);

// Reduced to what the library tells.
std::string reduced(const std::string& smaps) {
  std::string kept;
  for (const auto& line : split(smaps, '\n')) {
    auto space = line.find(' ');
    bool begins = space != std::string::npos && line.substr(0, space).contains('-');
    if (begins || line.starts_with("VmFlags:")) kept += line + "\n";
  }
  return kept;
}

std::string read_open(int fd) {
  std::string text;
  char some[4096];
  for (ssize_t n = 0; (n = ::read(fd, some, sizeof some)) > 0;) text.append(some, static_cast<size_t>(n));
  return text;
}

class SmapsPreload : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root may load BPF programs";
    auto layout = mapping_layout();
    if (!layout) GTEST_SKIP() << layout.error().message();
    load(*layout);
  }
  void TearDown() override {
    if (library_ != nullptr) ::dlclose(library_);
    if (child_ > 0) {
      (void)::kill(child_, SIGKILL);
      (void)::waitpid(child_, nullptr, 0);
    }
  }
  void load(const std::string& layout) {
    ASSERT_EQ(::setenv(criu_preload::kLayoutVariable, layout.c_str(), 1), 0);
    library_ = ::dlopen(TS_CRIU_PRELOAD, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library_, nullptr) << ::dlerror();
    EXPECT_EQ(::getenv(criu_preload::kLayoutVariable), nullptr) << "programs that CRIU starts would load it too";
    open_ = reinterpret_cast<OpenAt>(::dlsym(library_, "openat64"));
    auto* report = static_cast<criu_preload::Report**>(::dlsym(library_, "transship_criu_report"));
    ASSERT_TRUE(open_ != nullptr && report != nullptr);
    report_ = *report;
  }
  // A process with mappings of many kinds, which stands still.
  void start_child() {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    child_ = ::fork();
    ASSERT_GE(child_, 0);
    if (child_ == 0) {
      constexpr size_t kSize = 64 * kPage;
      for (int advice : {MADV_SEQUENTIAL, MADV_DONTFORK, MADV_DONTDUMP, MADV_WIPEONFORK, MADV_HUGEPAGE, MADV_NORMAL}) {
        auto* at = static_cast<char*>(
            ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        (void)::madvise(at + 8 * kPage, 8 * kPage, advice);
        (void)::mprotect(at + 32 * kPage, kPage, PROT_NONE);
        at[0] = 1;
      }
      (void)::mlock(&ready, sizeof ready);
      (void)!::write(ready[1], "r", 1);
      ::pause();
      ::_exit(0);
    }
    char c = 0;
    ASSERT_EQ(::read(ready[0], &c, 1), 1);
    (void)::close(ready[0]);
    (void)::close(ready[1]);
    auto dir = open_file(fmt::format("/proc/{}", child_), O_DIRECTORY | O_RDONLY);
    ASSERT_TRUE(dir);
    process_ = std::move(*dir);
  }
  void* library_ = nullptr;
  OpenAt open_ = nullptr;
  criu_preload::Report* report_ = nullptr;
  pid_t child_ = -1;
  Fd process_;
};

TEST_F(SmapsPreload, TellsWhatTheKernelTells) {
  start_child();
  Fd ours(open_(process_.get(), "smaps", O_RDONLY));
  ASSERT_TRUE(ours.valid());
  ASSERT_EQ(report_->mappings, 1U) << "it did not try, or did not trust itself";
  auto theirs = sys::read_file(fmt::format("/proc/{}/smaps", child_));
  ASSERT_TRUE(theirs);
  EXPECT_EQ(read_open(ours.get()), reduced(*theirs));
}

TEST_F(SmapsPreload, OtherFilesAreOpenedAsEver) {
  start_child();
  Fd stat(open_(process_.get(), "stat", O_RDONLY));
  ASSERT_TRUE(stat.valid());
  EXPECT_TRUE(read_open(stat.get()).starts_with(std::to_string(child_)));
  errno = 0;
  EXPECT_EQ(open_(process_.get(), "no such file", O_RDONLY), -1);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(report_->mappings, 0U);
}

TEST_F(SmapsPreload, ASmapsThatIsNoProcesssIsOpenedAsEver) {
  std::string name = "/tmp/ts-smaps-XXXXXX";
  ASSERT_NE(::mkdtemp(name.data()), nullptr);
  ASSERT_TRUE(sys::write_file_atomic(name + "/smaps", "mine"));
  auto dir = open_file(name, O_DIRECTORY | O_RDONLY);
  ASSERT_TRUE(dir);
  Fd file(open_(dir->get(), "smaps", O_RDONLY));
  EXPECT_EQ(read_open(file.get()), "mine");
  EXPECT_TRUE(sys::remove_tree(name));
}

// Offsets that are not this kernel's: what comes out is not what it prints, so it is not used.
TEST(SmapsPreloadWithout, AWrongLayoutIsFoundOut) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root may load BPF programs";
  auto layout = mapping_layout();
  if (!layout) GTEST_SKIP() << layout.error().message();
  auto words = split(*layout, ' ');
  for (const auto& wrong :
       {std::string(), std::string("1 2"), fmt::format("{} {} {} {}", words[0], words[2], words[1], words[3]),
        fmt::format("{} {} {} {}", words[0], words[1], words[2], 24), std::string("4 0 8 32")}) {
    ASSERT_EQ(::setenv(criu_preload::kLayoutVariable, wrong.c_str(), 1), 0);
    void* library = ::dlopen(TS_CRIU_PRELOAD, RTLD_NOW | RTLD_LOCAL);
    ASSERT_NE(library, nullptr) << ::dlerror();
    auto open = reinterpret_cast<OpenAt>(::dlsym(library, "openat64"));
    auto dir = open_file("/proc/self/", O_DIRECTORY | O_RDONLY);
    ASSERT_TRUE(dir);
    Fd real(open(dir->get(), "smaps", O_RDONLY));
    EXPECT_TRUE(read_open(real.get()).contains("Rss:")) << wrong;
    const auto& report = **static_cast<criu_preload::Report**>(::dlsym(library, "transship_criu_report"));
    EXPECT_EQ(report.can_mappings, 0U) << wrong;
    EXPECT_EQ(report.mappings, 0U) << wrong;
    ::dlclose(library);
  }
}

}  // namespace
}  // namespace transship::criu
