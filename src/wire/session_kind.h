// Which kind of reply each kind of request has.
#pragma once
#include "proto/peer.pb.h"

namespace transship::wire {

inline peer::Reply::KindCase reply_kind(peer::Request::KindCase request) {
  using Q = peer::Request;
  using R = peer::Reply;
  switch (request) {
    case Q::kPing: return R::kPing;
    case Q::kNodeFacts: return R::kNodeFacts;
    case Q::kBandwidth: return R::kBandwidth;
    case Q::kJudge: return R::kJudge;
    case Q::kReserve: return R::kReserved;
    case Q::kPrepare: return R::kPrepared;
    case Q::kImageNeeded: return R::kImageNeeded;
    case Q::kImageLoad:
    case Q::kRootfsApplied:
    case Q::kVolumeApplied:
    case Q::kRenew:
    case Q::kPlaced:
    case Q::kExpose:
    case Q::kEntry:
    case Q::kSettled:
    case Q::kMoving:
    case Q::kPause:
    case Q::kAbort: return R::kDone;
    case Q::kArm: return R::kAtGate;
    case Q::kFill: return R::kFill;
    case Q::kVolumeHashes: return R::kVolumeHashes;
    case Q::kTunnel: return R::kTunnel;
    case Q::kNames: return R::kNames;
    case Q::kHandover: return R::kHandover;
    case Q::kRestore: return R::kParked;
    case Q::kCommit: return R::kRunning;
    case Q::kWithdraw:
    case Q::kDecision: return R::kDecision;
    case Q::KIND_NOT_SET: break;
  }
  return R::KIND_NOT_SET;
}

}  // namespace transship::wire
