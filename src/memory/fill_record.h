// What the successor of a pager that was killed must know: which pages of which process are still to be filled, and
// where they are now. In memory that the pager shares with transshipd, which outlives it (pager_link.h).
//
// A snapshot, and the log of what came after it. The kernel's events are read straight into the log, by the one call
// that takes them out of the kernel's queue: whenever the pager is killed, an event is in the queue or in the log, and
// nothing has to be guessed. Pages that are filled change nothing here: the page store has that, or the kernel says so.
//
// Two slots, each a snapshot with a log of its own. The next snapshot is written into the slot that does not count;
// when it is whole, one store makes that one count.
#pragma once
#include <linux/userfaultfd.h>

#include <map>
#include <memory>
#include <set>
#include <span>
#include <vector>

#include "base/fd.h"
#include "base/result.h"
#include "memory/fill_map.h"
#include "memory/page.h"

namespace transship::memory {

// As it was when the pager died. Pages that were filled since the last snapshot still count as to be filled.
struct FillRecord {
  struct Space {
    bool claimed = false;  // its process has come
    bool forked = false;   // ... and has had children, which need its pages too
    std::vector<PageRange> expected = {};
  };
  struct Task {
    uint64_t space = 0;
    bool forked = false;  // it is such a child
    bool done = false;    // nothing was left to fill, or it had ended
    FillMap todo = {};
  };
  uint64_t next_index = 1;
  std::map<uint64_t, Space> spaces = {};  // by their id; all of kind kTask
  std::map<uint64_t, Task> tasks = {};
};

// Of a pager that is dead. kUnavailable: it had none, or has given it up; kCorrupt.
Result<FillRecord> read_fill_record(int fd);
// Of one that may still live.
enum class RecordState : uint8_t {
  kNone,    // it has not heard yet that CRIU is through
  kThere,   // another one can go on from it
  kNoMore,  // none ever can: it was given up, or has too many pieces
};
RecordState fill_record_state(int fd);
// kUnavailable: a process that is not done has no descriptor among those of the tasks `there`. It was forked when the
// pager died: its descriptor died with it. Descriptors of tasks that are not in the record are of some that were done.
Result<> check_descriptors(const FillRecord& record, const std::set<uint64_t>& there);

// The pager's end. One thread.
class FillRecorder {
 public:
  static constexpr size_t kEvents = 16;  // in one batch

  static Result<std::unique_ptr<FillRecorder>> create();
  ~FillRecorder();
  FillRecorder(const FillRecorder&) = delete;
  FillRecorder& operator=(const FillRecorder&) = delete;
  int fd() const { return fd_.get(); }

  // Where the next events of `task` are to be read to, with one call; empty: the log is full, see wants_snapshot().
  // Before the first snapshot nothing is recorded.
  std::span<uffd_msg> room(uint64_t task);
  // They are there, and done with. Faults alone need no record: the kernel tells them again to whom has woken the
  // threads.
  void keep();
  // Before anybody is told that the task is done. False: the log is full; nothing is recorded.
  bool note_done(uint64_t task);
  bool wants_snapshot() const;

  // A snapshot: begin(), all spaces, all tasks, commit(). Never between room() and the end of what was read.
  void begin(uint64_t next_index, size_t spaces, size_t tasks);
  void add(SpaceId space, bool claimed, bool forked, std::span<const PageRange> expected);
  void add(uint64_t index, SpaceId space, bool forked, bool done, const FillMap& todo);
  // What does not fit is not recorded at all: there will be no successor.
  void commit();
  // Something is wrong with a process's memory, or with this record: nobody is to go on from it.
  void give_up();

 private:
  struct Shared;
  struct Batch;
  FillRecorder(Fd fd, Shared* shared) : fd_(std::move(fd)), shared_(shared) {}
  void put(uint64_t word);
  Batch* next_batch(uint64_t task);
  friend Result<FillRecord> read_fill_record(int fd);
  friend RecordState fill_record_state(int fd);

  Fd fd_;
  Shared* shared_ = nullptr;
  uint32_t writing_ = 0;  // the slot
  uint64_t words_ = 0;    // written into it
  std::vector<uffd_msg> unrecorded_ = std::vector<uffd_msg>(kEvents);
};

}  // namespace transship::memory
