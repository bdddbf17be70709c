// Names of containers, on this node and on its peers: who has what is told among pinned peers, and a DNS server of this
// node answers from it (docs/names.md).
#pragma once
#include <map>
#include <memory>
#include <set>
#include <string>

#include "base/mutex.h"
#include "base/thread.h"
#include "migrate/placements.h"
#include "migrate/services.h"
#include "names/directory.h"
#include "names/dns_server.h"
#include "names/host_resolver.h"
#include "node/container_names.h"
#include "proto/local.pb.h"
#include "proto/peer.pb.h"

namespace transship::node {

struct NamesOptions {
  bool enabled = true;
  names::DnsServerOptions server = {};
  names::HostResolverOptions resolver = {};
  std::string memory_file = {};  // what was heard last
};

// Thread-safe. One thread keeps the server and its records, one asks the engines, one for each peer tells it.
class NamesKeeper {
 public:
  // Switched off: takes all of it away, and returns one that knows nothing. What goes wrong is logged and stands in
  // state().
  static Result<std::unique_ptr<NamesKeeper>> start(migrate::Services& services, const migrate::Placements& placements,
                                                    const NamesOptions& options);
  ~NamesKeeper();  // the server stays
  NamesKeeper(const NamesKeeper&) = delete;
  NamesKeeper& operator=(const NamesKeeper&) = delete;

  // What `peer` says it has; what this node has is the answer.
  Result<peer::Reply> answer(const std::string& peer, const peer::NamesRequest& request);
  local::NamesState state() const;
  local::NamesReply list() const;
  // This host's resolver.
  Result<> set_up(bool remove);

 private:
  struct Teller;
  NamesKeeper(migrate::Services& services, const migrate::Placements& placements, const NamesOptions& options,
              Cancel stop);
  void run();
  void load();
  // One that has moved away is ours until the node that has it says so, since nobody else would name it meanwhile.
  struct Leaving {
    names::NamedContainer container;
    Deadline until;
  };
  void take_own(const std::vector<names::NamedContainer>& all, const std::vector<names::NamedContainer>& left);
  void put_own_locked() REQUIRES(mu_);
  std::vector<std::string> learn(const std::string& peer, const state::Peer& known,
                                 const google::protobuf::RepeatedPtrField<peer::NamedContainer>& said);
  bool just_came_home(const names::NamedContainer& c) const;
  std::string refusal(const state::Peer& peer, const names::NamedContainer& c) const;
  void changed_locked() REQUIRES(mu_);
  void keep_server();
  void keep_resolver();
  void publish();
  // Peers that are pinned, each with its thread; names of those that are not go.
  void keep_peers();
  void tell_in_turn(Teller& teller);
  Result<> tell(const std::string& peer, const Cancel& cancel);
  void own_names(google::protobuf::RepeatedPtrField<peer::NamedContainer>& out) const;

  migrate::Services& services_;
  const migrate::Placements& placements_;
  const NamesOptions options_;
  Cancel stop_;
  names::DnsServer server_;
  names::HostResolver resolver_;
  mutable Mutex mu_;
  CondVar woken_;
  bool dirty_ GUARDED_BY(mu_) = true;         // records differ from what the server has
  uint64_t own_version_ GUARDED_BY(mu_) = 0;  // counts changes of what this node has
  names::Directory directory_ GUARDED_BY(mu_);
  std::vector<names::NamedContainer> own_ GUARDED_BY(mu_);
  std::vector<Leaving> leaving_ GUARDED_BY(mu_);
  std::map<std::string, std::vector<std::string>> refused_ GUARDED_BY(mu_);  // by peer, what was logged last
  std::set<std::string> silent_ GUARDED_BY(mu_);                             // peers that did not answer last
  std::string trouble_ GUARDED_BY(mu_) = "it is not up yet";
  std::string remedy_ GUARDED_BY(mu_);
  Deadline next_keep_ = Deadline::in(milliseconds(0));
  Deadline next_resolver_ = Deadline::in(milliseconds(0));
  std::map<std::string, std::unique_ptr<Teller>> tellers_;  // of the keeper's thread
  std::unique_ptr<ContainerNames> containers_;
  Thread thread_;
};

}  // namespace transship::node
