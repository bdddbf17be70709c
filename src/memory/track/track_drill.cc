// For the integration tests and for measuring: the tracker and the page reader on real processes. Not installed. Prints
// one JSON line per step; a step's failure is printed, and the exit code is 1.
//
//   track_drill rebuild --cgroup PATH | --pid PID [--rounds N] [--pause MS] [--tracker KIND]
//       Rounds while the processes run, then freezes them, the last round, and compares what was gathered with every
//       page that CRIU would dump, byte by byte. They go on afterwards. With --pid: that one and its descendants,
//       frozen by SIGSTOP.
//   track_drill choose
//       Which tracker this kernel gets, and why.
//   track_drill inject --pid PID [--times N]
//   track_drill measure [--mib N]
//       A child with that much memory: scan, read, memcpy. Prints times per GiB.
#include <dirent.h>
#include <signal.h>

#include <algorithm>
#include <cstring>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <thread>
#include <unordered_map>

#include "base/log.h"
#include "base/text.h"
#include "memory/track/address_space.h"
#include "memory/track/inject.h"
#include "memory/track/page_reader.h"
#include "memory/track/shared_objects.h"
#include "memory/track/track_measure.h"
#include "memory/track/tracker.h"
#include "sys/file.h"

namespace transship::memory {
namespace {

using nlohmann::json;
using Options = std::map<std::string, std::string>;
using std::chrono::microseconds;

constexpr milliseconds kFreeze{5'000};

void say(const json& line) { std::cout << line.dump() << "\n" << std::flush; }

int failed(const char* step, const Error& error) {
  say({{"step", step}, {"error", error.message()}, {"code", errc_name(error.code())}});
  return 1;
}

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

uint64_t number_of(const Options& o, const std::string& name, uint64_t otherwise) {
  auto found = o.find(name);
  return found == o.end() ? otherwise : std::stoull(found->second);
}

// What the other host would have.
class Image {
 public:
  Result<> put(const PageBlock& block) {
    const std::byte* from = block.content.data();
    auto& space = pages_[block.space];
    for (const auto& range : block.ranges) {
      for (uint64_t at = range.address; at < range.end(); at += kPageBytes, from += kPageBytes) {
        auto& page = space[at];
        if (!page) page = std::make_unique<Page>();
        std::memcpy(page->data(), from, kPageBytes);
        rounds_[block.space][at] = round;
      }
    }
    return {};
  }
  // Null: never sent.
  const std::byte* get(SpaceId space, uint64_t address) const {
    auto s = pages_.find(space);
    if (s == pages_.end()) return nullptr;
    auto p = s->second.find(address);
    return p == s->second.end() ? nullptr : p->second->data();
  }

  // In which round a page came last; 0: never.
  int came(SpaceId space, uint64_t address) const {
    auto s = rounds_.find(space);
    if (s == rounds_.end() || !s->second.contains(address)) return 0;
    return s->second.at(address);
  }
  int round = 0;

 private:
  using Page = std::array<std::byte, kPageBytes>;
  std::map<SpaceId, std::unordered_map<uint64_t, int>> rounds_;
  std::map<SpaceId, std::unordered_map<uint64_t, std::unique_ptr<Page>>> pages_;
};

void add_tree(pid_t pid, std::vector<pid_t>& out) {
  out.push_back(pid);
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), error)) {
    auto children = sys::read_file(task.path().string() + "/children");
    if (!children) continue;
    for (const auto& child : split(trim(*children), ' ')) {
      auto id = parse_u64(child, "a child");
      if (id) add_tree(static_cast<pid_t>(*id), out);  // NOLINT(misc-no-recursion)
    }
  }
}

