// Scenarios of pager_drill in which the pager is killed. Another one goes on, and every byte is right; or it is not
// sure what is left to fill, and whoever touches memory waits.
#include "memory/pager_drill_kit.h"

namespace transship::memory {
namespace {

void fault_order(const std::string& dir, const char* point, const char* order) {
  auto faults = dir + "/faults";
  need(::mkdir(faults.c_str(), 0700) == 0 || errno == EEXIST, "make a directory of fault points");
  auto file = need(open_file(faults + "/" + point, O_WRONLY | O_CREAT, 0600), "order a fault");
  need(write_all(file.get(), std::string_view(order)), "order a fault");
  need(::setenv("TRANSSHIP_FAULT_POINTS", faults.c_str(), 1) == 0, "setenv");
}

// Touches one page that is not there; nobody may see it go on.
void touch(Restored& r) {
  (void)*reinterpret_cast<const volatile uint64_t*>(kBase + r.bytes - kPageBytes);
  say(r.line.from.write.get(), 'Z');
}
void nobody_goes_on(const Process& p) {
  pollfd read_something{.fd = p.line.from.read.get(), .events = POLLIN, .revents = 0};
  need(::poll(&read_something, 1, 300) == 0, "it read memory that nobody had filled");
}

// Until it has filled some pages more, so that it is in the middle of it. False: it has filled everything.
bool fills(const Daemon& d) {
  auto cancel = need(Cancel::create(), "cancel");
  auto deadline = soon();
  auto before = d.client->progress().done_pages;
  while (true) {
    auto p = d.client->progress();
    if (p.done_pages == p.expected_pages) return false;
    if (p.done_pages > before + 64) return true;
    need(!deadline.passed(), "nothing is filled");
    need(sleep_for(1ms, cancel), "sleep");
  }
}

// ---- Before the restore is complete nobody can go on.

void before_the_end_of_the_restore(Daemon& d) {
  d.start();
  put_range(*d.store, kBase, d.bytes / 2);
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore_but_the_word();
    say(r.line.from.write.get(), 'H');
    hear(r.line.to.read.get(), 'G');
    touch(r);
  });
  hear(p.line.from.read.get(), 'H');
  d.kill_pager();
  auto trouble = d.wait_trouble();
  say(p.line.to.write.get(), 'G');
  nobody_goes_on(p);
  need(PagerClient::fate(d.dir) == PagerFate::kLost, "a killed pager is not lost");
  p.kill();
  fmt::print("{{\"trouble\":\"{}\"}}\n", trouble);
}

// ---- Killed again and again while it fills.

void filling(Daemon& d) {
  d.start();
  d.put_all();
  need(d.client->seal(soon()), "seal");
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    // Backwards: nearly every page is asked for before its turn.
    for (auto a = kBase + r.bytes; a > kBase; a -= kPageBytes)
      need(right(a - kPageBytes, a - kPageBytes), "memory differs");
    check_everything(r);
  });
  hear(p.line.from.read.get(), 'R');
  int kills = 0;
  std::vector<double> ms;
  while (kills < 3 && fills(d)) {
    auto begin = Clock::now();
    d.kill_pager();
    need(d.wait_replaced(++kills), "no other pager goes on");
    ms.push_back(seconds_since(begin) * 1e3);
  }
  need(!ms.empty(), "it has filled everything already: more memory is needed");
  d.wait_done("after the pager was killed");
  p.finish();
  auto wait = *std::ranges::max_element(ms);
  fmt::print("{{\"kills\":{},\"replaced_ms\":{:.1f},{}}}\n", kills, wait, progress_json(d.client->progress()));
}

// One that is killed at once, whoever starts it.
void too_often(Daemon& d) {
  d.start();
  put_range(*d.store, kBase, d.bytes / 2);
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    touch(r);
  });
  hear(p.line.from.read.get(), 'R');
  (void)d.wait_requests();  // and it has heard of the end of the restore
  int kills = 0;
  do {
    d.kill_pager();
  } while (d.wait_replaced(++kills));
  auto trouble = d.wait_trouble();
  nobody_goes_on(p);
  p.kill();
  fmt::print("{{\"kills\":{},\"trouble\":\"{}\"}}\n", kills, trouble);
}

// The successor is killed too, before it has begun.
void succeeding(Daemon& d) {
  fault_order(d.dir, "pager.recorded", "die");
  fault_order(d.dir, "pager.succeeding", "die");
  d.start();
  d.put_all();
  need(d.client->seal(soon()), "seal");
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    check_everything(r);
  });
  hear(p.line.from.read.get(), 'R');
  need(d.wait_replaced(1), "no other pager goes on");
  d.wait_done("after two pagers were killed");
  p.finish();
  fmt::print("{{{}}}\n", progress_json(d.client->progress()));
}

// ---- Pages that have not come.

