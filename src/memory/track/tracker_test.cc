#include "memory/track/tracker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sys/syscall.h>

#include <set>

#include "memory/track/address_space.h"
#include "memory/track/test_kid.h"
#include "sys/file.h"

namespace transship::memory {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::IsSupersetOf;
using testing::Kid;
using ::testing::Not;
using testing::word;

constexpr uint64_t kPages = 64;
constexpr size_t kBytes = kPages * kPageBytes;

// A kid with pages at a known place, which does one thing after another as it is told.
class TrackerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    why_not_ = testing::why_no_tracking();
    if (auto choice = choose_tracker(); why_not_.empty() && choice.kind != TrackerKind::kPagemapScan)
      why_not_ = choice.why;
  }
  void SetUp() override {
    if (!why_not_.empty()) GTEST_SKIP() << why_not_;
    void* at = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(at, MAP_FAILED);
    memory_ = static_cast<volatile char*>(at);
    at_ = reinterpret_cast<uint64_t>(at);
  }
  void TearDown() override {
    if (at_ != 0) (void)::munmap(const_cast<char*>(memory_), kBytes);
  }
  using Step = std::function<void()>;
  void start(std::vector<Step> steps) {
    kid_.emplace([&](std::byte* shared) {
      shared_ = shared;
      for (size_t i = 0; i < steps.size(); ++i) {
        while (word(shared, 0) < static_cast<int64_t>(i)) ::usleep(200);
        steps[i]();
        word(shared, 1) = static_cast<int64_t>(i + 1);
      }
      while (true) ::usleep(1000);
    });
    ASSERT_TRUE(kid_->reached(1, 1));
    auto tracker = make_tracker(TrackerKind::kPagemapScan, group());
    ASSERT_TRUE(tracker);
    tracker_ = std::move(*tracker);
  }
  TaskGroup group() {
    return {[this]() -> Result<std::vector<pid_t>> { return std::vector{kid_->pid()}; }, {}};
  }
  void next() {
    int64_t step = kid_->word(0) + 1;
    kid_->word(0) = step;
    ASSERT_TRUE(kid_->reached(1, step + 1));
  }
  RunSink sink() {
    return [this](const PageRuns& runs) -> Result<> {
      EXPECT_EQ(runs.space, (SpaceId{SpaceKind::kTask, static_cast<uint64_t>(kid_->pid())}));
      for (const auto& r : runs.ranges)
        for (uint64_t at = r.address; at < r.end(); at += kPageBytes)
          if (at >= at_ && at < at_ + kBytes) found_.insert((at - at_) / kPageBytes);
      return {};
    };
  }
  RoundStats round() {
    found_.clear();
    auto stats = tracker_->round(sink(), cancel_);
    EXPECT_TRUE(stats) << stats.error().message();
    return stats ? *stats : RoundStats{};
  }
  RoundStats last_round() {
    (void)::kill(kid_->pid(), SIGSTOP);
    (void)::waitpid(kid_->pid(), nullptr, WUNTRACED);
    found_.clear();
    auto stats = tracker_->last_round(sink(), cancel_);
    EXPECT_TRUE(stats) << stats.error().message();
    (void)::kill(kid_->pid(), SIGCONT);
    return stats ? *stats : RoundStats{};
  }
  // In the kid.
  std::byte* kid_shared() const { return shared_; }
  void write(std::initializer_list<uint64_t> pages) const {
    for (uint64_t page : pages) memory_[page * kPageBytes] = 1;
  }
  char* page(uint64_t n) const { return const_cast<char*>(memory_) + n * kPageBytes; }
  void map_anew(uint64_t first, uint64_t pages) const {
    (void)::mmap(page(first), pages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0);
  }
  using Pages = std::set<uint64_t>;

  static inline std::string why_not_;
  volatile char* memory_ = nullptr;
  uint64_t at_ = 0;
  std::optional<Kid> kid_;
  std::byte* shared_ = nullptr;
  std::unique_ptr<DirtyTracker> tracker_;
  Cancel cancel_ = *Cancel::create();
  Pages found_;
};

