#include "memory/pager_client.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <vector>

#include "base/log.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "memory/pager_protocol.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::memory {
namespace {

constexpr milliseconds kLongestSend{5000};
constexpr const char* kProgram = "transship-pager";

std::string find_program() {
  std::error_code error;
  auto beside = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / kProgram;
  return ::access(beside.c_str(), X_OK) == 0 ? beside.string() : kProgram;
}

Result<Fd> make_eventfd() {
  Fd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return fail_errno(errno, "make an eventfd");
  return fd;
}

void ring(int eventfd) {
  uint64_t one = 1;
  (void)!::write(eventfd, &one, sizeof one);
}

// It has its file locked as long as it lives.
bool pager_runs(int dir) {
  auto file = open_at(dir, kPagerLock, O_RDWR);
  struct flock lock{};
  lock.l_type = F_WRLCK;
  return file && ::fcntl(file->get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace

struct PagerClient::State {
  State(std::string d, Options o, Cancel c) : dir(std::move(d)), options(std::move(o)), stop(std::move(c)) {}

  Result<> send(const PagerMessage& message) const;
  Result<> ask(PagerMessage message, Deadline deadline);
  Result<PagerMessage> receive(Deadline deadline) const;
  void read_all();
  void obey(PagerMessage& message);
  void lost(Error error);
  void finished(const std::string& result);
  Result<> end_result();

  const std::string dir;
  const Options options;
  Cancel stop;  // of the reading thread
  Fd socket;
  Fd doorbell;
  Fd ended;  // readable when it is known how the pager ended
  pid_t pid = 0;
  PageStore* store = nullptr;
  std::optional<PageStore> own_store;

  Mutex asking;  // one question at a time
  Mutex mutex;
  CondVar answered;
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

Result<> PagerClient::State::send(const PagerMessage& m) const {
  return send_packet(socket.get(), encode(m), m.fds, 0);
}

Result<PagerMessage> PagerClient::State::receive(Deadline deadline) const {
  TS_TRY(wait_readable(socket.get(), stop, deadline, "the pager"));
  return receive_message(socket.get(), MSG_DONTWAIT);
}

Result<> PagerClient::State::ask(PagerMessage message, Deadline deadline) {
  MutexLock turn(asking);
  {
    MutexLock lock(mutex);
    answer.reset();
  }
  TS_TRY(send(message));
  MutexLock lock(mutex);
  while (!answer && !end && !trouble) {
    if (answered.wait_until(mutex, deadline.at()) == std::cv_status::timeout && deadline.passed())
      return fail(Errc::kTimeout, "the pager {} did not answer in time", pid);
  }
  if (!answer)
    return trouble ? Result<>(std::unexpected(*trouble)) : fail(Errc::kUnavailable, "the pager ended: {}", *end);
  if (!answer->empty()) return fail(Errc::kRefused, "the pager {} refuses: {}", pid, *answer);
  return {};
}

void PagerClient::State::lost(Error error) {
  {
    MutexLock lock(mutex);
    if (trouble) return;
    trouble = error;
  }
  answered.notify_all();
  ring(ended.get());
  TS_LOG_ERROR("pager pid={} trouble=\"{}\"", pid, error.message());
  if (options.on_trouble) options.on_trouble(error);
}

void PagerClient::State::finished(const std::string& result) {
  {
    MutexLock lock(mutex);
    end = result;
    uffds.clear();
  }
  // Tells the pager that its last word was heard.
  (void)::shutdown(socket.get(), SHUT_RDWR);
  answered.notify_all();
  ring(ended.get());
}

void PagerClient::State::obey(PagerMessage& m) {
  switch (m.word) {
    case PagerWord::kAnswer: {
      MutexLock lock(mutex);
      answer = m.number == 0 ? std::string() : m.text;
      answered.notify_all();
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
      if (auto r = send(released); !r) TS_LOG_WARN("pager pid={} released={}", pid, r.error().message());
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

// Until the pager has said its last word, has died, or this client ends.
void PagerClient::State::read_all() {
  while (!stop.cancelled()) {
    auto m = receive(Deadline::in(milliseconds(60'000)));
    if (m) {
      obey(*m);
      if (m->word == PagerWord::kFinished) return;
      continue;
    }
    auto code = m.error().code();
    if (code == Errc::kTimeout || m.error().sys_errno() == EAGAIN) continue;
    if (code == Errc::kCancelled) return;
    // Killed when everything was filled and only its last word was missing.
    if (PagerClient::fate(dir) == PagerFate::kFilled) return finished("filled");
    lost(Error(Errc::kUnavailable, fmt::format("the pager {} has died: {}", pid, m.error().message())));
    return;
  }
}

// The pager speaks first: who it is, how it is woken, and which store it has.
Result<std::unique_ptr<PagerClient>> PagerClient::greet(std::unique_ptr<State> state, Deadline deadline) {
  auto& s = *state;
  timeval longest{.tv_sec = kLongestSend.count() / 1000, .tv_usec = 0};
  if (::setsockopt(s.socket.get(), SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest) < 0)
    return fail_errno(errno, "limit the time to send to the pager");
  TS_TRY_ASSIGN(auto ready, s.receive(deadline));
  if (ready.word != PagerWord::kReady || (ready.fds.size() != 1 && ready.fds.size() != 3))
    return fail(Errc::kPeerProtocol, "the pager does not say that it is ready");
  s.pid = static_cast<pid_t>(ready.number);
  s.doorbell = std::move(ready.fds[0]);
  TS_TRY_ASSIGN(s.ended, make_eventfd());
  if (s.store == nullptr) {
    if (ready.fds.size() != 3) return fail(Errc::kNotFound, "the pager {} has no pages", s.pid);
    TS_TRY_ASSIGN(auto store, PageStore::attach(std::move(ready.fds[1]), std::move(ready.fds[2])));
    s.own_store.emplace(std::move(store));
    s.store = &*s.own_store;
  }
  std::unique_ptr<PagerClient> client(new PagerClient(std::move(state)));
  s.reader = Thread("pager-client", [&s] { s.read_all(); });
  return client;
}

Result<std::unique_ptr<PagerClient>> PagerClient::spawn(PageStore& store, const std::string& dir, Options options,
                                                        Deadline deadline) {
  int pair[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return fail_errno(errno, "make a pair of sockets for the pager");
  Fd theirs(pair[1]);
  TS_TRY_ASSIGN(auto stop, Cancel::create());
  auto state = std::make_unique<State>(dir, std::move(options), std::move(stop));
  state->socket = Fd(pair[0]);
  state->store = &store;
  Fd log;
  if (!state->options.log_file.empty()) {
    TS_TRY_ASSIGN(log, open_file(state->options.log_file, O_WRONLY | O_APPEND | O_CREAT, 0600));
  }
  auto program = state->options.program.empty() ? find_program() : state->options.program;
  TS_TRY_ASSIGN(auto child, sys::Child::spawn({.argv = {program, dir},
                                               .stderr_fd = log.get(),
                                               .extra_fd = theirs.get(),
                                               .extra_fd_as = 3,
                                               .new_group = false}));
  theirs.reset();
  // It goes on as nobody's child.
  TS_TRY_ASSIGN(int code, child.wait(deadline));
  if (code != 0) return fail(Errc::kUnavailable, "{} {} ended with code {} at once", program, dir, code);
  auto client = greet(std::move(state), deadline);
  if (!client) return std::unexpected(std::move(client).error().context(fmt::format("start {} {}", program, dir)));
  PagerMessage m;
  m.word = PagerWord::kStore;
  m.fds.emplace_back(::fcntl(store.header_fd(), F_DUPFD_CLOEXEC, 0));
  m.fds.emplace_back(::fcntl(store.data_fd(), F_DUPFD_CLOEXEC, 0));
  TS_TRY((*client)->state_->ask(std::move(m), deadline));
  return client;
}

Result<std::unique_ptr<PagerClient>> PagerClient::reconnect(const std::string& dir, Options options,
                                                            Deadline deadline) {
  TS_TRY_ASSIGN(auto stop, Cancel::create());
  auto state = std::make_unique<State>(dir, std::move(options), std::move(stop));
  TS_TRY_ASSIGN(Fd at, open_file(dir, O_DIRECTORY | O_RDONLY));
  TS_TRY_ASSIGN(state->socket, connect_in(at.get(), kPagerSocket, SOCK_SEQPACKET));
  return greet(std::move(state), deadline);
}

PagerFate PagerClient::fate(const std::string& dir) {
  auto at = open_file(dir, O_DIRECTORY | O_RDONLY);
  if (!at) return PagerFate::kLost;
  bool runs = pager_runs(at->get());
  auto result = sys::read_file(dir + "/" + kPagerResult, 8192);
  if (!result) return runs ? PagerFate::kRunning : PagerFate::kLost;
  return *result == "filled" ? PagerFate::kFilled : PagerFate::kFailed;
}

PageStore& PagerClient::store() { return *state_->store; }
pid_t PagerClient::pid() const { return state_->pid; }

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
      TS_TRY(state_->send(m));
    } else {
      TS_TRY(state_->ask(std::move(m), deadline));
    }
  } while (!ranges.empty());
  return {};
}

void PagerClient::arrived() { ring(state_->doorbell.get()); }

Result<> PagerClient::seal(Deadline deadline) {
  PagerMessage m;
  m.word = PagerWord::kSeal;
  auto sealed = state_->ask(std::move(m), deadline);
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

Result<> PagerClient::State::end_result() {
  MutexLock lock(mutex);
  if (trouble) return std::unexpected(*trouble);
  if (end && *end != "filled") return fail(Errc::kUnavailable, "the pager {} ended: {}", pid, *end);
  return {};
}

Result<> PagerClient::wait_done(Deadline deadline, const Cancel& cancel) {
  TS_TRY(wait_readable(state_->ended.get(), cancel, deadline, "the pager to fill all memory"));
  return state_->end_result();
}

Result<> PagerClient::abort(Deadline deadline) {
  TS_TRY_ASSIGN(auto never, Cancel::create());
  auto process = sys::pidfd_open(state_->pid);
  PagerMessage m;
  m.word = PagerWord::kAbort;
  // It may have ended by itself a moment ago.
  if (auto sent = state_->send(m); !sent) TS_LOG_DEBUG("pager abort={}", sent.error().message());
  if (!process) return {};
  return wait_readable(process->get(), never, deadline, "the pager to end");
}

}  // namespace transship::memory