void late(Daemon& d) {
  d.start();
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    need(right(kBase, kBase), "memory differs");
    say(r.line.from.write.get(), 'S');
    check_everything(r);
  });
  hear(p.line.from.read.get(), 'R');
  need(d.wait_requests() == std::vector<uint64_t>{kBase}, "another page is waited for");
  d.kill_pager();
  // A question meanwhile waits for one that can answer.
  need(!d.client->seal(soon()), "sealed without pages");
  need(d.wait_replaced(1), "no other pager goes on");
  need(d.wait_requests() == std::vector<uint64_t>{kBase}, "it is not asked for again");
  put_range(*d.store, kBase, kPageBytes);
  d.client->arrived();
  hear(p.line.from.read.get(), 'S');
  put_range(*d.store, kBase, d.bytes / 2);
  d.client->arrived();
  d.kill_pager();
  put_range(*d.store, kBase + d.bytes / 2, d.bytes / 2);
  d.client->arrived();
  need(d.client->seal(soon()), "seal");
  d.wait_done("after the pager was killed");
  p.finish();
  fmt::print("{{{}}}\n", progress_json(d.client->progress()));
}

// A daemon that was started again can do the same.
void after_the_daemon(Daemon& d) {
  auto pipe = need(make_pipe(), "pipe");
  auto daemon = ::fork();
  need(daemon >= 0, "fork");
  if (daemon == 0) {
    ::alarm(kOverall);
    d.start();
    say(pipe.write.get(), 'D');
    put_range(*d.store, kBase, d.bytes / 2);
    say(pipe.write.get(), 'K');
    ::pause();
    ::_exit(1);
  }
  hear(pipe.read.get(), 'D');
  hear(pipe.read.get(), 'K');
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    check_everything(r);
  });
  hear(p.line.from.read.get(), 'R');
  ::kill(daemon, SIGKILL);
  need(::waitpid(daemon, nullptr, 0) == daemon, "reap the daemon");
  d.client = need(PagerClient::reconnect(d.dir, d.options(), soon()), "reconnect");
  // It has all descriptors when it is answered.
  need(!d.client->seal(soon()), "sealed without pages");
  d.kill_pager();
  need(d.wait_replaced(1), "no other pager goes on");
  put_range(d.client->store(), kBase + d.bytes / 2, d.bytes / 2);
  d.client->arrived();
  need(d.client->seal(soon()), "seal");
  d.wait_done("after daemon and pager were killed");
  p.finish();
  fmt::print("{{{}}}\n", progress_json(d.client->progress()));
}

// ---- The processes change their mappings, and fork.

constexpr uint64_t kPart = 256U << 10;

// A part of the memory: where it is now, and what must be in it.
struct Part {
  uint64_t home = 0;  // as in the images
  bool elsewhere = false;
  std::set<uint64_t> given_up = {};           // pages, by their place in the part
  std::map<uint64_t, uint64_t> written = {};  // page -> its first word
  uint64_t at() const { return elsewhere ? home - kBase + kElsewhere : home; }
};

bool part_right(const Part& part) {
  for (uint64_t page = 0; page < kPart; page += kPageBytes) {
    auto at = part.at() + page;
    auto image = part.given_up.contains(page) ? std::nullopt : std::optional(part.home + page);
    if (auto w = part.written.find(page); w == part.written.end()) {
      if (!right(at, image)) return false;
    } else if (*reinterpret_cast<const volatile uint64_t*>(at) != w->second) {
      fmt::print(stderr, "wrong byte: {:#x} was written and has another word\n", at);
      return false;
    }
  }
  return true;
}

// `waits`: also reads and writes, which waits for the page if it has not come.
void change(Part& part, std::mt19937_64& random, bool waits) {
  auto pointer = [](uint64_t a) { return reinterpret_cast<void*>(a); };
  auto page = random() % (kPart / kPageBytes) * kPageBytes;
  auto what = random() % 64 + (waits ? 0 : 2);
  if (what == 0) return need(part_right(part), "memory differs");
  if (what == 1) {
    *reinterpret_cast<volatile uint64_t*>(part.at() + page) = part.written[page] = random();
    return;
  }
  if (what < 12) {
    need(::madvise(pointer(part.at() + page), kPageBytes, MADV_DONTNEED) == 0, "MADV_DONTNEED");
    part.given_up.insert(page);
    part.written.erase(page);
    return;
  }
  auto from = part.at();
  part.elsewhere = !part.elsewhere;
  need(::mremap(pointer(from), kPart, kPart, MREMAP_MAYMOVE | MREMAP_FIXED, pointer(part.at())) == pointer(part.at()),
       "mremap");
}

