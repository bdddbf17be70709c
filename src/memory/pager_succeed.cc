// The pager's half that takes the place of another one, which was killed. Everything is looked at before anything is
// touched: what is not sure is refused, and the processes go on waiting at the daemon's descriptors.
#include <sys/resource.h>

#include "base/fault.h"
#include "base/log.h"
#include "memory/pager.h"

namespace transship::memory {
namespace {

// What is left of `todo`.
FillMap without_filled(const PageStore& store, SpaceId space, const FillMap& todo) {
  FillMap left;
  for (const auto& [address, piece] : todo.pieces()) {
    uint64_t begin = 0;  // of what is not filled
    for (uint64_t at = 0; at < piece.bytes;) {
      auto run = store.run(space, piece.image + at, (piece.bytes - at) / kPageBytes);
      if (run.state == PageState::kFilled) {
        left.add({.address = address + begin, .bytes = at - begin, .image = piece.image + begin});
        begin = at + run.pages * kPageBytes;
      }
      at += run.pages * kPageBytes;
    }
    left.add({.address = address + begin, .bytes = piece.bytes - begin, .image = piece.image + begin});
  }
  return left;
}

}  // namespace

std::string Pager::take_task(PagerMessage& m) {
  if (m.fds.size() == 1 && is_uffd(m.fds[0].get())) inherited_[m.number] = std::move(m.fds[0]);
  return {};
}

std::string Pager::succeed(PagerMessage& m) {
  fault::pass("pager.succeeding");
  if (!store_ || restore_complete_ || restore_.valid() || !spaces_.empty() || m.fds.size() != 1)
    return "this pager has work of its own";
  auto record = read_fill_record(m.fds[0].get());
  if (!record) return record.error().message();
  std::set<uint64_t> there;
  for (const auto& [index, uffd] : inherited_) there.insert(index);
  if (auto r = check_descriptors(*record, there); !r) return r.error().message();
  // Faults that the other one has read are not told again; whoever is woken runs into his again.
  for (const auto& [index, uffd] : inherited_) {
    if (!record->tasks.contains(index)) return fmt::format("task {} is not in it", index);
    if (!uffd_wake_all(uffd.get())) return fmt::format("wake its processes: {}", errno_text(errno));
  }
  take_spaces(*record);
  take_tasks(*record);
  count_again();
  next_index_ = record->next_index;
  restore_complete_ = true;
  unwatch(restore_listener_.get());
  restore_listener_.reset();
  (void)::unlinkat(dir_.get(), kLazyPagesSocket, 0);
  (void)::setpriority(PRIO_PROCESS, 0, kNiceAfterRestore);
  write_record();
  TS_LOG_INFO("pager goes on in place of another one: tasks={} sealed={}", tasks_.size(), store_->sealed());
  return {};
}

void Pager::take_spaces(FillRecord& record) {
  for (auto& [id, from] : record.spaces) {
    auto space = std::make_shared<FillSpace>();
    space->id = {SpaceKind::kTask, id};
    space->claimed = from.claimed;
    space->forked = from.forked;
    space->expected = std::move(from.expected);
    spaces_[id] = std::move(space);
  }
}

void Pager::take_tasks(FillRecord& record) {
  for (auto& [index, uffd] : inherited_) {
    auto& from = record.tasks.at(index);
    auto& space = spaces_.at(from.space);
    FillTask::Start start{
        .index = index, .todo = without_filled(*store_, space->id, from.todo), .forked = from.forked, .restored = true};
    add_task(std::make_unique<FillTask>(std::move(uffd), std::move(start), space, *store_, host()));
    --store_->counters().tasks;  // it was counted before
  }
  inherited_.clear();
  // Their last taker may have left in the other one's last moment.
  for (const auto& [id, space] : spaces_) {
    if (!space->claimed || space->tasks > 0) continue;
    for (const auto& range : space->expected) store_->mark_filled(space->id, range);
  }
}

// The other one may have been killed between a page and its number.
void Pager::count_again() {
  uint64_t left = 0;
  for (const auto& [index, entry] : tasks_) left += entry.task->forked() ? 0 : entry.task->bytes_left() / kPageBytes;
  for (const auto& [id, space] : spaces_) {
    if (space->claimed) continue;
    for (const auto& range : space->expected) left += range.pages;
  }
  auto& counters = store_->counters();
  counters.done_pages = counters.expected_pages - std::min<uint64_t>(left, counters.expected_pages);
}

}  // namespace transship::memory
