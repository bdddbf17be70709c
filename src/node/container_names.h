// Names and addresses of the containers that run on this node, as its engines tell.
#pragma once
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "migrate/placements.h"
#include "migrate/services.h"
#include "names/directory.h"

namespace transship::node {

// Engines that tell of changes are asked when they do, and every half a minute; the others every five seconds.
class ContainerNames {
 public:
  using List = std::vector<names::NamedContainer>;
  // Called by a thread of its own with all of them, first as soon as the engines have answered; and with those that
  // have moved away since the last call.
  using Tell = std::function<void(const List& all, const List& left)>;
  // `services` and `placements` outlive this object.
  static Result<std::unique_ptr<ContainerNames>> start(migrate::Services& services,
                                                       const migrate::Placements& placements, Tell tell);
  ~ContainerNames();
  ContainerNames(const ContainerNames&) = delete;
  ContainerNames& operator=(const ContainerNames&) = delete;

 private:
  struct Known {
    pid_t pid = 0;
    bool fresh = false;  // its addresses
    names::NamedContainer container;
  };
  struct PerEngine {
    std::map<std::string, Known> known;  // by id
    List left;                           // since they were told
    std::string problem;
    Deadline again = Deadline::in(milliseconds(0));  // it is asked also when it has told nothing
  };

  ContainerNames(migrate::Services& services, const migrate::Placements& placements, Tell tell, Cancel stop)
      : services_(services), placements_(placements), tell_(std::move(tell)), stop_(std::move(stop)) {}
  void run();
  void watch(engine::Engine& engine);
  void changed(const std::string& id);
  // False: this object ends.
  bool wait_for_change();
  void ask(engine::Engine& engine, PerEngine& of);
  Result<> list(engine::Engine& engine, PerEngine& of);
  Result<std::vector<network::IpAddress>> addresses(engine::Engine& engine, const PerEngine& of,
                                                    const engine::Summary& row) const;
  void identify(names::NamedContainer& c, const std::string& id) const;

  migrate::Services& services_;
  const migrate::Placements& placements_;
  const Tell tell_;
  Cancel stop_;
  Mutex mu_;
  CondVar woken_;
  bool wanted_ GUARDED_BY(mu_) = true;
  bool urgent_ GUARDED_BY(mu_) = false;
  bool all_anew_ GUARDED_BY(mu_) = false;
  std::vector<std::string> anew_ GUARDED_BY(mu_);            // ids whose addresses may have changed
  std::set<const engine::Engine*> telling_ GUARDED_BY(mu_);  // of changes
  std::map<std::string, PerEngine> engines_;                 // of the thread that asks
  Thread thread_;
  std::vector<Thread> watchers_;
};

}  // namespace transship::node
