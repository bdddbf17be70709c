// A source's move that had said Restore when its daemon was killed. While its tasks stand still, their network shut
// (shut_network.h), it is found out what becomes of them: register and destination must both have said so
// (decision_register.h). Forward: they are ended, in post-copy when the destination has their memory. Back: they run.
#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include "base/mutex.h"
#include "base/thread.h"
#include "migrate/decision_register.h"
#include "migrate/handover.h"
#include "migrate/page_pusher.h"
#include "migrate/services.h"
#include "migrate/shut_network.h"
#include "proto/journal.pb.h"
#include "sys/file.h"

namespace transship::migrate {

// Owns the thread that goes on with it.
class ResumedSource {
 public:
  // `facts`: of its resume file.
  static Result<std::unique_ptr<ResumedSource>> start(Services& services, const std::string& move_id,
                                                      journal::Leaving facts);
  // Where it has not ended yet, the next daemon takes it up.
  ~ResumedSource();
  ResumedSource(const ResumedSource&) = delete;
  ResumedSource& operator=(const ResumedSource&) = delete;
  // "podman:ID"
  std::string container() const;
  const std::string& peer() const { return facts_.peer(); }
  bool ended() const { return ended_; }
  Standing standing() const;
  // The operator decides, where nobody has yet, or ends the waiting for the destination; what is here ends with it.
  Result<> resolve(const OperatorsWord& word);

 private:
  ResumedSource(Services& services, std::string move_id, journal::Leaving facts, Cancel end, Cancel waiting);
  void heard(const Result<>& answer);
  Result<Decision> heard_of(Result<Decision> word);
  void run();
  Result<Decision> find_out();
  void go_forward();
  void go_back();
  void enter(SourceState state);
  Result<Decision> forward_if_possible();
  Result<Decision> say_commit();
  bool tasks_live() const;
  Result<std::unique_ptr<PeerSession>> connect();
  Result<> tell_commit();
  Result<> push_pages();
  Result<> all_there();
  Result<> end_tasks();
  Result<> kill_tasks(const sys::Cgroup& cgroup);
  void end_connections(const std::vector<pid_t>& pids);
  network::CutoverFacts cutover_facts_of(const engine::Container& container) const;
  void forget();
  void lead_to_destination();
  void record(const Result<>& outcome);

  Services& services_;
  const std::string id_;
  const journal::Leaving facts_;
  Cancel end_;
  Cancel waiting_;  // fires with end_, and when the operator has resolved it
  std::atomic<bool> resolved_ = false;
  mutable Mutex mu_;
  SourceState state_ GUARDED_BY(mu_) = SourceState::kAsked;
  int64_t since_ms_ GUARDED_BY(mu_);          // that this daemon knows of
  bool unconfirmed_ GUARDED_BY(mu_) = false;  // committed, and kept frozen until the destination answers that it runs
  std::optional<Decision> resolved_as_ GUARDED_BY(mu_);
  LastWord last_word_ GUARDED_BY(mu_);
  sys::TmpfsMount directory_;
  DecisionRegister decisions_;
  std::optional<ShutNetwork> shut_;  // from before the end of the tasks until the way leads elsewhere
  bool confirmed_ = false;
  std::atomic<bool> ended_ = false;
  Thread thread_;
};

}  // namespace transship::migrate
