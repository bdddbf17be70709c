// For tests that need root: network namespaces of our own, joined by veth pairs. All is gone with the object.
#pragma once
#include <functional>
#include <string>

#include "base/fd.h"

namespace transship::network::testing {

// Empty when namespaces can be made here; else why not.
std::string why_no_namespaces();

class Net {
 public:
  explicit Net(std::string name);
  // Runs `work` in a thread that is in this namespace.
  void in(const std::function<void()>& work) const;
  // `sh -c script` in it; its output. A failure is the test's.
  std::string sh(const std::string& script) const;
  int fd() const { return fd_.get(); }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  Fd fd_;
};

// Interface `a_if` in `a`, its other end `b_if` in `b`; both up.
void join(const Net& a, const std::string& a_if, const Net& b, const std::string& b_if);

}  // namespace transship::network::testing
