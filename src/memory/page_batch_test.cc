#include "memory/page_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "memory/test_pages.h"

namespace transship::memory {
namespace {

using testing::HasSubstr;
using Bytes = std::vector<std::byte>;

const SpaceId kTask{SpaceKind::kTask, 17};

// 128 pages of content in three segments, with zero pages before, between and behind.
PageBatch full_batch(const Bytes& content) {
  return {kTask,
          {{{0x1000, 3}, true},
           {{0x10000, 100}, false},
           {{0x10000 + 100 * kPageBytes, 1}, true},
           {{0x10000 + 101 * kPageBytes, 27}, false},
           {{0x7f0000000000, 1U << 20}, true},
           {{0x7fff00000000, 1}, false}},
          content};
}

void expect_same(const PageBatch& got, const PageBatch& want) {
  EXPECT_EQ(got.space, want.space);
  EXPECT_EQ(got.segments, want.segments);
  EXPECT_TRUE(std::ranges::equal(got.content, want.content));
}

void set_u32(Bytes& frame, size_t at, uint32_t value) {
  for (size_t i = 0; i < 4; ++i) frame[at + i] = static_cast<std::byte>(value >> 8 * i);
}
void set_u64(Bytes& frame, size_t at, uint64_t value) {
  for (size_t i = 0; i < 8; ++i) frame[at + i] = static_cast<std::byte>(value >> 8 * i);
}

std::string why_not(const Bytes& frame, Errc code = Errc::kPeerProtocol) {
  Bytes scratch;
  auto r = decode_batch(frame, scratch);
  if (r) return "it was accepted";
  EXPECT_EQ(r.error().code(), code) << r.error().message();
  return r.error().message();
}

Bytes one_page_frame() {
  Bytes page = test_pages(TestContent::kRandom, 1);
  Bytes frame;
  EXPECT_TRUE(encode_batch({kTask, {{{0x1000, 1}, false}}, page}, Compression::kNone, 1, frame));
  return frame;
}

struct Case {
  Compression asked;
  TestContent content;
  Compression used;
  double most;  // of the content's size
};
class PageBatchRound : public testing::TestWithParam<Case> {};

TEST_P(PageBatchRound, ComesOutAsItWentIn) {
  auto [asked, kind, used, most] = GetParam();
  Bytes content = test_pages(kind, kBatchPages);
  PageBatch batch = full_batch(content);
  batch.segments.pop_back();
  batch.segments.back() = {{0x7f0000000000, 1}, false};
  Bytes frame(3, std::byte{7});  // is replaced
  auto encoded = encode_batch(batch, asked, 1, frame);
  ASSERT_TRUE(encoded) << encoded.error().message();
  EXPECT_EQ(*encoded, used);
  EXPECT_LE(static_cast<double>(frame.size()), most * static_cast<double>(content.size()) + 40 + 5 * 16);
  Bytes scratch;
  for (int again = 0; again < 2; ++again) {
    auto decoded = decode_batch(frame, scratch);
    ASSERT_TRUE(decoded) << decoded.error().message();
    expect_same(*decoded, batch);
  }
  EXPECT_EQ(scratch.empty(), used == Compression::kNone);
}

INSTANTIATE_TEST_SUITE_P(All, PageBatchRound,
                         testing::Values(Case{Compression::kNone, TestContent::kHeap, Compression::kNone, 1.0},
                                         Case{Compression::kLz4, TestContent::kHeap, Compression::kLz4, 0.5},
                                         Case{Compression::kZstd, TestContent::kHeap, Compression::kZstd, 0.35},
                                         Case{Compression::kLz4, TestContent::kRandom, Compression::kNone, 1.0},
                                         Case{Compression::kZstd, TestContent::kRandom, Compression::kNone, 1.0}));

TEST(PageBatch, ZeroPagesNeedNoContent) {
  PageBatch batch{{SpaceKind::kShared, 5}, {{{0, kMaxPageEnd / kPageBytes}, true}}, {}};
  Bytes frame;
  auto encoded = encode_batch(batch, Compression::kZstd, 1, frame);
  ASSERT_TRUE(encoded) << encoded.error().message();
  EXPECT_EQ(*encoded, Compression::kNone);
  EXPECT_EQ(frame.size(), kBatchHeaderBytes + kBatchSegmentBytes);
  Bytes scratch;
  auto decoded = decode_batch(frame, scratch);
  ASSERT_TRUE(decoded) << decoded.error().message();
  expect_same(*decoded, batch);
}

// The layout is a promise to the other node: these bytes were worked out by hand, except for the checksum.
TEST(PageBatch, HasTheBytesOfTheDocument) {
  PageBatch batch{{SpaceKind::kShared, 0x0102}, {{{0x3000, 2}, true}}, {}};
  Bytes frame;
  ASSERT_TRUE(encode_batch(batch, Compression::kNone, 1, frame));
  const unsigned char expected[] = {'T', 'S', 'P', 'B', 1, 2, 1, 0, 2, 1, 0, 0, 0, 0, 0, 0,
                                    1,   0,   0,   0,   0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  const unsigned char segment[] = {1, 0x30, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_TRUE(std::ranges::equal(std::span(frame).first(32), std::as_bytes(std::span(expected))));
  EXPECT_TRUE(std::ranges::equal(std::span(frame).subspan(40), std::as_bytes(std::span(segment))));
}

TEST(PageBatch, RefusesToEncodeWhatBreaksTheRules) {
  Bytes content = test_pages(TestContent::kHeap, kBatchPages + 1);
  auto pages = [&](size_t n) { return std::span<const std::byte>(content).first(n * kPageBytes); };
  std::vector<PageSegment> many;
  for (uint64_t i = 0; i <= kBatchSegments; ++i) many.push_back({{i * 2 * kPageBytes, 1}, true});
  const struct {
    PageBatch batch;
    const char* why;
  } cases[] = {
      {{{}, {{{0, 1}, false}}, pages(1)}, "unknown kind of space"},
      {{kTask, {}, {}}, "of 0 segments"},
      {{kTask, many, {}}, "of 4097 segments"},
      {{kTask, {{{0x1001, 1}, false}}, pages(1)}, "1 pages at 0x1001"},
      {{kTask, {{{0x1000, 0}, true}}, {}}, "0 pages at 0x1000"},
      {{kTask, {{{kMaxPageEnd, 1}, true}}, {}}, "1 pages at 0x4000000000000000"},
      {{kTask, {{{kPageBytes, kMaxPageEnd / kPageBytes}, true}}, {}}, "pages at 0x1000"},
      {{kTask, {{{0x1000, 2}, true}, {{0x2000, 1}, true}}, {}}, "do not come after"},
      {{kTask, {{{0x2000, 1}, true}, {{0x1000, 1}, true}}, {}}, "do not come after"},
      {{kTask, {{{0, kBatchPages + 1}, false}}, pages(kBatchPages + 1)}, "more than 128 pages"},
      {{kTask, {{{0, 2}, false}}, pages(1)}, "4096 bytes of content for 2 pages"},
      {{kTask, {{{0, 2}, true}}, pages(1)}, "4096 bytes of content for 0 pages"},
  };
  for (const auto& c : cases) {
    Bytes frame;
    auto r = encode_batch(c.batch, Compression::kNone, 1, frame);
    ASSERT_FALSE(r) << c.why;
    EXPECT_EQ(r.error().code(), Errc::kInvalidArgument);
    EXPECT_THAT(r.error().message(), HasSubstr(c.why));
  }
  Bytes frame;
  EXPECT_FALSE(encode_batch({kTask, {{{0, 1}, false}}, pages(1)}, Compression::kInvalid, 1, frame));
}

TEST(PageBatch, SaysWhatIsWrongWithAFrame) {
  const struct {
    size_t at;
    uint32_t value;
    const char* why;
  } cases[] = {
      {0, 0, "magic number"},
      {4, 0x00010102, "version 2"},
      {4, 0x00010901, "unknown kind of space 9"},
      {4, 0x00040101, "unknown compression 4"},
      {4, 0x00000101, "unknown compression 0"},
      {4, 0x01010101, "where zero must be"},
      {16, 0, "of 0 segments"},
      {16, kBatchSegments + 1, "of 4097 segments"},
      {16, 0xffffffff, "of 4294967295 segments"},
      {20, 0xffffffff, "4294967295 bytes of content"},
      {20, (kBatchPages + 1) * kPageBytes, "528384 bytes of content"},
      {20, 4095, "4095 bytes of content"},
      {20, 0, "0 bytes of content travel as 4096"},
      {24, 0xffffffff, "travel as 4294967295"},
      {28, 1, "where zero must be"},
      {16, 2, "of 4152 bytes, its header says 4168"},
      {48, 0, "0 pages at 0x1000"},
      {52, 0xffffffff, "pages at 0x1000"},
      {40, 0x1002, "1 pages at 0x1002"},
      {44, 0xffffffff, "1 pages at 0xffffffff00001000"},
  };
  for (const auto& c : cases) {
    Bytes frame = one_page_frame();
    set_u32(frame, c.at, c.value);
    EXPECT_THAT(why_not(frame), HasSubstr(c.why));
  }
}

TEST(PageBatch, LengthsThatWouldOverflowAreRefused) {
  Bytes frame = one_page_frame();
  set_u64(frame, 48, 1ULL << 52);  // times 4096 is 2^64
  EXPECT_THAT(why_not(frame), HasSubstr("4503599627370496 pages at 0x1000"));
  for (size_t length : {size_t{0}, size_t{1}, kBatchHeaderBytes - 1}) {
    frame = one_page_frame();
    frame.resize(length);
    EXPECT_THAT(why_not(frame), HasSubstr("shorter than its header"));
  }
}

TEST(PageBatch, NoticesEachDamagedByte) {
  Bytes good = one_page_frame();
  for (size_t at : {size_t{8}, size_t{32}, size_t{41}, size_t{56}, good.size() - 1}) {
    Bytes frame = good;
    frame[at] ^= std::byte{0x40};
    EXPECT_THAT(why_not(frame, Errc::kCorrupt), HasSubstr("damaged")) << at;
  }
}

TEST(PageBatch, CompressedContentOfTheWrongLengthIsRefused) {
  Bytes content = test_pages(TestContent::kHeap, 2);
  for (auto compression : {Compression::kLz4, Compression::kZstd}) {
    Bytes frame;
    auto used = encode_batch({kTask, {{{0, 2}, false}}, content}, compression, 1, frame);
    ASSERT_TRUE(used && *used == compression);
    for (size_t pages : {3U, 128U}) {
      Bytes wrong = frame;
      set_u32(wrong, 20, static_cast<uint32_t>(pages * kPageBytes));
      EXPECT_THAT(why_not(wrong), testing::AnyOf(HasSubstr("lz4 content"), HasSubstr("zstd content")));
    }
  }
}

// Frames with random changes: none may be taken for other pages, and the sanitizers may find nothing. (One that is
// accepted says the same in other words: LZ4 may copy the same bytes from another place.)
TEST(PageBatch, NoChangeOfAFrameChangesPages) {
  TestRandom random(20);
  Bytes scratch;
  int accepted = 0;
  for (auto compression : {Compression::kNone, Compression::kLz4, Compression::kZstd}) {
    Bytes content = test_pages(TestContent::kHeap, 4);
    PageBatch batch{kTask, {{{0, 2}, false}, {{0x4000, 9}, true}, {{0x40000, 2}, false}}, content};
    Bytes good;
    ASSERT_TRUE(encode_batch(batch, compression, 1, good));
    for (int i = 0; i < 5000; ++i) {
      Bytes frame = good;
      for (uint64_t changes = 1 + random.below(4); changes > 0; --changes) {
        // Half of them in the header and the segments, where lengths are.
        size_t limit = random.below(2) == 0 ? 88 : frame.size();
        frame[random.below(limit)] = static_cast<std::byte>(random.next());
      }
      if (random.below(4) == 0) frame.resize(random.below(frame.size() + 1));
      if (auto r = decode_batch(frame, scratch)) {
        expect_same(*r, batch);
        ++accepted;
      }
      ASSERT_LE(scratch.size(), kBatchPages * kPageBytes);
    }
  }
  EXPECT_LT(accepted, 100);
}

TEST(PageBatch, AnyBytesAreFine) {
  TestRandom random(4);
  Bytes scratch;
  for (int i = 0; i < 5000; ++i) {
    Bytes frame(random.below(2048));
    fill_random(frame, random.next());
    EXPECT_FALSE(decode_batch(frame, scratch));
  }
}

TEST(PageBatch, TheLongestFrameFits) {
  Bytes content = test_pages(TestContent::kRandom, kBatchPages);
  PageBatch batch{kTask, {}, content};
  for (uint64_t i = 0; i < kBatchSegments; ++i) batch.segments.push_back({{2 * i * kPageBytes, 1}, i >= kBatchPages});
  Bytes frame;
  ASSERT_TRUE(encode_batch(batch, Compression::kLz4, 1, frame));
  EXPECT_EQ(frame.size(), kMaxBatchFrame);
  Bytes scratch;
  auto decoded = decode_batch(frame, scratch);
  ASSERT_TRUE(decoded) << decoded.error().message();
  expect_same(*decoded, batch);
}

}  // namespace
}  // namespace transship::memory
