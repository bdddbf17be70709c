// Which directories of this host have the data of which volume: those in use by containers that came with them, and
// those that moves have left behind. What is here already need not be sent, and what nobody left here is not
// overwritten.
//
// A copy has a generation: the move after which it was equal to the copy on the other side. The tree as it was then is
// kept with it, so that it can be told later what has changed since, on either side (docs/design/0011-volumes.md).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "base/cancel.h"
#include "engine/engine.h"
#include "migrate/services.h"
#include "state/store.h"
#include "storage/scan.h"

namespace transship::migrate {

enum class CopyStanding : uint8_t {
  kInUse,    // its container came with it, and may write
  kLeft,     // its container has gone; nobody is to write
  kFilling,  // a move has begun to write to it and has not been completed: good for nothing but to be filled
};

struct VolumeCopy {
  std::string path;        // of its directory on this host
  std::string id;          // of the volume: 32 hexadecimal digits, the same for all of its copies
  std::string generation;  // id of a move
  CopyStanding standing = CopyStanding::kInUse;
  std::string engine;
  std::string volume;     // the engine's name for it; empty: a bind mount's directory
  std::string container;  // its name
  std::string peer;       // on which node the other copy of that generation is
  int64_t since_ms = 0;   // UNIX time
  bool operator==(const VolumeCopy&) const = default;
};

// JSON. kCorrupt says of what.
std::string to_text(const VolumeCopy& copy);
Result<VolumeCopy> parse_copy(const std::string& path, const std::string& text);
// Of a peer: an id, and a generation.
bool is_copy_id(std::string_view text);

// Thread-safe as far as each path is one thread's business. Holds nothing of its own.
class VolumeCopies {
 public:
  // `directory`: of the trees; made when it is needed, 0700.
  VolumeCopies(state::Store& store, std::string directory) : store_(store), directory_(std::move(directory)) {}

  // In place of what was known of that path; on disk when it returns. Without a tree it cannot be told what changes; of
  // a file system in memory none is kept.
  Result<> keep(const VolumeCopy& copy, const storage::Scan* tree);
  Result<> forget(const std::string& path);  // unknown is fine
  // By path. Those that can't be read are left out, and logged.
  Result<std::vector<VolumeCopy>> all();
  Result<std::optional<VolumeCopy>> at(const std::string& path);
  // As it was at its generation. kNotFound: not kept.
  Result<storage::Scan> tree(const VolumeCopy& copy) const;
  // The first name that is not as it was; nothing when all is. kNotFound as above.
  Result<std::optional<std::string>> change(const VolumeCopy& copy, const Cancel& cancel) const;

  // On the source: `copy_id` of all volumes, a new one for those that have not moved yet; and `copy_generation` of
  // those of which it can be told what changed since.
  void offer(engine::Container& container);
  // On the destination: `copy_here` of those that may be filled; one row for each that must not be.
  Result<std::vector<engine::Conflict>> find(engine::Container& wanted, const Cancel& cancel);

 private:
  std::string tree_path(const VolumeCopy& copy) const;
  state::Store& store_;
  const std::string directory_;
};

// Where a node keeps their trees.
inline std::string copies_directory(const Settings& settings) { return settings.state_dir + "/volumes"; }

}  // namespace transship::migrate
