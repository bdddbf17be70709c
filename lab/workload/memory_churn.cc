// A program that does to its memory whatever programs do, all at once, and knows at every moment what must be in it. A
// wrong word ends it with code 3 and a line that begins with BAD. Asked on a TCP port it says how far it is. It is
// moved by the tests.
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "workload/churn_pages.h"
#include "workload/churn_regions.h"

namespace churn {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

struct Options {
  size_t mib = 32;
  size_t write_mib = 20;  // per second, of all writers; 0: as fast as it goes
  size_t writers = 2;
  uint16_t port = 7000;
};

constexpr size_t kPagesPerMib = (1U << 20) / kPageBytes;
constexpr size_t kSnapshotPages = 32;

void pause(milliseconds time) { std::this_thread::sleep_for(time); }

// Every page gets its turn, in no order.
void write_for_ever(std::vector<std::unique_ptr<Area>>& areas, uint64_t seed, size_t pages_per_second) {
  constexpr size_t kBurst = 64;
  Dice dice(seed);
  auto next = std::chrono::steady_clock::now();
  while (true) {
    for (size_t i = 0; i < kBurst; ++i) {
      auto& area = *areas[dice.below(areas.size())];
      area.rewrite(dice.below(area.pages()));
    }
    if (pages_per_second == 0) continue;
    // After a gap it does not try to catch up.
    next = std::max(next + microseconds(kBurst * 1'000'000 / pages_per_second), std::chrono::steady_clock::now());
    std::this_thread::sleep_until(next);
  }
}

void check_for_ever(std::vector<std::unique_ptr<Area>>& areas) {
  while (true) {
    for (auto& area : areas) {
      for (size_t page = 0; page < area->pages(); ++page) {
        area->check(page);
        if (page % 512 == 511) pause(milliseconds(2));
      }
    }
    pause(milliseconds(5));
  }
}

void discard_for_ever(Area& area) {
  Dice dice(11);
  while (true) {
    area.discard(dice.below(area.pages()), 1 + dice.below(16));
    pause(milliseconds(3));
  }
}

// ---- processes

// What the program does when it has been started by itself: memory of its own, for a moment.
int be_child(uint64_t seed) {
  Area area("a started program", 64, MAP_PRIVATE, -1);
  Dice dice(seed);
  for (int round = 0; round < 5; ++round) {
    for (size_t page = 0; page < area.pages(); ++page) area.rewrite(page);
    pause(milliseconds(dice.below(20)));
    for (size_t page = 0; page < area.pages(); ++page) area.check(page);
  }
  return 0;
}

// The child has the parent's memory as it was, and what it does to it is its own.
[[noreturn]] void be_copy(uint64_t* snapshot, const std::vector<Key>& keys) {
  for (size_t i = 0; i < keys.size(); ++i) check_page(snapshot + i * kPageWords, keys[i], "memory of a forked process");
  for (size_t i = 0; i < keys.size(); i += 2) fill_page(snapshot + i * kPageWords, ~keys[i]);
  pause(milliseconds(15));
  for (size_t i = 0; i < keys.size(); ++i)
    check_page(snapshot + i * kPageWords, i % 2 == 0 ? ~keys[i] : keys[i], "memory of a forked process, changed");
  ::_exit(0);
}

void reap(pid_t pid) {
  int status = 0;
  if (::waitpid(pid, &status, 0) != pid) broken("waitpid");
  if (status != 0) {
    std::fprintf(stderr, "BAD process %d ended with status %#x\n", pid, static_cast<unsigned>(status));
    ::_exit(3);
  }
}

void fork_for_ever() {
  uint64_t* snapshot = map_pages(kSnapshotPages, MAP_PRIVATE);
  std::vector<Key> keys(kSnapshotPages);
  for (uint64_t generation = 1;; ++generation) {
    for (size_t i = 0; i < keys.size(); ++i) {
      keys[i] = make_key(77, i, generation);
      fill_page(snapshot + i * kPageWords, keys[i]);
    }
    pid_t copy = ::fork();
    if (copy == 0) be_copy(snapshot, keys);
    std::string seed = std::to_string(generation);
    pid_t started = ::fork();
    if (started == 0) {
      ::execl("/proc/self/exe", "memory_churn", "--child", seed.c_str(), static_cast<char*>(nullptr));
      ::_exit(5);
    }
    if (copy < 0 || started < 0) broken("fork");
    reap(copy);
    ++counters.forks;
    reap(started);
    ++counters.execs;
    for (size_t i = 0; i < keys.size(); ++i) check_page(snapshot + i * kPageWords, keys[i], "memory of a parent");
  }
}

// ---- stacks

// One page of the stack and a bit for each step down; looked at again on the way up.
[[gnu::noinline]] void go_down(size_t depth, uint64_t salt) {
  alignas(64) uint64_t frame[kPageWords];
  Key key = make_key(salt, depth, 1);
  fill_page(frame, key);
  asm volatile("" : : "r"(frame) : "memory");
  if (depth == 0)
    pause(milliseconds(10));
  else
    go_down(depth - 1, salt);
  asm volatile("" : : "r"(frame) : "memory");
  check_page(frame, key, "stack");
}

void start_threads_for_ever() {
  Dice dice(5);
  while (true) {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i)
      threads.emplace_back([depth = 1 + dice.below(40), salt = dice.below(1 << 20)] { go_down(depth, salt); });
    for (auto& t : threads) t.join();
    counters.threads += threads.size();
    pause(milliseconds(5));
  }
}

