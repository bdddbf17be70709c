#include "cli/move_session.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>

#include <csignal>
#include <deque>
#include <utility>
#include <variant>

#include "base/mutex.h"
#include "base/thread.h"

namespace transship::cli {
namespace {

struct StreamEnd {
  Result<> result;
};
using CancelAnswer = Result<local::CancelReply>;
using AliveAnswer = Result<local::InfoReply>;
using Item = std::variant<local::MoveEvent, StreamEnd, CancelAnswer, AliveAnswer>;

// What the other threads have for the one that renders. Thread-safe; readable() is for poll().
class Inbox {
 public:
  explicit Inbox(Fd event) : event_(std::move(event)) {}
  void put(Item item) {
    {
      MutexLock lock(mu_);
      items_.push_back(std::move(item));
    }
    uint64_t one = 1;
    (void)!::write(event_.get(), &one, sizeof one);
  }
  std::deque<Item> take() {
    uint64_t count = 0;
    (void)!::read(event_.get(), &count, sizeof count);
    MutexLock lock(mu_);
    return std::exchange(items_, {});
  }
  int readable() const { return event_.get(); }

 private:
  Fd event_;
  Mutex mu_;
  std::deque<Item> items_ GUARDED_BY(mu_);
};

void read_stream(MoveStream& stream, Inbox& inbox) {
  while (true) {
    auto event = stream.next();
    if (!event) return inbox.put(StreamEnd{std::unexpected(event.error())});
    if (!event->has_value()) return inbox.put(StreamEnd{});
    inbox.put(std::move(**event));
  }
}

class Follower {
 public:
  Follower(const MoveSession& session, const local::MoveRequest& request, Inbox& inbox)
      : session_(session), request_(request), inbox_(inbox) {}
  // NB: the threads use the stream, so they end before it does.
  ~Follower() {
    if (stream_) stream_->abort();
    reader_.join();
    cancel_call_.join();
    alive_call_.join();
  }
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;

  Outcome run() {
    auto stream = session_.daemon.move(request_);
    if (!stream) return end_with(stream.error());
    stream_ = std::move(*stream);
    reader_ = Thread("move-events", [this] { read_stream(*stream_, inbox_); });
    while (!outcome_) step();
    return *outcome_;
  }

 private:
  void step() {
    pollfd fds[2] = {{inbox_.readable(), POLLIN, 0}, {session_.signals, POLLIN, 0}};
    int ready = ::poll(fds, 2, static_cast<int>(session_.quiet.count()));
    if (ready == 0) return ask_alive();
    if ((fds[1].revents & POLLIN) != 0) on_signal();
    if ((fds[0].revents & POLLIN) == 0) return;
    for (Item& item : inbox_.take()) {
      if (outcome_) return;
      std::visit([this](auto& value) { on(value); }, item);
    }
  }

  void on(local::MoveEvent& event) {
    if (move_id_.empty()) move_id_ = event.move_id();
    alive_asked_ = false;
    if (ends_detached(event)) return;
    session_.renderer.event(event);
    if (event.has_summary()) outcome_ = Outcome::kDone;
    if (event.has_failure()) outcome_ = outcome_of(event.failure());
    if (!outcome_ && signals_seen_ > 0) ask_cancel();
  }

  // Plan and reservation are waited for: what they refuse is the user's to know now.
  bool ends_detached(const local::MoveEvent& event) {
    if (!request_.detach() || !event.has_phase()) return false;
    const local::PhaseEvent& phase = event.phase();
    if (phase.name() == "plan" || phase.state() == local::PHASE_FAILED || phase.state() == local::PHASE_UNDONE)
      return false;
    if (phase.name() == "reserve" && phase.state() == local::PHASE_STARTED) return false;
    session_.renderer.detached(move_id_);
    outcome_ = Outcome::kDone;
    return true;
  }

