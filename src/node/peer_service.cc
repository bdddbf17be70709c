#include "node/peer_service.h"

#include "base/fault.h"
#include "base/log.h"
#include "migrate/entry_handover.h"
#include "migrate/planner.h"

namespace transship::node {
namespace {

constexpr milliseconds kHelloLimit{5000};
// A source says something every few seconds (its keep-alive); a reservation ends long before this.
constexpr milliseconds kIdleLimit{10 * 60'000};

// Takes the same time wherever the first difference is.
bool same_token(const std::string& a, const std::string& b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned char>(a[i] ^ b[i]);
  return difference == 0;
}

peer::Reply done() {
  peer::Reply reply;
  reply.mutable_done();
  return reply;
}

// One control session: at most one move.
class ControlSession {
 public:
  ControlSession(migrate::Services& services, migrate::MoveTable& moves, TunnelKeeper& tunnel,
                 migrate::TunnelCutover& cutover, migrate::Exposer& exposer, NamesKeeper& names,
                 migrate::SessionPeer peer, wire::Accepted& connection)
      : services_(services),
        moves_(moves),
        tunnel_(tunnel),
        cutover_(cutover),
        exposer_(exposer),
        names_(names),
        peer_(std::move(peer)),
        remote_(connection.remote),
        stream_(connection.stream) {}

  Result<peer::Reply> answer(const peer::Request& request) {
    if (request.has_tunnel()) return tunnel_.answer(peer_.name, remote_, request.tunnel());
    if (!std::exchange(met_, true)) tunnel_.met(peer_.name);
    switch (request.kind_case()) {
      case peer::Request::kNodeFacts: return node_facts();
      case peer::Request::kJudge: return judge(request.judge());
      case peer::Request::kReserve: return reserve(request.reserve());
      case peer::Request::kDecision: return decision(request.decision().move_id());
      case peer::Request::kCommit: return commit(request.commit().move_id());
      case peer::Request::kWithdraw: return withdraw(request.withdraw().move_id());
      case peer::Request::kFill: return fill(request.fill());
      case peer::Request::kVolumeApplied: return volume_applied(request.volume_applied());
      case peer::Request::kVolumeHashes: return volume_hashes(request.volume_hashes());
      case peer::Request::kPlaced: return done_if(cutover_.told(peer_.name, request.placed()));
      case peer::Request::kExpose: return done_if(exposer_.asked(peer_.name, request.expose()));
      case peer::Request::kEntry: return entry(request.entry());
      case peer::Request::kMoving: return done_if(exposer_.told_moving(peer_.name, request.moving()));
      case peer::Request::kPause: return done_if(exposer_.told_pause(peer_.name, request.pause()));
      case peer::Request::kHandover: return handover(request.handover());
      case peer::Request::kSettled: return settled(request.settled().move_id());
      case peer::Request::kNames: return names_.answer(peer_.name, request.names());
      default: return about_the_move(request);
    }
  }
  const std::shared_ptr<migrate::DestinationMove>& move() const { return move_; }

 private:
  static Result<peer::Reply> done_if(Result<> outcome) {
    if (!outcome) return std::unexpected(std::move(outcome).error());
    return done();
  }
  Result<peer::Reply> entry(const peer::EntryRequest& request) {
    TS_TRY_ASSIGN(bool draining, exposer_.told(peer_.name, request));
    auto reply = done();
    reply.mutable_done()->set_draining(draining);
    reply.mutable_done()->set_state(exposer_.state_for(peer_.name, request));
    return reply;
  }
  Result<peer::Reply> node_facts() {
    TS_TRY_ASSIGN(NodeFacts facts, services_.node_facts());
    peer::Reply reply;
    *reply.mutable_node_facts() = migrate::to_proto(facts);
    return reply;
  }
  Result<peer::Reply> judge(const peer::JudgeRequest& request) {
    TS_TRY(fault::at("destination.plan"));
    peer::Reply reply;
    TS_TRY_ASSIGN(*reply.mutable_judge(), migrate::judge(services_, peer_.name, request));
    return reply;
  }
  Result<peer::Reply> reserve(const peer::ReserveRequest& request) {
    if (move_) return fail(Errc::kPeerProtocol, "this session has reserved already, for move {}", move_->id());
    TS_TRY_ASSIGN(move_, moves_.reserve(peer_, request));
    peer::Reply reply;
    reply.mutable_reserved()->set_reservation_id(move_->id());
    reply.mutable_reserved()->set_lane_token(move_->lane_token());
    reply.mutable_reserved()->set_ttl_seconds(static_cast<uint32_t>(services_.settings.reservation_ttl.count() / 1000));
    return reply;
  }
  Result<peer::Reply> decision(const std::string& move_id) {
    TS_TRY_ASSIGN(peer::Decision decided, moves_.decision(move_id, peer_.name));
    peer::Reply reply;
    reply.mutable_decision()->set_decision(decided);
    return reply;
  }
  Result<peer::Reply> withdraw(const std::string& move_id) {
    TS_TRY_ASSIGN(peer::Decision decided, moves_.withdraw(move_id, peer_.name));
    peer::Reply reply;
    reply.mutable_decision()->set_decision(decided);
    return reply;
  }
  // May come in another session than the rest of the move: the first one was lost on the way.
  Result<peer::Reply> commit(const std::string& move_id) {
    auto move = moves_.find(move_id, peer_.name);
    if (move) return move->commit();
    TS_TRY(moves_.ended_here(move_id, peer_.name));
    peer::Reply reply;
    reply.mutable_running();
    return reply;
  }
  Result<peer::Reply> fill(const peer::FillRequest& request) {
    auto move = moves_.find(request.move_id(), peer_.name);
    if (move) return move->fill(request);
    auto ended = moves_.ended_here(request.move_id(), peer_.name);
    if (!ended && ended.error().code() != Errc::kCorrupt) return std::unexpected(std::move(ended).error());
    peer::Reply reply;
    reply.mutable_fill()->set_complete(ended.has_value());
    if (!ended) reply.mutable_fill()->set_lost(ended.error().message());
    return reply;
  }
  Result<peer::Reply> volume_applied(const peer::VolumeAppliedRequest& request) {
    auto move = moves_.find(request.move_id(), peer_.name);
    if (!move) return fail(Errc::kNotFound, "there is no move {} here", request.move_id().substr(0, 64));
    return move->volume_applied(request);
  }
  Result<peer::Reply> volume_hashes(const peer::VolumeHashesRequest& request) {
    auto move = moves_.find(request.move_id(), peer_.name);
    if (!move) return fail(Errc::kNotFound, "there is no move {} here", request.move_id().substr(0, 64));
    return move->volume_hashes(request);
  }
  Result<peer::Reply> handover(const peer::HandoverRequest& request) {
    peer::Reply reply;
    TS_TRY_ASSIGN(*reply.mutable_handover(), services_.entries->asked(peer_.name, request));
    return reply;
  }
  // One that is not known any more has settled long ago.
  Result<peer::Reply> settled(const std::string& move_id) {
    if (auto move = moves_.find(move_id, peer_.name); move) move->wait_settled();
    return done();
  }
  Result<peer::Reply> about_the_move(const peer::Request& request) {
    if (!move_) return fail(Errc::kPeerProtocol, "this request needs a reservation first");
    move_->renew();
    if (request.has_renew()) return done();
    if (request.has_abort()) {
      TS_TRY(move_->abort(request.abort().reason().substr(0, 500)));
      return done();
    }
    // A source that goes away ends what is being waited for on its behalf.
    TS_TRY_ASSIGN(auto watch, wire::HangupWatch::start(stream_, move_->cancel_signal()));
    switch (request.kind_case()) {
      case peer::Request::kPrepare: return move_->prepare();
      case peer::Request::kImageNeeded: return move_->missing_layers();
      case peer::Request::kImageLoad: return move_->load_image();
      case peer::Request::kRootfsApplied: return move_->rootfs_applied(request.rootfs_applied());
      case peer::Request::kArm: return move_->arm();
      case peer::Request::kRestore: return move_->restore(request.restore());
      default: return fail(Errc::kPeerProtocol, "unknown request {}", static_cast<int>(request.kind_case()));
    }
  }

  migrate::Services& services_;
  migrate::MoveTable& moves_;
  TunnelKeeper& tunnel_;
  migrate::TunnelCutover& cutover_;
  migrate::Exposer& exposer_;
  NamesKeeper& names_;
  const migrate::SessionPeer peer_;
  const wire::Endpoint remote_;
  wire::Stream& stream_;
  bool met_ = false;
  std::shared_ptr<migrate::DestinationMove> move_;
};

}  // namespace

void PeerService::handle(wire::Accepted connection, const Cancel& cancel) {
  auto admit = [&](const peer::Hello& hello) -> Result<> {
    if (hello.purpose() != peer::PURPOSE_LANE) return {};
    auto move = moves_.find(hello.move_id(), connection.peer);
    if (!move || !same_token(move->lane_token(), hello.lane_token()))
      return fail(Errc::kUnauthorized, "no such move, or not its token");
    return {};
  };
  auto hello = wire::serve_hello(connection.stream, services_.settings.node, admit, Deadline::in(kHelloLimit), cancel);
  if (!hello) {
    TS_LOG_INFO("peer={} hello: {}", connection.peer, hello.error().message());
    return;
  }
  if (hello->purpose() == peer::PURPOSE_LANE)
    serve_lane(connection, *hello, cancel);
  else
    serve_control(connection, cancel);
}

void PeerService::serve_control(wire::Accepted& connection, const Cancel& cancel) {
  migrate::SessionPeer peer{connection.peer, connection.remote.host, {}};
  if (auto own = wire::local_endpoint(connection.stream.fd()); own) peer.own_address = own->host;
  ControlSession session(services_, moves_, tunnel_, cutover_, exposer_, names_, std::move(peer), connection);
  auto ended = wire::serve_requests(
      connection.stream, [&](const peer::Request& request) { return session.answer(request); }, kIdleLimit, cancel);
  if (!ended) TS_LOG_INFO("peer={} session: {}", connection.peer, ended.error().message());
  if (session.move()) session.move()->session_lost(cancel);
}

void PeerService::serve_lane(wire::Accepted& connection, const peer::Hello& hello, const Cancel& cancel) {
  auto move = moves_.find(hello.move_id(), connection.peer);
  if (!move) return;
  auto sink = [&](const wire::ChunkHeader& chunk, std::span<const std::byte> data) {
    return move->receive(chunk, data);
  };
  if (auto r = wire::receive_lane(connection.stream, sink, {}, cancel); !r)
    TS_LOG_INFO("mig={} lane: {}", move->id(), r.error().message());
}

}  // namespace transship::node
