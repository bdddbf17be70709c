// CRIU's RPC: one protobuf message per packet on a SOCK_SEQPACKET socket. One thread at a time.
#pragma once
#include <csignal>
#include <string>
#include <utility>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/result.h"
#include "proto/criu_rpc.pb.h"
#include "sys/process.h"

namespace transship::criu {

struct PacketSocketPair {
  Fd ours;
  Fd theirs;
};
Result<PacketSocketPair> make_packet_pair();

// `criu swrk` as a child of ours with the other end of the socket. Killed and reaped by the destructor when still
// there.
class Worker {
 public:
  struct Options {
    std::vector<std::string> env = {};                  // "NAME=value", in place of ours or added
    int nice = 0;                                       // added to ours
    std::pair<std::string, std::string> lay_over = {};  // see sys::Child
    int mount_namespace = -1, root = -1;                // see sys::Child
  };
  static Result<Worker> spawn(const std::string& criu_program) { return spawn(criu_program, {}); }
  static Result<Worker> spawn(const std::string& criu_program, const Options& how);
  Result<> send(const rpc::Request& request);
  // kUnavailable when CRIU has gone.
  Result<rpc::Response> receive(Deadline deadline, const Cancel* cancel = nullptr);
  Result<> answer_notify(bool success);
  // Says good-bye and waits for its end; killed at the deadline.
  void finish(Deadline deadline);
  void kill() { child_.kill(SIGKILL); }
  pid_t pid() const { return child_.pid(); }

 private:
  Fd socket_;
  sys::Child child_;
};

}  // namespace transship::criu
