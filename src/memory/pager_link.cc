#include "memory/pager_link.h"

#include <sys/socket.h>

#include <filesystem>
#include <set>

#include "memory/fill_record.h"
#include "sys/process.h"

namespace transship::memory {
namespace {

constexpr milliseconds kLongestSend{5000};
constexpr milliseconds kLookAgain{1};
constexpr const char* kProgram = "transship-pager";
// In one succession: it may be killed while it is told what to do.
constexpr int kTries = 3;

std::string find_program() {
  std::error_code error;
  auto beside = std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / kProgram;
  return ::access(beside.c_str(), X_OK) == 0 ? beside.string() : kProgram;
}

Fd lend(int fd) { return Fd(::fcntl(fd, F_DUPFD_CLOEXEC, 0)); }

// The pager speaks first: who it is, how it is woken, and which store it has.
Result<PagerLink> greet(Fd socket, Deadline deadline) {
  PagerLink link;
  link.socket = std::move(socket);
  timeval longest{.tv_sec = kLongestSend.count() / 1000, .tv_usec = 0};
  if (::setsockopt(link.socket.get(), SOL_SOCKET, SO_SNDTIMEO, &longest, sizeof longest) < 0)
    return fail_errno(errno, "limit the time to send to the pager");
  TS_TRY_ASSIGN(auto never, Cancel::create());
  TS_TRY_ASSIGN(auto ready, link.receive(deadline, never));
  if (ready.word != PagerWord::kReady || (ready.fds.size() != 2 && ready.fds.size() != 4))
    return fail(Errc::kPeerProtocol, "the pager does not say that it is ready");
  link.pid = static_cast<pid_t>(ready.number);
  link.doorbell = std::move(ready.fds[0]);
  link.record = std::move(ready.fds[1]);
  for (size_t i = 2; i < ready.fds.size(); ++i) link.store.push_back(std::move(ready.fds[i]));
  return link;
}

// For when nobody else reads.
Result<> ask(const PagerLink& link, const PagerMessage& question, Deadline deadline) {
  TS_TRY_ASSIGN(auto never, Cancel::create());
  TS_TRY(link.send(question));
  TS_TRY_ASSIGN(auto m, link.receive(deadline, never));
  if (m.word == PagerWord::kAnswer && m.number == 0) return {};
  return fail(Errc::kRefused, "the pager {} refuses: {}", link.pid, m.text);
}

Result<PagerLink> start(const PagerProgram& program, const std::string& dir, Deadline deadline) {
  int pair[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
    return fail_errno(errno, "make a pair of sockets for the pager");
  Fd ours(pair[0]);
  Fd theirs(pair[1]);
  Fd log;
  if (!program.log_file.empty()) {
    TS_TRY_ASSIGN(log, open_file(program.log_file, O_WRONLY | O_APPEND | O_CREAT, 0600));
  }
  auto path = program.path.empty() ? find_program() : program.path;
  TS_TRY_ASSIGN(auto child, sys::Child::spawn({.argv = {path, dir},
                                               .stderr_fd = log.get(),
                                               .extra_fd = theirs.get(),
                                               .extra_fd_as = 3,
                                               .new_group = false}));
  theirs.reset();
  // It goes on as nobody's child.
  TS_TRY_ASSIGN(int code, child.wait(deadline));
  if (code != 0) return fail(Errc::kUnavailable, "{} {} ended with code {} at once", path, dir, code);
  auto link = greet(std::move(ours), deadline);
  if (!link) return std::unexpected(std::move(link).error().context(fmt::format("start {} {}", path, dir)));
  return link;
}

Result<> wait_for_death(const std::string& dir, Deadline deadline) {
  TS_TRY_ASSIGN(auto never, Cancel::create());
  while (pager_runs(dir)) {
    if (deadline.passed()) return fail(Errc::kTimeout, "it has closed its socket and lives");
    TS_TRY(sleep_for(kLookAgain, never));
  }
  return {};
}

Result<> hand_over(const PagerLink& link, const PagerLink& dead, const std::map<uint64_t, Fd>& uffds,
                   Deadline deadline) {
  for (const auto& [index, uffd] : uffds) {
    PagerMessage task;
    task.word = PagerWord::kTask;
    task.number = index;
    task.fds.push_back(lend(uffd.get()));
    TS_TRY(link.send(task));
  }
  PagerMessage succeed;
  succeed.word = PagerWord::kSucceed;
  succeed.fds.push_back(lend(dead.record.get()));
  return ask(link, succeed, deadline);
}

}  // namespace

Result<> PagerLink::send(const PagerMessage& m) const { return send_packet(socket.get(), encode(m), m.fds, 0); }

Result<PagerMessage> PagerLink::receive(Deadline deadline, const Cancel& cancel) const {
  TS_TRY(wait_readable(socket.get(), cancel, deadline, "the pager"));
  return receive_message(socket.get(), MSG_DONTWAIT);
}

void PagerLink::ring() const {
  uint64_t one = 1;
  (void)!::write(doorbell.get(), &one, sizeof one);
}

bool pager_runs(const std::string& dir) {
  auto file = open_file(fmt::format("{}/{}", dir, kPagerLock), O_RDWR);
  struct flock lock{};
  lock.l_type = F_WRLCK;
  return file && ::fcntl(file->get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

Result<PagerLink> start_pager(const PagerProgram& program, const std::string& dir, const PageStore& store,
                              Deadline deadline) {
  TS_TRY_ASSIGN(auto link, start(program, dir, deadline));
  PagerMessage m;
  m.word = PagerWord::kStore;
  m.fds.push_back(lend(store.header_fd()));
  m.fds.push_back(lend(store.data_fd()));
  TS_TRY(ask(link, m, deadline));
  return link;
}

Result<PagerLink> meet_pager(const std::string& dir, Deadline deadline) {
  TS_TRY_ASSIGN(Fd at, open_file(dir, O_DIRECTORY | O_RDONLY));
  TS_TRY_ASSIGN(Fd socket, connect_in(at.get(), kPagerSocket, SOCK_SEQPACKET));
  return greet(std::move(socket), deadline);
}

Result<PagerLink> succeed_pager(const PagerProgram& program, const std::string& dir, const PageStore& store,
                                const PagerLink& dead, std::map<uint64_t, Fd>& uffds, Deadline deadline) {
  Error last(Errc::kUnavailable, "");
  for (int i = 0; i < kTries; ++i) {
    // Two of them would fill, and read events, against each other.
    TS_TRY(wait_for_death(dir, deadline));
    TS_TRY_ASSIGN(auto record, read_fill_record(dead.record.get()));
    std::set<uint64_t> there;
    for (const auto& [index, uffd] : uffds) there.insert(index);
    TS_TRY(check_descriptors(record, there));
    std::erase_if(uffds, [&](const auto& task) { return !record.tasks.contains(task.first); });
    auto link = start_pager(program, dir, store, deadline);
    auto done = link ? hand_over(*link, dead, uffds, deadline) : std::unexpected(link.error());
    if (done) return link;
    last = done.error();
    if (last.code() != Errc::kUnavailable) break;
    // It has died before it answered, and an answer comes before anything is read: what `dead` has left still counts.
  }
  return std::unexpected(std::move(last));
}

}  // namespace transship::memory
