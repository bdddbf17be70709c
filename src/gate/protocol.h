// What transshipd (which holds the gate) and transship-runtime (which waits at it) say to each other, on a
// SOCK_SEQPACKET unix socket in the gate's directory: one JSON object per packet.
//
//   runtime                                   daemon
//   ── waiting (pid, id, bundle, args) ──────▶
//   ◀── prepare (images, work) + files ───────   descriptors.json is there, the images need not be
//   ── prepared + CRIU's socket ─────────────▶   the engine's runtime has done all it can do without images
//   ◀─────────── restore (lazy, inherited) ───   images complete
//   ── stage (name, pid) … ──────────────────▶   as CRIU announces them
//   ── parked (pid) + netfilter socket ──────▶   frozen, its network shut; the runtime ends with success
//
// At any time: ◀─ abort (reason); ─▶ failed (reason, remedy), then the runtime ends with an error. The end of the
// connection means the same as abort or failed: nothing ever starts without the gate's word.
#pragma once
#include <sys/types.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/cancel.h"
#include "base/fd.h"
#include "base/result.h"
#include "sys/packet.h"

namespace transship::gate {

constexpr int kProtocolVersion = 1;
constexpr const char* kDefaultGatesDir = "/run/transship/gates";
// Overrides the directory above for both sides (tests, several daemons on one machine).
constexpr const char* kGatesDirVariable = "TRANSSHIP_GATES";

// Files in a gate's directory.
constexpr const char* kGateSocket = "gate.sock";
constexpr const char* kGateSettings = "gate.json";  // {"version":1,"hold_ms":5000}; "fault_points": base/fault.h
constexpr const char* kParkedFile = "parked";       // pid and start time; the next `start` takes it and does nothing
// The table that keeps a parked container silent, and the priority of its chains: before everything else.
constexpr const char* kHoldTable = "transship_hold";
constexpr int kHoldPriority = -400;

enum class Kind { kInvalid = 0, kWaiting, kPrepare, kPrepared, kRestore, kStage, kParked, kFailed, kAbort };

struct Message {
  Kind kind = Kind::kInvalid;
  int version = kProtocolVersion;
  pid_t pid = 0;                       // waiting: the runtime itself; stage, parked: the container's first process
  std::string id, bundle;              // waiting
  std::vector<std::string> args;       // waiting
  std::string images_dir, work_dir;    // prepare
  bool lazy = false;                   // restore: memory comes from a pager, see Gate::restore
  std::vector<std::string> inherited;  // restore: likewise, of each file that came with prepare
  std::string name;                    // stage
  std::string cgroup;                  // parked
  std::string reason, remedy;          // failed, abort
};

std::string encode(const Message& message);
Result<Message> decode(std::string_view packet);

struct Received {
  Message message;
  std::vector<Fd> fds;  // what came with it
};

// One end of the connection. One thread.
class Channel {
 public:
  Channel() = default;
  explicit Channel(Fd socket) : socket_(std::move(socket)) {}
  static Result<Channel> connect(const std::string& path);
  // `fds`, sys::kMaxPacketFds at most, are lent to the call: the other side gets duplicates.
  Result<> send(const Message& message, std::span<const int> fds = {});
  // kUnavailable when the other side has gone.
  Result<Received> receive(Deadline deadline, const Cancel* cancel = nullptr);
  int poll_fd() const { return socket_.get(); }
  bool open() const { return socket_.valid(); }
  void close() { socket_.reset(); }

 private:
  Fd socket_;
};

// A listening SOCK_SEQPACKET socket, mode 0600.
Result<Fd> listen_at(const std::string& path);
Result<Fd> accept_one(int listener, Deadline deadline, const Cancel* cancel, int also_watch = -1);

// One packet with any number (at most sys::kMaxPacketFds) of descriptors; raw, for the connection between runc and
// CRIU.
struct Packet {
  std::string data;
  std::vector<Fd> fds;
};
// Does not wait beyond what recvmsg does; an empty packet means the other side has gone.
Result<Packet> receive_packet(int socket);

}  // namespace transship::gate
