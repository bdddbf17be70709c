#include "memory/pager.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

#include "base/fault.h"
#include "base/log.h"

namespace transship::memory {
namespace {

using namespace std::chrono_literals;

constexpr auto kTick = 250ms;
// A fault that comes in the middle of a slice waits for its end.
constexpr uint64_t kSlice = 512U << 10;
constexpr uint64_t kSliceWithFaults = 64U << 10;
constexpr auto kFaultsAreRecent = 2ms;
constexpr auto kLastWords = 2s;

}  // namespace

// What an event of the epoll descriptor is about; from kFirstTask on, a task.
enum PagerTag : uint64_t {
  kControlListener = 1,
  kControl = 2,
  kRestoreListener = 3,
  kRestore = 4,
  kDoorbell = 5,
  kFirstTask = 16,
};

Pager::Pager(Fd dir, Fd epoll, Fd doorbell, std::unique_ptr<FillRecorder> record)
    : dir_(std::move(dir)),
      epoll_(std::move(epoll)),
      doorbell_(std::move(doorbell)),
      record_(std::move(record)),
      next_tick_(Clock::now() + kTick) {}

Pager::~Pager() {
  if (!listening_) return;
  for (const char* name : {kLazyPagesSocket, kPagerSocket}) (void)::unlinkat(dir_.get(), name, 0);
}

Result<std::unique_ptr<Pager>> Pager::create(const std::string& dir_path, Fd control) {
  TS_TRY_ASSIGN(Fd dir, open_file(dir_path, O_DIRECTORY | O_RDONLY));
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return fail_errno(errno, "make an epoll descriptor");
  Fd doorbell(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!doorbell.valid()) return fail_errno(errno, "make an eventfd");
  TS_TRY_ASSIGN(auto record, FillRecorder::create());
  std::unique_ptr<Pager> pager(new Pager(std::move(dir), std::move(epoll), std::move(doorbell), std::move(record)));
  TS_TRY_ASSIGN(pager->lock_, open_at(pager->dir_.get(), kPagerLock, O_RDWR | O_CREAT, 0600));
  struct flock lock{};
  lock.l_type = F_WRLCK;
  if (::fcntl(pager->lock_.get(), F_OFD_SETLK, &lock) < 0)
    return fail_errno(errno, "be the only pager in {}", dir_path);
  pager->listening_ = true;
  (void)::unlinkat(pager->dir_.get(), kPagerResult, 0);
  TS_TRY_ASSIGN(pager->restore_listener_, listen_in(pager->dir_.get(), kLazyPagesSocket, SOCK_STREAM));
  TS_TRY_ASSIGN(pager->control_listener_, listen_in(pager->dir_.get(), kPagerSocket, SOCK_SEQPACKET));
  TS_TRY(pager->watch(pager->restore_listener_.get(), kRestoreListener));
  TS_TRY(pager->watch(pager->control_listener_.get(), kControlListener));
  TS_TRY(pager->watch(pager->doorbell_.get(), kDoorbell));
  TS_TRY(pager->watch(control.get(), kControl));
  pager->control_ = std::move(control);
  pager->greet();
  return pager;
}

Result<> Pager::watch(int fd, uint64_t tag) {
  epoll_event event{.events = EPOLLIN, .data = {.u64 = tag}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return fail_errno(errno, "watch descriptor {}", fd);
  return {};
}

void Pager::unwatch(int fd) { (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr); }

int Pager::timeout() const {
  auto due = next_tick_;
  for (const auto& [index, entry] : tasks_) due = std::min(due, entry.task->due());
  auto wait = std::chrono::ceil<milliseconds>(due - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(wait, 0, milliseconds(kTick).count()));
}

Result<> Pager::run() {
  std::array<epoll_event, 64> events{};
  while (!over_) {
    int n = ::epoll_wait(epoll_.get(), events.data(), events.size(), timeout());
    if (n < 0 && errno != EINTR) return fail_errno(errno, "wait for faults");
    for (const auto& event : std::span(events).first(static_cast<size_t>(std::max(n, 0)))) dispatch(event.data.u64);
    background();
    tick();
    settle();
    check_end();
  }
  return {};
}

void Pager::dispatch(uint64_t tag) {
  switch (tag) {
    case kControlListener: return accept_daemon();
    case kControl: return read_daemon();
    case kRestoreListener: return accept_restore();
    case kRestore: return read_restore();
    case kDoorbell: return pages_arrived();
    default: break;
  }
  auto it = tasks_.find(tag - kFirstTask);
  if (it == tasks_.end()) return;
  it->second.task->handle();
  after(it->first);
}

void Pager::tick() {
  auto now = Clock::now();
  if (now < next_tick_) return;
  next_tick_ = now + kTick;
  std::vector<uint64_t> indexes;
  for (const auto& [index, entry] : tasks_) indexes.push_back(index);
  for (auto index : indexes) {
    tasks_.at(index).task->probe();
    after(index);
  }
}

void Pager::background() {
  if (tasks_.empty()) return;
  auto now = Clock::now();
  bool faults = false;
  uint64_t chosen = 0;
  uint64_t first = 0;
  // The next one in turn that has something to do.
  for (const auto& [index, entry] : tasks_) {
    faults |= now - entry.task->last_fault() < kFaultsAreRecent;
    if (entry.task->due() > now) continue;
    if (first == 0) first = index;
    if (chosen == 0 && index > last_worked_) chosen = index;
  }
  if (chosen == 0) chosen = first;
  if (chosen == 0) return;
  last_worked_ = chosen;
  tasks_.at(chosen).task->work(faults ? kSliceWithFaults : kSlice);
  after(chosen);
}

void Pager::pages_arrived() {
  uint64_t rings = 0;
  (void)!::read(doorbell_.get(), &rings, sizeof rings);
  std::vector<uint64_t> indexes;
  for (const auto& [index, entry] : tasks_) indexes.push_back(index);
  for (auto index : indexes) {
    tasks_.at(index).task->arrived();
    after(index);
  }
}

// In the middle of what was read: what its parent's events lead to is not known yet.
void Pager::forked(const FillTask& parent, Fd uffd) {
  fault::pass("pager.forked");
  auto index = next_index_++;
  // First of all. Until somebody else has its descriptor, the child's memory is lost with this program.
  announce(index, parent.space().id, uffd.get());
  add_task(std::make_unique<FillTask>(std::move(uffd), index, parent));
}

void Pager::announce(uint64_t index, SpaceId space, int uffd) {
  PagerMessage m;
  m.word = PagerWord::kTask;
  m.number = index;
  m.space = space;
  m.fds.emplace_back(::fcntl(uffd, F_DUPFD_CLOEXEC, 0));
  send(std::move(m));
}

void Pager::add_task(std::unique_ptr<FillTask> task) {
  auto index = task->index();
  if (auto r = watch(task->uffd(), kFirstTask + index); !r) trouble(r.error().message());
  ++store_->counters().tasks;
  TS_LOG_DEBUG("pager task={} image_pid={} pages={}", index, task->space().id.id, task->bytes_left() / kPageBytes);
  tasks_.emplace(index, Entry{.task = std::move(task)});
  born_.push_back(index);
}

// When nothing is half done.
void Pager::settle() {
  for (auto index : std::exchange(born_, {})) {
    if (tasks_.contains(index)) after(index);
  }
  if (record_->wants_snapshot()) write_record();
}

void Pager::write_record() {
  record_->begin(next_index_, spaces_.size(), tasks_.size());
  for (const auto& [pid, space] : spaces_) record_->add(space->id, space->claimed, space->forked, space->expected);
  for (const auto& [index, entry] : tasks_)
    record_->add(index, entry.task->space().id, entry.task->forked(), entry.closing, entry.task->todo());
  record_->commit();
}

// Whatever has become of a task that something was done with. It may be gone when this returns.
void Pager::after(uint64_t index) {
  auto& entry = tasks_.at(index);
  auto& task = *entry.task;
  for (auto page : task.take_requests()) {
    PagerMessage m;
    m.word = PagerWord::kRequest;
    m.space = task.space().id;
    m.number = page;
    send(std::move(m));
  }
  if (auto text = task.take_trouble(); !text.empty()) trouble(text);
  if (task.done() && !entry.closing) {
    entry.closing = true;
    // Before the daemon closes its duplicate: a task without one was forked a moment ago, or is lost.
    if (!record_->note_done(index)) write_record();
    PagerMessage m;
    m.word = PagerWord::kTaskDone;
    m.number = index;
    send(std::move(m));
    // As long as the daemon has its duplicate the kernel goes on asking about new pages, and somebody must answer.
    if (task.gone() || !control_.valid()) close_task(index);
  }
}

void Pager::close_task(uint64_t index) {
  auto it = tasks_.find(index);
  if (it == tasks_.end() || !it->second.closing) return;
  unwatch(it->second.task->uffd());
  TS_LOG_DEBUG("pager task={} image_pid={} gone={}", index, it->second.task->space().id.id, it->second.task->gone());
  tasks_.erase(it);
}

void Pager::check_end() {
  if (over_ || !tasks_.empty() || restore_.valid()) return;
  if (restore_complete_) {
    for (const auto& [pid, space] : spaces_) {
      if (!space->claimed && !space->expected.empty())
        trouble(fmt::format("process {} of the images was never handed over for filling", pid));
    }
    return end(troubles_.empty() ? "filled" : troubles_.front());
  }
  if (restore_failed_) return end(troubles_.front());
  if (!control_.valid()) end("transshipd ended before anything was restored");
}

void Pager::end(std::string result) {
  over_ = true;
  // First of all: whoever misses our last word reads it there.
  if (auto file = open_at(dir_.get(), kPagerResult, O_WRONLY | O_CREAT | O_TRUNC, 0600)) {
    if (auto r = write_all(file->get(), result); !r) TS_LOG_WARN("pager result={}", r.error().message());
  }
  fault::pass("pager.filled");
  rusage used{};
  if (store_ && ::getrusage(RUSAGE_SELF, &used) == 0)
    store_->counters().cpu_us = static_cast<uint64_t>((used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1'000'000 +
                                                      used.ru_utime.tv_usec + used.ru_stime.tv_usec);
  TS_LOG_INFO("pager end=\"{}\"", result);
  PagerMessage m;
  m.word = PagerWord::kFinished;
  m.text = std::move(result);
  send(std::move(m));
  wait_until_heard();
}

// A socket that is closed with something unread in it takes back what was said last.
void Pager::wait_until_heard() {
  auto cancel = Cancel::create();
  auto deadline = Deadline::in(kLastWords);
  while (control_.valid() && cancel) {
    auto ready = outgoing_.empty() ? wait_readable(control_.get(), *cancel, deadline, "transshipd's end")
                                   : wait_writable(control_.get(), *cancel, deadline, "transshipd's end");
    if (!ready) return;
    flush();
    auto unread = receive_message(control_.get(), MSG_DONTWAIT);
    if (!unread && unread.error().sys_errno() != EAGAIN) return;
  }
}

void Pager::trouble(const std::string& text) {
  TS_LOG_ERROR("pager trouble=\"{}\"", text);
  record_->give_up();
  constexpr size_t kMostTroubles = 100;
  if (troubles_.size() >= kMostTroubles) return;
  troubles_.push_back(text);
  PagerMessage m;
  m.word = PagerWord::kTrouble;
  m.text = text;
  send(std::move(m));
}

}  // namespace transship::memory
