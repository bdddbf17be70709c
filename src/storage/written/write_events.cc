#include "storage/written/write_events.h"

#include <bpf/bpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "storage/written/write_programs.h"

namespace transship::storage {
namespace {

static_assert(sizeof(WriteEvent) == 24, "it is the map's key");

constexpr uint32_t kMostReads = 8192;
constexpr int kMostTries = 10'000;  // of a part of the map that somebody writes to right now

size_t page_size() { return static_cast<size_t>(::sysconf(_SC_PAGESIZE)); }

// Whatever the kernel refuses here, it is that it does not let us watch.
std::unexpected<Error> missing(int e, std::string_view what) {
  return std::unexpected(Error(Errc::kKernelFeatureMissing, fmt::format("{}: {}", what, errno_text(e))).with_errno(e));
}

Result<Fd> make_map(bpf_map_type type, const char* name, uint32_t key, uint32_t value, uint32_t entries,
                    uint32_t flags) {
  bpf_map_create_opts options{};
  options.sz = sizeof options;
  options.map_flags = flags;
  int fd = ::bpf_map_create(type, name, key, value, entries, &options);
  if (fd < 0) return missing(-fd, fmt::format("cannot make the BPF map {} of {} entries", name, entries));
  return Fd(fd);
}

// The verifier's log is the whole program; why it refuses it stands in the last line but one.
std::string_view reason(std::string_view log) {
  auto counts = log.rfind("\nprocessed ");
  log = log.substr(0, counts);
  return log.substr(log.rfind('\n') + 1);
}

Result<Fd> load(const char* name, uint32_t tracepoint, BpfCode code) {
  const auto& instructions = code.finish();
  std::array<char, 8192> log{};
  bpf_prog_load_opts options{};
  options.sz = sizeof options;
  options.expected_attach_type = BPF_TRACE_RAW_TP;
  options.attach_btf_id = tracepoint;
  options.log_level = 1;
  options.log_size = log.size();
  options.log_buf = log.data();
  // Only such programs may look into the kernel's structures.
  constexpr const char* kLicense = "Dual MIT/GPL";
  int fd = ::bpf_prog_load(BPF_PROG_TYPE_TRACING, name, kLicense, instructions.data(), instructions.size(), &options);
  if (fd >= 0) return Fd(fd);
  return missing(-fd, fmt::format("cannot load the BPF program {} ({})", name, reason(log.data())));
}

}  // namespace

Result<std::unique_ptr<WriteEvents>> WriteEvents::create(const Options& options) {
  std::unique_ptr<WriteEvents> events(new WriteEvents());
  TS_TRY(events->make_maps(options));
  TS_TRY(events->attach(options));
  return events;
}

WriteEvents::~WriteEvents() {
  if (counters_ != nullptr) (void)::munmap(const_cast<Counters*>(counters_), page_size());
}

// What is gathered has its memory from the beginning: where pages become dirty none can be waited for.
Result<> WriteEvents::make_maps(const Options& options) {
  TS_TRY_ASSIGN(followed_,
                make_map(BPF_MAP_TYPE_HASH, "ts_followed", sizeof(uint64_t), 1, options.files, BPF_F_NO_PREALLOC));
  TS_TRY_ASSIGN(gathered_, make_map(BPF_MAP_TYPE_HASH, "ts_written", sizeof(WriteEvent), 1, options.events, 0));
  TS_TRY_ASSIGN(counted_,
                make_map(BPF_MAP_TYPE_ARRAY, "ts_counters", sizeof(uint32_t), sizeof(Counters), 1, BPF_F_MMAPABLE));
  // Direct reads that are under way; of too many the oldest is taken for a write.
  TS_TRY_ASSIGN(reads_, make_map(BPF_MAP_TYPE_LRU_HASH, "ts_reads", sizeof(uint64_t), 1, kMostReads, 0));
  void* mapped = ::mmap(nullptr, page_size(), PROT_READ, MAP_SHARED, counted_.get(), 0);
  if (mapped == MAP_FAILED) return missing(errno, "cannot map the BPF map ts_counters");
  counters_ = static_cast<const Counters*>(mapped);
  return {};
}

Result<> WriteEvents::attach(const Options& options) {
  TS_TRY_ASSIGN(auto layout, kernel_layout(options.kernel_types));
  EventMaps maps{
      .followed = followed_.get(), .gathered = gathered_.get(), .counters = counted_.get(), .reads = reads_.get()};
  auto add = [&](const char* name, uint32_t tracepoint, BpfCode code) -> Result<> {
    TS_TRY_ASSIGN(auto program, load(name, tracepoint, std::move(code)));
    int link = ::bpf_raw_tracepoint_open(nullptr, program.get());
    if (link < 0) return missing(-link, fmt::format("cannot attach the BPF program {}", name));
    links_.emplace_back(link);
    programs_.push_back(std::move(program));
    return {};
  };
  TS_TRY(add("ts_dirty_folio", layout.dirty_folio, dirty_folio_program(layout, maps)));
  TS_TRY(add("ts_dropped_folio", layout.dropped_folio, dropped_folio_program(layout, maps)));
  TS_TRY(add("ts_direct_begin", layout.direct_begin, direct_begin_program(layout, maps)));
  return add("ts_direct_end", layout.direct_complete, direct_complete_program(layout, maps));
}

Result<> WriteEvents::follow(uint64_t inode) {
  uint8_t any = 1;
  int result = ::bpf_map_update_elem(followed_.get(), &inode, &any, BPF_ANY);
  if (result < 0) return fail_errno(-result, "cannot follow writes to inode {}", inode);
  return {};
}

void WriteEvents::forget(uint64_t inode) { (void)::bpf_map_delete_elem(followed_.get(), &inode); }

// Each bucket of the map is taken and emptied under its lock. `added` is read before: what comes meanwhile makes it
// another number, and the next drain() looks again.
Result<> WriteEvents::drain(std::vector<WriteEvent>& out) {
  uint64_t added = counters_->added;
  if (added == drained_at_) return {};
  std::vector<WriteEvent> keys(4096);
  std::vector<uint8_t> values(keys.size());
  uint32_t at = 0;
  bool first = true;
  for (int tries = 0; tries < kMostTries;) {
    uint32_t next = 0;
    auto count = static_cast<uint32_t>(keys.size());
    int result = ::bpf_map_lookup_and_delete_batch(gathered_.get(), first ? nullptr : &at, &next, keys.data(),
                                                   values.data(), &count, nullptr);
    bool whole_bucket = result != -ENOSPC, free_bucket = result != -EBUSY;
    if (result < 0 && whole_bucket && free_bucket && result != -ENOENT)
      return fail_errno(-result, "cannot read the BPF map of written blocks");
    out.insert(out.end(), keys.begin(), keys.begin() + count);
    if (result == -ENOENT) {  // that was the last
      drained_at_ = added;
      return {};
    }
    first = false;
    at = next;
    if (!free_bucket) ++tries;
    if (whole_bucket) continue;
    keys.resize(keys.size() * 2);
    values.resize(keys.size());
  }
  return fail(Errc::kUnavailable, "cannot read the BPF map of written blocks: it is always in use");
}

// The kernel does not run a program inside of itself on the same CPU (an interrupt's event); it counts that.
Result<uint64_t> WriteEvents::lost() const {
  uint64_t sum = counters_->lost;
  for (const auto& program : programs_) {
    bpf_prog_info info{};
    uint32_t size = sizeof info;
    if (int result = ::bpf_obj_get_info_by_fd(program.get(), &info, &size); result < 0)
      return fail_errno(-result, "cannot ask how many events a BPF program has missed");
    sum += info.recursion_misses;
  }
  return sum;
}

}  // namespace transship::storage
