#include "memory/compression.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace transship::memory {
namespace {

constexpr double kGbit = 1e9 / 8;
using Seconds = CompressionChooser::Seconds;

TEST(CompressionPolicy, IsReadAndWritten) {
  for (const char* text : {"none", "lz4", "zstd", "auto"}) {
    auto policy = parse_compression_policy(text);
    ASSERT_TRUE(policy) << text;
    EXPECT_EQ(to_text(*policy), text);
  }
  for (const char* text : {"", "LZ4", "zstd ", "gzip"}) {
    auto policy = parse_compression_policy(text);
    ASSERT_FALSE(policy) << text;
    EXPECT_EQ(policy.error().code(), Errc::kInvalidArgument);
    EXPECT_THAT(policy.error().message(), testing::HasSubstr("none, lz4, zstd and auto"));
  }
}

TEST(Compression, WhicheverArrivesSoonest) {
  const MethodFigures copy{4e9, 1};
  const MethodFigures lz4{600e6, 0.5};
  const MethodFigures zstd{350e6, 0.3};
  const MethodFigures nothing{5e9, 1};  // content that cannot be compressed
  const MethodFigures crawl{20e6, 0.3};
  const struct {
    const char* what;
    double link;
    double cpus;
    MethodFigures lz4;
    MethodFigures zstd;
    Compression expected;
  } cases[] = {
      {"100 Mbit/s: the smallest wins", 0.1 * kGbit, 1, lz4, zstd, Compression::kZstd},
      {"1 Gbit/s: likewise, zstd is fast enough", kGbit, 1, lz4, zstd, Compression::kZstd},
      {"2.5 Gbit/s, one CPU: LZ4 keeps up, zstd does not", 2.5 * kGbit, 1, lz4, zstd, Compression::kLz4},
      {"10 Gbit/s, one CPU: nothing keeps up", 10 * kGbit, 1, lz4, zstd, Compression::kNone},
      {"10 Gbit/s, 8 CPUs: LZ4 does, with CPUs to spare", 10 * kGbit, 8, lz4, zstd, Compression::kLz4},
      {"10 Gbit/s, 16 CPUs: zstd as well", 10 * kGbit, 16, lz4, zstd, Compression::kZstd},
      {"1 Gbit/s, a tenth of a CPU: not worth it", kGbit, 0.1, lz4, zstd, Compression::kNone},
      {"not compressible", 0.1 * kGbit, 8, nothing, nothing, Compression::kNone},
      {"5 % smaller is not worth the CPU", 0.1 * kGbit, 8, {600e6, 0.95}, {350e6, 0.94}, Compression::kNone},
      {"zstd hardly smaller than LZ4", 0.1 * kGbit, 8, lz4, {350e6, 0.48}, Compression::kLz4},
      {"only zstd finds something", 0.1 * kGbit, 2, nothing, zstd, Compression::kZstd},
      {"a slow machine, 1 Gbit/s", kGbit, 1, crawl, crawl, Compression::kNone},
      {"a slow machine, 10 Mbit/s", 0.01 * kGbit, 1, crawl, crawl, Compression::kLz4},
      {"no limit known: copying is fastest", 0, 2, lz4, zstd, Compression::kNone},
      {"no limit, but it shrinks to nothing: TLS is spared", 0, 2, {3e9, 0.01}, zstd, Compression::kLz4},
  };
  for (const auto& c : cases)
    EXPECT_EQ(choose_compression({c.link, c.cpus, copy, c.lz4, c.zstd}), c.expected) << c.what;
}

TEST(Compression, RateIsTheNarrowestPlace) {
  CompressionSituation s{.link = 100e6, .cpus = 2, .none = {3e9, 1}, .lz4 = {600e6, 0.5}, .zstd = {300e6, 0.25}};
  EXPECT_DOUBLE_EQ(effective_rate(s, Compression::kNone), 100e6);
  EXPECT_DOUBLE_EQ(effective_rate(s, Compression::kLz4), 200e6);
  EXPECT_DOUBLE_EQ(effective_rate(s, Compression::kZstd), 400e6);
  s.link = 0;
  EXPECT_DOUBLE_EQ(effective_rate(s, Compression::kNone), 2e9);  // 1/3 + 2/3 ns per byte, two CPUs
}

// A machine and a link to learn about: content shrinks as given, sending takes as long as the link needs.
class World {
 public:
  explicit World(CompressionChooser& chooser) : chooser_(chooser) {}
  double link = kGbit;
  MethodFigures lz4{600e6, 0.5};
  MethodFigures zstd{350e6, 0.3};

  void send_batches(int count) {
    constexpr double kContent = kBatchPages * kPageBytes;
    for (int i = 0; i < count; ++i) {
      if (auto method = chooser_.trial_due()) {
        ++trials;
        (void)encode(*method, kContent / 8);
      }
      Compression method = chooser_.current();
      double cpu = encode(method, kContent);
      double out = kContent * of(method).ratio;
      double waited = std::max(0.0, out / link - cpu);
      now_ += cpu + waited;
      chooser_.sent(static_cast<size_t>(out), Seconds(waited), Seconds(now_));
    }
  }
  int trials = 0;

