#include "wire/lanes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <random>

#include "wire/lane_frame.h"
#include "wire/rate_limit.h"
#include "wire/testing.h"

namespace transship::wire {
namespace {

using testing::bytes;
using testing::never;
using testing::plain_pair;
using testing::soon;

Buffer buffer_of(std::string_view text) { return {bytes(text).begin(), bytes(text).end()}; }

// The receiving end of several lanes, each on its own thread.
class Lanes {
 public:
  Lanes(unsigned count, ChunkSink sink, LaneOptions options = {}, Cancel cancel = never(),
        LaneReceiveOptions receive = {})
      : sink_(std::move(sink)), receive_(receive), results_(count, fail(Errc::kInternal, "not run")) {
    std::vector<std::unique_ptr<Stream>> ours;
    for (unsigned i = 0; i < count; ++i) {
      auto [a, b] = plain_pair();
      ours.push_back(std::move(a));
      far_.push_back(std::move(b));
    }
    for (unsigned i = 0; i < count; ++i) {
      threads_.emplace_back([this, i] {
        results_[i] = receive_lane(*far_[i], sink_, receive_, never());
        far_[i]->shutdown();
      });
    }
    sender = LaneSender::start(std::move(ours), options, cancel).value();
  }
  ~Lanes() { (void)end(); }
  const std::vector<Result<LaneCounters>>& end() {
    sender.reset();
    for (auto& t : threads_) t.join();
    threads_.clear();
    return results_;
  }
  Stream& far(unsigned i) { return *far_[i]; }
  std::unique_ptr<LaneSender> sender;

