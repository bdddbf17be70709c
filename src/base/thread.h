// A named thread that is always joined, and lets no exception out.
#pragma once
#include <functional>
#include <string>
#include <thread>

namespace transship {

// One owner. Joins in its destructor: whoever owns it must have told the work to end (see Cancel) before that.
class Thread {
 public:
  Thread() = default;
  // `name` is cut to 15 bytes, the kernel's limit. An exception out of `body` is logged to stderr and ends the process:
  // our own code returns errors, so it can only be a bug or memory that ran out.
  Thread(std::string name, std::function<void()> body);
  Thread(Thread&&) = default;
  Thread& operator=(Thread&& other) noexcept;
  ~Thread();
  void join();
  bool joinable() const { return thread_.joinable(); }

 private:
  std::thread thread_;
};

}  // namespace transship
