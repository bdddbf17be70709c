// The source's session with the destination during a move: kept alive, so that the reservation is, too.
#pragma once
#include <memory>

#include "base/mutex.h"
#include "base/thread.h"
#include "wire/session.h"

namespace transship::migrate {

// Thread-safe: calls are made one after the other.
class PeerSession {
 public:
  // `renew_every`: how often the destination hears that we are there while nothing else is said; begins with
  // keep_alive().
  static Result<std::unique_ptr<PeerSession>> connect(const wire::Identity& identity, const wire::PeerTarget& target,
                                                      const std::string& own_name, Deadline deadline,
                                                      const Cancel& cancel);
  ~PeerSession();
  Result<peer::Reply> call(const peer::Request& request, Deadline deadline, const Cancel& cancel);
  void keep_alive(milliseconds every);
  // For the plan, before anyone else uses it.
  wire::Session& session() { return *session_; }
  const wire::Endpoint& remote() const { return session_->remote(); }
  const wire::Endpoint& local() const { return session_->local(); }

 private:
  explicit PeerSession(std::unique_ptr<wire::Session> session, Cancel stop)
      : session_(std::move(session)), stop_(std::move(stop)) {}
  void renew_for_ever(milliseconds every);
  std::unique_ptr<wire::Session> session_;
  Cancel stop_;
  Mutex mu_;
  Thread thread_;
};

}  // namespace transship::migrate