// Every thread stopped; again for what was forked meanwhile.
Result<> stop_tree(pid_t root, bool stop) {
  auto deadline = Deadline::in(kFreeze);
  std::set<pid_t> done;
  while (true) {
    std::vector<pid_t> pids;
    add_tree(root, pids);
    bool settled = true;
    for (pid_t pid : pids) {
      if (done.insert(pid).second) {
        (void)::kill(pid, stop ? SIGSTOP : SIGCONT);
        settled = false;
      }
      std::error_code error;
      for (const auto& task : std::filesystem::directory_iterator(fmt::format("/proc/{}/task", pid), error)) {
        auto stat = sys::read_file(task.path().string() + "/stat", 4096);
        char state = stat && stat->rfind(')') != std::string::npos ? (*stat)[stat->rfind(')') + 2] : 'Z';
        if (stop && state != 'T' && state != 'Z' && state != 'X') settled = false;
      }
    }
    if (settled || !stop) return {};
    if (deadline.passed()) return fail(Errc::kTimeout, "process {} and its descendants did not stop", root);
    std::this_thread::sleep_for(microseconds(200));
  }
}

Result<TaskGroup> group_of(const Options& o) {
  if (o.contains("cgroup")) {
    TS_TRY_ASSIGN(sys::Cgroup cgroup, sys::Cgroup::at(o.at("cgroup")));
    return tasks_of(cgroup);
  }
  auto root = static_cast<pid_t>(number_of(o, "pid", 0));
  auto list = [root]() -> Result<std::vector<pid_t>> {
    std::vector<pid_t> pids;
    add_tree(root, pids);
    return pids;
  };
  return TaskGroup{list, [root](bool stop) { return stop_tree(root, stop); }};
}

json numbers(const RoundStats& s) {
  return {{"pages", s.pages},          {"ranges", s.ranges},
          {"processes", s.processes},  {"attached", s.attached},
          {"mappings", s.mappings},    {"postponed", s.postponed},
          {"scan_us", s.scan.count()}, {"stop_us", s.longest_stop.count()}};
}

struct Comparison {
  uint64_t same = 0, different = 0, missing = 0, unreadable = 0, shared = 0;
  std::vector<std::string> examples;
};

// What may tell why a page is wrong: where it is, how much of it, and when it came last.
std::string describe(const Image& image, SpaceId space, pid_t pid, uint64_t name, uint64_t address,
                     const std::byte* sent, std::span<const std::byte> page) {
  std::string where = "no mapping";
  if (auto vmas = read_vmas(pid)) {
    for (const auto& v : *vmas) {
      if (v.start <= address && address < v.end)
        where = fmt::format("{:x}-{:x} {}{}{}{} {}", v.start, v.end, v.readable ? 'r' : '-', v.writable ? 'w' : '-',
                            v.executable ? 'x' : '-', v.shared ? 's' : 'p', v.path);
    }
  }
  if (sent == nullptr) return fmt::format("{} missing {:x} in {}", pid, address, where);
  size_t first = page.size(), count = 0;
  for (size_t i = 0; i < page.size(); ++i) {
    if (sent[i] == page[i]) continue;
    first = std::min(first, i);
    ++count;
  }
  return fmt::format("{} different {:x} in {}: {} bytes from {} on, came in round {} of {}", pid, address, where, count,
                     first, image.came(space, name), image.round);
}

void compare_page(const Image& image, SpaceId space, pid_t pid, int mem, uint64_t address, Comparison& result,
                  std::optional<uint64_t> name = {}) {
  std::array<std::byte, kPageBytes> page;
  if (::pread(mem, page.data(), page.size(), static_cast<off_t>(address)) != static_cast<ssize_t>(page.size())) {
    ++result.unreadable;
    return;
  }
  const std::byte* sent = image.get(space, name.value_or(address));
  bool same = sent != nullptr && std::memcmp(sent, page.data(), page.size()) == 0;
  if (same) {
    ++(space.kind == SpaceKind::kShared ? result.shared : result.same);
    return;
  }
  ++(sent == nullptr ? result.missing : result.different);
  if (result.examples.size() < 8)
    result.examples.push_back(describe(image, space, pid, name.value_or(address), address, sent, page));
}

Result<> compare(const Image& image, pid_t pid, Comparison& result) {
  TS_TRY_ASSIGN(std::vector<PageRange> ranges, populated_pages(pid));
  TS_TRY_ASSIGN(uint64_t inner, innermost_pid(pid));
  TS_TRY_ASSIGN(Fd mem, open_file(fmt::format("/proc/{}/mem", pid), O_RDONLY));
  for (const auto& range : ranges) {
    for (uint64_t at = range.address; at < range.end(); at += kPageBytes)
      compare_page(image, {SpaceKind::kTask, inner}, pid, mem.get(), at, result);
  }
  return {};
}

