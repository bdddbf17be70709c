// For tests: a daemon that answers as told, and an output that is a string.
#pragma once
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "cli/daemon.h"
#include "cli/terminal.h"

namespace transship::cli {

struct Captured {
  std::string text;
  Screen screen;
  explicit Captured(Screen::Options options = {})
      : screen([this](std::string_view piece) { text += piece; }, options) {}
  Captured(const Captured&) = delete;
  Captured& operator=(const Captured&) = delete;
};

inline Screen::Options terminal80() { return {.terminal = true, .colours = false, .width = 80}; }

// Gives the events it has, then waits for more, for finish() or for abort(). Thread-safe.
class FakeStream : public MoveStream {
 public:
  struct Script {
    Mutex mu;
    CondVar changed;
    std::vector<local::MoveEvent> events GUARDED_BY(mu);
    size_t given GUARDED_BY(mu) = 0;
    bool ended GUARDED_BY(mu) = false;
    bool aborted GUARDED_BY(mu) = false;
    Result<> end GUARDED_BY(mu) = {};

    void add(local::MoveEvent event) {
      MutexLock lock(mu);
      events.push_back(std::move(event));
      changed.notify_all();
    }
    void finish(Result<> result = {}) {
      MutexLock lock(mu);
      ended = true;
      end = std::move(result);
      changed.notify_all();
    }
    bool was_aborted() {
      MutexLock lock(mu);
      return aborted;
    }
  };
  explicit FakeStream(Script& script) : script_(script) {}
  Result<std::optional<local::MoveEvent>> next() override {
    MutexLock lock(script_.mu);
    while (script_.given == script_.events.size() && !script_.ended && !script_.aborted)
      script_.changed.wait(script_.mu);
    if (script_.aborted) return fail(Errc::kCancelled, "aborted");
    if (script_.given < script_.events.size()) return script_.events[script_.given++];
    if (!script_.end) return std::unexpected(script_.end.error());
    return std::nullopt;
  }
  void abort() override {
    MutexLock lock(script_.mu);
    script_.aborted = true;
    script_.changed.notify_all();
  }

 private:
  Script& script_;
};

class FakeDaemon : public Daemon {
 public:
  Result<local::InfoReply> info_reply = local::InfoReply();
  Result<local::ContainersReply> containers_reply = local::ContainersReply();
  Result<local::PlanReply> plan_reply = local::PlanReply();
  Result<local::MovesReply> moves_reply = local::MovesReply();
  Result<local::ShowReply> show_reply = local::ShowReply();
  Result<local::CancelReply> cancel_reply = local::CancelReply();
  Result<local::ResolveReply> resolve_reply = local::ResolveReply();
  std::vector<local::ResolveRequest> resolve_requests = {};
  Result<local::PeerProbeReply> probe_reply = local::PeerProbeReply();
  Result<local::PeersReply> peers_reply = local::PeersReply();
  Result<local::PeerCheckReply> check_reply = local::PeerCheckReply();
  Result<local::NetworkCheckReply> network_reply = local::NetworkCheckReply();
  Result<local::NamesReply> names_reply = local::NamesReply();
  Result<local::ExposeReply> expose_reply = local::ExposeReply();
  Result<local::ExposuresReply> exposures_reply = local::ExposuresReply();
  Result<> add_error = {};
  bool peer_existed = false;
  FakeStream::Script script;
  std::function<void(const std::string& move_id)> on_cancel = {};
  // What was asked, in order.
  std::vector<local::PeerAddRequest> added;
  std::vector<std::string> removed;
  local::PlanRequest plan_request;
  local::MoveRequest move_request;
  local::ExposeRequest expose_request;
  local::ExposeRemoveRequest unexposed;

