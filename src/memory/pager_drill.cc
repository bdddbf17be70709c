// For the integration tests: a pager, a daemon that feeds it, and a process in the part of one that CRIU restores.
// Prints one JSON line with what was measured; the exit code is 0 when every byte was right.
//
//   pager_drill serve DIR LIST
//     For a real CRIU: lines of LIST are `PID ADDRESS PAGES FILE OFFSET`, lazy pages and where their content is. Says
//     "ready" when CRIU may connect in DIR.
//   pager_drill fill|latency|churn|late-churn|post-copy|daemon-killed|reconnect|refused|aborted|half [MIB]
//   pager_drill pager-killed...        see pager_drill_killed.cc
#include "memory/pager_drill_kit.h"

namespace transship::memory {
namespace {

// Filled while it sleeps (frozen), then everything is compared.
void fill(Daemon& d) {
  d.start();
  auto begin = Clock::now();
  d.put_all();
  auto put = seconds_since(begin);
  need(d.client->seal(soon()), "seal");
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    hear(r.line.to.read.get(), 'C');
    check_everything(r);
  });
  hear(p.line.from.read.get(), 'R');
  begin = Clock::now();
  d.wait_done("fill");
  auto took = seconds_since(begin);
  say(p.line.to.write.get(), 'C');
  p.finish();
  auto gib = static_cast<double>(d.bytes) / (1U << 30);
  auto progress = d.client->progress();
  fmt::print("{{\"put_gib_s\":{:.2f},\"fill_gib_s\":{:.2f},\"fill_gib_per_cpu_s\":{:.2f},{}}}\n", gib / put, gib / took,
             gib / (static_cast<double>(progress.cpu.count()) / 1e6), progress_json(progress));
}

std::vector<uint64_t> some_pages(uint64_t bytes, size_t n, unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<uint64_t> pages(n);
  for (auto& a : pages) a = kBase + random() % (bytes / kPageBytes) * kPageBytes;
  return pages;
}

// How long a thread waits for a page while everything else is being filled.
void latency(Daemon& d) {
  d.start();
  d.put_all();
  need(d.client->seal(soon()), "seal");
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    std::vector<double> us;
    for (auto a : some_pages(r.bytes, 4000, 1)) {
      auto t = Clock::now();
      (void)*reinterpret_cast<const volatile uint64_t*>(a);
      auto took = seconds_since(t) * 1e6;
      if (took > 3) us.push_back(took);
    }
    std::ranges::sort(us);
    need(!us.empty(), "nothing faulted");
    fmt::print("{{\"seen_faults\":{},\"seen_p50_us\":{:.0f},\"seen_p99_us\":{:.0f},\"seen_max_us\":{:.0f}}}\n",
               us.size(), us[us.size() / 2], us[us.size() * 99 / 100], us.back());
    (void)std::fflush(stdout);
    check_everything(r);
  });
  hear(p.line.from.read.get(), 'R');
  d.wait_done("fill");
  p.finish();
  fmt::print("{{{}}}\n", progress_json(d.client->progress()));
}

pid_t forked(const std::function<bool()>& check) {
  auto pid = ::fork();
  need(pid >= 0, "fork");
  if (pid == 0) ::_exit(check() ? 0 : 1);
  return pid;
}
void reap(pid_t pid) {
  int status = 0;
  need(::waitpid(pid, &status, 0) == pid && status == 0, fmt::format("a forked child saw wrong bytes: {:#x}", status));
}

