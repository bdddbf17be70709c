#include "base/thread.h"

#include <pthread.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

namespace transship {

Thread::Thread(std::string name, std::function<void()> body)
    : thread_([name = std::move(name), body = std::move(body)] {
        pthread_setname_np(pthread_self(), name.substr(0, 15).c_str());  // the kernel takes no longer one
        try {
          body();
        } catch (const std::exception& e) {
          std::fprintf(stderr, "transship: thread %s: exception: %s\n", name.c_str(), e.what());
          std::abort();
        }
      }) {}

Thread& Thread::operator=(Thread&& other) noexcept {
  join();
  thread_ = std::move(other.thread_);
  return *this;
}

Thread::~Thread() { join(); }

void Thread::join() {
  if (thread_.joinable()) thread_.join();
}

}  // namespace transship
