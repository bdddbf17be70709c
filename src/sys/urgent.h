// Work that clients wait for: it must not queue behind whatever else the host is doing.
#pragma once
#include <sys/resource.h>
#include <unistd.h>

namespace transship::sys {

inline constexpr int kUrgentNice = -20;

// The calling thread is first at the processors while this exists; so is what it starts meanwhile, threads and
// processes (CRIU gives restored tasks their own priority back). Made and destroyed by one thread. Without
// CAP_SYS_NICE nothing changes.
class Urgent {
 public:
  Urgent() : before_(::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()))) { set(kUrgentNice); }
  ~Urgent() { set(before_); }
  // For a thread that was started by an urgent one and is not.
  static void inherit_not() { set(0); }
  Urgent(const Urgent&) = delete;
  Urgent& operator=(const Urgent&) = delete;

 private:
  static void set(int nice) { (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), nice); }
  const int before_;
};

}  // namespace transship::sys