// The process changes its mappings while they are filled, with threads that read all the time.
void churning(Restored& r) {
  constexpr uint64_t kPart = 8 * kMib;
  auto part = [&](uint64_t i) { return kBase + r.bytes - (i + 1) * kPart; };
  auto quiet = r.bytes - 8 * kPart;  // nothing happens to these, below the parts
  r.restore();
  std::atomic<bool> wrong = false;
  std::vector<Thread> readers;
  for (unsigned t = 0; t < 2; ++t) {
    readers.emplace_back("reader", [&wrong, t, quiet] {
      for (auto a : some_pages(quiet, 3000, 10 + t)) wrong = wrong || !right(a, a);
    });
  }
  // What happens to a part happens before anybody has read it.
  auto at = [](uint64_t a) { return reinterpret_cast<void*>(a); };
  need(::mremap(at(part(0)), kPart, kPart, MREMAP_MAYMOVE | MREMAP_FIXED, at(kElsewhere)) == at(kElsewhere), "mremap");
  need(::munmap(at(part(1)), kPart) == 0, "munmap");
  need(::madvise(at(part(2)), kPart, MADV_DONTNEED) == 0, "MADV_DONTNEED");
  need(
      ::mmap(at(part(3)), kPart, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == at(part(3)),
      "map over");
  need(::madvise(at(part(4)), kPart, MADV_DONTFORK) == 0, "MADV_DONTFORK");
  auto all = [&, quiet] {
    return all_right(kElsewhere, kPart, part(0)) && all_right(part(2), kPart, std::nullopt) &&
           all_right(part(3), kPart, std::nullopt) && all_right(part(5), kPart, part(5)) &&
           all_right(kBase, quiet, kBase);
  };
  auto child = forked([&] {
    // Its own changes are its own.
    auto grandchild = forked(all);
    need(::madvise(at(part(5)), kPart, MADV_DONTNEED) == 0, "MADV_DONTNEED");
    need(::mremap(at(kElsewhere), kPart, kPart, MREMAP_MAYMOVE | MREMAP_FIXED, at(kElsewhere + kPart)) != MAP_FAILED,
         "mremap again");
    say(r.line.from.write.get(), 'F');
    reap(grandchild);
    return all_right(kElsewhere + kPart, kPart, part(0)) && all_right(part(5), kPart, std::nullopt) &&
           all_right(kBase, quiet, kBase);
  });
  // One that ends without having read anything.
  reap(forked([] { return true; }));
  readers.clear();
  need(!wrong, "a reader saw wrong bytes");
  reap(child);
  need(all() && all_right(part(4), kPart, part(4)), "memory differs");
}

void churn(Daemon& d, bool late) {
  d.start();
  if (!late) {
    d.put_all();
    need(d.client->seal(soon()), "seal");
  }
  auto p = restored(d.dir, d.bytes, churning);
  hear(p.line.from.read.get(), 'R');
  hear(p.line.from.read.get(), 'F');
  if (late) {
    // From the end, so that whoever reads in order waits for long.
    for (auto a = kBase + d.bytes; a > kBase; a -= kMib) {
      put_range(*d.store, a - kMib, kMib);
      d.client->arrived();
    }
    need(d.client->seal(soon()), "seal");
  }
  p.finish();
  auto cancel = need(Cancel::create(), "cancel");
  need(d.client->wait_done(soon(), cancel), "churn");
  need(d.store->bytes_held() == 0, "pages are left in the store");
  fmt::print("{{{}}}\n", progress_json(d.client->progress()));
}

// Nothing is there at first: what is asked for comes at once, the rest later.
void post_copy(Daemon& d) {
  d.start();
  need(!d.client->seal(soon()), "sealed without pages");
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    for (auto a : some_pages(r.bytes, 300, 3)) need(right(a, a), "memory differs");
    say(r.line.from.write.get(), 'S');
    check_everything(r);
  });
  hear(p.line.from.read.get(), 'R');
  size_t served = 0;
  pollfd sampled{.fd = p.line.from.read.get(), .events = POLLIN, .revents = 0};
  while (::poll(&sampled, 1, 0) == 0) {
    std::vector<uint64_t> wanted;
    {
      MutexLock lock(d.mutex);
      if (d.requests.empty()) (void)d.changed.wait_for(d.mutex, 10ms);
      wanted = std::exchange(d.requests, {});
    }
    for (auto a : wanted) put_range(*d.store, a, kPageBytes);
    served += wanted.size();
    if (!wanted.empty()) d.client->arrived();
  }
  hear(p.line.from.read.get(), 'S');
  need(served > 200, "pages came without being asked for");
  d.put_all();
  need(d.client->seal(soon()), "seal");
  d.wait_done("post-copy");
  p.finish();
  fmt::print("{{\"served\":{},{}}}\n", served, progress_json(d.client->progress()));
}

