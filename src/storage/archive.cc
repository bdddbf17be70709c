#include "storage/archive.h"

#include <archive.h>
#include <archive_entry.h>

#include <array>

#include "base/text.h"
#include "storage/beneath.h"

namespace transship::storage {
namespace {

constexpr size_t kBlock = 256 << 10;
constexpr std::string_view kCountAttribute = "transship.count";
constexpr std::string_view kPatchAttribute = "transship.patch";
constexpr std::array<std::byte, 1 << 20> kZeros = {};

std::string_view kind_text(const Entry& e) {
  switch (e.kind) {
    case Entry::Kind::kDeleted: return "deleted";
    case Entry::Kind::kEnd: return "end";
    case Entry::Kind::kPatch: return "patch";
    case Entry::Kind::kNode: return S_ISSOCK(e.mode) ? "socket" : "";
    case Entry::Kind::kHardLink: return "";
  }
  return "";
}

std::string text_of(archive* a) {
  const char* s = ::archive_error_string(a);
  return s != nullptr ? printable(s) : "no reason given";
}

void add_xattr(archive_entry* to, std::string_view name, std::string_view value) {
  ::archive_entry_xattr_add_entry(to, std::string(name).c_str(), value.data(), value.size());
}

void fill_node(const Entry& from, archive_entry* to) {
  ::archive_entry_set_uid(to, from.uid);
  ::archive_entry_set_gid(to, from.gid);
  ::archive_entry_set_atime(to, from.atime.tv_sec, from.atime.tv_nsec);
  ::archive_entry_set_mtime(to, from.mtime.tv_sec, from.mtime.tv_nsec);
  if (S_ISREG(from.mode)) ::archive_entry_set_size(to, from.size);
  if (S_ISLNK(from.mode)) ::archive_entry_copy_symlink(to, from.target.c_str());
  if (S_ISCHR(from.mode) || S_ISBLK(from.mode)) ::archive_entry_set_rdev(to, from.rdev);
  for (const auto& [name, value] : from.xattrs) add_xattr(to, name, value);
  for (const auto& x : from.extents) ::archive_entry_sparse_add_entry(to, x.offset, x.length);
}

}  // namespace

ArchiveWriter::ArchiveWriter(Writer& out, archive* a) : out_(out), archive_(a), entry_(::archive_entry_new()) {}

ArchiveWriter::~ArchiveWriter() {
  ::archive_entry_free(entry_);
  // NB: only close() gives the block buffer back. An unfinished archive must not look complete: from here on the sink
  // refuses, which also ends the padding of a half-written entry at once.
  abandoned_ = true;
  (void)::archive_write_close(archive_);
  ::archive_write_free(archive_);
}

Result<std::unique_ptr<ArchiveWriter>> ArchiveWriter::create(Writer& out) {
  archive* a = ::archive_write_new();
  std::unique_ptr<ArchiveWriter> w(new ArchiveWriter(out, a));
  // Attribute names in the encoded form: an "=" or a newline in one would break the other.
  bool ok = ::archive_write_set_format_pax(a) == ARCHIVE_OK &&
            ::archive_write_set_format_option(a, "pax", "hdrcharset", "BINARY") == ARCHIVE_OK &&
            ::archive_write_set_format_option(a, "pax", "xattrheader", "LIBARCHIVE") == ARCHIVE_OK &&
            ::archive_write_set_bytes_per_block(a, kBlock) == ARCHIVE_OK &&
            ::archive_write_set_bytes_in_last_block(a, 1) == ARCHIVE_OK &&
            ::archive_write_open2(a, w.get(), nullptr, &ArchiveWriter::sink, nullptr, nullptr) == ARCHIVE_OK;
  if (!ok) return w->failed("start a file stream");
  return w;
}

ssize_t ArchiveWriter::sink(archive* a, void* self, const void* bytes, size_t length) {
  auto* w = static_cast<ArchiveWriter*>(self);
  if (!w->abandoned_ && !w->out_error_) {
    auto r = w->out_.write(std::span(static_cast<const std::byte*>(bytes), length));
    if (r) return static_cast<ssize_t>(length);
    w->out_error_ = std::move(r).error();
  }
  ::archive_set_error(a, EIO, "the stream ended");
  return -1;
}

std::unexpected<Error> ArchiveWriter::failed(std::string_view what) {
  if (out_error_) return std::unexpected(*out_error_);
  return fail(Errc::kInternal, "{}: {}", what, text_of(archive_));
}

Result<> ArchiveWriter::header(const Entry& e) {
  ::archive_entry_clear(entry_);
  ::archive_entry_copy_pathname(entry_, e.path.c_str());
  auto kind = kind_text(e);
  // The archive's own set of types has no sockets; what has no type at all is a plain file too.
  ::archive_entry_set_mode(entry_, kind.empty() ? e.mode : (e.mode & 07777U) | S_IFREG);
  ::archive_entry_set_size(entry_, 0);
  if (!kind.empty()) add_xattr(entry_, Entry::kKindAttribute, kind);
  if (e.kind == Entry::Kind::kEnd) add_xattr(entry_, kCountAttribute, fmt::format("{}", e.count));
  if (e.kind == Entry::Kind::kNode || e.kind == Entry::Kind::kPatch) fill_node(e, entry_);
  if (e.kind == Entry::Kind::kPatch) {
    add_xattr(entry_, kPatchAttribute, to_text(e.patch));
    ::archive_entry_set_size(entry_, e.patch.data_length());
  }
  if (e.kind == Entry::Kind::kHardLink) {
    ::archive_entry_set_filetype(entry_, AE_IFREG);
    ::archive_entry_copy_hardlink(entry_, e.target.c_str());
  }
  // A warning is about something that could not be stored as it is: not good enough here.
  if (::archive_write_header(archive_, entry_) == ARCHIVE_OK) return {};
  return failed(fmt::format("put {} into the file stream", printable(e.path)));
}

Result<> ArchiveWriter::data(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    la_ssize_t n = ::archive_write_data(archive_, bytes.data(), bytes.size());
    if (n <= 0) return failed("put contents into the file stream");
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<> ArchiveWriter::zeros(int64_t length) {
  while (length > 0) {
    auto n = std::min<int64_t>(length, static_cast<int64_t>(kZeros.size()));
    TS_TRY(data(std::span(kZeros).first(static_cast<size_t>(n))));
    length -= n;
  }
  return {};
}

Result<> ArchiveWriter::finish() {
  if (::archive_write_close(archive_) != ARCHIVE_OK) return failed("end the file stream");
  return {};
}

ArchiveReader::ArchiveReader(Reader& in, archive* a) : in_(in), archive_(a), buffer_(kBlock) {}

ArchiveReader::~ArchiveReader() { ::archive_read_free(archive_); }

Result<std::unique_ptr<ArchiveReader>> ArchiveReader::create(Reader& in) {
  archive* a = ::archive_read_new();
  std::unique_ptr<ArchiveReader> r(new ArchiveReader(in, a));
  // Only this format and no compression: as little code as possible reads what a peer sends.
  bool ok = ::archive_read_support_format_tar(a) == ARCHIVE_OK &&
            ::archive_read_open2(a, r.get(), nullptr, &ArchiveReader::source, nullptr, nullptr) == ARCHIVE_OK;
  if (!ok) return r->failed("read the file stream");
  return r;
}

ssize_t ArchiveReader::source(archive* a, void* self, const void** bytes) {
  auto* r = static_cast<ArchiveReader*>(self);
  auto n = r->in_.read(r->buffer_);
  *bytes = r->buffer_.data();
  if (n) return static_cast<ssize_t>(*n);
  r->in_error_ = std::move(n).error();
  ::archive_set_error(a, EIO, "the stream ended");
  return -1;
}

std::unexpected<Error> ArchiveReader::failed(std::string_view what) {
  if (in_error_) return std::unexpected(*in_error_);
  return fail(Errc::kPeerProtocol, "{}: {}", what, text_of(archive_));
}

namespace {

std::string text_or_empty(const char* s) { return s != nullptr ? s : ""; }

Result<> set_kind(std::string_view kind, Entry& entry) {
  if (kind.empty()) return {};
  if (kind == "deleted") {
    entry.kind = Entry::Kind::kDeleted;
  } else if (kind == "end") {
    entry.kind = Entry::Kind::kEnd;
  } else if (kind == "patch") {
    entry.kind = Entry::Kind::kPatch;
  } else if (kind == "socket") {
    entry.mode = (entry.mode & 07777U) | S_IFSOCK;
  } else {
    return fail(Errc::kPeerProtocol, "the file stream has an entry of unknown kind \"{}\"", printable(kind));
  }
  return {};
}

}  // namespace

Result<std::optional<Entry>> ArchiveReader::next(size_t max_xattr_bytes) {
  archive_entry* e = nullptr;
  int r = ::archive_read_next_header(archive_, &e);
  if (r == ARCHIVE_EOF) return std::optional<Entry>();
  if (r != ARCHIVE_OK) return failed("read the file stream");
  Entry entry;
  entry.path = text_or_empty(::archive_entry_pathname(e));
  entry.mode = ::archive_entry_mode(e);
  entry.uid = ::archive_entry_uid(e);
  entry.gid = ::archive_entry_gid(e);
  entry.rdev = ::archive_entry_rdev(e);
  entry.size = ::archive_entry_size(e);
  entry.atime = {::archive_entry_atime(e), ::archive_entry_atime_nsec(e)};
  entry.mtime = {::archive_entry_mtime(e), ::archive_entry_mtime_nsec(e)};
  // The format ends names of directories with a slash.
  if (S_ISDIR(entry.mode) && entry.path.size() > 1 && entry.path.ends_with('/')) entry.path.pop_back();
  if (const char* link = ::archive_entry_hardlink(e)) {
    entry.kind = Entry::Kind::kHardLink;
    entry.target = link;
  } else if (S_ISLNK(entry.mode)) {
    entry.target = text_or_empty(::archive_entry_symlink(e));
  }
  TS_TRY(read_xattrs(e, max_xattr_bytes, entry));
  return std::optional(std::move(entry));
}

Result<> ArchiveReader::read_xattrs(archive_entry* e, size_t max_bytes, Entry& entry) {
  size_t left = max_bytes;
  std::string kind;
  std::optional<Patch> patch;
  const char* name = nullptr;
  const void* value = nullptr;
  size_t size = 0;
  (void)::archive_entry_xattr_reset(e);
  while (::archive_entry_xattr_next(e, &name, &value, &size) == ARCHIVE_OK) {
    std::string key = text_or_empty(name);
    if (key == kPatchAttribute) {  // has limits of its own
      TS_TRY_ASSIGN(patch, parse_patch({static_cast<const char*>(value), size}));
      continue;
    }
    if (key.size() + size > left)
      return fail(Errc::kPeerProtocol, "extended attributes of {} are over {} bytes", printable(entry.path), max_bytes);
    left -= key.size() + size;
    std::string bytes(static_cast<const char*>(value), size);
    if (key == Entry::kKindAttribute) {
      kind = std::move(bytes);
    } else if (key == kCountAttribute) {
      TS_TRY_ASSIGN(entry.count, parse_u64(bytes, "entries in the file stream"));
    } else {
      entry.xattrs.emplace(std::move(key), std::move(bytes));
    }
  }
  TS_TRY(set_kind(kind, entry));
  if (patch.has_value() != (entry.kind == Entry::Kind::kPatch))
    return fail(Errc::kPeerProtocol, "the file stream has {}, which is only half a patch", printable(entry.path));
  if (patch) entry.patch = std::move(*patch);
  return {};
}

Result<std::optional<ArchiveReader::Block>> ArchiveReader::block() {
  const void* bytes = nullptr;
  size_t size = 0;
  la_int64_t offset = 0;
  int r = ::archive_read_data_block(archive_, &bytes, &size, &offset);
  if (r == ARCHIVE_EOF) return std::optional<Block>();
  if (r != ARCHIVE_OK) return failed("read contents from the file stream");
  return std::optional(Block{std::span(static_cast<const std::byte*>(bytes), size), offset});
}

Result<> ArchiveReader::drain() {
  constexpr size_t kMostPadding = 64 << 10;
  size_t seen = 0;
  while (true) {
    TS_TRY_ASSIGN(size_t n, in_.read(buffer_));
    if (n == 0) return {};
    seen += n;
    if (seen > kMostPadding) return fail(Errc::kPeerProtocol, "the file stream goes on after its end");
  }
}

}  // namespace transship::storage
