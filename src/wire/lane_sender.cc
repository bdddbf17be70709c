#include <algorithm>
#include <array>
#include <deque>
#include <list>
#include <optional>

#include "base/mutex.h"
#include "base/text.h"
#include "base/thread.h"
#include "wire/lane_frame.h"
#include "wire/lanes.h"
#include "wire/rate_limit.h"

namespace transship::wire {
namespace {

constexpr size_t kMaxKeptBuffers = 16;
// With a rate limit, what goes out at once: small enough to be smooth at 1 Mbit/s.
constexpr size_t kPacedBytes = 64U << 10;

// One data frame, or (without a name) a flush.
struct Item {
  FrameHeader header;
  std::string name;
  std::shared_ptr<Buffer> owner;
  std::span<const std::byte> payload;
};

// FNV-1a: the same name takes the same lane in every build.
size_t hash_of(std::string_view name) {
  uint64_t h = 14695981039346656037U;
  for (char c : name) h = (h ^ static_cast<unsigned char>(c)) * 1099511628211U;
  return static_cast<size_t>(h);
}

}  // namespace

struct LaneSender::State {
  struct Lane {
    std::unique_ptr<Stream> stream;
    std::deque<Item> queue;    // under mu
    size_t queued_bytes = 0;   // likewise, with the item that is being sent
    uint64_t flushed = 0;      // likewise: number of the last flush that was acknowledged
    bool unconfirmed = false;  // likewise: chunks were sent or queued after that flush
    CondVar wake;
    Thread thread;
  };

  State(const LaneOptions& o, Cancel c) : options(o), cancel(std::move(c)), rate(o.max_bytes_per_second) {}
  const LaneOptions options;
  const Cancel cancel;
  RateLimit rate;
  std::list<Lane> lanes;  // fixed after start
  mutable Mutex mu;
  CondVar room;  // a queue got shorter, a flush was acknowledged, or it failed
  std::optional<Error> error GUARDED_BY(mu);
  bool stopping GUARDED_BY(mu) = false;
  uint64_t flushes GUARDED_BY(mu) = 0;
  uint64_t payload_bytes GUARDED_BY(mu) = 0;
  uint64_t chunks GUARDED_BY(mu) = 0;
  uint64_t queued_chunks GUARDED_BY(mu) = 0;
  std::vector<Buffer> spare GUARDED_BY(mu);

