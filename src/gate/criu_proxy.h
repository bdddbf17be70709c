// Between runc and the CRIU that it started: edits the restore request, and parks the container on the way.
#pragma once
#include <sys/types.h>

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/result.h"
#include "base/thread.h"
#include "sys/cgroup.h"
#include "sys/nft_table.h"

namespace transship::gate {

// What CRIU sent over when it stepped in: see criu_role.h.
struct CriuSockets {
  Fd runc;
  Fd criu;
  int images_fd = -1;  // numbers in CRIU's descriptor table
  int work_fd = -1;
  std::vector<int> files = {};
};
// Gives CRIU `files`, which are lent.
Result<CriuSockets> receive_criu_sockets(int connection, std::span<const Fd> files);

// From here on nothing gets into or out of this network namespace (a file that stands for it) until the release: a
// connection that is not restored yet would be answered with its end, and one that is must not act. Also the lock on
// which CRIU relies when the dump was made without one of CRIU's own. kRefused for the host's.
Result<sys::NftSocket> hold_network(const std::string& netns);

// One thread. Calls happen in the order in which they are declared here.
class CriuProxy {
 public:
  // `held`: of hold_network(), where there was a network namespace before CRIU; else it is held as soon as CRIU has
  // made one.
  CriuProxy(CriuSockets sockets, std::optional<sys::NftSocket> held)
      : sockets_(std::move(sockets)), nft_(std::move(held)) {}
  // Takes runc's request; by then runc has put CRIU into the container's cgroup.
  Result<> take_request();
  // Memory that the images mark as lazy comes from a pager that CRIU connects to.
  Result<> set_lazy();
  // Which of the files that CRIU was given it looks for, and by which key; empty: it does not look for it.
  Result<> set_inherited(const std::vector<std::string>& keys);
  // A duplicate of this socket keeps CRIU waiting should this process die.
  int criu_socket() const { return sockets_.criu.get(); }
  const std::string& cgroup() const { return cgroup_; }
  // Lets CRIU restore. Returns with the tasks frozen and their network shut, CRIU having ended its work with success.
  // `stop`: readable when it must be given up (message or end of the gate's connection); `why` then tells the reason,
  // or nothing when it may go on. `on_stage` hears of every stage and of the first process. Failure: no task is left.
  Result<> restore(Deadline deadline, int stop, const std::function<std::optional<Error>()>& why,
                   const std::function<void(const std::string& stage, pid_t pid)>& on_stage);
  pid_t container_pid() const { return pid_; }
  // The socket in the container's network namespace with which the hold table was made.
  int netfilter_socket() const { return nft_ ? nft_->fd() : -1; }
  // Kills whatever of the container there is.
  void kill_all();

 private:
  Result<bool> step(Deadline deadline, int stop, const std::function<std::optional<Error>()>& why,
                    const std::function<void(const std::string&, pid_t)>& on_stage);
  Result<> handle_notify(std::string_view packet, const std::string& script,
                         const std::function<void(const std::string&, pid_t)>& on_stage);
  Result<> at_stage(const std::string& script);
  void start_leaving_cgroup();
  Result<> freeze();

  CriuSockets sockets_;
  std::string request_;
  std::string cgroup_;
  pid_t criu_pid_ = 0;
  pid_t pid_ = 0;
  bool network_unlocked_ = false;  // from here on CRIU takes no refusal any more
  std::optional<Error> refusal_;   // why CRIU was told to stop
  std::optional<sys::NftSocket> nft_;
  Result<> left_cgroup_;
  Thread leaving_;
};

}  // namespace transship::gate
