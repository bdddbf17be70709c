#include "wire/listener.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "wire/testing.h"

namespace transship::wire {
namespace {

using testing::bytes;
using testing::never;
using testing::pin;
using testing::soon;

class ListenerTest : public ::testing::Test {
 protected:
  std::unique_ptr<Listener> start(ListenerOptions options, ConnectionHandler handler) {
    options.address.port = 0;
    auto listener = Listener::start(options, azure_, pin(aws_, "aws"), std::move(handler));
    EXPECT_TRUE(listener) << listener.error().message();
    return std::move(*listener);
  }
  Result<TlsStream> call(const Listener& listener, const Identity& who, std::string host = "127.0.0.1") {
    TS_TRY_ASSIGN(Fd tcp, connect_tcp({std::move(host), listener.address().port}, soon(), never()));
    return TlsStream::client(std::move(tcp), who, azure_.fingerprint(), "azure", soon(), never());
  }
  Result<Fd> knock(const Listener& listener) {
    return connect_tcp({"127.0.0.1", listener.address().port}, soon(), never());
  }
  template <class Condition>
  static bool eventually(Condition condition) {
    for (auto limit = soon(); !limit.passed(); std::this_thread::sleep_for(milliseconds(2)))
      if (condition()) return true;
    return false;
  }
  Identity aws_ = Identity::make_ephemeral().value();
  Identity azure_ = Identity::make_ephemeral().value();
  Identity stranger_ = Identity::make_ephemeral().value();
};

void echo(Accepted connection, const Cancel& cancel) {
  std::byte buffer[64];
  while (true) {
    auto n = connection.stream.read_some(buffer, Deadline::in(milliseconds(30'000)), cancel);
    if (!n || *n == 0) return;
    if (!connection.stream.write_all(std::span(buffer).first(*n), soon(), cancel)) return;
  }
}

TEST_F(ListenerTest, ServesPinnedPeersOnBothFamilies) {
  auto listener = start({}, echo);
  for (const char* host : {"127.0.0.1", "::1"}) {
    auto c = call(*listener, aws_, host);
    ASSERT_TRUE(c) << c.error().message();
    ASSERT_TRUE(c->write_all(bytes("ping"), soon(), never()));
    std::byte got[4];
    ASSERT_TRUE(c->read_exact(got, soon(), never()));
  }
  EXPECT_EQ(listener->counters().accepted, 2U);
}

TEST_F(ListenerTest, TellsTheHandlerWhoItIs) {
  std::mutex mu;
  std::string peer;
  std::string host;
  {
    auto listener = start({}, [&](Accepted c, const Cancel& cancel) {
      {
        std::lock_guard lock(mu);
        peer = c.peer;
        host = c.remote.host;
      }
      echo(std::move(c), cancel);
    });
    auto c = call(*listener, aws_);
    ASSERT_TRUE(c);
    ASSERT_TRUE(c->write_all(bytes("x"), soon(), never()));
    std::byte got[1];
    ASSERT_TRUE(c->read_exact(got, soon(), never()));
  }
  EXPECT_EQ(peer, "aws");
  EXPECT_EQ(host, "127.0.0.1");
}

TEST_F(ListenerTest, StrangersNeverReachTheHandler) {
  std::atomic<int> handled = 0;
  auto listener = start({}, [&](Accepted, const Cancel&) { ++handled; });
  auto c = call(*listener, stranger_);
  ASSERT_TRUE(c);
  std::byte one[1];
  EXPECT_EQ(c->read_some(one, soon(), never()).error().code(), Errc::kUnauthorized);
  EXPECT_EQ(probe_fingerprint({"127.0.0.1", listener->address().port}, soon(), never()).value(), azure_.fingerprint());
  EXPECT_TRUE(eventually([&] { return listener->counters().unauthorized == 2; }));
  EXPECT_EQ(handled, 0);
}

TEST_F(ListenerTest, HandshakesAreBoundedPerSource) {
  ListenerOptions options;
  options.max_handshakes_per_source = 2;
  auto listener = start(options, echo);
  std::vector<Fd> idle;
  for (int i = 0; i < 5; ++i) idle.push_back(knock(*listener).value());
  EXPECT_TRUE(eventually([&] { return listener->counters().turned_away == 3; }));
  EXPECT_EQ(listener->counters().handshakes, 2U);
  // They are closed, not left hanging.
  std::byte one[1];
  EXPECT_TRUE(wait_readable(idle[4].get(), never(), soon(), "the close"));
  auto n = read_some(idle[4].get(), one);
  EXPECT_TRUE(!n || *n == 0);
  // Room again once they are gone.
  idle.clear();
  EXPECT_TRUE(eventually([&] { return listener->counters().handshakes == 0; }));
  EXPECT_TRUE(call(*listener, aws_));
}

TEST_F(ListenerTest, SilentStrangersGoAfterTheLimit) {
  ListenerOptions options;
  options.handshake_limit = milliseconds(30);
  auto listener = start(options, echo);
  auto idle = knock(*listener);
  ASSERT_TRUE(idle);
  EXPECT_TRUE(eventually([&] { return listener->counters().failed == 1; }));
  EXPECT_EQ(listener->counters().handshakes, 0U);
}

TEST_F(ListenerTest, ConnectionsAreBounded) {
  ListenerOptions options;
  options.max_connections = 1;
  auto listener = start(options, echo);
  auto first = call(*listener, aws_);
  ASSERT_TRUE(first);
  EXPECT_TRUE(eventually([&] { return listener->counters().connections == 1; }));
  auto second = call(*listener, aws_);
  std::byte one[1];
  EXPECT_FALSE(second && second->read_exact(one, soon(), never()));
  EXPECT_TRUE(eventually([&] { return listener->counters().turned_away == 1; }));
}

TEST_F(ListenerTest, StopEndsWhatIsGoingOn) {
  auto listener = start({}, echo);
  auto c = call(*listener, aws_);
  auto idle = knock(*listener);
  ASSERT_TRUE(c && idle);
  EXPECT_TRUE(eventually([&] { return listener->counters().connections == 1; }));
  auto begin = Clock::now();
  listener->stop();
  EXPECT_LT(Clock::now() - begin, milliseconds(2'000));
  std::byte one[1];
  EXPECT_FALSE(c->read_exact(one, soon(), never()));
  EXPECT_FALSE(knock(*listener));
}

TEST_F(ListenerTest, DroppedPeerIsCutOff) {
  auto listener = start({}, echo);
  auto c = call(*listener, aws_);
  ASSERT_TRUE(c);
  EXPECT_TRUE(eventually([&] { return listener->counters().connections == 1; }));
  listener->drop_peer("someone-else");
  ASSERT_TRUE(c->write_all(bytes("x"), soon(), never()));
  std::byte one[1];
  EXPECT_TRUE(c->read_exact(one, soon(), never()));
  listener->drop_peer("aws");
  EXPECT_FALSE(c->read_exact(one, soon(), never()));
  EXPECT_TRUE(eventually([&] { return listener->counters().connections == 0; }));
}

TEST_F(ListenerTest, TakenPortIsSaid) {
  auto first = start({}, echo);
  ListenerOptions options;
  options.address = first->address();
  auto second = Listener::start(options, azure_, pin(aws_, "aws"), echo);
  ASSERT_FALSE(second);
  EXPECT_THAT(second.error().message(), ::testing::HasSubstr("listen on"));
  EXPECT_THAT(second.error().remedy(), ::testing::HasSubstr("ss -ltnp"));
}

}  // namespace
}  // namespace transship::wire
