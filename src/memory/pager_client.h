// transshipd's end of a pager (pager.h), and of the memory that the two share.
//
// Before the restore: spawn, then expect() for every process of the images; its lazy-pages.socket is then in the
// directory that CRIU must have as its work directory. Pages go into the store at any time; arrived() says so; seal()
// when all of them are there. The pager fills from the moment CRIU has registered the memory, also while the container
// is frozen. One that is killed after the restore is replaced by another, where it is known for sure what is left to
// fill; calls wait meanwhile.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/cancel.h"
#include "base/result.h"
#include "memory/page_store.h"

namespace transship::memory {

struct PagerProgress {
  uint64_t expected_pages = 0;
  uint64_t done_pages = 0;                                       // filled, or not needed any more
  uint64_t faults = 0;                                           // on expected pages
  uint64_t zero_faults = 0;                                      // on pages that nobody expected
  uint64_t requests = 0;                                         // faults on pages that had not arrived
  uint64_t tasks = 0;                                            // that CRIU, or a fork, has brought
  uint64_t tasks_gone = 0;                                       // that ended before they had all their pages
  std::chrono::microseconds cpu{};                               // of the pager; known when it has ended
  std::chrono::microseconds wait_p50{}, wait_p99{}, wait_max{};  // of faults; rounded up by at most a quarter
};

enum class PagerFate {
  kRunning,  // reconnect()
  kFilled,   // it has ended, every process has its memory (or has ended)
  kFailed,   // it has ended for a reason: nothing was restored, or pages could not be filled
  kLost,     // it was killed, or never was: whatever was not filled then reads as zero, so the container must not run
};

// Thread-safe. The destructor leaves the pager alone: it goes on by itself, as after a crash of the daemon.
class PagerClient {
 public:
  struct Options {
    std::string program;   // empty: transship-pager beside this program, or in PATH
    std::string log_file;  // appended to; empty: our own stderr
    // All are called on a thread of the client's own, and must not call back into it.
    // A page that somebody waits for and that is not in the store: once for each page, and once more after reconnect().
    std::function<void(SpaceId space, uint64_t address)> on_request = {};
    // The pager was killed, and another one goes on: a sentence for a person. Pages that are waited for are asked for
    // again.
    std::function<void(const std::string& text)> on_replaced = {};
    // Memory cannot be filled, or the pager has died and none can go on. Nothing reads as zero yet, as long as this
    // client exists: whoever touches such a page waits. So the container must be killed before the client is destroyed.
    std::function<void(const Error& error)> on_trouble = {};
  };

  // Makes the pager listen in `dir` (absolute, exists, 0700). `store` is shared with it and must outlive the client.
  static Result<std::unique_ptr<PagerClient>> spawn(PageStore& store, const std::string& dir, Options options,
                                                    Deadline deadline);
  // The pager of a daemon that has died. The store comes from it: see store().
  static Result<std::unique_ptr<PagerClient>> reconnect(const std::string& dir, Options options, Deadline deadline);
  static PagerFate fate(const std::string& dir);

  ~PagerClient();
  PagerClient(const PagerClient&) = delete;
  PagerClient& operator=(const PagerClient&) = delete;

  PageStore& store();
  pid_t pid() const;

  // The pages that process `space` (kTask) must get, those that its images mark as lazy: ascending, not overlapping. A
  // range should not cross the end of a mapping (it costs time only). Also for processes without such pages: the pager
  // refuses those that it has not heard of. Told again, before the process comes, the new ones count.
  Result<> expect(SpaceId space, std::span<const PageRange> ranges, Deadline deadline);
  // After put(): whoever waits for these pages gets them. Cheap; once for many batches is fine.
  void arrived();
  // Nothing more comes: all expected pages must be in the store, else kCorrupt names the first that is not. From now on
  // the pager needs no daemon.
  Result<> seal(Deadline deadline);

  PagerProgress progress() const;
  // CRIU is through, and from here on another pager can take this one's place: who says that the container can run has
  // to know that first. An error: it died before, or the deadline passed.
  Result<> wait_replaceable(Deadline deadline, const Cancel& cancel);
  // Until every process has its memory. kTimeout, kCancelled: it goes on. Otherwise see on_trouble.
  Result<> wait_done(Deadline deadline, const Cancel& cancel);
  // The pager ends without filling. Only when the container never ran, or has been killed.
  Result<> abort(Deadline deadline);

 private:
  struct State;
  explicit PagerClient(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace transship::memory
