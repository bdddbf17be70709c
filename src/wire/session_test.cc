#include "wire/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "wire/listener.h"
#include "wire/testing.h"

namespace transship::wire {
namespace {

using testing::bytes;
using testing::never;
using testing::plain_pair;
using testing::soon;

peer::Request node_facts() {
  peer::Request r;
  r.mutable_node_facts();
  return r;
}

// A server that answers on a thread of its own until the client ends.
class Server {
 public:
  Server(std::unique_ptr<Stream> stream, RequestHandler handler)
      : stream_(std::move(stream)), thread_([this, handler = std::move(handler)] {
          auto hello = serve_hello(*stream_, "azure", {}, soon(), never());
          result_ = hello ? serve_requests(*stream_, handler, milliseconds(5'000), never())
                          : Result<>(std::unexpected(hello.error()));
          stream_->shutdown();
        }) {}
  Result<> join() {
    if (thread_.joinable()) thread_.join();
    return result_;
  }
  ~Server() { (void)join(); }

 private:
  std::unique_ptr<Stream> stream_;
  Result<> result_;
  std::thread thread_;
};

Result<peer::Reply> describe(const peer::Request& request) {
  if (!request.has_node_facts())
    return std::unexpected(Error(Errc::kNoSpace, "no room for 4 GiB").with_remedy("free some"));
  peer::Reply reply;
  reply.mutable_node_facts()->set_node("azure");
  return reply;
}

TEST(Session, AsksAndIsAnswered) {
  auto [a, b] = plain_pair();
  Server server(std::move(b), describe);
  {
    auto session = Session::over(std::move(a), "aws", soon(), never());
    ASSERT_TRUE(session) << session.error().message();
    EXPECT_EQ((*session)->versions().protocol, kProtocolVersion);
    EXPECT_EQ((*session)->versions().node, "azure");
    EXPECT_EQ((*session)->versions().program, kProgramVersion);
    auto reply = (*session)->call(node_facts(), soon(), never());
    ASSERT_TRUE(reply) << reply.error().message();
    EXPECT_EQ(reply->node_facts().node(), "azure");
    EXPECT_TRUE((*session)->round_trip(3, soon(), never()));
    auto rate = (*session)->measure_bandwidth(1'000'000, soon(), never());
    ASSERT_TRUE(rate) << rate.error().message();
    EXPECT_GT(*rate, 1e6);
  }
  EXPECT_TRUE(server.join());
}

TEST(Session, FailureOfThePeerKeepsItsCodeAndTheSession) {
  auto [a, b] = plain_pair();
  Server server(std::move(b), describe);
  auto session = Session::over(std::move(a), "aws", soon(), never());
  ASSERT_TRUE(session);
  peer::Request commit;
  commit.mutable_commit();
  auto r = (*session)->call(commit, soon(), never());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kNoSpace);
  EXPECT_THAT(r.error().message(), ::testing::HasSubstr("no room for 4 GiB"));
  EXPECT_EQ(r.error().remedy(), "free some");
  EXPECT_FALSE((*session)->broken());
  EXPECT_TRUE((*session)->call(node_facts(), soon(), never()));
}

TEST(Session, LateAnswerBreaksIt) {
  auto [a, b] = plain_pair();
  Cancel release = never();
  Server server(std::move(b), [&](const peer::Request& q) {
    (void)sleep_for(milliseconds(5'000), release);
    return describe(q);
  });
  auto session = Session::over(std::move(a), "aws", soon(), never());
  ASSERT_TRUE(session);
  auto r = (*session)->call(node_facts(), soon(30), never());
  release.cancel("go on");
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kTimeout);
  // A second request must never get the first one's answer.
  auto again = (*session)->call(node_facts(), soon(), never());
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().code(), Errc::kTimeout);
}

peer::PeerMessage hello(uint32_t version, uint32_t version_min, std::string node = "aws",
                        peer::Purpose purpose = peer::PURPOSE_CONTROL) {
  peer::PeerMessage m;
  m.mutable_hello()->set_protocol_version(version);
  m.mutable_hello()->set_protocol_version_min(version_min);
  m.mutable_hello()->set_node(std::move(node));
  m.mutable_hello()->set_purpose(purpose);
  return m;
}

// What a server answers to these first bytes.
struct Answer {
  Result<peer::Hello> server;
  Result<peer::PeerMessage> client;
};
Answer answer_to(const peer::PeerMessage& first, const Admit& admit = {}) {
  auto [a, b] = plain_pair();
  EXPECT_TRUE(send_message(*a, first, soon(), never()));
  auto served = serve_hello(*b, "azure", admit, soon(), never());
  b->finish();
  return {std::move(served), receive_message(*a, soon(), never())};
}

TEST(Hello, NewerClientThatStillSpeaksOursIsFine) {
  auto answer = answer_to(hello(kProtocolVersion + 1, kProtocolVersion));
  ASSERT_TRUE(answer.server);
  ASSERT_TRUE(answer.client);
  EXPECT_EQ(answer.client->hello_reply().protocol_version(), kProtocolVersion);
}

TEST(Hello, NoCommonVersionNamesBoth) {
  auto answer = answer_to(hello(9, 8));
  ASSERT_FALSE(answer.server);
  ASSERT_TRUE(answer.client);
  ASSERT_TRUE(answer.client->has_failure());
  EXPECT_EQ(answer.client->failure().code(), "refused");
  EXPECT_THAT(answer.client->failure().message(), ::testing::HasSubstr("speaks 8 to 9"));
  EXPECT_THAT(answer.client->failure().message(), ::testing::HasSubstr("speaks 1 to 1"));
}

TEST(Hello, NonsenseIsRefused) {
  EXPECT_FALSE(answer_to(hello(0, 0)).server);
  EXPECT_FALSE(answer_to(hello(1, 2)).server);
  EXPECT_FALSE(answer_to(hello(1, 1, "../etc")).server);
  EXPECT_FALSE(answer_to(hello(1, 1, "aws", peer::PURPOSE_INVALID)).server);
  EXPECT_FALSE(answer_to(hello(1, 1, "aws", peer::PURPOSE_LANE)).server);  // no move, no token
  auto lane = hello(1, 1, "aws", peer::PURPOSE_LANE);
  lane.mutable_hello()->set_move_id("m1");
  lane.mutable_hello()->set_lane_token(std::string(129, 'x'));
  EXPECT_FALSE(answer_to(lane).server);
  lane.mutable_hello()->set_lane_token("secret");
  EXPECT_TRUE(answer_to(lane).server);
}

TEST(Hello, AdmitHasTheLastWord) {
  auto answer =
      answer_to(hello(1, 1), [](const peer::Hello&) -> Result<> { return fail(Errc::kNotFound, "no such move"); });
  ASSERT_FALSE(answer.server);
  ASSERT_TRUE(answer.client);
  EXPECT_EQ(answer.client->failure().code(), "not_found");
}

TEST(Hello, RequestBeforeHelloIsRefused) {
  peer::PeerMessage m;
  *m.mutable_request() = node_facts();
  EXPECT_EQ(answer_to(m).server.error().code(), Errc::kPeerProtocol);
}

Result<peer::PeerMessage> receive_bytes(std::string_view text) {
  auto [a, b] = plain_pair();
  EXPECT_TRUE(a->write_all(bytes(text), soon(), never()));
  a->finish();
  return receive_message(*b, soon(), never());
}

TEST(Message, HostileLengthsAreRefusedBeforeAnyMemoryIsTaken) {
  for (std::string_view head : {std::string_view("\0\0\0\0", 4), std::string_view("\x00\x40\x00\x01", 4),
                                std::string_view("\xff\xff\xff\xff", 4)}) {
    auto r = receive_bytes(head);
    ASSERT_FALSE(r);
    EXPECT_EQ(r.error().code(), Errc::kPeerProtocol);
  }
}

TEST(Message, GarbageAndEmptyKindsAreRefused) {
  EXPECT_EQ(receive_bytes(std::string_view("\0\0\0\3\xff\xff\xff", 7)).error().code(), Errc::kPeerProtocol);
  // Field 15, which nobody knows: a message without a kind.
  EXPECT_EQ(receive_bytes(std::string_view("\0\0\0\2\x78\x01", 6)).error().code(), Errc::kPeerProtocol);
}

TEST(Message, CutAtEachByteIsAnError) {
  auto m = hello(1, 1);
  auto [a, b] = plain_pair();
  ASSERT_TRUE(send_message(*a, m, soon(), never()));
  std::string whole(4 + m.ByteSizeLong(), '\0');
  ASSERT_TRUE(b->read_exact(std::as_writable_bytes(std::span(whole)), soon(), never()));
  for (size_t cut = 0; cut < whole.size(); ++cut) {
    auto r = receive_bytes(whole.substr(0, cut));
    ASSERT_FALSE(r) << cut;
    EXPECT_EQ(r.error().code(), Errc::kUnavailable) << cut;
  }
  EXPECT_TRUE(receive_bytes(whole));
}

TEST(Message, EndBetweenMessagesIsNoError) {
  auto [a, b] = plain_pair();
  a->finish();
  auto r = receive_message_or_end(*b, soon(), never());
  ASSERT_TRUE(r);
  EXPECT_FALSE(r->has_value());
}

TEST(Message, TooLongIsNotSent) {
  auto [a, b] = plain_pair();
  peer::PeerMessage m;
  m.mutable_request()->mutable_ping()->set_padding(std::string(kMaxMessageBytes, 'x'));
  auto r = send_message(*a, m, soon(), never());
  ASSERT_FALSE(r);
  EXPECT_EQ(r.error().code(), Errc::kInvalidArgument);
}

TEST(Failure, KeepsEveryCode) {
  for (int i = 0; i <= static_cast<int>(Errc::kInternal); ++i) {
    Error sent(static_cast<Errc>(i), "text");
    EXPECT_EQ(to_error(to_failure(sent)).code(), sent.code());
  }
}

TEST(Failure, TextOfAPeerIsCleaned) {
  peer::Failure f;
  f.set_code("no such code");
  f.set_message("line\n\x1b[2Jred");
  Error e = to_error(f);
  EXPECT_EQ(e.code(), Errc::kUnavailable);
  EXPECT_EQ(e.message(), "line\n?[2Jred");
  f.set_message(std::string(100'000, 'x'));
  EXPECT_LE(to_error(f).message().size(), 4096U);
}

TEST(Failure, BytesThatAreNoTextAreSentAllTheSame) {
  auto f = to_failure(Error(Errc::kNotFound, "file \xff\xfe g\xc3\xbcnstig \xe2\x82\xac \xed\xa0\x80 \xc3"));
  EXPECT_EQ(f.message(), "file ?? g\xc3\xbcnstig \xe2\x82\xac ??? ?");
}

TEST(Session, WholeWayOverTls) {
  Identity aws = Identity::make_ephemeral().value();
  Identity azure = Identity::make_ephemeral().value();
  ListenerOptions options;
  options.address.port = 0;
  auto listener = Listener::start(options, azure, testing::pin(aws, "aws"), [](Accepted c, const Cancel& cancel) {
    if (serve_hello(c.stream, "azure", {}, soon(), cancel))
      (void)serve_requests(c.stream, describe, milliseconds(5'000), cancel);
  });
  ASSERT_TRUE(listener);
  Endpoint address{"127.0.0.1", (*listener)->address().port};
  auto session = Session::connect(aws, {"azure", address, azure.fingerprint()}, "aws", soon(), never());
  ASSERT_TRUE(session) << session.error().message();
  EXPECT_TRUE((*session)->call(node_facts(), soon(), never()));
  EXPECT_EQ((*session)->remote(), address);
  EXPECT_EQ((*session)->local().host, "127.0.0.1");

  Identity stranger = Identity::make_ephemeral().value();
  auto refused = Session::connect(stranger, {"azure", address, azure.fingerprint()}, "aws", soon(), never());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Errc::kUnauthorized) << refused.error().message();
}

}  // namespace
}  // namespace transship::wire
