#include "memory/pager_client.h"

#include <sys/eventfd.h>
#include <sys/socket.h>

#include <deque>

#include "base/log.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "memory/fill_record.h"
#include "memory/pager_link.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::memory {
namespace {

// While it lasts processes wait; given up, they are killed.
constexpr milliseconds kSuccessionLimit{20'000};
// A pager that is killed again and again is killed by what it does.
constexpr size_t kMostSuccessors = 3;
constexpr milliseconds kSuccessorsCount{10'000};
constexpr milliseconds kLookAgain{1};

Result<Fd> make_eventfd() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return fail_errno(errno, "make an eventfd");
  return fd;
}

void ring(int eventfd) {
  uint64_t one = 1;
  (void)!::write(eventfd, &one, sizeof one);
}

}  // namespace

struct PagerClient::State {
  State(std::string d, Options o, Cancel c) : dir(std::move(d)), options(std::move(o)), stop(std::move(c)) {}
  using Link = std::shared_ptr<const PagerLink>;

  Result<> begin(PagerLink first);
  Link link() const;
  Result<Link> ready_link(Deadline deadline);
  Result<std::optional<std::string>> await_answer(const Link& from, Deadline deadline);
  Result<> ask(const PagerMessage& message, Deadline deadline);
  void read_all();
  void obey(PagerMessage& message);
  void hear_the_rest();
  bool replace(const Error& how);
  Result<> succeed();
  bool begin_succession();
  void lost(Error error);
  void finished(const std::string& result);
  Result<> end_result();
  bool has_ended();
  Result<> abort(Deadline deadline);

  const std::string dir;
  const Options options;
  Cancel stop;  // of the reading thread
  Fd ended;     // readable when it is known how the pager ended
  PageStore* store = nullptr;
  std::optional<PageStore> own_store;
  std::deque<Clock::time_point> successions;  // of the reading thread

