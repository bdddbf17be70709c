#include "node/node_service.h"

#include <grpcpp/grpcpp.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "migrate/planner.h"
#include "node/exposed.h"
#include "node/network_watch.h"
#include "node/peers.h"
#include "proto/local.grpc.pb.h"
#include "wire/message.h"

namespace transship::node {
namespace {

constexpr milliseconds kConnectLimit{10'000};
constexpr milliseconds kFeedPause{250};
constexpr size_t kMaxMoves = 1000;

grpc::StatusCode status_code(Errc code) {
  switch (code) {
    case Errc::kInvalidArgument: return grpc::StatusCode::INVALID_ARGUMENT;
    case Errc::kNotFound: return grpc::StatusCode::NOT_FOUND;
    case Errc::kAlreadyExists: return grpc::StatusCode::ALREADY_EXISTS;
    case Errc::kRefused:
    case Errc::kNotConverged: return grpc::StatusCode::FAILED_PRECONDITION;
    case Errc::kTimeout: return grpc::StatusCode::DEADLINE_EXCEEDED;
    case Errc::kCancelled: return grpc::StatusCode::CANCELLED;
    case Errc::kUnauthorized: return grpc::StatusCode::PERMISSION_DENIED;
    case Errc::kNoSpace: return grpc::StatusCode::RESOURCE_EXHAUSTED;
    case Errc::kUnavailable: return grpc::StatusCode::UNAVAILABLE;
    default: return grpc::StatusCode::INTERNAL;
  }
}

// The message for people; the remedy, if any, as a Failure in the details.
grpc::Status to_status(const Error& error) {
  return {status_code(error.code()), error.message(), wire::to_failure(error).SerializeAsString()};
}

// Errors by value in, status out; the one place where a library's exception is caught on this side.
template <class F>
grpc::Status answer(F&& body) {
  try {
    if (Result<> r = body(); !r) return to_status(r.error());
    return grpc::Status::OK;
  } catch (const std::exception& e) {
    TS_LOG_ERROR("exception in a request: {}", e.what());
    return {grpc::StatusCode::INTERNAL, e.what()};
  }
}

template <class Reply>
Result<> give(Result<Reply> result, Reply* reply) {
  if (!result) return std::unexpected(std::move(result).error());
  *reply = std::move(*result);
  return {};
}

local::MoveRecord to_record(const state::Move& move, bool with_summary) {
  local::MoveRecord r;
  r.set_move_id(move.id);
  r.set_container(move.container);
  r.set_from(move.from);
  r.set_to(move.to);
  r.set_role(move.role);
  r.set_state(move.state);
  r.set_phase(move.phase);
  r.set_started_unix_ms(move.started_ms);
  r.set_ended_unix_ms(move.ended_ms);
  r.set_error(move.error);
  if (with_summary && !move.summary.empty() && move.state == "done")
    (void)r.mutable_summary()->ParseFromString(move.summary);
  return r;
}

class NodeService final : public local::Node::Service {
 public:
  NodeService(migrate::Services& services, migrate::MoveTable& moves, TunnelKeeper& tunnel,
              migrate::Placements& placements, migrate::Exposer& exposer, NamesKeeper& names, wire::Listener& listener)
      : services_(services),
        moves_(moves),
        tunnel_(tunnel),
        placements_(placements),
        exposer_(exposer),
        names_(names),
        listener_(listener) {}

  grpc::Status Info(grpc::ServerContext*, const local::InfoRequest*, local::InfoReply* reply) override {
    return answer([&]() -> Result<> {
      TS_TRY_ASSIGN(NodeFacts facts, services_.node_facts());
      *reply->mutable_facts() = migrate::to_proto(facts);
      reply->set_fingerprint(services_.identity.fingerprint().text());
      reply->set_listen_address(wire::to_text(listener_.address()));
      reply->set_moves_running(static_cast<uint32_t>(moves_.running()));
      *reply->mutable_tunnel() = tunnel_.info();
      *reply->mutable_names() = names_.state();
      return {};
    });
  }

  grpc::Status Containers(grpc::ServerContext*, const local::ContainersRequest* request,
                          local::ContainersReply* reply) override {
    return answer([&]() -> Result<> {
      TS_TRY_ASSIGN(NodeFacts facts, services_.node_facts());
      for (const auto& engine : services_.engines) list_engine(*engine, request->all(), facts, *reply);
      return {};
    });
  }

  grpc::Status Plan(grpc::ServerContext* context, const local::PlanRequest* request, local::PlanReply* reply) override {
    return answer([&]() -> Result<> {
      TS_TRY_ASSIGN(Cancel cancel, Cancel::create());
      TS_TRY_ASSIGN(wire::PeerTarget target, services_.peer(request->peer()));
      auto session = wire::Session::connect(services_.identity, target, services_.settings.node,
                                            Deadline::in(kConnectLimit), cancel);
      if (session) tunnel_.met(request->peer());
      migrate::PlanWishes wishes;
      wishes.new_address = request->new_address();
      TS_TRY_ASSIGN(auto planned, migrate::make_plan(services_, request->container(), request->peer(),
                                                     session ? session->get() : nullptr,
                                                     session ? "" : session.error().message(), wishes, cancel));
      *reply = migrate::to_reply(planned);
      (void)context;
      return {};
    });
  }

  grpc::Status Move(grpc::ServerContext* context, const local::MoveRequest* request,
                    grpc::ServerWriter<local::MoveEvent>* writer) override {
    return answer([&]() -> Result<> {
      migrate::SourceRequest wanted;
      wanted.container = request->container();
      wanted.peer = request->peer();
      wanted.keep_source = request->keep_source();
      wanted.new_address = request->new_address();
      wanted.max_bits_per_second = request->max_bits_per_second();
      TS_TRY_ASSIGN(wanted.memory, migrate::memory_options(*request));
      TS_TRY_ASSIGN(auto started, moves_.start(std::move(wanted)));
      tunnel_.met(request->peer());
      watch(*context, *request, started, *writer);
      return {};
    });
  }

  grpc::Status Moves(grpc::ServerContext*, const local::MovesRequest* request, local::MovesReply* reply) override {
    return answer([&]() -> Result<> {
      size_t limit = request->limit() == 0 ? 20 : std::min<size_t>(request->limit(), kMaxMoves);
      TS_TRY_ASSIGN(auto moves, services_.store->moves(limit));
      for (const auto& move : moves) {
        auto whole = services_.store->move(move.id);  // the list comes without summaries
        *reply->add_moves() = to_record(whole ? *whole : move, true);
      }
      return {};
    });
  }

  grpc::Status Show(grpc::ServerContext*, const local::ShowRequest* request, local::ShowReply* reply) override {
    return answer([&]() -> Result<> {
      auto move = services_.store->move(request->move_id());
      if (!move) return std::unexpected(std::move(move).error().with_remedy("`transship moves` lists the moves"));
      *reply->mutable_move() = to_record(*move, true);
      TS_TRY_ASSIGN(auto events, services_.store->events(request->move_id(), 0));
      for (const auto& event : events) (void)reply->add_events()->ParseFromString(event.bytes);
      if (auto standing = moves_.standing(request->move_id()); standing)
        reply->set_explanation(migrate::explain(*standing, unix_ms_now()));
      return {};
    });
  }

  grpc::Status Resolve(grpc::ServerContext*, const local::ResolveRequest* request,
                       local::ResolveReply* reply) override {
    return answer([&]() -> Result<> {
      migrate::OperatorsWord word{request->commit() ? state::Decision::kCommit : state::Decision::kAbort,
                                  request->without_arbiter()};
      auto standing = moves_.standing(request->move_id());
      if (!standing)
        return std::unexpected(std::move(standing).error().with_remedy("`transship moves` lists the moves"));
      reply->set_explanation(migrate::explain(*standing, unix_ms_now()));
      TS_TRY_ASSIGN(*reply->mutable_risk(), migrate::risk_of(*standing, word));
      if (!request->confirmed()) return {};
      TS_TRY(moves_.resolve(request->move_id(), word));
      reply->set_done(true);
      return {};
    });
  }

  grpc::Status CancelMove(grpc::ServerContext*, const local::CancelRequest* request,
                          local::CancelReply* reply) override {
    return answer([&]() -> Result<> {
      auto cancelled = moves_.cancel(request->move_id(), "the operator called it off");
      if (auto known = services_.store->move(request->move_id()); !cancelled && known && known->role == "source")
        return {};  // it is over: was_running stays false
      if (!cancelled)
        return std::unexpected(std::move(cancelled).error().with_remedy(
            "a move is cancelled on its source node; `transship moves` lists them"));
      reply->set_was_running(true);
      reply->set_too_late(!*cancelled);
      return {};
    });
  }

  grpc::Status PeerProbe(grpc::ServerContext*, const local::PeerProbeRequest* request,
                         local::PeerProbeReply* reply) override {
    return answer([&] { return give(probe_peer(services_, request->address()), reply); });
  }
  grpc::Status PeerAdd(grpc::ServerContext*, const local::PeerAddRequest* request,
                       local::PeerAddReply* reply) override {
    return answer([&] { return give(add_peer(services_, tunnel_, *request), reply); });
  }
  grpc::Status PeerRemove(grpc::ServerContext*, const local::PeerRemoveRequest* request,
                          local::PeerRemoveReply*) override {
    return answer([&] { return remove_peer(services_, tunnel_, request->name(), listener_); });
  }
  grpc::Status Peers(grpc::ServerContext*, const local::PeersRequest*, local::PeersReply* reply) override {
    return answer([&] { return give(list_peers(services_, tunnel_), reply); });
  }
  grpc::Status Expose(grpc::ServerContext*, const local::ExposeRequest* request, local::ExposeReply* reply) override {
    return answer([&] { return give(expose(exposer_, *request), reply); });
  }
  grpc::Status Exposures(grpc::ServerContext*, const local::ExposuresRequest*, local::ExposuresReply* reply) override {
    return answer([&] { return give(list_exposures(exposer_), reply); });
  }
  grpc::Status ExposeRemove(grpc::ServerContext*, const local::ExposeRemoveRequest* request,
                            local::ExposeRemoveReply* reply) override {
    return answer([&] { return give(end_exposed(exposer_, *request), reply); });
  }
  grpc::Status NetworkCheck(grpc::ServerContext*, const local::NetworkCheckRequest* request,
                            local::NetworkCheckReply* reply) override {
    return answer([&] { return give(check_network(placements_, exposer_, request->repair()), reply); });
  }

  grpc::Status Names(grpc::ServerContext*, const local::NamesRequest*, local::NamesReply* reply) override {
    return answer([&] { return give(Result<local::NamesReply>(names_.list()), reply); });
  }
  grpc::Status NamesSetup(grpc::ServerContext*, const local::NamesSetupRequest* request,
                          local::NamesReply* reply) override {
    return answer([&]() -> Result<> {
      TS_TRY(names_.set_up(request->remove()));
      *reply = names_.list();
      return {};
    });
  }

  grpc::Status PeerCheck(grpc::ServerContext*, const local::PeerCheckRequest* request,
                         local::PeerCheckReply* reply) override {
    return answer([&] { return give(check_peer(services_, tunnel_, request->name()), reply); });
  }

 private:
  void list_engine(engine::Engine& engine, bool all, const NodeFacts& facts, local::ContainersReply& reply) {
    auto list = engine.list(all);
    if (!list) {
      reply.add_engine_errors(fmt::format("{}: {}", engine.name(), list.error().message()));
      return;
    }
    for (const auto& row : *list) {
      auto survey = migrate::survey(services_, fmt::format("{}:{}", engine.name(), row.id));
      if (!survey && survey.error().code() == Errc::kNotFound) continue;  // gone since
      auto& c = *reply.add_containers();
      c.set_engine(row.engine);
      c.set_id(row.id);
      c.set_name(row.name);
      c.set_image(row.image);
      c.set_state(row.state);
      if (survey)
        judge(*survey, facts, c);
      else
        c.set_why_not(survey.error().message());
    }
  }

  static void judge(const migrate::Survey& survey, const NodeFacts& facts, local::Container& c) {
    c.set_memory_bytes(survey.tasks.memory_bytes);
    for (const auto& a : survey.container.addresses) c.add_addresses(a.ip);
    auto rows =
        plan::source_objections(migrate::container_side(survey.container),
                                survey.container.pid > 0 ? &survey.tasks : nullptr, facts, migrate::abilities());
    c.set_movable(!plan::any_blocks(rows));
    if (!c.movable()) c.set_why_not(plan::blocking_text(rows));
  }

  // A client that goes away calls the move off, unless it asked for the opposite.
  void watch(grpc::ServerContext& context, const local::MoveRequest& request,
             const migrate::MoveTable::Started& started, grpc::ServerWriter<local::MoveEvent>& writer) {
    bool ended = false;
    size_t next = 0;
    while (!ended) {
      for (const auto& event : started.feed->wait(next, Deadline::in(kFeedPause), ended)) {
        if (!writer.Write(event)) break;
      }
      if (!context.IsCancelled()) continue;
      if (!request.detach()) (void)moves_.cancel(started.move_id, "its client went away");
      return;
    }
  }

  migrate::Services& services_;
  migrate::MoveTable& moves_;
  TunnelKeeper& tunnel_;
  migrate::Placements& placements_;
  migrate::Exposer& exposer_;
  NamesKeeper& names_;
  wire::Listener& listener_;
};

class Server final : public LocalServer {
 public:
  Server(migrate::Services& services, migrate::MoveTable& moves, TunnelKeeper& tunnel, migrate::Placements& placements,
         migrate::Exposer& exposer, NamesKeeper& names, wire::Listener& listener)
      : service_(services, moves, tunnel, placements, exposer, names, listener) {}
  ~Server() override {
    if (server_) server_->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(3));
    (void)::unlink(socket_.c_str());
  }
  Result<> listen(const std::string& socket) {
    socket_ = socket;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
    builder.RegisterService(&service_);
    builder.SetMaxReceiveMessageSize(1 << 20);
    // Nobody but root may ever open it, not even between its creation and a chmod.
    mode_t old = ::umask(0177);
    server_ = builder.BuildAndStart();
    ::umask(old);
    if (!server_) return fail(Errc::kUnavailable, "listen on {}: is the directory there, and writable?", socket);
    if (::chmod(socket.c_str(), 0600) != 0) return fail_errno(errno, "chmod {}", socket);
    return {};
  }

 private:
  NodeService service_;
  std::string socket_;
  std::unique_ptr<grpc::Server> server_;
};

bool somebody_listens(const std::string& socket) {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof address.sun_path) return false;
  std::copy(socket.begin(), socket.end(), address.sun_path);
  return ::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
}

}  // namespace

Result<std::unique_ptr<LocalServer>> LocalServer::start(const std::string& socket, migrate::Services& services,
                                                        migrate::MoveTable& moves, TunnelKeeper& tunnel,
                                                        migrate::Placements& placements, migrate::Exposer& exposer,
                                                        NamesKeeper& names, wire::Listener& listener) {
  if (somebody_listens(socket))
    return std::unexpected(Error(Errc::kUnavailable, fmt::format("another transshipd listens on {}", socket))
                               .with_remedy("one daemon per host: `systemctl status transshipd`"));
  (void)::unlink(socket.c_str());
  auto server = std::make_unique<Server>(services, moves, tunnel, placements, exposer, names, listener);
  TS_TRY(server->listen(socket));
  return server;
}

}  // namespace transship::node
