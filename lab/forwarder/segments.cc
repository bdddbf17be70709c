#include "forwarder/segments.h"

#include <netinet/in.h>

#include <algorithm>
#include <optional>
#include <span>

namespace transship::lab {
namespace {

constexpr size_t kEthernet = 14;
constexpr size_t kIpv4Header = 20;
constexpr size_t kIpv6Header = 40;
constexpr size_t kTcpHeader = 20;
constexpr size_t kUdpHeader = 8;
constexpr uint8_t kFin = 0x01, kPush = 0x08, kCwr = 0x80;

// Where the parts of a segmented packet are. All offsets are checked against the packet's size.
struct Layout {
  bool ipv4 = false;
  bool tcp = false;
  size_t transport = 0;  // offset of the TCP or UDP header
  size_t payload = 0;    // offset of the payload
  size_t segment = 0;    // payload bytes per wire segment
};

uint16_t get16(std::span<const std::byte> data, size_t at) {
  return static_cast<uint16_t>((std::to_integer<unsigned>(data[at]) << 8) | std::to_integer<unsigned>(data[at + 1]));
}

void put16(std::span<std::byte> data, size_t at, size_t value) {
  data[at] = std::byte(static_cast<uint8_t>(value >> 8));
  data[at + 1] = std::byte(static_cast<uint8_t>(value));
}

uint32_t get32(std::span<const std::byte> data, size_t at) {
  return (static_cast<uint32_t>(get16(data, at)) << 16) | get16(data, at + 2);
}

void put32(std::span<std::byte> data, size_t at, uint32_t value) {
  put16(data, at, value >> 16);
  put16(data, at + 2, value & 0xffff);
}

// Sum of 16-bit words, folded to 16 bits, not complemented. Requires: an even number of bytes.
uint16_t internet_sum(std::span<const std::byte> data, uint32_t start = 0) {
  uint64_t sum = start;
  for (size_t i = 0; i + 1 < data.size(); i += 2) sum += get16(data, i);
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<uint16_t>(sum);
}

std::optional<Layout> find_layout(const Frame& frame) {
  const uint8_t gso = frame.header.gso_type & static_cast<uint8_t>(~kGsoEcnBit);
  Layout l;
  l.tcp = gso == kGsoTcp4 || gso == kGsoTcp6;
  if (!l.tcp && gso != kGsoUdp) return std::nullopt;
  // The kernel leaves the checksum of every such packet to be finished; where it starts is the transport header.
  if ((frame.header.flags & kNeedsChecksum) == 0) return std::nullopt;
  const std::span<const std::byte> data = frame.data;
  if (data.size() < kEthernet + kIpv6Header) return std::nullopt;
  const uint16_t type = get16(data, 12);
  if (type != 0x0800 && type != 0x86dd) return std::nullopt;
  l.ipv4 = type == 0x0800;
  l.transport = frame.header.csum_start;
  const size_t least = kEthernet + (l.ipv4 ? kIpv4Header : kIpv6Header);
  if (l.transport < least || l.transport + (l.tcp ? kTcpHeader : kUdpHeader) > data.size()) return std::nullopt;
  const size_t length = l.tcp ? (std::to_integer<size_t>(data[l.transport + 12]) >> 4) * 4 : kUdpHeader;
  l.payload = l.transport + length;
  l.segment = frame.header.gso_size;
  if ((l.tcp && length < kTcpHeader) || l.payload >= data.size() || l.segment == 0) return std::nullopt;
  return l;
}

void fix_network_header(std::span<std::byte> data, const Layout& l, size_t first_segment) {
  auto ip = data.subspan(kEthernet, l.transport - kEthernet);
  if (!l.ipv4) {
    put16(ip, 4, data.size() - kEthernet - kIpv6Header);
    return;
  }
  put16(ip, 2, data.size() - kEthernet);
  put16(ip, 4, (get16(ip, 4) + first_segment) & 0xffff);  // each wire segment has the next identification
  put16(ip, 10, 0);
  put16(ip, 10, static_cast<uint16_t>(~internet_sum(ip)));
}

void fix_transport_header(std::span<std::byte> data, const Layout& l, size_t offset, bool first, bool last) {
  auto header = data.subspan(l.transport);
  const size_t length = header.size();
  if (l.tcp) {
    put32(header, 4, get32(header, 4) + static_cast<uint32_t>(offset));
    auto flags = std::to_integer<uint8_t>(header[13]);
    if (!last) flags &= static_cast<uint8_t>(~(kFin | kPush));
    if (!first) flags &= static_cast<uint8_t>(~kCwr);
    header[13] = std::byte{flags};
  } else {
    put16(header, 4, length);
  }
  // The checksum field holds the sum of the pseudo header, which contains the length.
  const auto addresses = l.ipv4 ? data.subspan(kEthernet + 12, 8) : data.subspan(kEthernet + 8, 32);
  const auto protocol = static_cast<uint32_t>(l.tcp ? IPPROTO_TCP : IPPROTO_UDP);
  put16(header, l.tcp ? 16 : 6, internet_sum(addresses, static_cast<uint32_t>(length) + protocol));
}

// The wire segments first … last-1 as a packet of their own.
Frame cut(const Frame& whole, const Layout& l, size_t first, size_t last) {
  const size_t total = whole.data.size() - l.payload;
  const size_t from = first * l.segment;
  const size_t to = std::min(last * l.segment, total);
  const auto at = [&](size_t offset) { return whole.data.begin() + static_cast<std::ptrdiff_t>(offset); };
  Frame part{whole.header, {}};
  part.data.reserve(l.payload + to - from);
  part.data.assign(at(0), at(l.payload));
  part.data.insert(part.data.end(), at(l.payload + from), at(l.payload + to));
  fix_network_header(part.data, l, first);
  fix_transport_header(part.data, l, from, first == 0, to == total);
  if (to - from <= l.segment) {
    part.header.gso_type = kGsoNone;
    part.header.gso_size = 0;
  }
  return part;
}

size_t segments_in(const Frame& frame, const Layout& l) {
  return (frame.data.size() - l.payload + l.segment - 1) / l.segment;
}

}  // namespace

uint64_t count_segments(const Frame& frame) {
  const auto layout = find_layout(frame);
  return layout ? segments_in(frame, *layout) : 1;
}

Survivors drop_segments(Frame frame, const std::function<bool()>& lost) {
  Survivors out;
  const auto layout = find_layout(frame);
  const size_t count = layout ? segments_in(frame, *layout) : 1;
  out.segments = count;
  std::vector<std::pair<size_t, size_t>> runs;  // [first, last) of segments that survive
  for (size_t i = 0; i < count; ++i) {
    if (lost()) {
      ++out.lost;
    } else if (!runs.empty() && runs.back().second == i) {
      ++runs.back().second;
    } else {
      runs.emplace_back(i, i + 1);
    }
  }
  if (out.lost == 0) {
    out.frames.push_back(std::move(frame));
    return out;
  }
  for (const auto& [first, last] : runs) out.frames.push_back(cut(frame, *layout, first, last));
  return out;
}

}  // namespace transship::lab
