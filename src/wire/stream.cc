#include "wire/stream.h"

#include <poll.h>

#include "base/thread.h"

namespace transship::wire {
namespace {
std::unexpected<Error> ended_early(const Stream& stream, size_t missing) {
  return fail(Errc::kUnavailable, "{} ended the connection with {} bytes still expected", stream.peer(), missing);
}
}  // namespace

Result<> Stream::read_exact(std::span<std::byte> buffer, Deadline deadline, const Cancel& cancel) {
  while (!buffer.empty()) {
    TS_TRY_ASSIGN(size_t n, read_some(buffer, deadline, cancel));
    if (n == 0) return ended_early(*this, buffer.size());
    buffer = buffer.subspan(n);
  }
  return {};
}

Result<> Stream::write_all(std::span<const std::byte> data, Deadline deadline, const Cancel& cancel) {
  while (!data.empty()) {
    TS_TRY_ASSIGN(size_t n, write_some(data, deadline, cancel));
    data = data.subspan(n);
  }
  return {};
}

Result<> Stream::read_steadily(std::span<std::byte> buffer, milliseconds stall, const Cancel& cancel) {
  while (!buffer.empty()) {
    TS_TRY_ASSIGN(size_t n, read_some(buffer, Deadline::in(stall), cancel));
    if (n == 0) return ended_early(*this, buffer.size());
    buffer = buffer.subspan(n);
  }
  return {};
}

Result<> Stream::write_steadily(std::span<const std::byte> data, milliseconds stall, const Cancel& cancel) {
  while (!data.empty()) {
    TS_TRY_ASSIGN(size_t n, write_some(data, Deadline::in(stall), cancel));
    data = data.subspan(n);
  }
  return {};
}

struct HangupWatch::State {
  State(Cancel stop_signal, Cancel target_signal, int watched, std::string peer_text)
      : stop(std::move(stop_signal)), target(std::move(target_signal)), fd(watched), peer(std::move(peer_text)) {}
  Cancel stop;
  Cancel target;
  int fd;
  std::string peer;
  Thread thread;

  ~State() { stop.cancel("done"); }

  void watch() {
    pollfd p[3] = {{stop.poll_fd(), POLLIN, 0}, {target.poll_fd(), POLLIN, 0}, {fd, POLLRDHUP, 0}};
    while (true) {
      int n = ::poll(p, 3, -1);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 || p[0].revents != 0 || p[1].revents != 0) return;
      if (p[2].revents != 0) return target.cancel(fmt::format("{} hung up", peer));
    }
  }
};

Result<HangupWatch> HangupWatch::start(const Stream& stream, Cancel target) {
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  auto state = std::make_unique<State>(std::move(stop), std::move(target), stream.fd(), stream.peer());
  state->thread = Thread("hangup", [s = state.get()] { s->watch(); });
  return HangupWatch(std::move(state));
}

HangupWatch::HangupWatch(std::unique_ptr<State> state) : state_(std::move(state)) {}
HangupWatch::HangupWatch(HangupWatch&&) noexcept = default;
HangupWatch& HangupWatch::operator=(HangupWatch&&) noexcept = default;
HangupWatch::~HangupWatch() = default;

}  // namespace transship::wire