  void on(StreamEnd& end) {
    if (end.result) {
      outcome_ = end_with(Error(Errc::kUnavailable, "the daemon ended the report without saying how the move ended")
                              .with_remedy(look_up()));
      return;
    }
    Error error = std::move(end.result).error();
    if (error.code() == Errc::kUnavailable && !move_id_.empty())
      error = Error(error.code(), "lost the daemon in the middle: " + error.message()).with_remedy(look_up());
    outcome_ = end_with(error);
  }

  std::string look_up() const {
    return move_id_.empty() ? "see how the daemon is: systemctl status transshipd"
                            : fmt::format("see how it ended, once the daemon is back: transship show {}", move_id_);
  }

  void on_signal() {
    signalfd_siginfo info{};
    if (::read(session_.signals, &info, sizeof info) <= 0) return;
    ++signals_seen_;
    if (signals_seen_ == 1) {
      session_.renderer.cancelling(move_id_, "requested", "cancelling… (once more to leave without waiting)");
      return ask_cancel();
    }
    session_.renderer.cancelling(move_id_, "left",
                                 too_late_ ? "left; the move is committed and goes on to its end"
                                           : "left; the daemon cancels the move unless it is committed");
    stream_->abort();
    outcome_ = too_late_ ? Outcome::kFailed : Outcome::kCancelled;
    if (session_.leave_now) session_.leave_now(*outcome_);
  }

  // Once, and only when the daemon has told the move's id.
  void ask_cancel() {
    if (cancel_asked_ || move_id_.empty()) return;
    cancel_asked_ = true;
    cancel_call_ = Thread("move-cancel", [this, id = move_id_] {
      local::CancelRequest request;
      request.set_move_id(id);
      inbox_.put(session_.daemon.cancel(request));
    });
  }

  void on(CancelAnswer& answer) {
    if (!answer) {
      session_.renderer.cancelling(move_id_, "failed", "could not cancel: " + answer.error().message());
      // The next signal may try again, before the one after it leaves.
      cancel_asked_ = false;
      signals_seen_ = 0;
      return;
    }
    too_late_ = answer->too_late();
    if (too_late_)
      session_.renderer.cancelling(move_id_, "too_late",
                                   "too late to cancel: the move is committed, it goes on to its end");
  }

  void ask_alive() {
    if (alive_asked_) return;
    alive_asked_ = true;
    alive_call_ = Thread("move-alive", [this] { inbox_.put(session_.daemon.info()); });
  }

  void on(AliveAnswer& answer) {
    bool news_came = !std::exchange(alive_asked_, false);
    if (answer || news_came) return;
    outcome_ =
        end_with(Error(Errc::kTimeout, fmt::format("no news of the move for {} s, and the daemon does not answer: {}",
                                                   session_.quiet.count() / 1000, answer.error().message()))
                     .with_remedy(look_up()));
  }

  Outcome end_with(const Error& error) {
    Outcome outcome = outcome_of(error);
    session_.renderer.error(error, outcome);
    return outcome;
  }

  const MoveSession& session_;
  const local::MoveRequest& request_;
  Inbox& inbox_;
  std::unique_ptr<MoveStream> stream_;
  Thread reader_;
  Thread cancel_call_;
  Thread alive_call_;
  std::string move_id_;
  std::optional<Outcome> outcome_;
  int signals_seen_ = 0;
  bool cancel_asked_ = false;
  bool too_late_ = false;
  bool alive_asked_ = false;
};

}  // namespace

Outcome follow_move(const MoveSession& session, const local::MoveRequest& request) {
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) {
    session.renderer.error(Error(Errc::kUnavailable, "eventfd: " + errno_text(errno)), Outcome::kFailed);
    return Outcome::kFailed;
  }
  Inbox inbox(std::move(event));
  return Follower(session, request, inbox).run();
}

Result<Fd> watch_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  if (int e = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); e != 0) return fail_errno(e, "block SIGINT and SIGTERM");
  int fd = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (fd < 0) return fail_errno(errno, "signalfd");
  return Fd(fd);
}

}  // namespace transship::cli
