// HAProxy's runtime API: one command on its UNIX socket, and the answer.
#pragma once
#include <string>

#include "base/cancel.h"
#include "base/result.h"

namespace transship::gateway {

// kUnavailable: nobody answers there. Requires: a command of one line, from haproxy_config.h or a constant.
Result<std::string> ask_runtime(const std::string& socket, const std::string& command,
                                milliseconds limit = milliseconds(2'000));

}  // namespace transship::gateway
