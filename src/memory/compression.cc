#include "memory/compression.h"

#include <algorithm>
#include <array>
#include <utility>

namespace transship::memory {
namespace {

// TLS and TCP on one CPU that has AES instructions, as bench/wire_bench measures it; half or double changes little.
constexpr double kEncryptPerSecond = 1.5e9;
// How much faster a method must be that costs more.
constexpr double kWorthIt = 1.1;
// Weight of a new measurement: about eight of them make the figure.
constexpr double kWeight = 0.25;
// Workers that wait this part of the time for the lanes: the link is the limit, and what went out is what it takes.
constexpr double kLinkIsTheLimit = 0.1;
// Otherwise the link takes at least that much; how much more is not seen. So the estimate creeps up, and a link that
// became faster is found within some windows, at the price of one window of a wrong guess now and then.
constexpr double kCreep = 1.02;
constexpr double kLeastShare = 0.1;

// Before anything was measured: typical of one CPU and of memory of services.
constexpr MethodFigures kUsualNone{4e9, 1};
constexpr MethodFigures kUsualLz4{600e6, 0.5};
constexpr MethodFigures kUsualZstd{350e6, 0.35};

constexpr std::array<std::pair<std::string_view, CompressionPolicy>, 4> kPolicies{{{"none", CompressionPolicy::kNone},
                                                                                   {"lz4", CompressionPolicy::kLz4},
                                                                                   {"zstd", CompressionPolicy::kZstd},
                                                                                   {"auto", CompressionPolicy::kAuto}}};

void mix(double& average, double value) { average += kWeight * (value - average); }

}  // namespace

Result<CompressionPolicy> parse_compression_policy(std::string_view text) {
  for (const auto& [name, policy] : kPolicies)
    if (text == name) return policy;
  return fail(Errc::kInvalidArgument, "compression \"{}\" is not known; there are none, lz4, zstd and auto", text);
}

std::string_view to_text(CompressionPolicy policy) {
  for (const auto& [name, p] : kPolicies)
    if (p == policy) return name;
  return "invalid";
}

std::string_view to_text(Compression compression) {
  switch (compression) {
    case Compression::kNone: return "none";
    case Compression::kLz4: return "lz4";
    case Compression::kZstd: return "zstd";
    case Compression::kInvalid: break;
  }
  return "invalid";
}

double effective_rate(const CompressionSituation& s, Compression method) {
  const MethodFigures& m = method == Compression::kLz4 ? s.lz4 : method == Compression::kZstd ? s.zstd : s.none;
  double by_cpu = s.cpus / (1 / m.bytes_per_second + m.ratio / kEncryptPerSecond);
  if (s.link <= 0 || m.ratio <= 0) return by_cpu;
  return std::min(by_cpu, s.link / m.ratio);
}

Compression choose_compression(const CompressionSituation& s) {
  Compression best = Compression::kNone;
  for (auto method : {Compression::kLz4, Compression::kZstd})
    if (effective_rate(s, method) >= effective_rate(s, best) * kWorthIt) best = method;
  return best;
}

CompressionChooser::CompressionChooser(CompressionPolicy policy, unsigned workers, double link)
    : policy_(policy),
      workers_(std::max(1U, workers)),
      situation_{link, workers_, kUsualNone, kUsualLz4, kUsualZstd},
      current_(policy == CompressionPolicy::kLz4    ? Compression::kLz4
               : policy == CompressionPolicy::kZstd ? Compression::kZstd
               : policy == CompressionPolicy::kAuto ? choose_compression(situation_)
                                                    : Compression::kNone) {}

MethodFigures& CompressionChooser::figures(Compression method) {
  if (method == Compression::kLz4) return situation_.lz4;
  return method == Compression::kZstd ? situation_.zstd : situation_.none;
}

std::optional<Compression> CompressionChooser::trial_due() {
  if (policy_ != CompressionPolicy::kAuto) return std::nullopt;
  uint64_t number = batches_++;
  // The first four batches replace what is usual by what is here.
  if (number >= 4 && number % kTryEvery > 1) return std::nullopt;
  auto method = number % 2 == 0 ? Compression::kLz4 : Compression::kZstd;
  if (method == current_) return std::nullopt;
  return method;
}

void CompressionChooser::encoded(const Encoding& e) {
  if (e.content == 0 || e.cpu <= Seconds(0)) return;
  auto content = static_cast<double>(e.content);
  MethodFigures& m = figures(e.asked);
  // Times add up, rates do not: the average is of the time per byte.
  double per_byte = 1 / m.bytes_per_second;
  mix(per_byte, e.cpu.count() / content);
  m.bytes_per_second = 1 / per_byte;
  mix(m.ratio, static_cast<double>(e.stored) / content);
  // A thread that wants to run and does not get the CPU all the time shows how much of it is free.
  double share = e.wall > e.cpu ? e.cpu / e.wall : 1;
  mix(situation_.cpus, workers_ * std::max(share, kLeastShare));
}

void CompressionChooser::sent(size_t bytes, Seconds waited, Seconds now) {
  // The first one only starts the clock: when it began is not known.
  if (!window_start_) return open_window(now);
  ++window_batches_;
  window_bytes_ += static_cast<double>(bytes);
  window_waited_ += waited;
  if (window_batches_ < kDecideEvery) return;
  learn_link(now);
  if (policy_ == CompressionPolicy::kAuto) current_ = choose_compression(situation_);
  open_window(now);
}

void CompressionChooser::pause() { open_window(std::nullopt); }

void CompressionChooser::open_window(std::optional<Seconds> start) {
  window_batches_ = 0;
  window_bytes_ = 0;
  window_waited_ = Seconds(0);
  window_start_ = start;
}

void CompressionChooser::learn_link(Seconds now) {
  Seconds length = now - *window_start_;
  if (length <= Seconds(0)) return;
  double rate = window_bytes_ / length.count();
  if (window_waited_ > length * workers_ * kLinkIsTheLimit) {
    if (situation_.link <= 0)
      situation_.link = rate;
    else
      mix(situation_.link, rate);
  } else if (situation_.link > 0) {
    situation_.link = std::max(situation_.link * kCreep, rate);
  }
}

}  // namespace transship::memory
