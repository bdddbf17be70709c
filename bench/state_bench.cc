// What the journal costs: a transition, which does not wait for the disk, and the decision, which does. Beside it what the
// disk itself takes for 4 KiB that must be on it. Works in the current directory: the place decides.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <filesystem>

#include "base/fd.h"
#include "state/store.h"

namespace transship::state {
namespace {

class Directory {
 public:
  Directory() : path_(fmt::format("state-bench-{}", ::getpid())) { std::filesystem::create_directory(path_); }
  ~Directory() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  std::string file(const char* name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

std::unique_ptr<Store> open(const Directory& directory) {
  auto store = open_sqlite_store(directory.file("transship.db"));
  TS_CHECK(store, "{}", store.error().message());
  return std::move(*store);
}

void transition(benchmark::State& state) {
  Directory directory;
  auto store = open(directory);
  Move move;
  move.id = "m";
  move.container = "podman:redis";
  move.from = "aws";
  move.to = "azure";
  move.role = "source";
  move.state = "running";
  for (auto _ : state) {
    ++move.started_ms;
    TS_CHECK(store->put_move(move, false));
  }
}
BENCHMARK(transition)->Unit(benchmark::kMicrosecond);

void decision(benchmark::State& state) {
  Directory directory;
  auto store = open(directory);
  int n = 0;
  for (auto _ : state) TS_CHECK(store->decide(fmt::format("m{}", n++), Decision::kCommit));
}
BENCHMARK(decision)->Unit(benchmark::kMicrosecond);

void write_and_fdatasync(benchmark::State& state) {
  Directory directory;
  auto file = open_file(directory.file("plain"), O_WRONLY | O_CREAT, 0600);
  TS_CHECK(file);
  std::array<char, 4096> page{};
  off_t at = 0;
  for (auto _ : state) {
    TS_CHECK(::pwrite(file->get(), page.data(), page.size(), at) == static_cast<ssize_t>(page.size()));
    TS_CHECK(::fdatasync(file->get()) == 0);
    at += static_cast<off_t>(page.size());
  }
}
BENCHMARK(write_and_fdatasync)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace transship::state

BENCHMARK_MAIN();
