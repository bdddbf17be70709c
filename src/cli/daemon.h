// What the commands ask of the daemon. The real one is in grpc_daemon.h; tests bring their own answers.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "proto/local.pb.h"

namespace transship::cli {

// The events of one move. next() is for one thread; abort() may come from any other and makes next() return soon.
class MoveStream {
 public:
  virtual ~MoveStream() = default;
  // Empty at the end of the stream.
  virtual Result<std::optional<local::MoveEvent>> next() = 0;
  virtual void abort() = 0;
};

// Thread-safe. Every call has a deadline. An error of the daemon comes with its code, message and remedy.
class Daemon {
 public:
  virtual ~Daemon() = default;
  virtual Result<local::InfoReply> info() = 0;
  virtual Result<local::ContainersReply> containers(const local::ContainersRequest& request) = 0;
  virtual Result<local::PlanReply> plan(const local::PlanRequest& request) = 0;
  virtual Result<std::unique_ptr<MoveStream>> move(const local::MoveRequest& request) = 0;
  virtual Result<local::MovesReply> moves(const local::MovesRequest& request) = 0;
  virtual Result<local::ShowReply> show(const local::ShowRequest& request) = 0;
  virtual Result<local::CancelReply> cancel(const local::CancelRequest& request) = 0;
  virtual Result<local::ResolveReply> resolve(const local::ResolveRequest& request) = 0;
  virtual Result<local::PeerProbeReply> peer_probe(const local::PeerProbeRequest& request) = 0;
  virtual Result<local::PeerAddReply> peer_add(const local::PeerAddRequest& request) = 0;
  virtual Result<> peer_remove(const local::PeerRemoveRequest& request) = 0;
  virtual Result<local::PeersReply> peers() = 0;
  virtual Result<local::PeerCheckReply> peer_check(const local::PeerCheckRequest& request) = 0;
  virtual Result<local::ExposeReply> expose(const local::ExposeRequest& request) = 0;
  virtual Result<local::ExposuresReply> exposures() = 0;
  virtual Result<local::ExposeRemoveReply> expose_remove(const local::ExposeRemoveRequest& request) = 0;
  virtual Result<local::NetworkCheckReply> network_check(const local::NetworkCheckRequest& request) = 0;
  virtual Result<local::NamesReply> names() = 0;
  virtual Result<local::NamesReply> names_setup(const local::NamesSetupRequest& request) = 0;
};

}  // namespace transship::cli
