#include "memory/page_sender.h"

#include <algorithm>
#include <cstring>
#include <ctime>
#include <deque>
#include <optional>
#include <thread>

#include "base/mutex.h"
#include "base/thread.h"
#include "memory/codec.h"
#include "memory/page_batch.h"

namespace transship::memory {
namespace {

using Seconds = CompressionChooser::Seconds;

// How often a wait for the workers looks whether the move was cancelled: a condition variable cannot watch that.
constexpr milliseconds kLook{50};
// A trial of another compressor takes this much of a batch: enough to be typical, little enough not to count.
constexpr size_t kTrialBytes = kBatchPages * kPageBytes / 8;

Seconds thread_cpu() {
  timespec t{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return Seconds(static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9);
}
Seconds now() { return Clock::now().time_since_epoch(); }

unsigned workers_of(const PageSenderOptions& o) {
  unsigned wanted = o.workers != 0 ? o.workers : std::thread::hardware_concurrency();
  return std::clamp(wanted, 1U, kMaxPageWorkers);
}

// A batch while it is filled, waits, and is encoded.
struct Job {
  PageBatch batch;  // its content is set when it is full
  std::unique_ptr<std::byte[]> buffer = std::make_unique_for_overwrite<std::byte[]>(kBatchPages * kPageBytes);
  size_t pages = 0;  // of content

  size_t room() const { return std::min(kBatchPages - pages, kBatchSegments - batch.segments.size()); }
  uint64_t end() const { return batch.segments.empty() ? 0 : batch.segments.back().range.end(); }
  std::byte* at(size_t page) { return buffer.get() + page * kPageBytes; }
  void reset(SpaceId space) {
    batch.space = space;
    batch.segments.clear();
    pages = 0;
  }
};

// The page was read to `from`, at the end of the content or behind it. Returns whether it is zero.
bool place(Job& job, uint64_t address, const std::byte* from) {
  bool zero = is_zero_page(from);
  auto& segments = job.batch.segments;
  if (!segments.empty() && segments.back().zero == zero && segments.back().range.end() == address)
    ++segments.back().range.pages;
  else
    segments.push_back({{address, 1}, zero});
  if (zero) return true;
  if (std::byte* to = job.at(job.pages); to != from) std::memcpy(to, from, kPageBytes);
  ++job.pages;
  return false;
}

// Walks over ranges page by page. Does not copy them: there may be millions.
class Cursor {
 public:
  explicit Cursor(std::span<const PageRange> ranges) : left_(ranges) {}
  bool done() const { return left_.empty(); }
  uint64_t address() const { return left_.front().address + inside_ * kPageBytes; }
  // At most `most` pages from here on, as far as their addresses ascend.
  void peek(size_t most, std::vector<PageRange>& out) const {
    out.clear();
    uint64_t inside = inside_;
    for (const auto& range : left_) {
      uint64_t from = range.address + inside * kPageBytes;
      if (most == 0 || (!out.empty() && from < out.back().end())) return;
      out.push_back({from, std::min<uint64_t>(range.pages - inside, most)});
      most -= out.back().pages;
      inside = 0;
    }
  }
  void step() {
    if (++inside_ < left_.front().pages) return;
    left_ = left_.subspan(1);
    inside_ = 0;
  }

 private:
  std::span<const PageRange> left_;
  uint64_t inside_ = 0;  // pages of the first range that are done
};

}  // namespace

bool is_zero_page(const std::byte* page) {
  uint64_t first;
  std::memcpy(&first, page, sizeof first);
  // If the first word is zero and each byte equals that one word further on, all are. memcmp is the widest loop that
  // the machine has, whatever we were compiled for.
  return first == 0 && std::memcmp(page, page + sizeof first, kPageBytes - sizeof first) == 0;
}

struct PageSender::State {
  State(SendFrame s, const PageSenderOptions& o, Cancel c)
      : send(std::move(s)),
        options(o),
        cancel(std::move(c)),
        most_jobs(2 * workers_of(o) + 1),
        chooser(o.compression, workers_of(o), o.link_bytes_per_second) {}
  const SendFrame send;
  const PageSenderOptions options;
  const Cancel cancel;
  const size_t most_jobs;

  // Of the thread that adds.
  Job* filling = nullptr;
  std::vector<PageRange> asked;
  std::vector<std::unique_ptr<Job>> jobs;

  mutable Mutex mu;
  CondVar work;   // a job was queued, or it ends
  CondVar ready;  // a job is free again, or it failed
  std::vector<Job*> idle GUARDED_BY(mu);
  std::deque<Job*> queue GUARDED_BY(mu);
  size_t under_way GUARDED_BY(mu) = 0;  // queued or with a worker
  bool stopping GUARDED_BY(mu) = false;
  std::optional<Error> error GUARDED_BY(mu);
  std::optional<Clock::time_point> round_start GUARDED_BY(mu);
  SentStats stats GUARDED_BY(mu);
  CompressionChooser chooser GUARDED_BY(mu);
  std::vector<Thread> threads;

