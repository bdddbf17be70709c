#include "storage/watch/file_id.h"

#include <fcntl.h>

#include <array>
#include <cstring>
#include <functional>

namespace transship::storage {

FileId id_of_handle(int handle_type, std::string_view handle) {
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
  uint64_t id = std::hash<std::string_view>()(handle) ^ (static_cast<uint64_t>(handle_type) * kOdd);
  return id == 0 ? 1 : id;
}

Result<NamedFile> identify(int dir_fd, const char* name) {
  alignas(file_handle) std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> space = {};
  auto* handle = reinterpret_cast<file_handle*>(space.data());
  handle->handle_bytes = MAX_HANDLE_SZ;
  NamedFile file;
  if (::name_to_handle_at(dir_fd, name, handle, &file.mount_id, *name == '\0' ? AT_EMPTY_PATH : 0) != 0) {
    int e = errno;
    if (e == EOPNOTSUPP || e == EOVERFLOW) return NamedFile{};
    return fail_errno(e, "read a file handle");
  }
  file.id = id_of_handle(handle->handle_type, {space.data() + sizeof(file_handle), handle->handle_bytes});
  return file;
}

size_t FileIdSet::slot_of(FileId id) const {
  size_t mask = slots_.size() - 1;
  size_t i = (id ^ (id >> 32)) & mask;
  while (slots_[i] != 0 && slots_[i] != id) i = (i + 1) & mask;
  return i;
}

void FileIdSet::insert(FileId id) {
  if ((used_ + 1) * 2 > slots_.size()) reserve(used_ + 1);
  size_t i = slot_of(id);
  if (slots_[i] == id) return;
  slots_[i] = id;
  ++used_;
}

void FileIdSet::clear() {
  slots_.clear();
  used_ = 0;
}

void FileIdSet::reserve(size_t ids) {
  size_t want = 16;
  while (want < ids * 2) want *= 2;
  if (want <= slots_.size()) return;
  std::vector<FileId> old(want, 0);
  old.swap(slots_);
  for (FileId id : old) {
    if (id != 0) slots_[slot_of(id)] = id;
  }
}

}  // namespace transship::storage
