#include "cli/peer_add.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/text.h"
#include "cli/terminal.h"

namespace transship::cli {
namespace {

using Json = nlohmann::json;

// The last line of our own output that has this message_type; a login shell may have printed before it.
std::optional<Json> find_message(const std::string& output, std::string_view type) {
  std::optional<Json> found;
  for (const std::string& line : split(output, '\n')) {
    Json json = Json::parse(line, nullptr, false);
    if (json.is_object() && json.value("message_type", Json()) == type) found = std::move(json);
  }
  return found;
}

std::string text_of(const Json& json, const char* field) {
  auto found = json.find(field);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

// Fingerprints are letters, digits and a few signs; nothing else may reach a command line or a terminal.
bool plain_fingerprint(const std::string& text) {
  return !text.empty() && text.size() <= 256 && std::ranges::all_of(text, [](unsigned char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == ':' || c == '+' ||
           c == '/' || c == '=' || c == '-' || c == '_';
  });
}

Result<local::PeerAddReply> pin(Daemon& daemon, const std::string& name, const std::string& address,
                                const std::string& fingerprint) {
  local::PeerAddRequest request;
  request.set_name(name);
  request.set_address(address);
  request.set_fingerprint(fingerprint);
  return daemon.peer_add(request);
}

Result<local::PeerProbeReply> probe(Daemon& daemon, const std::string& address) {
  local::PeerProbeRequest request;
  request.set_address(address);
  return daemon.peer_probe(request);
}

// Whoever answers at `address` must have the key that we were told. No answer is no proof of anything: said, not fatal.
Result<> check_known_key(Daemon& daemon, const PeerAddUi& ui, const std::string& address,
                         const std::string& fingerprint) {
  if (address.empty()) return {};
  auto answer = probe(daemon, address);
  if (!answer && answer.error().code() == Errc::kInvalidArgument) return std::unexpected(answer.error());
  if (!answer) {
    ui.say(fmt::format("warning: {} was not reachable, so its key could not be compared: {}", printable(address),
                       printable(answer.error().message())));
    return {};
  }
  if (answer->fingerprint() == fingerprint) return {};
  return std::unexpected(
      Error(Errc::kUnauthorized, fmt::format("pin {}: another key than expected answered: {}, expected {}", address,
                                             answer->fingerprint(), fingerprint))
          .with_remedy("nothing was changed; compare with `transship node info` on that host: either "
                       "the fingerprint is of another node, or someone else answers there"));
}

Result<local::PeerAddReply> add_by_asking(Daemon& daemon, const PeerAddUi& ui, const PeerAddOptions& o) {
  TS_TRY_ASSIGN(local::PeerProbeReply keys, probe(daemon, o.address));
  ui.say(
      fmt::format("At {} answers a node with the key\n  {}\nThis node's own key is\n  {}\n"
                  "Compare them with `transship node info` there and here.",
                  printable(o.address), printable(keys.fingerprint()), printable(keys.own_fingerprint())));
  auto answer = ui.ask(fmt::format("Trust that node as \"{}\"? [y/N] ", printable(o.name)));
  if (!answer)
    return std::unexpected(
        Error(Errc::kInvalidArgument, fmt::format("pin {}: there is no terminal to ask on", o.address))
            .with_remedy("give the key in advance: --fingerprint " + keys.fingerprint()));
  std::string word(trim(*answer));
  if (word != "y" && word != "Y" && word != "yes")
    return fail(Errc::kCancelled, "not confirmed; {} was not added", o.name);
  auto reply = pin(daemon, o.name, o.address, keys.fingerprint());
  if (reply)
    ui.say(
        fmt::format("The other node must trust this one as well. Run there:\n"
                    "  transship peer add THIS_NODE ITS_ADDRESS --fingerprint {}",
                    printable(keys.own_fingerprint())));
  return reply;
}

// What our own program said there about why it failed, or the best guess from its exit code.
Error remote_failure(const std::string& what, const PeerAddOptions& o, const RemoteOutput& output) {
  if (auto error = find_message(output.out, "error")) {
    Error e(Errc::kUnavailable, fmt::format("{} on {}: {}", what, o.ssh, text_of(*error, "message")));
    std::string remedy = text_of(*error, "remedy");
    return remedy.empty() ? std::move(e) : std::move(e).with_remedy("there: " + remedy);
  }
  if (output.exit_code == 127 || output.exit_code == 126)
    return Error(Errc::kNotFound, fmt::format("{} on {}: cannot run \"{}\" there", what, o.ssh, o.remote_program))
        .with_remedy("install Transship there, or say how to call it: --remote-program /path/to/transship");
  return Error(Errc::kUnavailable, fmt::format("{} on {}: \"{}\" ended with code {} and no answer", what, o.ssh,
                                               o.remote_program, output.exit_code))
      .with_remedy(fmt::format("try it by hand: ssh {} {} node info", o.ssh, o.remote_program));
}

Result<RemoteNode> ask_remote_node(const PeerAddUi& ui, const PeerAddOptions& o) {
  TS_TRY_ASSIGN(RemoteOutput output, ui.run_remote(o.ssh, "echo \"SSH_CONNECTION=$SSH_CONNECTION\"; " +
                                                              o.remote_program + " node info --json"));
  if (output.exit_code != 0) return std::unexpected(remote_failure("ask the node", o, output));
  auto node = parse_remote_node(output.out);
  if (!node) return std::unexpected(std::move(node).error().context("ask the node on " + o.ssh));
  return node;
}

// True when it was not there before, so that it is ours to undo.
Result<bool> pin_on_remote(const PeerAddUi& ui, const PeerAddOptions& o, const local::InfoReply& own,
                           const std::string& own_address) {
  std::string command =
      fmt::format("{} peer add {} {} --fingerprint {} --json", o.remote_program, shell_quote(own.facts().node()),
                  shell_quote(own_address), shell_quote(own.fingerprint()));
  TS_TRY_ASSIGN(RemoteOutput output, ui.run_remote(o.ssh, command));
  auto added = find_message(output.out, "peer_added");
  if (output.exit_code != 0 || !added) return std::unexpected(remote_failure("pin this node", o, output));
  auto existed = added->find("existed");
  return existed == added->end() || *existed != true;
}

std::string undo_on_remote(const PeerAddUi& ui, const PeerAddOptions& o, const std::string& own_name) {
  std::string command = fmt::format("{} peer rm {} --json", o.remote_program, shell_quote(own_name));
  auto output = ui.run_remote(o.ssh, command);
  if (output && output->exit_code == 0) return fmt::format("what was pinned on {} was undone", o.ssh);
  std::string why = output ? remote_failure("undo", o, *output).message() : output.error().message();
  return fmt::format("and undoing it failed ({}); run there: {} peer rm {}", why, o.remote_program, own_name);
}

Result<local::PeerAddReply> add_over_ssh(Daemon& daemon, const PeerAddUi& ui, const PeerAddOptions& o) {
  TS_TRY_ASSIGN(local::InfoReply own, daemon.info());
  TS_TRY_ASSIGN(RemoteNode remote, ask_remote_node(ui, o));
  std::string host = o.ssh.substr(o.ssh.rfind('@') + 1);
  std::string address = with_port(o.address.empty() ? host : o.address, remote.listen_address);
  std::string seen = o.own_address.empty() ? remote.seen_from : o.own_address;
  if (seen.empty())
    return std::unexpected(
        Error(Errc::kInvalidArgument, fmt::format("{} did not say from where it sees this host", o.ssh))
            .with_remedy("give the address at which it reaches this node: --own-address"));
  TS_TRY(check_known_key(daemon, ui, address, remote.fingerprint));
  TS_TRY_ASSIGN(bool is_new, pin_on_remote(ui, o, own, with_port(seen, own.listen_address())));
  auto reply = pin(daemon, o.name, address, remote.fingerprint);
  if (reply) return reply;
  Error error = std::move(reply).error().context(fmt::format("pin {} here", o.name));
  std::string remedy = error.remedy();
  std::string undone =
      is_new ? undo_on_remote(ui, o, own.facts().node()) : fmt::format("{} trusted this node before", o.ssh);
  return std::unexpected(Error(error.code(), fmt::format("{}; {}", error.message(), undone)).with_remedy(remedy));
}

}  // namespace

std::string with_port(const std::string& address, const std::string& listen_address) {
  size_t colon = listen_address.rfind(':');
  std::string port = colon == std::string::npos ? "" : listen_address.substr(colon + 1);
  bool bracketed = address.starts_with('[');
  bool v6 = !bracketed && std::ranges::count(address, ':') > 1;
  bool has_port = bracketed ? address.find("]:") != std::string::npos : !v6 && address.find(':') != std::string::npos;
  if (has_port || port.empty()) return address;
  return (v6 ? "[" + address + "]" : address) + ":" + port;
}

Result<RemoteNode> parse_remote_node(const std::string& output) {
  auto json = find_message(output, "node");
  if (!json) return fail(Errc::kPeerProtocol, "its answer has no line of message_type \"node\"");
  RemoteNode node;
  node.fingerprint = text_of(*json, "fingerprint");
  node.listen_address = text_of(*json, "listen_address");
  if (!plain_fingerprint(node.fingerprint)) return fail(Errc::kPeerProtocol, "its answer has no usable fingerprint");
  constexpr std::string_view kMark = "SSH_CONNECTION=";
  for (const std::string& line : split(output, '\n')) {
    if (!line.starts_with(kMark)) continue;
    std::string seen = split(line.substr(kMark.size()), ' ').front();
    // An interface's name ("%eth0") is that host's affair.
    node.seen_from = seen.substr(0, seen.find('%'));
  }
  return node;
}

Result<local::PeerAddReply> add_peer(Daemon& daemon, const PeerAddUi& ui, const PeerAddOptions& options) {
  if (!options.ssh.empty()) return add_over_ssh(daemon, ui, options);
  if (options.fingerprint.empty()) return add_by_asking(daemon, ui, options);
  TS_TRY(check_known_key(daemon, ui, options.address, options.fingerprint));
  return pin(daemon, options.name, options.address, options.fingerprint);
}

}  // namespace transship::cli