  Result<> check_usable();
  Result<> wait_ready(Deadline deadline) REQUIRES(mu);
  Result<> take_job(SpaceId space);
  Result<> make_room(SpaceId space, uint64_t address);
  void seal();
  Result<> fill(SpaceId space, Cursor& cursor, const ReadPages& read);
  void count(SpaceId space, uint64_t read, uint64_t zero, std::optional<uint64_t> skipped);

  void run();
  Job* next();
  Result<> work_on(const Job& job, std::vector<std::byte>& frame);
  Result<CompressionChooser::Encoding> encode(const Job& job, std::vector<std::byte>& frame);
  Result<> try_method(const Job& job, Compression method);
  void done(Job* job, Result<> outcome);
};

// ---- the thread that adds

Result<> PageSender::State::check_usable() {
  TS_TRY(cancel.check());
  MutexLock lock(mu);
  if (error) return std::unexpected(*error);
  if (!round_start) round_start = Clock::now();
  return {};
}

// One wake-up, or a look at what else may have happened.
Result<> PageSender::State::wait_ready(Deadline deadline) {
  if (error) return std::unexpected(*error);
  TS_TRY(cancel.check());
  if (deadline.passed())
    return fail(Errc::kTimeout, "send pages: {} batches are still on their way, the lanes do not take them", under_way);
  ready.wait_until(mu, deadline.sooner(Deadline::in(kLook)).at());
  return {};
}

Result<> PageSender::State::take_job(SpaceId space) {
  MutexLock lock(mu);
  // Made as they are needed: a small round touches little memory.
  if (idle.empty() && jobs.size() < most_jobs) idle.push_back(jobs.emplace_back(std::make_unique<Job>()).get());
  uint64_t before = stats.batches;
  auto deadline = Deadline::in(options.stall);
  while (idle.empty()) {
    TS_TRY(wait_ready(deadline));
    if (stats.batches != before) deadline = Deadline::in(options.stall);
    before = stats.batches;
  }
  filling = idle.back();
  idle.pop_back();
  filling->reset(space);
  return {};
}

void PageSender::State::seal() {
  Job* job = std::exchange(filling, nullptr);
  job->batch.content = {job->buffer.get(), job->pages * kPageBytes};
  MutexLock lock(mu);
  if (job->batch.segments.empty()) {
    idle.push_back(job);
    return;
  }
  queue.push_back(job);
  ++under_way;
  work.notify_one();
}

// After this there is a batch that can take at least one page of that address.
Result<> PageSender::State::make_room(SpaceId space, uint64_t address) {
  if (filling && (filling->batch.space != space || filling->room() == 0 || address < filling->end())) seal();
  if (!filling) TS_TRY(take_job(space));
  return {};
}

void PageSender::State::count(SpaceId space, uint64_t read, uint64_t zero, std::optional<uint64_t> skipped) {
  MutexLock lock(mu);
  stats.pages += read;
  stats.zero_pages += zero;
  stats.bytes_in += (read - zero) * kPageBytes;
  if (!skipped) return;
  ++stats.skipped_pages;
  auto& list = stats.skipped;
  if (!list.empty() && list.back().space == space && list.back().range.end() == *skipped)
    ++list.back().range.pages;
  else if (list.size() < kMaxSkippedEntries)
    list.push_back({space, {*skipped, 1}});
}

Result<> PageSender::State::fill(SpaceId space, Cursor& cursor, const ReadPages& read) {
  TS_TRY(make_room(space, cursor.address()));
  size_t room = filling->room();
  cursor.peek(room, asked);
  size_t pages = 0;
  for (const auto& range : asked) pages += range.pages;
  std::byte* from = filling->at(filling->pages);
  TS_TRY_ASSIGN(size_t got, read(asked, std::span(from, pages * kPageBytes)));
  if (got > pages) return fail(Errc::kInternal, "read {} pages where {} were asked for", got, pages);
  uint64_t zero = 0;
  for (size_t i = 0; i < got; ++i, cursor.step())
    if (place(*filling, cursor.address(), from + i * kPageBytes)) ++zero;
  std::optional<uint64_t> skipped;
  if (got < pages) {
    skipped = cursor.address();
    cursor.step();
  }
  count(space, got, zero, skipped);
  return {};
}

// ---- the workers

Job* PageSender::State::next() {
  MutexLock lock(mu);
  while (queue.empty() && !stopping && !error) work.wait(mu);
  if (stopping || error) return nullptr;
  Job* job = queue.front();
  queue.pop_front();
  return job;
}

Result<> PageSender::State::try_method(const Job& job, Compression method) {
  thread_local std::vector<std::byte> buffer(worthwhile_size(kTrialBytes));
  auto content = job.batch.content.first(std::min(kTrialBytes, job.batch.content.size()));
  CompressionChooser::Encoding e{.asked = method, .content = content.size()};
  Seconds cpu = thread_cpu();
  Seconds wall = now();
  auto room = std::span(buffer).first(worthwhile_size(content.size()));
  TS_TRY_ASSIGN(auto size, compress(method, options.zstd_level, content, room));
  e.cpu = thread_cpu() - cpu;
  e.wall = now() - wall;
  e.stored = size.value_or(content.size());
  MutexLock lock(mu);
  chooser.encoded(e);
  return {};
}

Result<CompressionChooser::Encoding> PageSender::State::encode(const Job& job, std::vector<std::byte>& frame) {
  CompressionChooser::Encoding e{.content = job.batch.content.size()};
  std::optional<Compression> trial;
  {
    MutexLock lock(mu);
    if (e.content > 0) trial = chooser.trial_due();
    e.asked = chooser.current();
  }
  if (trial) TS_TRY(try_method(job, *trial));
  Seconds cpu = thread_cpu();
  Seconds wall = now();
  TS_TRY(encode_batch(job.batch, e.asked, options.zstd_level, frame));
  e.cpu = thread_cpu() - cpu;
  e.wall = now() - wall;
  e.stored = frame.size() - kBatchHeaderBytes - job.batch.segments.size() * kBatchSegmentBytes;
  return e;
}

Result<> PageSender::State::work_on(const Job& job, std::vector<std::byte>& frame) {
  TS_TRY(cancel.check());
  TS_TRY_ASSIGN(auto encoding, encode(job, frame));
  size_t size = frame.size();
  auto start = Clock::now();
  TS_TRY(send(frame));
  auto waited = Clock::now() - start;
  MutexLock lock(mu);
  ++stats.batches;
  stats.bytes_out += size;
  stats.waited += waited;
  chooser.encoded(encoding);
  chooser.sent(size, waited, now());
  return {};
}

void PageSender::State::done(Job* job, Result<> outcome) {
  MutexLock lock(mu);
  --under_way;
  idle.push_back(job);
  if (!outcome && !error) {
    error = std::move(outcome).error();
    work.notify_all();
  }
  ready.notify_one();
}

void PageSender::State::run() {
  std::vector<std::byte> frame;
  while (Job* job = next()) done(job, work_on(*job, frame));
}

// ---- outside

PageSender::PageSender(SendFrame send, const PageSenderOptions& options, Cancel cancel)
    : state_(std::make_unique<State>(std::move(send), options, std::move(cancel))) {
  for (unsigned i = 0; i < workers_of(options); ++i)
    state_->threads.emplace_back(fmt::format("pages-{}", i), [s = state_.get()] { s->run(); });
}

PageSender::~PageSender() {
  {
    MutexLock lock(state_->mu);
    state_->stopping = true;
    state_->work.notify_all();
  }
  state_->threads.clear();
}

Result<> PageSender::add(SpaceId space, std::span<const PageRange> ranges, const ReadPages& read) {
  for (const auto& [address, pages] : ranges)
    if (pages == 0 || address % kPageBytes != 0 || address > kMaxPageEnd ||
        pages > (kMaxPageEnd - address) / kPageBytes)
      return fail(Errc::kInvalidArgument, "send {} pages at {:#x}: not a range of pages", pages, address);
  TS_TRY(state_->check_usable());
  Cursor cursor(ranges);
  while (!cursor.done()) {
    TS_TRY(state_->cancel.check());
    TS_TRY(state_->fill(space, cursor, read));
  }
  return {};
}

Result<SentStats> PageSender::finish_round(Deadline deadline) {
  State& s = *state_;
  TS_TRY(s.check_usable());
  if (s.filling) s.seal();
  MutexLock lock(s.mu);
  while (s.under_way > 0) TS_TRY(s.wait_ready(deadline));
  if (s.error) return std::unexpected(*s.error);
  s.stats.elapsed = Clock::now() - *s.round_start;
  s.stats.compression = s.chooser.current();
  s.round_start.reset();
  s.chooser.pause();
  return std::exchange(s.stats, {});
}

SentStats PageSender::progress() const {
  const State& s = *state_;
  MutexLock lock(s.mu);
  SentStats r{.pages = s.stats.pages,
              .zero_pages = s.stats.zero_pages,
              .skipped_pages = s.stats.skipped_pages,
              .batches = s.stats.batches,
              .bytes_in = s.stats.bytes_in,
              .bytes_out = s.stats.bytes_out,
              .waited = s.stats.waited,
              .compression = s.chooser.current()};
  if (s.round_start) r.elapsed = Clock::now() - *s.round_start;
  return r;
}

CompressionSituation PageSender::situation() const {
  MutexLock lock(state_->mu);
  return state_->chooser.situation();
}

}  // namespace transship::memory
