// The register against a real etcd, on a port of the loopback interface, where it is installed.
#include "arbiter/etcd.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "arbiter/said.h"
#include "base/text.h"

namespace transship::arbiter {
namespace {

using arbiter::testing::said;

uint16_t free_port() {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) return 0;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.sin_port);
}

class Etcd {
 public:
  Etcd() : port_(free_port()), directory_(::testing::TempDir() + "/etcd-" + random_hex(6)) { start(); }
  ~Etcd() {
    stop();
    std::filesystem::remove_all(directory_);
  }
  Etcd(const Etcd&) = delete;
  Etcd& operator=(const Etcd&) = delete;
  std::string endpoint() const { return fmt::format("http://127.0.0.1:{}", port_); }
  void start() {
    auto peer = fmt::format("http://127.0.0.1:{}", free_port());
    // It ends with this program, however that ends.
    std::vector<std::string> words = {"setpriv",
                                      "--pdeathsig=KILL",
                                      "etcd",
                                      "--name=one",
                                      "--data-dir=" + directory_,
                                      "--listen-client-urls=" + endpoint(),
                                      "--advertise-client-urls=" + endpoint(),
                                      "--listen-peer-urls=" + peer,
                                      "--initial-advertise-peer-urls=" + peer,
                                      "--initial-cluster=one=" + peer,
                                      "--unsafe-no-fsync",
                                      "--log-level=error"};
    std::vector<char*> argv;
    for (auto& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    if (::posix_spawnp(&pid_, "setpriv", nullptr, nullptr, argv.data(), environ) != 0) pid_ = 0;
  }
  void signal(int number) const { ::kill(pid_, number); }
  // Until none of its threads runs.
  void freeze() const {
    signal(SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }
  void stop() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::kill(pid_, SIGCONT);
    ::waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }

 private:
  uint16_t port_;
  std::string directory_;
  pid_t pid_ = 0;
};

class EtcdTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    if (::access("/usr/bin/etcd", X_OK) != 0) return;
    etcd_ = new Etcd;
    Cancel never = *Cancel::create();
    auto arbiter = make("probe");
    for (auto limit = Deadline::in(milliseconds(20'000)); !limit.passed();)
      if (arbiter->check(Deadline::in(milliseconds(500)), never)) break;
  }
  static void TearDownTestSuite() {
    delete etcd_;
    etcd_ = nullptr;
  }
  void SetUp() override {
    if (etcd_ == nullptr) GTEST_SKIP() << "etcd is not installed";
  }
  static std::unique_ptr<Arbiter> make(const std::string& node, std::vector<std::string> endpoints = {},
                                       milliseconds lease = milliseconds(2000)) {
    EtcdOptions options;
    options.endpoints = endpoints.empty() ? std::vector{etcd_->endpoint()} : std::move(endpoints);
    options.node = node;
    options.lease = lease;
    options.try_limit = milliseconds(300);
    return make_etcd_arbiter(std::move(options));
  }
  static Deadline soon() { return Deadline::in(milliseconds(5000)); }
  static Etcd* etcd_;
  const std::string id_ = random_hex(5);
  Cancel never_ = *Cancel::create();
};
Etcd* EtcdTest::etcd_ = nullptr;

TEST_F(EtcdTest, TheFirstWriterHasDecided) {
  auto aws = make("aws");
  auto azure = make("azure");
  EXPECT_EQ(said(aws->decision(id_, soon(), never_)), "nothing");
  EXPECT_EQ(said(aws->decide(id_, Decision::kAbort, soon(), never_)), "abort");
  EXPECT_EQ(said(azure->decide(id_, Decision::kCommit, soon(), never_)), "abort");
  EXPECT_EQ(said(aws->decide(id_, Decision::kAbort, soon(), never_)), "abort");
  EXPECT_EQ(said(azure->decision(id_, soon(), never_)), "abort");
}

TEST_F(EtcdTest, AHeldSourceIsNotTakenOverAndOneThatIsGoneIs) {
  auto aws = make("aws");
  auto azure = make("azure");
  {
    auto hold = aws->hold_source(id_, soon(), never_);
    ASSERT_TRUE(hold) << hold.error().message();
    EXPECT_TRUE((*hold)->check());
    EXPECT_EQ(said(azure->take_over(id_, Decision::kCommit, soon(), never_)), "nothing");
    // Longer than the lease: it is kept alive.
    ::usleep(2'600'000);
    EXPECT_EQ(said(azure->take_over(id_, Decision::kCommit, soon(), never_)), "nothing");
    EXPECT_TRUE((*hold)->check());
  }
  EXPECT_EQ(said(azure->take_over(id_, Decision::kCommit, soon(), never_)), "commit");
  EXPECT_EQ(said(aws->decide(id_, Decision::kAbort, soon(), never_)), "commit");
}

TEST_F(EtcdTest, WhatIsDecidedIsNotTakenOver) {
  auto aws = make("aws");
  EXPECT_EQ(said(aws->decide(id_, Decision::kAbort, soon(), never_)), "abort");
  EXPECT_EQ(said(aws->take_over(id_, Decision::kCommit, soon(), never_)), "abort");
  EXPECT_TRUE(aws->retire(id_, soon(), never_));
  EXPECT_EQ(said(aws->decision(id_, soon(), never_)), "abort");
  EXPECT_TRUE(aws->retire(id_ + "-none", soon(), never_));
}

TEST_F(EtcdTest, OneEndpointThatAnswersIsEnough) {
  auto aws = make("aws", {"http://127.0.0.1:1", etcd_->endpoint()});
  EXPECT_EQ(said(aws->decide(id_, Decision::kCommit, soon(), never_)), "commit");
  auto health = aws->check(soon(), never_);
  ASSERT_TRUE(health);
  EXPECT_EQ(health->identity, make("azure")->check(soon(), never_)->identity);
}

TEST_F(EtcdTest, NoAnswerIsNotANo) {
  auto aws = make("aws", {"http://127.0.0.1:1"});
  auto begin = Clock::now();
  auto decided = aws->decide(id_, Decision::kCommit, Deadline::in(milliseconds(400)), never_);
  ASSERT_FALSE(decided);
  EXPECT_EQ(decided.error().code(), kOutcomeUnknown);
  EXPECT_LT(Clock::now() - begin, milliseconds(1500));
  EXPECT_EQ(aws->take_over(id_, Decision::kCommit, Deadline::in(milliseconds(100)), never_).error().code(),
            kOutcomeUnknown);
  EXPECT_EQ(aws->decision(id_, Deadline::in(milliseconds(100)), never_).error().code(), Errc::kUnavailable);
}

TEST_F(EtcdTest, OneThatHangsCostsOneTryAndCanBeCalledOff) {
  auto aws = make("aws");
  ASSERT_TRUE(aws->check(soon(), never_));
  etcd_->freeze();
  auto begin = Clock::now();
  auto decided = aws->decide(id_, Decision::kCommit, Deadline::in(milliseconds(700)), never_);
  EXPECT_LT(Clock::now() - begin, milliseconds(1500));
  Cancel cancel = *Cancel::create();
  cancel.cancel("enough");
  auto called_off = aws->decision(id_, soon(), cancel);
  etcd_->signal(SIGCONT);
  ASSERT_FALSE(decided);
  EXPECT_EQ(decided.error().code(), kOutcomeUnknown);
  EXPECT_EQ(called_off.error().code(), Errc::kCancelled);
  // What was sent may have arrived: whoever asks again sees the same as everybody.
  auto stands = aws->decide(id_, Decision::kAbort, soon(), never_);
  ASSERT_TRUE(stands) << stands.error().message();
  EXPECT_EQ(said(aws->decision(id_, soon(), never_)), said(stands));
}

TEST_F(EtcdTest, AnotherClusterBehindTheSameNameIsAnError) {
  Etcd other;
  auto aws = make("aws", {other.endpoint(), etcd_->endpoint()});
  for (auto limit = Deadline::in(milliseconds(20'000)); !limit.passed();)
    if (make("aws", {other.endpoint()})->check(Deadline::in(milliseconds(500)), never_)) break;
  ASSERT_TRUE(aws->check(soon(), never_));
  other.stop();
  auto health = aws->check(soon(), never_);
  ASSERT_FALSE(health);
  EXPECT_EQ(health.error().code(), Errc::kCorrupt) << health.error().message();
}

}  // namespace
}  // namespace transship::arbiter
