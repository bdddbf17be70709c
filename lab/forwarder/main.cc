// lab-forwarder: joins two network interfaces like a wire that delays and loses packets.
#include <csignal>

#include <CLI/CLI.hpp>

#include "base/thread.h"
#include "forwarder/direction.h"

namespace transship::lab {
namespace {

struct Options {
  std::string left, right, ready_file;
  Wire wire;
  uint64_t delay_us = 0;
  double rate_bits = 0;
};

// Without a rate the queue must hold what comes in during the delay at any speed this machine reaches.
constexpr double kFastest = 20e9;
constexpr size_t kSmallestQueue = 4 << 20;
constexpr size_t kLargestQueue = 256 << 20;

size_t queue_bytes(const Options& o) {
  const double rate = o.rate_bits > 0 ? o.rate_bits : kFastest;
  // Twice: the rate is kept on average, and a burst must not overflow.
  const double wanted = 2 * rate / 8 * static_cast<double>(o.delay_us) / 1e6;
  return std::clamp(static_cast<size_t>(wanted), kSmallestQueue, kLargestQueue);
}

Result<> write_ready_file(const std::string& path) {
  if (path.empty()) return {};
  TS_TRY_ASSIGN(Fd fd, open_file(path, O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return write_all(fd.get(), "ready\n");
}

// Requires: SIGINT and SIGTERM are blocked in every thread.
Result<> wait_for_signal(const sigset_t& signals, const Cancel& cancel) {
  while (!cancel.cancelled()) {
    const timespec second{.tv_sec = 1, .tv_nsec = 0};
    if (::sigtimedwait(&signals, nullptr, &second) > 0) return {};
    if (errno != EAGAIN && errno != EINTR) return fail_errno(errno, "wait for a signal");
  }
  return fail(Errc::kUnavailable, "{}", cancel.reason());
}

Result<> forward(const Options& o) {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGINT);
  ::sigaddset(&signals, SIGTERM);
  // Before any thread starts: they inherit it.
  if (int e = ::pthread_sigmask(SIG_BLOCK, &signals, nullptr); e != 0) return fail_errno(e, "block signals");

  TS_TRY_ASSIGN(PacketSocket left, PacketSocket::open(o.left));
  TS_TRY_ASSIGN(PacketSocket right, PacketSocket::open(o.right));
  TS_TRY_ASSIGN(Cancel cancel, Cancel::create());
  Wire back = o.wire;
  back.seed = ~o.wire.seed;  // the two directions lose other packets
  Direction there(left, right, o.wire);
  Direction here(right, left, back);
  const auto body = [&cancel](Direction& direction) {
    return [&] {
      if (auto r = direction.run(cancel); !r) cancel.cancel(r.error().message());
    };
  };
  Result<> ended;
  {
    Thread forth("there", body(there));
    Thread back_thread("back", body(here));
    ended = write_ready_file(o.ready_file);
    if (ended) ended = wait_for_signal(signals, cancel);
    cancel.cancel("told to end");
  }
  fmt::print("{}\n{}\n", there.summary(), here.summary());
  return ended;
}

}  // namespace
}  // namespace transship::lab

int main(int argc, char** argv) {
  using namespace transship::lab;
  Options o;
  CLI::App app{"Joins two network interfaces like a wire that delays and loses packets."};
  app.add_option("--left", o.left, "one interface")->required();
  app.add_option("--right", o.right, "the other interface")->required();
  app.add_option("--delay-us", o.delay_us, "delay of each direction, in microseconds")
      ->check(CLI::Range(0, 10'000'000));
  app.add_option("--loss", o.wire.loss, "share of packets lost in each direction, 0 to 1")->check(CLI::Range(0.0, 1.0));
  app.add_option("--seed", o.wire.seed, "seed of the losses");
  app.add_option("--rate-bits", o.rate_bits, "the link's rate in bit/s, if it has one: sizes the queue")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--ready-file", o.ready_file, "written when packets are forwarded");
  CLI11_PARSE(app, argc, argv);
  o.wire.delay = std::chrono::microseconds(o.delay_us);
  o.wire.queue_bytes = queue_bytes(o);
  if (auto r = forward(o); !r) {
    fmt::print(stderr, "lab-forwarder: {}\n", r.error().message());
    return 1;
  }
  return 0;
}