TEST_F(TrackerTest, WhatWasWrittenSinceTheLastRound) {
  start({[&] { write({0, 1, 7}); }, [&] { write({1, 30}); }, [&] { write({2}); }});
  auto first = round();
  EXPECT_EQ(found_, (Pages{0, 1, 7}));  // no hole, no zero page
  EXPECT_EQ(first.attached, 1U);
  EXPECT_EQ(first.processes, 1U);
  EXPECT_GT(first.longest_stop.count(), 0);
  round();
  EXPECT_EQ(found_, Pages{});
  next();
  auto second = round();
  EXPECT_EQ(found_, (Pages{1, 30}));
  EXPECT_EQ(second.attached, 0U);
  next();
  last_round();
  EXPECT_EQ(found_, Pages{2});
  EXPECT_THAT(tracker_->findings(), IsEmpty());
}

// The kernel writes through the same page tables, with a userfaultfd for user mode only too.
TEST_F(TrackerTest, WritesOfTheKernel) {
  start({[&] { write({0, 1, 2, 3}); },
         [&] {
           Fd random(::open("/dev/urandom", O_RDONLY | O_CLOEXEC));
           (void)!::read(random.get(), page(1), 2 * kPageBytes);
         }});
  round();
  next();
  round();
  EXPECT_EQ(found_, (Pages{1, 2}));
}

// A mapping that took the place of a part of another: what was found before it counts, and it is tracked from now on.
TEST_F(TrackerTest, MappingsThatCame) {
  start({[&] { write({1, 3, 12, 20}); },
         [&] {
           map_anew(8, 2);
           write({1, 3, 8, 12});
         },
         [&] { write({9}); }});
  round();
  next();
  auto stats = round();
  EXPECT_EQ(found_, (Pages{1, 3, 8, 12}));
  EXPECT_EQ(stats.mappings, 1U);
  next();
  round();
  EXPECT_EQ(found_, Pages{9});
}

TEST_F(TrackerTest, MappingsThatCameAfterTheLastRoundButOne) {
  start({[&] { write({1, 3}); },
         [&] {
           map_anew(8, 4);
           write({3, 10});
         }});
  round();
  next();
  last_round();
  EXPECT_EQ(found_, (Pages{3, 10}));
}

// Half of a mapping that is moved away and comes back is joined to the other half, which has never moved. The kernel
// then forgets that either was registered, and leaves the marks of protection in the other half's page tables: they
// say of a page written since that it was not.
class TrackerJoinTest : public TrackerTest {
 protected:
  void start_and_follow(std::vector<Step> more) {
    std::vector<Step> steps{[&] {
                              for (uint64_t n = 0; n < 2 * kHalf; ++n) write({n});
                            },
                            [&] { move(kHalf, kElsewhere); },
                            [&] {
                              move(kElsewhere, kHalf);
                              write({5});
                            }};
    std::ranges::move(more, std::back_inserter(steps));
    start(std::move(steps));
    round();
    EXPECT_EQ(found_, half(0, 2));
    next();
    round();
    EXPECT_EQ(found_, half(kElsewhere / kHalf, 1));
    next();
  }
  static Pages half(uint64_t first, uint64_t count) {
    Pages pages;
    for (uint64_t n = 0; n < count * kHalf; ++n) pages.insert(first * kHalf + n);
    return pages;
  }
  void move(uint64_t from, uint64_t to) const {
    if (::mremap(page(from), kHalf * kPageBytes, kHalf * kPageBytes, MREMAP_MAYMOVE | MREMAP_FIXED, page(to)) !=
        page(to))
      ::_exit(1);
  }
  static constexpr uint64_t kHalf = 8;
  static constexpr uint64_t kElsewhere = 4 * kHalf;
};

TEST_F(TrackerJoinTest, MarksOfBeforeDoNotCount) {
  start_and_follow({[&] { write({5}); }});
  round();
  EXPECT_EQ(found_, half(0, 2));
  next();
  round();
  EXPECT_EQ(found_, Pages{5});
}