 private:
  ChunkSink sink_;
  LaneReceiveOptions receive_;
  std::vector<std::unique_ptr<Stream>> far_;
  std::vector<Result<LaneCounters>> results_;
  std::vector<std::thread> threads_;
};

// Puts chunks together by name, as a destination does.
struct Collector {
  std::mutex mu;
  std::map<std::string, std::string> files;
  std::vector<uint64_t> order;  // offsets of "stream"
  ChunkSink sink() {
    return [this](const ChunkHeader& h, std::span<const std::byte> data) -> Result<> {
      std::lock_guard lock(mu);
      auto& f = files[std::string(h.name)];
      if (f.size() < h.offset + data.size()) f.resize(h.offset + data.size());
      std::memcpy(f.data() + h.offset, data.data(), data.size());
      if (h.name == "stream") order.push_back(h.offset);
      return {};
    };
  }
};

TEST(Lanes, FilesSpreadAndArriveWhole) {
  Collector got;
  Lanes lanes(3, got.sink());
  std::string content;
  for (int i = 0; content.size() < 5'000'000; ++i) content += std::to_string(i);
  constexpr size_t kPart = 700'000;
  for (size_t at = 0; at < content.size(); at += kPart) {
    auto part = std::string_view(content).substr(at, kPart);
    Buffer b = lanes.sender->take_buffer(part.size());
    std::memcpy(b.data(), part.data(), part.size());
    ASSERT_TRUE(lanes.sender->send(1, "pages-1.img", at, std::move(b), Route::kSpread));
  }
  ASSERT_TRUE(lanes.sender->send(1, "empty.img", 0, {}, Route::kSpread));
  ASSERT_TRUE(lanes.sender->flush(soon()));
  EXPECT_TRUE(got.files["pages-1.img"] == content);
  EXPECT_TRUE(got.files.contains("empty.img"));
  auto c = lanes.sender->counters();
  EXPECT_EQ(c.payload_bytes, content.size());
  EXPECT_GT(c.wire_bytes, content.size());
  for (const auto& r : lanes.end()) EXPECT_TRUE(r) << r.error().message();
}

TEST(Lanes, ReceiverMayConfirmInAnotherWay) {
  std::atomic<uint64_t> consumed = 0;
  Lanes lanes(2, [&](const ChunkHeader&, std::span<const std::byte>) -> Result<> {
    ++consumed;
    return {};
  });
  ASSERT_TRUE(lanes.sender->send(1, "big", 0, Buffer(2 * kMaxFramePayload + 1), Route::kSpread));
  ASSERT_TRUE(lanes.sender->send(1, "empty", 0, {}, Route::kSpread));
  uint64_t queued = lanes.sender->counters().queued_chunks;
  EXPECT_EQ(queued, 4U);
  auto deadline = soon();
  while (consumed < queued && !deadline.passed()) std::this_thread::yield();
  ASSERT_EQ(consumed, queued);
  lanes.sender->all_consumed();
  for (const auto& r : lanes.end()) EXPECT_TRUE(r) << r.error().message();
}

TEST(Lanes, BigBufferIsCutIntoFrames) {
  Collector got;
  Lanes lanes(2, got.sink());
  Buffer big(3 * kMaxFramePayload + 5, std::byte{7});
  ASSERT_TRUE(lanes.sender->send(1, "big", 10, std::move(big), Route::kSpread));
  ASSERT_TRUE(lanes.sender->flush(soon()));
  EXPECT_EQ(got.files["big"].size(), 10 + 3 * kMaxFramePayload + 5);
  EXPECT_EQ(lanes.sender->counters().chunks, 4U);
}

TEST(Lanes, StreamsStayInOrder) {
  Collector got;
  Lanes lanes(4, got.sink());
  for (uint64_t i = 0; i < 500; ++i)
    ASSERT_TRUE(lanes.sender->send(2, "stream", i * 10, buffer_of("0123456789"), Route::kOrdered));
  ASSERT_TRUE(lanes.sender->flush(soon()));
  EXPECT_EQ(got.order.size(), 500U);
  EXPECT_TRUE(std::ranges::is_sorted(got.order));
}

TEST(Lanes, FlushWaitsForTheSink) {
  std::atomic<bool> consumed = false;
  Lanes lanes(1, [&](const ChunkHeader&, std::span<const std::byte>) -> Result<> {
    std::this_thread::sleep_for(milliseconds(50));
    consumed = true;
    return {};
  });
  ASSERT_TRUE(lanes.sender->send(1, "a", 0, buffer_of("x"), Route::kSpread));
  ASSERT_TRUE(lanes.sender->flush(soon()));
  EXPECT_TRUE(consumed);
}

TEST(Lanes, ErrorOfTheSinkReachesEveryCaller) {
  Lanes lanes(2, [](const ChunkHeader& h, std::span<const std::byte>) -> Result<> {
    if (h.name != "bad") return {};
    return std::unexpected(Error(Errc::kNoSpace, "the disk is full").with_remedy("make room"));
  });
  ASSERT_TRUE(lanes.sender->send(1, "bad", 0, buffer_of("x"), Route::kSpread));
  auto r = lanes.sender->flush(soon());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kNoSpace);
  EXPECT_THAT(r.error().message(), ::testing::HasSubstr("the disk is full"));
  EXPECT_EQ(r.error().remedy(), "make room");
  EXPECT_EQ(lanes.sender->send(1, "more", 0, buffer_of("x"), Route::kSpread).error().code(), Errc::kNoSpace);
  EXPECT_EQ(lanes.sender->flush(soon()).error().code(), Errc::kNoSpace);
}

TEST(Lanes, ErrorOfTheSinkEndsASenderThatNeverFlushes) {
  Lanes lanes(1,
              [](const ChunkHeader&, std::span<const std::byte>) -> Result<> { return fail(Errc::kNoSpace, "full"); });
  Result<> r;
  for (uint64_t i = 0; r && i < 10'000; ++i) r = lanes.sender->send(1, "f", i << 20, Buffer(1U << 20), Route::kSpread);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kNoSpace) << r.error().message();
}

TEST(Lanes, UnflushedEndDoesNotLookComplete) {
  std::atomic<int> seen = 0;
  Lanes lanes(1, [&](const ChunkHeader&, std::span<const std::byte>) -> Result<> {
    ++seen;
    std::this_thread::sleep_for(milliseconds(20));
    return {};
  });
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(lanes.sender->send(1, "f", 0, Buffer(100'000), Route::kSpread));
  const auto& results = lanes.end();
  EXPECT_LT(seen, 50);
  (void)results;
}

TEST(Lanes, CutLaneFailsTheTransfer) {
  Lanes lanes(2, [](const ChunkHeader&, std::span<const std::byte>) -> Result<> { return {}; });
  lanes.far(1).shutdown();
  Result<> r;
  for (int i = 0; r && i < 1'000; ++i) r = lanes.sender->send(1, "f", 0, Buffer(100'000), Route::kSpread);
  if (r) r = lanes.sender->flush(soon());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kUnavailable) << r.error().message();
}

TEST(Lanes, StalledReceiverFailsAfterTheLimit) {
  auto [a, b] = plain_pair();
  std::vector<std::unique_ptr<Stream>> streams;
  streams.push_back(std::move(a));
  LaneOptions options;
  options.stall = milliseconds(50);
  auto sender = LaneSender::start(std::move(streams), options, never()).value();
  Result<> r;
  for (int i = 0; r && i < 1'000; ++i) r = sender->send(1, "f", 0, Buffer(1U << 20), Route::kSpread);
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout);
}

TEST(Lanes, CancelEndsASenderThatWaits) {
  auto [a, b] = plain_pair();
  std::vector<std::unique_ptr<Stream>> streams;
  streams.push_back(std::move(a));
  Cancel cancel = never();
  auto sender = LaneSender::start(std::move(streams), {}, cancel).value();
  std::thread other([&] {
    std::this_thread::sleep_for(milliseconds(30));
    cancel.cancel("enough");
  });
  Result<> r;
  while (r) r = sender->send(1, "f", 0, Buffer(1U << 20), Route::kSpread);
  other.join();
  EXPECT_EQ(r.error().code(), Errc::kCancelled);
}

TEST(Lanes, FlushHasADeadline) {
  auto [a, b] = plain_pair();
  std::vector<std::unique_ptr<Stream>> streams;
  streams.push_back(std::move(a));
  auto sender = LaneSender::start(std::move(streams), {}, never()).value();
  auto r = sender->flush(soon(30));
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout);
}

TEST(Lanes, NamesThatAreNotPlainAreNotSent) {
  Lanes lanes(1, [](const ChunkHeader&, std::span<const std::byte>) -> Result<> { return {}; });
  for (const char* bad : {"", "..", "../x", "a/b", "-x", "a b"})
    EXPECT_FALSE(lanes.sender->send(1, bad, 0, buffer_of("x"), Route::kSpread)) << bad;
  EXPECT_FALSE(lanes.sender->send(0, "a", 0, buffer_of("x"), Route::kSpread));
  EXPECT_FALSE(lanes.sender->send(1, "a", kMaxFrameOffset, buffer_of("x"), Route::kSpread));
}

// What a receiver makes of these bytes, and what it answers.
std::pair<Result<LaneCounters>, std::string> receive_raw(std::string_view raw) {
  auto [a, b] = plain_pair();
  EXPECT_TRUE(a->write_all(bytes(raw), soon(), never()));
  a->finish();
  ChunkSink sink = [](const ChunkHeader&, std::span<const std::byte>) -> Result<> { return {}; };
  auto r = receive_lane(*b, sink, {}, never());
  b->finish();
  std::string answer(65536, '\0');
  size_t n = 0;
  while (true) {
    auto more = a->read_some(std::as_writable_bytes(std::span(answer).subspan(n)), soon(), never());
    if (!more || *more == 0) break;
    n += *more;
  }
  answer.resize(n);
  return {std::move(r), answer};
}

std::string raw_header(const FrameHeader& h) {
  auto head = encode_header(h);
  return {reinterpret_cast<const char*>(head.data()), head.size()};
}

TEST(LaneReceiver, PathsAsNamesAreRefused) {
  auto head = raw_header({.type = FrameType::kData, .kind = 1, .name_length = 6, .length = 1, .offset = 0});
  auto [r, answer] = receive_raw(head + "../../" + "x");
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kPeerProtocol);
  EXPECT_EQ(answer[0], 4);
}

TEST(LaneReceiver, BadHeaderIsAnsweredWithAnError) {
  auto [r, answer] = receive_raw(std::string("\x01\x01\x00\x01\xff\xff\xff\xff", 8) + std::string(8, '\0'));
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kPeerProtocol);
  ASSERT_GT(answer.size(), kFrameHeaderBytes);
  EXPECT_EQ(answer[0], 4);
}

