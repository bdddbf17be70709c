#include "forwarder/segments.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>

namespace transship::lab {
namespace {

constexpr size_t kSegment = 1000;

void set16(std::vector<std::byte>& data, size_t at, unsigned value) {
  data[at] = std::byte(static_cast<uint8_t>(value >> 8));
  data[at + 1] = std::byte(static_cast<uint8_t>(value));
}
unsigned read16(const Frame& f, size_t at) {
  return (std::to_integer<unsigned>(f.data[at]) << 8) | std::to_integer<unsigned>(f.data[at + 1]);
}
unsigned read32(const Frame& f, size_t at) { return (read16(f, at) << 16) | read16(f, at + 2); }

// Ones' complement sum of a range, folded.
unsigned sum_of(const Frame& f, size_t from, size_t to, unsigned start = 0) {
  unsigned sum = start;
  for (size_t i = from; i < to; i += 2) sum += i + 1 < to ? read16(f, i) : std::to_integer<unsigned>(f.data[i]) << 8;
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

// A TCP packet over IPv4 whose payload byte i is i % 251.
Frame tcp4(size_t payload, uint8_t flags = 0x18) {
  Frame f;
  f.header.flags = kNeedsChecksum;
  f.header.gso_type = kGsoTcp4;
  f.header.gso_size = kSegment;
  f.header.csum_start = 34;
  f.header.csum_offset = 16;
  f.data.resize(54 + payload);
  set16(f.data, 12, 0x0800);
  f.data[14] = std::byte{0x45};
  set16(f.data, 16, static_cast<unsigned>(40 + payload));
  set16(f.data, 18, 0xffff);  // identification: wraps at the next segment
  f.data[23] = std::byte{6};
  for (size_t i = 26; i < 34; ++i) f.data[i] = std::byte(static_cast<uint8_t>(i));
  set16(f.data, 38, 0xffff);  // sequence number 0xfffffc00: wraps inside the packet
  set16(f.data, 40, 0xfc00);
  f.data[46] = std::byte{0x50};
  f.data[47] = std::byte{flags};
  for (size_t i = 0; i < payload; ++i) f.data[54 + i] = std::byte(static_cast<uint8_t>(i % 251));
  return f;
}

// "L" loses the segment, "." lets it pass.
std::function<bool()> pattern(std::string text) {
  return [text = std::move(text), i = size_t{0}]() mutable { return text.at(i++) == 'L'; };
}

TEST(Segments, NothingLostLeavesThePacketAlone) {
  Frame f = tcp4(4500);
  const auto before = f.data;
  const Survivors out = drop_segments(std::move(f), pattern("....."));
  ASSERT_EQ(out.frames.size(), 1U);
  EXPECT_EQ(out.frames[0].data, before);
  EXPECT_EQ(out.segments, 5U);
  EXPECT_EQ(out.lost, 0U);
}

TEST(Segments, AllLostLeavesNothing) {
  const Survivors out = drop_segments(tcp4(4500), pattern("LLLLL"));
  EXPECT_TRUE(out.frames.empty());
  EXPECT_EQ(out.lost, 5U);
}

TEST(Segments, CutsLostSegmentsOut) {
  const Survivors out = drop_segments(tcp4(4500, 0x99 /* CWR ACK PSH FIN */), pattern("..L.."));
  ASSERT_EQ(out.frames.size(), 2U);
  const Frame& head = out.frames[0];
  const Frame& tail = out.frames[1];
  EXPECT_EQ(head.data.size(), 54U + 2000U);
  EXPECT_EQ(tail.data.size(), 54U + 1500U);
  EXPECT_EQ(read32(head, 38), 0xfffffc00U);
  EXPECT_EQ(read32(tail, 38), 0xfffffc00U + 3000U);  // wrapped
  EXPECT_EQ(tail.data[54], std::byte(3000 % 251));
  EXPECT_EQ(tail.data.back(), std::byte(4499 % 251));
  EXPECT_EQ(read16(head, 16), 2040U);
  EXPECT_EQ(read16(tail, 16), 1540U);
  EXPECT_EQ(read16(tail, 18), 2U);            // 0xffff + 3 segments
  EXPECT_EQ(head.data[47], std::byte{0x90});  // FIN and PSH belong to the last segment
  EXPECT_EQ(tail.data[47], std::byte{0x19});  // CWR to the first
  EXPECT_EQ(head.header.gso_type, kGsoTcp4);
  EXPECT_EQ(head.header.gso_size, kSegment);
}

TEST(Segments, ChecksumsAreRight) {
  const Survivors out = drop_segments(tcp4(4500), pattern(".L..L"));
  for (const Frame& f : out.frames) {
    EXPECT_EQ(sum_of(f, 14, 34), 0xffffU) << "IPv4 header";
    const auto length = static_cast<unsigned>(f.data.size() - 34);
    EXPECT_EQ(read16(f, 50), sum_of(f, 26, 34, length + 6)) << "pseudo header";
  }
}

TEST(Segments, ASingleSegmentIsAnOrdinaryPacket) {
  const Survivors out = drop_segments(tcp4(2500), pattern("LL."));
  ASSERT_EQ(out.frames.size(), 1U);
  EXPECT_EQ(out.frames[0].header.gso_type, kGsoNone);
  EXPECT_EQ(out.frames[0].header.gso_size, 0);
  EXPECT_EQ(out.frames[0].header.flags, kNeedsChecksum);
  EXPECT_EQ(out.frames[0].data.size(), 54U + 500U);
}

TEST(Segments, UdpOverIpv6) {
  Frame f;
  f.header.flags = kNeedsChecksum;
  f.header.gso_type = kGsoUdp;
  f.header.gso_size = kSegment;
  f.header.csum_start = 54;
  f.header.csum_offset = 6;
  f.data.resize(62 + 2500, std::byte{7});
  set16(f.data, 12, 0x86dd);
  const Survivors out = drop_segments(std::move(f), pattern("L.."));
  ASSERT_EQ(out.frames.size(), 1U);
  const Frame& part = out.frames[0];
  EXPECT_EQ(part.data.size(), 62U + 1500U);
  EXPECT_EQ(read16(part, 18), 1508U);  // IPv6 payload length
  EXPECT_EQ(read16(part, 58), 1508U);  // UDP length
  EXPECT_EQ(read16(part, 60), sum_of(part, 22, 54, 1508 + 17));
}

TEST(Segments, OddPacketsCountAsOne) {
  Frame plain;
  plain.data.resize(60);
  EXPECT_EQ(count_segments(plain), 1U);
  EXPECT_TRUE(drop_segments(plain, pattern("L")).frames.empty());
  EXPECT_EQ(drop_segments(plain, pattern(".")).frames.size(), 1U);

  Frame lies = tcp4(3000);  // headers that do not fit the packet must not be followed
  lies.header.csum_start = 60'000;
  EXPECT_EQ(count_segments(lies), 1U);
  lies = tcp4(3000);
  lies.data[46] = std::byte{0xf0};
  lies.data.resize(70);
  EXPECT_EQ(count_segments(lies), 1U);
  lies = tcp4(3000);
  lies.header.gso_size = 0;
  EXPECT_EQ(count_segments(lies), 1U);
  lies = tcp4(3000);
  lies.data.resize(10);
  EXPECT_EQ(count_segments(lies), 1U);
}

}  // namespace
}  // namespace transship::lab
