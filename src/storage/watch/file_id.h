// What stands for a file or directory while a tree is watched: a hash of its file handle, which is the same in the
// events of the kernel and from a name, whatever the file is called by then. Two files with one hash are told apart by
// nobody, and need not be: one of them is looked at too often.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace transship::storage {

// 0: none.
using FileId = uint64_t;

FileId id_of_handle(int handle_type, std::string_view handle);

struct NamedFile {
  FileId id = 0;     // 0 where the file system gives none
  int mount_id = 0;  // 0 where there is no id
};

// Of `name` in `dir_fd`, no link followed; "" is `dir_fd` itself. Errors: kNotFound, whatever else the system says.
Result<NamedFile> identify(int dir_fd, const char* name);

// A set of ids, 16 bytes for each at most. One thread.
class FileIdSet {
 public:
  bool contains(FileId id) const { return used_ != 0 && slots_[slot_of(id)] == id; }
  // `id` is not 0.
  void insert(FileId id);
  size_t size() const { return used_; }
  bool empty() const { return used_ == 0; }
  void clear();
  void reserve(size_t ids);

 private:
  size_t slot_of(FileId id) const;

  std::vector<FileId> slots_;  // a power of two, at most half of them in use
  size_t used_ = 0;
};

}  // namespace transship::storage
