// The pax archives that rounds are made of: our entries in and out of libarchive, which does the format and nothing
// else (no file is opened, made or changed by it).
#pragma once
#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "storage/byte_stream.h"
#include "storage/extent.h"
#include "storage/patch.h"
#include "storage/xattr.h"

struct archive;
struct archive_entry;

namespace transship::storage {

struct Entry {
  // What pax has no type for is a plain file with an attribute of this name, in no namespace that Linux knows.
  static constexpr std::string_view kKindAttribute = "transship.kind";
  // kPatch: a plain file that the receiver has, of which only some ranges come.
  enum class Kind { kNode, kHardLink, kDeleted, kPatch, kEnd };
  Kind kind = Kind::kNode;
  std::string path;
  std::string target;  // of a symbolic or hard link
  mode_t mode = 0;     // with the type; sockets too
  int64_t uid = 0;
  int64_t gid = 0;
  dev_t rdev = 0;
  int64_t size = 0;  // of plain files; of a patch: of its data
  timespec atime = {};
  timespec mtime = {};
  Xattrs xattrs;
  std::vector<Extent> extents;  // of data, when the file has holes; only used for writing
  Patch patch;                  // kPatch
  uint64_t count = 0;           // kEnd: entries before it
};

// One thread. After an error nothing else may be called.
class ArchiveWriter {
 public:
  static Result<std::unique_ptr<ArchiveWriter>> create(Writer& out);
  ~ArchiveWriter();
  Result<> header(const Entry& entry);
  // Contents of the plain file whose header was last written, in order; `size` bytes in all, holes as zeros. Of a
  // patch: the data of its ranges, one after another.
  Result<> data(std::span<const std::byte> bytes);
  Result<> zeros(int64_t length);
  Result<> finish();

 private:
  ArchiveWriter(Writer& out, archive* a);
  static ssize_t sink(archive* a, void* self, const void* bytes, size_t length);
  std::unexpected<Error> failed(std::string_view what);
  Writer& out_;
  archive* archive_;
  archive_entry* entry_;
  std::optional<Error> out_error_;
  bool abandoned_ = false;
};

class ArchiveReader {
 public:
  static Result<std::unique_ptr<ArchiveReader>> create(Reader& in);
  ~ArchiveReader();
  // Nothing at the end of the archive.
  Result<std::optional<Entry>> next(size_t max_xattr_bytes);
  struct Block {
    std::span<const std::byte> bytes;  // valid until the next call
    int64_t offset = 0;
  };
  // Next piece of the contents; nothing at their end.
  Result<std::optional<Block>> block();
  // Reads what follows the archive; kPeerProtocol when that is more than padding.
  Result<> drain();

 private:
  ArchiveReader(Reader& in, archive* a);
  static ssize_t source(archive* a, void* self, const void** bytes);
  std::unexpected<Error> failed(std::string_view what);
  Result<> read_xattrs(archive_entry* e, size_t max_bytes, Entry& entry);
  Reader& in_;
  archive* archive_;
  std::vector<std::byte> buffer_;
  std::optional<Error> in_error_;
};

}  // namespace transship::storage
