#include "cli/grpc_daemon.h"

#include <grpcpp/grpcpp.h>

#include <cerrno>
#include <chrono>

#include "base/cancel.h"
#include "proto/local.grpc.pb.h"
#include "proto/peer.pb.h"

namespace transship::cli {
namespace {

using std::chrono::seconds;

constexpr seconds kQuick(15);
constexpr seconds kCancelDeadline(5);
// An arbiter may be asked in vain first, and then the container is let go or ended.
constexpr seconds kResolveDeadline(40);
// Engines may hold a container's lock for some seconds while something else starts or stops it.
constexpr seconds kEngines(60);
// Measures the link to the other node, and waits for that node's engines.
constexpr seconds kMeasuring(120);

Errc errc_from_name(std::string_view name, Errc otherwise) {
  for (int i = 0; i <= static_cast<int>(Errc::kInternal); ++i)
    if (errc_name(static_cast<Errc>(i)) == name) return static_cast<Errc>(i);
  return otherwise;
}

Errc errc_from_status(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::CANCELLED: return Errc::kCancelled;
    case grpc::StatusCode::INVALID_ARGUMENT: return Errc::kInvalidArgument;
    case grpc::StatusCode::DEADLINE_EXCEEDED: return Errc::kTimeout;
    case grpc::StatusCode::NOT_FOUND: return Errc::kNotFound;
    case grpc::StatusCode::ALREADY_EXISTS: return Errc::kAlreadyExists;
    case grpc::StatusCode::PERMISSION_DENIED:
    case grpc::StatusCode::FAILED_PRECONDITION: return Errc::kRefused;
    case grpc::StatusCode::RESOURCE_EXHAUSTED: return Errc::kNoSpace;
    case grpc::StatusCode::UNIMPLEMENTED: return Errc::kKernelFeatureMissing;
    case grpc::StatusCode::DATA_LOSS: return Errc::kCorrupt;
    case grpc::StatusCode::UNAUTHENTICATED: return Errc::kUnauthorized;
    case grpc::StatusCode::UNAVAILABLE: return Errc::kUnavailable;
    default: return Errc::kInternal;
  }
}

class GrpcMoveStream : public MoveStream {
 public:
  using Translate = std::function<Error(const grpc::Status&)>;
  GrpcMoveStream(local::Node::Stub& stub, const local::MoveRequest& request, Translate translate)
      : translate_(std::move(translate)), reader_(stub.Move(&context_, request)) {}
  ~GrpcMoveStream() override {
    context_.TryCancel();
    if (!finished_) (void)reader_->Finish();
  }

  Result<std::optional<local::MoveEvent>> next() override {
    if (finished_) return std::nullopt;
    local::MoveEvent event;
    if (reader_->Read(&event)) return event;
    finished_ = true;
    if (grpc::Status status = reader_->Finish(); !status.ok()) return std::unexpected(translate_(status));
    return std::nullopt;
  }
  void abort() override { context_.TryCancel(); }

 private:
  Translate translate_;
  bool finished_ = false;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<local::MoveEvent>> reader_;
};

class GrpcDaemon : public Daemon {
 public:
  explicit GrpcDaemon(std::string path)
      : path_(std::move(path)),
        stub_(local::Node::NewStub(grpc::CreateChannel("unix:" + path_, grpc::InsecureChannelCredentials()))) {}

