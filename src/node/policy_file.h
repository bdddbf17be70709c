// The policy file: TOML, every key with a safe default, an unknown one an error that names file and line.
#pragma once
#include <string>
#include <string_view>

#include "base/result.h"
#include "node/config.h"
#include "plan/policy.h"

namespace transship::node {

// [allow] and [limits] for everyone; [peer.NAME.allow] and [peer.NAME.limits] in their place for one peer. An absent
// file is an error only when `must_exist`: without one the defaults hold.
Result<plan::PolicySet> load_policy(const std::string& path, bool must_exist);
Result<plan::PolicySet> parse_policy(std::string_view text, const std::string& source);
std::vector<ConfigKey> describe(const plan::Policy& policy);

}  // namespace transship::node
