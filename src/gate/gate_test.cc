#include "gate/gate.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <thread>

#include "gate/criu_leftovers.h"
#include "sys/file.h"
#include "sys/packet.h"

namespace transship::gate {
namespace {

TEST(Protocol, MessagesSurviveTheWay) {
  Message m;
  m.kind = Kind::kWaiting;
  m.pid = 42;
  m.id = "abc";
  m.bundle = "/b";
  m.args = {"--no-pivot", "x\xff"};
  m.reason = "why \"not\"";
  auto back = decode(encode(m));
  ASSERT_TRUE(back.has_value()) << back.error().message();
  EXPECT_EQ(back->kind, Kind::kWaiting);
  EXPECT_EQ(back->pid, 42);
  EXPECT_EQ(back->args.size(), 2u);
  EXPECT_EQ(back->reason, m.reason);
}

TEST(Protocol, NonsenseAndOtherVersionsAreRefused) {
  for (const auto* text : {"", "7", "{}", R"({"type":"open","version":1})", R"({"type":["parked"],"version":1})"})
    EXPECT_FALSE(decode(text).has_value()) << text;
  auto newer = decode(R"({"type":"parked","version":2})");
  ASSERT_FALSE(newer.has_value());
  EXPECT_NE(newer.error().remedy().find("same version"), std::string::npos);
}

TEST(Protocol, DescriptorsTravel) {
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  Fd a(pair[0]), b(pair[1]);
  auto pipe = make_pipe();
  ASSERT_TRUE(sys::send_packet(a.get(), "hi", std::array{pipe->write.get()}).has_value());
  pipe->write.reset();
  auto got = receive_packet(b.get());
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(got->data, "hi");
  ASSERT_EQ(got->fds.size(), 1u);
  ASSERT_TRUE(write_all(got->fds[0].get(), "x").has_value());
}

class GateTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/ts-gate-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    options_.gates_dir = name;
    cancel_ = *Cancel::create();
  }
  void TearDown() override {
    EXPECT_TRUE(std::filesystem::is_empty(options_.gates_dir)) << "a gate was left behind";
    std::filesystem::remove_all(options_.gates_dir);
  }
  Channel runtime_arrives(const std::string& id) {
    auto channel = Channel::connect(options_.gates_dir + "/" + id + "/" + kGateSocket);
    EXPECT_TRUE(channel.has_value());
    Message hello;
    hello.kind = Kind::kWaiting;
    hello.id = id;
    EXPECT_TRUE(channel->send(hello).has_value());
    return std::move(*channel);
  }
  Deadline soon() { return Deadline::in(milliseconds(5000)); }
  GateOptions options_;
  Cancel cancel_ = *Cancel::create();
};

TEST_F(GateTest, OnlyRootMayComeNear) {
  auto gate = Gate::arm("c1", options_);
  ASSERT_TRUE(gate.has_value()) << gate.error().message();
  using std::filesystem::perms;
  EXPECT_EQ(std::filesystem::status(options_.gates_dir + "/c1").permissions(), perms::owner_all);
  EXPECT_EQ(std::filesystem::status(options_.gates_dir + "/c1/gate.sock").permissions(),
            perms::owner_read | perms::owner_write);
}

TEST_F(GateTest, OneGatePerContainer) {
  auto gate = Gate::arm("c1", options_);
  auto second = Gate::arm("c1", options_);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), Errc::kAlreadyExists);
}

TEST_F(GateTest, NamesThatLeadElsewhereAreRefused) {
  EXPECT_FALSE(Gate::arm("../x", options_).has_value());
  EXPECT_FALSE(Gate::arm("", options_).has_value());
}

TEST_F(GateTest, NobodyComes) {
  auto gate = Gate::arm("c1", options_);
  auto got = gate->wait_for_runtime(Deadline::in(milliseconds(1)), cancel_);
  ASSERT_FALSE(got.has_value());
  EXPECT_EQ(got.error().code(), Errc::kTimeout);
}

TEST_F(GateTest, CalledOffWhileWaiting) {
  auto gate = Gate::arm("c1", options_);
  cancel_.cancel("user");
  EXPECT_EQ(gate->wait_for_runtime(soon(), cancel_).error().code(), Errc::kCancelled);
}

TEST_F(GateTest, AbortReachesTheRuntimeAndWaitsForItsAnswer) {
  auto gate = Gate::arm("c1", options_);
  auto runtime = runtime_arrives("c1");
  ASSERT_TRUE(gate->wait_for_runtime(soon(), cancel_).has_value());
  std::thread other([&] {
    auto order = runtime.receive(soon());
    ASSERT_TRUE(order.has_value());
    EXPECT_EQ(order->message.kind, Kind::kAbort);
    EXPECT_EQ(order->message.reason, "no room");
    Message failed;
    failed.kind = Kind::kFailed;
    failed.reason = "called off";
    EXPECT_TRUE(runtime.send(failed).has_value());
  });
  gate->abort("no room");
  other.join();
}

