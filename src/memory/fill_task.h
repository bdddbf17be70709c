// One restored process whose memory is being filled through its userfaultfd.
#pragma once
#include <deque>
#include <map>
#include <memory>
#include <set>
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

// One thread.
class FillTask {
 public:
  // The first process of `space`. `uffd` must not block.
  FillTask(Fd uffd, std::shared_ptr<FillSpace> space, PageStore& store);
  ~FillTask();
  FillTask(const FillTask&) = delete;
  FillTask& operator=(const FillTask&) = delete;

  // Reads all events, serves all faults that can be served. Children by fork are added to `children`.
  void handle(std::vector<std::unique_ptr<FillTask>>& children);
  // New pages have arrived.
  void arrived(std::vector<std::unique_ptr<FillTask>>& children);
  // What is due: faults again, then up to `bytes` that nobody has asked for yet.
  void work(uint64_t bytes, std::vector<std::unique_ptr<FillTask>>& children);
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
  const FillSpace& space() const { return *space_; }
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
  FillTask(Fd uffd, const FillTask& parent);
  bool read_events(std::vector<std::unique_ptr<FillTask>>& children);
  void forget(uint64_t address, uint64_t bytes);
  void serve_faults(std::vector<std::unique_ptr<FillTask>>& children);
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
  std::shared_ptr<FillSpace> space_;
  PageStore& store_;
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
