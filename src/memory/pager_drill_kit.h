// What the scenarios of pager_drill.cc are made of: content that can be checked, a process in the part of a restored
// one, and a daemon that feeds it.
#pragma once
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "base/log.h"
#include "base/mutex.h"
#include "base/text.h"
#include "base/thread.h"
#include "memory/pager_client.h"
#include "memory/pager_protocol.h"
#include "sys/file.h"
#include "sys/process.h"

namespace transship::memory {

using namespace std::chrono_literals;

inline constexpr uint64_t kBase = 0x600000000000;
inline constexpr uint64_t kElsewhere = 0x610000000000;  // where memory is moved to
inline constexpr uint64_t kFresh = 0x620000000000;      // registered, nothing is expected there
inline constexpr uint64_t kMib = 1U << 20;
inline constexpr SpaceId kSpace{SpaceKind::kTask, 41};
inline constexpr int kOverall = 120;  // seconds; then everything of the drill ends itself

[[noreturn]] inline void die(const std::string& what) {
  fmt::print(stderr, "pager_drill {}: {} ({})\n", ::getpid(), what, errno_text(errno));
  ::_exit(1);
}
inline void need(bool ok, const std::string& what) {
  if (!ok) die(what);
}
template <class T>
T need(Result<T> r, const char* what) {
  if (!r) die(fmt::format("{}: {}", what, r.error().message()));
  if constexpr (!std::is_void_v<T>) return std::move(*r);
}
inline Deadline soon() { return Deadline::in(30s); }
inline double seconds_since(Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); }

// ---- Content: every word tells where it belongs; some pages are zero.

inline bool is_zero_page(uint64_t address) { return address / kPageBytes % 7 == 3; }
inline uint64_t word_at(uint64_t address) { return is_zero_page(address) ? 0 : address * 0x9e3779b97f4a7c15 + 1; }

// `image`: where the page's content comes from; nullopt: all zero.
inline bool right(uint64_t address, std::optional<uint64_t> image) {
  const auto* words = reinterpret_cast<const volatile uint64_t*>(address);
  for (uint64_t i = 0; i < kPageBytes / 8; ++i) {
    auto want = image ? word_at(*image / kPageBytes * kPageBytes) + (is_zero_page(*image) ? 0 : i) : 0;
    if (words[i] != want) {
      fmt::print(stderr, "wrong byte: {:#x} word {} is {:#x}, not {:#x}\n", address, i, words[i], want);
      return false;
    }
  }
  return true;
}
inline bool all_right(uint64_t address, uint64_t bytes, std::optional<uint64_t> image) {
  for (uint64_t at = 0; at < bytes; at += kPageBytes) {
    if (!right(address + at, image ? std::optional(*image + at) : std::nullopt)) return false;
  }
  return true;
}

inline void put_range(PageStore& store, uint64_t from, uint64_t bytes) {
  std::vector<std::byte> content;
  PageBatch batch{.space = kSpace, .segments = {}, .content = {}};
  auto flush = [&] {
    batch.content = content;
    need(store.put(batch), "put");
    batch.segments.clear();
    content.clear();
  };
  for (uint64_t a = from; a < from + bytes; a += kPageBytes) {
    batch.segments.push_back({.range = {a, 1}, .zero = is_zero_page(a)});
    if (!is_zero_page(a)) {
      auto at = content.size();
      content.resize(at + kPageBytes);
      auto* words = reinterpret_cast<uint64_t*>(content.data() + at);
      for (uint64_t i = 0; i < kPageBytes / 8; ++i) words[i] = word_at(a) + i;
    }
    if (batch.segments.size() == kBatchPages) flush();
  }
  if (!batch.segments.empty()) flush();
}

// ---- The restored process. Lines go both ways through pipes, so that steps are in a known order.

