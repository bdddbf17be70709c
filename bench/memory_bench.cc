// What each step of moving memory costs on this machine: looking for what changed, reading it, finding zero pages,
// packing, and filling the other side's memory.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "base/fd.h"
#include "memory/page_batch.h"
#include "memory/page_sender.h"
#include "memory/test_pages.h"

namespace transship::memory {
namespace {

// More than any second-level cache, little enough for a small machine.
constexpr size_t kAreaBytes = 128U << 20;
constexpr size_t kBatchBytes = kBatchPages * kPageBytes;
constexpr SpaceId kSpace{SpaceKind::kTask, 1};

const char* name_of(TestContent content) { return content == TestContent::kRandom ? "random" : "heap"; }

void set_bytes(benchmark::State& state, size_t per_iteration) {
  state.SetBytesProcessed(static_cast<int64_t>(per_iteration) * state.iterations());
}

// Private anonymous memory of 4 KiB pages, whatever the machine's default.
class Area {
 public:
  explicit Area(size_t size) : size_(size) {
    void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TS_CHECK(p != MAP_FAILED, "mmap of {} bytes: {}", size, errno_text(errno));
    at_ = static_cast<std::byte*>(p);
    (void)::madvise(at_, size, MADV_NOHUGEPAGE);  // fails only where there are no huge pages
  }
  ~Area() { ::munmap(at_, size_); }
  Area(const Area&) = delete;
  Area& operator=(const Area&) = delete;
  std::byte* data() const { return at_; }
  uint64_t address() const { return reinterpret_cast<uint64_t>(at_); }
  std::span<std::byte> bytes() const { return {at_, size_}; }

