// Podman's REST API over its UNIX socket.
#pragma once
#include <functional>
#include <string>
#include <string_view>

#include "base/cancel.h"
#include "base/result.h"
#include "engine/json.h"

namespace transship::engine {

struct ApiRequest {
  std::string method = "GET";
  std::string path;  // below /libpod, with query: "/containers/json?all=true"
  std::string body = {};
  Deadline deadline = Deadline::in(milliseconds(30'000));
  const Cancel* cancel = nullptr;
};

struct ApiResponse {
  long status = 0;
  std::string body;
};

// Thread-safe: a connection per request. Holds nothing but the path of the socket.
class PodmanApi {
 public:
  explicit PodmanApi(std::string socket) : socket_(std::move(socket)) {}
  const std::string& socket() const { return socket_; }
  // Any status is a success here. kUnavailable when nobody listens, or the connection ended half-way; kTimeout;
  // kCancelled. An answer of more than 32 MiB is kPeerProtocol.
  Result<ApiResponse> request(const ApiRequest& request) const;
  // An answer that goes on, given line by line as it comes. Ends well when the service ends it, kTimeout at the
  // deadline. A line of more than 1 MiB is kPeerProtocol.
  Result<> follow(const ApiRequest& request, const std::function<void(std::string_view line)>& line) const;
  // Does somebody who speaks this protocol listen?
  Result<> ping(Deadline deadline) const;

 private:
  std::string socket_;
};

// For a path or a query: everything but letters, digits and -_.~ becomes %XX.
std::string url_escape(std::string_view text);
// The engine's own words out of an answer that is an error; the status when it has none.
std::string api_message(const ApiResponse& response);
// 404 kNotFound, 409 kAlreadyExists, other 4xx kInvalidArgument, the rest kUnavailable. `what`: what was tried.
std::unexpected<Error> api_error(const ApiResponse& response, std::string_view what);

}  // namespace transship::engine