// In a process of its own, to be killed. Says 'K' when it may be.
pid_t daemon_process(Daemon& d, int to, const std::function<void()>& feed) {
  auto pid = ::fork();
  need(pid >= 0, "fork");
  if (pid > 0) return pid;
  ::alarm(kOverall);
  d.start();
  say(to, 'D');
  feed();
  say(to, 'K');
  ::pause();
  ::_exit(1);
}
void kill_daemon(pid_t pid) {
  ::kill(pid, SIGKILL);
  need(::waitpid(pid, nullptr, 0) == pid, "reap the daemon");
}

void wait_for_end(const std::string& dir, PagerFate want) {
  auto cancel = need(Cancel::create(), "cancel");
  auto deadline = soon();
  while (PagerClient::fate(dir) == PagerFate::kRunning) {
    need(!deadline.passed(), "the pager does not end");
    need(sleep_for(5ms, cancel), "sleep");
  }
  need(PagerClient::fate(dir) == want, "the pager ended in another way");
}

void daemon_killed(Daemon& d) {
  auto pipe = need(make_pipe(), "pipe");
  auto daemon = daemon_process(d, pipe.write.get(), [&] {
    d.put_all();
    need(d.client->seal(soon()), "seal");
  });
  hear(pipe.read.get(), 'D');
  hear(pipe.read.get(), 'K');
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    // Backwards: nearly every page is asked for before its turn.
    for (auto a = kBase + r.bytes; a > kBase; a -= kPageBytes)
      need(right(a - kPageBytes, a - kPageBytes), "memory differs");
    check_everything(r);
  });
  hear(p.line.from.read.get(), 'R');
  ::usleep(10'000);
  need(PagerClient::fate(d.dir) == PagerFate::kRunning, "it has filled everything already: more memory is needed");
  kill_daemon(daemon);
  p.finish();
  wait_for_end(d.dir, PagerFate::kFilled);
  fmt::print("{{\"ok\":true}}\n");
}

// Half of the pages are there when the daemon is killed; a new one brings the other half.
void reconnect(Daemon& d) {
  auto pipe = need(make_pipe(), "pipe");
  auto daemon = daemon_process(d, pipe.write.get(), [&] { put_range(*d.store, kBase, d.bytes / 2); });
  hear(pipe.read.get(), 'D');
  hear(pipe.read.get(), 'K');
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    auto late = kBase + r.bytes - kPageBytes;
    need(right(late, late), "memory differs");
    check_everything(r);
  });
  hear(p.line.from.read.get(), 'R');
  ::usleep(50'000);
  kill_daemon(daemon);
  ::usleep(50'000);
  d.client = need(PagerClient::reconnect(d.dir, d.options(), soon()), "reconnect");
  auto requests = d.wait_requests();
  need(requests.size() == 1 && requests[0] == kBase + d.bytes - kPageBytes, "another page is waited for");
  need(!d.client->seal(soon()), "sealed though pages are missing");
  put_range(d.client->store(), kBase + d.bytes / 2, d.bytes / 2);
  d.client->arrived();
  need(d.client->seal(soon()), "seal");
  d.wait_done("after the reconnection");
  p.finish();
  fmt::print("{{{}}}\n", progress_json(d.client->progress()));
}

// A process that nobody announced must not be answered with zeros.
void refused(Daemon& d) {
  d.start();
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.map();
    r.open_uffd();
    r.connect();
    r.send_number(4711);
    char c = 0;
    need(::recv(r.socket, &c, 1, 0) == 0, "the connection goes on");
  });
  auto trouble = d.wait_trouble();
  p.finish();
  wait_for_end(d.dir, PagerFate::kFailed);
  fmt::print("{{\"trouble\":\"{}\"}}\n", trouble);
}

void aborted(Daemon& d) {
  d.start();
  d.put_all();
  need(d.client->abort(soon()), "abort");
  need(PagerClient::fate(d.dir) == PagerFate::kFailed, "an aborted pager has not failed");
  fmt::print("{{\"ok\":true}}\n");
}

// CRIU is killed half way, and its half restored process with it.
void half(Daemon& d) {
  d.start();
  d.put_all();
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.map();
    r.open_uffd();
    r.connect();
    r.send_number(static_cast<int32_t>(kSpace.id));
    r.send_uffd();
    r.register_range(kBase, kMib);
    say(r.line.from.write.get(), 'H');
    ::pause();
  });
  hear(p.line.from.read.get(), 'H');
  p.kill();
  auto trouble = d.wait_trouble();
  wait_for_end(d.dir, PagerFate::kFailed);
  fmt::print("{{\"trouble\":\"{}\"}}\n", trouble);
}

