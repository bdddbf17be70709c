#include "storage/watch/event_queue.h"

#include <linux/magic.h>
#include <sys/fanotify.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace transship::storage {
namespace {

constexpr size_t kReadSize = 256U << 10;
constexpr uint64_t kNameEvents = FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO;
// FAN_MOVE_SELF: a file that gets another name gets another change time, which its other names show.
constexpr uint64_t kFileEvents = FAN_MODIFY | FAN_ATTRIB | FAN_CLOSE_WRITE | FAN_MOVE_SELF;

// NB: fanotify takes marks on NFS and FUSE, too, and says nothing of what other hosts, or the program behind it, change
// there. Nothing in the kernel tells such file systems from others, hence these, of which all changes pass by here.
constexpr std::array kLocalFileSystems = {static_cast<uint64_t>(EXT4_SUPER_MAGIC),
                                          static_cast<uint64_t>(XFS_SUPER_MAGIC),
                                          static_cast<uint64_t>(BTRFS_SUPER_MAGIC), static_cast<uint64_t>(TMPFS_MAGIC),
                                          static_cast<uint64_t>(F2FS_SUPER_MAGIC)};

std::unexpected<Error> cannot(int e, std::string_view what) {
  return std::unexpected(Error(Errc::kKernelFeatureMissing, fmt::format("{}: {}", what, errno_text(e))).with_errno(e));
}

// On btrfs the kernel takes a mark of the whole file system only by its top subvolume, which need not be mounted
// anywhere. Its root directory has a fixed number.
Result<Fd> open_btrfs_top(int dir_fd) {
  constexpr int kWithoutParent = 0x4d;  // the kernel's struct btrfs_fid: inode, subvolume, generation (0: any)
  constexpr uint64_t kInode = 256, kSubvolume = 5;
  constexpr size_t kBytes = 20;
  alignas(file_handle) std::array<char, sizeof(file_handle) + kBytes> space = {};
  auto* handle = reinterpret_cast<file_handle*>(space.data());
  handle->handle_bytes = kBytes;
  handle->handle_type = kWithoutParent;
  std::memcpy(space.data() + sizeof(file_handle), &kInode, sizeof kInode);
  std::memcpy(space.data() + sizeof(file_handle) + sizeof kInode, &kSubvolume, sizeof kSubvolume);
  Fd fd(::open_by_handle_at(dir_fd, handle, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid()) return fail_errno(errno, "open the top subvolume of a btrfs");
  return fd;
}

int add_mark(int queue, int dir_fd) {
  constexpr uint64_t kEvents = kNameEvents | kFileEvents | FAN_ONDIR;
  return ::fanotify_mark(queue, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, kEvents, dir_fd, nullptr) == 0 ? 0 : errno;
}

int mark(int queue, int root_fd, const struct statfs& fs) {
  int e = add_mark(queue, root_fd);
  if (e != EXDEV || static_cast<uint64_t>(fs.f_type) != BTRFS_SUPER_MAGIC) return e;
  auto top = open_btrfs_top(root_fd);
  return top ? add_mark(queue, top->get()) : e;
}

// What an event says of one file or directory; nothing when it is cut short, which the kernel does not do.
struct Info {
  FileId id = 0;
  std::string_view name;
};

bool read_info(std::string_view record, bool named, Info& out) {
  fanotify_event_info_fid fid = {};
  file_handle handle = {};
  if (record.size() < sizeof fid + sizeof handle) return false;
  std::memcpy(&handle, record.data() + sizeof fid, sizeof handle);
  record.remove_prefix(sizeof fid + sizeof handle);
  if (handle.handle_bytes == 0 || handle.handle_bytes > record.size()) return false;
  out.id = id_of_handle(handle.handle_type, record.substr(0, handle.handle_bytes));
  record.remove_prefix(handle.handle_bytes);
  if (named) out.name = record.substr(0, record.find('\0'));
  return true;
}

FileEvent parse(const fanotify_event_metadata& head, std::string_view records) {
  FileEvent event;
  event.names = (head.mask & kNameEvents) != 0;
  event.file = (head.mask & kFileEvents) != 0;
  event.lost = (head.mask & FAN_Q_OVERFLOW) != 0;
  while (!event.lost && !records.empty()) {
    fanotify_event_info_header info = {};
    if (records.size() < sizeof info) break;
    std::memcpy(&info, records.data(), sizeof info);
    if (info.len < sizeof info || info.len > records.size()) break;
    bool named = info.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME;
    Info found;
    if (!read_info(records.substr(0, info.len), named, found)) break;
    if (named && found.name != ".") {
      event.dir = found.id;
      event.name = found.name;
    } else {
      event.object = found.id;  // a directory speaks of itself as "."
    }
    records.remove_prefix(info.len);
  }
  if (!records.empty() || (event.dir == 0 && event.object == 0)) event.lost = true;
  return event;
}

}  // namespace

EventQueue::EventQueue(Fd fd) : fd_(std::move(fd)), buffer_(kReadSize) {}

Result<EventQueue> EventQueue::create(int root_fd, bool unlimited) {
  struct statfs fs = {};
  if (::fstatfs(root_fd, &fs) != 0) return fail_errno(errno, "read what file system a directory is on");
  if (std::ranges::find(kLocalFileSystems, static_cast<uint64_t>(fs.f_type)) == kLocalFileSystems.end())
    return fail(Errc::kKernelFeatureMissing,
                "follow changes of a file system of type {:#x}: others may change it unseen", fs.f_type);
  unsigned flags = FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK | FAN_REPORT_DFID_NAME | FAN_REPORT_FID |
                   FAN_UNLIMITED_MARKS | (unlimited ? FAN_UNLIMITED_QUEUE : 0U);
  Fd fd(::fanotify_init(flags, O_RDONLY));
  if (!fd.valid()) return cannot(errno, "be told of changes of files (fanotify)");
  if (int e = mark(fd.get(), root_fd, fs); e != 0) return cannot(e, "follow changes of a file system (fanotify)");
  return EventQueue(std::move(fd));
}

size_t EventQueue::waiting() const {
  int bytes = 0;  // counted as heads of events, without what follows each
  if (::ioctl(fd_.get(), FIONREAD, &bytes) != 0 || bytes < 0) return 0;
  return static_cast<size_t>(bytes) / FAN_EVENT_METADATA_LEN;
}

Result<size_t> EventQueue::read(const std::function<void(const FileEvent&)>& each) {
  ssize_t n = retry_eintr([&] { return ::read(fd_.get(), buffer_.data(), buffer_.size()); });
  if (n < 0 && errno == EAGAIN) return 0;
  if (n < 0) return fail_errno(errno, "read changes of files");
  std::string_view rest(buffer_.data(), static_cast<size_t>(n));
  size_t count = 0;
  while (rest.size() >= FAN_EVENT_METADATA_LEN) {
    fanotify_event_metadata head = {};
    std::memcpy(&head, rest.data(), FAN_EVENT_METADATA_LEN);
    if (head.vers != FANOTIFY_METADATA_VERSION || head.metadata_len > head.event_len || head.event_len > rest.size() ||
        head.event_len < FAN_EVENT_METADATA_LEN)
      return fail(Errc::kKernelFeatureMissing, "events of files (fanotify) of version {}", head.vers);
    each(parse(head, rest.substr(head.metadata_len, head.event_len - head.metadata_len)));
    rest.remove_prefix(head.event_len);
    ++count;
  }
  return count;
}

}  // namespace transship::storage