  Result<local::InfoReply> info() override { return info_reply; }
  Result<local::ContainersReply> containers(const local::ContainersRequest&) override { return containers_reply; }
  Result<local::PlanReply> plan(const local::PlanRequest& request) override {
    plan_request = request;
    return plan_reply;
  }
  Result<std::unique_ptr<MoveStream>> move(const local::MoveRequest& request) override {
    move_request = request;
    return std::make_unique<FakeStream>(script);
  }
  Result<local::MovesReply> moves(const local::MovesRequest&) override { return moves_reply; }
  Result<local::ShowReply> show(const local::ShowRequest&) override { return show_reply; }
  Result<local::ResolveReply> resolve(const local::ResolveRequest& request) override {
    resolve_requests.push_back(request);
    return resolve_reply;
  }
  Result<local::CancelReply> cancel(const local::CancelRequest& request) override {
    if (on_cancel) on_cancel(request.move_id());
    return cancel_reply;
  }
  Result<local::PeerProbeReply> peer_probe(const local::PeerProbeRequest&) override { return probe_reply; }
  Result<local::PeerAddReply> peer_add(const local::PeerAddRequest& request) override {
    if (!add_error) return std::unexpected(add_error.error());
    added.push_back(request);
    local::PeerAddReply reply;
    reply.mutable_peer()->set_name(request.name());
    reply.mutable_peer()->set_address(request.address());
    reply.mutable_peer()->set_fingerprint(request.fingerprint());
    reply.set_existed(peer_existed);
    return reply;
  }
  Result<> peer_remove(const local::PeerRemoveRequest& request) override {
    removed.push_back(request.name());
    return {};
  }
  Result<local::PeersReply> peers() override { return peers_reply; }
  Result<local::ExposeReply> expose(const local::ExposeRequest& request) override {
    expose_request = request;
    return expose_reply;
  }
  Result<local::ExposuresReply> exposures() override { return exposures_reply; }
  Result<local::ExposeRemoveReply> expose_remove(const local::ExposeRemoveRequest& request) override {
    unexposed = request;
    return local::ExposeRemoveReply();
  }
  Result<local::NetworkCheckReply> network_check(const local::NetworkCheckRequest& request) override {
    auto reply = network_reply;
    if (reply && request.repair()) reply->set_repaired(true);
    return reply;
  }
  Result<local::NamesReply> names() override { return names_reply; }
  Result<local::NamesReply> names_setup(const local::NamesSetupRequest& request) override {
    auto reply = names_reply;
    if (reply) reply->mutable_state()->set_resolver(request.remove() ? "" : "in /etc/resolv.conf");
    return reply;
  }
  Result<local::PeerCheckReply> peer_check(const local::PeerCheckRequest&) override { return check_reply; }
};

// Events as the daemon sends them.
inline local::MoveEvent phase_event(const std::string& name, local::PhaseState state, int64_t unix_ms = 1000,
                                    uint64_t elapsed_ms = 0, const std::string& detail = "") {
  local::MoveEvent event;
  event.set_move_id("m1");
  event.set_unix_ms(unix_ms);
  event.mutable_phase()->set_name(name);
  event.mutable_phase()->set_state(state);
  event.mutable_phase()->set_elapsed_ms(elapsed_ms);
  event.mutable_phase()->set_detail(detail);
  return event;
}

inline local::MoveEvent progress_event(int64_t unix_ms, uint64_t done, uint64_t total) {
  local::MoveEvent event;
  event.set_move_id("m1");
  event.set_unix_ms(unix_ms);
  event.mutable_progress()->set_phase("transfer");
  event.mutable_progress()->set_bytes_done(done);
  event.mutable_progress()->set_bytes_total(total);
  event.mutable_progress()->set_bytes_per_second(double(112 << 20));
  event.mutable_progress()->set_eta_ms(1300);
  return event;
}

inline local::MoveEvent summary_event() {
  local::MoveEvent event;
  event.set_move_id("m1");
  event.set_unix_ms(9000);
  local::Summary& s = *event.mutable_summary();
  s.set_move_id("m1");
  s.set_container("podman:redis");
  s.set_from("aws");
  s.set_to("azure");
  s.set_total_ms(4120);
  s.set_frozen_ms(2380);
  auto part = [&](const char* name, double ms) {
    local::Part& p = *s.add_gap_parts();
    p.set_name(name);
    p.set_ms(ms);
  };
  part("freeze", 1.25);
  part("transfer", 1950);
  part("restore", 310.5);
  s.set_bytes_sent(281438618);
  s.set_bytes_memory(272629760);
  s.set_bytes_rootfs(1258291);
  s.set_packets_held(14);
  return event;
}

inline local::MoveEvent failure_event(const std::string& code, const std::string& phase, bool source_running) {
  local::MoveEvent event;
  event.set_move_id("m1");
  event.mutable_failure()->set_code(code);
  event.mutable_failure()->set_phase(phase);
  event.mutable_failure()->set_source_running(source_running);
  return event;
}

}  // namespace transship::cli
