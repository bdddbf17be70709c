#include "plan/reservations.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "base/thread.h"

namespace transship::plan {
namespace {

using testing::HasSubstr;

constexpr uint64_t kMiB = 1ULL << 20;
constexpr uint64_t kGiB = 1ULL << 30;

class ReservationBookTest : public testing::Test {
 protected:
  static Reservation wanted(const std::string& id, const std::string& name = "") {
    Reservation r;
    r.move_id = id;
    r.source = "aws";
    r.engine = "podman";
    r.name = name.empty() ? "name-of-" + id : name;
    r.amounts = {kGiB, 512 * kMiB, kGiB};
    r.ttl = milliseconds(10'000);
    return r;
  }
  Result<> reserve(const Reservation& r) { return book_.reserve(r, capacity_); }
  void pass(int64_t ms) { now_ += milliseconds(ms); }

  Clock::time_point now_{};
  Capacity capacity_{.memory_available = 4 * kGiB, .images_free = 2 * kGiB, .storage_free = 10 * kGiB};
  ReservationBook book_{[this] { return now_; }};
};

TEST_F(ReservationBookTest, CountsWhatOthersHold) {
  ASSERT_TRUE(reserve(wanted("a")));  // 1.5 GiB with images; 4 - 0.25 margin leave 2.25
  ASSERT_TRUE(reserve(wanted("b")));  // leaves 0.75
  auto r = reserve(wanted("c"));
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kRefused);
  EXPECT_THAT(r.error().message(), HasSubstr("reserve 1.5 GiB of memory: 768.0 MiB are left"));
  EXPECT_THAT(r.error().message(), HasSubstr("3.0 GiB promised to other moves"));
  EXPECT_FALSE(r.error().remedy().empty());
  EXPECT_EQ(book_.totals().memory_bytes, 2 * kGiB);
  EXPECT_EQ(book_.totals().images_bytes, kGiB);
  book_.release("a");
  EXPECT_TRUE(reserve(wanted("c")));
}

TEST_F(ReservationBookTest, ImagesAndStorageHaveTheirOwnLimits) {
  auto images = wanted("a");
  images.amounts = {0, 2 * kGiB + 1, 0};
  EXPECT_THAT(reserve(images).error().message(), HasSubstr("memory for images"));
  auto storage = wanted("b");
  storage.amounts = {0, 0, 10 * kGiB - 512 * kMiB + 1};
  EXPECT_THAT(reserve(storage).error().message(), HasSubstr("container storage"));
  storage.amounts.storage_bytes -= 1;
  EXPECT_TRUE(reserve(storage));
  EXPECT_TRUE(book_.list().size() == 1);
}

TEST_F(ReservationBookTest, HugeNumbersDoNotWrapRound) {
  auto r = wanted("a");
  r.amounts = {UINT64_MAX, UINT64_MAX, 0};
  EXPECT_FALSE(reserve(r));
  r.amounts = {0, 0, UINT64_MAX};
  EXPECT_FALSE(reserve(r));
}

TEST_F(ReservationBookTest, NamesPortsAndAddressesAreHeldOnce) {
  auto a = wanted("a", "redis");
  a.ports = {{"", 6379, "tcp"}, {"10.0.0.1", 53, "udp"}};
  a.addresses = {"10.88.0.5"};
  a.amounts = {};
  ASSERT_TRUE(reserve(a));
  auto refused = [&](auto change) {
    auto b = wanted("b", "other");
    b.amounts = {};
    change(b);
    auto r = reserve(b);
    if (r) book_.release("b");
    return r ? std::string() : r.error().message();
  };
  EXPECT_THAT(refused([](auto& b) { b.name = "redis"; }), HasSubstr("the name redis is taken by move a from aws"));
  EXPECT_EQ(refused([](auto& b) { b.name = "redis", b.engine = "runc"; }), "");
  EXPECT_THAT(refused([](auto& b) { b.ports = {{"192.0.2.1", 6379, "tcp"}}; }), HasSubstr("host port 6379/tcp"));
  EXPECT_EQ(refused([](auto& b) { b.ports = {{"", 6379, "udp"}}; }), "");
  EXPECT_EQ(refused([](auto& b) { b.ports = {{"10.0.0.2", 53, "udp"}}; }), "");
  EXPECT_THAT(refused([](auto& b) { b.ports = {{"0.0.0.0", 53, "udp"}}; }), HasSubstr("host port 53/udp"));
  EXPECT_THAT(refused([](auto& b) { b.addresses = {"10.88.0.6", "10.88.0.5"}; }), HasSubstr("the address 10.88.0.5"));
  EXPECT_THAT(refused([](auto& b) { b.move_id = "a"; }), HasSubstr("it has a reservation already"));
}

TEST_F(ReservationBookTest, ExpiresByItself) {
  ASSERT_TRUE(reserve(wanted("a", "redis")));
  pass(9'999);
  EXPECT_TRUE(book_.holds("a"));
  EXPECT_TRUE(book_.take_expired().empty());
  pass(1);
  EXPECT_FALSE(book_.holds("a"));
  EXPECT_EQ(book_.totals().memory_bytes, 0U);
  EXPECT_TRUE(reserve(wanted("b", "redis"))) << "an expired one does not count, taken out or not";
  auto expired = book_.take_expired();
  ASSERT_EQ(expired.size(), 1U);
  EXPECT_EQ(expired[0].move_id, "a");
  EXPECT_TRUE(book_.take_expired().empty());
  EXPECT_TRUE(book_.holds("b"));
}

TEST_F(ReservationBookTest, RenewingKeepsItUntilItIsTooLate) {
  ASSERT_TRUE(reserve(wanted("a")));
  for (int i = 0; i < 5; ++i) {
    pass(9'000);
    ASSERT_TRUE(book_.renew("a"));
  }
  pass(10'000);
  auto r = book_.renew("a");
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kNotFound);
  EXPECT_FALSE(book_.renew("never"));
}

TEST_F(ReservationBookTest, ExpiredMoveMayNotComeBackBeforeItIsCleanedUp) {
  ASSERT_TRUE(reserve(wanted("a")));
  pass(10'000);
  EXPECT_FALSE(reserve(wanted("a")));
  (void)book_.take_expired();
  EXPECT_TRUE(reserve(wanted("a")));
}

TEST_F(ReservationBookTest, LoweringNeverRaises) {
  ASSERT_TRUE(reserve(wanted("a")));
  book_.lower("a", {10, UINT64_MAX, 20});
  EXPECT_EQ(book_.totals().memory_bytes, 10U);
  EXPECT_EQ(book_.totals().images_bytes, 512 * kMiB);
  EXPECT_EQ(book_.totals().storage_bytes, 20U);
  book_.lower("unknown", {});
  book_.release("a");
  book_.release("a");
  EXPECT_EQ(book_.totals().images_bytes, 0U);
}

TEST_F(ReservationBookTest, ManyAtOnceNeverPromiseMoreThanThereIs) {
  std::atomic<int> got{0};
  {
    std::vector<Thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back("reserve", [&, t] {
        for (int i = 0; i < 50; ++i) {
          auto r = wanted(fmt::format("{}-{}", t, i));
          r.amounts = {256 * kMiB, 0, 0};
          if (reserve(r)) ++got;
        }
      });
  }
  EXPECT_EQ(got, 15);  // (4 GiB - 256 MiB) / 256 MiB
  EXPECT_EQ(book_.totals().memory_bytes, 15 * 256 * kMiB);
}

}  // namespace
}  // namespace transship::plan
