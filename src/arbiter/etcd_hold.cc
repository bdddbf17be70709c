// The lease by which etcd knows that the source of a move is there.
#include "arbiter/etcd.h"
#include "base/log.h"
#include "base/thread.h"

namespace transship::arbiter {
namespace {

using etcd::Json;

constexpr milliseconds kRetry{500};
constexpr milliseconds kRevokeLimit{1000};

class EtcdHold final : public SourceHold {
 public:
  EtcdHold(EtcdCluster& cluster, std::string key, Cancel end)
      : cluster_(cluster), key_(std::move(key)), lease_time_(cluster.options().lease), end_(std::move(end)) {}
  ~EtcdHold() override {
    end_.cancel("the source has ended the move");
    thread_.join();
    auto never = Cancel::create();
    if (!never || lease_ == 0) return;
    // Otherwise it ends by itself.
    Json request = {{"ID", std::to_string(lease_)}};
    (void)cluster_.call("/v3/lease/revoke", request, Deadline::in(kRevokeLimit), *never);
  }

  // A lease, and the key under it.
  Result<> acquire(Deadline deadline, const Cancel& cancel) {
    auto seconds = std::chrono::ceil<std::chrono::seconds>(lease_time_);
    TS_TRY_ASSIGN(lease_, grant_lease(cluster_, seconds, deadline, cancel));
    TS_TRY(cluster_.call("/v3/kv/put", etcd::put(key_, cluster_.options().node, lease_), deadline, cancel));
    MutexLock lock(mu_);
    heard_ = Clock::now();
    return {};
  }
  void keep() {
    thread_ = Thread("arbiter-lease", [this] { keep_alive(); });
  }

  Result<> check() const override {
    MutexLock lock(mu_);
    auto silent = std::chrono::duration_cast<milliseconds>(Clock::now() - heard_);
    if (silent < lease_time_ * 2 / 3) return {};
    return fail(Errc::kUnavailable, "etcd has not heard of this move for {} ms: {}", silent.count(), problem_);
  }

 private:
  void keep_alive() {
    auto pause = lease_time_ / 3;
    while (sleep_for(pause, end_)) {
      auto renewed = renew();
      pause = renewed ? lease_time_ / 3 : std::min(kRetry, lease_time_ / 3);
      if (renewed || end_.cancelled()) continue;
      TS_LOG_WARN("arbiter: the lease of {}: {}", key_, renewed.error().message());
      MutexLock lock(mu_);
      problem_ = renewed.error().message();
    }
  }
  Result<> renew() {
    auto deadline = Deadline::in(lease_time_ / 3);
    Json request = {{"ID", std::to_string(lease_)}};
    auto begin = Clock::now();
    TS_TRY_ASSIGN(Json answer, cluster_.call("/v3/lease/keepalive", request, deadline, end_));
    auto result = answer.find("result");
    // It was too late. Whether somebody has taken the move over meanwhile is in the register, not here.
    if (result == answer.end() || etcd::number_at(*result, "TTL") <= 0) return acquire(deadline, end_);
    MutexLock lock(mu_);
    heard_ = begin;
    return {};
  }

  EtcdCluster& cluster_;
  const std::string key_;
  const milliseconds lease_time_;
  Cancel end_;
  int64_t lease_ = 0;  // of acquire(), then of the thread
  mutable Mutex mu_;
  Clock::time_point heard_ GUARDED_BY(mu_);
  std::string problem_ GUARDED_BY(mu_);
  Thread thread_;
};

}  // namespace

Result<std::unique_ptr<SourceHold>> hold_in_etcd(EtcdCluster& cluster, const std::string& key, Deadline deadline,
                                                 const Cancel& cancel) {
  TS_TRY_ASSIGN(Cancel end, Cancel::create());
  auto hold = std::make_unique<EtcdHold>(cluster, key, std::move(end));
  TS_TRY(hold->acquire(deadline, cancel));
  hold->keep();
  return hold;
}

}  // namespace transship::arbiter
