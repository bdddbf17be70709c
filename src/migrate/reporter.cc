#include "migrate/reporter.h"

#include "base/wall_clock.h"

namespace transship::migrate {
namespace {

double ms_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

constexpr milliseconds kProgressEvery{200};

}  // namespace

void set_pace(local::ProgressEvent& event, double seconds) {
  if (seconds <= 0) return;
  double rate = static_cast<double>(event.bytes_done()) / seconds;
  event.set_bytes_per_second(rate);
  if (rate > 0 && event.bytes_total() > event.bytes_done())
    event.set_eta_ms(
        static_cast<uint64_t>(static_cast<double>(event.bytes_total() - event.bytes_done()) / rate * 1000));
}

Reporter::Reporter(std::string move_id, Sink sink) : move_id_(std::move(move_id)), sink_(std::move(sink)) {}

void Reporter::emit(local::MoveEvent event) {
  MutexLock lock(mu_);
  emit_locked(std::move(event));
}

void Reporter::emit_locked(local::MoveEvent event) {
  event.set_move_id(move_id_);
  event.set_unix_ms(unix_ms_now());
  sink_(event);
}

void Reporter::phase_event_locked(local::PhaseState state, const std::string& detail) {
  local::MoveEvent event;
  auto& phase = *event.mutable_phase();
  phase.set_name(phase_);
  phase.set_state(state);
  phase.set_detail(detail);
  phase.set_elapsed_ms(static_cast<uint64_t>(ms_between(phase_begun_, Clock::now())));
  emit_locked(std::move(event));
}

void Reporter::start_phase(const std::string& name, const std::string& detail) {
  end_phase();
  MutexLock lock(mu_);
  phase_ = name;
  phase_begun_ = Clock::now();
  last_progress_ = {};
  phase_event_locked(local::PHASE_STARTED, detail);
}

void Reporter::end_phase(const std::string& detail) {
  MutexLock lock(mu_);
  if (phase_.empty()) return;
  phases_ms_.emplace_back(phase_, ms_between(phase_begun_, Clock::now()));
  phase_event_locked(local::PHASE_DONE, detail);
  phase_.clear();
}

void Reporter::fail_phase(const std::string& detail) {
  MutexLock lock(mu_);
  if (phase_.empty()) return;
  phase_event_locked(local::PHASE_FAILED, detail);
}

std::string Reporter::phase() const {
  MutexLock lock(mu_);
  return phase_;
}

void Reporter::progress(uint64_t done, uint64_t total) {
  MutexLock lock(mu_);
  auto now = Clock::now();
  if (phase_.empty() || (now - last_progress_ < kProgressEvery && done != total)) return;
  last_progress_ = now;
  local::MoveEvent event;
  auto& p = *event.mutable_progress();
  p.set_phase(phase_);
  p.set_bytes_done(done);
  p.set_bytes_total(total);
  set_pace(p, ms_between(phase_begun_, now) / 1000);
  emit_locked(std::move(event));
}

void Reporter::round_progress(const local::ProgressEvent& facts) {
  MutexLock lock(mu_);
  auto now = Clock::now();
  if (phase_.empty() || (now - last_progress_ < kProgressEvery && facts.decision().empty())) return;
  last_progress_ = now;
  local::MoveEvent event;
  *event.mutable_progress() = facts;
  event.mutable_progress()->set_phase(phase_);
  emit_locked(std::move(event));
}

void Reporter::gap_begins() {
  MutexLock lock(mu_);
  gap_begun_ = gap_mark_ = Clock::now();
  gap_parts_ms_.clear();
}

void Reporter::gap_part(const std::string& name) {
  MutexLock lock(mu_);
  auto now = Clock::now();
  gap_parts_ms_.emplace_back(name, ms_between(gap_mark_, now));
  gap_mark_ = now;
}

void Reporter::gap_ends(const std::string& name) {
  gap_part(name);
  MutexLock lock(mu_);
  gap_ms_ = ms_between(gap_begun_, gap_mark_);
}

void Reporter::reckon_gap(const std::string& to, const std::string& from, double ms) {
  MutexLock lock(mu_);
  constexpr auto kName = &std::pair<std::string, double>::first;
  auto source = std::ranges::find(gap_parts_ms_, from, kName);
  auto target = std::ranges::find(gap_parts_ms_, to, kName);
  if (source == gap_parts_ms_.end() || target == gap_parts_ms_.end()) return;
  ms = std::min(ms, source->second);
  source->second -= ms;
  target->second += ms;
}

double Reporter::gap_ms() const {
  MutexLock lock(mu_);
  return gap_ms_;
}

double Reporter::total_ms() const { return ms_between(begun_, Clock::now()); }

void Reporter::fill(local::Summary& summary) const {
  MutexLock lock(mu_);
  summary.set_move_id(move_id_);
  summary.set_total_ms(static_cast<uint64_t>(ms_between(begun_, Clock::now())));
  summary.set_frozen_ms(static_cast<uint64_t>(gap_ms_));
  auto add = [](auto* list, const auto& parts) {
    for (const auto& [name, ms] : parts) {
      auto* part = list->Add();
      part->set_name(name);
      part->set_ms(ms);
    }
  };
  add(summary.mutable_gap_parts(), gap_parts_ms_);
  add(summary.mutable_total_parts(), phases_ms_);
}

}  // namespace transship::migrate
