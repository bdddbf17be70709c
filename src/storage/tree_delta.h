// A directory tree as a stream, whole at first, then only what changed: root file system differences and volumes.
//
// One round is one pax archive (names and values as raw bytes) on one Writer; its last entry says how much came before,
// so that a stream that was cut is noticed. Carried: numeric owner, mode, access and modification time in ns, every
// extended attribute (capabilities, POSIX ACLs, overlay's opaque and redirect), hard links, symbolic links, holes,
// large files as patches of what the other side has, devices, overlay whiteouts (character device 0:0), FIFOs, unix
// sockets, names of any bytes. Not carried: SELinux labels (the destination's engine sets its own), overlay's own
// bookkeeping (origin, impure, uuid, nlink), inode flags.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/cancel.h"
#include "base/result.h"
#include "storage/byte_stream.h"
#include "storage/known_files.h"
#include "storage/scan.h"
#include "storage/written_ranges.h"

namespace transship::storage {

class TreeWatch;

struct RoundOptions {
  // Upper-directory inodes that are sent whatever their times say: files that tasks have mapped shared and writable
  // (see shared_writable_inodes). In each round: those of one before the last are sent again in the next, since they
  // may be written without another time, and be mapped no more by then.
  std::unordered_set<uint64_t> always_resend = {};
  // The tree must not change any more (tasks frozen): a file that does is an error instead of next round's work.
  bool must_be_still = false;
  // Attributes of the root itself whether they changed or not: an engine may have given its own to the other one.
  bool resend_root = false;
  // The mounted view of the same tree; contents of files of which overlay keeps only attributes in the upper directory
  // (metacopy) are read there. -1: such a file is an error.
  int merged_fd = -1;
  // What the other side has of large files; those are then sent as patches. Brought up to date by the round, empty
  // after one that failed. May be filled with what the other side says that it has (hash_file). Null: every file is
  // sent whole.
  KnownFiles* known = nullptr;
  // With `known`: of a file that is known only what this names is read. Null: all of it is, and compared.
  WrittenRanges* written = nullptr;
  // Of the same root: only what changed since `previous` is looked at. Null: a walk over all names.
  TreeWatch* watch = nullptr;
  // Inodes that are looked at and sent in any case, since their changes are not told (watch/tree_watch.h), and a
  // mapping that is gone may have left other contents with the same times: files that are open for writing, for the
  // round in which the tasks stand still.
  std::unordered_set<uint64_t> always_look = {};
};

struct RoundStats {
  uint64_t entries = 0;  // names sent with their attributes
  uint64_t deletions = 0;
  uint64_t data_bytes = 0;  // file contents
  uint64_t read_bytes = 0;  // of files, also what was then found to be there already
  uint64_t patched = 0;     // files of which only what changed was sent
  uint64_t unsettled = 0;   // changed while they were read, or just before: the next round sends them again
};

// Sends everything (`previous` null) or what is different from `previous`; the result is the `previous` of the next
// round. Files may change meanwhile. Errors: kKernelFeatureMissing (a metacopy file), kCancelled, whatever `out` says.
Result<Scan> send_round(int root_fd, Writer& out, const Scan* previous, const RoundOptions& options,
                        const Cancel& cancel, RoundStats* stats = nullptr);

// The sender is pinned but may have been broken into: nothing outside the root is touched, whatever the stream says.
struct ApplyLimits {
  uint64_t max_bytes = 1ULL << 40;       // written to disk in this round
  uint64_t max_file_size = 16ULL << 40;  // holes included
  uint64_t max_entries = 20'000'000;
  size_t max_path = 32'768;
  size_t max_xattr_bytes = 1U << 20;  // of one entry
  // Block and character devices other than overlay whiteouts; without it they are refused.
  bool allow_devices = false;
};

struct ApplyStats {
  uint64_t entries = 0;
  uint64_t deletions = 0;
  uint64_t data_bytes = 0;
};

// Reads `in` to its end and makes the tree below `root_fd` the sender's. Names that the sender never mentioned stay.
// On error the tree is in between: remove it, or apply a whole round. Errors: kPeerProtocol (broken, cut or hostile
// stream), kNoSpace (disk full; also a limit of `limits`), kCancelled.
Result<> apply_round(int root_fd, Reader& in, const ApplyLimits& limits, const Cancel& cancel,
                     ApplyStats* stats = nullptr);

// Files below `upper_fd` that a process of `pids` has mapped shared: writes through a mapping need not change a time.
struct SharedMappings {
  std::unordered_set<uint64_t> inodes;
  // Shared writable mappings of the container's root whose name in the upper directory was not found (a bind mount made
  // inside the container): "PID: path". Their latest writes could be missed.
  std::vector<std::string> unresolved;
};
// `mounted_on`: where the tree is in the container; below it are names of other trees where something is mounted.
Result<SharedMappings> shared_writable_inodes(const std::vector<pid_t>& pids, int upper_fd,
                                              const std::string& mounted_on = "/");

// Overlay keeps names it has looked up: after changing the upper directory of a mounted overlay (the last round, while
// the engine has it mounted already) this makes it look again. `mount_path` is where it is mounted, in this mount
// namespace.
Result<> refresh_overlay(const std::string& mount_path);

}  // namespace transship::storage
