#include "migrate/arriving_memory.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "base/text.h"
#include "criu/memfd_images.h"
#include "sys/urgent.h"

namespace transship::migrate {
namespace {

constexpr milliseconds kPagerLimit{5000};
constexpr milliseconds kMaxWait{1000};
// A pager that lives loses nothing while it does not answer; given up, its container must be killed.
constexpr milliseconds kReconnectLimit{30'000};
constexpr milliseconds kReconnectEvery{50};
constexpr milliseconds kTellAgain{500};
constexpr milliseconds kLookAgain{100};
constexpr int kMaxWanted = 4096;
// What is asked for with a page that somebody waits for, if it has not come either: who reads one reads the next, and
// half a millisecond of a link of 1 Gbit/s costs less than another question.
constexpr uint64_t kNeighbours = 16;
// In one answer; a page list of 40 bytes each stays far below the limit of a message.
constexpr size_t kMaxSpans = 20'000;

memory::PageBatch decoded(std::span<const std::byte> frame, Result<>& outcome) {
  // One for each lane's thread: fresh memory costs more than decompressing into it.
  thread_local std::vector<std::byte> scratch;
  auto batch = memory::decode_batch(frame, scratch);
  if (batch) return std::move(*batch);
  outcome = std::unexpected(std::move(batch).error());
  return {};
}

// Pages that CRIU itself restores come out of the store.
class StoreSource final : public criu::PageSource {
 public:
  StoreSource(memory::PageStore& store, memory::SharedStore& shared) : store_(store), shared_(shared) {}
  Result<> read(criu::ImageSpace space, uint64_t address, std::span<std::byte> out) override {
    if (space.shared && shared_.holds(space.id)) return shared_.read(space.id, address, out);
    return store_.copy_out(name(space), {address, out.size() / memory::kPageBytes}, out);
  }
  // Content goes straight from the store's mapping.
  Result<> write_to(int fd, uint64_t offset, criu::ImageSpace space, criu::ImageRange range) override {
    if (space.shared && shared_.holds(space.id)) return PageSource::write_to(fd, offset, space, range);
    for (uint64_t done = 0; done < range.pages;) {
      criu::ImageRange part{range.address + done * memory::kPageBytes, range.pages - done};
      auto run = store_.run(name(space), part.address, part.pages);
      part.pages = run.pages;
      auto bytes = std::span(run.content, run.content == nullptr ? 0 : run.pages * memory::kPageBytes);
      TS_TRY(bytes.empty() ? PageSource::write_to(fd, offset, space, part) : write_at(fd, offset, bytes));
      offset += part.pages * memory::kPageBytes;
      done += part.pages;
    }
    return {};
  }

 private:
  static memory::SpaceId name(criu::ImageSpace space) {
    return {space.shared ? memory::SpaceKind::kShared : memory::SpaceKind::kTask, space.id};
  }
  static Result<> write_at(int fd, uint64_t offset, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      ssize_t n = retry_eintr([&] { return ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset)); });
      if (n < 0) return fail_errno(errno, "write {} of pages", format_bytes(bytes.size()));
      bytes = bytes.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
    return {};
  }
  memory::PageStore& store_;
  memory::SharedStore& shared_;
};

Result<> give_properties(int file, const criu::InheritedMemory& object) {
  if (::ftruncate(file, static_cast<off_t>(object.size)) == 0 && ::fchown(file, object.uid, object.gid) == 0 &&
      ::fchmod(file, object.mode) == 0)
    return {};
  return fail_errno(errno, "make a file of {} bytes shared memory {}", object.size, object.id);
}

void add_span(google::protobuf::RepeatedPtrField<peer::PageSpan>& list, memory::SpaceId space,
              memory::PageRange range) {
  auto& span = *list.Add();
  span.set_kind(static_cast<uint32_t>(space.kind));
  span.set_id(space.id);
  span.set_address(range.address);
  span.set_pages(range.pages);
}

}  // namespace

Result<std::unique_ptr<ArrivingMemory>> ArrivingMemory::create(uint64_t byte_limit, Told told) {
  TS_TRY_ASSIGN(auto store, memory::PageStore::create(byte_limit));
  TS_TRY(store.map_content());
  return std::unique_ptr<ArrivingMemory>(new ArrivingMemory(std::move(store), std::move(told)));
}

