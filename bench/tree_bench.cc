// What rounds of trees cost: 1 GiB in 2000 files of up to half a MiB and one of 512 MiB, from one directory into another
// through a pipe. Works in the current directory: the place decides. Needs 2 GiB there and half as much memory for its cache.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <optional>
#include <random>
#include <vector>

#include "base/fd.h"
#include "base/thread.h"
#include "storage/beneath.h"
#include "storage/tree_delta.h"

namespace transship::storage {
namespace {

constexpr size_t kLarge = 512U << 20;
constexpr size_t kSmallFiles = 2000;

class Directory {
 public:
  explicit Directory(const std::string& what) : path_(fmt::format("tree-bench-{}-{}", what, ::getpid())) {
    std::filesystem::create_directory(path_);
    fd_ = open_file(path_, O_RDONLY | O_DIRECTORY).value();
  }
  ~Directory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  int fd() const { return fd_.get(); }
  void clear() const {
    for (const auto& e : std::filesystem::directory_iterator(path_)) std::filesystem::remove_all(e.path());
  }

 private:
  std::string path_;
  Fd fd_;
};

class Tree {
 public:
  Tree() : from_("from"), to_("to"), pattern_(4U << 20) {
    for (auto& word : pattern_) word = static_cast<std::byte>(random_());
    write("large", kLarge);
    // 64 KiB to 4 MiB; most are small, as files are.
    for (size_t i = 0; i < kSmallFiles; ++i) {
      size_t size = i % 100 == 0 ? 4U << 20 : (64U << 10) + random_() % (300U << 10);
      std::filesystem::create_directories(from_ / fmt::format("d{}", i / 100));
      write(fmt::format("d{}/f{}", i / 100, i), size);
    }
  }
  uint64_t bytes() const { return bytes_; }
  void empty_destination() const { to_.clear(); }
  // Of the large file, in places of 4 KiB.
  void change_one_percent() {
    Fd fd = open_file(from_ / "large", O_WRONLY).value();
    for (size_t i = 0; i < kLarge / 100 / 4096; ++i)
      TS_CHECK(::pwrite(fd.get(), pattern_.data() + random_() % (1U << 20), 4096,
                        static_cast<off_t>(random_() % (kLarge / 4096) * 4096)) == 4096);
  }
  void touch() { TS_CHECK(::utimensat(AT_FDCWD, (from_ / "large").c_str(), nullptr, 0) == 0); }

  RoundStats round(const Scan* previous, KnownFiles* known, std::optional<Scan>& scan) const {
    auto cancel = Cancel::create().value();
    auto pipe = StreamPipe::create(cancel, milliseconds(60'000)).value();
    Result<> applied;
    Thread applier("apply", [&] {
      applied = apply_round(to_.fd(), *pipe, {}, cancel);
      if (!applied) pipe->fail_writer(applied.error());
    });
    RoundOptions options;
    options.known = known;
    RoundStats stats;
    auto sent = send_round(from_.fd(), *pipe, previous, options, cancel, &stats);
    pipe->finish();
    applier.join();
    TS_CHECK(sent, "{}", sent.error().message());
    TS_CHECK(applied, "{}", applied.error().message());
    scan = std::move(*sent);
    return stats;
  }

 private:
  void write(const std::string& name, size_t size) {
    Fd fd = open_file(from_ / name, O_WRONLY | O_CREAT, 0644).value();
    for (size_t left = size; left > 0;) {
      auto n = std::min(left, pattern_.size() / 2);
      TS_CHECK(write_all(fd.get(), std::span(pattern_).subspan(random_() % (pattern_.size() / 2), n)));
      left -= n;
    }
    bytes_ += size;
  }
  Directory from_, to_;
  std::mt19937 random_{1};
  std::vector<std::byte> pattern_;
  uint64_t bytes_ = 0;
};

Tree& tree() {
  static std::optional<Tree> one;
  if (!one) one.emplace();
  return *one;
}

void report(benchmark::State& state, uint64_t bytes, const RoundStats& stats) {
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
  state.counters["sent_MiB"] = static_cast<double>(stats.data_bytes) / (1 << 20);
  state.counters["read_MiB"] = static_cast<double>(stats.read_bytes) / (1 << 20);
}

void first_copy(benchmark::State& state, bool hashed) {
  RoundStats stats;
  for (auto _ : state) {
    state.PauseTiming();
    tree().empty_destination();
    KnownFiles known;
    std::optional<Scan> scan;
    state.ResumeTiming();
    stats = tree().round(nullptr, hashed ? &known : nullptr, scan);
  }
  report(state, tree().bytes(), stats);
}

enum class Change { kNothing, kTouched, kOnePercent };

void again(benchmark::State& state, Change change, bool hashed) {
  KnownFiles known;
  std::optional<Scan> scan;
  tree().empty_destination();
  (void)tree().round(nullptr, hashed ? &known : nullptr, scan);
  RoundStats stats;
  for (auto _ : state) {
    state.PauseTiming();
    if (change == Change::kTouched) tree().touch();
    if (change == Change::kOnePercent) tree().change_one_percent();
    state.ResumeTiming();
    std::optional<Scan> next;
    stats = tree().round(&*scan, hashed ? &known : nullptr, next);
    scan = std::move(next);
  }
  report(state, change == Change::kNothing ? tree().bytes() : kLarge, stats);
}

template <class... Args>
void add(const std::string& name, void (*function)(benchmark::State&, Args...), Args... args) {
  benchmark::RegisterBenchmark(name, [=](benchmark::State& state) { function(state, args...); })
      ->UseRealTime()
      ->MeasureProcessCPUTime()
      ->Unit(benchmark::kMillisecond);
}

void add_all() {
  for (bool hashed : {false, true}) {
    const char* how = hashed ? "patches" : "whole";
    add(fmt::format("tree/first_copy/{}", how), first_copy, hashed);
    add(fmt::format("tree/nothing_changed/{}", how), again, Change::kNothing, hashed);
    add(fmt::format("tree/touched/{}", how), again, Change::kTouched, hashed);
    add(fmt::format("tree/one_percent_changed/{}", how), again, Change::kOnePercent, hashed);
  }
}

}  // namespace
}  // namespace transship::storage

int main(int argc, char** argv) {
  transship::storage::add_all();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
