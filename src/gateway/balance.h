// Which of the containers behind an entry get requests: what is said to HAProxy, from what should be and what is. Pure.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/haproxy_config.h"

namespace transship::gateway {

// As the runtime API tells it.
struct ServerStatus {
  std::string name;
  std::string address;
  uint16_t port = 0;
  bool runs = false;         // its checks say so, or nobody checks
  bool maintenance = false;  // switched off
  bool drain = false;        // no new requests
  bool checked = false;
  uint64_t requests = 0;  // at the moment, waiting ones included
  bool operator==(const ServerStatus&) const = default;
};

// "show servers state" and "show stat" of the section. kCorrupt.
Result<std::vector<ServerStatus>> parse_servers(std::string_view states, std::string_view statistics);
// "show info". kCorrupt.
Result<uint64_t> parse_pid(std::string_view info);

// Commands, in order; none: all is as it should be. One that is paused gets no new requests as long as there is another
// one that can take them. Alone it gets them: its host keeps the packets until it runs again, so that clients wait.
// It isn't checked meanwhile.
std::vector<std::string> changes(const std::vector<Backend>& wanted, const std::vector<ServerStatus>& now);
// Was that command understood, by its answer? del server may have to be said again: then it is.
bool is_success(std::string_view answer);

// "up", "down", "paused", "draining".
std::string state_word(const Backend& backend, const std::optional<ServerStatus>& now);
std::optional<ServerStatus> find_server(const std::vector<ServerStatus>& servers, std::string_view name);

}  // namespace transship::gateway
