#include "memory/shared_store.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <thread>

namespace transship::memory {
namespace {

constexpr uint64_t kPage = kPageBytes;

std::vector<std::byte> filled(uint64_t pages, int with) {
  return std::vector<std::byte>(pages * kPage, static_cast<std::byte>(with));
}

PageBatch batch(uint64_t id, std::vector<PageSegment> segments, std::span<const std::byte> content) {
  return {{SpaceKind::kShared, id}, std::move(segments), content};
}

std::byte first_of(const SharedStore& store, uint64_t id, uint64_t page) {
  std::vector<std::byte> out(kPage);
  auto r = store.read(id, page * kPage, out);
  EXPECT_TRUE(r) << r.error().message();
  return out[0];
}

TEST(SharedStore, TheFileIsTheObject) {
  SharedStore store(4);
  auto content = filled(3, 7);
  ASSERT_TRUE(*store.put(batch(5, {{{kPage, 2}, false}, {{10 * kPage, 1}, false}}, content)));
  EXPECT_EQ(store.bytes_held(), 3 * kPage);
  EXPECT_EQ(store.ids(), std::vector<uint64_t>{5});
  auto* at = static_cast<std::byte*>(::mmap(nullptr, 11 * kPage, PROT_READ, MAP_SHARED, store.file(5), 0));
  ASSERT_NE(at, MAP_FAILED);
  EXPECT_EQ(at[0], std::byte{0});
  EXPECT_EQ(at[kPage], std::byte{7});
  EXPECT_EQ(at[10 * kPage], std::byte{7});
  // What comes later is there as well.
  ASSERT_TRUE(*store.put(batch(5, {{{0, 1}, false}}, std::span(content).first(kPage))));
  EXPECT_EQ(at[0], std::byte{7});
  (void)::munmap(at, 11 * kPage);
}

TEST(SharedStore, ZeroPagesTakeNoMemoryAndHaveArrived) {
  SharedStore store(4);
  auto content = filled(4, 1);
  ASSERT_TRUE(*store.put(batch(5, {{{0, 4}, false}}, content)));
  ASSERT_TRUE(*store.put(batch(5, {{{kPage, 2}, true}, {{100 * kPage, uint64_t{1} << 40}, true}}, {})));
  EXPECT_EQ(store.bytes_held(), 2 * kPage);
  std::vector<PageRange> all{{0, 5}, {200 * kPage, 10}};
  EXPECT_EQ(store.missing(5, all), (std::vector<PageRange>{{4 * kPage, 1}}));
  EXPECT_EQ(first_of(store, 5, 1), std::byte{0});
  EXPECT_EQ(first_of(store, 5, 3), std::byte{1});
  EXPECT_EQ(first_of(store, 5, 300), std::byte{0});
}

TEST(SharedStore, WhatIsDroppedIsMissing) {
  SharedStore store(4);
  auto content = filled(4, 1);
  ASSERT_TRUE(*store.put(batch(5, {{{0, 4}, false}}, content)));
  store.drop(5, {kPage, 2});
  store.drop(6, {kPage, 2});
  std::vector<PageRange> all{{0, 4}};
  EXPECT_EQ(store.missing(5, all), (std::vector<PageRange>{{kPage, 2}}));
  EXPECT_EQ(store.missing(6, all), all);
  EXPECT_EQ(store.bytes_held(), 2 * kPage);
  std::vector<std::byte> out(kPage);
  EXPECT_EQ(store.read(5, kPage, out).error().code(), Errc::kNotFound);
}

TEST(SharedStore, OnlySoManyObjects) {
  SharedStore store(2);
  auto content = filled(1, 1);
  for (uint64_t id : {1, 2}) EXPECT_TRUE(*store.put(batch(id, {{{0, 1}, false}}, content)));
  EXPECT_FALSE(*store.put(batch(3, {{{0, 1}, false}}, content)));
  EXPECT_TRUE(*store.put(batch(2, {{{0, 1}, false}}, content)));
  EXPECT_FALSE(store.holds(3));
  EXPECT_EQ(store.file(3), -1);
}

TEST(SharedStore, FromManyThreads) {
  SharedStore store(8);
  auto content = filled(16, 9);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      for (uint64_t i = 0; i < 50; ++i) {
        auto r = store.put(batch(i % 4, {{{(t * 50 + i) * 16 * kPage, 16}, false}}, content));
        EXPECT_TRUE(r && *r);
      }
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(store.bytes_held(), 4 * 50 * 16 * kPage);
}

}  // namespace
}  // namespace transship::memory
