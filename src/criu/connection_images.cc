#include "criu/connection_images.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <cstring>

#include "criu/image_file.h"

namespace transship::criu {
namespace {

constexpr const char* kFiles = "files.img";
constexpr uint32_t kTypeInetSocket = 4;
constexpr uint32_t kBothDirections = 3;  // CRIU's number for SHUT_RDWR

using Words = google::protobuf::RepeatedField<uint32_t>;

// As the kernel has them in memory: 4 or 16 bytes.
bool is_loopback(const Words& address) {
  std::array<uint8_t, 16> bytes = {};
  auto* to = bytes.data();
  for (uint32_t word : address) {
    if (to == bytes.data() + bytes.size()) break;
    std::memcpy(to, &word, sizeof word);
    to += sizeof word;
  }
  if (address.size() < 4) return bytes[0] == 127;
  static constexpr std::array<uint8_t, 12> kMapped = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  if (std::equal(kMapped.begin(), kMapped.end(), bytes.begin())) return bytes[12] == 127;
  static constexpr std::array<uint8_t, 16> kLoopback = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
  return bytes == kLoopback;
}

void forget(Words* address) {
  for (auto& word : *address) word = 0;
}

// As a socket is that its peer has closed, and this side as well: what tcp_close makes of all of them.
void end(img::InetSocket& s) {
  s.set_state(TCP_CLOSE);
  s.set_src_port(0);
  s.set_dst_port(0);
  forget(s.mutable_src_addr());
  forget(s.mutable_dst_addr());
  s.set_shutdown(kBothDirections);
}

bool change(img::InetSocket& s, EndedConnections& counts) {
  if (s.dst_port() == 0) return false;
  bool within = is_loopback(s.src_addr()) && is_loopback(s.dst_addr());
  if (s.type() == SOCK_STREAM && s.proto() == IPPROTO_TCP) {
    ++(within ? counts.kept : counts.ended);
    if (!within) end(s);
    return !within;
  }
  if (s.type() != SOCK_DGRAM || within) return false;
  // Connecting chooses it by the route to the other side.
  forget(s.mutable_src_addr());
  ++counts.unbound;
  return true;
}

Result<EndedConnections> rewrite(int directory) {
  EndedConnections counts;
  TS_TRY_ASSIGN(auto bytes, read_image(directory, kFiles));
  TS_TRY_ASSIGN(auto records, parse_image(bytes, ImageMagic::kFiles, kFiles));
  std::vector<std::string> after;
  after.reserve(records.size());
  bool changed = false;
  for (auto record : records) {
    TS_TRY_ASSIGN(auto file, decode_record<img::File>(record, kFiles));
    if (file.type() == kTypeInetSocket && file.has_isk() && change(*file.mutable_isk(), counts)) {
      changed = true;
      after.push_back(file.SerializeAsString());
    } else {
      after.emplace_back(record);
    }
  }
  if (changed) TS_TRY(write_image(directory, kFiles, serialize_image(ImageMagic::kFiles, after)));
  return counts;
}

}  // namespace

Result<EndedConnections> end_connections(const std::string& images_dir) {
  TS_TRY_ASSIGN(Fd directory, open_file(images_dir, O_RDONLY | O_DIRECTORY));
  auto counts = rewrite(directory.get());
  if (!counts) return std::unexpected(std::move(counts).error().context("images in " + images_dir));
  return counts;
}

}  // namespace transship::criu
