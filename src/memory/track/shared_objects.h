// Shared memory of a container: MAP_SHARED|MAP_ANONYMOUS, memfd, System V. Page tables tell only what was written
// through them, and anybody may write such an object: other processes, write(2). So it is read whole in every round,
// and what is sent is what has another hash than when it was last sent. Right whoever wrote it and how; about 6 GiB/s.
//
// Files of a disk or of a tmpfs (/dev/shm too) that are mapped shared are files: storage moves them, not this.
#pragma once
#include <array>
#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "memory/track/address_space.h"
#include "memory/track/page_runs.h"
#include "memory/track/tracker.h"

namespace transship::memory {

struct SharedRoundStats {
  uint32_t objects = 0;
  uint64_t pages_read = 0;
  uint64_t pages = 0;                 // sent: new, changed, or a hole now (sent as zeros)
  std::chrono::microseconds took{0};  // sink included
};

// One thread.
class SharedObjects {
 public:
  explicit SharedObjects(TaskGroup group);
  // Everything in the first round, later what has changed. The round of the frozen container is like any other. An
  // object is named {kShared, inode}: the number that CRIU uses as its shmid. One that nobody has any more is
  // forgotten. After an error what was not sent counts as sent: start anew.
  Result<SharedRoundStats> round(const PageBlockSink& sink, const Cancel& cancel);
  // Of `range` in the object `inode`: what is sent, as the latest round saw it. Ascending. Nothing of an object that
  // the latest round has not read: what was sent of it earlier may have changed.
  std::vector<PageRange> sent(uint64_t inode, PageRange range) const;
  // As of the latest round: objects that are not read here, and why. CRIU dumps them.
  const std::vector<Untracked>& findings() const { return findings_; }

 private:
  struct Hash {
    uint64_t low = 0;
    uint64_t high = 0;
    bool operator==(const Hash&) const = default;
  };
  static constexpr uint64_t kChunkPages = 512;
  // What was sent last of 512 pages; {0, 0}: nothing.
  struct Chunk {
    std::array<Hash, kChunkPages> sent{};
    std::bitset<kChunkPages> seen;  // holds data in this round
  };
  struct Object {
    std::vector<std::string> paths;  // any of them leads to it
    bool system_v = false;
    uint64_t read_in = 0;  // the latest round that read it
    std::unordered_map<uint64_t, std::unique_ptr<Chunk>> chunks;
  };
  struct Pass;
  Result<> discover();
  Result<> discover_mapped(pid_t pid, const std::string& command, std::map<uint64_t, Object>& now);
  void discover_memfds(pid_t pid, std::map<uint64_t, Object>& now) const;
  Result<Fd> open_object(uint64_t inode, const Object& object) const;
  Result<> read_object(Object& object, int fd, Pass& pass);
  Result<> read_extent(Object& object, int fd, uint64_t start, uint64_t end, Pass& pass);
  Result<> compare_page(Object& object, uint64_t page, const std::byte* content, Pass& pass);
  Result<> send_holes(Object& object, Pass& pass);
  TaskGroup group_;
  uint64_t device_ = 0;  // of the kernel's own tmpfs; 0: not known yet
  uint64_t rounds_ = 0;
  std::map<uint64_t, Object> objects_;
  std::vector<Untracked> findings_;
  std::vector<std::byte> buffer_;
};

}  // namespace transship::memory
