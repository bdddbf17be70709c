#include "memory/track/track_measure.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cstring>
#include <ctime>
#include <iostream>
#include <nlohmann/json.hpp>

#include "base/fd.h"
#include "memory/track/page_reader.h"
#include "memory/track/tracker.h"

namespace transship::memory {
namespace {

using nlohmann::json;
using std::chrono::microseconds;

constexpr double kGib = 1U << 30;

// A child that has written all of its memory and sleeps; 'w' on its stdin rewrites every other page.
struct Subject {
  pid_t pid = -1;
  Fd commands;
  Fd answers;
  Subject() = default;
  Subject(const Subject&) = delete;
  Subject& operator=(const Subject&) = delete;
  ~Subject() {
    if (pid > 0) {
      (void)::kill(pid, SIGKILL);
      (void)::waitpid(pid, nullptr, 0);
    }
  }
  Result<> start(size_t bytes, bool huge) {
    TS_TRY_ASSIGN(Pipe down, make_pipe());
    TS_TRY_ASSIGN(Pipe up, make_pipe());
    pid = ::fork();
    if (pid == 0) {
      (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
      auto* at = static_cast<char*>(
          ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
      (void)::madvise(at, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
      std::memset(at, 7, bytes);
      (void)!::write(up.write.get(), "r", 1);
      for (char c = 0; ::read(down.read.get(), &c, 1) == 1;) {
        for (size_t i = 0; i < bytes; i += 2 * kPageBytes) at[i] = 8;
        (void)!::write(up.write.get(), "r", 1);
      }
      ::_exit(0);
    }
    commands = std::move(down.write);
    answers = std::move(up.read);
    return wait();
  }
  Result<> wait() const {
    std::byte c{};
    return read_exact(answers.get(), std::span(&c, 1));
  }
  Result<> rewrite() const {
    TS_TRY(write_all(commands.get(), "w"));
    return wait();
  }
};

// Of this thread: what it took, however busy the machine is.
double cpu_ms() {
  timespec t{};
  (void)::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1000 + static_cast<double>(t.tv_nsec) / 1e6;
}

double memcpy_cpu_ms_per_gib(size_t bytes) {
  // As the reader does it: a large source into a small buffer that stays in the cache.
  std::vector<std::byte> from(bytes, std::byte{1});
  std::vector<std::byte> to(kBlockPages * kPageBytes, std::byte{2});
  double begin = cpu_ms();
  for (size_t at = 0; at + to.size() <= bytes; at += to.size()) {
    std::memcpy(to.data(), from.data() + at, to.size());
    asm volatile("" : : "r"(to.data()) : "memory");
  }
  return (cpu_ms() - begin) / (static_cast<double>(bytes) / kGib);
}

class Measurement {
 public:
  Measurement(size_t bytes, bool huge, const Cancel& cancel) : bytes_(bytes), huge_(huge), cancel_(cancel) {}
  Result<> run() {
    TS_TRY(subject_.start(bytes_, huge_));
    TS_TRY(track(TrackerKind::kPagemapScan));
    TS_TRY(step("first", false));
    TS_TRY(step("clean", false));
    TS_TRY(subject_.rewrite());
    read_ = true;
    TS_TRY(step("half written, read", false));
    TS_TRY(subject_.rewrite());
    TS_TRY(step("last, half written, read", true));
    TS_TRY(track(TrackerKind::kNone));
    return step("last, all, read", true);
  }

 private:
  Result<> track(TrackerKind kind) {
    auto list = [this]() -> Result<std::vector<pid_t>> { return std::vector{subject_.pid}; };
    TS_TRY_ASSIGN(tracker_, make_tracker(kind, {list, {}}));
    return {};
  }
  Result<> sink(const PageRuns& runs) {
    if (!read_) return {};
    auto begin = Clock::now();
    double cpu = cpu_ms();
    TS_TRY(reader_.read(runs, [](const PageBlock&) -> Result<> { return {}; }, cancel_));
    reading_cpu_ += cpu_ms() - cpu;
    reading_ += std::chrono::duration_cast<microseconds>(Clock::now() - begin);
    return {};
  }
  Result<> step(const char* what, bool last) {
    reading_ = {};
    reading_cpu_ = 0;
    double cpu = cpu_ms();
    auto to = [this](const PageRuns& runs) { return sink(runs); };
    TS_TRY_ASSIGN(RoundStats stats, last ? tracker_->last_round(to, cancel_) : tracker_->round(to, cancel_));
    double all_cpu = cpu_ms() - cpu;
    double gib = static_cast<double>(bytes_) / kGib;
    double read_gib = static_cast<double>(stats.pages * kPageBytes) / kGib;
    json line{{"step", what},
              {"huge", huge_},
              {"pages", stats.pages},
              {"stop_us", stats.longest_stop.count()},
              {"scan_ms_per_gib", static_cast<double>(stats.scan.count()) / 1000 / gib},
              {"scan_cpu_ms_per_gib", (all_cpu - reading_cpu_) / gib}};
    if (reading_.count() > 0) {
      line["read_ms_per_gib"] = static_cast<double>(reading_.count()) / 1000 / read_gib;
      line["read_cpu_ms_per_gib"] = reading_cpu_ / read_gib;
    }
    std::cout << line.dump() << "\n" << std::flush;
    return {};
  }
  size_t bytes_;
  bool huge_;
  const Cancel& cancel_;
  Subject subject_;
  std::unique_ptr<DirtyTracker> tracker_;
  PageReader reader_;
  bool read_ = false;
  microseconds reading_{0};
  double reading_cpu_ = 0;
};

}  // namespace

Result<> measure_tracking(size_t bytes, const Cancel& cancel) {
  for (bool huge : {false, true}) TS_TRY(Measurement(bytes, huge, cancel).run());
  std::cout << json{{"step", "memcpy"}, {"cpu_ms_per_gib", memcpy_cpu_ms_per_gib(bytes)}}.dump() << "\n";
  return {};
}

}  // namespace transship::memory
