// Ports of nodes that lead to containers, as far as they concern this node: as the entry, which clients connect to, or
// as the container's home, by way of which they go (network/exposure.h). Kept in the store.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/mutex.h"
#include "network/placement.h"
#include "state/store.h"

namespace transship::migrate {

class TunnelPaths;

struct Exposure {
  std::string entry;  // fingerprints of the two nodes' keys; one of them, or both, are this node's
  std::string home;
  std::string protocol =
      "tcp";                // udp, or http: then several containers share the port (docs/design/0008-http-entries.md)
  uint16_t port = 0;        // of the entry
  std::string name;         // of the container
  std::string engine = {};  // on its home, where it is when it is there
  std::vector<network::ExposedAddress> addresses = {};
  uint16_t container_port = 0;
  // On the home, of an entry elsewhere.
  bool entry_knows = false;
  bool ending = false;  // removed, and the entry has to hear of it. Of http also on the entry: until its requests end
  // Fingerprint of the node that may become its home: the container is on its way there with a new address.
  std::string next = {};
  bool given = false;  // on the home: it is there, and this node is nothing any more but perhaps the entry
  // Of http.
  std::string health = {};  // path of its checks; empty: a connection is enough
  uint16_t inner_port = 0;  // on the entry: of inner_address(), where HAProxy reaches it
  int64_t ending_ms = 0;    // since when it is ending
  bool is_http() const { return protocol == "http"; }
  std::string transport() const { return is_http() ? "tcp" : protocol; }
  // One port of an entry leads to one container, but for http.
  std::string key() const {
    auto of_port = fmt::format("{}/{}/{}", entry, protocol, port);
    return is_http() ? fmt::format("{}/{}/{}", of_port, home, name) : of_port;
  }
  bool operator==(const Exposure&) const = default;
};

// JSON. kCorrupt says of what.
std::string to_text(const Exposure& e);
Result<Exposure> parse_exposure(const std::string& key, const std::string& text);

// "10.88.0.3/16"; without a slash the network is not known.
Result<network::ExposedAddress> parse_exposed_address(const std::string& text);
std::string exposed_address_text(const network::ExposedAddress& a);

// What is ended gets no new requests, and has this long for those that it has.
inline constexpr milliseconds kDrainLimit{30'000};
// It is ending, and may still be asked for. For a home, which hears late that it is over: some seconds more.
bool is_draining(const Exposure& e, milliseconds more = milliseconds(0));

// Thread-safe.
class Exposures {
 public:
  // `own`: fingerprint of this node's key.
  Exposures(state::Store& store, std::string own) : store_(store), own_(std::move(own)) {}
  // Once, when the daemon starts. What can't be read is left where it is, and an error names it. A port of this node
  // that somebody else has taken meanwhile is logged, and still leads where it should.
  Result<> load();

  std::vector<Exposure> all() const;
  std::optional<Exposure> find(const std::string& key) const;
  // Stored, not yet in the kernel. A port of this node is held, so that nobody else takes it: kAlreadyExists.
  Result<> put(const Exposure& e);
  Result<> add(const Exposure& e);          // unless its port leads somewhere already: kAlreadyExists
  Result<> update(const Exposure& e);       // unless it has been removed meanwhile
  Result<> remove(const std::string& key);  // absent is fine
  // Of a port that leads elsewhere from now on, or to another address: connections that it has are still let through
  // for a while, as far as they need that, so that their ends are heard. Not stored.
  void keep_late(const Exposure& e);
  bool forget_late();  // whose time is over; true: there were some

  bool is_entry(const Exposure& e) const { return e.entry == own_; }
  bool is_home(const Exposure& e) const { return e.home == own_; }
  // What the kernel is to have of it; what has no way at the moment is shut.
  void add_to(network::Placement& placement, const TunnelPaths& paths) const;

 private:
  void add_late_to(network::Placement& placement, const TunnelPaths& paths) const;
  Result<> put_locked(Exposure e) REQUIRES(mu_);
  Result<> hold_port_locked(const Exposure& e) REQUIRES(mu_);
  Result<> check_port_locked(const Exposure& e) const REQUIRES(mu_);
  uint16_t free_inner_port_locked() const REQUIRES(mu_);
  std::string peer_named(const std::string& fingerprint) const;
  state::Store& store_;
  const std::string own_;
  mutable Mutex mu_;
  std::map<std::string, Exposure> known_ GUARDED_BY(mu_);
  std::map<std::string, Fd> held_ GUARDED_BY(mu_);  // bound, and nobody listens
  struct Late {
    Exposure exposure;
    Deadline until;
  };
  std::vector<Late> late_ GUARDED_BY(mu_);
};

}  // namespace transship::migrate
