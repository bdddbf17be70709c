#include "sys/throttle.h"

#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <optional>

#include "base/text.h"
#include "base/thread.h"
#include "sys/file.h"

namespace transship::sys {
namespace {

// Long enough that freezing (0.1 to 0.8 ms) does not count, short enough that clients see a slow server and no pause.
constexpr std::chrono::microseconds kCycle{40'000};
constexpr milliseconds kFreezeLimit{1000};
constexpr milliseconds kThawLimit{5000};
constexpr milliseconds kSample{100};
constexpr uint64_t kQuotaPeriodUs = 100'000;
constexpr uint64_t kMinQuotaUs = 1000;  // the kernel's own limit
// What cpu.max was, kept at the cgroup itself: it goes with the container, and whoever comes after a crash finds it.
constexpr const char* kSavedQuota = "trusted.transship.cpu_max";

Result<uint64_t> cpu_usage_us(const Cgroup& cgroup) {
  TS_TRY_ASSIGN(std::string text, read_file(cgroup.path() + "/cpu.stat", 65536));
  for (const auto& line : split(text, '\n')) {
    if (line.starts_with("usage_usec ")) return parse_u64(trim(line.substr(11)), "cpu.stat");
  }
  return fail(Errc::kCorrupt, "{}/cpu.stat has no usage_usec", cgroup.path());
}

bool has_quota(const Cgroup& cgroup) { return ::access((cgroup.path() + "/cpu.max").c_str(), W_OK) == 0; }

}  // namespace

struct Throttle::State {
  explicit State(Cgroup cg, Cancel stop_signal) : cgroup(std::move(cg)), stop(std::move(stop_signal)) {}

  Result<> set_quota(uint32_t percent);
  Result<> lift_quota();
  Result<> start_freezing(uint32_t percent);
  Result<> stop_freezing();
  Result<> cycle();

  Cgroup cgroup;
  Cancel stop;
  bool quota = false;
  double cpus_used = 0;
  std::optional<std::string> saved;
  std::atomic<uint32_t> percent = 0;
  Result<> outcome;
  Thread thread;
};

Throttle::Throttle(std::unique_ptr<State> state) : state_(std::move(state)) {}
Throttle::~Throttle() { (void)lift(); }
std::string_view Throttle::method() const { return state_->quota ? "cpu.max" : "freezes"; }

Result<std::unique_ptr<Throttle>> Throttle::create(const Cgroup& cgroup) {
  TS_TRY_ASSIGN(Cancel stop, Cancel::create());
  auto state = std::make_unique<State>(cgroup, stop);
  if (has_quota(cgroup)) {
    TS_TRY_ASSIGN(uint64_t before, cpu_usage_us(cgroup));
    TS_TRY(sleep_for(kSample, stop));
    TS_TRY_ASSIGN(uint64_t after, cpu_usage_us(cgroup));
    state->cpus_used = static_cast<double>(after - before) / 1000.0 / static_cast<double>(kSample.count());
    state->quota = true;
  }
  return std::unique_ptr<Throttle>(new Throttle(std::move(state)));
}

Result<> Throttle::set(uint32_t percent) {
  if (percent > 95) return fail(Errc::kInvalidArgument, "throttle by {} %: at most 95", percent);
  if (percent == 0) return lift();
  return state_->quota ? state_->set_quota(percent) : state_->start_freezing(percent);
}

Result<> Throttle::lift() { return state_->quota ? state_->lift_quota() : state_->stop_freezing(); }

// ---- quota

Result<> Throttle::State::set_quota(uint32_t wanted) {
  std::string file = cgroup.path() + "/cpu.max";
  if (!saved) {
    TS_TRY_ASSIGN(std::string before, read_file(file, 256));
    saved = std::string(trim(before));
    if (::setxattr(cgroup.path().c_str(), kSavedQuota, saved->data(), saved->size(), 0) != 0)
      return fail_errno(errno, "note the quota of {}", cgroup.path());
  }
  double left = std::max(cpus_used, 0.01) * (100 - wanted) / 100;
  auto quota_us = std::max(kMinQuotaUs, static_cast<uint64_t>(left * static_cast<double>(kQuotaPeriodUs)));
  return write_control(file, fmt::format("{} {}", quota_us, kQuotaPeriodUs));
}

Result<> Throttle::State::lift_quota() {
  if (!saved) return {};
  TS_TRY(Throttle::lift_stale(cgroup));
  saved.reset();
  return {};
}

Result<> Throttle::lift_stale(const Cgroup& cgroup) {
  char before[256];
  ssize_t n = ::getxattr(cgroup.path().c_str(), kSavedQuota, before, sizeof before);
  if (n < 0) return {};
  TS_TRY_CTX(write_control(cgroup.path() + "/cpu.max", std::string_view(before, static_cast<size_t>(n))),
             "put back the CPU quota");
  (void)::removexattr(cgroup.path().c_str(), kSavedQuota);
  return {};
}

// ---- duty cycle

Result<> Throttle::State::start_freezing(uint32_t wanted) {
  TS_TRY(outcome);
  percent = wanted;
  if (!thread.joinable()) thread = Thread("throttle", [this] { outcome = cycle(); });
  return {};
}

Result<> Throttle::State::cycle() {
  while (!stop.cancelled()) {
    auto still = std::chrono::duration_cast<milliseconds>(kCycle * percent.load() / 100);
    auto go = std::chrono::duration_cast<milliseconds>(kCycle) - still;
    auto frozen = cgroup.freeze(Deadline::in(kFreezeLimit));
    if (frozen) (void)sleep_for(still, stop);
    TS_TRY(cgroup.thaw(Deadline::in(kThawLimit)));
    TS_TRY(frozen);
    (void)sleep_for(go, stop);
  }
  return {};
}

Result<> Throttle::State::stop_freezing() {
  if (!thread.joinable()) return {};
  stop.cancel("throttle lifted");
  thread.join();
  auto thawed = cgroup.thaw(Deadline::in(kThawLimit));
  TS_TRY_ASSIGN(stop, Cancel::create());
  percent = 0;
  outcome = {};
  return thawed;
}

}  // namespace transship::sys
