#include "plan/predict.h"

#include <gtest/gtest.h>

namespace transship::plan {
namespace {

constexpr uint64_t kMiB = 1ULL << 20;

struct Case {
  const char* name;
  PredictInput input;
  Prediction expected;
};

// Computed by hand from the table in docs/plan.md, so that a constant cannot change here alone.
class PredictTable : public testing::TestWithParam<Case> {};
TEST_P(PredictTable, IsTheFormula) {
  auto p = predict(GetParam().input);
  const auto& e = GetParam().expected;
  EXPECT_EQ(p.bytes_memory, e.bytes_memory);
  EXPECT_EQ(p.bytes_images, e.bytes_images);
  EXPECT_EQ(p.bytes_total, e.bytes_total);
  EXPECT_EQ(p.freeze_ms, e.freeze_ms);
  EXPECT_EQ(p.dump_ms, e.dump_ms);
  EXPECT_EQ(p.transfer_ms, e.transfer_ms);
  EXPECT_EQ(p.restore_ms, e.restore_ms);
  EXPECT_EQ(p.commit_ms, e.commit_ms);
  EXPECT_EQ(p.gap_ms, e.gap_ms);
  EXPECT_EQ(p.total_ms, e.total_ms);
}
INSTANTIATE_TEST_SUITE_P(Table, PredictTable,
                         testing::Values(
                             // Nothing but one sleeping process: the fixed parts.
                             Case{"Empty",
                                  {.processes = 1, .threads = 1, .bits_per_second = 1e9},
                                  {.bytes_memory = 524'288,
                                   .bytes_images = 524'288,
                                   .bytes_total = 524'288,
                                   .total_ms = 2062,
                                   .gap_ms = 162,
                                   .freeze_ms = 5,
                                   .dump_ms = 54,
                                   .transfer_ms = 4,
                                   .restore_ms = 79,
                                   .commit_ms = 20}},
                             // 256 MiB at 1 Gbit/s and 0.5 ms: 2.8 s, nearly all of it the link.
                             Case{"Demo",
                                  {.memory_bytes = 256 * kMiB,
                                   .rootfs_bytes = kMiB,
                                   .rootfs_files = 100,
                                   .processes = 1,
                                   .threads = 5,
                                   .connections = 8,
                                   .rtt_ms = 0.5,
                                   .bits_per_second = 1e9},
                                  {.bytes_memory = 274'328'453,
                                   .bytes_images = 274'328'453,
                                   .bytes_rootfs = kMiB,
                                   .bytes_total = 275'377'029,
                                   .total_ms = 4725,
                                   .gap_ms = 2795,
                                   .freeze_ms = 5,
                                   .dump_ms = 183,
                                   .transfer_ms = 2335,
                                   .restore_ms = 250,
                                   .commit_ms = 22}}),
                         [](const auto& c) { return c.param.name; });

TEST(Predict, LiveMemoryLeavesTheGap) {
  PredictInput in{.memory_bytes = 1024 * kMiB, .eager_bytes = 0, .bits_per_second = 1e9};
  auto images = predict(in);
  in.mode = MemoryMode::kStopCopy;
  auto frozen = predict(in);
  in.mode = MemoryMode::kPreCopy;
  auto live = predict(in);
  in.mode = MemoryMode::kPostCopy;
  auto later = predict(in);
  EXPECT_LT(frozen.gap_ms, images.gap_ms);  // the same bytes, but neither copied into images nor out of them
  EXPECT_LT(live.gap_ms, 300U);
  EXPECT_LT(later.gap_ms, 300U);
  EXPECT_GT(live.total_ms, 9000U);  // it still has to travel
  EXPECT_GT(later.total_ms, 9000U);
  EXPECT_LT(live.bytes_images, kMiB);
  in.eager_bytes = 512 * kMiB;
  auto copied = predict(in);
  EXPECT_GT(copied.bytes_images, 512 * kMiB);
  in.handed_bytes = 384 * kMiB;
  EXPECT_EQ(predict(in).restore_ms, copied.restore_ms - 250);
  EXPECT_EQ(predict(in).dump_ms, copied.dump_ms);
}

TEST(Predict, UnknownRateIsOneGigabit) {
  PredictInput in{.memory_bytes = 100 * kMiB};
  auto unknown = predict(in);
  in.bits_per_second = 1e9;
  EXPECT_EQ(unknown.gap_ms, predict(in).gap_ms);
}

TEST(Predict, ImageAndFilesAreOutsideTheGap) {
  PredictInput in{.memory_bytes = 100 * kMiB, .bits_per_second = 1e9};
  auto bare = predict(in);
  in.image_bytes = 500 * kMiB;
  in.rootfs_bytes = 50 * kMiB;
  in.rootfs_files = 1000;
  auto full = predict(in);
  EXPECT_EQ(full.gap_ms, bare.gap_ms);
  EXPECT_GT(full.total_ms, bare.total_ms + 4000);
  EXPECT_EQ(full.bytes_total, bare.bytes_total + 550 * kMiB);
}

TEST(Predict, EverythingGrowsWithItsCause) {
  PredictInput in{.memory_bytes = 100 * kMiB, .rtt_ms = 1, .bits_per_second = 1e9};
  auto base = predict(in);
  auto with = [&](auto change) {
    PredictInput more = in;
    change(more);
    return predict(more);
  };
  EXPECT_GT(with([](auto& i) { i.memory_bytes *= 2; }).dump_ms, base.dump_ms);
  EXPECT_GT(with([](auto& i) { i.memory_bytes *= 2; }).restore_ms, base.restore_ms);
  EXPECT_GT(with([](auto& i) { i.processes = 50; }).restore_ms, base.restore_ms);
  EXPECT_GT(with([](auto& i) { i.connections = 1000; }).dump_ms, base.dump_ms);
  EXPECT_EQ(with([](auto& i) { i.rtt_ms = 101; }).commit_ms, base.commit_ms + 300);
  EXPECT_LT(with([](auto& i) { i.bits_per_second = 1e10; }).transfer_ms, base.transfer_ms / 9);
  in.mode = MemoryMode::kPreCopy;
  EXPECT_EQ(with([](auto& i) { i.rtt_ms = 101; }).commit_ms, base.commit_ms + 200 - 1);
}

}  // namespace
}  // namespace transship::plan