// Some of it changes in the child, the rest is compared; `depth`: it has children of its own.
bool child_is_right(std::vector<Part> parts, uint64_t seed, int depth) {
  std::mt19937_64 random(seed);
  pid_t grandchild = 0;
  for (int i = 0; i < 200; ++i) {
    change(parts[random() % parts.size()], random, true);
    if (i == 100 && depth > 0) {
      grandchild = ::fork();
      need(grandchild >= 0, "fork");
      if (grandchild == 0) ::_exit(child_is_right(parts, seed + 1, depth - 1) ? 0 : 1);
    }
  }
  for (size_t i = 0; i < parts.size(); i += 7) need(part_right(parts[i]), "memory differs in a child");
  int status = 0;
  return grandchild == 0 || (::waitpid(grandchild, &status, 0) == grandchild && status == 0);
}

// Until it hears something.
void churning(Restored& r) {
  std::vector<Part> parts;
  for (uint64_t home = kBase; home < kBase + r.bytes; home += kPart) {
    auto middle = kBase + r.bytes / 2;
    if (home < middle || home >= middle + kMib) parts.push_back({.home = home});  // that one is read-only
  }
  r.restore();
  std::mt19937_64 random(5);
  std::set<pid_t> children;
  uint64_t changes = 0;
  pollfd told{.fd = r.line.to.read.get(), .events = POLLIN, .revents = 0};
  for (; ::poll(&told, 1, 0) == 0; ++changes) {
    change(parts[random() % parts.size()], random, false);
    int status = 0;
    if (auto pid = ::waitpid(-1, &status, WNOHANG); pid > 0)
      need(children.erase(pid) == 1 && status == 0, "a child saw wrong bytes");
    if (changes % 50 != 49 || children.size() >= 8) continue;
    auto seed = random();
    auto pid = ::fork();
    need(pid >= 0, "fork");
    if (pid == 0) ::_exit(child_is_right(parts, seed, 1) ? 0 : 1);
    children.insert(pid);
  }
  for (auto pid : children) {
    int status = 0;
    need(::waitpid(pid, &status, 0) == pid && status == 0, "a child saw wrong bytes");
  }
  for (const auto& part : parts) need(part_right(part), "memory differs");
  fmt::print("{{\"changes\":{}}}\n", changes);
  (void)std::fflush(stdout);
}

// Pages come slowly, so that there is something to do all the time. `kills`: how often the pager is killed meanwhile.
void churn(Daemon& d, int kills) {
  d.start();
  auto p = restored(d.dir, d.bytes, churning);
  hear(p.line.from.read.get(), 'R');
  auto cancel = need(Cancel::create(), "cancel");
  auto step = d.bytes / 64;
  int killed = 0;
  for (uint64_t i = 0; i < 64; ++i) {
    // From the end, and not one after the other.
    put_range(*d.store, kBase + d.bytes - (i * 37 % 64 + 1) * step, step);
    d.client->arrived();
    need(sleep_for(20ms, cancel), "sleep");
    if (killed == kills || i % 16 != 10) continue;
    d.kill_pager();
    if (d.wait_replaced(++killed)) continue;
    // A child had just been born: rare, and seen in the other scenario.
    p.kill();
    fmt::print("{{\"kills\":{},\"trouble\":\"{}\"}}\n", killed, d.wait_trouble());
    return;
  }
  need(d.client->seal(soon()), "seal");
  say(p.line.to.write.get(), 'S');
  p.finish();
  need(d.client->wait_done(soon(), cancel), "churn");
  auto progress = d.client->progress();
  fmt::print("{{\"kills\":{},\"cpu_ms\":{},{}}}\n", killed, progress.cpu.count() / 1000, progress_json(progress));
}

// Between the kernel's word that there is a child and the sending of its descriptor.
void forking(Daemon& d) {
  fault_order(d.dir, "pager.forked", "die");
  d.start();
  put_range(*d.store, kBase, d.bytes / 2);
  auto p = restored(d.dir, d.bytes, [](Restored& r) {
    r.restore();
    if (::fork() == 0) ::_exit(0);
    hear(r.line.to.read.get(), 'G');
    touch(r);
  });
  hear(p.line.from.read.get(), 'R');
  auto trouble = d.wait_trouble();
  say(p.line.to.write.get(), 'G');
  nobody_goes_on(p);
  need(PagerClient::fate(d.dir) == PagerFate::kLost, "a killed pager is not lost");
  p.kill();
  fmt::print("{{\"trouble\":\"{}\"}}\n", trouble);
}

}  // namespace

std::map<std::string, std::function<void(Daemon&)>> scenarios_with_killed_pagers() {
  return {
      {"pager-killed-early", before_the_end_of_the_restore},
      {"pager-killed", filling},
      {"pager-killed-too-often", too_often},
      {"pager-killed-twice", succeeding},
      {"pager-killed-post-copy", late},
      {"pager-killed-after-the-daemon", after_the_daemon},
      {"pager-killed-churn", [](Daemon& d) { churn(d, 3); }},
      {"pager-lives-churn", [](Daemon& d) { churn(d, 0); }},
      {"pager-killed-forking", forking},
  };
}

}  // namespace transship::memory