TEST(LaneReceiver, CutAtEachByteIsAnErrorOrAnEnd) {
  auto one = raw_header({.type = FrameType::kData, .kind = 1, .name_length = 1, .length = 3, .offset = 0}) + "fabc";
  std::string two = one + one;
  for (size_t cut = 0; cut <= two.size(); ++cut) {
    auto [r, answer] = receive_raw(two.substr(0, cut));
    EXPECT_EQ(r.has_value(), cut % one.size() == 0) << cut;
    EXPECT_EQ(r ? r->chunks : cut / one.size(), cut / one.size());
  }
}

TEST(FrameHeader, SurvivesTheWay) {
  for (FrameHeader h : {FrameHeader{FrameType::kData, 255, 255, kMaxFramePayload, kMaxFrameOffset},
                        FrameHeader{FrameType::kData, 1, 1, 0, 0}, FrameHeader{FrameType::kFlush, 0, 0, 0, ~0ULL},
                        FrameHeader{FrameType::kAck, 0, 0, 0, 7}, FrameHeader{FrameType::kError, 0, 0, 16384, 0}}) {
    auto back = decode_header(encode_header(h));
    ASSERT_TRUE(back);
    EXPECT_EQ(*back, h);
  }
}

TEST(FrameHeader, IsBigEndian) {
  auto b = encode_header({FrameType::kData, 2, 0x0a, 0x00010203, 0x0102030405060708});
  const unsigned char want[] = {1, 2, 0, 10, 0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT_EQ(std::memcmp(b.data(), want, sizeof want), 0);
}

TEST(FrameHeader, HostileOnesAreRefused) {
  auto with = [](unsigned type, unsigned kind, unsigned name, uint32_t length, uint64_t offset) {
    std::array<std::byte, kFrameHeaderBytes> b{};
    b[0] = static_cast<std::byte>(type);
    b[1] = static_cast<std::byte>(kind);
    b[2] = static_cast<std::byte>(name >> 8);
    b[3] = static_cast<std::byte>(name & 0xFF);
    for (unsigned i = 0; i < 4; ++i) b[4 + i] = static_cast<std::byte>(length >> (24 - 8 * i) & 0xFF);
    for (unsigned i = 0; i < 8; ++i) b[8 + i] = static_cast<std::byte>(offset >> (56 - 8 * i) & 0xFF);
    return decode_header(b).has_value();
  };
  EXPECT_TRUE(with(1, 1, 1, 1 << 20, 0));
  EXPECT_FALSE(with(0, 1, 1, 1, 0));
  EXPECT_FALSE(with(5, 1, 1, 1, 0));
  EXPECT_FALSE(with(255, 1, 1, 1, 0));
  EXPECT_FALSE(with(1, 0, 1, 1, 0));
  EXPECT_FALSE(with(1, 1, 0, 1, 0));
  EXPECT_FALSE(with(1, 1, 256, 1, 0));
  EXPECT_FALSE(with(1, 1, 1, (1 << 20) + 1, 0));
  EXPECT_FALSE(with(1, 1, 1, 0xFFFFFFFF, 0));
  EXPECT_FALSE(with(1, 1, 1, 1, (1ULL << 62) + 1));
  EXPECT_FALSE(with(1, 1, 1, 1, ~0ULL));
  EXPECT_FALSE(with(2, 1, 0, 0, 1));
  EXPECT_FALSE(with(2, 0, 1, 0, 1));
  EXPECT_FALSE(with(3, 0, 0, 1, 1));
  EXPECT_FALSE(with(4, 0, 0, 0, 0));
  EXPECT_FALSE(with(4, 0, 0, 16385, 0));
  EXPECT_FALSE(decode_header({}));
}

TEST(FrameHeader, AnyBytesAreDecodedOrRefused) {
  std::mt19937_64 random(1);
  unsigned accepted = 0;
  for (int i = 0; i < 200'000; ++i) {
    std::array<std::byte, kFrameHeaderBytes> b;
    for (auto& x : b) x = static_cast<std::byte>(random());
    b[0] &= std::byte{7};
    if (i % 2 == 0) b[2] = b[4] = b[5] = b[8] = std::byte{0};
    auto h = decode_header(b);
    if (!h) continue;
    ++accepted;
    ASSERT_TRUE(encode_header(*h) == b);
  }
  EXPECT_GT(accepted, 100U);
}

TEST(RateLimit, SpacesWhatIsSent) {
  RateLimit limit(1'000'000);
  auto now = Clock::now();
  auto wait = limit.take(500'000, now);
  EXPECT_EQ(wait.count(), 0);
  wait = limit.take(500'000, now);  // 20 ms of burst are free
  EXPECT_EQ(std::chrono::duration_cast<milliseconds>(wait).count(), 480);
  limit.set(0);
  EXPECT_EQ(limit.take(1U << 30, now).count(), 0);
}

TEST(Lanes, RateIsHeld) {
  Collector got;
  LaneOptions options;
  options.max_bytes_per_second = 5'000'000;
  Lanes lanes(2, got.sink(), options);
  auto start = Clock::now();
  ASSERT_TRUE(lanes.sender->send(1, "f", 0, Buffer(1'000'000), Route::kSpread));
  ASSERT_TRUE(lanes.sender->flush(soon()));
  EXPECT_GE(Clock::now() - start, milliseconds(140));
}

}  // namespace
}  // namespace transship::wire
