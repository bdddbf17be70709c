#include "migrate/peer_session.h"

#include "base/log.h"

namespace transship::migrate {

Result<std::unique_ptr<PeerSession>> PeerSession::connect(const wire::Identity& identity,
                                                          const wire::PeerTarget& target, const std::string& own_name,
                                                          Deadline deadline, const Cancel& cancel) {
  TS_TRY_ASSIGN(auto session, wire::Session::connect(identity, target, own_name, deadline, cancel));
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  return std::unique_ptr<PeerSession>(new PeerSession(std::move(session), std::move(stop)));
}

PeerSession::~PeerSession() {
  stop_.cancel("the session ends");
  thread_.join();
}

Result<peer::Reply> PeerSession::call(const peer::Request& request, Deadline deadline, const Cancel& cancel) {
  MutexLock lock(mu_);
  return session_->call(request, deadline, cancel);
}

void PeerSession::keep_alive(milliseconds every) {
  thread_ = Thread("keep-alive", [this, every] { renew_for_ever(every); });
}

void PeerSession::renew_for_ever(milliseconds every) {
  peer::Request request;
  request.mutable_renew();
  while (sleep_for(every, stop_)) {
    // The move's next own request meets the same error and reports it.
    if (auto r = call(request, Deadline::in(milliseconds(10'000)), stop_); !r) {
      TS_LOG_DEBUG("keep-alive: {}", r.error().message());
      return;
    }
  }
}

}  // namespace transship::migrate