 private:
  const MethodFigures& of(Compression m) const {
    return m == Compression::kLz4 ? lz4 : m == Compression::kZstd ? zstd : none_;
  }
  double encode(Compression method, double content) {
    double cpu = content / of(method).bytes_per_second;
    chooser_.encoded({method, static_cast<size_t>(content), static_cast<size_t>(content * of(method).ratio),
                      Seconds(cpu), Seconds(cpu)});
    return cpu;
  }
  CompressionChooser& chooser_;
  MethodFigures none_{4e9, 1};
  double now_ = 100;
};

TEST(CompressionChooser, LearnsTheLinkAndTheContent) {
  CompressionChooser chooser(CompressionPolicy::kAuto, 1, 0);
  EXPECT_EQ(chooser.current(), Compression::kNone);  // nothing is known to be slow
  World world(chooser);
  world.send_batches(CompressionChooser::kDecideEvery);
  EXPECT_EQ(chooser.current(), Compression::kNone);  // the first batch only starts the clock
  world.send_batches(1);
  EXPECT_EQ(chooser.current(), Compression::kZstd);
  EXPECT_NEAR(chooser.situation().link, kGbit, 0.1 * kGbit);
  // The memory that follows does not compress.
  world.lz4 = world.zstd = {4e9, 1};
  world.send_batches(20 * CompressionChooser::kDecideEvery);
  EXPECT_EQ(chooser.current(), Compression::kNone);
  // And this does again; only trials can tell.
  world.lz4 = {600e6, 0.5};
  world.zstd = {350e6, 0.3};
  world.send_batches(20 * CompressionChooser::kDecideEvery);
  EXPECT_EQ(chooser.current(), Compression::kZstd);
}

TEST(CompressionChooser, NoticesALinkThatBecomesFaster) {
  CompressionChooser chooser(CompressionPolicy::kAuto, 1, 0.1 * kGbit);
  EXPECT_EQ(chooser.current(), Compression::kZstd);
  World world(chooser);
  world.link = 0.1 * kGbit;
  world.send_batches(64);
  EXPECT_EQ(chooser.current(), Compression::kZstd);
  world.link = 40 * kGbit;
  world.send_batches(200 * static_cast<int>(CompressionChooser::kDecideEvery));
  EXPECT_EQ(chooser.current(), Compression::kNone);
}

TEST(CompressionChooser, TakesWhatTheUserAskedFor) {
  const std::pair<CompressionPolicy, Compression> cases[] = {{CompressionPolicy::kNone, Compression::kNone},
                                                             {CompressionPolicy::kLz4, Compression::kLz4},
                                                             {CompressionPolicy::kZstd, Compression::kZstd}};
  for (auto [policy, expected] : cases) {
    CompressionChooser chooser(policy, 2, 0);
    World world(chooser);
    world.lz4 = world.zstd = {1e6, 1};
    world.send_batches(100);
    EXPECT_EQ(chooser.current(), expected);
    EXPECT_EQ(world.trials, 0);
  }
}

TEST(CompressionChooser, TrialsAreRare) {
  CompressionChooser chooser(CompressionPolicy::kAuto, 1, 0);
  World world(chooser);
  world.link = 100 * kGbit;
  world.send_batches(3200);
  EXPECT_EQ(chooser.current(), Compression::kNone);
  EXPECT_EQ(world.trials, 202);  // four at first, then two in 32
}

TEST(CompressionChooser, APauseIsNoSlowLink) {
  CompressionChooser chooser(CompressionPolicy::kAuto, 1, 0);
  for (int round = 0; round < 10; ++round) {
    double now = 1000.0 * round;
    for (unsigned i = 0; i <= CompressionChooser::kDecideEvery; ++i, now += 0.004)
      chooser.sent(500'000, Seconds(0.003), Seconds(now));
    chooser.pause();
  }
  EXPECT_NEAR(chooser.situation().link, 125e6, 1e6);
}

TEST(CompressionChooser, SeesCpusThatAreBusy) {
  CompressionChooser chooser(CompressionPolicy::kAuto, 4, kGbit);
  for (int i = 0; i < 50; ++i) chooser.encoded({Compression::kLz4, 1000, 500, Seconds(1e-6), Seconds(4e-6)});
  EXPECT_NEAR(chooser.situation().cpus, 1, 0.01);
  chooser.encoded({Compression::kLz4, 0, 0, Seconds(1), Seconds(1)});  // a batch of zero pages teaches nothing
  EXPECT_NEAR(chooser.situation().cpus, 1, 0.01);
  EXPECT_NEAR(chooser.situation().lz4.bytes_per_second, 1e9, 1e6);
}

}  // namespace
}  // namespace transship::memory