 private:
  std::byte* at_;
  size_t size_;
};

// A process that has an area like ours, and sleeps.
class Child {
 public:
  explicit Child(TestContent content) : area_(kAreaBytes) {
    content == TestContent::kRandom ? fill_random(area_.bytes(), 1) : fill_like_a_heap(area_.bytes(), 1);
    pid_t parent = ::getpid();
    pid_ = ::fork();
    TS_CHECK(pid_ >= 0, "fork: {}", errno_text(errno));
    if (pid_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (::getppid() == parent) ::pause();
    ::_exit(0);
  }
  ~Child() {
    ::kill(pid_, SIGKILL);
    (void)retry_eintr([&] { return ::waitpid(pid_, nullptr, 0); });
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  uint64_t address() const { return area_.address(); }

  Result<size_t> read(std::span<const PageRange> ranges, std::span<std::byte> buffer) const {
    std::vector<iovec> remote;
    for (const auto& r : ranges) remote.push_back({reinterpret_cast<void*>(r.address), r.bytes()});
    iovec local{buffer.data(), buffer.size()};
    ssize_t n = ::process_vm_readv(pid_, &local, 1, remote.data(), remote.size(), 0);
    if (n < 0) return fail_errno(errno, "process_vm_readv of {} bytes of {}", buffer.size(), pid_);
    return static_cast<size_t>(n) / kPageBytes;
  }

 private:
  Area area_;
  pid_t pid_ = -1;
};

// ---- copying, reading, zero pages

void copy(benchmark::State& state) {
  Area from(kAreaBytes);
  fill_random(from.bytes(), 1);
  std::vector<std::byte> to(kBatchBytes);
  size_t at = 0;
  for (auto _ : state) {
    std::memcpy(to.data(), from.data() + at, kBatchBytes);
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
    at = (at + kBatchBytes) % kAreaBytes;
  }
  set_bytes(state, kBatchBytes);
}

// `scattered`: single pages that do not touch each other, as many to a call.
void read_child(benchmark::State& state, bool scattered) {
  Child child(TestContent::kRandom);
  std::vector<std::byte> buffer(kBatchBytes);
  std::vector<PageRange> ranges;
  TestRandom random(3);
  uint64_t at = 0;
  for (auto _ : state) {
    ranges.clear();
    if (scattered) {
      for (size_t i = 0; i < kBatchPages; ++i)
        ranges.push_back({child.address() + random.below(kAreaBytes / kPageBytes) * kPageBytes, 1});
    } else {
      ranges.push_back({child.address() + at, kBatchPages});
      at = (at + kBatchBytes) % kAreaBytes;
    }
    auto n = child.read(ranges, buffer);
    if (!n || *n != kBatchPages) return state.SkipWithError(n ? "short read" : n.error().message());
  }
  set_bytes(state, kBatchBytes);
}

// `last`: what the last byte of each page is.
void scan_zero(benchmark::State& state, std::byte first, std::byte last) {
  std::vector<std::byte> pages(kBatchBytes);
  for (size_t at = 0; at < kBatchBytes; at += kPageBytes) {
    pages[at] = first;
    pages[at + kPageBytes - 1] = last;
  }
  for (auto _ : state) {
    size_t zero = 0;
    for (size_t at = 0; at < kBatchBytes; at += kPageBytes) zero += is_zero_page(pages.data() + at);
    benchmark::DoNotOptimize(zero);
  }
  set_bytes(state, kBatchBytes);
}

// ---- batches

void encode(benchmark::State& state, Compression method, TestContent content) {
  auto pages = test_pages(content, kBatchPages);
  PageBatch batch{kSpace, {{{0, kBatchPages}, false}}, pages};
  std::vector<std::byte> frame;
  for (auto _ : state) {
    auto r = encode_batch(batch, method, 1, frame);
    if (!r) return state.SkipWithError(r.error().message());
  }
  set_bytes(state, kBatchBytes);
  state.counters["ratio"] = static_cast<double>(frame.size()) / kBatchBytes;
}

void decode(benchmark::State& state, Compression method) {
  auto pages = test_pages(TestContent::kHeap, kBatchPages);
  std::vector<std::byte> frame;
  std::vector<std::byte> scratch;
  if (auto r = encode_batch({kSpace, {{{0, kBatchPages}, false}}, pages}, method, 1, frame); !r)
    return state.SkipWithError(r.error().message());
  for (auto _ : state) {
    auto batch = decode_batch(frame, scratch);
    if (!batch) return state.SkipWithError(batch.error().message());
    benchmark::DoNotOptimize(batch->content.data());
  }
  set_bytes(state, kBatchBytes);
}

// From another process to the place where lanes would take the frames. One round, everything, each time.
void send(benchmark::State& state, CompressionPolicy policy, TestContent content) {
  Child child(content);
  auto cancel = Cancel::create();
  if (!cancel) return state.SkipWithError(cancel.error().message());
  PageSender sender([](std::vector<std::byte>&) -> Result<> { return {}; }, {.compression = policy}, *cancel);
  const PageRange all{child.address(), kAreaBytes / kPageBytes};
  SentStats stats;
  for (auto _ : state) {
    auto r = sender.add(kSpace, {&all, 1}, [&](auto ranges, auto buffer) { return child.read(ranges, buffer); });
    if (!r) return state.SkipWithError(r.error().message());
    auto round = sender.finish_round(Deadline::in(milliseconds(60'000)));
    if (!round) return state.SkipWithError(round.error().message());
    stats = *round;
  }
  if (stats.pages != all.pages) return state.SkipWithError("pages are missing");
  set_bytes(state, kAreaBytes);
  state.counters["ratio"] = static_cast<double>(stats.bytes_out) / static_cast<double>(stats.bytes_in);
}

// ---- the kernel's side: userfaultfd and PAGEMAP_SCAN

Result<Fd> open_userfault(uint64_t features, const Area& area, uint64_t mode) {
  Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd.valid()) return fail_errno(errno, "userfaultfd");
  uffdio_api api{.api = UFFD_API, .features = features, .ioctls = 0};
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return fail_errno(errno, "UFFDIO_API, features {:#x}", features);
  uffdio_register area_of{.range = {area.address(), area.bytes().size()}, .mode = mode, .ioctls = 0};
  if (::ioctl(fd.get(), UFFDIO_REGISTER, &area_of) != 0) return fail_errno(errno, "UFFDIO_REGISTER, mode {}", mode);
  return fd;
}

void fill(benchmark::State& state, size_t step) {
  Area area(kAreaBytes);
  auto userfault = open_userfault(0, area, UFFDIO_REGISTER_MODE_MISSING);
  if (!userfault) return state.SkipWithError(userfault.error().message());
  std::vector<std::byte> content(step);
  fill_random(content, 1);
  for (auto _ : state) {
    state.PauseTiming();
    ::madvise(area.data(), kAreaBytes, MADV_DONTNEED);
    state.ResumeTiming();
    for (size_t at = 0; at < kAreaBytes; at += step) {
      uffdio_copy c{.dst = area.address() + at,
                    .src = reinterpret_cast<uint64_t>(content.data()),
                    .len = step,
                    .mode = UFFDIO_COPY_MODE_DONTWAKE,
                    .copy = 0};
      if (::ioctl(userfault->get(), UFFDIO_COPY, &c) != 0)
        return state.SkipWithError(fmt::format("UFFDIO_COPY: {}", errno_text(errno)));
    }
  }
  set_bytes(state, kAreaBytes);
}

// Reports the written pages and protects them again. Returns the number of pages.
Result<uint64_t> scan_written(int pagemap, const Area& area, std::vector<page_region>& found) {
  uint64_t pages = 0;
  uint64_t at = area.address();
  uint64_t end = at + area.bytes().size();
  while (at < end) {
    pm_scan_arg arg{};
    arg.size = sizeof arg;
    arg.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC;
    arg.start = at;
    arg.end = end;
    arg.vec = reinterpret_cast<uint64_t>(found.data());
    arg.vec_len = found.size();
    arg.category_mask = PAGE_IS_WRITTEN;
    arg.return_mask = PAGE_IS_WRITTEN;
    int n = ::ioctl(pagemap, PAGEMAP_SCAN, &arg);
    if (n < 0) return fail_errno(errno, "PAGEMAP_SCAN of {} bytes", end - at);
    for (const auto& r : std::span(found).first(static_cast<size_t>(n))) pages += (r.end - r.start) / kPageBytes;
    at = arg.walk_end;
  }
  return pages;
}

// `every`: of so many pages one is written between two scans; 0: none.
void scan_dirty(benchmark::State& state, size_t every) {
  Area area(kAreaBytes);
  auto userfault = open_userfault(UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED, area, UFFDIO_REGISTER_MODE_WP);
  if (!userfault) return state.SkipWithError(userfault.error().message());
  auto pagemap = open_file("/proc/self/pagemap", O_RDONLY);
  if (!pagemap) return state.SkipWithError(pagemap.error().message());
  std::vector<page_region> found(4096);
  std::memset(area.data(), 1, kAreaBytes);
  if (auto r = scan_written(pagemap->get(), area, found); !r) return state.SkipWithError(r.error().message());
  size_t expected = every == 0 ? 0 : kAreaBytes / kPageBytes / every;
  for (auto _ : state) {
    state.PauseTiming();
    for (size_t i = 0; i < expected; ++i) area.data()[i * every * kPageBytes] = std::byte{2};
    state.ResumeTiming();
    auto pages = scan_written(pagemap->get(), area, found);
    if (!pages) return state.SkipWithError(pages.error().message());
    if (*pages != expected) return state.SkipWithError(fmt::format("{} pages instead of {}", *pages, expected));
  }
  set_bytes(state, kAreaBytes);
}

// ----

template <class Function, class... Args>
benchmark::internal::Benchmark* add(const std::string& name, Function function, Args... args) {
  return benchmark::RegisterBenchmark(name, [=](benchmark::State& state) { function(state, args...); });
}

void add_all() {
  add("copy", copy);
  add("read_child/in_order", read_child, false);
  add("read_child/scattered", read_child, true);
  add("zero_page/zero", scan_zero, std::byte{0}, std::byte{0});
  add("zero_page/last_byte_is_not", scan_zero, std::byte{0}, std::byte{1});
  add("zero_page/first_byte_is_not", scan_zero, std::byte{1}, std::byte{0});
  for (auto method : {Compression::kNone, Compression::kLz4, Compression::kZstd}) {
    for (auto content : {TestContent::kRandom, TestContent::kHeap})
      add(fmt::format("encode/{}/{}", to_text(method), name_of(content)), encode, method, content);
    add(fmt::format("decode/{}/heap", to_text(method)), decode, method);
  }
  for (auto policy :
       {CompressionPolicy::kNone, CompressionPolicy::kLz4, CompressionPolicy::kZstd, CompressionPolicy::kAuto})
    for (auto content : {TestContent::kRandom, TestContent::kHeap})
      add(fmt::format("send/{}/{}", to_text(policy), name_of(content)), send, policy, content)
          ->UseRealTime()
          ->MeasureProcessCPUTime();
  for (size_t kib : {4U, 64U, 2048U}) add(fmt::format("userfault_fill/{}KiB", kib), fill, kib << 10);
  add("scan_dirty/none", scan_dirty, size_t{0});
  add("scan_dirty/one_in_64", scan_dirty, size_t{64});
  add("scan_dirty/every_other", scan_dirty, size_t{2});
}

void print_help() {
  fmt::print(
      "memory_bench: what each step of moving memory costs here, one row a step; run it with ./dev bench micro\n"
      "userfault_fill and scan_dirty need root and Linux 6.7; {} MiB of memory are worked on, twice that are used\n\n",
      kAreaBytes >> 20);
  benchmark::PrintDefaultHelp();
}

}  // namespace
}  // namespace transship::memory

int main(int argc, char** argv) {
  transship::memory::add_all();
  benchmark::Initialize(&argc, argv, transship::memory::print_help);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
