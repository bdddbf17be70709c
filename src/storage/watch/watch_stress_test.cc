// Several threads that change a tree at random while it is scanned; and how much a scan costs.
#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <random>

#include "base/thread.h"
#include "storage/watch/watch_test.h"

namespace transship::storage {
namespace {

namespace fs = std::filesystem;
using namespace transship::storage::testing;

// A few names at each level, so that the threads meet. Whatever fails, fails.
class Vandal {
 public:
  Vandal(const TestFileSystem& where, uint64_t seed) : where_(where), random_(seed) {}

  void act() {
    auto path = any_path(), other = any_path();
    switch (pick(14)) {
      case 0:
      case 1: {
        Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
        if (fd.valid()) done(::write(fd.get(), "text", 4));
        break;
      }
      case 2: done(::mkdir(path.c_str(), 0700)); break;
      case 3: {
        std::error_code e;
        fs::create_directories(path, e);
        break;
      }
      case 4: done(::unlink(path.c_str())); break;
      case 5: done(::rmdir(path.c_str())); break;
      case 6:
      case 7: done(::rename(path.c_str(), other.c_str())); break;
      case 8: done(::renameat2(AT_FDCWD, path.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE)); break;
      case 9: done(::link(path.c_str(), other.c_str())); break;
      case 10: done(::chmod(path.c_str(), static_cast<mode_t>(0600 + pick(64)))); break;
      case 11: done(::truncate(path.c_str(), static_cast<off_t>(pick(5000)))); break;
      case 12: held_.reset(::open(path.c_str(), O_WRONLY | O_CLOEXEC)); break;
      default:
        if (held_.valid()) done(::write(held_.get(), "held", 4));
    }
  }

 private:
  static void done(ssize_t /*whatever came of it*/) {}
  uint64_t pick(uint64_t below) { return random_() % below; }

  std::string any_path() {
    auto path = pick(8) == 0 ? where_.outside() : where_.tree();
    for (uint64_t depth = 1 + pick(5); depth > 0; --depth) path += fmt::format("/{}", pick(4));
    return path;
  }

  const TestFileSystem& where_;
  std::mt19937_64 random_;
  Fd held_;
};

class WatchStress : public ::testing::TestWithParam<FileSystem> {};

TEST_P(WatchStress, FindsWhatThreadsDoAtRandomWhileItIsScanned) {
  WatchedTree t(GetParam());
  if (!t.fs.missing().empty()) GTEST_SKIP() << t.fs.missing();
  ASSERT_NO_FATAL_FAILURE(t.watch());
  constexpr int kRounds = 80, kThreads = 3, kActions = 40;
  std::vector<std::unique_ptr<Vandal>> vandals;
  vandals.reserve(kThreads);
  auto seed = static_cast<uint64_t>(GTEST_FLAG_GET(random_seed)) * 1000;  // other ones: --gtest_random_seed=N
  for (int n = 0; n < kThreads; ++n) vandals.push_back(std::make_unique<Vandal>(t.fs, ++seed));
  for (int round = 0; round < kRounds && !HasFailure(); ++round) {
    std::atomic<int> running = kThreads;
    std::vector<Thread> threads;
    threads.reserve(kThreads);
    for (auto& v : vandals) {
      threads.emplace_back("vandal", [&v, &running] {
        for (int i = 0; i < kActions; ++i) v->act();
        --running;
      });
    }
    while (running > 0) {  // scans in the middle of it: right or not, the next one has to be
      auto now = t.follow->scan(t.last ? &*t.last : nullptr, {}, never());
      ASSERT_TRUE(now) << now.error().message();
      t.last = std::move(*now);
    }
    threads.clear();
    ASSERT_NO_FATAL_FAILURE(t.check(fmt::format("round {}", round)));
  }
}

INSTANTIATE_TEST_SUITE_P(, WatchStress,
                         ::testing::Values(FileSystem::kBuildDirectory, FileSystem::kTmpfs, FileSystem::kXfs,
                                           FileSystem::kBtrfs, FileSystem::kBtrfsSubvolume),
                         [](const auto& p) { return name_of(p.param); });

double ms_of(const std::function<void()>& work) {
  auto start = Clock::now();
  work();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

void make_files(const std::string& root, int directories, int files) {
  for (int d = 0; d < directories; ++d) {
    auto dir = fmt::format("{}/{}", root, d);
    ASSERT_EQ(::mkdir(dir.c_str(), 0700), 0);
    for (int f = 0; f < files; ++f) ASSERT_EQ(::mknod(fmt::format("{}/file-{}", dir, f).c_str(), S_IFREG | 0600, 0), 0);
  }
}

TEST(WatchCost, TenOfAHundredThousandFilesCostFarLessThanAWalk) {
  WatchedTree t(FileSystem::kTmpfs);  // the cheapest to walk
  if (!t.fs.missing().empty()) GTEST_SKIP() << t.fs.missing();
  ASSERT_NO_FATAL_FAILURE(make_files(t.fs.tree(), 100, 1000));
  settle();
  double first = ms_of([&] { t.watch(); });
  settle();
  for (int i = 0; i < 10; ++i) write_text(t / fmt::format("{}/file-{}", i * 7, i), "changed");
  settle();
  std::optional<Scan> told;
  double update = ms_of([&] { told = std::move(*t.follow->scan(&*t.last, {}, never())); });
  EXPECT_EQ(t.follow->stats().walked, "");
  EXPECT_LE(t.follow->stats().looked_at, 20U);
  std::optional<Scan> walked;
  double walk = ms_of([&] { walked = std::move(*scan_tree(t.fs.fd(), never())); });
  EXPECT_EQ(difference(*walked, *told), "");
  fmt::print("100,000 files, 10 changed: {:.1f} ms, a walk {:.1f} ms, first scan with the comparison {:.1f} ms\n",
             update, walk, first);
  EXPECT_LT(update * 4, walk);
}

TEST(WatchCost, WhatHappensElsewhereIsForgottenAtOnce) {
  WatchedTree t(FileSystem::kTmpfs);
  if (!t.fs.missing().empty()) GTEST_SKIP() << t.fs.missing();
  ASSERT_NO_FATAL_FAILURE(make_files(t.fs.tree(), 10, 100));
  settle();
  ASSERT_NO_FATAL_FAILURE(t.watch());
  write_text(t / "3/file-3", "changed");
  for (int i = 0; i < 50'000; ++i) {
    auto path = fmt::format("{}/{}", t.fs.outside(), i);
    ASSERT_EQ(::mknod(path.c_str(), S_IFREG | 0600, 0), 0);
    ASSERT_EQ(::unlink(path.c_str()), 0);
  }
  settle();
  double ms = ms_of([&] { t.check("after events elsewhere"); });
  EXPECT_GE(t.follow->stats().events, 100'000U);
  EXPECT_LE(t.follow->stats().looked_at, 10U);
  fmt::print("{} events elsewhere; the scan after them, and a walk of 1000 names: {:.1f} ms\n",
             t.follow->stats().events, ms);
}

}  // namespace
}  // namespace transship::storage
