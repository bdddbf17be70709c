#include "names/host_resolver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "sys/file.h"

namespace transship::names {
namespace {

using testing::ElementsAre;
namespace fs = std::filesystem;

class HostResolverTest : public testing::Test {
 protected:
  HostResolverTest() {
    std::string pattern = testing::TempDir() + "resolver-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
    options_.file = directory_ + "/resolv.conf";
    options_.resolved_dir = directory_ + "/not-there";
    options_.record = directory_ + "/record";
    options_.address = "169.254.185.53";
    options_.own_addresses = {options_.address, "fd80::53"};
    options_.interface = "tsnames";
    options_.domain = "transship";
  }
  ~HostResolverTest() override { fs::remove_all(directory_); }
  void write(const std::string& text) const { ASSERT_TRUE(sys::write_file_atomic(options_.file, text, 0644)); }
  std::string read() const { return sys::read_file(options_.file).value_or("(none)"); }

  std::string directory_;
  HostResolverOptions options_;
};

TEST_F(HostResolverTest, SetUpAndRemovedByteByByte) {
  std::string before = "search x\nnameserver 10.0.0.1";
  write(before);
  ASSERT_EQ(::chmod(options_.file.c_str(), 0640), 0);
  HostResolver r(options_);
  EXPECT_EQ(r.status(), "");
  ASSERT_TRUE(r.set_up());
  ASSERT_TRUE(r.set_up());
  EXPECT_EQ(r.status(), "in " + options_.file);
  EXPECT_TRUE(read().ends_with("nameserver 169.254.185.53\n" + before));
  EXPECT_THAT(r.upstream(), ElementsAre("10.0.0.1"));
  ASSERT_TRUE(HostResolver(options_).remove());  // also by the next daemon
  EXPECT_EQ(read(), before);
  EXPECT_EQ(r.status(), "");
  EXPECT_FALSE(fs::exists(options_.record));
  struct stat now{};
  ASSERT_EQ(::stat(options_.file.c_str(), &now), 0);
  EXPECT_EQ(now.st_mode & 07777U, 0640U);
}

TEST_F(HostResolverTest, AFileThatWasNotThereGoes) {
  HostResolver r(options_);
  ASSERT_TRUE(r.set_up());
  EXPECT_NE(read(), "(none)");
  ASSERT_TRUE(r.remove());
  EXPECT_EQ(read(), "(none)");
}

TEST_F(HostResolverTest, ALinkStaysALink) {
  ASSERT_TRUE(sys::write_file_atomic(directory_ + "/real", "nameserver 10.0.0.1\n", 0644));
  fs::create_symlink("real", options_.file);
  HostResolver r(options_);
  ASSERT_TRUE(r.set_up());
  EXPECT_TRUE(fs::is_symlink(options_.file));
  ASSERT_TRUE(r.remove());
  EXPECT_TRUE(fs::is_symlink(options_.file));
  EXPECT_EQ(read(), "nameserver 10.0.0.1\n");
}

TEST_F(HostResolverTest, PutsItsLineBackWhenSomebodyWritesTheFile) {
  write("nameserver 10.0.0.1\n");
  HostResolver r(options_);
  ASSERT_TRUE(r.keep());
  EXPECT_EQ(read(), "nameserver 10.0.0.1\n") << "not set up: not touched";
  ASSERT_TRUE(r.set_up());
  write("nameserver 10.0.0.2\n");
  ASSERT_TRUE(r.keep());
  EXPECT_THAT(r.upstream(), ElementsAre("10.0.0.2"));
  EXPECT_NE(read(), "nameserver 10.0.0.2\n");
  ASSERT_TRUE(r.remove());
  EXPECT_EQ(read(), "nameserver 10.0.0.2\n");
}

TEST_F(HostResolverTest, RemoveWithoutSetUpTouchesNothing) {
  write("nameserver 169.254.185.53\n");
  ASSERT_TRUE(HostResolver(options_).remove());
  EXPECT_EQ(read(), "nameserver 169.254.185.53\n");
}

TEST_F(HostResolverTest, AFileThatCannotBeWrittenSaysWhatToDo) {
  options_.file = directory_ + "/no-such-directory/resolv.conf";
  auto r = HostResolver(options_).set_up();
  ASSERT_FALSE(r);
  EXPECT_THAT(r.error().remedy(), testing::HasSubstr("nameserver 169.254.185.53"));
}

}  // namespace
}  // namespace transship::names