  Result<local::InfoReply> info() override { return call(&Stub::Info, local::InfoRequest(), kQuick); }
  Result<local::ContainersReply> containers(const local::ContainersRequest& request) override {
    return call(&Stub::Containers, request, kEngines);
  }
  Result<local::PlanReply> plan(const local::PlanRequest& request) override {
    return call(&Stub::Plan, request, kMeasuring);
  }
  Result<std::unique_ptr<MoveStream>> move(const local::MoveRequest& request) override {
    return std::make_unique<GrpcMoveStream>(*stub_, request, [this](const grpc::Status& s) { return error_of(s); });
  }
  Result<local::MovesReply> moves(const local::MovesRequest& request) override {
    return call(&Stub::Moves, request, kQuick);
  }
  Result<local::ShowReply> show(const local::ShowRequest& request) override {
    return call(&Stub::Show, request, kQuick);
  }
  Result<local::CancelReply> cancel(const local::CancelRequest& request) override {
    return call(&Stub::CancelMove, request, kCancelDeadline);
  }
  Result<local::ResolveReply> resolve(const local::ResolveRequest& request) override {
    return call(&Stub::Resolve, request, kResolveDeadline);
  }
  Result<local::PeerProbeReply> peer_probe(const local::PeerProbeRequest& request) override {
    return call(&Stub::PeerProbe, request, kQuick);
  }
  Result<local::PeerAddReply> peer_add(const local::PeerAddRequest& request) override {
    return call(&Stub::PeerAdd, request, kQuick);
  }
  Result<> peer_remove(const local::PeerRemoveRequest& request) override {
    TS_TRY(call(&Stub::PeerRemove, request, kQuick));
    return {};
  }
  Result<local::PeersReply> peers() override { return call(&Stub::Peers, local::PeersRequest(), kQuick); }
  Result<local::ExposeReply> expose(const local::ExposeRequest& request) override {
    return call(&Stub::Expose, request, kMeasuring);
  }
  Result<local::ExposuresReply> exposures() override {
    return call(&Stub::Exposures, local::ExposuresRequest(), kQuick);
  }
  Result<local::ExposeRemoveReply> expose_remove(const local::ExposeRemoveRequest& request) override {
    return call(&Stub::ExposeRemove, request, kMeasuring);
  }
  Result<local::NetworkCheckReply> network_check(const local::NetworkCheckRequest& request) override {
    return call(&Stub::NetworkCheck, request, kMeasuring);
  }
  Result<local::NamesReply> names() override { return call(&Stub::Names, local::NamesRequest(), kQuick); }
  Result<local::NamesReply> names_setup(const local::NamesSetupRequest& request) override {
    return call(&Stub::NamesSetup, request, kMeasuring);
  }
  Result<local::PeerCheckReply> peer_check(const local::PeerCheckRequest& request) override {
    return call(&Stub::PeerCheck, request, kMeasuring);
  }

 private:
  using Stub = local::Node::Stub;

  template <class Request, class Reply>
  Result<Reply> call(grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Reply*), const Request& request,
                     seconds deadline) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + deadline);
    Reply reply;
    grpc::Status status = (stub_.get()->*method)(&context, request, &reply);
    if (!status.ok()) return std::unexpected(error_of(status));
    return reply;
  }

  // The daemon's own errors come as a Failure in the details; anything else is the library's word.
  Error error_of(const grpc::Status& status) const {
    peer::Failure failure;
    if (!status.error_details().empty() && failure.ParseFromString(status.error_details()) && !failure.code().empty())
      return Error(errc_from_name(failure.code(), errc_from_status(status.error_code())), failure.message())
          .with_remedy(failure.remedy());
    switch (status.error_code()) {
      case grpc::StatusCode::UNAVAILABLE: return unreachable(status.error_message());
      case grpc::StatusCode::DEADLINE_EXCEEDED:
        return Error(Errc::kTimeout, fmt::format("the daemon at {} did not answer in time", path_))
            .with_remedy("look at what it is doing: journalctl -u transshipd");
      case grpc::StatusCode::UNIMPLEMENTED:
        return Error(Errc::kKernelFeatureMissing,
                     fmt::format("the daemon at {} does not know this request; it is another version", path_))
            .with_remedy("restart it after the upgrade: systemctl restart transshipd");
      default: return {errc_from_status(status.error_code()), status.error_message()};
    }
  }

  Error unreachable(const std::string& cause) const {
    int reason = ::access(path_.c_str(), R_OK | W_OK) == 0 ? 0 : errno;
    if (reason == EACCES || reason == EPERM)
      return Error(Errc::kUnauthorized,
                   fmt::format("cannot open the daemon's socket {}: {}", path_, errno_text(reason)))
          .with_errno(reason)
          .with_remedy("only root may ask the daemon: run this with sudo");
    std::string why = reason != 0 ? errno_text(reason) : cause;
    return Error(Errc::kUnavailable, fmt::format("cannot reach the daemon at {}: {}", path_, why))
        .with_errno(reason)
        .with_remedy("start it: systemctl start transshipd (another socket: --socket or TRANSSHIP_SOCKET)");
  }

  std::string path_;
  std::unique_ptr<Stub> stub_;
};

}  // namespace

std::unique_ptr<Daemon> connect_daemon(const std::string& socket_path) {
  return std::make_unique<GrpcDaemon>(socket_path);
}

}  // namespace transship::cli
