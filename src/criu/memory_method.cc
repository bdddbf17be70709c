#include "criu/memory_method.h"

#include <unistd.h>

#include <map>
#include <optional>

#include "base/mutex.h"
#include "base/text.h"
#include "criu/info.h"
#include "criu/method_proof.h"
#include "criu/parent_images.h"
#include "criu/rpc.h"

namespace transship::criu {
namespace {

// The way that needs nothing but userfaultfd.
MethodFinding without_parent(const std::string& criu, Deadline deadline, std::string why) {
  auto lazy = has_feature(criu, "uffd-noncoop", deadline);
  if (lazy && *lazy) return {MemoryMethod::kLazyPages, {}, std::move(why)};
  return {MemoryMethod::kFull, {}, fmt::format("{}; and CRIU finds no userfaultfd", why)};
}

MethodFinding find_out(const std::string& criu, const std::string& scratch_dir, Deadline deadline) {
  auto number = version(criu, deadline);
  if (!number) return {MemoryMethod::kFull, {}, number.error().message()};
  if (::access(kKdatFile, R_OK) != 0) (void)check(criu, deadline);  // makes CRIU write it
  auto dir = fmt::format("{}/criu-method-{}", scratch_dir, random_hex(4));
  auto patch = locate_kdat_patch(number->number);
  bool tracked = false;
  if (patch) {
    auto says = kdat_says_tracked(*patch);
    tracked = says && *says;
  } else {
    auto has = has_feature(criu, "mem_dirty_track", deadline);
    tracked = has && *has;
    if (!tracked) return without_parent(criu, deadline, patch.error().message());
  }
  auto method = tracked ? MemoryMethod::kSoftDirty : MemoryMethod::kParent;
  auto proved = prove_method(criu, method, patch ? *patch : KdatPatch{}, dir, deadline);
  if (proved) return {method, tracked ? KdatPatch{} : *patch, {}};
  return without_parent(criu, deadline,
                        fmt::format("CRIU {} dumped a small process with method \"{}\" wrongly: {}", number->text,
                                    method_name(method), proved.error().message()));
}

}  // namespace

std::string_view method_name(MemoryMethod method) {
  switch (method) {
    case MemoryMethod::kFull: return "full";
    case MemoryMethod::kLazyPages: return "lazy-pages";
    case MemoryMethod::kParent: return "parent";
    case MemoryMethod::kSoftDirty: return "soft-dirty";
  }
  return "?";
}

MethodFinding probe_memory_method(const std::string& criu, const std::string& scratch_dir, Deadline deadline) {
  static Mutex mutex;
  static std::map<std::string, MethodFinding> found GUARDED_BY(mutex);
  {
    MutexLock lock(mutex);
    if (auto it = found.find(criu); it != found.end()) return it->second;
  }
  // Twice at the same time does no harm.
  auto finding = find_out(criu, scratch_dir, deadline);
  if (deadline.passed()) return finding;
  MutexLock lock(mutex);
  return found.emplace(criu, std::move(finding)).first->second;
}

}  // namespace transship::criu
