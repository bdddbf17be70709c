// An earlier dump that never was: images which say that every page of every task is in them, without any content. CRIU
// looks them up for each page that it takes for unchanged, and then leaves the page out.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "criu/memory_method.h"

namespace transship::criu {

inline constexpr const char* kKdatFile = "/run/criu.kdat";

// One thread. Owns its directory, which is removed by the destructor.
class ParentImages {
 public:
  // `path` is made and must not exist. CRIU wants the directory when it starts, its content only when the tasks are
  // frozen.
  static Result<ParentImages> create(const std::string& path);
  ParentImages(ParentImages&& other) noexcept : path_(std::move(other.path_)) { other.path_.clear(); }
  ParentImages& operator=(ParentImages&& other) noexcept;
  ~ParentImages();
  const std::string& path() const { return path_; }
  // All private memory of these tasks; they must not end meanwhile. About 20 microseconds for each.
  Result<> cover_tasks(const std::vector<pid_t>& pids) const;

 private:
  explicit ParentImages(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// Checks that CRIU's cache of kernel features is laid out as expected for CRIU `version` (criu/info.h), and says where
// it is to be changed. kKernelFeatureMissing: another version or another layout.
Result<KdatPatch> locate_kdat_patch(int version, const std::string& kdat_file = kKdatFile);
// Does the kernel itself track soft-dirty pages, according to that cache?
Result<bool> kdat_says_tracked(const KdatPatch& patch, const std::string& kdat_file = kKdatFile);
// Writes the changed copy. kUnavailable: the cache is of another CRIU than the one that the patch was made for.
Result<> write_patched_kdat(const KdatPatch& patch, const std::string& copy, const std::string& kdat_file = kKdatFile);

// The pid of `pid` in its innermost pid namespace, by which images name it.
Result<pid_t> innermost_pid(pid_t pid);

}  // namespace transship::criu
