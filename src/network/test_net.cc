#include "network/test_net.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include "base/thread.h"
#include "sys/process.h"

namespace transship::network::testing {

std::string why_no_namespaces() {
  if (::geteuid() != 0) return "not root";
  if (::access("/dev/net/tun", R_OK | W_OK) != 0) return "no /dev/net/tun";
  std::string why;
  Thread("probe", [&] {
    if (::unshare(CLONE_NEWNET) != 0) why = "network namespaces: " + errno_text(errno);
  }).join();
  return why;
}

Net::Net(std::string name) : name_(std::move(name)) {
  Thread("netns", [&] {
    TS_CHECK(::unshare(CLONE_NEWNET) == 0, "unshare");
    auto fd = open_file("/proc/thread-self/ns/net", O_RDONLY);
    TS_CHECK(fd, "open namespace");
    fd_ = std::move(*fd);
  }).join();
  (void)sh("ip link set lo up");
}

void Net::in(const std::function<void()>& work) const {
  Thread(name_, [&] {
    TS_CHECK(::setns(fd_.get(), CLONE_NEWNET) == 0, "setns");
    work();
  }).join();
}

std::string Net::sh(const std::string& script) const {
  std::string out;
  in([&] {
    auto r = sys::run_ok({.argv = {"sh", "-ec", script}});
    if (!r) ADD_FAILURE() << name_ << ": " << r.error().message();
    if (r) out = r->out;
  });
  return out;
}

void join(const Net& a, const std::string& a_if, const Net& b, const std::string& b_if) {
  auto other = fmt::format("/proc/{}/fd/{}", ::getpid(), b.fd());
  (void)a.sh(fmt::format("ip link add {} type veth peer name {}; ip link set {} netns {}; ip link set {} up", a_if,
                         b_if, b_if, other, a_if));
  (void)b.sh(fmt::format("ip link set {} up", b_if));
}

}  // namespace transship::network::testing