  void run(Lane& lane);
  std::optional<Item> next(Lane& lane);
  Result<> transmit(Lane& lane, const Item& item);
  Result<> pace_and_write(Stream& stream, std::span<const std::byte> data);
  Result<> await_ack(Lane& lane, uint64_t number);
  Result<FrameHeader> read_answer(Stream& stream, Deadline deadline);
  Error read_complaint(Stream& stream);
  void sent(Lane& lane, Item item);
  void give_up(Error why);
  Lane& pick(std::string_view name, Route route) REQUIRES(mu);
  Result<> enqueue(Item item, Route route);
};

void LaneSender::State::run(Lane& lane) {
  while (auto item = next(lane)) {
    auto r = transmit(lane, *item);
    if (!r) return give_up(std::move(r).error());
    sent(lane, std::move(*item));
  }
}

std::optional<Item> LaneSender::State::next(Lane& lane) {
  MutexLock lock(mu);
  while (lane.queue.empty() && !stopping && !error) lane.wake.wait(mu);
  if (stopping || error) return std::nullopt;
  Item item = std::move(lane.queue.front());
  lane.queue.pop_front();
  return item;
}

Result<> LaneSender::State::transmit(Lane& lane, const Item& item) {
  Stream& stream = *lane.stream;
  // The receiver speaks unasked only to complain.
  auto complains = stream.readable_now();
  if (!complains) return std::unexpected(std::move(complains).error());
  if (*complains) return std::unexpected(read_complaint(stream));
  auto head = encode_header(item.header);
  // Header and name in one write: with TCP_NODELAY each write is a packet.
  std::array<std::byte, kFrameHeaderBytes + kMaxFrameName> small;
  std::ranges::copy(head, small.begin());
  std::ranges::copy(std::as_bytes(std::span(item.name)), small.begin() + kFrameHeaderBytes);
  auto written = pace_and_write(stream, std::span(small).first(kFrameHeaderBytes + item.name.size()));
  if (written && !item.payload.empty()) written = pace_and_write(stream, item.payload);
  if (!written && written.error().code() == Errc::kUnavailable) {
    // Cut while we were sending; what it said before that tells more.
    auto words = stream.readable_now();
    if (words && *words) return std::unexpected(read_complaint(stream));
  }
  TS_TRY(std::move(written));
  if (item.header.type == FrameType::kFlush) return await_ack(lane, item.header.offset);
  return {};
}

Result<> LaneSender::State::pace_and_write(Stream& stream, std::span<const std::byte> data) {
  while (rate.limited() && !data.empty()) {
    auto part = data.first(std::min(data.size(), kPacedBytes));
    auto wait = rate.take(part.size(), Clock::now());
    // poll() sleeps whole milliseconds; shorter waits add up in the bucket.
    if (auto ms = std::chrono::duration_cast<milliseconds>(wait); ms.count() > 0) TS_TRY(sleep_for(ms, cancel));
    TS_TRY(stream.write_steadily(part, options.stall, cancel));
    data = data.subspan(part.size());
  }
  if (data.empty()) return {};
  return stream.write_steadily(data, options.stall, cancel);
}

// The receiver may have much to do before it can answer, so this waits as long as flush() does, who ends it by
// shutdown(); a peer that is gone is noticed by keepalive.
Result<> LaneSender::State::await_ack(Lane& lane, uint64_t number) {
  constexpr milliseconds kEver{24 * 3600 * 1000};
  TS_TRY_ASSIGN(FrameHeader header, read_answer(*lane.stream, Deadline::in(kEver)));
  if (header.type != FrameType::kAck || header.offset != number)
    return fail(Errc::kPeerProtocol, "{} answers a flush with something else", lane.stream->peer());
  MutexLock lock(mu);
  lane.flushed = number;
  lane.unconfirmed = !lane.queue.empty();
  return {};
}

// A frame of the receiver; an error frame becomes that error.
Result<FrameHeader> LaneSender::State::read_answer(Stream& stream, Deadline deadline) {
  std::array<std::byte, kFrameHeaderBytes> head;
  TS_TRY(stream.read_exact(head, deadline, cancel));
  TS_TRY_ASSIGN(FrameHeader header, decode_header(head));
  if (header.type != FrameType::kError) return header;
  std::string body(header.length, '\0');
  TS_TRY(stream.read_exact(std::as_writable_bytes(std::span(body)), Deadline::in(options.stall), cancel));
  peer::Failure failure;
  if (!failure.ParseFromString(body)) return fail(Errc::kPeerProtocol, "{} sent a broken error", stream.peer());
  return std::unexpected(to_error(failure).context(stream.peer()));
}

Error LaneSender::State::read_complaint(Stream& stream) {
  auto answer = read_answer(stream, Deadline::in(options.stall));
  if (answer) return Error(Errc::kPeerProtocol, fmt::format("{} speaks unasked", stream.peer()));
  return std::move(answer).error();
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): its share of the buffer must not outlive this
void LaneSender::State::sent(Lane& lane, Item item) {
  MutexLock lock(mu);
  lane.queued_bytes -= item.payload.size();
  if (item.header.type == FrameType::kData) {
    payload_bytes += item.payload.size();
    ++chunks;
  }
  // The last chunk of a buffer gives it back.
  if (item.owner && item.owner.use_count() == 1 && spare.size() < kMaxKeptBuffers)
    spare.push_back(std::move(*item.owner));
  room.notify_all();
}

void LaneSender::State::give_up(Error why) {
  MutexLock lock(mu);
  if (!error) error = std::move(why);
  // The other lanes end too, and the receiver sees that nothing was complete.
  for (Lane& lane : lanes) {
    lane.stream->shutdown();
    lane.wake.notify_all();
  }
  room.notify_all();
}

LaneSender::State::Lane& LaneSender::State::pick(std::string_view name, Route route) {
  if (route == Route::kOrdered)
    return *std::next(lanes.begin(), static_cast<std::ptrdiff_t>(hash_of(name) % lanes.size()));
  return *std::ranges::min_element(lanes, {}, [](const Lane& l) { return l.queued_bytes; });
}

Result<> LaneSender::State::enqueue(Item item, Route route) {
  MutexLock lock(mu);
  while (true) {
    if (error) return std::unexpected(*error);
    TS_TRY(cancel.check());
    Lane& lane = pick(item.name, route);
    if (lane.queued_bytes == 0 || lane.queued_bytes + item.payload.size() <= options.queue_bytes) {
      lane.queued_bytes += item.payload.size();
      ++queued_chunks;
      lane.unconfirmed = true;
      lane.queue.push_back(std::move(item));
      lane.wake.notify_one();
      return {};
    }
    // Someone is sending, and watches `cancel` and the stall limit: it ends in sent() or give_up().
    room.wait(mu);
  }
}

LaneSender::LaneSender(std::unique_ptr<State> state) : state_(std::move(state)) {}

Result<std::unique_ptr<LaneSender>> LaneSender::start(std::vector<std::unique_ptr<Stream>> streams,
                                                      const LaneOptions& options, const Cancel& cancel) {
  if (streams.empty()) return fail(Errc::kInvalidArgument, "a transfer without a lane");
  auto state = std::make_unique<State>(options, cancel);
  for (auto& stream : streams) state->lanes.emplace_back().stream = std::move(stream);
  unsigned number = 0;
  for (auto& lane : state->lanes)
    lane.thread = Thread(fmt::format("lane-{}", number++), [s = state.get(), &lane] { s->run(lane); });
  return std::unique_ptr<LaneSender>(new LaneSender(std::move(state)));
}

Result<std::unique_ptr<LaneSender>> LaneSender::connect(const Identity& identity, const PeerTarget& target,
                                                        const Endpoint& session_remote, const std::string& own_name,
                                                        const std::string& move_id, const std::string& lane_token,
                                                        const LaneOptions& options, Deadline deadline,
                                                        const Cancel& cancel) {
  std::vector<std::unique_ptr<Stream>> streams;
  for (unsigned i = 0; i < options.lanes; ++i) {
    TS_TRY_ASSIGN(Fd tcp, connect_tcp(session_remote, deadline, cancel));
    auto text = fmt::format("{} ({}), lane {}", target.name, to_text(session_remote), i);
    TS_TRY_ASSIGN(TlsStream tls,
                  TlsStream::client(std::move(tcp), identity, target.fingerprint, text, deadline, cancel));
    auto stream = std::make_unique<TlsStream>(std::move(tls));
    peer::Hello hello;
    hello.set_purpose(peer::PURPOSE_LANE);
    hello.set_move_id(move_id);
    hello.set_lane_token(lane_token);
    hello.set_lane_index(i);
    TS_TRY(say_hello(*stream, own_name, std::move(hello), deadline, cancel));
    streams.push_back(std::move(stream));
  }
  return start(std::move(streams), options, cancel);
}

LaneSender::~LaneSender() {
  State& s = *state_;
  bool clean = true;
  {
    MutexLock lock(s.mu);
    s.stopping = true;
    for (auto& lane : s.lanes) {
      bool confirmed = !lane.unconfirmed && lane.flushed == s.flushes && !s.error;
      clean = clean && confirmed;
      if (!confirmed) lane.stream->shutdown();
      lane.wake.notify_all();
    }
  }
  for (auto& lane : s.lanes) {
    lane.thread.join();
    // Only what was wholly acknowledged may look complete to the receiver.
    if (clean) lane.stream->finish();
  }
}

Result<> LaneSender::send(uint8_t kind, std::string_view name, uint64_t offset, Buffer data, Route route) {
  if (kind == 0 || !is_plain_name(name) || name.size() > kMaxFrameName || offset > kMaxFrameOffset - data.size())
    return fail(Errc::kInvalidArgument, "a chunk of kind {} named \"{}\" at {} cannot be sent", kind, name, offset);
  auto owner = std::make_shared<Buffer>(std::move(data));
  std::span<const std::byte> rest = *owner;
  do {
    auto part = rest.first(std::min<size_t>(rest.size(), kMaxFramePayload));
    FrameHeader header{.type = FrameType::kData,
                       .kind = kind,
                       .name_length = static_cast<uint16_t>(name.size()),
                       .length = static_cast<uint32_t>(part.size()),
                       .offset = offset};
    rest = rest.subspan(part.size());
    offset += part.size();
    // NOLINTNEXTLINE(clang-analyzer-cplusplus.Move): nothing left means that this is the last turn
    auto of_item = rest.empty() ? std::move(owner) : owner;
    TS_TRY(state_->enqueue(Item{header, std::string(name), std::move(of_item), part}, route));
  } while (!rest.empty());
  return {};
}

Buffer LaneSender::take_buffer(size_t size) {
  Buffer buffer;
  {
    MutexLock lock(state_->mu);
    if (!state_->spare.empty()) {
      buffer = std::move(state_->spare.back());
      state_->spare.pop_back();
    }
  }
  buffer.resize(size);
  return buffer;
}

Result<> LaneSender::flush(Deadline deadline) {
  State& s = *state_;
  MutexLock lock(s.mu);
  if (s.error) return std::unexpected(*s.error);
  uint64_t number = ++s.flushes;
  for (auto& lane : s.lanes) {
    FrameHeader header{.type = FrameType::kFlush, .offset = number};
    lane.queue.push_back(Item{header, {}, {}, {}});
    lane.wake.notify_one();
  }
  auto all = [&] { return std::ranges::all_of(s.lanes, [&](const auto& l) { return l.flushed >= number; }); };
  while (!all()) {
    if (s.error) return std::unexpected(*s.error);
    if (s.room.wait_until(s.mu, deadline.at()) != std::cv_status::timeout || all()) continue;
    Error late(Errc::kTimeout,
               fmt::format("{} did not confirm in time that it has everything", s.lanes.front().stream->peer()));
    if (!s.error) s.error = late;
    for (auto& lane : s.lanes) {
      lane.stream->shutdown();
      lane.wake.notify_all();
    }
    return std::unexpected(std::move(late));
  }
  return {};
}

void LaneSender::all_consumed() {
  MutexLock lock(state_->mu);
  for (auto& lane : state_->lanes) lane.unconfirmed = !lane.queue.empty();
}

void LaneSender::set_rate(uint64_t max_bytes_per_second) { state_->rate.set(max_bytes_per_second); }

LaneCounters LaneSender::counters() const {
  LaneCounters c;
  for (const auto& lane : state_->lanes) c.wire_bytes += lane.stream->wire_bytes_written();
  MutexLock lock(state_->mu);
  c.payload_bytes = state_->payload_bytes;
  c.chunks = state_->chunks;
  c.queued_chunks = state_->queued_chunks;
  return c;
}

}  // namespace transship::wire
