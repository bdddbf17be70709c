// The pager's half that transshipd talks to.
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "base/fault.h"
#include "base/log.h"
#include "memory/pager.h"

namespace transship::memory {
namespace {

constexpr uint64_t kControlTag = 2;
constexpr size_t kMostExpected = 1U << 24;  // ranges of one process
constexpr size_t kMostOutgoing = 1U << 16;  // a daemon that reads nothing is as good as gone

bool well_formed(std::span<const PageRange> ranges, uint64_t from) {
  constexpr uint64_t kEnd = uint64_t{1} << 62;
  for (const auto& r : ranges) {
    if (r.address < from || r.address % kPageBytes != 0 || r.pages == 0 || r.pages > kEnd / kPageBytes ||
        r.address > kEnd - r.bytes())
      return false;
    from = r.end();
  }
  return true;
}

uint64_t total_pages(std::span<const PageRange> ranges) {
  uint64_t n = 0;
  for (const auto& r : ranges) n += r.pages;
  return n;
}

}  // namespace

void Pager::accept_daemon() {
  Fd fd(::accept4(control_listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  ucred who{};
  socklen_t size = sizeof who;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &who, &size) < 0 || who.uid != ::geteuid()) return;
  // The latest one counts: an older one hangs, or its end has not been noticed yet.
  daemon_gone();
  if (auto r = watch(fd.get(), kControlTag); !r) {
    TS_LOG_WARN("pager daemon={}", r.error().message());
    return;
  }
  control_ = std::move(fd);
  TS_LOG_INFO("pager daemon_pid={} connected", who.pid);
  greet();
}

// Everything that a daemon must know, whether it is the first one or not.
void Pager::greet() {
  auto lend = [](int fd) { return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); };
  PagerMessage ready;
  ready.word = PagerWord::kReady;
  ready.number = static_cast<uint64_t>(::getpid());
  ready.fds.push_back(lend(doorbell_.get()));
  ready.fds.push_back(lend(record_->fd()));
  if (store_) {
    ready.fds.push_back(lend(store_->header_fd()));
    ready.fds.push_back(lend(store_->data_fd()));
  }
  send(std::move(ready));
  for (const auto& text : troubles_) {
    PagerMessage m;
    m.word = PagerWord::kTrouble;
    m.text = text;
    send(std::move(m));
  }
  for (auto& [index, entry] : tasks_) {
    announce(index, entry.task->space().id, entry.task->uffd());
    entry.task->repeat_requests();
    for (auto page : entry.task->take_requests()) {
      PagerMessage request;
      request.word = PagerWord::kRequest;
      request.space = entry.task->space().id;
      request.number = page;
      send(std::move(request));
    }
  }
}

void Pager::daemon_gone() {
  if (!control_.valid()) return;
  TS_LOG_INFO("pager daemon gone, tasks={} sealed={}", tasks_.size(), store_ && store_->sealed());
  unwatch(control_.get());
  control_.reset();
  outgoing_.clear();
  control_waits_ = false;
  expecting_.reset();
  std::vector<uint64_t> closing;
  for (const auto& [index, entry] : tasks_) {
    if (entry.closing) closing.push_back(index);
  }
  for (auto index : closing) close_task(index);
}

void Pager::read_daemon() {
  flush();
  while (control_.valid() && !over_) {
    auto message = receive_message(control_.get(), MSG_DONTWAIT);
    if (!message) {
      if (message.error().sys_errno() == EAGAIN) return;
      if (message.error().code() == Errc::kPeerProtocol) TS_LOG_WARN("pager daemon={}", message.error().message());
      return daemon_gone();
    }
    bool answer = true;
    auto wrong = obey(*message, answer);
    if (!answer) continue;
    PagerMessage reply;
    reply.word = PagerWord::kAnswer;
    reply.number = wrong.empty() ? 0 : 1;
    reply.text = std::move(wrong);
    send(std::move(reply));
  }
}

