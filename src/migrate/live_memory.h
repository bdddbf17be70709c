// The source's memory of one move until the switch: rounds while the container runs, and what is left after the freeze.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory/track/page_reader.h"
#include "memory/track/shared_objects.h"
#include "memory/track/tracker.h"
#include "migrate/memory_options.h"
#include "migrate/page_outlet.h"
#include "migrate/reporter.h"
#include "plan/converge.h"
#include "sys/cgroup.h"
#include "sys/throttle.h"
#include "wire/lanes.h"

namespace transship::migrate {

// The destination is told to get ready (its engine called, waiting at the gate) when little is left to send.
struct ArmControl {
  std::function<void()> start;             // returns at once; again: nothing
  std::function<Result<bool>()> is_ready;  // false: not yet
};

struct LiveMemoryStats {
  uint32_t rounds = 0;  // before the freeze
  uint32_t throttle_percent = 0;
  double predicted_gap_ms = 0;
  uint64_t pages = 0;
  uint64_t zero_pages = 0;
  uint64_t bytes_last_round = 0;  // found dirty after the freeze
  memory::Compression compression = memory::Compression::kNone;
};

// For people: which memory could only be sent after the freeze, and why.
std::vector<std::string> late_memory_warnings(const std::vector<memory::Untracked>& findings);

// One thread at a time.
class LiveMemory {
 public:
  struct Settings {
    MemoryOptions options;
    uint64_t expected_bytes = 0;       // resident memory, for progress
    double link_bytes_per_second = 0;  // measured; 0: unknown
  };
  LiveMemory(const sys::Cgroup& cgroup, Settings settings, wire::LaneSender& lanes, Reporter& reporter, Cancel cancel);
  // Ends tracking and throttling: the container is as it was.
  ~LiveMemory();

  // Begins to follow the container's writes. Nothing is sent yet. Not called: all of it is sent after the freeze.
  Result<> attach();
  // Rounds, until freezing is the next step and the destination is ready for it. kNotConverged: and
  // why. True: what is left is to follow after the switch.
  Result<bool> pre_copy(const plan::ConvergeLimits& limits, const ArmControl& arm);
  // Just before the freeze.
  Result<> end_throttle();
  // In post-copy, instead of pre_copy(): what the processes share must be there when CRIU restores, so it is sent
  // ahead.
  Result<> send_shared_ahead();
  // The container is frozen: sends what has changed, shared memory included. `arm` is started when the end is near.
  Result<> last_round(const ArmControl& arm);
  // And, after the dump: what CRIU has written meanwhile. On its way when this returns: flush the lanes.
  Result<> after_dump();
  // Instead: the container is frozen, and what has changed is to follow later. What came of it is not to be used.
  // Shared memory is sent all the same.
  Result<> tell_stale();
  // And, after the dump: what must be there when CRIU restores. `images_dir`: of that dump.
  Result<> send_eager(const std::string& images_dir);
  // After the dump and one of the last rounds: shared memory that was sent does not travel in CRIU's images as well.
  // `spare_dir`: on their file system. Any thread, while no other call is under way.
  Result<> leave_out_shared(const std::string& images_dir, const std::string& spare_dir);
  LiveMemoryStats stats() const { return stats_; }
  // After pre_copy().
  std::vector<std::string> warnings() const;

 private:
  Result<> start_tracker(bool running);
  using Look = Result<memory::RoundStats> (memory::DirtyTracker::*)(const memory::RunSink&, const Cancel&);
  Result<uint64_t> send_round(Look look, bool frozen);
  Result<uint64_t> send_shared(bool frozen);
  Result<> end_round();
  Result<> send_run(const memory::PageRuns& runs);
  Result<> send_block(const memory::PageBlock& block);
  Result<> send_stale(const memory::PageRuns& runs);
  Result<> tell_gone();
  Result<> slow_down(uint32_t percent);
  Result<> give_up(const plan::Convergence& c) const;
  void begin_round();
  void report_progress();
  void report_decision(const plan::Convergence& c);

  const sys::Cgroup cgroup_;
  const Settings settings_;
  wire::LaneSender& lanes_;
  Reporter& reporter_;
  const Cancel cancel_;
  std::unique_ptr<memory::DirtyTracker> tracker_;
  // Processes of which the destination has pages, and where it was told that they have no memory (any more).
  std::map<memory::SpaceId, std::vector<memory::PageRange>> told_;
  memory::PageReader reader_;
  memory::SharedObjects shared_;
  bool shared_complete_ = false;  // sent as it was when frozen
  PageOutlet outlet_;
  std::unique_ptr<sys::Throttle> throttle_;
  const ArmControl* arm_ = nullptr;  // in last_round
  std::vector<plan::Round> rounds_;
  plan::Convergence last_;
  uint64_t sent_pages_ = 0;  // of the round being sent
  Clock::time_point round_begun_;
  LiveMemoryStats stats_;
};

}  // namespace transship::migrate
