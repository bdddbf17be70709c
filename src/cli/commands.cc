#include "cli/commands.h"

#include "base/text.h"
#include "cli/json_render.h"
#include "cli/move_render.h"
#include "cli/move_session.h"
#include "cli/names_render.h"
#include "cli/text_render.h"

namespace transship::cli {
namespace {

class Runner {
 public:
  Runner(const Environment& environment, const Arguments& arguments) : env_(environment), a_(arguments) {}

  Outcome run() {
    switch (a_.command) {
      case Command::kPs: return ps();
      case Command::kPlan: return plan();
      case Command::kMove: return move();
      case Command::kMoves: return moves();
      case Command::kShow: return show();
      case Command::kResolve: return resolve();
      case Command::kCancel: return cancel();
      case Command::kPeerAdd: return peer_add();
      case Command::kPeerLs: return show_answer(connect()->peers(), print_peers);
      case Command::kPeerRm: return peer_rm();
      case Command::kPeerCheck: return peer_check();
      case Command::kNetworkCheck: return network_check();
      case Command::kNames: return show_answer(connect()->names(), print_names);
      case Command::kNamesSetup: return names_setup(false);
      case Command::kNamesRemove: return names_setup(true);
      case Command::kExpose: return expose();
      case Command::kExposeLs: return show_answer(connect()->exposures(), print_exposures);
      case Command::kExposeRm: return expose_rm();
      case Command::kNodeInfo: return show_answer(connect()->info(), print_node);
      case Command::kVersion: return version();
    }
    return Outcome::kUsage;
  }

 private:
  std::unique_ptr<Daemon> connect() const { return env_.connect(a_.socket); }

  Outcome failed(const Error& error) const {
    Outcome outcome = outcome_of(error);
    if (a_.json)
      env_.out.print(json_error(error, outcome));
    else
      print_error(env_.err, error);
    return outcome;
  }

  template <class Reply, class Print>
  Outcome show_answer(const Result<Reply>& reply, Print print) const {
    if (!reply) return failed(reply.error());
    if (a_.json)
      env_.out.print(json_lines(*reply));
    else
      print(env_.out, *reply);
    return Outcome::kDone;
  }

  // An engine that does not answer is a failure: what it runs is not in the list.
  Outcome ps() const {
    local::ContainersRequest request;
    request.set_all(a_.all);
    auto reply = connect()->containers(request);
    Outcome outcome = show_answer(reply, print_containers);
    if (!reply || reply->engine_errors().empty()) return outcome;
    if (!a_.json)
      for (const std::string& error : reply->engine_errors()) env_.err.line("transship: " + printable(error));
    return Outcome::kFailed;
  }

  Outcome plan() const {
    local::PlanRequest request;
    request.set_container(a_.name);
    request.set_peer(a_.to);
    request.set_new_address(a_.new_ip);
    auto reply = connect()->plan(request);
    if (!reply) return failed(reply.error());
    if (a_.json)
      env_.out.print(json_lines(*reply, a_.to));
    else
      print_plan(env_.out, *reply, a_.to);
    return reply->blocked() ? Outcome::kRefused : Outcome::kDone;
  }

  Outcome move() const {
    // NB: before the connection, because its threads must not get the signals either.
    auto signals = env_.watch_signals();
    if (!signals) return failed(signals.error());
    std::unique_ptr<Daemon> daemon = connect();
    MoveNames names{a_.name, a_.to};
    // --detach: the output is the move's ID and nothing else, for $(…).
    Verbosity verbosity = a_.quiet || a_.detach ? Verbosity::kQuiet
                          : a_.verbose          ? Verbosity::kVerbose
                                                : Verbosity::kNormal;
    auto renderer =
        a_.json ? make_json_renderer(env_.out, names) : make_text_renderer(env_.out, env_.err, names, verbosity);
    local::MoveRequest request;
    request.set_container(a_.name);
    request.set_peer(a_.to);
    request.set_keep_source(a_.keep_source);
    request.set_new_address(a_.new_ip);
    request.set_detach(a_.detach);
    request.set_max_bits_per_second(a_.max_bits_per_second);
    request.set_mode(a_.mode);
    request.set_max_gap_ms(a_.max_gap_ms);
    request.set_compress(a_.compress);
    request.set_no_throttle(a_.no_throttle);
    request.set_allow_post_copy(a_.allow_post_copy);
    MoveSession session{
        .daemon = *daemon, .renderer = *renderer, .signals = signals->get(), .leave_now = env_.leave_now};
    return follow_move(session, request);
  }

  Outcome moves() const {
    local::MovesRequest request;
    request.set_limit(a_.limit);
    return show_answer(connect()->moves(request), print_moves);
  }

  Outcome show() const {
    local::ShowRequest request;
    request.set_move_id(a_.name);
    return show_answer(connect()->show(request), print_move);
  }

  Outcome cancel() const {
    local::CancelRequest request;
    request.set_move_id(a_.name);
    auto reply = connect()->cancel(request);
    if (!reply) return failed(reply.error());
    if (reply->too_late())
      return failed(Error(Errc::kUnavailable, fmt::format("too late to cancel {}: the move is committed", a_.name))
                        .with_remedy(fmt::format("see how it ends: transship show {}", a_.name)));
    if (!reply->was_running())
      return failed(Error(Errc::kNotFound, fmt::format("cancel {}: that move does not run", a_.name))
                        .with_remedy(fmt::format("see how it ended: transship show {}", a_.name)));
    if (a_.json)
      env_.out.print(json_cancel(a_.name, "requested", ""));
    else
      env_.out.line(fmt::format("cancelling {}; see transship show {}", a_.name, a_.name));
    return Outcome::kDone;
  }

