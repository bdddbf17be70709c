// For unit tests: a register in memory, for any number of nodes, whose answers can be lost.
#pragma once
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "arbiter/arbiter.h"
#include "base/mutex.h"

namespace transship::arbiter::testing {

// What all nodes see. Thread-safe.
struct FakeRegister {
  Mutex mu;
  std::map<std::string, Decision> decisions GUARDED_BY(mu);
  std::set<std::string> held GUARDED_BY(mu);
  std::set<std::string> retired GUARDED_BY(mu);
  std::string identity = "etcd f00 /transship";
};

// One node's way to it.
class FakeArbiter final : public Arbiter {
 public:
  enum class Link { kUp, kDown, kAnswersLost };  // the last: what is asked for is done, and nobody hears of it
  explicit FakeArbiter(std::shared_ptr<FakeRegister> shared) : shared_(std::move(shared)) {}
  void set(Link link) {
    MutexLock lock(shared_->mu);
    link_ = link;
  }

  Result<Decision> decide(const std::string& id, Decision wanted, Deadline, const Cancel&) override {
    MutexLock lock(shared_->mu);
    if (link_ == Link::kDown) return lost();
    auto stands = shared_->decisions.try_emplace(id, wanted).first->second;
    if (link_ == Link::kAnswersLost) return lost();
    return stands;
  }
  Result<std::optional<Decision>> decision(const std::string& id, Deadline, const Cancel&) override {
    MutexLock lock(shared_->mu);
    if (link_ != Link::kUp) return lost();
    auto found = shared_->decisions.find(id);
    if (found == shared_->decisions.end()) return std::nullopt;
    return found->second;
  }
  Result<std::unique_ptr<SourceHold>> hold_source(const std::string& id, Deadline, const Cancel&) override {
    MutexLock lock(shared_->mu);
    if (link_ != Link::kUp) return lost();
    shared_->held.insert(id);
    return std::make_unique<Hold>(shared_, id);
  }
  Result<std::optional<Decision>> take_over(const std::string& id, Decision wanted, Deadline, const Cancel&) override {
    MutexLock lock(shared_->mu);
    if (link_ == Link::kDown) return lost();
    auto found = shared_->decisions.find(id);
    std::optional<Decision> stands;
    if (found != shared_->decisions.end()) stands = found->second;
    if (!stands && !shared_->held.contains(id)) stands = shared_->decisions[id] = wanted;
    if (link_ == Link::kAnswersLost) return lost();
    return stands;
  }
  Result<> retire(const std::string& id, Deadline, const Cancel&) override {
    MutexLock lock(shared_->mu);
    if (link_ != Link::kUp) return lost();
    shared_->retired.insert(id);
    return {};
  }
  Result<Health> check(Deadline, const Cancel&) override {
    MutexLock lock(shared_->mu);
    if (link_ != Link::kUp) return fail(Errc::kUnavailable, "etcd does not answer");
    return Health{shared_->identity, milliseconds(1)};
  }

 private:
  class Hold final : public SourceHold {
   public:
    Hold(std::shared_ptr<FakeRegister> shared, std::string id) : shared_(std::move(shared)), id_(std::move(id)) {}
    ~Hold() override {
      MutexLock lock(shared_->mu);
      shared_->held.erase(id_);
    }
    Result<> check() const override { return {}; }

   private:
    std::shared_ptr<FakeRegister> shared_;
    std::string id_;
  };
  static std::unexpected<Error> lost() { return fail(kOutcomeUnknown, "nobody answers"); }
  std::shared_ptr<FakeRegister> shared_;
  Link link_ = Link::kUp;
};

}  // namespace transship::arbiter::testing
