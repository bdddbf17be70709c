// The volumes of a container that arrives: rounds that come on their lanes are applied to the directories that the
// engine has made for it, or that an earlier move has left here (migrate/volume_copies.h).
#pragma once
#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "engine/engine.h"
#include "migrate/rootfs_rounds.h"
#include "migrate/volume_copies.h"
#include "proto/peer.pb.h"
#include "storage/block_hashes.h"
#include "storage/watch/tree_watch.h"

namespace transship::migrate {

struct ArrivingOptions {
  std::string move_id;
  std::string source;  // the peer
  std::string node;    // this one
  uint64_t limit = 0;  // bytes that were reserved for all of them together
};

// Thread-safe as far as its source keeps to the protocol: one round of each volume at a time.
class ArrivingVolumes {
 public:
  // `wanted`: with `copy_here` as VolumeCopies::find() has set it. Of copies that are stale the contents are removed;
  // what is about to be filled is written down as such before.
  static Result<std::unique_ptr<ArrivingVolumes>> create(VolumeCopies copies, const engine::Container& wanted,
                                                         const std::vector<engine::StagedVolume>& staged,
                                                         ArrivingOptions options, const Cancel& cancel);
  // After a kill -9 of the daemon that received them: for undone() and arrived() only.
  static std::unique_ptr<ArrivingVolumes> adopt(VolumeCopies copies, const engine::Container& wanted,
                                                const std::vector<engine::StagedVolume>& staged,
                                                ArrivingOptions options, const Cancel& cancel);
  // Ends what is under way.
  ~ArrivingVolumes();
  ArrivingVolumes(const ArrivingVolumes&) = delete;
  ArrivingVolumes& operator=(const ArrivingVolumes&) = delete;

  void describe(peer::Prepared& prepared) const;
  // "volume-1-round-3"
  Result<> receive(const std::string& stream, uint64_t offset, std::span<const std::byte> data);
  // Waits until it is applied and, but for the last one, on disk.
  Result<> wait_applied(const peer::VolumeAppliedRequest& request);
  // Of a large file of a copy that is the same. kNotFound: there is no such file.
  Result<peer::VolumeHashes> hashes(const peer::VolumeHashesRequest& request);

  // The last rounds are near. Returns at once.
  void expect_last();
  // Nothing but the container changes them from here on: kPeerProtocol when a round is not complete. Returns at once.
  Result<> close();
  // All that came is on disk, and it is known what they look like. Before the container may run.
  Result<> settle();

  // It runs here: they are in use. A failure costs no data: on the way back everything will be sent.
  Result<> arrived();
  // Ends what is under way. Then, when the engine has removed what it had made, undone(): what was left here is that
  // again, if nothing was written to it, and else known as a rest.
  void end();
  void undone();

 private:
  struct Volume {
    engine::Mount mount;
    std::string path;
    std::optional<VolumeCopy> before;  // what was left here
    std::atomic<bool> touched = false;
    Fd root;
    std::unique_ptr<storage::TreeWatch> watch;  // null: changes cannot be followed, and it is walked over
    std::optional<storage::Scan> seen;          // by settle_thread_
    std::unique_ptr<RootfsRounds> rounds;       // last: its thread uses the rest
  };
  ArrivingVolumes(VolumeCopies copies, ArrivingOptions options, Cancel cancel);
  Result<> take_over(Volume& volume);
  Result<> undone(Volume& volume);
  Result<Volume*> volume(uint64_t number);
  Result<> apply(Volume& volume, storage::Reader& stream);
  Result<> check_use(uint64_t written);
  Result<storage::Scan> look(const Volume& volume) const;
  Result<> settle_all();

  VolumeCopies copies_;
  const ArrivingOptions options_;
  const Cancel cancel_;
  std::string engine_;
  std::string container_;
  Mutex mu_;
  uint64_t since_look_ GUARDED_BY(mu_) = 0;  // bytes written, since it was looked how much they take
  std::string hashed_;                       // whose hashes these are; one request at a time (hash_mu_)
  storage::FileHashes hashes_;
  Mutex hash_mu_;
  std::vector<std::unique_ptr<Volume>> volumes_;
  Result<> settled_;
  Thread settle_thread_;
};

}  // namespace transship::migrate
