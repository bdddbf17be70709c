// One restored process whose memory is being filled through its userfaultfd.
#pragma once
#include <linux/userfaultfd.h>

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "memory/fill_map.h"
#include "memory/page_store.h"
#include "memory/uffd.h"

namespace transship::memory {

// The pages that one process of the images must get. Its children by fork need them too.
struct FillSpace {
  SpaceId id;
  std::vector<PageRange> expected;  // one or several for each mapping, ascending
  bool claimed = false;             // its process has come
  uint32_t tasks = 0;               // alive
  bool forked = false;              // pages have more than one taker: kept until the last one has what it needs
  std::set<uint64_t> requested;     // of the daemon
};

class FillTask;

// What a task needs of its pager.
class FillHost {
 public:
  // Where its next events are to be read to; empty: not now.
  virtual std::span<uffd_msg> room_for_events(uint64_t task) = 0;
  // What was read there was more than faults, and has been done.
  virtual void events_done() = 0;
  // `uffd` is of a child of `parent`, which was like it until now.
  virtual void forked(const FillTask& parent, Fd uffd) = 0;

 protected:
  ~FillHost() = default;
};

// One thread.
class FillTask {
 public:
  struct Start {
    uint64_t index = 0;
    FillMap todo = {};
    bool forked = false;
    bool restored = false;  // CRIU has registered all that it ever will
  };
  // A process of `space`.
  FillTask(Fd uffd, Start start, std::shared_ptr<FillSpace> space, PageStore& store, FillHost& host);
  // A child by fork.
  FillTask(Fd uffd, uint64_t index, const FillTask& parent);
  ~FillTask();
  FillTask(const FillTask&) = delete;
  FillTask& operator=(const FillTask&) = delete;

  // All pages of `space`, where the images have them.
  static FillMap all_of(const FillSpace& space);
  // Reads all events, serves all faults that can be served.
  void handle();
  // New pages have arrived.
  void arrived();
  // What is due: faults again, then up to `bytes` that nobody has asked for yet.
  void work(uint64_t bytes);
  // Has it ended? For tasks that nothing else is known of.
  void probe();
  // CRIU has registered all that it ever will.
  void restored();

  bool done() const { return gone_ || todo_.empty(); }
  bool gone() const { return gone_; }
  // When something can be done even if no event and no page comes; never: time_point::max().
  Clock::time_point due() const { return gone_ ? Clock::time_point::max() : std::min(retry_at_, next_fill_); }
  Clock::time_point last_fault() const { return last_fault_; }
  int uffd() const { return uffd_.get(); }
  uint64_t index() const { return index_; }
  bool forked() const { return forked_; }
  const FillSpace& space() const { return *space_; }
  const FillMap& todo() const { return todo_; }
  uint64_t bytes_left() const { return gone_ ? 0 : todo_.bytes(); }
  // Pages that somebody waits for, and the store does not have: image addresses, each once.
  std::vector<uint64_t> take_requests() { return std::exchange(requests_, {}); }
  // Those again that are still waited for.
  void repeat_requests();
  // What went wrong, once; empty: nothing.
  std::string take_trouble() { return std::exchange(trouble_, {}); }

 private:
  struct Fault {
    uint64_t address = 0;
    Clock::time_point since;
  };
  bool read_events();
  void take_event(const uffd_msg& message);
  void forget(uint64_t address, uint64_t bytes);
  void serve_faults();
  // false: must be tried again.
  bool serve(const Fault& fault);
  bool served(const Fault& fault, const std::optional<FillMap::Piece>& expected, const FillResult& result);
  void fill_some(uint64_t bytes);
  void look_again_at_waiting();
  void filled(uint64_t address, uint64_t image, uint64_t bytes);
  // false: no more now.
  bool fill_piece(const FillMap::Piece& piece, uint64_t bytes);
  bool copied(const FillMap::Piece& piece, const FillResult& result, uint64_t wanted);
  void nothing_left_to_try();
  void unmapped_for_good();
  void report(std::string text);

  Fd uffd_;
  const uint64_t index_;
  std::shared_ptr<FillSpace> space_;
  PageStore& store_;
  FillHost& host_;
  FillMap todo_;
  const bool forked_;
  bool gone_ = false;
  bool restored_ = false;
  bool reported_ = false;

  std::deque<Fault> faults_;           // not looked at yet
  std::map<uint64_t, Fault> waiting_;  // for pages that have not arrived, by address
  std::vector<uint64_t> requests_;
  std::string trouble_;
  Clock::time_point retry_at_ = Clock::time_point::max();  // faults

  uint64_t cursor_ = 0;
  bool moved_on_ = false;           // something was filled since the cursor was at the start
  std::vector<uint64_t> unmapped_;  // pages that were not registered
  std::optional<uint64_t> absent_;  // image address of a page that was not there
  uint64_t most_ = kPageBytes;      // bytes in one call; grows
  Clock::time_point next_fill_;
  Clock::time_point last_progress_;
  Clock::time_point last_fault_;
};

}  // namespace transship::memory
