#include "migrate/convert.h"

#include "base/text.h"
#include "gateway/haproxy_config.h"
#include "migrate/volume_copies.h"

namespace transship::migrate {

void put_addresses(const std::vector<engine::Address>& from, Addresses& to) {
  for (const auto& a : from) {
    auto* t = to.Add();
    t->set_network(a.network);
    t->set_ip(a.ip);
    t->set_prefix(a.prefix);
    t->set_mac(a.mac);
    t->set_interface(a.interface);
    t->set_gateway(a.gateway);
  }
}

std::vector<engine::Address> take_addresses(const Addresses& from) {
  std::vector<engine::Address> all;
  for (const auto& a : from) all.push_back({a.network(), a.ip(), a.prefix(), a.mac(), a.interface(), a.gateway()});
  return all;
}

namespace {

constexpr int kMaxList = 4096;
constexpr size_t kMaxSpec = 2U << 20;
constexpr size_t kMaxFingerprint = 128;
constexpr size_t kMaxText = 512;

template <class Source, class Target>
void copy_strings(const Source& from, Target* to) {
  for (const auto& s : from) *to->Add() = s;
}

void put_places(const engine::Container& c, peer::ContainerFacts& f) {
  put_addresses(c.addresses, *f.mutable_addresses());
  for (const auto& p : c.host_ports) {
    auto* t = f.add_host_ports();
    t->set_host_ip(p.host_ip);
    t->set_host_port(p.host_port);
    t->set_container_port(p.container_port);
    t->set_protocol(p.protocol);
  }
  for (const auto& m : c.mounts) {
    auto* t = f.add_mounts();
    t->set_type(m.type);
    t->set_source(m.source);
    t->set_destination(m.destination);
    t->set_volume(m.volume);
    t->set_bytes(m.bytes);
    t->set_copy_id(m.copy_id);
    t->set_copy_generation(m.copy_generation);
    t->set_writable(m.writable);
  }
}

void take_places(const peer::ContainerFacts& f, engine::Container& c) {
  c.addresses = take_addresses(f.addresses());
  for (const auto& p : f.host_ports())
    c.host_ports.push_back(
        {p.host_ip(), static_cast<uint16_t>(p.host_port()), static_cast<uint16_t>(p.container_port()), p.protocol()});
  for (const auto& m : f.mounts())
    c.mounts.push_back({m.type(),
                        m.source(),
                        m.destination(),
                        m.volume(),
                        m.writable(),
                        m.bytes(),
                        0,
                        {},
                        m.copy_id(),
                        m.copy_generation()});
}

bool ports_fit(const peer::ContainerFacts& f) {
  auto fits = [](const auto& p) { return p.container_port() <= 65535; };
  return std::ranges::all_of(f.host_ports(), [&](const auto& p) { return p.host_port() <= 65535 && fits(p); }) &&
         std::ranges::all_of(f.exposed(), [&](const auto& p) {
           return p.port() > 0 && p.port() <= 65535 && p.container_port() > 0 && fits(p) &&
                  (p.protocol() == "tcp" || p.protocol() == "udp" || p.protocol() == "http") &&
                  (p.health().empty() || gateway::check_health_path(p.health())) && p.entry().size() <= kMaxFingerprint;
         });
}

bool only_of(std::string_view text, std::string_view characters) {
  return text.find_first_not_of(characters) == std::string_view::npos;
}

// A digest, with or without "sha256:" in front; nothing that an engine could take for a name.
bool is_digest(std::string_view text) {
  if (text.starts_with("sha256:")) text.remove_prefix(7);
  return text.size() == 64 && only_of(text, "0123456789abcdef");
}

// They become parts of command lines, of paths in an engine's API and of messages.
bool names_fit(const peer::ContainerFacts& f) {
  constexpr std::string_view kImageCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@+";
  bool image = f.image().size() <= kMaxText && only_of(f.image(), kImageCharacters) && !f.image().starts_with('-');
  bool digests = (f.image_id().empty() || is_digest(f.image_id())) &&
                 (f.image_digest().empty() || is_digest(f.image_digest())) &&
                 std::ranges::all_of(f.image_layers(), is_digest);
  bool addresses = std::ranges::all_of(f.addresses(), [](const auto& a) {
    return network::IpAddress::parse(a.ip()) && (a.network().empty() || is_plain_name(a.network())) &&
           (a.interface().empty() || is_plain_name(a.interface()));
  });
  bool ports = std::ranges::all_of(f.host_ports(), [](const auto& p) {
    return (p.protocol() == "tcp" || p.protocol() == "udp" || p.protocol() == "sctp") &&
           (p.host_ip().empty() || network::IpAddress::parse(p.host_ip()));
  });
  bool copies = std::ranges::all_of(f.mounts(), [](const auto& m) {
    return (m.copy_id().empty() || is_copy_id(m.copy_id())) &&
           (m.copy_generation().empty() || is_plain_name(m.copy_generation()));
  });
  return image && digests && addresses && ports && copies;
}

}  // namespace

peer::ContainerFacts to_facts(const engine::Container& c) {
  peer::ContainerFacts f;
  f.set_engine(c.engine);
  f.set_id(c.id);
  f.set_name(c.name);
  f.set_image(c.image);
  f.set_image_id(c.image_id);
  f.set_image_digest(c.image_digest);
  f.set_image_bytes(c.image_bytes);
  copy_strings(c.image_layers, f.mutable_image_layers());
  copy_strings(c.managed_files, f.mutable_managed_files());
  put_places(c, f);
  f.set_engine_spec(c.spec);
  f.set_rootfs_kind(c.rootfs_kind);
  f.set_runtime(c.runtime);
  f.set_network_mode(c.network_mode);
  f.set_restart_policy(c.restart_policy);
  f.set_auto_remove(c.auto_remove);
  f.set_terminal(c.terminal);
  f.set_privileged(c.privileged);
  f.set_pod(c.pod);
  f.set_memory_limit(c.memory_limit);
  f.set_new_address(c.new_address);
  return f;
}

network::CutoverFacts cutover_facts(const engine::Container& c) {
  network::CutoverFacts facts;
  facts.container = c.name;
  for (const auto& a : c.addresses) facts.addresses.push_back(a.ip);
  facts.home_id = c.id;
  facts.new_address = c.new_address;
  for (const auto& p : c.host_ports) {
    network::PublishedPort port{.protocol = p.protocol, .host_port = p.host_port, .container_port = p.container_port};
    auto address = network::IpAddress::parse(p.host_ip);
    bool any = p.host_ip.empty() || p.host_ip == "0.0.0.0" || p.host_ip == "::";
    if (!any && !address) continue;  // the engine would not have taken it
    if (!any) port.host_address = *address;
    facts.ports.push_back(std::move(port));
  }
  return facts;
}

Result<engine::Container> from_facts(const peer::ContainerFacts& f) {
  if (!is_plain_name(f.name())) return fail(Errc::kPeerProtocol, "the peer sent a container name that is not allowed");
  if (!is_plain_name(f.id())) return fail(Errc::kPeerProtocol, "the peer sent a container id that is not allowed");
  if (f.engine_spec().size() > kMaxSpec)
    return fail(Errc::kPeerProtocol, "the peer's container specification is larger than {}", format_bytes(kMaxSpec));
  if (f.addresses_size() > kMaxList || f.host_ports_size() > kMaxList || f.mounts_size() > kMaxList ||
      f.image_layers_size() > kMaxList || f.managed_files_size() > kMaxList || f.exposed_size() > kMaxList ||
      !ports_fit(f))
    return fail(Errc::kPeerProtocol, "the peer's container facts are out of range");
  if (!names_fit(f))
    return fail(Errc::kPeerProtocol, "the peer sent an image, a digest, an address, a port or a copy that is none");
  engine::Container c;
  c.engine = f.engine();
  c.id = f.id();
  c.name = f.name();
  c.image = f.image();
  c.image_id = f.image_id();
  c.image_digest = f.image_digest();
  c.image_bytes = f.image_bytes();
  c.image_layers.assign(f.image_layers().begin(), f.image_layers().end());
  c.managed_files.assign(f.managed_files().begin(), f.managed_files().end());
  take_places(f, c);
  c.spec = f.engine_spec();
  c.rootfs_kind = f.rootfs_kind();
  c.runtime = f.runtime();
  c.network_mode = f.network_mode();
  c.restart_policy = f.restart_policy();
  c.auto_remove = f.auto_remove();
  c.terminal = f.terminal();
  c.privileged = f.privileged();
  c.pod = f.pod();
  c.memory_limit = f.memory_limit();
  c.new_address = f.new_address();
  return c;
}

}  // namespace transship::migrate
