#include "migrate/rootfs_rounds.h"

#include <utility>

namespace transship::migrate {
namespace {

constexpr milliseconds kStreamIdle{60'000};

}  // namespace

// The one of that name; begun when there is none.
Result<std::shared_ptr<RootfsRounds::Round>> RootfsRounds::round(const std::string& name) {
  MutexLock lock(mu_);
  if (closed_) return std::unexpected(*closed_);
  if (round_ && round_->name == name) return round_;
  if (round_) return fail(Errc::kPeerProtocol, "round \"{}\" began before \"{}\" was over", name, round_->name);
  auto made = std::make_shared<Round>();
  made->name = name;
  TS_TRY_ASSIGN(made->pipe, storage::StreamPipe::create(cancel_, kStreamIdle));
  made->thread = Thread("rootfs-apply", [this, &r = *made] {
    r.outcome = apply_(*r.pipe);
    if (!r.outcome) r.pipe->fail_writer(r.outcome.error());
  });
  round_ = made;
  return made;
}

Result<> RootfsRounds::receive(const std::string& name, uint64_t offset, std::span<const std::byte> data) {
  TS_TRY_ASSIGN(auto r, round(name));
  // A stream is one lane's.
  if (r->receiving.exchange(true))
    return fail(Errc::kPeerProtocol, "round \"{}\" of the root file system comes by two lanes at once", name);
  auto taken = take(*r, offset, data);
  r->receiving = false;
  return taken;
}

Result<> RootfsRounds::take(Round& r, uint64_t offset, std::span<const std::byte> data) {
  if (offset != r.next_offset || r.complete)
    return fail(Errc::kPeerProtocol, "round \"{}\" goes on at {} instead of {}{}", r.name, offset, r.next_offset,
                r.complete ? ", where it has ended" : "");
  if (data.empty()) {
    r.complete = true;
    r.pipe->finish();
    return {};
  }
  r.next_offset += data.size();
  return r.pipe->write(data);
}

Result<> RootfsRounds::wait_applied(const std::string& name) {
  TS_TRY_ASSIGN(auto r, round(name));
  r->thread.join();
  {
    MutexLock lock(mu_);
    if (round_ == r) round_.reset();
  }
  return r->outcome;
}

Result<> RootfsRounds::close() {
  MutexLock lock(mu_);
  if (round_) return fail(Errc::kPeerProtocol, "round \"{}\" of the root file system is not complete", round_->name);
  if (!closed_) closed_ = Error(Errc::kPeerProtocol, "a round of the root file system comes after the last one");
  return {};
}

void RootfsRounds::end() {
  std::shared_ptr<Round> r;
  {
    MutexLock lock(mu_);
    closed_ = Error(Errc::kCancelled, "the move was ended on the destination");
    r = std::exchange(round_, nullptr);
  }
  if (!r) return;
  r->pipe->fail_reader(Error(Errc::kCancelled, "the move was ended"));
  r->thread.join();
}

}  // namespace transship::migrate