TEST_F(GateTest, FailureOfTheRuntimeIsReportedInItsWords) {
  auto gate = Gate::arm("c1", options_);
  auto runtime = runtime_arrives("c1");
  ASSERT_TRUE(gate->wait_for_runtime(soon(), cancel_).has_value());
  Message failed;
  failed.kind = Kind::kFailed;
  failed.reason = "runc restore ended with code 1";
  failed.remedy = "do this";
  ASSERT_TRUE(runtime.send(failed).has_value());
  auto r = gate->prepare("/img", "/work", soon(), cancel_);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().message(), failed.reason);
  EXPECT_EQ(r.error().remedy(), failed.remedy);
}

TEST_F(GateTest, FilesForCriuComeWithTheOrders) {
  auto gate = Gate::arm("c1", options_);
  auto runtime = runtime_arrives("c1");
  ASSERT_TRUE(gate->wait_for_runtime(soon(), cancel_).has_value());
  auto pipe = make_pipe();
  std::thread other([&] {
    auto order = runtime.receive(soon());
    ASSERT_TRUE(order.has_value());
    EXPECT_EQ(order->message.kind, Kind::kPrepare);
    ASSERT_EQ(order->fds.size(), 2u);
    EXPECT_TRUE(write_all(order->fds[1].get(), "x").has_value());
    Message prepared;
    prepared.kind = Kind::kPrepared;
    ASSERT_TRUE(runtime.send(prepared, std::array{runtime.poll_fd()}).has_value());
    order = runtime.receive(soon());
    ASSERT_TRUE(order.has_value());
    EXPECT_EQ(order->message.kind, Kind::kRestore);
    EXPECT_TRUE(order->message.lazy);
    EXPECT_EQ(order->message.inherited, (std::vector<std::string>{"", "/memfd:a"}));
    Message failed;
    failed.kind = Kind::kFailed;
    EXPECT_TRUE(runtime.send(failed).has_value());
  });
  auto prepared = gate->prepare("/img", "/work", soon(), cancel_, std::array{pipe->read.get(), pipe->write.get()});
  EXPECT_TRUE(prepared.has_value()) << prepared.error().message();
  RestoreOptions how;
  how.lazy = true;
  how.inherited = {"", "/memfd:a"};
  EXPECT_FALSE(gate->restore(how, soon(), cancel_).has_value());
  other.join();
  std::array<char, 1> got{};
  EXPECT_EQ(::read(pipe->read.get(), got.data(), got.size()), 1);
}

TEST_F(GateTest, RuntimeThatDiesIsNoticed) {
  auto gate = Gate::arm("c1", options_);
  {
    auto runtime = runtime_arrives("c1");
    ASSERT_TRUE(gate->wait_for_runtime(soon(), cancel_).has_value());
  }
  auto r = gate->prepare("/img", "/work", soon(), cancel_);
  ASSERT_FALSE(r.has_value());
}

TEST_F(GateTest, AnswerOutOfTurnIsRefused) {
  auto gate = Gate::arm("c1", options_);
  auto runtime = runtime_arrives("c1");
  ASSERT_TRUE(gate->wait_for_runtime(soon(), cancel_).has_value());
  Message parked;
  parked.kind = Kind::kParked;
  ASSERT_TRUE(runtime.send(parked).has_value());
  auto r = gate->prepare("/img", "/work", soon(), cancel_);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().code(), Errc::kPeerProtocol);
}

TEST_F(GateTest, StaleGatesGoAtTheStartOfTheDaemon) {
  std::filesystem::create_directory(options_.gates_dir + "/old");
  ASSERT_TRUE(sys::write_file_atomic(options_.gates_dir + "/old/gate.json", "{}").has_value());
  ASSERT_TRUE(sys::write_file_atomic(options_.gates_dir + "/old/parked", "999999999 1\n").has_value());
  // A runtime that was killed while it wrote its mark.
  ASSERT_TRUE(sys::write_file_atomic(options_.gates_dir + "/old/parked.tmp1234", "9999").has_value());
  auto n = remove_stale_gates(options_.gates_dir);
  ASSERT_TRUE(n.has_value()) << n.error().message();
  EXPECT_EQ(*n, 1);
  EXPECT_EQ(remove_stale_gates(options_.gates_dir + "/none").value_or(-1), 0);
}

TEST(CriuLeftovers, OnlyNewEmptyOnesGo) {
  char name[] = "/tmp/ts-left-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  std::string tmp = name;
  for (const char* d : {"/.criu.mntns.old111", "/.criu.mntns.new111", "/.criu.mntns.full11", "/other"})
    std::filesystem::create_directory(tmp + d);
  std::filesystem::create_directory(tmp + "/.criu.mntns.full11/x");
  remove_criu_directories({tmp + "/.criu.mntns.old111"}, tmp);
  EXPECT_FALSE(std::filesystem::exists(tmp + "/.criu.mntns.new111"));
  EXPECT_TRUE(std::filesystem::exists(tmp + "/.criu.mntns.old111"));
  EXPECT_TRUE(std::filesystem::exists(tmp + "/.criu.mntns.full11"));
  EXPECT_TRUE(std::filesystem::exists(tmp + "/other"));
  std::filesystem::remove_all(tmp);
}

TEST(ParkedFacts, NonsenseIsNotAdopted) {
  EXPECT_EQ(Parked::adopt("{}").error().code(), Errc::kCorrupt);
  EXPECT_EQ(Parked::adopt(R"({"pid":999999999,"start_time":1,"cgroup":"/x"})").error().code(), Errc::kNotFound);
}

}  // namespace
}  // namespace transship::gate
