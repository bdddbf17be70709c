// The register in etcd: PREFIX/moves/ID/decision, and PREFIX/moves/ID/source under the source's lease.
#include "arbiter/etcd.h"

namespace transship::arbiter {
namespace {

using etcd::Json;

class EtcdArbiter final : public Arbiter {
 public:
  explicit EtcdArbiter(EtcdOptions options) : cluster_(std::move(options)) {}

  Result<Decision> decide(const std::string& move_id, Decision wanted, Deadline deadline,
                          const Cancel& cancel) override {
    auto key = decision_key(move_id);
    TS_TRY_ASSIGN(auto txn, write(etcd::put_if_absent(key, text(wanted), {key}), deadline, cancel));
    if (txn.succeeded) return wanted;
    if (txn.values.size() != 1 || !txn.values[0])
      return fail(kOutcomeUnknown, "etcd says of {} that it is there, and does not have it", key);
    return etcd::parse_decision(*txn.values[0]);
  }

  Result<std::optional<Decision>> decision(const std::string& move_id, Deadline deadline,
                                           const Cancel& cancel) override {
    TS_TRY_ASSIGN(Json answer, cluster_.call("/v3/kv/range", etcd::range(decision_key(move_id)), deadline, cancel));
    TS_TRY_ASSIGN(auto value, etcd::parse_range(answer));
    return parsed(value);
  }

  Result<std::unique_ptr<SourceHold>> hold_source(const std::string& move_id, Deadline deadline,
                                                  const Cancel& cancel) override {
    return hold_in_etcd(cluster_, source_key(move_id), deadline, cancel);
  }

  Result<std::optional<Decision>> take_over(const std::string& move_id, Decision wanted, Deadline deadline,
                                            const Cancel& cancel) override {
    auto key = decision_key(move_id);
    auto request = etcd::put_if_absent(key, text(wanted), {key, source_key(move_id)});
    TS_TRY_ASSIGN(auto txn, write(request, deadline, cancel));
    if (txn.succeeded) return wanted;
    if (txn.values.size() != 2) return fail(kOutcomeUnknown, "etcd's answer about {} is too short", key);
    return parsed(txn.values[0]);
  }

  Result<> retire(const std::string& move_id, Deadline deadline, const Cancel& cancel) override {
    TS_TRY_ASSIGN(int64_t lease, grant_lease(cluster_, kRemembered, deadline, cancel));
    TS_TRY(cluster_.call("/v3/kv/txn", etcd::put_under_lease(decision_key(move_id), lease), deadline, cancel));
    return {};
  }

  Result<Health> check(Deadline deadline, const Cancel& cancel) override {
    auto begin = Clock::now();
    TS_TRY(cluster_.call("/v3/kv/range", etcd::range(cluster_.options().prefix + "/check"), deadline, cancel));
    Health health;
    health.latency = std::chrono::ceil<milliseconds>(Clock::now() - begin);
    auto id = cluster_.id();
    if (id.empty()) return fail(Errc::kPeerProtocol, "etcd's answer does not name its cluster");
    // Another prefix is another register.
    health.identity = fmt::format("etcd {} {}", id, cluster_.options().prefix);
    return health;
  }

 private:
  std::string decision_key(const std::string& move_id) const {
    return fmt::format("{}/moves/{}/decision", cluster_.options().prefix, move_id);
  }
  std::string source_key(const std::string& move_id) const {
    return fmt::format("{}/moves/{}/source", cluster_.options().prefix, move_id);
  }
  std::string text(Decision decision) const { return etcd::decision_text(decision, cluster_.options().node); }
  static Result<std::optional<Decision>> parsed(const std::optional<std::string>& value) {
    if (!value) return std::nullopt;
    TS_TRY_ASSIGN(Decision decision, etcd::parse_decision(*value));
    return decision;
  }
  // Whatever went wrong: it may have been written.
  Result<etcd::TxnOutcome> write(const Json& request, Deadline deadline, const Cancel& cancel) {
    auto answer = cluster_.call("/v3/kv/txn", request, deadline, cancel);
    auto txn = answer ? etcd::parse_txn(*answer) : Result<etcd::TxnOutcome>(std::unexpected(answer.error()));
    if (txn || txn.error().code() == Errc::kCancelled) return txn;
    return std::unexpected(Error(kOutcomeUnknown, txn.error().message()).with_remedy(txn.error().remedy()));
  }
  EtcdCluster cluster_;
};

}  // namespace

std::unique_ptr<Arbiter> make_etcd_arbiter(EtcdOptions options) {
  return std::make_unique<EtcdArbiter>(std::move(options));
}

}  // namespace transship::arbiter
