// The destination's memory of one move: pages that arrive before the restore, and the pager that hands them to the
// restored processes from then on.
#pragma once
#include <condition_variable>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/cancel.h"
#include "base/mutex.h"
#include "criu/lazy_images.h"
#include "memory/page_store.h"
#include "memory/pager_client.h"
#include "memory/shared_store.h"
#include "migrate/resume_file.h"
#include "proto/peer.pb.h"

namespace transship::migrate {

// Thread-safe: receive*() come from the lanes' threads, the rest from sessions and from the move's own threads.
class ArrivingMemory {
 public:
  // Of shared memory; each travels to CRIU as a descriptor, all in one packet.
  static constexpr size_t kMaxFiles = 48;

  // Called on a thread of its own making.
  struct Told {
    // Once: memory cannot be given to the restored processes any more: they must be killed. Until this object ends they
    // wait.
    std::function<void(const Error&)> lost;
    // The pager was killed and another one goes on: a sentence.
    std::function<void(const std::string&)> replaced;
  };
  // `byte_limit`: what was reserved for pages.
  static Result<std::unique_ptr<ArrivingMemory>> create(uint64_t byte_limit, Told told);
  // After a restart of the daemon: of the pager that start_pager() has started in `work_dir`, which may have ended
  // meanwhile. kCorrupt: not all of the memory could be filled; nobody is told then.
  static Result<std::unique_ptr<ArrivingMemory>> adopt(const std::string& work_dir, Told told);
  // The pager goes on without us until all is filled, unless abort() was called.
  ~ArrivingMemory() = default;

  // One frame of channel kPages: pages to keep. kStalePages: pages that came, and have changed since.
  Result<> receive(std::span<const std::byte> frame);
  Result<> receive_stale(std::span<const std::byte> frame);

  // Before the engine is called: CRIU looks for the pager's socket in `work_dir`.
  Result<> start_pager(const std::string& work_dir);
  // Files of shared memory for CRIU, those that have begun to come: they are complete after prepare(). Once. They stay
  // ours.
  std::vector<int> lend_files();
  // While nothing stands still yet: takes memory in `images_dir` for shared memory that has no file. What fails here is
  // slower later, nothing else.
  void reserve_images(const std::string& images_dir);
  // CRIU's images are complete in `images_dir`: makes them ready for a lazy restore. Unless `post_copy`, a page that is
  // missing is an error (kCorrupt), which names it. Returns for each of the files that were lent CRIU's key of it;
  // empty where CRIU makes the object itself.
  Result<std::vector<std::string>> prepare(const std::string& images_dir, bool post_copy);
  // For the source's FillRequest: waits until there is something to say.
  Result<peer::FillState> fill_state(const peer::FillRequest& request);
  // After the restore, before anybody is told of it: whatever happens to the pager from here on, the container can run.
  Result<> wait_replaceable(const Cancel& cancel);
  // Every page is in the restored processes and the pager has ended.
  Result<> wait_filled(Deadline deadline, const Cancel& cancel);
  // Post-copy: until the source has been answered that all is there; it keeps its frozen processes until then.
  void wait_source_told(Deadline deadline, const Cancel& cancel);
  // The restored processes are dead, or never came to be.
  void abort();
  memory::PagerProgress progress() const;

 private:
  ArrivingMemory(std::optional<memory::PageStore> store, Told told)
      : own_store_(std::move(store)), shared_(kMaxFiles), told_(std::move(told)) {}
  memory::PageStore& store() { return own_store_ ? *own_store_ : pager_->store(); }
  memory::PagerClient::Options pager_options(const std::string& work_dir);
  Result<> check_room();
  Result<> reconnect(const std::string& work_dir);
  Result<std::vector<std::string>> complete_files(const std::string& images_dir);
  Result<> check_complete();
  Result<bool> list_missing(peer::FillState& state, size_t limit);

  std::optional<memory::PageStore> own_store_;  // none: the pager's
  memory::SharedStore shared_;
  std::vector<uint64_t> lent_;  // objects
  const Told told_;
  std::string work_dir_;
  ExpectedPages expected_;  // set once, by prepare() or adopt()
  Mutex mu_;
  std::condition_variable_any changed_;
  // A page that somebody waits for, until it has come: an answer that names it may be lost with its connection.
  struct Wanted {
    memory::SpaceId space;
    uint64_t address = 0;
    Clock::time_point told;  // the source was, last
  };
  uint64_t absent_from(memory::SpaceId space, uint64_t address);
  bool take_wanted(peer::FillState& state) REQUIRES(mu_);
  std::vector<Wanted> wanted_ GUARDED_BY(mu_);
  bool prepared_ GUARDED_BY(mu_) = false;
  bool sealed_ GUARDED_BY(mu_) = false;
  bool follows_ GUARDED_BY(mu_) = false;  // post-copy
  bool told_complete_ GUARDED_BY(mu_) = false;
  std::string lost_ GUARDED_BY(mu_);
  std::unique_ptr<memory::PagerClient> pager_;  // after what its threads use; none, adopted: all is filled
};

}  // namespace transship::migrate
