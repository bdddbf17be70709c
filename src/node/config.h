// The daemon's configuration: a TOML file, every value with a default, every unknown key an error.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace transship::node {

// Checked values; immutable once loaded.
struct Config {
  std::string node_name;  // default: the host's name
  std::string state_dir = "/var/lib/transship";
  std::string run_dir = "/run/transship";
  std::string log_level = "info";
  std::string listen = "[::]:7440";
  std::string socket = "/run/transship/transshipd.sock";
  bool podman_enabled = true;
  std::string podman_socket = "/run/podman/podman.sock";
  std::string podman_program = "podman";
  bool runc_enabled = true;
  std::string runc_program = "runc";
  std::string runc_root = "/run/runc";
  std::string runc_bundles_dir = "/var/lib/transship/bundles";
  std::string runtime = "/usr/bin/transship-runtime";
  std::string criu_program = "criu";
  std::string policy_file = "/etc/transship/policy.toml";
  int64_t lanes = 2;
  int64_t bandwidth_limit_mbit = 0;
  int64_t gate_deadline_ms = 5000;
  int64_t reservation_ttl_s = 30;
  int64_t memory_margin_mib = 64;
  std::string cutover_driver = "tunnel";
  std::string cutover_hook;
  int64_t hold_buffer_mib = 64;
  int64_t hold_grace_ms = 3000;
  bool tunnel_enabled = true;
  std::string tunnel_interface = "ts";
  int64_t tunnel_port = 7441;
  bool names_enabled = true;
  std::string names_domain = "transship";
  std::string names_address = "169.254.185.53";
  std::string names_program = "dnsmasq";
  std::string http_program = "haproxy";
  std::string arbiter_type = "none";
  std::string arbiter_endpoints;
  std::string arbiter_ca;
  std::string arbiter_certificate;
  std::string arbiter_key;
  std::string arbiter_user;
  std::string arbiter_password_file;
  std::string arbiter_prefix = "/transship";
  int64_t arbiter_lease_s = 10;
};

// One documented value, for --check-config and the table in docs/configuration.md.
struct ConfigKey {
  std::string_view name;  // "move.lanes"
  std::string value;      // as TOML
  std::string_view doc;
};

// An absent file is an error only when `must_exist`. Errors name the file, the line, and what is allowed there.
Result<Config> load_config(const std::string& path, bool must_exist);
Result<Config> parse_config(std::string_view text, const std::string& source);
std::vector<ConfigKey> describe(const Config& config);

}  // namespace transship::node
