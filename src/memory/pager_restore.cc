// The pager's half that CRIU talks to while it restores.
#include <sys/resource.h>
#include <sys/socket.h>

#include <cstring>

#include "base/fault.h"
#include "base/log.h"
#include "memory/pager.h"
#include "sys/packet.h"

namespace transship::memory {
namespace {

constexpr uint64_t kRestoreTag = 4;
constexpr int32_t kFinishWord = 0x52535446;

}  // namespace

// One restore, one connection.
void Pager::accept_restore() {
  Fd fd(::accept4(restore_listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  unwatch(restore_listener_.get());
  restore_listener_.reset();
  (void)::unlinkat(dir_.get(), kLazyPagesSocket, 0);
  restore_ = std::move(fd);
  if (auto r = watch(restore_.get(), kRestoreTag); !r) restore_failed(r.error().message());
}

void Pager::restore_failed(std::string why) {
  restore_failed_ = true;
  trouble(why);
  restore_ended(false);
}

void Pager::restore_ended(bool complete) {
  unwatch(restore_.get());
  restore_.reset();
  restore_complete_ = complete;
  fault::pass("pager.restored");
  // Processes wait while it waits.
  (void)::setpriority(PRIO_PROCESS, 0, Pager::kNiceAfterRestore);
  TS_LOG_DEBUG("pager restore_complete={} tasks={}", complete, tasks_.size());
  for (auto& [index, entry] : tasks_) entry.task->restored();
  // From here on another pager can take this one's place: CRIU is through.
  if (complete) write_record();
  fault::pass("pager.recorded");
}

// Either a number, or one byte with a descriptor. Nothing beyond what is expected is read, so that a descriptor stays
// with its byte.
void Pager::read_restore() {
  while (restore_.valid()) {
    if (restoring_) {
      read_descriptor();
      if (restoring_) return;
      continue;
    }
    std::array<char, sizeof(int32_t)> buffer{};
    auto n = retry_eintr(
        [&] { return ::recv(restore_.get(), buffer.data(), buffer.size() - restore_bytes_.size(), MSG_DONTWAIT); });
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) return restore_failed("CRIU ended before the restore was complete");
    restore_bytes_.append(buffer.data(), static_cast<size_t>(n));
    if (restore_bytes_.size() < sizeof(int32_t)) continue;
    int32_t number = 0;
    std::memcpy(&number, restore_bytes_.data(), sizeof number);
    restore_bytes_.clear();
    restore_number(number);
  }
}

void Pager::restore_number(int32_t number) {
  if (number == kFinishWord) return restore_ended(true);
  if (number < 0) return;  // a zombie has no memory
  auto it = spaces_.find(static_cast<uint64_t>(number));
  // To answer its faults with zeros would be the worst of all.
  if (!store_ || it == spaces_.end() || it->second->claimed)
    return restore_failed(fmt::format("CRIU restores process {}, whose pages are {}", number,
                                      it == spaces_.end() ? "not known" : "taken already"));
  restoring_ = static_cast<uint64_t>(number);
}

void Pager::read_descriptor() {
  char byte = 0;
  auto got = sys::receive_packet(restore_.get(), {&byte, 1}, MSG_DONTWAIT);
  if (!got && got.error().sys_errno() == EAGAIN) return;
  auto pid = *std::exchange(restoring_, std::nullopt);
  Fd uffd;
  if (got && got->bytes > 0 && got->fds.size() == 1) uffd = std::move(got->fds.front());
  if (!uffd.valid() || !is_uffd(uffd.get()))
    return restore_failed(fmt::format("CRIU sent no userfaultfd of process {}", pid));
  auto& space = spaces_.at(pid);
  space->claimed = true;
  auto index = next_index_++;
  announce(index, space->id, uffd.get());
  add_task(std::make_unique<FillTask>(
      std::move(uffd), FillTask::Start{.index = index, .todo = FillTask::all_of(*space)}, space, *store_, host()));
}

}  // namespace transship::memory
