// A real server in a network namespace of its own, stopped and in repair mode as CRIU leaves it; clients in another.
#include "network/old_connections.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cancel.h"
#include "base/text.h"
#include "base/thread.h"
#include "network/test_net.h"
#include "sys/process.h"

namespace transship::network {
namespace {

using ::testing::HasSubstr;
using testing::join;
using testing::Net;

// Two clients and one that connects to itself; says which descriptors these are, and stops.
constexpr auto kServer = R"(
import socket,sys,os,signal
l=socket.create_server(("::",7),family=socket.AF_INET6,dualstack_ipv6=True)
open("/tmp/old-%s.ready"%sys.argv[1],"w").write("x")
a,_=l.accept(); b,_=l.accept()
own=socket.create_connection(("127.0.0.1",7)); mine,_=l.accept()
a.sendall(b"last words")
f=open("/tmp/old-%s.tmp"%sys.argv[1],"w"); f.write("%d %d %d %d"%(os.getpid(),a.fileno(),b.fileno(),own.fileno())); f.close()
os.rename(f.name,"/tmp/old-%s"%sys.argv[1])
os.kill(os.getpid(),signal.SIGSTOP)
)";
// Says how its connections end: one that reads, over IPv4, and one over IPv6 that has been asking for something.
constexpr auto kClients = R"(
import socket,sys,time,os
a=socket.create_connection(("10.9.0.2",7)); b=socket.create_connection(("fd09::2",7))
a.settimeout(10); b.settimeout(10)
b.sendall(b"request")
got=b""
while (part:=a.recv(100)): got+=part
print(got.decode(),"then its end")
try: print("and",b.recv(100))
except OSError as e: print("and",e.strerror)
end=time.time()+5
try:
  while time.time()<end: a.sendall(b"x"); time.sleep(0.01)
except OSError as e: print("writing:",e.strerror)
n=socket.socket(); n.settimeout(5)
print("anew:",os.strerror(n.connect_ex(("10.9.0.2",7))))
)";

void repair(pid_t pid, int fd) {
  auto pidfd = sys::pidfd_open(pid);
  ASSERT_TRUE(pidfd);
  Fd socket(static_cast<int>(::syscall(SYS_pidfd_getfd, pidfd->get(), fd, 0)));
  int on = TCP_REPAIR_ON;
  ASSERT_EQ(::setsockopt(socket.get(), IPPROTO_TCP, TCP_REPAIR, &on, sizeof on), 0) << errno_text(errno);
}

TEST(OldConnectionsTest, ClientsSeeAnEndAndNobodyConnectsAnew) {
  if (auto why = testing::why_no_namespaces(); !why.empty()) GTEST_SKIP() << why;
  Net near("near"), box("box");
  join(near, "n0", box, "b0");
  (void)near.sh("ip addr add 10.9.0.1/24 dev n0; ip addr add fd09::1/64 dev n0 nodad");
  (void)box.sh("ip link set lo up; ip addr add 10.9.0.2/24 dev b0; ip addr add fd09::2/64 dev b0 nodad");
  auto name = std::to_string(::getpid());
  auto wait = [&](const std::string& file) {
    return fmt::format("for i in $(seq 200); do [ -s {0} ] && break; sleep 0.05; done; cat {0}", file);
  };
  Thread server("server", [&] { (void)box.sh(fmt::format("python3 -c '{}' {} || true", kServer, name)); });
  (void)near.sh(wait("/tmp/old-" + name + ".ready"));
  std::string seen;
  Thread clients("clients", [&] { seen = near.sh(fmt::format("python3 -c '{}'", kClients)); });
  auto said = split(near.sh(wait("/tmp/old-" + name)), ' ');
  ASSERT_EQ(said.size(), 4U);
  auto pid = static_cast<pid_t>(std::stol(said[0]));
  for (size_t i : {1, 2, 3}) repair(pid, std::stoi(said[i]));

  auto old = OldConnections::take({pid});
  EXPECT_EQ(old.missed(), "");
  EXPECT_EQ(old.size(), 2U) << "the one to itself is none of them";
  auto begun = Clock::now();
  EXPECT_EQ(old.end(milliseconds(1000)), 2U);
  EXPECT_LT(Clock::now() - begun, milliseconds(500)) << "it goes on when all have acknowledged";
  clients.join();
  EXPECT_THAT(seen, HasSubstr("last words then its end"));
  EXPECT_THAT(seen, HasSubstr("and b''"));
  EXPECT_THAT(seen, HasSubstr("writing: Broken pipe"));
  EXPECT_THAT(seen, HasSubstr("anew: Connection refused")) << "the process still stands there";
  (void)::kill(pid, SIGKILL);
  server.join();
  (void)near.sh("rm -f /tmp/old-" + name + "*");
}

TEST(OldConnectionsTest, AProcessThatIsGoneIsSaid) {
  auto old = OldConnections::take({999'999'9});
  EXPECT_EQ(old.size(), 0U);
  EXPECT_NE(old.missed(), "");
}

}  // namespace
}  // namespace transship::network
