#include "storage/known_files.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "storage/beneath.h"
#include "storage/saved_bytes.h"

namespace transship::storage {

size_t KnownFiles::cost(std::string_view path, size_t blocks) {
  constexpr size_t kEntry = 160;  // nodes of the containers, measured with glibc's allocator
  return kEntry + path.size() + blocks * sizeof(BlockHash);
}

const FileHashes* KnownFiles::find(std::string_view path) const {
  auto it = files_.find(path);
  return it == files_.end() ? nullptr : &it->second.hashes;
}

bool KnownFiles::has_room_for(std::string_view path, int64_t size) const {
  auto blocks = block_count(size);
  return blocks <= max_bytes_ / sizeof(BlockHash) && cost(path, blocks) <= max_bytes_ - bytes_;
}

bool KnownFiles::put(std::string path, KnownFile file) {
  forget(path);
  // Hashes may come from the other side.
  if (file.hashes.size < 0 || file.hashes.size > INT64_MAX - kHashBlock) return false;
  if (file.hashes.blocks.size() != block_count(file.hashes.size)) return false;
  if (!has_room_for(path, file.hashes.size)) return false;
  if (file.followed) {
    unfollow(file.followed->inode);
    followers_.emplace(file.followed->inode, path);
  }
  bytes_ += cost(path, file.hashes.blocks.size());
  files_.emplace(std::move(path), std::move(file));
  return true;
}

std::optional<KnownFile> KnownFiles::take(std::string_view path) {
  auto it = files_.find(path);
  if (it == files_.end()) return {};
  bytes_ -= cost(path, it->second.hashes.blocks.size());
  if (it->second.followed) followers_.erase(it->second.followed->inode);
  auto file = std::move(it->second);
  files_.erase(it);
  return file;
}

void KnownFiles::forget_tree(std::string_view path) {
  if (files_.empty()) return;
  forget(path);
  auto below = std::string(path) + "/";
  for (auto it = files_.lower_bound(below); it != files_.end() && it->first.starts_with(below);) {
    auto name = (it++)->first;
    forget(name);
  }
}

void KnownFiles::unfollow(uint64_t inode) {
  auto it = followers_.find(inode);
  if (it == followers_.end()) return;
  files_.find(it->second)->second.followed.reset();
  followers_.erase(it);
}

void KnownFiles::clear() {
  files_.clear();
  followers_.clear();
  bytes_ = 0;
}

// ---- on disk
//
//   "TSKF" u32 version u64 files
//   each file: u32 length of its name, name, u64 size, then runs until all blocks are there:
//              u32 number of blocks, highest bit: holes; without it so many hashes of 16 bytes
//   u64 XXH3-64 of all that

namespace {

constexpr std::string_view kMagic = "TSKF";
constexpr uint32_t kVersion = 1;
constexpr uint32_t kHoleBit = 1U << 31;
constexpr size_t kMaxPath = 32'768;

void append_blocks(std::string& to, std::span<const BlockHash> blocks) {
  while (!blocks.empty()) {
    bool hole = blocks[0].is_hole();
    auto end = std::ranges::find_if(blocks, [&](const BlockHash& b) { return b.is_hole() != hole; });
    auto n = std::min<size_t>(static_cast<size_t>(end - blocks.begin()), kHoleBit - 1);
    append_number(to, static_cast<uint32_t>(n) | (hole ? kHoleBit : 0));
    if (!hole) to.append(reinterpret_cast<const char*>(blocks.data()), n * sizeof(BlockHash));
    blocks = blocks.subspan(n);
  }
}

constexpr std::string_view kWhat = "the record of what the other side has";

std::unexpected<Error> corrupt(std::string_view why) { return fail(Errc::kCorrupt, "{} {}", kWhat, why); }

bool read_blocks(RecordReader& in, std::vector<BlockHash>& blocks) {
  for (size_t at = 0; at < blocks.size();) {
    uint32_t run = 0;
    std::string_view raw;
    if (!in.number(run)) return false;
    size_t n = run & ~kHoleBit;
    if (n == 0 || n > blocks.size() - at) return false;
    if ((run & kHoleBit) == 0) {
      if (!in.bytes(n * sizeof(BlockHash), raw)) return false;
      std::memcpy(&blocks[at], raw.data(), raw.size());
    }
    at += n;
  }
  return true;
}

Result<> read_file_into(RecordReader& in, KnownFiles& known) {
  uint32_t length = 0;
  std::string_view path;
  KnownFile file;
  if (!in.number(length) || length > kMaxPath || !in.bytes(length, path) || !in.number(file.hashes.size))
    return corrupt("is cut");
  if (!is_clean_path(path) || known.has(path)) return corrupt("has a name that cannot be");
  if (file.hashes.size < 0 || file.hashes.size > INT64_MAX - kHashBlock) return corrupt("has a size that cannot be");
  if (!known.has_room_for(path, file.hashes.size))
    return fail(Errc::kNoSpace, "the record of what the other side has takes more memory than it may");
  file.hashes.blocks.resize(block_count(file.hashes.size));
  if (!read_blocks(in, file.hashes.blocks)) return corrupt("has blocks that do not fit");
  (void)known.put(std::string(path), std::move(file));
  return {};
}

}  // namespace

std::string KnownFiles::serialize() const {
  auto text = begin_record(kMagic, kVersion);
  append_number(text, static_cast<uint64_t>(files_.size()));
  for (const auto& [path, file] : files_) {
    append_number(text, static_cast<uint32_t>(path.size()));
    text += path;
    append_number(text, file.hashes.size);
    append_blocks(text, file.hashes.blocks);
  }
  end_record(text);
  return text;
}

Result<KnownFiles> KnownFiles::parse(std::string_view text, size_t max_bytes) {
  TS_TRY_ASSIGN(auto in, RecordReader::open(text, kMagic, kVersion, kWhat));
  uint64_t files = 0;
  if (!in.number(files)) return corrupt("is cut");
  KnownFiles known(max_bytes);
  for (uint64_t i = 0; i < files; ++i) TS_TRY(read_file_into(in, known));
  if (!in.empty()) return corrupt("goes on after its end");
  return known;
}

}  // namespace transship::storage
