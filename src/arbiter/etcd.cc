#include "arbiter/etcd.h"

#include "base/text.h"

namespace transship::arbiter {
namespace {

using etcd::Json;

constexpr size_t kMaxEndpoints = 16;
constexpr size_t kMaxMessage = 300;
// When all endpoints have failed, before the next round.
constexpr milliseconds kPause{50};

// "etcdserver: no leader"; the status when it says nothing.
std::string message_of(const HttpAnswer& answer) {
  auto json = Json::parse(answer.body, nullptr, false);
  for (const char* field : {"message", "error"}) {
    if (!json.is_object() || !json.contains(field)) continue;
    if (const auto* text = json[field].get_ptr<const std::string*>()) return text->substr(0, kMaxMessage);
  }
  return fmt::format("status {}", answer.status);
}

}  // namespace

Result<std::vector<std::string>> parse_endpoints(const std::string& text) {
  std::vector<std::string> endpoints;
  std::string spaced = text;
  for (char& c : spaced)
    if (c == ',') c = ' ';
  for (const auto& word : split(spaced, ' ')) {
    if (trim(word).empty()) continue;
    std::string endpoint(trim(word));
    while (endpoint.ends_with('/')) endpoint.pop_back();
    bool http = endpoint.starts_with("http://");
    auto host = endpoint.substr(http ? 7 : std::min<size_t>(endpoint.size(), 8));
    if ((!http && !endpoint.starts_with("https://")) || host.empty() || host.find('/') != std::string::npos ||
        host.find('@') != std::string::npos)
      return fail(Errc::kInvalidArgument, "\"{}\" is not http://HOST:PORT or https://HOST:PORT", word);
    endpoints.push_back(std::move(endpoint));
  }
  if (endpoints.size() > kMaxEndpoints) return fail(Errc::kInvalidArgument, "at most {}", kMaxEndpoints);
  return endpoints;
}

EtcdCluster::EtcdCluster(EtcdOptions options) : options_(std::move(options)), http_(options_.tls) {}

std::string EtcdCluster::id() const {
  MutexLock lock(mu_);
  return id_;
}

// Two clusters would each have a register of their own.
Result<> EtcdCluster::check_cluster(const Json& answer) {
  auto id = etcd::cluster_of(answer);
  if (id.empty()) return {};
  MutexLock lock(mu_);
  if (id_.empty()) id_ = id;
  if (id_ == id) return {};
  return fail(Errc::kCorrupt, "it belongs to the cluster {}, and others of arbiter.endpoints to {}", id, id_);
}

Result<std::string> EtcdCluster::log_in(const std::string& endpoint, Deadline deadline, const Cancel& cancel) {
  Json request = {{"name", options_.user}, {"password", options_.password}};
  TS_TRY_ASSIGN(auto answer, http_.post(endpoint + "/v3/auth/authenticate", request.dump(), {}, deadline, cancel));
  auto json = Json::parse(answer.body, nullptr, false);
  if (answer.status != 200 || !json.is_object() || !json.contains("token"))
    return fail(Errc::kUnauthorized, "log in as {}: {}", options_.user, message_of(answer));
  const auto* token = json["token"].get_ptr<const std::string*>();
  if (token == nullptr) return fail(Errc::kPeerProtocol, "log in as {}: no token", options_.user);
  MutexLock lock(mu_);
  return token_ = *token;
}

Result<Json> EtcdCluster::try_one(const std::string& endpoint, const std::string& path, const std::string& body,
                                  Deadline deadline, const Cancel& cancel) {
  std::string token;
  {
    MutexLock lock(mu_);
    token = token_;
  }
  for (bool again = false;; again = true) {
    if (!options_.user.empty() && token.empty()) {
      TS_TRY_ASSIGN(token, log_in(endpoint, deadline, cancel));
    }
    TS_TRY_ASSIGN(auto answer, http_.post(endpoint + path, body, token, deadline, cancel));
    // Tokens end.
    if (answer.status == 401 && !options_.user.empty() && !again) {
      token.clear();
      continue;
    }
    if (answer.status == 401 || answer.status == 403)
      return std::unexpected(Error(Errc::kUnauthorized, message_of(answer))
                                 .with_remedy("see arbiter.user and the rights of that user in etcd"));
    if (answer.status != 200) return fail(Errc::kUnavailable, "{}", message_of(answer));
    auto json = Json::parse(answer.body, nullptr, false);
    if (!json.is_object()) return fail(Errc::kPeerProtocol, "what answers is not etcd's gateway");
    TS_TRY(check_cluster(json));
    return json;
  }
}

Result<Json> EtcdCluster::call(const std::string& path, const Json& request, Deadline deadline, const Cancel& cancel) {
  auto body = request.dump();
  size_t count = options_.endpoints.size();
  size_t first = first_;
  Error last(Errc::kUnavailable, "arbiter.endpoints is empty");
  for (size_t n = 0; count > 0; ++n) {
    size_t at = (first + n) % count;
    auto answer =
        try_one(options_.endpoints[at], path, body, deadline.sooner(Deadline::in(options_.try_limit)), cancel);
    if (answer) {
      first_ = at;
      return answer;
    }
    last = std::move(answer).error().context(options_.endpoints[at]);
    if (last.code() == Errc::kCancelled || last.code() == Errc::kCorrupt) return std::unexpected(std::move(last));
    if (deadline.passed()) break;
    if (n % count == count - 1) TS_TRY(sleep_for(kPause, cancel));
  }
  Errc code = last.code() == Errc::kUnauthorized ? last.code() : Errc::kUnavailable;
  return std::unexpected(
      Error(code, "etcd does not answer: " + last.message()).with_remedy(std::string(last.remedy())));
}

Result<int64_t> grant_lease(EtcdCluster& cluster, std::chrono::seconds time, Deadline deadline, const Cancel& cancel) {
  Json request = {{"TTL", std::to_string(time.count())}};
  TS_TRY_ASSIGN(Json answer, cluster.call("/v3/lease/grant", request, deadline, cancel));
  auto id = etcd::number_at(answer, "ID");
  if (id == 0) return fail(Errc::kPeerProtocol, "etcd gave no lease");
  return id;
}

}  // namespace transship::arbiter