void put_file(PageStore& store, SpaceId space, PageRange range, const std::string& path, uint64_t offset) {
  Fd file = need(open_file(path, O_RDONLY), "open a pages file");
  std::vector<std::byte> content;
  for (uint64_t done = 0; done < range.pages;) {
    auto n = std::min<uint64_t>(kBatchPages, range.pages - done);
    content.resize(n * kPageBytes);
    need(::pread(file.get(), content.data(), content.size(), static_cast<off_t>(offset + done * kPageBytes)) ==
             static_cast<ssize_t>(content.size()),
         "read pages");
    PageRange part{range.address + done * kPageBytes, n};
    need(store.put({.space = space, .segments = {{.range = part, .zero = false}}, .content = content}), "put");
    done += n;
  }
}

int serve(const std::string& dir, const std::string& list) {
  Daemon d;
  d.dir = dir;
  d.bytes = 1U << 30;
  d.store.emplace(need(PageStore::create(d.bytes), "store"));
  d.client = need(PagerClient::spawn(*d.store, dir, d.options(), soon()), "spawn");
  std::map<uint64_t, std::vector<PageRange>> expected;
  for (const auto& line : split(need(sys::read_file(list), "read the list"), '\n')) {
    auto words = split(trim(line), ' ');
    if (words.size() != 5) continue;
    auto number = [&](size_t i) { return need(parse_u64(words[i], "a number"), "list"); };
    PageRange range{number(1), number(2)};
    auto& ranges = expected[number(0)];
    if (range.pages == 0) continue;
    ranges.push_back(range);
    put_file(*d.store, {SpaceKind::kTask, number(0)}, range, words[3], number(4));
  }
  for (const auto& [pid, ranges] : expected) need(d.client->expect({SpaceKind::kTask, pid}, ranges, soon()), "expect");
  need(d.client->seal(soon()), "seal");
  fmt::print("ready\n");
  (void)std::fflush(stdout);
  auto cancel = need(Cancel::create(), "cancel");
  need(d.client->wait_done(soon(), cancel), "fill");
  auto p = d.client->progress();
  fmt::print("{{\"done_pages\":{},\"expected_pages\":{},{}}}\n", p.done_pages, p.expected_pages, progress_json(p));
  return 0;
}

int run(const std::string& scenario, uint64_t mib) {
  std::string dir = "/tmp/ts-pager-XXXXXX";
  need(::mkdtemp(dir.data()) != nullptr, "mkdtemp");
  int result = 0;
  {
    Daemon d;
    d.dir = dir;
    d.bytes = mib * kMib;
    const std::map<std::string, std::function<void()>> scenarios = {
        {"fill", [&] { fill(d); }},           {"latency", [&] { latency(d); }},
        {"churn", [&] { churn(d, false); }},  {"late-churn", [&] { churn(d, true); }},
        {"post-copy", [&] { post_copy(d); }}, {"daemon-killed", [&] { daemon_killed(d); }},
        {"reconnect", [&] { reconnect(d); }}, {"refused", [&] { refused(d); }},
        {"aborted", [&] { aborted(d); }},     {"half", [&] { half(d); }},
    };
    auto killed = scenarios_with_killed_pagers();
    if (auto it = scenarios.find(scenario); it != scenarios.end())
      it->second();
    else if (auto other = killed.find(scenario); other != killed.end())
      other->second(d);
    else
      result = 2;
  }
  need(sys::remove_tree(dir), "tidy up");
  return result;
}

}  // namespace
}  // namespace transship::memory

int main(int argc, char** argv) {
  ::alarm(transship::memory::kOverall);
  transship::init_logging("warn");
  if (argc == 4 && std::strcmp(argv[1], "serve") == 0) return transship::memory::serve(argv[2], argv[3]);
  auto mib = transship::parse_u64(argc > 2 ? argv[2] : "256", "memory in MiB");
  if (argc < 2 || !mib) return 2;
  return transship::memory::run(argv[1], *mib);
}
