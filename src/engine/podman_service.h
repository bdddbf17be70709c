// A `podman system service` of our own.
#pragma once
#include <string>

#include "base/cancel.h"
#include "base/mutex.h"
#include "base/result.h"
#include "engine/podman_api.h"
#include "sys/process.h"

namespace transship::engine {

// Podman's create call takes no OCI runtime: a container gets the default one of the service that made it. So those
// that move here are created by a service whose default is transship-runtime. A service that runs since before the
// runtime was installed does not know it and can neither stop nor change such containers, so every other call goes here
// too. It runs from its first use to the end of this object; conmon and what it watches are no children of it.
// Thread-safe.
class PodmanService {
 public:
  // `runtime`: a name of [engine.runtimes] in containers.conf. `run_dir`: the socket and the log go into
  // `run_dir`/podman, which is made (0700).
  PodmanService(std::string program, std::string runtime, const std::string& run_dir);
  ~PodmanService();
  PodmanService(const PodmanService&) = delete;
  PodmanService& operator=(const PodmanService&) = delete;
  // Starts it when it does not run. kUnavailable quotes its log.
  Result<PodmanApi> api();

 private:
  Result<> start() REQUIRES(mutex_);
  // One that a daemon which was killed has left.
  void end_stale();
  Result<> wait_until_up() REQUIRES(mutex_);
  bool up() const REQUIRES(mutex_);
  std::string log_tail() const;
  const std::string program_;
  const std::string runtime_;
  const std::string dir_;
  const std::string socket_;
  const std::string log_;
  const std::string pid_file_;
  Mutex mutex_;  // held while it starts: whoever comes second waits for the same service
  sys::Child child_ GUARDED_BY(mutex_);
};

}  // namespace transship::engine
