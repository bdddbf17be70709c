#include "node/config.h"

#include <unistd.h>

#include <array>
#include <climits>
#include <set>
#include <toml++/toml.hpp>
#include <variant>

#include "arbiter/etcd.h"
#include "base/text.h"
#include "names/directory.h"
#include "sys/file.h"
#include "wire/endpoint.h"

namespace transship::node {
namespace {

struct Text {
  std::string Config::* field;
  bool absolute_path = false;
  std::string_view one_of = {};  // "a|b|c", empty: anything
  // What is wrong with a value; empty: nothing.
  std::string (*complaint)(const std::string&) = nullptr;
};
struct Number {
  int64_t Config::* field;
  int64_t min;
  int64_t max;
};
struct Flag {
  bool Config::* field;
};

struct Entry {
  std::string_view name;
  std::variant<Text, Number, Flag> kind;
  std::string_view doc;
};

std::string check_name(const std::string& value) {
  return is_plain_name(value) ? "" : "letters, digits, '.', '_' and '-' only, at most 128";
}

std::string check_address(const std::string& value) {
  auto endpoint = wire::parse_endpoint(value, true);
  return endpoint ? "" : endpoint.error().message();
}

std::string check_program(const std::string& value) { return value.empty() ? "no program is named" : ""; }

std::string check_interface(const std::string& value) {
  if (value.size() > 11 || !is_plain_name(value)) return "letters, digits, '.', '_' and '-' only, at most 11";
  return value.starts_with("tsh") ? "names with tsh are those of devices that hold packets" : "";
}

std::string check_domain(const std::string& value) {
  for (const auto& label : split(value, '.'))
    if (label.empty() || names::dns_label(label) != label) return "words of a-z, 0-9 and '-', with dots between them";
  return value.size() > 100 ? "at most 100 characters" : "";
}

std::string check_ipv4(const std::string& value) {
  auto address = network::IpAddress::parse(value);
  if (!address || !address->is_v4() || address->text() != value) return "no IPv4 address";
  return address->is_loopback() ? "containers cannot reach a loopback address" : "";
}

std::string check_endpoints(const std::string& value) {
  auto endpoints = arbiter::parse_endpoints(value);
  return endpoints ? "" : endpoints.error().message();
}

std::string check_file(const std::string& value) {
  return value.empty() || value.starts_with('/') ? "" : "must be an absolute path";
}

std::string check_prefix(const std::string& value) {
  bool plain = value.size() > 1 && value.size() <= 100 && value.starts_with('/') && !value.ends_with('/');
  for (const auto& part : split(value, '/')) plain = plain && (part.empty() || is_plain_name(part));
  return plain ? "" : "/NAME or /NAME/NAME, of letters, digits, '.', '_' and '-'";
}

constexpr int64_t kDay = 86'400;

const auto& entries() {
  static const std::array kEntries = {
      Entry{"node.name", Text{&Config::node_name, false, {}, check_name},
            "how peers call this node; default: the host's name"},
      Entry{"node.state_dir", Text{&Config::state_dir, true}, "key, pinned peers, journal"},
      Entry{"node.run_dir", Text{&Config::run_dir, true}, "sockets, gates, images on tmpfs while a move runs"},
      Entry{"node.log_level", Text{&Config::log_level, false, "trace|debug|info|warn|error"}, "what goes to stderr"},
      Entry{"listen.address", Text{&Config::listen, false, {}, check_address},
            "where peers reach this node: ADDRESS:PORT, [::] for all"},
      Entry{"listen.socket", Text{&Config::socket, true}, "where `transship` reaches it; mode 0600"},
      Entry{"podman.enabled", Flag{&Config::podman_enabled}, "move Podman's containers"},
      Entry{"podman.socket", Text{&Config::podman_socket, true},
            "Podman's API; the service is started when nothing listens there"},
      Entry{"podman.program", Text{&Config::podman_program, false, {}, check_program}, "Podman's command line"},
      Entry{"runc.enabled", Flag{&Config::runc_enabled}, "move plain runc bundles"},
      Entry{"runc.program", Text{&Config::runc_program, false, {}, check_program}, "the OCI runtime for plain bundles"},
      Entry{"runc.root", Text{&Config::runc_root, true}, "its state directory"},
      Entry{"runc.bundles_dir", Text{&Config::runc_bundles_dir, true}, "where bundles that arrive are put"},
      Entry{"runtime.path", Text{&Config::runtime, true}, "transship-runtime, under which arriving containers run"},
      Entry{"criu.program", Text{&Config::criu_program, false, {}, check_program}, "CRIU, at least 4.2"},
      Entry{"policy.file", Text{&Config::policy_file, true},
            "what containers that arrive may have (docs/policy.md); absent: its defaults"},
      Entry{"move.lanes", Number{&Config::lanes, 1, 16}, "data connections of one move"},
      Entry{"move.bandwidth_limit_mbit", Number{&Config::bandwidth_limit_mbit, 0, 1'000'000},
            "Mbit/s that one move may use; 0: no limit"},
      Entry{"move.gate_deadline_ms", Number{&Config::gate_deadline_ms, 500, 5000},
            "the longest that a start waits at the gate, and holds the engine's lock of that container"},
      Entry{"move.reservation_ttl_s", Number{&Config::reservation_ttl_s, 5, kDay},
            "a reservation ends this long after the last word from its source"},
      Entry{"move.memory_margin_mib", Number{&Config::memory_margin_mib, 0, 1 << 20},
            "memory that arriving containers must leave free on this node"},
      Entry{"cutover.driver", Text{&Config::cutover_driver, false, "tunnel|hook|none"},
            "how traffic moves at the commit"},
      Entry{"cutover.hook", Text{&Config::cutover_hook}, "command of the driver `hook` (docs/network.md)"},
      Entry{"hold.buffer_mib", Number{&Config::hold_buffer_mib, 1, 4096},
            "packets kept while the container is frozen; more are dropped and counted"},
      Entry{"hold.grace_ms", Number{&Config::hold_grace_ms, 0, 60'000},
            "how long late packets are still passed on to the destination"},
      Entry{"tunnel.enabled", Flag{&Config::tunnel_enabled},
            "a WireGuard tunnel to every peer, where the kernel or wireguard-go has it; false takes it down"},
      Entry{"tunnel.interface", Text{&Config::tunnel_interface, false, {}, check_interface},
            "beginning of the names of its network interfaces: ts0, ts1…"},
      Entry{"tunnel.port", Number{&Config::tunnel_port, 1, 65535},
            "UDP, the first port of its interfaces: each peer has one of its own"},
      Entry{"names.enabled", Flag{&Config::names_enabled},
            "names of containers in DNS, by dnsmasq where that is installed (docs/names.md); false takes them down"},
      Entry{"names.domain", Text{&Config::names_domain, false, {}, check_domain}, "their domain: NAME.transship"},
      Entry{"names.address", Text{&Config::names_address, false, {}, check_ipv4},
            "of the nameserver, the same on every node; on an interface of its own"},
      Entry{"names.program", Text{&Config::names_program, false, {}, check_program}, "dnsmasq"},
      Entry{"http.program", Text{&Config::http_program, false, {}, check_program},
            "HAProxy, for http entries of this node (docs/network.md)"},
      Entry{"arbiter.type", Text{&Config::arbiter_type, false, "none|etcd"},
            "who keeps the decision of a move: none (the source's journal) or etcd (docs/arbiter.md); the same on all "
            "nodes"},
      Entry{"arbiter.endpoints", Text{&Config::arbiter_endpoints, false, {}, check_endpoints},
            "etcd's members, with commas between them: https://HOST:PORT or http://HOST:PORT"},
      Entry{"arbiter.ca", Text{&Config::arbiter_ca, false, {}, check_file},
            "who signed their certificates, in PEM; default: the system's authorities"},
      Entry{"arbiter.certificate", Text{&Config::arbiter_certificate, false, {}, check_file},
            "this node's certificate for etcd, in PEM; default: none"},
      Entry{"arbiter.key", Text{&Config::arbiter_key, false, {}, check_file}, "its key, in PEM"},
      Entry{"arbiter.user", Text{&Config::arbiter_user}, "etcd's name for this node, where etcd asks for a password"},
      Entry{"arbiter.password_file", Text{&Config::arbiter_password_file, false, {}, check_file},
            "the file with that password"},
      Entry{"arbiter.prefix", Text{&Config::arbiter_prefix, false, {}, check_prefix},
            "beginning of its keys in etcd; the same on all nodes"},
      Entry{"arbiter.lease_s", Number{&Config::arbiter_lease_s, 5, 600},
            "a source that etcd has not heard of for so long is gone for good"},
  };
  return kEntries;
}

Result<> set_text(Config& config, const Entry& entry, const Text& kind, const toml::node& node) {
  auto value = node.value_exact<std::string>();
  if (!value) return fail(Errc::kInvalidArgument, "{} must be text in quotes", entry.name);
  if (kind.absolute_path && !value->starts_with('/'))
    return fail(Errc::kInvalidArgument, "{} must be an absolute path, not \"{}\"", entry.name, *value);
  if (!kind.one_of.empty()) {
    auto allowed = split(kind.one_of, '|');
    if (std::ranges::find(allowed, *value) == allowed.end())
      return fail(Errc::kInvalidArgument, "{} must be one of {}, not \"{}\"", entry.name, kind.one_of, *value);
  }
  if (std::string wrong = kind.complaint != nullptr ? kind.complaint(*value) : ""; !wrong.empty())
    return fail(Errc::kInvalidArgument, "{} \"{}\": {}", entry.name, *value, wrong);
  config.*kind.field = *value;
  return {};
}

Result<> set_number(Config& config, const Entry& entry, const Number& kind, const toml::node& node) {
  auto value = node.value_exact<int64_t>();
  if (!value || *value < kind.min || *value > kind.max)
    return fail(Errc::kInvalidArgument, "{} must be a whole number from {} to {}", entry.name, kind.min, kind.max);
  config.*kind.field = *value;
  return {};
}

Result<> set_flag(Config& config, const Entry& entry, const Flag& kind, const toml::node& node) {
  auto value = node.value_exact<bool>();
  if (!value) return fail(Errc::kInvalidArgument, "{} must be true or false", entry.name);
  config.*kind.field = *value;
  return {};
}

Result<> set_value(Config& config, const Entry& entry, const toml::node& node) {
  if (const auto* text = std::get_if<Text>(&entry.kind)) return set_text(config, entry, *text, node);
  if (const auto* number = std::get_if<Number>(&entry.kind)) return set_number(config, entry, *number, node);
  return set_flag(config, entry, std::get<Flag>(entry.kind), node);
}

std::string allowed_in(std::string_view table) {
  std::vector<std::string> names;
  for (const auto& e : entries()) {
    auto dot = e.name.find('.');
    auto name = table.empty() ? e.name.substr(0, dot) : e.name.substr(dot + 1);
    if (!table.empty() && e.name.substr(0, dot) != table) continue;
    if (names.empty() || names.back() != name) names.emplace_back(name);
  }
  return join(names, ", ");
}

Result<> read_table(Config& config, std::string_view table_name, const toml::table& table, const std::string& source) {
  for (const auto& [key, node] : table) {
    std::string name = fmt::format("{}.{}", table_name, key.str());
    auto where = fmt::format("{}:{}", source, node.source().begin.line);
    auto it = std::ranges::find(entries(), std::string_view(name), &Entry::name);
    if (it == entries().end())
      return fail(Errc::kInvalidArgument, "{}: no such value \"{}\"; [{}] has: {}", where, key.str(), table_name,
                  allowed_in(table_name));
    TS_TRY_CTX(set_value(config, *it, node), where);
  }
  return {};
}

// What one value cannot tell.
Result<> check(const Config& config, const toml::table& file, const std::string& source) {
  if (std::string wrong = check_name(config.node_name); !wrong.empty())
    return fail(Errc::kInvalidArgument, "{}: node.name is the host's name, \"{}\": {}; give another", source,
                config.node_name, wrong);
  if (config.arbiter_type == "etcd" && trim(config.arbiter_endpoints).empty())
    return fail(Errc::kInvalidArgument, "{}:{}: arbiter.type is \"etcd\" but arbiter.endpoints names none", source,
                file["arbiter"]["type"].node()->source().begin.line);
  if (config.arbiter_certificate.empty() != config.arbiter_key.empty())
    return fail(Errc::kInvalidArgument, "{}: arbiter.certificate and arbiter.key belong together", source);
  if (config.arbiter_user.empty() != config.arbiter_password_file.empty())
    return fail(Errc::kInvalidArgument, "{}: arbiter.user and arbiter.password_file belong together", source);
  if (config.cutover_driver == "hook" && trim(config.cutover_hook).empty())
    return fail(Errc::kInvalidArgument, "{}:{}: cutover.driver is \"hook\" but cutover.hook names no command", source,
                file["cutover"]["driver"].node()->source().begin.line);
  return {};
}

std::string host_name() {
  std::array<char, HOST_NAME_MAX + 1> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0) return "node";
  return name.data();
}

}  // namespace

Result<Config> parse_config(std::string_view text, const std::string& source) {
  Config config;
  config.node_name = host_name();
  auto parsed = [&]() -> Result<toml::table> {
    try {
      return toml::parse(text, source);
    } catch (const toml::parse_error& e) {
      return fail(Errc::kInvalidArgument, "{}:{}: {}", source, e.source().begin.line, e.description());
    }
  }();
  if (!parsed) return std::unexpected(parsed.error());
  for (const auto& [key, node] : *parsed) {
    auto where = fmt::format("{}:{}", source, node.source().begin.line);
    const auto* table = node.as_table();
    if (allowed_in(key.str()).empty())
      return fail(Errc::kInvalidArgument, "{}: no such table [{}]; there are: {}", where, key.str(), allowed_in(""));
    if (table == nullptr)
      return fail(Errc::kInvalidArgument, "{}: {} is a table: write [{}], and its values below: {}", where, key.str(),
                  key.str(), allowed_in(key.str()));
    TS_TRY(read_table(config, key.str(), *table, source));
  }
  TS_TRY(check(config, *parsed, source));
  return config;
}

Result<Config> load_config(const std::string& path, bool must_exist) {
  auto text = sys::read_file(path, 1U << 20);
  if (!text && text.error().code() == Errc::kNotFound && !must_exist) return parse_config("", path);
  if (!text) return std::unexpected(std::move(text).error().context("read the configuration"));
  return parse_config(*text, path);
}

std::vector<ConfigKey> describe(const Config& config) {
  std::vector<ConfigKey> keys;
  for (const auto& e : entries()) {
    std::string value;
    if (const auto* text = std::get_if<Text>(&e.kind)) value = fmt::format("\"{}\"", config.*text->field);
    if (const auto* number = std::get_if<Number>(&e.kind)) value = fmt::format("{}", config.*number->field);
    if (const auto* flag = std::get_if<Flag>(&e.kind)) value = config.*flag->field ? "true" : "false";
    keys.push_back({e.name, std::move(value), e.doc});
  }
  return keys;
}

}  // namespace transship::node
