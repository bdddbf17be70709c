// What a move tells about itself while it runs: phases, progress, and where the time went.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/mutex.h"
#include "proto/local.pb.h"

namespace transship::migrate {

// Fills in the rate of what was done in `seconds`, and the time left when the total is known.
void set_pace(local::ProgressEvent& event, double seconds);

// Thread-safe. Events reach the sink in order, one at a time, on whichever thread caused them; the sink must be quick.
class Reporter {
 public:
  using Sink = std::function<void(const local::MoveEvent&)>;
  Reporter(std::string move_id, Sink sink);

  // One phase at a time; starting one ends the one before as done.
  void start_phase(const std::string& name, const std::string& detail = {});
  void end_phase(const std::string& detail = {});
  void fail_phase(const std::string& detail);
  std::string phase() const;
  // At most five events a second, plus the last one (done == total). `total` 0: unknown.
  void progress(uint64_t done, uint64_t total);
  // The same with what pre-copy knows; `total` is never less than `done`.
  void round_progress(const local::ProgressEvent& facts);
  void emit(local::MoveEvent event);

  // ---- where the time went
  // Seconds since the move began, for the phases; `gap` parts lie between freeze and release and are taken in order.
  void gap_begins();
  void gap_part(const std::string& name);
  void gap_ends(const std::string& name);
  // `ms` of what was taken for the one part belong to the other, as the destination says.
  void reckon_gap(const std::string& to, const std::string& from, double ms);
  double gap_ms() const;
  double total_ms() const;
  void fill(local::Summary& summary) const;

 private:
  void emit_locked(local::MoveEvent event) REQUIRES(mu_);
  void phase_event_locked(local::PhaseState state, const std::string& detail) REQUIRES(mu_);

  const std::string move_id_;
  const Sink sink_;
  const Clock::time_point begun_ = Clock::now();
  mutable Mutex mu_;
  std::string phase_ GUARDED_BY(mu_);
  Clock::time_point phase_begun_ GUARDED_BY(mu_);
  Clock::time_point last_progress_ GUARDED_BY(mu_);
  std::vector<std::pair<std::string, double>> phases_ms_ GUARDED_BY(mu_);
  Clock::time_point gap_begun_ GUARDED_BY(mu_);
  Clock::time_point gap_mark_ GUARDED_BY(mu_);
  std::vector<std::pair<std::string, double>> gap_parts_ms_ GUARDED_BY(mu_);
  double gap_ms_ GUARDED_BY(mu_) = 0;
};

}  // namespace transship::migrate