  // The risk first; carried out only when it was accepted.
  Outcome resolve() const {
    auto daemon = connect();
    local::ResolveRequest request;
    request.set_move_id(a_.name);
    request.set_commit(a_.commit);
    request.set_without_arbiter(a_.without_arbiter);
    auto told = daemon->resolve(request);
    if (!told) return failed(told.error());
    if (!a_.yes) {
      env_.err.line(printable_lines(told->explanation()));
      env_.err.line("\n" + printable_lines(told->risk()));
      auto answer = env_.ask(fmt::format("Type the move's ID to {} it: ", a_.commit ? "commit" : "abort"));
      if (!answer)
        return failed(Error(Errc::kInvalidArgument, fmt::format("resolve {}: there is no terminal to ask on", a_.name))
                          .with_remedy("--yes accepts what is said above"));
      if (trim(*answer) != a_.name)
        return failed(Error(Errc::kCancelled, fmt::format("resolve {}: not confirmed, nothing was changed", a_.name)));
    }
    request.set_confirmed(true);
    return show_answer(daemon->resolve(request), [this](const Screen& out, const local::ResolveReply&) {
      out.line(fmt::format("{} is {}; see transship show {}", a_.name, a_.commit ? "committed" : "aborted", a_.name));
    });
  }

  Outcome peer_add() const {
    PeerAddOptions options{.name = a_.name,
                           .address = a_.address,
                           .fingerprint = a_.fingerprint,
                           .ssh = a_.ssh,
                           .own_address = a_.own_address,
                           .remote_program = a_.remote_program};
    PeerAddUi ui{.say = [this](const std::string& text) { env_.err.line(text); },
                 .ask = env_.ask,
                 .run_remote = env_.run_remote};
    return show_answer(cli::add_peer(*connect(), ui, options), [](const Screen& out, const local::PeerAddReply& reply) {
      // A known one may have been given another address.
      out.line(fmt::format("{} at {} is {} trusted with the key {}", printable(reply.peer().name()),
                           printable(reply.peer().address()), reply.existed() ? "still" : "now",
                           printable(reply.peer().fingerprint())));
    });
  }

  Outcome peer_rm() const {
    local::PeerRemoveRequest request;
    request.set_name(a_.name);
    if (auto removed = connect()->peer_remove(request); !removed) return failed(removed.error());
    if (a_.json)
      env_.out.print(json_peer_removed(a_.name));
    else
      env_.out.line(fmt::format("{} is trusted no more", a_.name));
    return Outcome::kDone;
  }

  Outcome peer_check() const {
    local::PeerCheckRequest request;
    request.set_name(a_.name);
    return show_answer(connect()->peer_check(request), print_peer_check);
  }

  // Differences that stay are a failure, so that scripts see them.
  Outcome network_check() const {
    local::NetworkCheckRequest request;
    request.set_repair(a_.repair);
    auto reply = connect()->network_check(request);
    Outcome outcome = show_answer(reply, print_network_check);
    bool differs = reply && reply->missing_size() + reply->extra_size() > 0 && !reply->repaired();
    return outcome == Outcome::kDone && differs ? Outcome::kFailed : outcome;
  }

  Outcome names_setup(bool remove) const {
    local::NamesSetupRequest request;
    request.set_remove(remove);
    return show_answer(connect()->names_setup(request), print_resolver);
  }

  Outcome expose() const {
    local::ExposeRequest request;
    request.set_container(a_.name);
    request.set_container_port(a_.container_port.port);
    request.set_protocol(a_.container_port.protocol);
    request.set_node(a_.entry.node);
    request.set_port(a_.entry.port);
    request.set_health(a_.health);
    return show_answer(connect()->expose(request), print_exposed);
  }

  Outcome expose_rm() const {
    local::ExposeRemoveRequest request;
    request.set_node(a_.entry.node);
    request.set_port(a_.entry.port);
    request.set_protocol(a_.entry.protocol);
    request.set_container(a_.name);
    auto removed = connect()->expose_remove(request);
    if (!removed) return failed(removed.error());
    if (a_.json)
      env_.out.print(json_exposure_removed(request, *removed));
    else
      print_exposure_removed(env_.out, request, *removed);
    return Outcome::kDone;
  }

  // A daemon that is not there is no failure of this program's version.
  Outcome version() const {
    auto info = connect()->info();
    std::string daemon = info ? info->facts().program_version() : "";
    if (a_.json) {
      env_.out.print(json_version(TS_VERSION, daemon));
      return Outcome::kDone;
    }
    env_.out.line(fmt::format("transship {}", TS_VERSION));
    env_.out.line(info ? "transshipd " + printable(daemon) : "transshipd: " + printable(info.error().message()));
    return Outcome::kDone;
  }

  const Environment& env_;
  const Arguments& a_;
};

}  // namespace

Outcome run_command(const Environment& environment, const Arguments& arguments) {
  return Runner(environment, arguments).run();
}

}  // namespace transship::cli