// Through the mappings, not the way it was read. What was never sent has to be zero.
Result<> compare_shared(const Image& image, pid_t pid, const std::string& path_start, Comparison& result) {
  TS_TRY_ASSIGN(std::vector<Vma> vmas, read_vmas(pid));
  TS_TRY_ASSIGN(Fd mem, open_file(fmt::format("/proc/{}/mem", pid), O_RDONLY));
  std::array<std::byte, kPageBytes> page;
  for (const auto& vma : vmas) {
    if (!vma.shared || !vma.path.starts_with(path_start)) continue;
    for (uint64_t at = vma.start; at < vma.end; at += kPageBytes) {
      SpaceId space{SpaceKind::kShared, vma.inode};
      uint64_t offset = vma.offset + at - vma.start;
      bool sent = image.get(space, offset) != nullptr;
      if (sent) compare_page(image, space, pid, mem.get(), at, result, offset);
      if (sent || ::pread(mem.get(), page.data(), page.size(), static_cast<off_t>(at)) < 0) continue;
      ++(std::ranges::all_of(page, [](std::byte b) { return b == std::byte{0}; }) ? result.shared : result.missing);
    }
  }
  return {};
}

Result<> compare_all(const Image& image, const TaskGroup& group, Comparison& result) {
  TS_TRY_ASSIGN(std::vector<pid_t> pids, group.processes());
  for (pid_t pid : pids) {
    auto one = compare(image, pid, result);
    if (!one && one.error().code() != Errc::kNotFound) return one;
    for (const char* kind : {"/dev/zero", "/memfd:", "/SYSV"}) {
      if (one) one = compare_shared(image, pid, kind, result);
      if (!one && one.error().code() != Errc::kNotFound) return one;
    }
  }
  return {};
}

// One rebuild: its parts keep what they share here.
struct Rebuild {
  TaskGroup group;
  std::unique_ptr<DirtyTracker> tracker;
  Cancel cancel;
  SharedObjects shared;
  Image image = {};
  PageReader reader = {};
  uint64_t gone = 0;
  microseconds reading{0};

  RunSink sink() {
    return [this](const PageRuns& runs) -> Result<> {
      auto begin = Clock::now();
      TS_TRY_ASSIGN(ReadStats stats,
                    reader.read(runs, [this](const PageBlock& block) { return image.put(block); }, cancel));
      reading += std::chrono::duration_cast<microseconds>(Clock::now() - begin);
      for (const auto& range : stats.gone) gone += range.pages;
      return {};
    };
  }
  Result<json> round_of_shared() {
    TS_TRY_ASSIGN(SharedRoundStats stats,
                  shared.round([this](const PageBlock& block) { return image.put(block); }, cancel));
    return json{{"step", "shared"},
                {"objects", stats.objects},
                {"pages_read", stats.pages_read},
                {"pages", stats.pages},
                {"took_us", stats.took.count()}};
  }
  json with_reads(json line) {
    line["gone"] = std::exchange(gone, 0);
    line["read_us"] = std::exchange(reading, {}).count();
    return line;
  }
};

int drill_rounds(Rebuild& rebuild, const Options& o) {
  auto pause = milliseconds(number_of(o, "pause", 100));
  for (uint64_t n = 1; n <= number_of(o, "rounds", 5); ++n) {
    ++rebuild.image.round;
    auto stats = rebuild.tracker->round(rebuild.sink(), rebuild.cancel);
    if (!stats) return failed("round", stats.error());
    auto line = rebuild.with_reads(numbers(*stats));
    line["step"] = "round";
    say(line);
    auto shared = rebuild.round_of_shared();
    if (!shared) return failed("shared", shared.error());
    say(*shared);
    std::this_thread::sleep_for(pause);
  }
  return 0;
}

