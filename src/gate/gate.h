// The daemon's side of the gate: where a container that moves here waits, complete but not running.
//
//   Gate::arm ─▶ (engine starts the container) ─▶ wait_for_runtime ─▶ prepare ─▶ restore ─▶ Parked
//                                                                                           │ release(): it runs
//                                                                                           └ kill(): it never did
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"
#include "gate/protocol.h"

namespace transship::gate {

struct GateOptions {
  std::string gates_dir = kDefaultGatesDir;
  // From the moment the engine's runtime arrives until it must be through: that long the engine's lock is held at most.
  milliseconds hold{5000};
};

struct RestoreOptions {
  // The images are from criu::prepare_lazy_restore(). CRIU's work directory is prepare()'s `work_dir`: a pager must
  // listen at lazy-pages.socket in there before restore(), and must serve faults while the container is parked: CRIU
  // and the kernel write into a task's memory before it runs.
  bool lazy = false;
  // For each of prepare()'s files the key by which CRIU knows it (criu/memfd_images.h); empty: it does not need it.
  std::vector<std::string> inherited;
};

struct ReleaseTimes {
  std::chrono::microseconds network{0};  // hold table gone
  std::chrono::microseconds tasks{0};    // tasks running
};

// A container that is restored, frozen, its network shut. What happens to it is only ever what the owner says: the end
// of this object changes nothing, since frozen is safe. One thread.
class Parked {
 public:
  // After a restart of the daemon, from what facts() said. kNotFound when it is gone.
  static Result<Parked> adopt(const std::string& facts);
  Parked(Parked&&) noexcept;
  Parked& operator=(Parked&&) noexcept;
  ~Parked();
  pid_t pid() const;
  const std::string& cgroup() const;
  // One line for the journal.
  std::string facts() const;
  // Frozen, and its network shut?
  Result<> verify() const;
  // Opens its network, then lets it run. Idempotent: can be repeated when it failed half way. `opened` is called in
  // between: what is led to it before that is dropped.
  Result<ReleaseTimes> release(Deadline deadline, const std::function<void()>& opened = {});
  // Kills its tasks while their network is shut. The engine then removes the container.
  Result<> kill(Deadline deadline);

 private:
  friend class Gate;
  struct State;
  explicit Parked(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// One move. One thread at a time; the engine's start runs in another one meanwhile.
class Gate {
 public:
  // From here on the runtime lets no fresh copy of this container start. `container_id` as the engine passes it to its
  // OCI runtime. kAlreadyExists when there is a gate for it.
  static Result<Gate> arm(const std::string& container_id, const GateOptions& options = {});
  Gate(Gate&&) noexcept;
  Gate& operator=(Gate&&) noexcept;
  // Calls abort() unless restore() succeeded, and removes the gate.
  ~Gate();
  // The engine has called the runtime. Its answer has the bundle.
  Result<Message> wait_for_runtime(Deadline deadline, const Cancel& cancel);
  // Has everything done that needs no images. `images_dir` must hold descriptors.json; `work_dir` is for logs (tmpfs).
  // `files`: sys::kMaxPacketFds at most, lent. CRIU has them open from then on.
  Result<> prepare(const std::string& images_dir, const std::string& work_dir, Deadline deadline, const Cancel& cancel,
                   std::span<const int> files = {});
  // The images are complete. Returns with the container parked, and the engine's runtime through.
  Result<Parked> restore(Deadline deadline, const Cancel& cancel) {
    return restore(RestoreOptions{}, deadline, cancel);
  }
  Result<Parked> restore(const RestoreOptions& options, Deadline deadline, const Cancel& cancel);
  // The engine's start fails with this reason; nothing of the container is left when it has.
  void abort(const std::string& reason);

 private:
  struct State;
  explicit Gate(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// What is left of the gate of a daemon that was killed; its container must be gone.
void remove_gate(const std::string& container_id, const std::string& gates_dir = kDefaultGatesDir);

// At the start of the daemon: removes gates that nobody waits at. Those of parked containers stay. Returns how many.
Result<int> remove_stale_gates(const std::string& gates_dir = kDefaultGatesDir);

}  // namespace transship::gate
