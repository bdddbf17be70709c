// How much one TLS connection, and the lanes, carry over loopback, and what a durable decision costs. Both ends run on
// this machine: with two cores, sender and receiver have one each.
#include <fmt/format.h>
#include <sys/resource.h>

#include <cstdlib>
#include <filesystem>

#include "base/text.h"
#include "state/store.h"
#include "wire/lanes.h"
#include "wire/listener.h"

namespace transship {
namespace {

using wire::Endpoint;

double cpu_seconds() {
  rusage u{};
  ::getrusage(RUSAGE_SELF, &u);
  auto seconds = [](const timeval& t) { return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6; };
  return seconds(u.ru_utime) + seconds(u.ru_stime);
}

struct Measured {
  double seconds;
  double cpu;
};
template <class Work>
Result<Measured> measure(Work work) {
  auto start = Clock::now();
  double cpu = cpu_seconds();
  TS_TRY(work());
  return Measured{std::chrono::duration<double>(Clock::now() - start).count(), cpu_seconds() - cpu};
}

void print(std::string_view what, uint64_t bytes, const Measured& m) {
  double bits = static_cast<double>(bytes) * 8;
  fmt::print("{:<28} {:>12}  {:.2f} s, {:.2f} s of CPU for both ends: {} per core of CPU\n", what,
             format_bit_rate(bits / m.seconds), m.seconds, m.cpu, format_bit_rate(bits / (m.cpu / 2)));
}

Result<> lanes(const wire::Identity& id, const Endpoint& address, unsigned count, uint64_t bytes,
               const Cancel& cancel) {
  constexpr size_t kChunk = 1U << 20;
  wire::LaneOptions options;
  options.lanes = count;
  wire::PeerTarget target{"bench", address, id.fingerprint()};
  auto soon = Deadline::in(milliseconds(60'000));
  TS_TRY_ASSIGN(auto sender,
                wire::LaneSender::connect(id, target, address, "bench", "m1", "token", options, soon, cancel));
  auto result = measure([&]() -> Result<> {
    for (uint64_t at = 0; at < bytes; at += kChunk)
      TS_TRY(sender->send(1, "pages.img", at, sender->take_buffer(kChunk), wire::Route::kSpread));
    return sender->flush(soon);
  });
  if (!result) return std::unexpected(result.error());
  print(fmt::format("{} lane(s), 1 MiB chunks", count), bytes, *result);
  return {};
}

Result<> network(uint64_t bytes) {
  TS_TRY_ASSIGN(wire::Identity id, wire::Identity::make_ephemeral());
  TS_TRY_ASSIGN(Cancel cancel, Cancel::create());
  wire::ListenerOptions options;
  options.address = {"127.0.0.1", 0};
  auto anyone = [](const wire::Fingerprint&) { return std::optional<std::string>("bench"); };
  auto handler = [](wire::Accepted c, const Cancel& stop) {
    auto hello = wire::serve_hello(c.stream, "bench", {}, Deadline::in(milliseconds(5'000)), stop);
    if (!hello) return;
    if (hello->purpose() == peer::PURPOSE_LANE) {
      (void)wire::receive_lane(
          c.stream, [](const wire::ChunkHeader&, std::span<const std::byte>) -> Result<> { return {}; }, {}, stop);
      return;
    }
    auto none = [](const peer::Request&) -> Result<peer::Reply> { return fail(Errc::kInternal, "not here"); };
    (void)wire::serve_requests(c.stream, none, milliseconds(60'000), stop);
  };
  TS_TRY_ASSIGN(auto listener, wire::Listener::start(options, id, anyone, handler));
  auto soon = Deadline::in(milliseconds(60'000));
  TS_TRY_ASSIGN(auto session,
                wire::Session::connect(id, {"bench", listener->address(), id.fingerprint()}, "bench", soon, cancel));
  TS_TRY_ASSIGN(auto rtt, session->round_trip(100, soon, cancel));
  fmt::print("{:<28} {:>9} us\n", "ping (best of 100)", rtt.count());
  auto raw = measure([&]() -> Result<> {
    for (uint64_t sent = 0; sent < bytes; sent += wire::kMaxBandwidthBytes)
      TS_TRY(session->measure_bandwidth(wire::kMaxBandwidthBytes, soon, cancel));
    return {};
  });
  if (!raw) return std::unexpected(raw.error());
  print("one stream", bytes, *raw);
  for (unsigned count : {1U, 2U, 4U}) TS_TRY(lanes(id, listener->address(), count, bytes, cancel));
  return {};
}

Result<> decisions(const std::string& dir) {
  std::string path = dir + "/wire-bench.db";
  constexpr int kCount = 200;
  {
    TS_TRY_ASSIGN(auto store, state::open_sqlite_store(path));
    auto durable = measure([&]() -> Result<> {
      for (int i = 0; i < kCount; ++i) TS_TRY(store->decide(fmt::format("m{}", i), state::Decision::kCommit));
      return {};
    });
    if (!durable) return std::unexpected(durable.error());
    auto events = measure([&]() -> Result<> {
      for (int i = 0; i < kCount; ++i) TS_TRY(store->add_event("m1", "progress"));
      return {};
    });
    if (!events) return std::unexpected(events.error());
    fmt::print("{:<28} {:>9.0f} us on {}\n", "decision, durable", durable->seconds * 1e6 / kCount, dir);
    fmt::print("{:<28} {:>9.0f} us\n", "event, not durable", events->seconds * 1e6 / kCount);
  }
  for (const char* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path + suffix);
  return {};
}

}  // namespace
}  // namespace transship

// wire_bench [DIRECTORY_ON_A_DISK]
int main(int argc, char** argv) {
  auto r = transship::network(1U << 30);
  if (r) r = transship::decisions(argc > 1 ? argv[1] : "/var/tmp");
  if (r) return EXIT_SUCCESS;
  fmt::print(stderr, "wire_bench: {}\n", r.error().message());
  return EXIT_FAILURE;
}
