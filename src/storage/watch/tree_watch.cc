#include "storage/watch/tree_watch.h"

#include <poll.h>

#include <array>
#include <utility>

namespace transship::storage {
namespace {

// Of one directory. With more of them, reading all of its names costs no more.
constexpr size_t kMostNamesOfOne = 4096;

uint64_t next_number() {
  static std::atomic<uint64_t> last = 0;
  return ++last;
}

}  // namespace

TreeWatch::TreeWatch(int root_fd, const WatchOptions& options, EventQueue queue, MountsBelow mounts, Cancel stop)
    : root_fd_(root_fd),
      options_(options),
      stop_(std::move(stop)),
      mounts_(std::move(mounts)),
      queue_(std::move(queue)),
      thread_("tree-watch", [this] { run(); }) {}

Result<std::unique_ptr<TreeWatch>> TreeWatch::create(int root_fd, const WatchOptions& options) {
  TS_TRY_ASSIGN(NamedFile root, identify(root_fd, ""));
  if (root.id == 0) return fail(Errc::kKernelFeatureMissing, "follow changes: the file system gives no file handles");
  TS_TRY_ASSIGN(auto queue, EventQueue::create(root_fd, options.unlimited_queue));
  TS_TRY_ASSIGN(auto mounts, MountsBelow::create(root_fd));
  TS_TRY_ASSIGN(auto stop, Cancel::create());
  return std::unique_ptr<TreeWatch>(
      new TreeWatch(root_fd, options, std::move(queue), std::move(mounts), std::move(stop)));
}

TreeWatch::~TreeWatch() {
  Cancel(stop_).cancel("the watch has ended");
  thread_.join();
}

// Waits a little each time before it reads, so that the kernel puts events together: a file that is written all the
// time costs one of them each time.
void TreeWatch::run() {
  int fd;
  {
    MutexLock lock(mutex_);
    fd = queue_.fd();
  }
  while (!stop_.cancelled()) {
    constexpr int kOftenEnoughMs = 60'000;
    std::array<pollfd, 2> ready = {{{fd, POLLIN, 0}, {stop_.poll_fd(), POLLIN, 0}}};
    if (::poll(ready.data(), ready.size(), kOftenEnoughMs) <= 0 || ready[0].revents == 0) continue;
    (void)sleep_for(options_.gather, stop_);
    for (bool more = true; more && !stop_.cancelled();) {
      MutexLock lock(mutex_);
      auto any = read_once();
      if (!any) lost(any.error().message());
      more = any && *any;
    }
  }
}

Result<bool> TreeWatch::read_once() {
  TS_TRY_ASSIGN(size_t count, queue_.read([this](const FileEvent& e) TS_TSA(no_thread_safety_analysis) { note(e); }));
  events_ += count;
  return count > 0;
}

// What was queued before the call; others may go on making events faster than they are read.
Result<> TreeWatch::read_all() {
  uint64_t enough = events_ + queue_.waiting();
  for (bool more = true; more && events_ < enough;) {
    TS_TRY_ASSIGN(more, read_once());
  }
  return {};
}

void TreeWatch::note(const FileEvent& event) {
  if (!lost_.empty()) return;
  if (event.lost) return lost("the kernel dropped events");
  if (event.file && event.object != 0 && followed_.contains(event.object)) changes_.files.insert(event.object);
  bool by_name_only = event.file && event.object == 0;
  if ((event.names || by_name_only) && event.dir != 0 && followed_.contains(event.dir))
    note_name(event.dir, event.name);
}

void TreeWatch::note_name(FileId dir, std::string_view name) {
  auto [it, first] = changes_.names.try_emplace(dir);
  auto& names = it->second;
  if ((!first && names.empty()) || names.contains(name)) return;
  names.emplace(name);
  ++changed_names_;
  if (names.size() >= kMostNamesOfOne) {
    changed_names_ -= names.size();
    names.clear();
  }
  if (changed_names_ > options_.max_names) lost(fmt::format("over {} names changed", options_.max_names));
}

void TreeWatch::lost(std::string why) {
  lost_ = std::move(why);
  changes_ = {};
  changed_names_ = 0;
}

// Whoever is followed before this call is followed until forget_all_but(): what happens from here on is in the next
// changes.
Result<TreeChanges> TreeWatch::take(const Scan*& previous) {
  TS_TRY(read_all());
  if (stats_.walked.empty()) stats_.walked = std::exchange(lost_, {});
  lost_.clear();
  if (!stats_.walked.empty()) {
    previous = nullptr;
    followed_.clear();
  }
  changed_names_ = 0;
  stats_.events = events_;
  return std::exchange(changes_, {});
}

Result<Scan> TreeWatch::scan(const Scan* previous, const std::unordered_set<uint64_t>& look_too, const Cancel& cancel) {
  bool ours = previous != nullptr && last_scan_ != 0 && previous->number_ == last_scan_;
  stats_.walked = previous == nullptr ? "the first scan" : !ours ? "not the scan before" : "";
  told_.clear();
  last_scan_ = 0;  // if this fails, the changes are gone
  TreeChanges changes;
  auto taken = mounts_.changed();
  if (taken && *taken && ours) stats_.walked = "other mounts";
  if (taken) {
    MutexLock lock(mutex_);
    auto all = take(previous);
    if (all)
      changes = std::move(*all);
    else
      taken = std::unexpected(std::move(all).error());
  }
  if (!taken) {
    stats_.walked = taken.error().message();
    return scan_tree(root_fd_, cancel);
  }
  changes.inodes = look_too;
  auto follow_them = [this](std::span<const FileId> ids) { follow(ids); };
  LookedAt looked_at;
  TS_TRY_ASSIGN(Scan now, update_scan(root_fd_, previous, changes, follow_them, cancel, looked_at));
  stats_.looked_at = looked_at.names;
  told_ = std::move(looked_at.told);
  now.number_ = last_scan_ = next_number();
  forget_all_but(now);
  return now;
}

void TreeWatch::follow(std::span<const FileId> ids) {
  MutexLock lock(mutex_);
  for (FileId id : ids) followed_.insert(id);
}

// Only now and then: it costs time for each name of the tree.
void TreeWatch::forget_all_but(const Scan& scan) {
  constexpr size_t kSlack = 4096;
  MutexLock lock(mutex_);
  if (followed_.size() <= 2 * scan.entries() + kSlack) return;
  followed_.clear();
  followed_.reserve(scan.entries());
  for (FileId id : scan.ids_) {
    if (id != 0) followed_.insert(id);
  }
}

}  // namespace transship::storage
