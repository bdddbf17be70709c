// What a container asks of a host, as the row "policy" of a plan says it to the peer that sent it.
#pragma once
#include <string_view>

#include "engine/demand_finder.h"
#include "fuzz/input.h"
#include "plan/policy.h"
#include "proto/peer.pb.h"

namespace transship::fuzz {

inline void check_demands(const Demands& demands, std::string_view engine) {
  auto all = demands.list.size() + demands.never.size();
  TS_CHECK(all <= engine::DemandFinder::kMaxDemands + 1, "{} demands", all);
  // What nobody can allow is refused whatever else is allowed.
  plan::Policy open;
  for (const auto& key : plan::policy_keys()) {
    if (const auto* flag = std::get_if<bool plan::Policy::*>(&key.kind)) open.** flag = true;
    if (const auto* list = std::get_if<plan::PolicyKey::List>(&key.kind)) open.*list->field = {"*"};
  }
  TS_CHECK(demands.never.empty() || !plan::judge_policy(open, engine, demands).empty());
  auto objections = plan::judge_policy({}, engine, demands);
  peer::CheckRow row;
  row.set_found(plan::objections_text(objections));
  row.set_remedy(plan::objections_remedy(objections, "policy.toml", "aws"));
  for (char c : row.found()) TS_CHECK(!is_control(c), "in a row of the plan: {}", row.found());
  peer::CheckRow read;
  TS_CHECK(read.ParseFromString(row.SerializeAsString()), "no text for a message: {}", row.found());
}

}  // namespace transship::fuzz
