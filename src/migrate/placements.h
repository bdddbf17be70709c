// Which containers are not where their addresses are at home, as far as it concerns this node: kept in the store, and
// brought into the kernel (network/placement.h).
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/mutex.h"
#include "migrate/exposures.h"
#include "network/placement.h"
#include "state/store.h"

namespace transship::migrate {

// Interfaces of the node's tunnel; none while it is down. Thread-safe.
class TunnelPaths {
 public:
  virtual ~TunnelPaths() = default;
  // kUnavailable says why there is none to it, and what to do.
  virtual Result<std::string> interface_to(const std::string& peer) const = 0;
  virtual std::vector<std::string> interfaces() const = 0;
};

enum class PlacedRole { kInvalid = 0, kAway = 1, kGuest = 2 };

struct PlacedContainer {
  PlacedRole role = PlacedRole::kInvalid;
  // See network::CutoverFacts.
  std::string home;
  std::string home_id;
  std::string name;
  std::vector<network::IpAddress> addresses;
  std::string bridge;                              // interface of its network on this host
  std::string peer;                                // away: where it is; guest: its home, as called here
  std::string late_from = {};                      // guest: the node it came from last
  std::vector<network::PublishedPort> ports = {};  // away
  // Fingerprint of the node that may get it. Away: from `peer`, by that one's word. Guest: its home has been told so.
  std::string next = {};
  bool runs = false;           // guest
  std::string engine = {};     // guest: who has it
  std::string engine_id = {};  // guest: its id there
  bool gone = false;           // guest: the engine has it no more, and its home has to hear of it
  std::string leaving = {};    // guest: the move by which it left; goes when nothing late comes
  bool home_knows = false;     // guest: that it runs here
  // Away, and not stored either: it is coming home, and since when it is there. What was held for it comes afterwards.
  bool coming = false;
  std::optional<Clock::time_point> back = {};
  bool staged = false;  // away: about to leave. Not stored: after a crash the container is here, or its move goes on.
  std::string key() const { return home + "/" + home_id; }
  bool operator==(const PlacedContainer&) const = default;
};

// JSON. kCorrupt says of what.
std::string to_text(const PlacedContainer& c);
Result<PlacedContainer> parse_placed(const std::string& key, const std::string& text);

// Thread-safe.
class Placements {
 public:
  // Where apply() brings it, as long as `still` says that it is what is known; empty: into the kernel of this network
  // namespace.
  using ToKernel = std::function<Result<>(const network::Placement&, const std::function<bool()>& still)>;
  // `exposures` (may be null) are brought into the kernel as well. All outlive this object.
  Placements(state::Store& store, const TunnelPaths& paths, const Exposures* exposures = nullptr,
             ToKernel to_kernel = {})
      : store_(store), paths_(paths), exposures_(exposures), to_kernel_(std::move(to_kernel)) {}
  // Once, when the daemon starts. What can't be read is left where it is, and an error names it.
  Result<> load();
  // Brings the kernel to what is known here; call it now and then, since engines remove bridges and administrators
  // tables. Some 50 ms. What is remembered meanwhile is brought there as well; a way that was switched meanwhile, after
  // remember(), is as it was switched.
  // `anyway`: also when nobody moved, and that was so the last time.
  Result<> apply(bool anyway = false);
  Result<network::PlacementDifference> compare();

  std::vector<PlacedContainer> all() const;
  std::optional<PlacedContainer> find(const std::string& key) const;
  // The guest or the absent one that has this address.
  std::optional<PlacedContainer> with_address(const network::IpAddress& address) const;
  // Stored (unless staged), not yet applied.
  Result<> put(const PlacedContainer& c);
  // Until put() the next daemon does not know of it.
  void remember(const PlacedContainer& c);
  Result<> remove(const std::string& key);  // absent is fine

 private:
  network::Placement wanted() const;
  bool is_still(uint64_t change) const;
  void switch_again() const;
  void add_moved(network::Placement& p) const;
  state::Store& store_;
  const TunnelPaths& paths_;
  const Exposures* const exposures_;
  const ToKernel to_kernel_;
  Mutex applying_;  // one at a time; before mu_
  bool applied_nothing_ GUARDED_BY(applying_) = false;
  mutable Mutex mu_;
  std::vector<PlacedContainer> known_ GUARDED_BY(mu_);
  uint64_t change_ GUARDED_BY(mu_) = 0;  // counts what became known
};

}  // namespace transship::migrate