// Grows the first thread's stack, which the kernel does by itself.
void grow_stack_for_ever() {
  Dice dice(3);
  for (uint64_t round = 0;; ++round) {
    go_down(dice.below(1000), round);
    ++counters.stacks;
    pause(milliseconds(5));
  }
}

// ---- answers

void answer_for_ever(uint16_t port) {
  int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  int yes = 1;
  (void)::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || ::listen(listener, 16) != 0)
    broken("listen");
  while (true) {
    int client = ::accept(listener, nullptr, nullptr);
    if (client < 0) continue;
    std::string line = counters.line();
    (void)!::write(client, line.data(), line.size());
    ::close(client);
  }
}

int run(const Options& options) {
  std::vector<std::unique_ptr<Area>> areas;
  size_t pages = options.mib * kPagesPerMib;
  areas.push_back(std::make_unique<Area>("small pages", pages / 2, MAP_PRIVATE, MADV_NOHUGEPAGE));
  areas.push_back(std::make_unique<Area>("huge pages", pages / 2 - pages / 16, MAP_PRIVATE, MADV_HUGEPAGE));
  areas.push_back(std::make_unique<Area>("shared memory", pages / 16, MAP_SHARED, -1));
  std::vector<std::thread> threads;
  size_t rate = options.write_mib * kPagesPerMib / std::max<size_t>(options.writers, 1);
  if (options.write_mib != 0) rate = std::max<size_t>(rate, 1);
  for (size_t i = 0; i < options.writers; ++i) threads.emplace_back([&, i] { write_for_ever(areas, i + 100, rate); });
  threads.emplace_back([&] { check_for_ever(areas); });
  for (size_t i : {0, 1}) threads.emplace_back([&, i] { discard_for_ever(*areas[i]); });
  for (uint64_t i : {0, 1}) threads.emplace_back([i] { change_regions_for_ever(i); });
  threads.emplace_back([] { fork_for_ever(); });
  threads.emplace_back([] { start_threads_for_ever(); });
  threads.emplace_back([&] { answer_for_ever(options.port); });
  grow_stack_for_ever();
  return 0;
}

}  // namespace
}  // namespace churn

int main(int argc, char** argv) {
  CLI::App app("Changes its memory in every way, and checks it");
  churn::Options options;
  uint64_t child = 0;
  app.add_option("--mib", options.mib, "memory that is rewritten")->check(CLI::Range(1, 1 << 20));
  app.add_option("--write-mib", options.write_mib, "MiB per second; 0: as fast as it goes")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--writers", options.writers, "threads that rewrite")->check(CLI::Range(1, 64));
  app.add_option("--port", options.port, "of the counters");
  app.add_option("--child", child, "used by the program itself");
  CLI11_PARSE(app, argc, argv);
  return child != 0 ? churn::be_child(child) : churn::run(options);
}
