#include "plan/reservations.h"

#include <algorithm>

#include "base/text.h"
#include "plan/predict.h"

namespace transship::plan {

namespace {

// Sums of what peers ask for: a huge number must not wrap round and look small.
uint64_t add(uint64_t a, uint64_t b) {
  uint64_t sum = 0;
  return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

bool same_port(const ReservedPort& a, const ReservedPort& b) {
  auto any = [](const std::string& ip) { return ip.empty() || ip == "0.0.0.0" || ip == "::"; };
  return a.port == b.port && a.protocol == b.protocol && (a.host_ip == b.host_ip || any(a.host_ip) || any(b.host_ip));
}

std::string clash(const Reservation& wanted, const Reservation& held) {
  if (wanted.engine == held.engine && wanted.name == held.name) return fmt::format("the name {}", wanted.name);
  for (const auto& p : wanted.ports)
    if (std::ranges::any_of(held.ports, [&](const auto& q) { return same_port(p, q); }))
      return fmt::format("host port {}/{}", p.port, p.protocol);
  for (const auto& a : wanted.addresses)
    if (std::ranges::contains(held.addresses, a)) return fmt::format("the address {}", a);
  return {};
}

Result<> check_room(const char* what, uint64_t wanted, uint64_t free, uint64_t held, uint64_t margin,
                    const char* remedy) {
  uint64_t taken = add(held, margin);
  uint64_t left = free > taken ? free - taken : 0;
  if (wanted <= left) return {};
  return std::unexpected(
      Error(Errc::kRefused,
            fmt::format("reserve {} of {}: {} are left ({} free, {} promised to other moves, {} kept for the host)",
                        format_bytes(wanted), what, format_bytes(left), format_bytes(free), format_bytes(held),
                        format_bytes(margin)))
          .with_remedy(remedy));
}

}  // namespace

Amounts ReservationBook::totals_locked(Clock::time_point now) const {
  Amounts sum;
  for (const auto& [id, r] : held_) {
    if (r.expires <= now) continue;
    sum.memory_bytes = add(sum.memory_bytes, r.amounts.memory_bytes);
    sum.images_bytes = add(sum.images_bytes, r.amounts.images_bytes);
    sum.storage_bytes = add(sum.storage_bytes, r.amounts.storage_bytes);
  }
  return sum;
}

Result<> ReservationBook::reserve(Reservation wanted, const Capacity& capacity) {
  MutexLock lock(mutex_);
  auto now = now_();
  for (const auto& [id, held] : held_) {
    // One that has expired still has its remains here until take_expired(): its own move may not come back meanwhile.
    if (id == wanted.move_id)
      return fail(Errc::kAlreadyExists, "reserve for move {}: it has a reservation already", id);
    if (held.expires <= now) continue;
    if (auto what = clash(wanted, held); !what.empty())
      return fail(Errc::kAlreadyExists, "reserve {}: {} is taken by move {} from {}, which is under way", wanted.name,
                  what, id, held.source);
  }
  Amounts held = totals_locked(now);
  constexpr const char* kWait = "wait until those moves are through, or choose another destination";
  TS_TRY(check_room("memory", add(wanted.amounts.memory_bytes, wanted.amounts.images_bytes), capacity.memory_available,
                    add(held.memory_bytes, held.images_bytes), kMemoryMargin, kWait));
  TS_TRY(
      check_room("memory for images", wanted.amounts.images_bytes, capacity.images_free, held.images_bytes, 0, kWait));
  TS_TRY(check_room("container storage", wanted.amounts.storage_bytes, capacity.storage_free, held.storage_bytes,
                    kStorageMargin, kWait));
  wanted.expires = now + wanted.ttl;
  held_.emplace(wanted.move_id, std::move(wanted));
  return {};
}

Result<> ReservationBook::renew(const std::string& move_id) {
  MutexLock lock(mutex_);
  auto now = now_();
  auto it = held_.find(move_id);
  if (it == held_.end() || it->second.expires <= now)
    return fail(Errc::kNotFound, "renew the reservation of move {}: it has expired", move_id);
  it->second.expires = now + it->second.ttl;
  return {};
}

void ReservationBook::lower(const std::string& move_id, const Amounts& left) {
  MutexLock lock(mutex_);
  auto it = held_.find(move_id);
  if (it == held_.end()) return;
  Amounts& a = it->second.amounts;
  a.memory_bytes = std::min(a.memory_bytes, left.memory_bytes);
  a.images_bytes = std::min(a.images_bytes, left.images_bytes);
  a.storage_bytes = std::min(a.storage_bytes, left.storage_bytes);
}

void ReservationBook::release(const std::string& move_id) {
  MutexLock lock(mutex_);
  held_.erase(move_id);
}

std::vector<Reservation> ReservationBook::take_expired() {
  MutexLock lock(mutex_);
  auto now = now_();
  std::vector<Reservation> expired;
  for (auto it = held_.begin(); it != held_.end();) {
    if (it->second.expires > now) {
      ++it;
      continue;
    }
    expired.push_back(std::move(it->second));
    it = held_.erase(it);
  }
  return expired;
}

bool ReservationBook::holds(const std::string& move_id) const {
  MutexLock lock(mutex_);
  auto it = held_.find(move_id);
  return it != held_.end() && it->second.expires > now_();
}

Amounts ReservationBook::totals() const {
  MutexLock lock(mutex_);
  return totals_locked(now_());
}

std::vector<Reservation> ReservationBook::list() const {
  MutexLock lock(mutex_);
  std::vector<Reservation> all;
  for (const auto& [id, r] : held_) all.push_back(r);
  return all;
}

}  // namespace transship::plan