TEST_F(TrackerJoinTest, MarksOfBeforeDoNotCountInTheLastRound) {
  start_and_follow({});
  last_round();
  EXPECT_EQ(found_, half(0, 2));
}

TEST_F(TrackerJoinTest, MarksThatAnEarlierTrackerHasLeftDoNotCount) {
  start_and_follow({});
  tracker_->detach();
  round();
  EXPECT_EQ(found_, half(0, 2));
}

// Dropped, a page of a private file mapping is the file's again; written anew before nobody looks, it must be seen.
TEST_F(TrackerTest, PrivateFilePagesDroppedAndReadAgain) {
  std::string path = ::testing::TempDir() + fmt::format("/tracked-{}", ::getpid());
  {
    auto file = open_file(path, O_RDWR | O_CREAT, 0600);
    ASSERT_TRUE(file);
    ASSERT_EQ(::ftruncate(file->get(), kBytes), 0);
    ASSERT_NE(::mmap(page(0), kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file->get(), 0), MAP_FAILED);
    (void)::unlink(path.c_str());
  }
  start({[&] { write({2, 5, 6}); },
         [&] {
           (void)::madvise(page(5), kPageBytes, MADV_DONTNEED);
           write({6});
         }});
  round();
  EXPECT_EQ(found_, (Pages{2, 5, 6}));
  next();
  last_round();
  EXPECT_EQ(found_, (Pages{5, 6}));
}

// A page that is dropped while it is protected comes back protected: the first write brings the file's content, and
// only the same write once more, after another fault, takes the protection off. Stopped between the two, it is as if
// the page had not been touched since it was sent, and its content is another.
TEST_F(TrackerTest, PrivateFilePagesStoppedBeforeTheFirstWriteSinceTheyWereDropped) {
  constexpr uint64_t kMany = 2048;
  constexpr uint64_t kOld = 100;
  constexpr uint64_t kNew = 200;
  Fd file(::memfd_create("tracked", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), kMany * kPageBytes), 0);
  void* mapped = ::mmap(nullptr, kMany * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  auto* many = static_cast<volatile char*>(mapped);
  auto start_of_many = reinterpret_cast<uint64_t>(mapped);
  auto write_all = [many](uint64_t where) {
    for (uint64_t i = 0; i < kMany; ++i) many[i * kPageBytes + where] = 1;
  };
  constexpr int kTries = 16;
  std::vector<Step> steps;
  for (int i = 0; i < kTries; ++i) {
    steps.emplace_back([=] { write_all(kOld); });
    steps.emplace_back([=, this] {
      (void)::madvise(mapped, kMany * kPageBytes, MADV_DONTNEED);
      word(kid_shared(), 2) = i + 1;
      write_all(kNew);
    });
  }
  start(std::move(steps));
  auto mem = open_file(fmt::format("/proc/{}/mem", kid_->pid()), O_RDONLY);
  ASSERT_TRUE(mem);
  std::set<uint64_t> last;
  RunSink collect = [&](const PageRuns& runs) -> Result<> {
    for (const auto& r : runs.ranges)
      for (uint64_t at = r.address; at < r.end(); at += kPageBytes) last.insert(at);
    return {};
  };
  for (int i = 0; i < kTries; ++i) {
    round();
    kid_->word(0) += 1;
    ASSERT_TRUE(kid_->reached(2, i + 1));
    ::usleep(static_cast<useconds_t>(100 * (i % 8)));
    (void)::kill(kid_->pid(), SIGSTOP);
    (void)::waitpid(kid_->pid(), nullptr, WUNTRACED);
    last.clear();
    ASSERT_TRUE(tracker_->last_round(collect, cancel_));
    for (uint64_t n = 0; n < kMany; ++n) {
      uint64_t at = start_of_many + n * kPageBytes;
      char old = 0;
      ASSERT_EQ(::pread(mem->get(), &old, 1, static_cast<off_t>(at + kOld)), 1);
      EXPECT_TRUE(old == 1 || last.contains(at)) << "page " << n << ", try " << i;
    }
    (void)::kill(kid_->pid(), SIGCONT);
    ASSERT_TRUE(kid_->reached(1, 2 * i + 2));
    if (i + 1 < kTries) next();
  }
  (void)::munmap(mapped, kMany * kPageBytes);
}

