// The client against a real server on a UNIX socket, with answers made up here.
#include "cli/grpc_daemon.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>

#include "cli/fake_daemon.h"
#include "proto/local.grpc.pb.h"
#include "proto/peer.pb.h"

namespace transship::cli {
namespace {

class CannedNode final : public local::Node::Service {
 public:
  grpc::Status Info(grpc::ServerContext*, const local::InfoRequest*, local::InfoReply* reply) override {
    reply->set_fingerprint("SHA256:ours");
    return grpc::Status::OK;
  }
  grpc::Status Show(grpc::ServerContext*, const local::ShowRequest* request, local::ShowReply*) override {
    peer::Failure failure;
    failure.set_code("not_found");
    failure.set_message("no move " + request->move_id());
    failure.set_remedy("see transship moves");
    return {grpc::StatusCode::UNKNOWN, failure.message(), failure.SerializeAsString()};
  }
  grpc::Status Move(grpc::ServerContext* context, const local::MoveRequest* request,
                    grpc::ServerWriter<local::MoveEvent>* writer) override {
    writer->Write(phase_event("plan", local::PHASE_STARTED));
    if (request->container() == "short") {
      writer->Write(summary_event());
      return grpc::Status::OK;
    }
    while (!context->IsCancelled()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    saw_client_leave = true;
    return grpc::Status::CANCELLED;
  }
  std::atomic<bool> saw_client_leave = false;
};

// The sanitizer does not see how a library orders its threads' work that was not built with it, and reports races where
// there are none; gRPC's templates bring them into this program.
#ifdef __SANITIZE_THREAD__
#define SKIP_WITH_THREAD_SANITIZER() GTEST_SKIP() << "Debian's gRPC is not built with the thread sanitizer"
#else
#define SKIP_WITH_THREAD_SANITIZER() (void)0
#endif

class GrpcDaemonTest : public testing::Test {
 protected:
  void SetUp() override {
    SKIP_WITH_THREAD_SANITIZER();
    char name[] = "/tmp/transship-cli-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket(), grpc::InsecureServerCredentials());
    builder.RegisterService(&node_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
    daemon_ = connect_daemon(socket());
  }
  void TearDown() override {
    daemon_.reset();
    if (server_) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(5));
    std::filesystem::remove_all(directory_);
  }
  std::string socket() const { return directory_ + "/s"; }

  std::string directory_;
  CannedNode node_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Daemon> daemon_;
};

TEST_F(GrpcDaemonTest, AnswersComeThrough) {
  auto reply = daemon_->info();
  ASSERT_TRUE(reply) << reply.error().message();
  EXPECT_EQ(reply->fingerprint(), "SHA256:ours");
}

TEST_F(GrpcDaemonTest, ErrorsKeepCodeMessageAndRemedy) {
  local::ShowRequest request;
  request.set_move_id("m9");
  auto reply = daemon_->show(request);
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::kNotFound);
  EXPECT_EQ(reply.error().message(), "no move m9");
  EXPECT_EQ(reply.error().remedy(), "see transship moves");
}

TEST_F(GrpcDaemonTest, AnOlderDaemonIsNamedAsSuch) {
  auto reply = daemon_->peers();
  ASSERT_FALSE(reply);
  EXPECT_NE(reply.error().message().find("another version"), std::string::npos);
}

TEST_F(GrpcDaemonTest, StreamEndsAfterItsEvents) {
  local::MoveRequest request;
  request.set_container("short");
  auto stream = daemon_->move(request);
  ASSERT_TRUE(stream);
  EXPECT_TRUE((*(*stream)->next())->has_phase());
  EXPECT_TRUE((*(*stream)->next())->has_summary());
  EXPECT_FALSE((*stream)->next()->has_value());
}

TEST_F(GrpcDaemonTest, AbortEndsTheWaitAndTheServerNotices) {
  auto stream = daemon_->move(local::MoveRequest());
  ASSERT_TRUE(stream);
  EXPECT_TRUE((*(*stream)->next())->has_phase());
  Thread aborter("abort", [&] { (*stream)->abort(); });
  auto end = (*stream)->next();
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code(), Errc::kCancelled);
  aborter.join();  // or it might still be in there
  stream->reset();
  for (int i = 0; i < 5000 && !node_.saw_client_leave; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_TRUE(node_.saw_client_leave);
}

TEST(GrpcDaemon, WithoutADaemonItSaysWhatToDo) {
  SKIP_WITH_THREAD_SANITIZER();
  auto reply = connect_daemon("/tmp/transship-no-such-socket")->info();
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code(), Errc::kUnavailable);
  EXPECT_EQ(reply.error().message(),
            "cannot reach the daemon at /tmp/transship-no-such-socket: No such file or directory");
  EXPECT_NE(reply.error().remedy().find("systemctl start transshipd"), std::string::npos);
}

}  // namespace
}  // namespace transship::cli
