// Which compressor makes the pages arrive soonest. Arithmetic only: no clock, no threads.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "base/result.h"
#include "memory/page_batch.h"

namespace transship::memory {

// What the user asked for (`--compress`).
enum class CompressionPolicy : uint8_t { kNone, kLz4, kZstd, kAuto };

// "none", "lz4", "zstd" or "auto"; anything else is kInvalidArgument.
Result<CompressionPolicy> parse_compression_policy(std::string_view text);
std::string_view to_text(CompressionPolicy policy);
std::string_view to_text(Compression compression);

// What one method does with the content at hand.
struct MethodFigures {
  double bytes_per_second = 0;  // content that one CPU encodes in a second, > 0
  double ratio = 1;             // bytes that travel for each byte of content, 0 … 1
};

struct CompressionSituation {
  double link = 0;  // bytes per second that the lanes take; 0: not known, taken as no limit
  double cpus = 1;  // what is free for us, > 0; may be a part of one
  MethodFigures none;
  MethodFigures lz4;
  MethodFigures zstd;
};

// Content per second that arrives with this method: what the link carries, or what the CPUs encode and encrypt (TLS
// costs by what travels, so that on a very fast link compression can pay for itself), whichever is less.
double effective_rate(const CompressionSituation& s, Compression method);

// The method of the highest effective rate. A method that costs more CPU than another (none < LZ4 < zstd) is taken only
// when it is at least 10 % faster: below that the figures are noise, and the CPU is the container's.
Compression choose_compression(const CompressionSituation& s);

// Keeps the figures up to date while batches are sent, and chooses again every kDecideEvery of them. With a policy
// other than auto it is that method, always. One thread at a time.
class CompressionChooser {
 public:
  static constexpr unsigned kDecideEvery = 16;  // 8 MiB: a changed link is noticed within 70 ms at 1 Gbit/s
  static constexpr unsigned kTryEvery = 32;

  // `workers`: CPUs that may encode at once, at least 1. `link`: a first idea in bytes per second, 0: none.
  CompressionChooser(CompressionPolicy policy, unsigned workers, double link);

  Compression current() const { return current_; }
  // Called once for each batch before it is encoded: the other method that a part of it should be tried with, so that
  // figures of methods not in use stay true.
  std::optional<Compression> trial_due();

  using Seconds = std::chrono::duration<double>;
  struct Encoding {
    Compression asked = Compression::kNone;
    size_t content = 0;  // bytes; nothing is learned from 0
    size_t stored = 0;   // bytes
    Seconds cpu{0};      // of the thread
    Seconds wall{0};
  };
  void encoded(const Encoding& e);
  // A batch left at `now`, on any clock that does not go back; it waited so long for the lanes.
  void sent(size_t bytes, Seconds waited, Seconds now);
  // Nothing is sent for a while: that time says nothing about the link.
  void pause();

  const CompressionSituation& situation() const { return situation_; }

 private:
  MethodFigures& figures(Compression method);
  void learn_link(Seconds now);
  void open_window(std::optional<Seconds> start);

  const CompressionPolicy policy_;
  const double workers_;
  CompressionSituation situation_;
  Compression current_;
  uint64_t batches_ = 0;
  // Since the last decision.
  unsigned window_batches_ = 0;
  double window_bytes_ = 0;
  Seconds window_waited_{0};
  std::optional<Seconds> window_start_;
};

}  // namespace transship::memory
