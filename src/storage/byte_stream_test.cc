#include "storage/byte_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "base/thread.h"
#include "storage/test_tree.h"

namespace transship::storage {
namespace {

using testing::never;

TEST(StreamPipe, KeepsOrderUnderBackpressure) {
  auto cancel = never();
  auto pipe = StreamPipe::create(cancel, milliseconds(20'000));
  ASSERT_TRUE(pipe);
  constexpr size_t kTotal = 48U << 20;
  Thread writer("writer", [&] {
    std::vector<std::byte> chunk(777'777);
    for (size_t at = 0; at < kTotal;) {
      size_t n = std::min(chunk.size(), kTotal - at);
      for (size_t i = 0; i < n; ++i) chunk[i] = static_cast<std::byte>((at + i) * 2654435761U >> 24);
      ASSERT_TRUE((*pipe)->write(std::span(chunk).first(n)));
      at += n;
    }
    (*pipe)->finish();
  });
  std::vector<std::byte> buffer(100'003);
  size_t at = 0, wrong = 0;
  while (true) {
    auto n = (*pipe)->read(buffer);
    ASSERT_TRUE(n) << n.error().message();
    if (*n == 0) break;
    for (size_t i = 0; i < *n; ++i) wrong += buffer[i] != static_cast<std::byte>((at + i) * 2654435761U >> 24) ? 1 : 0;
    at += *n;
  }
  EXPECT_EQ(at, kTotal);
  EXPECT_EQ(wrong, 0U);
}

TEST(StreamPipe, ReaderGetsTheWritersErrorAfterTheData) {
  auto cancel = never();
  auto pipe = StreamPipe::create(cancel, milliseconds(20'000));
  std::array<std::byte, 3> three = {};
  ASSERT_TRUE((*pipe)->write(three));
  (*pipe)->fail_reader(Error(Errc::kUnavailable, "lane 2 broke"));
  std::array<std::byte, 16> buffer;
  auto n = (*pipe)->read(buffer);
  ASSERT_TRUE(n);
  EXPECT_EQ(*n, 3U);
  n = (*pipe)->read(buffer);
  ASSERT_FALSE(n);
  EXPECT_EQ(n.error().message(), "lane 2 broke");
}

TEST(StreamPipe, AWaitingWriterGetsTheReadersError) {
  auto cancel = never();
  auto pipe = StreamPipe::create(cancel, milliseconds(20'000));
  Result<> wrote;
  Thread writer("writer", [&] {
    std::vector<std::byte> chunk(1 << 20);
    while (wrote) wrote = (*pipe)->write(chunk);
  });
  std::array<std::byte, 16> buffer;
  ASSERT_TRUE((*pipe)->read(buffer));
  (*pipe)->fail_writer(Error(Errc::kNoSpace, "disk full"));
  writer.join();
  EXPECT_EQ(wrote.error().code(), Errc::kNoSpace);
}

TEST(StreamPipe, NothingMovesForTooLong) {
  auto cancel = never();
  auto pipe = StreamPipe::create(cancel, milliseconds(1));
  std::array<std::byte, 16> buffer;
  auto n = (*pipe)->read(buffer);
  ASSERT_FALSE(n);
  EXPECT_EQ(n.error().code(), Errc::kTimeout);
  cancel.cancel("stop");
  EXPECT_EQ((*pipe)->read(buffer).error().code(), Errc::kCancelled);
}

}  // namespace
}  // namespace transship::storage
