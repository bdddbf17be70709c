// With real sockets of a real process in a network namespace; what is taken out is sent again and read by it.
#include "network/unread_datagrams.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/text.h"
#include "base/thread.h"
#include "network/netlink.h"
#include "network/raw_sender.h"
#include "network/test_net.h"

namespace transship::network {
namespace {

using testing::join;
using testing::Net;

// Binds, says its pid, waits until all have been taken and sent again, and says what it reads then.
constexpr auto kReader = R"(
import socket,sys,time,os
four=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); four.bind(("10.9.0.2",7))
both=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); both.bind(("::",8))
idle=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); idle.bind(("127.0.0.1",9))
self=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)
self.sendto(b"to myself",("127.0.0.1",9))
open("/tmp/unread-%s"%sys.argv[1],"w").write(str(os.getpid()))
end=time.time()+10
while os.path.exists("/tmp/unread-%s"%sys.argv[1]) and time.time()<end: time.sleep(0.02)
for s in (four,both):
  s.settimeout(2); got=[]
  try:
    while True:
      data,who=s.recvfrom(70000); got.append("%s/%s/%d/%s"%(who[0].removeprefix("::ffff:"),who[1]==4444,len(data),data[:9].decode()))
      s.settimeout(0.3)
  except TimeoutError: pass
  print(" ".join(got),flush=True)
)";
constexpr auto kSender = R"(
import socket
a=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); a.bind(("10.9.0.1",4444))
for text in (b"one",b"two",b"",b"x"*1400): a.sendto(text,("10.9.0.2",7))
a.sendto(b"mapped",("10.9.0.2",8))
b=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM); b.bind(("fd09::1",4444))
for text in (b"six",b"odd size."): b.sendto(text,("fd09::2",8))
)";

TEST(UnreadDatagramsTest, AreTakenAndReadAfterAll) {
  if (auto why = testing::why_no_namespaces(); !why.empty()) GTEST_SKIP() << why;
  Net near("near"), box("box");
  join(near, "n0", box, "b0");
  (void)near.sh("ip addr add 10.9.0.1/24 dev n0; ip addr add fd09::1/64 dev n0 nodad");
  (void)box.sh("ip link set lo up; ip addr add 10.9.0.2/24 dev b0; ip addr add fd09::2/64 dev b0 nodad");
  auto name = std::to_string(::getpid());
  std::string read;
  Thread reader("reader", [&] { read = box.sh(fmt::format("python3 -c '{}' {}", kReader, name)); });
  auto file = "/tmp/unread-" + name;
  (void)near.sh(fmt::format("for i in $(seq 200); do [ -s {} ] && break; sleep 0.05; done; sleep 0.1", file));
  auto pid = static_cast<pid_t>(std::stol(near.sh("cat " + file)));
  (void)near.sh(fmt::format("python3 -c '{}'; sleep 0.1", kSender));
  UnreadDatagrams unread;
  auto done = take_unread_datagrams({pid}, unread);
  EXPECT_TRUE(done) << done.error().message();
  EXPECT_EQ(unread.packets.size(), 7U);
  EXPECT_EQ(unread.lost, 1U);
  UnreadDatagrams again;
  EXPECT_TRUE(take_unread_datagrams({pid}, again));
  EXPECT_EQ(again.packets.size() + again.lost, 0U);
  near.in([&] {
    auto sender = RawSender::create();
    auto netlink = Netlink::open();
    ASSERT_TRUE(sender && netlink);
    ASSERT_TRUE(sender->bind(*netlink->link_index("n0")));
    for (const auto& packet : unread.packets) {
      auto to =
          std::to_integer<int>(packet[0]) >> 4 == 4 ? *IpAddress::parse("10.9.0.2") : *IpAddress::parse("fd09::2");
      auto sent = sender->send(packet, to);
      EXPECT_TRUE(sent) << sent.error().message();
    }
  });
  (void)near.sh("rm " + file);
  reader.join();
  auto lines = split(trim(read), '\n');
  ASSERT_EQ(lines.size(), 2U) << read;
  EXPECT_EQ(lines[0], "10.9.0.1/True/3/one 10.9.0.1/True/3/two 10.9.0.1/True/0/ 10.9.0.1/True/1400/xxxxxxxxx");
  EXPECT_EQ(lines[1], "10.9.0.1/True/6/mapped fd09::1/True/3/six fd09::1/True/9/odd size.");
}

TEST(UnreadDatagramsTest, NobodyAndTheDead) {
  UnreadDatagrams out;
  EXPECT_TRUE(take_unread_datagrams({}, out));
  EXPECT_FALSE(take_unread_datagrams({999'999'999}, out));
  EXPECT_TRUE(out.packets.empty());
}

}  // namespace
}  // namespace transship::network
