// Trusting another node: by asking the user, by a fingerprint known from elsewhere, or both ways over ssh.
#pragma once
#include <functional>
#include <optional>
#include <string>

#include "cli/daemon.h"
#include "cli/remote.h"

namespace transship::cli {

struct PeerAddOptions {
  std::string name;
  std::string address;
  std::string fingerprint;
  std::string ssh;
  std::string own_address;
  std::string remote_program;
};

struct PeerAddUi {
  // Shows text to the user, apart from the result.
  std::function<void(const std::string&)> say;
  // Empty when there is no terminal to ask on.
  std::function<std::optional<std::string>(const std::string& prompt)> ask;
  RunRemote run_remote;
};

Result<local::PeerAddReply> add_peer(Daemon& daemon, const PeerAddUi& ui, const PeerAddOptions& options);

// What `transship node info --json` behind an echo of SSH_CONNECTION says.
struct RemoteNode {
  std::string fingerprint;
  std::string listen_address;
  std::string seen_from;  // our address as the other host sees it; may be empty
};
Result<RemoteNode> parse_remote_node(const std::string& output);
// "10.0.0.1" and "7601" → "10.0.0.1:7601", v6 in brackets; a port that `address` has already stays.
std::string with_port(const std::string& address, const std::string& listen_address);

}  // namespace transship::cli
