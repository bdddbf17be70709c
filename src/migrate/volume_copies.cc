#include "migrate/volume_copies.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/json_number.h"
#include "base/log.h"
#include "base/text.h"
#include "base/wall_clock.h"
#include "storage/beneath.h"
#include "storage/saved_scan.h"
#include "sys/file.h"

namespace transship::migrate {
namespace {

using nlohmann::json;

// Of a tree of some ten million names.
constexpr size_t kMostTreeBytes = 2ULL << 30;

std::string_view text_of(CopyStanding standing) {
  switch (standing) {
    case CopyStanding::kInUse: return "in use";
    case CopyStanding::kLeft: return "left";
    case CopyStanding::kFilling: return "filling";
  }
  return "";
}

Result<CopyStanding> standing_of(const std::string& text) {
  for (auto s : {CopyStanding::kInUse, CopyStanding::kLeft, CopyStanding::kFilling})
    if (text == text_of(s)) return s;
  return fail(Errc::kCorrupt, "\"{}\" is no standing of a copy", text);
}

Result<VolumeCopy> copy_of(const json& j) {
  VolumeCopy c;
  c.id = j.at("id").get<std::string>();
  c.generation = j.at("generation").get<std::string>();
  TS_TRY_ASSIGN(c.standing, standing_of(j.at("standing").get<std::string>()));
  c.engine = j.at("engine").get<std::string>();
  c.volume = j.at("volume").get<std::string>();
  c.container = j.at("container").get<std::string>();
  c.peer = j.at("peer").get<std::string>();
  c.since_ms = whole<int64_t>(j.at("since_ms"));
  return c;
}

// Where it would be mounted from here, too.
bool is_place_of(const VolumeCopy& copy, const engine::Mount& m, const std::string& engine) {
  if (m.type == "bind") return copy.volume.empty() && copy.path == m.source;
  return copy.volume == m.volume && copy.engine == engine;
}

std::string named(const VolumeCopy& copy) {
  return copy.volume.empty() ? fmt::format("the directory {}", copy.path) : fmt::format("the volume {}", copy.volume);
}

// Where what is written through a mapping shows in a file's times. Not in memory: its pages are never clean, so that
// the kernel is not told of a write.
bool times_tell(const std::string& path) {
  struct statfs fs = {};
  return ::statfs(path.c_str(), &fs) == 0 && fs.f_type != TMPFS_MAGIC && fs.f_type != RAMFS_MAGIC;
}

std::unexpected<Error> unreadable(const std::string& path, const std::string& why) {
  return fail(Errc::kCorrupt, "what the store has of the volume copy {}: {}", path, why);
}

}  // namespace

std::string to_text(const VolumeCopy& c) {
  return json({{"id", c.id},
               {"generation", c.generation},
               {"standing", text_of(c.standing)},
               {"engine", c.engine},
               {"volume", c.volume},
               {"container", c.container},
               {"peer", c.peer},
               {"since_ms", c.since_ms}})
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

Result<VolumeCopy> parse_copy(const std::string& path, const std::string& text) {
  try {
    auto c = copy_of(json::parse(text));
    if (!c) return unreadable(path, c.error().message());
    // They become parts of a path.
    if (!is_copy_id(c->id) || (!c->generation.empty() && !is_plain_name(c->generation)))
      return unreadable(path, "its id is none");
    c->path = path;
    return c;
  } catch (const json::exception& e) {
    return unreadable(path, e.what());
  }
}

bool is_copy_id(std::string_view text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string VolumeCopies::tree_path(const VolumeCopy& copy) const {
  return fmt::format("{}/{}.{}", directory_, copy.id, copy.generation);
}

// The tree first: a copy of which it is not known what it looked like is worth less than none.
Result<> VolumeCopies::keep(const VolumeCopy& copy, const storage::Scan* tree) {
  TS_TRY_ASSIGN(auto before, at(copy.path));
  if (tree != nullptr && times_tell(copy.path)) {
    TS_TRY(sys::make_dirs(directory_));
    TS_TRY_CTX(sys::write_file_atomic(tree_path(copy), storage::serialize(*tree)), "keep what a volume looks like");
  }
  TS_TRY(store_.put_copy({copy.path, to_text(copy)}));
  if (before && tree_path(*before) != tree_path(copy)) (void)::unlink(tree_path(*before).c_str());
  return {};
}

Result<> VolumeCopies::forget(const std::string& path) {
  TS_TRY_ASSIGN(auto before, at(path));
  TS_TRY(store_.remove_copy(path));
  if (before) (void)::unlink(tree_path(*before).c_str());
  return {};
}

Result<std::vector<VolumeCopy>> VolumeCopies::all() {
  TS_TRY_ASSIGN(auto stored, store_.copies());
  std::vector<VolumeCopy> copies;
  for (const auto& one : stored) {
    auto copy = parse_copy(one.path, one.facts);
    if (copy)
      copies.push_back(std::move(*copy));
    else
      TS_LOG_ERROR("volumes: {}", copy.error().message());
  }
  return copies;
}

Result<std::optional<VolumeCopy>> VolumeCopies::at(const std::string& path) {
  TS_TRY_ASSIGN(auto copies, all());
  auto found = std::ranges::find(copies, path, &VolumeCopy::path);
  return found == copies.end() ? std::nullopt : std::optional(std::move(*found));
}

Result<storage::Scan> VolumeCopies::tree(const VolumeCopy& copy) const {
  TS_TRY_ASSIGN(auto text, sys::read_file(tree_path(copy), kMostTreeBytes));
  return storage::parse_scan(text);
}

Result<std::optional<std::string>> VolumeCopies::change(const VolumeCopy& copy, const Cancel& cancel) const {
  TS_TRY_ASSIGN(auto was, tree(copy));
  TS_TRY_ASSIGN(Fd root, open_file(copy.path, O_RDONLY | O_DIRECTORY));
  TS_TRY_ASSIGN(auto now, storage::scan_tree(root.get(), cancel));
  return storage::first_difference(was, now);
}

// A directory that was removed and made again under the same path is another volume.
void VolumeCopies::offer(engine::Container& container) {
  auto copies = all();
  if (!copies) return TS_LOG_WARN("volumes: {}", copies.error().message());
  for (auto& m : container.mounts) {
    if (!engine::is_volume(m)) continue;
    m.copy_id = random_hex(16);
    m.copy_generation.clear();
    auto copy = std::ranges::find(*copies, m.source, &VolumeCopy::path);
    if (copy == copies->end() || copy->standing != CopyStanding::kInUse) continue;
    auto was = tree(*copy);
    struct stat st = {};
    if (was && (::stat(m.source.c_str(), &st) != 0 || st.st_ino != was->nodes()[0].inode)) continue;
    m.copy_id = copy->id;
    if (was) m.copy_generation = copy->generation;
  }
}

Result<std::vector<engine::Conflict>> VolumeCopies::find(engine::Container& wanted, const Cancel& cancel) {
  TS_TRY_ASSIGN(auto copies, all());
  std::vector<engine::Conflict> rows;
  for (auto& m : wanted.mounts) {
    m.copy_here = engine::CopyHere::kNone;
    if (!engine::is_volume(m)) continue;
    for (const auto& copy : copies) {
      std::error_code error;
      if (!is_place_of(copy, m, wanted.engine) || !std::filesystem::is_directory(copy.path, error)) continue;
      if (copy.standing == CopyStanding::kInUse) continue;  // the engine has it, and says so
      bool rest = copy.standing == CopyStanding::kFilling;
      if (!rest && copy.id != m.copy_id) continue;
      auto changed = change(copy, cancel);
      if (changed && !*changed) {
        bool same = !rest && copy.generation == m.copy_generation;
        m.copy_here = same ? engine::CopyHere::kSame : engine::CopyHere::kStale;
        continue;
      }
      if (cancel.cancelled()) return std::unexpected(std::move(changed).error());
      m.copy_here = engine::CopyHere::kChanged;
      auto since = rest ? std::string("a move that brought it was given up") : fmt::format("it moved to {}", copy.peer);
      auto what = changed ? fmt::format("was changed here since {} ({})", since, storage::printable(**changed))
                          : fmt::format("may have been changed here since {} ({})", since, changed.error().message());
      rows.push_back({"volumes", fmt::format("{} {}", named(copy), what),
                      fmt::format("what was changed would be lost: move {} away there, or remove it", copy.path)});
    }
  }
  return rows;
}

}  // namespace transship::migrate
