// What making a container would take from its host beyond what any container gets: found by its engine in what is
// really to be created, judged by plan/policy.h.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace transship {

struct Demand {
  std::string_view key;  // of the policy file, what must allow it: "allow.capabilities"
  std::string value;     // what must be in that list; unused where the key is a flag
  std::string found;     // for people: "capability NET_ADMIN"
};

struct Demands {
  std::vector<Demand> list = {};
  // Of no policy's business: a field that nobody here knows, a hook, a name that is none. A sentence each.
  std::vector<std::string> never = {};
  // Hard limits, by name without RLIMIT_ and in lower case.
  std::map<std::string, uint64_t> ulimits = {};
  // Lowest OOM score; 0 when it asks for none.
  int64_t oom_score_adj = 0;
  // 0: none.
  uint64_t memory_bytes = 0;
  double cpus = 0;
  uint64_t pids = 0;
};

}  // namespace transship
