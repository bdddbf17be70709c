// The volumes of a container that leaves: rounds of what is different, while it runs and once more when it stands
// still. Over a session and lanes of their own: a disk of the destination that is slow must not hold up memory.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/thread.h"
#include "engine/engine.h"
#include "migrate/peer_session.h"
#include "migrate/services.h"
#include "migrate/volume_copies.h"
#include "storage/known_files.h"
#include "storage/scan.h"
#include "storage/watch/tree_watch.h"
#include "storage/written/written_blocks.h"
#include "wire/lanes.h"

namespace transship::migrate {

struct VolumesLink {
  std::string move_id;
  std::string lane_token;
  std::string peer;
  uint64_t max_bits_per_second = 0;  // 0: no limit
};

// One thread at a time.
class SourceVolumes {
 public:
  // Those of the container that travel, in their order; the destination has them staged. `generations`: of the copies
  // that are there already (peer.Prepared).
  static Result<std::unique_ptr<SourceVolumes>> open(Services& services, const VolumesLink& link,
                                                     const engine::Container& container,
                                                     const std::vector<std::string>& generations, const Cancel& cancel);
  ~SourceVolumes();
  SourceVolumes(const SourceVolumes&) = delete;
  SourceVolumes& operator=(const SourceVolumes&) = delete;

  // Everything, and then what changed meanwhile, until a round is short or does not get shorter.
  Result<> copy(const std::function<void(uint64_t sent)>& progress);
  // Goes on with rounds in the background. `max_bits_per_second`: from here on; 0: no limit.
  void follow(uint64_t max_bits_per_second);
  // The round that is under way is the last of these.
  void pause();
  // The tasks stand still, and are `pids`: what is left. When it returns the destination has applied it.
  Result<> finish(const std::vector<pid_t>& pids);

  // The tasks are dead, and the container belongs to the other side: what is here is a copy that was left.
  Result<> left();

  uint64_t sent_bytes() const { return sent_; }
  uint64_t wire_bytes() const { return lanes_ ? lanes_->counters().wire_bytes : 0; }
  uint32_t rounds() const { return rounds_; }

 private:
  struct Volume {
    uint32_t number = 0;
    engine::Mount mount;
    Fd root;
    std::unique_ptr<storage::TreeWatch> watch;  // null: its file system tells nothing, and is walked
    std::optional<storage::Scan> seen;
    storage::KnownFiles known;
    uint32_t round = 0;
    bool builds_on = false;  // on a copy that is there, of which `seen` is what it was
  };
  SourceVolumes(VolumeCopies copies, VolumesLink link, const engine::Container& container, Cancel cancel, Cancel stop);
  class Written;
  Result<> add(const engine::Mount& mount, const std::string& generation);
  Result<> build_on(Volume& volume);
  Result<> ask_hashes(Volume& volume, const std::string& path);
  Result<> round(Volume& volume, const std::vector<pid_t>* still);
  Result<> round_of_all(const std::vector<pid_t>* still);
  void go_on();

  const Cancel cancel_;
  Cancel stop_;  // of the thread
  VolumeCopies copies_;
  const VolumesLink link_;
  const std::string engine_;
  const std::string container_;
  std::unique_ptr<PeerSession> session_;
  std::unique_ptr<wire::LaneSender> lanes_;
  std::vector<Volume> volumes_;
  std::unique_ptr<Written> written_;
  std::atomic<uint64_t> sent_ = 0;
  std::atomic<uint32_t> rounds_ = 0;
  Result<> outcome_;  // of the thread
  Thread thread_;
};

}  // namespace transship::migrate