struct Line {
  Pipe to, from;
};
inline void say(int fd, char c) { need(write_all(fd, std::string_view(&c, 1)), "say"); }
inline void hear(int fd, char want) {
  char c = 0;
  pollfd p{.fd = fd, .events = POLLIN, .revents = 0};
  need(::poll(&p, 1, 60'000) == 1 && ::read(fd, &c, 1) == 1 && c == want, fmt::format("no step '{}'", want));
}

struct Process {
  pid_t pid = 0;
  Line line;
  // Exit code 0 means: all bytes were right.
  void finish() const {
    int status = 0;
    need(::waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0,
         fmt::format("the restored process failed, status {:#x}", status));
  }
  void kill() const {
    ::kill(pid, SIGKILL);
    need(::waitpid(pid, nullptr, 0) == pid, "reap");
  }
};

struct Restored {
  std::string dir;
  uint64_t bytes;
  Line line;
  int uffd = -1;
  int socket = -1;

  void map() const {
    for (auto address : {kBase, kFresh}) {
      void* p = ::mmap(reinterpret_cast<void*>(address), bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
      need(p == reinterpret_cast<void*>(address), "map");
    }
  }
  void open_uffd() {
    uffd = static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
    need(uffd >= 0, "userfaultfd");
    uffdio_api api{};
    api.api = UFFD_API;
    api.features =
        UFFD_FEATURE_EVENT_FORK | UFFD_FEATURE_EVENT_REMAP | UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_EVENT_UNMAP;
    need(::ioctl(uffd, UFFDIO_API, &api) == 0, "UFFDIO_API");
  }
  void connect() {
    auto at = need(open_file(dir, O_DIRECTORY | O_RDONLY), "open the directory");
    socket = need(connect_in(at.get(), kLazyPagesSocket, SOCK_STREAM), "connect").release();
  }
  void send_number(int32_t number) const {
    need(::send(socket, &number, sizeof number, MSG_NOSIGNAL) == sizeof number, "send a number");
  }
  void send_uffd() {
    std::vector<Fd> fds;
    fds.emplace_back(::dup(uffd));
    need(send_packet(socket, std::string_view("\0", 1), fds, 0), "send the userfaultfd");
  }
  void register_range(uint64_t address, uint64_t length) const {
    uffdio_register r{};
    r.range = {.start = address, .len = length};
    r.mode = UFFDIO_REGISTER_MODE_MISSING;
    need(::ioctl(uffd, UFFDIO_REGISTER, &r) == 0, "register");
  }
  // As CRIU does it: descriptor first, registered later, then the word.
  void restore() {
    restore_but_the_word();
    finish_restore();
  }
  void restore_but_the_word() {
    map();
    open_uffd();
    connect();
    send_number(-17);  // a zombie
    send_number(static_cast<int32_t>(kSpace.id));
    send_uffd();
    // Another mapping in the middle, so that no single call can cross it.
    need(::mprotect(reinterpret_cast<void*>(kBase + bytes / 2), kMib, PROT_READ) == 0, "mprotect");
    ::usleep(20'000);
    register_range(kBase, bytes / 2);
    register_range(kFresh, bytes);
    ::usleep(5'000);
    register_range(kBase + bytes / 2, bytes / 2);
    ::close(uffd);
  }
  void finish_restore() {
    send_number(0x52535446);
    ::close(socket);
    say(line.from.write.get(), 'R');
  }
};

inline Process restored(const std::string& dir, uint64_t bytes, const std::function<void(Restored&)>& body) {
  Process p;
  p.line = {.to = need(make_pipe(), "pipe"), .from = need(make_pipe(), "pipe")};
  (void)std::fflush(nullptr);
  p.pid = ::fork();
  need(p.pid >= 0, "fork");
  if (p.pid > 0) return p;
  ::alarm(kOverall);
  ::prctl(PR_SET_PDEATHSIG, 0);
  Restored r{.dir = dir, .bytes = bytes, .line = std::move(p.line)};
  body(r);
  ::_exit(0);
}

// ---- The daemon.

struct Daemon {
  std::string dir;
  uint64_t bytes = 0;
  std::optional<PageStore> store;
  std::unique_ptr<PagerClient> client;
  Mutex mutex;
  CondVar changed;
  std::vector<uint64_t> requests GUARDED_BY(mutex);
  int replaced GUARDED_BY(mutex) = 0;
  std::optional<Error> trouble GUARDED_BY(mutex);

  PagerClient::Options options() {
    return {.program = {},
            .log_file = dir + "/pager.log",
            .on_request =
                [this](SpaceId space, uint64_t address) {
                  need(space == kSpace, "a request of another process");
                  MutexLock lock(mutex);
                  requests.push_back(address);
                  changed.notify_all();
                },
            .on_replaced =
                [this](const std::string&) {
                  MutexLock lock(mutex);
                  ++replaced;
                  changed.notify_all();
                },
            .on_trouble =
                [this](const Error& error) {
                  MutexLock lock(mutex);
                  trouble = error;
                  changed.notify_all();
                }};
  }
  void start() {
    store.emplace(need(PageStore::create(bytes + kMib), "store"));
    client = need(PagerClient::spawn(*store, dir, options(), soon()), "spawn");
    PageRange all{kBase, bytes / kPageBytes};
    need(client->expect(kSpace, {&all, 1}, soon()), "expect");
  }
  void put_all() { put_range(*store, kBase, bytes); }
  void wait_done(const char* why) {
    auto cancel = need(Cancel::create(), "cancel");
    need(client->wait_done(soon(), cancel), why);
    auto p = client->progress();
    need(p.done_pages == p.expected_pages && p.expected_pages == bytes / kPageBytes,
         fmt::format("done {} of {} pages", p.done_pages, p.expected_pages));
    // One that is killed may have given a page away and not said so: a slice at most.
    uint64_t slices = 0;
    {
      MutexLock lock(mutex);
      slices = static_cast<uint64_t>(replaced) * (512U << 10);
    }
    need(client->store().bytes_held() <= slices, "pages are left in the store");
    need(PagerClient::fate(dir) == PagerFate::kFilled, "it does not say that it has filled");
  }
  void kill_pager() const { need(::kill(client->pid(), SIGKILL) == 0, "kill the pager"); }
  // False: there is trouble instead.
  bool wait_replaced(int times) {
    MutexLock lock(mutex);
    auto deadline = soon();
    while (replaced < times && !trouble)
      need(changed.wait_until(mutex, deadline.at()) != std::cv_status::timeout, "no other pager goes on");
    return replaced >= times;
  }
  std::string wait_trouble() {
    MutexLock lock(mutex);
    auto deadline = soon();
    while (!trouble) need(changed.wait_until(mutex, deadline.at()) != std::cv_status::timeout, "no trouble reported");
    return trouble->message();
  }
  std::vector<uint64_t> wait_requests() {
    MutexLock lock(mutex);
    auto deadline = soon();
    while (requests.empty())
      need(changed.wait_until(mutex, deadline.at()) != std::cv_status::timeout, "no request came");
    return std::exchange(requests, {});
  }
};

inline std::string progress_json(const PagerProgress& p) {
  return fmt::format(R"("faults":{},"zero_faults":{},"requests":{},"tasks":{},"wait_p50_us":{},"wait_p99_us":{},)"
                     R"("wait_max_us":{})",
                     p.faults, p.zero_faults, p.requests, p.tasks, p.wait_p50.count(), p.wait_p99.count(),
                     p.wait_max.count());
}

// Of pager_drill_killed.cc.
std::map<std::string, std::function<void(Daemon&)>> scenarios_with_killed_pagers();

inline void check_everything(const Restored& r) {
  need(all_right(kBase, r.bytes, kBase), "memory differs");
  need(all_right(kFresh, kMib, std::nullopt), "fresh memory is not zero");
}

}  // namespace transship::memory
