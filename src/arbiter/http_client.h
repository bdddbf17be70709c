// POST over HTTP/1.1, with connections that stay open: a new TLS handshake would be in the gap of a move.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "base/mutex.h"
#include "base/result.h"

namespace transship::arbiter {

// Files in PEM; empty: the system's authorities, and no certificate of our own.
struct TlsFiles {
  std::string ca;
  std::string certificate;
  std::string key;
};

struct HttpAnswer {
  long status = 0;
  std::string body;
};

// Thread-safe: as many connections as there are requests at once.
class HttpClient {
 public:
  explicit HttpClient(TlsFiles tls);
  ~HttpClient();
  // Any status is a success here. kTimeout, kUnavailable, kCancelled: the request may have been carried out all the
  // same. An answer of more than 1 MiB is kPeerProtocol. `authorization` is a header's value; empty: none.
  Result<HttpAnswer> post(const std::string& url, const std::string& body, const std::string& authorization,
                          Deadline deadline, const Cancel& cancel);

 private:
  class Line;
  std::unique_ptr<Line> take_line();
  const TlsFiles tls_;
  Mutex mu_;
  std::vector<std::unique_ptr<Line>> idle_ GUARDED_BY(mu_);
};

}  // namespace transship::arbiter
