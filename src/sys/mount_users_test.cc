#include "sys/mount_users.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

namespace transship::sys {
namespace {

namespace fs = std::filesystem;

// A process in a mount namespace of its own, in which `from` is mounted on `to`; nothing is when they are empty.
class Neighbour {
 public:
  Neighbour(const std::string& from, const std::string& to) {
    int ready[2];
    if (::pipe(ready) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) {
      bool ok = ::unshare(CLONE_NEWNS) == 0 && ::mount("", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                (from.empty() || ::mount(from.c_str(), to.c_str(), nullptr, MS_BIND, nullptr) == 0);
      (void)!::write(ready[1], ok ? "y" : "n", 1);
      while (true) ::pause();
    }
    char answer = 'n';
    made_ = ::read(ready[0], &answer, 1) == 1 && answer == 'y';
    ::close(ready[0]);
    ::close(ready[1]);
  }
  ~Neighbour() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  Neighbour(const Neighbour&) = delete;
  Neighbour& operator=(const Neighbour&) = delete;
  pid_t pid() const { return pid_; }
  bool made() const { return made_; }

 private:
  pid_t pid_ = 0;
  bool made_ = false;
};

class MountUsersTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string made = fs::current_path() / "mount-users-XXXXXX";
    ASSERT_NE(::mkdtemp(made.data()), nullptr);
    top_ = made;
    for (auto name : {"/volume/below", "/other", "/mnt"}) fs::create_directories(top_ + name);
  }
  void TearDown() override { fs::remove_all(top_); }
  std::vector<pid_t> users(const std::vector<pid_t>& own = {}) {
    std::vector<pid_t> pids;
    auto found = mount_users({top_ + "/volume"}, own);
    EXPECT_TRUE(found) << found.error().message();
    for (const auto& u : *found) {
      EXPECT_EQ(u.path, top_ + "/volume");
      EXPECT_FALSE(u.name.empty());
      pids.push_back(u.pid);
    }
    return pids;
  }
  std::string top_;
};

TEST_F(MountUsersTest, WhoHasItOrAPartOfIt) {
  Neighbour whole(top_ + "/volume", top_ + "/mnt");
  Neighbour part(top_ + "/volume/below", top_ + "/mnt");
  if (!whole.made() || !part.made()) GTEST_SKIP() << "mount namespaces cannot be made here";
  auto pids = users();
  EXPECT_EQ(pids.size(), 2U);
  EXPECT_NE(std::ranges::find(pids, whole.pid()), pids.end());
  EXPECT_NE(std::ranges::find(pids, part.pid()), pids.end());
  EXPECT_EQ(users({whole.pid()}), std::vector<pid_t>{part.pid()}) << "but for the container's own";
}

TEST_F(MountUsersTest, NotWhoHasAllOfTheDiskOrSomethingElse) {
  Neighbour nothing("", "");
  Neighbour above(top_, top_ + "/mnt");
  Neighbour beside(top_ + "/other", top_ + "/mnt");
  if (!nothing.made() || !above.made() || !beside.made()) GTEST_SKIP() << "mount namespaces cannot be made here";
  EXPECT_TRUE(users().empty());
  EXPECT_EQ(mount_users({top_ + "/missing"}, {}).error().code(), Errc::kNotFound);
}

}  // namespace
}  // namespace transship::sys