Result<std::unique_ptr<ArrivingMemory>> ArrivingMemory::adopt(const std::string& work_dir, Told told) {
  std::unique_ptr<ArrivingMemory> memory(new ArrivingMemory(std::nullopt, std::move(told)));
  TS_TRY_ASSIGN(memory->expected_, read_expected_pages(work_dir));
  TS_TRY(memory->reconnect(work_dir));
  MutexLock lock(memory->mu_);
  memory->prepared_ = true;
  memory->sealed_ = memory->pager_ == nullptr || memory->store().sealed();
  memory->follows_ = !memory->sealed_;
  return memory;
}

// It may end, its work done, while we knock.
Result<> ArrivingMemory::reconnect(const std::string& work_dir) {
  TS_TRY_ASSIGN(auto never, Cancel::create());
  auto deadline = Deadline::in(kReconnectLimit);
  while (true) {
    auto client = memory::PagerClient::reconnect(work_dir, pager_options(work_dir), deadline);
    if (client) {
      pager_ = std::move(*client);
      return {};
    }
    switch (memory::PagerClient::fate(work_dir)) {
      case memory::PagerFate::kFilled: return {};
      case memory::PagerFate::kFailed: return fail(Errc::kCorrupt, "the pager could not fill all memory");
      case memory::PagerFate::kLost: return fail(Errc::kCorrupt, "the pager died before all memory was filled");
      case memory::PagerFate::kRunning: break;
    }
    if (deadline.passed()) return fail(Errc::kCorrupt, "the pager does not answer: {}", client.error().message());
    TS_TRY(sleep_for(kReconnectEvery, never));
  }
}

Result<> ArrivingMemory::receive(std::span<const std::byte> frame) {
  Result<> outcome;
  auto batch = decoded(frame, outcome);
  TS_TRY(outcome);
  if (!own_store_ && !pager_) return {};  // all is filled
  bool kept = false;
  if (batch.space.kind == memory::SpaceKind::kShared && own_store_) {
    TS_TRY_ASSIGN(kept, shared_.put(batch));
  }
  if (!kept) TS_TRY(store().put(batch));
  TS_TRY(check_room());
  MutexLock lock(mu_);
  if (prepared_ && pager_) {
    pager_->arrived();
    changed_.notify_all();
  }
  return {};
}

// The store looks by itself; what is shared counts against the same limit.
Result<> ArrivingMemory::check_room() {
  auto shared = shared_.bytes_held();
  if (shared == 0 || shared + store().bytes_held() <= store().byte_limit()) return {};
  return fail(Errc::kNoSpace, "memory pages that have arrived take more than the {} bytes reserved for them",
              store().byte_limit());
}

Result<> ArrivingMemory::receive_stale(std::span<const std::byte> frame) {
  Result<> outcome;
  auto batch = decoded(frame, outcome);
  TS_TRY(outcome);
  {
    MutexLock lock(mu_);
    if (prepared_) return fail(Errc::kPeerProtocol, "pages were called stale after the restore had begun");
  }
  bool shared = batch.space.kind == memory::SpaceKind::kShared && shared_.holds(batch.space.id);
  for (const auto& segment : batch.segments)
    shared ? shared_.drop(batch.space.id, segment.range) : store().drop(batch.space, segment.range);
  return {};
}

memory::PagerClient::Options ArrivingMemory::pager_options(const std::string& work_dir) {
  memory::PagerClient::Options options;
  options.log_file = work_dir + "/pager.log";
  options.on_request = [this](memory::SpaceId space, uint64_t address) {
    MutexLock lock(mu_);
    wanted_.push_back({space, address, {}});
    changed_.notify_all();
  };
  options.on_trouble = [this](const Error& error) {
    {
      MutexLock lock(mu_);
      lost_ = error.message();
      changed_.notify_all();
    }
    told_.lost(error);
  };
  options.on_replaced = [this](const std::string& text) { told_.replaced(text); };
  return options;
}

