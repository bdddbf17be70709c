#include "migrate/passing.h"

#include <gtest/gtest.h>

#include "base/mutex.h"
#include "base/thread.h"

namespace transship::migrate {
namespace {

TEST(Passing, WhoIsCalledMayAsk) {
  Passing passing;
  int calls = 0;
  bool known = true;
  passing.on_change([&] {
    ++calls;
    known = passing.has("one") || passing.has_left("one");
  });
  passing.put("one");
  passing.remove("one");
  EXPECT_EQ(calls, 1);
  EXPECT_FALSE(known);
  passing.leave("one", true);
  EXPECT_EQ(calls, 2);
  EXPECT_TRUE(known);
  passing.leave("two", false);
  passing.remove("three");
  EXPECT_EQ(calls, 2);
  passing.on_change({});
  passing.remove("one");
  EXPECT_EQ(calls, 2);
}

// As the list of names does: it asks under the lock that the call takes.
TEST(Passing, WhoIsCalledTakesALockUnderWhichOthersAsk) {
  constexpr int kTimes = 20'000;
  Passing passing;
  Mutex mutex;
  int calls = 0;
  passing.on_change([&] {
    MutexLock lock(mutex);
    ++calls;
  });
  Thread asking("asking", [&] {
    for (int i = 0; i < kTimes; ++i) {
      MutexLock lock(mutex);
      (void)passing.any();
    }
  });
  for (int i = 0; i < kTimes; ++i) {
    passing.put("one");
    passing.remove("one");
  }
  asking.join();
  EXPECT_EQ(calls, kTimes);
}

}  // namespace
}  // namespace transship::migrate