  Mutex asking;  // one question at a time
  mutable Mutex mutex;
  CondVar changed;                 // an answer, another link, an end
  Link current GUARDED_BY(mutex);  // never null
  bool replacing GUARDED_BY(mutex) = false;
  bool aborted GUARDED_BY(mutex) = false;
  std::optional<std::string> answer GUARDED_BY(mutex);
  // Duplicates: should the pager die, whoever faults waits instead of reading zeros.
  std::map<uint64_t, Fd> uffds GUARDED_BY(mutex);
  std::optional<std::string> end GUARDED_BY(mutex);
  std::optional<Error> trouble GUARDED_BY(mutex);
  Thread reader;
};

PagerClient::PagerClient(std::unique_ptr<State> state) : state_(std::move(state)) {}

PagerClient::~PagerClient() {
  state_->stop.cancel("the client ends");
  state_->reader.join();
}

Result<> PagerClient::State::begin(PagerLink first) {
  TS_TRY_ASSIGN(ended, make_eventfd());
  {
    MutexLock lock(mutex);
    current = std::make_shared<const PagerLink>(std::move(first));
  }
  reader = Thread("pager-client", [this] { read_all(); });
  return {};
}

PagerClient::State::Link PagerClient::State::link() const {
  MutexLock lock(mutex);
  return current;
}

// For a question.
Result<PagerClient::State::Link> PagerClient::State::ready_link(Deadline deadline) {
  MutexLock lock(mutex);
  while (replacing && !end && !trouble) {
    if (changed.wait_until(mutex, deadline.at()) == std::cv_status::timeout && deadline.passed())
      return fail(Errc::kTimeout, "no other pager took the place of the one that was killed in time");
  }
  if (trouble) return std::unexpected(*trouble);
  if (end) return fail(Errc::kUnavailable, "the pager ended: {}", *end);
  answer.reset();
  return current;
}

// Nothing: another pager has taken its place, and was not asked.
Result<std::optional<std::string>> PagerClient::State::await_answer(const Link& from, Deadline deadline) {
  MutexLock lock(mutex);
  while (!answer && !end && !trouble && !replacing && current == from) {
    if (changed.wait_until(mutex, deadline.at()) == std::cv_status::timeout && deadline.passed())
      return fail(Errc::kTimeout, "the pager {} did not answer in time", from->pid);
  }
  if (answer) return answer;
  if (trouble) return std::unexpected(*trouble);
  if (end) return fail(Errc::kUnavailable, "the pager ended: {}", *end);
  return std::nullopt;
}

Result<> PagerClient::State::ask(const PagerMessage& message, Deadline deadline) {
  MutexLock turn(asking);
  while (true) {
    TS_TRY_ASSIGN(auto to, ready_link(deadline));
    // Of one that is dead the reading thread knows more in a moment.
    auto sent = to->send(message);
    if (!sent && sent.error().sys_errno() == EAGAIN) return sent;
    TS_TRY_ASSIGN(auto said, await_answer(to, deadline));
    if (!said) continue;
    if (!said->empty()) return fail(Errc::kRefused, "the pager {} refuses: {}", to->pid, *said);
    return {};
  }
}

void PagerClient::State::lost(Error error) {
  {
    MutexLock lock(mutex);
    if (trouble) return;
    trouble = error;
  }
  changed.notify_all();
  ring(ended.get());
  TS_LOG_ERROR("pager pid={} trouble=\"{}\"", link()->pid, error.message());
  if (options.on_trouble) options.on_trouble(error);
}

void PagerClient::State::finished(const std::string& result) {
  {
    MutexLock lock(mutex);
    end = result;
    uffds.clear();
  }
  // Tells the pager that its last word was heard.
  (void)::shutdown(link()->socket.get(), SHUT_RDWR);
  changed.notify_all();
  ring(ended.get());
}

void PagerClient::State::obey(PagerMessage& m) {
  switch (m.word) {
    case PagerWord::kAnswer: {
      MutexLock lock(mutex);
      answer = m.number == 0 ? std::string() : m.text;
      changed.notify_all();
      return;
    }
    case PagerWord::kTask: {
      MutexLock lock(mutex);
      if (m.fds.size() == 1) uffds[m.number] = std::move(m.fds[0]);
      return;
    }
    case PagerWord::kTaskDone: {
      {
        MutexLock lock(mutex);
        uffds.erase(m.number);
      }
      PagerMessage released;
      released.word = PagerWord::kReleased;
      released.number = m.number;
      if (auto r = link()->send(released); !r) TS_LOG_DEBUG("pager released={}", r.error().message());
      return;
    }
    case PagerWord::kRequest:
      if (options.on_request) options.on_request(m.space, m.number);
      return;
    case PagerWord::kTrouble: return lost(Error(Errc::kCorrupt, "memory cannot be filled: " + m.text));
    case PagerWord::kFinished: return finished(m.text);
    default: return;
  }
}

// Until a pager has said its last word, or has died for good, or this client ends.
void PagerClient::State::read_all() {
  while (!stop.cancelled()) {
    auto m = link()->receive(Deadline::in(milliseconds(60'000)), stop);
    if (m) {
      obey(*m);
      if (m->word == PagerWord::kFinished) return;
      continue;
    }
    auto code = m.error().code();
    if (code == Errc::kTimeout || m.error().sys_errno() == EAGAIN) continue;
    if (code == Errc::kCancelled) return;
    if (!replace(m.error())) return;
  }
}

// The pager has died. True: another one goes on.
bool PagerClient::State::replace(const Error& how) {
  hear_the_rest();
  auto pid = link()->pid;
  {
    MutexLock lock(mutex);
    if (end) return false;
  }
  // Killed when everything was filled and only its last word was missing.
  if (PagerClient::fate(dir) == PagerFate::kFilled) {
    finished("filled");
    return false;
  }
  auto done = begin_succession() ? succeed() : fail(Errc::kUnavailable, "it is not wanted");
  {
    MutexLock lock(mutex);
    replacing = false;
  }
  changed.notify_all();
  if (done) {
    auto text = fmt::format("the pager {} was killed, the pager {} goes on in its place", pid, link()->pid);
    if (options.on_replaced)
      options.on_replaced(text);
    else
      TS_LOG_WARN("{}", text);
    return true;
  }
  lost(Error(Errc::kUnavailable, fmt::format("the pager {} has died ({}), and no other can go on: {}", pid,
                                             how.message(), done.error().message())));
  return false;
}

// What is on its way yet. Who closes a socket with something unread in it makes the other side hear of that first.
void PagerClient::State::hear_the_rest() {
  auto from = link();
  while (true) {
    auto m = receive_message(from->socket.get(), MSG_DONTWAIT);
    if (m) {
      obey(*m);
    } else if (m.error().sys_errno() != ECONNRESET) {
      return;
    }
  }
}

bool PagerClient::State::begin_succession() {
  MutexLock lock(mutex);
  replacing = !trouble && !aborted;
  return replacing;
}

Result<> PagerClient::State::succeed() {
  auto now = Clock::now();
  while (!successions.empty() && now - successions.front() > kSuccessorsCount) successions.pop_front();
  if (successions.size() == kMostSuccessors)
    return fail(Errc::kUnavailable, "{} were killed within {} s", kMostSuccessors + 1, kSuccessorsCount.count() / 1000);
  successions.push_back(now);
  std::map<uint64_t, Fd> lent;
  {
    MutexLock lock(mutex);
    for (const auto& [index, uffd] : uffds) lent.emplace(index, ::fcntl(uffd.get(), F_DUPFD_CLOEXEC, 0));
  }
  TS_TRY_ASSIGN(auto next, succeed_pager({options.program, options.log_file}, dir, *store, *link(), lent,
                                         Deadline::in(kSuccessionLimit)));
  {
    MutexLock lock(mutex);
    current = std::make_shared<const PagerLink>(std::move(next));
    answer.reset();
    std::erase_if(uffds, [&](const auto& task) { return !lent.contains(task.first); });
  }
  // Pages may have come that nobody was told of.
  link()->ring();
  return {};
}

Result<std::unique_ptr<PagerClient>> PagerClient::spawn(PageStore& store, const std::string& dir, Options options,
                                                        Deadline deadline) {
  TS_TRY_ASSIGN(auto stop, Cancel::create());
  auto state = std::make_unique<State>(dir, std::move(options), std::move(stop));
  state->store = &store;
  TS_TRY_ASSIGN(auto link, start_pager({state->options.program, state->options.log_file}, dir, store, deadline));
  TS_TRY(state->begin(std::move(link)));
  return std::unique_ptr<PagerClient>(new PagerClient(std::move(state)));
}

Result<std::unique_ptr<PagerClient>> PagerClient::reconnect(const std::string& dir, Options options,
                                                            Deadline deadline) {
  TS_TRY_ASSIGN(auto stop, Cancel::create());
  auto state = std::make_unique<State>(dir, std::move(options), std::move(stop));
  TS_TRY_ASSIGN(auto link, meet_pager(dir, deadline));
  if (link.store.empty()) return fail(Errc::kNotFound, "the pager {} has no pages", link.pid);
  TS_TRY_ASSIGN(auto store, PageStore::attach(std::move(link.store[0]), std::move(link.store[1])));
  state->own_store.emplace(std::move(store));
  state->store = &*state->own_store;
  TS_TRY(state->begin(std::move(link)));
  return std::unique_ptr<PagerClient>(new PagerClient(std::move(state)));
}

PagerFate PagerClient::fate(const std::string& dir) {
  bool runs = pager_runs(dir);
  auto result = sys::read_file(dir + "/" + kPagerResult, 8192);
  if (!result) return runs ? PagerFate::kRunning : PagerFate::kLost;
  return *result == "filled" ? PagerFate::kFilled : PagerFate::kFailed;
}

PageStore& PagerClient::store() { return *state_->store; }
pid_t PagerClient::pid() const { return state_->link()->pid; }

Result<> PagerClient::expect(SpaceId space, std::span<const PageRange> ranges, Deadline deadline) {
  do {
    auto n = std::min(ranges.size(), kMaxPagerRanges);
    PagerMessage m;
    m.word = PagerWord::kExpect;
    m.space = space;
    m.ranges.assign(ranges.begin(), ranges.begin() + static_cast<ptrdiff_t>(n));
    ranges = ranges.subspan(n);
    m.number = ranges.empty() ? 0 : 1;
    if (m.number == 1) {
      TS_TRY(state_->link()->send(m));
    } else {
      TS_TRY(state_->ask(m, deadline));
    }
  } while (!ranges.empty());
  return {};
}

void PagerClient::arrived() { state_->link()->ring(); }

Result<> PagerClient::seal(Deadline deadline) {
  PagerMessage m;
  m.word = PagerWord::kSeal;
  auto sealed = state_->ask(m, deadline);
  if (!sealed && sealed.error().code() == Errc::kRefused)
    return std::unexpected(Error(Errc::kCorrupt, sealed.error().message()));
  return sealed;
}

PagerProgress PagerClient::progress() const {
  const auto& c = state_->store->counters();
  return {.expected_pages = c.expected_pages,
          .done_pages = c.done_pages,
          .faults = c.faults,
          .zero_faults = c.zero_faults,
          .requests = c.requests,
          .tasks = c.tasks,
          .tasks_gone = c.tasks_gone,
          .cpu = std::chrono::microseconds(c.cpu_us),
          .wait_p50 = c.waits.quantile(0.5),
          .wait_p99 = c.waits.quantile(0.99),
          .wait_max = c.waits.quantile(1)};
}

bool PagerClient::State::has_ended() {
  MutexLock lock(mutex);
  return end.has_value();
}

Result<> PagerClient::State::end_result() {
  MutexLock lock(mutex);
  if (trouble) return std::unexpected(*trouble);
  if (end && *end != "filled") return fail(Errc::kUnavailable, "the pager {} ended: {}", current->pid, *end);
  return {};
}

Result<> PagerClient::wait_replaceable(Deadline deadline, const Cancel& cancel) {
  while (true) {
    TS_TRY(state_->end_result());
    if (state_->has_ended()) return {};
    switch (fill_record_state(state_->link()->record.get())) {
      case RecordState::kThere: return {};
      // No other could go on, and it does. One that is dead is heard of in a moment.
      case RecordState::kNoMore:
        if (pager_runs(state_->dir)) return {};
        break;
      case RecordState::kNone: break;
    }
    if (deadline.passed()) return fail(Errc::kTimeout, "the pager {} has not heard from CRIU in time", pid());
    TS_TRY(sleep_for(kLookAgain, cancel));
  }
}

Result<> PagerClient::wait_done(Deadline deadline, const Cancel& cancel) {
  TS_TRY(wait_readable(state_->ended.get(), cancel, deadline, "the pager to fill all memory"));
  return state_->end_result();
}

Result<> PagerClient::abort(Deadline deadline) { return state_->abort(deadline); }

Result<> PagerClient::State::abort(Deadline deadline) {
  Link to;
  {
    MutexLock lock(mutex);
    aborted = true;  // from now on none takes its place
    while (replacing) {
      if (changed.wait_until(mutex, deadline.at()) == std::cv_status::timeout && deadline.passed()) break;
    }
    to = current;
  }
  TS_TRY_ASSIGN(auto never, Cancel::create());
  auto process = sys::pidfd_open(to->pid);
  PagerMessage m;
  m.word = PagerWord::kAbort;
  // It may have ended by itself a moment ago.
  if (auto sent = to->send(m); !sent) TS_LOG_DEBUG("pager abort={}", sent.error().message());
  if (!process) return {};
  return wait_readable(process->get(), never, deadline, "the pager to end");
}

}  // namespace transship::memory
