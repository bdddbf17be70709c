#include "base/cancel.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <atomic>

#include "base/mutex.h"

namespace transship {

milliseconds Deadline::remaining() const {
  auto left = std::chrono::ceil<milliseconds>(at_ - Clock::now());
  return std::max(left, milliseconds(0));
}

struct Cancel::State {
  Fd event;
  std::atomic<bool> set = false;
  mutable Mutex mu;
  std::string reason GUARDED_BY(mu);
};

Result<Cancel> Cancel::create() {
  int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) return fail_errno(errno, "eventfd");
  auto state = std::make_shared<State>();
  state->event.reset(fd);
  return Cancel(std::move(state));
}

void Cancel::cancel(std::string reason) {
  {
    MutexLock lock(state_->mu);
    if (state_->set) return;
    state_->reason = std::move(reason);
    state_->set = true;
  }
  uint64_t one = 1;
  (void)!::write(state_->event.get(), &one, sizeof one);
}

bool Cancel::cancelled() const { return state_->set; }

std::string Cancel::reason() const {
  MutexLock lock(state_->mu);
  return state_->reason;
}

int Cancel::poll_fd() const { return state_->event.get(); }

Result<> Cancel::check() const {
  if (!cancelled()) return {};
  return fail(Errc::kCancelled, "cancelled: {}", reason());
}

namespace {
Result<> wait_for(int fd, short events, const Cancel& cancel, Deadline deadline, std::string_view what) {
  pollfd p[2] = {{cancel.poll_fd(), POLLIN, 0}, {fd, events, 0}};
  nfds_t count = fd >= 0 ? 2 : 1;
  while (true) {
    auto left = deadline.remaining().count();
    int n = ::poll(p, count, static_cast<int>(std::min<long>(left, 3600 * 1000L)));
    if (n < 0 && errno != EINTR) return fail_errno(errno, "{}: poll", what);
    if (n > 0 && p[0].revents != 0) return cancel.check();
    if (n > 0) return {};
    if (deadline.passed()) return fail(Errc::kTimeout, "{}: nothing happened in time", what);
  }
}
}  // namespace

Result<> wait_readable(int fd, const Cancel& cancel, Deadline deadline, std::string_view what) {
  return wait_for(fd, POLLIN, cancel, deadline, what);
}

Result<> wait_writable(int fd, const Cancel& cancel, Deadline deadline, std::string_view what) {
  return wait_for(fd, POLLOUT, cancel, deadline, what);
}

Result<> sleep_for(milliseconds d, const Cancel& cancel) {
  auto r = wait_for(-1, 0, cancel, Deadline::in(d), "sleep");
  if (!r && r.error().code() == Errc::kTimeout) return {};
  return r;
}

}  // namespace transship