// What is wrong with it, or nothing.
std::string Pager::obey(PagerMessage& m, bool& answer) {
  switch (m.word) {
    case PagerWord::kStore: return take_store(m);
    case PagerWord::kExpect: answer = m.number == 0; return take_expected(m);
    case PagerWord::kSeal: return seal();
    case PagerWord::kTask: answer = false; return take_task(m);
    case PagerWord::kSucceed: return succeed(m);
    case PagerWord::kReleased:
      answer = false;
      close_task(m.number);
      return {};
    case PagerWord::kAbort:
      answer = false;
      end("ended by transshipd");
      return {};
    default: return fmt::format("the word {} is none for the pager", static_cast<uint32_t>(m.word));
  }
}

std::string Pager::take_store(PagerMessage& m) {
  if (store_) return "there is a store already";
  if (m.fds.size() != 2) return "a store is two descriptors";
  auto store = PageStore::attach(std::move(m.fds[0]), std::move(m.fds[1]));
  if (!store) return store.error().message();
  store_.emplace(std::move(*store));
  if (auto r = store_->map_content(); !r) return r.error().message();
  return {};
}

std::string Pager::take_expected(PagerMessage& m) {
  if (!store_) return "pages are expected before there is a store";
  if (m.space.kind != SpaceKind::kTask) return "only memory of processes can be filled";
  auto& space = spaces_[m.space.id];
  if (!space || (!space->claimed && expecting_ != m.space)) {
    // Told again: the new ones count.
    if (space) store_->counters().expected_pages -= total_pages(space->expected);
    space = std::make_shared<FillSpace>();
    space->id = m.space;
  }
  if (space->claimed) return fmt::format("the memory of process {} is being filled already", m.space.id);
  expecting_ = m.number != 0 ? std::optional(m.space) : std::nullopt;
  auto from = space->expected.empty() ? 0 : space->expected.back().end();
  if (!well_formed(m.ranges, from) || space->expected.size() + m.ranges.size() > kMostExpected) {
    spaces_.erase(m.space.id);
    return fmt::format("the ranges of process {} do not ascend, or are too many", m.space.id);
  }
  space->expected.insert(space->expected.end(), m.ranges.begin(), m.ranges.end());
  store_->counters().expected_pages += total_pages(m.ranges);
  return {};
}

std::string Pager::seal() {
  if (!store_) return "there is no store to seal";
  for (const auto& [pid, space] : spaces_) {
    auto missing = store_->missing(space->id, space->expected);
    if (missing.empty()) continue;
    return fmt::format("{} memory pages of process {} did not arrive, the first at {:#x}", total_pages(missing), pid,
                       missing.front().address);
  }
  store_->seal();
  fault::pass("pager.sealed");
  pages_arrived();
  return {};
}

void Pager::send(PagerMessage message) {
  if (!control_.valid()) return;
  if (outgoing_.size() >= kMostOutgoing) {
    // Read as the end of the connection, later.
    (void)::shutdown(control_.get(), SHUT_RDWR);
    return;
  }
  outgoing_.push_back({.packet = encode(message), .fds = std::move(message.fds)});
  flush();
}

void Pager::flush() {
  bool full = false;
  while (!outgoing_.empty() && control_.valid()) {
    auto& next = outgoing_.front();
    auto sent = send_packet(control_.get(), next.packet, next.fds, MSG_DONTWAIT);
    // A daemon that has gone is noticed when it is read from.
    if (!sent && sent.error().sys_errno() == EAGAIN) full = true;
    if (full) break;
    outgoing_.pop_front();
  }
  if (full == control_waits_ || !control_.valid()) return;
  control_waits_ = full;
  epoll_event event{.events = full ? EPOLLIN | EPOLLOUT : EPOLLIN, .data = {.u64 = kControlTag}};
  (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, control_.get(), &event);
}

}  // namespace transship::memory