// An exec leaves neither the old userfaultfd nor the old pagemap of any use; everything is found anew.
TEST_F(TrackerTest, Exec) {
  start({[&] { write({1}); },
         [&] {
           word(kid_shared(), 1) = 2;  // before there is no way back
           ::execl("/bin/sleep", "sleep", "5", nullptr);
         }});
  EXPECT_EQ(round().attached, 1U);
  next();
  // Until it sleeps: right after the exec a program has hardly any memory yet.
  for (int i = 0; i < 2000; ++i) {
    auto stat = sys::read_file(fmt::format("/proc/{}/stat", kid_->pid()), 4096);
    if (stat && stat->contains("(sleep) S ")) break;
    ::usleep(1000);
  }
  auto after = round();
  EXPECT_EQ(after.attached, 1U);
  EXPECT_GT(after.pages, 10U);
  EXPECT_EQ(round().attached, 0U);
}

TEST_F(TrackerTest, LastRoundAloneGivesEverything) {
  start({[&] { write({0, 9}); }});
  last_round();
  EXPECT_EQ(found_, (Pages{0, 9}));
}

TEST_F(TrackerTest, RunsOfTheVdsoComeWithTheLastRound) {
  start({[&] { write({0}); }});
  auto vmas = read_vmas(kid_->pid());
  ASSERT_TRUE(vmas);
  auto vdso = std::ranges::find(*vmas, "[vdso]", &Vma::path);
  ASSERT_NE(vdso, vmas->end());
  std::set<uint64_t> addresses;
  RunSink all = [&](const PageRuns& runs) -> Result<> {
    for (const auto& r : runs.ranges) addresses.insert(r.address);
    return {};
  };
  ASSERT_TRUE(tracker_->round(all, cancel_));
  EXPECT_THAT(addresses, Not(Contains(vdso->start)));
  ASSERT_TRUE(tracker_->last_round(all, cancel_));
  EXPECT_THAT(addresses, Contains(vdso->start));
}

// As it is for a moment in every exec.
TEST_F(TrackerTest, WithoutAVdsoItIsTriedAgainAndThenNamed) {
  auto vmas = read_vmas(::getpid());
  ASSERT_TRUE(vmas);
  auto vdso = std::ranges::find(*vmas, "[vdso]", &Vma::path);
  ASSERT_NE(vdso, vmas->end());
  start({[&] {
    write({1, 2});
    (void)::munmap(reinterpret_cast<void*>(vdso->start), vdso->bytes());  // NOLINT(performance-no-int-to-ptr)
  }});
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(round().postponed, 1U);
    EXPECT_THAT(tracker_->findings(), IsEmpty());
  }
  round();
  ASSERT_EQ(tracker_->findings().size(), 1U);
  EXPECT_THAT(tracker_->findings()[0].why, HasSubstr("no vDSO"));
  last_round();
  EXPECT_THAT(found_, IsSupersetOf({1U, 2U}));
}

TEST_F(TrackerTest, AProgramsOwnUserfaultfdIsAFindingAndCopiedWhole) {
  start({[&] { write({1, 2}); }});
  // Played by another tracker, which holds the memory with a userfaultfd of its own.
  auto other = make_tracker(TrackerKind::kPagemapScan, group());
  ASSERT_TRUE(other);
  ASSERT_TRUE((*other)->round(sink(), cancel_));
  round();
  ASSERT_EQ(tracker_->findings().size(), 1U);
  EXPECT_THAT(tracker_->findings()[0].why, HasSubstr("userfaultfd"));
  last_round();
  EXPECT_EQ(found_, (Pages{1, 2}));
}