int drill_last(Rebuild& rebuild) {
  ++rebuild.image.round;
  auto stats = rebuild.tracker->last_round(rebuild.sink(), rebuild.cancel);
  if (!stats) return failed("last", stats.error());
  auto line = rebuild.with_reads(numbers(*stats));
  line["step"] = "last";
  for (const auto& finding : rebuild.tracker->findings()) line["untracked"].push_back(finding.why);
  say(line);
  auto shared = rebuild.round_of_shared();
  if (!shared) return failed("shared", shared.error());
  say(*shared);
  Comparison result;
  if (auto r = compare_all(rebuild.image, rebuild.group, result); !r) return failed("compare", r.error());
  say({{"step", "compared"},
       {"same", result.same},
       {"shared", result.shared},
       {"different", result.different},
       {"missing", result.missing},
       {"unreadable", result.unreadable},
       {"examples", result.examples}});
  return result.different + result.missing == 0 ? 0 : 1;
}

int drill_rebuild(const Options& o, const Cancel& cancel) {
  auto choice = choose_tracker();
  auto kind = choice.kind;
  if (o.contains("tracker")) {
    for (auto k : {TrackerKind::kPagemapScan, TrackerKind::kSoftDirty, TrackerKind::kNone})
      if (tracker_name(k) == o.at("tracker")) kind = k;
  }
  auto group = group_of(o);
  if (!group) return failed("group", group.error());
  auto tracker = make_tracker(kind, *group);
  if (!tracker) return failed("tracker", tracker.error());
  say({{"step", "tracker"}, {"kind", tracker_name(kind)}, {"why", choice.why}});
  Rebuild rebuild{*group, std::move(*tracker), cancel, SharedObjects(*group)};
  if (int code = drill_rounds(rebuild, o); code != 0) return code;
  auto begin = Clock::now();
  if (auto r = rebuild.group.freeze(true); !r) return failed("freeze", r.error());
  say({{"step", "frozen"}, {"took_us", ms_since(begin) * 1000}});
  int code = drill_last(rebuild);
  rebuild.tracker->detach();
  if (auto r = rebuild.group.freeze(false); !r) return failed("thaw", r.error());
  return code;
}

int drill_choose() {
  auto choice = choose_tracker();
  say({{"step", "tracker"}, {"kind", tracker_name(choice.kind)}, {"why", choice.why}});
  return 0;
}

int drill_inject(const Options& o, const Cancel& cancel) {
  auto pid = static_cast<pid_t>(number_of(o, "pid", 0));
  std::vector<int64_t> stops;
  std::vector<int64_t> wholes;
  for (uint64_t n = 0; n < number_of(o, "times", 200); ++n) {
    auto injection = inject_userfaultfd(pid, cancel, Deadline::in(milliseconds(5000)));
    if (!injection) return failed("inject", injection.error());
    stops.push_back(injection->stopped.count());
    wholes.push_back(injection->attempts.count());
    std::this_thread::sleep_for(milliseconds(2));
  }
  std::ranges::sort(stops);
  std::ranges::sort(wholes);
  auto at = [](const std::vector<int64_t>& all, double part) {
    return all[static_cast<size_t>(part * static_cast<double>(all.size() - 1))];
  };
  say({{"step", "injected"},
       {"times", stops.size()},
       {"stopped_us", {{"p50", at(stops, 0.5)}, {"p99", at(stops, 0.99)}, {"max", stops.back()}}},
       {"whole_us", {{"p50", at(wholes, 0.5)}, {"p99", at(wholes, 0.99)}, {"max", wholes.back()}}}});
  return 0;
}

}  // namespace
}  // namespace transship::memory

int main(int argc, char** argv) {
  using namespace transship;
  init_logging("info");
  memory::Options o;
  for (int i = 2; i + 1 < argc; i += 2) o[std::string(argv[i]).substr(2)] = argv[i + 1];
  auto cancel = Cancel::create();
  if (!cancel) return memory::failed("cancel", cancel.error());
  std::string verb = argc > 1 ? argv[1] : "";
  if (verb == "rebuild") return memory::drill_rebuild(o, *cancel);
  if (verb == "choose") return memory::drill_choose();
  if (verb == "inject") return memory::drill_inject(o, *cancel);
  if (verb == "measure") {
    auto done = memory::measure_tracking(memory::number_of(o, "mib", 1024) << 20, *cancel);
    return done ? 0 : memory::failed("measure", done.error());
  }
  std::cerr << "usage: track_drill rebuild|choose|inject|measure --NAME VALUE…\n";
  return 2;
}
