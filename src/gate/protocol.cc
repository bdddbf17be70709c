#include "gate/protocol.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <nlohmann/json.hpp>

namespace transship::gate {
namespace {

using nlohmann::json;

constexpr size_t kMaxPacket = 256U << 10;
constexpr std::array<std::string_view, 9> kKindNames = {"",      "waiting", "prepare", "prepared", "restore",
                                                        "stage", "parked",  "failed",  "abort"};

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return fail(Errc::kInvalidArgument, "the socket path {} is longer than {} bytes", path,
                sizeof address.sun_path - 1);
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

void put(json& j, const char* key, const std::string& value) {
  if (!value.empty()) j[key] = value;
}

std::string text_of(const json& j, const char* key) {
  auto it = j.find(key);
  return it != j.end() && it->is_string() ? it->get<std::string>() : std::string();
}

std::vector<std::string> texts_of(const json& j, const char* key) {
  std::vector<std::string> texts;
  auto it = j.find(key);
  if (it == j.end() || !it->is_array()) return texts;
  for (const auto& text : *it) texts.push_back(text.is_string() ? text.get<std::string>() : std::string());
  return texts;
}

int int_of(const json& j, const char* key) {
  auto it = j.find(key);
  return it != j.end() && it->is_number_integer() ? it->get<int>() : 0;
}

}  // namespace

std::string encode(const Message& m) {
  json j;
  j["type"] = kKindNames.at(static_cast<size_t>(m.kind));
  j["version"] = m.version;
  if (m.pid != 0) j["pid"] = m.pid;
  put(j, "id", m.id);
  put(j, "bundle", m.bundle);
  if (!m.args.empty()) j["args"] = m.args;
  put(j, "images_dir", m.images_dir);
  put(j, "work_dir", m.work_dir);
  if (m.lazy) j["lazy"] = true;
  if (!m.inherited.empty()) j["inherited"] = m.inherited;
  put(j, "name", m.name);
  put(j, "cgroup", m.cgroup);
  put(j, "reason", m.reason);
  put(j, "remedy", m.remedy);
  // Arguments and paths may be any bytes; what is not text is shown as a replacement character.
  return j.dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<Message> decode(std::string_view packet) {
  auto j = json::parse(packet, nullptr, false);
  if (!j.is_object()) return fail(Errc::kPeerProtocol, "a message at the gate is not a JSON object");
  Message m;
  auto type = text_of(j, "type");
  for (size_t k = 1; k < kKindNames.size(); ++k) {
    if (type == kKindNames.at(k)) m.kind = static_cast<Kind>(k);
  }
  m.version = int_of(j, "version");
  if (m.kind == Kind::kInvalid)
    return fail(Errc::kPeerProtocol, "a message at the gate has the unknown type '{}'", type);
  if (m.version != kProtocolVersion)
    return std::unexpected(Error(Errc::kPeerProtocol, fmt::format("the gate speaks version {}, this program {}",
                                                                  m.version, kProtocolVersion))
                               .with_remedy("install transshipd and transship-runtime of the same version"));
  m.pid = int_of(j, "pid");
  m.id = text_of(j, "id");
  m.bundle = text_of(j, "bundle");
  m.args = texts_of(j, "args");
  m.images_dir = text_of(j, "images_dir");
  m.work_dir = text_of(j, "work_dir");
  if (auto it = j.find("lazy"); it != j.end() && it->is_boolean()) m.lazy = it->get<bool>();
  m.inherited = texts_of(j, "inherited");
  m.name = text_of(j, "name");
  m.cgroup = text_of(j, "cgroup");
  m.reason = text_of(j, "reason");
  m.remedy = text_of(j, "remedy");
  return m;
}

Result<Packet> receive_packet(int socket) {
  Packet packet;
  packet.data.resize(kMaxPacket);
  TS_TRY_ASSIGN(auto got, sys::receive_packet(socket, packet.data));
  if (got.cut) return fail(Errc::kPeerProtocol, "a packet is too large");
  packet.data.resize(got.bytes);
  packet.fds = std::move(got.fds);
  return packet;
}

Result<Channel> Channel::connect(const std::string& path) {
  TS_TRY_ASSIGN(auto address, address_of(path));
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno(errno, "make a socket");
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return fail_errno(errno, "connect to {}", path);
  return Channel(std::move(socket));
}

Result<> Channel::send(const Message& message, std::span<const int> fds) {
  return sys::send_packet(socket_.get(), encode(message), fds);
}

Result<Received> Channel::receive(Deadline deadline, const Cancel* cancel) {
  std::array<pollfd, 2> p = {{{socket_.get(), POLLIN, 0}, {cancel != nullptr ? cancel->poll_fd() : -1, POLLIN, 0}}};
  while (true) {
    int n = ::poll(p.data(), p.size(), static_cast<int>(deadline.remaining().count()));
    if (n < 0 && errno != EINTR) return fail_errno(errno, "wait at the gate");
    if (n > 0 && p[0].revents != 0) break;
    if (n > 0 && cancel != nullptr && p[1].revents != 0) TS_TRY(cancel->check());
    if (deadline.passed()) return fail(Errc::kTimeout, "no message at the gate in time");
  }
  auto packet = receive_packet(socket_.get());
  if (!packet && packet.error().sys_errno() != ECONNRESET) return std::unexpected(std::move(packet).error());
  if (!packet || packet->data.empty()) return fail(Errc::kUnavailable, "the other side of the gate has gone");
  TS_TRY_ASSIGN(Message message, decode(packet->data));
  return Received{std::move(message), std::move(packet->fds)};
}

Result<Fd> listen_at(const std::string& path) {
  TS_TRY_ASSIGN(auto address, address_of(path));
  Fd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno(errno, "make a socket");
  if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0)
    return fail_errno(errno, "bind {}", path);
  if (::chmod(path.c_str(), 0600) < 0) return fail_errno(errno, "chmod {}", path);
  if (::listen(socket.get(), 4) < 0) return fail_errno(errno, "listen at {}", path);
  return socket;
}

Result<Fd> accept_one(int listener, Deadline deadline, const Cancel* cancel, int also_watch) {
  std::array<pollfd, 3> p = {
      {{listener, POLLIN, 0}, {cancel != nullptr ? cancel->poll_fd() : -1, POLLIN, 0}, {also_watch, POLLIN, 0}}};
  while (true) {
    int n = ::poll(p.data(), p.size(), static_cast<int>(deadline.remaining().count()));
    if (n < 0 && errno != EINTR) return fail_errno(errno, "wait for a connection");
    if (n > 0 && p[0].revents != 0) break;
    if (n > 0 && cancel != nullptr && p[1].revents != 0) TS_TRY(cancel->check());
    if (n > 0 && p[2].revents != 0) return fail(Errc::kUnavailable, "it ended before it connected");
    if (deadline.passed()) return fail(Errc::kTimeout, "nobody connected in time");
  }
  Fd socket(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) return fail_errno(errno, "accept a connection");
  return socket;
}

}  // namespace transship::gate
