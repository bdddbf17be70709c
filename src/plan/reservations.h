// What this node has promised to moves on their way here: memory, image space, storage, names, ports, addresses; each
// with a time to live, so that a source that dies takes nothing with it. Pure: the clock is handed in. Thread-safe.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/mutex.h"
#include "base/result.h"

namespace transship::plan {

struct Amounts {
  uint64_t memory_bytes = 0;
  uint64_t images_bytes = 0;  // memory too (tmpfs), and counted as such
  uint64_t storage_bytes = 0;
};

// What the node has free at the moment, reservations not subtracted.
struct Capacity {
  uint64_t memory_available = 0;
  uint64_t images_free = 0;
  uint64_t storage_free = 0;
};

struct ReservedPort {
  std::string host_ip;  // empty: every address
  uint16_t port = 0;
  std::string protocol;
};

struct Reservation {
  std::string move_id;
  std::string source;  // the peer's name
  std::string engine;
  std::string name;  // of the container; unique per engine
  Amounts amounts;
  std::vector<ReservedPort> ports;
  std::vector<std::string> addresses;
  milliseconds ttl{30'000};
  Clock::time_point expires;  // set by the book
};

class ReservationBook {
 public:
  using Now = std::function<Clock::time_point()>;
  explicit ReservationBook(Now now = Clock::now) : now_(std::move(now)) {}

  // kRefused with what is short and who holds the rest; kAlreadyExists when name, port, address or move id is held by a
  // move on its way here. Ones that have expired do not count. `capacity` is what the caller has just measured.
  Result<> reserve(Reservation wanted, const Capacity& capacity);
  // From now on another ttl. kNotFound when it has expired or never was: the move must stop.
  Result<> renew(const std::string& move_id);
  // What is still to come, once part of it is really in use and so missing from the measured capacity already. Never
  // grows. Unknown ids are ignored.
  void lower(const std::string& move_id, const Amounts& left);
  // Idempotent.
  void release(const std::string& move_id);
  // Takes out and returns what has expired; the caller undoes what those moves left.
  std::vector<Reservation> take_expired();
  bool holds(const std::string& move_id) const;
  Amounts totals() const;
  std::vector<Reservation> list() const;

 private:
  Amounts totals_locked(Clock::time_point now) const REQUIRES(mutex_);
  Now now_;
  mutable Mutex mutex_;
  std::map<std::string, Reservation> held_ GUARDED_BY(mutex_);
};

}  // namespace transship::plan
