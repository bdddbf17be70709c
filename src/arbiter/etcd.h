// An etcd cluster, reached by the JSON gateway of its members (ARCHITECTURE.md says why not by gRPC).
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "arbiter/arbiter.h"
#include "arbiter/etcd_messages.h"
#include "arbiter/http_client.h"

namespace transship::arbiter {

struct EtcdOptions {
  std::vector<std::string> endpoints;  // "https://10.0.0.1:2379"
  TlsFiles tls;
  std::string user;  // empty: no authentication by password
  std::string password;
  std::string prefix = "/transship";
  std::string node;  // this one's name, for people who look into etcd
  milliseconds lease{10'000};
  // For one endpoint to answer before the next one is asked: an election takes longer, a slow disk does not.
  milliseconds try_limit{1000};
};

// "https://a:2379, https://b:2379": a list with commas, spaces or both. kInvalidArgument says what is wrong.
Result<std::vector<std::string>> parse_endpoints(const std::string& text);

// One cluster. Thread-safe. Remembers which cluster answered first: another one behind the same name is an error.
class EtcdCluster {
 public:
  explicit EtcdCluster(EtcdOptions options);
  const EtcdOptions& options() const { return options_; }
  // The first answer of any endpoint. Every failure leaves open whether the request was carried out, once or several
  // times: send only what may be repeated. kUnavailable with the last reason; kCancelled; kCorrupt: another cluster;
  // kUnauthorized.
  Result<etcd::Json> call(const std::string& path, const etcd::Json& request, Deadline deadline, const Cancel& cancel);
  // Hexadecimal; empty: none has answered yet.
  std::string id() const;

 private:
  Result<etcd::Json> try_one(const std::string& endpoint, const std::string& path, const std::string& body,
                             Deadline deadline, const Cancel& cancel);
  Result<std::string> log_in(const std::string& endpoint, Deadline deadline, const Cancel& cancel);
  Result<> check_cluster(const etcd::Json& answer);

  const EtcdOptions options_;
  HttpClient http_;
  std::atomic<size_t> first_ = 0;  // the endpoint that answered last
  mutable Mutex mu_;
  std::string id_ GUARDED_BY(mu_);
  std::string token_ GUARDED_BY(mu_);
};

std::unique_ptr<Arbiter> make_etcd_arbiter(EtcdOptions options);

// ---- for the arbiter itself

// Held until it goes.
Result<std::unique_ptr<SourceHold>> hold_in_etcd(EtcdCluster& cluster, const std::string& key, Deadline deadline,
                                                 const Cancel& cancel);
// A lease of that time; its id.
Result<int64_t> grant_lease(EtcdCluster& cluster, std::chrono::seconds time, Deadline deadline, const Cancel& cancel);

}  // namespace transship::arbiter
