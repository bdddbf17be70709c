// Packets for a container that stands still: kept in order instead of lost, delivered after the gap.
//
// States: prepared --begin--> holding --deliver_here--> done   (rollback)
//                                     --deliver_to----> forwarding --grace--> done   (commit)
//                                     --drop--refuse--> refusing   --grace--> done   (commit, and the address ends)
// A lost segment costs its sender a retransmission timeout of 200 ms or more; a kept one costs the gap only.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::network {

struct HoldOptions {
  size_t max_bytes = 64U << 20;             // kept at most; later ones are dropped and counted
  milliseconds grace = milliseconds(3000);  // how long late packets are forwarded after deliver_to
};

struct HoldStats {
  uint64_t held_packets = 0;
  uint64_t held_bytes = 0;
  uint64_t dropped_packets = 0;
  uint64_t failed_packets = 0;  // that the kernel refused on delivery
  uint64_t max_queued_bytes = 0;
  uint64_t held_for_us = 0;  // begin to delivered
  uint64_t delivery_us = 0;
};

// Thread-safe. Owns a TUN device, host routes and a firewall table; the destructor removes all of them in any state
// (packets still held are then lost). Works in the network namespace of the thread that calls prepare().
class PacketHold {
 public:
  // Early, off the frozen path. `addresses`: the container's, without prefix length. kRefused when the host does not
  // forward packets, or when an address is not reached through this host.
  static Result<std::unique_ptr<PacketHold>> prepare(const std::vector<std::string>& addresses,
                                                     const HoldOptions& options = {});
  virtual ~PacketHold() = default;
  // From its return on, packets that reach this host for the addresses are kept. Under a millisecond. Call it before
  // anything locks the container's network.
  virtual Result<> begin() = 0;
  // Puts whole IP packets for the addresses before those that have been kept since begin(): what had arrived, and not
  // been read. Others are left out. Between begin() and the delivery.
  virtual void keep_first(std::vector<std::vector<std::byte>> packets) = 0;
  // Rollback: kept packets go to the container on this host, in order. Call it when the container's network is
  // unlocked.
  virtual Result<> deliver_here() = 0;
  // Commit: kept packets, and late ones for `grace`, go to `destination_host` (its address). Call it after the cutover:
  // a router between the hosts must know the new place already, or the packets come back.
  virtual Result<> deliver_to(const std::string& destination_host) = 0;
  // The same by an interface that leads there and nowhere else (a tunnel).
  virtual Result<> deliver_through(const std::string& interface) = 0;
  // Commit, and nobody has the addresses any more. Kept packets are dropped; new ones reach what is left of the
  // container on this host, to which the ends of its connections are acknowledged.
  virtual Result<> drop() = 0;
  // And when that is through: for `grace` from the last call, whoever sends to the addresses is told at once that they
  // are unreachable.
  virtual Result<> refuse() = 0;
  virtual HoldStats stats() const = 0;
};

// Devices and tables that a crashed daemon left in this network namespace are removed; call once at start. Count.
Result<unsigned> remove_stale_holds();

}  // namespace transship::network