Result<> ArrivingMemory::start_pager(const std::string& work_dir) {
  work_dir_ = work_dir;
  TS_TRY_ASSIGN(pager_,
                memory::PagerClient::spawn(store(), work_dir, pager_options(work_dir), Deadline::in(kPagerLimit)));
  return {};
}

std::vector<int> ArrivingMemory::lend_files() {
  lent_ = shared_.ids();
  std::vector<int> files;
  for (uint64_t id : lent_) files.push_back(shared_.file(id));
  return files;
}

void ArrivingMemory::reserve_images(const std::string& images_dir) {
  for (const auto& space : store().spaces()) {
    if (space.kind != memory::SpaceKind::kShared) continue;
    if (auto r = criu::reserve_shared_pages(images_dir, space.id, store().pages_of(space) * memory::kPageBytes); !r)
      TS_LOG_WARN("shared memory {}: {}", space.id, r.error().message());
  }
}

// Those that CRIU will map as they are.
Result<std::vector<std::string>> ArrivingMemory::complete_files(const std::string& images_dir) {
  TS_TRY_ASSIGN(auto inherited, criu::expect_inherited(images_dir, {lent_.begin(), lent_.end()}));
  std::vector<std::string> keys(lent_.size());
  for (auto& object : inherited) {
    std::vector<memory::PageRange> pages;
    for (const auto& range : object.pages) pages.push_back({range.address, range.pages});
    if (auto missing = shared_.missing(object.id, pages); !missing.empty())
      return fail(Errc::kCorrupt, "pages of shared memory {} did not arrive, the first of them {:#x}", object.id,
                  missing.front().address);
    TS_TRY(give_properties(shared_.file(object.id), object));
    auto at = std::ranges::lower_bound(lent_, object.id) - lent_.begin();
    keys[static_cast<size_t>(at)] = std::move(object.key);
  }
  TS_LOG_INFO("shared memory objects={} inherited={} bytes={}", lent_.size(), inherited.size(), shared_.bytes_held());
  return keys;
}

Result<std::vector<std::string>> ArrivingMemory::prepare(const std::string& images_dir, bool post_copy) {
  auto begin = Clock::now();
  TS_TRY_ASSIGN(auto keys, complete_files(images_dir));
  StoreSource source(store(), shared_);
  TS_TRY_ASSIGN(auto plan, criu::prepare_lazy_restore(images_dir, source, store().byte_limit()));
  TS_LOG_INFO("images completed pages={} lazy_pages={} us={}", plan.eager_pages, plan.lazy_pages,
              std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count());
  for (const auto& s : plan.spaces) {
    if (s.space.shared) continue;
    auto& [space, ranges] = expected_.emplace_back();
    space = {memory::SpaceKind::kTask, s.space.id};
    for (const auto& r : s.lazy) ranges.push_back({r.address, r.pages});
  }
  TS_TRY(write_expected_pages(work_dir_, expected_));
  if (!post_copy) TS_TRY(check_complete());
  auto deadline = Deadline::in(kPagerLimit);
  for (const auto& [space, ranges] : expected_) TS_TRY(pager_->expect(space, ranges, deadline));
  if (!post_copy) TS_TRY(pager_->seal(deadline));
  MutexLock lock(mu_);
  prepared_ = true;
  sealed_ = !post_copy;
  follows_ = post_copy;
  return keys;
}

Result<> ArrivingMemory::check_complete() {
  for (const auto& [space, ranges] : expected_) {
    auto missing = store().missing(space, ranges);
    if (missing.empty()) continue;
    uint64_t pages = 0;
    for (const auto& range : missing) pages += range.pages;
    return fail(Errc::kCorrupt, "{} pages of process {} did not arrive, the first of them {:#x}", pages, space.id,
                missing.front().address);
  }
  return {};
}

// True when every expected page is in the store, or filled.
Result<bool> ArrivingMemory::list_missing(peer::FillState& state, size_t limit) {
  for (const auto& [space, ranges] : expected_) {
    for (const auto& range : store().missing(space, ranges)) {
      if (static_cast<size_t>(state.missing_size()) == limit) return false;
      add_span(*state.mutable_missing(), space, range);
    }
  }
  return state.missing_size() == 0;
}

