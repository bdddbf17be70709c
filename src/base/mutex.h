// A mutex that clang's thread safety analysis can check (std::mutex of libstdc++ carries no annotations).
#pragma once
#include <condition_variable>
#include <mutex>

#if defined(__clang__)
#define TS_TSA(x) __attribute__((x))
#else
#define TS_TSA(x)
#endif
#define GUARDED_BY(m) TS_TSA(guarded_by(m))
#define REQUIRES(...) TS_TSA(requires_capability(__VA_ARGS__))

namespace transship {

class TS_TSA(capability("mutex")) Mutex {
 public:
  void lock() TS_TSA(acquire_capability()) { m_.lock(); }
  void unlock() TS_TSA(release_capability()) { m_.unlock(); }

 private:
  std::mutex m_;
};

class TS_TSA(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex& m) TS_TSA(acquire_capability(m)) : m_(m) { m_.lock(); }
  ~MutexLock() TS_TSA(release_capability()) { m_.unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& m_;
};

// Waits are always in a loop around the condition; the mutex must be held.
using CondVar = std::condition_variable_any;

}  // namespace transship
