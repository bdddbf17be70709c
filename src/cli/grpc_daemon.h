// The daemon behind its UNIX socket.
#pragma once
#include <memory>
#include <string>

#include "cli/daemon.h"

namespace transship::cli {

// Connects with the first call, so an unreachable daemon is that call's error.
// NB: the library starts threads here, which keep the caller's signal mask.
std::unique_ptr<Daemon> connect_daemon(const std::string& socket_path);

}  // namespace transship::cli
