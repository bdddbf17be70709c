// Collects what this node is and has.
#pragma once
#include <string>

#include "base/cancel.h"
#include "base/node_facts.h"
#include "base/result.h"

namespace transship::sys {

struct NodeFactsOptions {
  std::string node;
  std::string program_version;
  std::string storage_path = "/var/lib/containers";  // its nearest existing parent is measured
  uint64_t images_limit = 0;                         // most memory that CRIU's images may take; 0: what is available
  std::string criu = "criu";
  std::string runc = "runc";
  std::string runtime = "/usr/bin/transship-runtime";
  std::string proc = "/proc";
  Deadline deadline = Deadline::in(milliseconds(5'000));
};

// What this node lacks is in `missing`, not an error. `engines` is left empty.
Result<NodeFacts> collect_node_facts(const NodeFactsOptions& options);

// "v2", "hybrid" (cgroup2 beside v1 controllers), "v1"; from a mountinfo file.
std::string cgroup_mode_of(const std::string& mountinfo_text);
// Of the vDSO of this process: FNV-1a over its symbols' names, places and sizes. Not for security. Empty: no vDSO.
std::string vdso_digest();
// The first dotted number: "runc version 1.1.15+ds1" -> "1.1.15". Empty when there is none.
std::string version_in(std::string_view text);
// Dotted numbers; "4.2" < "4.2.1" < "4.10".
bool version_at_least(std::string_view version, std::string_view wanted);

}  // namespace transship::sys
