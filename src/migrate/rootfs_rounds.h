// Rounds of the root file system on their way in: one lane brings the stream of a round, a thread applies it meanwhile.
#pragma once
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/cancel.h"
#include "base/mutex.h"
#include "base/thread.h"
#include "storage/byte_stream.h"

namespace transship::migrate {

// Thread-safe. One round at a time, as its source makes them: two that change the same tree at once, or one that goes
// on while the container runs, are no business of an honest one.
class RootfsRounds {
 public:
  using Apply = std::function<Result<>(storage::Reader&)>;
  RootfsRounds(Cancel cancel, Apply apply) : cancel_(std::move(cancel)), apply_(std::move(apply)) {}
  // Ends what is under way.
  ~RootfsRounds() { end(); }
  RootfsRounds(const RootfsRounds&) = delete;
  RootfsRounds& operator=(const RootfsRounds&) = delete;

  // What comes next in the stream `name`; nothing: its end. kPeerProtocol: that is not what comes next.
  Result<> receive(const std::string& name, uint64_t offset, std::span<const std::byte> data);
  // Waits until it has been applied, or not. Its first byte may still be on its way.
  Result<> wait_applied(const std::string& name);
  // No other begins. kPeerProtocol: one that has begun was not waited for.
  Result<> close();
  // The same, and ends what is under way.
  void end();

 private:
  struct Round {
    std::string name;
    std::unique_ptr<storage::StreamPipe> pipe;
    std::atomic<bool> receiving = false;
    uint64_t next_offset = 0;  // of who is receiving
    bool complete = false;     // likewise
    Result<> outcome;
    Thread thread;  // last: is joined before the rest goes
  };
  Result<std::shared_ptr<Round>> round(const std::string& name);
  static Result<> take(Round& round, uint64_t offset, std::span<const std::byte> data);

  const Cancel cancel_;
  const Apply apply_;
  Mutex mu_;
  std::optional<Error> closed_ GUARDED_BY(mu_) = {};
  // Shared: a round that could not be applied is over while its lane still receives.
  std::shared_ptr<Round> round_ GUARDED_BY(mu_);
};

}  // namespace transship::migrate