// Pages from `address` on, that one included, that are to come and have not.
uint64_t ArrivingMemory::absent_from(memory::SpaceId space, uint64_t address) {
  uint64_t count = 1;
  for (const auto& [owner, ranges] : expected_) {
    if (owner != space) continue;
    auto after = std::ranges::upper_bound(ranges, address, {}, &memory::PageRange::address);
    if (after == ranges.begin()) break;
    uint64_t end = std::min(std::prev(after)->end(), address + kNeighbours * memory::kPageBytes);
    while (address + count * memory::kPageBytes < end &&
           store().state(space, address + count * memory::kPageBytes) == memory::PageState::kAbsent)
      ++count;
  }
  return count;
}

// True when there is one that the source has not been told, or long ago.
bool ArrivingMemory::take_wanted(peer::FillState& state) {
  std::erase_if(wanted_,
                [&](const Wanted& w) { return store().state(w.space, w.address) != memory::PageState::kAbsent; });
  auto now = Clock::now();
  for (auto& w : wanted_) {
    if (state.wanted_size() == kMaxWanted || now - w.told < kTellAgain) continue;
    w.told = now;
    add_span(*state.mutable_wanted(), w.space, {w.address, absent_from(w.space, w.address)});
  }
  return state.wanted_size() > 0;
}

Result<peer::FillState> ArrivingMemory::fill_state(const peer::FillRequest& request) {
  auto deadline = Deadline::in(std::min(kMaxWait, milliseconds(request.wait_ms())));
  peer::FillState state;
  {
    std::optional<sys::Urgent> first;
    if (!request.list_missing()) first.emplace();
    MutexLock lock(mu_);
    // A list is asked for by the one who sends all the rest: what is waited for is told to the other one.
    while (!request.list_missing() && !take_wanted(state) && lost_.empty() && !sealed_ && !deadline.passed())
      changed_.wait_for(mu_, deadline.remaining());
    if (!prepared_) {
      if (request.list_missing()) return fail(Errc::kPeerProtocol, "nothing has been restored yet");
      return state;  // asked in the moment before
    }
    state.set_lost(lost_);
    state.set_complete(sealed_);
    told_complete_ = told_complete_ || sealed_;
  }
  auto progress = this->progress();
  state.set_filled_pages(progress.done_pages);
  state.set_expected_pages(progress.expected_pages);
  if (!request.list_missing() || state.complete()) return state;
  TS_TRY_ASSIGN(bool complete, list_missing(state, kMaxSpans));
  if (!complete) return state;
  auto sealed = pager_->seal(Deadline::in(kPagerLimit));
  progress = pager_->progress();
  // With the last page filled it ends, sealed or not.
  if (!sealed && progress.done_pages < progress.expected_pages) return std::unexpected(std::move(sealed).error());
  state.set_complete(true);
  MutexLock lock(mu_);
  sealed_ = true;
  told_complete_ = true;
  changed_.notify_all();
  return state;
}

void ArrivingMemory::wait_source_told(Deadline deadline, const Cancel& cancel) {
  MutexLock lock(mu_);
  while (follows_ && !told_complete_ && lost_.empty() && !deadline.passed() && !cancel.cancelled())
    changed_.wait_for(mu_, std::min(deadline.remaining(), kLookAgain));
}

Result<> ArrivingMemory::wait_replaceable(const Cancel& cancel) {
  return pager_ ? pager_->wait_replaceable(Deadline::in(kPagerLimit), cancel) : Result<>{};
}

Result<> ArrivingMemory::wait_filled(Deadline deadline, const Cancel& cancel) {
  if (!pager_) return {};
  // CRIU has restored those; giving their memory back takes time that was better spent after the switch.
  for (const auto& space : store().spaces())
    if (space.kind == memory::SpaceKind::kShared) store().drop(space);
  return pager_->wait_done(deadline, cancel);
}

void ArrivingMemory::abort() {
  if (!pager_) return;
  if (auto r = pager_->abort(Deadline::in(kPagerLimit)); !r) TS_LOG_WARN("pager: {}", r.error().message());
}

memory::PagerProgress ArrivingMemory::progress() const { return pager_ ? pager_->progress() : memory::PagerProgress{}; }

}  // namespace transship::migrate