TEST_F(TrackerTest, AUserfaultfdThatTheProgramMakesLater) {
  start({[&] { write({1, 2}); },
         [&] { word(kid_shared(), 2) = ::syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY) >= 0 ? 1 : -1; }});
  round();
  EXPECT_THAT(tracker_->findings(), IsEmpty());
  next();
  ASSERT_EQ(kid_->word(2), 1);
  last_round();
  EXPECT_EQ(found_, (Pages{1, 2}));
  EXPECT_EQ(tracker_->findings().size(), 1U);
}

TEST_F(TrackerTest, IoUringIsAFindingAndCopiedWhole) {
  start({[&] {
    write({1, 2});
    io_uring_params params{};
    word(kid_shared(), 2) = ::syscall(SYS_io_uring_setup, 4, &params) >= 0 ? 1 : -1;
  }});
  if (kid_->word(2) != 1) GTEST_SKIP() << "no io_uring here";
  round();
  EXPECT_EQ(found_, Pages{});
  ASSERT_EQ(tracker_->findings().size(), 1U);
  EXPECT_THAT(tracker_->findings()[0].why, HasSubstr("io_uring"));
  last_round();
  EXPECT_EQ(found_, (Pages{1, 2}));
}

// What was written while direct reads may have been under way is in the last round again.
TEST_F(TrackerTest, DirectIoIsCopiedOnceMore) {
  start({[&] {
           std::string path = ::testing::TempDir() + fmt::format("/direct-{}", ::getpid());
           int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
           word(kid_shared(), 2) = fd >= 0 ? 1 : -1;
           (void)::unlink(path.c_str());
           write({4});
         },
         [&] { write({5}); }});
  if (kid_->word(2) != 1) GTEST_SKIP() << "no O_DIRECT here";
  round();
  next();
  last_round();
  EXPECT_EQ(found_, (Pages{4, 5}));
}

TEST_F(TrackerTest, DetachLeavesNothing) {
  start({[&] { write({0, 1}); }, [&] { write({1}); }});
  round();
  auto smaps_has = [&](std::string_view flag) {
    std::string text;
    auto file = open_file(fmt::format("/proc/{}/smaps", kid_->pid()), O_RDONLY);
    std::vector<std::byte> buffer(1U << 20);
    while (true) {
      auto n = read_some(file->get(), buffer);
      if (!n || *n == 0) break;
      text.append(reinterpret_cast<const char*>(buffer.data()), *n);
    }
    return text.find(flag) != std::string::npos;
  };
  EXPECT_TRUE(smaps_has(" uw "));
  tracker_->detach();
  EXPECT_FALSE(smaps_has(" uw "));
  tracker_->detach();
  // And it can be tracked again.
  round();
  EXPECT_EQ(found_, (Pages{0, 1}));
}

TEST_F(TrackerTest, ProcessThatEnds) {
  start({[&] { write({0}); }});
  round();
  (void)::kill(kid_->pid(), SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(kid_->pid()), &info, WEXITED | WNOWAIT), 0);
  EXPECT_EQ(round().processes, 0U);  // a zombie is nothing any more
  EXPECT_EQ(found_, Pages{});
  tracker_->detach();
}

TEST_F(TrackerTest, ErrorOfTheSinkIsTheRounds) {
  start({[&] { write({0}); }});
  RunSink full = [](const PageRuns&) -> Result<> { return fail(Errc::kNotFound, "no such lane"); };
  auto stats = tracker_->round(full, cancel_);
  ASSERT_FALSE(stats);
  EXPECT_EQ(stats.error().message(), "no such lane");
}

TEST_F(TrackerTest, WithoutTracking) {
  start({[&] { write({3, 4}); }});
  auto none = make_tracker(TrackerKind::kNone, group());
  ASSERT_TRUE(none);
  tracker_ = std::move(*none);
  round();
  EXPECT_EQ(found_, Pages{});
  EXPECT_EQ(tracker_->findings().size(), 1U);
  last_round();
  EXPECT_EQ(found_, (Pages{3, 4}));
}

}  // namespace
}  // namespace transship::memory
